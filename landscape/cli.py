"""The command `linvae`: each subcommand is a dataclass of options and a few lines that run it.

Every run prints its configuration first, seed included; the same configuration gives the same
numbers on the same machine.
"""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
import xarray as xr

from landscape import (
    block_summaries,
    figures,
    ledger,
    nonlinear,
    nonlinear_figures,
    places,
    report,
    reproduce,
    stationary,
    surface,
    trained,
)
from linvae_jax import (
    _checks,
    linear,
    linear_task,
    network_task,
    networks,
    parallel,
    ppca,
    streams,
    sweep_folder,
    sweeps,
    tables,
    training,
)
from linvae_jax import moments as mom
from linvae_jax.data import datasets, preprocessing, windows


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


class Loaded(NamedTuple):
    """Data ready for the model; `constant` nats turn its ELBO into one of pixels.

    `x` (N, n) are real numbers in the precision that came, since they may be rounded only after
    their mean is taken off. `identity` is all that decides them, by names that a user knows.
    """

    x: Any
    constant: float
    source: str
    identity: dict[str, Any]


def _open(options: Data) -> tuple[datasets.Dataset, preprocessing.Logit | None]:
    """The data set, and the logit if its pixels are to be taken to the real line."""
    _seed("data_seed", options.data_seed)
    dataset = datasets.load(options.data, data_dir=options.data_dir, manual_dir=options.manual_dir)
    if options.count is not None:
        _checks.in_range("count", options.count, 1, len(dataset.images), "what there is")
        labels = None if dataset.labels is None else dataset.labels[: options.count]
        dataset = replace(dataset, images=dataset.images[: options.count], labels=labels)
    eight_bit = dataset.images.dtype == np.uint8
    if options.preprocess == "none" or (options.preprocess == "auto" and not eight_bit):
        return dataset, None
    if not eight_bit:
        _checks.fail("preprocess", f"'logit' for data of dtype {dataset.images.dtype}", "uint8")
    return dataset, preprocessing.Logit(options.alpha)


def _identity(options: Data, source: str, transform: preprocessing.Logit | None) -> dict[str, Any]:
    """All that decides the numbers; not where a file lies, nor settings that are not used."""
    used = transform is not None
    return {
        "data": source, "--preprocess": "logit" if used else "none",
        "--alpha": options.alpha if used else None, "--count": options.count,
        "--window": options.window,
        "--data-seed": options.data_seed if used or options.window is not None else None,
    }  # fmt: skip


def load(options: Data) -> Loaded:
    """Load and preprocess for a linear VAE."""
    if options.window is not None:
        _checks.fail(
            "window", f"{options.window} for a linear VAE", "none: windows are for networks",
            "`linvae sweep --network mlp --window …` takes them.",
        )  # fmt: skip
    dataset, transform = _open(options)
    needed, left = 8 * dataset.images.size, parallel.free_memory()
    if 2 * needed > left:  # the data, and a copy on the way
        _checks.fail(
            "data",
            f"{dataset.images.shape} numbers, {needed / 1e9:.0f} GB in double precision",
            f"at most half of the {left / 1e9:.0f} GB that are free",
            "Save a part of them as .npy; `linvae sweep --network` keeps pixels as bytes.",
        )
    identity = _identity(options, dataset.source, transform)
    if transform is None:
        x = dataset.images
        if x.dtype.itemsize < 8:  # float64 holds these; it would round 64-bit integers
            x = x.astype(np.float64)
        return Loaded(x, 0.0, dataset.source, identity)
    x = transform(dataset.images, _data_key(options), float)
    return Loaded(x, transform.constant(dataset.images), dataset.source, identity)


def _data_key(options: Data) -> jax.Array:
    return streams.key(options.data_seed, "data noise", "data_seed")


class ForNetworks(NamedTuple):
    """Data that stay pixels until a training step looks at them."""

    data: network_task.Data
    transform: preprocessing.Logit | None
    constant: float
    source: str
    image_shape: tuple[int, ...] | None
    identity: dict[str, Any]


