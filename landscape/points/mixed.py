"""At mixed stationary points of the linear VAE's ELBO, latents share components.

Beside the points that pPCA has (`stationary`) the ELBO has *mixed* ones: m latents share r ≤ m
principal components. A type says which groups of latents share which components and how many
latents are collapsed; value, index and nullity follow from it in closed form. Write
s² = ‖w_j‖² + σ², the same for all latents of a group; then (proof: landscape/README.md)

    m s² − s Σ√λ_i + (r − m) σ² = 0   has one positive root s, the sum over the group's components,
    W W^T u_i = a_i² u_i,             a_i² = √λ_i s − σ² > 0.

That condition lets a group use components with λ_i < σ², which no pPCA point can. With a KL
weight β, τ = βσ² takes the place of σ² throughout.

Everything here computes in NumPy's float64 where the numbers are known, as `census` asks of very
many points, and in JAX's where they are traced.

>>> import jax.numpy as jnp
>>> from landscape.points import mixed
>>> shared = mixed.PointType((mixed.Group((0, 1), 2),))
>>> point = mixed.point(jnp.array([9.0, 2.0, 0.5]), shared, sigma2=1.0)
>>> print(shared, mixed.index(point))
{0,1}:2 1
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from landscape.points import stationary
from linvae_jax._internal import arrays, checks
from linvae_jax._internal.arrays import Scalar
from linvae_jax._internal.linalg import matmul
from linvae_jax.linear import LinearVAEParams


class Group(NamedTuple):
    """A `Group` is of latents that share components.

    Attributes:
        components: 0-based from the largest eigenvalue, increasing; r of them.
        latents: m ≥ r; m = r = 1 is a latent of its own on a component, as in pPCA.
    """

    components: tuple[int, ...]
    latents: int


@dataclass(frozen=True)
class PointType:
    """A `PointType` says which kind of point: its groups, and how many latents are collapsed.

    Groups are put in canonical order, by their smallest component, so that equal types compare
    equal. Latents are interchangeable and have no names here.

    Raises:
        ValueError: a component twice or negative, a group without components, or with fewer
            latents than components, or no latent at all.
    """

    groups: tuple[Group, ...]
    collapsed: int = 0

    def __post_init__(self) -> None:
        groups = tuple(sorted(Group(tuple(sorted(c)), m) for c, m in self.groups))
        object.__setattr__(self, "groups", groups)
        used = [i for g in groups for i in g.components]
        if len(set(used)) < len(used) or min(used, default=0) < 0:
            checks.fail("groups", self.groups, "components >= 0, none twice")
        if any(not 1 <= len(g.components) <= g.latents for g in groups):
            checks.fail("groups", self.groups, "1 <= components <= latents in each group")
        if self.collapsed < 0 or self.num_latents == 0:
            checks.fail("collapsed", self.collapsed, "a number >= 0, and one latent at least")

    def __str__(self) -> str:
        parts = [f"{{{','.join(map(str, c))}}}:{m}" for c, m in self.groups]
        return " ".join(parts + [f"collapsed:{self.collapsed}"] * (self.collapsed > 0))

    @property
    def num_latents(self) -> int:
        """Number of latents k."""
        return self.collapsed + sum(g.latents for g in self.groups)

    @property
    def mixed(self) -> bool:
        """Whether some latents share components: a saddle that pPCA does not have."""
        return any(g.latents > 1 for g in self.groups)


def namespace(x: Any) -> Any:
    """Choose NumPy for its own arrays, else `jax.numpy`."""
    return np if isinstance(x, np.ndarray | np.generic) else jnp


def exists(lam: Any, m: int, tau: Any) -> Any:
    """Say whether m latents can share components with these eigenvalues, from large to small.

    √λ_r s > τ, s put in: m (τ − λ_r) < √λ_r Σ(√λ_i − √λ_r). With m = r equal eigenvalues
    the latents do not share: WᵀW is a multiple of I, and m groups of one describe the point.
    """
    root = namespace(lam).sqrt(lam)
    room = root[-1] * (root - root[-1]).sum() - m * (tau - lam[-1])
    return (room > 0) & ((lam[0] != lam[-1]) if m == len(lam) > 1 else True)


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class MixedPoint:
    """A `MixedPoint` stands for the stationary points of a type; `point` makes and checks it.

    It is a pytree, for jit and vmap, with the type as a static part. An orthogonal m × m matrix
    with Q as its first r rows takes a group's latents to r that sit on one component each and m − r
    *spare* ones, with zero weights. The Hessian falls into blocks in these coordinates, which the
    properties describe. Collapsed latents are spare, with s² = τ. Where a group does not exist at
    traced values, `s2` is NaN, and so is what follows from it.

    Attributes:
        eigenvalues: (n,), λ, of S, from large to small, with zeros of S as exact zeros.
        sigma2: (), noise variance σ².
        beta: (), weight β of the KL.
        point_type: groups, and the number of collapsed latents.
    """

    eigenvalues: Float[Any, "n"]
    sigma2: Float[Any, ""]
    beta: Float[Any, ""]
    point_type: PointType = field(metadata={"static": True})

    @property
    def tau(self) -> Any:
        """The noise level τ = βσ²."""
        return self.beta * self.sigma2

    @property
    def components(self) -> list[int]:
        """The r components in use, group by group."""
        return [i for g in self.point_type.groups for i in g.components]

    @property
    def group(self) -> Int[np.ndarray, "r"]:
        """(r,), the number of each used component's group."""
        groups = self.point_type.groups
        return np.repeat(np.arange(len(groups)), [len(g.components) for g in groups])

    @property
    def spare_group(self) -> Int[np.ndarray, "spare"]:
        """(k − r,), the number of each spare latent's group, −1 for collapsed ones."""
        spare = [g.latents - len(g.components) for g in self.point_type.groups]
        return np.repeat(np.arange(-1, len(spare)), [self.point_type.collapsed, *spare])

    @property
    def used(self) -> Float[Any, "r"]:
        """(r,), the eigenvalues in use, group by group."""
        return self.eigenvalues[np.array(self.components, int)]

    @property
    def unused(self) -> Float[Any, "unused"]:
        """(n − r,), the other eigenvalues."""
        return self.eigenvalues[np.delete(np.arange(len(self.eigenvalues)), self.components)]

    @property
    def exists(self) -> Any:
        """(), whether each group can share its components."""
        found: Any = True
        for g in self.point_type.groups:
            found &= exists(self.eigenvalues[np.array(g.components)], g.latents, self.tau)
        return found

    @property
    def group_s2(self) -> Float[Any, "groups"]:
        """(groups,), s²: the square of the positive root of m s² − s Σ√λ_i + (r − m) τ = 0."""
        xp, roots = namespace(self.eigenvalues), []
        for components, m in self.point_type.groups:
            total = xp.sqrt(self.eigenvalues[np.array(components)]).sum()
            free = m - len(components)
            roots.append((total + xp.sqrt(total**2 + 4 * m * free * self.tau)) / (2 * m))
        s2 = xp.square(xp.array(roots, dtype=self.eigenvalues.dtype))
        return xp.where(self.exists, s2, np.nan)

    @property
    def s2(self) -> Float[Any, "r"]:
        """(r,), s² of the used components' groups."""
        return self.group_s2[self.group]

    @property
    def spare_s2(self) -> Float[Any, "spare"]:
        """(k − r,), s² of the spare latents' groups."""
        return namespace(self.eigenvalues).append(self.group_s2, self.tau)[self.spare_group]

    @property
    def gamma(self) -> Float[Any, "r"]:
        """(r,), eigenvalues of W Wᵀ + τ: γ_i = a_i² + τ = √λ_i s."""
        return namespace(self.eigenvalues).sqrt(self.used * self.s2)

    @property
    def foreign(self) -> Bool[np.ndarray, "spare r"]:
        """(k − r, r), which spare latents and used components are of different groups."""
        return self.spare_group[:, None] != self.group


