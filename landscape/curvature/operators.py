"""The Hessian at a single-component stationary point as an operator, in blocks.

`blocks` has its eigenvalues, `directions` single eigenvectors. All eigenvectors together are an
orthogonal change of coordinates, into *modes*, that is as sparse as the blocks: each step of it
touches two or three numbers at a time. So f(H) x costs O(nk) for any f, beyond two products with
U: Laplace approximations, gradient flow. Products with H and H⁻¹, index, nullity and determinant
need no eigenvectors: they come from the blocks themselves, whatever the data's unit is.

All directions are `LinearVAEParams`s in the original basis.

>>> import jax.numpy as jnp
>>> from landscape.curvature import operators
>>> from landscape.points import stationary
>>> lam = jnp.array([4.0, 2.0, 0.5])
>>> H = operators.at(jnp.eye(3), lam, jnp.array([0, -1]), sigma2=1.0)
>>> point = stationary.point(jnp.eye(3), lam, jnp.array([0, -1]), 1.0)
>>> bool(operators.quadratic(H, point) < 0)  # making all weights larger or smaller
True
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from landscape.curvature import blocks, directions
from landscape.curvature.blocks import WEIGHTS, Assignment, Inertia, Levels, Modes, Scalar
from linvae_jax._internal import checks
from linvae_jax._internal.linalg import matmul
from linvae_jax.linear import LinearVAEParams


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class BlockHessian:
    """The β-ELBO's Hessian in W, V and log D, or log σ² too, at one stationary point.

    H = Q diag(μ) Qᵀ with Q as blocks: see `to_modes` and `from_modes`. With m < n eigenvectors
    there is −1/σ² for W outside their span, and zero for V.

    Attributes:
        eigenvectors: (n, m), U.
        levels: the point.
        eigenvalues: μ; `Modes` of (k, m).
        cos: (k, m), of the angle of each 2 × 2 block: its upper eigenvector is (cos, sin).
        sin: (k, m).
        own: (k, 3, 3), eigenvectors of the 3 × 3 blocks, as columns.
        arrow: (3k + 1, 3k + 1), eigenvectors of the arrowhead in the coordinates that `own`
            makes, as columns; None if log σ² is held.
    """

    eigenvectors: Float[Array, "n m"]
    levels: Levels
    eigenvalues: Modes
    cos: Float[Array, "k m"]
    sin: Float[Array, "k m"]
    own: Float[Array, "k 3 3"]
    arrow: Float[Array, "p p"] | None

    @property
    def values(self) -> Float[Array, "p"]:
        """The eigenvalues of all modes, flat, in the order of `blocks.eigenvalues`."""
        lower, upper, log_d, log_sigma2 = self.eigenvalues
        parts = [lower.ravel(), upper.ravel(), log_d]
        return jnp.concatenate(parts if self.arrow is None else [*parts, log_sigma2[None]])

    @property
    def missing(self) -> int:
        """(n − m) k: how many eigenvalues −1/σ², and as many zeros, U leaves out."""
        n, m = self.eigenvectors.shape
        return (n - m) * self.levels.w.shape[0]


@partial(jax.jit, static_argnames="learn_sigma2")
def _at(eigenvectors: Array, p: Levels, learn_sigma2: bool) -> BlockHessian:
    cos, sin = directions.turns(p, jnp.arange(p.w.shape[0]))
    own, arrow = directions.own(p, learn_sigma2)
    return BlockHessian(eigenvectors, p, blocks.modes(p, learn_sigma2), cos, sin, own, arrow)


def at(
    eigenvectors: Float[Array, "n m"] | Any,
    eigenvalues: Float[Array, "m"] | Any,
    assignment: Assignment,
    sigma2: Scalar,
    *,
    beta: Scalar = 1.0,
    learn: Sequence[str] = WEIGHTS,
) -> BlockHessian:
    """The Hessian at `stationary.point`; cost O(mk), and O(k³) more if log σ² is learned.

    Args:
        eigenvectors: (n, m), the leading eigenvectors of S; all others belong to eigenvalue zero.
        eigenvalues: (m,), from large to small.
        assignment: (k,) int.
        sigma2: noise variance.
        beta: weight of the KL.
        learn: "W", "V", "log_d", and "log_sigma2" if wanted. The mean needs no operator: it is
            uncoupled, with eigenvectors u_i.

    Raises:
        ValueError: as `blocks.eigenvalues`, or eigenvectors that are not (n, m).
    """
    eigenvectors, p = directions.levels(eigenvectors, eigenvalues, assignment, sigma2, beta, learn)
    return _at(eigenvectors, p, "log_sigma2" in learn)


def _columns(p: Levels) -> Int[Array, "k"]:
    """Each latent's component, and m, which is none, for a collapsed one."""
    return jnp.where(p.active, p.assignment, p.owner.shape[0])


