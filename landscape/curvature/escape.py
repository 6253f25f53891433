"""Gradient descent leaves a collapsed point at a rate that is predicted here, and simulated.

Near a stationary point a deviation along the eigenvector of μ₊ > 0 grows by 1 + ημ₊ a step, η the
step size. The stiffest direction limits η, so the number of steps to leave is governed by
stiffness/μ₊: the conditioning that improves as σ² falls (claim C6).

The perturbation is put on the escape direction of one collapsed latent and one component. By
symmetry the path never leaves these two variables of W and V and one of log D, so a simulation
costs nothing: it is gradient descent of the whole model all the same, as the tests check. (That
holds in exact arithmetic. In floating point, outside the eigenbasis, rounding also excites faster
directions, and a slow escape is overtaken by them.)

>>> import jax.numpy as jnp
>>> from landscape.curvature import escape
>>> found = escape.simulate(jnp.array([4.0, 2.0]), 0, sigma2=1.0)
>>> print(f"{found.rate:.3f} {found.predicted_steps:.1f} {found.simulated_steps:.1f}")
1.772 29.7 29.7
"""

import math
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from landscape.points import stationary
from linvae_jax import linear
from linvae_jax import moments as mom
from linvae_jax._internal import arrays, checks
from linvae_jax._internal.arrays import Scalar


@jax.jit
def _escape_rate(lam: Array, s: Array) -> Float[Array, "..."]:
    # −(a + b) + root loses all digits near the threshold λ = σ²; multiply by the conjugate
    half = jnp.hypot((1 / s - lam) / 2, lam / s) + (1 / s + lam) / 2
    return lam / s * ((lam - s) / s) / half


def escape_rate(
    eigenvalue: Float[Array, "*#batch"] | Any, sigma2: Float[Array, "*#batch"] | float
) -> Float[Array, "..."]:
    """Compute the rate at which a collapsed latent leaves along a component, in (W, V).

    μ₊ = ½ [ −(1/σ² + λ) + √((1/σ² − λ)² + 4λ²/σ⁴) ], negative when λ < σ²: the rate of return. λ
    belongs to an unused component; it broadcasts with σ².

    Returns:
        The growth rate of gradient flow, in nats per datum per squared unit of the weights. It is
        exact, and keeps its digits in every unit of the data, in float32 from about 1e-37 to 1e38.
        Its value depends on that unit; `escape_rate(λ/λ₁, σ²/λ₁)`, of normalised data, does not.

    Raises:
        ValueError: λ < 0, σ² ≤ 0.

    Source: landscape/README.md, 2, "Zero column".
    """
    checks.nonnegative("eigenvalue", eigenvalue)
    checks.positive("sigma2", sigma2)
    lam = arrays.as_float("eigenvalue", eigenvalue)
    return _escape_rate(lam, arrays.as_float("sigma2", sigma2).astype(lam.dtype))


def critical_sigma2(
    eigenvalues: Float[Array, "n"] | Any,
    k: int,
    sigma2: float | Float[Array, ""],
    beta: float | Float[Array, ""] = 1.0,
) -> Float[Array, ""]:
    """Compute the σ² below which a linear VAE's least latent cannot stay collapsed.

    Eigenvalues (n,) are those of S, from large to small. The other latents keep the weights that
    they have at the optimum for `sigma2`. The threshold is γ/β, where γ is the larger of two
    numbers. Along the first component that no latent uses (its own, if k are in use) the latent can
    grow where γ = λ. Along a component in use only the noise τ = βσ² of its λ is not explained yet:
    there γ = τ²/λ. The result is exact.

    Raises:
        ValueError: eigenvalues unsorted or negative, k > n, σ² or β ≤ 0.

    Source: landscape/README.md, 5.
    """
    lam = arrays.spectrum("eigenvalues", eigenvalues)
    checks.in_range("k", k, 1, len(lam), "at most n components")
    sigma2 = checks.positive_scalar("sigma2", sigma2, lam.dtype)
    beta = checks.positive_scalar("beta", beta, lam.dtype)
    return _critical_sigma2(lam, k, sigma2, beta)


