"""Each subcommand of `linvae` on each of a folder of odd files: right numbers, or one clear line.

What is right is computed by NumPy in extended precision from the file's own values.
"""

import math
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from landscape import cli
from landscape.paper import report
from landscape.paper.linear import experiments as linear_experiments
from landscape.paper.networks import experiments as network_experiments
from linvae_jax import moments, tables

pytestmark = pytest.mark.usefixtures("no_annotation_checks")

N, n = 24, 8
SPREAD = np.array([4.0, 3.0, 2.5, 2.0, 1.5, 1.0, 0.7, 0.5])


def _x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, n)) * SPREAD


def _low_rank() -> np.ndarray:
    x = _x()
    x[:, 2:] = x[:, :2] @ np.array([[1.0, -2.0, 0.5, 0.2, 1.0, 3.0], [0.25, 1.0, 3.0, 0, 2, -1]])
    return x


def _with(value: float) -> np.ndarray:
    x = _x()
    x[3, 1] = value
    return x


def _constant_column() -> np.ndarray:
    x = _x()
    x[:, 1] = 7.0
    return x


# name → what is saved. What a spectrum of rank ≥ 4 has, is right for all: k = 3 is used.
GOOD: dict[str, Callable[[], np.ndarray]] = {
    "float16": lambda: _x().astype(np.float16),
    "float32": lambda: _x().astype(np.float32),
    "longdouble": lambda: _x().astype(np.longdouble),
    "big-endian": lambda: _x().astype(">f8"),
    "big-endian-int": lambda: (100 * _x()).astype(">i2"),
    "fortran": lambda: np.asfortranarray(_x()),
    "int64-huge": lambda: (1e9 * _x()).astype(np.int64) + 3_000_000_000,
    "uint64-huge": lambda: (1e9 * (_x() - _x().min())).astype(np.uint64) + np.uint64(2**62),
    "int8": lambda: np.clip(10 * _x(), -128, 127).astype(np.int8),
    "bool": lambda: _x() > SPREAD * 0.3,
    "images": lambda: _x().reshape(N, 4, 2),
    "images-in-colour": lambda: _x().reshape(N, 2, 2, 2),
    "duplicate-rows": lambda: np.repeat(_x()[: N // 2], 2, axis=0),
    "constant-column": _constant_column,
    "huge-unit": lambda: 1e12 * _x(),
    "tiny-unit": lambda: 1e-12 * _x(),
    "volts": lambda: 1e-21 * _x(),
    "coordinates": lambda: 1e9 + _x(),
    "duplicate-columns": lambda: np.concatenate([_x()[:, :5], _x()[:, :3]], axis=1),
    "large-offset": lambda: 5e6 + 0.5 * _x() / 4,
    "uint8": lambda: np.random.default_rng(1).integers(0, 256, (N, n), dtype=np.uint8),
}
# name → what is saved, and what the message must name
LOW: dict[str, Callable[[], np.ndarray]] = {
    "N=2": lambda: _x()[:2],
    "rank-deficient": _low_rank,
    "rank-deficient-tiny": lambda: 1e-9 * _low_rank(),
    "rank-deficient-int": lambda: np.outer(np.arange(N), [1, 2, 3, 4, 5, 6, 7, 8]),
}
BAD: dict[str, tuple[Callable[[], np.ndarray], str]] = {
    "N=1": (lambda: _x()[:1], "two"),
    "all-constant": (lambda: np.full((N, n), 0.1), "constant"),
    "all-zero": (lambda: np.zeros((N, n)), "constant"),
    "nan": (lambda: _with(np.nan), "NaN"),
    "inf": (lambda: _with(np.inf), "Inf"),
    "complex": (lambda: _x() + 0j, "complex128"),
    "strings": (lambda: _x().astype(str), "<U"),
    "dates": (lambda: np.zeros((N, n), "datetime64[s]"), "datetime64"),
    "records": (lambda: np.zeros((N, n), [("a", float)]), "dtype"),
    "objects": (lambda: _x().astype(object), "bject"),
    "beyond-float64": (lambda: np.longdouble("1e400") * _x(), "float64"),
    "below-float64": (lambda: np.longdouble("1e-400") * _x(), "float64"),
    "beyond-variances": (lambda: 1e200 * _x(), "variance is beyond float64"),
    "below-variances": (lambda: 1e-200 * _x(), "variance is beyond float64"),
    "empty": (lambda: np.zeros((0, n)), "(0, 8)"),
    "no-columns": (lambda: np.zeros((N, 0)), "(24, 0)"),
    "1-d": (lambda: _x()[:, 0], "(24,)"),
    "0-d": (lambda: np.array(1.0), "()"),
}
# files that are damaged, or no such file at all
RAW = {
    "pickled": "Pickled data are never read",
    "truncated": "cannot be read", "text": "starts with", "nothing": "empty file",
    "npz-of-several": "2 arrays: a, b", "folder": "a directory", "missing": "no such file",
    "npz-truncated": "cannot be read", "other-suffix": ".npy or .npz",
}  # fmt: skip
# also good: arrays in archives
GOOD_NAMES = (*GOOD, "npz", "npz-of-x")
# Commands share what reads files, and the quick ones are given all. Those that take a second are
# given one of each kind that still differs once it is read: in dtype, unit, place and spectrum.
KINDS = (
    "float32", "longdouble", "int64-huge", "uint8", "constant-column", "duplicate-columns",
    "coordinates", "volts", "huge-unit",
)  # fmt: skip
# as above, of what is refused: while reading, and by what is computed first of it
REFUSED = ("N=1", "all-constant", "nan", "beyond-variances", "truncated", "missing")
K = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("odd")
    for name, make in {**GOOD, **LOW, **{k: v[0] for k, v in BAD.items()}}.items():
        np.save(where / f"{name}.npy", make(), allow_pickle=True)
    whole = (where / "float32.npy").read_bytes()
    (where / "truncated.npy").write_bytes(whole[:-7])
    (where / "text.npy").write_text("1, 2, 3\n4, 5, 6\n")
    (where / "pickled.npy").write_bytes(pickle.dumps(_x()))
    (where / "nothing.npy").write_bytes(b"")
    (where / "folder.npy").mkdir()
    (where / "other-suffix.csv").write_text("1, 2, 3\n4, 5, 6\n")
    np.savez(where / "npz-of-several.npz", a=_x(), b=_x())
    np.savez(where / "npz.npz", anything=_x())
    np.savez(where / "npz-of-x.npz", x=_x(), y=np.arange(N))
    (where / "npz-truncated.npz").write_bytes((where / "npz.npz").read_bytes()[:-40])
    return where


def path_of(folder: Path, name: str) -> Path:
    found = [p for p in folder.iterdir() if p.stem == name]
    return found[0] if found else folder / f"{name}.npy"


class Ran(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def linvae(capsys, monkeypatch, no_figures, tmp_path):
    """Run a command in this process; figures are tested elsewhere."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Ran:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(SystemExit) as stop:
                cli.main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Ran(int(stop.value.code or 0), captured.out, captured.err)

    return run


class Exact(NamedTuple):
    """What is known of a file's data, in extended precision."""

    lam: np.ndarray
    sigma2: float
    best: float
    mean: np.ndarray


def exact(path: Path) -> Exact:
    """Eigenvalues of S, σ² at its maximum for K latents, and the log-likelihood there.

    The eigenvalues are of the extended matrix rounded to double, so exact to 1e-15 of the largest.
    """
    stored = np.load(path)
    x = stored["x" if "x" in stored.files else "anything"] if path.suffix == ".npz" else stored
    x = x.reshape(len(x), -1).astype(np.longdouble)
    mean = x.mean(axis=0)
    S = (x - mean).T @ (x - mean) / len(x)
    unit = np.trace(S)
    lam = np.linalg.eigvalsh((S / unit).astype(float))[::-1].astype(np.longdouble) * unit
    sigma2 = lam[K:].mean()
    d = len(lam)
    likelihood = d * np.log(2 * np.longdouble(np.pi)) + np.log(lam[:K]).sum() + d
    best = -(likelihood + (d - K) * np.log(sigma2)) / 2
    return Exact(lam.astype(float), float(sigma2), float(best), mean.astype(float))


def value_of(name: str, text: str) -> float:
    return float(re.findall(rf"^{name} +(\S+)", text, re.MULTILINE)[0])


def plain(name: str) -> tuple[str, ...]:
    """Bytes are not taken for pixels here: their noise is tested in `test_preprocessing`."""
    return ("--preprocess", "none") if name == "uint8" else ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "name"),
    [("ppca", name) for name in GOOD_NAMES] + [("train", name) for name in KINDS],
)
def test_fit_finds_the_optimum_of_every_file(name, method, folder, linvae):
    data = path_of(folder, name)
    known = exact(data)
    ran = linvae(
        "fit", "--data", data, *plain(name), "--k", K, "--method", method, "--num-steps", 2000,
        "--learning-rate", 0.03, "--out", "model.nc",
    )  # fmt: skip
    assert (ran.status, ran.err.count("linvae")) == (0, 0), ran.err
    model = tables.load("model.nc")
    np.testing.assert_allclose(model["mean"], known.mean, rtol=1e-12)
    # 0.03: ends of a short training; the model is what it is, and says how far it is
    short = 0.03 if method == "train" else 1e-9
    gap = value_of("below the optimum", ran.out)
    assert -1e-9 <= gap <= short
    # six decimals are printed; rounding of log-likelihoods of up to 300 nats is far less
    assert abs(value_of("ELBO", ran.out) + gap - known.best) < 1e-5
    if method == "ppca":
        np.testing.assert_allclose(value_of("σ²", ran.out), known.sigma2, rtol=1e-5)
        np.testing.assert_allclose(np.exp(model.log_sigma2), known.sigma2, rtol=1e-9)
        # columns of length √(λ − σ²)
        excess = np.maximum(known.lam[:K] - known.sigma2, 0)
        np.testing.assert_allclose((model.W**2).sum("feature"), excess, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD_NAMES)
def test_points_are_those_of_the_spectrum(name, folder, linvae):
    data = path_of(folder, name)
    known = exact(data)
    ran = linvae("points", "--data", data, *plain(name), "--k", K, "--out", "points.nc")
    assert (ran.status, ran.err) == (0, ""), ran.err
    table = tables.load("points.nc")
    # any choice of at most K of the components above σ²
    above = int((known.lam > known.sigma2).sum())
    count = sum(math.comb(above, r) for r in range(min(K, above) + 1))
    assert f"{count:,} stationary points" in ran.out
    assert f"σ² = {known.sigma2:.6g}" in ran.out
    assert table.sizes["point"] == min(count, 20)
    for point in range(table.sizes["point"]):
        at = table.isel(point=point)
        used = [c for c in at.assignment.values if c >= 0]
        unused = [c for c in range(len(known.lam)) if c not in used]
        level = [known.sigma2] * (K - len(used)) + [known.lam[c] for c in used]
        index = sum(known.lam[c] > lam for lam in level for c in unused)
        assert int(at["index"]) == index
        # each escape direction of a point has a rate
        assert (float(at.escape_rate) > 0) == (index > 0)
        lam, s = known.lam, known.sigma2
        value = known.best + _change(lam, s, used)
        np.testing.assert_allclose(at.value, value, rtol=0, atol=1e-8 * max(1, abs(value)))
    assert len({len(line) for line in ran.out.splitlines()[2:-1]}) == 1  # columns are aligned
    assert "0" not in [line.split()[-1] for line in ran.out.splitlines()[4:-1]]


def _change(lam: np.ndarray, s: float, used: list[int]) -> float:
    """ELBO of the point that uses these components, less that of the first K."""

    def term(c: int) -> float:  # what a component gains when it is used
        return (lam[c] / s - 1 - np.log(lam[c] / s)) / 2

    return sum(term(c) for c in used) - sum(term(c) for c in range(K) if lam[c] > s)


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD_NAMES)
def test_surface_is_that_of_the_spectrum(name, folder, linvae):
    data = path_of(folder, name)
    known = exact(data)
    ran = linvae("surface", "--data", data, *plain(name), "--components", 1, K, "--out", "s")
    assert (ran.status, ran.err) == (0, ""), ran.err
    table = tables.load("s.nc")
    np.testing.assert_allclose(table.eigenvalue, known.lam[[0, K - 1]], rtol=1e-9)
    assert np.isfinite(table.log_likelihood).all()
    np.testing.assert_allclose(table.profile_elbo, table.log_likelihood, rtol=1e-9)
    # in the middle nothing is in use: Σ log N(0, σ²)
    d, s = len(known.lam), table.sigma2.values
    middle = table.log_likelihood.isel(along_first=30, along_second=30)
    expected = -(d * np.log(2 * np.pi * s) + known.lam.sum() / s) / 2
    np.testing.assert_allclose(middle, expected, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_landscape_has_the_indices_of_the_spectrum(name, folder, linvae):
    data = path_of(folder, name)
    known = exact(data)
    ran = linvae("landscape", "--data", data, *plain(name), "--k", K, "--out", "l")
    assert (ran.status, ran.err) == (0, ""), ran.err
    path = tables.load("l/landscape_conditioning.nc").sel(pattern="all collapsed")
    np.testing.assert_allclose(path.sigma2[[0, -1]], [known.sigma2 / 10, 1.5 * known.lam[0]])
    # each collapsed latent may take any component above σ²
    index = K * (known.lam > path.sigma2.values[:, None]).sum(axis=1)
    np.testing.assert_array_equal(path["index"], index)
    np.testing.assert_array_equal(path.escape_rate > 0, index > 0)
    assert np.isfinite(path.stiffness).all()
    critical = [float(v) for v in re.findall(r"component +\d+: (\S+),", ran.out)]
    np.testing.assert_allclose(critical, known.lam[[0, 1, 2]], rtol=1e-5)
    census = tables.load("l/landscape_census.nc")
    assert int((census["index"] == 0).sum()) == 1
    assert np.isfinite(census.value).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_sweep_measures_against_the_optimum(name, folder, linvae):
    data = path_of(folder, name)
    known = exact(data)
    ran = linvae(
        "sweep", "--data", data, *plain(name), "--k", K, "--sigma2", known.sigma2, "--num-steps",
        10, "--seeds", 1, "--learned", "True", "False", "--out", "sweep",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    table = tables.load("sweep/sweep.nc").squeeze()
    optimum = table.elbo + table.gap
    # what is subtracted may be large: a start of another unit is far off
    room = 1e-9 * (np.abs(table.elbo) + np.abs(known.best))
    assert (abs(optimum - known.best) <= room).all()
    assert (table.gap >= -room).all()
    assert "diverged" not in ran.out


NETWORK = ("sweep", "--network", "linear-encoder", "--k", K, "--num-steps", 1, "--seeds", 1,
           "--batch-size", 4)  # fmt: skip


# few, each with an architecture to compile; `reproduce` prepares all files for networks
@pytest.mark.slow
@pytest.mark.parametrize("name", ["int8", "int64-huge", "large-offset", "tiny-unit", "volts"])
def test_sweep_of_networks_takes_every_kind_or_says_why(name, folder, linvae):
    data = path_of(folder, name)
    known = exact(data)
    ran = linvae(*NETWORK, "--data", data, "--sigma2", known.sigma2, "--out", "sweep")
    if name == "volts":  # variances of 1e-42 are no numbers of float32
        assert (ran.status, ran.out.count("\n")) == (2, 1)
        assert_one_line(ran, "sweep", "float32")
        return
    assert ran.status == 0, ran.err
    table = tables.load("sweep/sweep.nc").squeeze()
    np.testing.assert_allclose(table.final_linear_optimum, known.best, rtol=1e-4)
    assert np.isfinite(table.final_elbo)
    assert float(table.final_elbo) < known.best + 1
    # one step from a start near the prior: some nats off, no 10¹² of them
    if 0.01 < known.lam[0] < 100:
        assert float(table.final_elbo) > known.best - 1e3


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD_NAMES)
def test_reproduce_gets_what_is_in_every_file(name, folder, linvae, monkeypatch):
    """What it computes of them is tested elsewhere, and takes a minute."""
    data = path_of(folder, name)
    known = exact(data)
    given: dict[str, Any] = {}
    monkeypatch.setattr(linear_experiments, "measure", lambda settings, x, *_: given.update(x=x))
    monkeypatch.setattr(
        network_experiments, "train", lambda settings, images, *_: given.update(net=images.data)
    )
    monkeypatch.setattr(report, "write", lambda *_: [])
    ran = linvae("reproduce", "--smoke", "--data", data, *plain(name), "--k", K, "--out", "r")
    if name == "volts":
        assert_one_line(ran, "reproduce", "float32")
        assert not given  # before any work
        return
    assert (ran.status, ran.err) == (0, "")
    np.testing.assert_allclose(
        given["net"].eigenvalues, known.lam, rtol=1e-6, atol=1e-6 * known.lam[0]
    )
    lam = moments.spectrum(moments.from_data(given["x"])).eigenvalues
    np.testing.assert_allclose(lam, known.lam, rtol=1e-9, atol=1e-14 * known.lam[0])


COMMANDS = {
    "fit": ("fit", "--k", K),
    "train": ("fit", "--k", K, "--method", "train", "--num-steps", 10),
    "points": ("points", "--k", K),
    "surface": ("surface", "--components", 1, K),
    "landscape": ("landscape", "--k", K),
    "sweep": ("sweep", "--k", K, "--num-steps", 10, "--learned", "True"),
    "networks": (*NETWORK, "--learned", "True"),
    "reproduce": ("reproduce", "--smoke", "--k", K),
}


def assert_one_line(ran: Ran, command: str, what: str) -> None:
    """One line of the program's own, which names what was wrong, and no more."""
    assert ran.status == 2
    (line,) = ran.err.splitlines()
    assert line.startswith(f"linvae {command}: error: ")
    assert what in line
    assert "Traceback" not in line
    # not what functions call their arguments
    for inner in ("moments.cov", "chunks", " x:", "sigma2 0.0", "data_scale", "1 <= k <= 0"):
        assert inner not in line


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_what_cannot_be_data_is_refused_in_one_line(command, folder, linvae, tmp_path):
    cases = {name: what for name, (_, what) in BAD.items()} | RAW
    # of the two ways of reading, one for linear VAEs and one for networks, each is given all
    for name in cases if command in ("fit", "networks") else REFUSED:
        what, out = cases[name], tmp_path / "out"
        ran = linvae(*COMMANDS[command], "--data", path_of(folder, name), "--out", out)
        assert_one_line(ran, COMMANDS[command][0], what)
        assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", LOW)
def test_no_optimum_where_the_latents_explain_all_variance(command, name, folder, linvae, tmp_path):
    out = tmp_path / "out"
    ran = linvae(*COMMANDS[command], "--data", path_of(folder, name), "--out", out)
    what = {"surface": "components", "reproduce": "data"}.get(command, f"k = {K}")
    assert_one_line(ran, COMMANDS[command][0], what)
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rank-deficient", "rank-deficient-tiny", "N=2"])
def test_with_sigma2_held_low_rank_has_an_optimum(name, folder, linvae):
    data = path_of(folder, name)
    x = np.load(data).astype(np.longdouble)
    held = float(0.01 * x.var())
    ran = linvae("fit", "--data", data, "--k", K, "--sigma2", held, "--out", "model.nc")
    assert (ran.status, ran.err) == (0, "")
    S = np.cov(x.astype(float).T, bias=True)
    lam = np.maximum(np.linalg.eigvalsh(S), 0)
    C = np.maximum(lam, held)
    best = -(n * np.log(2 * np.pi) + np.log(C).sum() + (lam / C).sum()) / 2
    np.testing.assert_allclose(value_of("ELBO", ran.out), best, atol=1e-5)
    ran = linvae("points", "--data", data, "--k", K, "--sigma2", held, "--out", "points.nc")
    assert (ran.status, ran.err) == (0, "")
    np.testing.assert_allclose(tables.load("points.nc").value[0], best, atol=1e-8)
    rank = int((lam > held).sum())
    assert f"{2**rank:,} stationary points" in ran.out
