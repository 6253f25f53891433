"""The trainer takes chunks of runs from their first step to their final numbers."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from linvae_jax import progress, sources, training
from linvae_jax._engine import divergence, shapes
from linvae_jax._engine.divergence import START
from linvae_jax._engine.executors import executor
from linvae_jax._engine.layouts import RunLayout


class Stopped(Exception):
    """A sweep was asked to stop by the signal `by`, has saved what it had, and can go on."""

    def __init__(self, message: str, by: signal.Signals) -> None:
        super().__init__(message)
        self.by = by


class Result(NamedTuple):
    """A result is kept of a finished run, by name; the history is (records, …), and has `START`."""

    params: dict[str, np.ndarray]
    history: dict[str, np.ndarray]
    final: dict[str, np.ndarray]


class ProgressReport:
    """The report writes beside the progress bar how fast the runs are and how they do."""

    def __init__(self, bar: Any, samples: int) -> None:
        self.bar, self.samples, self.before = bar, samples, time.monotonic()

    def skip(self, steps: int) -> None:
        """Count steps that an earlier process has done."""
        progress.skip(self.bar, steps)

    def segment(self, runs: int, steps: int, elbo: np.ndarray, lost: np.ndarray) -> None:
        """Tell of `steps` more of each of `runs` runs, of which some are lost (`divergence`)."""
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
class Chunk:
    """A chunk is some runs of the grid under way together."""

    ids: list[int]
    records: int  # how many records each has
    states: Any  # as the executor has them
    history: dict[str, np.ndarray]  # (runs, num_records, …), filled up to `records`; and `START`


@jax.jit
def _rows(rows: Any, of: Any) -> Any:
    """Take some rows of each array of a tree, in one program."""
    return jax.tree.map(lambda leaf: leaf[rows], of)


class Trainer:
    """The trainer trains chunks of runs, whose hyperparameters and keys have a leading axis.

    Segment t of every chunk trains on the data that `sources.Source.segments` has for t.
    """

    def __init__(
        self,
        task: training.Task,
        config: training.TrainConfig,
        data: Any,
        hyper: training.Hyperparameters,
        keys: Any,
        layout: RunLayout,
        report: ProgressReport,
    ) -> None:
        self.task, self.config, self.layout = task, config, layout
        self.hyper, self.keys, self.data = hyper, keys, data
        self.report = report
        self.executor = executor(task, config, layout)
        self.source = sources.Source(data, self.executor.replicate)

    def _padded(self, ids: list[int]) -> np.ndarray:
        """Return the runs, and the last once more where devices would idle."""
        return np.array(ids + ids[-1:] * (-len(ids) % self.layout.devices))

    def _inputs(self, ids: list[int]) -> Any:
        """Place the hyperparameters and the keys of these runs."""
        return map(self.executor.place, _rows(self._padded(ids), (self.hyper, self.keys)))

    @cached_property
    def _shape(self) -> tuple[shapes.Shape, shapes.Shape]:
        """The shapes of a run's state and record; traces its programs, which takes a second."""
        one = self.task, self.config

        def init(data: Any, hyper: Any, keys: Any) -> Any:
            return training.init(*one, data, *shapes.first((hyper, keys)))

        state = shapes.shape_of(init, self.data, self.hyper, self.keys)

        def record(data: Any, hyper: Any, leaves: list[Any]) -> Any:
            there = jax.tree.unflatten(state.structure, leaves)
            return training.segment(*one, data, shapes.first(hyper), there)[1]

        return state, shapes.shape_of(record, self.data, self.hyper, list(state.leaves.values()))

    def shapes(self, runs: int) -> tuple[shapes.Shape, dict[str, jax.ShapeDtypeStruct]]:
        """Return the shapes of the states and of the history of a chunk."""
        states, record = (shapes.of_runs(runs, one) for one in self._shape)
        length = self.config.num_records
        history = {
            name: jax.ShapeDtypeStruct((runs, length, *leaf.shape[1:]), leaf.dtype)
            for name, leaf in record.leaves.items()
        }
        return states, history | {name: record.leaves[of] for name, of in START.items()}

    def start(self, ids: list[int]) -> Chunk:
        """Return a chunk before its first step."""
        hyper, keys = self._inputs(ids)
        _, history = self.shapes(len(ids))
        values = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in history.items()}
        with self.source.segments(0, 1) as stream:
            states, record = self.executor.begin(next(stream), hyper, keys)
        begun = {name: leaf[: len(ids)] for name, leaf in self.executor.host(record).items()}
        return Chunk(ids, 0, states, values | begun)

    def gather(self, chunk: Chunk) -> dict[str, Any]:
        """Return all that is needed to go on: arrays whose leading axis is the chunk's runs."""
        states, count = self.executor.gather(chunk.states), len(chunk.ids)
        return {
            "states": {name: leaf[:count] for name, leaf in states.items()},
            "history": chunk.history,
        }

    def resume(self, ids: list[int], records: int, gathered: dict[str, Any]) -> Chunk:
        """Return a chunk from what `gather` gave, maybe on another layout."""
        rows = self._padded(list(range(len(ids))))
        states, _ = self.shapes(len(rows))
        padded = {name: np.asarray(leaf)[rows] for name, leaf in gathered["states"].items()}
        history = {name: np.array(values) for name, values in gathered["history"].items()}
        return Chunk(ids, records, self.executor.scatter(padded, states), history)

    def _lost(self, chunk: Chunk, hyper: training.Hyperparameters) -> np.ndarray:
        """Return which of a chunk's runs are lost at the record just made, (runs,)."""
        here, history = chunk.records, chunk.history
        steps = self.config.record_every * np.array([here + 1])
        last = {name: history[name][:, here : here + 1] for name in divergence.JUDGED}
        return divergence.lost(self.task, self.data, hyper, steps, history | last)[:, 0]

    def _final(self, hyper: Any, states: Any) -> dict[str, np.ndarray]:
        """Return the final numbers of trained models, measured on all data."""
        if not self.task.final_labels:
            return {}

        def totals(piece: tuple[int, Any]) -> Any:
            first, data = piece
            # done with these rows before the next come
            return jax.block_until_ready(self.executor.totals(data, first, states))

        total: tuple[Any, ...] = ()
        with self.source.pieces() as pieces:
            for found in map(totals, pieces):
                total = (self.executor.merge(*total, found) if total else found,)
        with self.source.segments(0, 1) as stream:
            return self.executor.host(self.executor.finish(next(stream), hyper, states, *total))

    def train(
        self, chunk: Chunk, after: Callable[[Chunk], None] | None = None
    ) -> dict[int, Result]:
        """Train to the end, calling `after` after each segment but the last."""
        config, count = self.config, len(chunk.ids)
        hyper, _ = self._inputs(chunk.ids)
        # before the loop, because taking rows takes as long as a short segment
        known, _ = _rows(np.array(chunk.ids), (self.hyper, self.keys))
        with self.source.segments(chunk.records, config.num_records) as stream:
            while chunk.records < config.num_records:
                data = next(stream)
                chunk.states, records = self.executor.segment(data, hyper, chunk.states)
                for name, values in self.executor.host(records).items():
                    chunk.history[name][:, chunk.records] = values[:count]
                del data  # makes room for the window after the next
                elbo = chunk.history["elbo"][:, chunk.records]
                self.report.segment(count, config.record_every, elbo, self._lost(chunk, known))
                chunk.records += 1
                if after is not None and chunk.records < config.num_records:
                    after(chunk)
        final = self._final(hyper, chunk.states)
        params = self.executor.host(self.executor.params(chunk.states))

        def of(row: int, leaves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: np.asarray(leaf[row]) for name, leaf in leaves.items()}

        return {
            i: Result(of(row, params), of(row, chunk.history), of(row, final))
            for row, i in enumerate(chunk.ids)
        }
