"""What the documentation shows is run: README, docstrings, the commands it names."""

import doctest
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import xarray as xr

import landscape
import linvae_jax
from landscape.paper import network_claims, network_experiments, settings
from landscape.paper import table as paper_table
from linvae_jax import tables

ROOT = Path(__file__).parent.parent
MNIST = ROOT / "benchmarks" / "results" / "mnist"
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = sorted(
    info.name
    for package in (linvae_jax, landscape)
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    if not info.name.endswith("__main__")
)


@pytest.fixture(scope="module")
def found() -> dict[str, xr.Dataset]:
    """The saved tables of MNIST; nobody changes them."""
    return network_experiments.load(MNIST)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it is for"
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


@pytest.mark.slow
def test_python_example_of_the_readme_runs_and_prints_zeros():
    example, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    # in its own process: it sets float64 itself, as a reader's would
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    lemma, conditioning, slope = done.stdout.strip().splitlines()
    assert abs(float(lemma)) < 1e-8  # rounding of about a thousand nats
    assert conditioning.startswith("Conditioning(index=")
    assert float(slope) == 0


def test_table_of_the_readme_is_that_of_the_saved_results(found):
    shown = README.split("tests/test_docs.py -->\n")[1].split("<!-- end of table -->")[0].strip()
    compared = paper_table.compare(found["table"], "mnist")
    assert shown == paper_table.markdown(compared).strip()
    assert shown in (MNIST / "report.md").read_text(encoding="utf-8")


def test_training_length_in_the_readme_is_that_of_the_saved_sweep():
    table = tables.load(MNIST / "training_length.nc").squeeze()
    elbo = table.final_elbo + float(table.attrs["pixel_constant"])
    held, learned = (-float(elbo.sel(learned=value)) for value in (False, True))
    assert f"to −{held:,.0f} held and −{learned:,.0f} learned" in " ".join(README.split())
    assert table.step[-1] == 24_000
    assert table.attrs["command"].startswith("linvae sweep {")


def test_other_numbers_of_the_readme_are_those_of_the_saved_tables(found):
    text = " ".join(README.split())
    seconds = {name: float(table.attrs["seconds"]) for name, table in found.items()}
    hours = sum(seconds.values()) / 3600
    minutes = f"{seconds['table'] / 60:.0f} minutes of them for the table's first seed"
    assert f"in {hours:.0f} hours, {minutes}" in text
    two = found["table"]
    assert two.sizes["seed"] == 2
    elbo = float(abs(two.final_elbo.diff("seed").sel(learned=True)).max())
    points = float(abs(two.final_collapsed.diff("seed")).max()) / 2  # of 200
    assert f"at most {elbo:.1f} nats where σ² is learned, and by {points:.0f} points of" in text
    # four seeds, shorter: their spread, and the run that blew up
    four = tables.load(MNIST / "third_table.nc")
    spread = four.std("seed", ddof=1).sel(learned=True)
    assert round(float(spread.final_elbo.sel(sigma2_init=[10, 1, 0.1]).max())) == 2
    assert round(float(spread.final_collapsed.max()) / 2) == 16  # of 200
    at = four.sel(sigma2_init=0.001, learned=True)
    largest = at.kl.max("step")
    assert int((largest > 1e6).sum()) == 1
    wild = at.isel(seed=int(largest.argmax("seed")))
    assert abs(int(wild.step[int((wild.kl > 1e6).argmax("step"))]) - 7500) <= 312  # a record or so
    after = wild.sigma2[wild.step > 8000]
    assert float(after.max() / after.min()) < 1.01
    # what the paper's numbers say of its tuned σ²
    rows = {row.number: paper_table.closed_form(row) for row in paper_table.ROWS}
    assert f"Row 5 then has {rows[5].sigma2:.2f} and −{-rows[5].elbo:,.1f} nats" in text
    assert f"{rows[4].sigma2:.2f} and −{-rows[4].elbo:,.1f} instead of 0.877" in text
    # runs of the full preset, in images: 105 of its table's runs
    full = settings.MNIST
    others = full.other_seeds * (len(full.curve_sigma2) + 2 * len(full.annealed_sigma2))
    varied = sum(
        2 * v.epochs * len(full.sigma2 if v.all_rows else full.varied_sigma2)
        for v in full.variations
    )
    runs = 2 * len(full.sigma2) * full.seeds + others + varied
    assert f"and {runs:.0f} runs; 40 of them are the table's" in text
    assert full.epochs * 60_000 == 6e6
    weights = 2 * (784 * 1024 + 1024 * 512 + 512 * 200) + 512 * 200
    assert f"{weights / 1e6:.1f} million weights" in text
    assert f"about {6 * weights * 6e6 * runs / 1e15:.0f} PFLOP" in text


