"""Data larger than a device or than memory, by windows: random subsets that are read ahead.

A compiled segment of training draws its batches from one window while a thread reads the next, so
that reading costs nothing unless it takes longer than the segment. The data stay where they are,
typically in an array mapped from a file (`datasets.load("celeba")`, `np.load(mmap_mode="r")`).

>>> import numpy as np
>>> from linvae_jax.data.windows import Windows, prefetch
>>> windows = Windows(np.arange(10).reshape(5, 2), size=2, seed=0)
>>> with prefetch(windows, start=3) as stream:  # a run that is resumed sees the same windows
...     (next(stream) == windows.window(3)).all()
np.True_
"""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int, Real

from linvae_jax import _checks
from linvae_jax.data.ahead import ahead


@dataclass(frozen=True, eq=False)
class Windows:
    """How data are cut into an endless sequence of windows: by shuffled epochs, end to end.

    Every row is seen equally often: after any number of windows, the numbers of times that two
    rows were seen differ by at most one. A window that lies across the end of an epoch may hold a
    row twice.

    Attributes:
        values: (N, n), in memory or mapped from a file.
        size: rows of a window. With N or more there is one window, the data as they are.
        seed: decides the shuffling, ≥ 0.
    """

    values: Real[np.ndarray, "N n"]
    size: int
    seed: int

    def __post_init__(self) -> None:
        """Raise `ValueError` for data that are not (N, n), size < 1 or seed < 0."""
        _checks.numeric("values", self.values)
        _checks.shape("values", self.values, ("N", "n"))
        _checks.in_range("size", self.size, 1, 2**63 - 1, "a number of rows")
        _checks.in_range("seed", self.seed, 0, 2**63 - 1, "as NumPy's generators want it")

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
        _checks.in_range("t", t, 0, 2**63 - 1, "a number of a window")
        # a plain array over the same memory: rows of a memmap would be of that class
        values = np.asarray(self.values)
        return values if self.resident else values[self._rows(t)]

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
    windows: Windows, start: int = 0, device: Any = None
) -> Iterator[Iterator[Real[np.ndarray, "size n"] | Array]]:
    """Windows `start`, `start` + 1, … without end, each read by a thread while you use the last.

    Two windows are held at a time, the one in use and the next. If the data are `resident`,
    it is the same array every time, and there is no thread.

    Args:
        windows: which.
        start: number of the first window.
        device: where the thread puts them, a JAX device or sharding; by default they are NumPy
            arrays.

    Yields:
        An iterator of (size, n) arrays, valid inside the context. An error in reading is raised
        where the window is asked for; leaving waits for a window that is half read.

    Raises:
        ValueError: start < 0.
    """
    _checks.in_range("start", start, 0, 2**63 - 1, "a number of a window")

    def fetch(t: int) -> Any:
        window = windows.window(t)
        # waited for, so that the copy too is over when the window is asked for
        return window if device is None else jax.block_until_ready(jax.device_put(window, device))

    if windows.resident:
        yield itertools.repeat(fetch(start))
    else:
        with ahead(fetch, itertools.count(start)) as stream:
            yield stream
