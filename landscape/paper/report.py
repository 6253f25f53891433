"""The report of everything that a folder of results holds, as Markdown and as one HTML page.

It is made from saved tables and figures alone: nothing is trained. Every number comes from a table
that is named beside it, whose attributes have the command, the versions and the device.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import xarray as xr

from landscape.figures import formats, style
from landscape.figures import networks as network_figures
from landscape.paper import facts, ledger
from landscape.paper.linear import claims as linear_claims
from landscape.paper.linear import experiments as linear_experiments
from landscape.paper.networks import claims as network_claims
from landscape.paper.networks import experiments as network_experiments
from landscape.paper.networks import protocols
from landscape.paper.networks import table as paper_table
from linvae_jax import tables
from linvae_jax._internal import checks

# file without suffix → caption
FIGURES = {
    "figure1_surface": "Figure 1. The likelihood around a collapsed latent of a linear VAE, as its "
    "column moves along two principal directions, at three σ².",
    "figure2_training": "Figure 2. The linear VAE's ELBO during training, by exact and by sampled "
    "gradients, against the pPCA maximum likelihood.",
    "notebook": "The authors' own notebook, run again on random subsets of 1,000 images (lines), "
    "and what it printed (circles). Left: the ELBO. Right: how far it is below the maximum. The "
    "dotted line is what the notebook takes for the maximum, with a covariance divided by N − 1: "
    "it is too low, and ELBOs pass it.",
    "figure3_latents": "Figure 3. pPCA log-likelihood against the number of latents, and trained "
    "linear VAEs.",
    "figure4_encoders": "Figure 4. A linear decoder with a linear, a deep linear and a nonlinear "
    "encoder, against the pPCA maximum likelihood.",
    "figure5_collapse": "Figure 5. Share of collapsed latents against ε for each σ² held: "
    "nonlinear VAE (left), what the linear VAE predicts (middle), both at ε = 0.01 (right).",
    "prediction": "What the linear VAE predicts: collapse (left) and KL (right) at each σ². Bars "
    "are the range of the seeds.",
    "figure6_training": "Figure 6. The nonlinear VAE's ELBO during training for each initial σ², "
    "held and learned. Bands are the range of the seeds.",
    "protocols": "How KL and collapse change while the ELBO, the clock, rises. Left and middle: "
    "the rows that start at σ² = 1, by learning rate and batch size. Right: all rows that learn "
    "σ², in the protocol that comes nearest. Stars: the paper's numbers, with their spreads.",
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

# claim → its heading
_TITLES = {
    "C1": "The ELBO in closed form", "C2": "One global maximum", "C3": "Identifiable columns",
    "C4": "No other maxima", "C5": "Collapsed points", "C6": "Conditioning and escape",
    "C7": "Training recovers pPCA", "C8": "Noise controls collapse",
    "C9": "What the linear VAE predicts", "C10": "KL annealing",
}  # fmt: skip
# claim → its figures
_OF_CLAIM = {
    "C2": ("figure3_latents",), "C3": ("convergence_separated",), "C4": ("landscape_census",),
    "C5": ("figure1_surface",), "C6": ("landscape_conditioning", "landscape_spectra"),
    "C7": ("figure2_training", "notebook"), "C8": ("figure6_training",),
    "C9": ("figure5_collapse", "prediction"), "C10": ("annealing",),
}  # fmt: skip
_NONLINEAR = ("C8", "C9", "C10")
# of the first screen: the first of these that there is
_FIRST = ("figure5_collapse", "landscape_conditioning", "figure1_surface")


def judge(folder: Path) -> list[ledger.Claim]:
    """Judge all claims that a folder's tables allow, in order; nothing is trained.

    C1 to C7 need all tables of `linear_claims.TABLES`, C8 and C9 that of the paper's rows, and C10
    that of annealing, too.

    Raises:
        ValueError: a table that cannot be read.
    """
    linear, found = linear_experiments.load(folder), network_experiments.load(folder)
    with jax.enable_x64(True):  # the same numbers, whoever asks
        claims = linear_claims.judge(linear) if set(linear_claims.TABLES) <= set(linear) else []
        return [*claims, *(network_claims.judge(found) if "table" in found else [])]


def write(folder: Path) -> list[ledger.Claim]:
    """Judge the claims, draw figures of networks, write `ledger.*`, `report.md` and `report.html`.

    The folder has what `reproduce.run` has left there, whole or a part. Returns what `judge` does.

    Raises:
        ValueError: there are no results, or some that cannot be read.
    """
    found, claims = network_experiments.load(folder), judge(folder)
    if not found and not claims:
        checks.fail("folder", f"{folder}, without results", "what `linvae reproduce` wrote")
    if claims:
        ledger.save(claims, folder)
    draw(found, folder)
    text = markdown(found, claims, folder)
    (folder / "report.md").write_text(text, encoding="utf-8")
    (folder / "report.html").write_text(formats.page(text, folder), encoding="utf-8")
    return claims


def draw(found: Mapping[str, xr.Dataset], folder: Path) -> None:
    """Draw the networks' figures from the tables that there are."""
    scaled = {name: facts.on_pixel_scale(table) for name, table in found.items()}
    encoders = {name: scaled[name] for name in network_experiments.ENCODERS if name in scaled}
    made = {}
    if len(encoders) == len(network_experiments.ENCODERS):
        made["figure4_encoders"] = network_figures.encoders(encoders)
    if "table" in found:
        runs = network_claims.collapse_by_sigma2(found)
        made["figure5_collapse"] = network_figures.collapse_curves(runs)
        data = facts.paper_data_of(found["table"])
        beside = network_claims.beside_linear(found)
        made["prediction"] = network_figures.prediction(
            beside, paper_table.printed(data) if data else None
        )
        made["figure6_training"] = network_figures.training(scaled["table"])
    if "table" in found and "annealing" in found:
        made["annealing"] = network_figures.annealing(found["annealing"], found["table"])
    if "protocols" in found and (data := facts.paper_data_of(found["protocols"])):
        nearest = protocols.distances(protocols.read(found["protocols"], data))
        made["protocols"] = network_figures.protocols(
            scaled["protocols"], paper_table.printed(data), min(nearest, key=nearest.__getitem__)
        )
    if "curvature" in found:
        made["curvature"] = network_figures.curvature(found["curvature"])
    for name, figure in made.items():
        style.save(figure, folder / name)


