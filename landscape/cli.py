"""The command `linvae`: each subcommand is a dataclass of options and a few lines that run it.

Every run prints its configuration first, seed included; the same configuration gives the same
numbers on the same machine.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
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
    """Only so many rows on the device at a time, the next ones read meanwhile; for networks, where
    all do not fit."""

    data_seed: int = 0
    """Of the dequantisation noise, and of the order of windows."""


class Loaded(NamedTuple):
    """Data ready for the model; `constant` nats turn its ELBO into one of pixels."""

    x: jax.Array
    constant: float
    source: str


def _open(options: Data) -> tuple[datasets.Dataset, preprocessing.Logit | None]:
    """The data set, and the logit if its pixels are to be taken to the real line."""
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


def load(options: Data) -> Loaded:
    """Load and preprocess; (N, n) float64."""
    dataset, transform = _open(options)
    needed, left = 8 * dataset.images.size, parallel.free_memory()
    if 2 * needed > left:  # the data, and a copy on the way
        _checks.fail(
            "data",
            f"{dataset.images.shape} numbers, {needed / 1e9:.0f} GB in double precision",
            f"at most half of the {left / 1e9:.0f} GB that are free",
            "Save a part of them as .npy; `linvae sweep --network` keeps pixels as bytes.",
        )
    if transform is None:
        return Loaded(jnp.asarray(dataset.images, float), 0.0, dataset.source)
    x = transform(dataset.images, _data_key(options), float)
    return Loaded(x, transform.constant(dataset.images), dataset.source)


def _data_key(options: Data) -> jax.Array:
    return streams.key(options.data_seed, "data noise", "data_seed")


class ForNetworks(NamedTuple):
    """Data that stay pixels until a training step looks at them."""

    data: network_task.Data
    transform: preprocessing.Logit | None
    constant: float
    source: str
    image_shape: tuple[int, ...] | None


def load_for_networks(options: Data) -> ForNetworks:
    """Load; 8-bit pixels get fresh dequantisation noise in each step."""
    dataset, transform = _open(options)
    values, constant = dataset.images, 0.0
    if transform is None:
        values = values.astype(np.float32)
    else:
        constant = transform.constant(values)
    if options.window is not None:
        values = windows.Windows(values, options.window, options.data_seed)
    data = network_task.prepare(values, transform, _data_key(options))
    return ForNetworks(data, transform, constant, dataset.source, dataset.image_shape)


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
    out: Path = Path("results/model.nc")
    """Where the model goes."""

    def run(self) -> int:
        """Fit, save, report."""
        if self.out.is_dir():
            _checks.fail("out", f"{self.out}, a folder", "a file's name")
        if files := [str(parent) for parent in self.out.parents if parent.is_file()]:
            _checks.fail("out", f"{self.out}, where {files[0]} is a file", "a file in a folder")
        x, constant, source = load(self.data)
        moments = mom.from_data(x)
        model = ppca.mle(moments, self.k, self.sigma2)
        attrs = _attrs(self, source)
        if self.method == "ppca":
            params = linear.with_optimal_encoder(model.W, model.sigma2)
            value = float(linear.elbo(params, moments))
        else:
            config = training.TrainConfig(self.num_steps, training.interval(self.num_steps, 100))
            grid = sweeps.Grid(
                seeds=(self.seed,), sigma2=(self.sigma2 or 1.0,), learned=(self.sigma2 is None,),
                learning_rate=(self.learning_rate,),
            )  # fmt: skip
            task, problem = linear_task.LinearTask(self.k), linear_task.problem(moments)
            sweep = sweeps.run(task, config, problem, grid, attrs=attrs)
            params = jax.tree.map(lambda leaf: leaf[0, 0, 0], sweep.params)
            value = float(sweep.table.elbo[0, 0, 0, -1])
            history = self.out.with_name(self.out.stem + "_history.nc")
            print(f"history           {tables.save(sweep.table, history)}")
        best = float(ppca.log_likelihood(model.W, model.sigma2, moments))
        facts = tables.provenance(self) | attrs
        saved = tables.save(tables.from_linear(params, moments, facts), self.out)
        print(f"model             {saved}")
        print(f"σ²                {float(jnp.exp(params.log_sigma2)):.6g}")
        print(f"ELBO              {value:.6f} nats/datum")
        print(f"below the optimum {best - value:.3g} nats/datum")
        if constant:
            print(f"on pixel scale    {value + constant:.6f} nats/datum")
        return 0


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
        x, _, source = load(self.data)
        lam = mom.spectrum(mom.from_data(x)).eigenvalues
        sigma2 = float(ppca.optimal_sigma2(lam, self.k)) if self.sigma2 is None else self.sigma2
        total = stationary.count(lam, self.k, sigma2)
        assignments = np.array(list(islice(stationary.points(lam, self.k, sigma2), self.limit)))
        per_point = jax.vmap(stationary.value, (None, 0, None))(lam, assignments, sigma2)
        index = jax.vmap(stationary.index, (None, 0, None))(lam, assignments, sigma2)
        best = float(ppca.optimal_elbo(lam, self.k, sigma2))
        rates = [float(block_summaries.summarise(lam, a, sigma2).escape_rate) for a in assignments]
        print(f"{total:,} stationary points of pPCA, up to the order of latents; σ² = {sigma2:.6g}")
        heading = "components, from 1 (-: collapsed)"
        print(f"{heading:<40}{'below optimum':>16}{'index':>8}{'escape rate':>14}")
        for a, value, i, rate in zip(assignments, per_point, index, rates, strict=True):
            name = " ".join("-" if c < 0 else str(c + 1) for c in a)
            print(f"{name:<40}{best - float(value):>16.6g}{int(i):>8}{rate:>14.6g}")
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
            print(f"saved {tables.save(table, self.out)}")
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
        x, _, source = load(self.data)
        lam = mom.spectrum(mom.from_data(x)).eigenvalues
        pair = (self.components[0] - 1, self.components[1] - 1)
        if not 0 <= pair[0] < pair[1] < len(lam):
            _checks.fail("components", self.components, f"1 <= first < second <= n = {len(lam)}")
        sigma2 = self.sigma2 or surface.default_sigma2(lam, pair)
        table = surface.zero_column(lam, sigma2, pair).assign_attrs(_attrs(self, source))
        written = [tables.save(table, self.out.with_name(self.out.name + ".nc"))]
        written += figures.save(figures.stationary_surface(table), self.out)
        print("\n".join(f"saved {path}" for path in written))
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
            x, constant, source = load(self.data)
            task = linear_task.LinearTask(self.k, self.gradients, self.batch_size)
            data = linear_task.problem(mom.from_data(x), x)
        else:
            images = load_for_networks(self.data)
            data, constant, source = images.data, images.constant, images.source
            model = networks.named(
                self.network, data.values.shape[1], self.k, image_shape=images.image_shape,
                data_scale=network_task.data_scale(data),
            )  # fmt: skip
            task = network_task.NetworkTask(model, self.batch_size, images.transform)
        attrs = _attrs(self, source) | {"pixel_constant": str(constant)}
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
        x, _, source = load(self.data)
        lam = mom.spectrum(mom.from_data(x)).eigenvalues
        sigma2 = float(ppca.optimal_sigma2(lam, self.k)) if self.sigma2 is None else self.sigma2
        _checks.positive("sigma2", sigma2)

        def keep(name: str, table: xr.Dataset) -> xr.Dataset:
            tables.save(table.assign_attrs(_attrs(self, source)), self.out / f"{name}.nc")
            return table

        path, escapes, census = reproduce.study_landscape(lam, self.k, sigma2, keep, self.out)
        collapsed = path.sel(pattern="all collapsed")
        print("total collapse, all latents at zero:")
        print(
            f"{'σ²':>12}{'index':>10}{'escape rate':>14}{'stiffness':>12}{'steps to grow by e':>20}"
        )
        for i in np.linspace(0, path.sizes["sigma2"] - 1, 8).astype(int):
            at = collapsed.isel(sigma2=i)
            print(
                f"{float(at.sigma2):>12.4g}{int(at['index']):>10,}{float(at.escape_rate):>14.4g}"
                f"{float(at.stiffness):>12.4g}{float(at.escape_steps):>20.4g}"
            )
        print("critical σ² (beyond it no latent can use the component), escape at a tenth of it:")
        for component in escapes.component.values:
            at = escapes.sel(component=component)
            steps = float(at.predicted_steps.sel(fraction=0.1))
            print(f"  component {component:>4}: {float(at.eigenvalue):.6g}, {steps:.4g} steps")
        print(
            f"census of 3 latents on the 6 leading components: {census.sizes['type']} types, "
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
        if options.data == "auto":
            options = replace(options, data="mnist" if self.full else "digits")
        if settings.network == "mlp":  # colour images are too large for the exact part
            x, constant, source = load(options)
            if x.shape[1] <= settings.k:  # before everything else is computed
                latents = f"more than the networks' {settings.k} latents"
                _checks.fail("data", f"{x.shape[1]} dimensions", latents)
            linear = reproduce.smoke(self.settings) if self.smoke else self.settings
            attrs = _attrs(self, source)
            reproduce.run(linear, x, self.out, constant=constant, attrs=attrs)
            del x  # 0.4 GB of MNIST
        images = load_for_networks(options)
        nonlinear.train(
            settings, images.data, images.transform, self.out, image_shape=images.image_shape,
            constant=images.constant, attrs=_attrs(self, images.source),
        )  # fmt: skip
        return _report(self.out, self.smoke)


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
    """A line for each σ² and other value, means over seeds."""
    final = table.isel(step=-1)
    names = {"elbo": "ELBO", "gap": "below optimum", "sigma2": "final σ²", "collapsed": "collapsed",
             "linear_elbo": "linear VAE: ELBO", "linear_collapsed": "collapsed"}  # fmt: skip
    # what was measured at the end on all data is better than the last record
    shown = {n: final.get(f"final_{n}", final.get(n)) for n in names}
    # skipna=False: a diverged seed is no reason to leave it out
    shown = {
        n: values.mean("seed", skipna=False) for n, values in shown.items() if values is not None
    }
    dims = [d for d in table.elbo.dims if d not in ("seed", "step")]
    lines = ["".join(f"{d:>20}" for d in dims) + "".join(f"{names[n]:>18}" for n in shown)]
    stacked = xr.Dataset(shown).stack(run=dims)
    for at in stacked.run.values:
        one = stacked.sel(run=at)
        cells = [f"{v:>20.4g}" if isinstance(v, float) else f"{v!s:>20}" for v in at]
        lines.append("".join(cells) + "".join(f"{float(one[n]):>18.6g}" for n in shown))
    return lines


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
    except (ValueError, ImportError, OSError) as error:
        print(f"linvae {name}: error: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)
