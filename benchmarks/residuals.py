"""When has training ended? Residuals of codes along training, on real digits.

`codes.statistics` has two residuals that are zero at the end of training: scale E[m² + D] − 1 and
shift E[m]. Here small VAEs are trained in several ways, and both are recorded beside the ELBO. From
that come the thresholds above which a latent is called *not converged*; README.md tells them.

python -m benchmarks.residuals --write                     # half an hour on 2 cores
python -m benchmarks.residuals --only mnist --manual-dir DIR --write
"""

import argparse
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, PRNGKeyArray

from benchmarks import figure
from benchmarks.paper_rows import images_in
from landscape.diagnosis import codes
from landscape.figures import style
from linvae_jax import networks, streams, tables, vae
from linvae_jax.data import datasets

FOLDER = Path(__file__).parent / "results" / "residuals"


@dataclass(frozen=True)
class Normalised(networks.Mlp):
    """An `Mlp` with batch normalisation of the posterior means, to standard deviation `spread`.

    As Zhu et al. (ACL 2020, A Batch Normalized Inference Network Keeps the KL Vanishing Away) have
    it, without their learned shift. The statistics are those of the data that are encoded.
    """

    spread: float = 0.5

    def encode(self, params: vae.VAEParams, x: Float[Array, "N n"]) -> vae.Posterior:
        """Return q(z | x), whose means have standard deviation `spread` over these data."""
        mean, log_d = super().encode(params, x)
        return vae.Posterior(self.spread * jax.nn.standardize(mean, axis=0), log_d)


_MLP = networks.Mlp(k=20, encoder=(128, 64), decoder=(64, 128), activation="tanh", data_scale=0.3)


@dataclass(frozen=True)
class Variant:
    """A way to train with Adam at fixed σ², with sampled gradients of batches.

    Attributes:
        text: what it is.
        model: the architecture.
        sigma2: σ², which is τ; pixels are from 0 to 1.
        steps: of Adam.
        batch_size: data per step, drawn with replacement.
        learning_rate: the largest.
        decay: share of the steps, the last ones, in which the rate falls linearly to zero.
        adamw: decoupled weight decay, in units of the learning rate.
        l2: γ of γ/2 ‖weights‖², added to the negative ELBO in nats per datum.
        free_bits: λ, nats, of each latent: max(KL_j, λ) stands in the place of KL_j.
        each_datum: whether KL_j is that of a datum there, or the mean over the batch.
        held_out: every fifth datum is not trained on, and its residuals are recorded too.
        data: the 5,000 "digits", or all of "mnist".
        seeds: of the runs; thresholds are chosen by 0 and 1, and checked by the others.
    """

    text: str
    model: networks.Mlp = _MLP
    sigma2: float = 0.5
    steps: int = 20_000
    batch_size: int = 128
    learning_rate: float = 1e-3
    decay: float = 0.5
    adamw: float = 0.0
    l2: float = 0.0
    free_bits: float = 0.0
    each_datum: bool = False
    held_out: bool = False
    data: str = "digits"
    seeds: tuple[int, ...] = (0, 1, 2, 3)

    def recorded(self) -> np.ndarray:
        """Return the steps after which a run is looked at: evenly in their logarithm, then late."""
        along = np.geomspace(min(10, self.steps), self.steps, 26)
        late = np.linspace(self.steps / 2, self.steps, 9)
        return np.unique(np.rint(np.concatenate([along, late])).astype(int))


_RELU = replace(_MLP, encoder=(128,), decoder=(128,), activation="relu")
_LARGE = replace(_MLP, k=50, encoder=(512, 256), decoder=(256, 512))
VARIANTS: dict[str, Variant] = {
    "constant": Variant("constant rate", decay=0.0),
    "decayed": Variant("decayed rate"),
    "longer": Variant("decayed rate, three times as long", steps=60_000, seeds=(0, 1)),
    "held-out": Variant("decayed rate, 4,000 of the digits", held_out=True),
    "relu": Variant("decayed rate, ReLU, σ² = 0.25", _RELU, sigma2=0.25),
    "relu-longer": Variant("ReLU, three times as long", _RELU, 0.25, 60_000, seeds=(0, 1)),
    "adamw-0.01": Variant("AdamW, weight decay 0.01", adamw=0.01, seeds=(0, 2)),
    "adamw-0.1": Variant("AdamW, weight decay 0.1", adamw=0.1, seeds=(0, 2)),
    "l2": Variant("L2 penalty, 0.01", l2=0.01, seeds=(0, 2)),
    "free-bits-mean": Variant("free bits 0.5, mean of the batch", free_bits=0.5, seeds=(0, 2)),
    "free-bits-datum": Variant(
        "free bits 0.5, each datum", free_bits=0.5, each_datum=True, seeds=(0, 2)
    ),
    "batch-norm": Variant("batch normalisation of m", Normalised(**vars(_MLP)), seeds=(0, 2)),
    "mnist": Variant(
        "decayed rate, 60,000 images", _LARGE, 0.25, 30_000, learning_rate=5e-4, data="mnist",
        seeds=(2,),
    ),
}  # fmt: skip

