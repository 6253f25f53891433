"""What each subcommand of `linvae` can be told: options, their defaults and their help.

Only the standard library and tyro are imported here, so that help and mistakes of typing are
answered before JAX has started. What a command does is imported when it runs.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from landscape.paper.settings import LinearSettings

_FLAT = tyro.conf.arg(name="")  # fields are flags by their own names


@dataclass(frozen=True)
class Data:
    """Which data, and how pixels become real numbers."""

    data: str = "digits"
    """"digits" (5,000 real MNIST digits, shipped), "photographs" (colour patches, shipped),
    "mnist" (60,000) or "celeba" (162,770) by tensorflow-datasets, or a .npy or .npz file holding
    an array (N, ...)."""
    preprocess: Literal["auto", "logit", "none"] = "auto"
    """"logit": uniform dequantisation, then the logit; "none": as they are. "auto" takes the
    logit for 8-bit images."""
    alpha: float = 1e-6
    """The logit is taken of alpha + (1 - 2 alpha) x."""
    data_dir: Path | None = None
    """Where tensorflow-datasets keeps prepared data."""
    manual_dir: Path | None = None
    """A folder with the original files, if you have downloaded them yourself."""
    count: int | None = None
    """Only so many, the first ones. The digits come sorted: of 1,000 half are zeros, half ones."""
    window: int | None = None
    """Only so many rows on the device at a time, the next ones read meanwhile; for networks alone,
    where all do not fit."""
    data_seed: int = 0
    """Of the dequantisation noise, and of the order of windows."""


OfData = Annotated[Data, _FLAT]


@dataclass(frozen=True)
class Fit:
    """Fit pPCA (closed form) or a linear VAE (training) to data, and save the model."""

    data: OfData = Data()
    method: Literal["ppca", "train"] = "ppca"
    """"ppca" is exact and immediate; "train" climbs the ELBO with Adam."""
    k: int = 50
    """Number of latents."""
    sigma2: float | None = None
    """Observation noise, held fixed; learned when not given."""
    num_steps: int = 10_000
    """Optimiser steps of "train"."""
    learning_rate: float = 0.01
    """Of Adam, cosine to zero."""
    seed: int = 0
    """Of the initial weights."""
    raw: bool = False
    """Train on the data in their own units. Adam's steps are the same in all units, so that it
    gets nowhere where those are far from 1; "train" therefore divides by the spread of a dimension
    first, and the model is given in the data's units all the same."""
    out: Path | None = None
    """Where the model goes; by default in results/fit, with a name by data, k and method."""


@dataclass(frozen=True)
class Points:
    """List pPCA's stationary points on data, the optimum first: value, index, escape rate.

    The ELBO has more, saddles all of them: `linvae landscape` lists all of a small problem.
    """

    data: OfData = Data()
    k: int = 5
    """Number of latents."""
    sigma2: float | None = None
    """Observation noise; its maximum-likelihood value when not given."""
    limit: int = 20
    """Show this many: those with most latents in use come first."""
    out: Path | None = None
    """Also save them as labelled data."""


@dataclass(frozen=True)
class Surface:
    """Draw the surface around a collapsed latent, for several σ² (figure 1)."""

    data: OfData = Data()
    components: tuple[int, int] = (5, 7)
    """Two principal directions, counted from 1."""
    sigma2: tuple[float, ...] = ()
    """One panel each; by default one where both directions are captured, one, and none."""
    out: Path = Path("results/surface")
    """Written as .png, .pdf and .nc."""


@dataclass(frozen=True)
class Sweep:
    """Train VAEs, linear or networks, for all combinations of seeds, σ², … at once.

    Killed or stopped, the same command goes on where the last checkpoint was.
    """

    data: OfData = Data()
    network: Literal[
        "linear", "mlp", "conv", "linear-encoder", "deep-linear-encoder", "mlp-encoder"
    ] = "linear"
    """"linear" has exact records; "mlp" and "conv" are nonlinear VAEs; the others have a linear
    decoder and the encoder of their name."""
    k: int = 20
    """Number of latents."""
    sigma2: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0)
    """Initial σ², or its values when held."""
    learned: tuple[bool, ...] = (False,)
    """Learn σ² (True), hold it (False), or both."""
    sigma2_update: Literal["gradient", "closed_form"] = "gradient"
    """How σ² is learned: log σ² with the weights, or set to the mean square error of each batch."""
    seeds: int = 2
    """Number of seeds, from `seed` on."""
    gradients: Literal["exact", "sampled"] = "exact"
    """Of "linear": the closed form, or minibatches with one z per datum."""
    num_steps: int = 5000
    """Optimiser steps."""
    learning_rate: tuple[float, ...] = (0.01,)
    """Of Adam. Networks want about 0.001."""
    schedule: Literal["constant", "cosine", "decay"] = "cosine"
    """How it goes down: not at all, by a cosine to zero, or linearly in the last fifth."""
    warmup: int = 0
    """First steps, in which it rises."""
    beta: tuple[float, ...] = (1.0,)
    """Weight of the KL."""
    anneal_steps: int = 0
    """Let that weight rise from zero in this many steps; 0: do not."""
    anneal_cycles: int = 1
    """How often it rises in those steps."""
    batch_size: int = 128
    """Data per step, when gradients are sampled."""
    seed: int = 0
    """First seed."""
    curvature: Literal["none", "latent", "all"] = "none"
    """Of networks, at the trained models of the first seed. "latent": could a collapsed latent come
    back, how fast, at which σ². "all": also the spectrum in all weights, matrix-free, at
    `sigma2`."""
    curvature_sigma2: tuple[float, ...] = ()
    """At which σ² for "latent"; by default from a tenth of the smallest to ten times the largest of
    `sigma2`."""
    curvature_data: int = 10_000
    """How many data that is a mean over; the spectrum in all weights, a tenth of them."""
    batching: Literal["auto", "vmap", "map", "loop"] = "auto"
    """How runs share the machine: all in one program, one after another, or one on each core."""
    checkpoint_seconds: float = 300.0
    """Between checkpoints."""
    out: Path = Path("results/sweep")
    """Folder for everything."""


