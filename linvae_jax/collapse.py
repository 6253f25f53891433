"""Posterior collapse: which latents carry no information?

Latent j is (ε, δ)-collapsed when P_x[ KL(q(z_j | x) ‖ p(z_j)) < ε ] ≥ 1 − δ. The probability is
over data, of the KL of each datum: a latent whose KL is small on average may still be used by a
few data points, and counts as active.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from linvae_jax import _checks


def fraction_below(
    kl: Float[Array, "N k"], epsilon: Float[Array, "*grid"]
) -> Float[Array, "*grid k"]:
    """Share of data whose KL in latent j is below ε, for a whole grid of ε at once.

    Args:
        kl: (N, k), nats, of each datum and latent.
        epsilon: (*grid), nats.

    Returns:
        (*grid, k), in [0, 1]; the empirical P_x[KL_j < ε].
    """
    _checks.data_matrix("kl", kl)
    epsilon = jnp.asarray(epsilon, kl.dtype)
    # one ε at a time: the comparison of all at once would hold grid × N × k values
    counts = jax.lax.map(lambda e: (kl < e).mean(axis=0, dtype=kl.dtype), epsilon.reshape(-1))
    return counts.reshape(*epsilon.shape, kl.shape[1])


def is_collapsed(
    probability: Float[Array, "*batch k"], delta: float = 0.01
) -> Bool[Array, "*batch k"]:
    """Collapsed where P_x[KL_j < ε] ≥ 1 − δ.

    Args:
        probability: (*batch, k), from `fraction_below` or `gaussian_probability_below`.
        delta: share of the data that may use a collapsed latent.

    Raises:
        ValueError: δ outside [0, 1), where every latent would be collapsed.
    """
    if not 0 <= delta < 1:
        _checks.fail("delta", delta, "0 <= delta < 1")
    return probability >= 1 - delta


def gaussian_probability_below(
    mean_square: Float[Array, "k"], log_d: Float[Array, "k"], epsilon: Float[Array, "*grid"]
) -> Float[Array, "*grid k"]:
    """P_x[KL_j < ε] for Gaussian data and a linear encoder: exact, no data needed.

    The posterior mean of latent j is then N(0, m²), so KL_j < ε asks whether a χ² variable with
    one degree of freedom is below (2ε + 1 − D + log D)/m².

    Args:
        mean_square: (k,), m², diag(V S Vᵀ).
        log_d: (k,), log posterior variances.
        epsilon: (*grid), nats.

    Returns:
        (*grid, k), probabilities; at the optimum of the ELBO m² = 1 − D (landscape/README.md, 2).
    """
    room = 2 * jnp.asarray(epsilon, mean_square.dtype)[..., None] - (jnp.expm1(log_d) - log_d)
    # m² = 0: the KL is the same for every datum, below ε or not
    ratio = jnp.where(mean_square > 0, room / jnp.where(mean_square > 0, mean_square, 1), jnp.inf)
    inside = jax.lax.erf(jnp.sqrt(jnp.maximum(ratio, 0) / 2))
    return jnp.where(room > 0, inside, 0.0)
