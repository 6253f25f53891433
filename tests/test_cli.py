"""The command `linvae`, run as a user runs it, on small data."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from landscape import cli, ledger, nonlinear, report
from linvae_jax import tables
from linvae_jax.data import preprocessing, windows


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


def test_fit_in_closed_form_and_by_training_end_at_the_same_model(data, tmp_path, capsys):
    out = tmp_path / "model.nc"
    assert linvae("fit", "--data", data, "--k", 3, "--out", out) == 0
    exact = tables.to_linear(tables.load(out))
    assert linvae(
        "fit", "--data", data, "--k", 3, "--method", "train", "--out", out, "--num-steps", 20_000,
        "--learning-rate", 0.03,
    ) == 0  # fmt: skip
    trained = tables.to_linear(tables.load(out))
    np.testing.assert_allclose(trained.log_sigma2, exact.log_sigma2, atol=1e-5)
    assert tables.load(tmp_path / "model_history.nc").gap[0, 0, 0, -1] < 1e-5
    printed = capsys.readouterr().out
    first = printed.splitlines()[0]
    assert first.startswith("linvae fit {")
    configuration = json.loads(first.removeprefix("linvae fit "))
    assert configuration["k"] == 3
    assert configuration["seed"] == 0


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
    assert (final.collapsed.sel(sigma2_init=20) == 2).all()  # σ² above every eigenvalue
    printed = capsys.readouterr().out
    assert "critical σ²" in printed
    assert "saved" in printed


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
    assert "num_steps" in capsys.readouterr().err


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
    assert "curvature_data: got 0" in errors
    assert "curvature_sigma2: got -1" in errors


@pytest.mark.parametrize("command", ["fit", "points", "surface", "sweep", "landscape", "reproduce"])
def test_help_teaches(command, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["linvae"])
    assert linvae(command, "--help") == 0
    printed = capsys.readouterr().out
    assert "--data" in printed
    assert "usage: linvae" in printed


def test_reproduce_smoke_writes_figures_tables_ledger_and_report(
    data, tmp_path, capsys, monkeypatch
):
    assert linvae(
        "reproduce", "--smoke", "--k", 4, "--data", data, "--out", tmp_path / "r",
        "--no-curvature", "--no-variations",  # those are run by `make smoke`
    ) == 0  # fmt: skip
    written = {p.name for p in (tmp_path / "r").iterdir()}
    assert {"ledger.md", "ledger.json", "figure1_surface.pdf", "figure2_training.png"} <= written
    assert {f"figure{i}" for i in range(1, 7)} <= {name.split("_")[0] for name in written}
    ledger = json.loads((tmp_path / "r" / "ledger.json").read_text())
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


def test_report_fails_with_a_claim(tmp_path, capsys):
    for holds in (True, False):
        check = ledger.Check("what", 0.5, "<=" if holds else ">=", 1.0, "why")
        ledger.save([ledger.Claim("C1", "one of them", (check,), "")], tmp_path)
        assert linvae("report", tmp_path) == int(not holds)
        assert capsys.readouterr().err == ("" if holds else "DOES NOT HOLD: C1\n")


def test_presets_and_what_replaces_their_numbers():
    full = cli.Reproduce(full=True, epochs=3, network_batch=16, network_seeds=2)
    assert full.networks() == replace(
        nonlinear.MNIST, epochs=3, batch_size=16, seeds=2, other_seeds=2
    )
    colour = cli.Reproduce(full=True, data=cli.Data(data="celeba"))
    assert colour.networks() == nonlinear.CELEBA
    assert cli.Reproduce().networks() == nonlinear.QUICK
    less = cli.Reproduce(full=True, curvature=False, variations=False).networks()
    assert less == replace(nonlinear.MNIST, curvature_data=0, variations=())
    with pytest.raises(ValueError, match="network_seeds: got 0"):
        cli.Reproduce(network_seeds=0).networks()
    with pytest.raises(ValueError, match="smoke: got with --full"):
        cli.Reproduce(full=True, smoke=True).networks()
    with pytest.raises(ValueError, match="epochs: got 0"):
        cli.Reproduce(epochs=0).networks()


def test_images_come_by_windows_and_in_part():
    options = cli.Data(data="photographs", count=40, window=16)
    images = cli.load_for_networks(options)
    assert isinstance(images.data.values, windows.Windows)
    assert images.data.values.shape == (40, 64 * 64 * 3)
    assert images.image_shape == (64, 64, 3)
    with pytest.raises(ValueError, match="count: got 5000"):
        cli.load_for_networks(cli.Data(data="photographs", count=5000))
