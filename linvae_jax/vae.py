"""A VAE is any model here whose likelihood is Gaussian; its ELBO is estimated by sampling.

z ~ N(0, I), x | z ~ N(μ + f(z), σ²I), q(z | x) = N(m(x − μ), diag D(x − μ)). A model is the pair of
functions (m, D) and f. It sees data with their mean μ taken off, so that μ never is a parameter and
the linear VAE (`linear.Model`) and the networks (`networks`) are the same kind of thing.

>>> import jax, jax.numpy as jnp
>>> from linvae_jax import linear, vae
>>> model = linear.Model(n=3, k=2)
>>> params = model.init(jax.random.key(0), 1.0)
>>> vae.elbo_terms(model, params, jnp.ones((5, 3)), jax.random.key(1)).kl.shape
(5, 2)
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from linvae_jax import gaussian
from linvae_jax._internal import arrays, checks


class ElboTerms(NamedTuple):
    """The ELBO has two halves: E log p(x | z), and the KL of each latent (k,), both in nats."""

    reconstruction: Float[Array, "*batch"]
    kl: Float[Array, "*batch k"]

    def elbo(self, beta: Float[Array, ""] | float = 1.0) -> Float[Array, "*batch"]:
        """Weigh the halves: the β-ELBO is the reconstruction less β times the sum of the KL."""
        return self.reconstruction - jnp.asarray(beta, self.kl.dtype) * self.kl.sum(axis=-1)


class Posterior(NamedTuple):
    """q(z | x) of each datum has means (N, k) and log variances (N, k), or (k,) if all agree."""

    mean: Float[Array, "N k"]
    log_d: Float[Array, "N k"] | Float[Array, "k"]


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class VAEParams:
    """A VAE of networks has these parameters, a linear VAE `linear.LinearVAEParams`.

    `weights` is a nested dictionary of arrays; σ² is the observation noise.
    """

    weights: Any
    log_sigma2: Float[Array, "*runs"]


@runtime_checkable
class Model(Protocol):
    """A model is a frozen, hashable description with three pure functions.

    Being hashable it is a static argument of `jit`. All that is learned is in `params`, a pytree
    with an attribute `log_sigma2`.
    """

    @property
    def n(self) -> int:
        """The data have n dimensions."""
        ...

    @property
    def k(self) -> int:
        """There are k latents."""
        ...

    def init(self, key: PRNGKeyArray, sigma2: Any) -> Any:
        """Draw random parameters with noise σ², never the collapsed point."""
        ...

    def encode(self, params: Any, x: Float[Array, "N n"]) -> Posterior:
        """Return q(z | x) of centred data."""
        ...

    def decode(self, params: Any, z: Float[Array, "N k"]) -> Float[Array, "N n"]:
        """Return E[x | z] − μ."""
        ...


@runtime_checkable
class LatentModel(Model, Protocol):
    """A `LatentModel` knows which weights are one latent's own: if all are zero, it is collapsed.

    `decoder_name` says which of `latent_weights` the decoder has; the others are the encoder's.
    """

    decoder_name: ClassVar[str]

    def latent_weights(self, params: Any, latents: tuple[int, ...]) -> dict[str, Array]:
        """Take the weights of some latents, by name."""
        ...

    def with_latent_weights(
        self, params: Any, latents: tuple[int, ...], weights: dict[str, Array]
    ) -> Any:
        """Put weights in the place of those that `latent_weights` takes."""
        ...


class Part(NamedTuple):
    """Weights of some latents are entries `places` along `axis` of the array at `path`."""

    path: tuple[str, ...]
    places: np.ndarray
    axis: int = 0


class LatentParts:
    """A model that says where its latents' own weights lie gets the rest of `LatentModel` here."""

    def parts(self, latents: np.ndarray) -> dict[str, Part]:
        """Say where the weights of some latents lie in the parameters, by name."""
        raise NotImplementedError

    def latent_weights(self, params: Any, latents: tuple[int, ...]) -> dict[str, Array]:
        """Take the weights of some latents, by name: with all of them zero, they are collapsed."""
        return {
            name: jnp.take(_leaf(params, part.path), part.places, axis=part.axis)
            for name, part in self._checked(latents).items()
        }

    def with_latent_weights(
        self, params: Any, latents: tuple[int, ...], weights: dict[str, Array]
    ) -> Any:
        """Put weights in the place of those that `latent_weights` takes."""
        for name, (path, places, axis) in self._checked(latents).items():
            leaf = arrays.put(_leaf(params, path), places, weights[name], axis=axis)
            params = _with_leaf(params, path, leaf)
        return params

    def _checked(self: Any, latents: tuple[int, ...]) -> dict[str, Part]:
        for j in latents:
            # beyond the end JAX would take the last one, silently
            checks.in_range("latents", j, 0, self.k - 1, "k latents, from 0")
        return self.parts(np.array(latents, int))


def _leaf(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name] if isinstance(tree, dict) else getattr(tree, name)
    return tree


def _with_leaf(tree: Any, path: tuple[str, ...], leaf: Array) -> Any:
    if not path:
        return leaf
    new = {path[0]: _with_leaf(_leaf(tree, path[:1]), path[1:], leaf)}
    return tree | new if isinstance(tree, dict) else replace(tree, **new)


class Sampled(NamedTuple):
    """One pass through a VAE, with one z per datum, has all that objectives and metrics need.

    The square error is ‖x − μ − f(z)‖², of the z that was drawn. The KL is exact, in nats.
    """

    square_error: Float[Array, "N"]
    kl: Float[Array, "N k"]
    posterior: Posterior
    z: Float[Array, "N k"]


def with_noise(
    model: Model, params: Any, x: Float[Array, "N n"], eps: Float[Array, "N k"]
) -> Sampled:
    """Encode x, decode z = m + D^½ ε: x has μ taken off, ε is standard normal."""
    posterior = model.encode(params, x)
    z = posterior.mean + jnp.exp(0.5 * posterior.log_d) * eps
    square_error = jnp.sum((x - model.decode(params, z)) ** 2, axis=1)
    return Sampled(square_error, gaussian.kl(posterior.mean**2, posterior.log_d), posterior, z)


def forward(model: Model, params: Any, x: Float[Array, "N n"], key: PRNGKeyArray) -> Sampled:
    """Do as `with_noise`, with noise that is drawn anew for each datum."""
    eps = jax.random.normal(key, (x.shape[0], model.k), params.log_sigma2.dtype)
    return with_noise(model, params, x, eps)


def elbo_terms(model: Model, params: Any, x: Float[Array, "N n"], key: PRNGKeyArray) -> ElboTerms:
    """Estimate the reconstruction (N,), nats, from one z per datum; the KL (N, k) is exact.

    The estimate is unbiased and reparameterised, so that its gradient is unbiased too. The
    arguments are those of `forward`.
    """
    passed = forward(model, params, x, key)
    return ElboTerms(
        gaussian.log_density(passed.square_error, model.n, params.log_sigma2), passed.kl
    )
