"""The Hessian at a single-component stationary point is an operator here, made of blocks.

`blocks` has its eigenvalues, `directions` single eigenvectors. All eigenvectors together are an
orthogonal change of coordinates, into *modes*, that is as sparse as the blocks: each step of it
touches two or three numbers at a time. So f(H) x costs O(nk) for any f, beyond two products with U,
as for Laplace approximations and gradient flow. Products with H and H⁻¹, index, nullity and
determinant need no eigenvectors: they come from the blocks themselves, whatever the data's unit is.

All directions are `LinearVAEParams` in the original basis; one of another shape raises
`ValueError`. If log σ² is held, the `log_sigma2` of a direction is ignored, and that of a result is
zero.

By default an eigenvalue is zero only where it is zero exactly, at ties and zeros of S (`inertia`).
With `rtol` each |μ| below rtol · max|μ| counts as zero too, which depends on the data's unit; H is
then inverted by its eigenvectors. A singular H raises `ValueError`, unless `pseudo` is set, which
leaves flat directions out. Under tracing they are always left out.

>>> import jax.numpy as jnp
>>> from landscape.curvature import operators
>>> from landscape.points import stationary
>>> point = stationary.point(jnp.array([4.0, 2.0, 0.5]), jnp.array([0, -1]), sigma2=1.0)
>>> H = operators.block_hessian(point, jnp.eye(3))
>>> weights = stationary.params(point, jnp.eye(3))
>>> bool(operators.quadratic(H, weights) < 0)  # making all weights larger or smaller
True
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from landscape.curvature import blocks, directions, own_blocks
from landscape.curvature.blocks import WEIGHTS, Inertia, Modes
from landscape.points.stationary import Point
from linvae_jax._internal import checks
from linvae_jax._internal.linalg import matmul
from linvae_jax.linear import LinearVAEParams


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class BlockHessian:
    """A `BlockHessian` is the β-ELBO's Hessian in W, V, log D, or log σ² too, at one point.

    H = Q diag(μ) Qᵀ with Q as blocks: see `to_modes` and `from_modes`. With m < n eigenvectors
    there is −1/σ² for W outside their span, and zero for V.

    Attributes:
        eigenvectors: (n, m), U.
        point: where.
        eigenvalues: μ; `Modes` of (k, m).
        cos: (k, m), of the angle of each 2 × 2 block: its upper eigenvector is (cos, sin).
        sin: (k, m).
        own: (k, 3, 3), eigenvectors of the 3 × 3 blocks, as columns.
        arrow: (3k + 1, 3k + 1), eigenvectors of the arrowhead in the coordinates that `own`
            makes, as columns; None if log σ² is held.
    """

    eigenvectors: Float[Array, "n m"]
    point: Point
    eigenvalues: Modes
    cos: Float[Array, "k m"]
    sin: Float[Array, "k m"]
    own: Float[Array, "k 3 3"]
    arrow: Float[Array, "p p"] | None

    @property
    def values(self) -> Float[Array, "p"]:
        """The eigenvalues of all modes, flat, in the order of `blocks.hessian_eigenvalues`."""
        parts = [jnp.ravel(part) for part in self.eigenvalues]
        return jnp.concatenate(parts[:-1] if self.arrow is None else parts)

    @property
    def learn(self) -> tuple[str, ...]:
        """The variables that the Hessian is taken in."""
        return WEIGHTS if self.arrow is None else (*WEIGHTS, "log_sigma2")

    @property
    def missing(self) -> int:
        """(n − m) k: how many eigenvalues −1/σ², and as many zeros, U leaves out."""
        n, m = self.eigenvectors.shape
        return (n - m) * self.point.k

    @property
    def outside(self) -> Float[Array, ""]:
        """−1/σ², in the point's unit: the eigenvalue for W outside U's span."""
        return -self.point.unit / self.point.sigma2


@partial(jax.jit, static_argnames="learn_sigma2")
def _block_hessian(p: Point, eigenvectors: Array, learn_sigma2: bool) -> BlockHessian:
    cos, sin = directions.turns(p, jnp.arange(p.k))
    own, arrow = directions.own(p, learn_sigma2)
    return BlockHessian(eigenvectors, p, blocks.modes(p, learn_sigma2), cos, sin, own, arrow)


def block_hessian(
    point: Point, eigenvectors: Float[Array, "n m"] | Any, *, learn: Sequence[str] = WEIGHTS
) -> BlockHessian:
    """Make the Hessian at a point; it costs O(mk), and O(k³) more if log σ² is learned.

    Arguments and errors are those of the module `directions`. Eigenvectors of S that are left out
    (m < n) belong to its eigenvalue zero.
    """
    eigenvectors, learn_sigma2 = directions.read(point, eigenvectors, learn)
    return _block_hessian(point, eigenvectors, learn_sigma2)


def _columns(p: Point) -> Int[Array, "k"]:
    """Give each latent's component, and m, which is none, for a collapsed one."""
    return jnp.where(p.active, p.assignment, p.n)


