"""Mean and covariance are all that linear VAEs and pPCA need to know of the data.

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
from jaxtyping import Array, Float, Int

from linvae_jax._internal import arrays, checks, covariance
from linvae_jax._internal.arrays import Scalar
from linvae_jax._internal.linalg import matmul


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """Moments are the sufficient statistics of a data set.

    Attributes:
        mean: (n,), μ, the data mean.
        cov: (n, n), S = (1/N) Σ (x−μ)(x−μ)ᵀ; or (n,), its diagonal, when S is diagonal (see
            `in_eigenbasis`). Everything in this package takes both.
        count: (), the number of data points N, in the data's float type.
    """

    mean: Float[Array, "*batch n"]
    cov: Float[Array, "*batch n n"] | Float[Array, "*batch n"]
    count: Float[Array, "*batch"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Spectrum:
    """A spectrum is the eigendecomposition S = U diag(λ) Uᵀ.

    Attributes:
        eigenvalues: (m,), λ₁ ≥ … ≥ λₘ; m = n, or m = min(N, n) from `thin_spectrum`, the
            other n − m eigenvalues being zero.
        eigenvectors: (n, m), U, one eigenvector per column.
    """

    eigenvalues: Float[Array, "*batch m"]
    eigenvectors: Float[Array, "*batch n m"]


@jax.jit
def _of_chunk(x: Float[Array, "N n"]) -> Moments:
    mean, centred, scale = _standardised(x)
    cov = matmul(centred.T, centred) / x.shape[0] * scale * scale
    return Moments(mean, cov, jnp.asarray(x.shape[0], x.dtype))


def _standardised(x: Float[Array, "N n"]) -> tuple[Array, Array, Array]:
    """Return the mean (n,), rows less the mean over a scale, and that scale ().

    Any shift and any scale give the same moments, so neither has a derivative. Twice centred, a
    sum's rounding is that of numbers as small as their spread. Kept between least and largest, the
    first mean of equal numbers is that number. The scale is a power of two, which rounds nothing;
    without it squares would underflow whose covariance does not.
    """
    low, high = x.min(axis=0), x.max(axis=0)
    shift = jax.lax.stop_gradient(jnp.clip(x.mean(axis=0), low, high))
    spread = jax.lax.stop_gradient((high - low).max())
    exponent = 8 if x.dtype == jnp.float32 else 11
    scale = jax.lax.reduce_precision(jnp.where(spread > 0, spread, 1), exponent, 0)
    near = x - shift
    rest = near.mean(axis=0)
    return shift + rest, (near - rest) / scale, scale


def _on_host(name: str, x: Any, shift: Any = 0.0) -> Moments:
    """Compute the moments of known rows less a shift, by BLAS."""
    x, dtype = np.asarray(x), arrays.float_dtype(x.dtype)
    mean, cov = covariance.of_rows(name, x, dtype)
    # unlike `asarray`, compiles nothing; nobody else has these arrays
    mean, cov = jax.device_put(((mean - shift).astype(dtype), cov.astype(dtype)))
    return Moments(mean, cov, jnp.asarray(len(x), dtype))


def _shifted(moments: Moments, shift: Any) -> Moments:
    """Add a shift to the mean again, on the host where its value is known."""
    if not checks.concrete(moments.mean, shift):
        return Moments(shift + moments.mean, moments.cov, moments.count)
    mean = np.asarray(shift) + np.asarray(moments.mean)
    return Moments(jnp.asarray(mean, moments.mean.dtype), moments.cov, moments.count)


def from_data(x: Any) -> Moments:
    """Compute mean and covariance of a data set that fits in memory.

    The data are centred in the precision that they come in: also without `jax_enable_x64` the
    covariance of float64 data has all the digits of float32, however far they are from zero. The
    mean itself is rounded to float32 there. Where that matters, take a constant off the data.

    Args:
        x: (N, n), real; N ≥ 2, not constant. An array, or what NumPy makes one of: lists, tables.
            float32 and float64 stay what they are, as far as JAX has them; narrower floats become
            float32, integers and long double the default float type.

    Returns:
        `Moments` of n dimensions; `cov` is (n, n), divided by N, accurate relative to the largest
        variance.

    Raises:
        ValueError: x is not (N, n), holds NaN or Inf or anything but real numbers, has fewer than
            two rows, is constant, or has variances beyond the range of its float type (in float32
            standard deviations below 3e-16 or above 6e15). Inside a transformation the
            covariance of the last two is NaN.
    """
    x = _several("x", x)
    if checks.concrete(x):
        _check_varies("x", arrays.vary(x))
        if arrays.on_host(x):
            return _checked(_on_host("x", x), "x")
        checks.finite("x", x)
        if arrays.rounds(x):
            shift = arrays.centre(x)
            return _checked(_shifted(_of_chunk(arrays.less("x", x, shift)), shift), "x")
    return _checked(_of_chunk(arrays.as_float("x", x)), "x")


def _several(name: str, x: Any) -> Any:
    """Refuse data of less than two rows; NaN and Inf pass."""
    x = checks.numbers(name, x)
    checks.shape(name, x, ("N", "n"))
    if x.shape[0] < 2:
        checks.fail(name, "one row (N = 1)", "at least two data points", "A covariance needs two.")
    return x


def _check_varies(name: str, varies: bool) -> None:
    if not varies:
        checks.fail(name, "constant data (every row the same)", "data that vary")


def from_chunks(chunks: Iterable[Any], name: str = "chunks", piece: str = "chunks[{}]") -> Moments:
    """Compute mean and covariance of data that come in pieces, in any order, larger than memory.

    Each of the `chunks` is an array (N_i, n) of one row or more. They are consumed once. The
    moments of all rows together equal those of `from_data` up to rounding. Messages call the data
    `name`, and a piece `piece`, with its number for {}.

    Raises:
        ValueError: no piece, pieces of different n, and as `from_data` for all rows together.
    """
    total, rows, varies, shift, first = None, 0, False, None, None
    for i, chunk in enumerate(chunks):
        n = "n" if total is None else total.mean.shape[0]
        each = piece.format(i)
        x = checks.data_matrix(each, chunk, n)
        known = checks.concrete(x)
        if shift is None:  # all pieces are seen from one place, or their means would be rounded
            shift = arrays.centre(x) if known else x.mean(axis=0)
            first = x[:1]
        if known and checks.concrete(first) and not varies:
            varies = arrays.vary(x) or bool((np.asarray(x[:1]) != np.asarray(first)).any())
        else:
            varies = True  # nobody can look
        rows += x.shape[0]
        if arrays.on_host(x) and not isinstance(shift, jax.Array):
            part = _on_host(each, x, shift)
        else:
            part = _of_chunk(arrays.less(each, x, shift, arrays.float_dtype(x.dtype)))
        total = part if total is None else _merge(total, part)
    if total is None:
        checks.fail(name, "no chunk at all", "at least one array (N_i, n)")
    if rows < 2:
        checks.fail(name, "one row in all (N = 1)", "at least two data points")
    _check_varies(name, varies)
    return _checked(_shifted(total, shift), name)


def _checked(moments: Moments, name: str) -> Moments:
    cov = moments.cov
    if checks.concrete(cov):
        values = np.asarray(cov)
        # NaN is between no limits
        arrays.check_scale(name, (values if values.ndim == 1 else np.diag(values)).max(), cov.dtype)
        return moments
    least, most = arrays.variance_range(cov.dtype)
    largest = (cov if cov.ndim == 1 else jnp.diag(cov)).max()
    known = (least <= largest) & (largest <= most)
    return Moments(moments.mean, jnp.where(known, cov, jnp.nan), moments.count)


@partial(jax.jit, donate_argnums=0)
def _merge(a: Moments, b: Moments) -> Moments:
    count = a.count + b.count
    weight = b.count / count
    delta = b.mean - a.mean
    cov = a.cov + weight * (b.cov - a.cov) + weight * (1 - weight) * jnp.outer(delta, delta)
    return Moments(a.mean + weight * delta, cov, count)


def merge(a: Moments, b: Moments) -> Moments:
    """Combine the moments of two data sets, exactly and in any order up to rounding.

    Raises:
        ValueError: different n, a diagonal `cov` (two eigenbases are not one), or a population:
            its weight would be infinite.

    Source: Chan, Golub and LeVeque 1979.
    """
    for name, m in (("a", a), ("b", b)):
        check(m, name)
        checks.shape(f"{name}.cov", m.cov, (a.mean.shape[0], a.mean.shape[0]))
        checks.finite(f"{name}.count", m.count)
    return _merge(jax.tree.map(jnp.array, a), b)  # a copy, since `_merge` donates its first


@jax.jit
def _variances(cov: Array) -> Array:
    """Return the eigenvalues of a covariance or of its diagonal, from large to small."""
    return (jnp.sort(cov) if cov.ndim == 1 else jnp.linalg.eigvalsh(cov))[::-1]


@jax.jit
def _decomposed(cov: Array) -> tuple[Array, Array]:
    """Return these eigenvalues and their eigenvectors."""
    if cov.ndim == 1:
        order = jnp.argsort(-cov)
        return cov[order], jnp.eye(len(order), dtype=cov.dtype)[:, order]
    values, vectors = jnp.linalg.eigh(cov)
    return values[::-1], vectors[:, ::-1]


def from_covariance(cov: Any, mean: Any = None, count: float = float("inf")) -> Moments:
    """Make the moments of a distribution, or of data of which only the covariance is known.

    `cov` is (n, n), or (n,) its diagonal. `mean` is (n,), zero by default. `count` is the number of
    data N, infinite for a population.

    Raises:
        ValueError: not symmetric, indefinite, zero, NaN or Inf, or a mean of another length.
    """
    cov = arrays.as_float("cov", cov)
    mean = jnp.zeros(cov.shape[:1], cov.dtype) if mean is None else arrays.as_float("mean", mean)
    checks.numbers("count", count)
    result = Moments(mean.astype(cov.dtype), cov, jnp.asarray(count, cov.dtype))
    _check(result, "mean", "cov")
    values = _variances(cov)
    checks.eigenvalues("cov", values)
    if checks.concrete(values) and not np.asarray(values)[0] > 0:
        checks.fail("cov", "a covariance of zero", "data that vary")
    return _checked(result, "cov")


def check(moments: Moments, name: str = "moments") -> None:
    """Raise `ValueError` unless shapes agree, values are finite, `cov` symmetric, variances ≥ 0."""
    checks.kind(name, moments, Moments, "Of data x: moments.from_data(x).")
    _check(moments, f"{name}.mean", f"{name}.cov")


def _check(moments: Moments, mean: str, cov: str) -> None:
    """Look at the arrays of `check`, under the names that the user gave them."""
    checks.floating(mean, moments.mean)
    checks.shape(mean, moments.mean, ("n",))
    checks.finite(mean, moments.mean)
    checks.floating(cov, moments.cov)
    diagonal = jnp.ndim(moments.cov) == 1
    checks.shape(cov, moments.cov, moments.mean.shape * (1 if diagonal else 2))
    (checks.finite if diagonal else checks.symmetric)(cov, moments.cov)
    if checks.concrete(moments.cov):
        # whether S is semi-definite takes an eigendecomposition: `from_covariance`, `spectrum`
        values = np.asarray(moments.cov)  # NumPy, since JAX would trace known values too
        least = values.min() if values.ndim == 1 else np.diag(values).min()
        if least < 0:
            checks.fail(cov, f"a variance of {least:.3g}", "variances >= 0")


def trace(moments: Moments) -> Float[Array, ""]:
    """Return the total variance tr S."""
    return moments.cov.sum() if moments.cov.ndim == 1 else jnp.trace(moments.cov)


def cov_matmul(moments: Moments, right: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """Multiply S @ right, for a full or a diagonal covariance."""
    cov = moments.cov
    return cov[:, None] * right if cov.ndim == 1 else matmul(cov, right)


def about(moments: Moments, mean: Float[Array, "n"]) -> Moments:
    """Return second moments about another mean: S + (x̄ − μ)(x̄ − μ)ᵀ, in the dtype of μ.

    That is what a model with the mean μ sees in place of the covariance: `linear.elbo` of it is the
    exact ELBO of a model whose decoder is N(Wz + μ, σ²I) and whose encoder is N(V(x − μ), D).
    """
    own = jax.tree.map(lambda leaf: jnp.asarray(leaf, mean.dtype), moments)
    shift = own.mean - mean
    cov = jnp.diag(own.cov) if own.cov.ndim == 1 else own.cov
    return Moments(mean, cov + jnp.outer(shift, shift), own.count)


def spectrum(moments: Moments) -> Spectrum:
    """Return eigenvalues and eigenvectors of S, from large to small.

    Rounding leaves eigenvalues of a rank-deficient S slightly negative; they are set to zero.

    Raises:
        ValueError: S is not symmetric, or is indefinite beyond rounding.
    """
    check(moments)
    if moments.cov.ndim == 2 and arrays.on_host(moments.cov):
        # by the same BLAS as the product, whose threads are there
        found = np.linalg.eigh(np.asarray(moments.cov))
        # the copy is nobody else's
        values, vectors = jax.device_put((found[0][::-1].copy(), found[1][:, ::-1].copy()))
    else:
        values, vectors = _decomposed(moments.cov)
    checks.eigenvalues("moments.cov", values)
    return Spectrum(jnp.maximum(values, 0), vectors)


def rounding(eigenvalues: Float[Array, "n"] | Any) -> Float[Array, ""]:
    """Return the size below which an eigenvalue of S may be zero but for rounding: 10 n ε λ₁.

    Forming S from data, and its eigenvalues from S, each move an eigenvalue by some ε λ₁, n ε λ₁ at
    worst. ε is that of the dtype, 1.2e-7 or 2.2e-16. NumPy's `matrix_rank` decides likewise.
    All n eigenvalues are needed, from large to small.
    """
    eigenvalues = arrays.as_float("eigenvalues", eigenvalues)
    checks.shape("eigenvalues", eigenvalues, ("n",))
    return 10 * eigenvalues.shape[0] * float(jnp.finfo(eigenvalues.dtype).eps) * eigenvalues[0]


def rank(eigenvalues: Float[Array, "n"] | Any, count: Scalar = float("inf")) -> Int[Array, ""]:
    """Count the eigenvalues of S that are certainly not zero: this is decided nowhere else.

    All n eigenvalues are needed, from large to small. Counted are those above `rounding`, as int32.
    If `count`, the number of data N, is known, the rank is at most N − 1, as N points span N − 1
    dimensions.
    """
    eigenvalues = arrays.as_float("eigenvalues", eigenvalues)
    seen = (eigenvalues > rounding(eigenvalues)).sum(dtype=jnp.int32)
    most = jnp.minimum(jnp.asarray(count, eigenvalues.dtype) - 1, eigenvalues.shape[0])
    return jnp.minimum(seen, most.astype(jnp.int32))


def thin_spectrum(x: Any, name: str = "x") -> Spectrum:
    """Compute the min(N, n) leading eigenpairs of S by a thin SVD: there is no n × n object.

    All other eigenvalues are zero. x (N, n) and errors are as for `from_data`. `name` is what
    messages call the data.
    """
    x = _several(name, x)
    checks.finite(name, x)
    if checks.concrete(x):
        _check_varies(name, arrays.vary(x))
        centred = arrays.less(name, x, arrays.centre(x), arrays.float_dtype(x.dtype))
    else:
        centred = arrays.as_float(name, x)
    found = _thin(centred)
    arrays.check_scale(name, found.eigenvalues[0], found.eigenvalues.dtype)
    return found


@jax.jit
def _thin(x: Float[Array, "N n"]) -> Spectrum:
    _, centred, scale = _standardised(x)
    _, singular, vt = jnp.linalg.svd(centred, full_matrices=False)
    return Spectrum(singular**2 / x.shape[0] * scale * scale, vt.T)


def in_eigenbasis(moments: Moments) -> tuple[Moments, Spectrum]:
    """Rotate moments so that S is diagonal.

    Returned are moments with mean Uᵀμ and diagonal `cov` λ (n,), and the `Spectrum` (λ, U).

    Whatever is not per-coordinate is unchanged by this rotation: ELBO, likelihood, gradient
    descent, Hessian spectra. Adam is per-coordinate: in the eigenbasis it is another optimiser.
    """
    s = spectrum(moments)
    mean = matmul(s.eigenvectors.T, moments.mean)
    return Moments(mean, s.eigenvalues, moments.count), s
