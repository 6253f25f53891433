"""The block of each latent with its own component, and the arrowhead that a learned σ² makes.

One latent on its own component i = π(j) ties A_ij and B_ji to d_j = δlog D_j: a 3 × 3 block of
determinant −β²w²/σ². A learned log σ² ties the 3 × 3 blocks of all r active latents together: an
arrowhead of 3r + 1. `blocks` has the others, and says what the letters are.

>>> import jax.numpy as jnp
>>> from landscape.curvature import own_blocks
>>> from landscape.points import stationary
>>> point = stationary.point(jnp.array([5.0, 0.5]), jnp.array([0]), sigma2=1.0)  # w = 2
>>> round(float(jnp.linalg.det(own_blocks.matrices(point)[0])), 3)
-4.0
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from landscape.curvature import arrowhead
from landscape.points.stationary import Point


def matrices(p: Point) -> Float[Array, "k 3 3"]:
    """Make the block of each active latent with its own component, in the variables A, B, d.

    A collapsed latent has no component of its own: its A and B are stand-ins, uncoupled and below
    the rest of the spectrum, which keeps them first among its eigenvalues.
    """
    lam, w, beta, root = p.levels, p.widths, p.beta, jnp.sqrt(p.sigma2)
    one, zero = jnp.ones_like(w), jnp.zeros_like(w)
    AB = (p.tau - w**2) / p.sigma2
    Ad = -beta * (w / root) * (p.sigma2 / lam) * (jnp.sqrt(p.unit) / root)
    rows = [
        [-p.unit / p.sigma2 * one, AB, Ad],
        [AB, -lam / p.unit * (lam / p.sigma2), zero],
        [Ad, zero, -beta / 2 * one],
    ]
    blocks = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    bound = jnp.abs(blocks).sum(axis=-1).max()  # no eigenvalue is larger
    stand_ins = -jnp.diag(jnp.stack([2 * bound, 2 * bound, beta / 2]))
    return jnp.where(p.active[:, None, None], blocks, stand_ins)


def inverses(p: Point) -> Float[Array, "k 3 3"]:
    """Invert `matrices` by their cofactors, none of which cancels.

    The determinant is −β²w²/σ²; with w in units of σ, and x = λ/σ² = w² + β, the cofactors are
    those written out below. A collapsed latent has a block for log D only.
    """
    beta, root = p.beta, jnp.sqrt(p.sigma2)
    w, x = jnp.where(p.active, p.widths / root, 1), p.levels / p.sigma2
    mixed = (p.tau - p.widths**2) / p.sigma2
    AB, Ad, Bd = beta * mixed / 2, -beta * w * x, -mixed * beta * w / x
    rows = [
        [beta * x**2 / 2, AB, Ad],
        [AB, beta / 2 * ((w / x * w) ** 2 + (beta / x) ** 2), Bd],
        [Ad, Bd, 4 * beta * w**2],
    ]
    cofactors = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    # from variables in units of the noise to those of the blocks
    unit = jnp.sqrt(p.unit) / root
    scale = jnp.stack([1 / unit, unit, jnp.ones_like(unit)])
    det = -((beta * w) ** 2)
    active = cofactors / det[:, None, None] * scale * scale[:, None]
    return jnp.where(
        p.active[:, None, None], active, jnp.diag(jnp.stack([0 * beta, 0 * beta, -2 / beta]))
    )


_SWEEPS = 8  # Jacobi converges quadratically: five suffice for three dimensions


def rotation(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """Compute cosine and sine of θ of matrices [[−a, c], [c, −b]], of any shape.

    The upper eigenvector is (cos θ, sin θ), the lower (−sin θ, cos θ). The smaller of the two comes
    from a ratio, not from an angle, so that it has its own digits.
    """
    half = jnp.abs(b - a) / 2
    reach = half + jnp.hypot(half, c)
    ratio = c / jnp.where(reach > 0, reach, 1)
    large = 1 / jnp.sqrt(1 + ratio**2)
    return jnp.where(b >= a, large, ratio * large), jnp.where(b >= a, ratio * large, large)


def spectra(p: Point) -> tuple[Float[Array, "k 3"], Float[Array, "k 3 3"]]:
    """Compute eigenvalues, increasing, and eigenvectors, as columns, of `matrices`.

    By Jacobi's rotations, which keep the digits of small eigenvalues of a definite matrix however
    far apart the scales of A, B and d are: an ordinary eigensolver knows all to rounding of the
    largest (Demmel & Veselić, SIAM J. Matrix Anal. Appl. 1992). The eigenvalue nearest zero is then
    taken from the determinant, −β²w²/σ², because a latent near its threshold has one of size w².
    """
    M = matrices(p)
    # A and B first: their determinant, 4τw²/σ⁴, cancels in the entries as σ² falls. What is left
    # has, in units of its diagonal, the determinant ½, so that rounding costs nothing any more.
    a, b, c = -M[:, 0, 0], -M[:, 1, 1], M[:, 0, 1]
    size = (a + b) / 2 + jnp.hypot((a - b) / 2, c)
    det = 4 * p.beta * (p.widths / jnp.sqrt(p.sigma2)) ** 2
    cos, sin = rotation(a, b, c)
    small, zero = jnp.where(p.active, -det / size, -b), jnp.zeros_like(c)
    large = jnp.where(p.active, -size, -a)
    cos, sin = jnp.where(p.active, cos, 0), jnp.where(p.active, sin, -1)
    diagonal = large, small, M[:, 2, 2]
    # entry r couples the two others
    edges = cos * M[:, 0, 2], -sin * M[:, 0, 2], zero
    edges = tuple(jnp.where(p.active, edge, 0) for edge in edges)
    one = jnp.ones_like(c)
    vectors = (
        jnp.stack([-sin, cos, zero], axis=-1),
        jnp.stack([cos, sin, zero], axis=-1),
        jnp.stack([zero, zero, one], axis=-1),
    )

    tiny = 1e-3 * jnp.finfo(M.dtype).eps

    def sweep(_: Any, carry: tuple) -> tuple:
        d, edge, v = (list(part) for part in carry)
        for x, y, r in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
            # an entry that moves no eigenvalue by its own rounding is as good as zero
            there = jnp.abs(edge[r]) > tiny * jnp.sqrt(jnp.abs(d[x])) * jnp.sqrt(jnp.abs(d[y]))
            off = jnp.where(there, edge[r], 1)
            slope = (d[y] - d[x]) / (2 * off)
            t = jnp.where(slope >= 0, 1, -1) / (jnp.abs(slope) + jnp.hypot(1, slope))
            t = jnp.where(there, t, 0)
            cos = 1 / jnp.sqrt(1 + t**2)
            sin = t * cos
            d[x], d[y] = d[x] - t * edge[r], d[y] + t * edge[r]
            edge[y], edge[x] = cos * edge[y] - sin * edge[x], sin * edge[y] + cos * edge[x]
            edge[r] = jnp.zeros_like(edge[r])
            c, s = cos[:, None], sin[:, None]
            v[x], v[y] = c * v[x] - s * v[y], s * v[x] + c * v[y]
        return tuple(d), tuple(edge), tuple(v)

    diagonal, _, vectors = jax.lax.fori_loop(0, _SWEEPS, sweep, (diagonal, edges, vectors))
    values, columns = jnp.stack(diagonal, axis=-1), jnp.stack(vectors, axis=-1)
    order = jnp.argsort(values, axis=-1)
    values = jnp.take_along_axis(values, order, axis=-1)
    columns = jnp.take_along_axis(columns, order[:, None, :], axis=-1)
    small = p.beta * (p.widths / jnp.sqrt(p.sigma2))
    nearest = -small / values[:, 0] * (small / values[:, 1])
    return values.at[:, 2].set(jnp.where(p.active, nearest, values[:, 2])), columns


def times(matrices: Float[Array, "k 3 3"], vectors: Float[Array, "k 3"]) -> Float[Array, "k 3"]:
    """Multiply each latent's matrix with its vector, at full precision."""
    return jnp.einsum("jst,jt->js", matrices, vectors, precision="highest")