def _exchange(p: Point, x: Float[Array, "k m"], sign: int) -> Float[Array, "k m"]:
    """Take sums and differences, over √2, of x_jπ(l) and x_lπ(j): sign +1 there, −1 back."""
    columns, k = _columns(p), p.k
    square = x[:, p.assignment]
    both = p.active[:, None] & p.active & ~jnp.eye(k, dtype=bool)
    side = jnp.where(jnp.tri(k, dtype=bool), -sign, sign)  # sums above the diagonal
    mixed = jnp.where(both, (square + side * square.T) / np.sqrt(2).astype(x.dtype), square)
    return x.at[:, columns].set(mixed, mode="drop")


def _rotate_own(
    hessian: BlockHessian, threes: Float[Array, "k 3"], log_sigma2: Float[Array, ""], *, back: bool
) -> tuple[Float[Array, "k 3"], Float[Array, ""]]:
    """Take active latents' own (A, B, d), and log σ², into modes or back."""
    arrow = hessian.arrow
    if not back:
        threes = own_blocks.times(hessian.own.swapaxes(1, 2), threes)
    if arrow is not None:
        flat = matmul(arrow if back else arrow.T, jnp.append(threes, log_sigma2))
        threes, log_sigma2 = flat[:-1].reshape(threes.shape), flat[-1]
    return own_blocks.times(hessian.own, threes) if back else threes, log_sigma2


def _own_part(p: Point, first: Array, second: Array, third: Array) -> Float[Array, "k 3"]:
    """Pick what `own_blocks` act on: entries (j, π(j)) of two (k, m) arrays, and (k,) others."""
    pick = lambda x: jnp.where(  # noqa: E731
        p.active, jnp.take_along_axis(x, p.assignment[:, None], axis=1)[:, 0], 0
    )
    return jnp.stack([pick(first), pick(second), third], axis=-1)


class _Parts(NamedTuple):
    """`_Parts` are what each block acts on of a direction, and what lies outside U's span."""

    A: Float[Array, "k m"]
    B: Float[Array, "k m"]
    own: Float[Array, "k 3"]
    log_sigma2: Float[Array, ""]
    outside: tuple[Float[Array, "n k"], Float[Array, "k n"]] | None


def _apart(hessian: BlockHessian, direction: LinearVAEParams) -> _Parts:
    p, U = hessian.point, hessian.eigenvectors
    A, B = matmul(direction.W.T, U), matmul(direction.V, U)
    own = _own_part(p, A, B, direction.log_d)
    outside = (direction.W - matmul(U, A.T), direction.V - matmul(B, U.T))
    A, B = _exchange(p, A, 1), _exchange(p, B, 1)
    log_sigma2 = _if_learned(hessian, direction.log_sigma2)
    return _Parts(A, B, own, log_sigma2, outside if hessian.missing else None)


def _if_learned(hessian: BlockHessian, log_sigma2: Array) -> Array:
    return jnp.zeros_like(log_sigma2) if hessian.arrow is None else log_sigma2


def _together(hessian: BlockHessian, parts: _Parts) -> LinearVAEParams:
    p, U = hessian.point, hessian.eigenvectors
    rows, columns = jnp.arange(p.k), _columns(p)
    A, B = _exchange(p, parts.A, -1), _exchange(p, parts.B, -1)
    A = A.at[rows, columns].set(parts.own[:, 0], mode="drop")
    B = B.at[rows, columns].set(parts.own[:, 1], mode="drop")
    W, V = matmul(U, A.T), matmul(B, U.T)
    if parts.outside is not None:
        W, V = W + parts.outside[0], V + parts.outside[1]
    return LinearVAEParams(W, V, parts.own[:, 2], _if_learned(hessian, parts.log_sigma2))


@jax.jit
def to_modes(hessian: BlockHessian, direction: LinearVAEParams) -> Modes:
    """Compute the coordinates of a direction along the eigenvectors, Qᵀ x; isometric if m = n."""
    p, x, cos, sin = hessian.point, _apart(hessian, direction), hessian.cos, hessian.sin
    threes, log_sigma2 = _rotate_own(hessian, x.own, x.log_sigma2, back=False)
    rows, columns = jnp.arange(p.k), _columns(p)
    lower = (cos * x.B - sin * x.A).at[rows, columns].set(threes[:, 0], mode="drop")
    upper = (cos * x.A + sin * x.B).at[rows, columns].set(threes[:, 1], mode="drop")
    return Modes(lower, upper, threes[:, 2], log_sigma2)


