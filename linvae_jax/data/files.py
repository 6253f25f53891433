"""Your own arrays come from `.npy` and `.npz` files. Pickled data are never read."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from linvae_jax._internal import checks
from linvae_jax.data import dataset

MAGIC = {".npy": b"\x93NUMPY", ".npz": b"PK"}  # what a file of each format starts with


def load(path: Path) -> dataset.Dataset:
    """Load the array of a file, one datum per row."""
    array, source = load_array(path)
    return dataset.Dataset(
        name=path.name,
        images=_plain(str(path), array.reshape(len(array), -1)),
        labels=None,
        image_shape=array.shape[1:] if array.ndim > 2 else None,
        source=source,
    )


def load_array(path: Path) -> tuple[np.ndarray, str]:
    """Load the array of a file as it is there, (N, ...), and say where it comes from."""
    name = str(path)
    _check_there(path)
    array = _read(path)
    checks.numbers(name, array)
    if array.ndim < 2 or array.size == 0:
        checks.fail(
            name,
            f"an array of shape {array.shape}",
            "at least two dimensions, (N, ...), none empty: one datum per row",
        )
    checks.finite(name, array)
    return array, _source(path)


def load_named(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """Load all arrays of a .npz file by name, and say where they come from.

    Raises:
        ValueError: no such file, another format, or arrays that cannot be read.
    """
    if path.suffix != ".npz":
        checks.fail(str(path), f"a name that ends in {path.suffix!r}", "a .npz file")
    _check_there(path)
    with _stored(path) as stored, dataset.readable(str(path), _expected(path)):
        return {key: stored[key] for key in stored.files}, _source(path)


def _check_there(path: Path) -> None:
    if not path.is_file():
        got = "a directory" if path.is_dir() else "no such file"
        checks.fail(str(path), got, f"an existing {path.suffix} file")


def _source(path: Path) -> str:
    with path.open("rb") as file:
        return f"{path.name}, sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"


def _plain(name: str, x: np.ndarray) -> np.ndarray:
    """Keep integers, float32 and float64, in native byte order; any other becomes float64."""
    if x.dtype.kind in "iu" or x.dtype in (np.float32, np.float64):
        return x.astype(x.dtype.newbyteorder("="), copy=False)
    with np.errstate(over="ignore", under="ignore"):  # of long double
        plain = x.astype(np.float64)
    limits, largest = np.finfo(np.float64), np.abs(x).max()
    if largest > limits.max or 0 < largest < limits.tiny:
        checks.fail(
            name, f"numbers of which the largest is {largest:.3g}", "numbers that float64 holds",
            "Rescale them.",
        )  # fmt: skip
    return plain


def _check_format(path: Path) -> None:
    with path.open("rb") as file:
        magic = file.read(6)
    if not magic:
        checks.fail(str(path), "an empty file", _expected(path))
    if not magic.startswith(MAGIC[path.suffix]):
        hint = "Pickled data are never read: save with np.save or np.savez."
        checks.fail(str(path), f"a file that starts with {magic!r}", _expected(path), hint)


def _expected(path: Path) -> str:
    return f"an array in NumPy's {path.suffix} format"


@contextlib.contextmanager
def _stored(path: Path) -> Iterator[Any]:
    """Open a .npz file for a while; arrays are read when they are taken from it."""
    _check_format(path)
    with path.open("rb") as file:  # here, because NumPy leaves it open if it is not a zip
        with dataset.readable(str(path), _expected(path)):
            stored = np.load(file, allow_pickle=False)
        yield stored


def _read(path: Path) -> np.ndarray:
    name = str(path)
    if path.suffix == ".npy":
        _check_format(path)
        with dataset.readable(name, _expected(path)):
            # mapped, a file shorter than it says is an error at once, whatever length it says
            return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    with _stored(path) as stored:
        keys = stored.files
        key = "x" if "x" in keys else keys[0] if len(keys) == 1 else None
        if key is None:
            got = f"{len(keys)} arrays: {', '.join(keys) or 'none'}"
            checks.fail(name, got, "one array, or one of them named x")
        with dataset.readable(name, _expected(path)):
            return stored[key]
