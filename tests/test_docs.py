"""What the documentation shows is run: code, docstrings, commands, links, names, numbers."""

import contextlib
import doctest
import importlib
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro
import xarray as xr
from scipy.stats import spearmanr
from tolerances import EXACT, FACTORED

import landscape
import linvae_jax
from benchmarks import device, residuals, run
from landscape import cli, diagnosis
from landscape.cli import options
from landscape.curvature import collapsed_latent
from landscape.diagnosis import verdicts, words
from landscape.paper import ledger, settings, size
from landscape.paper.networks import claims as network_claims
from landscape.paper.networks import experiments as network_experiments
from linvae_jax import networks, tables, vae
from linvae_jax.data import datasets

ROOT = Path(__file__).parent.parent
MNIST = ROOT / "benchmarks" / "results" / "mnist"
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted(
        [
            *ROOT.glob("*.md"),
            *ROOT.glob("*/README.md"),
            *ROOT.glob("landscape/*/README.md"),
            *MNIST.glob("*.md"),
        ]
    )
    if path.name != "CHANGELOG.md"  # it tells of names that were
}
README = DOCUMENTS["README.md"]
QUESTIONS = "landscape/diagnosis/README.md"
MODULES = sorted(
    info.name
    for package in (linvae_jax, landscape)
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    if not info.name.endswith("__main__")
)
FOLDERS = ["linvae_jax", "landscape"] + [
    name for name in MODULES if hasattr(importlib.import_module(name), "__path__")
]


@pytest.fixture(scope="module")
def found() -> dict[str, xr.Dataset]:
    """The saved tables of MNIST; nobody changes them."""
    return network_experiments.load(MNIST)


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENTS[document], re.DOTALL | re.MULTILINE)


def under(document: str, heading: str) -> str:
    """A section of a document in one line, without its marks."""
    text = DOCUMENTS[document].split(f"# {heading}\n")[1]
    text = re.split(r"^#+ ", text, flags=re.MULTILINE)[0]
    return " ".join(text.replace("*", "").split())


def tells(text: str, *numbers: str) -> None:
    """Each of the numbers stands in the text, whatever is said about it."""
    for number in numbers:
        assert re.search(rf"(?<![\w.,]){re.escape(number)}(?![\d%])", text), number


def minus(value: float, digits: int = 0) -> str:
    return f"−{-value:,.{digits}f}"


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it is for"
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


@pytest.mark.slow
def test_python_of_the_readme_runs_and_prints_what_it_says():
    (example,) = blocks("README.md", "python")
    # in its own process: it sets float64 itself, as a reader's would
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    lemma, (index, rate) = (map(float, line.split()) for line in done.stdout.strip().splitlines())
    assert abs(*lemma) < 1e-8  # rounding of about a thousand nats
    assert f"# {index:.0f} ways out; the fastest grows as exp({rate:.0f} t)" in example


@pytest.mark.slow
def test_sweep_of_networks_runs_at_a_small_size(tmp_path, monkeypatch, capsys):
    _, example, _ = blocks("linvae_jax/README.md", "python")
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
    assert "final_linear_num_collapsed" in capsys.readouterr().out
    assert len(list((tmp_path / "results" / "python" / "runs").glob("*.npz"))) == 6


def test_latents_that_should_be_in_use_are_counted_as_shown(capsys):
    example, *_ = blocks("linvae_jax/README.md", "python")
    names = {}
    exec(example, names)
    assert f"# {capsys.readouterr().out.split()[-1]}\n" in example
    lam = np.linalg.eigvalsh(np.cov(names["x"].T, bias=True))[::-1]
    assert (lam[:10] > 5).sum() == names["found"].linear_num_in_use


def test_numbers_of_the_diagnosis_in_the_readme_are_those_of_the_digits():
    text = " ".join(README.split("## Your VAE, in one command")[1].split("## ")[0].split())
    answer = next(shown for _, shown in ANSWERS)
    for name, told in (
        ("τ = ", r"τ = ([\d.]+)"), ("the largest λ is ", r"\(([\d.]+) at the most"),
        (r"\n +16 +", r"([\d.]+) keeps half"), (r"\n +32 +", r"([\d.]+) all\."),
    ):  # fmt: skip
        (said,) = re.findall(told, text)
        assert re.search(rf"{name}{re.escape(said)}", answer), said


