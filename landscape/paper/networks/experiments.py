"""These sweeps of networks stand behind the paper's table, its figures 4 to 6, and C8 to C10.

The curvature at the table's networks is looked at, and other ways to train are tried.
Each sweep is a folder that resumes (`linvae_jax.sweeps`); what claims, figures and the report need
of it is kept as one small labelled table.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr

from landscape.paper import facts
from landscape.paper.networks import protocols
from landscape.paper.settings import NetworkSettings
from landscape.studies import networks as network_study
from linvae_jax import collapse, network_task, networks, streams, sweeps, tables, training
from linvae_jax.evaluation import Transform

ENCODERS = ("linear-encoder", "deep-linear-encoder", "mlp-encoder")


class NetworkData(NamedTuple):
    """This is one data set for networks; pixels stay pixels until a training step looks at them.

    Attributes:
        data: of `network_task.prepare`.
        transform: of the pixels, in each step; None: they are real numbers.
        image_shape: of a datum, if it is an image.
        constant: nats that turn an ELBO into one of pixels.
        source: the data set, in words.
        identity: all that decides the data, by names that a user knows.
    """

    data: network_task.Data
    transform: Transform | None
    image_shape: tuple[int, ...] | None
    constant: float
    source: str
    identity: dict[str, Any]


def _config(settings: NetworkSettings, count: int) -> training.TrainConfig:
    """Make the configuration of a run, with one record for each epoch."""
    steps = facts.steps_per_epoch(count, settings.batch_size)
    total = settings.epochs * steps
    warmup = min(settings.warmup, total)
    return training.TrainConfig(total, steps, schedule=settings.schedule, warmup=warmup)


def annealings(num_steps: int) -> tuple[training.Annealing, ...]:
    """Return those that C10 compares: in the first half of so many steps, once and in 4 cycles.

    The plain ELBO comes after it.
    """
    half = num_steps // 2
    return training.Annealing(half), training.Annealing(half, cycles=4, ramp=0.5)


def train(
    settings: NetworkSettings,
    images: NetworkData,
    folder: Path,
    attrs: Mapping[str, str] | None = None,
) -> dict[str, xr.Dataset]:
    """Run or finish all sweeps; keep a small table of each, with these attributes.

    The folder gets `sweeps/` and the tables, `nonlinear_<name>.nc`.

    Returns:
        "table" (the paper's rows), "curves" (further σ², held), "annealing", and one for each of
        `ENCODERS`, as `summary` gives them; "curvature" at the table's networks, of
        `network_study.escape_of_sweep`; "protocols", trajectories of other ways to train, as
        `protocols.joined` gives them.
    """
    data, transform = images.data, images.transform
    count, n = data.values.shape
    kept_with = dict(attrs or {}) | facts.attributes(images.constant, count)
    own = networks.named(
        settings.network, n, settings.k, image_shape=images.image_shape, widths=settings.widths,
        data_scale=network_task.data_scale(data),
    )  # fmt: skip
    seeds, others = tuple(range(settings.seeds)), tuple(range(settings.other_seeds))

    def sweep_of(
        name: str, network: networks.Mlp | networks.Conv, grid: sweeps.Grid,
        settings: NetworkSettings = settings,
    ) -> tuple[network_task.NetworkTask, sweeps.Sweep, xr.Dataset]:  # fmt: skip
        grid = replace(grid, learning_rate=(settings.learning_rate,))
        task = network_task.NetworkTask(network, settings.batch_size, transform)
        place = folder / "sweeps" / name
        sweep = sweeps.run(
            task, _config(settings, count), data, grid, folder=place, attrs=kept_with, title=name
        )
        small = summary(sweep.table, np.asarray(data.eigenvalues))
        return task, sweep, facts.timed(small, _seconds(place))

    found = {}

    def keep(name: str, table: xr.Dataset) -> None:
        tables.save(table, path(folder, name))
        found[name] = table

    grid = sweeps.Grid(seeds, settings.sigma2, (False, True))
    task, sweep, table = sweep_of("table", own, grid)
    keep("table", table)
    if settings.curvature_data and not bool(table.diverged.isel(seed=0).all()):
        bent = _curvature(settings, task, data, sweep, path(folder, "curvature"))
        keep("curvature", bent.assign_attrs(kept_with))
    keep("curves", sweep_of("curves", own, sweeps.Grid(others, settings.curve_sigma2, (False,)))[2])
    annealing = annealings(_config(settings, count).num_steps)
    grid = sweeps.Grid(others, settings.annealed_sigma2, (False,), annealing=annealing)
    keep("annealing", sweep_of("annealing", own, grid)[2])
    widths = settings.widths if settings.network == "mlp" else None
    for name in ENCODERS:
        encoder = networks.named(
            name, n, settings.linear_k, widths=widths, data_scale=own.data_scale
        )
        keep(name, sweep_of(name, encoder, sweeps.Grid(others))[2])
    if settings.protocols:
        parts = [protocols.of_sweep(found["table"])]
        grid = sweeps.Grid((0,), (settings.protocols_sigma2,), (False, True))
        took = 0.0
        for rate, size in settings.protocols:
            if (rate, size) == (settings.learning_rate, settings.batch_size):
                continue  # that is the table
            changed = replace(settings, learning_rate=rate, batch_size=size, schedule="constant")
            _, _, table = sweep_of(f"protocol-{rate:g}-{size}", own, grid, changed)
            parts.append(protocols.of_sweep(table))
            took += facts.origin(table).seconds or 0.0
        keep("protocols", facts.timed(protocols.joined(parts), took))
    return found


def _curvature(
    settings: NetworkSettings, task: network_task.NetworkTask, data: network_task.Data,
    sweep: sweeps.Sweep, place: Path,
) -> xr.Dataset:  # fmt: skip
    """Look at a collapsed latent of each network of the table's first seed, over σ²; once."""
    # the number rises when `network_study.escape_of_sweep` comes to compute something else
    of = {"of": f"3: {settings.curvature_data} data", "config": facts.first_seed(sweep.table)}
    if place.exists() and (kept := tables.load(place)).attrs.items() >= of.items():
        return kept
    start = time.monotonic()
    table = network_study.escape_of_sweep(
        task, data, sweep, streams.key(0, "curvature"),
        network_study.sigma2_grid(settings.sigma2), count=settings.curvature_data,
    )  # fmt: skip
    return facts.timed(table.assign_attrs(of), time.monotonic() - start)


def path(folder: Path, name: str) -> Path:
    """Return where the small table of a sweep is kept."""
    return folder / f"nonlinear_{name}.nc"


def load(folder: Path) -> dict[str, xr.Dataset]:
    """Load the tables that `train` kept in a folder, those that are there.

    Raises:
        ValueError: one that cannot be read.
    """
    names = ("table", "curves", "annealing", *ENCODERS, "curvature", "protocols")
    return {name: tables.load(path(folder, name)) for name in names if path(folder, name).exists()}


def _seconds(folder: Path) -> float:
    """Measure the time from the first file of a sweep to its last run; a pause counts."""
    times = [p.stat().st_mtime for p in folder.rglob("*") if p.is_file()]
    return max(p.stat().st_mtime for p in (folder / "runs").iterdir()) - min(times)


def summary(table: xr.Dataset, eigenvalues: np.ndarray) -> xr.Dataset:
    """Keep of a sweep's table all but the numbers of each latent in each step and at each ε.

    `kl` is summed over latents; there is `eigenvalue`, (n,), of the data, and in place of
    `final_below` the share of collapsed latents at each ε, `final_collapse` (…, epsilon), δ = 0.01.
    Where a run diverged all that is `final_` is NaN.
    """
    below = table.final_below.transpose(..., "latent")
    share = np.asarray(collapse.is_collapsed(jnp.asarray(below.values))).mean(axis=-1)
    small = table.drop_vars(["final_below", "final_mean_variance", "final_linear_kl"])
    small["kl"] = small.kl.sum("latent", skipna=False).assign_attrs(
        units="nats/datum", long_name="KL, all latents"
    )
    small["final_collapse"] = (
        below.dims[:-1], share.astype(np.float32),
        {"units": "1", "long_name": "share of (ε, 0.01)-collapsed latents"},
    )  # fmt: skip
    small["eigenvalue"] = (
        "feature", eigenvalues,
        {"units": "data unit²", "long_name": "eigenvalues of the data covariance"},
    )  # fmt: skip
    for name in [name for name in small.data_vars if str(name).startswith("final_")]:
        small[name] = small[name].where(~small.diverged)  # counts of collapsed latents too
    return small