def load_for_networks(options: Data) -> ForNetworks:
    """Load; 8-bit pixels get fresh dequantisation noise in each step."""
    dataset, transform = _open(options)
    values = dataset.images
    constant = 0.0 if transform is None else transform.constant(values)
    if transform is None and values.dtype.kind in "iu":  # as floats that hold them
        wide = {1: np.float32, 2: np.float32, 4: np.float64, 8: np.longdouble}
        values = values.astype(wide[values.dtype.itemsize])
    if options.window is not None:
        values = windows.Windows(values, options.window, options.data_seed)
    data = network_task.prepare(values, transform, _data_key(options))
    return ForNetworks(
        data, transform, constant, dataset.source, dataset.image_shape,
        _identity(options, dataset.source, transform),
    )  # fmt: skip


def _learnable(lam: jax.Array, count: Any, k: int, why: str = "") -> float:
    """The σ² of maximum likelihood for k latents, which needs k below the rank of S.

    Args:
        lam: (n,), eigenvalues of S.
        count: number of data.
        k: number of latents.
        why: what to do instead, if it is not what `ppca` says.

    Raises:
        ValueError: there is none: k ≥ n, or k latents explain all variance.
    """
    n = len(lam)
    if n < 2:
        _checks.fail("data", "data of one dimension", "two or more: σ² learned needs k < n")
    _checks.in_range("k", k, 1, n - 1, "σ² learned needs k < n")
    try:
        ppca.check_learned_sigma2(lam, k, 1.0, count, "data")
    except ValueError as error:
        if not why:
            raise
        raise ValueError(f"{str(error).partition('. ')[0]}. {why}") from error
    return float(ppca.optimal_sigma2(lam, k))


@dataclass(frozen=True)
class Fit:
    """Fit pPCA (closed form) or a linear VAE (training) to data, and save the model."""

    data: Annotated[Data, tyro.conf.arg(name="")] = field(default_factory=Data)
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

    def run(self) -> int:
        """Fit, save, report; exit with 1 if training ends too far below the optimum."""
        _seed("seed", self.seed)
        x, constant, source, of_data = load(self.data)
        settings = of_data | self._settings()
        out = self._default_out() if self.out is None else self.out
        places.check_file(out, settings)
        moments = mom.from_data(x)
        spectrum = mom.spectrum(moments)
        if self.sigma2 is None:
            _learnable(spectrum.eigenvalues, moments.count, self.k)
        model = ppca.mle_from_spectrum(spectrum, moments.mean, self.k, self.sigma2)
        best = float(ppca.log_likelihood(model.W, model.sigma2, moments))
        attrs = _attrs(self, source)
        gap, bound = 0.0, self._bound(moments)
        if self.method == "ppca":
            params = linear.with_optimal_encoder(model.W, model.sigma2)
            gap = best - float(linear.elbo(params, moments))
        else:
            params, table, unit = self._train(moments, attrs)
            gap = float(table.gap[0, 0, 0, -1])
            history = out.with_name(out.name.removesuffix(".nc") + "_history.nc")
            print(f"history           {tables.save(table, history)}")
            own = "their own units" if self.raw else f"units of {unit:.6g}, their spread"
            print(f"trained           on data in {own}; all numbers are in the data's units")
        if not np.isfinite(gap):
            print("linvae fit: not a fit: training diverged; take a smaller --learning-rate",
                  file=sys.stderr)  # fmt: skip
            return 1
        facts = tables.provenance(self) | attrs
        table = places.signed(tables.from_linear(params, moments, facts), settings)
        print(f"model             {tables.save(table, out)}")
        print(f"σ²                {float(jnp.exp(params.log_sigma2)):.6g}")
        print(f"ELBO              {best - gap:.6f} nats/datum")
        print(f"below the optimum {gap:.3g} nats/datum")
        if constant:
            print(f"on pixel scale    {best - gap + constant:.6f} nats/datum")
        if self.method == "train" and not gap <= bound:
            print(
                f"linvae fit: not a fit: {gap:.3g} nats/datum below the optimum, more than "
                f"{bound:.3g}; take more --num-steps, another --learning-rate, or --method ppca",
                file=sys.stderr,
            )
            return 1
        return 0

    def _settings(self) -> dict[str, Any]:
        """What decides the model, by flags."""
        names = ["method", "k", "sigma2"]
        if self.method == "train":
            names += ["num_steps", "learning_rate", "seed", "raw"]
        return {_flag(name): getattr(self, name) for name in names}

    def _default_out(self) -> Path:
        held = "" if self.sigma2 is None else f"-sigma2={self.sigma2:g}"
        name = f"{Path(self.data.data).stem}-k{self.k}-{self.method}{held}.nc"
        return Path("results/fit") / name

    def _bound(self, moments: mom.Moments) -> float:
        """Nats per datum below the optimum that still are a fit.

        0.01 for each latent, which is what a latent may know and count as collapsed; or, for few
        data, p/2N with p parameters: so far below its maximum is the likelihood of the truth
        (Wilks), and nobody can tell such models apart by these data.
        """
        n, k = moments.mean.shape[0], self.k
        parameters = n * k - k * (k - 1) // 2 + (self.sigma2 is None)
        return max(0.01 * k, parameters / (2 * float(moments.count)))

    def _train(
        self, moments: mom.Moments, attrs: dict[str, str]
    ) -> tuple[linear.LinearVAE, xr.Dataset, float]:
        """Model and history in the data's units, and the unit that training took."""
        n = moments.mean.shape[0]
        unit = 1.0 if self.raw else float(jnp.sqrt(mom.trace(moments) / n))
        scaled = mom.Moments(moments.mean / unit, moments.cov / unit / unit, moments.count)
        config = training.TrainConfig(self.num_steps, training.interval(self.num_steps, 100))
        grid = sweeps.Grid(
            seeds=(self.seed,), learned=(self.sigma2 is None,), learning_rate=(self.learning_rate,),
            sigma2=(1.0 if self.sigma2 is None else self.sigma2 / unit / unit,),
        )  # fmt: skip
        sweep = sweeps.run(
            linear_task.LinearTask(self.k), config, linear_task.problem(scaled), grid,
            attrs=attrs | {"training_unit": repr(unit)},
            title="" if self.raw else f"in units of {unit:.3g}",
        )  # fmt: skip
        found: linear.LinearVAE = jax.tree.map(lambda leaf: leaf[0, 0, 0], sweep.params)
        # a density of x is one of x/u divided by uⁿ
        log_unit = float(np.log(unit))
        params = replace(
            found, W=found.W * unit, V=found.V / unit, log_sigma2=found.log_sigma2 + 2 * log_unit
        )
        table = sweep.table
        elbo = table.elbo.copy(data=table.elbo.values - n * log_unit)
        table = table.assign(
            elbo=elbo, sigma2=table.sigma2.copy(data=table.sigma2.values * unit * unit)
        )
        start = table.sigma2_init
        table = table.assign_coords(sigma2_init=start.copy(data=start.values * unit * unit))
        return params, table, unit


