"""Data as the options name them, for networks: pixels stay pixels until a step looks at them."""

from typing import Any, NamedTuple

import numpy as np

from landscape.cli.data import identity_of, key, open_set
from landscape.cli.options import Data
from linvae_jax import network_task, sources
from linvae_jax.data import preprocessing


class NetworkData(NamedTuple):
    """Data for networks, which stay pixels until a training step looks at them.

    Attributes:
        data: of `network_task.prepare`.
        transform: of the pixels, in each step; None: they are real numbers.
        constant: nats that turn an ELBO into one of pixels.
        source: the data set, in words.
        image_shape: of a datum, if it is an image.
        identity: all that decides the data, by names that a user knows.
    """

    data: network_task.Data
    transform: preprocessing.Logit | None
    constant: float
    source: str
    image_shape: tuple[int, ...] | None
    identity: dict[str, Any]


def network_data(options: Data) -> NetworkData:
    """Load; 8-bit pixels get fresh dequantisation noise in each step."""
    dataset, transform = open_set(options)
    values = dataset.images
    constant = 0.0 if transform is None else transform.constant(values)
    if transform is None and values.dtype.kind in "iu":  # as floats that hold them
        wide = {1: np.float32, 2: np.float32, 4: np.float64, 8: np.longdouble}
        values = values.astype(wide[values.dtype.itemsize])
    if options.window is not None:
        values = sources.Windows(values, options.window, options.data_seed)
    data = network_task.prepare(values, transform, key(options))
    return NetworkData(
        data, transform, constant, dataset.source, dataset.image_shape,
        identity_of(options, dataset.source, transform),
    )  # fmt: skip
