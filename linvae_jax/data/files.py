"""Your own arrays come from `.npy` and `.npz` files. Pickled data are never read."""

import hashlib
from pathlib import Path

import numpy as np

from linvae_jax._internal import checks
from linvae_jax.data import dataset

MAGIC = {".npy": b"\x93NUMPY", ".npz": b"PK"}  # what a file of each format starts with


def load(path: Path) -> dataset.Dataset:
    """Load the array of a file, one datum per row."""
    name = str(path)
    if not path.is_file():
        got = "a directory" if path.is_dir() else "no such file"
        checks.fail(name, got, f"an existing {path.suffix} file")
    array = _read(path)
    checks.numbers(name, array)
    if array.ndim < 2 or array.size == 0:
        checks.fail(
            name,
            f"an array of shape {array.shape}",
            "at least two dimensions, (N, ...), none empty: one datum per row",
        )
    x = array.reshape(len(array), -1)
    checks.finite(name, x)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return dataset.Dataset(
        name=path.name,
        images=_plain(name, x),
        labels=None,
        image_shape=array.shape[1:] if array.ndim > 2 else None,
        source=f"{path.name}, sha256 {digest}",
    )


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


def _read(path: Path) -> np.ndarray:
    name = str(path)
    expected = f"an array in NumPy's {path.suffix} format"
    with path.open("rb") as file:
        magic = file.read(6)
    if not magic:
        checks.fail(name, "an empty file", expected)
    if not magic.startswith(MAGIC[path.suffix]):
        hint = "Pickled data are never read: save with np.save or np.savez."
        checks.fail(name, f"a file that starts with {magic!r}", expected, hint)

    if path.suffix == ".npy":
        with dataset.readable(name, expected):
            # mapped, a file shorter than it says is an error at once, whatever length it says
            return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    with path.open("rb") as file:  # here, because NumPy leaves it open if it is not a zip
        with dataset.readable(name, expected):
            stored = np.load(file, allow_pickle=False)
        keys = stored.files
        key = "x" if "x" in keys else keys[0] if len(keys) == 1 else None
        if key is None:
            got = f"{len(keys)} arrays: {', '.join(keys) or 'none'}"
            checks.fail(name, got, "one array, or one of them named x")
        with dataset.readable(name, expected):
            return stored[key]