@dataclass(frozen=True)
class Points:
    """List pPCA's stationary points on data, the optimum first: value, index, escape rate.

    The ELBO has more, saddles all of them: `linvae landscape` lists all of a small problem.
    """

    data: Annotated[Data, tyro.conf.arg(name="")] = field(default_factory=Data)
    k: int = 5
    """Number of latents."""
    sigma2: float | None = None
    """Observation noise; its maximum-likelihood value when not given."""
    limit: int = 20
    """Show this many: those with most latents in use come first."""
    out: Path | None = None
    """Also save them as labelled data."""

    def run(self) -> int:
        """Enumerate and classify."""
        _checks.in_range("limit", self.limit, 1, 2**31 - 1, "at least one")
        x, _, source, of_data = load(self.data)
        moments = mom.from_data(x)
        lam = mom.spectrum(moments).eigenvalues
        sigma2 = self.sigma2
        if sigma2 is None:
            sigma2 = _learnable(lam, moments.count, self.k)
        settings = of_data | {_flag(n): getattr(self, n) for n in ("k", "sigma2", "limit")}
        if self.out:
            places.check_file(self.out, settings)
        total = stationary.count(lam, self.k, sigma2)
        assignments = np.array(list(islice(stationary.points(lam, self.k, sigma2), self.limit)))
        per_point = jax.vmap(stationary.value, (None, 0, None))(lam, assignments, sigma2)
        index = jax.vmap(stationary.index, (None, 0, None))(lam, assignments, sigma2)
        best = float(ppca.optimal_elbo(lam, self.k, sigma2))
        rates = [float(block_summaries.summarise(lam, a, sigma2).escape_rate) for a in assignments]
        print(f"{total:,} stationary points of pPCA, up to the order of latents; σ² = {sigma2:.6g}")
        rows = [("components, from 1 (-: collapsed)", "below optimum", "index", "escape rate")]
        for a, value, i, rate in zip(assignments, per_point, index, rates, strict=True):
            name = " ".join("-" if c < 0 else str(c + 1) for c in a)
            rows.append((name, f"{best - float(value):.6g}", f"{int(i):,}", f"{rate:.6g}"))
        print("\n".join(_columns(rows, left=1)))
        if self.out:
            table = tables.dataset(
                {
                    "assignment": (
                        ("point", "latent"),
                        assignments,
                        "1",
                        "component from 0, or −1",
                    ),
                    "value": ("point", per_point, "nats/datum", "ELBO"),
                    "index": ("point", index, "1", "escape directions"),
                    "escape_rate": ("point", rates, "nats", "fastest escape; 0: none"),
                },
                attrs=tables.provenance(self, sigma2=sigma2, optimum=best) | _attrs(self, source),
            )
            print(f"saved {tables.save(places.signed(table, settings), self.out)}")
        return 0


