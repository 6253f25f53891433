"""What a Hessian says about a stationary point of an objective that is to be maximised.

Positive eigenvalues are ways to escape, negative ones hold the point, zeros are flat. Under
gradient flow a deviation along an eigenvector grows as exp(μ t), μ its eigenvalue.

>>> import jax.numpy as jnp
>>> from landscape.curvature import conditioning
>>> saddle = lambda v: v["a"] ** 2 - 3 * v["b"] ** 2
>>> found, way = conditioning.of_function(saddle, {"a": jnp.zeros(()), "b": jnp.zeros(())})
>>> int(found.index), float(found.escape_rate), float(found.stiffness), float(abs(way["a"]))
(1, 2.0, 6.0, 1.0)
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from landscape.autodiff import hessian
from linvae_jax._internal import arrays, checks


class UnitFree(NamedTuple):
    """`UnitFree` is what gradient descent sees in data x/√λ₁: the same in every unit of x.

    λ₁ is the largest eigenvalue of the data's covariance S; W is measured in √λ₁ and V in 1/√λ₁.
    Each number is defined as in `Conditioning`.
    """

    stiffness: Float[Array, "*batch"]
    condition_number: Float[Array, "*batch"]
    escape_rate: Float[Array, "*batch"]


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Conditioning:
    """`Conditioning` is a Hessian spectrum in six numbers, three of them without a unit too.

    Attributes:
        index: (*batch), number of positive eigenvalues: escape directions.
        nullity: (*batch), number of zero eigenvalues: degenerate directions.
        stiffness: (*batch), largest |μ| among the negative eigenvalues, 0 if there is none;
            gradient ascent is stable for steps below 2/stiffness.
        condition_number: (*batch), largest over smallest |μ| among the negative eigenvalues; NaN
            if there is none.
        escape_rate: (*batch), largest eigenvalue if positive, else 0; nats per squared unit.
        tolerance: (*batch), |μ| below this counted as zero.
        unit_free: stiffness, condition number and escape rate of normalised data, where those are
            known (`summaries`); else NaN. Index and nullity are the same in every unit.
    """

    index: Int[Array, "*batch"]
    nullity: Int[Array, "*batch"]
    stiffness: Float[Array, "*batch"]
    condition_number: Float[Array, "*batch"]
    escape_rate: Float[Array, "*batch"]
    tolerance: Float[Array, "*batch"]
    unit_free: UnitFree


def of_eigenvalues(
    eigenvalues: Float[Array, "*batch p"] | Any, rtol: Float[Array, ""] | float | None = None
) -> Conditioning:
    """Summarise a spectrum.

    A NaN among the eigenvalues makes every float NaN, and counts as nothing.

    A tolerance relative to the largest eigenvalue compares curvatures of different units, where
    the variables have any: of weights that are measured in the data's unit and of weights in one
    over it. So give eigenvalues of a matrix whose variables are all of one unit, as those of
    `objectives.rescaled` are. `of_function` takes the units out first, and `summaries.summarise`
    needs no tolerance.

    Args:
        eigenvalues: (*batch, p), p ≥ 1, in any order; a list or integers will do. What is no array
            of real numbers raises `ValueError`.
        rtol: eigenvalues below rtol · max|μ| count as zero; by default 10 p ε of the dtype, the
            rounding of a dense eigensolver.
    """
    values = arrays.as_float("eigenvalues", eigenvalues)
    if values.ndim == 0 or values.shape[-1] == 0:
        checks.fail("eigenvalues", f"shape {values.shape}", "shape (..., p) with p >= 1")
    if rtol is None:
        rtol = hessian.default_rtol(values.shape[-1], values.dtype)
    return _of_eigenvalues(values, rtol)


@jax.jit
def _of_eigenvalues(eigenvalues: Array, rtol: Array | float) -> Conditioning:
    size = jnp.abs(eigenvalues)
    tolerance = rtol * size.max(axis=-1)
    up = eigenvalues > tolerance[..., None]
    flat = size <= tolerance[..., None]
    down = eigenvalues < -tolerance[..., None]
    return _read(eigenvalues, up, flat, down, tolerance)


def _read(values: Array, up: Array, flat: Array, down: Array, tolerance: Array) -> Conditioning:
    """Read the numbers off eigenvalues whose signs are known, whatever rounding says."""
    known = jnp.where(jnp.isnan(tolerance), jnp.nan, 1.0)
    stiffness = known * jnp.max(jnp.where(down, -values, 0), axis=-1)
    softest = jnp.min(jnp.where(down, jnp.abs(values), jnp.inf), axis=-1)
    nan = jnp.full_like(stiffness, jnp.nan)
    return Conditioning(
        index=up.sum(axis=-1),
        nullity=flat.sum(axis=-1),
        stiffness=stiffness,
        condition_number=jnp.where(down.any(axis=-1), stiffness / softest, jnp.nan),
        escape_rate=known * jnp.max(jnp.where(up, jnp.maximum(values, 0), 0), axis=-1),
        tolerance=tolerance,
        unit_free=UnitFree(nan, nan, nan),
    )


def _without_units(matrix: Array, sizes: tuple[int, ...]) -> Array:
    """Measure each array of a point in a unit of its own: its largest curvature is ±1.

    D H D with D > 0 diagonal has the index and the nullity of H (Sylvester). One number for each
    array, not for each variable: a variable along which nothing changes would be measured by
    rounding. An array that has no curvature by itself takes its unit from what couples it.
    """
    ends = np.cumsum([0, *sizes])
    owner = np.repeat(np.arange(len(sizes)), sizes)
    diagonal = jnp.abs(jnp.diag(matrix))
    own = jnp.stack([diagonal[a:b].max() for a, b in pairwise(ends)])
    root = jnp.where(own > 0, jnp.sqrt(jnp.where(own > 0, own, 1)), 0)
    rows = jnp.abs(matrix) * jnp.where(root > 0, 1 / jnp.where(root > 0, root, 1), 0)[owner]
    coupled = jnp.stack([rows[a:b].max() for a, b in pairwise(ends)])
    scale = jnp.where(root > 0, root, jnp.where(coupled > 0, coupled, 1))[owner]
    return matrix / scale / scale[:, None]


def of_function(
    function: Callable[[Any], Float[Array, ""]],
    point: Any,
    *,
    rtol: float | None = None,
    max_gigabytes: float = 1.0,
) -> tuple[Conditioning, Any]:
    """Summarise any objective's dense Hessian at a point, and give the steepest direction.

    Index and nullity are counted with each array of the point measured in a unit of its own, so
    that its largest diagonal curvature is ±1: they do not depend on the data's unit. The other
    numbers are those of the Hessian as it is, each to rounding of the largest eigenvalue; for those
    of normalised data give an objective that is `objectives.rescaled`.

    The point must be stationary, and the function is to be maximised. `rtol` is as for
    `of_eigenvalues`, once the units are taken out. The other arguments and errors are those of
    `hessian.dense`.

    Returns:
        `Conditioning`, and the unit eigenvector of the largest eigenvalue as a pytree like
        `point`: the fastest escape where the index is positive.
    """
    matrix = hessian.dense(function, point, max_gigabytes=max_gigabytes)
    rtol = hessian.default_rtol(len(matrix), matrix.dtype) if rtol is None else rtol
    sizes = tuple(np.size(leaf) for leaf in jax.tree.leaves(point))
    found, steepest = _of_matrix(matrix, sizes, rtol)
    return found, ravel_pytree(point)[1](steepest)


@partial(jax.jit, static_argnames="sizes")
def _of_matrix(
    matrix: Array, sizes: tuple[int, ...], rtol: Array | float
) -> tuple[Conditioning, Array]:
    """Do what `of_function` does, for a Hessian in arrays of these sizes."""
    values, vectors = jnp.linalg.eigh(matrix)
    counted = _of_eigenvalues(jnp.linalg.eigvalsh(_without_units(matrix, sizes)), rtol)
    # by Sylvester the same numbers of eigenvalues have each sign here
    place = jnp.arange(len(values))
    up = place >= len(values) - counted.index
    down = place < len(values) - counted.index - counted.nullity
    return _read(values, up, ~up & ~down, down, counted.tolerance), vectors[:, -1]
