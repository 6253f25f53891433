"""A small sweep of networks, also in a process of its own for tests that kill it.

Such processes are forked from a server that has imported everything and started nothing of JAX,
so that ten of them import once.
"""

import multiprocessing
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import jax
import numpy as np

from linvae_jax import network_task, networks, sweeps, trainer, training

MODEL = networks.Mlp(n=6, k=3, encoder=(8,), decoder=(8,))
TASK = network_task.NetworkTask(MODEL, batch_size=16, observed=50)
CONFIG = training.TrainConfig(num_steps=60, record_every=5)
GRID = sweeps.Grid(seeds=(0, 1), sigma2=(0.5, 3.0), learned=(True, False), learning_rate=(0.01,))


def data() -> network_task.Data:
    """500 Gaussian data, float32."""
    scale = np.sqrt([8, 4, 2, 0.6, 0.5, 0.4])
    x = np.random.default_rng(0).normal(size=(500, 6)) * scale
    return network_task.prepare(x.astype(np.float32))


def run(folder: Path | None, **options: object) -> sweeps.Sweep:
    """The sweep, saving whenever it can."""
    options = {"checkpoint_seconds": 0.0, "quiet": True} | options
    return sweeps.run(TASK, CONFIG, data(), GRID, folder=folder, **options)


def start(
    folder: Path,
    devices: int = 1,
    place: tuple[int, int, int] | None = None,
    segments: int = 0,
) -> BaseProcess:
    """The sweep in a process of its own, which has begun when this returns.

    Args:
        folder: of the sweep.
        devices: how many CPU devices the process has.
        place: number of the process, how many there are, and the port where they meet.
        segments: return only when it has trained so many, or has ended before.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["linvae_jax.sweeps", "linvae_jax.networks"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_child, args=(theirs, folder, devices, place, segments), daemon=True
    )
    process.start()
    theirs.close()
    with ours, suppress(EOFError):  # the end of the process says it too
        ours.recv()
    return process


def _child(
    ready: Connection,
    folder: Path,
    devices: int,
    place: tuple[int, int, int] | None,
    segments: int,
) -> None:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    # each of ten processes would compile again what is too small to be worth keeping elsewhere
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if segments:
        train, left = trainer.Look.segment, iter(range(segments - 1, -1, -1))

        def tell(self: trainer.Look, *args: Any) -> None:
            train(self, *args)
            if next(left, None) == 0:
                ready.send("trained")

        trainer.Look.segment = tell
    else:
        ready.send("started")
    if place is not None:
        process, processes, port = place
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)
    run(folder, batching="vmap", chunk=4)
