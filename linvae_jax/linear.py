"""The linear VAE: z ~ N(0, I), x | z ~ N(Wz + μ, σ²I), q(z | x) = N(V(x − μ), D).

Lucas, Tucker, Grosse, Norouzi, *Don't Blame the ELBO! A Linear VAE Perspective on Posterior
Collapse*, NeurIPS 2019. With D the same diagonal matrix for every x, the ELBO has a closed form
in the moments of the data, and so has its gradient; neither needs a pass over the data.

All values are nats per datum. μ is held at the data mean, its maximum-likelihood value.

>>> import jax, jax.numpy as jnp
>>> from linvae_jax import linear, moments
>>> m = moments.from_covariance(jnp.diag(jnp.array([4.0, 1.0])))
>>> params = linear.init(jax.random.key(0), n=2, k=1)
>>> bool(linear.elbo(params, m) < linear.profile_elbo(params.W, 1.0, m))
True
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float, PRNGKeyArray

from linvae_jax import gaussian, vae
from linvae_jax import moments as mom
from linvae_jax._internal import arrays, checks
from linvae_jax._internal.linalg import matmul
from linvae_jax.vae import ElboTerms, Posterior


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class LinearVAEParams:
    """Parameters of a linear VAE, a pytree; gradients and Hessian directions have this type too.

    Many models side by side, as from a sweep, have leading axes *runs, for `vmap`.

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


class Encoder(NamedTuple):
    """Encoder weights V (k, n) and log posterior variances log_d (k,)."""

    V: Float[Array, "k n"]
    log_d: Float[Array, "k"]


_NAMES = ("W", "V", "log_d", "log_sigma2")


def _floats(params: LinearVAEParams) -> LinearVAEParams:
    return LinearVAEParams(
        *(arrays.as_float(f"params.{name}", getattr(params, name)) for name in _NAMES)
    )


def check(params: LinearVAEParams, moments: mom.Moments) -> LinearVAEParams:
    """Raise `ValueError` unless parameters and moments have agreeing shapes and finite values.

    Returns:
        The parameters in JAX's floats, whatever numbers they came as.
    """
    mom.check(moments)
    return _check_params(params, moments.mean.shape[0])


def _check_params(params: LinearVAEParams, n: int | str = "n") -> LinearVAEParams:
    """The part of `check` that looks at the parameters alone."""
    checks.kind("params", params, LinearVAEParams)
    params = _floats(params)
    checks.shape("params.W", params.W, (n, "k"))
    n, k = params.W.shape
    checks.shape("params.V", params.V, (k, n))
    checks.shape("params.log_d", params.log_d, (k,))
    checks.shape("params.log_sigma2", params.log_sigma2, ())
    for name in _NAMES:
        checks.finite(f"params.{name}", getattr(params, name))
    return params


def init(
    key: PRNGKeyArray, n: int, k: int, sigma2: float | Float[Array, ""] = 1.0
) -> LinearVAEParams:
    """Random start: W_ij ~ N(0, 1/k), V_ij ~ N(0, 1/n), D = I.

    Never all zeros, which is exactly the collapsed stationary point. Default float type.

    Raises:
        ValueError: not 1 ≤ k ≤ n, σ² ≤ 0.
    """
    checks.in_range("k", k, 1, n, "a linear VAE has no use for more latents than n")
    sigma2 = checks.positive_scalar("sigma2", sigma2, jnp.result_type(float))
    checks.key("key", key)
    return _init(key, n, k, sigma2)


@partial(jax.jit, static_argnames=("n", "k"))
def _init(key: PRNGKeyArray, n: int, k: int, sigma2: Array | float) -> LinearVAEParams:
    key_W, key_V = jax.random.split(key)
    W = jax.random.normal(key_W, (n, k)) / jnp.sqrt(k)
    V = jax.random.normal(key_V, (k, n)) / jnp.sqrt(n)
    return LinearVAEParams(W, V, jnp.zeros(k, W.dtype), jnp.log(jnp.asarray(sigma2, W.dtype)))


