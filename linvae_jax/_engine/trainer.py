"""Training runs in chunks, and what a chunk under way consists of: the engine of `sweeps`."""

import itertools
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import Any, NamedTuple

import jax
import numpy as np

from linvae_jax import training, windowed
from linvae_jax._engine import divergence, parallel

# name in a history besides the task's records → of what: from before the first step
START = {f"start_{name}": name for name in training.START}


def started(record: dict[str, np.ndarray], runs: int) -> dict[str, np.ndarray]:
    """Part of the history of the first so many runs, from their record before the first step."""
    return {name: record[of][:runs] for name, of in START.items()}


class Stopped(Exception):
    """A sweep was asked to stop, has saved what it had, and can go on.

    Attributes:
        by: the signal.
    """

    def __init__(self, message: str, by: signal.Signals) -> None:
        super().__init__(message)
        self.by = by


@jax.jit
def _rows(rows: Any, of: Any) -> Any:
    """Some rows of each array of a tree, in one program."""
    return jax.tree.map(lambda leaf: leaf[rows], of)


class Result(NamedTuple):
    """Of a finished run: parameters by name, history (records, …) and `START`, final numbers."""

    params: dict[str, np.ndarray]
    history: dict[str, np.ndarray]
    final: dict[str, np.ndarray]


class Look:
    """What the progress bar shows."""

    def __init__(self, bar: Any, samples: int) -> None:
        self.bar, self.samples, self.before = bar, samples, time.monotonic()

    def skip(self, steps: int) -> None:
        """Steps that an earlier process has done: no part of the rate."""
        self.bar.n = self.bar.initial = self.bar.n + steps
        self.bar.refresh()

    def segment(self, runs: int, steps: int, elbo: np.ndarray, lost: np.ndarray) -> None:
        """`steps` more of each of `runs` runs, of which some are lost (`divergence`)."""
        now = time.monotonic()
        rate = runs * steps * self.samples / max(now - self.before, 1e-9)
        self.before = now
        fine = elbo[~lost]
        parts = [
            f"{rate:,.0f} data/s" if self.samples else "",
            f"ELBO {fine.min():.2f} to {fine.max():.2f}" if fine.size else "",
            f"{elbo.size - fine.size} diverged" if fine.size < elbo.size else "",
        ]
        self.bar.set_postfix_str(", ".join(p for p in parts if p), refresh=False)
        self.bar.update(runs * steps)


@dataclass
class Progress:
    """A chunk of runs under way.

    Attributes:
        ids: which runs of the grid.
        records: how many records each has.
        states: as the executor holds them.
        history: name → (runs, num_records, …), filled up to `records`; and `START`.
    """

    ids: list[int]
    records: int
    states: Any
    history: dict[str, np.ndarray]


