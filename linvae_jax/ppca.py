"""Probabilistic PCA is the model z ~ N(0, I), x | z ~ N(Wz + μ, σ²I).

Tipping and Bishop, *Probabilistic principal component analysis*, JRSS-B 1999. Nothing here
forms an n × n inverse: with M = WᵀW + σ²I (k × k) all costs are O(n k²) beyond S W. All values are
nats per datum. Every function raises `ValueError` where shapes disagree, for NaN and Inf, and for
σ² or β ≤ 0. Eigenvalues (n,) are all those of S, from large to small. `optimal_sigma2` and
`optimal_elbo` refuse unsorted and negative ones. They and `mle` also refuse k < 1, k > n, and,
where σ² is learned, k = n.

>>> import jax, jax.numpy as jnp
>>> from linvae_jax import moments, ppca
>>> m = moments.from_covariance(jnp.diag(jnp.array([4.0, 1.0, 1.0])))
>>> float(ppca.mle(m, k=1).sigma2)  # the mean of the discarded eigenvalues
1.0
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from linvae_jax import gaussian
from linvae_jax import moments as mom
from linvae_jax._internal import arrays, checks
from linvae_jax._internal.arrays import Scalar
from linvae_jax._internal.linalg import matmul


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PPCA:
    """A pPCA model has three parameters.

    Attributes:
        W: (n, k), weights.
        sigma2: (), noise variance σ².
        mean: (n,), μ.
    """

    W: Float[Array, "*batch n k"]
    sigma2: Float[Array, "*batch"]
    mean: Float[Array, "*batch n"]


class Posterior(NamedTuple):
    """The exact posterior z | x ~ N(mean, cov) has means (N, k), and one `cov` (k, k) for all x."""

    mean: Float[Array, "N k"]
    cov: Float[Array, "k k"]


def _cholesky_M(W: Float[Array, "n k"], sigma2: Float[Array, ""]) -> Float[Array, "k k"]:
    M = matmul(W.T, W) + sigma2 * jnp.eye(W.shape[1], dtype=W.dtype)
    return jnp.linalg.cholesky(M)


@jax.jit
def _log_likelihood(W: Array, sigma2: Scalar, moments: mom.Moments) -> Float[Array, ""]:
    n = W.shape[0]
    sigma2 = jnp.asarray(sigma2, W.dtype)
    # in units of σ: squares of covariances in the data's own unit leave float32's range
    W = W / jnp.sqrt(sigma2)
    L = _cholesky_M(W, jnp.ones((), W.dtype))
    log_det = n * jnp.log(sigma2) + 2 * jnp.log(jnp.diag(L)).sum()
    SW = mom.cov_matmul(moments, W) / sigma2
    explained = jnp.trace(cho_solve((L, True), matmul(W.T, SW)))
    fit = mom.trace(moments) / sigma2 - explained
    return -0.5 * (n * jnp.log(2 * jnp.pi) + log_det + fit)


def log_likelihood(
    W: Float[Array, "n k"] | Any, sigma2: Scalar, moments: mom.Moments
) -> Float[Array, ""]:
    """Compute the mean marginal log-likelihood of the data that made the moments, at their mean.

    This is the objective of a fit. It is exact up to rounding, which grows as tr S/σ². The mean in
    `moments` is taken for the model's μ, so score held-out data by `score`.

    −½ [ n log 2π + log det C + tr(C⁻¹S) ], C = WWᵀ + σ²I, by M = WᵀW + σ²I:
    log det C = (n−k) log σ² + log det M, tr(C⁻¹S) = (tr S − tr(M⁻¹WᵀSW))/σ².
    """
    mom.check(moments)
    W = arrays.finite("W", W, (moments.mean.shape[0], "k"))
    sigma2 = checks.positive_scalar("sigma2", sigma2, W.dtype)
    return _log_likelihood(W, sigma2, moments)


def principal_weights(
    eigenvectors: Float[Array, "n k"] | Any, eigenvalues: Float[Array, "k"] | Any, sigma2: Scalar
) -> Float[Array, "n k"]:
    """Make columns √(λ_j − σ²) u_j; a zero column where λ_j ≤ σ² (posterior collapse)."""
    values = arrays.as_float("eigenvalues", eigenvalues)
    checks.shape("eigenvalues", values, ("k",))
    checks.shape("eigenvectors", eigenvectors, ("n", len(values)))
    sigma2 = arrays.as_float("sigma2", sigma2).astype(values.dtype)
    return _principal_weights(arrays.as_float("eigenvectors", eigenvectors), values, sigma2)


@jax.jit
def _principal_weights(
    eigenvectors: Float[Array, "n k"], eigenvalues: Float[Array, "k"], sigma2: Array
) -> Float[Array, "n k"]:
    # the inner where keeps the gradient of the square root finite at zero
    excess = eigenvalues - sigma2
    used = excess > 0
    scale = jnp.where(used, jnp.sqrt(jnp.where(used, excess, 1)), 0)
    return eigenvectors * scale


@jax.jit
def _optimal_sigma2(
    eigenvalues: Array, k: Array | int, beta: Scalar, count: Scalar
) -> Float[Array, ""]:
    """Find the best σ²; NaN if there is none. The number r of components in use counts f_r > 0."""
    n = eigenvalues.shape[0]
    beta = jnp.asarray(beta, eigenvalues.dtype)
    r = jnp.arange(n + 1, dtype=eigenvalues.dtype)
    # suffix sums from the small end, which loses no digits of a small tail
    tail = jnp.append(jnp.cumsum(eigenvalues[::-1])[::-1], 0)  # tail[r] = Σ_{i>r} λ_i
    f = eigenvalues * (n - r[1:] * beta) - beta * tail[1:]
    # of one shape for every k: compiled once
    used = jnp.sum((f > 0) & (jnp.arange(n) < k))
    sigma2 = tail[used] / (n - used * beta)
    return jnp.where(used < mom.rank(eigenvalues, count), sigma2, jnp.nan)


def check_learned_sigma2(
    eigenvalues: Float[Array, "n"] | Any,
    k: int,
    beta: Scalar = 1.0,
    count: Scalar = float("inf"),
    name: str = "eigenvalues",
) -> None:
    """Raise `ValueError` if there is no best σ²: k latents explain all variance there is.

    With k ≥ rank S (and β < n/rank S) the likelihood and the ELBO have no maximum: they grow
    without bound as σ² → 0. `moments.rank` decides what the rank is; `count` is the number of data
    N, if known. `name` is what the message calls the eigenvalues.
    """
    if not checks.concrete(eigenvalues, beta, count):
        return
    with jax.ensure_compile_time_eval():  # inside a program that has them as constants
        if not jnp.isnan(_optimal_sigma2(eigenvalues, k, float(beta), float(count))):
            return
        r = int(mom.rank(eigenvalues, count))
    values, largest = np.asarray(eigenvalues), float(eigenvalues[0])
    hint = "Fix sigma2, or take a smaller k"
    got = f"a covariance of rank {r} <= k = {k}"
    if values[r] > 0 and r < count - 1:
        got = (
            f"a covariance of rank {r} <= k = {k} as far as {values.dtype} can tell (the next "
            f"eigenvalue is {float(values[r]) / largest:.1g} of the largest)"
        )
        hint += ", or compute in float64 (jax_enable_x64)" if values.dtype == np.float32 else ""
    elif r == count - 1:
        hint += ", or more data"
    checks.fail(name, got, "variance left for σ² to explain", f"{hint}.")


def _check_k_learned(k: int, n: int) -> None:
    if n < 2:
        checks.fail("k", k, "no latent: data of one dimension have none to spare", "Fix sigma2.")
    checks.in_range("k", k, 1, n - 1, "a learned σ² needs a discarded component: k < n")


def optimal_sigma2(
    eigenvalues: Float[Array, "n"] | Any, k: int, beta: Scalar = 1.0
) -> Float[Array, ""]:
    """Find the noise variance at the optimum, learned together with the weights.

    σ²* = Σ_{i>r} λ_i/(n − rβ) with r the number of components in use; for β = 1, r = k and σ²* is
    the mean of the discarded eigenvalues. The result is exact. It needs k < n.

    Raises:
        ValueError: no σ² is best (`check_learned_sigma2`). Inside a transformation the
            result is NaN then.

    Source: landscape/README.md, 2.
    """
    eigenvalues = arrays.spectrum("eigenvalues", eigenvalues)
    beta = checks.positive_scalar("beta", beta, eigenvalues.dtype)
    n = eigenvalues.shape[0]
    _check_k_learned(k, n)
    check_learned_sigma2(eigenvalues, k, beta)
    return _optimal_sigma2(eigenvalues, k, beta, float("inf"))


def elbo_with_components(
    eigenvalues: Float[Array, "n"] | Any,
    active: Bool[Array, "n"] | Any,
    sigma2: Scalar,
    beta: Scalar = 1.0,
) -> Float[Array, ""]:
    """Compute the β-ELBO at the stationary point that uses the components marked in `active` (n,).

    −(n/2) log 2πσ² − (β/2) [ Σ_used (1 + log(λ_i/βσ²)) + Σ_others λ_i/(βσ²) ]

    The value is exact. For β = 1 it is the log-likelihood there, because the ELBO is tight at these
    points. Each component in use must have λ_i > βσ². That is the caller's duty, and not checked.
    """
    values = arrays.as_float("eigenvalues", eigenvalues)
    checks.shape("eigenvalues", values, ("n",))
    checks.shape("active", active, (len(values),))
    sigma2 = checks.positive_scalar("sigma2", sigma2, values.dtype)
    beta = checks.positive_scalar("beta", beta, values.dtype)
    return _elbo_with_components(values, jnp.asarray(active), sigma2, beta)


@jax.jit
def _elbo_with_components(
    eigenvalues: Array, used: Array, sigma2: Scalar, beta: Scalar
) -> Float[Array, ""]:
    beta = jnp.asarray(beta, eigenvalues.dtype)
    s = beta * jnp.asarray(sigma2, eigenvalues.dtype)
    safe = jnp.where(used, eigenvalues, s)
    terms = jnp.where(used, 1 + jnp.log(safe / s), eigenvalues / s)
    log_sigma2 = jnp.log(jnp.asarray(sigma2, s.dtype))
    no_error = gaussian.log_density(jnp.zeros((), s.dtype), eigenvalues.shape[0], log_sigma2)
    return no_error - 0.5 * beta * terms.sum()


@jax.jit
def _optimal_elbo(
    eigenvalues: Array, k: Array | int, sigma2: Scalar, beta: Scalar
) -> Float[Array, ""]:
    dtype = eigenvalues.dtype
    tau = jnp.asarray(beta, dtype) * jnp.asarray(sigma2, dtype)
    used = (jnp.arange(len(eigenvalues)) < k) & (eigenvalues > tau)
    return elbo_with_components(eigenvalues, used, sigma2, beta)


def optimal_elbo(
    eigenvalues: Float[Array, "n"] | Any,
    k: int,
    sigma2: Scalar | None = None,
    beta: Scalar = 1.0,
) -> Float[Array, ""]:
    """Find the global maximum of the β-ELBO, for β = 1 that of the log-likelihood (Lemma 1). Exact.

    σ² is held fixed if given. With None it is learned, as by `optimal_sigma2`, with the same
    errors.
    """
    eigenvalues = arrays.spectrum("eigenvalues", eigenvalues)
    beta = checks.positive_scalar("beta", beta, eigenvalues.dtype)
    n = eigenvalues.shape[0]
    checks.in_range("k", k, 1, n, "at most n components")
    if sigma2 is None:
        sigma2 = optimal_sigma2(eigenvalues, k, beta)
    sigma2 = checks.positive_scalar("sigma2", sigma2, eigenvalues.dtype)
    return _optimal_elbo(eigenvalues, k, sigma2, beta)


def mle(moments: mom.Moments, k: int, sigma2: Scalar | None = None) -> PPCA:
    """Fit by maximum likelihood, in closed form: W = U_k (Λ_k − σ²I)₊^{1/2}, rotation R = I.

    Columns are ordered by eigenvalue; their signs are arbitrary. The fit is exact up to rounding.
    σ² is held fixed if given. With None it is fitted: the mean of the n − k discarded eigenvalues,
    for k < n. k is static under jit.

    Raises:
        ValueError: S not symmetric or indefinite, or S of rank ≤ k with σ² learned (the likelihood
            is then unbounded as σ² → 0).
    """
    spectrum = mom.spectrum(moments)
    return mle_from_spectrum(spectrum, moments.mean, k, sigma2, moments.count, "moments.cov")


def mle_from_spectrum(
    spectrum: mom.Spectrum,
    mean: Float[Array, "n"],
    k: int,
    sigma2: Scalar | None = None,
    count: Scalar = float("inf"),
    name: str = "spectrum.eigenvalues",
) -> PPCA:
    """Fit as `mle` where the spectrum is known: many k or σ² for one eigendecomposition.

    `count` is the number of data N, if known, for the rank. `name` is what messages call the
    eigenvalues.
    """
    n, m = spectrum.eigenvectors.shape
    values = spectrum.eigenvalues
    if sigma2 is None:
        _check_k_learned(k, n)
    checks.in_range("k", k, 1, m, f"{m} eigenpairs")
    if sigma2 is None:
        padded = jnp.pad(values, (0, n - m))
        check_learned_sigma2(padded, k, 1.0, count, name)
        sigma2 = _optimal_sigma2(padded, k, 1.0, float("inf"))
    else:
        sigma2 = checks.positive_scalar("sigma2", sigma2, values.dtype)
    sigma2 = jnp.asarray(sigma2, values.dtype)
    W = principal_weights(spectrum.eigenvectors[:, :k], values[:k], sigma2)
    return PPCA(W, sigma2, mean)


@jax.jit
def _posterior(model: PPCA, centred: Float[Array, "N n"]) -> Posterior:
    factor = (_cholesky_M(model.W, model.sigma2), True)
    mean = cho_solve(factor, matmul(model.W.T, centred.T)).T
    cov = model.sigma2 * cho_solve(factor, jnp.eye(model.W.shape[1], dtype=model.W.dtype))
    return Posterior(mean, cov)


def posterior(model: PPCA, x: Any) -> Posterior:
    """Compute the exact posterior N(M⁻¹Wᵀ(x−μ), σ²M⁻¹) of real data x (N, n)."""
    return _posterior(*_centred(model, x))


def _read(model: PPCA) -> tuple[PPCA, Any]:
    """Return the model in JAX's floats, and its mean as precise as it came."""
    checks.kind("model", model, PPCA)
    W = arrays.finite("model.W", model.W, ("n", "k"))
    sigma2 = checks.positive_scalar("model.sigma2", model.sigma2, W.dtype)
    mean = checks.numbers("model.mean", model.mean)
    checks.shape("model.mean", mean, (W.shape[0],))
    checks.finite("model.mean", mean)
    return PPCA(W, jnp.asarray(sigma2, W.dtype), arrays.as_float("model.mean", mean)), mean


