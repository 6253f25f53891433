"""What a Hessian says about a stationary point of an objective that is to be maximised.

Positive eigenvalues are ways to escape, negative ones hold the point, zeros are flat. Under
gradient flow a deviation along an eigenvector grows as exp(μ t), μ its eigenvalue.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from landscape import hessian
from linvae_jax import _checks


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Conditioning:
    """A Hessian spectrum in six numbers.

    Attributes:
        index: (*batch), number of positive eigenvalues: escape directions.
        nullity: (*batch), number of zero eigenvalues: degenerate directions.
        stiffness: (*batch), largest |μ| among the negative eigenvalues, 0 if there is none;
            gradient ascent is stable for steps below 2/stiffness.
        condition_number: (*batch), largest over smallest |μ| among the negative eigenvalues; NaN
            if there is none.
        escape_rate: (*batch), largest eigenvalue if positive, else 0; nats per squared unit.
        tolerance: (*batch), |μ| below this counted as zero.
    """

    index: Int[Array, "*batch"]
    nullity: Int[Array, "*batch"]
    stiffness: Float[Array, "*batch"]
    condition_number: Float[Array, "*batch"]
    escape_rate: Float[Array, "*batch"]
    tolerance: Float[Array, "*batch"]


@jax.jit
def summarise(
    eigenvalues: Float[Array, "*batch p"], rtol: Float[Array, ""] | float | None = None
) -> Conditioning:
    """Read off a spectrum.

    A NaN among the eigenvalues makes every float NaN, and counts as nothing.

    Args:
        eigenvalues: (*batch, p), in any order.
        rtol: eigenvalues below rtol · max|μ| count as zero; by default 10 p ε of the dtype, the
            rounding of a dense eigensolver.
    """
    p = eigenvalues.shape[-1]
    if rtol is None:
        rtol = 10 * p * float(jnp.finfo(eigenvalues.dtype).eps)
    size = jnp.abs(eigenvalues)
    tolerance = rtol * size.max(axis=-1)
    up = eigenvalues > tolerance[..., None]
    down = eigenvalues < -tolerance[..., None]
    known = jnp.where(jnp.isnan(tolerance), jnp.nan, 1.0)
    stiffness = known * jnp.max(jnp.where(down, size, 0), axis=-1)
    softest = jnp.min(jnp.where(down, size, jnp.inf), axis=-1)
    return Conditioning(
        index=up.sum(axis=-1),
        nullity=p - (up | down).sum(axis=-1),
        stiffness=stiffness,
        condition_number=jnp.where(down.any(axis=-1), stiffness / softest, jnp.nan),
        escape_rate=known * jnp.max(jnp.where(up, eigenvalues, 0), axis=-1),
        tolerance=tolerance,
    )


def at(
    function: Callable[[Any], Float[Array, ""]],
    point: Any,
    *,
    rtol: float | None = None,
    max_gigabytes: float = 1.0,
) -> tuple[Conditioning, Any]:
    """Conditioning of any objective at a point by its dense Hessian, and the steepest direction.

    Args:
        function: scalar function of a pytree, to be maximised.
        point: a stationary point.
        rtol: see `summarise`.
        max_gigabytes: see `hessian.dense`.

    Returns:
        `Conditioning`, and the unit eigenvector of the largest eigenvalue as a pytree like
        `point`: the fastest escape where the index is positive.

    Raises:
        ValueError: the Hessian would be too large.
    """
    values, vectors = jnp.linalg.eigh(hessian.dense(function, point, max_gigabytes=max_gigabytes))
    _, unravel = ravel_pytree(point)
    return summarise(values, rtol), unravel(vectors[:, -1])


@jax.jit
def _escape_rate(lam: Array, s: Array) -> Float[Array, "..."]:
    root = jnp.sqrt((1 / s - lam) ** 2 + 4 * lam**2 / s**2)
    # −(a + b) + root loses all digits near the threshold λ = σ²; multiply by the conjugate
    return 2 * lam * (lam - s) / s**2 / (root + 1 / s + lam)


def escape_rate(
    eigenvalue: Float[Array, "*#batch"], sigma2: Float[Array, "*#batch"] | float
) -> Float[Array, "..."]:
    """Rate at which a collapsed latent leaves along a component, in joint (W, V) space.

    μ₊ = ½ [ −(1/σ² + λ) + √((1/σ² − λ)² + 4λ²/σ⁴) ], negative when λ < σ²: the rate of return.

    Args:
        eigenvalue: λ, of an unused component.
        sigma2: noise variance; the two broadcast.

    Returns:
        Rate per unit time of gradient flow. Exact.

    Raises:
        ValueError: λ < 0, σ² ≤ 0.

    Source: landscape/README.md, 2, the 2 × 2 block (AA, AB, BB) of a collapsed latent.
    """
    _checks.nonnegative("eigenvalue", eigenvalue)
    _checks.positive("sigma2", sigma2)
    lam = jnp.asarray(eigenvalue)
    lam = lam if jnp.issubdtype(lam.dtype, jnp.floating) else lam.astype(float)
    return _escape_rate(lam, jnp.asarray(sigma2, lam.dtype))


def critical_sigma2(
    eigenvalues: Float[Array, "n"],
    k: int,
    sigma2: float | Float[Array, ""],
    beta: float | Float[Array, ""] = 1.0,
) -> Float[Array, ""]:
    """σ² below which collapse of a linear VAE's least latent is unstable, its other weights held.

    It can go to the first component not in use, which is its own if all are, γ = λ; or, where σ²
    falls below the τ = βσ² that the model was trained at, to one that is, γ = τ²/λ: what is left.

    Args:
        eigenvalues: (n,), of S, from large to small.
        k: latents, ≤ n.
        sigma2: at which the model is at its optimum.
        beta: weight of the KL.

    Returns:
        γ/β. Exact.

    Raises:
        ValueError: eigenvalues unsorted or negative, k out of range, σ² or β ≤ 0.

    Source: landscape/README.md, 5.
    """
    _checks.eigenvalues("eigenvalues", eigenvalues)
    _checks.in_range("k", k, 1, len(eigenvalues), "at most n components")
    _checks.positive_scalar("sigma2", sigma2)
    _checks.positive_scalar("beta", beta)
    lam = jnp.asarray(eigenvalues)
    tau = jnp.asarray(beta * sigma2, lam.dtype)
    used = jnp.minimum((lam > tau).sum(), k - 1)
    shared = jnp.where(used > 0, tau**2 / jnp.where(used > 0, lam[used - 1], 1), 0)
    return jnp.maximum(lam[used], shared) / beta


def rotation_stiffness(eigenvalues: Float[Array, "k"]) -> Float[Array, "k-1"]:
    """Curvature against rotating neighbouring latents into each other at the optimum.

    (λ_j − λ_l)²/(λ_jλ_l) nats/rad², whatever σ² is: close eigenvalues align slowly.

    Args:
        eigenvalues: (k,), λ of the components in use, from large to small.

    Returns:
        (k − 1,), for the pairs (1, 2), (2, 3), …; minus the second derivative of the ELBO.

    Source: landscape/README.md, 2; Bao, Lucas, Sachdeva, Grosse, NeurIPS 2020.
    """
    return (eigenvalues[:-1] - eigenvalues[1:]) ** 2 / (eigenvalues[:-1] * eigenvalues[1:])
