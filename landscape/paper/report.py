"""A report of everything that a folder of results holds, as Markdown and as one HTML page.

Made from saved tables and figures alone: nothing is trained. Every number comes from a table that
is named beside it, whose attributes have the command, the versions and the device.
"""

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from markdown_it import MarkdownIt

from landscape.figures import networks as network_figures
from landscape.figures import style
from landscape.paper import ledger, network_claims, network_experiments
from landscape.paper import table as paper_table
from linvae_jax import tables
from linvae_jax._internal import checks

# file without suffix → caption; in this order
FIGURES = {
    "figure1_surface": "Figure 1. The likelihood around a collapsed latent of a linear VAE, as its "
    "column moves along two principal directions, at three σ².",
    "figure2_training": "Figure 2. The linear VAE's ELBO during training, by exact and by sampled "
    "gradients, against the pPCA maximum likelihood.",
    "figure3_latents": "Figure 3. pPCA log-likelihood against the number of latents, and trained "
    "linear VAEs.",
    "figure4_encoders": "Figure 4. A linear decoder with a linear, a deep linear and a nonlinear "
    "encoder, against the pPCA maximum likelihood.",
    "figure5_collapse": "Figure 5. Share of collapsed latents against ε for each σ² held: "
    "nonlinear VAE (left), what the linear VAE predicts (middle), both at ε = 0.01 (right).",
    "figure6_training": "Figure 6. The nonlinear VAE's ELBO during training for each initial σ², "
    "held and learned. Bands are the range of the seeds.",
    "annealing": "KL annealing against plain training: KL and share of collapsed latents.",
    "curvature": "The latent of least KL of each trained network, made to collapse, the other "
    "weights as they are: could it come back? Left: escape rate at each σ²; points: where the "
    "network itself was trained. Right: σ² below which collapse is unstable; the bars go to what "
    "finite steps measure, kinks included. Above the dotted line what has collapsed comes back.",
    "landscape_conditioning": "Collapsed points of the linear VAE over σ²: ways out, escape rate, "
    "conditioning.",
    "landscape_spectra": "All Hessian eigenvalues of the linear VAE at the optimum and at three "
    "collapsed points.",
    "landscape_census": "Every stationary point of a small linear VAE.",
    "convergence_separated": "Training on a well-separated spectrum, where it can converge.",
}

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff }
table { border-collapse: collapse; font-size: 0.8rem; margin: 1rem 0; display: block;
        overflow-x: auto }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.6rem; vertical-align: top }
img { max-width: 100%; display: block; margin: 1.5rem auto 0.2rem }
code { font-size: 0.85em; overflow-wrap: anywhere }
"""


def draw(found: Mapping[str, xr.Dataset], folder: Path) -> None:
    """Draw figures 4 to 6, annealing and curvature from the tables that there are."""
    made = {}
    if set(network_experiments.ENCODERS) <= set(found):
        made["figure4_encoders"] = network_figures.encoders(found)
    if "table" in found:
        made["figure5_collapse"] = network_figures.collapse_curves(network_claims.held(found))
        made["figure6_training"] = network_figures.training(found["table"])
    if "table" in found and "annealing" in found:
        made["annealing"] = network_figures.annealing(found)
    if "curvature" in found:
        made["curvature"] = network_figures.curvature(found["curvature"])
    for name, figure in made.items():
        style.save(figure, folder / name)


def write(folder: Path) -> list[ledger.Claim]:
    """Judge C8 to C10, draw their figures, write `ledger.*`, `report.md` and `report.html`.

    Args:
        folder: with what `linvae reproduce` has left there, whole or a part.

    Returns:
        All claims, those of the ledger there and C8 to C10 anew.

    Raises:
        ValueError: no results there, or some that cannot be read.
    """
    found = network_experiments.load(folder)
    linear = []
    if (folder / "ledger.json").exists():
        linear = [c for c in ledger.load(folder) if c.id not in {"C8", "C9", "C10"}]
    if not found and not linear:
        checks.fail("folder", f"{folder}, without results", "what `linvae reproduce` wrote")
    whole = {"table", "annealing"} <= set(found)
    claims = [*linear, *(network_claims.judge(found) if whole else [])]
    if claims:
        ledger.save(claims, folder)
    draw(found, folder)
    text = markdown(found, claims, folder)
    (folder / "report.md").write_text(text, encoding="utf-8")
    (folder / "report.html").write_text(page(text, folder), encoding="utf-8")
    return claims


def markdown(found: Mapping[str, xr.Dataset], claims: Sequence[ledger.Claim], folder: Path) -> str:
    """The report, with figures as links to files beside it."""
    parts = ["# Posterior collapse in linear and nonlinear VAEs: results", ""]
    if claims:
        failed = [claim.id for claim in claims if not claim.holds]
        verdict = f"**Does not hold: {', '.join(failed)}.**" if failed else "All claims hold."
        parts += [f"{len(claims)} claims of the paper were measured. {verdict}", ""]
    if "table" in found:
        parts += ["## Nonlinear VAEs: the table", "", *_table(found["table"])]
    if "variations" in found:
        parts += ["## What the settings of training change", "", *_varied(found["variations"])]
    if "curvature" in found:
        parts += ["## Could a collapsed latent come back?", "", *_thresholds(found["curvature"])]
    if claims:
        parts += [
            "## Claims",
            "",
            "Numbers and bounds: `ledger.json`.",
            "",
            ledger.markdown(claims),
        ]
    there = [name for name in FIGURES if (folder / f"{name}.png").exists()]
    if there:
        parts += ["## Figures", ""]
        for name in there:
            parts += [f"![{FIGURES[name]}]({name}.png)", "", f"*{FIGURES[name]}*", ""]
    parts += ["## Where the numbers come from", "", *_origins(folder)]
    return "\n".join(parts).rstrip() + "\n"


def _table(table: xr.Dataset) -> list[str]:
    """Ours beside the paper's where the paper has such data, ours alone elsewhere."""
    data = _paper_data(table)
    compared = paper_table.compare(table, data)
    lines = [_caption(table), ""]
    if compared:
        doubts = paper_table.doubts(compared)
        lines += [
            f"{paper_table.agreement(compared)}. {paper_table.RULE} Cells in bold differ; ± is the "
            "standard deviation over seeds.", "",
            paper_table.markdown(compared),
        ]  # fmt: skip
        lines += [f"Doubtful (?): {doubts}.", ""] if doubts else []
        better = paper_table.not_tuned(compared)
        if better:
            lines += [
                "The paper's own σ², ELBO and KL give its networks' mean squared error, and with "
                f"it what tuning σ² in closed form would have found for them: {better}.", "",
            ]  # fmt: skip
    else:
        lines += [paper_table.alone(table)]
    diverged = int(table.diverged.sum())
    if diverged:
        lines += [f"{diverged} of {table.diverged.size} runs diverged.", ""]
    return lines