# whose ends choose the thresholds
AT_REST = ("decayed", "held-out", "relu")


def loss(
    variant: Variant, params: vae.VAEParams, x: Float[Array, "B n"], key: PRNGKeyArray
) -> Float[Array, ""]:
    """What is minimised: the negative ELBO of a batch, nats per datum, with the variant's terms."""
    terms = vae.elbo_terms(variant.model, params, x, key)
    kl = terms.kl if variant.each_datum else terms.kl.mean(axis=0)
    kept = jnp.maximum(kl, variant.free_bits).sum(axis=-1).mean()
    norm = sum(jnp.sum(w**2) for w in jax.tree.leaves(params.weights))
    return kept - terms.reconstruction.mean() + 0.5 * variant.l2 * norm


def _optimiser(variant: Variant) -> optax.GradientTransformation:
    def rate(t: Any) -> Any:
        left = 1 - t / variant.steps
        return variant.learning_rate * jnp.minimum(left / max(variant.decay, 1e-9), 1)

    return optax.adamw(rate, weight_decay=variant.adamw)


@partial(jax.jit, static_argnums=0)
def _until(variant: Variant, x: Array, state: Any, stop: Any, key: Any) -> Any:
    """Train to the step `stop`, which is traced, so that one program serves all records."""

    def body(t: Any, state: Any) -> Any:
        params, optimiser = state
        key_rows, key_z = jax.random.split(jax.random.fold_in(key, t))
        rows = jax.random.randint(key_rows, (variant.batch_size,), 0, x.shape[0])
        down = jax.grad(loss, argnums=1)(variant, params, x[rows], key_z).weights
        updates, optimiser = _optimiser(variant).update(down, optimiser, params.weights)
        return replace(params, weights=optax.apply_updates(params.weights, updates)), optimiser

    step, *rest = state
    return stop, *jax.lax.fori_loop(step, stop, body, tuple(rest))


@partial(jax.jit, static_argnums=0)
def _elbo(variant: Variant, params: vae.VAEParams, x: Array, key: Any) -> Array:
    """Estimate the mean ELBO, nats, of four z per datum: the same noise whatever the weights."""

    def one(key: Any) -> Array:
        terms = vae.elbo_terms(variant.model, params, x, key)
        return terms.reconstruction.mean() - terms.kl.sum(axis=1).mean()

    return jax.lax.map(one, jax.random.split(key, 4)).mean()


def run(variant: Variant, x: Float[Array, "N n"], seed: int) -> dict[str, np.ndarray]:
    """Train once on centred data; what is measured at each recorded step, by name."""
    key_init, key_steps, key_look = jax.random.split(streams.key(seed, "residuals"), 3)
    held = np.arange(len(x)) % 5 == 4
    x, others = (x[~held], x[held]) if variant.held_out else (x, None)
    params = variant.model.init(key_init, variant.sigma2)
    state = (0, params, _optimiser(variant).init(params.weights))
    encode = jax.jit(variant.model.encode)
    records = []
    for stop in variant.recorded():
        state = _until(variant, x, state, stop, key_steps)
        found = codes.statistics(*encode(state[1], x))
        record = {name: getattr(found, name) for name in _LABELS if hasattr(found, name)}
        record["elbo"] = _elbo(variant, state[1], x, jax.random.clone(key_look))
        if others is not None:
            found = codes.statistics(*encode(state[1], others))
            record["held_out_scale"] = found.scale_residual
            record["held_out_shift"] = found.shift_residual
        records.append(record)
    return {name: np.stack([record[name] for record in records]) for name in records[0]}


_LABELS = {
    "elbo": ("nats/datum", "ELBO of the data that are trained on, of four z each"),
    "kl": ("nats/datum", "mean KL per latent"),
    "collapsed": ("1", "(0.01, 0.01)-collapsed"),
    "scale_residual": ("1", "E[m² + D] − 1"),
    "shift_residual": ("1", "E[m]"),
    "held_out_scale": ("1", "E[m² + D] − 1 of data that are not trained on"),
    "held_out_shift": ("1", "E[m] of data that are not trained on"),
}


def table(variant: Variant, runs: Sequence[Mapping[str, np.ndarray]]) -> xr.Dataset:
    """Label the runs of all seeds."""
    dims = ("seed", "step", "latent")
    found = {name: np.stack([r[name] for r in runs]) for name in runs[0]}
    return tables.dataset(
        {name: (dims[: v.ndim], v, *_LABELS[name]) for name, v in found.items()},
        {"seed": list(variant.seeds), "step": (variant.recorded(), "1", "optimiser steps done")},
        tables.provenance(variant),
    )


