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
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from linvae_jax import _checks, gaussian
from linvae_jax import moments as mom
from linvae_jax._linalg import matmul


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
    n, k = W.shape
    sigma2 = jnp.asarray(sigma2, W.dtype)
    L = _cholesky_M(W, sigma2)
    log_det = (n - k) * jnp.log(sigma2) + 2 * jnp.log(jnp.diag(L)).sum()
    SW = mom.cov_matmul(moments, W)
    explained = jnp.trace(cho_solve((L, True), matmul(W.T, SW)))
    fit = (mom.trace(moments) - explained) / sigma2
    return -0.5 * (n * jnp.log(2 * jnp.pi) + log_det + fit)


def log_likelihood(
    W: Float[Array, "n k"], sigma2: Float[Array, ""] | float, moments: mom.Moments
) -> Float[Array, ""]:
    """Mean marginal log-likelihood at μ = the data mean.

    −½ [ n log 2π + log det C + tr(C⁻¹S) ], C = WWᵀ + σ²I, by M = WᵀW + σ²I:
    log det C = (n−k) log σ² + log det M, tr(C⁻¹S) = (tr S − tr(M⁻¹WᵀSW))/σ².

    Args:
        W: (n, k), float32 or float64.
        sigma2: noise variance, > 0.
        moments: of the data, n dimensions.

    Returns:
        (), nats per datum. Exact up to rounding, which grows as tr S/σ².

    Raises:
        ValueError: shapes disagree, NaN or Inf, σ² ≤ 0, S not symmetric.
    """
    mom.check(moments)
    _checks.floating("W", W)
    _checks.shape("W", W, (moments.mean.shape[0], "k"))
    _checks.finite("W", W)
    _checks.positive_scalar("sigma2", sigma2)
    return _log_likelihood(W, sigma2, moments)


@jax.jit
def principal_weights(
    eigenvectors: Float[Array, "n k"],
    eigenvalues: Float[Array, "k"],
    sigma2: Float[Array, ""] | float,
) -> Float[Array, "n k"]:
    """Columns √(λ_j − σ²) u_j; a zero column where λ_j ≤ σ² (posterior collapse)."""
    # the inner where keeps the gradient of the square root finite at zero
    excess = eigenvalues - sigma2
    active = excess > 0
    scale = jnp.where(active, jnp.sqrt(jnp.where(active, excess, 1)), 0)
    return eigenvectors * scale


@jax.jit
def _optimal_sigma2(eigenvalues: Array, k: Array | int, beta: Array | float) -> Float[Array, ""]:
    n = eigenvalues.shape[0]
    beta = jnp.asarray(beta, eigenvalues.dtype)
    r = jnp.arange(n + 1, dtype=eigenvalues.dtype)
    # suffix sums from the small end, which loses no digits of a small tail
    tail = jnp.append(jnp.cumsum(eigenvalues[::-1])[::-1], 0)  # tail[r] = Σ_{i>r} λ_i
    f = eigenvalues * (n - r[1:] * beta) - beta * tail[1:]
    used = jnp.sum((f > 0) & (jnp.arange(n) < k))  # of one shape for every k: compiled once
    return tail[used] / (n - used * beta)


