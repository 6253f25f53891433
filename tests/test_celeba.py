"""CelebA, in a small archive of the original's layout with real photographs for faces."""

import contextlib
import io
import os
import shutil
import socket
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linvae_jax.data import celeba, datasets
from linvae_jax.data import tfds as ours

ZIP, PARTITION = "img_align_celeba.zip", "list_eval_partition.txt"
TABLES = {"list_attr_celeba.txt": 40, "list_landmarks_align_celeba.txt": 10}
IDENTITY = "identity_CelebA.txt"
FILES = [ZIP, PARTITION, *TABLES, IDENTITY]
SPLITS = {"train": 14, "validation": 3, "test": 5}
# image 1 is of "train", 2 of "validation", …: mixed, as a partition may be
PARTS = np.random.default_rng(0).permutation(np.repeat(range(3), list(SPLITS.values())))
NAMES = [f"{i + 1:06d}.jpg" for i in range(len(PARTS))]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A directory with CelebA's five files, of 22 images."""
    pytest.importorskip("tensorflow_datasets")
    from PIL import Image
    from tensorflow_datasets.datasets.celeb_a import celeb_a_dataset_builder as stock

    directory = tmp_path_factory.mktemp("originals")
    rng = np.random.default_rng(1)
    photographs = datasets.load("photographs").images.reshape(-1, 64, 64, 3)
    with zipfile.ZipFile(directory / ZIP, "w") as archive:
        archive.writestr("img_align_celeba/", "")
        for name in NAMES:
            # 3 × 4 patches are more than 178 × 218 pixels
            patches = photographs[rng.integers(0, len(photographs), 12)].reshape(4, 3, 64, 64, 3)
            image = patches.transpose(0, 2, 1, 3, 4).reshape(256, 192, 3)[:218, :178]
            encoded = io.BytesIO()
            Image.fromarray(image).save(encoded, "JPEG", quality=90)
            archive.writestr(f"img_align_celeba/{name}", encoded.getvalue())
    lines = [f"{name} {part}\n" for name, part in zip(NAMES, PARTS, strict=True)]
    (directory / PARTITION).write_text("".join(lines))
    headings = (stock.ATTR_HEADINGS, stock.LANDMARK_HEADINGS)
    for (file, number), heading in zip(TABLES.items(), headings, strict=True):
        rows = [" ".join([name, *["1", "-1"] * (number // 2)]) + "\n" for name in NAMES]
        (directory / file).write_text("".join([f"{len(rows)}\n", " ".join(heading), "\n", *rows]))
    (directory / IDENTITY).write_text("".join(f"{name} 7\n" for name in NAMES))
    return directory


@pytest.fixture(scope="module", autouse=True)
def tiny(originals):
    """Give tensorflow-datasets' CelebA the checksums of the tiny one, and addresses of nobody."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums
    from tensorflow_datasets.datasets.celeb_a import celeb_a_dataset_builder as module

    stock: Any = tfds.builder_cls("celeb_a")
    real = {info.filename: info for info in stock.url_infos.values()}
    # what a user is told to download, and what is verified
    assert set(real) == set(FILES)
    assert real[ZIP].size == 1_443_490_838
    urls = {info.filename: url for url, info in stock.url_infos.items()}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        for constant, value in vars(module).copy().items():
            for file, url in urls.items():
                if isinstance(value, str) and value == url:
                    patch.setattr(module, constant, nobody + file)
        infos = {nobody + file: checksums.compute_url_info(originals / file) for file in FILES}
        patch.setattr(stock, "url_infos", infos)
        yield


@pytest.fixture(scope="module")
def once(tmp_path_factory, originals):
    """A directory in which the tiny CelebA is prepared, and nothing is decoded.

    As the whole one it is more than tensorflow-datasets shuffles in memory by itself (it would
    shuffle on disk, which needs tensorflow), and makes several shards.
    """
    from tensorflow_datasets.core import shuffle
    from tensorflow_datasets.core.utils import shard_utils

    directory = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1000)
        patch.setattr(shard_utils.ShardConfig, "get_number_shards", lambda *args: 3)
        with ours.prepared("celeba", celeba._builder, directory, originals):
            assert len(list(directory.glob("celeb_a/2.1.0/celeb_a-train.array_record-*"))) == 3
        assert shuffle.MAX_MEM_BUFFER_SIZE == 1000
    return directory


@pytest.fixture
def directory(tmp_path, once):
    """A copy of it."""
    shutil.copytree(once / "celeb_a", tmp_path / "celeb_a")
    return tmp_path


def cache(directory, split="train"):
    return directory / f"celeb_a/2.1.0/linvae-{split}-64.npy"


def shrunk(encoded):
    """The crop and PIL's bilinear filter from their definitions, before rounding."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        face = np.asarray(image)[35:183, 15:163].astype(float)
    scale = 148 / 64
    # a triangle as wide as two new pixels, centred on the new pixel
    distance = (np.arange(148) + 0.5) - scale * (np.arange(64) + 0.5)[:, None]
    weights = np.maximum(0, 1 - abs(distance) / scale)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("ay,bx,yxc->abc", weights, weights, face, optimize=True)


# ---------------------------------------------------------------- what comes out


@pytest.mark.parametrize(("part", "split"), list(enumerate(SPLITS)))
def test_the_archive_becomes_64_by_64_images_of_each_split(directory, originals, part, split):
    data = datasets.load("celeba", split=split, data_dir=directory, manual_dir=originals)
    assert data.images.shape == (SPLITS[split], 12288)
    assert data.images.dtype == np.uint8
    assert data.image_shape == (64, 64, 3)
    assert data.labels is None
    assert data.source.startswith(f"celeb_a 2.1.0, split {split}, tensorflow-datasets ")
    assert "148 x 148" in data.source
    with zipfile.ZipFile(originals / ZIP) as archive:
        expected = np.stack(
            [
                shrunk(archive.read(f"img_align_celeba/{name}")).ravel()
                for name, of in zip(NAMES, PARTS, strict=True)
                if of == part
            ]
        )
    # tensorflow-datasets shuffles; PIL rounds after the rows and after the columns, to ½ each
    distance = abs(data.images[:, None, :] - expected).max(axis=2)
    assert sorted(distance.argmin(axis=1)) == list(range(SPLITS[split]))
    assert distance.min(axis=1).max() < 1.01


def test_images_are_mapped_read_only_and_anybody_can_read_the_file(directory):
    images = datasets.load("celeba", data_dir=directory).images
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable
    assert Path(images.filename) == cache(directory)
    np.testing.assert_array_equal(np.load(cache(directory)), images)


def test_tensorflow_datasets_itself_reads_what_was_prepared(directory):
    import tensorflow_datasets as tfds

    images = datasets.load("celeba", split="test", data_dir=directory).images
    builder = tfds.builder("celeb_a", data_dir=directory)
    skip = {"image": tfds.decode.SkipDecoding()}
    records = list(builder.as_data_source("test", decoders=skip))
    assert all(record["identity"]["Identity_No"] == 7 for record in records)
    assert all(record["attributes"]["5_o_Clock_Shadow"] for record in records)
    for image, record in zip(images, records, strict=True):
        np.testing.assert_allclose(image, shrunk(record["image"]).ravel(), rtol=0, atol=1.01)


def test_pieces_that_threads_decode_are_put_together_in_order(directory, monkeypatch):
    whole = datasets.load("celeba", data_dir=directory).images
    cache(directory).unlink()
    monkeypatch.setattr(celeba, "_ROWS", 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    shrink = celeba._shrunk

    def uneven(encoded):
        time.sleep(encoded[-100] / 255 / 100)
        return shrink(encoded)

    monkeypatch.setattr(celeba, "_shrunk", uneven)
    np.testing.assert_array_equal(datasets.load("celeba", data_dir=directory).images, whole)


def test_the_default_manual_directory_is_that_of_tensorflow_datasets(tmp_path, originals):
    shutil.copytree(originals, tmp_path / "downloads" / "manual")
    assert len(datasets.load("celeba", data_dir=tmp_path).images) == SPLITS["train"]


# ------------------------------------------------------------- the file of pixels


def test_a_prepared_set_needs_neither_files_nor_network_and_is_decoded_once(directory, monkeypatch):
    images = datasets.load("celeba", data_dir=directory).images
    monkeypatch.setattr(celeba, "_decoded", None)  # calling it would raise
    np.testing.assert_array_equal(datasets.load("celeba", data_dir=directory).images, images)


def another_array(path):
    np.save(path, np.zeros((SPLITS["train"], 12288), np.uint8))


def of_another_set(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + (b"0" if content[-1:] != b"0" else b"1"))


def without_some_rows(path):
    content = path.read_bytes()
    path.write_bytes(content[:1000] + content[2000:])


def another_shape(path):
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(14, 12288)", b"(7, 24576) "))


def later_preparation(path):
    description = path.with_name("dataset_info.json")
    description.write_text(description.read_text() + "\n")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, 100_000),
        lambda path: os.truncate(path, path.stat().st_size - 1),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"something else"),
        lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)),  # an empty npz
        another_array,
        of_another_set,
        without_some_rows,
        another_shape,
        later_preparation,
    ],
    ids=[
        "truncated", "by a byte", "empty", "text", "npz", "array", "stale", "gap", "shape", "set",
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_trusted_is_made_again(directory, damage):
    images = np.array(datasets.load("celeba", data_dir=directory).images)
    damage(cache(directory))
    decode, calls = celeba._decoded, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(celeba, "_decoded", lambda *args: calls.append(1) or decode(*args))
        for _ in range(2):
            again = datasets.load("celeba", data_dir=directory).images
            np.testing.assert_array_equal(again, images)
    assert calls == [1]
    assert not list(cache(directory).parent.glob("*.tmp"))


def test_an_interrupted_decoding_leaves_nothing_and_can_be_started_again(directory, monkeypatch):
    decode = celeba._decoded

    def interrupted(*args):
        with contextlib.closing(decode(*args)) as pieces:
            yield next(pieces)
            raise KeyboardInterrupt

    monkeypatch.setattr(celeba, "_ROWS", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(celeba, "_decoded", interrupted)
        with pytest.raises(KeyboardInterrupt):
            datasets.load("celeba", data_dir=directory)
    assert not list(cache(directory).parent.glob("linvae*"))
    assert not [t for t in threading.enumerate() if t.name.startswith("linvae-ahead")]
    assert len(datasets.load("celeba", data_dir=directory).images) == SPLITS["train"]


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(directory):
    killed, busy = (cache(directory).with_suffix(f".npy.{pid}.tmp") for pid in (1, 2))
    for path in (killed, busy):
        path.write_bytes(b"half")
    long_ago = time.time() - 7200
    os.utime(killed, (long_ago, long_ago))
    datasets.load("celeba", data_dir=directory)
    assert not killed.exists()
    assert busy.exists()


def test_a_full_disk_is_named_and_ends_the_threads(directory, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=r"No space left.*expected room for 0\.0 GB") as caught:
        datasets.load("celeba", data_dir=directory)
    assert str(cache(directory).parent) in str(caught.value)
    assert not list(cache(directory).parent.glob("linvae*"))
    assert not [t for t in threading.enumerate() if t.name.startswith("linvae-ahead")]


def test_links_to_a_set_elsewhere_are_enough_to_keep_the_pixels_here(tmp_path, once):
    here = tmp_path / "celeb_a/2.1.0"
    here.mkdir(parents=True)
    for path in (once / "celeb_a/2.1.0").iterdir():
        (here / path.name).symlink_to(path)
    assert len(datasets.load("celeba", data_dir=tmp_path).images) == SPLITS["train"]
    assert not cache(once).exists()


# ------------------------------------------------------------- what goes wrong


def test_missing_files_are_named_within_seconds(tmp_path, originals):
    manual = tmp_path / "manual"
    manual.mkdir()
    shutil.copy(originals / PARTITION, manual)
    start = time.perf_counter()
    with pytest.raises(ValueError, match="celeba: got no prepared set") as caught:
        datasets.load("celeba", data_dir=tmp_path / "d", manual_dir=manual)
    assert time.perf_counter() - start < 10
    message = str(caught.value)
    assert str(tmp_path / "d/celeb_a/2.1.0") in message
    assert all(file in message for file in FILES if file != PARTITION)
    assert PARTITION not in message
    assert "pass it as manual_dir" in message


@pytest.mark.parametrize("file", [ZIP, "list_attr_celeba.txt"])
def test_a_file_with_another_checksum_is_refused(tmp_path, originals, file):
    manual = tmp_path / "manual"
    shutil.copytree(originals, manual)
    content = bytearray((manual / file).read_bytes())
    content[len(content) // 2] ^= 1
    (manual / file).write_bytes(content)
    message = f"celeba: got a file that is not the original(.|\n)*{file}"
    with pytest.raises(ValueError, match=message):
        datasets.load("celeba", data_dir=tmp_path / "d", manual_dir=manual)
    assert not (tmp_path / "d/celeb_a/2.1.0").exists()


def test_a_damaged_prepared_set_is_an_error_that_says_where(directory):
    shard = directory / "celeb_a/2.1.0/celeb_a-train.array_record-00001-of-00003"
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"cannot be read(.|\n)*its folder celeb_a") as caught:
        datasets.load("celeba", data_dir=directory)
    assert str(shard.parent) in str(caught.value)
    assert not list(shard.parent.glob("linvae*"))
    shard.unlink()
    with pytest.raises(ValueError, match=r"No such file.*Remove its folder celeb_a"):
        datasets.load("celeba", data_dir=directory)


def broken(kind):
    from PIL import Image

    encoded = io.BytesIO()
    size = (178, 218) if kind != "size" else (178, 178)
    Image.new("L" if kind == "grey" else "RGB", size).save(encoded, "JPEG")
    return b"no image" if kind == "text" else encoded.getvalue()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("size", r"image: got \(178, 178\), RGB, expected \(178, 218\), RGB"),
        ("grey", r"image: got \(178, 218\), L, expected"),
        ("text", "cannot identify image"),
    ],
)
def test_an_image_that_is_none_of_celebas_is_an_error(directory, monkeypatch, kind, message):
    shrink, content = celeba._shrunk, broken(kind)
    monkeypatch.setattr(celeba, "_shrunk", lambda encoded: shrink(content))
    with pytest.raises(ValueError, match=f"a directory that cannot be read.*{message}"):
        datasets.load("celeba", data_dir=directory)
