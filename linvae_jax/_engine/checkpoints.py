"""Long runs are saved atomically, checked to the bit, and read on any number of devices.

A `Store` is a folder with the newest few saves of one run. Orbax writes them in the background,
shard by shard from every process, into a folder that gets its name only when it is complete: a
process killed at any moment leaves the last complete save. What Orbax does not do is done here:
the folder knows which run it belongs to, each save carries checksums of its arrays, taken from
memory before the write, and a save that fails them is never returned.

Restored arrays are whole NumPy arrays in every process, so that a run may go on with another
number of devices. One run at a time may write to a folder.

>>> import tempfile, numpy as np
>>> from linvae_jax._engine import checkpoints
>>> with tempfile.TemporaryDirectory() as folder:
...     with checkpoints.Store(folder, {"run": "example"}) as store:
...         store.save(10, {"W": np.ones((3, 2))}, facts={"seed": 0})
...         restored = store.restore()
>>> restored.step, restored.arrays["W"].sum(), restored.facts
(10, np.float64(6.0), {'seed': 0})
"""

import errno
import logging
import shutil
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakSet

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from linvae_jax._engine import saves
from linvae_jax._engine.identity import as_json, claim
from linvae_jax._engine.processes import anywhere
from linvae_jax._internal import checks

# bytes on disk besides those of the arrays, blocks half full and descriptions: where blocks are
# 4 kB, 70,000 for a few arrays to 160,000 for a hundred
_BESIDES = 2**18

# Orbax tells its progress through absl, on stderr, and its errors too, though it raises them
_ORBAX = str(Path(ocp.__file__).parent)
logging.getLogger("absl").addFilter(lambda record: not record.pathname.startswith(_ORBAX))


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Return whether asyncio tells of another task than Orbax's, which raises the first error."""
    trace = record.exc_info[2] if record.exc_info else None
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace)]
    return not any(file.startswith(_ORBAX) for file in files)


logging.getLogger("asyncio").addFilter(_not_of_orbax)


class Store:
    """A store has the saves of one run in one folder; its context waits for what is being written.

    With several processes every one of them calls every method, at the same point of the run, on
    a folder that all of them see.
    """

    def __init__(
        self, folder: str | Path, identity: Mapping[str, Any], keep: int = 2, longer: str = ""
    ):
        """Open the folder of a run, which `identity.claim` makes or knows again.

        The newest `keep` saves stay; with 1 there is nothing to fall back to.
        """
        if keep < 1:
            checks.fail("keep", keep, "a number of saves >= 1")
        self.folder = checks.path("folder", folder).absolute()
        claim(self.folder, identity, longer)
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                step_prefix="step",
                preservation_policy=preservation_policy.LatestN(n=keep),
                cleanup_tmp_directories=True,
                create=False,
                lightweight_initialize=True,  # or a damaged save would stop it here
            ),
        )
        self._damaged: list[int] = []
        _OPEN.add(self)

    def save(
        self, step: int, arrays: Mapping[str, Any], facts: Mapping[str, Any] | None = None
    ) -> None:
        """Save in the background; the arrays may be donated as soon as this returns.

        Waits for the save before it, also of another open store. On a CPU the write reads the
        arrays in place, so a call that donates them copies them instead, until it is done. Raises
        `OSError` where the save before it failed, or the disk has no room for this one.
        """
        for store in tuple(_OPEN):
            store.wait()
        for damaged in self._damaged:  # the run has gone back behind them
            self._manager.delete(damaged)
        self._damaged = []
        newest = self._manager.latest_step()
        if newest is not None and step <= newest:
            checks.fail("step", step, f"one after {newest}, the newest in {self.folder}")
        written, leaves = saves.describe(arrays)
        record = {"facts": as_json("facts", facts or {}), "leaves": leaves}
        self._check_room(written)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                tree=ocp.args.PyTreeSave(written),
                record=ocp.args.JsonSave({"record": record, "crc32": saves.crc_of_text(record)}),
            ),
            force=True,
        )

    def _check_room(self, arrays: Mapping[str, Any]) -> None:
        """Raise `OSError` where a save cannot fit.

        Orbax would find out in one of many threads, and as the others go on without the loop that
        started them, each prints a traceback ("Event loop is closed") that says nothing.
        """
        needed = sum(leaf.nbytes for leaf in arrays.values()) + _BESIDES + 2**10 * len(arrays)
        disk = shutil.disk_usage(self.folder)
        # a file system that does not know its size has no free space either
        if anywhere(disk.total > 0 and disk.free < needed):
            raise OSError(
                errno.ENOSPC,
                f"A save to {self.folder} failed: it needs up to {needed:,} bytes of disk, "
                f"{disk.free:,} are free. The saves before it are intact.",
            )

    def restore(
        self, template: Mapping[str, Any] | None = None, free_axes: int = 0
    ) -> saves.Restored | None:
        """Return the newest intact save, or None if nothing was saved yet.

        A damaged save is passed over with a warning, and deleted by the next `save`. Names, shapes
        and dtypes must be those of a template, but for the length of its first `free_axes` axes.
        """
        self.wait()
        faults: dict[int, str] = {}
        for step in reversed(_steps(self.folder)):
            restored: saves.Restored | None = None
            problem: Exception | None = None
            try:
                restored = saves.read(self.folder / f"step_{step}", step, template, free_axes)
            except (saves.Damaged, ValueError) as error:
                problem = error
            # what one process cannot read is damaged for all, or they would go on differently
            damaged = isinstance(problem, saves.Damaged)
            if anywhere(damaged):
                faults[step] = str(problem) if damaged else "another process could not read it"
                continue
            if problem is not None:
                raise problem
            if faults and jax.process_index() == 0:
                text = f"{self.folder}: going back to step {step}, since {_told(faults)}."
                warnings.warn(text, stacklevel=2)
            self._damaged = list(faults)
            return restored
        if faults:
            got, hint = f"{self.folder}, where {_told(faults)}", "Delete the folder to start again."
            checks.fail("folder", got, "at least one intact save", hint)
        return None

    def wait(self) -> None:
        """Wait until what was saved is on disk; if that fails, the saves before it are intact."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # each storage has its own types
            raise OSError(
                f"A save to {self.folder} failed ({saves.first_line(error)}). "
                "The saves before it are intact."
            ) from error

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self.wait()
        except OSError as failed:
            if error is None:
                raise
            error.add_note(f"Besides: {failed}")  # the body's own error is the one to see
        finally:
            self._manager.close()
            _OPEN.discard(self)


# one save at a time: between processes, Orbax's barriers have the same names in every folder
_OPEN: WeakSet[Store] = WeakSet()


def _steps(folder: Path) -> list[int]:
    """Return the complete saves, from old to new."""
    numbers = (entry.name.removeprefix("step_") for entry in folder.glob("step_*"))
    return sorted(int(number) for number in numbers if number.isdigit())


def _told(faults: Mapping[int, str]) -> str:
    return "; ".join(f"step {step} is damaged ({why})" for step, why in faults.items())