def noise_edge(p: Point) -> Float[Array, "k 3"]:
    """Make the entries that tie A, B and d of `matrices` to log σ²."""
    B = -p.beta * (p.widths / jnp.sqrt(p.unit))
    d = p.beta / 2 * (p.widths**2 / p.levels)
    return jnp.stack([jnp.zeros_like(p.widths), B, d], axis=-1)


def noise_corner(p: Point) -> Float[Array, ""]:
    """Compute the Hessian's entry for log σ²: −½ (rβ + Σ_unused λ_i/σ²)."""
    return -(jnp.where(p.used, p.tau, p.lam) / p.sigma2).sum() / 2


def noise_schur(p: Point) -> Float[Array, ""]:
    """Compute what `noise_corner` leaves if all other variables follow σ²: −½ Σ_unused λ_i/σ²."""
    return -(jnp.where(p.used, 0, p.lam) / p.sigma2).sum() / 2


def noise_path(p: Point) -> Float[Array, "k 3"]:
    """Compute how A, B and d follow log σ² while the point stays stationary: −H⁻¹ × the edge.

    w = √(λ − τ), v = w/λ and D = τ/λ: the derivatives are −τ/(2w), −τ/(2wλ) and 1.
    """
    w = jnp.where(p.active, p.widths, 1)
    dw = -p.tau / (2 * w) / jnp.sqrt(p.unit)
    moved = jnp.stack([dw, dw * (p.unit / p.levels), jnp.ones_like(w)], axis=-1)
    return jnp.where(p.active[:, None], moved, 0)


def arrow(
    p: Point, threes: Float[Array, "k 3"], vectors: Float[Array, "k 3 3"]
) -> arrowhead.Arrowhead:
    """Put `matrices` in their eigenvectors' coordinates, with log σ² at the corner."""
    edge = times(vectors.swapaxes(1, 2), noise_edge(p))
    real = p.active[:, None] | jnp.array([False, False, True])
    return arrowhead.build(threes, edge, noise_corner(p), real, noise_schur(p))


def eigenvalues(p: Point, learn_sigma2: bool) -> tuple[Float[Array, "k 3"], Float[Array, ""]]:
    """Compute eigenvalues of `matrices`, or of the arrowhead with log σ²: see `blocks.Modes`."""
    threes, vectors = spectra(p)
    if not learn_sigma2:
        return threes, jnp.zeros_like(p.sigma2)
    return arrowhead.eigenvalues(arrow(p, threes, vectors))
