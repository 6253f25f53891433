"""Patches of two colour photographs, which come with scikit-learn, stand in for CelebA.

They have the size of CelebA's images here, 64 × 64 × 3, and the statistics of natural images, and
need no download. The photographs (427 × 640) are china.jpg by danielbuechele and flower.jpg by
vultilion, CC BY 2.0. Patches start every 8 pixels, so neighbours overlap; "test" is a band of rows
across both photographs, which has the variance of the rest, and shares no pixel with "train".
"""

from itertools import product

import numpy as np
from jaxtyping import UInt8

from linvae_jax._internal import checks
from linvae_jax.data import dataset

_SIDE, _STRIDE = 64, 8
_SHAPE = (427, 640, 3)
_ROWS = {"train": (slice(0, 168), slice(264, 427)), "test": (slice(168, 264),)}


def load(split: str) -> dataset.Dataset:
    """Cut the patches: 3,942 of "train", 730 of "test"; 12,288 numbers each."""
    pil = dataset.optional("PIL.Image")
    paths, version = dataset.shipped(
        "scikit-learn", [f"sklearn/datasets/images/{name}.jpg" for name in ("china", "flower")]
    )
    photographs = []
    for path in paths:
        expected = f"a photograph of shape {_SHAPE}, as in scikit-learn 1.9.1"
        with dataset.readable(str(path), expected), pil.open(path) as image:
            pixels = np.asarray(image)
        if pixels.shape != _SHAPE:
            checks.fail(str(path), f"an image of shape {pixels.shape}", expected)
        photographs.append(pixels)
    return dataset.Dataset(
        name="photographs",
        images=np.concatenate(
            [_patches(photo[rows]) for photo, rows in product(photographs, _ROWS[split])]
        ),
        labels=None,
        image_shape=(_SIDE, _SIDE, 3),
        source=f"scikit-learn {version}, china.jpg and flower.jpg (CC BY 2.0), split {split}",
    )


def _patches(region: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "N n"]:
    views = np.lib.stride_tricks.sliding_window_view(region, (_SIDE, _SIDE), axis=(0, 1))
    # the axes within a patch come last: (row, column, channel, y, x)
    ordered = views[::_STRIDE, ::_STRIDE].transpose(0, 1, 3, 4, 2)
    return ordered.reshape(-1, _SIDE * _SIDE * 3)
