"""MNIST's 60,000 + 10,000 digits are prepared by tensorflow-datasets, without tensorflow."""

import gzip
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from linvae_jax.data import dataset


def builder(tfds: Any) -> Any:
    """Make tensorflow-datasets' MNIST builder, less the two steps that need tensorflow.

    Those are the extraction of `.gz` and the encoding of arrays to PNG. The name, version,
    features, addresses and checksums are the original's, so both read what either prepared.
    """
    stock: Any = tfds.builder_cls("mnist")
    pil = dataset.optional("PIL.Image")

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
            pairs = zip(read_idx(images), read_idx(labels), strict=True)
            for i, (image, label) in enumerate(pairs):
                yield i, {"image": pil.fromarray(image), "label": int(label)}

    return Mnist


def read_idx(path: Any) -> UInt8[np.ndarray, "..."]:
    """Read an IDX file of bytes, gzipped: two zeros, type, rank, big-endian lengths, data."""
    with gzip.open(os.fspath(path)) as file:
        content = file.read()  # tensorflow-datasets has verified its checksum
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
