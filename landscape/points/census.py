"""All stationary points of the linear VAE's ELBO at fixed noise, by type.

Beside the points that pPCA has (`stationary`) the ELBO has *mixed* ones: m latents share r ≤ m
principal components. A type says which groups of latents share which components and how many
latents are collapsed; value, index and nullity follow from it in closed form. Write
s² = ‖w_j‖² + σ², the same for all latents of a group; then (proof: landscape/README.md)

    m s² − s Σ√λ_i + (r − m) σ² = 0   has one positive root s, the sum over the group's components,
    W W^T u_i = a_i² u_i,             a_i² = √λ_i s − σ² > 0.

That condition lets a group use components with λ_i < σ², which no pPCA point can. With a KL
weight β, σ² becomes βσ² throughout. Types are few Python objects rather than arrays: everything
here but `representative` computes in NumPy float64.

>>> import jax.numpy as jnp
>>> from landscape.points import census
>>> lam = jnp.array([9.0, 2.0, 0.5])
>>> for t in census.types(lam, k=2, sigma2=1.0):
...     print(t, census.index(lam, t, 1.0))
{0}:1 {1}:1 0
{0}:1 collapsed:1 1
{0}:2 3
{0,1}:2 1
{0,2}:2 2
{1}:1 collapsed:1 2
{1}:2 3
collapsed:2 4
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from landscape.points import stationary
from linvae_jax._internal import arrays, checks
from linvae_jax._internal.linalg import matmul
from linvae_jax.linear import LinearVAEParams

Scalar = Float[Array, ""] | float


class Group(NamedTuple):
    """Latents that share components.

    Attributes:
        components: 0-based from the largest eigenvalue, increasing; r of them.
        latents: m ≥ r; m = r = 1 is a latent of its own on a component, as in pPCA.
    """

    components: tuple[int, ...]
    latents: int


@dataclass(frozen=True)
class PointType:
    """What kind of stationary point: its groups, and the number of collapsed latents.

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


@dataclass(frozen=True)
class Layout:
    """A stationary point after the latents of each group are rotated onto its components.

    An orthogonal m × m matrix with Q as its first r rows takes a group's latents to r that sit
    on one component each and m − r *spare* ones, with zero weights. The Hessian falls into blocks
    in these coordinates. Collapsed latents are spare, with s² = noise.

    Attributes:
        lam: (r,), eigenvalues in use, group by group.
        s2: (r,), s² of their groups.
        group: (r,), number of their groups.
        spare_s2: (k − r,), s² of the spare latents' groups.
        spare_group: (k − r,), number of their groups, −1 for collapsed latents.
        unused: (n − r,), the other eigenvalues.
        noise: βσ².
    """

    lam: Float[np.ndarray, "r"]
    s2: Float[np.ndarray, "r"]
    group: Int[np.ndarray, "r"]
    spare_s2: Float[np.ndarray, "spare"]
    spare_group: Int[np.ndarray, "spare"]
    unused: Float[np.ndarray, "unused"]
    noise: float

    @property
    def gamma(self) -> Float[np.ndarray, "r"]:
        """Eigenvalues of W Wᵀ + noise: γ_i = a_i² + noise = √λ_i s."""
        return np.sqrt(self.lam * self.s2)

    @property
    def foreign(self) -> Bool[np.ndarray, "spare r"]:
        """Which spare latents and components are of different groups."""
        return self.spare_group[:, None] != self.group


@dataclass(frozen=True)
class Census:
    """All types, with what is known of each.

    Attributes:
        types: the global maximum first, total collapse last.
        value: (types,), β-ELBO, nats per datum.
        gap: (types,), how far below the global maximum, nats per datum.
        index: (types,), escape directions.
        nullity: (types,), flat directions.
    """

    types: tuple[PointType, ...]
    value: Float[np.ndarray, "types"]
    gap: Float[np.ndarray, "types"]
    index: Int[np.ndarray, "types"]
    nullity: Int[np.ndarray, "types"]

    def count_by_index(self) -> dict[int, int]:
        """How many types have each index, from index 0 up."""
        return dict(sorted(Counter(self.index.tolist()).items()))


def _inputs(eigenvalues: Any, sigma2: Any, beta: Any) -> tuple[np.ndarray, float]:
    """λ in float64, with zeros of S set to zero, and the noise level βσ²."""
    values = arrays.host_spectrum("eigenvalues", eigenvalues)
    checks.positive_scalar("sigma2", sigma2)
    checks.positive_scalar("beta", beta)
    noise = float(beta) * float(sigma2)
    return np.where(stationary.zeros_of_s(values, noise), 0, values.astype(float)), noise


