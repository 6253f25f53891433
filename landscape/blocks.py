"""The exact Hessian spectrum at a single-component stationary point, in the time to write it down.

Latents and components are as in `stationary`. In the eigenbasis of S the second variation of the
β-ELBO couples two variables at a time, A_ij = (Uᵀ δW)_ij and B_ji = (δV U)_ji: flipping the sign
of one latent and its component leaves the point where it is. Write τ = βσ² for the noise level,
ℓ_j for the level of latent j (λ of its component, or τ if it is collapsed) and w_j = √(ℓ_j − τ)
for the norm of its column. Latent j and component i give (derivation: landscape/README.md)

    (1/σ²) [[−1, c], [c, −λ_i ℓ_j]]

| component i | c | determinant × σ⁴ |
| --- | --- | --- |
| unused | λ_i | λ_i (ℓ_j − λ_i) |
| used by l ≥ j: (A, B)_ij + (A, B) of l on j's component, over √2 | τ − w_j w_l | τ (w_j + w_l)² |
| used by l < j: the same with −; or j collapsed | τ + w_j w_l | τ (w_j − w_l)² |

One latent on its own component (l = j) is tied to d_j = δlog D_j, which makes a 3 × 3 block of
determinant −τ²w_j²/σ⁶; a collapsed latent's d_j stands alone, −β/2. A learned log σ² ties the
3 × 3 blocks of all r active latents together: an arrowhead of 3r + 1. The mean is apart and
diagonal. So 2nk of the eigenvalues are a closed form each, with nothing lost to cancellation,
and ties give zeros that are exactly zero.

>>> import jax.numpy as jnp
>>> from landscape import blocks
>>> values = blocks.eigenvalues(jnp.array([4.0, 0.5]), jnp.array([-1]), sigma2=1.0)
>>> [round(float(v), 3) for v in values]
[-6.772, -1.309, 1.772, -0.191, -0.5]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from landscape import arrowhead, stationary
from linvae_jax import _checks

Scalar = Float[Array, ""] | float
Assignment = Int[Array, "k"] | np.ndarray

WEIGHTS = ("W", "V", "log_d")


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Levels:
    """A stationary point as the blocks see it.

    Attributes:
        eigenvalues: (n,), λ.
        assignment: (k,), component of each latent, −1 if collapsed.
        sigma2: (), σ².
        noise: (), τ = βσ².
        level: (k,), ℓ_j.
        w: (k,), norms of the columns of W.
        owner: (n,), the latent on each component; k where it is unused.
    """

    eigenvalues: Float[Array, "n"]
    assignment: Int[Array, "k"]
    sigma2: Float[Array, ""]
    noise: Float[Array, ""]
    level: Float[Array, "k"]
    w: Float[Array, "k"]
    owner: Int[Array, "n"]

    @property
    def active(self) -> Bool[Array, "k"]:
        """Which latents sit on a component."""
        return self.assignment >= 0

    @property
    def used(self) -> Bool[Array, "n"]:
        """Which components have a latent."""
        return self.owner < self.assignment.shape[0]


class PairBlocks(NamedTuple):
    """The blocks (1/σ²) [[−1, c], [c, −P]] of some latents with every component.

    Attributes:
        c: (*latents, n), σ² times the entry AB.
        P: (*latents, n), −σ² times the entry BB.
        det: (*latents, n), P − c² without the cancellation.
    """

    c: Float[Array, "*latents n"]
    P: Float[Array, "*latents n"]
    det: Float[Array, "*latents n"]


class Modes(NamedTuple):
    """One number for each eigenvector: its eigenvalue, or the coordinate of a direction along it.

    Attributes:
        lower: (k, n), for the smaller eigenvalue of latent j with component i.
        upper: (k, n), for the larger one.
        log_d: (k,), for log D_j. An active latent's own three eigenvalues are its `lower`, its
            `upper` and this one, increasing.
        log_sigma2: (), for log σ²; zero where that is held fixed. Where it is learned, the
            3r + 1 eigenvalues of the arrowhead fill the same places, latent by latent, and this.
    """

    lower: Float[Array, "k n"]
    upper: Float[Array, "k n"]
    log_d: Float[Array, "k"]
    log_sigma2: Float[Array, ""]


def levels(
    eigenvalues: Float[Array, "n"], assignment: Assignment, sigma2: Scalar, beta: Scalar = 1.0
) -> Levels:
    """Read a stationary point.

    Args:
        eigenvalues: (n,), of S, from large to small.
        assignment: (k,) int.
        sigma2: noise variance.
        beta: weight of the KL.

    Raises:
        ValueError: as `stationary.point`. Where the values are traced, a latent on a component
            with λ_i ≤ βσ² gives NaN.
    """
    stationary.check_assignment(assignment, eigenvalues, sigma2, beta)
    dtype = eigenvalues.dtype
    sigma2, beta = jnp.asarray(sigma2, dtype), jnp.asarray(beta, dtype)
    return _levels(eigenvalues, jnp.asarray(assignment), sigma2, beta * sigma2)


@jax.jit
def _levels(eigenvalues: Array, a: Array, sigma2: Array, noise: Array) -> Levels:
    lam = jnp.maximum(eigenvalues, 0)  # rounding leaves zeros of S slightly negative
    n, k = lam.shape[0], a.shape[0]
    active = a >= 0
    excess = lam[a] - noise
    return Levels(
        eigenvalues=lam,
        assignment=a,
        sigma2=sigma2,
        noise=noise,
        level=jnp.where(active, lam[a], noise),
        w=jnp.where(active, jnp.sqrt(jnp.where(excess > 0, excess, jnp.nan)), 0),
        owner=jnp.full(n, k).at[jnp.where(active, a, n)].set(jnp.arange(k), mode="drop"),
    )


def pair_blocks(p: Levels, latents: Int[Array, "*latents"]) -> PairBlocks:
    """The 2 × 2 blocks of these latents with every component; see the module's table.

    Entry (j, i) with i used by another active latent l is the block of the symmetric (j < l) or
    antisymmetric (j > l) combination. Entry (j, π(j)) is the (A, B) corner of the 3 × 3 block.
    """
    lam, tau, j = p.eigenvalues, p.noise, latents[..., None]
    level, w = p.level[j], p.w[j]
    w_i = p.w.at[p.owner].get(mode="fill", fill_value=0)
    turned = j > p.owner
    c = jnp.where(p.used, tau + jnp.where(turned, w * w_i, -w * w_i), lam)
    # w_j − w_l from the difference of eigenvalues, which is exact where they are close
    gap = jnp.where(turned, (level - lam) / jnp.where(turned, w + w_i, 1), w + w_i)
    det = jnp.where(p.used, tau * gap**2, lam * (level - lam))
    return PairBlocks(c, lam * level, det)


def own_blocks(p: Levels) -> Float[Array, "k 3 3"]:
    """The block of each active latent with its own component, variables A, B, d.

    A collapsed latent has no component of its own: its A and B are stand-ins, uncoupled and below
    the rest of the spectrum, which keeps them first among its eigenvalues.
    """
    tau, lam, w = p.noise, p.level, p.w
    zero, one = jnp.zeros_like(w), jnp.ones_like(w)
    rows = [
        [-one, tau - w**2, -tau * w / lam],
        [tau - w**2, -(lam**2), zero],
        [-tau * w / lam, zero, -tau / 2 * one],
    ]
    matrices = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2) / p.sigma2
    bound = jnp.abs(matrices).sum(axis=-1).max()  # no eigenvalue is larger
    stand_ins = -jnp.diag(jnp.stack([2 * bound, 2 * bound, p.noise / p.sigma2 / 2]))
    return jnp.where(p.active[:, None, None], matrices, stand_ins)


def sharpen(p: Levels, threes: Float[Array, "k 3"]) -> Float[Array, "k 3"]:
    """Eigenvalues of `own_blocks` with the one nearest zero taken from the determinant.

    A latent near its threshold has one of size w², which an eigensolver knows only to rounding of
    the largest.
    """
    nearest = -((p.noise * p.w) ** 2) / p.sigma2**3 / (threes[:, 0] * threes[:, 1])
    return threes.at[:, 2].set(jnp.where(p.active, nearest, threes[:, 2]))


def noise_arrowhead(
    p: Levels, threes: Float[Array, "k 3"], vectors: Float[Array, "k 3 3"]
) -> arrowhead.Arrowhead:
    """`own_blocks` in their eigenvectors' coordinates, with log σ² at the corner."""
    row = jnp.stack([jnp.zeros_like(p.w), -p.noise * p.w, p.noise / 2 * p.w**2 / p.level], axis=-1)
    edge = jnp.einsum("jst,js->jt", vectors, row / p.sigma2, precision="highest")
    corner = -jnp.where(p.used, p.noise, p.eigenvalues).sum() / 2 / p.sigma2
    return arrowhead.build(
        threes, edge, corner, p.active[:, None] | jnp.array([False, False, True])
    )


