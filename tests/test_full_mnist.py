"""pPCA on the 60,000 MNIST training images: the paper's arithmetic, where the files are at hand."""

import gzip
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from linvae_jax import moments as mom
from linvae_jax import ppca
from linvae_jax.data import preprocessing

FOLDER = Path(os.environ.get("LINVAE_MNIST_DIR", Path(__file__).parents[2] / "shared" / "mnist"))


@pytest.mark.slow
@pytest.mark.skipif(
    not (FOLDER / "train-images-idx3-ubyte.gz").is_file(),
    reason=f"the original MNIST files are not in {FOLDER}; set LINVAE_MNIST_DIR to their folder",
)
def test_ppca_of_all_training_images():
    """σ² = 1.14 and −1098.0 nats with k = 200; tolerances are what one draw of u may move."""
    # the file itself: that data sets hold what it does, tests/test_data.py says
    packed = (FOLDER / "train-images-idx3-ubyte.gz").read_bytes()
    images = np.frombuffer(gzip.decompress(packed), np.uint8, offset=16).reshape(-1, 784)
    key = jax.random.key(0)
    moments = mom.from_chunks(
        preprocessing.logit(preprocessing.dequantise(part, jax.random.fold_in(key, i)), 1e-6)
        for i, part in enumerate(np.split(images, 12))
    )
    lam = mom.spectrum(moments).eigenvalues
    assert abs(float(ppca.optimal_sigma2(lam, 200)) - 1.1404) < 0.002
    constant = preprocessing.pixel_constant(images, 1e-6)
    assert abs(constant - 272.18) < 0.005
    assert abs(float(ppca.optimal_elbo(lam, 200)) + constant + 1098.0) < 0.3
