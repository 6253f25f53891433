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

No curvature is compared with a tolerance: signs come from comparing λ with λ and λ with τ
(`inertia`), determinants are products without cancellation (`log_determinant`). Neither has a unit.
(Which λ are zeros of S is decided once, `stationary.zeros_of_s`, relative to λ₁.) Curvatures in W
have the unit of 1/x² and those in V that of x², so that the two ends of the spectrum move apart as
the data's unit changes. Each number is computed from ratios λ/σ², in an order in which nothing
overflows before the result does.

`learn` names the variables of the Hessian, as in `objectives.elbo`. It must have "W", "V" and
"log_d", and may have "log_sigma2" and "mean"; anything else raises `ValueError`.
(`log_likelihood_eigenvalues` needs only "W".) With "log_sigma2" the Hessian is that in log σ² too.
The point is stationary in log σ² only at σ² = Σ_unused λ_i/(n − rβ). A point must have all n
eigenvalues: pad a thin spectrum with zeros.

>>> import jax.numpy as jnp
>>> from landscape.curvature import blocks
>>> from landscape.points import stationary
>>> point = stationary.point(jnp.array([4.0, 0.5]), jnp.array([-1]), sigma2=1.0)
>>> [round(float(v), 3) for v in blocks.hessian_eigenvalues(point)]
[-6.772, -1.309, 1.772, -0.191, -0.5]
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from landscape.curvature import arrowhead, own_blocks
from landscape.points import stationary
from landscape.points.stationary import Point
from linvae_jax._internal import checks

WEIGHTS = ("W", "V", "log_d")


def learned(
    learn: Sequence[str],
    needed: tuple[str, ...] = WEIGHTS,
    optional: tuple[str, ...] = ("log_sigma2", "mean"),
) -> frozenset[str]:
    """Raise `ValueError` unless `learn` has all variables that are needed and nothing unknown."""
    if not set(needed) <= set(learn) <= {*needed, *optional}:
        checks.fail("learn", tuple(learn), f"{needed}, and if wanted any of {optional}")
    return frozenset(learn)


class PairBlocks(NamedTuple):
    """`PairBlocks` are the blocks [[−a, c], [c, −b]] of some latents with every component.

    Attributes:
        a: (), 1/σ².
        b: (*latents, n), λ_i ℓ_j/σ².
        c: (*latents, n).
        det: (*latents, n), a b − c² without the cancellation; c and this have no unit.
    """

    a: Float[Array, ""]
    b: Float[Array, "*latents n"]
    c: Float[Array, "*latents n"]
    det: Float[Array, "*latents n"]


class Inertia(NamedTuple):
    """`Inertia` counts positive (the index), negative and zero (the nullity) eigenvalues."""

    positive: Int[Array, ""]
    negative: Int[Array, ""]
    zero: Int[Array, ""]