def own_eigenvalues(p: Levels, learn_sigma2: bool) -> tuple[Float[Array, "k 3"], Float[Array, ""]]:
    """Eigenvalues of `own_blocks`, or of the arrowhead that log σ² makes of them: see `Modes`."""
    if not learn_sigma2:
        threes = sharpen(p, jnp.linalg.eigvalsh(own_blocks(p)))
        return threes, jnp.zeros_like(p.noise)
    threes, vectors = jnp.linalg.eigh(own_blocks(p))
    return arrowhead.eigenvalues(noise_arrowhead(p, sharpen(p, threes), vectors))


def pair_eigenvalues(p: Levels, latents: Int[Array, "*latents"]) -> tuple[Array, Array]:
    """Both eigenvalues of `pair_blocks`, each (*latents, n)."""
    c, P, det = pair_blocks(p, latents)
    size = (1 + P) / 2 + jnp.sqrt(((1 - P) / 2) ** 2 + c**2)
    return -size / p.sigma2, -det / size / p.sigma2


def modes(p: Levels, learn_sigma2: bool) -> Modes:
    """All eigenvalues in their places."""
    k, n = p.assignment.shape[0], p.owner.shape[0]
    lower, upper = pair_eigenvalues(p, jnp.arange(k))
    threes, log_sigma2 = own_eigenvalues(p, learn_sigma2)
    mine = p.assignment[:, None] == jnp.arange(n)
    return Modes(
        jnp.where(mine, threes[:, :1], lower),
        jnp.where(mine, threes[:, 1:2], upper),
        threes[:, 2],
        log_sigma2,
    )