def _exchange(p: Levels, x: Float[Array, "k m"], sign: int) -> Float[Array, "k m"]:
    """Sums and differences, over √2, of x_jπ(l) and x_lπ(j): sign +1 there, −1 back."""
    columns, k = _columns(p), p.w.shape[0]
    square = x[:, p.assignment]
    both = p.active[:, None] & p.active & ~jnp.eye(k, dtype=bool)
    side = jnp.where(jnp.tri(k, dtype=bool), -sign, sign)  # sums above the diagonal
    mixed = jnp.where(both, (square + side * square.T) / np.sqrt(2).astype(x.dtype), square)
    return x.at[:, columns].set(mixed, mode="drop")


def _rotate_own(
    hessian: BlockHessian, threes: Float[Array, "k 3"], log_sigma2: Float[Array, ""], *, back: bool
) -> tuple[Float[Array, "k 3"], Float[Array, ""]]:
    """Active latents' own (A, B, d), and log σ², into modes or back."""
    own, arrow = hessian.own, hessian.arrow
    if back:
        if arrow is not None:
            flat = matmul(arrow, jnp.append(threes, log_sigma2))
            threes, log_sigma2 = flat[:-1].reshape(threes.shape), flat[-1]
        return jnp.einsum("jst,jt->js", own, threes, precision="highest"), log_sigma2
    threes = jnp.einsum("jst,js->jt", own, threes, precision="highest")
    if arrow is not None:
        flat = matmul(jnp.append(threes, log_sigma2), arrow)
        threes, log_sigma2 = flat[:-1].reshape(threes.shape), flat[-1]
    return threes, log_sigma2


def _own_part(p: Levels, first: Array, second: Array, third: Array) -> Float[Array, "k 3"]:
    """What belongs to `own_blocks`: entries (j, π(j)) of two (k, m) arrays, and a (k,) array."""
    pick = lambda x: jnp.where(  # noqa: E731
        p.active, jnp.take_along_axis(x, p.assignment[:, None], axis=1)[:, 0], 0
    )
    return jnp.stack([pick(first), pick(second), third], axis=-1)


@jax.jit
def to_modes(hessian: BlockHessian, direction: LinearVAEParams) -> Modes:
    """Coordinates of a direction along the eigenvectors: Qᵀ x. Isometric if m = n.

    Without log σ² learned that entry of the direction is not looked at.
    """
    p, U = hessian.levels, hessian.eigenvectors
    A, B = matmul(direction.W.T, U), matmul(direction.V, U)
    held = hessian.arrow is None
    log_sigma2 = jnp.zeros_like(direction.log_sigma2) if held else direction.log_sigma2
    threes = _own_part(p, A, B, direction.log_d)
    threes, log_sigma2 = _rotate_own(hessian, threes, log_sigma2, back=False)
    A, B = _exchange(p, A, 1), _exchange(p, B, 1)
    cos, sin = hessian.cos, hessian.sin
    rows, columns = jnp.arange(p.w.shape[0]), _columns(p)
    lower = (cos * B - sin * A).at[rows, columns].set(threes[:, 0], mode="drop")
    upper = (cos * A + sin * B).at[rows, columns].set(threes[:, 1], mode="drop")
    return Modes(lower, upper, threes[:, 2], log_sigma2)


@jax.jit
def from_modes(hessian: BlockHessian, coordinates: Modes) -> LinearVAEParams:
    """The direction with these coordinates along the eigenvectors: Q y."""
    p, U = hessian.levels, hessian.eigenvectors
    lower, upper, log_d, log_sigma2 = coordinates
    threes = _own_part(p, lower, upper, log_d)
    threes, log_sigma2 = _rotate_own(hessian, threes, log_sigma2, back=True)
    cos, sin = hessian.cos, hessian.sin
    rows, columns = jnp.arange(p.w.shape[0]), _columns(p)
    A = _exchange(p, cos * upper - sin * lower, -1)
    B = _exchange(p, sin * upper + cos * lower, -1)
    A = A.at[rows, columns].set(threes[:, 0], mode="drop")
    B = B.at[rows, columns].set(threes[:, 1], mode="drop")
    return LinearVAEParams(matmul(U, A.T), matmul(B, U.T), threes[:, 2], log_sigma2)


