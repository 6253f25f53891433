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

>>> import jax.numpy as jnp
>>> from landscape.curvature import blocks
>>> values = blocks.eigenvalues(jnp.array([4.0, 0.5]), jnp.array([-1]), sigma2=1.0)
>>> [round(float(v), 3) for v in values]
[-6.772, -1.309, 1.772, -0.191, -0.5]
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from landscape.curvature import arrowhead
from landscape.points import stationary
from linvae_jax._internal import checks

Scalar = Float[Array, ""] | float
Assignment = Int[Array, "k"] | Any

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
        unit: (), a variance: W is measured in its root, V in one over its root. 1 is the data's
            own unit; λ₁ gives the spectrum of the data x/√λ₁.
    """

    eigenvalues: Float[Array, "n"]
    assignment: Int[Array, "k"]
    sigma2: Float[Array, ""]
    noise: Float[Array, ""]
    level: Float[Array, "k"]
    w: Float[Array, "k"]
    owner: Int[Array, "n"]
    unit: Float[Array, ""]

    @property
    def active(self) -> Bool[Array, "k"]:
        """Which latents sit on a component."""
        return self.assignment >= 0

    @property
    def used(self) -> Bool[Array, "n"]:
        """Which components have a latent."""
        return self.owner < self.assignment.shape[0]


class PairBlocks(NamedTuple):
    """The blocks [[−a, c], [c, −b]] of some latents with every component.

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
    """Numbers of positive (the index), negative and zero (the nullity) eigenvalues, each ()."""

    positive: Int[Array, ""]
    negative: Int[Array, ""]
    zero: Int[Array, ""]


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
    eigenvalues: Float[Array, "n"] | Any, assignment: Assignment, sigma2: Scalar, beta: Scalar = 1.0
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
    a, lam, sigma2, beta = stationary.read(assignment, eigenvalues, sigma2, beta)
    return _levels(lam, a, sigma2, beta * sigma2)


@jax.jit
def _levels(eigenvalues: Array, a: Array, sigma2: Array, noise: Array) -> Levels:
    # rounding leaves zeros of S slightly off, on either side
    lam = jnp.where(stationary.zeros_of_s(eigenvalues, noise), 0, eigenvalues)
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
        unit=jnp.ones_like(noise),
    )


def normalised(p: Levels) -> Levels:
    """The same point of the data x/√λ₁, whose largest variance is one.

    λ₁ is known of thin spectra too; dividing σ² and λ by it would round ties away, so it is kept
    as the unit.
    """
    return replace(p, unit=p.eigenvalues[0])


def pair_blocks(p: Levels, latents: Int[Array, "*latents"]) -> PairBlocks:
    """The 2 × 2 blocks of these latents with every component; see the module's table.

    Entry (j, i) with i used by another active latent l is the block of the symmetric (j < l) or
    antisymmetric (j > l) combination. Entry (j, π(j)) is the (A, B) corner of the 3 × 3 block.
    """
    lam, tau, j = p.eigenvalues, p.noise, latents[..., None]
    level, w = p.level[j], p.w[j]
    w_i = p.w.at[p.owner].get(mode="fill", fill_value=0)
    turned = j > p.owner
    c = jnp.where(p.used, tau + jnp.where(turned, w * w_i, -w * w_i), lam) / p.sigma2
    # w_j − w_l from the difference of eigenvalues, which is exact where they are close
    gap = jnp.where(turned, (level - lam) / jnp.where(turned, w + w_i, 1), w + w_i)
    gap = gap / jnp.sqrt(p.sigma2)
    unused = lam / p.sigma2 * ((level - lam) / p.sigma2)
    det = jnp.where(p.used, tau / p.sigma2 * gap**2, unused)
    return PairBlocks(p.unit / p.sigma2, lam / p.unit * (level / p.sigma2), c, det)


