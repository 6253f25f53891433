"""Mean and covariance: all that linear VAEs and pPCA need to know of the data.

The ELBO of a linear VAE depends on the data only through μ and S (see `linear.elbo_terms`), so one
pass over any number of points is enough. That pass can be streamed, in any order, and merged.

>>> import jax.numpy as jnp
>>> from linvae_jax import moments
>>> m = moments.from_data(jnp.array([[0.0, 0.0], [2.0, 2.0]]))
>>> m.cov.tolist()  # divided by N, the maximum-likelihood convention
[[1.0, 1.0], [1.0, 1.0]]
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linvae_jax import _checks
from linvae_jax._linalg import matmul


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Moments:
    """Sufficient statistics of a data set.

    Attributes:
        mean: (n,), μ, the data mean.
        cov: (n, n), S = (1/N) Σ (x−μ)(x−μ)ᵀ, divided by N; or (n,), its diagonal, when S is
            diagonal (see `in_eigenbasis`). Everything in this package takes both.
        count: (), the number of data points N, in the data's float type.
    """

    mean: Float[Array, "*batch n"]
    cov: Float[Array, "*batch n n"] | Float[Array, "*batch n"]
    count: Float[Array, "*batch"]


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Spectrum:
    """Eigendecomposition S = U diag(λ) Uᵀ.

    Attributes:
        eigenvalues: (m,), λ₁ ≥ … ≥ λₘ; m = n, or m = min(N, n) from `thin_spectrum`, the
            other n − m eigenvalues being zero.
        eigenvectors: (n, m), U, one eigenvector per column.
    """

    eigenvalues: Float[Array, "*batch m"]
    eigenvectors: Float[Array, "*batch n m"]


def _as_float(x: Any) -> Float[Array, "..."]:
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))


@jax.jit
def _of_chunk(x: Float[Array, "N n"]) -> Moments:
    mean = x.mean(axis=0)
    centred = x - mean
    cov = matmul(centred.T, centred) / x.shape[0]
    return Moments(mean, cov, jnp.asarray(x.shape[0], x.dtype))


def from_data(x: Any) -> Moments:
    """Mean and covariance of a data set that fits in memory.

    Args:
        x: (N, n), real; N ≥ 2, not constant. Integers become the default float type.

    Returns:
        `Moments` of n dimensions; `cov` is (n, n), divided by N.

    Raises:
        ValueError: x is not (N, n), holds NaN or Inf, has fewer than two rows, or is constant.
    """
    _checks.data_matrix("x", x)
    if np.shape(x)[0] < 2:
        _checks.fail("x", "one row (N = 1)", "at least two data points", "A covariance needs two.")
    return _checked(_of_chunk(_as_float(x)), "x")


def from_chunks(chunks: Iterable[Any]) -> Moments:
    """Mean and covariance of data that come in pieces, in any order, larger than memory.

    Args:
        chunks: arrays (N_i, n); a piece may hold a single row. Consumed once.

    Returns:
        The `Moments` of all rows together, equal to `from_data` up to rounding.

    Raises:
        ValueError: no piece, pieces of different n, NaN or Inf, one row in all, constant data.
    """
    total, rows = None, 0
    for i, chunk in enumerate(chunks):
        n = "n" if total is None else total.mean.shape[0]
        _checks.data_matrix(f"chunks[{i}]", chunk, n)
        rows += np.shape(chunk)[0]
        part = _of_chunk(_as_float(chunk))
        total = part if total is None else _merge(total, part)
    if total is None:
        _checks.fail("chunks", "no chunk at all", "at least one array (N_i, n)")
    if rows < 2:
        _checks.fail("chunks", "one row in all (N = 1)", "at least two data points")
    return _checked(total, "chunks")


def _checked(moments: Moments, name: str) -> Moments:
    # under jit this cannot be looked at: constant data shows as a covariance of rounding
    if _checks.concrete(moments.cov, moments.mean):
        cov, mean = np.asarray(moments.cov), np.asarray(moments.mean)
        rounding = 16 * np.finfo(mean.dtype).eps * np.abs(mean)
        if ((cov if cov.ndim == 1 else np.diag(cov)) <= rounding**2).all():
            _checks.fail(name, "constant data (every row the same)", "data that vary")
    return moments


@partial(jax.jit, donate_argnums=0)
def _merge(a: Moments, b: Moments) -> Moments:
    count = a.count + b.count
    weight = b.count / count
    delta = b.mean - a.mean
    cov = a.cov + weight * (b.cov - a.cov) + weight * (1 - weight) * jnp.outer(delta, delta)
    return Moments(a.mean + weight * delta, cov, count)


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of two data sets together (Chan, Golub and LeVeque 1979).

    Exact and independent of order, up to rounding.

    Args:
        a: moments with full (n, n) covariance.
        b: likewise, same n.

    Raises:
        ValueError: different n, a diagonal `cov` (two eigenbases are not one), or a population:
            its weight would be infinite.
    """
    check(a, "a")
    check(b, "b")
    for name, m in (("a.cov", a), ("b.cov", b)):
        _checks.shape(name, m.cov, (a.mean.shape[0], a.mean.shape[0]))
    for name, m in (("a.count", a), ("b.count", b)):
        _checks.finite(name, m.count)
    return _merge(jax.tree.map(jnp.array, a), b)  # a copy, since `_merge` donates its first


