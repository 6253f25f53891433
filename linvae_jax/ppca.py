"""Probabilistic PCA: z ~ N(0, I), x | z ~ N(Wz + μ, σ²I).

Tipping and Bishop, *Probabilistic principal component analysis*, JRSS-B 1999. Nothing here
forms an n × n inverse: with M = WᵀW + σ²I (k × k) all costs are O(n k²) beyond S W.

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
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from linvae_jax import gaussian
from linvae_jax import moments as mom
from linvae_jax._internal import arrays, checks
from linvae_jax._internal.linalg import matmul


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class PPCA:
    """A pPCA model.

    Attributes:
        W: (n, k), weights.
        sigma2: (), noise variance σ².
        mean: (n,), μ.
    """

    W: Float[Array, "*batch n k"]
    sigma2: Float[Array, "*batch"]
    mean: Float[Array, "*batch n"]


class Posterior(NamedTuple):
    """Exact posterior z | x ~ N(mean, cov); `mean` is (N, k), `cov` (k, k) the same for all x."""

    mean: Float[Array, "N k"]
    cov: Float[Array, "k k"]


def _cholesky_M(W: Float[Array, "n k"], sigma2: Float[Array, ""]) -> Float[Array, "k k"]:
    M = matmul(W.T, W) + sigma2 * jnp.eye(W.shape[1], dtype=W.dtype)
    return jnp.linalg.cholesky(M)


@jax.jit
def _log_likelihood(W: Array, sigma2: Array | float, moments: mom.Moments) -> Float[Array, ""]:
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
    W: Float[Array, "n k"] | Any, sigma2: Float[Array, ""] | float, moments: mom.Moments
) -> Float[Array, ""]:
    """Mean marginal log-likelihood of the data that made the moments, at μ = their own mean.

    This is the objective of a fit. Moments of other data have another mean, which this takes for
    the model's: to score held-out data, use `score`, which has the model's own.

    −½ [ n log 2π + log det C + tr(C⁻¹S) ], C = WWᵀ + σ²I, by M = WᵀW + σ²I:
    log det C = (n−k) log σ² + log det M, tr(C⁻¹S) = (tr S − tr(M⁻¹WᵀSW))/σ².

    Args:
        W: (n, k), real numbers.
        sigma2: noise variance, > 0.
        moments: of the data, n dimensions.

    Returns:
        (), nats per datum. Exact up to rounding, which grows as tr S/σ².

    Raises:
        ValueError: shapes disagree, NaN or Inf, σ² ≤ 0, S not symmetric.
    """
    mom.check(moments)
    W = arrays.as_float("W", W)
    checks.shape("W", W, (moments.mean.shape[0], "k"))
    checks.finite("W", W)
    sigma2 = checks.positive_scalar("sigma2", sigma2, W.dtype)
    return _log_likelihood(W, sigma2, moments)


def principal_weights(
    eigenvectors: Float[Array, "n k"] | Any,
    eigenvalues: Float[Array, "k"] | Any,
    sigma2: Float[Array, ""] | float,
) -> Float[Array, "n k"]:
    """Columns √(λ_j − σ²) u_j; a zero column where λ_j ≤ σ² (posterior collapse)."""
    values = arrays.as_float("eigenvalues", eigenvalues)
    checks.shape("eigenvalues", values, ("k",))
    checks.shape("eigenvectors", eigenvectors, ("n", len(values)))
    noise = arrays.as_float("sigma2", sigma2).astype(values.dtype)
    return _principal_weights(arrays.as_float("eigenvectors", eigenvectors), values, noise)


@jax.jit
def _principal_weights(
    eigenvectors: Float[Array, "n k"], eigenvalues: Float[Array, "k"], sigma2: Array
) -> Float[Array, "n k"]:
    # the inner where keeps the gradient of the square root finite at zero
    excess = eigenvalues - sigma2
    active = excess > 0
    scale = jnp.where(active, jnp.sqrt(jnp.where(active, excess, 1)), 0)
    return eigenvectors * scale


@jax.jit
def _optimal_sigma2(eigenvalues: Array, k: Array | int, beta: Array | float) -> Float[Array, ""]:
    n = eigenvalues.shape[0]
    beta = jnp.asarray(beta, eigenvalues.dtype)
    used, tail = _components_in_use(eigenvalues, k, beta)
    sigma2 = tail[used] / (n - used * beta)
    return jnp.where(used < mom.rank(eigenvalues), sigma2, jnp.nan)


def _components_in_use(
    eigenvalues: Float[Array, "n"], k: Array | int, beta: Float[Array, ""]
) -> tuple[Int[Array, ""], Float[Array, "m"]]:
    """Number r of components at the optimum with σ² learned, and Σ_{i>r} λ_i for each r."""
    n = eigenvalues.shape[0]
    r = jnp.arange(n + 1, dtype=eigenvalues.dtype)
    # suffix sums from the small end, which loses no digits of a small tail
    tail = jnp.append(jnp.cumsum(eigenvalues[::-1])[::-1], 0)  # tail[r] = Σ_{i>r} λ_i
    f = eigenvalues * (n - r[1:] * beta) - beta * tail[1:]
    # of one shape for every k: compiled once
    return jnp.sum((f > 0) & (jnp.arange(n) < k)), tail


@jax.jit
def _leaves_variance(
    eigenvalues: Array, k: Array | int, beta: Array | float, count: Array | float
) -> Bool[Array, ""]:
    beta = jnp.asarray(beta, eigenvalues.dtype)
    return _components_in_use(eigenvalues, k, beta)[0] < mom.rank(eigenvalues, count)


def check_learned_sigma2(
    eigenvalues: Float[Array, "n"] | Any,
    k: int,
    beta: Float[Array, ""] | float = 1.0,
    count: Float[Array, ""] | float = float("inf"),
    name: str = "eigenvalues",
) -> None:
    """Raise `ValueError` if there is no best σ²: k latents explain all variance there is.

    With k ≥ rank S (and β < n/rank S) the likelihood and the ELBO have no maximum: they grow
    without bound as σ² → 0. `moments.rank` decides what the rank is.

    Args:
        eigenvalues: (n,), all eigenvalues of S, from large to small.
        k: number of latents, < n.
        beta: weight of the KL, > 0.
        count: number of data N, if known.
        name: what the user calls the data, for the message.
    """
    if not checks.concrete(eigenvalues, beta, count):
        return
    with jax.ensure_compile_time_eval():  # inside a program that has them as constants
        if _leaves_variance(eigenvalues, k, float(beta), float(count)):
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
    eigenvalues: Float[Array, "n"] | Any, k: int, beta: Float[Array, ""] | float = 1.0
) -> Float[Array, ""]:
    """Noise variance at the optimum, learned together with the weights.

    σ²* = Σ_{i>r} λ_i/(n − rβ) with r the number of components in use; r = k and the mean of the
    discarded eigenvalues when β = 1.

    Args:
        eigenvalues: (n,), all eigenvalues of S, from large to small.
        k: number of latents, < n.
        beta: weight of the KL, > 0.

    Returns:
        (), σ²*. Exact.

    Raises:
        ValueError: k out of range, β ≤ 0, eigenvalues not in order or negative; no σ² is best
            (`check_learned_sigma2`). Inside a transformation the last is NaN.

    Source: own derivation. Component r is used when λ_r > βσ²_r, that is when
    f_r = λ_r (n − rβ) − β Σ_{i>r} λ_i > 0, and f falls with r, since
    f_{r+1} − f_r = (λ_{r+1} − λ_r)(n − rβ) ≤ 0; so r* counts the positive f_r, r ≤ k.
    """
    eigenvalues = arrays.spectrum("eigenvalues", eigenvalues)
    beta = checks.positive_scalar("beta", beta, eigenvalues.dtype)
    n = eigenvalues.shape[0]
    _check_k_learned(k, n)
    check_learned_sigma2(eigenvalues, k, beta)
    return _optimal_sigma2(eigenvalues, k, beta)


def elbo_with_components(
    eigenvalues: Float[Array, "n"] | Any,
    active: Bool[Array, "n"] | Any,
    sigma2: Float[Array, ""] | float,
    beta: Float[Array, ""] | float = 1.0,
) -> Float[Array, ""]:
    """β-ELBO at the stationary point that uses the components marked `active`.

    −(n/2) log 2πσ² − (β/2) [ Σ_active (1 + log(λ_i/βσ²)) + Σ_others λ_i/(βσ²) ]

    For β = 1 this is the pPCA log-likelihood there, since the ELBO is tight at these points.

    Args:
        eigenvalues: (n,), of S.
        active: (n,), bool; each must have λ_i > βσ² (the caller's duty: no check).
        sigma2: noise variance.
        beta: weight of the KL.

    Returns:
        (), nats per datum. Exact.
    """
    values = arrays.as_float("eigenvalues", eigenvalues)
    checks.shape("eigenvalues", values, ("n",))
    checks.shape("active", active, (len(values),))
    sigma2 = checks.positive_scalar("sigma2", sigma2, values.dtype)
    beta = checks.positive_scalar("beta", beta, values.dtype)
    return _elbo_with_components(values, jnp.asarray(active), sigma2, beta)


@jax.jit
def _elbo_with_components(
    eigenvalues: Array, active: Array, sigma2: Array | float, beta: Array | float
) -> Float[Array, ""]:
    beta = jnp.asarray(beta, eigenvalues.dtype)
    s = beta * jnp.asarray(sigma2, eigenvalues.dtype)
    safe = jnp.where(active, eigenvalues, s)
    terms = jnp.where(active, 1 + jnp.log(safe / s), eigenvalues / s)
    return (
        gaussian.log_density(
            jnp.zeros((), s.dtype), eigenvalues.shape[0], jnp.log(jnp.asarray(sigma2, s.dtype))
        )
        - 0.5 * beta * terms.sum()
    )


@jax.jit
def _optimal_elbo(
    eigenvalues: Array, k: Array | int, sigma2: Array | float, beta: Array | float
) -> Float[Array, ""]:
    dtype = eigenvalues.dtype
    noise = jnp.asarray(beta, dtype) * jnp.asarray(sigma2, dtype)
    active = (jnp.arange(len(eigenvalues)) < k) & (eigenvalues > noise)
    return elbo_with_components(eigenvalues, active, sigma2, beta)


def optimal_elbo(
    eigenvalues: Float[Array, "n"] | Any,
    k: int,
    sigma2: Float[Array, ""] | float | None = None,
    beta: Float[Array, ""] | float = 1.0,
) -> Float[Array, ""]:
    """Global maximum of the β-ELBO, and for β = 1 of the pPCA log-likelihood (Lemma 1).

    Args:
        eigenvalues: (n,), of S, from large to small.
        k: number of latents.
        sigma2: noise variance held fixed; learned (`optimal_sigma2`) when None.
        beta: weight of the KL.

    Returns:
        (), nats per datum. Exact.

    Raises:
        ValueError: k out of range, σ² ≤ 0, β ≤ 0, eigenvalues not in order or negative; σ²
            learned and none is best (`check_learned_sigma2`).
    """
    eigenvalues = arrays.spectrum("eigenvalues", eigenvalues)
    beta = checks.positive_scalar("beta", beta, eigenvalues.dtype)
    n = eigenvalues.shape[0]
    checks.in_range("k", k, 1, n, "at most n components")
    if sigma2 is None:
        sigma2 = optimal_sigma2(eigenvalues, k, beta)
    sigma2 = checks.positive_scalar("sigma2", sigma2, eigenvalues.dtype)
    return _optimal_elbo(eigenvalues, k, sigma2, beta)


def mle(moments: mom.Moments, k: int, sigma2: Float[Array, ""] | float | None = None) -> PPCA:
    """Maximum-likelihood pPCA, closed form: W = U_k (Λ_k − σ²I)₊^{1/2}, rotation R = I.

    Args:
        moments: of the data.
        k: number of latents; k ≤ n, and k < n when σ² is learned. Static under jit.
        sigma2: noise variance held fixed; when None its MLE, the mean of the n − k discarded
            eigenvalues.

    Returns:
        `PPCA`. Columns are ordered by eigenvalue; their signs are arbitrary. Exact up to rounding.

    Raises:
        ValueError: k out of range, σ² ≤ 0, S not symmetric or indefinite, or S of rank ≤ k with
            σ² learned (the likelihood is then unbounded as σ² → 0).
    """
    return _mle(mom.spectrum(moments), moments.mean, k, sigma2, moments.count, "moments.cov")


def mle_from_spectrum(
    spectrum: mom.Spectrum,
    mean: Float[Array, "n"],
    k: int,
    sigma2: Float[Array, ""] | float | None = None,
) -> PPCA:
    """As `mle`, when the spectrum is known already: many k or σ² for one eigendecomposition."""
    return _mle(spectrum, mean, k, sigma2, float("inf"), "spectrum.eigenvalues")


def _mle(
    spectrum: mom.Spectrum,
    mean: Float[Array, "n"],
    k: int,
    sigma2: Float[Array, ""] | float | None,
    count: Float[Array, ""] | float,
    name: str,
) -> PPCA:
    n, m = spectrum.eigenvectors.shape
    values = spectrum.eigenvalues
    if sigma2 is None:
        _check_k_learned(k, n)
    checks.in_range("k", k, 1, m, f"{m} eigenpairs")
    if sigma2 is None:
        padded = jnp.pad(values, (0, n - m))
        check_learned_sigma2(padded, k, 1.0, count, name)
        sigma2 = _optimal_sigma2(padded, k, 1.0)
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
    """Exact posterior N(M⁻¹Wᵀ(x−μ), σ²M⁻¹) of each datum.

    Args:
        model: weights, noise and mean.
        x: (N, n), real numbers, as for `moments.from_data`.

    Raises:
        ValueError: x is not (N, n), NaN or Inf, no real numbers.
    """
    model, mean = _read(model)
    return _posterior(model, _centred(model, mean, x))


def _read(model: PPCA) -> tuple[PPCA, Any]:
    """The model in JAX's floats, and its mean as precise as it came."""
    checks.kind("model", model, PPCA)
    W = arrays.as_float("model.W", model.W)
    checks.shape("model.W", W, ("n", "k"))
    checks.finite("model.W", W)
    sigma2 = checks.positive_scalar("model.sigma2", model.sigma2, W.dtype)
    mean = checks.numbers("model.mean", model.mean)
    checks.shape("model.mean", mean, (W.shape[0],))
    checks.finite("model.mean", mean)
    return PPCA(W, jnp.asarray(sigma2, W.dtype), arrays.as_float("model.mean", mean)), mean


def _centred(model: PPCA, mean: Any, x: Any) -> Float[Array, "N n"]:
    return arrays.less("x", checks.data_matrix("x", x, model.W.shape[0]), mean)


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
    """Marginal log-likelihood log N(x; μ, WWᵀ + σ²I) of each datum, with the model's own mean μ.

    This is the score of any data, held-out ones above all, as `score_samples` of scikit-learn's
    PCA. `log_likelihood` is for the data that a model is fitted to: it takes *their* mean for μ.

    Args:
        model: weights, noise and mean.
        x: (N, n), real numbers, as for `moments.from_data`.

    Returns:
        (N,), nats. Exact.

    Raises:
        ValueError: x is not (N, n), NaN or Inf, no real numbers; σ² ≤ 0.
    """
    model, mean = _read(model)
    return _score(model, _centred(model, mean, x))


def score(model: PPCA, x: Any) -> Float[Array, ""]:
    """Mean of `score_per_datum`, nats per datum."""
    return score_per_datum(model, x).mean()


def sample(model: PPCA, key: PRNGKeyArray, num_samples: int) -> Float[Array, "N n"]:
    """Draw data from the model: (num_samples, n)."""
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
