"""Gaussian data can have a covariance with a prescribed spectrum.

>>> import jax, jax.numpy as jnp
>>> from linvae_jax import moments
>>> from linvae_jax.data import synthetic
>>> x = synthetic.gaussian(jax.random.key(0), jnp.array([4.0, 1.0]), 50, exact=True)
>>> moments.spectrum(moments.from_data(x)).eigenvalues.round(3).tolist()
[4.0, 1.0]
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from linvae_jax._internal import arrays, checks
from linvae_jax._internal.linalg import matmul


def gaussian(
    key: PRNGKeyArray, eigenvalues: Any, num: int, *, exact: bool = False
) -> Float[Array, "N n"]:
    """Draw zero-mean Gaussian data with covariance Q diag(λ) Qᵀ, Q a uniformly random rotation.

    Args:
        key: decides Q and the data.
        eigenvalues: (n,), λ₁ ≥ … ≥ λₙ ≥ 0, some of them positive. Floats give the result
            their dtype; others JAX's default float.
        num: number of data points N.
        exact: make the *sample* mean zero and the *sample* covariance (divided by N) have these
            very eigenvalues, up to rounding. Needs N > n. The points are then not independent.

    Raises:
        ValueError: eigenvalues negative, not sorted, all zero, NaN or Inf; N too small.
    """
    checks.key("key", key)
    scale = arrays.as_float("eigenvalues", eigenvalues)
    checks.eigenvalues("eigenvalues", scale)
    if checks.concrete(scale) and not scale[0] > 0:
        checks.fail("eigenvalues", "none above 0", "at least one positive: data that vary")
    n = len(scale)
    low, why = (
        (n + 1, f"exact=True needs more points than the {n} dimensions") if exact else (1, "")
    )
    checks.in_range("num", num, low, 2**31 - 1, why or "a number of data points")
    key_z, key_q = jax.random.split(key)
    z = jax.random.normal(key_z, (num, n), scale.dtype)
    if exact:
        # orthonormal columns that span those of the centred z are orthogonal to 1 as well
        z = jnp.linalg.qr(z - z.mean(axis=0, keepdims=True))[0] * jnp.sqrt(num)
    rotation = jax.random.orthogonal(key_q, n, dtype=scale.dtype)
    # rounding may leave a computed eigenvalue just below zero, which the check lets pass
    return matmul(z * jnp.sqrt(jnp.maximum(scale, 0))[None, :], rotation.T)