def _paper_data(table: xr.Dataset) -> str:
    """Which of the paper's data sets a table is of, or ""."""
    source = table.attrs.get("source", "")
    return next((name for name in ("mnist", "celeba") if source.startswith(name)), "")


def _varied(table: xr.Dataset) -> list[str]:
    data = _paper_data(table)
    lines = [
        "`nonlinear_variations.nc`: the table's settings varied, first seed.", "",
        paper_table.varied(table, data),
    ]  # fmt: skip
    for name in table.variation.values[1:]:
        at = table.sel(variation=name)
        compared = paper_table.compare(at, data)
        if compared and not bool(np.isnan(at.diverged).any()):
            lines += [f"{str(name).capitalize()}: {paper_table.agreement(compared)}, one seed.", ""]
    return lines


def _thresholds(table: xr.Dataset) -> list[str]:
    steps = json.loads(table.attrs["config"])["config"]["num_steps"]
    lines = [
        "`nonlinear_curvature.nc`: the latent of least KL of each network of the first seed, after "
        f"{steps:,} steps, made to collapse. Below the critical σ² it "
        "comes back. Finite steps along its way out count the kinks of ReLU, which derivatives do "
        "not see; other ways may be left.", "",
        "| σ² | start | KL | σ² at the end | critical σ² | by finite steps | linear VAE's | "
        "comes back |",
        "| --- | ---: " + "| ---: " * 5 + "| --- |",
    ]  # fmt: skip
    for learned in table.learned.values.tolist():
        for start in table.sigma2_init.values:
            at = table.sel(learned=learned, sigma2_init=start)
            if bool(np.isnan(at.own_sigma2)):  # diverged
                continue
            names = ("latent_kl", "own_sigma2", "critical_sigma2", "critical_sigma2_by_steps")
            numbers = [float(at[name]) for name in (*names, "linear_critical_sigma2")]
            back = "yes" if at.own_sigma2 < at.critical_sigma2_by_steps else "not seen"
            cells = " | ".join(f"{number:.3g}" for number in numbers)
            lines.append(f"| {paper_table.mode(learned)} | {start:g} | {cells} | {back} |")
    return [*lines, ""]


def _caption(table: xr.Dataset) -> str:
    """What was trained, as far as the table knows."""
    config = json.loads(table.attrs["config"])
    task, how, grid = config["task"], config["config"], config["grid"]
    network = task["model"]
    widths = ", ".join(map(str, network.get("encoder") or network["channels"]))
    count = int(table.attrs["count"])
    epochs, seeds = how["num_steps"] * task["batch_size"] / count, table.sizes["seed"]
    return (
        f"`nonlinear_table.nc`: {table.attrs.get('source', 'data')}; {count:,} images, "
        f"{seeds} seed{'s' * (seeds > 1)}, {network['kind']} of {widths} and mirrored with "
        f"{network['k']} latents, {epochs:.0f} epochs of batches of {task['batch_size']} "
        f"({how['num_steps']:,} steps), {how['optimizer']} at "
        f"{grid['learning_rate'][0]:g}; ELBOs in nats per image on the pixel scale (constant "
        f"{float(table.attrs['pixel_constant']):.2f} included), on the training images."
    )


def _origins(folder: Path) -> list[str]:
    """A line for each table: device, versions, time; then the commands that made them."""
    lines = ["| table | device | versions | time | command |", "| --- | --- | --- | ---: | ---: |"]
    commands: dict[str, int] = {}
    for path in sorted(folder.glob("*.nc")):
        facts = tables.load(path).attrs
        number = commands.setdefault(facts.get("command", "not recorded"), len(commands) + 1)
        versions = f"linvae-jax {facts.get('linvae_jax')}, jax {facts.get('jax')}"
        took = f"{float(facts['seconds']) / 60:.1f} min" if "seconds" in facts else ""
        lines.append(f"| `{path.name}` | {facts['device']} | {versions} | {took} | {number} |")
    return [*lines, "", *(f"{i}. `{command}`" for command, i in commands.items())]


def page(text: str, folder: Path) -> str:
    """The same as one self-contained HTML page: figures are in it."""
    body = MarkdownIt("commonmark").enable("table").render(text)

    def inline(match: re.Match[str]) -> str:
        data = (folder / html.unescape(match[1])).read_bytes()
        return f'src="data:image/png;base64,{base64.b64encode(data).decode()}"'

    body = re.sub(r'src="([^":]+\.png)"', inline, body)
    title = html.escape(text.splitlines()[0].lstrip("# "))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}'
        f"</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