def test_variations_in_the_readme_are_those_of_the_saved_table(found):
    whole = found["variations"]
    table = whole.isel(seed=0)
    elbo = table.final_elbo + float(table.attrs["pixel_constant"])
    percent = (table.final_collapsed / 2).round()  # of 200
    kl = table.final_kl.sum("latent")
    own, short, third, three, constant, start, long = table.variation.values
    assert [own, short, long] == [
        settings.AS_IN_THE_TABLE.name,
        *(settings.VARIATIONS[i].name for i in (0, -1)),
    ]  # fmt: skip
    assert table.num_steps.values.tolist() == [28_080, *[9360] * 5, 37_440]
    text = " ".join(README.split())

    def at(values, name, sigma2, learned=False):
        return values.sel(variation=name, sigma2_init=sigma2, learned=learned).item()

    def agreement(name):
        of = paper_table.compare(whole.sel(variation=name), "mnist")
        told = re.findall(r"(\d+) of (\d+)", paper_table.agreement(of))
        assert [kind[1] for kind in told[:4]] == ["10", "44", "5", "10"]
        rows, cells, _, elbos = (int(count) for count, _ in told[:4])
        return rows, cells, elbos

    rows, cells, elbos = agreement(own)
    both = paper_table.agreement(paper_table.compare(found["table"], "mnist"))
    assert both.startswith(f"{rows} of 10 rows agree with the paper, {cells} of 44 cells")
    assert f"As in the paper: {rows} of 10 rows, {cells} of 44 cells, {elbos} of 10 ELBOs" in text
    rows, cells, _ = agreement(short)
    assert rows == 0
    assert f"no row agrees with the paper, and {cells} of 44 cells" in text
    rows, cells, elbos = agreement(long)
    assert f"again {rows} rows and {cells} cells, and {elbos} of 10 ELBOs" in text
    for learned in (False, True):
        values = (-at(elbo, name, 1, learned) for name in (short, own, long))
        first, second, last = (f"−{value:,.0f}" for value in values)
        told = f"from {first} over {second} to {last} {'learned' if learned else 'held'}"
        assert told in text
        # other rates do worse, another start about as well
        base = at(elbo, short, 1, learned)
        assert max(at(elbo, name, 1, learned) for name in (third, three)) < base - 10
        assert abs(at(elbo, start, 1, learned) - base) < 10
    final = [at(table.final_sigma2, name, 0.001, True) for name in (short, own, long)]
    reached = f"σ² reaches {final[0]:.3f}, {final[1]:.2f} and {final[2]:.2f}"
    assert reached in text
    shares = [at(percent, name, 10) for name in (constant, short, third, three)]
    assert shares == [4, 82, 0, 94]
    assert max(at(elbo, name, 10) for name in (third, three)) < at(elbo, short, 10) - 10
    assert "leaves 4 % collapsed instead of 82 %" in text
    assert "third of the rate leaves 0 %, three times the rate 94 %" in text
    assert f"({at(kl, constant, 10):.1f} and {at(kl, short, 10):.1f} nats)" in text
    assert round(at(elbo, short, 10) - at(elbo, constant, 10)) == 10
    held, learned = at(percent, own, 1), at(percent, own, 1, True)
    assert f"{held:.0f} % collapse at σ² = 1 held and {learned:.0f} % learned" in text