@pytest.mark.slow
def test_windows_are_prepared_as_shown():
    *_, example = blocks("linvae_jax/README.md", "python")
    names = {}
    exec(example, names)
    assert names["data"].values.size < len(names["images"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # PyTorch of itself
@pytest.mark.parametrize("library", ["jax", "torch"])
def test_recipe_for_pytorch_makes_the_blocks_of_these_weights(library, monkeypatch, capsys):
    """Also where PyTorch is absent, by JAX under its names."""
    (example,) = blocks("landscape/README.md", "python")
    key, j = jax.random.key(0), 1
    model = networks.Mlp(4, 3, (5,), (2,), "tanh", mean_scale=1.0, dtype="float64")
    params = jax.tree.map(lambda of: of + 0.03, model.init(key, 1.0))
    x = jax.random.normal(jax.random.key(1), (60, 4)) * jnp.array([0.9, 0.7, 0.5, 0.3])
    expected = collapsed_latent.blocks(model, params, x, key, j)
    z = vae.with_noise(model, params, x, jax.random.normal(key, (60, 3))).z.at[:, j].set(0)
    if library == "jax":
        functions = SimpleNamespace(grad=jax.grad, hessian=jax.hessian, vmap=jax.vmap)
        module = SimpleNamespace(cat=jnp.concatenate, ones_like=jnp.ones_like, func=functions)
        monkeypatch.setitem(sys.modules, "torch", module)
        monkeypatch.setitem(sys.modules, "torch.func", functions)
        array, tanh = jnp.asarray, jnp.tanh
    else:
        torch = pytest.importorskip("torch")
        array, tanh = (lambda of: torch.tensor(np.array(of))), torch.tanh
    x, z = array(x), array(z)
    kernel, bias = (
        {n: array(of[p]) for n, of in params.weights.items()} for p in ("kernel", "bias")
    )
    names = {
        "x": x,
        "z": z,
        "hidden": tanh(x @ kernel["encoder0"] + bias["encoder0"]),
        "first": lambda z: z @ kernel["decoder0"] + bias["decoder0"],
        "rest": lambda a: tanh(a) @ kernel["output"] + bias["output"],
    }
    exec(example, names)
    # the encoder's weights by name: two biases, then of each hidden unit those of mean, log D
    ours = np.array([2, 4, 6, 8, 10, 0])
    for name, block in (
        ("A", expected.decoder),
        ("B", expected.coupling[:, ours]),
        ("C", expected.encoder[np.ix_(ours, ours)]),
    ):
        np.testing.assert_allclose(np.asarray(names[name]), block, atol=EXACT)
    critical = float(expected.critical_sigma2())
    assert np.isfinite(critical)
    np.testing.assert_allclose(float(capsys.readouterr().out), critical, rtol=FACTORED)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A folder with the codes that the page of questions makes for its commands."""
    folder = tmp_path_factory.mktemp("questions")
    _, example, _ = blocks(QUESTIONS, "python")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(example, {})
    return folder


ANSWERS = re.findall(
    r"^```sh\nlinvae ([^\n]*)\n```\n\n```text\n(.*?)^```",
    DOCUMENTS[QUESTIONS],
    re.DOTALL | re.MULTILINE,
)


def test_ten_questions_are_answered():
    asked = re.findall(r"^## (\d+)\. .*[?.]$", DOCUMENTS[QUESTIONS], re.MULTILINE)
    assert [int(number) for number in asked] == list(range(1, 11))
    assert len(ANSWERS) == len(blocks(QUESTIONS, "sh")) == len(blocks(QUESTIONS, "text"))


@pytest.mark.slow
@pytest.mark.parametrize(("command", "shown"), ANSWERS)
def test_answers_are_what_the_command_says(command, shown, stand_in, monkeypatch, capsys):
    monkeypatch.chdir(stand_in)
    with pytest.raises(SystemExit) as stop:
        cli.main(shlex.split(command))
    assert stop.value.code == 0
    printed = capsys.readouterr().out.splitlines()
    for line in filter(lambda line: line not in ("", "…"), shown.splitlines()):
        assert line in printed
        del printed[: printed.index(line) + 1]  # in this order


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_codes_are_saved_as_shown(library, tmp_path, monkeypatch):
    """Also where PyTorch is absent, by NumPy under its names."""
    example, *_ = blocks(QUESTIONS, "python")
    x = np.random.default_rng(0).normal(size=(50, 6))
    if library == "numpy":
        module = SimpleNamespace(
            no_grad=contextlib.nullcontext, exp=np.exp,
            randn_like=lambda of: np.random.default_rng(1).normal(size=of.shape),
        )  # fmt: skip
        monkeypatch.setitem(sys.modules, "torch", module)
    else:
        torch = pytest.importorskip("torch")
        x = torch.tensor(x)
    model = SimpleNamespace(
        encode=lambda x: (0.5 * x[:, :2], 0 * x[:, :2] - 1), decode=lambda z: z @ x[:2]
    )
    monkeypatch.chdir(tmp_path)
    exec(example, {"model": model, "x": x})
    with np.load("codes.npz") as saved:
        found = diagnosis.of_codes(**saved, x=np.load("x.npy"), loss=diagnosis.Loss())
    kl = ((np.asarray(x)[:, :2] ** 2).mean(0) / 4 + np.exp(-1) - 1 + 1) / 2
    np.testing.assert_allclose(found.kl, kl, rtol=EXACT)
    assert found.distortion > 0


@pytest.mark.slow
def test_way_back_is_shown_for_functions_of_ones_own(capsys):
    *_, example = blocks(QUESTIONS, "python")
    x = jax.random.normal(jax.random.key(0), (500, 4)) * jnp.array([3.0, 2.0, 1.0, 0.5])
    lam, U = np.linalg.eigh(np.cov(x.T, bias=True))
    lam, U = lam[::-1][:2], U[:, ::-1][:, :2]
    on = np.array([1.0, 0.0])  # of two latents one is in use, at τ = ½
    w = on * np.sqrt(lam - 0.5)
    weights = {
        "mean": {"kernel": U * w / lam, "bias": -x.mean(0) @ U * w / lam},
        "log_var": {"kernel": np.zeros((4, 2)), "bias": on * np.log(0.5 / lam)},
        "decoder": {"kernel": (U * w).T, "bias": np.asarray(x.mean(0))},
    }

    def dense(layer, x):
        return x @ layer["kernel"] + layer["bias"]

    names = {
        "encode": lambda w, x: (dense(w["mean"], x), dense(w["log_var"], x)),
        "decode": lambda w, z: dense(w["decoder"], z), "weights": weights, "x": x,
    }  # fmt: skip
    exec(example, names)
    verdicts, critical = capsys.readouterr().out.splitlines()
    assert verdicts == "['in use' 'collapsed although λ > τ']"
    # the largest eigenvalue that no latent uses; one z for each of 500 data
    np.testing.assert_allclose(float(critical), lam[1], rtol=0.05)


def test_what_is_told_of_the_guide_for_networks(found):
    text = DOCUMENTS[QUESTIONS].split("How good a guide")[1].split("\n\n")[0]
    off = network_claims.linear_predicts(found).checks[1].value
    epochs = found["table"].sizes["step"]
    tells(" ".join(text.split()), f"{off:.2f} off", f"{epochs} epochs")
    runs = network_claims.collapse_by_sigma2(found)
    assert runs.sizes["sigma2"] == 7
    more = (runs.share_collapsed - runs.predicted).to_series()
    assert (more[:0.1].abs() <= 0.02).all()
    # "by a quarter to a half of their latents"
    assert more[0.3:].min() == pytest.approx(0.25, abs=0.02)
    assert more[0.3:].max() == pytest.approx(0.5, abs=0.02)


def test_figure_of_the_readme_shows_what_its_caption_says():
    caption = README.split("waterline.png)")[1].split("## ")[0]
    found = tables.load(ROOT / "benchmarks" / "results" / "waterline.nc")
    assert f"a network's {found.sizes['latent']} latents" in " ".join(caption.split())
    # it explains more with fewer
    assert found.num_in_use < found.linear_num_in_use
    assert found.objective < found.linear_objective
    assert [section.heading for section in words.sections(found)][-1] == "Notes"


def test_no_other_python_is_shown():
    shown = {name: len(blocks(name, "python")) for name in DOCUMENTS}
    assert {name: count for name, count in shown.items() if count} == {
        "README.md": 1, QUESTIONS: 3, "landscape/README.md": 1, "linvae_jax/README.md": 3,
    }  # fmt: skip


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_that_are_shown_exist(document):
    text = DOCUMENTS[document]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    joined = "\n".join(blocks(document, "sh")).replace("\\\n", " ")
    for command in re.findall(r"^linvae (.*)", joined, re.MULTILINE):
        tyro.cli(
            options.Command,
            args=shlex.split(command, comments=True),
        )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    for link, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", DOCUMENTS[document]):
        if link.startswith("http"):
            continue
        target = ((ROOT / document).parent / link).resolve() if link else ROOT / document
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.MULTILINE)
            # as GitHub makes them
            slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, f"{link}#{anchor}"


def _leads_somewhere(owner: object, parts: list[str]) -> bool:
    if not parts:
        return True
    first, *rest = parts
    if first in getattr(owner, "__annotations__", {}):  # a field
        return True
    return hasattr(owner, first) and _leads_somewhere(getattr(owner, first), rest)


def _exists(name: str) -> bool:
    """Of a module by any end of its name, `blocks.inertia`, or of a class, `Moments.mean`."""
    parts = name.split(".")
    for module in [*FOLDERS, *MODULES]:
        loaded = importlib.import_module(module)
        ends = [
            n for n in range(len(parts) + 1) if f".{module}".endswith(".".join(["", *parts[:n]]))
        ]
        if any(_leads_somewhere(loaded, parts[n:]) for n in [0, *ends]):
            return True
    return False


def test_saved_results_name_no_folder_of_a_machine():
    """Commands are kept with tables and told in reports; where a run lay helps nobody."""
    path = re.compile(r"(?<![\w.<:/])/(?:work|tmp|home|root|Users|mnt|opt|var)/")
    results = ROOT / "benchmarks" / "results"
    told = {file: str(tables.load(file).attrs) for file in results.rglob("*.nc")}
    told |= {file: file.read_text("utf-8") for file in results.rglob("*.md")}
    assert len(told) > 20
    assert [str(file) for file, text in told.items() if path.search(text)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_names_that_are_mentioned_exist(document):
    text = re.sub(r"^```.*?^```", "", DOCUMENTS[document], flags=re.DOTALL | re.MULTILINE)
    packages = [ROOT / name for name in ("linvae_jax", "landscape", "benchmarks", "tests")]
    files = {path.name for folder in packages for path in folder.rglob("*.*")}
    for name in re.findall(r"`([A-Za-z_]\w*(?:\.\w+)+)[`(]", text):
        first, last = name.split(".")[0], name.split(".")[-1]
        if first not in ("jax", "torch", "nn", "F") and last not in (
            "html",
            "npy",
            "toml",
            "txt",
            "zip",
        ):  # not of these packages
            assert name in files or _exists(name), name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_mentioned_exist(document):
    bases = [ROOT, ROOT / "linvae_jax", ROOT / "landscape", (ROOT / document).parent]
    for name in re.findall(r"`([\w.]+(?:/[\w.]+)*\.py)`", DOCUMENTS[document]):
        found = [path for base in bases for path in (base / name, *base.glob(f"*/{name}"))]
        assert any(path.exists() for path in found), name


def test_the_readme_stays_short():
    assert 900 <= len(README.split()) <= 1100


def test_claims_of_the_readme_are_those_that_are_judged():
    """At the paper's size all but C9 holds; `make reproduce` has fewer data and latents."""
    verdicts = dict(re.findall(r"^\| (C\d+) \|.*\| ([^|]*) \|$", README, re.MULTILINE))
    assert list(verdicts) == [f"C{number}" for number in range(1, 11)]
    saved = ledger.load(MNIST).claims
    assert {(claim.id, claim.verdict) for claim in saved} == {
        (f"C{i}", "does not hold" if i == 9 else "holds") for i in range(1, 11)
    }
    assert "At the paper's size all but C9 hold:" in " ".join(README.split())
    images = datasets.load("digits")
    attrs = {"source": images.source, "count": str(len(images.images))}
    digits = xr.Dataset(coords={"latent": np.arange(settings.QUICK.k)}, attrs=attrs)
    whole = xr.Dataset(coords={"step": [settings.LinearSettings().notebook_steps]})
    smaller = {"C6": size.of_spectrum(digits), "C7": size.of_notebook(whole)}
    smaller |= dict.fromkeys(("C8", "C9", "C10"), size.of_networks(digits))
    assert verdicts == {
        name: "holds at reduced size" if smaller.get(name) else "holds" for name in verdicts
    }


def test_benchmarks_and_stages_are_listed():
    text = DOCUMENTS["benchmarks/README.md"].split("## What one H100 did")[0]
    listed = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert set(listed) == {*run.NAMES, *device.STAGES}


@pytest.mark.parametrize("name", FOLDERS)
def test_docstring_of_a_folder_lists_its_modules(name):
    folder = importlib.import_module(name)
    present = {
        info.name for info in pkgutil.iter_modules(folder.__path__) if not info.name.startswith("_")
    }
    text = folder.__doc__ or ""
    assert present <= set(re.findall(r"`(\w+)`", text))
    listed = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    assert {module for cell in listed for module in re.findall(r"`(\w+)`", cell)} <= present


# what is told of residuals


def test_what_is_told_of_residuals():
    document = "benchmarks/README.md"
    text = under(document, "When has training ended?")
    found = residuals.load()
    assert list(found) == list(residuals.VARIANTS)
    shown = DOCUMENTS[document].split("tests/test_docs.py -->\n")[1]
    assert shown.split("<!-- end of residuals -->")[0].strip() == residuals.markdown(found)
    chosen = residuals.thresholds(found)
    for of, told in (("median", "median over latents in use"), ("largest", "one latent")):
        assert f"| {told} | {chosen[f'scale_{of}']:g} | {chosen[f'shift_{of}']:g} |" in text
    ends = {name: residuals.summary(table).isel(step=-1) for name, table in found.items()}

    def largest(name: str, of: str, seeds: list[int]) -> float:
        return float(ends[name][of].sel(seed=seeds).max())

    # the check
    checked = {"decayed": [2, 3], "held-out": [2, 3], "relu": [2, 3], "relu-longer": [0, 1]}
    for name, seeds in (checked | {"mnist": [2]}).items():
        assert all(largest(name, of, seeds) < bound for of, bound in chosen.items()), name
    for name, of in (("relu", "scale_largest"), ("relu-longer", "scale_largest")):
        tells(text, f"{ends[name][of].min():.3f} to {ends[name][of].max():.3f}")
    tells(text, f"{largest('longer', 'scale_median', [0, 1]):.3f} at most")
    tells(text, f"{largest('longer', 'scale_largest', [0, 1]):.3f} in any latent")
    images = found["mnist"].isel(step=-1, seed=0)
    size = {
        k: abs(images[f"{k}_residual"]).where(images.collapsed == 0) for k in ("scale", "shift")
    }
    strongest = int(images.kl.argmax("latent"))
    tells(text, *(f"{size[k][strongest]:.3f} in {k}" for k in size))
    without = residuals.thresholds(found, ("decayed", "held-out"))
    tells(text, f"{without['scale_largest']:g} and {without['shift_largest']:g}")
    # and the verdicts take them
    assert chosen == {
        "scale_median": verdicts.MEDIAN_SCALE_RESIDUAL,
        "scale_largest": verdicts.SCALE_RESIDUAL,
        "shift_median": verdicts.MEDIAN_SHIFT_RESIDUAL,
        "shift_largest": verdicts.SHIFT_RESIDUAL,
    }
    # where something holds them up
    held = {name: float(ends[name].scale_median.min()) for name in ends}
    tells(
        text, f"{min(held['adamw-0.1'], held['l2']):.3f} or more", f"{held['free-bits-datum']:.2f}"
    )
    tells(text, f"{ends['batch-norm'].scale_largest.min():.2f}")
    mean = ends["free-bits-mean"].scale_median
    tells(text, f"{mean.min():.3f} to {mean.max():.3f}")
    size, kl = (abs(found["l2"][n].isel(step=-1)) for n in ("scale_residual", "kl"))
    assert size.where(kl > 1.2).min() > 0.08
    assert size.where(kl < 0.8).max() < 0.02


def test_what_is_told_of_residuals_along_training():
    text = under("benchmarks/README.md", "When has training ended?")
    found = residuals.load()
    rise = {n: residuals.remaining(found, n) for n in ("constant", "decayed", "relu")}
    size = {name: residuals.summary(found[name]).scale_median for name in rise}
    ranks = []
    for name in rise:
        late = slice(int(size[name].mean("seed").argmax("step")), None)
        for seed in found[name].seed:
            to_come, median = (of[name].sel(seed=seed)[late] for of in (rise, size))
            going = to_come.values > 0
            ranks.append(spearmanr(to_come.values[going], median.values[going]).statistic)
    tells(text, f"{min(ranks):.2f} to {max(ranks):.2f}")
    mean, to_come = (of["constant"].mean("seed") for of in (size, rise))
    peak = int(mean.step[mean.argmax("step")])
    tells(text, f"step {peak}", "step 2,381", f"{mean.max():.2f}", f"{mean.sel(step=2381):.3f}")
    tells(text, f"{to_come.sel(step=peak):.0f} to {to_come.sel(step=2381):.1f} nats")
    assert (abs(mean.sel(step=slice(2381, 18_000)) - 0.02) < 0.01).all()
    tells(text, f"{mean.sel(step=10):.3f}", f"{to_come.sel(step=10):.0f} nats")
    assert residuals.summary(found["decayed"]).scale_median.isel(step=-1).max() < 0.01
    more = (found["longer"].elbo - found["decayed"].elbo.isel(step=-1, drop=True)).isel(step=-1)
    tells(text, f"{more.min():.1f} to {more.max():.1f} nats")
    apart = found["held-out"].isel(step=-1)
    other = abs(apart.held_out_scale).where(apart.collapsed == 0)
    medians = other.median("latent")
    tells(text, f"{medians.min():.3f} to {medians.max():.3f}", f"{other.max():.3f}")
