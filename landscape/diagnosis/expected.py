"""What does the best linear VAE have on these data, with this loss? The yardstick of a diagnosis.

Everything follows from eigenvalues: λ of the covariance against the *waterline* τ = βσ², or, of
other likelihoods than the Gaussian, ν of `curvature.onset` against β. For the former it is exact.
For the latter it is exact as to whether total collapse is stable, and beyond that a guide.

>>> from landscape.diagnosis import expected, losses
>>> import jax.numpy as jnp
>>> loss = losses.Loss("summed-squared-error", kl_weight=2.0)  # τ = 1
>>> found = expected.of_spectrum(jnp.array([4.0, 1.0, 0.5]), loss, k=2)
>>> [f"{kl:.3f}" for kl in found.kl], int(found.num_in_use), float(found.distortion)
(['0.693', '0.000', '0.000'], 1, 2.5)
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from landscape.diagnosis import levels
from landscape.diagnosis.losses import Loss
from linvae_jax import collapse, ppca, predictions


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Expected:
    """What the global optimum of the linear VAE has, and which weights of the KL would be better.

    Numbers that only a Gaussian likelihood gives in closed form are NaN for others.

    Attributes:
        thresholds: (n,), the level below which each component is in use.
        level: (), of the loss as it is: τ, or β where σ² is learned or there is none.
        waterline: (), τ, also where σ² is learned; or β.
        kl: (n,), nats that the latent on each component has; 0 beyond the first k.
        in_use: (n,), whether that latent is not (0.01, 0.01)-collapsed, for Gaussian data.
        num_in_use: (), number of latents with any KL; a whole number in floating point.
        rate: (), KL of all latents, nats.
        distortion: (), E‖x − x̂‖², z drawn from q(z | x), data unit².
        elbo: (), nats per datum, β = 1, at the loss's own σ²; at σ² = τ if it states none.
        elbo_tuned: (), with σ² tuned after training, `distortion`/n.
        elbo_best: (), the maximum over σ² and the weights; NaN if there is none.
        level_best: (), the level of that maximum, the largest if there are many.
        kept: levels that keep 1, half and all k latents in use.
    """

    thresholds: Float[Array, "n"]
    level: Float[Array, ""]
    waterline: Float[Array, ""]
    kl: Float[Array, "n"]
    in_use: Bool[Array, "n"]
    num_in_use: Float[Array, ""]
    rate: Float[Array, ""]
    distortion: Float[Array, ""]
    elbo: Float[Array, ""]
    elbo_tuned: Float[Array, ""]
    elbo_best: Float[Array, ""]
    level_best: Float[Array, ""]
    kept: levels.Kept


def wanted(k: int) -> tuple[int, ...]:
    """Return the numbers of latents for which a weight is advised: 1, half of them, all."""
    return tuple(dict.fromkeys((1, -(-k // 2), k)))


def has_maximum(eigenvalues: Float[Array, "n"], k: int, beta: float, count: float) -> bool:
    """Say whether the β-ELBO of k latents has a maximum over σ², of N = `count` data.

    Not if k latents explain all variance (`ppca.check_learned_sigma2`). If they are as many as
    the rank n, β decides: at β > 1 the last component is left to σ², at β = 1 every σ² up to λ_n is
    as good, and below σ² runs to zero. For n = 1 it says no.
    """
    n = len(eigenvalues)
    try:
        ppca.check_learned_sigma2(eigenvalues, min(k, n - 1), beta, count)
    except ValueError:
        return False
    return n > 1 and (k < n or beta >= 1)


def of_spectrum(
    eigenvalues: Float[Array, "n"] | Any,
    loss: Loss,
    k: int,
    *,
    has_best: bool = True,
    has_optimum: bool = True,
) -> Expected:
    """Compute what to expect; pure, and exact for the linear VAE with a Gaussian likelihood.

    Args:
        eigenvalues: (n,), from large to small: λ, or ν where the likelihood is not Gaussian.
        loss: as the user wrote it; static under jit.
        k: number of latents, which may exceed n; static.
        has_best: whether the ELBO has a maximum over σ² at β = 1 (`has_maximum`). Static.
        has_optimum: whether it has one at the loss's β, where σ² is learned. Static.
    """
    lam = jnp.asarray(eigenvalues)
    n, used, dtype = len(lam), min(k, len(lam)), lam.dtype
    # σ² at its largest: with n latents it takes the place of the last where that is as good
    few = min(k, n - 1)
    level = jnp.asarray(loss.level(n, k), dtype)
    nan = jnp.full((), jnp.nan, dtype)
    thresholds = levels.learned(lam) if loss.learns_sigma2 else lam
    elbo = tuned = best = distortion = nan
    best_level = jnp.ones((), dtype)  # β, where there is nothing else to choose
    waterline = level
    if loss.family == "gaussian":
        if has_best:
            best = ppca.optimal_elbo(lam, few)
            best_level = best_level if loss.learns_sigma2 else ppca.optimal_sigma2(lam, few)
        else:
            best_level = nan
        sigma2, beta = loss.sigma2_and_beta(n, k)
        if has_optimum or not loss.learns_sigma2:
            found = predictions.predict(lam, few if loss.learns_sigma2 else used, sigma2, beta)
            waterline = found.sigma2 * beta
            elbo, tuned, distortion = found.elbo, found.elbo_tuned, found.square_error
        else:
            waterline = nan
    kl = jnp.where(jnp.arange(n) < k, 0.5 * jnp.log(jnp.maximum(lam / waterline, 1)), 0)
    below = collapse.gaussian_probability_below(
        -jnp.expm1(-2 * kl), -2 * kl, jnp.asarray(collapse.TABLE_EPSILON, dtype)
    )
    return Expected(
        thresholds=thresholds,
        level=level,
        waterline=waterline,
        kl=kl,
        in_use=~collapse.is_collapsed(below) & (jnp.arange(n) < k),
        num_in_use=collapse.count(kl > 0, kl),
        rate=kl.sum(),
        distortion=distortion,
        elbo=elbo,
        elbo_tuned=tuned,
        elbo_best=best,
        level_best=best_level,
        kept=levels.keep(thresholds, k, jnp.array(wanted(k))),
    )