@pytest.mark.slow
def test_claims_in_the_readme_are_those_of_the_saved_tables(found):
    text = " ".join(README.split())
    runs = network_claims.held(found)
    share = {s: (100 * c, 100 * p) for s, c, p in zip(*runs[:3], strict=True)}
    at = [f"{share[s][0]:.0f} against {share[s][1]:.0f} % at" for s in (3.0, 1.0, 0.3)]
    assert f"{at[0]} σ² = 3, {at[1]} 1, {at[2]} 0.3" in text
    first, second, third = network_claims.judge(found)
    assert [check.holds for check in second.checks] == [False, True, False]
    assert first.holds
    assert third.holds
    rank, mean, curves = (abs(check.value) for check in second.checks)
    assert f"({mean:.2f} of 0.25)" in text
    assert f"({curves:.2f} of 0.25; {rank:.2f} of 0.9)" in text
    kl = found["table"].final_kl.sum("latent").sel(sigma2_init=10).mean("seed")
    held, learned = (float(kl.sel(learned=value)) for value in (False, True))
    assert f"by KL ({learned:.1f} nats, {held:.1f} held)" in text
    apart = found["annealing"].final_collapsed - found["table"].final_collapsed.sel(learned=False)
    assert round(float(abs(apart).max()) / 2) == 8
    # until the rate falls, in the last fifth, few are collapsed; in the end most are
    plain = found["table"].sel(learned=False, sigma2_init=[10.0, 1.0])
    for runs in (plain, found["annealing"]):
        share = runs.collapsed / 200
        assert share.sel(step=share.step <= 0.8 * share.step[-1]).max() < 0.25
        assert share.isel(step=-1).min() > 0.65
    final = found["table"].final_sigma2.sel(learned=True)
    assert f"at {float(final.min()):.2f} to {float(final.max()):.2f}" in text
    shorter = {name: tables.load(MNIST / f"third_{name}.nc") for name in ("table", "curves")}
    assert network_claims.noise_controls_collapse(shorter).holds
    percent = (shorter["table"].final_collapsed / 2).sel(sigma2_init=10)
    saved = (percent.sel(learned=False) - percent.sel(learned=True)).values
    assert saved.shape == (4,)
    assert f"save from −{-saved.min():.0f} to {saved.max():.0f} points" in text
    second = network_claims.linear_predicts(shorter)
    assert second.holds
    rank, mean, curves = (abs(check.value) for check in second.checks)
    assert f"`third_curves.nc`; {mean:.2f}, {curves:.2f} and {rank:.2f})" in text


def test_curvature_in_the_readme_is_that_of_the_saved_table(found):
    """The caption's claims: where collapse is stable."""
    table = found["curvature"]
    share = table.critical_sigma2_by_steps / table.own_sigma2
    assert (share.sel(learned=False, sigma2_init=[10.0, 1.0]) < 1).all()
    assert (share.sel(learned=True) < 1).all()
    assert (share.sel(learned=False, sigma2_init=[0.1, 0.01, 0.001]) > 1).all()
    assert (table.critical_sigma2_by_steps < table.linear_critical_sigma2).all()
    config = json.loads(table.attrs["config"])["config"]
    assert config["num_steps"] == found["table"].step[-1]  # the table's networks
    at = table.sel(learned=False, sigma2_init=1.0)
    own, linear = (float(at[name]) for name in ("critical_sigma2", "linear_critical_sigma2"))
    told = f"of the network stays so down to {own:.2f}, for the others explain what it could, and "
    assert f"{told}one of the linear VAE down to {linear:.2f}" in " ".join(README.split())


@pytest.mark.slow
def test_sweep_of_networks_in_the_readme_runs_at_a_small_size(tmp_path, monkeypatch, capsys):
    _, example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for large, small in (
        ("Mlp(k=50,", "Mlp(k=5, encoder=(8,), decoder=(8,),"),
        ("num_steps=1000", "num_steps=50"),
        ("seeds=(0, 1)", "seeds=(0,)"),
        ('("digits").images  #', '("digits").images[:200]  #'),
    ):
        assert large in example
        example = example.replace(large, small)
    monkeypatch.chdir(tmp_path)
    with jax.enable_x64(False):  # as where nothing is set
        exec(example, {})
    assert "final_linear_collapsed" in capsys.readouterr().out
    assert len(list((tmp_path / "results" / "python" / "runs").glob("*.npz"))) == 6


def test_commands_and_links_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        if not link.startswith("http"):
            assert (ROOT / link).exists(), link


def test_package_docstrings_list_every_module():
    for package in (linvae_jax, landscape):
        listed = set(re.findall(r"^\| `(\w+)`", package.__doc__ or "", re.MULTILINE))
        present = {
            info.name
            for info in pkgutil.iter_modules(package.__path__)
            if not info.name.startswith("_")
        }
        assert listed == present
