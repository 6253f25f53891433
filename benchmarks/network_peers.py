"""The same VAE to be trained by everyone, and how one would train it with Flax NNX.

PyTorch's ways are in `torch_peers`. A peer is set up with a `Problem` and gives a call without
arguments that trains on by so many steps, and returns the loss of each model on the data that are
looked at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

Layer: TypeAlias = tuple[np.ndarray, np.ndarray]
Train: TypeAlias = Callable[[], np.ndarray]


class Weights(NamedTuple):
    """One VAE; ReLU between layers, none at the ends.

    Attributes:
        encoder: layers (weights, bias) up to mean and log variance, side by side. Dense weights are
            (in, out), of convolutions (height, width, in, out).
        decoder: up to the mean of x. A transposed convolution has the kernel of the convolution
            that it is the adjoint of: (height, width, out, in).
        log_sigma2: log σ².
    """

    encoder: list[Layer]
    decoder: list[Layer]
    log_sigma2: float


@dataclass(frozen=True)
class Problem:
    """What is trained: Adam on the mean −ELBO of minibatches drawn with replacement.

    Attributes:
        x: (N, n) or (N, height, width, channels), float32, centred.
        weights: initial ones of each model.
        batch_size: data per step.
        num_steps: of each model, in each call.
        observed: how many data a call looks at in the end, spread evenly.
        learning_rate: Adam's; the rest are its defaults, which all libraries share.
    """

    x: np.ndarray
    weights: Sequence[Weights]
    batch_size: int
    num_steps: int
    observed: int
    learning_rate: float = 1e-3

    @property
    def looked_at(self) -> np.ndarray:
        """The data that losses are measured on."""
        return self.x[np.arange(self.observed) * len(self.x) // self.observed]


class _Vae(nnx.Module):
    """Dense layers; float32 also where JAX computes in float64."""

    def __init__(self, weights: Weights) -> None:
        self.encoder, self.decoder = (
            nnx.List([self._linear(*layer) for layer in part])
            for part in (weights.encoder, weights.decoder)
        )
        self.log_sigma2 = nnx.Param(jnp.float32(weights.log_sigma2))

    @staticmethod
    def _linear(w: np.ndarray, b: np.ndarray) -> nnx.Linear:
        def given(values: np.ndarray) -> Any:
            return lambda key, shape, dtype: jnp.asarray(values, dtype)

        return nnx.Linear(
            *w.shape,
            kernel_init=given(w),
            bias_init=given(b),
            param_dtype=jnp.float32,
            rngs=nnx.Rngs(0),
        )

    @staticmethod
    def _run(layers: Any, x: jax.Array) -> jax.Array:
        *hidden, last = layers
        for layer in hidden:
            x = nnx.relu(layer(x))
        return last(x)

    def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
        mean, log_d = jnp.split(self._run(self.encoder, x), 2, axis=1)
        z = mean + jnp.exp(0.5 * log_d) * jax.random.normal(key, mean.shape, mean.dtype)
        square_error = ((x - self._run(self.decoder, z)) ** 2).sum(axis=1)
        log_sigma2 = self.log_sigma2[...]
        constant = x.shape[1] * (np.log(2 * np.pi).astype(np.float32) + log_sigma2)
        minus_log_density = 0.5 * (constant + square_error * jnp.exp(-log_sigma2))
        kl = 0.5 * (mean**2 + jnp.exp(log_d) - log_d - 1).sum(axis=1)
        return (minus_log_density + kl).mean()


@partial(nnx.jit, static_argnums=3)
def _nnx_step(
    model: _Vae, optimizer: nnx.Optimizer, x: jax.Array, batch_size: int, key: jax.Array
) -> jax.Array:
    key_batch, key_z = jax.random.split(key)
    batch = x[jax.random.randint(key_batch, (batch_size,), 0, len(x))]
    loss, gradient = nnx.value_and_grad(lambda model: model(batch, key_z))(model)
    optimizer.update(model, gradient)
    return loss


def nnx_loop(problem: Problem) -> Train:
    """Flax NNX, dense layers: a compiled step, called in a Python loop, one model after another."""
    x, looked_at = jnp.asarray(problem.x), jnp.asarray(problem.looked_at)
    models = [_Vae(weights) for weights in problem.weights]
    adam = optax.adam(problem.learning_rate)
    optimizers = [nnx.Optimizer(model, adam, wrt=nnx.Param) for model in models]
    loss_of = nnx.jit(lambda model, key: model(looked_at, key))
    key = jax.random.key(0)

    def train() -> np.ndarray:
        nonlocal key
        key, now = jax.random.split(key)
        losses = []
        for model, optimizer, own in zip(
            models, optimizers, jax.random.split(now, len(models)), strict=True
        ):
            for step in range(problem.num_steps):
                _nnx_step(model, optimizer, x, problem.batch_size, jax.random.fold_in(own, step))
            losses.append(loss_of(model, own))
        return np.array(losses)

    return train


def nnx_loss(weights: Weights, x: np.ndarray, key: jax.Array) -> float:
    """Of one batch, with noise from a key."""
    return float(nnx.jit(_Vae.__call__)(_Vae(weights), jnp.asarray(x), key))
