"""How fast gradient descent leaves a collapsed point: predicted, and simulated.

Near a stationary point a deviation along the eigenvector of μ₊ > 0 grows by 1 + ημ₊ a step, η the
step size. The stiffest direction limits η, so the number of steps to leave is governed by
stiffness/μ₊: the conditioning that improves as σ² falls (claim C6).

The perturbation is put on the escape direction of one collapsed latent and one component. By
symmetry the path never leaves these two variables of W and V and one of log D, so a simulation
costs nothing: it is gradient descent of the whole model all the same, as the tests check. (That
holds in exact arithmetic. In floating point, outside the eigenbasis, rounding also excites faster
directions, and a slow escape is overtaken by them.)
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from landscape.curvature import conditioning
from landscape.points import stationary
from linvae_jax import linear
from linvae_jax import moments as mom
from linvae_jax._internal import arrays, checks

# of a simulation, unless told; they take seconds
MAX_STEPS = 10_000_000


class Escape(NamedTuple):
    """Escape of one collapsed latent along one component, by gradient descent.

    Attributes:
        rate: μ₊, nats per squared unit, of the exact Hessian.
        predicted_steps: steps to grow by the factor asked for, log(growth)/log(1 + ημ₊).
        simulated_steps: the same, measured; NaN where `max_steps` did not suffice.
    """

    rate: Float[Array, ""]
    predicted_steps: Float[Array, ""]
    simulated_steps: Float[Array, ""]


def steps(
    rate: Float[Array, "*batch"], step_size: Float[Array, "*batch"], growth: float
) -> Float[Array, "*batch"]:
    """Steps of gradient descent for a deviation to grow by `growth`; ∞ where the rate is ≤ 0."""
    return _steps(rate, step_size, growth)


@jax.jit
def _steps(rate: Array, step_size: Array, growth: Array | float) -> Array:
    log_factor = jnp.log1p(step_size * jnp.maximum(rate, 0))
    return jnp.where(rate > 0, jnp.log(growth) / log_factor, jnp.inf)


@partial(jax.jit, static_argnames="max_steps")
def _simulate(
    eigenvalue: Array, sigma2: Array, step_size: Array, start: Array, growth: Array, max_steps: int
) -> Array:
    moments = mom.Moments(jnp.zeros_like(eigenvalue)[None], eigenvalue[None], jnp.ones(()))
    rate = conditioning.escape_rate(eigenvalue, sigma2)
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
        up = linear.gradient(p, moments)
        moved = linear.LinearVAEParams(
            p.W + step_size * up.W,
            p.V + step_size * up.V,
            p.log_d + step_size * up.log_d,
            p.log_sigma2,
        )
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

    Args:
        eigenvalues: (n,), of S, from large to small; the first sets the step size.
        component: which eigenvalue to escape along, 0-based.
        sigma2: noise variance, held.
        growth: by how much the deviation is to grow.
        start: its initial size, small enough for start · growth to be in the linear regime.
        max_steps: give up (NaN) after this many; at once if more are predicted. In the data's own
            unit u their number grows like u⁴ or u⁻⁴; take λ/λ₁ and σ²/λ₁ for gradient descent on
            normalised data.

    Raises:
        ValueError: λ of the component ≤ σ²: there is no escape along it.
    """
    eigenvalues = arrays.spectrum("eigenvalues", eigenvalues)
    checks.in_range("component", component, 0, len(eigenvalues) - 1, "n components")
    _, eigenvalues, sigma2, _ = stationary.read(jnp.array([component]), eigenvalues, sigma2)
    lam = eigenvalues[component]
    rate = conditioning.escape_rate(lam, sigma2)
    step_size = 1 / collapsed_stiffness(eigenvalues[0], sigma2)
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
    """Largest |μ| among the negative eigenvalues at total collapse, from λ₁: −μ₋ of its block.

    μ₊ + μ₋ = −(1/σ² + λ), the trace; μ₋ falls with λ, so λ₁ gives the stiffest.
    """
    return conditioning.escape_rate(largest, sigma2) + 1 / sigma2 + largest
