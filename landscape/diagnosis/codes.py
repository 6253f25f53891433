"""Codes that were saved from a trained VAE, of any framework: what do they say by themselves?

A code is q(z | x) = N(m, diag D) of each datum: means (N, k) and log variances (N, k), or (k,)
where all data share them. Nothing of the model is needed. Two numbers say whether training ended:

- the *scale residual* E[m_j² + D_j] − 1, and the *shift residual* E[m_j].

Where the encoder's heads and the decoder's first layer are affine, rescaling or shifting z_j in one
can be undone in the other. The reconstruction doesn't change then, so at a stationary point the
KL's derivative vanishes: ∂_c ½ (c²(m² + D) − 1 − log D − 2 log c) = m² + D − 1 at c = 1, and
∂_s ½ (m + s)² = m at s = 0, on average over the training data. That holds for every likelihood, β
and architecture with such layers. It fails with weight decay, free bits of each datum, batch
normalisation of the heads, or where training was stopped early. (Free bits of the batch's mean
leave nothing: at the kink some share of the KL's gradient still pulls.)

>>> import numpy as np
>>> from landscape.diagnosis import codes
>>> rng = np.random.default_rng(0)
>>> mean = rng.normal(size=(1000, 2)) * np.sqrt([0.9, 0.0])
>>> found = codes.statistics(mean, np.log([0.1, 1.0]))
>>> [f"{kl:.2f}" for kl in found.kl], float(found.scale_residual[1])
(['1.17', '0.00'], 0.0)
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from linvae_jax import collapse, gaussian
from linvae_jax._internal import arrays, checks


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class CodeStatistics:
    """What the codes of N data say of each latent.

    Attributes:
        kl: (k,), nats, the mean over data of KL(q(z_j | x) ‖ p(z_j)).
        below: (grid, k), P_x[KL_j < ε].
        collapsed: (k,), (0.01, 0.01)-collapsed, as `collapse.is_collapsed`.
        mean_variance: (k,), variance over data of the posterior means.
        active: (k,), `mean_variance` > 0.01, Burda's active units.
        variance: (k,), mean over data of the posterior variances D.
        scale_residual: (k,), E[m² + D] − 1.
        shift_residual: (k,), E[m].
        epsilon: the grid of ε, nats.
    """

    kl: Float[Array, "k"]
    below: Float[Array, "grid k"]
    collapsed: Bool[Array, "k"]
    mean_variance: Float[Array, "k"]
    active: Bool[Array, "k"]
    variance: Float[Array, "k"]
    scale_residual: Float[Array, "k"]
    shift_residual: Float[Array, "k"]
    epsilon: tuple[float, ...] = field(metadata={"static": True})


def statistics(
    mean: Any, log_var: Any, epsilon: tuple[float, ...] = collapse.EPSILON
) -> CodeStatistics:
    """Measure the codes (N, k) of N data. Exact for these data: nothing is sampled.

    `log_var` is (N, k) or (k,), natural logarithms of variances. Half-precision codes are computed
    with in float32.

    Raises:
        ValueError: shapes disagree; NaN or Inf, also of a variance that the float type doesn't
            hold; a grid without 0.01.
    """
    mean = arrays.as_float("mean", checks.data_matrix("mean", mean))
    log_var = arrays.as_float("log_var", log_var)
    N, k = mean.shape
    if log_var.shape != (k,):
        checks.shape("log_var", log_var, (N, k))
    checks.finite("log_var", log_var)
    collapse.check_grid(epsilon)
    found = _statistics(mean, log_var.astype(mean.dtype), epsilon)
    if checks.concrete(found.kl) and not np.isfinite(found.kl).all():
        checks.fail(
            "log_var", f"log variances up to {float(log_var.max()):.4g}",
            f"those whose exp {mean.dtype} holds", "Are they logarithms of variances?",
        )  # fmt: skip
    return found


@partial(jax.jit, static_argnames="epsilon")
def _statistics(
    mean: Float[Array, "N k"], log_var: Array, epsilon: tuple[float, ...]
) -> CodeStatistics:
    kl = gaussian.kl(mean**2, log_var)
    grid = jnp.asarray(epsilon, kl.dtype)
    below = collapse.fraction_below(kl, grid)
    variance = jnp.exp(log_var)
    variances = mean.var(axis=0)
    return CodeStatistics(
        kl=kl.mean(axis=0),
        below=below,
        collapsed=collapse.is_collapsed(below[epsilon.index(collapse.TABLE_EPSILON)]),
        mean_variance=variances,
        active=collapse.is_active(variances),
        variance=jnp.broadcast_to(variance, mean.shape).mean(axis=0),
        # expm1 keeps the digits of latents that are all but collapsed
        scale_residual=(mean**2 + jnp.expm1(log_var)).mean(axis=0),
        shift_residual=mean.mean(axis=0),
        epsilon=epsilon,
    )