def _check(hessian: BlockHessian, direction: LinearVAEParams) -> None:
    n, k = hessian.eigenvectors.shape[0], hessian.levels.w.shape[0]
    for name, shape in (("W", (n, k)), ("V", (k, n)), ("log_d", (k,)), ("log_sigma2", ())):
        checks.shape(f"direction.{name}", getattr(direction, name), shape)


def function(
    hessian: BlockHessian, f: Callable[[Array], Array], direction: LinearVAEParams
) -> LinearVAEParams:
    """f(H) x for any function f of the eigenvalues.

    `jnp.abs` makes the metric of saddle-free Newton; `lambda mu: jnp.exp(mu * t)` is gradient
    flow for a time t; `lambda mu: jax.lax.rsqrt(-mu)` turns white noise into draws from the
    Laplace approximation at a maximum.

    Args:
        hessian: from `at`.
        f: elementwise, array → array.
        direction: x.

    Returns:
        A `LinearVAEParams`; its `log_sigma2` is zero if log σ² is held. To rounding of the largest
        |f(μ)|, as all eigenvectors are orthogonal to rounding of one.

    Raises:
        ValueError: a direction of another shape.
    """
    _check(hessian, direction)
    coordinates = to_modes(hessian, direction)
    result = from_modes(
        hessian, jax.tree.map(lambda mu, y: f(mu) * y, hessian.eigenvalues, coordinates)
    )
    W, V, log_sigma2 = result.W, result.V, result.log_sigma2
    if hessian.missing:
        U = hessian.eigenvectors
        W += f(-1 / hessian.levels.sigma2) * (direction.W - matmul(U, matmul(U.T, direction.W)))
        V += f(jnp.zeros_like(log_sigma2)) * (direction.V - matmul(matmul(direction.V, U), U.T))
    if hessian.arrow is None:
        log_sigma2 = jnp.zeros_like(log_sigma2)  # f(0) may be infinite
    return LinearVAEParams(W, V, result.log_d, log_sigma2)


class _Parts(NamedTuple):
    """A direction taken apart: what each block acts on, and what lies outside U's span."""

    A: Float[Array, "k m"]
    B: Float[Array, "k m"]
    own: Float[Array, "k 3"]
    log_sigma2: Float[Array, ""]
    outside_W: Float[Array, "n k"] | None
    outside_V: Float[Array, "k n"] | None


def _apart(hessian: BlockHessian, direction: LinearVAEParams) -> _Parts:
    p, U = hessian.levels, hessian.eigenvectors
    A, B = matmul(direction.W.T, U), matmul(direction.V, U)
    own = _own_part(p, A, B, direction.log_d)
    outside_W = outside_V = None
    if hessian.missing:
        outside_W, outside_V = direction.W - matmul(U, A.T), direction.V - matmul(B, U.T)
    A, B = _exchange(p, A, 1), _exchange(p, B, 1)
    return _Parts(A, B, own, direction.log_sigma2, outside_W, outside_V)


def _together(hessian: BlockHessian, parts: _Parts) -> LinearVAEParams:
    p, U = hessian.levels, hessian.eigenvectors
    rows, columns = jnp.arange(p.w.shape[0]), _columns(p)
    A, B = _exchange(p, parts.A, -1), _exchange(p, parts.B, -1)
    A = A.at[rows, columns].set(parts.own[:, 0], mode="drop")
    B = B.at[rows, columns].set(parts.own[:, 1], mode="drop")
    W, V = matmul(U, A.T), matmul(B, U.T)
    if parts.outside_W is not None and parts.outside_V is not None:
        W, V = W + parts.outside_W, V + parts.outside_V
    held = hessian.arrow is None
    log_sigma2 = jnp.zeros_like(parts.log_sigma2) if held else parts.log_sigma2
    return LinearVAEParams(W, V, parts.own[:, 2], log_sigma2)


