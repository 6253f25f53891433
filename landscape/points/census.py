"""The census lists all stationary points of the linear VAE's ELBO at fixed noise, by type.

Some are those that pPCA has too (`stationary`), the others are mixed (`mixed`, which says what a
type is). Types are few Python objects rather than arrays: a census computes in NumPy's float64.

>>> import jax.numpy as jnp
>>> from landscape.points import census, mixed
>>> lam = jnp.array([9.0, 2.0, 0.5])
>>> for t in census.types(lam, k=2, sigma2=1.0):
...     print(t, mixed.index(mixed.point(lam, t, 1.0)))
{0}:1 {1}:1 0
{0}:1 collapsed:1 1
{0}:2 3
{0,1}:2 1
{0,2}:2 2
{1}:1 collapsed:1 2
{1}:2 3
collapsed:2 4
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from landscape.points import mixed
from landscape.points.mixed import Group, MixedPoint, PointType
from linvae_jax._internal import checks
from linvae_jax._internal.arrays import Scalar


@dataclass(frozen=True)
class Census:
    """A `Census` has all types, with what is known of each.

    Attributes:
        types: the global maximum first, total collapse last.
        value: (types,), β-ELBO, nats per datum.
        gap: (types,), how far below the global maximum, nats per datum.
        index: (types,), escape directions.
        nullity: (types,), flat directions.
    """

    types: tuple[PointType, ...]
    value: Float[np.ndarray, "types"]
    gap: Float[np.ndarray, "types"]
    index: Int[np.ndarray, "types"]
    nullity: Int[np.ndarray, "types"]


def types(
    eigenvalues: Float[Array, "n"] | Any, k: int, sigma2: Scalar, beta: Scalar = 1.0
) -> Iterator[PointType]:
    """List all types of stationary point, lazily: the global maximum first, total collapse last.

    Their number grows faster than exponentially in k (`count`). With repeated eigenvalues the
    points of several types can lie in one continuous family; each type is listed. Arguments and
    errors are those of `stationary.assignments`; errors are raised at the call.

    Source: own derivation; proof that the list is complete: landscape/README.md, 4.2.
    """
    lam, sigma2, beta = mixed.read(eigenvalues, sigma2, beta)
    tau = beta * sigma2
    checks.in_range("k", k, 1, len(lam), "at most n components")

    def groups(first: int, others: tuple[int, ...], latents: int) -> Iterator[Group]:
        for r in range(1, latents + 1):
            for rest in combinations(others, r - 1):
                components = (first, *rest)
                for m in range(r, latents + 1):
                    if mixed.exists(lam[list(components)], m, tau):
                        yield Group(components, m)

    def collections(components: tuple[int, ...], latents: int) -> Iterator[tuple[Group, ...]]:
        for place, first in enumerate(components):
            others = components[place + 1 :]
            for group in groups(first, others, latents):
                free = tuple(i for i in others if i not in group.components)
                for more in collections(free, latents - group.latents):
                    yield (group, *more)
        yield ()

    used = tuple(np.flatnonzero(lam > 0).tolist())
    return (PointType(g, k - sum(m for _, m in g)) for g in collections(used, k))


def count(eigenvalues: Float[Array, "n"] | Any, k: int, sigma2: Scalar, beta: Scalar = 1.0) -> int:
    """Count the `types`, by listing them."""
    return sum(1 for _ in types(eigenvalues, k, sigma2, beta))


def table(
    eigenvalues: Float[Array, "n"] | Any, k: int, sigma2: Scalar, beta: Scalar = 1.0
) -> Census:
    """List all types with value, gap to the optimum, index and nullity, given as for `types`."""
    listed = tuple(types(eigenvalues, k, sigma2, beta))
    read = mixed.read(eigenvalues, sigma2, beta)
    points = [MixedPoint(*read, t) for t in listed]
    values = np.array([mixed.value(p) for p in points])
    counts = np.array([mixed.inertia(p) for p in points])
    # the first type is the global maximum
    return Census(listed, values, values[0] - values, counts[:, 0], counts[:, 1])
