"""Eigenvalues of an arrowhead matrix: a diagonal, and one last row and column.

Learning log σ² turns the blocks of all active latents into one of these (`blocks`).

>>> import jax.numpy as jnp
>>> from landscape import arrowhead
>>> h = arrowhead.build(jnp.zeros((1, 1)), jnp.ones((1, 1)), jnp.array(0.0), jnp.array([[True]]))
>>> values, last = arrowhead.eigenvalues(h)
>>> round(float(values[0, 0]), 3), round(float(last), 3)
(-1.0, 1.0)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Arrowhead(NamedTuple):
    """A matrix whose off-diagonal entries are all in the last row and column, the corner's.

    Attributes:
        diagonal: (k, s), without the corner.
        edge: (k, s), the last row.
        corner: ().
        real: (k, s), where there is a variable; elsewhere `diagonal` is a stand-in below all
            eigenvalues and `edge` zero.
    """

    diagonal: Float[Array, "k s"]
    edge: Float[Array, "k s"]
    corner: Float[Array, ""]
    real: Bool[Array, "k s"]


def build(
    diagonal: Float[Array, "k s"],
    edge: Float[Array, "k s"],
    corner: Float[Array, ""],
    real: Bool[Array, "k s"],
) -> Arrowhead:
    """Put the stand-ins in place."""
    low = jnp.minimum(jnp.where(real, diagonal, jnp.inf).min(), corner)
    edge = jnp.where(real, edge, 0)
    reach = jnp.linalg.norm(edge)
    stand_in = low - 2 * reach - jnp.abs(low)  # all eigenvalues are above low - reach
    return Arrowhead(jnp.where(real, diagonal, stand_in), edge, corner, real)


def places(real: Bool[Array, "p"]) -> Int[Array, "p"]:
    """Which of the increasing eigenvalues goes to each place: the first ones to the stand-ins."""
    return jnp.argsort(jnp.argsort(real, stable=True))


@jax.jit
def eigenvalues(h: Arrowhead) -> tuple[Float[Array, "k s"], Float[Array, ""]]:
    """Eigenvalues in the places of the diagonal, increasing, and the corner's, the largest.

    There is one between each pole (entry of the diagonal) and the next, where
    μ − corner − Σ edge²/(μ − pole), which rises, is zero. Bisection finds all of them at once,
    and a pole itself where it is repeated or has no edge.
    """
    order = jnp.argsort(h.diagonal.ravel())
    poles, squares = h.diagonal.ravel()[order], h.edge.ravel()[order] ** 2
    reach = jnp.linalg.norm(h.edge)
    low = jnp.minimum(poles[0], h.corner) - reach
    high = jnp.maximum(poles[-1], h.corner) + reach

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        left, right = ends
        middle = (left + right) / 2
        gaps = middle - poles[:, None]
        pull = jnp.where(gaps == 0, 0, squares[:, None] / jnp.where(gaps == 0, 1, gaps))
        beyond = middle - h.corner < pull.sum(axis=0)
        return jnp.where(beyond, middle, left), jnp.where(beyond, right, middle)

    ends = jnp.append(low, poles), jnp.append(poles, high)
    steps = jnp.finfo(poles.dtype).nmant + 12
    left, right = jax.lax.fori_loop(0, steps, halve, ends)
    values = ((left + right) / 2)[places(jnp.append(h.real, True))]
    return values[:-1].reshape(h.diagonal.shape), values[-1]
