"""Stationary points of the linear VAE that pPCA has too: one component per latent, or none.

At noise σ² each stationary point of the pPCA likelihood puts some latents on principal
components, √(λ_i − σ²) u_i, and leaves the others at zero: posterior collapse. Which latent sits
where is an *assignment*: an integer array (k,), entry j the component of latent j (0-based, from
the largest eigenvalue), −1 where latent j is collapsed.

With a KL weight β, σ² becomes βσ² throughout (landscape/README.md, 1).

>>> import jax.numpy as jnp
>>> from landscape.points import stationary
>>> lam = jnp.array([4.0, 2.0, 0.5])
>>> [a.tolist() for a in stationary.points(lam, k=2, sigma2=1.0)]
[[0, 1], [0, -1], [1, -1], [-1, -1]]
>>> [int(stationary.index(lam, a, 1.0)) for a in stationary.points(lam, k=2, sigma2=1.0)]
[0, 1, 2, 4]
"""

from collections.abc import Iterator
from itertools import combinations
from math import comb
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from linvae_jax import ppca
from linvae_jax._internal import arrays, checks
from linvae_jax.linear import LinearVAEParams

Scalar = Float[Array, ""] | float


def _available(eigenvalues: Any, k: int, sigma2: Any, beta: Any) -> int:
    """Number of components with λ_i > βσ²."""
    lam = np.asarray(arrays.read_spectrum("eigenvalues", eigenvalues))
    checks.in_range("k", k, 1, len(lam), "at most n components")
    sigma2 = checks.positive_scalar("sigma2", sigma2, lam.dtype)
    beta = checks.positive_scalar("beta", beta, lam.dtype)
    return int(np.sum(lam > _noise(beta, sigma2, lam.dtype)))


def _noise(beta: Any, sigma2: Any, dtype: Any) -> Any:
    """βσ², rounded as formulas in that dtype do."""
    return np.asarray(beta, dtype) * np.asarray(sigma2, dtype)


# an eigensolver leaves 2 ε of λ₁ where S has a zero, whatever n is (n = 64 to 1000)
_ZERO = 10.0


def zeros_of_s(eigenvalues: Any, noise: Any) -> Any:
    """Which λ are zeros of S: at most 10 ε λ₁, which is rounding, and below the noise βσ².

    The answer is the same in every unit. A λ above the noise is never one, so that no latent and
    no way to escape is lost. The question is which λ are certainly rounding. Which are certainly
    not is another one, whose bound is n times larger (`linvae_jax.moments.rank`).

    Args:
        eigenvalues: (n,), of S, from large to small; of NumPy or JAX.
        noise: (), βσ².

    Returns:
        (n,), bool.
    """
    small = _ZERO * float(jnp.finfo(eigenvalues.dtype).eps) * eigenvalues[0]
    return (eigenvalues <= small) & (eigenvalues < noise)


def count(eigenvalues: Float[Array, "n"] | Any, k: int, sigma2: Scalar, beta: Scalar = 1.0) -> int:
    """Number of assignments that `points` yields: Σ_{r ≤ min(k, q)} C(q, r), q = #{λ_i > βσ²}."""
    q = _available(eigenvalues, k, sigma2, beta)
    return sum(comb(q, r) for r in range(min(k, q) + 1))


def points(
    eigenvalues: Float[Array, "n"] | Any, k: int, sigma2: Scalar, beta: Scalar = 1.0
) -> Iterator[np.ndarray]:
    """All pPCA stationary points, lazily, one assignment for each set of components in use.

    Latents are interchangeable, so of the assignments that differ by a permutation of latents
    the one with increasing components is given. Most components in use come first, so the first
    assignment is the global maximum and the last is total collapse.

    Args:
        eigenvalues: (n,), of S, from large to small.
        k: number of latents.
        sigma2: noise variance.
        beta: weight of the KL.

    Yields:
        Assignments: int arrays (k,). There are `count` of them, a combinatorial number.

    Raises:
        ValueError: unsorted or negative eigenvalues, k > n, σ² or β ≤ 0 (at the call, not at the
            first item).
    """
    q = _available(eigenvalues, k, sigma2, beta)

    def generate() -> Iterator[np.ndarray]:
        for r in range(min(k, q), -1, -1):
            for components in combinations(range(q), r):
                yield np.array(components + (-1,) * (k - r), dtype=np.int32)

    return generate()


