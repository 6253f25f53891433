"""Mutual information: how much does a VAE's code tell of the data?

>>> import jax, jax.numpy as jnp
>>> from linvae_jax import information, vae
>>> from linvae_jax.linear import Model, with_optimal_encoder
>>> x = jax.random.normal(jax.random.key(0), (200, 1))  # λ = 1: I = ½ log(λ/σ²) = 1.15 nats
>>> params = with_optimal_encoder(jnp.sqrt(jnp.array([[0.9]])), sigma2=0.1)
>>> _, _, posterior, z = vae.forward(Model(n=1, k=1), params, x, jax.random.key(1))
>>> found = information.mutual_information(*posterior, z)
>>> bool(found.lower < found.upper < found.lower + 0.1), f"{found.lower:.1f}"
(True, '1.1')
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from linvae_jax._internal import arrays, checks


class MutualInformation(NamedTuple):
    """Two estimates bracket I_q(x; z) from M data, nats: () for the code, (k,) for each latent.

    Attributes:
        lower: at most I in expectation, and never above `limit`.
        upper: at least I in expectation; far above it once I exceeds `limit` by much.
        lower_error: standard error of `lower`, over data and z.
        upper_error: standard error of `upper`; not to be trusted far above `limit`.
        limit: (), log M, the most that `lower` can show.
    """

    lower: Float[Array, "*latents"]
    upper: Float[Array, "*latents"]
    lower_error: Float[Array, "*latents"]
    upper_error: Float[Array, "*latents"]
    limit: Float[Array, "*latents"]


def mutual_information(mean: Any, log_d: Any, z: Any) -> MutualInformation:
    """Bracket the information I_q(x; z) that the whole code has of the data, by two estimates.

    Both are E log q(z_i | x_i) − log of the mean of q(z_i | x_j) over j. With j = i in the mean it
    is a lower bound in expectation, at most log M (InfoNCE with the exact critic); without it an
    upper bound. Where they agree they are right. When the M data are all the data there are,
    `lower` is free of bias for the information about which of them it was.

    The cost is L M² k, the memory L M k. The standard errors take the data as independent terms,
    which is exact to first order because a datum's share in the other terms' means is the same for
    all.

    Args:
        mean: (M, k), posterior means of M data, M >= 2.
        log_d: (M, k) or (k,), log posterior variances.
        z: (M, k), one draw from each posterior, or (L, M, k), L of them; as `vae.forward` gives.

    Raises:
        ValueError: shapes disagree, M < 2, NaN or Inf.

    Source: Poole, Ozair, van den Oord, Alemi, Tucker, *On variational bounds of mutual
    information*, ICML 2019, section 2.
    """
    return _information(*_checked_codes(mean, log_d, z))


def mutual_information_per_latent(mean: Any, log_d: Any, z: Any) -> MutualInformation:
    """Bracket the information I_q(x; z_j) that each latent alone has of the data, (k,).

    Arguments, errors and bounds are those of `mutual_information`.
    """
    each = [jnp.moveaxis(a, -1, 0)[..., None] for a in _checked_codes(mean, log_d, z)]
    return jax.vmap(_information)(*each)


def _checked_codes(mean: Any, log_d: Any, z: Any) -> tuple[Array, Array, Array]:
    """Return means and log variances (M, k), and draws (L, M, k)."""
    mean = arrays.as_float("mean", checks.data_matrix("mean", mean))
    log_d, z = arrays.as_float("log_d", log_d), arrays.as_float("z", z)
    M, k = mean.shape
    if M < 2:
        checks.fail("mean", "one datum (M = 1)", "at least two data to tell apart")
    if log_d.shape != (k,):
        checks.shape("log_d", log_d, (M, k))
    if z.ndim != 2:
        checks.shape("z", z, ("L", M, k))
    else:
        checks.shape("z", z, (M, k))
    checks.finite("log_d", log_d)
    checks.finite("z", z)
    return mean, jnp.broadcast_to(log_d, (M, k)), z.reshape(-1, M, k)


@jax.jit
def _information(
    mean: Float[Array, "M k"], log_d: Float[Array, "M k"], z: Float[Array, "L M k"]
) -> MutualInformation:
    M = mean.shape[0]
    precision = jnp.exp(-log_d)

    def of_datum(i: Array) -> tuple[Array, Array]:
        # differences first: products of z and m by matmul would cancel where D is small
        own = (z[:, i] - mean[i]) ** 2 * precision[i] + log_d[i]
        each = (z[:, i, None] - mean) ** 2 * precision + log_d
        ratio = -0.5 * (each - own[:, None]).sum(axis=-1)  # log q(z_i | x_j)/q(z_i | x_i), (L, M)
        others = logsumexp(jnp.where(jnp.arange(M) == i, -jnp.inf, ratio), axis=1)
        return -jnp.logaddexp(0, others).mean(), -others.mean()

    lower, upper = jax.lax.map(of_datum, jnp.arange(M))
    limit = jnp.log(jnp.asarray(M, mean.dtype))
    return MutualInformation(
        limit + lower.mean(),
        jnp.log(jnp.asarray(M - 1, mean.dtype)) + upper.mean(),
        lower.std(ddof=1) / jnp.sqrt(M),
        upper.std(ddof=1) / jnp.sqrt(M),
        limit,
    )
