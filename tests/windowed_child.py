"""A small sweep on windows of mapped pixels, also run by processes of their own (`children`)."""

from functools import cache
from pathlib import Path

import jax
import numpy as np

from linvae_jax import linear, network_task, sweeps, training
from linvae_jax.data import datasets, preprocessing
from linvae_jax.sources import Windows

LOGIT = preprocessing.Logit(0.05)
MODEL = linear.Model(n=49, k=3)  # compiles faster than a network
TASK = network_task.NetworkTask(MODEL, batch_size=16, transform=LOGIT, observed=50)
CONFIG = training.TrainConfig(num_steps=40, record_every=5)
GRID = sweeps.Grid(seeds=(0, 1), sigma2=(0.5, 3.0), learned=(True,), learning_rate=(0.01,))
SIZE = 70  # of a window: neither a divisor of the rows nor of what is evaluated at once


@cache
def pixels() -> np.ndarray:
    """(500, 49) pixels of digits, sorted by class."""
    return np.ascontiguousarray(datasets.load("digits").images[::10, ::16])


def data(folder: Path, size: int | None = SIZE, seed: int = 0) -> network_task.Data:
    """Windows of a file in the folder; or all pixels on the device."""
    if size is None:
        return network_task.prepare(pixels(), LOGIT, jax.random.key(5))
    path = folder / "pixels.npy"
    if not path.exists():
        np.save(path, pixels())
    windows = Windows(np.load(path, mmap_mode="r"), size, seed)
    return network_task.prepare(windows, LOGIT, jax.random.key(5))


def run(values: network_task.Data, folder: Path | None = None, **options: object) -> sweeps.Sweep:
    """The sweep, saving whenever it can."""
    options = {"checkpoint_seconds": 0.0, "quiet": True, "batching": "vmap"} | options
    return sweeps.run(TASK, CONFIG, values, GRID, folder=folder, **options)


def run_all_in(folder: Path) -> None:
    """All four runs together, data and sweep in one folder."""
    run(data(folder), folder / "sweep", chunk=4)
