"""A small sweep by minibatches, also run by processes of their own (`children`)."""

import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from linvae_jax import linear, network_task, sweeps, training
from linvae_jax._engine import run_files

MODEL = linear.Model(n=6, k=3)  # compiles faster than a network
TASK = network_task.NetworkTask(MODEL, batch_size=16, observed=50)
CONFIG = training.TrainConfig(num_steps=60, record_every=10)
GRID = sweeps.Grid(seeds=(0, 1), sigma2=(0.5, 3.0), learned=(True, False), learning_rate=(0.01,))


def data() -> network_task.Data:
    """500 Gaussian data, float32."""
    scale = np.sqrt([8, 4, 2, 0.6, 0.5, 0.4])
    x = np.random.default_rng(0).normal(size=(500, 6)) * scale
    return network_task.prepare(x.astype(np.float32))


def run(folder: Path | None, **options: object) -> sweeps.Sweep:
    """The sweep, saving whenever it can; side by side, four runs at a time, if not told else."""
    options = {"checkpoint_seconds": 0.0, "quiet": True, "batching": "vmap", "chunk": 4} | options
    return sweeps.run(TASK, CONFIG, data(), GRID, folder=folder, **options)


def run_without_one(folder: Path) -> None:
    """The sweep in processes of which the second finds run 1 damaged."""
    load = run_files.load

    def damaged(path: Path, *args: Any) -> Any:
        if jax.process_index() == 1 and path.name == "0001.npz":
            raise run_files.Damaged("as if")
        return load(path, *args)

    run_files.load = damaged
    warnings.simplefilter("ignore")  # it says that it trains the run again
    run(folder)