def mean_eigenvalues(p: Levels) -> Float[Array, "n"]:
    """Eigenvalues for μ, −β times those of C⁻¹ at noise τ: eigenvector u_i each."""
    return -jnp.where(p.used, p.noise / p.eigenvalues, 1) / p.sigma2


def check_learn(
    learn: Sequence[str],
    needed: tuple[str, ...] = WEIGHTS,
    optional: tuple[str, ...] = ("log_sigma2", "mean"),
) -> None:
    """Raise `ValueError` unless `learn` names all that is needed and nothing unknown."""
    if not set(needed) <= set(learn) <= {*needed, *optional}:
        _checks.fail("learn", tuple(learn), f"{needed}, and if wanted any of {optional}")


@partial(jax.jit, static_argnames="learn")
def at_levels(p: Levels, learn: frozenset[str]) -> Float[Array, "p"]:
    """`eigenvalues` of a point that is read and checked already."""
    lower, upper, log_d, log_sigma2 = modes(p, "log_sigma2" in learn)
    parts = [lower.ravel(), upper.ravel(), log_d]
    if "log_sigma2" in learn:
        parts.append(log_sigma2[None])
    if "mean" in learn:
        parts.append(mean_eigenvalues(p))
    return jnp.concatenate(parts)


def eigenvalues(
    eigenvalues: Float[Array, "n"],
    assignment: Assignment,
    sigma2: Scalar,
    *,
    beta: Scalar = 1.0,
    learn: Sequence[str] = WEIGHTS,
) -> Float[Array, "p"]:
    """All eigenvalues of the β-ELBO's Hessian at `stationary.point`.

    Cost O(nk), and O(k³) more for the arrowhead if log σ² is learned. Values may be traced, the
    assignment's too; n, k and `learn` are static.

    Args:
        eigenvalues: (n,), of S, from large to small: all n of them. Pad a thin spectrum with
            zeros; each zero adds k eigenvalues −1/σ², and k zeros, as nothing depends on V there.
        assignment: (k,) int.
        sigma2: noise variance. With log σ² learned too the Hessian is that in log σ²; the point
            is stationary in log σ² only at σ² = Σ_unused λ_i/(n − rβ).
        beta: weight of the KL.
        learn: "W", "V", "log_d", and if wanted "log_sigma2", "mean", as in `objectives.elbo`.

    Returns:
        `Modes` laid out flat: `lower` (k, n) row by row, `upper` likewise, `log_d` (k,), then
        log σ² (1,) and mean (n,) where learned. Relative accuracy: rounding for the closed forms;
        the 3 × 3 blocks and the arrowhead to rounding of their largest.

    Raises:
        ValueError: as `stationary.point`, or W, V or log D not learned.

    Source: own derivation, landscape/README.md; compared with dense Hessians in the tests.
    """
    check_learn(learn)
    return at_levels(levels(eigenvalues, assignment, sigma2, beta), frozenset(learn))