@partial(jax.jit, static_argnames="k")
def _critical_sigma2(lam: Array, k: int, sigma2: Array, beta: Array) -> Array:
    # rounded as everywhere else (`stationary`), or a component at the noise would count as used
    tau = jnp.asarray(beta, lam.dtype) * jnp.asarray(sigma2, lam.dtype)
    used = jnp.minimum((lam > tau).sum(), k - 1)
    # not τ²/λ, whose square leaves float32 in units of 1e-10
    shared = jnp.where(used > 0, tau * (tau / jnp.where(used > 0, lam[used - 1], 1)), 0)
    return jnp.maximum(lam[used], shared) / beta


def rotation_stiffness(eigenvalues: Float[Array, "k"] | Any) -> Float[Array, "pairs"]:
    """Compute the curvature against rotating neighbouring latents into each other.

    At the optimum it is (λ_j − λ_l)²/(λ_jλ_l) nats/rad², whatever σ² is: latents of close
    eigenvalues align slowly. Eigenvalues (k,) are those of the components in use, from large to
    small.

    Returns:
        (k − 1,), for the pairs (1, 2), (2, 3), …; minus the second derivative of the ELBO. It has
        no unit.

    Raises:
        ValueError: eigenvalues that are not positive numbers (k,).

    Source: landscape/README.md, 2; Bao, Lucas, Sachdeva, Grosse, NeurIPS 2020.
    """
    checks.positive("eigenvalues", eigenvalues)
    checks.shape("eigenvalues", eigenvalues, ("k",))
    lam = arrays.as_float("eigenvalues", eigenvalues)
    gap = lam[:-1] - lam[1:]
    # two ratios: a product of two λ leaves float32 in units of 1e-10
    return gap / lam[:-1] * (gap / lam[1:])


def rotation_cost(eigenvalues: Any, angle: Scalar = math.pi / 4) -> Float[Array, "pairs"]:
    """Compute what the ELBO loses at its optimum when neighbouring latents turn by θ radians.

    The likelihood stays, so this is the `linear.hadamard_gap` of a turned pair. It is
    ½ log(1 + c sin²(2θ)/4) with c the `rotation_stiffness`, whatever σ² is: cθ²/2 for small θ,
    and largest at 45°. The result is exact, in nats per datum; eigenvalues, pairs and errors are
    those of `rotation_stiffness`.
    """
    stiffness = rotation_stiffness(eigenvalues)
    theta = jnp.asarray(checks.scalar("angle", angle), stiffness.dtype)
    return 0.5 * jnp.log1p(stiffness * jnp.sin(2 * theta) ** 2 / 4)


# of a simulation, unless told; they take seconds
MAX_STEPS = 10_000_000


class Escape(NamedTuple):
    """An `Escape` tells how gradient descent takes one collapsed latent along one component.

    Attributes:
        rate: μ₊, nats per squared unit, of the exact Hessian.
        predicted_steps: steps to grow by the factor asked for, log(growth)/log(1 + ημ₊).
        simulated_steps: the same, measured; NaN where `max_steps` did not suffice.
    """

    rate: Float[Array, ""]
    predicted_steps: Float[Array, ""]
    simulated_steps: Float[Array, ""]


@jax.jit
def steps(
    rate: Float[Array, "*batch"], step_size: Float[Array, "*batch"], growth: Scalar
) -> Float[Array, "*batch"]:
    """Count steps of gradient descent in which a deviation grows by `growth`; ∞ at rates ≤ 0."""
    log_factor = jnp.log1p(step_size * jnp.maximum(rate, 0))
    return jnp.where(rate > 0, jnp.log(growth) / log_factor, jnp.inf)