def optimal_sigma2(
    eigenvalues: Float[Array, "n"], k: int, beta: Float[Array, ""] | float = 1.0
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

    Source: own derivation. Component r is used when λ_r > βσ²_r, that is when
    f_r = λ_r (n − rβ) − β Σ_{i>r} λ_i > 0, and f falls with r, since
    f_{r+1} − f_r = (λ_{r+1} − λ_r)(n − rβ) ≤ 0; so r* counts the positive f_r, r ≤ k.
    """
    _checks.eigenvalues("eigenvalues", eigenvalues)
    _checks.positive_scalar("beta", beta)
    n = eigenvalues.shape[0]
    _checks.in_range("k", k, 1, n - 1, "a learned σ² needs a discarded component: k < n")
    return _optimal_sigma2(eigenvalues, k, beta)


@jax.jit
def elbo_with_components(
    eigenvalues: Float[Array, "n"],
    active: Bool[Array, "n"],
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
    eigenvalues: Float[Array, "n"],
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
        ValueError: k out of range, σ² ≤ 0, β ≤ 0, eigenvalues not in order or negative.
    """
    _checks.eigenvalues("eigenvalues", eigenvalues)
    _checks.positive_scalar("beta", beta)
    n = eigenvalues.shape[0]
    _checks.in_range("k", k, 1, n, "at most n components")
    if sigma2 is None:
        sigma2 = optimal_sigma2(eigenvalues, k, beta)
    _checks.positive_scalar("sigma2", sigma2)
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
    return mle_from_spectrum(mom.spectrum(moments), moments.mean, k, sigma2)


def mle_from_spectrum(
    spectrum: mom.Spectrum,
    mean: Float[Array, "n"],
    k: int,
    sigma2: Float[Array, ""] | float | None = None,
) -> PPCA:
    """As `mle`, when the spectrum is known already: many k or σ² for one eigendecomposition."""
    n, m = spectrum.eigenvectors.shape
    most, why = (m, f"{m} eigenpairs") if sigma2 is not None else (n - 1, "σ² learned needs k < n")
    _checks.in_range("k", k, 1, min(m, most), why)
    if sigma2 is None:
        values = jnp.pad(spectrum.eigenvalues, (0, n - m))
        sigma2 = optimal_sigma2(values, k)
        # what rounding leaves of a zero eigenvalue, as in NumPy's `matrix_rank`
        rounding = 10 * n * jnp.finfo(values.dtype).eps * values[0]
        if _checks.concrete(sigma2) and values[k] <= rounding:
            _checks.fail(
                "moments.cov",
                f"a covariance of rank <= k = {k}",
                "variance left for σ² to explain",
                "Fix sigma2, take a smaller k, or more data.",
            )
    _checks.positive_scalar("sigma2", sigma2)
    sigma2 = jnp.asarray(sigma2, spectrum.eigenvalues.dtype)
    W = principal_weights(spectrum.eigenvectors[:, :k], spectrum.eigenvalues[:k], sigma2)
    return PPCA(W, sigma2, mean)


@jax.jit
def _posterior(model: PPCA, x: Float[Array, "N n"]) -> Posterior:
    factor = (_cholesky_M(model.W, model.sigma2), True)
    mean = cho_solve(factor, matmul(model.W.T, (x - model.mean).T)).T
    cov = model.sigma2 * cho_solve(factor, jnp.eye(model.W.shape[1], dtype=model.W.dtype))
    return Posterior(mean, cov)


def posterior(model: PPCA, x: Float[Array, "N n"]) -> Posterior:
    """Exact posterior N(M⁻¹Wᵀ(x−μ), σ²M⁻¹) of each datum.

    Args:
        model: weights, noise and mean.
        x: (N, n).

    Raises:
        ValueError: x is not (N, n), NaN or Inf.
    """
    _checks.data_matrix("x", x, model.W.shape[0])
    _checks.positive("model.sigma2", model.sigma2)
    return _posterior(model, x)


def sample(model: PPCA, key: PRNGKeyArray, num_samples: int) -> Float[Array, "N n"]:
    """Draw data from the model: (num_samples, n)."""
    _checks.in_range("num_samples", num_samples, 1, 2**31 - 1, "at least one")
    _checks.positive("model.sigma2", model.sigma2)
    n, k = model.W.shape
    key_z, key_x = jax.random.split(key)
    z = jax.random.normal(key_z, (num_samples, k), model.W.dtype)
    noise = jax.random.normal(key_x, (num_samples, n), model.W.dtype)
    return model.mean + matmul(z, model.W.T) + jnp.sqrt(model.sigma2) * noise
