"""Which networks the paper's table, curves, annealing and protocols train: recorded, not run."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from landscape.paper.networks import experiments as network_experiments
from landscape.paper.networks.experiments import NetworkData
from landscape.paper.settings import CELEBA, MNIST, PROTOCOLS, QUICK
from landscape.studies import networks as network_study
from linvae_jax import network_task, networks, sweeps, tables, training


class Asked(NamedTuple):
    """A sweep that was asked for."""

    task: network_task.NetworkTask
    config: training.TrainConfig
    grid: sweeps.Grid


@pytest.fixture
def asked(monkeypatch) -> dict[str, Asked]:
    """Filled by `network_experiments.train` with its sweeps by name; their tables are zeros."""
    found: dict[str, Asked] = {}

    def run(
        task: Any, config: Any, data: Any, grid: Any, *, folder: Path, attrs: Any, title: str
    ) -> Any:
        assert title == folder.name  # the bar says which sweep it is
        found[folder.name] = Asked(task, config, grid)
        (folder / "runs").mkdir(parents=True)
        (folder / "runs" / "0000.npz").touch()
        dims = ("seed", "sigma2_init", "learned")
        zeros = np.zeros((len(grid.seeds), len(grid.sigma2), len(grid.learned)))
        names = ("elbo", "kl", "sigma2", "num_collapsed")
        records = np.zeros((*zeros.shape, config.num_records))
        coords = dict(zip(dims, map(list, (grid.seeds, grid.sigma2, grid.learned)), strict=True))
        table = tables.dataset(
            {"diverged": (dims, zeros > 0, "1", "")}
            | dict.fromkeys(names, ((*dims, "step"), records, "1", "")),
            coords | {"step": config.record_every * np.arange(1, config.num_records + 1)},
            tables.provenance({"task": task, "config": config, "grid": grid}) | attrs,
        )
        return sweeps.Sweep(None, table)

    monkeypatch.setattr(sweeps, "run", run)
    monkeypatch.setattr(network_experiments, "summary", lambda table, eigenvalues: table)
    return found


def images(count: int, n: int, shape: tuple[int, ...] | None = None) -> NetworkData:
    pixels = jnp.zeros((count, n), jnp.uint8)
    data = network_task.Data(pixels, jnp.zeros(n), 9 * jnp.ones(n))
    return NetworkData(data, None, shape, 0.0, "data", {})


def test_full_mnist_trains_the_papers_rows_and_what_explains_them(asked, tmp_path):
    settings = replace(MNIST, curvature_data=0)
    found = network_experiments.train(settings, images(60_000, 784), tmp_path)
    epoch = 468  # of 128
    own = networks.Mlp(784, 200, (1024, 512), (512, 1024), data_scale=3.0)
    rows = (10.0, 1.0, 0.1, 0.01, 0.001)
    plain = training.TrainConfig(200 * epoch, epoch, schedule="constant", warmup=500)
    table = sweeps.Grid((0, 1, 2, 3), rows, (False, True), learning_rate=(3e-4,))
    task = network_task.NetworkTask(own, 128)
    assert asked["table"] == (task, plain, table)
    curves = replace(table, sigma2=(30.0, 3.0, 0.3, 0.03, 0.003, 1e-4), learned=(False,))
    assert asked["curves"] == (task, plain, curves)
    half = 100 * epoch
    annealing = (training.Annealing(half), training.Annealing(half, 4, 0.5))
    grid = replace(table, sigma2=(10.0, 1.0), learned=(False,), annealing=annealing)
    assert asked["annealing"] == (task, plain, grid)
    for name in network_experiments.ENCODERS:
        linear = networks.named(name, 784, 50, data_scale=3.0)
        grid = sweeps.Grid((0, 1, 2, 3), learning_rate=(3e-4,))
        assert asked[name] == (network_task.NetworkTask(linear, 128), plain, grid)
    # the protocols: rate, batch, steps; the table's own is not trained twice
    tried = [asked[name] for name in asked if name.startswith("protocol-")]
    assert [
        (p.grid.learning_rate, p.task.batch_size, p.config.record_every, p.config.num_steps)
        for p in tried
    ] == [
        ((1e-3,), 128, 468, 200 * 468),
        ((1e-4,), 128, 468, 200 * 468),
        ((1e-3,), 1000, 60, 200 * 60),
        ((3e-4,), 1000, 60, 200 * 60),
        ((1e-4,), 1000, 60, 200 * 60),
    ]
    assert {
        (p.grid.seeds, p.grid.sigma2, p.grid.learned, p.config.warmup, p.config.schedule)
        for p in tried
    } == {((0,), (1.0,), (False, True), 500, "constant")}
    kept = found["protocols"]
    assert set(zip(kept.learning_rate.values, kept.batch_size.values, strict=True)) == {*PROTOCOLS}
    assert kept.sigma2_init.values.tolist() == list(rows)
    assert network_experiments.load(tmp_path).keys() == found.keys()


def test_colour_images_take_convolutions_and_no_more_than_the_table_needs(asked, tmp_path):
    shape = (64, 64, 3)
    found = network_experiments.train(CELEBA, images(1000, 12_288, shape), tmp_path)
    conv = networks.Conv(shape, 500, (32, 64, 128, 256), data_scale=3.0)
    epoch = 1000 // 64
    task, config, grid = asked["table"]
    assert task == network_task.NetworkTask(conv, 64)
    assert config == training.TrainConfig(40 * epoch, epoch, schedule="decay", warmup=500)
    assert grid.seeds == (0, 1, 2, 3, 4)
    assert {"curvature", "protocols"}.isdisjoint(found)
    # channels are no widths
    model = asked["mlp-encoder"].task.model
    assert model == networks.Mlp(12_288, 50, (1024, 512), (), data_scale=3.0)


def test_encoders_of_the_quick_run_are_as_small_as_its_networks(asked, tmp_path):
    settings = replace(QUICK, curvature_data=0)
    network_experiments.train(settings, images(1000, 784), tmp_path)
    model = asked["mlp-encoder"].task.model
    assert model == networks.Mlp(784, 50, (256, 128), (), data_scale=3.0)


@pytest.mark.slow
def test_curvature_is_computed_again_for_another_sweep_and_not_for_more_seeds(
    asked, tmp_path, monkeypatch
):
    calls = []

    def escape(task: Any, data: Any, sweep: Any, *args: Any, count: int) -> xr.Dataset:
        calls.append(count)
        return tables.dataset({"index": ((), 0, "1", "")}, {}, tables.provenance())

    monkeypatch.setattr(network_study, "escape_of_sweep", escape)
    settings = replace(MNIST, protocols=(), curvature_data=100)
    values = images(1000, 784)
    for changed in ({}, {}, {"seeds": 5}, {"epochs": 7}, {"epochs": 7, "curvature_data": 50}):
        for runs in tmp_path.glob("sweeps/*/runs"):  # the recorder makes them anew
            (runs / "0000.npz").unlink()
            runs.rmdir()
        network_experiments.train(replace(settings, **changed), values, tmp_path)
    assert calls == [100, 100, 50]
