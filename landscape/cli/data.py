"""Data as the options name them, ready for a linear VAE; values that are looked at before work."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from landscape.cli.options import Data
from linvae_jax import machine, ppca, streams
from linvae_jax._internal import checks
from linvae_jax.data import datasets, preprocessing


class Opened(NamedTuple):
    """A data set as it lies, and what is to be done with it.

    Attributes:
        dataset: with as many rows as were asked for.
        transform: the logit, if its pixels are to be taken to the real line.
        constant: nats that turn an ELBO into one of pixels.
        identity: all that decides the numbers, by names that a user knows; not where a file lies,
            nor what is not used.
    """

    dataset: datasets.Dataset
    transform: preprocessing.Logit | None
    constant: float
    identity: dict[str, Any]


class RealData(NamedTuple):
    """Real numbers `x`, (N, n), for a linear VAE; the rest is as in `Opened` and its data set.

    They have the precision that came, because they may be rounded only after their mean is taken
    off.
    """

    x: Any
    constant: float
    source: str
    identity: dict[str, Any]


def open_set(options: Data) -> Opened:
    """Load the data set that the options name."""
    seed("data_seed", options.data_seed)
    dataset = datasets.load(options.data, data_dir=options.data_dir, manual_dir=options.manual_dir)
    if options.count is not None:
        checks.in_range("count", options.count, 1, len(dataset.images), "what there is")
        labels = None if dataset.labels is None else dataset.labels[: options.count]
        dataset = replace(dataset, images=dataset.images[: options.count], labels=labels)
    eight_bit = dataset.images.dtype == np.uint8
    if options.preprocess == "logit" and not eight_bit:
        checks.fail("preprocess", f"'logit' for data of dtype {dataset.images.dtype}", "uint8")
    used = eight_bit and options.preprocess != "none"
    transform = preprocessing.Logit(options.alpha) if used else None
    identity = {
        "data": dataset.source, "--preprocess": "logit" if used else "none",
        "--alpha": options.alpha if used else None, "--count": options.count,
        "--window": options.window,
        "--data-seed": options.data_seed if used or options.window is not None else None,
    }  # fmt: skip
    constant = transform.constant(dataset.images) if transform else 0.0
    return Opened(dataset, transform, constant, identity)


def real_data(options: Data) -> RealData:
    """Load and preprocess for a linear VAE."""
    if options.window is not None:
        checks.fail(
            "window", f"{options.window} for a linear VAE", "none: windows are for networks",
            "`linvae sweep --network mlp --window …` takes them.",
        )  # fmt: skip
    dataset, transform, constant, identity = open_set(options)
    x = dataset.images
    needed, left = 8 * x.size, machine.free_memory()
    if 2 * needed > left:  # the data, and a copy on the way
        checks.fail(
            "data", f"{x.shape} numbers, {needed / 1e9:.0f} GB in double precision",
            f"at most half of the {left / 1e9:.0f} GB that are free",
            "Save a part of them as .npy; `linvae sweep --network` keeps pixels as bytes.",
        )  # fmt: skip
    if transform is not None:
        x = transform(x, key(options), float)
    elif x.dtype.itemsize < 8:  # float64 holds these; it would round 64-bit integers
        x = x.astype(np.float64)
    return RealData(x, constant, dataset.source, identity)


def key(options: Data) -> jax.Array:
    """Make the key of the dequantisation noise."""
    return streams.key(options.data_seed, "data noise", "data_seed")


def learnable(lam: jax.Array, count: Any, k: int, why: str = "") -> float:
    """Return the σ² of maximum likelihood for k latents, which needs k below the rank of S.

    Where there is none, `ValueError` says why, and what to do instead: as `ppca` does, or `why`.
    """
    n = len(lam)
    if n < 2:
        checks.fail("data", "data of one dimension", "two or more: σ² learned needs k < n")
    checks.in_range("k", k, 1, n - 1, "σ² learned needs k < n")
    try:
        ppca.check_learned_sigma2(lam, k, 1.0, count, "data")
    except ValueError as error:
        if not why:
            raise
        raise ValueError(f"{str(error).partition('. ')[0]}. {why}") from error
    return float(ppca.optimal_sigma2(lam, k))


def distinct(name: str, values: Sequence[Any]) -> None:
    """Raise where a value comes twice: the two would be the same runs, with the same label."""
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        checks.fail(name, f"{twice[0]} twice", "each value once")


def seed(name: str, seed: int, count: int = 1) -> None:
    """Raise unless `count` seeds from this one on are seeds (`streams.check`)."""
    checks.in_range(name, seed, 0, 2**32 - max(count, 1), "32 bits")
