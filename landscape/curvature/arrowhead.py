"""An arrowhead matrix has a diagonal, and one last row and column; here are its eigenvalues.

Learning log σ² turns the blocks of all active latents into one of these (`blocks`).

>>> import jax.numpy as jnp
>>> from landscape.curvature import arrowhead
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
    """An `Arrowhead` is a matrix with a diagonal and one last row and column, the corner's.

    Attributes:
        diagonal: (k, s), without the corner.
        edge: (k, s), the last row.
        corner: ().
        real: (k, s), where there is a variable; elsewhere `diagonal` is a stand-in below all
            eigenvalues and `edge` zero.
        schur: (), corner − Σ edge²/diagonal where that is known without its cancellation and, like
            the whole diagonal, not positive; or None.
    """

    diagonal: Float[Array, "k s"]
    edge: Float[Array, "k s"]
    corner: Float[Array, ""]
    real: Bool[Array, "k s"]
    schur: Float[Array, ""] | None = None


def build(
    diagonal: Float[Array, "k s"],
    edge: Float[Array, "k s"],
    corner: Float[Array, ""],
    real: Bool[Array, "k s"],
    schur: Float[Array, ""] | None = None,
) -> Arrowhead:
    """Make an `Arrowhead`, with stand-ins where `real` is false."""
    low = jnp.minimum(jnp.where(real, diagonal, jnp.inf).min(), corner)
    edge = jnp.where(real, edge, 0)
    reach = jnp.linalg.norm(edge)
    stand_in = low - 2 * reach - jnp.abs(low)  # all eigenvalues are above low - reach
    return Arrowhead(jnp.where(real, diagonal, stand_in), edge, corner, real, schur)


def places(real: Bool[Array, "p"]) -> Int[Array, "p"]:
    """Say which of the increasing eigenvalues goes to each place: the first to the stand-ins."""
    return jnp.argsort(jnp.argsort(real, stable=True))


@jax.jit
def eigenvalues(h: Arrowhead) -> tuple[Float[Array, "k s"], Float[Array, ""]]:
    """Compute eigenvalues in the places of the diagonal, increasing, and the largest, the corner's.

    There is one between each pole (entry of the diagonal) and the next, where
    μ − corner − Σ edge²/(μ − pole), which rises, is zero. Bisection finds all of them at once,
    and a pole itself where it is repeated or has no edge.

    With `schur` given all eigenvalues are negative, or the last one zero as `schur` is, and each
    has its own digits, however small it is: the function is then
    −schur + μ (1 − Σ (edge²/pole)/(μ − pole)), the same with nothing cancelled near zero, and
    ends of different size are halved in their logarithm.
    """
    order = jnp.argsort(h.diagonal.ravel())
    poles, edges = h.diagonal.ravel()[order], h.edge.ravel()[order]
    reach = jnp.linalg.norm(h.edge)
    low = jnp.minimum(poles[0], h.corner) - reach
    if h.schur is None:
        weights, high = edges**2, jnp.maximum(poles[-1], h.corner) + reach
    else:
        weights = edges * (edges / poles)
        # the eigenvalue nearest zero is beyond one over the trace of the inverse
        inverse = (1 + ((edges / poles) ** 2).sum()) / -h.schur - (1 / poles).sum()
        high = -1 / inverse

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        left, right = ends
        middle = (left + right) / 2
        if h.schur is not None:
            apart = left < 2 * right
            middle = jnp.where(apart, -jnp.sqrt(-left) * jnp.sqrt(-right), middle)
        gaps = middle - poles[:, None]
        pull = jnp.where(gaps == 0, 0, weights[:, None] / jnp.where(gaps == 0, 1, gaps))
        if h.schur is None:
            beyond = middle - h.corner < pull.sum(axis=0)
        else:
            beyond = middle * (1 - pull.sum(axis=0)) < h.schur
        return jnp.where(beyond, middle, left), jnp.where(beyond, right, middle)

    ends = jnp.append(low, poles), jnp.append(poles, high)
    steps = jnp.finfo(poles.dtype).nmant + 12
    left, right = jax.lax.fori_loop(0, steps, halve, ends)
    values = (left + right) / 2
    if h.schur is not None:
        values = values.at[-1].set(jnp.where(h.schur == 0, 0, values[-1]))
    values = values[places(jnp.append(h.real, True))]
    return values[:-1].reshape(h.diagonal.shape), values[-1]