def load(folder: Path = FOLDER) -> dict[str, xr.Dataset]:
    """Return the saved tables by the names of their variants."""
    return {n: tables.load(p) for n in VARIANTS if (p := folder / f"{n}.nc").is_file()}


def summary(found: xr.Dataset) -> xr.Dataset:
    """Median, 90 % and largest absolute residual over latents in use, each (seed, step).

    `in_use` counts those latents; where there are none the others are NaN.
    """
    used = found.collapsed == 0
    out: dict[str, Any] = {"in_use": used.sum("latent")}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
        for name in ("scale", "shift"):
            size = abs(found[f"{name}_residual"]).where(used)
            out[f"{name}_median"] = size.median("latent")
            out[f"{name}_90"] = size.quantile(0.9, "latent").drop_vars("quantile")
            out[f"{name}_largest"] = size.max("latent")
    return xr.Dataset(out)


def thresholds(
    found: Mapping[str, xr.Dataset], at_rest: tuple[str, ...] = AT_REST
) -> dict[str, float]:
    """Choose: twice the largest that runs at rest show, rounded up to one digit.

    At rest are the ends of `at_rest` with seeds 0 and 1. "median" is for the median over latents in
    use, "largest" for one latent.
    """
    chosen = {}
    for name in (f"{kind}_{of}" for kind in ("scale", "shift") for of in ("median", "largest")):
        ends = [summary(found[n])[name].isel(step=-1).sel(seed=[0, 1]) for n in at_rest]
        twice = 2 * max(float(end.max()) for end in ends)
        digit = 10.0 ** np.floor(np.log10(twice))
        chosen[name] = float(f"{np.ceil(twice / digit) * digit:.0e}")
    return chosen


def remaining(found: Mapping[str, xr.Dataset], name: str) -> xr.DataArray:
    """Return nats by which the ELBO still rises until the decayed rate has brought it to rest.

    Of the variant's own end; at a constant rate, of that of the decayed run of the same seed.
    """
    end = found["decayed" if name == "constant" else name].elbo.isel(step=-1, drop=True)
    return end - found[name].elbo


def markdown(found: Mapping[str, xr.Dataset]) -> str:
    """Return the ends of all variants as a table, from the least to the largest of the seeds."""
    names = ("scale_median", "scale_largest", "shift_median", "shift_largest")
    lines = [
        "| variant | in use | scale, median | scale, largest | shift, median | shift, largest |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, of in found.items():
        end = summary(of).isel(step=-1)
        ends = [f"{end.in_use.min():.0f}", f"{end.in_use.max():.0f}"]
        cells = [ends, *([f"{of:.3f}" for of in (end[n].min(), end[n].max())] for n in names)]
        told = [" to ".join(dict.fromkeys(cell)) for cell in cells]
        lines.append(f"| {VARIANTS[name].text} | {' | '.join(told)} |")
    return "\n".join(lines)


def draw(found: Mapping[str, xr.Dataset], folder: Path = FOLDER) -> None:
    """Write residuals.png."""
    made = figure.draw_residuals(
        {name: summary(of) for name, of in found.items()},
        {name: remaining(found, name) for name in ("constant", "decayed", "relu")},
        {name: VARIANTS[name].text for name in found},
        thresholds(found)["scale_median"],
    )
    made.savefig(folder / "residuals.png", dpi=style.DPI)


def _data(name: str, manual_dir: Path | None) -> Array:
    """Return centred pixels from 0 to 1, (N, 784), in float32."""
    images = datasets.load("digits").images if name == "digits" else images_in(manual_dir)
    x = images / 255.0
    return jnp.asarray(x - x.mean(axis=0), "f4")


def _job(name: str, seed: int, manual_dir: Path | None) -> dict[str, np.ndarray]:
    return run(VARIANTS[name], _data(VARIANTS[name].data, manual_dir), seed)


def main() -> None:
    """Train, print the end of each run, and write the tables if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    usual = [name for name, variant in VARIANTS.items() if variant.data == "digits"]
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=usual)
    parser.add_argument("--manual-dir", type=Path, help="the files of MNIST")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", action="store_true", help=f"write {FOLDER.name}/")
    args = parser.parse_args()
    # JAX must not be forked
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        jobs = {
            n: [pool.submit(_job, n, seed, args.manual_dir) for seed in VARIANTS[n].seeds]
            for n in args.only
        }
        for name, parts in jobs.items():
            found = table(VARIANTS[name], [part.result() for part in parts])
            end = summary(found).isel(step=-1)
            print(f"{name}\n{end.to_dataframe().round(4).to_string()}", flush=True)
            if args.write:
                FOLDER.mkdir(parents=True, exist_ok=True)
                tables.save(found, FOLDER / f"{name}.nc")
    if args.write:
        draw(load())


if __name__ == "__main__":
    main()