@dataclass(frozen=True)
class Surface:
    """Draw the surface around a collapsed latent, for several σ² (figure 1)."""

    data: Annotated[Data, tyro.conf.arg(name="")] = field(default_factory=Data)
    components: tuple[int, int] = (5, 7)
    """Two principal directions, counted from 1."""
    sigma2: tuple[float, ...] = ()
    """One panel each; by default one where both directions are captured, one, and none."""
    out: Path = Path("results/surface")
    """Written as .png, .pdf and .nc."""

    def run(self) -> int:
        """Compute, save, draw."""
        _distinct("sigma2", self.sigma2)
        for value in self.sigma2:
            _checks.positive("sigma2", value)
        x, _, source, of_data = load(self.data)
        moments = mom.from_data(x)
        lam = mom.spectrum(moments).eigenvalues
        pair = (self.components[0] - 1, self.components[1] - 1)
        if not 0 <= pair[0] < pair[1] < len(lam):
            _checks.fail("components", self.components, f"1 <= first < second <= n = {len(lam)}")
        rank = int(mom.rank(lam, moments.count))
        if pair[1] >= rank:
            _checks.fail(
                "components", self.components, f"directions in which data vary, 1 to {rank}",
                "Their covariance has no more.",
            )  # fmt: skip
        settings = of_data | {_flag(n): getattr(self, n) for n in ("components", "sigma2")}
        written = self.out.with_name(self.out.name + ".nc")
        places.check_file(written, settings)
        sigma2 = self.sigma2 or surface.default_sigma2(lam, pair)
        table = surface.zero_column(lam, sigma2, pair).assign_attrs(_attrs(self, source))
        saved = [tables.save(places.signed(table, settings), written)]
        saved += figures.save(figures.stationary_surface(table), self.out)
        print("\n".join(f"saved {path}" for path in saved))
        return 0


