"""Nonlinear VAEs on one data set: the sweeps behind the paper's table and its figures 4, 5 and 6.

Each sweep is a folder that resumes (`linvae_jax.sweeps`); what the claims, figures and the report
need of it is kept as one small labelled table. This module trains; `paper_table`,
`nonlinear_claims`, `nonlinear_figures` and `report` read those tables, and train nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xarray as xr

from linvae_jax import collapse, network_task, networks, sweeps, tables, training
from linvae_jax.evaluation import Transform

ENCODERS = ("linear-encoder", "deep-linear-encoder", "mlp-encoder")


@dataclass(frozen=True)
class Settings:
    """Which VAEs are trained, and for how long. The defaults are the paper's table on MNIST.

    Attributes:
        k: latents.
        widths: hidden layers of the encoder; the decoder mirrors them.
        sigma2: initial σ² of the table's rows, each held and learned.
        seeds: of each row.
        curve_sigma2: further σ², held, for the curves of collapse.
        annealed_sigma2: held σ² at which KL annealing is compared, among `sigma2`.
        other_seeds: of curves, annealing and figure 4.
        epochs: of each run.
        batch_size: data per step.
        learning_rate: of Adam; constant, then linearly to zero in the last fifth of the steps.
        warmup: steps in which it rises at first.
        linear_k: latents of the models with a linear decoder, figure 4.
        linear_epochs: of these.
    """

    k: int = 200
    widths: tuple[int, ...] = (1024, 512)
    sigma2: tuple[float, ...] = (10.0, 1.0, 0.1, 0.01, 0.001)
    seeds: int = 4
    curve_sigma2: tuple[float, ...] = (30.0, 3.0, 0.3, 0.03, 0.003, 1e-4)
    annealed_sigma2: tuple[float, ...] = (10.0, 1.0)
    other_seeds: int = 4
    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup: int = 500
    linear_k: int = 50
    linear_epochs: int = 100


def quick(settings: Settings) -> Settings:
    """Small networks for a few minutes on two cores."""
    return replace(
        settings, k=50, widths=(256, 128), sigma2=(100.0, 10.0, 1.0, 0.1), seeds=2,
        curve_sigma2=(30.0, 3.0, 0.3), annealed_sigma2=(10.0,), other_seeds=1, epochs=40,
        batch_size=64, warmup=200, linear_k=20, linear_epochs=40,
    )  # fmt: skip


def smoke(settings: Settings) -> Settings:
    """Every sweep, hardly any training."""
    return replace(
        quick(settings), k=4, widths=(8,), sigma2=(10.0, 1.0), seeds=2, curve_sigma2=(3.0,),
        epochs=1, linear_k=3, linear_epochs=1, warmup=2,
    )  # fmt: skip


def _config(settings: Settings, data: network_task.Data, epochs: int) -> training.TrainConfig:
    """One record for each epoch."""
    steps = max(len(data.values) // settings.batch_size, 1)
    return training.TrainConfig(
        epochs * steps, steps, schedule="decay", warmup=min(settings.warmup, epochs * steps)
    )


def annealings(num_steps: int) -> tuple[training.Annealing, ...]:
    """Linear and cyclical annealing over the first half of a run; the plain ELBO after it."""
    half = num_steps // 2
    return training.Annealing(half), training.Annealing(half, cycles=4, ramp=0.5)


def train(
    settings: Settings,
    data: network_task.Data,
    transform: Transform | None,
    folder: Path,
    *,
    constant: float = 0.0,
    attrs: Mapping[str, str] | None = None,
) -> dict[str, xr.Dataset]:
    """Run or finish all sweeps; keep a small table of each.

    Args:
        settings: how much.
        data: of `network_task.prepare`.
        transform: as for `network_task.NetworkTask`.
        folder: gets `sweeps/` and the tables, `<name>.nc`.
        constant: nats that turn an ELBO into one of pixels; kept with the tables.
        attrs: kept with every table.

    Returns:
        "table" (the paper's rows), "curves" (further σ², held), "annealing", and one for each of
        `ENCODERS`, as `summary` gives them.
    """
    n = data.values.shape[1]
    # to two digits, for it is part of what the sweep is
    scale = float(f"{float(np.sqrt(np.mean(data.eigenvalues))):.2g}")
    mlp = networks.Mlp(n, settings.k, settings.widths, settings.widths[::-1], data_scale=scale)
    config = _config(settings, data, settings.epochs)
    seeds = tuple(range(settings.seeds))
    others = tuple(range(settings.other_seeds))
    rate = (settings.learning_rate,)
    grids = {
        "table": sweeps.Grid(seeds, settings.sigma2, (False, True), rate),
        "curves": sweeps.Grid(others, settings.curve_sigma2, (False,), rate),
        "annealing": sweeps.Grid(
            others, settings.annealed_sigma2, (False,), rate,
            annealing=annealings(config.num_steps),
        ),
    }  # fmt: skip
    facts = dict(attrs or {}) | {"pixel_constant": str(constant)}

    def kept(name: str, model: networks.Mlp, how: training.TrainConfig, grid: sweeps.Grid):  # noqa: ANN202
        task = network_task.NetworkTask(model, settings.batch_size, transform)
        sweep = sweeps.run(task, how, data, grid, folder=folder / "sweeps" / name, attrs=facts)
        table = summary(sweep.table)
        tables.save(table, folder / f"{name}.nc")
        return table

    found = {name: kept(name, mlp, config, grid) for name, grid in grids.items()}
    config = _config(settings, data, settings.linear_epochs)
    for name in ENCODERS:
        model = replace(networks.with_linear_decoder(name, n, settings.linear_k), data_scale=scale)
        found[name] = kept(name, model, config, sweeps.Grid(others, (1.0,), (True,), rate))
    return found


def summary(table: xr.Dataset) -> xr.Dataset:
    """What is kept of a sweep: all but the numbers of each latent in each step and at each ε.

    Args:
        table: of `sweeps.run`.

    Returns:
        The same with `kl` summed over latents, and in place of `final_below` the share of
        collapsed latents at each ε, `final_collapse` (…, epsilon), δ = 0.01.
    """
    below = table.final_below.transpose(..., "latent")
    share = np.asarray(collapse.is_collapsed(below.values)).mean(axis=-1)
    small = table.drop_vars(["final_below", "final_mean_variance", "final_linear_kl"])
    small["kl"] = small.kl.sum("latent").assign_attrs(
        units="nats/datum", long_name="KL, all latents"
    )
    dims = [d for d in below.dims if d != "latent"]
    small["final_collapse"] = xr.DataArray(
        share.astype(np.float32), dims=dims,
        attrs={"units": "1", "long_name": "share of (ε, 0.01)-collapsed latents"},
    )  # fmt: skip
    return small
