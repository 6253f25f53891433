"""Sweeps in processes of their own, for tests that kill them or give them devices.

They are forked from a server that has imported everything and started nothing of JAX, so that ten
of them import once.
"""

import multiprocessing
import socket
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import jax

from linvae_jax._engine import trainer

Place = tuple[int, int, int]  # number of a process, how many there are, the port where they meet


def start(
    run: Callable[[Path], Any],
    folder: Path,
    devices: int = 1,
    place: Place | None = None,
    segments: int = 0,
) -> BaseProcess:
    """The sweep in a process of its own, which has begun when this returns.

    Args:
        run: a function of a module, which runs the sweep in a folder.
        folder: of the sweep.
        devices: how many CPU devices the process has.
        place: among processes that share the sweep.
        segments: return only when it has trained so many, or has ended before.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["linvae_jax._engine.sweep_folder", "linvae_jax.sweeps"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_child, args=(theirs, run, folder, devices, place, segments), daemon=True
    )
    process.start()
    theirs.close()
    with ours, suppress(EOFError):  # the end of the process says it too
        ours.recv()
    return process


def free_port() -> int:
    """Where processes can meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def share(run: Callable[[Path], Any], folder: Path, processes: int, devices: int = 1) -> None:
    """Let processes of so many devices each run one sweep together, to its end."""
    port = free_port()
    children = [start(run, folder, devices, (i, processes, port)) for i in range(processes)]
    for child in children:
        child.join(timeout=180)
    assert [child.exitcode for child in children] == [0] * processes


def _child(
    ready: Connection,
    run: Callable[[Path], Any],
    folder: Path,
    devices: int,
    place: Place | None,
    segments: int,
) -> None:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    # each of ten processes would compile again what is too small to be worth keeping elsewhere
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if segments:
        train, left = trainer.ProgressReport.segment, iter(range(segments - 1, -1, -1))

        def tell(self: trainer.ProgressReport, *args: Any) -> None:
            train(self, *args)
            if next(left, None) == 0:
                ready.send("trained")

        trainer.ProgressReport.segment = tell
    else:
        ready.send("started")
    if place is not None:
        process, processes, port = place
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)
    run(folder)
    if place is not None:
        # JAX does this when a process ends, but not one of `multiprocessing`: the first to end
        # would take the others with it
        jax.distributed.shutdown()
