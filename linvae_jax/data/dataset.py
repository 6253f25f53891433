"""A data set is images and where they came from; packages ship some as files."""

import contextlib
import importlib
import importlib.metadata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Int, Real

from linvae_jax._internal import checks

# what reading a damaged file raises, whatever its format
UNREADABLE = (ValueError, EOFError, OSError, OverflowError, zipfile.BadZipFile, zlib.error)


@contextlib.contextmanager
def readable(name: str, expected: str) -> Iterator[None]:
    """Turn what reading a damaged file raises into one `ValueError`."""
    try:
        yield
    except UNREADABLE as error:
        hint = "Python objects are never read." if "bject" in str(error) else ""
        checks.fail(name, f"a file that cannot be read ({error})", expected, hint)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set is in memory or mapped from a file.

    Attributes:
        name: as it was asked for; of a file, its name without the folder.
        images: (N, n), one datum per row: uint8 pixels from the named sets; from a file, its own
            integer type, float32 or float64. Of a set that may be larger than memory, a read-only
            `np.memmap`: take rows of it (`sources.Windows`), not all of it.
        labels: (N,), the class of each datum, or None.
        image_shape: what n dimensions are an image of, such as (28, 28), or None. The product
            is n: `images.reshape(-1, *image_shape)`.
        source: where the data came from, in words, to be kept with results.
    """

    name: str
    images: Real[np.ndarray, "N n"]
    labels: Int[np.ndarray, "N"] | None
    image_shape: tuple[int, ...] | None
    source: str


def shipped(package: str, files: Sequence[str]) -> tuple[list[Path], str]:
    """Find files of a package, and its version, without importing it, or raise `ImportError`."""
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        _missing(package, error)
    paths = [Path(str(distribution.locate_file(file))) for file in files]
    return paths, distribution.version


def optional(module: str) -> Any:
    """Import a module of the extra `data`, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        _missing(module.partition(".")[0], error)


def _missing(package: str, error: Exception) -> NoReturn:
    raise ImportError(
        f"the package {package} is missing; in this project's folder: pip install '.[data]'"
    ) from error
