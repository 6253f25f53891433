"""Any VAE with a Gaussian likelihood: what a model is, and its ELBO by sampling.

z ~ N(0, I), x | z ~ N(μ + f(z), σ²I), q(z | x) = N(m(x − μ), diag D(x − μ)). A model is the pair of
functions (m, D) and f; it sees data with their mean μ taken off, so that μ never is a parameter
and the linear VAE (`linear.Model`) and the networks (`networks`) are the same kind of thing.

>>> import jax, jax.numpy as jnp
>>> from linvae_jax import linear, vae
>>> model = linear.Model(n=3, k=2)
>>> params = model.init(jax.random.key(0), 1.0)
>>> vae.elbo_terms(model, params, jnp.ones((5, 3)), jax.random.key(1)).kl.shape
(5, 2)
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from linvae_jax import gaussian


class ElboTerms(NamedTuple):
    """The two halves of the ELBO: E log p(x | z), nats, and the KL of each latent (k,), nats."""

    reconstruction: Float[Array, "*batch"]
    kl: Float[Array, "*batch k"]


class Posterior(NamedTuple):
    """q(z | x) of each datum: means (N, k), and log variances (N, k), or (k,) if all share them."""

    mean: Float[Array, "N k"]
    log_d: Float[Array, "N k"] | Float[Array, "k"]


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class VAEParams:
    """Parameters of a VAE made of networks; `linear.LinearVAEParams` are those of a linear one.

    Attributes:
        weights: nested dictionary of arrays.
        log_sigma2: (), log of the observation noise σ².
    """

    weights: Any
    log_sigma2: Float[Array, "*runs"]


@runtime_checkable
class Model(Protocol):
    """What a model must be: a frozen, hashable description with three pure functions.

    Being hashable it is a static argument of `jit`; all that is learned is in `params`, a pytree
    with an attribute `log_sigma2`.
    """

    @property
    def n(self) -> int:
        """Data dimension."""
        ...

    @property
    def k(self) -> int:
        """Latent dimension."""
        ...

    def init(self, key: PRNGKeyArray, sigma2: Any) -> Any:
        """Random parameters, never the collapsed point, with noise σ²."""
        ...

    def encode(self, params: Any, x: Float[Array, "N n"]) -> Posterior:
        """q(z | x) of centred data."""
        ...

    def decode(self, params: Any, z: Float[Array, "N k"]) -> Float[Array, "N n"]:
        """E[x | z] − μ."""
        ...


@runtime_checkable
class LatentModel(Model, Protocol):
    """A model that knows which weights are one latent's own: all of them zero, it is collapsed.

    Attributes:
        decoder_name: which of `latent_weights` the decoder has; the others are the encoder's.
    """

    decoder_name: ClassVar[str]

    def latent_weights(self, params: Any, latents: tuple[int, ...]) -> dict[str, Array]:
        """Weights of some latents, by name."""
        ...

    def with_latent_weights(
        self, params: Any, latents: tuple[int, ...], weights: dict[str, Array]
    ) -> Any:
        """The same parameters with these in their place."""
        ...


class Sampled(NamedTuple):
    """One pass through a VAE with one z per datum, all that objectives and metrics need.

    Attributes:
        square_error: (N,), ‖x − μ − f(z)‖² of the z drawn.
        kl: (N, k), KL of each datum and latent, nats, exact.
        posterior: of each datum.
        z: (N, k), what was drawn.
    """

    square_error: Float[Array, "N"]
    kl: Float[Array, "N k"]
    posterior: Posterior
    z: Float[Array, "N k"]


def with_noise(
    model: Model, params: Any, x: Float[Array, "N n"], noise: Float[Array, "N k"]
) -> Sampled:
    """Encode, z = m + D^½ ε, decode: reparameterised, with the noise ε given.

    Args:
        model: the architecture.
        params: its parameters.
        x: (N, n), centred: μ taken off.
        noise: (N, k), standard normal.
    """
    posterior = model.encode(params, x)
    z = posterior.mean + jnp.exp(0.5 * posterior.log_d) * noise
    square_error = jnp.sum((x - model.decode(params, z)) ** 2, axis=1)
    return Sampled(square_error, gaussian.kl(posterior.mean**2, posterior.log_d), posterior, z)


def forward(model: Model, params: Any, x: Float[Array, "N n"], key: PRNGKeyArray) -> Sampled:
    """As `with_noise`, with noise drawn; each datum gets its own."""
    noise = jax.random.normal(key, (x.shape[0], model.k), params.log_sigma2.dtype)
    return with_noise(model, params, x, noise)


def elbo_terms(model: Model, params: Any, x: Float[Array, "N n"], key: PRNGKeyArray) -> ElboTerms:
    """Reconstruction (N,) of one z per datum and KL (N, k) of each datum, nats.

    Estimate, unbiased; reparameterised, so that its gradient is unbiased too. The KL is exact.
    Arguments as `forward`.
    """
    passed = forward(model, params, x, key)
    return ElboTerms(
        gaussian.log_density(passed.square_error, model.n, params.log_sigma2), passed.kl
    )