def _centred(model: PPCA, x: Any) -> tuple[PPCA, Float[Array, "N n"]]:
    model, mean = _read(model)
    return model, arrays.less("x", checks.data_matrix("x", x, model.W.shape[0]), mean)


@jax.jit
def _score(model: PPCA, centred: Float[Array, "N n"]) -> Float[Array, "N"]:
    n = model.W.shape[0]
    W = model.W / jnp.sqrt(model.sigma2)
    x = centred / jnp.sqrt(model.sigma2)
    L = _cholesky_M(W, jnp.ones((), W.dtype))
    z = cho_solve((L, True), matmul(W.T, x.T)).T
    # xᵀC⁻¹x as a sum of squares: the difference of squares ‖x‖² − xᵀWz would cancel
    square = jnp.sum((x - matmul(z, W.T)) ** 2, axis=1) + jnp.sum(z**2, axis=1)
    log_det = n * jnp.log(model.sigma2) + 2 * jnp.log(jnp.diag(L)).sum()
    return -0.5 * (n * jnp.log(2 * jnp.pi) + log_det + square)


def score_per_datum(model: PPCA, x: Any) -> Float[Array, "N"]:
    """Compute the exact log N(x; μ, WWᵀ + σ²I) of each datum, with the model's own mean μ.

    This is the score of any data (N, n), held-out ones above all, as `score_samples` of
    scikit-learn's PCA. `log_likelihood` is for the data that a model is fitted to.
    """
    return _score(*_centred(model, x))


def score(model: PPCA, x: Any) -> Float[Array, ""]:
    """Average `score_per_datum` over the data."""
    return score_per_datum(model, x).mean()


def sample(model: PPCA, key: PRNGKeyArray, num_samples: int) -> Float[Array, "N n"]:
    """Draw data (num_samples, n) from the model."""
    checks.key("key", key)
    checks.in_range("num_samples", num_samples, 1, 2**31 - 1, "at least one")
    return _sample(_read(model)[0], key, num_samples)


@partial(jax.jit, static_argnames="num_samples")
def _sample(model: PPCA, key: PRNGKeyArray, num_samples: int) -> Array:
    n, k = model.W.shape
    key_z, key_x = jax.random.split(key)
    z = jax.random.normal(key_z, (num_samples, k), model.W.dtype)
    noise = jax.random.normal(key_x, (num_samples, n), model.W.dtype)
    return model.mean + matmul(z, model.W.T) + jnp.sqrt(model.sigma2) * noise
