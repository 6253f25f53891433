"""The linear VAE has z ~ N(0, I), x | z ~ N(Wz + μ, σ²I), q(z | x) = N(V(x − μ), D).

Lucas, Tucker, Grosse, Norouzi, *Don't Blame the ELBO! A Linear VAE Perspective on Posterior
Collapse*, NeurIPS 2019. With D the same diagonal matrix for every x, the ELBO has a closed form
in the moments of the data, and so has its gradient; neither needs a pass over the data.

All values are nats per datum. μ is held at the data mean, its maximum-likelihood value.
Models have n dimensions and k latents, and parameters in float32 or float64. Data x (N, n) are real
numbers, as for `moments.from_data`. Every function raises `ValueError` where shapes disagree, for
NaN and Inf, for σ² ≤ 0 and for β < 0 (the optimal encoder needs β > 0).

>>> import jax, jax.numpy as jnp
>>> from linvae_jax import linear, moments
>>> m = moments.from_covariance(jnp.diag(jnp.array([4.0, 1.0])))
>>> params = linear.init(jax.random.key(0), n=2, k=1)
>>> bool(linear.elbo(params, m) < linear.profile_elbo(params.W, 1.0, m))
True
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float, PRNGKeyArray

from linvae_jax import gaussian, vae
from linvae_jax import moments as mom
from linvae_jax._internal import arrays, checks
from linvae_jax._internal.arrays import Scalar
from linvae_jax._internal.linalg import matmul
from linvae_jax.vae import ElboTerms, Posterior


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class LinearVAEParams:
    """A linear VAE's parameters are a pytree; gradients and Hessian directions have this type too.

    Many models, as from a sweep, have leading axes *runs, for `vmap`.

    Attributes:
        W: (n, k), decoder weights.
        V: (k, n), encoder weights.
        log_d: (k,), log of the posterior variances D.
        log_sigma2: (), log of the observation noise σ².
    """

    W: Float[Array, "*runs n k"]
    V: Float[Array, "*runs k n"]
    log_d: Float[Array, "*runs k"]
    log_sigma2: Float[Array, "*runs"]


NAMES = ("W", "V", "log_d", "log_sigma2")  # of the parameters


def check(params: LinearVAEParams, moments: mom.Moments | None = None) -> LinearVAEParams:
    """Return parameters in JAX's floats, or raise `ValueError` if they do not fit the moments."""
    n: int | str = "n"
    if moments is not None:
        mom.check(moments)
        n = moments.mean.shape[0]
    checks.kind("params", params, LinearVAEParams)
    W = arrays.finite("params.W", params.W, (n, "k"))
    n, k = W.shape
    V = arrays.finite("params.V", params.V, (k, n))
    log_d = arrays.finite("params.log_d", params.log_d, (k,))
    return LinearVAEParams(W, V, log_d, arrays.finite("params.log_sigma2", params.log_sigma2, ()))


def init(key: PRNGKeyArray, n: int, k: int, sigma2: Scalar = 1.0) -> LinearVAEParams:
    """Draw W_ij ~ N(0, 1/k), V_ij ~ N(0, 1/n), D = I in the default float type; 1 ≤ k ≤ n.

    This is never the collapsed stationary point, where W and V are zero.
    """
    checks.in_range("k", k, 1, n, "a linear VAE has no use for more latents than n")
    sigma2 = checks.positive_scalar("sigma2", sigma2, jnp.result_type(float))
    checks.key("key", key)
    return _init(key, n, k, sigma2)


@partial(jax.jit, static_argnames=("n", "k"))
def _init(key: PRNGKeyArray, n: int, k: int, sigma2: Scalar) -> LinearVAEParams:
    key_W, key_V = jax.random.split(key)
    W = jax.random.normal(key_W, (n, k)) / jnp.sqrt(k)
    V = jax.random.normal(key_V, (k, n)) / jnp.sqrt(n)
    return LinearVAEParams(W, V, jnp.zeros(k, W.dtype), jnp.log(jnp.asarray(sigma2, W.dtype)))


