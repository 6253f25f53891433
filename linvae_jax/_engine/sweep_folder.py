"""A sweep in a folder loses nothing that was computed, and goes on where it was killed.

| in the folder | what |
| --- | --- |
| `runs/0007.npz` | parameters and numbers of a run, from when it is finished (`run_files`) |
| `checkpoints/` | the runs in progress, and which sweep this is |
| `sweep.nc` | all runs together, when all are finished |

Killed at any moment, a sweep goes on from its last checkpoint, and on the same layout ends with the
same bits as if it had not been. On another number of devices it goes on too, to the same numbers
up to rounding; with more seeds than before it trains those. SIGTERM, or SIGINT (Ctrl-C) once, makes
it save and raise `Stopped`.
"""

import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

import jax
import numpy as np

from linvae_jax import sources, streams, tables
from linvae_jax._engine import checkpoints, run_files, shapes
from linvae_jax._engine.divergence import START
from linvae_jax._engine.processes import anywhere, everywhere, together
from linvae_jax._engine.trainer import Chunk, Result, Stopped, Trainer
from linvae_jax._internal import checks


def train(
    trainer: Trainer,
    folder: Path,
    identity: Mapping[str, Any],
    facts: Callable[[int], Mapping[str, Any]],
    every: float,
) -> dict[int, Result]:
    """Train the runs that the folder does not have yet, and return all.

    An old folder must have the same identity, but for seeds that come after those it has; the data
    and `streams.VERSION` belong to it too. `facts` are what the file of a run says of it, `every`
    the seconds between checkpoints.
    """
    known = tables.plain(identity) | {
        "data": sources.fingerprint(trainer.data), "streams": streams.VERSION
    }  # fmt: skip
    runs, size, config = len(trainer.keys), trainer.layout.chunk, trainer.config
    one = shapes.one_of(trainer.keys)
    params = shapes.shape_of(trainer.task.init, trainer.data, one, 1.0).leaves
    # seeds vary slowest: runs of new ones come after those there are, whose numbers stay
    with (
        _alone(folder),
        checkpoints.Store(folder / "checkpoints", known, longer="grid.seeds") as store,
        _stop_signal() as stopping,
    ):
        read = [_read(trainer, params, folder, i) for i in range(runs)]
        # asked of all, before anyone adds to them: what one process cannot read, none has
        there = everywhere([result is not None for result in read]).all(axis=0)
        of_all = np.flatnonzero(there).tolist()
        finished = {i: result for i in of_all if (result := read[i]) is not None}
        trainer.report.skip(len(finished) * config.num_steps)
        last = time.monotonic()
        found = store.restore(shapes.joined(_template(trainer)), free_axes=1)
        number = 0 if found is None else found.step

        def save(chunk: Chunk) -> None:
            nonlocal last, number
            stop = anywhere(bool(stopping))
            if stop or anywhere(time.monotonic() - last >= every):
                number += 1
                of = {"ids": chunk.ids, "records": chunk.records}
                store.save(number, shapes.joined(trainer.gather(chunk)), of)
                last = time.monotonic()
            if stop:
                store.wait()
                by = stopping[0] if stopping else signal.SIGTERM  # which another process got
                raise Stopped(
                    f"stopped by {by.name} after {len(finished)} of {runs} runs, with "
                    f"{len(chunk.ids)} more at step {chunk.records * config.record_every:,} "
                    f"of {config.num_steps:,}: run the same again to go on",
                    by,
                )

        def keep(results: dict[int, Result]) -> None:
            if jax.process_index() == 0:
                for i, result in results.items():
                    run_files.save(run_files.path_of(folder, i), result, facts(i))
            finished.update(results)
            together("sweep_folder: finished runs written")

        if found is not None and not set(found.facts["ids"]) <= set(finished):
            ids, records = found.facts["ids"], found.facts["records"]
            again = len(set(ids) & set(finished))  # killed while these were written
            trainer.report.skip(len(ids) * records * config.record_every - again * config.num_steps)
            there = shapes.parted(found.arrays)
            keep(trainer.train(trainer.resume(ids, records, there), save))
        missing = [i for i in range(runs) if i not in finished]
        for start in range(0, len(missing), size):
            ids = missing[start : start + size]
            keep(trainer.train(trainer.start(ids), save))
    return finished


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let nobody else train in this folder meanwhile, which must say whose it is."""
    if jax.process_index() > 0:
        yield
        return
    if any(folder.glob("runs/*.npz")) and not any(folder.glob("checkpoints/identity.json")):
        checks.fail(
            "folder", f"{folder}, with runs/ but without checkpoints/identity.json",
            "a folder that says of which sweep its runs are", "Take another, or delete all of it.",
        )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process
            except BlockingIOError:
                checks.fail("folder", f"{folder}, in which another process trains", "one at rest")
        yield


def _template(trainer: Trainer) -> dict[str, Any]:
    """Return what a checkpoint looks like, with some number of runs."""
    states, history = trainer.shapes(1)
    return {"states": jax.eval_shape(shapes.raw, states.leaves), "history": history}


def _read(trainer: Trainer, params: Mapping[str, Any], folder: Path, run: int) -> Result | None:
    """Return a run that is finished, or None."""
    path, task = run_files.path_of(folder, run), trainer.task
    if not path.is_file():
        return None
    try:
        return run_files.load(path, params, (*task.record_labels, *START), task.final_labels)
    except run_files.Damaged as error:
        warnings.warn(f"run {run} will be trained again: {error}", stacklevel=2)
        return None


@contextmanager
def _stop_signal() -> Iterator[list[signal.Signals]]:
    """Yield the signals to stop that come meanwhile; only the main thread can ask for them.

    The second Ctrl-C is what it was before: it interrupts at once.
    """
    came: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def ask(number: int, _: Any) -> None:
        came.append(signal.Signals(number))
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
            print("\nstopping at the next record; Ctrl-C again stops at once", file=sys.stderr)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
