"""Stationary points of the linear VAE that pPCA has too: one component per latent, or none.

At noise σ² each stationary point of the pPCA likelihood puts some latents on principal
components, √(λ_i − σ²) u_i, and leaves the others at zero: posterior collapse. An *assignment* says
which latent sits where. It is an integer array (k,). Entry j is the component of latent j, counted
from 0 at the largest eigenvalue, or −1 where latent j is collapsed. The other latents are *active*.
`point` checks an assignment, a spectrum, σ² and β once, and makes a `Point`, which every function
on a point takes.

With a KL weight β, τ = βσ² takes the place of σ² (landscape/README.md, 1).

For all functions here, eigenvalues (n,) are those of S, from large to small, and 1 ≤ k ≤ n. A
`ValueError` is raised where eigenvalues are unsorted or negative, k > n, or σ² or β ≤ 0. Values
that JAX traces cannot be checked.

>>> import jax.numpy as jnp
>>> from landscape.points import stationary
>>> lam = jnp.array([4.0, 2.0, 0.5])
>>> [a.tolist() for a in stationary.assignments(lam, k=2, sigma2=1.0)]
[[0, 1], [0, -1], [1, -1], [-1, -1]]
>>> points = [stationary.point(lam, a, 1.0) for a in stationary.assignments(lam, 2, 1.0)]
>>> [int(stationary.index(p)) for p in points]
[0, 1, 2, 4]
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from math import comb
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from linvae_jax import ppca
from linvae_jax._internal import arrays, checks
from linvae_jax._internal.arrays import Scalar
from linvae_jax.linear import LinearVAEParams

# an eigensolver leaves 2 ε of λ₁ where S has a zero, whatever n is (n = 64 to 1000)
_ZERO = 10.0


def zeros_of_s(eigenvalues: Any, tau: Any) -> Any:
    """Mark the λ that are zeros of S: at most 10 ε λ₁, which is rounding, and below τ = βσ².

    The answer is a bool array (n,), of NumPy or JAX as λ is, and the same in every unit. A λ above
    τ is never marked, so that no latent and no way to escape is lost. Marked are the λ that are
    certainly rounding. `linvae_jax.moments.rank` counts those that certainly are not, by a bound n
    times larger.
    """
    small = _ZERO * float(jnp.finfo(eigenvalues.dtype).eps) * eigenvalues[0]
    return (eigenvalues <= small) & (eigenvalues < tau)


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Point:
    """A `Point` is a stationary point that pPCA has too; `point` makes and checks it.

    It is a pytree, for jit and vmap. The properties are of one point, not of a batch. Where traced
    values are no stationary point (a component with λ ≤ τ, out of range, or taken twice), `levels`
    and `widths` are NaN for that latent, and so is what follows from them.

    Attributes:
        eigenvalues: (n,), λ, of S, from large to small.
        assignment: (k,) int, the component of each latent, −1 if collapsed.
        sigma2: (), noise variance σ².
        beta: (), weight β of the KL.
        unit: (), a variance in which curvatures are given: W is measured in its root, V in one
            over its root. 1 is the data's own unit; see `unit_free`.
        tau: (), the noise level τ = βσ², rounded once, so that λ = τ means the same everywhere.
        lam: (n,), λ with exact zeros where S has zeros: rounding leaves them off, on either side.
        owners: (n,) int, the latent on each component; k where it is unused.
        levels: (k,), ℓ_j: λ of each latent's component, τ where it is collapsed.
        widths: (k,), w_j = √(ℓ_j − τ): the norms of the columns of W.
    """

    eigenvalues: Float[Array, "*batch n"]
    assignment: Int[Array, "*batch k"]
    sigma2: Float[Array, "*batch"]
    beta: Float[Array, "*batch"]
    unit: Float[Array, "*batch"]
    # what follows from the others: kept, because programs are traced and compiled faster so
    tau: Float[Array, "*batch"]
    lam: Float[Array, "*batch n"]
    owners: Int[Array, "*batch n"]
    levels: Float[Array, "*batch k"]
    widths: Float[Array, "*batch k"]

    @property
    def n(self) -> int:
        """Number of components."""
        return self.eigenvalues.shape[-1]

    @property
    def k(self) -> int:
        """Number of latents."""
        return self.assignment.shape[-1]

    @property
    def active(self) -> Bool[Array, "k"]:
        """Which latents sit on a component."""
        return self.assignment >= 0

    @property
    def used(self) -> Bool[Array, "n"]:
        """Which components have a latent."""
        return self.owners < self.k


@jax.jit
def unchecked(eigenvalues: Array, assignment: Array, sigma2: Array, beta: Array) -> Point:
    """Make a point of arrays that are read and checked already, or traced."""
    n, k, tau = eigenvalues.shape[0], assignment.shape[0], beta * sigma2
    lam = jnp.where(zeros_of_s(eigenvalues, tau), 0, eigenvalues)
    active = assignment >= 0
    place = jnp.where(active, assignment, n)
    owners = jnp.full(n, k).at[place].set(jnp.arange(k), mode="drop")
    own = eigenvalues.at[assignment].get(mode="fill", fill_value=jnp.nan)
    mine = owners.at[assignment].get(mode="fill", fill_value=k) == jnp.arange(k)
    levels = jnp.where(active, jnp.where(mine & (own > tau), own, jnp.nan), tau)
    # the inner where keeps the gradient of the square root finite at zero
    widths = jnp.where(active, jnp.sqrt(jnp.where(active, levels - tau, 1)), 0)
    unit = jnp.ones_like(sigma2)
    return Point(eigenvalues, assignment, sigma2, beta, unit, tau, lam, owners, levels, widths)


def unit_free(point: Point) -> Point:
    """Give the same point with the curvatures of the data x/√λ₁, whose largest variance is one.

    λ₁ is known of thin spectra too; dividing σ² and λ by it would round ties away, so it is kept
    as the unit.
    """
    return replace(point, unit=point.lam[0])


def _numbers(eigenvalues: Any, sigma2: Any, beta: Any) -> tuple[Any, Any, Any]:
    """Check the spectrum, σ² and β as they come; the last two fit the spectrum's dtype."""
    lam = arrays.read_spectrum("eigenvalues", eigenvalues)
    sigma2 = checks.positive_scalar("sigma2", sigma2, lam.dtype)
    return lam, sigma2, checks.positive_scalar("beta", beta, lam.dtype)


