"""The two Gaussian formulas that every objective here is made of.

Both take second moments rather than vectors, so that the same line serves one datum (a square)
and a whole data set (a mean square).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def log_density(
    square_error: Float[Array, "*batch"], n: int, log_sigma2: Float[Array, ""]
) -> Float[Array, "*batch"]:
    """Compute the log density of N(x; m, σ²I) in n dimensions, from ‖x − m‖².

    log p = −½ [ n log 2π + n log σ² + ‖x − m‖²/σ² ], in nats. Given the expectation of ‖x − m‖²,
    it is the expectation of log p.
    """
    return -0.5 * (n * (jnp.log(2 * jnp.pi) + log_sigma2) + square_error * jnp.exp(-log_sigma2))


def kl(
    mean_square: Float[Array, "*batch k"], log_d: Float[Array, "*#batch k"]
) -> Float[Array, "*batch k"]:
    """Compute KL(N(m, diag D) ‖ N(0, I)) of each latent, from m² and log D.

    KL_j = ½ (D_j + m_j² − 1 − log D_j), in nats. Given the mean of m² over data, it is the mean.
    The sum over the last axis is the KL of the whole code.
    """
    # expm1 keeps the digits of D − 1 − log D where a latent is all but collapsed (D ≈ 1)
    return 0.5 * (jnp.expm1(log_d) - log_d + mean_square)
