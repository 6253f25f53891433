"""Data come to the device all at once, or a window of them at a time.

A task's data are a pytree, in which one array (N, n) may be `Windows`: random subsets of data that
are larger than a device or than memory. A compiled segment of training draws its batches from one
window while a thread reads the next, so that reading costs nothing unless it takes longer than the
segment. The data stay where they are, typically in an array mapped from a file
(`datasets.load("celeba")`, `np.load(mmap_mode="r")`).

>>> import numpy as np
>>> from linvae_jax.sources import Windows
>>> windows = Windows(np.arange(10).reshape(5, 2), size=2, seed=0)
>>> with windows.prefetch(start=3) as stream:  # a run that is resumed sees the same windows
...     (next(stream) == windows.window(3)).all()
np.True_

`network_task.prepare` takes windows in place of an array, and `sweeps.run` trains on them. Training
sees all kinds of data as a `Source`.
"""

import contextlib
import itertools
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, Real

from linvae_jax._internal import arrays, checks
from linvae_jax._internal.ahead import ahead

# puts a NumPy array where it is wanted
Put = Callable[[np.ndarray], Any]

_HASHED = 2**30  # bytes of data that are read whole to know them again


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows cut shuffled epochs of data, laid end to end, into an endless sequence.

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
            they become floats (`less`); None takes nothing off.
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
        """The shape of all data, (N, n)."""
        return self.values.shape

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the rows of a window."""
        return self.values.dtype if self.mean is None else arrays.float_dtype(self.values.dtype)

    @property
    def resident(self) -> bool:
        """One window holds all data, so that nothing is ever read again."""
        return self.size >= len(self.values)

    @property
    def on_device(self) -> jax.ShapeDtypeStruct:
        """The shape and dtype of a window on the device, (size, n)."""
        rows, *rest = self.shape
        dtype = jax.dtypes.canonicalize_dtype(self.dtype)
        return jax.ShapeDtypeStruct((min(self.size, rows), *rest), dtype)

    def less(self, mean: Any) -> "Windows":
        """Return the same windows of x − mean."""
        return replace(self, mean=mean)

    def window(self, t: int) -> Real[np.ndarray, "size n"]:
        """Return window t = 0, 1, …, which is a pure function of (seed, t).

        Rows are in the order of the data, because reading a file from front to back is faster;
        draw batches from a window at random. It takes time and 8 N bytes to shuffle N numbers. The
        result is a copy, or, if `resident`, all data, not copied.

        Raises:
            ValueError: t < 0.
        """
        checks.in_range("t", t, 0, 2**63 - 1, "a number of a window")
        return self[:] if self.resident else self[self._rows(t)]

    def __getitem__(self, places: Any) -> np.ndarray:
        # a plain array over the same memory: rows of a memmap would be of that class
        return self._centred(np.asarray(self.values)[places])

    def _centred(self, rows: np.ndarray) -> np.ndarray:
        if self.mean is None:
            return rows
        return arrays.host_less("values", rows, self.mean, self.dtype)

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
        """Yield windows `start`, `start` + 1, …, each read by a thread while you use the last.

        `start` is the number of the first window, `stop` the number after the last; with None there
        is no end. Two windows are held at a time, the one in use and the next, if you let go of the
        one before you ask for the other. If the data are `resident`, it is the same array every
        time, and there is no thread.

        `put` is called by the thread with each window, for instance `jnp.asarray` to put it on the
        device. By default windows are NumPy arrays (size, n). The iterator is valid inside the
        context. An error in reading is raised where the window is asked for. Leaving the context
        waits for a window that is half read.

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
        """Yield all rows once, in the order of the data, `size` at a time, each read ahead.

        The iterator gives pairs (index of the first row, rows), and is valid inside the context.
        The last piece may be shorter. `put` is as for `prefetch`.
        """

        def fetch(first: int) -> tuple[int, Any]:
            # a copy: of a mapped file a view would leave the reading to whoever looks at it
            rows = np.array(self.values[first : first + self.size])
            return first, _placed(self._centred(rows), put)

        with ahead(fetch, range(0, len(self.values), self.size)) as stream:
            yield stream


def _placed(rows: np.ndarray, put: Put | None) -> Any:
    # waited for, so that the copy too is over when the rows are asked for
    return rows if put is None else jax.block_until_ready(put(rows))