@dataclass(frozen=True)
class Model:
    """The linear VAE as a `vae.Model`, for what treats all VAEs alike.

    Attributes:
        n: data dimension.
        k: latent dimension.
    """

    n: int
    k: int
    decoder_name: ClassVar[str] = "W"

    def init(self, key: PRNGKeyArray, sigma2: Any) -> LinearVAEParams:
        """As `init`."""
        return init(key, self.n, self.k, sigma2)

    def encode(self, params: LinearVAEParams, x: Float[Array, "N n"]) -> Posterior:
        """Mean Vx of centred data, and the one log D of all."""
        return Posterior(matmul(x, params.V.T), params.log_d)

    def decode(self, params: LinearVAEParams, z: Float[Array, "N k"]) -> Float[Array, "N n"]:
        """Wz."""
        return matmul(z, params.W.T)

    def latent_weights(self, params: LinearVAEParams, latents: tuple[int, ...]) -> dict[str, Array]:
        """All that belongs to some latents: columns of W, rows of V, entries of log D."""
        for j in latents:
            checks.in_range("latents", j, 0, self.k - 1, "k latents, from 0")
        rows = np.array(latents)
        return {
            "W": jnp.take(params.W, rows, axis=1),
            "V": jnp.take(params.V, rows, axis=0),
            "log_d": jnp.take(params.log_d, rows),
        }

    def with_latent_weights(
        self, params: LinearVAEParams, latents: tuple[int, ...], weights: dict[str, Array]
    ) -> LinearVAEParams:
        """The same with these in their place."""
        rows = np.array(latents)
        return replace(
            params,
            W=arrays.put(params.W, rows, weights["W"], axis=1),
            V=arrays.put(params.V, rows, weights["V"]),
            log_d=arrays.put(params.log_d, rows, weights["log_d"]),
        )


def rotate(params: LinearVAEParams, rotation: Float[Array, "n n"] | Any) -> LinearVAEParams:
    """Parameters in coordinates Rᵀx: into the eigenbasis with R = U, back with R = Uᵀ."""
    params = _floats(params)
    n = params.W.shape[0]
    rotation = arrays.as_float("rotation", rotation)
    checks.shape("rotation", rotation, (n, n))
    return LinearVAEParams(
        matmul(rotation.T, params.W),
        matmul(params.V, rotation),
        params.log_d,
        params.log_sigma2,
    )


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
    """Reconstruction () and KL per latent (k,), means over the data, in closed form.

    Args:
        params: (n, k) linear VAE.
        moments: of the data; diagonal `cov` makes it O(nk²) instead of O(n²k).

    Returns:
        `ElboTerms`, nats per datum. Exact in float64; in float32 the square error cancels, which
        costs about 1e-7 tr S/σ² nats.

    Raises:
        ValueError: shapes disagree, NaN or Inf.

    Source: Lucas et al. 2019, section 4 (claim C1).
    """
    params = check(params, moments)
    return _elbo_terms(params, moments)


def elbo(
    params: LinearVAEParams, moments: mom.Moments, beta: Float[Array, ""] | float = 1.0
) -> Float[Array, ""]:
    """Exact ELBO, mean per datum, nats: reconstruction − β KL, of the data that made the moments.

    Moments of other data have another mean, which this takes for the model's: to score held-out
    data, use `score`, which is given the model's own.

    Args:
        params: (n, k) linear VAE, float32 or float64.
        moments: of the data.
        beta: weight of the KL, >= 0.

    Raises:
        ValueError: shapes disagree, NaN or Inf.
    """
    beta = checks.nonnegative_scalar("beta", beta)
    return _elbo(check(params, moments), moments, beta)


@jax.jit
def _elbo(params: LinearVAEParams, moments: mom.Moments, beta: Array | float) -> Array:
    return _weighted(_elbo_terms(params, moments), beta)


@jax.jit
def _weighted(terms: ElboTerms, beta: Array | float) -> Array:
    """The β-ELBO from its terms, for each datum or for all."""
    return terms.reconstruction - jnp.asarray(beta, terms.kl.dtype) * terms.kl.sum(axis=-1)