def read(eigenvalues: Any, sigma2: Any, beta: Any) -> tuple[Any, Any, Any]:
    """Read spectrum, σ² and β: in NumPy's float64 if they are known, else as JAX has them."""
    if checks.concrete(eigenvalues, sigma2, beta):
        values = arrays.host_spectrum("eigenvalues", eigenvalues)
        sigma2 = np.float64(checks.positive_scalar("sigma2", sigma2))
        beta = np.float64(checks.positive_scalar("beta", beta))
        zero = stationary.zeros_of_s(values, beta * sigma2)
        return np.where(zero, 0, values.astype(float)), sigma2, beta
    values = arrays.spectrum("eigenvalues", eigenvalues)
    sigma2 = jnp.asarray(checks.positive_scalar("sigma2", sigma2, values.dtype), values.dtype)
    beta = jnp.asarray(checks.positive_scalar("beta", beta, values.dtype), values.dtype)
    return jnp.where(stationary.zeros_of_s(values, beta * sigma2), 0, values), sigma2, beta


def point(
    eigenvalues: Float[Array, "n"] | Any, point_type: PointType, sigma2: Scalar, beta: Scalar = 1.0
) -> MixedPoint:
    """Make the stationary points of a type, from eigenvalues (n,) of S, from large to small.

    Raises:
        ValueError: a component ≥ n. Where the values are known also unsorted or negative
            eigenvalues, σ² or β ≤ 0, or a group that does not exist with this spectrum and noise.
    """
    found = MixedPoint(*read(eigenvalues, sigma2, beta), point_type)
    n = len(found.eigenvalues)
    if max(found.components, default=0) >= n:
        checks.fail("point_type", point_type, f"components 0 to {n - 1}")
    if checks.concrete(found.eigenvalues):
        for g in point_type.groups:
            if not exists(found.eigenvalues[np.array(g.components)], g.latents, found.tau):
                checks.fail(
                    "point_type",
                    f"{point_type} with group {g.components} on {g.latents} latents",
                    "a group that can share: m (σ² − λ_r) < √λ_r Σ(√λ_i − √λ_r), βσ² for σ²",
                    "`census.types` lists all that exist.",
                )
    return found