@dataclass(frozen=True)
class Landscape:
    """Exact Hessian spectra, conditioning and escape over σ², and the census: tables, figures."""

    data: OfData = Data()
    k: int = 50
    """Number of latents."""
    sigma2: float | None = None
    """Noise at which spectra are taken; its maximum-likelihood value when not given."""
    out: Path = Path("results/landscape")
    """Folder for everything."""


@dataclass(frozen=True)
class Reproduce:
    """Measure the paper's claims, on linear and nonlinear VAEs: figures, tables, ledger, report.

    Killed or stopped, the same command goes on: finished sweeps of networks are not trained again.
    """

    data: OfData = Data(data="auto")
    settings: Annotated[LinearSettings, _FLAT] = field(default_factory=LinearSettings)
    full: bool = False
    """The paper's table: large networks on all of MNIST, or convolutional ones on colour images
    with `--data celeba` or `photographs`. For a GPU. "auto" data are then MNIST, else digits."""
    smoke: bool = False
    """A quick pass through every stage with little training: claims that need some, C7 to C10,
    may then fail."""
    epochs: int | None = None
    """Of the networks, instead of the preset's."""
    network_batch: int | None = None
    """Data per step of the networks, instead of the preset's."""
    network_seeds: int | None = None
    """Of each row of the table, instead of the preset's."""
    other_seeds: int | None = None
    """Of the curves, annealing and figure 4, instead of the preset's."""
    curvature: bool = True
    """Also look at the curvature at collapsed latents of the trained networks."""
    protocols: bool = True
    """Also train by other learning rates and batch sizes, for the rows that start at σ² = 1."""
    out: Path = Path("results")
    """Folder for everything."""


@dataclass(frozen=True)
class Report:
    """Write the report of a folder of results anew, from what is saved there: no training."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("results")
    """Where `linvae reproduce` wrote."""


@dataclass(frozen=True)
class Verify:
    """Compute the numbers of a folder's ledger, report and README anew, from its tables.

    It takes seconds, and exits with 1 at the first that differs: in which file and line.
    """

    folder: Annotated[Path, tyro.conf.Positional] = Path("results")
    """Where `linvae reproduce` wrote."""
    pages: tuple[Path, ...] = ()
    """Further pages that quote this report, in Markdown, besides those in the folder."""
    names: bool = False
    """Only list the numbers that a page can quote, by name."""


@dataclass(frozen=True)
class Diagnose:
    """Why do the latents of my VAE collapse? From data and loss, from saved codes, or both.

    The loss is said as your code has it. In seconds it answers what is optimal for it.
    """

    data: str | None = None
    """Your training data, as your network is given them: a .npy or .npz file holding an array
    (N, ...), or "digits", "mnist"."""
    preprocess: Literal["auto", "unit", "none"] = "auto"
    """"unit": divided by 255; "none": as they are. "auto" divides 8-bit numbers, unless they are
    counts of a Poisson likelihood."""
    k: int | None = None
    """Number of latents; needed without codes."""
    reconstruction: (
        Literal[
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
        | None
    ) = None
    """The error of one datum in your loss. It is summed over the dimensions, or averaged where its
    name begins with "mean" (`mse_loss` as it comes). "gaussian" is -log p(x | z) with σ²."""
    kl: Literal["sum", "mean"] = "sum"
    """The KL of one datum: summed over the latents, or averaged."""
    kl_weight: float = 1.0
    """What your code multiplies the KL with; β."""
    sigma2: float | None = None
    """σ² of "gaussian"; learned when not given."""
    error_over_batch: Literal["mean", "sum"] = "mean"
    """How your code takes the error of a batch together."""
    kl_over_batch: Literal["mean", "sum"] = "mean"
    """How it takes the KL of a batch together."""
    batch_size: int | None = None
    """Data in a batch; needed where one of these is a sum and the other a mean."""
    codes: Path | None = None
    """A .npz file with `mean` (N, k) and `log_var` (N, k) or (k,) of the training data, and perhaps
    `reconstruction` (N, ...) and `log_sigma2`."""
    seed: int = 0
    """Of the draws for mutual information."""
    out: Path | None = None
    """A folder for the page (diagnosis.html), its figures, and the numbers (diagnosis.nc)."""


Command = Fit | Points | Surface | Sweep | Landscape | Reproduce | Report | Verify | Diagnose