def markdown(found: Mapping[str, xr.Dataset], claims: Sequence[ledger.Claim], folder: Path) -> str:
    """Write the report, with figures as links to files beside it.

    It is of the tables of `experiments.load`, the claims that were judged, and the folder's
    figures.
    """
    saved = {path.name: facts.origin(tables.load(path)) for path in sorted(folder.glob("*.nc"))}
    figures = {name: formats.figure(name, FIGURES[name]) for name in FIGURES
               if (folder / f"{name}.png").exists()}  # fmt: skip
    first = next((figures[name] for name in _FIRST if name in figures), "")
    linear = _judged([claim for claim in claims if claim.id not in _NONLINEAR], figures)
    nonlinear = _judged([claim for claim in claims if claim.id in _NONLINEAR], figures)
    if "table" in found:
        nonlinear.append(("### The table", _table(found["table"])))
    if "figure4_encoders" in figures:
        nonlinear.append(("### A linear decoder, three encoders", figures.pop("figure4_encoders")))
    if "protocols" in found and facts.paper_data_of(found["protocols"]):
        told = figures.pop("protocols", ""), _protocols(found["protocols"])
        nonlinear.append(("### How were the paper's networks trained?", "\n".join(told)))
    if "curvature" in found:
        told = figures.pop("curvature", ""), _thresholds(found["curvature"])
        nonlinear.append(("### Could a collapsed latent come back?", "\n".join(told)))
    if figures:  # of claims that were not judged
        nonlinear.append(("### Other figures", "\n".join(figures.values())))
    parts = [("## The linear VAE", ""), *linear] if linear else []
    parts += [("## Nonlinear VAEs", ""), *nonlinear] if nonlinear else []
    parts.append(("## Where the numbers come from", _origins(saved)))
    screens = [_verdicts(claims, saved.values()), first, _contents(heading for heading, _ in parts)]
    text = "\n\n".join(
        [*(s for s in screens if s), *(f"{heading}\n\n{text}".rstrip() for heading, text in parts)]
    )
    return re.sub(r"\n{3,}", "\n\n", text) + "\n"


