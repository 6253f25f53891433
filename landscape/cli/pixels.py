"""Networks get data as the options name them; pixels stay pixels until a step looks at them."""

import numpy as np

from landscape.cli.data import key, open_set
from landscape.cli.options import Data
from landscape.paper.networks.experiments import NetworkData
from linvae_jax import network_task, sources


def network_data(options: Data) -> NetworkData:
    """Load; 8-bit pixels get fresh dequantisation noise in each step."""
    dataset, transform, constant, identity = open_set(options)
    values = dataset.images
    if transform is None and values.dtype.kind in "iu":  # as floats that hold them
        wide = {1: np.float32, 2: np.float32, 4: np.float64, 8: np.longdouble}
        values = values.astype(wide[values.dtype.itemsize])
    if options.window is not None:
        values = sources.Windows(values, options.window, options.data_seed)
    data = network_task.prepare(values, transform, key(options))
    return NetworkData(data, transform, dataset.image_shape, constant, dataset.source, identity)