def _times(matrices: Float[Array, "k 3 3"], vectors: Float[Array, "k 3"]) -> Float[Array, "k 3"]:
    return jnp.einsum("jst,jt->js", matrices, vectors, precision="highest")


@jax.jit
def _apply(hessian: BlockHessian, direction: LinearVAEParams) -> LinearVAEParams:
    p, x = hessian.levels, _apart(hessian, direction)
    a, b, c, _ = blocks.pair_blocks(p, jnp.arange(p.w.shape[0]))
    own, log_sigma2 = _times(blocks.own_blocks(p), x.own), x.log_sigma2
    if hessian.arrow is not None:
        edge = blocks.noise_edge(p)
        own = own + edge * log_sigma2
        log_sigma2 = (edge * x.own).sum() + blocks.noise_corner(p) * log_sigma2
    outside_W = None if x.outside_W is None else -a * x.outside_W
    outside_V = None if x.outside_V is None else jnp.zeros_like(x.outside_V)
    parts = _Parts(c * x.B - a * x.A, c * x.A - b * x.B, own, log_sigma2, outside_W, outside_V)
    return _together(hessian, parts)


def apply(hessian: BlockHessian, direction: LinearVAEParams) -> LinearVAEParams:
    """H x, by the blocks: to rounding of its terms, entry by entry. Arguments as `function`.

    Args:
        hessian: from `at`.
        direction: x.

    Returns:
        A `LinearVAEParams`; its `log_sigma2` is zero if log σ² is held.

    Raises:
        ValueError: a direction of another shape.
    """
    _check(hessian, direction)
    return _apply(hessian, direction)


def quadratic(hessian: BlockHessian, direction: LinearVAEParams) -> Float[Array, ""]:
    """xᵀ H x: twice the second-order change of the ELBO, nats per datum. As `apply`.

    It has no unit if x is a change of the weights.
    """
    pairs = zip(*map(jax.tree.leaves, (direction, apply(hessian, direction))), strict=True)
    return jnp.stack([jnp.vdot(x, image) for x, image in pairs]).sum()


def _nonzero(hessian: BlockHessian, rtol: float) -> tuple[Callable[[Array], Array], Array]:
    """Which eigenvalues exceed rtol times the largest, and how many do not."""
    values = hessian.values
    largest = jnp.abs(values).max()
    if hessian.missing:
        largest = jnp.maximum(largest, 1 / hessian.levels.sigma2)

    def nonzero(mu: Array) -> Bool[Array, "*shape"]:
        return jnp.abs(mu) > rtol * largest

    return nonzero, (~nonzero(values)).sum() + hessian.missing


def _refuse_singular(zeros: Array, pseudo: bool) -> None:
    if not pseudo and checks.concrete(zeros) and zeros > 0:
        checks.fail(
            "hessian",
            f"{int(zeros)} zero eigenvalues",
            "an invertible Hessian",
            "pseudo=True leaves the flat directions out.",
        )


def _own_inverses(p: Levels) -> Float[Array, "k 3 3"]:
    """Inverses of `blocks.own_blocks` by their cofactors, none of which cancels.

    The determinant is −β²w²/σ²; with w in units of σ, and x = λ/σ² = w² + β, the cofactors are
    those written out below. Of a collapsed latent only log D has a block.
    """
    beta, root = p.noise / p.sigma2, jnp.sqrt(p.sigma2)
    w, x = jnp.where(p.active, p.w / root, 1), p.level / p.sigma2
    mixed = (p.noise - p.w**2) / p.sigma2
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