@partial(jax.jit, static_argnames="max_steps")
def _simulate(
    eigenvalue: Array, sigma2: Array, step_size: Array, start: Array, growth: Array, max_steps: int
) -> Array:
    moments = mom.Moments(jnp.zeros_like(eigenvalue)[None], eigenvalue[None], jnp.ones(()))
    rate = escape_rate(eigenvalue, sigma2)
    # eigenvector of [[−1/σ², λ/σ²], [λ/σ², −λ]]: (λ/σ², μ₊ + 1/σ²), not normalised
    direction = jnp.stack([eigenvalue / sigma2, rate + 1 / sigma2])
    w, v = start * direction / jnp.linalg.norm(direction)
    params = linear.LinearVAEParams(
        w[None, None], v[None, None], jnp.zeros(1, w.dtype), jnp.log(sigma2)
    )

    def size(p: linear.LinearVAEParams) -> Array:
        return jnp.sqrt(p.W[0, 0] ** 2 + p.V[0, 0] ** 2)

    def descend(carry: tuple[linear.LinearVAEParams, Array, Array]) -> tuple:
        p, t, _ = carry
        up = replace(linear.gradient(p, moments), log_sigma2=jnp.zeros_like(p.log_sigma2))
        moved = jax.tree.map(lambda x, slope: x + step_size * slope, p, up)
        return moved, t + 1, size(p)

    def near(carry: tuple[linear.LinearVAEParams, Array, Array]) -> Array:
        p, t, _ = carry
        return (size(p) < start * growth) & (t < max_steps)

    p, t, before = jax.lax.while_loop(near, descend, (params, jnp.zeros((), int), size(params)))
    # fraction of the last step, by the growth of that step
    excess = jnp.log(size(p) / (start * growth)) / jnp.log(size(p) / before)
    return jnp.where(size(p) >= start * growth, t - excess, jnp.nan)


def simulate(
    eigenvalues: Float[Array, "n"] | Any,
    component: int,
    sigma2: Float[Array, ""] | float,
    *,
    growth: float = 1e3,
    start: float = 1e-6,
    max_steps: int = MAX_STEPS,
) -> Escape:
    """Leave total collapse along one component by gradient descent with step 1/stiffness.

    Eigenvalues (n,) are those of S, from large to small; the first sets the step. `component`
    counts from 0, and σ² is held. The deviation starts with size `start`; it must be small enough
    for start · growth to be in the linear regime. If it takes more than `max_steps`,
    `simulated_steps` is NaN; if more are predicted, nothing is simulated. In the data's own unit u
    the number of steps grows like u⁴ or u⁻⁴. For gradient descent on normalised data give λ/λ₁ and
    σ²/λ₁.

    Raises:
        ValueError: λ of the component ≤ σ², where there is no escape along it; no such component;
            eigenvalues unsorted or negative; σ² ≤ 0.
    """
    eigenvalues = arrays.spectrum("eigenvalues", eigenvalues)
    checks.in_range("component", component, 0, len(eigenvalues) - 1, "n components")
    # that component could be in use, so it can be escaped along
    point = stationary.point(eigenvalues, jnp.array([component]), sigma2)
    lam, sigma2 = point.eigenvalues[component], point.sigma2
    rate = escape_rate(lam, sigma2)
    step_size = 1 / collapsed_stiffness(point.eigenvalues[0], sigma2)
    predicted = steps(rate, step_size, growth)
    found = jnp.full_like(predicted, jnp.nan)
    if not checks.concrete(predicted) or predicted <= max_steps:
        found = _simulate(
            lam, sigma2, step_size, jnp.asarray(start, lam.dtype), jnp.asarray(growth), max_steps
        )
    return Escape(rate, predicted, found)


def collapsed_stiffness(
    largest: Float[Array, "*#batch"], sigma2: Float[Array, "*#batch"]
) -> Float[Array, "..."]:
    """Compute the largest |μ| of negative eigenvalues at total collapse: −μ₋ of the block of λ₁.

    μ₊ + μ₋ = −(1/σ² + λ), the trace; μ₋ falls with λ, so λ₁ gives the stiffest.
    """
    return escape_rate(largest, sigma2) + 1 / sigma2 + largest
