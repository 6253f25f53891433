"""The linear VAE predicts what a VAE has on the same data, with as many latents and the same σ².

Everything follows from the eigenvalues λ of the data covariance: at the optimum latent j sits on
component j, and reverse water-filling at the level βσ² says how much of it the code keeps.

>>> import jax.numpy as jnp
>>> from linvae_jax import predictions
>>> expected = predictions.predict(jnp.array([4.0, 1.0, 0.5]), k=2, sigma2=1.0)
>>> int(expected.num_collapsed), [f"{kl:.3f}" for kl in expected.kl]  # ½ log 4, and λ₂ = σ²
(1, ['0.693', '0.000'])
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from linvae_jax import collapse, gaussian, ppca
from linvae_jax._internal import arrays, checks
from linvae_jax._internal.arrays import Scalar


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Prediction:
    """A prediction has the numbers of `evaluation.Evaluation`, at the global maximum of the β-ELBO.

    Units and meanings are those of the same fields there; `elbo` is the bound itself, whatever β
    is. `sigma2` is as given or learned, and `kl` goes from large to small. `below` and
    `num_collapsed` are for Gaussian data.

    Attributes:
        zero_columns: (), number of latents with a zero column in W, λ_j ≤ βσ²; at most
            `num_collapsed`. Both are whole numbers in floating point, NaN where σ² is.
    """

    sigma2: Float[Array, "*runs"]
    elbo: Float[Array, "*runs"]
    reconstruction: Float[Array, "*runs"]
    kl: Float[Array, "*runs k"]
    square_error: Float[Array, "*runs"]
    sigma2_tuned: Float[Array, "*runs"]
    elbo_tuned: Float[Array, "*runs"]
    below: Float[Array, "*runs grid k"]
    num_collapsed: Float[Array, "*runs"]
    zero_columns: Float[Array, "*runs"]
    epsilon: tuple[float, ...] = field(metadata={"static": True})


def predict(
    eigenvalues: Float[Array, "n"] | Any,
    k: int,
    sigma2: Scalar | None = None,
    beta: Scalar = 1.0,
    epsilon: tuple[float, ...] = collapse.EPSILON,
) -> Prediction:
    """Compute the linear VAE's ELBO, KL, distortion and collapse, in closed form.

    KL_j = ½ log⁺(λ_j/(βσ²)), E‖x − x̂‖² = Σ_{i≤k} min(λ_i, βσ²) + Σ_{i>k} λ_i. For many σ² or β
    at once, `vmap`.

    The numbers are exact for the linear VAE. `below` and `num_collapsed` take the data as Gaussian.
    k and ε are static.

    Args:
        eigenvalues: (n,), λ of the data covariance, all n of them, from large to small.
        k: number of latents.
        sigma2: noise variance held fixed; learned with the rest (`ppca.optimal_sigma2`) if None.
        beta: weight of the KL, > 0.
        epsilon: the grid of ε, nats, 0.01 among them.

    Raises:
        ValueError: eigenvalues not sorted or negative, k out of range, σ² or β ≤ 0, a grid
            without 0.01; σ² learned and none is best (`ppca.check_learned_sigma2`).

    Source: landscape/README.md, 2.
    """
    eigenvalues = arrays.spectrum("eigenvalues", eigenvalues)
    checks.in_range("k", k, 1, eigenvalues.shape[0], "at most n components")
    beta = checks.positive_scalar("beta", beta, eigenvalues.dtype)
    collapse.check_grid(epsilon)
    if sigma2 is None:
        sigma2 = ppca.optimal_sigma2(eigenvalues, k, beta)
    sigma2 = checks.positive_scalar("sigma2", sigma2, eigenvalues.dtype)
    sigma2 = jnp.asarray(sigma2, eigenvalues.dtype)
    return _predict(eigenvalues, k, sigma2, jnp.asarray(beta, eigenvalues.dtype), epsilon)


@partial(jax.jit, static_argnames=("k", "epsilon"))
def _predict(
    eigenvalues: Array, k: int, sigma2: Array, beta: Array, epsilon: tuple[float, ...]
) -> Prediction:
    n = eigenvalues.shape[0]
    level = beta * sigma2
    coded, rest = eigenvalues[:k], eigenvalues[k:]

    kl = 0.5 * jnp.log(jnp.maximum(coded / level, 1))
    error = jnp.minimum(coded, level).sum() + rest.sum()
    reconstruction = gaussian.log_density(error, n, jnp.log(sigma2))
    sigma2_tuned = error / n
    log_d = -2 * kl  # D_j = βσ²/λ_j where in use, 1 where not; the posterior means have 1 − D_j
    below = collapse.gaussian_probability_below(
        -jnp.expm1(log_d), log_d, jnp.asarray(epsilon, kl.dtype)
    )
    return Prediction(
        sigma2=sigma2,
        elbo=reconstruction - kl.sum(),
        reconstruction=reconstruction,
        kl=kl,
        square_error=error,
        sigma2_tuned=sigma2_tuned,
        elbo_tuned=gaussian.log_density(error, n, jnp.log(sigma2_tuned)) - kl.sum(),
        below=below,
        num_collapsed=collapse.num_collapsed(below, epsilon),
        zero_columns=collapse.count(coded <= level, coded + level),
        epsilon=epsilon,
    )
