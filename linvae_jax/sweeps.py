"""Many training runs at once: seeds × σ², batched the way the device likes it.

Runs are independent; one that diverges ends in NaN, is reported as diverged, and does not touch
its neighbours.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from linvae_jax import _checks, progress, tables, training
from linvae_jax.linear import LinearVAE

Batching = Literal["auto", "vmap", "map"]


class Sweep(NamedTuple):
    """Trained models and their history.

    Attributes:
        params: `LinearVAE` whose arrays have leading axes (seeds, σ²).
        table: labelled history; dimensions seed, sigma2_init, step (and latent).
    """

    params: LinearVAE
    table: xr.Dataset


def _batched(function: Callable[..., Any], batching: Batching) -> Callable[..., Any]:
    """`function` over a leading axis of runs: side by side (vmap), or one after another (map)."""
    if batching == "auto":
        # S Vᵀ of all runs is one large product: faster on CPU too (benchmarks/bench_sweep.py)
        batching = "vmap"
    if batching == "vmap":
        return jax.vmap(function)
    return lambda *args: jax.lax.map(lambda one: function(*one), args)


@partial(jax.jit, static_argnums=(0, 1))
def _init(config: training.TrainConfig, batching: Batching, problem: Any, hyper: Any, keys: Any):
    return _batched(partial(training.init, config, problem), batching)(hyper, keys)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def _segment(
    config: training.TrainConfig, batching: Batching, problem: Any, hyper: Any, states: Any
):
    return _batched(partial(training.segment, config, problem), batching)(hyper, states)


def run(
    config: training.TrainConfig,
    problem: training.Problem,
    *,
    seeds: Sequence[int],
    sigma2: Sequence[float],
    learning_rate: float = 1e-3,
    beta: float = 1.0,
    batching: Batching = "auto",
    quiet: bool = False,
) -> Sweep:
    """Train a linear VAE for every seed and every σ².

    Args:
        config: static configuration of a run.
        problem: the data.
        seeds: each gives one key, the same for every σ².
        sigma2: initial σ², or the value held when `config.learn_sigma2` is false.
        learning_rate: of every run.
        beta: weight of the KL.
        batching: "vmap" trains all runs side by side, "map" one after another in one program,
            for when memory is short; "auto" is "vmap", the faster on the
            devices measured so far (benchmarks/README.md).
        quiet: no progress bar.

    Returns:
        `Sweep`. Deterministic for the same arguments, device and batching.

    Raises:
        ValueError: empty seeds or σ², or as `training.train`.
    """
    for name, values in (("seeds", seeds), ("sigma2", sigma2)):
        if not len(values):
            _checks.fail(name, "an empty sequence", "at least one value")
    if batching not in ("auto", "vmap", "map"):
        _checks.fail("batching", repr(batching), "one of ('auto', 'vmap', 'map')")
    shape = (len(seeds), len(sigma2))
    dtype = problem.moments.mean.dtype
    runs = shape[0] * shape[1]
    hyper = training.Hyperparameters(
        learning_rate=jnp.full(runs, learning_rate, dtype),
        sigma2=jnp.tile(jnp.asarray(sigma2, dtype), len(seeds)),
        beta=jnp.full(runs, beta, dtype),
    )
    training.check(config, problem, hyper)
    keys = jnp.repeat(jnp.stack([jax.random.key(seed) for seed in seeds]), len(sigma2))

    states = _init(config, batching, problem, hyper, keys)
    records = []
    with progress.bar(config.num_steps, f"{runs} runs", "step", quiet) as bar:
        for _ in range(config.num_records):
            states, record = _segment(config, batching, problem, hyper, states)
            records.append(record)
            bar.update(config.record_every)
            bar.set_postfix_str(
                f"ELBO {record.elbo.min():.2f} to {record.elbo.max():.2f}", refresh=False
            )
    history = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *records)
    history = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), history)
    params = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), states.params)
    attrs = tables.provenance(config, learning_rate=learning_rate, beta=beta, batching=batching)
    return Sweep(params, _table(history, seeds, sigma2, attrs))


def _table(
    history: training.Record, seeds: Sequence[int], sigma2: Sequence[float], attrs: dict[str, str]
) -> xr.Dataset:
    dims = ("seed", "sigma2_init", "step")
    nats = "nats/datum"
    return tables.dataset(
        {
            "elbo": (dims, history.elbo, nats, "exact ELBO"),
            "gap": (dims, history.gap, nats, "ELBO below its global maximum"),
            "likelihood_gap": (
                dims,
                history.likelihood_gap,
                nats,
                "pPCA log-likelihood below its maximum",
            ),
            "sigma2": (dims, history.sigma2, "data unit²", "observation noise σ²"),
            "kl": ((*dims, "latent"), history.kl, nats, "mean KL per latent"),
            "angle": (
                (*dims, "latent"),
                history.angle,
                "degree",
                "angle of a decoder column to the nearest principal direction",
            ),
            "collapsed": (dims, history.collapsed, "1", "(0.01, 0.01)-collapsed latents"),
            "diverged": (dims[:2], ~jnp.isfinite(history.elbo[..., -1]), "1", "run ended in NaN"),
        },
        coords={
            "seed": np.asarray(seeds),
            "sigma2_init": (sigma2, "data unit²", "initial (or held) observation noise σ²"),
            "step": (history.step[0, 0], "1", "optimiser steps"),
            "latent": np.arange(history.kl.shape[-1]),
        },
        attrs=attrs,
    )