def from_covariance(cov: Any, mean: Any = None, count: float = float("inf")) -> Moments:
    """Moments of a distribution, or of data of which only the covariance is known.

    Args:
        cov: (n, n), symmetric positive semi-definite; or (n,), its diagonal.
        mean: (n,), zero by default.
        count: number of data points; infinite for a population.

    Raises:
        ValueError: not symmetric, indefinite, zero, NaN or Inf, or a mean of another length.
    """
    _checks.numeric("cov", cov)
    cov = _as_float(cov)
    n = cov.shape[0] if cov.ndim else 0
    mean = jnp.zeros(n, cov.dtype) if mean is None else jnp.asarray(mean, cov.dtype)
    result = Moments(mean, cov, jnp.asarray(count, cov.dtype))
    check(result)
    values = jnp.sort(cov)[::-1] if cov.ndim == 1 else jnp.linalg.eigvalsh(cov)[::-1]
    _checks.eigenvalues("cov", values)
    return _checked(result, "cov")


def check(moments: Moments, name: str = "moments") -> None:
    """Raise `ValueError` unless shapes agree, values are finite, `cov` symmetric, variances ≥ 0."""
    _checks.floating(f"{name}.mean", moments.mean)
    _checks.shape(f"{name}.mean", moments.mean, ("n",))
    _checks.finite(f"{name}.mean", moments.mean)
    n = moments.mean.shape[0]
    _checks.floating(f"{name}.cov", moments.cov)
    if jnp.ndim(moments.cov) == 1:
        _checks.shape(f"{name}.cov", moments.cov, (n,))
        _checks.finite(f"{name}.cov", moments.cov)
    else:
        _checks.shape(f"{name}.cov", moments.cov, (n, n))
        _checks.symmetric(f"{name}.cov", moments.cov)
    if _checks.concrete(moments.cov):
        # whether S is semi-definite takes an eigendecomposition: `from_covariance`, `spectrum`
        cov = np.asarray(moments.cov)  # NumPy, since JAX would trace known values too
        least = cov.min() if cov.ndim == 1 else np.diag(cov).min()
        if least < 0:
            _checks.fail(f"{name}.cov", f"a variance of {least:.3g}", "variances >= 0")


def trace(moments: Moments) -> Float[Array, ""]:
    """Total variance tr S."""
    return moments.cov.sum() if moments.cov.ndim == 1 else jnp.trace(moments.cov)


def cov_matmul(moments: Moments, right: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """S @ right, for a full or a diagonal covariance."""
    if moments.cov.ndim == 1:
        return moments.cov[:, None] * right
    return matmul(moments.cov, right)


def spectrum(moments: Moments) -> Spectrum:
    """Eigenvalues and eigenvectors of S, from large to small.

    Rounding leaves eigenvalues of a rank-deficient S slightly negative; they are set to zero.

    Raises:
        ValueError: S is not symmetric, or is indefinite beyond rounding.
    """
    check(moments)
    if moments.cov.ndim == 1:
        order = jnp.argsort(-moments.cov)
        values = moments.cov[order]
        vectors = jnp.eye(len(order), dtype=values.dtype)[:, order]
    else:
        values, vectors = jnp.linalg.eigh(moments.cov)
        values, vectors = values[::-1], vectors[:, ::-1]
    _checks.eigenvalues("moments.cov", values)
    return Spectrum(jnp.maximum(values, 0), vectors)


def thin_spectrum(x: Any) -> Spectrum:
    """The min(N, n) leading eigenpairs of S by a thin SVD of the data: no n × n object.

    Args:
        x: (N, n), as for `from_data`.

    Returns:
        `Spectrum` with m = min(N, n); the n − m eigenvalues left out are zero.

    Raises:
        ValueError: as `from_data`.
    """
    _checks.data_matrix("x", x)
    if np.shape(x)[0] < 2:
        _checks.fail("x", "one row (N = 1)", "at least two data points")
    x = _as_float(x)
    if _checks.concrete(x) and (np.asarray(x) == np.asarray(x)[0]).all():
        _checks.fail("x", "constant data (every row the same)", "data that vary")
    _, singular, vt = jnp.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    return Spectrum(singular**2 / x.shape[0], vt.T)


def in_eigenbasis(moments: Moments) -> tuple[Moments, Spectrum]:
    """Moments rotated so that S is diagonal, and the spectrum that rotates them.

    Whatever is not per-coordinate is unchanged by this rotation: ELBO, likelihood, gradient
    descent, Hessian spectra. Adam is per-coordinate: in the eigenbasis it is another optimiser.

    Returns:
        Moments with mean Uᵀμ and diagonal `cov` λ (n,), and the `Spectrum` (λ, U).
    """
    s = spectrum(moments)
    mean = matmul(s.eigenvectors.T, moments.mean)
    return Moments(mean, s.eigenvalues, moments.count), s