@jax.jit
def from_modes(hessian: BlockHessian, coordinates: Modes) -> LinearVAEParams:
    """Make the direction with these coordinates along the eigenvectors, Q y."""
    (lower, upper, log_d, log_sigma2), cos, sin = coordinates, hessian.cos, hessian.sin
    threes = _own_part(hessian.point, lower, upper, log_d)
    threes, log_sigma2 = _rotate_own(hessian, threes, log_sigma2, back=True)
    A, B = cos * upper - sin * lower, sin * upper + cos * lower
    return _together(hessian, _Parts(A, B, threes, log_sigma2, None))


def _check(hessian: BlockHessian, direction: LinearVAEParams) -> None:
    n, k = hessian.eigenvectors.shape[0], hessian.point.k
    for name, shape in (("W", (n, k)), ("V", (k, n)), ("log_d", (k,)), ("log_sigma2", ())):
        checks.shape(f"direction.{name}", getattr(direction, name), shape)


def function(
    hessian: BlockHessian, f: Callable[[Array], Array], direction: LinearVAEParams
) -> LinearVAEParams:
    """Compute f(H) x for any function f of the eigenvalues, elementwise array → array.

    `jnp.abs` makes the metric of saddle-free Newton; `lambda mu: jnp.exp(mu * t)` is gradient
    flow for a time t; `lambda mu: jax.lax.rsqrt(-mu)` turns white noise into draws from the
    Laplace approximation at a maximum.

    The result is exact to rounding of the largest |f(μ)|, as all eigenvectors are orthogonal to
    rounding.
    """
    _check(hessian, direction)
    coordinates = to_modes(hessian, direction)
    scaled = jax.tree.map(lambda mu, y: f(mu) * y, hessian.eigenvalues, coordinates)
    result = from_modes(hessian, scaled)
    if not hessian.missing:
        return result
    W, V, U = direction.W, direction.V, hessian.eigenvectors
    W = result.W + f(hessian.outside) * (W - matmul(U, matmul(U.T, W)))
    V = result.V + f(jnp.zeros_like(result.log_sigma2)) * (V - matmul(matmul(V, U), U.T))
    return replace(result, W=W, V=V)


@jax.jit
def _apply(hessian: BlockHessian, direction: LinearVAEParams) -> LinearVAEParams:
    p, x = hessian.point, _apart(hessian, direction)
    a, b, c, _ = blocks.pair_blocks(p, jnp.arange(p.k))
    own, log_sigma2 = own_blocks.times(own_blocks.matrices(p), x.own), x.log_sigma2
    if hessian.arrow is not None:
        edge = own_blocks.noise_edge(p)
        own = own + edge * log_sigma2
        log_sigma2 = (edge * x.own).sum() + own_blocks.noise_corner(p) * log_sigma2
    out = None if x.outside is None else (-a * x.outside[0], jnp.zeros_like(x.outside[1]))
    parts = _Parts(c * x.B - a * x.A, c * x.A - b * x.B, own, log_sigma2, out)
    return _together(hessian, parts)


def apply(hessian: BlockHessian, direction: LinearVAEParams) -> LinearVAEParams:
    """Compute H x by the blocks; each entry is exact to rounding of its terms."""
    _check(hessian, direction)
    return _apply(hessian, direction)


def quadratic(hessian: BlockHessian, direction: LinearVAEParams) -> Float[Array, ""]:
    """Compute xᵀ H x, twice the second-order change of the ELBO, nats per datum.

    It is exact to rounding of its terms, and has no unit if x is a change of the weights.
    """
    pairs = zip(*map(jax.tree.leaves, (direction, apply(hessian, direction))), strict=True)
    return jnp.stack([jnp.vdot(x, image) for x, image in pairs]).sum()


def _nonzero(hessian: BlockHessian, rtol: float) -> Callable[[Array], Array]:
    """Give the function that says which eigenvalues exceed rtol times the largest."""
    # that is not `outside`, which is on the diagonal of a block too
    largest = jnp.abs(hessian.values).max()
    return lambda mu: jnp.abs(mu) > rtol * largest