class Source:
    """A source has a task's data on the device: all the time, or each window when it is its turn.

    `put` moves one array, or the rows of one window, to the device.
    """

    def __init__(self, data: Any, put: Callable[[Any], Any]) -> None:
        self.windows, self.put = find(data), put
        self.data = jax.tree.map(
            lambda leaf: leaf if isinstance(leaf, Windows) else put(leaf), data
        )

    def _with(self, rows: Any) -> Any:
        return jax.tree.map(lambda leaf: rows if isinstance(leaf, Windows) else leaf, self.data)

    def _piece(self, piece: tuple[int, Any]) -> tuple[int, Any]:
        first, rows = piece
        return first, self._with(rows)

    @contextlib.contextmanager
    def segments(self, start: int, stop: int) -> Iterator[Iterator[Any]]:
        """Yield the data of the segments `start`, …, `stop` − 1 of training, one after another."""
        if self.windows is None:
            yield itertools.repeat(self.data)
        else:
            with self.windows.prefetch(start, stop, self.put) as stream:
                # unlike a generator, `map` holds no window while the next is waited for
                yield map(self._with, stream)

    @contextlib.contextmanager
    def pieces(self) -> Iterator[Iterator[tuple[int, Any]]]:
        """Yield pairs (index of the first row, data) that together hold all rows.

        There are none if each segment has all rows anyway.
        """
        if self.windows is None:
            yield iter(())
        else:
            with self.windows.pieces(self.put) as stream:
                yield map(self._piece, stream)


def find(data: Any) -> Windows | None:
    """Return the leaf of a pytree that is in windows, if any; more than one raise `ValueError`."""
    found = [leaf for leaf in jax.tree.leaves(data) if isinstance(leaf, Windows)]
    if len(found) > 1:
        checks.fail("data", f"{len(found)} arrays in windows", "at most one")
    return found[0] if found else None


def whole(values: Any) -> Any:
    """Return all values as they came, in windows or not."""
    return values.values if isinstance(values, Windows) else values


def traceable(tree: Any) -> Any:
    """Return the tree with the shape of a window in place of windows, as programs see it."""
    return jax.tree.map(lambda leaf: leaf.on_device if isinstance(leaf, Windows) else leaf, tree)


def facts(data: Any) -> dict[str, str]:
    """Return what a table says of how data come to the device; nothing of resident ones."""
    if (windows := find(data)) is None:
        return {}
    return {"windows": f"{windows.size} of {windows.shape[0]} rows, seed {windows.seed}"}


def bytes_ahead(data: Any) -> int:
    """Return the bytes of a device that windows take, the one in use and the next."""
    if (windows := find(data)) is None:
        return 0
    one = windows.on_device
    return 2 * one.size * one.dtype.itemsize


def warn_of_unseen(data: Any, records: int) -> None:
    """Warn where as many windows as records do not hold all rows."""
    if (windows := find(data)) is not None and records * windows.size < windows.shape[0]:
        warnings.warn(
            f"trains on {records * windows.size:,} of {windows.shape[0]:,} rows: {records} windows "
            f"of {windows.size:,}, one for each record. For all rows, record more often or take "
            "larger windows.",
            stacklevel=3,
        )


def fingerprint(data: Any) -> str:
    """Tell data apart by shapes, dtypes and a checksum, of a part where they are very large.

    How data are cut into windows is a part of what they are, because it decides what a run sees.
    """
    parts = []
    for leaf in jax.tree.leaves(data):
        array: np.ndarray = np.asarray(whole(leaf))
        stride = max(1, array.nbytes // _HASHED)
        part: Any = np.ascontiguousarray(array[::stride] if array.ndim else array)
        text = f"{array.dtype}{list(array.shape)}:{zlib.crc32(part):08x}"
        if isinstance(leaf, Windows):
            text += f" in windows of {leaf.size} by seed {leaf.seed}"
        parts.append(text)
    return " ".join(parts)


def spread(total: int, count: int) -> np.ndarray:
    """Return indices of at most `count` ≥ 1 rows, evenly over a set that may be sorted by class."""
    checks.in_range("count", count, 1, 2**31 - 1, "at least one")
    count = min(count, total)
    return (np.arange(count) * (total / count)).astype(np.int32)
