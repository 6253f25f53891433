"""Training networks: many VAEs on one machine, against PyTorch and Flax in the same turns."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import network_peers, problems, records, timing
from benchmarks.network_peers import Layer, Problem, Train, Weights
from benchmarks.records import Measurement, Scale
from linvae_jax import networks, sweeps, vae
from linvae_jax._engine import executors, layouts, shapes
from linvae_jax.network_task import Data, NetworkTask
from linvae_jax.training import TrainConfig

NO_TORCH = "no PyTorch here to compare with: pip install '.[bench]'"
# Bars for many models on a CPU: a peer takes at least so many times longer.
LEAST = {"PyTorch": 1.2, "PyTorch, compiled": 1.2, "PyTorch, ensemble": 1.0}
SHARE = 0.8  # of the peak of float32 matrix products
CONVOLUTION = 0.5  # of PyTorch's speed
MANY = 50  # from here on fewer peers: each holds 2 GB, and a loop is as fast as with 10 models


@dataclass(frozen=True)
class Case:
    """What is trained in a turn.

    Attributes:
        model: architecture.
        models: how many, each from other weights.
        batch_size: data per step.
        num_steps: of each model.
        rounds: turns.
        count: size of the data set.
        observed: how many of them are looked at after the steps.
    """

    model: networks.Mlp | networks.Conv
    models: int
    batch_size: int
    num_steps: int
    rounds: int
    count: int = 10_000
    observed: int = 128

    def __str__(self) -> str:
        return f"{self.models} model{'s' * (self.models > 1)}, batch {self.batch_size}"

    @property
    def samples(self) -> int:
        """Data that a turn trains on, of all models together."""
        return self.models * self.num_steps * self.batch_size


def dense(scale: Scale) -> Iterator[Measurement]:
    """MLP of 784-1024-512-200 and back, Adam, float32; each call looks at 128 data in the end."""
    if scale == "smoke":
        model = networks.Mlp(12, 3, (8,), (8,))
        cases = [Case(model, 3, 8, 1, 2, 64, 16)]
    else:
        model = networks.Mlp(784, 200, (1024, 512), (512, 1024))
        cases = [
            Case(model, 1, 128, 40, 7),
            Case(model, 10, 128, 16, 7),
            Case(model, 50, 128, 5, 5),
        ]
    yield from same_loss(cases[0])
    for case in cases:
        many = scale != "smoke" and case.models > 1
        yield from _compare(case, LEAST if many else {}, SHARE if many else None)


def convolutional(scale: Scale) -> Iterator[Measurement]:
    """64 × 64 × 3, channels 32, 64, 128, 256, 500 latents, Adam, float32, against PyTorch."""
    if scale == "smoke":
        cases = [Case(networks.Conv((8, 8, 1), 2, (2,)), 1, 4, 1, 2, 16, 4)]
    else:
        cases = [Case(networks.Conv(), m, 64, steps, 7, 1000, 64) for m, steps in ((1, 6), (4, 2))]
    yield from same_loss(cases[0])
    for case in cases:
        least = {} if scale == "smoke" else dict.fromkeys(LEAST, CONVOLUTION)
        yield from _compare(case, least, None)


def ours(
    case: Case, x: np.ndarray, batching: str = "auto"
) -> tuple[Train, Callable[[], list[Weights]]]:
    """A call that trains on, and one that tells, before any training, from which weights.

    The layout is the one that `sweeps.run` would choose, or all models together in that asked for.
    """
    task = NetworkTask(case.model, case.batch_size, observed=case.observed)
    config = TrainConfig(case.num_steps, case.num_steps, schedule="constant")
    grid = sweeps.Grid(seeds=tuple(range(case.models)))
    zero, one = jnp.zeros(case.model.n, jnp.float32), jnp.ones(case.model.n, jnp.float32)
    data, hyper, keys = Data(jnp.asarray(x), zero, one), grid.hyperparameters("f4"), grid.keys()
    chunk = None if batching == "auto" else case.models
    layout = layouts.plan(task, config, data, hyper, keys, batching=batching, chunk=chunk)
    executor = executors.executor(task, config, layout)
    placed = executor.replicate(data)
    chunks = []
    for rows in np.arange(case.models + -case.models % layout.chunk).reshape(-1, layout.chunk):
        # the last chunk is filled up with the last model, as in a sweep
        some = jax.tree.map(lambda leaf: leaf[rows.clip(max=case.models - 1)], (hyper, keys))  # noqa: B023
        own_hyper, own_keys = map(executor.place, some)
        chunks.append([own_hyper, executor.begin(placed, own_hyper, own_keys)[0]])

    def starts() -> list[Weights]:
        return [
            _weights(case.model, {name: leaf[i] for name, leaf in params.items()})
            for params in (executor.host(executor.params(states)) for _, states in chunks)
            for i in range(layout.chunk)
        ][: case.models]

    def train() -> np.ndarray:
        losses = []
        for chunk in chunks:
            chunk[1], record = executor.segment(placed, *chunk)
            losses.append(-executor.host(record)["elbo"])
        return np.concatenate(losses)[: case.models]

    return train, starts


def _weights(model: networks.Mlp | networks.Conv, params: dict[str, np.ndarray]) -> Weights:
    """Our parameters, by name, as the peers want them."""

    def layer(name: str) -> Layer:
        return params[f"weights.{name}.kernel"], params[f"weights.{name}.bias"]

    sigma2 = float(params["log_sigma2"])
    if isinstance(model, networks.Mlp):
        encoder = [layer(f"encoder{i}") for i in range(len(model.encoder))]
        decoder = [layer(f"decoder{i}") for i in range(len(model.decoder))]
        return Weights([*encoder, layer("head")], [*decoder, layer("output")], sigma2)
    encoder, decoder = [], []
    for i in range(len(model.channels)):
        w, b = layer(f"encoder{i}")
        encoder.append((_kernel(w), b))
        w = params[f"weights.decoder{i}.kernel"]
        decoder.append((_kernel(w.T), params[f"weights.bias{i}"]))
    return Weights([*encoder, layer("head")], [layer("start"), *decoder], sigma2)


def _kernel(w: np.ndarray) -> np.ndarray:
    """Weights of 4 × 4 patches (16 in, out), see `networks.im2col`, as (4, 4, in, out)."""
    corners = w.reshape(2, 2, 2, 2, -1, w.shape[1])  # block down, across; pixel down, across
    return corners.transpose(0, 2, 1, 3, 4, 5).reshape(4, 4, -1, w.shape[1])


def peers_of(case: Case, x: np.ndarray, weights: list[Weights]) -> dict[str, Train]:
    """What the machine has to compare with, set up."""
    is_dense = isinstance(case.model, networks.Mlp)
    problem = Problem(shaped(case, x), weights, case.batch_size, case.num_steps, case.observed)
    peers: dict[str, Train] = {}
    if find_spec("torch") is not None:
        from benchmarks import torch_peers  # an optional package

        peers["PyTorch"] = torch_peers.loop(problem)
        if case.models < MANY:
            peers["PyTorch, compiled"] = torch_peers.loop(problem, compiled=True)
        if is_dense and case.models > 1:
            peers["PyTorch, ensemble"] = torch_peers.ensemble(problem)
    if is_dense and case.models < MANY:
        peers["Flax NNX"] = network_peers.nnx_loop(problem)
    return peers


def data_of(case: Case) -> np.ndarray:
    """(N, n) random data with the covariance of images, in a random basis of no account."""
    rng = np.random.default_rng(0)
    scale = np.sqrt(np.asarray(problems.spectrum(case.model.n)))
    return (rng.normal(size=(case.count, case.model.n)) * scale).astype(np.float32)


def peak(
    size: int, times: int, dtype: Any = jnp.float32, precision: Any = "highest"
) -> Callable[[], jax.Array]:
    """Square products of 2 size³ operations each, one after another."""
    # random, since a card that multiplies ones heats less and runs faster
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=precision))
    return lambda: [product(a) for _ in range(times)][-1]


def operations(case: Case) -> float:
    """In a turn, of dense layers: 6 for each weight and datum in training, 2 in looking."""
    leaves = shapes.shape_of(case.model.init, jax.random.key(0), 1.0).leaves.values()
    count = sum(math.prod(leaf.shape) for leaf in leaves if leaf.ndim == 2)
    return count * (6 * case.samples + 2 * case.models * case.observed)


def same_loss(case: Case) -> Iterator[Measurement]:
    """Whether the peers' loss is ours: the same weights, batch and noise, float32."""
    model, x = case.model, data_of(case)[: case.batch_size]
    key, rng = jax.random.key(1), np.random.default_rng(1)

    @jax.jit
    def ours(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        posterior, z = vae.forward(model, params, x, key)[2:]
        noise = (z - posterior.mean) * jnp.exp(-0.5 * posterior.log_d)
        terms = vae.elbo_terms(model, params, x, key)
        return (terms.kl.sum(axis=1) - terms.reconstruction).mean(), noise

    peers: dict[str, Callable[[Weights, Any], float]] = {}
    if isinstance(model, networks.Mlp):
        peers["Flax NNX"] = lambda weights, _: network_peers.nnx_loss(weights, x, key)
    if find_spec("torch") is not None:
        from benchmarks import torch_peers  # an optional package

        peers["PyTorch"] = lambda weights, noise: torch_peers.loss(weights, shaped(case, x), noise)
    if peers:
        # random everywhere, for all log variances and biases are zero where training starts
        shape = shapes.shape_of(model.init, key, 1.0)
        leaves = {
            name: (rng.normal(size=leaf.shape) * 0.03).astype(leaf.dtype)
            for name, leaf in shape.leaves.items()
        }
        params = jax.tree.unflatten(shape.structure, list(map(jnp.asarray, leaves.values())))
        loss, noise = map(np.asarray, ours(params, jnp.asarray(x)))
        weights = _weights(model, leaves)
        for name, peer in peers.items():
            what = f"loss of the same weights, batch and noise, relative difference of {name}'s"
            # rounding of float32, in sums of up to 12,288 terms in another order
            error = abs(peer(weights, noise) / float(loss) - 1)
            yield records.plain(what, error, "1", bar=1e-5)


def shaped(case: Case, x: np.ndarray) -> np.ndarray:
    """Rows of pixels as the peers want them."""
    return x if isinstance(case.model, networks.Mlp) else x.reshape(-1, *case.model.shape)


def _agreement(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Losses after as many steps, from the same weights but other noise."""
    difference = theirs - ours
    error = difference.std(ddof=1) / len(ours) ** 0.5 if len(ours) > 1 else np.nan
    noise = f" ± {error:.1g}" if np.isfinite(error) else ""
    means = f"loss {theirs.mean():.1f}, ours {ours.mean():.1f}"
    return f"{means}: difference {difference.mean():.2g}{noise} nats"


def _compare(case: Case, least: dict[str, float], share: float | None) -> Iterator[Measurement]:
    x = data_of(case)
    train, starts = ours(case, x)
    weights = starts()
    peers = peers_of(case, x, weights)
    size, times = (2048, 8) if case.samples > 1000 else (64, 1)
    # the peak next to ours: on a shared host it changes from second to second
    functions: dict[str, Any] = {"peak": peak(size, times), "ours": train, **peers}
    samples, losses = timing.interleaved(functions, case.rounds)
    yield records.rate(
        f"{case}",
        case.samples,
        samples["ours"],
        "samples/s",
        note="" if find_spec("torch") else NO_TORCH,
    )
    for name in peers:
        yield records.rate(f"{name}, {case}", case.samples, samples[name], "samples/s")
        yield records.ratio(
            f"{name} over ours, {case}",
            samples[name],
            samples["ours"],
            at_least=least.get(name) if jax.default_backend() == "cpu" else None,
            note=_agreement(losses["ours"], losses[name]),
        )
    if isinstance(case.model, networks.Mlp):
        # a ratio of times too: what the products alone would take, over what the turn takes
        products = operations(case) / (2 * size**3 * times)
        ideal = timing.Sample(samples["peak"].seconds * products, samples["peak"].others)
        yield records.ratio(
            f"peak of float32 matrix products, reached by {case}",
            ideal,
            samples["ours"],
            at_least=share,
        )