def _verdicts(claims: Sequence[ledger.Claim], origins: Iterable[facts.Origin]) -> str:
    """Write the title, how many claims hold on which data, and the verdict on each."""
    title = "# Posterior collapse in linear and nonlinear VAEs: results"
    if not claims:
        return title
    failed = ", ".join(claim.id for claim in claims if not claim.holds)
    reduced = ", ".join(c.id for c in claims if c.verdict == "holds at reduced size")
    verdict = f"**Does not hold: {failed}.**" if failed else "All claims hold."
    verdict += f" Held at reduced size: {reduced}." if reduced else ""
    sources = "; ".join(dict.fromkeys(origin.source for origin in origins))
    data = f" on {sources}" if sources else ""
    rows = [
        (f"[{c.id}](#{formats.anchor(_heading(c)[4:])})", c.statement, ledger.verdict(c))
        for c in claims
    ]
    table = formats.table(("claim", "what the paper says", "measured"), rows)
    told = f"{len(claims)} claims of the paper were measured{data}. {verdict}"
    return f"{title}\n\n{told}\n\n{table}"


def _contents(headings: Iterable[str]) -> str:
    """Write a table of contents."""
    parts = (heading.partition(" ") for heading in headings)
    lines = (f"{'  ' * (len(m) - 2)}- [{name}](#{formats.anchor(name)})" for m, _, name in parts)
    return "\n".join(["## Contents", "", *lines])


def _heading(claim: ledger.Claim) -> str:
    return f"### {claim.id}. {_TITLES.get(claim.id, claim.statement)}"


def _judged(claims: Sequence[ledger.Claim], figures: dict[str, str]) -> list[tuple[str, str]]:
    """Write a part for each claim; the figures that it takes are taken out."""
    parts = []
    for claim in claims:
        own = [figures.pop(name) for name in _OF_CLAIM.get(claim.id, ()) if name in figures]
        told = [ledger.told(claim), "", *own]
        parts.append((_heading(claim), "\n".join([*told, ledger.measured(claim)])))
    return parts


def _table(table: xr.Dataset) -> str:
    """Write ours beside the paper's where the paper has such data, ours alone elsewhere."""
    compared = paper_table.compare(table, facts.paper_data_of(table))
    parts = [_caption(table)]
    if compared:
        parts += [
            f"{paper_table.agreement(compared)}. {paper_table.RULE} Cells in bold differ; ± is the "
            "standard deviation over seeds.",
            paper_table.markdown(compared),
        ]
        if doubts := paper_table.doubts(compared):
            parts.append(f"Doubtful (?): {doubts}.")
        if better := paper_table.not_tuned(compared):
            parts.append(
                "The paper's own σ², ELBO and KL give its networks' mean squared error, and with "
                f"it what tuning σ² in closed form would have found for them: {better}."
            )
    else:
        parts.append(paper_table.alone(table))
    if diverged := int(table.diverged.sum()):
        parts.append(f"{diverged} of {table.diverged.size} runs diverged.")
    return "\n\n".join(parts)


def _protocols(table: xr.Dataset) -> str:
    """Write what each protocol shows when its ELBO is the paper's, and which comes nearest."""
    data = facts.paper_data_of(table)
    found = protocols.read(table, data)
    distances = protocols.distances(found)
    nearest = min(distances, key=distances.__getitem__)
    judged = protocols.agreement(found[nearest])
    agree = [f"{heading} {sum(of)} of {len(of)}" for heading, of in judged.items() if of]
    told = f" Where its ELBO is the paper's, {', '.join(agree)} rows agree with the paper."
    return (
        "`nonlinear_protocols.nc`: the paper says neither the learning rate nor the batches nor "
        "the epochs. So each protocol, a constant rate and a batch size, is read at the epoch at "
        "which its ELBO is the paper's. Everything here is measured on the data that the records "
        "of training look at, so it differs a little from the table. ≈: the run ended before; its "
        "last half, continued as a straight line over the logarithm of the epochs, tells the "
        "epoch, up to four times as many. There is such a trend if half of the epochs foretold the "
        "last ELBO within what the rule of the table allows. A cell is continued on the same "
        "condition; else it is that of the end. The distance is the mean over the cells of what "
        "they are off by, in units of what that rule allows.\n\n"
        f"{protocols.markdown(found)}\n"
        "Mean distances over the rows that all protocols have trained: "
        f"{'; '.join(f'{name}: {_distance(x)}' for name, x in distances.items())}. "
        f"The nearest is {nearest}.{told if agree else ''}\n\n"
        "All protocols at the highest ELBO that all have passed, by the noise of a step of Adam, "
        "which goes with the rate over the root of the batch size:\n\n"
        f"{protocols.side_by_side(table, protocols.common(table, data))}"
    )