def _tau(beta: Any, sigma2: Any, dtype: Any) -> Any:
    """Multiply known numbers to βσ², rounded as `Point.tau`."""
    return np.asarray(beta, dtype) * np.asarray(sigma2, dtype)


def read_pattern(assignment: Any, n: int) -> Any:
    """Check an assignment of n components, a point's at some σ²; it is not yet on a device.

    Raises:
        ValueError: no integers (k,), k > n, a component twice or out of range.
    """
    a = checks.numbers("assignment", assignment)
    checks.shape("assignment", a, ("k",))
    if not jnp.issubdtype(a.dtype, jnp.integer):
        checks.fail("assignment", f"dtype {a.dtype}", "integers")
    checks.in_range("k", len(a), 1, n, "at most n components")
    if checks.concrete(a):
        known = np.asarray(a)
        used = known[known >= 0]
        if (known < -1).any() or (known >= n).any():
            checks.fail(
                "assignment", known.tolist(), f"components 0 to {n - 1}, or -1 for collapsed"
            )
        if len(np.unique(used)) < len(used):
            checks.fail("assignment", known.tolist(), "no component twice")
    return a


def point(
    eigenvalues: Float[Array, "n"] | Any,
    assignment: Int[Array, "k"] | Any,
    sigma2: Scalar,
    beta: Scalar = 1.0,
) -> Point:
    """Make the stationary point of an assignment, in the dtype of the eigenvalues.

    Raises:
        ValueError: no integers (k,); a component repeated, out of range, or with λ_i ≤ βσ²; no
            real numbers, or beyond what JAX's float holds; and as the module says.
    """
    lam, sigma2, beta = _numbers(eigenvalues, sigma2, beta)
    a = read_pattern(assignment, len(lam))
    if checks.concrete(a, lam, sigma2, beta):
        known, tau = np.asarray(lam), _tau(beta, sigma2, lam.dtype)
        used = np.asarray(a)[np.asarray(a) >= 0]
        small = used[known[used] <= tau]
        if len(small):
            i = int(small[0])
            checks.fail(
                "assignment",
                f"component {i} with eigenvalue {float(known[i]):.6g}",
                f"eigenvalues > beta * sigma2 = {float(tau):.6g}",
                "Below that level there is no such stationary point: the latent is collapsed (-1).",
            )
    sigma2, beta = jnp.asarray(sigma2, lam.dtype), jnp.asarray(beta, lam.dtype)
    return unchecked(jnp.asarray(lam), jnp.asarray(a), sigma2, beta)


