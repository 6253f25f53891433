"""Matrices are multiplied at full precision.

Accelerators multiply float32 matrices in TF32 by default, which keeps three digits; analysis
needs all of them, so the products of the objectives and of training go through here.
"""

from functools import partial

import jax.numpy as jnp

matmul = partial(jnp.matmul, precision="highest")
