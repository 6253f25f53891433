"""The Hessian at a single-component stationary point as an operator, in blocks.

`blocks` has its eigenvalues, `block_vectors` single eigenvectors. All eigenvectors together are an
orthogonal change of coordinates, into *modes*, that is as sparse as the blocks: each step of it
touches two or three numbers at a time. So f(H) x costs O(nk) for any f, beyond two products with
U: Hessian products, Newton steps, Laplace approximations, gradient flow.

All directions are `LinearVAE`s in the original basis.

>>> import jax.numpy as jnp
>>> from landscape import block_operator, stationary
>>> lam = jnp.array([4.0, 2.0, 0.5])
>>> H = block_operator.at(jnp.eye(3), lam, jnp.array([0, -1]), sigma2=1.0)
>>> point = stationary.point(jnp.eye(3), lam, jnp.array([0, -1]), 1.0)
>>> bool(block_operator.quadratic(H, point) < 0)  # making all weights larger or smaller
True
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from landscape import block_summaries, block_vectors, blocks
from landscape.blocks import WEIGHTS, Assignment, Levels, Modes, Scalar
from linvae_jax import _checks
from linvae_jax._linalg import matmul
from linvae_jax.linear import LinearVAE


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
        angle: (k, m), of the eigenvector (cos, sin) of each 2 × 2 block's upper eigenvalue.
        own: (k, 3, 3), eigenvectors of the 3 × 3 blocks, as columns.
        arrow: (3k + 1, 3k + 1), eigenvectors of the arrowhead in the coordinates that `own`
            makes, as columns; None if log σ² is held.
    """

    eigenvectors: Float[Array, "n m"]
    levels: Levels
    eigenvalues: Modes
    angle: Float[Array, "k m"]
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


class Inertia(NamedTuple):
    """Numbers of positive (the index), negative and zero (the nullity) eigenvalues, each ()."""

    positive: Int[Array, ""]
    negative: Int[Array, ""]
    zero: Int[Array, ""]


@partial(jax.jit, static_argnames="learn_sigma2")
def _at(eigenvectors: Array, p: Levels, learn_sigma2: bool) -> BlockHessian:
    angle = block_vectors.angles(p, jnp.arange(p.w.shape[0]))
    own, arrow = block_vectors.own(p, learn_sigma2)
    return BlockHessian(eigenvectors, p, blocks.modes(p, learn_sigma2), angle, own, arrow)


