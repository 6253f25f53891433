"""How much `reproduce` computes: numbers alone, which a command line can show before JAX starts."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Settings:
    """How much to compute.

    Attributes:
        k: latents of the linear VAE trained on the data.
        num_steps: optimiser steps of that training; figure 3 takes a fifth of it for each k.
        learning_rate: of Adam with exact gradients, cosine to zero. All training is done in the
            eigenbasis of S, where an exact gradient costs a third.
        sampled_learning_rate: of Adam with sampled gradients, smaller because of their noise.
        batch_size: of the sampled gradients.
        seeds: number of seeds of each training.
        separated_seeds: of those on a well-separated spectrum.
        latents: k of the models trained for figure 3.
        max_latents: right end of figure 3.
        fixed_latents: figure 3 holds σ² at its MLE for this many latents.
        searches: (n, k) of the random problems searched by brute force for stationary points.
        num_starts: Newton starts for each.
        seed: everything random follows from it.
    """

    k: int = 50
    num_steps: int = 10_000
    learning_rate: float = 0.03
    sampled_learning_rate: float = 0.01
    batch_size: int = 128
    seeds: int = 2
    separated_seeds: int = 8
    latents: tuple[int, ...] = (5, 20, 50, 100)
    max_latents: int = 300
    fixed_latents: int = 50
    searches: tuple[tuple[int, int], ...] = ((2, 1), (3, 2), (4, 2), (3, 3), (4, 3), (4, 3))
    num_starts: int = 100
    seed: int = 0


def smoke(settings: Settings) -> Settings:
    """The same in a minute: every stage, little training."""
    return replace(
        settings, num_steps=200, seeds=1, separated_seeds=2, latents=(5,), max_latents=10,
        searches=((3, 2),),
    )  # fmt: skip