def _distance(x: float) -> str:
    return formats.number(x) if np.isfinite(x) else "no trend yet"


def _thresholds(table: xr.Dataset) -> str:
    """Write for each network below which σ² its collapsed latent comes back."""
    headings = ("σ²", "start:", "KL:", "σ² at the end:", "critical σ²:", "by finite steps:",
                "linear VAE's:", "comes back")  # fmt: skip
    rows = []
    for learned, start, at in _trained(table):
        numbers = [formats.number(float(at[name]), whole=True) for name in _THRESHOLDS]
        back = "yes" if at.own_sigma2 < at.critical_sigma2_by_steps else "not seen"
        rows.append((paper_table.mode(learned), f"{start:g}", *numbers, back))
    return (
        "`nonlinear_curvature.nc`: the latent of least KL of each network of the first seed, after "
        f"{facts.training(table).num_steps:,} steps, made to collapse. Below the critical σ² it "
        "comes back. Finite steps along its way out count the kinks of ReLU, which derivatives do "
        f"not see; other ways may be left.\n\n{formats.table(headings, rows)}"
    )


# variable → the name of its number
_THRESHOLDS = {
    "latent_kl": "least KL of a latent", "own_sigma2": "σ² at the end",
    "critical_sigma2": "critical σ²",
    "critical_sigma2_by_steps": "critical σ² by finite steps",
    "linear_critical_sigma2": "critical σ² of the linear VAE",
}  # fmt: skip


def _trained(table: xr.Dataset) -> Iterator[tuple[bool, float, xr.Dataset]]:
    """Go through the networks of a table of curvature that did not diverge."""
    for learned in table.learned.values.tolist():
        for start in table.sigma2_init.values.tolist():
            at = table.sel(learned=learned, sigma2_init=start)
            if not bool(np.isnan(at.own_sigma2)):
                yield learned, start, at


def numbers_of_curvature(table: xr.Dataset) -> dict[str, float]:
    """Name what is stated of collapsed latents: "held at 1: critical σ²"."""
    return {
        f"{paper_table.named_start(learned, start)}: {name}": float(at[variable])
        for learned, start, at in _trained(table)
        for variable, name in _THRESHOLDS.items()
    }


def _caption(table: xr.Dataset) -> str:
    """Say what was trained."""
    origin, how = facts.origin(table), facts.training(table)
    widths, seeds = ", ".join(map(str, how.widths)), table.sizes["seed"]
    things = "data" if facts.in_words(origin.source) == "the data" else "images"
    return (
        f"`nonlinear_table.nc`: {origin.source}; {origin.count:,} {things}, "
        f"{seeds} seed{'s' * (seeds > 1)}, {how.network} of {widths} and mirrored with "
        f"{how.k} latents, {facts.epochs(table):.0f} epochs of batches of {how.batch_size} "
        f"({how.num_steps:,} steps), {how.optimizer} at {how.learning_rate:g}; ELBOs in nats per "
        f"datum on the pixel scale (constant {origin.pixel_constant:.2f} included), on the "
        "training data."
    )


def _origins(saved: Mapping[str, facts.Origin]) -> str:
    """Write a line for each table: device, versions, time; then the commands that made them."""
    commands: dict[str, int] = {}
    rows = []
    for name, origin in saved.items():
        number = commands.setdefault(origin.command, len(commands) + 1)
        took = "" if origin.seconds is None else f"{origin.seconds / 60:.1f} min"
        rows.append((f"`{name}`", origin.device, origin.versions, took, str(number)))
    table = formats.table(("table", "device", "versions", "time:", "command:"), rows)
    return "\n".join([table, *(f"{i}. `{command}`" for command, i in commands.items())])