def at(
    eigenvectors: Float[Array, "n m"],
    eigenvalues: Float[Array, "m"],
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
    p = block_vectors.levels(eigenvectors, eigenvalues, assignment, sigma2, beta, learn)
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
def to_modes(hessian: BlockHessian, direction: LinearVAE) -> Modes:
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
    cos, sin = jnp.cos(hessian.angle), jnp.sin(hessian.angle)
    rows, columns = jnp.arange(p.w.shape[0]), _columns(p)
    lower = (cos * B - sin * A).at[rows, columns].set(threes[:, 0], mode="drop")
    upper = (cos * A + sin * B).at[rows, columns].set(threes[:, 1], mode="drop")
    return Modes(lower, upper, threes[:, 2], log_sigma2)


@jax.jit
def from_modes(hessian: BlockHessian, coordinates: Modes) -> LinearVAE:
    """The direction with these coordinates along the eigenvectors: Q y."""
    p, U = hessian.levels, hessian.eigenvectors
    lower, upper, log_d, log_sigma2 = coordinates
    threes = _own_part(p, lower, upper, log_d)
    threes, log_sigma2 = _rotate_own(hessian, threes, log_sigma2, back=True)
    cos, sin = jnp.cos(hessian.angle), jnp.sin(hessian.angle)
    rows, columns = jnp.arange(p.w.shape[0]), _columns(p)
    A = _exchange(p, cos * upper - sin * lower, -1)
    B = _exchange(p, sin * upper + cos * lower, -1)
    A = A.at[rows, columns].set(threes[:, 0], mode="drop")
    B = B.at[rows, columns].set(threes[:, 1], mode="drop")
    return LinearVAE(matmul(U, A.T), matmul(B, U.T), threes[:, 2], log_sigma2)


def _check(hessian: BlockHessian, direction: LinearVAE) -> None:
    n, k = hessian.eigenvectors.shape[0], hessian.levels.w.shape[0]
    for name, shape in (("W", (n, k)), ("V", (k, n)), ("log_d", (k,)), ("log_sigma2", ())):
        _checks.shape(f"direction.{name}", getattr(direction, name), shape)


def function(hessian: BlockHessian, f: Callable[[Array], Array], direction: LinearVAE) -> LinearVAE:
    """f(H) x for any function f of the eigenvalues.

    `jnp.abs` makes the metric of saddle-free Newton; `lambda mu: jnp.exp(mu * t)` is gradient
    flow for a time t; `lambda mu: jax.lax.rsqrt(-mu)` turns white noise into draws from the
    Laplace approximation at a maximum.

    Args:
        hessian: from `at`.
        f: elementwise, array → array.
        direction: x.

    Returns:
        A `LinearVAE`; its `log_sigma2` is zero if log σ² is held.

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
    return LinearVAE(W, V, result.log_d, log_sigma2)


def apply(hessian: BlockHessian, direction: LinearVAE) -> LinearVAE:
    """H x. To rounding of the largest eigenvalue. Arguments and errors as `function`."""
    return function(hessian, lambda mu: mu, direction)


def quadratic(hessian: BlockHessian, direction: LinearVAE) -> Float[Array, ""]:
    """xᵀ H x: twice the second-order change of the ELBO, nats per datum. As `function`."""
    _check(hessian, direction)
    coordinates = to_modes(hessian, direction)
    terms = jax.tree.map(lambda mu, y: jnp.sum(mu * y**2), hessian.eigenvalues, coordinates)
    result = terms.lower + terms.upper + terms.log_d + terms.log_sigma2
    if hessian.missing:
        U = hessian.eigenvectors
        outside = direction.W - matmul(U, matmul(U.T, direction.W))
        result -= jnp.sum(outside**2) / hessian.levels.sigma2
    return result


def _nonzero(hessian: BlockHessian, rtol: float | None) -> tuple[Callable[[Array], Array], Array]:
    """Which eigenvalues count as nonzero, and how many are zero in all."""
    values = hessian.values
    if rtol is None:
        rtol = block_summaries.default_rtol(hessian.levels.eigenvalues)
    largest = jnp.abs(values).max()
    if hessian.missing:
        largest = jnp.maximum(largest, 1 / hessian.levels.sigma2)

    def nonzero(mu: Array) -> Bool[Array, "*shape"]:
        return jnp.abs(mu) > rtol * largest

    return nonzero, (~nonzero(values)).sum() + hessian.missing


def _refuse_singular(zeros: Array, pseudo: bool) -> None:
    if not pseudo and _checks.concrete(zeros) and zeros > 0:
        _checks.fail(
            "hessian",
            f"{int(zeros)} zero eigenvalues",
            "an invertible Hessian",
            "pseudo=True leaves the flat directions out.",
        )


def solve(
    hessian: BlockHessian, right: LinearVAE, *, pseudo: bool = False, rtol: float | None = None
) -> LinearVAE:
    """H⁻¹ b. A Newton step to the stationary point is −H⁻¹ of the gradient.

    Args:
        hessian: from `at`.
        right: b.
        pseudo: invert on the range of H only, and give nothing along flat directions.
        rtol: |μ| below rtol · max|μ| counts as zero; `block_summaries.default_rtol` by default.

    Returns:
        A `LinearVAE`; its `log_sigma2` is zero if log σ² is held.

    Raises:
        ValueError: H is singular and `pseudo` is not set (under tracing: flat directions are
            left out), or b of another shape.
    """
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

    At a maximum log|det H| is log det(−H), the term of a Laplace approximation.

    Args:
        hessian: from `at`.
        pseudo: of the nonzero eigenvalues only.
        rtol: see `solve`.

    Raises:
        ValueError: H is singular and `pseudo` is not set (under tracing: as with `pseudo`).
    """
    nonzero, zeros = _nonzero(hessian, rtol)
    _refuse_singular(zeros, pseudo)
    values = hessian.values
    values = jnp.where(nonzero(values), values, 1)
    negative = jnp.sum(values < 0) + hessian.missing
    log = jnp.log(jnp.abs(values)).sum() - hessian.missing * jnp.log(hessian.levels.sigma2)
    return 1 - 2 * (negative % 2).astype(log.dtype), log


def inertia(hessian: BlockHessian, rtol: float | None = None) -> Inertia:
    """How many eigenvalues have which sign; `rtol` as in `solve`."""
    nonzero, zero = _nonzero(hessian, rtol)
    values = hessian.values
    positive = (nonzero(values) & (values > 0)).sum()
    return Inertia(positive, len(values) + 2 * hessian.missing - positive - zero, zero)
