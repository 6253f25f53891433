"""What the documentation shows is run: README, docstrings, the commands it names."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import landscape
import linvae_jax
from landscape import nonlinear, paper_table
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


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it is for"
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


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


def test_table_of_the_readme_is_that_of_the_saved_results():
    shown = README.split("tests/test_docs.py -->\n")[1].split("<!-- end of table -->")[0].strip()
    found = paper_table.compare(nonlinear.load(MNIST)["table"], "mnist")
    assert shown == paper_table.markdown(found).strip()
    assert shown in (MNIST / "report.md").read_text(encoding="utf-8")


def test_training_length_in_the_readme_is_that_of_the_saved_sweep():
    table = tables.load(MNIST / "training_length.nc").squeeze()
    elbo = table.final_elbo + float(table.attrs["pixel_constant"])
    held, learned = (-float(elbo.sel(learned=value)) for value in (False, True))
    assert f"to −{held:,.0f} held and −{learned:,.0f} learned" in " ".join(README.split())
    assert table.step[-1] == 24_000
    assert table.attrs["command"].startswith("linvae sweep {")


def test_other_numbers_of_the_readme_are_those_of_the_saved_tables():
    found, text = nonlinear.load(MNIST), " ".join(README.split())
    seconds = {name: float(table.attrs["seconds"]) for name, table in found.items()}
    assert f"{seconds['table'] / 60:.0f} minutes of them for the table" in text
    assert 2.25 < sum(seconds.values()) / 3600 < 2.75  # 2½ hours
    # the run that blew up
    at = found["table"].sel(sigma2_init=0.001, learned=True)
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
    # runs of the full preset, in images: 144 of its table's runs
    full = nonlinear.MNIST
    others = full.other_seeds * (len(full.curve_sigma2) + 2 * len(full.annealed_sigma2))
    varied = sum(
        2 * v.epochs * len(full.sigma2 if v.all_rows else full.varied_sigma2)
        for v in full.variations
    )
    assert 2 * len(full.sigma2) * full.seeds + others + varied == 144
    assert full.epochs * 60_000 == 6e6


def test_variations_in_the_readme_are_those_of_the_saved_table():
    whole = tables.load(MNIST / "nonlinear_variations.nc")
    table = whole.isel(seed=0)
    elbo = table.final_elbo + float(table.attrs["pixel_constant"])
    percent = (table.final_collapsed / 2).round()  # of 200
    kl = table.final_kl.sum("latent")
    base, third, three, constant, start, four = table.variation.values
    text = " ".join(README.split())

    def at(values, name, sigma2, learned=False):
        return values.sel(variation=name, sigma2_init=sigma2, learned=learned).item()

    agreement = paper_table.agreement(paper_table.compare(whole.sel(variation=four), "mnist"))
    assert agreement.startswith("4 of 10 rows agree with the paper, 28 of 44 cells")
    assert "ELBO 9 of 10" in agreement
    assert "4 of 10 rows agree with the paper, 28 of 44 cells, and 9 of 10 ELBOs" in text
    assert f"Held at σ² = 10 it is −{-at(elbo, four, 10):,.0f} (" in text
    for learned in (False, True):
        before, after = (-at(elbo, name, 1, learned) for name in (base, four))
        assert f"from −{before:,.0f} to −{after:,.0f} {'learned' if learned else 'held'}" in text
        # other rates do worse, another start about as well
        assert max(at(elbo, name, 1, learned) for name in (third, three)) < -before - 10
        assert abs(at(elbo, start, 1, learned) + before) < 10
    sigma2 = [at(table.final_sigma2, name, 0.001, True) for name in (four, base)]
    reached = f"σ² reaches {sigma2[0]:.2f} instead of {sigma2[1]:.3f} and the ELBO"
    assert f"{reached} −{-at(elbo, four, 0.001, True):,.0f} (" in text
    shares = [at(percent, name, 10) for name in (constant, base, third, three)]
    assert shares == [4, 82, 0, 94]
    assert "leaves 4 % collapsed instead of 82 %" in text
    assert "third of the rate leaves 0 %, three times the rate 94 %" in text
    assert f"({at(kl, constant, 10):.1f} and {at(kl, base, 10):.1f} nats)" in text
    assert round(at(elbo, base, 10) - at(elbo, constant, 10)) == 10
    held, learned = at(percent, four, 1), at(percent, four, 1, True)
    assert f"collapse {held:.0f} % at σ² = 1 held and {learned:.0f} % learned" in text


def test_curvature_in_the_readme_is_that_of_the_saved_table():
    """The caption's claims: collapse is stable, nearly so, or not at all."""
    table = tables.load(MNIST / "nonlinear_curvature.nc")
    share = table.critical_sigma2_by_steps / table.own_sigma2
    assert (share.sel(learned=False, sigma2_init=[10.0, 1.0]) < 1).all()
    assert (share.sel(learned=True, sigma2_init=[10.0, 1.0, 0.1]) < 1.1).all()
    assert (share.sel(learned=False, sigma2_init=[0.1, 0.01, 0.001]) > 3).all()
    below = table.critical_sigma2_by_steps < table.linear_critical_sigma2
    assert not below.sel(learned=True, sigma2_init=0.001)  # the README says which
    assert int(below.sum()) == below.size - 1


def test_sweep_of_networks_in_the_readme_runs_at_a_small_size(tmp_path):
    _, example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for large, small in (
        ("Mlp(k=50)", "Mlp(k=5, encoder=(8,), decoder=(8,))"),
        ("num_steps=1000", "num_steps=50"),
    ):
        assert large in example
        example = example.replace(large, small)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "final_linear_collapsed" in done.stdout
    assert len(list((tmp_path / "results" / "mlp" / "runs").glob("*.nc"))) == 12


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