class Modes(NamedTuple):
    """`Modes` have one number for each eigenvector: its eigenvalue, or a coordinate along it.

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


def pair_blocks(p: Point, latents: Int[Array, "*latents"]) -> PairBlocks:
    """Make the 2 × 2 blocks of these latents with every component; see the module's table.

    Entry (j, i) with i used by another active latent l is the block of the symmetric (j < l) or
    antisymmetric (j > l) combination. Entry (j, π(j)) is the (A, B) corner of the 3 × 3 block.
    """
    lam, tau, j = p.lam, p.tau, latents[..., None]
    widths, owners = p.widths, p.owners
    used, level, w = owners < p.k, p.levels[j], widths[j]
    w_i = widths.at[owners].get(mode="fill", fill_value=0)
    turned = j > owners
    c = jnp.where(used, tau + jnp.where(turned, w * w_i, -w * w_i), lam) / p.sigma2
    # w_j − w_l from the difference of eigenvalues, which is exact where they are close
    gap = jnp.where(turned, (level - lam) / jnp.where(turned, w + w_i, 1), w + w_i)
    gap = gap / jnp.sqrt(p.sigma2)
    unused = lam / p.sigma2 * ((level - lam) / p.sigma2)
    det = jnp.where(used, tau / p.sigma2 * gap**2, unused)
    return PairBlocks(p.unit / p.sigma2, lam / p.unit * (level / p.sigma2), c, det)


def pair_eigenvalues(p: Point, latents: Int[Array, "*latents"]) -> tuple[Array, Array]:
    """Compute both eigenvalues of `pair_blocks`, each (*latents, n)."""
    a, b, c, det = pair_blocks(p, latents)
    size = (a + b) / 2 + jnp.hypot((a - b) / 2, c)
    return -size, -det / size


def modes(p: Point, learn_sigma2: bool) -> Modes:
    """Compute all eigenvalues, in their places."""
    k, n = p.k, p.n
    lower, upper = pair_eigenvalues(p, jnp.arange(k))
    threes, log_sigma2 = own_blocks.eigenvalues(p, learn_sigma2)
    mine = p.assignment[:, None] == jnp.arange(n)
    return Modes(
        jnp.where(mine, threes[:, :1], lower),
        jnp.where(mine, threes[:, 1:2], upper),
        threes[:, 2],
        log_sigma2,
    )


def mean_eigenvalues(p: Point) -> Float[Array, "n"]:
    """Compute eigenvalues for μ, −β times those of C⁻¹ at noise τ: eigenvector u_i each."""
    return -jnp.where(p.used, p.tau / p.lam, 1) * (p.unit / p.sigma2)


@partial(jax.jit, static_argnames="learn")
def _inertia(p: Point, learn: frozenset[str]) -> Inertia:
    lam, levels, unused = p.lam, p.levels, ~p.used
    level = levels[:, None]
    positive = (unused & (lam > level)).sum()
    zero = (unused & ((lam == level) | (lam == 0))).sum()
    both = p.active[:, None] & p.active & jnp.tri(p.k, p.k, -1, dtype=bool)
    zero += (both & (level == levels)).sum()
    total = (2 * p.n + 1) * p.k
    if "log_sigma2" in learn:
        zero += (~unused | (lam == 0)).all()
        total += 1
    if "mean" in learn:
        total += p.n
    known = ~jnp.isnan(levels).any()
    return Inertia(*(jnp.where(known, x, 0) for x in (positive, total - positive - zero, zero)))


def inertia(point: Point, learn: Sequence[str] = WEIGHTS) -> Inertia:
    """Count the signs of all eigenvalues, by comparing λ with λ and with τ: exact in every unit.

    Positive: an unused component i with λ_i > ℓ_j, for each latent j. Zero: λ_i = ℓ_j or λ_i = 0
    there, two active latents with equal λ, and log σ² if it is learned and all unused λ_i are zero,
    because then no σ² is best. All others are negative. Where traced values are no stationary
    point, nothing is counted.
    """
    return _inertia(point, learned(learn))


@partial(jax.jit, static_argnames="learn")
def _log_determinant(p: Point, learn: frozenset[str]) -> Float[Array, ""]:
    a, b, _, det = pair_blocks(p, jnp.arange(p.k))
    mine = p.assignment[:, None] == jnp.arange(p.n)
    log = jnp.log(jnp.where(mine, 1, jnp.where(det == 0, a + b, jnp.abs(det)))).sum()
    three = 2 * jnp.log(p.beta * jnp.where(p.active, p.widths / jnp.sqrt(p.sigma2), 1))
    log += jnp.where(p.active, three, jnp.log(p.beta / 2)).sum()
    if "log_sigma2" in learn:
        schur = -own_blocks.noise_schur(p)
        flat = schur == 0  # along the path of σ² nothing changes; its length squared takes over
        length = 1 + (own_blocks.noise_path(p) ** 2).sum()
        log += jnp.log(jnp.where(flat, length, schur))
    if "mean" in learn:
        log += jnp.log(-mean_eigenvalues(p)).sum()
    return log


def log_determinant(point: Point, learn: Sequence[str] = WEIGHTS) -> Float[Array, ""]:
    """Compute the log of the product of all nonzero |μ|, exactly, from the blocks' determinants.

    A determinant has no unit. Where it is zero only the block's other eigenvalue counts, which has
    a unit: −(a + b) of a 2 × 2 block.
    """
    return _log_determinant(point, learned(learn))


@partial(jax.jit, static_argnames="learn")
def _hessian_eigenvalues(p: Point, learn: frozenset[str]) -> Float[Array, "p"]:
    lower, upper, log_d, log_sigma2 = modes(p, "log_sigma2" in learn)
    parts = [lower.ravel(), upper.ravel(), log_d]
    if "log_sigma2" in learn:
        parts.append(log_sigma2[None])
    if "mean" in learn:
        parts.append(mean_eigenvalues(p))
    return jnp.concatenate(parts)


def hessian_eigenvalues(
    point: Point, *, learn: Sequence[str] = WEIGHTS, unit_free: bool = False
) -> Float[Array, "p"]:
    """Compute all eigenvalues of the β-ELBO's Hessian at a point.

    The cost is O(nk), and O(k³) more for the arrowhead if log σ² is learned. The point may be
    traced; n, k and `learn` are static. Each zero of S adds k eigenvalues −1/σ², and k zeros, as
    nothing depends on V there. With `unit_free` the eigenvalues are those for the data x/√λ₁, which
    are the same in every unit of x.

    Returns:
        `Modes` laid out flat: `lower` (k, n) row by row, `upper` likewise, `log_d` (k,), then
        log σ² (1,) and mean (n,) where learned. Each eigenvalue is exact to rounding of itself,
        however small; those of the arrowhead up to a factor of √(λ_j/τ) or so. In float32 as in
        float64 that holds while the eigenvalues themselves can be represented, in float32 from
        about 1e-37 to 1e38.

    Source: own derivation, landscape/README.md; compared with dense Hessians in the tests.
    """
    variables = learned(learn)
    return _hessian_eigenvalues(stationary.unit_free(point) if unit_free else point, variables)


@partial(jax.jit, static_argnames="learn_sigma2")
def _log_likelihood_eigenvalues(p: Point, learn_sigma2: bool) -> Float[Array, "p"]:
    lam, widths, owners, active = p.lam, p.widths, p.owners, p.active
    used, level, w = owners < p.k, p.levels[:, None], widths[:, None]
    w_i = widths.at[owners].get(mode="fill", fill_value=0)
    stays = (jnp.arange(p.k)[:, None] > owners) | ~active[:, None]  # a rotation, or collapsed
    pair = jnp.where(stays, 0, -(w**2 + w_i**2) / level / lam)
    values = jnp.where(used, pair, (lam - level) / level / p.sigma2)
    # the likelihood knows no β
    values = jnp.where(p.beta == 1, values, jnp.nan) * p.unit
    if not learn_sigma2:
        return values.ravel()
    edge = -p.tau / level * (w / level) * jnp.sqrt(p.unit)
    corner = -jnp.where(used, (p.tau / lam) ** 2, lam / p.tau).sum() / 2
    diagonal = -2 * (w / level) ** 2 * p.unit
    h = arrowhead.build(diagonal, edge, corner, active[:, None], own_blocks.noise_schur(p))
    own, log_sigma2 = arrowhead.eigenvalues(h)
    mine = p.assignment[:, None] == jnp.arange(p.n)
    return jnp.append(jnp.where(mine, own, values), log_sigma2)


def log_likelihood_eigenvalues(point: Point, *, learn: Sequence[str] = ("W",)) -> Float[Array, "p"]:
    """Compute all eigenvalues of the pPCA log-likelihood's Hessian in W, at a point with β = 1.

    | latent j with component i | eigenvalue |
    | --- | --- |
    | i unused | (λ_i − ℓ_j)/(σ²ℓ_j) |
    | i used by l, j ≤ l | −(w_j² + w_l²)/(λ_jλ_l) |
    | i used by l < j: a rotation of the two; or j collapsed | 0 |

    They are the same at W R for every orthogonal R. `learn` must have "W", and may have
    "log_sigma2", which ties the active latents' own eigenvalues together in an arrowhead of r + 1.

    Returns:
        (nk,), latent by latent; with log σ² (nk + 1,). Exact. NaN where a traced β is not 1.

    Raises:
        ValueError: β ≠ 1, or W not learned.

    Source: own derivation, landscape/README.md; compared with dense Hessians in the tests.
    """
    variables = learned(learn, ("W",), ("log_sigma2",))
    if checks.concrete(point.beta) and point.beta != 1:
        checks.fail("point", f"beta {float(point.beta):.6g}", "beta = 1")
    return _log_likelihood_eigenvalues(point, "log_sigma2" in variables)