@jax.jit
def _solve(hessian: BlockHessian, right: LinearVAEParams) -> LinearVAEParams:
    """The pseudo-inverse of H times a direction, block by block."""
    p, x = hessian.levels, _apart(hessian, right)
    a, b, c, det = blocks.pair_blocks(p, jnp.arange(p.w.shape[0]))
    flat = det == 0
    safe = jnp.where(flat, 1, det)
    # a singular block is −v vᵀ with v = (√a, −c/√a): b = c²/a
    size = a + c * (c / a)
    along = (x.A - c / a * x.B) / size / size * a
    A = jnp.where(flat, -along, -(b / safe * x.A) - c / safe * x.B)
    B = jnp.where(flat, c / a * along, -(c / safe * x.A) - a / safe * x.B)
    own, log_sigma2 = x.own, x.log_sigma2
    inverses = _own_inverses(p)
    if hessian.arrow is None:
        own = _times(inverses, own)
    else:
        # the others follow log σ² along `noise_path`; what is left of its own curvature is `schur`
        path, schur = blocks.noise_path(p), blocks.noise_schur(p)
        free = schur == 0
        length = 1 + (path**2).sum()
        along = jnp.where(free, (path * own).sum() + log_sigma2, 0) / length
        own, log_sigma2 = own - path * along, log_sigma2 - along
        step = (log_sigma2 + (path * own).sum()) / jnp.where(free, 1, schur)
        step = jnp.where(free, 0, step)
        own = _times(inverses, own) + path * step
        along = jnp.where(free, (path * own).sum() + step, 0) / length
        own, log_sigma2 = own - path * along, step - along
    outside_W = None if x.outside_W is None else -x.outside_W / a
    outside_V = None if x.outside_V is None else jnp.zeros_like(x.outside_V)
    return _together(hessian, _Parts(A, B, own, log_sigma2, outside_W, outside_V))


def solve(
    hessian: BlockHessian,
    right: LinearVAEParams,
    *,
    pseudo: bool = False,
    rtol: float | None = None,
) -> LinearVAEParams:
    """H⁻¹ b. A Newton step to the stationary point is −H⁻¹ of the gradient.

    Each block is inverted by its determinant, which is exact: no digits are lost to the scale of
    the data.

    Args:
        hessian: from `at`.
        right: b.
        pseudo: invert on the range of H only, and give nothing along flat directions.
        rtol: by default only what is zero exactly is flat: ties and zeros of S (`inertia`). If
            given, |μ| below rtol · max|μ| is too, which depends on the data's unit; H is then
            inverted by its eigenvectors.

    Returns:
        A `LinearVAEParams`; its `log_sigma2` is zero if log σ² is held.

    Raises:
        ValueError: H is singular and `pseudo` is not set (under tracing: flat directions are
            left out), or b of another shape.
    """
    _check(hessian, right)
    if rtol is None:
        _refuse_singular(inertia(hessian).zero, pseudo)
        return _solve(hessian, right)
    nonzero, zeros = _nonzero(hessian, rtol)
    _refuse_singular(zeros, pseudo)

    def inverse(mu: Array) -> Array:
        keep = nonzero(mu)
        return jnp.where(keep, 1 / jnp.where(keep, mu, 1), 0)

    return function(hessian, inverse, right)


def slogdet(
    hessian: BlockHessian, *, pseudo: bool = False, rtol: float | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sign of det H and log|det H|.

    At a maximum log|det H| is log det(−H), the term of a Laplace approximation. It has no unit
    where H is invertible; `blocks.log_determinant`.

    Args:
        hessian: from `at`.
        pseudo: of the nonzero eigenvalues only.
        rtol: see `solve`.

    Raises:
        ValueError: H is singular and `pseudo` is not set (under tracing: as with `pseudo`).
    """
    p = hessian.levels
    outside = hessian.missing * jnp.log(p.sigma2)
    if rtol is None:
        count = inertia(hessian)
        _refuse_singular(count.zero, pseudo)
        log = blocks.log_determinant(p, _learned(hessian)) - outside
        return 1 - 2 * (count.negative % 2).astype(log.dtype), log
    nonzero, zeros = _nonzero(hessian, rtol)
    _refuse_singular(zeros, pseudo)
    values = hessian.values
    values = jnp.where(nonzero(values), values, 1)
    negative = jnp.sum(values < 0) + hessian.missing
    log = jnp.log(jnp.abs(values)).sum() - outside
    return 1 - 2 * (negative % 2).astype(log.dtype), log


def _learned(hessian: BlockHessian) -> frozenset[str]:
    return frozenset(WEIGHTS if hessian.arrow is None else (*WEIGHTS, "log_sigma2"))


def inertia(hessian: BlockHessian, rtol: float | None = None) -> Inertia:
    """How many eigenvalues have which sign, exactly; `rtol` as in `solve`."""
    if rtol is None:
        count = blocks.inertia(hessian.levels, _learned(hessian))
        out = hessian.missing
        return Inertia(count.positive, count.negative + out, count.zero + out)
    nonzero, zero = _nonzero(hessian, rtol)
    values = hessian.values
    positive = (nonzero(values) & (values > 0)).sum()
    return Inertia(positive, len(values) + 2 * hessian.missing - positive - zero, zero)