def _exists(lam: np.ndarray, m: int, noise: float) -> bool:
    """Whether m latents can share components with these eigenvalues, from large to small.

    √λ_r s > noise, s put in: m (noise − λ_r) < √λ_r Σ(√λ_i − √λ_r). With m = r equal eigenvalues
    the latents do not share: WᵀW is a multiple of I, and m groups of one describe the point.
    """
    root = np.sqrt(lam)
    room = root[-1] * (root - root[-1]).sum() - m * (noise - lam[-1])
    return bool(room > 0) and not (m == len(lam) > 1 and lam[0] == lam[-1])


def _s(lam: np.ndarray, m: int, noise: float) -> float:
    """The positive root of m s² − s Σ√λ_i + (r − m) noise = 0."""
    total = np.sqrt(lam).sum()
    return (total + np.sqrt(total**2 + 4 * m * (m - len(lam)) * noise)) / (2 * m)


def types(
    eigenvalues: Float[Array, "n"] | Any, k: int, sigma2: Scalar, beta: Scalar = 1.0
) -> Iterator[PointType]:
    """All types of stationary point, lazily: the global maximum first, total collapse last.

    Their number grows faster than exponentially in k (`count`). With repeated eigenvalues the
    points of several types can lie in one continuous family; each type is listed.

    Args:
        eigenvalues: (n,), of S, from large to small.
        k: number of latents.
        sigma2: noise variance, held fixed.
        beta: weight of the KL.

    Raises:
        ValueError: unsorted or negative eigenvalues, k > n, σ² or β ≤ 0 (at the call, not at the
            first item).

    Source: own derivation; proof that the list is complete: landscape/README.md, 4.2.
    """
    lam, noise = _inputs(eigenvalues, sigma2, beta)
    checks.in_range("k", k, 1, len(lam), "at most n components")

    def groups(first: int, others: tuple[int, ...], latents: int) -> Iterator[Group]:
        for r in range(1, latents + 1):
            for rest in combinations(others, r - 1):
                components = (first, *rest)
                for m in range(r, latents + 1):
                    if _exists(lam[list(components)], m, noise):
                        yield Group(components, m)

    def collections(components: tuple[int, ...], latents: int) -> Iterator[tuple[Group, ...]]:
        for place, first in enumerate(components):
            others = components[place + 1 :]
            for group in groups(first, others, latents):
                free = tuple(i for i in others if i not in group.components)
                for more in collections(free, latents - group.latents):
                    yield (group, *more)
        yield ()

    used = tuple(np.flatnonzero(lam > 0).tolist())
    return (PointType(g, k - sum(m for _, m in g)) for g in collections(used, k))


def count(eigenvalues: Float[Array, "n"] | Any, k: int, sigma2: Scalar, beta: Scalar = 1.0) -> int:
    """Number of `types`, by listing them."""
    return sum(1 for _ in types(eigenvalues, k, sigma2, beta))


def layout(
    eigenvalues: Float[Array, "n"] | Any, point_type: PointType, sigma2: Scalar, beta: Scalar = 1.0
) -> Layout:
    """The numbers that describe a type's points up to the sharing matrix Q: see `Layout`.

    Args:
        eigenvalues: (n,), of S, from large to small.
        point_type: which stationary point.
        sigma2: noise variance.
        beta: weight of the KL.

    Raises:
        ValueError: unsorted or negative eigenvalues, σ² or β ≤ 0, components ≥ n, or a group that
            does not exist with this spectrum and noise.
    """
    lam, noise = _inputs(eigenvalues, sigma2, beta)
    components = [list(g.components) for g in point_type.groups]
    if any(c[-1] >= len(lam) for c in components):
        checks.fail("point_type", point_type, f"components 0 to {len(lam) - 1}")
    scales = []
    for c, group in zip(components, point_type.groups, strict=True):
        if not _exists(lam[c], group.latents, noise):
            checks.fail(
                "point_type",
                f"{point_type} with group {group.components} on {group.latents} latents",
                "a group that can share: m (σ² − λ_r) < √λ_r Σ(√λ_i − √λ_r), βσ² for σ²",
                "`census.types` lists all that exist.",
            )
        scales.append(_s(lam[c], group.latents, noise))
    s2 = np.square(scales)
    group = np.repeat(np.arange(len(components)), [len(c) for c in components])
    spare = [g.latents - len(g.components) for g in point_type.groups]
    spare_group = np.repeat(np.arange(-1, len(spare)), [point_type.collapsed, *spare])
    order = [i for c in components for i in c]
    return Layout(
        lam=lam[order],
        s2=s2[group],
        group=group,
        spare_s2=np.append(s2, noise)[spare_group],
        spare_group=spare_group,
        unused=np.delete(lam, order),
        noise=noise,
    )


