"""The objective along planes through a point shows what the surface looks like around it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from landscape.points import stationary
from linvae_jax import linear, ppca, tables
from linvae_jax import moments as mom
from linvae_jax._internal import arrays, checks


def plane(
    function: Callable[[Any], Float[Array, ""]],
    point: Any,
    directions: tuple[Any, Any],
    a: Float[Array, "A"],
    b: Float[Array, "B"],
) -> Float[Array, "A B"]:
    """Compute values of any scalar function of a pytree at point + a d₁ + b d₂.

    The directions d₁ and d₂ are pytrees like `point`.
    """

    def value(ab: tuple[Array, Array]) -> Float[Array, ""]:
        moved = jax.tree.map(lambda p, u, v: p + ab[0] * u + ab[1] * v, point, *directions)
        return function(moved)

    grid = jnp.meshgrid(a, b, indexing="ij")
    flat = jax.lax.map(value, (grid[0].ravel(), grid[1].ravel()), batch_size=64)
    return flat.reshape(len(a), len(b))


def sigma2_around(
    eigenvalues: Float[Array, "n"] | Any, components: tuple[int, int] = (4, 6)
) -> tuple[float, ...]:
    """Choose σ² at which both components are captured, the larger alone, and none (figure 1)."""
    eigenvalues = arrays.spectrum("eigenvalues", eigenvalues)
    for i in components:
        checks.in_range("components", i, 0, len(eigenvalues) - 1, "n components, from 0")
    high, low = (float(eigenvalues[i]) for i in components)
    return 0.5 * low, (high * low) ** 0.5, 1.3 * high


@jax.jit
def _of_column(
    W: Array, sigma2: Array | float, moments: mom.Moments, directions: tuple[Array, Array],
    steps: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Compute likelihood and profile ELBO in the plane; one program serves all σ²."""
    return (
        plane(lambda W: ppca.log_likelihood(W, sigma2, moments), W, directions, steps, steps),
        plane(lambda W: linear.profile_elbo(W, sigma2, moments), W, directions, steps, steps),
    )


def zero_column(
    eigenvalues: Float[Array, "n"] | Any,
    sigma2: Sequence[float],
    components: tuple[int, int] = (4, 6),
    num: int = 61,
) -> xr.Dataset:
    """Move a collapsed latent's column of W along two unused principal directions (figure 1).

    The other latents sit on the components before the first of the two, where λ_i > σ². In this
    plane W keeps orthogonal columns, so the profile ELBO (maximised over the encoder) equals the
    marginal likelihood; both are computed, each its own way.

    Of the eigenvalues of S, and components i < j from 0: (4, 6) are the 5th and 7th. Gives
    `log_likelihood` and `profile_elbo` over (sigma2, along_first, along_second), nats per datum,
    at `num` displacements along each direction, in data units.

    Raises:
        ValueError: components out of order or range, σ² ≤ 0.
    """
    first, second = components
    eigenvalues = arrays.spectrum("eigenvalues", eigenvalues)
    n = len(eigenvalues)
    if not 0 <= first < second < n:
        checks.fail("components", components, f"0 <= first < second < n = {n}")
    checks.positive("sigma2", jnp.asarray(sigma2))
    reach = 1.5 * float(jnp.sqrt(eigenvalues[first]))
    steps = jnp.linspace(-reach, reach, num)
    diagonal = mom.from_covariance(eigenvalues)
    still = jnp.zeros((n, first + 1))
    directions = (still.at[first, first].set(1), still.at[second, first].set(1))
    found = []
    for s in sigma2:
        assignment = np.where(np.asarray(eigenvalues[:first]) > s, np.arange(first), -1)
        assignment = np.append(assignment, -1)
        W = stationary.params(stationary.point(eigenvalues, assignment, s), jnp.eye(n)).W
        found.append(_of_column(W, s, diagonal, directions, steps))
    likelihood, profile = zip(*found, strict=True)
    lam = eigenvalues[jnp.asarray(components)]
    dims, nats = ("sigma2", "along_first", "along_second"), "nats/datum"
    return tables.dataset(
        {
            "log_likelihood": (dims, jnp.stack(likelihood), nats, "pPCA log-likelihood"),
            "profile_elbo": (dims, jnp.stack(profile), nats, "ELBO maximised over the encoder"),
            "eigenvalue": ("component", lam, "data unit²", "eigenvalues of the two directions"),
        },
        coords={
            "component": jnp.asarray(components),
            "sigma2": (sigma2, "data unit²", "observation noise σ²"),
            "along_first": (steps, "data unit", f"displacement along u_{first + 1}"),
            "along_second": (steps, "data unit", f"displacement along u_{second + 1}"),
        },
        attrs=tables.provenance(components=list(components)),
    )