def value(point: MixedPoint) -> Float[Any, ""]:
    """Compute the β-ELBO at the points of a type, nats per datum.

    −(n/2) log 2πσ² − (β/2) [ Σ_used √λ_i/s + Σ_unused λ_i/(βσ²) + Σ_latents log(s²/(βσ²)) ]

    The value is exact. All n eigenvalues are needed, zeros included.
    """
    p, xp = point, namespace(point.eigenvalues)
    terms = (
        xp.sqrt(p.used / p.s2).sum()
        + p.unused.sum() / p.tau
        + xp.log(p.s2 / p.tau).sum()
        + xp.log(p.spare_s2 / p.tau).sum()
    )
    return -0.5 * (len(p.eigenvalues) * xp.log(2 * np.pi * p.sigma2) + p.beta * terms)


def inertia(point: MixedPoint) -> tuple[Any, Any]:
    """Count index and nullity of the Hessian in (W, V, log D) at the points of a type.

    Index: Σ (m − 1) over groups, the rotations that undo the sharing, and the positive ones among

    | kind of direction | sign of |
    | --- | --- |
    | a spare latent escapes along an unused component i | λ_i − σ⁴/s² |
    | an unused component i replaces the used component t | λ_i − λ_t |
    | a spare latent of group g moves into a component of group h ≠ g | s_g − s_h |
    | components i of group g and t of group h ≠ g change places | −(λ_i − λ_t)(s_g − s_h) |

    (τ for σ²). Nullity: the zeros among them, the dimensions r m − r (r + 1)/2 − (m − 1) of each
    group's family of Q, and k for each λ_i = 0, along which nothing depends on V.

    Returns:
        Exact and the same in every unit of the data, for repeated eigenvalues too. Ties are ties
        only if equal in floating point; where s_g = s_h by luck, another unit may round them. For
        the members of a family whose sharing falls apart (WᵀW block diagonal within a group,
        which needs a coincidence in the spectrum), the type of the parts applies.

    Source: own derivation, proved in landscape/README.md, 4.3; checked against dense Hessians.
    """
    p, xp = point, namespace(point.eigenvalues)
    used, s2, unused, spare_s2 = p.used, p.s2, p.unused, p.spare_s2
    pair = np.triu(p.group[:, None] != p.group)
    exchange = (used[:, None] - used) * (s2 - s2[:, None])
    sign = xp.concatenate(
        [
            # σ²(σ²/s²), not σ⁴/s²: rounds to σ² itself for a collapsed latent
            (unused[:, None] - p.tau * (p.tau / spare_s2)).ravel(),
            (unused[:, None] - used).ravel(),
            (spare_s2[:, None] - s2)[p.foreign],
            exchange[pair],
        ]
    )
    shapes = [(len(g.components), g.latents) for g in p.point_type.groups]
    unmixing = sum(m - 1 for _, m in shapes)
    family = sum(r * m - r * (r + 1) // 2 - (m - 1) for r, m in shapes)
    ignored = p.point_type.num_latents * (unused == 0).sum()
    positive, zero = unmixing + (sign > 0).sum(), family + ignored + (sign == 0).sum()
    return xp.where(p.exists, positive, 0), xp.where(p.exists, zero, 0)


def index(point: MixedPoint) -> Int[Any, ""]:
    """Count the escape directions: positive eigenvalues of the Hessian. See `inertia`."""
    return inertia(point)[0]


def sharing(squares: Float[Any, "r"], m: int) -> Float[Any, "r m"]:
    """Make a matrix Q with orthonormal rows and Σ_i a_i² Q_ij² the same for every column j.

    `squares` (r,) are the a_i², r ≤ m. This is the equal-diagonal case of Schur and Horn's theorem,
    by m − 1 plane rotations of diag(a², 0). Each rotation turns the coordinates with the largest
    and the smallest entry until the larger one is at the mean. That coordinate is then done. The
    others stay uncoupled, with the same mean. Qᵀ diag(a²) Q is not block diagonal, up to order,
    unless it is a multiple of I.
    """
    xp, place = namespace(squares), np.arange(m)
    d = xp.append(squares, xp.zeros(m - len(squares), squares.dtype))
    target = d.mean()
    tolerance = 100 * np.finfo(d.dtype).eps * m * d.max()
    Q = xp.eye(m, dtype=d.dtype)
    todo, low = place >= 0, 0
    for _ in range(m - 1):
        smallest = xp.argmin(xp.where(todo, d, np.inf))
        largest = xp.argmax(xp.where(todo, d, -np.inf))
        even = d[largest] - d[smallest] <= tolerance
        low = xp.where(even, low, smallest)
        # done by coincidence: any turn keeps the diagonal; couple the rest to the last one
        high = xp.where(even, xp.argmax(todo & (place != low)), largest)
        gap = xp.where(even, 1, d[high] - d[low])
        c2 = xp.where(even, 0.5, (target - d[low]) / gap)
        c, t = xp.sqrt(c2), xp.sqrt(1 - c2)
        turned = xp.stack([Q[:, high], Q[:, low]], axis=1) @ xp.stack(
            [xp.stack([c, -t]), xp.stack([t, c])]
        )
        is_high, is_low = place == high, place == low
        Q = xp.where(is_high, turned[:, :1], xp.where(is_low, turned[:, 1:], Q))
        moved = xp.where(is_high, target, xp.where(is_low, d[high] + d[low] - target, d))
        d = xp.where(even, d, moved)
        todo = todo & ~is_high
    return Q[: len(squares)]


@jax.jit
def _weights(
    eigenvectors: Array, components: Array, decoder: Array, encoder: Array
) -> tuple[Array, Array]:
    """Make W and V from their coordinates along some of the eigenvectors."""
    A = eigenvectors[:, components]
    return matmul(A, decoder), matmul(A, encoder).T


def params(point: MixedPoint, eigenvectors: Float[Array, "n m"] | Any) -> LinearVAEParams:
    """Give one linear VAE of a type: its latents group by group, then the collapsed ones.

    W = A diag(a) Q, V = Qᵀ diag(a/(a² + βσ²)) Aᵀ, D = βσ²/s², with A the group's eigenvectors and
    Q from `sharing`. The other VAEs of the type have another Q with the same property, or permuted
    latents.

    Arguments, result and errors are those of `stationary.params`. The dtype is that of the
    eigenvectors.
    """
    p, xp = point, namespace(point.eigenvalues)
    eigenvectors = arrays.as_float("eigenvectors", eigenvectors)
    checks.shape("eigenvectors", eigenvectors, ("n", len(p.eigenvalues)))
    k, dtype, gamma, group_s2 = p.point_type.num_latents, eigenvectors.dtype, p.gamma, p.group_s2
    a2, Q, s2, first = gamma - p.tau, [xp.zeros((0, k))], [], 0
    for g, (_, m) in enumerate(p.point_type.groups):
        Q.append(xp.pad(sharing(a2[p.group == g], m), ((0, 0), (first, k - first - m))))
        s2.append(xp.full(m, group_s2[g]))
        first += m
    a = xp.sqrt(a2)[:, None]
    decoder, encoder = (
        jnp.asarray(of * xp.concatenate(Q), dtype) for of in (a, a / gamma[:, None])
    )
    W, V = _weights(eigenvectors, jnp.array(p.components, int), decoder, encoder)
    s2 = xp.concatenate([*s2, xp.full(k - first, p.tau)])
    log_d, log_sigma2 = jnp.asarray(xp.log(p.tau / s2), dtype), jnp.asarray(p.sigma2, dtype)
    return LinearVAEParams(W, V, log_d, jnp.log(log_sigma2))
