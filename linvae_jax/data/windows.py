"""Data larger than a device or than memory, by windows: random subsets that are read ahead.

A compiled segment of training draws its batches from one window while a thread reads the next, so
that reading costs nothing unless it takes longer than the segment. The data stay where they are,
typically in an array mapped from a file (`datasets.load("celeba")`, `np.load(mmap_mode="r")`).

>>> import numpy as np
>>> from linvae_jax.data.windows import Windows
>>> windows = Windows(np.arange(10).reshape(5, 2), size=2, seed=0)
>>> with windows.prefetch(start=3) as stream:  # a run that is resumed sees the same windows
...     (next(stream) == windows.window(3)).all()
np.True_

`network_task.prepare` takes windows in place of an array, and `sweeps.run` trains on them.
"""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, Real

from linvae_jax._internal import arrays, checks
from linvae_jax.data.ahead import ahead
from linvae_jax.windowed import Put


@dataclass(frozen=True, eq=False)
class Windows:
    """How data are cut into an endless sequence of windows: by shuffled epochs, end to end.

    Every row is seen equally often: after any number of windows, the numbers of times that two
    rows were seen differ by at most one. A window that lies across the end of an epoch may hold a
    row twice.

    Attributes:
        values: (N, n), in memory or mapped from a file.
        size: rows of a window. With N or more there is one window, the data as they are.
        seed: decides the shuffling, ≥ 0. It is a seed of NumPy's generators and no key of JAX: rows
            are chosen on the host by permutations of N numbers, which may be too many for the
            device. That stream is independent of all of JAX's, also of keys of the same seed.
        mean: (n,), taken off the rows of windows and pieces, in the precision of `values`, before
            they become floats (`less`); None leaves them as they are.
    """

    values: Real[np.ndarray, "N n"]
    size: int
    seed: int
    mean: Float[np.ndarray, "n"] | None = None

    def __post_init__(self) -> None:
        """Raise `ValueError` for data that are not (N, n), size < 1 or seed < 0."""
        values = checks.numbers("values", self.values)
        checks.shape("values", values, ("N", "n"))
        object.__setattr__(self, "values", values if values is self.values else np.asarray(values))
        checks.in_range("size", self.size, 1, 2**63 - 1, "a number of rows")
        checks.in_range("seed", self.seed, 0, 2**63 - 1, "as NumPy's generators want it")

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, n)."""
        return self.values.shape

    @property
    def dtype(self) -> np.dtype:
        """Of the rows of a window."""
        return self.values.dtype if self.mean is None else arrays.float_dtype(self.values.dtype)

    def less(self, mean: Float[np.ndarray, "n"]) -> "Windows":
        """The same windows of x − mean."""
        return replace(self, mean=mean)

    def _finished(self, rows: np.ndarray) -> np.ndarray:
        if self.mean is None:
            return rows
        return arrays.host_less("values", rows, self.mean, self.dtype)

    @property
    def resident(self) -> bool:
        """Whether one window holds all data, so that nothing is ever read again."""
        return self.size >= len(self.values)

    def window(self, t: int) -> Real[np.ndarray, "size n"]:
        """Window t = 0, 1, …: a pure function of (seed, t).

        Rows are in the order of the data, because reading a file from front to back is faster;
        draw batches from a window at random. Takes time and 8 N bytes to shuffle N numbers.

        Args:
            t: number of the window, ≥ 0.

        Returns:
            (size, n), a copy; or all data, not copied, if `resident`.

        Raises:
            ValueError: t < 0.
        """
        checks.in_range("t", t, 0, 2**63 - 1, "a number of a window")
        # a plain array over the same memory: rows of a memmap would be of that class
        values = np.asarray(self.values)
        return self._finished(values if self.resident else values[self._rows(t)])

    def _rows(self, t: int) -> Int[np.ndarray, "size"]:
        # the window's places in the epochs laid end to end; no more than two of them
        total, start = len(self.values), t * self.size
        epoch, offset = divmod(start, total)
        rows = self._shuffled(epoch)[offset : offset + self.size]
        if len(rows) < self.size:
            rows = np.concatenate([rows, self._shuffled(epoch + 1)[: self.size - len(rows)]])
        return np.sort(rows)

    def _shuffled(self, epoch: int) -> Int[np.ndarray, "N"]:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.values))

    @contextlib.contextmanager
    def prefetch(
        self, start: int = 0, stop: int | None = None, put: Put | None = None
    ) -> Iterator[Iterator[Any]]:
        """Windows `start`, `start` + 1, …, each read by a thread while you use the last.

        Two windows are held at a time, the one in use and the next, if you let go of the one
        before you ask for the other. If the data are `resident`, it is the same array every time,
        and there is no thread.

        Args:
            start: number of the first window.
            stop: number after the last; by default there is no end.
            put: called by the thread with each window, for instance `jnp.asarray` to put it on the
                device; by default they are NumPy arrays.

        Yields:
            An iterator of (size, n) arrays, valid inside the context. An error in reading is raised
            where the window is asked for; leaving waits for a window that is half read.

        Raises:
            ValueError: start < 0.
        """
        checks.in_range("start", start, 0, 2**63 - 1, "a number of a window")
        numbers = itertools.count(start) if stop is None else range(start, stop)
        if self.resident:
            whole = _placed(self.window(start), put)
            yield (whole for _ in numbers)
        else:
            with ahead(lambda t: _placed(self.window(t), put), numbers) as stream:
                yield stream

    @contextlib.contextmanager
    def pieces(self, put: Put | None = None) -> Iterator[Iterator[tuple[int, Any]]]:
        """All rows once, in the order of the data, `size` at a time, each read ahead.

        Args:
            put: as for `prefetch`.

        Yields:
            An iterator of (index of the first row, (size, n) array), the last maybe shorter, valid
            inside the context.
        """

        def fetch(first: int) -> tuple[int, Any]:
            # a copy: of a mapped file a view would leave the reading to whoever looks at it
            rows = np.array(self.values[first : first + self.size])
            return first, _placed(self._finished(rows), put)

        with ahead(fetch, range(0, len(self.values), self.size)) as stream:
            yield stream


def _placed(rows: np.ndarray, put: Put | None) -> Any:
    # waited for, so that the copy too is over when the rows are asked for
    return rows if put is None else jax.block_until_ready(put(rows))