@jax.jit
def _gradient(
    params: LinearVAEParams, moments: mom.Moments, beta: Array | float
) -> LinearVAEParams:
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


def gradient(
    params: LinearVAEParams, moments: mom.Moments, beta: Float[Array, ""] | float = 1.0
) -> LinearVAEParams:
    """Analytic gradient of `elbo`, a `LinearVAEParams` of partial derivatives.

    ∂W = (1/σ²) [ SVᵀ − WVSVᵀ − WD ],  ∂V = (1/σ²) [ WᵀS − WᵀWVS ] − βVS,
    ∂log D = ½ [ β − D ⊙ (β + diag(WᵀW)/σ²) ],  ∂log σ² = −n/2 + E‖x − Wz − μ‖²/(2σ²)

    Exact. The suite holds it to 1e-12 of autodiff.

    Raises:
        ValueError: shapes disagree, NaN or Inf.
    """
    params = check(params, moments)
    beta = checks.nonnegative_scalar("beta", beta)
    return _gradient(params, moments, beta)


def _centred(
    params: LinearVAEParams, moments: mom.Moments, x: Any
) -> tuple[LinearVAEParams, Float[Array, "N n"]]:
    params = check(params, moments)
    x = checks.data_matrix("x", x, moments.mean.shape[0])
    return params, arrays.less("x", x, moments.mean)


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


def elbo_terms_per_datum(params: LinearVAEParams, moments: mom.Moments, x: Any) -> ElboTerms:
    """Reconstruction (N,) and KL per latent (N, k) of each datum, exact in z.

    Args:
        params: (n, k) linear VAE.
        moments: supplies μ, and nothing else: x may be held-out data (see `score`).
        x: (N, n), real numbers, in the coordinates of `moments`.

    Returns:
        `ElboTerms`, nats. Their mean over the data that made `moments` is `elbo_terms`.

    Raises:
        ValueError: shapes disagree, NaN or Inf.
    """
    return _elbo_terms_per_datum(*_centred(params, moments, x))


def elbo_per_datum(
    params: LinearVAEParams,
    moments: mom.Moments,
    x: Any,
    beta: Float[Array, ""] | float = 1.0,
) -> Float[Array, "N"]:
    """Exact ELBO of each datum (N,), nats. Arguments and errors as `elbo_terms_per_datum`."""
    beta = checks.nonnegative_scalar("beta", beta)
    return _weighted(elbo_terms_per_datum(params, moments, x), beta)


def score_per_datum(params: LinearVAEParams, mean: Any, x: Any) -> Float[Array, "N"]:
    """Exact ELBO of each datum, nats, with the model's own mean μ: the score of held-out data.

    `elbo` is for the data that a model is trained on, whose mean is μ: of moments of other data it
    takes *their* mean. The likelihood of the same decoder, which this bounds, has
    `ppca.score_per_datum(ppca.PPCA(W, σ², μ), x)`.

    Args:
        params: (n, k) linear VAE.
        mean: (n,), μ, as `moments.from_data(x).mean` of the training data.
        x: (N, n), real numbers, as for `moments.from_data`.

    Returns:
        (N,), exact in z; at β = 1.

    Raises:
        ValueError: shapes disagree, NaN or Inf, no real numbers.
    """
    params = _check_params(params)
    n = params.W.shape[0]
    x = checks.data_matrix("x", x, n)
    mean = checks.numbers("mean", mean)
    checks.shape("mean", mean, (n,))
    checks.finite("mean", mean)
    return _weighted(_elbo_terms_per_datum(params, arrays.less("x", x, mean)), 1.0)


def score(params: LinearVAEParams, mean: Any, x: Any) -> Float[Array, ""]:
    """Mean of `score_per_datum`, nats per datum."""
    return score_per_datum(params, mean, x).mean()


