"""The table of a sweep has its axes, which of its runs diverged, and all that was measured."""

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from linvae_jax import tables, training
from linvae_jax._engine import divergence
from linvae_jax._engine.divergence import START
from linvae_jax._engine.trainer import Result


class _Axis(NamedTuple):
    """An axis says how the values of a grid's field stand in the table."""

    dim: str
    unit: str
    text: str
    always: bool = False  # a dimension even where there is but one value


AXES = {
    "seeds": _Axis("seed", "1", "seed of weights and noise", True),
    "sigma2": _Axis("sigma2_init", "data unit²", "initial (or held) observation noise σ²", True),
    "learned": _Axis("learned", "1", "whether σ² is learned", True),
    "learning_rate": _Axis("learning_rate", "1", "initial learning rate"),
    "beta": _Axis("beta", "1", "weight of the KL"),
    "annealing": _Axis("annealing", "1", "annealing of the weight of the KL"),
}


def _coordinate(grid: Any, name: str) -> list[Any]:
    values = getattr(grid, name)
    return [str(v) for v in values] if name == "annealing" else list(values)


def table_of(
    task: training.Task, config: training.TrainConfig, data: Any, grid: Any,
    results: list[Result], attrs: Mapping[str, str],
) -> xr.Dataset:  # fmt: skip
    """Return the table of a sweep, whose results are in the order of the grid."""
    # the fields that are dimensions
    kept = [name for name in AXES if AXES[name].always or len(getattr(grid, name)) > 1]
    dims = tuple(AXES[name].dim for name in kept)
    shape = tuple(len(getattr(grid, name)) for name in kept)

    steps = config.record_every * np.arange(1, config.num_records + 1)
    recorded = (*task.record_labels, *START)
    history = {name: np.stack([r.history[name] for r in results]) for name in recorded}
    final = {name: np.stack([r.final[name] for r in results]) for name in task.final_labels}

    judge = partial(divergence.lost, task, data, grid.hyperparameters(history["sigma2"].dtype))
    at_records = judge(steps, history)
    diverged = at_records[:, -1]
    if final:
        at_end = {name: final[name][:, None] for name in divergence.JUDGED}
        diverged = judge(steps[-1:], history | at_end)[:, 0]
    lost = divergence.ended(at_records, diverged)

    def shaped(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
        # integers become floats where some are missing, for they have no NaN
        if missing.any():
            apart = missing.reshape(*missing.shape, *(1,) * (values.ndim - missing.ndim))
            values = np.where(apart, np.nan, values)
        return values.reshape(*shape, *values.shape[1:])

    variables = {}
    for name, label in task.record_labels.items():
        values = shaped(history[name], lost)
        variables[name] = (*dims, "step", *label.dims), values, label.unit, label.text
    for name, label in task.final_labels.items():
        values, text = shaped(final[name], diverged), ", of the trained model on all data"
        variables[f"final_{name}"] = (*dims, *label.dims), values, label.unit, label.text + text
    for name, of in START.items():
        label, text = (
            task.record_labels[of],
            f"{task.record_labels[of].text}, before the first step",
        )
        values = history[name].reshape(*shape, *history[name].shape[1:])
        variables[name] = (*dims, *label.dims), values, label.unit, text
    variables["diverged"] = (
        dims, diverged.reshape(shape), "1",
        "run diverged: its numbers from there on are missing (NaN)",
    )  # fmt: skip
    coords = {AXES[n].dim: (_coordinate(grid, n), AXES[n].unit, AXES[n].text) for n in kept}
    coords |= {"step": (steps, "1", "optimiser steps")} | dict(task.coordinates)
    table = tables.dataset(variables, coords, attrs)
    alone = {
        AXES[f.name].dim: _coordinate(grid, f.name)[0] for f in fields(grid) if f.name not in kept
    }
    if "latent" in table.sizes:
        table = table.assign_coords(latent=np.arange(table.sizes["latent"]))
    return table.assign_coords(alone)
