"""The table of a sweep has its axes, which of its runs diverged, and all that was measured."""

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from linvae_jax import tables, training
from linvae_jax._engine import divergence
from linvae_jax._engine.executors import START
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


def _lost(
    task: training.Task, config: training.TrainConfig, data: Any, grid: Any, results: list[Result]
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return which runs have diverged (runs,), and from which record on (runs, records)."""
    steps = config.record_every * np.arange(1, config.num_records + 1)
    start = {of: np.stack([r.history[name] for r in results]) for name, of in START.items()}
    hyper = grid.hyperparameters(results[0].history["sigma2"].dtype)
    judge = partial(divergence.lost, task, data, hyper)
    measured = {name: np.stack([r.history[name] for r in results]) for name in divergence.JUDGED}
    at_records = judge(steps, start, measured)
    at_end = at_records[:, -1]
    if all(r.final for r in results):
        of_each = {n: np.stack([r.final[n] for r in results]) for n in divergence.JUDGED}
        final = {name: values[:, None] for name, values in of_each.items()}
        at_end = judge(steps[-1:], start, final)[:, 0]
    return at_end, divergence.ended(at_records, at_end)


def table_of(
    task: training.Task, config: training.TrainConfig, data: Any, grid: Any,
    results: list[Result], attrs: Mapping[str, str],
) -> xr.Dataset:  # fmt: skip
    """Return the table of a sweep, whose results are in the order of the grid."""
    # the fields that are dimensions
    kept = [name for name in AXES if AXES[name].always or len(getattr(grid, name)) > 1]
    dims = tuple(AXES[name].dim for name in kept)
    shape = tuple(len(getattr(grid, name)) for name in kept)

    diverged, lost = _lost(task, config, data, grid, results)

    def stacked(values: list[np.ndarray], missing: np.ndarray | None) -> np.ndarray:
        all_runs = np.stack(values)
        # integers become floats where some are missing, for they have no NaN
        if missing is not None and missing.any():
            apart = missing.reshape(*missing.shape, *(1,) * (all_runs.ndim - missing.ndim))
            all_runs = np.where(apart, np.nan, all_runs)
        return all_runs.reshape(*shape, *values[0].shape)

    variables = {
        name: ((*dims, "step", *label.dims), stacked([r.history[name] for r in results], lost),
               label.unit, label.text)
        for name, label in task.record_labels.items()
    } | {
        f"final_{name}": ((*dims, *label.dims), stacked([r.final[name] for r in results], diverged),
                          label.unit, label.text + ", of the trained model on all data")
        for name, label in task.final_labels.items()
    }  # fmt: skip
    for name, of in START.items():
        label, values = task.record_labels[of], [r.history[name] for r in results]
        text = f"{label.text}, before the first step"
        variables[name] = ((*dims, *label.dims), stacked(values, None), label.unit, text)
    variables["diverged"] = (
        dims, diverged.reshape(shape), "1",
        "run diverged: its numbers from there on are missing (NaN)",
    )  # fmt: skip
    steps = config.record_every * np.arange(1, config.num_records + 1)
    coords = {AXES[n].dim: (_coordinate(grid, n), AXES[n].unit, AXES[n].text) for n in kept}
    coords |= {"step": (steps, "1", "optimiser steps")} | dict(task.coordinates)
    table = tables.dataset(variables, coords, attrs)
    alone = {
        AXES[f.name].dim: _coordinate(grid, f.name)[0] for f in fields(grid) if f.name not in kept
    }
    if "latent" in table.sizes:
        table = table.assign_coords(latent=np.arange(table.sizes["latent"]))
    return table.assign_coords(alone)