@jax.jit
def _elbo_stochastic(
    params: LinearVAEParams, centred: Float[Array, "N n"], key: PRNGKeyArray, beta: Array | float
) -> Float[Array, "N"]:
    terms = vae.elbo_terms(Model(*params.W.shape), params, centred, key)
    return terms.reconstruction - jnp.asarray(beta, terms.kl.dtype) * terms.kl.sum(axis=1)


def elbo_stochastic(
    params: LinearVAEParams,
    moments: mom.Moments,
    x: Any,
    key: PRNGKeyArray,
    beta: Float[Array, ""] | float = 1.0,
) -> Float[Array, "N"]:
    """One-sample estimate of each datum's ELBO (N,), nats: z = V(x−μ) + D^½ ε, KL exact.

    An unbiased estimate, reparameterised, so its gradient is unbiased too. For more samples,
    `vmap` over keys.

    Args:
        params: (n, k) linear VAE.
        moments: supplies μ.
        x: (N, n), real numbers.
        key: PRNG key; each datum gets its own noise.
        beta: weight of the KL, >= 0.

    Raises:
        ValueError: shapes disagree, NaN or Inf.
    """
    beta = checks.nonnegative_scalar("beta", beta)
    checks.key("key", key)
    return _elbo_stochastic(*_centred(params, moments, x), key, beta)


@jax.jit
def _optimal_encoder(W: Float[Array, "n k"], sigma2: Array | float, beta: Array | float) -> Encoder:
    noise = jnp.asarray(beta, W.dtype) * jnp.asarray(sigma2, W.dtype)
    M = matmul(W.T, W) + noise * jnp.eye(W.shape[1], dtype=W.dtype)
    V = cho_solve((jnp.linalg.cholesky(M), True), W.T)
    return Encoder(V, -jnp.log1p(jnp.sum(W**2, axis=0) / noise))


def optimal_encoder(
    W: Float[Array, "n k"] | Any,
    sigma2: Float[Array, ""] | float,
    beta: Float[Array, ""] | float = 1.0,
) -> Encoder:
    """The one maximiser of the β-ELBO in the encoder: V = M⁻¹Wᵀ, D_j = βσ²/(βσ² + ‖w_j‖²).

    M = WᵀW + βσ²I; it does not depend on the data.

    Args:
        W: (n, k).
        sigma2: > 0.
        beta: weight of the KL, > 0.

    Returns:
        `Encoder`; `LinearVAEParams(W, *optimal_encoder(W, sigma2), jnp.log(sigma2))` is the model.

    Raises:
        ValueError: W not a matrix, NaN or Inf, σ² or β ≤ 0.
    """
    W = arrays.as_float("W", W)
    checks.shape("W", W, ("n", "k"))
    checks.finite("W", W)
    sigma2 = checks.positive_scalar("sigma2", sigma2, W.dtype)
    beta = checks.positive_scalar("beta", beta)
    return _optimal_encoder(W, sigma2, beta)


def with_optimal_encoder(
    W: Float[Array, "n k"] | Any,
    sigma2: Float[Array, ""] | float,
    beta: Float[Array, ""] | float = 1.0,
) -> LinearVAEParams:
    """The linear VAE with decoder W, noise σ² and its `optimal_encoder`."""
    W = arrays.as_float("W", W)
    encoder = optimal_encoder(W, sigma2, beta)
    sigma2 = checks.scalar("sigma2", sigma2)
    return LinearVAEParams(W, *encoder, jnp.log(jnp.asarray(sigma2, W.dtype)))


def profile_elbo(
    W: Float[Array, "n k"] | Any,
    sigma2: Float[Array, ""] | float,
    moments: mom.Moments,
    beta: Float[Array, ""] | float = 1.0,
) -> Float[Array, ""]:
    """β-ELBO maximised over the encoder, nats per datum: a function of the decoder alone.

    For β = 1 it is log-likelihood − ½ [ Σ_j log M_jj − log det M ], so it falls short of the
    likelihood by a Hadamard gap, zero exactly when W has orthogonal columns (Lemma 2).
    """
    return elbo(with_optimal_encoder(W, sigma2, beta), moments, beta)
