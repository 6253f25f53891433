"""Data of which a window at a time is on the device: what training asks of them.

A leaf of a task's data may be `Windowed` instead of an array (N, n); `data.windows.Windows` is.
Compiled programs see a window (size, n) in its place, another one in each segment of training.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from linvae_jax._internal import checks

# puts a NumPy array where it is wanted
Put = Callable[[np.ndarray], Any]


@runtime_checkable
class Windowed(Protocol):
    """Values in memory or in a file, and how they are cut into windows.

    Attributes:
        values: (N, n), all of them, as they came.
        size: rows of a window, unless there are fewer.
        seed: decides with `size` which rows are in which window.
        shape: (N, n).
        dtype: of the rows of a window.
    """

    @property
    def values(self) -> np.ndarray: ...  # noqa: D102  # in the class's docstring
    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def dtype(self) -> np.dtype: ...  # noqa: D102

    def less(self, mean: Any) -> "Windowed":
        """The same rows as floats with their mean (n,) taken off, in all but `values`."""
        ...

    def prefetch(
        self, start: int, stop: int | None, put: Put | None
    ) -> AbstractContextManager[Iterator[Any]]:
        """Windows `start`, …, `stop` − 1, where `put` puts them, each read ahead by a thread."""
        ...

    def pieces(self, put: Put | None) -> AbstractContextManager[Iterator[tuple[int, Any]]]:
        """All rows once, in order, `size` at a time: (index of the first, rows), read ahead."""
        ...


def whole(values: Any) -> Any:
    """All values, in windows or not."""
    return values.values if isinstance(values, Windowed) else values


def spread(total: int, count: int) -> np.ndarray:
    """Indices of at most `count` rows, evenly over a set that may be sorted by class.

    Raises:
        ValueError: count < 1.
    """
    checks.in_range("count", count, 1, 2**31 - 1, "at least one")
    count = min(count, total)
    return (np.arange(count) * (total / count)).astype(np.int32)


def find(data: Any) -> Windowed | None:
    """The leaf that is in windows.

    Raises:
        ValueError: more than one is.
    """
    found = [leaf for leaf in jax.tree.leaves(data) if isinstance(leaf, Windowed)]
    if len(found) > 1:
        checks.fail("data", f"{len(found)} arrays in windows", "at most one")
    return found[0] if found else None


def fill(data: Any, values: Any) -> Any:
    """The data with `values` in place of the windows."""
    return jax.tree.map(lambda leaf: values if isinstance(leaf, Windowed) else leaf, data)


def resident(function: Callable[[Any], Any], data: Any) -> Any:
    """`function` of every leaf but the windows, which stay where they are."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, Windowed) else function(leaf), data)


def window_shape(windows: Windowed) -> jax.ShapeDtypeStruct:
    """Of a window on the device: (size, n)."""
    N, *rest = windows.shape
    dtype = jax.dtypes.canonicalize_dtype(windows.dtype)
    return jax.ShapeDtypeStruct((min(windows.size, N), *rest), dtype)


def traceable(tree: Any) -> Any:
    """The tree with the shape of a window in place of all windows."""
    return jax.tree.map(
        lambda leaf: window_shape(leaf) if isinstance(leaf, Windowed) else leaf, tree
    )