def read(
    assignment: Any, eigenvalues: Any, sigma2: Any, beta: Any = 1.0
) -> tuple[Int[Array, "k"], Float[Array, "n"], Float[Array, ""], Float[Array, ""]]:
    """The four that say which point, as they come, made arrays of JAX: in that order.

    The spectrum's dtype is that of σ² and β too.

    Raises:
        ValueError: the assignment is none of this spectrum at this noise, or one of them is no
            real numbers, or beyond what JAX's float holds.
    """
    eigenvalues = arrays.read_spectrum("eigenvalues", eigenvalues)
    dtype = eigenvalues.dtype
    sigma2 = checks.positive_scalar("sigma2", sigma2, dtype)
    beta = checks.positive_scalar("beta", beta, dtype)
    a = checks.numbers("assignment", assignment)
    checks.shape("assignment", a, ("k",))
    if not jnp.issubdtype(a.dtype, jnp.integer):
        checks.fail("assignment", f"dtype {a.dtype}", "integers")
    _check_assignment(a, eigenvalues, sigma2, beta)
    noise, weight = jnp.asarray(sigma2, dtype), jnp.asarray(beta, dtype)
    return jnp.asarray(a), jnp.asarray(eigenvalues), noise, weight


def _check_assignment(assignment: Any, eigenvalues: Any, sigma2: Any, beta: Any) -> None:
    n = len(eigenvalues)
    checks.in_range("k", len(assignment), 1, n, "at most n components")
    if not checks.concrete(assignment, eigenvalues, sigma2, beta):
        return
    a = np.asarray(assignment)
    used = a[a >= 0]
    if (a < -1).any() or (a >= n).any():
        checks.fail("assignment", a.tolist(), f"components 0 to {n - 1}, or -1 for collapsed")
    if len(np.unique(used)) < len(used):
        checks.fail("assignment", a.tolist(), "no component twice")
    lam = np.asarray(eigenvalues)
    level = _noise(beta, sigma2, lam.dtype)
    small = used[lam[used] <= level]
    if len(small):
        i = int(small[0])
        checks.fail(
            "assignment",
            f"component {i} with eigenvalue {float(lam[i]):.6g}",
            f"eigenvalues > beta * sigma2 = {float(level):.6g}",
            "Below that level there is no such stationary point: the latent is collapsed (-1).",
        )


def _levels(
    eigenvalues: Array, assignment: Array, sigma2: Scalar, beta: Scalar
) -> tuple[Array, Array]:
    """βσ², and λ of each latent's component: βσ² where collapsed, NaN where that is no point."""
    dtype = eigenvalues.dtype
    noise = jnp.asarray(beta, dtype) * jnp.asarray(sigma2, dtype)
    lam = eigenvalues.at[assignment].get(mode="fill", fill_value=jnp.nan)
    return noise, jnp.where(assignment < 0, noise, jnp.where(lam > noise, lam, jnp.nan))


@jax.jit
def _point(
    eigenvectors: Array, eigenvalues: Array, assignment: Array, sigma2: Scalar, beta: Scalar
) -> LinearVAEParams:
    noise, lam = _levels(eigenvalues, assignment, sigma2, beta)
    W = ppca.principal_weights(eigenvectors[:, assignment], lam, noise)
    W = jnp.where(jnp.isnan(lam), jnp.nan, W)
    return LinearVAEParams(
        W, (W / lam).T, jnp.log(noise / lam), jnp.log(jnp.asarray(sigma2, eigenvalues.dtype))
    )