def _available(eigenvalues: Any, k: int, sigma2: Any, beta: Any) -> int:
    """Count the components with λ_i > βσ²."""
    lam, sigma2, beta = _numbers(eigenvalues, sigma2, beta)
    checks.in_range("k", k, 1, len(lam), "at most n components")
    return int(np.sum(np.asarray(lam) > _tau(beta, sigma2, lam.dtype)))


def count(eigenvalues: Float[Array, "n"] | Any, k: int, sigma2: Scalar, beta: Scalar = 1.0) -> int:
    """Count the `assignments`: Σ_{r ≤ min(k, q)} C(q, r), q = #{λ_i > βσ²}."""
    q = _available(eigenvalues, k, sigma2, beta)
    return sum(comb(q, r) for r in range(min(k, q) + 1))


def assignments(
    eigenvalues: Float[Array, "n"] | Any, k: int, sigma2: Scalar, beta: Scalar = 1.0
) -> Iterator[np.ndarray]:
    """List all pPCA stationary points, lazily: one assignment for each set of components in use.

    Latents are interchangeable, so of the assignments that differ by a permutation of latents
    the one with increasing components is given. Most components in use come first, so the first
    assignment is the global maximum and the last is total collapse. Errors are raised at the call,
    not at the first item.

    Yields:
        Int arrays (k,). There are `count` of them, a combinatorial number.
    """
    q = _available(eigenvalues, k, sigma2, beta)

    def generate() -> Iterator[np.ndarray]:
        for r in range(min(k, q), -1, -1):
            for components in combinations(range(q), r):
                yield np.array(components + (-1,) * (k - r), dtype=np.int32)

    return generate()


@jax.jit
def _params(point: Point, eigenvectors: Array) -> LinearVAEParams:
    # not √(ℓ − τ) once more: compiled with other rounding, ℓ − τ of a collapsed latent is not zero
    W, log_d = eigenvectors[:, point.assignment] * point.widths, jnp.log(point.tau / point.levels)
    return LinearVAEParams(W, (W / point.levels).T, log_d, jnp.log(point.sigma2))


def params(point: Point, eigenvectors: Float[Array, "n m"] | Any) -> LinearVAEParams:
    """Give the linear VAE at a stationary point.

    An active latent j on component i has w_j = √(λ_i − βσ²) u_i, v_j = w_j/λ_i, D_j = βσ²/λ_i. A
    collapsed latent has w_j = v_j = 0, D_j = 1.

    Args:
        point: with m eigenvalues.
        eigenvectors: (n, m), the leading eigenvectors of S (m = n, or fewer for large n).

    Returns:
        Exact `LinearVAEParams` of shape (n, k), where `linear.gradient` is zero in W, V and log D.

    Raises:
        ValueError: eigenvectors that are not (n, m).
    """
    eigenvectors = arrays.as_float("eigenvectors", eigenvectors)
    checks.shape("eigenvectors", eigenvectors, ("n", point.n))
    return _params(point, eigenvectors)


@jax.jit
def value(point: Point) -> Float[Array, ""]:
    """Compute the β-ELBO at a point, nats per datum; for β = 1 it is the log-likelihood too.

    The value is exact. All n eigenvalues are needed, zeros included.
    """
    found = ppca.elbo_with_components(point.eigenvalues, point.used, point.sigma2, point.beta)
    return jnp.where(jnp.isnan(point.levels).any(), jnp.nan, found)


@jax.jit
def index(point: Point) -> Int[Array, ""]:
    """Count the escape directions: positive eigenvalues of the Hessian in (W, V, log D).

    (k − r) #{i unused: λ_i > βσ²} + Σ_{t in use} #{i unused: λ_i > λ_t}: collapsed latents that
    can escape, and active latents on too small a component.

    Returns:
        () int, with σ² held. It is exact for eigenvalues distinct from each other and from βσ²;
        directions along ties are flat and not counted.

    Source: landscape/README.md, 2; own derivation, checked against dense Hessians in the tests.
    """
    return jnp.sum(~point.used & (point.eigenvalues > point.levels[:, None]))