def own_blocks(p: Levels) -> Float[Array, "k 3 3"]:
    """The block of each active latent with its own component, variables A, B, d.

    A collapsed latent has no component of its own: its A and B are stand-ins, uncoupled and below
    the rest of the spectrum, which keeps them first among its eigenvalues.
    """
    lam, beta, root = p.level, p.noise / p.sigma2, jnp.sqrt(p.sigma2)
    one, zero = jnp.ones_like(p.w), jnp.zeros_like(p.w)
    AB = (p.noise - p.w**2) / p.sigma2
    Ad = -beta * (p.w / root) * (p.sigma2 / lam) * (jnp.sqrt(p.unit) / root)
    rows = [
        [-p.unit / p.sigma2 * one, AB, Ad],
        [AB, -lam / p.unit * (lam / p.sigma2), zero],
        [Ad, zero, -beta / 2 * one],
    ]
    matrices = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    bound = jnp.abs(matrices).sum(axis=-1).max()  # no eigenvalue is larger
    stand_ins = -jnp.diag(jnp.stack([2 * bound, 2 * bound, beta / 2]))
    return jnp.where(p.active[:, None, None], matrices, stand_ins)


_SWEEPS = 8  # Jacobi converges quadratically: five suffice for three dimensions


def rotation(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """Cosine and sine of θ of matrices [[−a, c], [c, −b]], of any shape.

    The upper eigenvector is (cos θ, sin θ), the lower (−sin θ, cos θ). The smaller of the two comes
    from a ratio, not from an angle, so that it has its own digits.
    """
    half = jnp.abs(b - a) / 2
    reach = half + jnp.hypot(half, c)
    ratio = c / jnp.where(reach > 0, reach, 1)
    large = 1 / jnp.sqrt(1 + ratio**2)
    return jnp.where(b >= a, large, ratio * large), jnp.where(b >= a, ratio * large, large)


def own_spectra(p: Levels) -> tuple[Float[Array, "k 3"], Float[Array, "k 3 3"]]:
    """Eigenvalues, increasing, and eigenvectors, as columns, of `own_blocks`.

    By Jacobi's rotations, which keep the digits of small eigenvalues of a definite matrix however
    far apart the scales of A, B and d are: an ordinary eigensolver knows all to rounding of the
    largest (Demmel & Veselić, SIAM J. Matrix Anal. Appl. 1992). The eigenvalue nearest zero is then
    taken from the determinant, −β²w²/σ², for a latent near its threshold has one of size w².
    """
    M = own_blocks(p)
    # A and B first: their determinant, 4τw²/σ⁴, cancels in the entries as σ² falls. What is left
    # has, in units of its diagonal, the determinant ½, so that rounding costs nothing any more.
    a, b, c = -M[:, 0, 0], -M[:, 1, 1], M[:, 0, 1]
    size = (a + b) / 2 + jnp.hypot((a - b) / 2, c)
    det = 4 * (p.noise / p.sigma2) * (p.w / jnp.sqrt(p.sigma2)) ** 2
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
    small = p.noise / p.sigma2 * (p.w / jnp.sqrt(p.sigma2))
    nearest = -small / values[:, 0] * (small / values[:, 1])
    return values.at[:, 2].set(jnp.where(p.active, nearest, values[:, 2])), columns


def noise_edge(p: Levels) -> Float[Array, "k 3"]:
    """What ties `own_blocks` to log σ²: entries of A, B and d with it."""
    B = -p.noise / p.sigma2 * (p.w / jnp.sqrt(p.unit))
    d = p.noise / p.sigma2 / 2 * (p.w**2 / p.level)
    return jnp.stack([jnp.zeros_like(p.w), B, d], axis=-1)


def noise_corner(p: Levels) -> Float[Array, ""]:
    """The Hessian's entry for log σ²: −½ (rβ + Σ_unused λ_i/σ²)."""
    return -(jnp.where(p.used, p.noise, p.eigenvalues) / p.sigma2).sum() / 2


def noise_schur(p: Levels) -> Float[Array, ""]:
    """What is left of that entry once all other variables follow σ²: −½ Σ_unused λ_i/σ²."""
    return -(jnp.where(p.used, 0, p.eigenvalues) / p.sigma2).sum() / 2


def noise_path(p: Levels) -> Float[Array, "k 3"]:
    """How an active latent's A, B and d follow log σ², its point kept stationary: −H⁻¹ × the edge.

    w = √(λ − τ), v = w/λ and D = τ/λ: the derivatives are −τ/(2w), −τ/(2wλ) and 1.
    """
    w = jnp.where(p.active, p.w, 1)
    dw = -p.noise / (2 * w) / jnp.sqrt(p.unit)
    moved = jnp.stack([dw, dw * (p.unit / p.level), jnp.ones_like(w)], axis=-1)
    return jnp.where(p.active[:, None], moved, 0)


def noise_arrowhead(
    p: Levels, threes: Float[Array, "k 3"], vectors: Float[Array, "k 3 3"]
) -> arrowhead.Arrowhead:
    """`own_blocks` in their eigenvectors' coordinates, with log σ² at the corner."""
    edge = jnp.einsum("jst,js->jt", vectors, noise_edge(p), precision="highest")
    real = p.active[:, None] | jnp.array([False, False, True])
    return arrowhead.build(threes, edge, noise_corner(p), real, noise_schur(p))


def own_eigenvalues(p: Levels, learn_sigma2: bool) -> tuple[Float[Array, "k 3"], Float[Array, ""]]:
    """Eigenvalues of `own_blocks`, or of the arrowhead that log σ² makes of them: see `Modes`."""
    threes, vectors = own_spectra(p)
    if not learn_sigma2:
        return threes, jnp.zeros_like(p.noise)
    return arrowhead.eigenvalues(noise_arrowhead(p, threes, vectors))


def pair_eigenvalues(p: Levels, latents: Int[Array, "*latents"]) -> tuple[Array, Array]:
    """Both eigenvalues of `pair_blocks`, each (*latents, n)."""
    a, b, c, det = pair_blocks(p, latents)
    size = (a + b) / 2 + jnp.hypot((a - b) / 2, c)
    return -size, -det / size


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
    return -jnp.where(p.used, p.noise / p.eigenvalues, 1) * (p.unit / p.sigma2)


@partial(jax.jit, static_argnames="learn")
def inertia(p: Levels, learn: frozenset[str]) -> Inertia:
    """Signs of all eigenvalues, by comparing λ with λ and with τ: exact, in every unit.

    Positive: an unused component i with λ_i > ℓ_j, for each latent j. Zero: λ_i = ℓ_j or λ_i = 0
    there, two active latents with equal λ, and log σ² if it is learned and all unused λ_i are zero,
    for then there is no σ² that is best. All others are negative. Of traced values that are no
    stationary point nothing is counted.
    """
    k, n = p.w.shape[0], p.owner.shape[0]
    lam, level = p.eigenvalues, p.level[:, None]
    positive = (~p.used & (lam > level)).sum()
    zero = (~p.used & ((lam == level) | (lam == 0))).sum()
    both = p.active[:, None] & p.active & jnp.tri(k, k, -1, dtype=bool)
    zero += (both & (level == p.level)).sum()
    total = (2 * n + 1) * k
    if "log_sigma2" in learn:
        zero += (p.used | (lam == 0)).all()
        total += 1
    if "mean" in learn:
        total += n
    known = ~jnp.isnan(p.w).any()
    return Inertia(*(jnp.where(known, x, 0) for x in (positive, total - positive - zero, zero)))


@partial(jax.jit, static_argnames="learn")
def log_determinant(p: Levels, learn: frozenset[str]) -> Float[Array, ""]:
    """Logarithm of the product of |μ| over all nonzero eigenvalues, from the blocks' determinants.

    The determinants have no unit. Where one is zero the block's other eigenvalue counts, −(a + b)
    of a 2 × 2 block, which has one.
    """
    k, n = p.w.shape[0], p.owner.shape[0]
    a, b, _, det = pair_blocks(p, jnp.arange(k))
    mine = p.assignment[:, None] == jnp.arange(n)
    log = jnp.log(jnp.where(mine, 1, jnp.where(det == 0, a + b, jnp.abs(det)))).sum()
    beta = p.noise / p.sigma2
    three = 2 * jnp.log(beta * jnp.where(p.active, p.w / jnp.sqrt(p.sigma2), 1))
    log += jnp.where(p.active, three, jnp.log(beta / 2)).sum()
    if "log_sigma2" in learn:
        schur = -noise_schur(p)
        flat = schur == 0  # along the path of σ² nothing changes; its length squared takes over
        log += jnp.log(jnp.where(flat, 1 + (noise_path(p) ** 2).sum(), schur))
    if "mean" in learn:
        log += jnp.log(-mean_eigenvalues(p)).sum()
    return log


def check_learn(
    learn: Sequence[str],
    needed: tuple[str, ...] = WEIGHTS,
    optional: tuple[str, ...] = ("log_sigma2", "mean"),
) -> None:
    """Raise `ValueError` unless `learn` names all that is needed and nothing unknown."""
    if not set(needed) <= set(learn) <= {*needed, *optional}:
        checks.fail("learn", tuple(learn), f"{needed}, and if wanted any of {optional}")


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
    eigenvalues: Float[Array, "n"] | Any,
    assignment: Assignment,
    sigma2: Scalar,
    *,
    beta: Scalar = 1.0,
    learn: Sequence[str] = WEIGHTS,
    unit_free: bool = False,
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
        unit_free: of the data x/√λ₁ instead, the same in every unit of x.

    Returns:
        `Modes` laid out flat: `lower` (k, n) row by row, `upper` likewise, `log_d` (k,), then
        log σ² (1,) and mean (n,) where learned. Relative accuracy is rounding, small eigenvalues
        included, up to a factor of √(λ_j/τ) or so for the arrowhead. In
        float32 as in float64 that holds while the eigenvalues themselves can be represented, from
        about 1e-37 to 1e38.

    Raises:
        ValueError: as `stationary.point`, or W, V or log D not learned.

    Source: own derivation, landscape/README.md; compared with dense Hessians in the tests.
    """
    check_learn(learn)
    p = levels(eigenvalues, assignment, sigma2, beta)
    return at_levels(normalised(p) if unit_free else p, frozenset(learn))


@partial(jax.jit, static_argnames="learn_sigma2")
def _log_likelihood_eigenvalues(p: Levels, learn_sigma2: bool) -> Float[Array, "p"]:
    k = p.assignment.shape[0]
    lam, level, w = p.eigenvalues, p.level[:, None], p.w[:, None]
    w_i = p.w.at[p.owner].get(mode="fill", fill_value=0)
    stays = (jnp.arange(k)[:, None] > p.owner) | ~p.active[:, None]  # a rotation, or collapsed
    pair = jnp.where(stays, 0, -(w**2 + w_i**2) / level / lam)
    values = jnp.where(p.used, pair, (lam - level) / level / p.sigma2)
    if not learn_sigma2:
        return values.ravel()
    edge = (-p.noise / p.level * (p.w / p.level))[:, None]
    corner = -jnp.where(p.used, (p.noise / lam) ** 2, lam / p.noise).sum() / 2
    diagonal = -2 * (w / level) ** 2
    h = arrowhead.build(diagonal, edge, corner, p.active[:, None], noise_schur(p))
    own, log_sigma2 = arrowhead.eigenvalues(h)
    mine = p.assignment[:, None] == jnp.arange(lam.shape[0])
    return jnp.append(jnp.where(mine, own, values), log_sigma2)


def log_likelihood_eigenvalues(
    eigenvalues: Float[Array, "n"] | Any,
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
