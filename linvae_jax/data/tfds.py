"""Sets of tensorflow-datasets are prepared and decoded without tensorflow.

`prepared` finds a prepared set or makes it, from original files or the network, with checksums
verified; `load` decodes it into memory, once, and keeps the pixels in a file beside it.
"""

import contextlib
import hashlib
import importlib
import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import numpy as np
from jaxtyping import Int, UInt8

from linvae_jax import progress
from linvae_jax._internal import checks
from linvae_jax.data import dataset

REACHABLE_SECONDS = 5.0  # to wait for a server's first answer
_CHUNK = 1024  # records read at once: four times faster than one by one


def load(
    name: str,
    make_builder: Callable[[Any], Any],
    split: str,
    data_dir: Path | None,
    manual_dir: Path | None,
) -> dataset.Dataset:
    """Load a split into memory, one image per row, with its labels."""
    with prepared(name, make_builder, data_dir, manual_dir) as (tfds, builder):
        images, labels = _pixels(tfds, builder, split)
    shape = builder.info.features["image"].shape
    return dataset.Dataset(
        name=name,
        images=images.reshape(len(images), -1),
        labels=labels,
        image_shape=shape[:-1] if shape[-1] == 1 else shape,  # grey: no channel axis
        source=source(tfds, builder, split),
    )


def source(tfds: Any, builder: Any, split: str) -> str:
    """Say in words where the data came from."""
    version = tfds.__version__
    return f"{builder.name} {builder.version}, split {split}, tensorflow-datasets {version}"


@contextlib.contextmanager
def prepared(
    name: str,
    make_builder: Callable[[Any], Any],
    data_dir: Path | None,
    manual_dir: Path | None,
) -> Iterator[tuple[Any, Any]]:
    """Yield the package tensorflow-datasets, kept quiet, and the builder of a prepared set."""
    dataset.optional("importlib_resources")  # which it needs and doesn't require
    dataset.optional("PIL")
    tfds = dataset.optional("tensorflow_datasets")
    with _quiet(tfds):
        try:
            builder = make_builder(tfds)(data_dir=data_dir)
        except ImportError:
            raise
        except Exception as error:  # protobuf's own, of a description that is not JSON
            _damaged(data_dir or tfds.core.constants.DATA_DIR, name, error)
        if not builder.is_prepared():
            _prepare(tfds, builder, name, manual_dir)
        yield tfds, builder


@contextlib.contextmanager
def readable(builder: Any) -> Iterator[None]:
    """Turn what the record reader, protobuf or PIL think of a prepared set into one error."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        _damaged(builder.data_dir, builder.name, error)


def fingerprint(builder: Any, split: str) -> str:
    """Hash the description, names and sizes of the prepared files."""
    digest = hashlib.sha256((Path(builder.data_dir) / "dataset_info.json").read_bytes())
    for path in map(Path, builder.info.splits[split].filepaths):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


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


def _prepare(tfds: Any, builder: Any, name: str, manual_dir: Path | None) -> None:
    """Make the prepared set from original files, those in `manual_dir` or downloaded."""
    requests = importlib.import_module("requests")  # tensorflow-datasets requires it
    shuffle = importlib.import_module("tensorflow_datasets.core.shuffle")
    checksum_error = importlib.import_module(
        "tensorflow_datasets.core.download.download_manager"
    ).NonMatchingChecksumError
    directory = Path(builder.data_dir)
    if directory.exists():
        _damaged(directory, builder.name, "dataset_info.json or features.json is missing")
    manual_dir = manual_dir or Path(builder.data_dir_root) / "downloads" / "manual"
    missing = {
        info.filename: url
        for url, info in builder.url_infos.items()
        if not (manual_dir / info.filename).is_file()
    }
    nowhere = (
        f"no prepared set in {directory}, no {', '.join(missing)} in {manual_dir}, and no download"
    )
    expected = "one of the three"
    hint = "Put these files into a directory and pass it as manual_dir, or go online."
    if missing:
        url = next(iter(missing.values()))
        # tensorflow-datasets would retry for more than three minutes
        if reason := _unreachable(url):
            checks.fail(name, f"{nowhere} from {url} ({reason})", expected, hint)
    config = tfds.download.DownloadConfig(
        manual_dir=manual_dir,
        try_download_gcs=False,  # the prepared sets on offer there need tensorflow to be read
    )
    try:
        # on disk, from 1 GB of encoded records as CelebA's "train" has, it would use tensorflow
        with mock.patch.object(shuffle, "MAX_MEM_BUFFER_SIZE", sys.maxsize):
            builder.download_and_prepare(file_format="array_record", download_config=config)
    except checksum_error as error:
        checks.fail(
            name,
            "a file that is not the original",
            "the checksum that tensorflow-datasets lists",
            f"Replace it and try again: {error}",
        )
    except (tfds.download.DownloadError, requests.RequestException) as error:
        checks.fail(name, f"{nowhere} ({error})", expected, hint)


def _unreachable(url: str) -> str | None:
    """Say why `url` gives no answer within `REACHABLE_SECONDS`; None if it does."""
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
    checks.fail(
        str(directory),
        f"a directory that cannot be read ({error})",
        f"{name} as tensorflow-datasets prepares it, in a format with random access",
        f"Remove its folder {name} and load again, or choose another data_dir.",
    )


def _pixels(
    tfds: Any, builder: Any, split: str
) -> tuple[UInt8[np.ndarray, "N ..."], Int[np.ndarray, "N"] | None]:
    """Return the decoded images of a prepared split, kept in a file beside it."""
    with readable(builder):
        cache = Path(builder.data_dir) / f"linvae-{split}.npz"
        of = fingerprint(builder, split)
        found = _read_cache(cache, of)
        if found is None:
            found = _decode(tfds, builder, split)
            _write_cache(cache, of, *found)
    return found


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
    """Read what was decoded from the files with fingerprint `of`; None if it can't be trusted."""
    try:
        # reading a member of an npz verifies its CRC
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored["of"]) == of:
                return stored["images"], stored.get("labels")
    except (*dataset.UNREADABLE, KeyError, TypeError):
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
