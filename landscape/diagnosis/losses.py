"""The loss as a user wrote it: which τ, or which β, is it?

Code minimises c_R · error + c_K Σ_j KL_j, averaged over the data, with whatever c_R and c_K it has.
Divided by 2σ²c_R that is the negative β-ELBO. At fixed τ = βσ² nothing else matters for weights:

| the code says | c_R | c_K | τ |
| --- | --- | --- | --- |
| squared error summed over n dimensions, w times the KL summed over k latents | 1 | w | w/2 |
| half of that squared error, the same | ½ | w | w |
| squared error averaged over n dimensions, the same | 1/n | w | wn/2 |
| squared error averaged over n, w times the KL averaged over k latents | 1/n | w/k | wn/(2k) |
| KL averaged over a batch of B, error summed over it (or the reverse) | | | × 1/B (× B) |
| Gaussian likelihood with σ² and weight β | 1/(2σ²) | β | βσ² |

Of cross-entropy and of Poisson likelihoods there is no σ²; c_K/c_R is β itself, and takes the place
of τ (`landscape.curvature.onset`).

>>> from landscape.diagnosis import losses
>>> loss = losses.Loss("mean-squared-error", kl_weight=1.0)
>>> loss.level(n=784, k=32), loss.weight(5.0, n=784, k=32) == 10 / 784
(392.0, True)
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from linvae_jax._internal import checks

Reconstruction = Literal[
    "summed-squared-error",
    "half-squared-error",
    "mean-squared-error",
    "gaussian",
    "mean-gaussian",
    "binary-cross-entropy",
    "mean-binary-cross-entropy",
    "poisson",
    "mean-poisson",
]
Over = Literal["sum", "mean"]

_SQUARED = ("summed-squared-error", "mean-squared-error")  # without the ½ of a likelihood
_GAUSSIAN = ("gaussian", "mean-gaussian")
_FAMILIES = {"binary-cross-entropy": "bernoulli", "poisson": "poisson"}


@dataclass(frozen=True)
class Loss:
    """A loss is said as the code has it.

    Attributes:
        reconstruction: the error, summed over the n dimensions of a datum, or where its name begins
            with "mean" averaged over them. "gaussian" is −log p(x | z), whose σ² is `sigma2`.
        kl: summed over the k latents, or averaged over them.
        kl_weight: what the KL is multiplied with, > 0; β of "gaussian".
        sigma2: of "gaussian" and "mean-gaussian", in the data's unit²; learned if None.
        error_over_batch: averaged over the data of a batch, or summed.
        kl_over_batch: likewise.
        batch_size: data of a batch; needed where one is summed over it and the other averaged.

    Raises:
        ValueError: an unknown word; a weight that is not > 0; σ² of a loss that has none; a batch
            size missing, or without use.
    """

    reconstruction: Reconstruction = "summed-squared-error"
    kl: Over = "sum"
    kl_weight: float = 1.0
    sigma2: float | None = None
    error_over_batch: Over = "mean"
    kl_over_batch: Over = "mean"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Raise `ValueError` for what is no loss."""
        checks.one_of("reconstruction", self.reconstruction, get_args(Reconstruction))
        checks.literals(self)
        if checks.scalar("kl_weight", self.kl_weight) == 0:
            checks.fail(
                "kl_weight", 0, "a number > 0",
                "Without the KL this is an autoencoder: nothing pulls a latent to the prior, none "
                "collapses, and samples of the prior mean nothing to its decoder.",
            )  # fmt: skip
        checks.positive("kl_weight", self.kl_weight)
        if self.sigma2 is not None:
            if self.reconstruction not in _GAUSSIAN:
                got = f"{self.sigma2} with the reconstruction {self.reconstruction!r}"
                hint = 'Take reconstruction "gaussian" with it.'
                checks.fail("sigma2", got, "none: only a Gaussian likelihood has it", hint)
            checks.positive("sigma2", self.sigma2)
        mixed = self.error_over_batch != self.kl_over_batch
        if mixed and self.batch_size is None:
            got = f"none, the error's {self.error_over_batch} and the KL's {self.kl_over_batch}"
            checks.fail("batch_size", got, "the number of data in a batch, which then matters")
        if self.batch_size is not None:
            checks.in_range("batch_size", self.batch_size, 1, 2**31 - 1, "at least one datum")
            if not mixed:
                got = f"{self.batch_size}, with error and KL both the batch's"
                checks.fail("batch_size", f"{got} {self.kl_over_batch}", "none: it cancels")

    @property
    def family(self) -> Literal["gaussian", "bernoulli", "poisson"]:
        """The likelihood whose negative logarithm the error is, up to a constant and a scale."""
        found: Any = _FAMILIES.get(self.reconstruction.removeprefix("mean-"), "gaussian")
        return found

    @property
    def learns_sigma2(self) -> bool:
        """Whether σ² is trained with the weights; β decides then, not τ."""
        return self.reconstruction in _GAUSSIAN and self.sigma2 is None

    def level(self, n: int, k: int) -> float:
        """Return τ, in the data's unit²; β where σ² is learned, and of other likelihoods."""
        return self.kl_weight * self._level_at_weight_one(n, k)

    def weight(self, level: Any, n: int, k: int) -> Any:
        """Return the `kl_weight` for a level, or for each of many: the inverse of `level`."""
        return level / self._level_at_weight_one(n, k)

    def sigma2_and_beta(self, n: int, k: int) -> tuple[float | None, float]:
        """Split the level of a Gaussian likelihood: σ² (None: learned) and β.

        A loss that states no σ² is an ELBO with σ² = τ and β = 1.
        """
        level = self.level(n, k)
        if self.reconstruction not in _GAUSSIAN:
            return level, 1.0
        return self.sigma2, level if self.sigma2 is None else level / self.sigma2

    def _level_at_weight_one(self, n: int, k: int) -> float:
        """Compute c_K/(2 c_R) of squared errors, c_K/c_R of negative log-likelihoods."""
        level = 0.5 if self.reconstruction in _SQUARED else 1.0
        if self.reconstruction.startswith("mean"):
            level *= n
        if self.kl == "mean":
            level /= k
        if self.sigma2 is not None:
            level *= self.sigma2
        if self.batch_size is not None:
            summed = self.kl_over_batch == "sum"
            level = level * self.batch_size if summed else level / self.batch_size
        return level

    def in_words(self) -> str:
        """Write the loss in one line."""
        error = self.reconstruction.replace("-", " ")
        if self.reconstruction in _GAUSSIAN:
            held = "learned" if self.learns_sigma2 else f"{self.sigma2:g}"
            mean = " averaged over dimensions" if self.reconstruction != "gaussian" else ""
            error = f"−log p(x | z){mean}, Gaussian with σ² {held}"
        of_kl = "the KL" if self.kl == "sum" else "the KL averaged over latents"
        text = f"{error} + {self.kl_weight:g} × {of_kl}"
        if self.batch_size is None:
            return text
        summed = "error" if self.error_over_batch == "sum" else "KL"
        return f"{text}; the {summed} summed over batches of {self.batch_size}, the other averaged"
