"""Nonlinear VAEs on one data set: the sweeps behind the paper's table and its figures 4, 5 and 6.

Each sweep is a folder that resumes (`linvae_jax.sweeps`); what the claims, figures and the report
need of it is kept as one small labelled table. This module trains; `paper_table`,
`nonlinear_claims`, `nonlinear_figures` and `report` read those tables, and train nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np
import xarray as xr

from linvae_jax import collapse, network_task, networks, sweeps, tables, training
from linvae_jax.evaluation import Transform

ENCODERS = ("linear-encoder", "deep-linear-encoder", "mlp-encoder")


@dataclass(frozen=True)
class Settings:
    """Which VAEs are trained, and for how long.

    Attributes:
        network: "mlp" or "conv", for colour images.
        k: latents.
        widths: of the hidden layers of an MLP's encoder, or channels of the convolutions; the
            decoder mirrors them.
        sigma2: initial σ² of the table's rows, each held and learned.
        seeds: of each row.
        curve_sigma2: further σ², held, for the curves of collapse.
        annealed_sigma2: held σ² at which KL annealing is compared, among `sigma2`.
        other_seeds: of curves, annealing and figure 4, at most `seeds`.
        epochs: of each run.
        batch_size: data per step.
        learning_rate: of Adam; constant, then linearly to zero in the last fifth of the steps.
        warmup: steps in which it rises at first.
        linear_k: latents of the models with a linear decoder, figure 4.
    """

    network: Literal["mlp", "conv"]
    k: int
    widths: tuple[int, ...]
    sigma2: tuple[float, ...]
    seeds: int
    curve_sigma2: tuple[float, ...]
    annealed_sigma2: tuple[float, ...]
    other_seeds: int
    epochs: int
    batch_size: int
    learning_rate: float = 1e-3
    warmup: int = 500
    linear_k: int = 50


# rows 1 to 10 of the paper's table; its epochs, batch size and rates are not known
MNIST = Settings(
    network="mlp", k=200, widths=(1024, 512), sigma2=(10.0, 1.0, 0.1, 0.01, 0.001), seeds=4,
    curve_sigma2=(30.0, 3.0, 0.3, 0.03, 0.003, 1e-4), annealed_sigma2=(10.0, 1.0), other_seeds=4,
    epochs=100, batch_size=128,
)  # fmt: skip
# rows 11 to 20
CELEBA = replace(
    MNIST, network="conv", k=500, widths=(32, 64, 128, 256), seeds=5, other_seeds=1, epochs=40,
    batch_size=64,
)  # fmt: skip
# a few minutes on two cores
QUICK = replace(
    MNIST, k=100, widths=(256, 128), sigma2=(30.0, 1.0, 0.1), seeds=2,
    curve_sigma2=(100.0, 10.0, 3.0, 0.3), annealed_sigma2=(30.0,), other_seeds=1, epochs=40,
    batch_size=32, warmup=200, linear_k=50,
)  # fmt: skip
# every sweep, hardly any training
SMOKE = replace(
    QUICK, k=4, widths=(8,), sigma2=(10.0, 1.0), curve_sigma2=(3.0,), epochs=2, warmup=2,
    annealed_sigma2=(10.0,), linear_k=3,
)  # fmt: skip


def _config(settings: Settings, count: int) -> training.TrainConfig:
    """One record for each epoch."""
    steps = max(count // settings.batch_size, 1)
    total = settings.epochs * steps
    return training.TrainConfig(total, steps, schedule="decay", warmup=min(settings.warmup, total))


def _annealings(num_steps: int) -> tuple[training.Annealing, ...]:
    """Linear and cyclical annealing over the first half of a run; the plain ELBO after it."""
    half = num_steps // 2
    return training.Annealing(half), training.Annealing(half, cycles=4, ramp=0.5)


def train(
    settings: Settings,
    data: network_task.Data,
    transform: Transform | None,
    folder: Path,
    *,
    image_shape: tuple[int, ...] | None = None,
    constant: float = 0.0,
    attrs: Mapping[str, str] | None = None,
) -> dict[str, xr.Dataset]:
    """Run or finish all sweeps; keep a small table of each.

    Args:
        settings: how much.
        data: of `network_task.prepare`.
        transform: as for `network_task.NetworkTask`.
        folder: gets `sweeps/` and the tables, `nonlinear_<name>.nc`.
        image_shape: of a datum, for convolutions.
        constant: nats that turn an ELBO into one of pixels; kept with the tables.
        attrs: kept with every table.

    Returns:
        "table" (the paper's rows), "curves" (further σ², held), "annealing", and one for each of
        `ENCODERS`, as `summary` gives them.
    """
    count, n = data.values.shape
    scale = network_task.data_scale(data)
    own = networks.named(
        settings.network, n, settings.k, image_shape=image_shape, widths=settings.widths,
        data_scale=scale,
    )  # fmt: skip
    config = _config(settings, count)
    seeds, others = tuple(range(settings.seeds)), tuple(range(settings.other_seeds))
    rate = (settings.learning_rate,)
    annealed = sweeps.Grid(
        others, settings.annealed_sigma2, (False,), rate, annealing=_annealings(config.num_steps)
    )
    jobs: dict[str, tuple[networks.Mlp | networks.Conv, sweeps.Grid]] = {
        "table": (own, sweeps.Grid(seeds, settings.sigma2, (False, True), rate)),
        "curves": (own, sweeps.Grid(others, settings.curve_sigma2, (False,), rate)),
        "annealing": (own, annealed),
    }
    for name in ENCODERS:
        network = networks.named(name, n, settings.linear_k, data_scale=scale)
        jobs[name] = (network, sweeps.Grid(others, (1.0,), (True,), rate))
    facts = dict(attrs or {}) | {"pixel_constant": str(constant), "count": str(count)}
    found = {}
    for name, (network, grid) in jobs.items():
        task = network_task.NetworkTask(network, settings.batch_size, transform)
        place = folder / "sweeps" / name
        table = sweeps.run(task, config, data, grid, folder=place, attrs=facts).table
        found[name] = summary(table, np.asarray(data.eigenvalues)).assign_attrs(
            seconds=str(round(_seconds(place)))
        )
        tables.save(found[name], path(folder, name))
    return found


def path(folder: Path, name: str) -> Path:
    """Where the small table of a sweep is kept."""
    return folder / f"nonlinear_{name}.nc"


def load(folder: Path) -> dict[str, xr.Dataset]:
    """The tables that `train` kept in a folder; those that are there.

    Raises:
        ValueError: one that cannot be read.
    """
    names = ("table", "curves", "annealing", *ENCODERS)
    return {name: tables.load(path(folder, name)) for name in names if path(folder, name).exists()}


def _seconds(folder: Path) -> float:
    """From the first file of a sweep to its last run; a pause counts."""
    times = [p.stat().st_mtime for p in folder.rglob("*") if p.is_file()]
    return max(p.stat().st_mtime for p in (folder / "runs").iterdir()) - min(times)


def summary(table: xr.Dataset, eigenvalues: np.ndarray) -> xr.Dataset:
    """What is kept of a sweep: all but the numbers of each latent in each step and at each ε.

    Args:
        table: of `sweeps.run`.
        eigenvalues: (n,), λ of the data.

    Returns:
        The same with `kl` summed over latents, with `eigenvalue`, and in place of `final_below`
        the share of collapsed latents at each ε, `final_collapse` (…, epsilon), δ = 0.01.
    """
    below = table.final_below.transpose(..., "latent")
    share = np.asarray(collapse.is_collapsed(jnp.asarray(below.values))).mean(axis=-1)
    small = table.drop_vars(["final_below", "final_mean_variance", "final_linear_kl"])
    small["kl"] = small.kl.sum("latent").assign_attrs(
        units="nats/datum", long_name="KL, all latents"
    )
    small["final_collapse"] = xr.DataArray(
        share.astype(np.float32), dims=[d for d in below.dims if d != "latent"],
        attrs={"units": "1", "long_name": "share of (ε, 0.01)-collapsed latents"},
    )  # fmt: skip
    small["eigenvalue"] = xr.DataArray(
        eigenvalues, dims="feature",
        attrs={"units": "data unit²", "long_name": "eigenvalues of the data covariance"},
    )  # fmt: skip
    return small
