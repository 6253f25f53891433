"""CelebA is 64 × 64 × 3 pixels, decoded once into a file that is mapped, not read.

An image of 218 × 178 is cropped to its central 148 × 148 and resized to 64 × 64 with PIL's
bilinear filter, which averages over all pixels that fall into a new one. That is what
torchvision's CenterCrop(148), Resize(64) do to a PIL image, the commonest choice in public code
for VAEs on CelebA: it keeps the head with hair and chin, and little background. (140 and 108 are
used as well; bounds on pixels can be compared between equal crops only.)

Source of the data: Liu, Luo, Wang and Tang, Deep Learning Face Attributes in the Wild, ICCV 2015.
"""

import contextlib
import functools
import hashlib
import io
import os
import sys
import time
import types
import zipfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from linvae_jax import machine, progress
from linvae_jax._internal import checks
from linvae_jax._internal.ahead import ahead
from linvae_jax.data import dataset, tfds

SHAPE = (64, 64, 3)
_HEIGHT, _WIDTH, _CROP = 218, 178, 148
_RECIPE = "centre 148 x 148, bilinear 64 x 64"  # part of the fingerprint: change it with the code
_ROWS = 256  # decoded at once by one thread: 3 MB
_THREADS = 8  # more would wait for the interpreter, which parsing holds a sixth of the time
_ABANDONED = 3600.0  # seconds without a write, after which a temporary file has no process


def load(split: str, data_dir: Path | None, manual_dir: Path | None) -> dataset.Dataset:
    """Load a split, its images mapped from the file beside the prepared set."""
    with tfds.prepared("celeba", _builder, data_dir, manual_dir) as (package, builder):
        images = _mapped(package, builder, split)
    return dataset.Dataset(
        name="celeba",
        images=images,
        labels=None,
        image_shape=SHAPE,
        source=f"{tfds.source(package, builder, split)}, {_RECIPE}",
    )


def _builder(package: Any) -> Any:
    """Make tensorflow-datasets' CelebA builder, with a zip file opened by Python."""
    stock: Any = package.builder_cls("celeb_a")

    # the type checker can't know a base class that comes at run time
    class CelebA(stock, skip_registration=True):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
        name = stock.name
        url_infos = stock.url_infos
        pkg_dir_path = stock.code_path.parent  # where the description lies

        def _split_generators(self, dl_manager: Any) -> Any:
            # all that the original asks of its download manager
            manager = types.SimpleNamespace(
                download=dl_manager.download, iter_archive=_members_of_zip
            )
            return super()._split_generators(manager)

    return CelebA


def _members_of_zip(path: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and file object of each member, read when its turn comes: not 1.4 GB at once."""
    archive = zipfile.ZipFile(os.fspath(path))
    for name in archive.namelist():
        yield name, types.SimpleNamespace(read=functools.partial(archive.read, name))


def _mapped(package: Any, builder: Any, split: str) -> UInt8[np.ndarray, "N n"]:
    cache = Path(builder.data_dir) / f"linvae-{split}-64.npy"
    with tfds.readable(builder):
        shape = (builder.info.splits[split].num_examples, int(np.prod(SHAPE)))
        fingerprint = f"{tfds.fingerprint(builder, split)} {_RECIPE}"
    of = hashlib.sha256(fingerprint.encode()).hexdigest()
    images = _open(cache, shape, of)
    if images is None:
        try:
            _write(cache, shape, of, _decoded(package, builder, split))
        except OSError as error:
            checks.fail(
                str(cache.parent),
                f"a directory in which nothing can be kept ({error})",
                f"room for {np.prod(shape) / 1e9:.1f} GB of decoded images",
                "Make room, or pass a data_dir of your own that holds links to the prepared files.",
            )
        images = np.load(cache, mmap_mode="r")
    return images


def _open(path: Path, shape: tuple[int, int], of: str) -> np.memmap[Any, Any] | None:
    """Map the images decoded from the files with fingerprint `of`, or None if they aren't there."""
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        with path.open("rb") as file:
            end = file.seek(-len(of), os.SEEK_END)
            complete = images.offset + images.nbytes == end and file.read() == of.encode()
        if complete and (images.shape, images.dtype) == (shape, np.uint8):
            return images
    except (*dataset.UNREADABLE, AttributeError):  # an npz is no memmap
        pass
    return None


def _write(
    path: Path,
    shape: tuple[int, int],
    of: str,
    pieces: Generator[UInt8[np.ndarray, "rows n"], None, None],
) -> None:
    """Write an array piece by piece, all or nothing, and behind it what it was made from.

    The array comes first, so it is an ordinary `.npy` file to everybody else.
    """
    for left in path.parent.glob(f"{path.name}.*.tmp"):  # by a process that was killed
        if time.time() - left.stat().st_mtime > _ABANDONED:
            left.unlink(missing_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    try:
        # closed, the decoding threads end also when there is no more room to write
        with contextlib.closing(pieces), temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for piece in pieces:
                file.write(piece.data)
            file.write(of.encode())
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave a name without its content
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _decoded(
    package: Any, builder: Any, split: str
) -> Generator[UInt8[np.ndarray, "rows n"], None, None]:
    """Decode images in pieces by threads: PIL lets go of the interpreter meanwhile."""
    with tfds.readable(builder), contextlib.ExitStack() as stack:
        raw = package.decode.DeserializeMethod.RAW_BYTES
        records = builder.as_data_source(split, deserialize_method=raw)
        # parsing the other 51 features of an image would take longer than decoding it
        feature = package.features.FeaturesDict({"image": builder.info.features["image"]})
        decoders = {"image": package.decode.SkipDecoding()}
        total = len(records)

        def piece(start: int) -> UInt8[np.ndarray, "rows n"]:
            rows = list(range(start, min(start + _ROWS, total)))
            parsed = (
                feature.deserialize_example_np(record, decoders=decoders)
                for record in records.__getitems__(rows)
            )
            return np.stack([_shrunk(example["image"]).reshape(-1) for example in parsed])

        threads = min(_THREADS, machine.cores())
        quiet = not sys.stderr.isatty()
        bar = stack.enter_context(
            progress.bar(total, f"decoding {builder.name} {split}", "image", quiet)
        )
        starts = range(0, total, _ROWS)
        for images in stack.enter_context(ahead(piece, starts, threads, 2 * threads)):
            yield images
            bar.update(len(images))


def _shrunk(encoded: bytes) -> UInt8[np.ndarray, "64 64 3"]:
    """Decode, crop and resize one image."""
    pil = dataset.optional("PIL.Image")
    with pil.open(io.BytesIO(encoded)) as image:
        if (image.size, image.mode) != ((_WIDTH, _HEIGHT), "RGB"):
            checks.fail("image", f"{image.size}, {image.mode}", f"{(_WIDTH, _HEIGHT)}, RGB pixels")
        left, top = (_WIDTH - _CROP) // 2, (_HEIGHT - _CROP) // 2
        # not `resize(box=...)`, whose filter looks beyond the box
        face = image.crop((left, top, left + _CROP, top + _CROP))
        return np.asarray(face.resize(SHAPE[:2], pil.Resampling.BILINEAR))