def _refuse_singular(zeros: Array, pseudo: bool) -> None:
    if not pseudo and checks.concrete(zeros) and zeros > 0:
        hint = "pseudo=True leaves the flat directions out."
        checks.fail("hessian", f"{int(zeros)} zero eigenvalues", "an invertible Hessian", hint)


@jax.jit
def _solve(hessian: BlockHessian, right: LinearVAEParams) -> LinearVAEParams:
    """Apply the pseudo-inverse of H to a direction, block by block."""
    p, x = hessian.point, _apart(hessian, right)
    a, b, c, det = blocks.pair_blocks(p, jnp.arange(p.k))
    flat = det == 0
    safe = jnp.where(flat, 1, det)
    # a singular block is −v vᵀ with v = (√a, −c/√a): b = c²/a
    size = a + c * (c / a)
    along = (x.A - c / a * x.B) / size / size * a
    A = jnp.where(flat, -along, -(b / safe * x.A) - c / safe * x.B)
    B = jnp.where(flat, c / a * along, -(c / safe * x.A) - a / safe * x.B)
    own, log_sigma2 = x.own, x.log_sigma2
    inverses = own_blocks.inverses(p)
    if hessian.arrow is None:
        own = own_blocks.times(inverses, own)
    else:
        # the others follow log σ² along `noise_path`; what is left of its own curvature is `schur`
        path, schur = own_blocks.noise_path(p), own_blocks.noise_schur(p)
        free = schur == 0
        length = 1 + (path**2).sum()
        along = jnp.where(free, (path * own).sum() + log_sigma2, 0) / length
        own = own - path * along
        step = (log_sigma2 + (path * own).sum()) / jnp.where(free, 1, schur)
        step = jnp.where(free, 0, step)
        own = own_blocks.times(inverses, own) + path * step
        along = jnp.where(free, (path * own).sum() + step, 0) / length
        own, log_sigma2 = own - path * along, step - along
    out = None if x.outside is None else (-x.outside[0] / a, jnp.zeros_like(x.outside[1]))
    return _together(hessian, _Parts(A, B, own, log_sigma2, out))


def solve(
    hessian: BlockHessian,
    right: LinearVAEParams,
    *,
    pseudo: bool = False,
    rtol: float | None = None,
) -> LinearVAEParams:
    """Compute H⁻¹ b. A Newton step to the stationary point is −H⁻¹ of the gradient.

    Each block is inverted by its determinant, which is exact: no digits are lost to the scale of
    the data. A singular H raises `ValueError`; with `pseudo` the result is zero along flat
    directions instead. The module says what `rtol` does.
    """
    _check(hessian, right)
    _refuse_singular(inertia(hessian, rtol).zero, pseudo)
    if rtol is None:
        return _solve(hessian, right)
    nonzero = _nonzero(hessian, rtol)

    def inverse(mu: Array) -> Array:
        keep = nonzero(mu)
        return jnp.where(keep, 1 / jnp.where(keep, mu, 1), 0)

    return function(hessian, inverse, right)


def slogdet(
    hessian: BlockHessian, *, pseudo: bool = False, rtol: float | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Compute the sign of det H, and log|det H|.

    At a maximum log|det H| is log det(−H), the term of a Laplace approximation. It has no unit
    where H is invertible. A singular H raises `ValueError`; with `pseudo` only nonzero eigenvalues
    count. The module says what `rtol` does.
    """
    count = inertia(hessian, rtol)
    _refuse_singular(count.zero, pseudo)
    outside = jnp.log(-hessian.outside)
    if rtol is None:
        log = blocks.log_determinant(hessian.point, hessian.learn)
    else:
        values, nonzero = hessian.values, _nonzero(hessian, rtol)
        log = jnp.log(jnp.abs(jnp.where(nonzero(values), values, 1))).sum()
        outside = jnp.where(nonzero(hessian.outside), outside, 0)
    log += hessian.missing * outside
    return 1 - 2 * (count.negative % 2).astype(log.dtype), log


def inertia(hessian: BlockHessian, rtol: float | None = None) -> Inertia:
    """Count the eigenvalues of each sign, exactly; for `rtol` see the module."""
    if rtol is None:
        positive, negative, zero = blocks.inertia(hessian.point, hessian.learn)
        outside = 1
    else:
        nonzero = _nonzero(hessian, rtol)
        counted = nonzero(hessian.values)
        positive, negative = ((counted & (sign * hessian.values > 0)).sum() for sign in (1, -1))
        zero = (~counted).sum()
        outside = nonzero(hessian.outside).astype(int)
    outside *= hessian.missing
    return Inertia(positive, negative + outside, zero + 2 * hessian.missing - outside)