class Trainer:
    """Trains chunks of runs whose hyperparameters and keys have a leading axis.

    Data in windows: segment t of every chunk trains on window t, while the next is read and put on
    the device.
    """

    def __init__(
        self,
        task: training.Task,
        config: training.TrainConfig,
        data: Any,
        hyper: training.Hyperparameters,
        keys: Any,
        layout: parallel.Layout,
        look: Look,
    ) -> None:
        self.look = look
        self.task, self.config, self.layout = task, config, layout
        self.hyper, self.keys, self.data = hyper, keys, data
        self.executor = parallel.Executor(task, config, layout)
        self.windows = windowed.find(data)
        self.placed = windowed.resident(self.executor.replicate, data)
        if self.windows is not None:
            seen, rows = config.num_records * self.windows.size, self.windows.shape[0]
            if seen < rows:
                warnings.warn(
                    f"trains on {seen:,} of {rows:,} rows: {config.num_records} windows of "
                    f"{self.windows.size:,}, one for each record. For all rows, record more often "
                    "or take larger windows.",
                    stacklevel=3,
                )

    @contextmanager
    def _stream(self, start: int, stop: int) -> Iterator[Iterator[Any]]:
        """Data on the device for one segment after another."""
        if self.windows is None:
            yield itertools.repeat(self.placed)
            return
        with self.windows.prefetch(start, stop, self.executor.replicate) as stream:
            # unlike a generator, `map` holds no window while the next is waited for
            yield map(partial(windowed.fill, self.placed), stream)

    def _finish(self, hyper: Any, states: Any) -> Any:
        """What the task wants to know of trained models, from all data."""
        if self.windows is None:
            return self.executor.finish(self.placed, hyper, states)

        def tally(piece: tuple[int, Any]) -> Any:
            first, rows = piece
            found = self.executor.tally(windowed.fill(self.placed, rows), first, states)
            return jax.block_until_ready(found)  # done with these rows before the next come

        with self.windows.pieces(self.executor.replicate) as pieces:
            total = reduce(self.executor.merge, map(tally, pieces))
        with self._stream(0, 1) as stream:
            return self.executor.conclude(next(stream), hyper, states, total)

    def _padded(self, ids: list[int]) -> list[int]:
        """As many runs as there must be: the last once more where devices would idle."""
        return ids + ids[-1:] * (-len(ids) % self.layout.devices)

    def _inputs(self, ids: list[int]) -> tuple[Any, Any]:
        rows = np.array(self._padded(ids))
        return _rows(rows, (self.hyper, self.keys))

    @cached_property
    def _shape(self) -> tuple[parallel.Shape, parallel.Shape]:
        """State and records of a run; traces its programs, which takes a second."""
        return self.executor.shapes(self.data, self.hyper, self.keys)

    def shapes(self, runs: int) -> tuple[parallel.Shape, dict[str, jax.ShapeDtypeStruct]]:
        """States and history of a chunk."""
        states, record = (parallel.of_runs(runs, one) for one in self._shape)
        length = self.config.num_records
        history = {
            name: jax.ShapeDtypeStruct((runs, length, *leaf.shape[1:]), leaf.dtype)
            for name, leaf in record.leaves.items()
        }
        return states, history | {name: record.leaves[of] for name, of in START.items()}

    def param_shape(self) -> parallel.Shape:
        """Parameters of one run."""
        return parallel.shape_of(self.task.init, self.data, parallel.one_of(self.keys), 1.0)

    def start(self, ids: list[int]) -> Progress:
        """A chunk before its first step."""
        hyper, keys = map(self.executor.place, self._inputs(ids))
        _, history = self.shapes(len(ids))
        empty = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in history.items()}
        with self._stream(0, 1) as stream:
            states, record = self.executor.begin(next(stream), hyper, keys)
        begun = started(self.executor.host(record), len(ids))
        return Progress(ids, 0, states, empty | begun)

    def gather(self, progress: Progress) -> dict[str, Any]:
        """All that is needed to go on: arrays whose leading axis is the chunk's runs."""
        states, count = self.executor.gather(progress.states), len(progress.ids)
        return {
            "states": {name: leaf[:count] for name, leaf in states.items()},
            "history": progress.history,
        }

    def resume(self, ids: list[int], records: int, gathered: dict[str, Any]) -> Progress:
        """A chunk from what `gather` gave, maybe on another layout."""
        rows = np.array(self._padded(list(range(len(ids)))))
        states, _ = self.shapes(len(rows))
        padded = {name: np.asarray(leaf)[rows] for name, leaf in gathered["states"].items()}
        history = {name: np.array(values) for name, values in gathered["history"].items()}
        return Progress(ids, records, self.executor.scatter(padded, states), history)

    def _lost(self, progress: Progress, hyper: training.Hyperparameters) -> np.ndarray:
        """Which of a chunk's runs are lost at the record just made, (runs,)."""
        here, history = progress.records, progress.history
        steps = self.config.record_every * np.array([here + 1])
        measured = {name: history[name][:, here : here + 1] for name in divergence.JUDGED}
        start = {of: history[name] for name, of in START.items()}
        return divergence.lost(self.task, self.data, hyper, steps, start, measured)[:, 0]

    def train(
        self, progress: Progress, after: Callable[[Progress], None] | None = None
    ) -> dict[int, Result]:
        """To the end; `after` is called after each segment but the last."""
        config, count = self.config, len(progress.ids)
        hyper, _ = map(self.executor.place, self._inputs(progress.ids))
        # before the loop, because taking rows takes as long as a short segment
        known, _ = _rows(np.array(progress.ids), (self.hyper, self.keys))
        with self._stream(progress.records, config.num_records) as stream:
            while progress.records < config.num_records:
                data = next(stream)
                progress.states, records = self.executor.segment(data, hyper, progress.states)
                for name, values in self.executor.host(records).items():
                    progress.history[name][:, progress.records] = values[:count]
                del data  # makes room for the window after the next
                elbo = progress.history["elbo"][:, progress.records]
                self.look.segment(count, config.record_every, elbo, self._lost(progress, known))
                progress.records += 1
                if after is not None and progress.records < config.num_records:
                    after(progress)
        final = self.executor.host(self._finish(hyper, progress.states))
        params = self.executor.host(self.executor.params(progress.states))

        def of(row: int, leaves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: np.asarray(leaf[row]) for name, leaf in leaves.items()}

        return {
            i: Result(of(row, params), of(row, progress.history), of(row, final))
            for row, i in enumerate(progress.ids)
        }