@dataclass(frozen=True)
class Sweep:
    """Train VAEs, linear or networks, for all combinations of seeds, σ², … at once.

    Killed or stopped, the same command goes on where the last checkpoint was.
    """

    data: Annotated[Data, tyro.conf.arg(name="")] = field(default_factory=Data)
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
    noise: Literal["gradient", "closed_form"] = "gradient"
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

    def run(self) -> int:
        """Train all, save, summarise."""
        # what is used only after the training
        _checks.in_range("curvature_data", self.curvature_data, 1, 2**31 - 1, "at least one")
        for s in self.curvature_sigma2:
            _checks.positive("curvature_sigma2", s)
        for name in ("sigma2", "learned", "learning_rate", "beta", "curvature_sigma2"):
            _distinct(name, getattr(self, name))
        _checks.in_range("seeds", self.seeds, 1, 2**31 - 1, "at least one")
        _seed("seed", self.seed, self.seeds)
        config = training.TrainConfig(
            self.num_steps, training.interval(self.num_steps, 100), schedule=self.schedule,
            warmup=self.warmup, noise=self.noise,
        )  # fmt: skip
        grid = sweeps.Grid(
            seeds=tuple(range(self.seed, self.seed + self.seeds)), sigma2=self.sigma2,
            learned=self.learned, learning_rate=self.learning_rate, beta=self.beta,
            annealing=(training.Annealing(self.anneal_steps, self.anneal_cycles),),
        )  # fmt: skip
        if self.network == "linear":
            if self.curvature != "none":
                _checks.fail(
                    "curvature", f"{self.curvature!r} of network 'linear'", "'none'",
                    "`linvae landscape` has the linear VAE's exactly.",
                )  # fmt: skip
            x, constant, source, of_data = load(self.data)
            task = linear_task.LinearTask(self.k, self.gradients, self.batch_size)
            rows = jnp.asarray(x, float) if self.gradients == "sampled" else None
            data = linear_task.problem(mom.from_data(x), rows)
            if any(self.learned):
                _learnable(data.spectrum.eigenvalues, data.moments.count, self.k)
        else:
            images = load_for_networks(self.data)
            data, constant, source = images.data, images.constant, images.source
            of_data = images.identity
            if any(self.learned):  # what it is compared with, the linear VAE, has no optimum else
                _learnable(
                    jnp.asarray(data.eigenvalues, float), float(data.values.shape[0]), self.k
                )
            model = networks.named(
                self.network, data.values.shape[1], self.k, image_shape=images.image_shape,
                data_scale=network_task.data_scale(data),
            )  # fmt: skip
            task = network_task.NetworkTask(model, self.batch_size, images.transform)
        attrs = _attrs(self, source) | {"pixel_constant": str(constant)}
        training.check(task, config, data, grid.hyperparameters(float))
        self._claim(of_data)
        sweep = sweeps.run(
            task, config, data, grid, folder=self.out, batching=self.batching, attrs=attrs,
            checkpoint_seconds=self.checkpoint_seconds,
        )  # fmt: skip
        table = sweep.table
        print("\n".join(_summary(table)))
        print(f"saved {self.out / 'sweep.nc'}")
        trained_some = not bool(table.diverged.isel(seed=0).all())
        if isinstance(task, network_task.NetworkTask) and trained_some:
            self._look_at_curvature(task, data, sweep, attrs)
        diverged = int(table.diverged.sum())
        if diverged:
            print(f"{diverged} of {table.diverged.size} runs diverged", file=sys.stderr)
        return int(diverged > 0)

    def _claim(self, of_data: dict[str, Any]) -> None:
        """The folder is this sweep's; one without our file, from Python, knows by itself whose."""
        made = ("checkpoints", "runs", "sweep.nc")
        there = any(any(self.out.glob(pattern)) for pattern in made)
        if there and not (self.out / "sweep.json").exists():
            return
        unused = {"data", "curvature", "curvature_sigma2", "curvature_data", "batching",
                  "checkpoint_seconds", "out"}  # fmt: skip
        if self.network == "linear":
            unused |= {"batch_size"} if self.gradients == "exact" else set()
        else:
            unused |= {"gradients"}
        settings = {_flag(f.name): getattr(self, f.name) for f in fields(self)
                    if f.name not in unused}  # fmt: skip
        places.claim_folder(self.out, "sweep", of_data | settings, made, longer=("--seeds",))

    def _look_at_curvature(
        self, task: network_task.NetworkTask, data: Any, sweep: sweeps.Sweep, attrs: dict[str, str]
    ) -> None:
        """Compute, save, draw what is asked for."""
        sigma2 = self.curvature_sigma2 or trained.default_sigma2(self.sigma2)
        made: dict[str, xr.Dataset] = {}
        if self.curvature != "none":
            made["curvature"] = trained.escape_of_sweep(
                task, data, sweep, streams.key(self.seed, "curvature"), sigma2,
                count=self.curvature_data,
            )  # fmt: skip
            print(made["curvature"].critical_sigma2.to_dataframe().to_string())
        if self.curvature == "all":
            made["spectra"] = trained.spectra_of_sweep(
                task, data, sweep, streams.key(self.seed, "spectra"), self.sigma2,
                count=max(self.curvature_data // 10, 1),
            )  # fmt: skip
        for name, found in made.items():
            drawn = getattr(nonlinear_figures, name)(found)
            print(f"saved {tables.save(found.assign_attrs(attrs), self.out / f'{name}.nc')}")
            print("\n".join(f"saved {path}" for path in figures.save(drawn, self.out / name)))


@dataclass(frozen=True)
class Landscape:
    """Exact Hessian spectra, conditioning and escape over σ², and the census: tables, figures."""

    data: Annotated[Data, tyro.conf.arg(name="")] = field(default_factory=Data)
    k: int = 50
    """Number of latents."""
    sigma2: float | None = None
    """Noise at which spectra are taken; its maximum-likelihood value when not given."""
    out: Path = Path("results/landscape")
    """Folder for everything."""

    def run(self) -> int:
        """Study, save, draw, and print the critical σ² and escapes."""
        if self.sigma2 is not None:
            _checks.positive("sigma2", self.sigma2)
        x, _, source, of_data = load(self.data)
        moments = mom.from_data(x)
        lam = mom.spectrum(moments).eigenvalues
        # also where σ² is given: it follows the first k components
        best = _learnable(lam, moments.count, self.k, "Take a smaller --k, or more data.")
        sigma2 = best if self.sigma2 is None else self.sigma2
        _checks.in_range("k", self.k, 3, len(lam) - 1, "three components to follow")
        settings = of_data | {"--k": self.k, "--sigma2": self.sigma2}
        places.claim_folder(self.out, "landscape", settings, ("landscape_*",))

        def keep(name: str, table: xr.Dataset) -> xr.Dataset:
            tables.save(table.assign_attrs(_attrs(self, source)), self.out / f"{name}.nc")
            return table

        path, escapes, census = reproduce.study_landscape(lam, self.k, sigma2, keep, self.out)
        collapsed = path.sel(pattern="all collapsed")
        print("total collapse, all latents at zero:")
        rows = [["σ²", "index", "escape rate", "stiffness", "steps to grow by e", "of data x/√λ₁"]]
        for i in np.linspace(0, path.sizes["sigma2"] - 1, 8).astype(int):
            at = collapsed.isel(sigma2=i)
            steps = (at.escape_steps, at.unit_free_escape_steps)
            shown = (at.escape_rate, at.stiffness, *steps)
            numbers = [f"{float(value):.4g}" for value in shown]
            rows.append([f"{float(at.sigma2):.4g}", f"{int(at['index']):,}", *numbers])
        print("\n".join(_columns(rows)))
        print("critical σ² (beyond it no latent can use the component), escape at a tenth of it:")
        for component in escapes.component.values:
            at = escapes.sel(component=component)
            steps = float(at.predicted_steps.sel(fraction=0.1))
            print(f"  component {component:>4}: {float(at.eigenvalue):.6g}, {steps:.4g} steps")
        leading = len(json.loads(census.attrs["eigenvalues"]))
        print(
            f"census of 3 latents on the {leading} leading components: "
            f"{census.sizes['type']} types, "
            f"{int(census.mixed.sum())} of them mixed, {int((census['index'] == 0).sum())} maximum"
        )
        print(f"figures and tables are in {self.out}/")
        return 0


@dataclass(frozen=True)
class Reproduce:
    """Measure the paper's claims, on linear and nonlinear VAEs: figures, tables, ledger, report.

    Killed or stopped, the same command goes on: finished sweeps of networks are not trained again.
    """

    data: Annotated[Data, tyro.conf.arg(name="")] = field(default_factory=lambda: Data(data="auto"))
    settings: Annotated[reproduce.Settings, tyro.conf.arg(name="")] = field(
        default_factory=reproduce.Settings
    )
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
    variations: bool = True
    """Also vary the settings of training: its length, and the others in shorter runs."""
    out: Path = Path("results")
    """Folder for everything."""

    def networks(self) -> nonlinear.Settings:
        """Which networks are trained, and for how long."""
        if self.full and self.smoke:
            _checks.fail("smoke", "with --full", "one of them")
        preset = nonlinear.SMOKE if self.smoke else nonlinear.QUICK
        if self.full:
            colour = self.data.data in ("celeba", "photographs")
            preset = nonlinear.CELEBA if colour else nonlinear.MNIST
        chosen = {
            "epochs": self.epochs, "batch_size": self.network_batch, "seeds": self.network_seeds,
            "other_seeds": self.other_seeds,
        }  # fmt: skip
        flags = {"batch_size": "network_batch", "seeds": "network_seeds"}
        for name, value in chosen.items():
            if value is not None:
                _checks.in_range(flags.get(name, name), value, 1, 2**31 - 1, "at least one")
        chosen = {name: value for name, value in chosen.items() if value is not None}
        settings = replace(preset, **chosen)
        if not self.curvature:
            settings = replace(settings, curvature_data=0)
        if not self.variations:
            settings = replace(settings, variations=())
        return replace(settings, other_seeds=min(settings.other_seeds, settings.seeds))

    def run(self) -> int:
        """Run all stages; exit with 1 if a claim does not hold."""
        options, settings = self.data, self.networks()
        _seed("seed", self.settings.seed, max(self.settings.seeds, self.settings.separated_seeds))
        _distinct("latents", self.settings.latents)
        if options.data == "auto":
            options = replace(options, data="mnist" if self.full else "digits")
        exact = settings.network == "mlp"  # colour images are too large for the exact part
        linear = reproduce.smoke(self.settings) if self.smoke else self.settings
        if exact:
            x, constant, source, of_data = load(replace(options, window=None))
            latents = f"more than the networks' {max(settings.k, settings.linear_k)} latents"
            if x.shape[1] <= settings.k:  # before everything else is computed
                _checks.fail("data", f"{x.shape[1]} dimensions", latents)
            reproduce.check(linear, x)
            moments = mom.from_data(x)
            lam = mom.spectrum(moments).eigenvalues
            _learnable(lam, moments.count, linear.k, "Take a smaller --k, or more data.")
            rank = int(mom.rank(lam, moments.count))
            if rank <= max(settings.k, settings.linear_k):
                _checks.fail("data", f"a covariance of rank {rank}", latents, "Take more data.")
            self._claim(of_data | {"--window": options.window}, settings, linear)
            attrs = _attrs(self, source)
            reproduce.run(linear, x, self.out, constant=constant, attrs=attrs)
            del x  # 0.4 GB of MNIST
        images = load_for_networks(options)
        if not exact:
            self._claim(images.identity, settings)
        nonlinear.train(
            settings, images.data, images.transform, self.out, image_shape=images.image_shape,
            constant=images.constant, attrs=_attrs(self, images.source),
        )  # fmt: skip
        return _report(self.out, self.smoke)

    def _claim(
        self,
        of_data: dict[str, Any],
        networks: nonlinear.Settings,
        linear: reproduce.Settings | None = None,
    ) -> None:
        """The whole folder has one identity, looked at before anything is written into it."""
        preset = "full" if self.full else "smoke" if self.smoke else "quick"
        settings: dict[str, Any] = of_data | {"preset": preset}
        if linear is not None:
            settings |= {_flag(f.name): getattr(linear, f.name) for f in fields(linear)}
        flags = {
            "batch_size": "--network-batch", "seeds": "--network-seeds", "epochs": "--epochs",
            "other_seeds": "--other-seeds", "curvature_data": "--curvature",
            "variations": "--variations",
        }  # fmt: skip
        of_networks = {
            flags.get(f.name, f"networks' {f.name}"): getattr(networks, f.name) or None
            for f in fields(networks)
        }
        places.claim_folder(
            self.out, "reproduce", settings | of_networks,
            ("figure?_*", "convergence_*", "landscape_*", "search.nc", "nonlinear_*", "sweeps",
             "ledger.*", "report.*"),
            longer=("--network-seeds", "--other-seeds"), optional=("--curvature", "--variations"),
        )  # fmt: skip


@dataclass(frozen=True)
class Report:
    """Write the report of a folder of results anew, from what is saved there: no training."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("results")
    """Where `linvae reproduce` wrote."""

    def run(self) -> int:
        """Judge C8 to C10, draw their figures, write; exit with 1 if a claim does not hold."""
        return _report(self.folder)


def _report(folder: Path, smoke: bool = False) -> int:
    """Write it, print the ledger; 1 if a claim does not hold that should."""
    claims = report.write(folder)
    print("\n" + ledger.text(claims))
    print(f"\nreport.html, report.md, figures, tables and the ledger are in {folder}/")
    failed = [claim.id for claim in claims if not claim.holds]
    if failed:
        print(f"DOES NOT HOLD: {', '.join(failed)}", file=sys.stderr)
    if smoke:
        failed = [name for name in failed if name not in {"C7", "C8", "C9", "C10"}]
    return int(bool(failed))


def _shown(command: Any) -> str:
    """The command and its whole configuration, as printed at the start of each run."""
    name = type(command).__name__.lower()
    return f"linvae {name} {json.dumps(asdict(command), default=str)}"


def _attrs(command: Any, source: str) -> dict[str, str]:
    """What is kept with a saved table: the data's origin and the whole command."""
    return {"source": source, "command": _shown(command)}


def _summary(table: xr.Dataset) -> list[str]:
    """A line for each σ² and other value, means over the seeds that did not diverge."""
    final = table.isel(step=-1)
    collapsed = "collapsed"
    if "latent" in table.sizes:
        collapsed = f"collapsed of {table.sizes['latent']}"
    names = {"elbo": "ELBO", "gap": "below optimum", "sigma2": "final σ²", "collapsed": collapsed,
             "linear_elbo": "linear VAE: ELBO", "linear_collapsed": collapsed}  # fmt: skip
    # what was measured at the end on all data is better than the last record
    shown = {n: final.get(f"final_{n}", final.get(n)) for n in names}
    shown = {n: v.where(~table.diverged).mean("seed") for n, v in shown.items() if v is not None}
    lost = table.diverged.sum("seed")
    dims = [d for d in table.elbo.dims if d not in ("seed", "step")]
    rows = [(*map(str, dims), *(names[n] for n in shown))]
    stacked = xr.Dataset(shown | {"lost": lost}).stack(run=dims)
    for at in stacked.run.values:
        one = stacked.sel(run=at)
        cells = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in at]
        if int(one.lost) == table.sizes["seed"]:
            cells += ["diverged"] * len(shown)
        else:
            cells += [f"{float(one[n]):.6g}" for n in shown]
            cells += [f"({int(one.lost)} diverged)"] if int(one.lost) else []
        rows.append(tuple(cells))
    return [
        *_columns(rows),
        "ELBO in nats per datum, σ² in squares of the data's unit; collapsed: latents with a KL "
        "below 0.01 nats for 99 % of the data",
    ]