@dataclass(frozen=True)
class Model(vae.LatentParts):
    """The linear VAE of n dimensions and k latents is a `vae.Model` too."""

    n: int
    k: int
    decoder_name: ClassVar[str] = "W"

    def init(self, key: PRNGKeyArray, sigma2: Any) -> LinearVAEParams:
        """Draw a random start, as the function `init`."""
        return init(key, self.n, self.k, sigma2)

    def encode(self, params: LinearVAEParams, x: Float[Array, "N n"]) -> Posterior:
        """Return the means Vx of centred data, and the one log D of all."""
        return Posterior(matmul(x, params.V.T), params.log_d)

    def decode(self, params: LinearVAEParams, z: Float[Array, "N k"]) -> Float[Array, "N n"]:
        """Return Wz."""
        return matmul(z, params.W.T)

    def parts(self, latents: np.ndarray) -> dict[str, vae.Part]:
        """Say where latents' own weights lie: columns of W, rows of V, entries of log D."""
        return {
            "W": vae.Part(("W",), latents, axis=1),
            "V": vae.Part(("V",), latents),
            "log_d": vae.Part(("log_d",), latents),
        }


def rotate(params: LinearVAEParams, rotation: Float[Array, "n n"] | Any) -> LinearVAEParams:
    """Turn parameters to coordinates Rᵀx: into the eigenbasis with R = U, back with R = Uᵀ."""
    params = check(params)
    n = params.W.shape[0]
    rotation = arrays.finite("rotation", rotation, (n, n))
    W, V = matmul(rotation.T, params.W), matmul(params.V, rotation)
    return LinearVAEParams(W, V, params.log_d, params.log_sigma2)


def _square_error(params: LinearVAEParams, moments: mom.Moments, SVt: Array) -> Float[Array, ""]:
    """E‖x − Wz − μ‖² = tr S − 2 tr(WVS) + tr(WVSVᵀWᵀ) + tr(WDWᵀ), given SVᵀ."""
    G = matmul(params.W.T, params.W)
    return (
        mom.trace(moments)
        - 2 * jnp.sum(params.W * SVt)
        + jnp.sum(G * matmul(params.V, SVt))
        + jnp.sum(jnp.exp(params.log_d) * jnp.diag(G))
    )


@jax.jit
def _elbo_terms(params: LinearVAEParams, moments: mom.Moments) -> ElboTerms:
    SVt = mom.cov_matmul(moments, params.V.T)
    error = _square_error(params, moments, SVt)
    mean_square = jnp.sum(params.V.T * SVt, axis=0)
    return ElboTerms(
        gaussian.log_density(error, params.W.shape[0], params.log_sigma2),
        gaussian.kl(mean_square, params.log_d),
    )


def elbo_terms(params: LinearVAEParams, moments: mom.Moments) -> ElboTerms:
    """Compute the reconstruction () and the KL of each latent (k,), means over the data.

    A diagonal `cov` makes it O(nk²) instead of O(n²k). Exact in float64; in float32 the square
    error cancels, which costs about 1e-7 tr S/σ² nats.

    Source: Lucas et al. 2019, section 4 (claim C1).
    """
    return _elbo_terms(check(params, moments), moments)


def elbo(params: LinearVAEParams, moments: mom.Moments, beta: Scalar = 1.0) -> Float[Array, ""]:
    """Compute the exact ELBO of the data that made the moments: reconstruction − β KL.

    The mean in `moments` is taken for the model's μ. So score held-out data by `score`, which is
    given the model's own mean.
    """
    beta = checks.nonnegative_scalar("beta", beta)
    return _elbo(check(params, moments), moments, beta)


@jax.jit
def _elbo(params: LinearVAEParams, moments: mom.Moments, beta: Scalar) -> Array:
    return _elbo_terms(params, moments).elbo(beta)