@partial(jax.jit, static_argnames="learn_sigma2")
def _log_likelihood_eigenvalues(p: Levels, learn_sigma2: bool) -> Float[Array, "p"]:
    k = p.assignment.shape[0]
    lam, level, w = p.eigenvalues, p.level[:, None], p.w[:, None]
    w_i = p.w.at[p.owner].get(mode="fill", fill_value=0)
    stays = (jnp.arange(k)[:, None] > p.owner) | ~p.active[:, None]  # a rotation, or collapsed
    pair = jnp.where(stays, 0, -(w**2 + w_i**2) / (level * lam))
    values = jnp.where(p.used, pair, (lam - level) / (p.sigma2 * level))
    if not learn_sigma2:
        return values.ravel()
    edge = (-p.noise * p.w / p.level**2)[:, None]
    corner = -jnp.where(p.used, (p.noise / lam) ** 2, lam / p.noise).sum() / 2
    diagonal = -2 * (w / level) ** 2
    h = arrowhead.build(diagonal, edge, corner, p.active[:, None])
    own, log_sigma2 = arrowhead.eigenvalues(h)
    mine = p.assignment[:, None] == jnp.arange(lam.shape[0])
    return jnp.append(jnp.where(mine, own, values), log_sigma2)


def log_likelihood_eigenvalues(
    eigenvalues: Float[Array, "n"],
    assignment: Assignment,
    sigma2: Scalar,
    *,
    learn: Sequence[str] = ("W",),
) -> Float[Array, "p"]:
    """All eigenvalues of the pPCA log-likelihood's Hessian in W at `stationary.point`.

    | latent j with component i | eigenvalue |
    | --- | --- |
    | i unused | (λ_i − ℓ_j)/(σ²ℓ_j) |
    | i used by l, j ≤ l | −(w_j² + w_l²)/(λ_jλ_l) |
    | i used by l < j: a rotation of the two; or j collapsed | 0 |

    The same at W R for every orthogonal R.

    Args:
        eigenvalues: (n,), of S, from large to small; pad a thin spectrum with zeros.
        assignment: (k,) int.
        sigma2: noise variance.
        learn: "W", and "log_sigma2" if wanted, which ties the active latents' own eigenvalues
            together in an arrowhead of r + 1.

    Returns:
        (nk,), latent by latent; with log σ² (nk + 1,). Exact.

    Raises:
        ValueError: as `stationary.point`, or W not learned.

    Source: own derivation, landscape/README.md; compared with dense Hessians in the tests.
    """
    check_learn(learn, ("W",), ("log_sigma2",))
    return _log_likelihood_eigenvalues(
        levels(eigenvalues, assignment, sigma2), "log_sigma2" in learn
    )
