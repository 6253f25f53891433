"""VAEs as users write and train them, in PyTorch; the very same code runs in JAX where that is not.

Only the few functions below differ between the two, and the loop of training, which each writes in
its own way: Adam, whose rate falls to zero along a cosine, on batches shuffled anew in each epoch.
Each datum of a batch is there twice, with ε and with −ε: as unbiased as two independent draws, and
without the noise that is odd in ε, which alone would put some KL off by more than a per cent. Many
runs go side by side: their weights have a leading dimension.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

try:
    import torch  # pyright: ignore[reportMissingImports]
except ImportError:
    torch = None

xp: Any = jnp if torch is None else torch
Weights = dict[str, Any]  # each (runs, …)
# (weights, x (B, n), ε (runs, B, k)) → reconstructions (runs, B, n), means and log variances
Forward = Callable[[Weights, Any, Any], tuple[Any, Any, Any]]
# (weights, x, ε) → a number to be minimised, the sum over runs
Objective = Callable[[Weights, Any, Any], Any]

if torch is None:
    vmap, relu = jax.vmap, jax.nn.relu

    def mse_loss(x_hat: Any, x: Any, reduction: str = "mean") -> Any:
        """Do as `torch.nn.functional.mse_loss`."""
        square = (x_hat - x) ** 2
        return square.mean() if reduction == "mean" else square.sum()
else:
    vmap, relu, mse_loss = torch.vmap, torch.relu, torch.nn.functional.mse_loss


def kl_of(mean: Any, log_var: Any) -> Any:
    """Write the KL (…, k) as everybody does."""
    return -0.5 * (1 + log_var - mean**2 - xp.exp(log_var))


def dense(rng: np.random.Generator, runs: int, name: str, inputs: int, outputs: int) -> Weights:
    """Start a layer as `torch.nn.Linear` does: uniform up to 1/√inputs."""
    bound = inputs**-0.5
    draw = {"weight": (runs, inputs, outputs), "bias": (runs, 1, outputs)}
    return {f"{name}.{part}": rng.uniform(-bound, bound, shape) for part, shape in draw.items()}


def mlp(widths: dict[str, tuple[int, ...]], runs: int, seed: int) -> Weights:
    """Start a VAE: of `widths` "encoder" goes from data to heads, "decoder" from codes to data."""
    rng = np.random.default_rng(seed)
    weights: Weights = {"log_sigma2": np.zeros(runs)}
    for part, sizes in widths.items():
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            weights |= dense(rng, runs, f"{part}{i}", inputs, outputs)
    return weights


def forward(weights: Weights, x: Any, eps: Any) -> tuple[Any, Any, Any]:
    """Encode, draw z, decode: ReLU between layers; the linear VAE where there is one layer each."""

    def layers(part: str, h: Any) -> Any:
        depth = sum(name.startswith(part) for name in weights) // 2
        for i in range(depth):
            h = h @ weights[f"{part}{i}.weight"] + weights[f"{part}{i}.bias"]
            h = relu(h) if i < depth - 1 else h
        return h

    heads, k = layers("encoder", x), eps.shape[-1]
    mean, log_var = heads[..., :k], heads[..., k:]
    return layers("decoder", mean + xp.exp(0.5 * log_var) * eps), mean, log_var


def train(
    start: Weights,
    objective: Objective,
    x: np.ndarray,
    *,
    k: int,
    batch: int,
    epochs: int,
    rate: float,
    chunks: int = 1,
) -> list[dict[str, np.ndarray]]:
    """Train in float32; return the weights after each of `chunks` parts, in NumPy.

    A batch is `batch` rows of x, each of them twice.
    """
    use = _train_in_jax if torch is None else _train_in_torch
    runs = len(start["log_sigma2"])
    start = {name: np.asarray(value, np.float32) for name, value in start.items()}
    assert batch % 2 == len(x) % (batch // 2) == epochs % chunks == 0
    half = (runs, batch // 2, k)
    return use(start, objective, x.astype(np.float32), half, epochs, rate, chunks)


def _train_in_torch(
    start: Weights, objective: Objective, x: Any, shape: Any, epochs: int, rate: float, chunks: int
) -> list[dict[str, np.ndarray]]:
    assert torch is not None
    torch.manual_seed(0)
    torch.set_num_threads(1)  # of products this small threads only wait for each other
    x, half = torch.from_numpy(x), shape[1]
    weights = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
    adam = torch.optim.Adam(weights.values(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, epochs * len(x) // half)
    kept = []
    for epoch in range(epochs):
        for rows in torch.randperm(len(x)).split(half):
            eps = torch.randn(shape)
            adam.zero_grad()
            objective(weights, x[rows.repeat(2)], torch.cat([eps, -eps], 1)).backward()
            adam.step()
            schedule.step()
        if (epoch + 1) % (epochs // chunks) == 0:
            kept.append({name: value.detach().numpy().copy() for name, value in weights.items()})
    return kept


def _train_in_jax(
    start: Weights, objective: Objective, x: Any, shape: Any, epochs: int, rate: float, chunks: int
) -> list[dict[str, np.ndarray]]:
    half = shape[1]
    adam = optax.adam(optax.cosine_decay_schedule(rate, epochs * len(x) // half))

    def step(state: Any, given: Any) -> tuple[Any, None]:
        weights, moments = state
        rows, key = given
        eps = jax.random.normal(key, shape, jnp.float32)
        both = jnp.concatenate([eps, -eps], axis=1)
        gradient = jax.grad(objective)(weights, jnp.asarray(x)[jnp.tile(rows, 2)], both)
        updates, moments = adam.update(gradient, moments)
        return (optax.apply_updates(weights, updates), moments), None

    def epoch(state: Any, key: Any) -> tuple[Any, None]:
        shuffled, *keys = jax.random.split(key, len(x) // half + 1)
        rows = jax.random.permutation(shuffled, len(x)).reshape(-1, half)
        return jax.lax.scan(step, state, (rows, jnp.stack(keys)))

    @jax.jit
    def run(weights: Weights) -> Weights:
        def chunk(state: Any, keys: Any) -> tuple[Any, Weights]:
            state, _ = jax.lax.scan(epoch, state, keys)
            return state, state[0]

        # its generator is the fastest on CPU
        keys = jax.random.split(jax.random.key(0, impl="rbg"), (chunks, epochs // chunks))
        return jax.lax.scan(chunk, (weights, adam.init(weights)), keys)[1]

    kept = jax.tree.map(np.asarray, run(jax.tree.map(jnp.asarray, start)))
    return [{name: value[i] for name, value in kept.items()} for i in range(chunks)]


def saved(weights: dict[str, np.ndarray], x: np.ndarray, k: int) -> list[dict[str, np.ndarray]]:
    """Return what each run saves of its codes, and reconstructions of z drawn as in training."""
    runs = len(weights["log_sigma2"])
    eps = np.random.default_rng(0).normal(size=(runs, len(x), k))
    as_array = jnp.asarray if torch is None else torch.from_numpy
    given = {name: as_array(value) for name, value in weights.items()}
    x_hat, mean, log_var = (
        np.asarray(value)
        for value in forward(
            given, as_array(x.astype(np.float32)), as_array(eps.astype(np.float32))
        )
    )
    return [
        {"mean": mean[i], "log_var": log_var[i], "reconstruction": x_hat[i]} for i in range(runs)
    ]
