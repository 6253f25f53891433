"""The command `linvae`, run as a user runs it, on small data."""

import importlib.metadata
import json
import os
import re
import signal
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from agreement import stop_after

from landscape import cli
from landscape.cli import options, paper, pixels, programs, sweep, text
from landscape.paper import ledger, report
from landscape.paper.linear import experiments as linear_experiments
from landscape.paper.networks import experiments as network_experiments
from landscape.paper.settings import (
    CELEBA,
    MNIST,
    QUICK,
    LinearSettings,
    NetworkSettings,
    Settings,
)
from linvae_jax import sources, tables
from linvae_jax._engine import sweep_folder
from linvae_jax.data import preprocessing


@pytest.fixture
def data(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 8)) * np.array([9, 7, 5, 4, 3, 2, 1, 1]) ** 0.5
    np.save(tmp_path / "x.npy", x)
    return str(tmp_path / "x.npy")


def linvae(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    return stop.value.code  # pyright: ignore[reportReturnType]


@pytest.mark.slow
def test_fit_in_closed_form_and_by_training_end_at_the_same_model(data, tmp_path, capsys):
    out = tmp_path / "model.nc"
    assert linvae("fit", "--data", data, "--k", 3, "--out", out) == 0
    exact = tables.to_linear(tables.load(out))
    out = tmp_path / "trained.nc"
    assert linvae(
        "fit", "--data", data, "--k", 3, "--method", "train", "--out", out, "--num-steps", 20_000,
        "--learning-rate", 0.03,
    ) == 0  # fmt: skip
    trained = tables.to_linear(tables.load(out))
    np.testing.assert_allclose(trained.log_sigma2, exact.log_sigma2, atol=1e-5)
    assert tables.load(tmp_path / "trained_history.nc").gap.isel(step=-1).item() < 1e-5
    printed = capsys.readouterr().out
    first = printed.splitlines()[0]
    assert first.startswith("linvae fit {")
    configuration = json.loads(first.removeprefix("linvae fit "))
    assert configuration["k"] == 3
    assert configuration["seed"] == 0


@pytest.mark.slow
def test_points_are_listed_with_the_optimum_first(data, tmp_path, capsys):
    out = tmp_path / "points.nc"
    assert linvae("points", "--data", data, "--k", 2, "--sigma2", 1.5, "--out", out) == 0
    assert "stationary points of pPCA, up to the order of latents" in capsys.readouterr().out
    table = tables.load(out)
    assert table["index"][0] == 0
    assert (table.value[0] >= table.value).all()


def test_pixels_are_transformed_and_the_constant_goes_on_top(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, size=(300, 8), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    out = tmp_path / "v0.5"
    assert linvae("fit", "--data", tmp_path / "pixels.npy", "--k", 3, "--out", out) == 0
    printed = capsys.readouterr().out
    elbo, on_pixels = (
        float(re.findall(rf"{name} +(-?[\d.]+) nats", printed)[0])
        for name in ("ELBO", "on pixel scale")
    )
    constant = preprocessing.pixel_constant(pixels, 1e-6)
    np.testing.assert_allclose(on_pixels - elbo, constant, atol=2e-6)  # six decimals are printed
    assert tables.load(out).attrs["command"].startswith("linvae fit {")
    np.save(tmp_path / "reals.npy", pixels / 255)
    assert linvae("fit", "--data", tmp_path / "reals.npy", "--preprocess", "logit") == 2
    assert "preprocess: got 'logit' for data of dtype float64" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("no_rendering")
def test_surface_landscape_and_sweep_write_what_they_say(data, tmp_path, capsys):
    assert linvae("surface", "--data", data, "--components", 2, 4, "--out", tmp_path / "s.5") == 0
    assert {p.name for p in tmp_path.glob("s.*")} == {"s.5.png", "s.5.pdf", "s.5.nc"}
    assert linvae("landscape", "--data", data, "--k", 4, "--out", tmp_path / "l") == 0
    assert len(list((tmp_path / "l").glob("*.png"))) == 3
    out = tmp_path / "sweep"
    assert linvae(
        "sweep", "--data", data, "--k", 2, "--sigma2", 1, 20, "--num-steps", 2000, "--out", out
    ) == 0  # fmt: skip
    final = tables.load(out / "sweep.nc").isel(step=-1, learned=0)
    assert final.sizes == {"seed": 2, "sigma2_init": 2, "latent": 2}
    assert (final.num_collapsed.sel(sigma2_init=20) == 2).all()  # σ² above every eigenvalue
    printed = capsys.readouterr().out
    assert "critical σ²" in printed
    assert "saved" in printed


@pytest.mark.slow
@pytest.mark.usefixtures("no_rendering")
def test_sweep_of_networks_compares_with_the_linear_vae_and_goes_on(data, tmp_path, capsys):
    command = (
        "sweep", "--data", data, "--network", "linear-encoder", "--k", 2, "--sigma2", 1,
        "--num-steps", 1500, "--seeds", 1, "--out", tmp_path / "sweep", "--learned", True, False,
    )  # fmt: skip
    assert linvae(*command) == 0
    printed = capsys.readouterr().out
    assert "linear VAE: ELBO" in printed
    table = tables.load(tmp_path / "sweep" / "sweep.nc").squeeze()
    # 300 data of 8 dimensions: 0.5 nats is less than their own spread, a latent more is 0.5 to 2
    assert (abs(table.final_elbo - table.final_linear_elbo) < 0.5).all()
    # finished runs are read, not trained again
    assert linvae(*command, "--curvature", "all", "--curvature-data", 100) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    shown = len(printed.splitlines()) - 1
    assert lines[:shown] == printed.splitlines()[1:]
    assert "critical_sigma2" in lines[shown]
    for name in ("curvature", "spectra"):
        assert {p.suffix for p in (tmp_path / "sweep").glob(f"{name}.*")} == {".nc", ".png", ".pdf"}
        found = tables.load(tmp_path / "sweep" / f"{name}.nc")
        assert found.own_sigma2.sel(learned=False) == 1
        assert found.attrs["command"].startswith("linvae sweep {")
    # a linear VAE, all but trained: its lesser latent leaves λ₂ when it collapses. 100 data know an
    # eigenvalue to √(2/100)
    found = tables.load(tmp_path / "sweep" / "curvature.nc")
    np.testing.assert_allclose(found.critical_sigma2, found.linear_critical_sigma2, rtol=0.3)
    changed = [20 if argument == 1500 else argument for argument in command]
    assert linvae(*changed) == 2
    assert "--num-steps 1500, expected those of --num-steps 20" in capsys.readouterr().err


@pytest.mark.slow
def test_a_stopped_sweep_ends_with_the_status_of_its_signal_and_goes_on(
    data, tmp_path, capsys, monkeypatch
):
    command = ("sweep", "--data", data, "--k", 1, "--sigma2", 1, "--num-steps", 1000,
               "--out", tmp_path / "sweep")  # fmt: skip
    monkeypatch.setattr(sweep_folder, "anywhere", stop_after(3))
    assert linvae(*command) == 128 + signal.SIGTERM
    assert "linvae sweep: stopped by SIGTERM after 0 of 2 runs" in capsys.readouterr().err
    monkeypatch.undo()
    assert linvae(*command) == 0
    assert tables.load(tmp_path / "sweep" / "sweep.nc").elbo.notnull().all()


def test_the_oldest_programs_go_when_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "MOST", 100)
    for age, size in ((3, 40), (1, 30), (2, 30)):
        path = tmp_path / f"{age}-cache"
        path.write_bytes(bytes(size))
        os.utime(path, (1e9 - age, 1e9 - age))
    (tmp_path / "folder").mkdir()
    programs.prune(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4  # no more than there may be
    (tmp_path / "0-cache").write_bytes(bytes(1))
    programs.prune(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"folder", "0-cache", "1-cache"}


def test_errors_are_one_line_and_exit_with_two(data, capsys):
    assert linvae("fit", "--data", "imagenet") == 2
    assert linvae("fit", "--data", data, "--k", 9) == 2
    assert linvae("points", "--data", data, "--sigma2", -1) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[:2] for line in errors] == [
        ["linvae fit", " error"], ["linvae fit", " error"], ["linvae points", " error"],
    ]  # fmt: skip
    assert "k: got 9, expected 1 <= k <= 7" in errors[1]
    assert linvae("reproduce", "--data", data, "--k", 4) == 2
    assert "data: got 8 dimensions, expected more than the networks' 100" in capsys.readouterr().err
    assert linvae("sweep", "--data", data, "--curvature", "all") == 2
    assert "`linvae landscape` has the linear VAE's exactly" in capsys.readouterr().err
    assert linvae("sweep", "--data", data, "--curvature-data", 0) == 2
    assert linvae("sweep", "--data", data, "--curvature-sigma2", 1, -1) == 2
    errors = capsys.readouterr().err
    assert "--curvature-data: got 0" in errors
    assert "--curvature-sigma2: got -1" in errors


@pytest.mark.parametrize("command", ["fit", "points", "surface", "sweep", "landscape", "reproduce"])
def test_help_teaches(command, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["linvae"])
    assert linvae(command, "--help") == 0
    printed = capsys.readouterr().out
    assert "--data" in printed
    assert "usage: linvae" in printed


def test_the_version_is_that_of_the_package(capsys):
    assert linvae("--version") == 0
    assert capsys.readouterr().out == f"linvae {importlib.metadata.version('linvae-jax')}\n"


@pytest.mark.slow
def test_a_fit_in_any_unit_ends_at_the_optimum_and_says_if_it_does_not(tmp_path, capsys):
    x = np.random.default_rng(0).standard_normal((1000, 4)) * np.array([4, 3, 2, 1])
    ends = {}
    for unit in (1.0, 1e5, 1e-6):
        name = f"x{unit:g}"
        np.save(tmp_path / f"{name}.npy", x * unit)
        command = ("fit", "--data", tmp_path / f"{name}.npy", "--k", 2, "--method", "train",
                   "--num-steps", 2000, "--learning-rate", 0.03)  # fmt: skip
        assert linvae(*command, "--out", tmp_path / f"{name}_model.nc") == 0
        assert "all numbers are in the data's units" in capsys.readouterr().out
        model = tables.to_linear(tables.load(tmp_path / f"{name}_model.nc"))
        history = tables.load(tmp_path / f"{name}_model_history.nc").isel(step=-1).squeeze()
        # a density of x·u is one of x less n log u; σ² and W have the unit, V its inverse
        ends[unit] = (
            float(history.elbo) + 4 * np.log(unit), float(history.gap), history.sigma2 / unit**2,
            np.exp(model.log_sigma2) / unit**2, model.W / unit, model.V * unit, model.log_d,
            history.sigma2_init / unit**2,
        )  # fmt: skip
    for unit in (1e5, 1e-6):
        for ours, other in zip(ends[1.0], ends[unit], strict=True):
            np.testing.assert_allclose(ours, other, rtol=1e-6, atol=1e-9)
        np.save(tmp_path / "x.npy", x * unit)
        raw = (*command, "--data", tmp_path / "x.npy", "--raw", "--out", tmp_path / f"{unit}.nc")
        assert linvae(*raw) == 1
        assert "not a fit: " in capsys.readouterr().err
    # 0.01 nats for each of two latents: p/2N is 0.004
    fitted = (*command, "--data", tmp_path / "x1.npy")
    assert linvae(*fitted, "--num-steps", 10, "--out", tmp_path / "short.nc") == 1
    assert "nats/datum below the optimum, more than 0.02;" in capsys.readouterr().err
    assert linvae(*fitted, "--learning-rate", 1e3, "--out", tmp_path / "far.nc") == 1
    assert "not a fit: " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_models_of_other_settings_do_not_overwrite_each_other(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert linvae("fit", "--data", data, "--k", 3) == 0
    assert linvae("fit", "--data", data, "--k", 3) == 0  # the same once more
    assert linvae("fit", "--data", data, "--k", 2) == 0
    assert linvae("fit", "--data", data, "--k", 2, "--sigma2", 0.5) == 0
    names = {path.name for path in (tmp_path / "results" / "fit").iterdir()}
    assert names == {"x-k3-ppca.nc", "x-k2-ppca.nc", "x-k2-ppca-sigma2=0.5.nc"}
    capsys.readouterr()
    assert linvae("fit", "--data", data, "--k", 2, "--count", 200) == 2
    assert "of --count (not given), expected those of --count 200" in capsys.readouterr().err
    other = tmp_path / "other" / "x.npy"  # of the same name: what is in it tells
    other.parent.mkdir()
    np.save(other, 2 * np.load(data))
    assert linvae("fit", "--data", other, "--k", 2) == 2
    error = capsys.readouterr().err
    assert re.search(r"are of data x.npy, sha256 \w{12}…, expected those of data x.npy", error)
    (tmp_path / "mine.nc").write_text("not a table")
    assert linvae("fit", "--data", data, "--out", tmp_path / "mine.nc", "--k", 2) == 2
    assert "a file that does not say of which settings it is" in capsys.readouterr().err
    # the other commands likewise
    for command in (("points", "--out", "p.nc"), ("landscape", "--out", "l"), ("surface",
                    "--components", 1, 3, "--out", "s")):  # fmt: skip
        k = ("--k", 3) if command[0] != "surface" else ("--sigma2", 1.0)
        more = ("--k", 4) if command[0] != "surface" else ("--sigma2", 2.0)
        assert linvae(*command, "--data", data, *k) == 0
        assert linvae(*command, "--data", data, *k) == 0
        assert linvae(*command, "--data", data, *more) == 2
        assert f"those of {more[0]} {more[1]}. Take another --out" in capsys.readouterr().err


@pytest.mark.slow
def test_reproduce_refuses_a_folder_of_other_settings_before_it_writes(
    tmp_path, capsys, monkeypatch
):
    x = np.random.default_rng(0).normal(size=(60, 10))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x + 1)
    done: list[str] = []

    def exact(settings, x, folder, *_):
        done.append("exact")
        (folder / "search.nc").write_text("")

    monkeypatch.setattr(linear_experiments, "measure", exact)
    monkeypatch.setattr(network_experiments, "train", lambda *_: done.append("networks"))
    monkeypatch.setattr(report, "write", lambda *_: [])
    out = tmp_path / "r"
    command = ("reproduce", "--smoke", "--k", 4, "--data", tmp_path / "x.npy", "--out", out)
    assert linvae(*command) == 0
    assert linvae(*command) == 0  # goes on
    assert linvae(*command, "--network-seeds", 3, "--no-curvature", "--no-protocols") == 0
    assert linvae(*command, "--network-seeds", 3) == 0
    assert done == 4 * ["exact", "networks"]
    before = {path: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    for changed, told in {
        ("--epochs", 3): "--epochs 2, expected those of --epochs 3.",
        ("--k", 5): "--k 4, expected those of --k 5.",
        ("--seed", 1): "--seed 0, expected those of --seed 1.",
        ("--network-batch", 16): "--network-batch 32, expected those of --network-batch 16.",
        ("--network-seeds", 1): "--network-seeds 3, expected those of --network-seeds 1",
        ("--data", tmp_path / "y.npy"): "data x.npy, sha256",
        ("--count", 50): "--count (not given), expected those of --count 50.",
    }.items():
        assert linvae(*command, "--network-seeds", 3, *changed) == 2
        assert f"--out: got {out}, whose results are of {told}" in capsys.readouterr().err
    assert len(done) == 8
    assert before == {path: path.read_bytes() for path in out.iterdir()}
    # results that do not say of which settings they are
    (out / "reproduce.json").unlink()
    assert linvae(*command) == 2
    assert "search.nc and no reproduce.json" in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_typed_wrong_is_said_before_any_work(data, tmp_path, capsys):
    out = tmp_path / "out"
    for arguments, told in {
        ("sweep", "--sigma2", 1, 2, 1): "--sigma2: got 1.0 twice, expected each value once",
        ("sweep", "--beta", 1, 1): "--beta: got 1.0 twice",
        ("sweep", "--learned", "True", "True"): "--learned: got True twice",
        ("sweep", "--learning-rate", 0.1, 0.1): "--learning-rate: got 0.1 twice",
        ("sweep", "--curvature-sigma2", 1, 1): "--curvature-sigma2: got 1.0 twice",
        ("sweep", "--seed", 2**70): f"--seed: got {2**70}, expected 0 <= seed <= ",
        ("sweep", "--seed", -1): "--seed: got -1",
        ("sweep", "--seed", 2**32 - 1, "--seeds", 2): f"--seed: got {2**32 - 1}",
        ("sweep", "--seeds", 0): "--seeds: got 0",
        ("sweep", "--data-seed", 2**70): f"--data-seed: got {2**70}",
        ("sweep", "--window", 10): "--window: got 10 for a linear VAE, expected none",
        ("fit", "--window", 10): "--window: got 10 for a linear VAE",
        ("points", "--window", 10): "--window: got 10 for a linear VAE",
        ("surface", "--window", 10): "--window: got 10 for a linear VAE",
        ("landscape", "--window", 10): "--window: got 10 for a linear VAE",
        ("fit", "--seed", 2**70): f"--seed: got {2**70}",
        ("fit", "--seed", -1): "--seed: got -1",
        ("surface", "--sigma2", 1, 1): "--sigma2: got 1.0 twice",
        ("surface", "--sigma2", 0): "--sigma2: got 0.0, expected a number > 0",
        ("reproduce", "--seed", 2**70): f"--seed: got {2**70}",
        ("reproduce", "--latents", 5, 5): "--latents: got 5 twice",
        ("reproduce", "--notebook-subsets", -1): "--notebook-subsets: got -1",
        ("reproduce", "--notebook-steps", 0): "--notebook-steps: got 0",
        ("sweep", "--network", "linear-encoder", "--k", 0): "--k: got 0",
        ("sweep", "--network", "linear-encoder", "--k", 8, "--learned", "True"): "--k: got 8",
    }.items():
        assert linvae(*arguments, "--data", data, "--out", out) == 2, arguments
        (error,) = capsys.readouterr().err.splitlines()
        assert told in error
        assert not out.exists()
    assert linvae("fit", "--data", data, "--seed", 1.5) == 2
    error = capsys.readouterr().err
    assert "--seed" in error
    assert "1.5" in error
    column = tmp_path / "column.npy"
    np.save(column, np.load(data)[:, :1])
    assert linvae("fit", "--data", column) == 2
    assert "--data: got data of one dimension, expected two or more" in capsys.readouterr().err


def test_diverged_runs_are_not_shown_as_numbers():
    sizes = {"seed": 2, "sigma2_init": 3, "learned": 1, "step": 2, "latent": 4}
    dims = ("seed", "sigma2_init", "learned")
    values = np.arange(12.0).reshape(2, 3, 1, 2)
    table = xr.Dataset(
        {
            "elbo": ((*dims, "step"), values),
            "sigma2": ((*dims, "step"), values),
            "kl": ((*dims, "step", "latent"), np.zeros((2, 3, 1, 2, 4))),
            "final_elbo": (dims, -1e29 * np.ones((2, 3, 1))),
            "final_num_collapsed": (dims, np.array([[4, 3, 2], [4, 0, 0]])[:, :, None]),
            "diverged": (dims, np.array([[False, False, True], [False, True, True]])[:, :, None]),
        },
        {"sigma2_init": [1e-9, 1.0, 1e9], "learned": [True]},
    )
    assert table.sizes == sizes
    lines = sweep.summary(table)
    shown = [line.split() for line in lines[:4]]
    assert shown[0][-2:] == ["of", "4"]  # the unit of collapse
    both = table.assign(final_linear_num_collapsed=table.final_num_collapsed)
    headings = re.split(r"  +", sweep.summary(both)[0].strip())
    assert headings[-2:] == ["collapsed of 4", "linear VAE: collapsed of 4"]
    assert shown[1] == ["1e-09", "True", "-1e+29", "4", "4"]
    assert shown[2] == ["1", "True", "-1e+29", "3", "3", "(1", "diverged)"]
    assert shown[3] == ["1e+09", "True", "diverged", "diverged", "diverged"]
    assert "KL below 0.01 nats" in lines[-1]


def test_columns_are_aligned_whatever_is_in_them():
    rows = [("a", "name"), ("1 2 3 4 5 6 7 8 9", "1.23457e-07"), ("x", "7")]
    lines = text.columns(rows, left=[0])
    assert lines == [
        "a                          name",
        "1 2 3 4 5 6 7 8 9   1.23457e-07",
        "x                             7",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("no_rendering")
def test_reproduce_smoke_writes_figures_tables_ledger_and_report(
    data, tmp_path, capsys, monkeypatch
):
    assert linvae(
        "reproduce", "--smoke", "--k", 4, "--data", data, "--out", tmp_path / "r",
        "--no-curvature", "--no-protocols",  # those are run by `make smoke`
    ) == 0  # fmt: skip
    written = {p.name for p in (tmp_path / "r").iterdir()}
    assert {"ledger.md", "ledger.json", "figure1_surface.pdf", "figure2_training.png"} <= written
    assert {f"figure{i}" for i in range(1, 7)} <= {name.split("_")[0] for name in written}
    ledger = json.loads((tmp_path / "r" / "ledger.json").read_text())["claims"]
    assert [c["id"] for c in ledger] == [f"C{i}" for i in range(1, 11)]
    # all that needs no training must hold even in a smoke run
    assert all(c["holds"] for c in ledger if c["id"] in {"C1", "C2", "C3", "C4", "C5", "C6"})
    assert "report.html, report.md, figures, tables and the ledger" in capsys.readouterr().out
    page = (tmp_path / "r" / "report.html").read_bytes()
    (tmp_path / "r" / "report.html").unlink()
    monkeypatch.setattr(report, "draw", lambda found, folder: None)  # they are there
    linvae("report", tmp_path / "r")  # C7 to C10 may fail after so little training
    assert (tmp_path / "r" / "report.html").read_bytes() == page
    assert "C10" in capsys.readouterr().out
    assert linvae("verify", tmp_path / "r") == 0


def test_report_fails_with_a_claim(tmp_path, capsys, monkeypatch):
    for holds in (True, False):
        check = ledger.Check("what", 0.5, "<=" if holds else ">=", 1.0, "why")
        claims = [ledger.Claim("C1", "one of them", (check,), "")]
        monkeypatch.setattr(report, "judge", lambda folder, claims=claims: claims)
        assert linvae("report", tmp_path) == int(not holds)
        assert capsys.readouterr().err == ("" if holds else "DOES NOT HOLD: C1\n")


def test_presets_and_what_replaces_their_numbers():
    full = options.Reproduce(full=True, epochs=3, network_batch=16, network_seeds=2)
    asked = paper.settings(full)
    assert asked.networks == replace(MNIST, epochs=3, batch_size=16, seeds=2, other_seeds=2)
    assert asked.linear == LinearSettings(notebook_subsets=3)
    assert LinearSettings(notebook_subsets=0).full().notebook_subsets == 0
    colour = paper.settings(options.Reproduce(full=True, data=options.Data(data="celeba")))
    assert colour == Settings(None, CELEBA, "full")
    assert paper.settings(options.Reproduce()) == Settings(LinearSettings(), QUICK, "quick")
    quick = paper.settings(options.Reproduce(smoke=True)).linear
    assert quick is not None
    assert quick.num_steps == 200
    less = options.Reproduce(full=True, curvature=False, protocols=False)
    assert paper.settings(less).networks == replace(MNIST, curvature_data=0, protocols=())
    with pytest.raises(ValueError, match="network_seeds: got 0"):
        paper.settings(options.Reproduce(network_seeds=0))
    with pytest.raises(ValueError, match="smoke: got with --full"):
        paper.settings(options.Reproduce(full=True, smoke=True))
    with pytest.raises(ValueError, match="epochs: got 0"):
        paper.settings(options.Reproduce(epochs=0))


def test_every_setting_has_a_name_of_its_own():
    """What an unlike folder is told by; a name twice would hide a setting."""
    named = Settings().named()
    assert len(named) == 1 + len(fields(LinearSettings)) + len(fields(NetworkSettings))
    flags = text._names(options.Reproduce())
    assert {name.removeprefix("--").replace("-", "_") for name in named if "--" in name} <= flags


@pytest.mark.slow
def test_images_come_by_windows_and_in_part():
    some = options.Data(data="photographs", count=40, window=16)
    images = pixels.network_data(some)
    assert isinstance(images.data.values, sources.Windows)
    assert images.data.values.shape == (40, 64 * 64 * 3)
    assert images.image_shape == (64, 64, 3)
    with pytest.raises(ValueError, match="count: got 5000"):
        pixels.network_data(options.Data(data="photographs", count=5000))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inner", "command", "shown"),
    [
        ("moments.cov: got 1, expected 2.", options.Fit(), "--data: got 1, expected 2."),
        ("chunks[3]: got 1, expected 2.", options.Sweep(), "--data: got 1, expected 2."),
        ("grid.sigma2: got 1, expected 2.", options.Sweep(), "--sigma2: got 1, expected 2."),
        ("batch_size: got 1, expected 2.", options.Sweep(), "--batch-size: got 1, expected 2."),
        ("data_seed: got 1, expected 2.", options.Fit(), "--data-seed: got 1, expected 2."),
        ("folder: got 1, expected 2.", options.Sweep(), "--out: got 1, expected 2."),
        # an argument without a flag stays: `report` has the folder itself
        ("folder: got 1, expected 2.", options.Report(), "folder: got 1, expected 2."),
        ("/a/x.npy: got a directory", options.Fit(), "/a/x.npy: got a directory"),
        ("the package x is missing", options.Fit(), "the package x is missing"),
    ],
)
def test_messages_are_about_what_was_typed(inner, command, shown):
    assert text.as_flags(inner, command) == shown
