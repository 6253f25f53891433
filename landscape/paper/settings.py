"""How much `reproduce` computes: numbers alone, which a command line can show before JAX starts."""

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple


@dataclass(frozen=True)
class LinearSettings:
    """How much is computed of the linear VAE.

    Attributes:
        k: latents of the linear VAE trained on the data.
        num_steps: optimiser steps of that training; figure 3 takes a fifth of it for each k.
        learning_rate: of Adam with exact gradients, cosine to zero. All training is done in the
            eigenbasis of S, where an exact gradient costs a third.
        sampled_learning_rate: of Adam with sampled gradients, smaller because of their noise.
        batch_size: of the sampled gradients.
        seeds: number of seeds of each training.
        separated_seeds: number of seeds on a well-separated spectrum.
        latents: k of the models trained for figure 3.
        max_latents: right end of figure 3.
        fixed_latents: figure 3 holds σ² at its MLE for this many latents.
        searches: (n, k) of the random problems searched by brute force for stationary points.
        num_starts: Newton starts for each.
        notebook_subsets: random subsets of MNIST's images on which the authors' notebook is run
            again; 0: it is not. Other data have none.
        notebook_steps: optimiser steps on each; the notebook takes 12,000.
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
    notebook_subsets: int = 1
    notebook_steps: int = 12_000
    seed: int = 0

    def smoke(self) -> "LinearSettings":
        """Return settings for a minute: every stage, little training."""
        return replace(
            self, num_steps=200, seeds=1, separated_seeds=2, latents=(5,), max_latents=10,
            searches=((3, 2),), notebook_steps=6,
        )  # fmt: skip

    def full(self) -> "LinearSettings":
        """Return these settings with the notebook on three subsets at least, unless on none."""
        subsets = self.notebook_subsets and max(self.notebook_subsets, 3)
        return replace(self, notebook_subsets=subsets)


class Protocol(NamedTuple):
    """A way to train that is compared with others: Adam's rate, kept constant, and the batches."""

    learning_rate: float
    batch_size: int


# what the paper does not say; `networks.protocols` asks which of them its numbers fit
PROTOCOLS = tuple(Protocol(rate, size) for size in (128, 1000) for rate in (1e-3, 3e-4, 1e-4))


@dataclass(frozen=True)
class NetworkSettings:
    """Which nonlinear VAEs are trained, and for how long.

    Attributes:
        network: "mlp" or "conv", for colour images.
        widths: of the hidden layers of an MLP's encoder, figure 4's too, or channels of the
            convolutions; the decoder mirrors them.
        sigma2: initial σ² of the table's rows, each held and learned.
        seeds: of each row.
        curve_sigma2: further σ², held, for the curves of collapse.
        annealed_sigma2: held σ² at which KL annealing is compared, among `sigma2`.
        other_seeds: of curves, annealing and figure 4, at most `seeds`.
        learning_rate: of Adam.
        schedule: of the rate: "constant", or "decay": linearly to zero in the last fifth of the
            steps.
        warmup: steps in which the rate rises at first.
        linear_k: latents of the models with a linear decoder, figure 4.
        curvature_data: looked at for the curvature at a collapsed latent of the table's networks;
            0: none, because it takes a Hessian-vector product for each unit of the decoder's first
            layer, 4,096 for the convolutions.
        protocols: trained beside the table's own, which may be among them, at `protocols_sigma2`,
            held and learned, for as many epochs, one seed.
        protocols_sigma2: initial σ².
    """

    network: Literal["mlp", "conv"]
    k: int
    widths: tuple[int, ...]
    sigma2: tuple[float, ...]
    seeds: int
    curve_sigma2: tuple[float, ...]
    annealed_sigma2: tuple[float, ...]
    other_seeds: int
    epochs: int
    batch_size: int
    learning_rate: float = 1e-3
    schedule: Literal["constant", "decay"] = "decay"
    warmup: int = 500
    linear_k: int = 50
    curvature_data: int = 10_000
    protocols: tuple[Protocol, ...] = ()
    protocols_sigma2: float = 1.0


# rows 1 to 10 of the paper's table; the rate and the batches are those that its numbers fit best
MNIST = NetworkSettings(
    network="mlp", k=200, widths=(1024, 512), sigma2=(10.0, 1.0, 0.1, 0.01, 0.001), seeds=4,
    curve_sigma2=(30.0, 3.0, 0.3, 0.03, 0.003, 1e-4), annealed_sigma2=(10.0, 1.0), other_seeds=4,
    epochs=200, batch_size=128, learning_rate=3e-4, schedule="constant", protocols=PROTOCOLS,
)  # fmt: skip
# rows 11 to 20
CELEBA = replace(
    MNIST, network="conv", k=500, widths=(32, 64, 128, 256), seeds=5, other_seeds=1, epochs=40,
    batch_size=64, learning_rate=1e-3, schedule="decay", curvature_data=0, protocols=(),
)  # fmt: skip
# A few minutes on two cores. σ² = 30 is among the curves alone: there all runs start collapsed and
# when one leaves is a matter of its seed, so that little can be said of annealing beside it.
QUICK = replace(
    MNIST, k=100, widths=(256, 128), sigma2=(10.0, 1.0, 0.1), seeds=2,
    curve_sigma2=(100.0, 30.0, 3.0, 0.3), annealed_sigma2=(10.0,), other_seeds=1, epochs=25,
    batch_size=32, learning_rate=1e-3, schedule="decay", warmup=200, linear_k=50,
    curvature_data=2500, protocols=(),
)  # fmt: skip
# every sweep, hardly any training
SMOKE = replace(
    QUICK, k=4, widths=(8,), sigma2=(10.0, 1.0), curve_sigma2=(3.0,), epochs=2, warmup=2,
    annealed_sigma2=(10.0,), linear_k=3, curvature_data=500, protocols=(Protocol(3e-4, 32),),
)  # fmt: skip

# settings of networks that a user can give → the flag; the linear VAE's are flags by their names
_FLAGS = {
    "batch_size": "--network-batch", "seeds": "--network-seeds", "epochs": "--epochs",
    "other_seeds": "--other-seeds", "curvature_data": "--curvature", "protocols": "--protocols",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What one folder of results is made with.

    Attributes:
        linear: how much of the linear VAE; None: nothing, because colour images are too large for
            what is exact.
        networks: which networks.
        preset: how the choice is called: "quick", "smoke" or "full".
    """

    linear: LinearSettings | None = LinearSettings()
    networks: NetworkSettings = QUICK
    preset: Literal["quick", "smoke", "full"] = "quick"

    def named(self) -> dict[str, Any]:
        """Return every setting by the name that a user of `linvae reproduce` knows."""
        linear = {} if self.linear is None else vars(self.linear)
        flags = {"--" + name.replace("_", "-"): value for name, value in linear.items()}
        networks = {_FLAGS.get(name, f"networks' {name}"): value or None
                    for name, value in vars(self.networks).items()}  # fmt: skip
        return {"preset": self.preset} | flags | networks