@jax.jit
def _gradient(params: LinearVAEParams, moments: mom.Moments, beta: Scalar) -> LinearVAEParams:
    W, V, D = params.W, params.V, jnp.exp(params.log_d)
    beta = jnp.asarray(beta, W.dtype)
    precision = jnp.exp(-params.log_sigma2)
    SVt = mom.cov_matmul(moments, V.T)
    G = matmul(W.T, W)
    inner = matmul(V, SVt)
    dW = precision * (SVt - matmul(W, inner) - W * D)
    # the precision first: S W alone leaves float32's range in some units
    dV = mom.cov_matmul(moments, precision * W) - matmul(SVt, precision * G) - beta * SVt
    dlog_d = 0.5 * (beta - D * (beta + jnp.diag(G) * precision))
    error = _square_error(params, moments, SVt)  # the compiler shares the products above
    return LinearVAEParams(dW, dV.T, dlog_d, 0.5 * (precision * error - W.shape[0]))


def gradient(params: LinearVAEParams, moments: mom.Moments, beta: Scalar = 1.0) -> LinearVAEParams:
    """Compute the analytic gradient of `elbo`, a `LinearVAEParams` of partial derivatives.

    ∂W = (1/σ²) [ SVᵀ − WVSVᵀ − WD ],  ∂V = (1/σ²) [ WᵀS − WᵀWVS ] − βVS,
    ∂log D = ½ [ β − D ⊙ (β + diag(WᵀW)/σ²) ],  ∂log σ² = −n/2 + E‖x − Wz − μ‖²/(2σ²)

    Exact: the suite holds it to 1e-12 of autodiff. The arguments are those of `elbo`.
    """
    params = check(params, moments)
    beta = checks.nonnegative_scalar("beta", beta)
    return _gradient(params, moments, beta)


@jax.jit
def _elbo_terms_per_datum(params: LinearVAEParams, centred: Float[Array, "N n"]) -> ElboTerms:
    mean = matmul(centred, params.V.T)
    residual = centred - matmul(mean, params.W.T)
    spread = jnp.sum(jnp.exp(params.log_d) * jnp.sum(params.W**2, axis=0))
    error = jnp.sum(residual**2, axis=1) + spread
    return ElboTerms(
        gaussian.log_density(error, params.W.shape[0], params.log_sigma2),
        gaussian.kl(mean**2, params.log_d),
    )


def _centred(params: LinearVAEParams, mean: Any, x: Any) -> Float[Array, "N n"]:
    return arrays.less("x", checks.data_matrix("x", x, params.W.shape[0]), mean)


def elbo_terms_per_datum(params: LinearVAEParams, moments: mom.Moments, x: Any) -> ElboTerms:
    """Compute the reconstruction (N,) and the KL per latent (N, k) of each datum, exact in z.

    The mean of the terms over the data that made the moments is `elbo_terms`. Only μ is taken from
    `moments`, so x may be held-out data, in the same coordinates.
    """
    params = check(params, moments)
    return _elbo_terms_per_datum(params, _centred(params, moments.mean, x))


def score_per_datum(
    params: LinearVAEParams, mean: Any, x: Any, beta: Scalar = 1.0
) -> Float[Array, "N"]:
    """Score each datum, held-out ones above all: its ELBO, exact in z, with the model's own mean.

    `mean` (n,) is the model's μ, `moments.from_data(x).mean` of the training data. For β = 1 the
    score is a lower bound of `ppca.score_per_datum(ppca.PPCA(W, σ², μ), x)`, the log-likelihood of
    the same decoder.
    """
    beta = checks.nonnegative_scalar("beta", beta)
    params = check(params)
    mean = checks.numbers("mean", mean)
    checks.shape("mean", mean, (params.W.shape[0],))
    checks.finite("mean", mean)
    return _elbo_terms_per_datum(params, _centred(params, mean, x)).elbo(beta)


def score(params: LinearVAEParams, mean: Any, x: Any) -> Float[Array, ""]:
    """Average `score_per_datum` over the data, at β = 1."""
    return score_per_datum(params, mean, x).mean()


@jax.jit
def _elbo_stochastic(
    params: LinearVAEParams, centred: Float[Array, "N n"], key: PRNGKeyArray, beta: Scalar
) -> Float[Array, "N"]:
    return vae.elbo_terms(Model(*params.W.shape), params, centred, key).elbo(beta)