def value(
    eigenvalues: Float[Array, "n"] | Any, point_type: PointType, sigma2: Scalar, beta: Scalar = 1.0
) -> float:
    """β-ELBO at the points of a type, nats per datum.

    −(n/2) log 2πσ² − (β/2) [ Σ_used √λ_i/s + Σ_unused λ_i/(βσ²) + Σ_latents log(s²/(βσ²)) ]

    Exact. All n eigenvalues are needed, zeros included. Errors as `layout`.
    """
    p = layout(eigenvalues, point_type, sigma2, beta)
    terms = (
        np.sqrt(p.lam / p.s2).sum()
        + p.unused.sum() / p.noise
        + np.log(p.s2 / p.noise).sum()
        + np.log(p.spare_s2 / p.noise).sum()
    )
    n = len(p.lam) + len(p.unused)
    return float(-0.5 * (n * np.log(2 * np.pi * float(sigma2)) + float(beta) * terms))


def inertia(
    eigenvalues: Float[Array, "n"] | Any, point_type: PointType, sigma2: Scalar, beta: Scalar = 1.0
) -> tuple[int, int]:
    """Index and nullity of the Hessian in (W, V, log D) at the points of a type.

    Index: Σ (m − 1) over groups, the rotations that undo the sharing, and the positive ones among

    | kind of direction | sign of |
    | --- | --- |
    | a spare latent escapes along an unused component i | λ_i − σ⁴/s² |
    | an unused component i replaces the used component t | λ_i − λ_t |
    | a spare latent of group g moves into a component of group h ≠ g | s_g − s_h |
    | components i of group g and t of group h ≠ g change places | −(λ_i − λ_t)(s_g − s_h) |

    (βσ² for σ²). Nullity: the zeros among them, the dimensions r m − r (r + 1)/2 − (m − 1) of each
    group's family of Q, and k for each λ_i = 0, along which nothing depends on V.

    Args:
        eigenvalues: (n,), of S, from large to small.
        point_type: which stationary point.
        sigma2: noise variance, held fixed.
        beta: weight of the KL.

    Returns:
        Exact and the same in every unit of the data, for repeated eigenvalues too. Ties are ties
        only if equal in floating point; where s_g = s_h by luck, another unit may round them. For
        the members of a family whose sharing falls apart (WᵀW block diagonal within a group,
        which needs a coincidence in the spectrum), the type of the parts applies.

    Raises:
        ValueError: as `layout`.

    Source: own derivation, proved in landscape/README.md, 4.3; checked against dense Hessians.
    """
    p = layout(eigenvalues, point_type, sigma2, beta)
    pair = np.triu(p.group[:, None] != p.group)
    exchange = (p.lam[:, None] - p.lam) * (p.s2 - p.s2[:, None])
    sign = np.concatenate(
        [
            # σ²(σ²/s²), not σ⁴/s²: rounds to σ² itself for a collapsed latent
            (p.unused[:, None] - p.noise * (p.noise / p.spare_s2)).ravel(),
            (p.unused[:, None] - p.lam).ravel(),
            (p.spare_s2[:, None] - p.s2)[p.foreign],
            exchange[pair],
        ]
    )
    shapes = [(len(g.components), g.latents) for g in point_type.groups]
    unmixing = sum(m - 1 for _, m in shapes)
    family = sum(r * m - r * (r + 1) // 2 - (m - 1) for r, m in shapes)
    ignored = point_type.num_latents * int((p.unused == 0).sum())
    return unmixing + int((sign > 0).sum()), family + ignored + int((sign == 0).sum())


def index(
    eigenvalues: Float[Array, "n"] | Any, point_type: PointType, sigma2: Scalar, beta: Scalar = 1.0
) -> int:
    """Number of escape directions: positive eigenvalues of the Hessian. See `inertia`."""
    return inertia(eigenvalues, point_type, sigma2, beta)[0]


def table(
    eigenvalues: Float[Array, "n"] | Any, k: int, sigma2: Scalar, beta: Scalar = 1.0
) -> Census:
    """All types with value, gap to the optimum, index and nullity. Arguments as `types`."""
    listed = tuple(types(eigenvalues, k, sigma2, beta))
    values = np.array([value(eigenvalues, t, sigma2, beta) for t in listed])
    counts = np.array([inertia(eigenvalues, t, sigma2, beta) for t in listed])
    # the first type is the global maximum
    return Census(listed, values, values[0] - values, counts[:, 0], counts[:, 1])


def sharing(squares: Float[np.ndarray, "r"], m: int) -> Float[np.ndarray, "r m"]:
    """A matrix Q with orthonormal rows and Σ_i a_i² Q_ij² the same for every column j.

    The equal-diagonal case of Schur and Horn's theorem, by m − 1 plane rotations of diag(a², 0).
    Each turns the coordinates with the largest and the smallest entry until the larger one is at
    the mean, and done with; those not yet done stay uncoupled, with the same mean.

    Args:
        squares: (r,), a².
        m: number of columns, ≥ r.

    Returns:
        (r, m). Qᵀ diag(a²) Q is not block diagonal, up to order, unless it is a multiple of I.
    """
    d = np.append(squares, np.zeros(m - len(squares)))
    target = d.mean()
    tolerance = 100 * np.finfo(float).eps * m * d.max()
    Q = np.eye(m)
    todo = list(range(m))
    high = low = 0
    while len(todo) > 1:
        if np.ptp(d[todo]) > tolerance:
            high, low = max(todo, key=d.__getitem__), min(todo, key=d.__getitem__)
            c2 = (target - d[low]) / (d[high] - d[low])
            d[high], d[low] = target, d[high] + d[low] - target
        else:
            # done by coincidence: any turn keeps the diagonal; couple the rest to the last one
            high = next(j for j in todo if j != low)
            c2 = 0.5
        c, s = np.sqrt([c2, 1 - c2])
        Q[:, [high, low]] = Q[:, [high, low]] @ np.array([[c, -s], [s, c]])
        todo.remove(high)
    return Q[: len(squares)]


@jax.jit
def _weights(
    eigenvectors: Array, components: Array, decoder: Array, encoder: Array
) -> tuple[Array, Array]:
    """W and V from their coordinates along some of the eigenvectors."""
    A = eigenvectors[:, components]
    return matmul(A, decoder), matmul(A, encoder).T


def representative(
    eigenvectors: Float[Array, "n m"] | Any,
    eigenvalues: Float[Array, "m"] | Any,
    point_type: PointType,
    sigma2: Scalar,
    beta: Scalar = 1.0,
) -> LinearVAEParams:
    """One stationary point of a type: its latents group by group, then the collapsed ones.

    W = A diag(a) Q, V = Qᵀ diag(a/(a² + βσ²)) Aᵀ, D = βσ²/s², with A the group's eigenvectors and
    Q from `sharing`. The others of the type: all Q with the same property, and permuted latents.

    Args:
        eigenvectors: (n, m), the leading eigenvectors of S (m = n, or fewer for large n).
        eigenvalues: (m,).
        point_type: of k latents.
        sigma2: noise variance.
        beta: weight of the KL.

    Returns:
        `LinearVAEParams` of shape (n, k), in the dtype of the eigenvalues, where `linear.gradient`
        is zero in W, V and log D. Exact.

    Raises:
        ValueError: as `layout`, or eigenvectors that are not (n, m).
    """
    p = layout(eigenvalues, point_type, sigma2, beta)
    checks.shape("eigenvectors", eigenvectors, ("n", len(eigenvalues)))
    k, dtype = point_type.num_latents, eigenvalues.dtype
    Q = np.zeros((len(p.lam), k))
    s2 = np.full(k, p.noise)
    a2 = p.gamma - p.noise
    first = 0
    for g, group in enumerate(point_type.groups):
        rows, columns = p.group == g, slice(first, first + group.latents)
        Q[rows, columns] = sharing(a2[rows], group.latents)
        s2[columns] = p.s2[rows][0]
        first += group.latents
    a = np.sqrt(a2)[:, None]
    components = np.array([i for g in point_type.groups for i in g.components], int)
    decoder, encoder = ((of * Q).astype(dtype) for of in (a, a / p.gamma[:, None]))
    W, V = _weights(eigenvectors, components, decoder, encoder)
    return LinearVAEParams(
        W,
        V,
        jnp.asarray(np.log(p.noise / s2), dtype),
        jnp.log(jnp.asarray(sigma2, dtype)),
    )
