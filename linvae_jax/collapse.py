"""Posterior collapse is measured here: which latents carry no information?

Latent j is (ε, δ)-collapsed when P_x[ KL(q(z_j | x) ‖ p(z_j)) < ε ] ≥ 1 − δ. The probability is
over data, of the KL of each datum: a latent whose KL is small on average may still be used by a
few data points, and is then not collapsed. Active units (Burda et al. 2016, `is_active`) and mutual
information (`information`) measure the same thing in other ways.

In all functions `kl` (N, k) is the KL of each datum and latent, and `epsilon` a grid of ε of any
shape. Both are in nats.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from linvae_jax._internal import arrays, checks

# the paper's table counts the latents that are collapsed at this ε, nats, with δ = 0.01
TABLE_EPSILON = 0.01
# the grid for curves over ε, nats: even steps up to 2, as the paper's figure, finer near 0
EPSILON = (
    *(0.0, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, TABLE_EPSILON),
    *(i / 50 for i in range(1, 101)),
)

# data compared in one go by `count_below`: its sum over them stays in the registers
_ROWS = 16


def count_below(kl: Any, epsilon: Any) -> Int[Array, "*grid k"]:
    """Count the data whose KL in latent j is strictly below ε, for a whole grid of ε at once.

    The counts are int32 and add exactly, so those of batches may be summed in any order. Inside a
    transformation NaN is not looked for, and is below nothing.

    Raises:
        ValueError: KL not (N, k), NaN or Inf; ε NaN; either of them no real numbers.
    """
    kl, epsilon = _kl_and_grid(kl, epsilon)
    return _count_below(kl, epsilon.reshape(-1, 1)).reshape(*epsilon.shape, kl.shape[1])


def _kl_and_grid(kl: Any, epsilon: Any) -> tuple[Array, Array]:
    """Make both floats of the same dtype."""
    kl = arrays.as_float("kl", checks.data_matrix("kl", kl))
    epsilon = arrays.as_float("epsilon", epsilon)
    if checks.concrete(epsilon) and bool(jnp.isnan(epsilon).any()):
        checks.fail("epsilon", "NaN", "nats")
    return kl, epsilon.astype(kl.dtype)


@jax.jit
def _count_below(kl: Float[Array, "N k"], grid: Float[Array, "grid 1"]) -> Int[Array, "grid k"]:
    # comparing all data at once is 50 times slower on CPU, one ε after the other 5 times
    padded = jnp.pad(kl, ((0, -kl.shape[0] % _ROWS), (0, 0)), constant_values=jnp.inf)

    def add(counts: Array, rows: Array) -> tuple[Array, None]:
        return counts + (rows[:, None] < grid).sum(axis=0, dtype=jnp.int32), None

    counts = jnp.zeros((grid.shape[0], kl.shape[1]), jnp.int32)
    return jax.lax.scan(add, counts, padded.reshape(-1, _ROWS, kl.shape[1]))[0]


def fraction_below(kl: Any, epsilon: Any) -> Float[Array, "*grid k"]:
    """Measure the empirical P_x[KL_j < ε], a share of the data, for a whole grid of ε at once.

    The share is in [0, 1]. Errors are those of `count_below`.
    """
    kl, epsilon = _kl_and_grid(kl, epsilon)
    return count_below(kl, epsilon).astype(kl.dtype) / kl.shape[0]


def is_collapsed(
    probability: Float[Array, "*batch k"], delta: float = 0.01
) -> Bool[Array, "*batch k"]:
    """Call a latent collapsed where P_x[KL_j < ε] ≥ 1 − δ.

    `probability` comes from `fraction_below` or `gaussian_probability_below`. δ is the share of the
    data that may use a collapsed latent.

    Raises:
        ValueError: δ outside [0, 1), where every latent would be collapsed.
    """
    if not 0 <= delta < 1:
        checks.fail("delta", delta, "0 <= delta < 1")
    # 99 of 100 data must pass δ = 0.01 in float32, where XLA's 99/100 is one step below 0.99
    return probability >= 1 - delta - 2 * jnp.finfo(probability.dtype).eps


def count(chosen: Bool[Array, "k"], measured: Float[Array, "k"]) -> Float[Array, ""]:
    """Count the latents for which something holds; NaN if it is unknown of one of them.

    `chosen` (k,) says for which it holds, as read off `measured` (k,). A NaN in `measured`, as of a
    model that diverged, compares as false with everything, and would count as a latent for which it
    does not hold. The count is a whole number in the dtype of `measured`, because integers have no
    NaN.
    """
    total = chosen.sum().astype(measured.dtype)
    return jnp.where(jnp.isnan(measured).any(), jnp.nan, total)


def num_collapsed(
    probability: Float[Array, "grid k"], epsilon: tuple[float, ...] = EPSILON
) -> Float[Array, ""]:
    """Count the (0.01, 0.01)-collapsed latents, as in the paper's table, by `count`.

    `probability` is P_x[KL_j < ε] for each ε of the grid, which must have `TABLE_EPSILON` in it.
    The count is NaN where a latent's probability is NaN.

    Raises:
        ValueError: no 0.01 in the grid, or a grid of another length.
    """
    check_grid(epsilon)
    checks.shape("probability", probability, (len(epsilon), "k"))
    there = probability[epsilon.index(TABLE_EPSILON)]
    return count(is_collapsed(there), there)


def check_grid(epsilon: tuple[float, ...]) -> None:
    """Raise `ValueError` unless the grid of ε has the 0.01 of the paper's table in it."""
    if not isinstance(epsilon, tuple) or TABLE_EPSILON not in epsilon:
        checks.fail(
            "epsilon",
            epsilon,
            f"a tuple of numbers with {TABLE_EPSILON} among them",
            "The number of collapsed latents is counted there; `collapse.EPSILON` is a grid.",
        )


def is_active(
    mean_variance: Float[Array, "*batch k"], threshold: float = 0.01
) -> Bool[Array, "*batch k"]:
    """Call a latent active where its `mean_variance` Var_x[ E q(z_j | x) ] exceeds a threshold.

    Source: Burda, Grosse, Salakhutdinov, *Importance weighted autoencoders*, ICLR 2016, which takes
    0.01.
    """
    return mean_variance > threshold


@jax.jit
def gaussian_probability_below(
    mean_square: Float[Array, "k"], log_d: Float[Array, "k"], epsilon: Float[Array, "*grid"]
) -> Float[Array, "*grid k"]:
    """Compute P_x[KL_j < ε] exactly for Gaussian data and a linear encoder; no data needed.

    The posterior mean of latent j is then N(0, m²) with m² = (V S Vᵀ)_jj, its `mean_square`. So
    KL_j < ε asks whether a χ² variable with one degree of freedom is below (2ε + 1 − D + log D)/m².
    At the optimum of the ELBO m² = 1 − D (landscape/README.md, 2). The result is NaN where m² or
    log D is.
    """
    room = 2 * jnp.asarray(epsilon, mean_square.dtype)[..., None] - (jnp.expm1(log_d) - log_d)
    # m² = 0: the KL is the same for every datum, below ε or not
    varies, reached = mean_square > 0, room > 0
    # the inner where keeps the gradient of the square root finite at zero
    ratio = jnp.where(reached & varies, room / jnp.where(varies, mean_square, 1), 1)
    inside = jnp.where(varies, jax.lax.erf(jnp.sqrt(ratio / 2)), 1.0)
    known = jnp.where(jnp.isnan(room) | jnp.isnan(mean_square), jnp.nan, 0.0)
    return jnp.where(reached, inside, 0.0) + known