def elbo_stochastic(
    params: LinearVAEParams,
    moments: mom.Moments,
    x: Any,
    key: PRNGKeyArray,
    beta: Scalar = 1.0,
) -> Float[Array, "N"]:
    """Estimate each datum's ELBO (N,) from one sample: z = V(x−μ) + D^½ ε, KL exact.

    The estimate is unbiased and reparameterised, so its gradient is unbiased too. Each datum gets
    its own noise from `key`; for more samples, `vmap` over keys. `moments` and x are as for
    `elbo_terms_per_datum`.
    """
    beta = checks.nonnegative_scalar("beta", beta)
    checks.key("key", key)
    params = check(params, moments)
    return _elbo_stochastic(params, _centred(params, moments.mean, x), key, beta)


def _decoder(W: Any, sigma2: Any) -> tuple[Float[Array, "n k"], Scalar]:
    W = arrays.finite("W", W, ("n", "k"))
    return W, checks.positive_scalar("sigma2", sigma2, W.dtype)


@jax.jit
def _optimal_encoder(W: Float[Array, "n k"], sigma2: Scalar, beta: Scalar) -> tuple[Array, Array]:
    tau = jnp.asarray(beta, W.dtype) * jnp.asarray(sigma2, W.dtype)
    M = matmul(W.T, W) + tau * jnp.eye(W.shape[1], dtype=W.dtype)
    V = cho_solve((jnp.linalg.cholesky(M), True), W.T)
    return V, -jnp.log1p(jnp.sum(W**2, axis=0) / tau)


def with_optimal_encoder(
    W: Float[Array, "n k"] | Any, sigma2: Scalar, beta: Scalar = 1.0
) -> LinearVAEParams:
    """Give a decoder W the one encoder that maximises the β-ELBO, whatever the data.

    V = M⁻¹Wᵀ and D_j = τ/(τ + ‖w_j‖²), where M = WᵀW + τI and τ = βσ² > 0.
    """
    W, sigma2 = _decoder(W, sigma2)
    V, log_d = _optimal_encoder(W, sigma2, checks.positive_scalar("beta", beta))
    return LinearVAEParams(W, V, log_d, jnp.log(jnp.asarray(sigma2, W.dtype)))


def profile_elbo(
    W: Float[Array, "n k"] | Any, sigma2: Scalar, moments: mom.Moments, beta: Scalar = 1.0
) -> Float[Array, ""]:
    """Maximise the β-ELBO over the encoder: what is left is a function of the decoder alone.

    For β = 1 it is `ppca.log_likelihood` − `hadamard_gap`. The moments are those of the data.
    """
    return elbo(with_optimal_encoder(W, sigma2, beta), moments, beta)


@jax.jit
def _hadamard_gap(W: Float[Array, "n k"], sigma2: Scalar) -> Float[Array, ""]:
    # M = AᵀA = RᵀR: no products, so that the condition number is not squared
    A = jnp.concatenate([W, jnp.sqrt(sigma2) * jnp.eye(W.shape[1], dtype=W.dtype)])
    R = jnp.linalg.qr(A, mode="r")
    return jnp.log(jnp.linalg.norm(A, axis=0) / jnp.abs(jnp.diag(R))).sum()


def hadamard_gap(W: Float[Array, "n k"] | Any, sigma2: Scalar) -> Float[Array, ""]:
    """Say how far `profile_elbo` lies below the likelihood: ½ [ Σ_j log M_jj − log det M ].

    M = WᵀW + σ²I. By Hadamard's inequality the gap is >= 0, and zero exactly when W has orthogonal
    columns (Lemma 2). It is the same whatever the data, exact up to rounding. With a KL weight β
    the β-ELBO loses β times the gap at βσ².

    Source: landscape/README.md, 1.
    """
    W, sigma2 = _decoder(W, sigma2)
    return _hadamard_gap(W, jnp.asarray(sigma2, W.dtype))