def point(
    eigenvectors: Float[Array, "n m"] | Any,
    eigenvalues: Float[Array, "m"] | Any,
    assignment: Int[Array, "k"] | Any,
    sigma2: Scalar,
    beta: Scalar = 1.0,
) -> LinearVAEParams:
    """The stationary point of an assignment.

    Active latent j on component i: w_j = √(λ_i − βσ²) u_i, v_j = w_j/λ_i, D_j = βσ²/λ_i.
    Collapsed latent: w_j = v_j = 0, D_j = 1.

    Args:
        eigenvectors: (n, m), the leading eigenvectors of S (m = n, or fewer for large n).
        eigenvalues: (m,).
        assignment: (k,) int.
        sigma2: noise variance.
        beta: weight of the KL.

    Returns:
        `LinearVAEParams` of shape (n, k), where `linear.gradient` is zero in W, V and log D. Exact.

    Raises:
        ValueError: a component repeated, out of range, or with λ_i ≤ βσ².
    """
    a, lam, sigma2, beta = read(assignment, eigenvalues, sigma2, beta)
    eigenvectors = arrays.as_float("eigenvectors", eigenvectors)
    checks.shape("eigenvectors", eigenvectors, ("n", len(lam)))
    return _point(eigenvectors, lam, a, sigma2, beta)


def _in_use(assignment: Array, n: int) -> Array:
    """(n,) bool: which components have a latent."""
    return (assignment[:, None] == jnp.arange(n)).any(axis=0)


@jax.jit
def _value(eigenvalues: Array, assignment: Array, sigma2: Scalar, beta: Scalar) -> Float[Array, ""]:
    active = _in_use(assignment, len(eigenvalues))
    _, lam = _levels(eigenvalues, assignment, sigma2, beta)
    value = ppca.elbo_with_components(eigenvalues, active, sigma2, beta)
    return jnp.where(jnp.isnan(lam).any(), jnp.nan, value)


def value(
    eigenvalues: Float[Array, "n"] | Any,
    assignment: Int[Array, "k"] | Any,
    sigma2: Scalar,
    beta: Scalar = 1.0,
) -> Float[Array, ""]:
    """β-ELBO at the point of an assignment, nats per datum; for β = 1 also its log-likelihood.

    Exact. All n eigenvalues are needed, zeros included. Errors as `point`.
    """
    a, lam, sigma2, beta = read(assignment, eigenvalues, sigma2, beta)
    return _value(lam, a, sigma2, beta)


@jax.jit
def _index(eigenvalues: Array, assignment: Array, sigma2: Scalar, beta: Scalar) -> Int[Array, ""]:
    unused = ~_in_use(assignment, len(eigenvalues))
    _, level = _levels(eigenvalues, assignment, sigma2, beta)
    return jnp.sum(unused & (eigenvalues > level[:, None]))


def index(
    eigenvalues: Float[Array, "n"] | Any,
    assignment: Int[Array, "k"] | Any,
    sigma2: Scalar,
    beta: Scalar = 1.0,
) -> Int[Array, ""]:
    """Number of escape directions: positive eigenvalues of the Hessian in (W, V, log D).

    (k − r) #{i unused: λ_i > βσ²} + Σ_{t in use} #{i unused: λ_i > λ_t}: collapsed latents that
    can escape, and active latents on too small a component.

    Args:
        eigenvalues: (n,), from large to small.
        assignment: (k,) int.
        sigma2: noise variance, held fixed.
        beta: weight of the KL.

    Returns:
        () int. Exact for eigenvalues distinct from each other and from βσ²; directions along
        ties are flat and not counted.

    Raises:
        ValueError: as `point`.

    Source: landscape/README.md, 2; own derivation, checked against dense Hessians in the tests.
    """
    a, lam, sigma2, beta = read(assignment, eigenvalues, sigma2, beta)
    return _index(lam, a, sigma2, beta)