def _columns(rows: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    """Lines of aligned columns, the first `left` to the left; rows may end early."""
    most = max(map(len, rows))
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(most)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("   ".join(cells).rstrip())
    return lines


def _flag(name: str) -> str:
    """A field as it is typed."""
    return "--" + name.replace("_", "-")


def _distinct(name: str, values: Sequence[Any]) -> None:
    """Raise where a value comes twice: the two would be the same runs, with the same label."""
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        _checks.fail(name, f"{twice[0]} twice", "values that differ")


def _seed(name: str, seed: int, count: int = 1) -> None:
    """Raise unless `count` seeds from this one on are seeds (`streams.check`)."""
    _checks.in_range(name, seed, 0, 2**32 - max(count, 1), "32 bits")


# names of arguments → the flag by which a user gives them, where its name is another
_GIVEN_BY = {
    "x": "data", "values": "data", "chunks": "data", "cov": "data", "moments.cov": "data",
    "problem.x": "data", "eigenvalues": "data", "data_scale": "data", "name_or_path": "data",
    "images": "data", "n": "data", "folder": "out", "identity": "out", "path": "out",
}  # fmt: skip


def _as_flags(message: str, command: Any) -> str:
    """The message with the flag that the user typed in place of an argument's name."""
    found = re.match(r"(?:grid\.|config\.|model\.)?([a-z]\w*(?:\.\w+)?)(?:\[\d+\])?: got ", message)
    if not found:
        return message
    known = _names(command) - {"folder"}  # of `report`, which has no flag
    name = found[1] if found[1] in known else _GIVEN_BY.get(found[1], "")
    return f"{_flag(name)}: got {message[found.end() :]}" if name in known else message


def _names(command: Any) -> set[str]:
    """Names of the fields that are flags, those of nested options too."""
    names = set()
    for f in fields(command):
        value = getattr(command, f.name)
        names |= _names(value) if is_dataclass(value) else {f.name}
    return names


Command = (
    Annotated[Fit, tyro.conf.subcommand("fit")]
    | Annotated[Points, tyro.conf.subcommand("points")]
    | Annotated[Surface, tyro.conf.subcommand("surface")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Landscape, tyro.conf.subcommand("landscape")]
    | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: parse, print the configuration, run; exits with a status."""
    jax.config.update("jax_enable_x64", True)
    command = tyro.cli(
        Command,  # pyright: ignore[reportArgumentType]  # tyro takes unions of annotated types
        prog="linvae",
        description="Linear VAEs: exact ELBO, stationary points, and why latents collapse.",
        args=arguments,
    )
    name = type(command).__name__.lower()
    print(_shown(command), flush=True)
    try:
        status = command.run()
    except sweep_folder.Stopped as stopped:
        print(f"linvae {name}: {stopped}", file=sys.stderr)
        status = 128 + stopped.by
    except (ValueError, ImportError, OSError, MemoryError) as error:
        told = " ".join(_as_flags(str(error), command).split())  # in one line
        print(f"linvae {name}: error: {told}", file=sys.stderr)
        status = 2
    sys.exit(status)
