"""`linvae fit` makes one model of the data, in closed form or by training."""

import sys
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import xarray as xr

from landscape.cli import text
from landscape.cli.data import learnable, real_data, seed
from landscape.cli.options import Fit
from landscape.studies import identity
from linvae_jax import linear, ppca, tables
from linvae_jax import moments as mom


def fit(options: Fit) -> int:
    """Fit, save, report; exit with 1 if training ends too far below the optimum."""
    seed("seed", options.seed)
    x, constant, source, of_data = real_data(options.data)
    of_training = ("num_steps", "learning_rate", "seed", "raw") if options.method == "train" else ()
    settings = of_data | text.chosen(options, "method", "k", "sigma2", *of_training)
    out = _default_out(options) if options.out is None else options.out
    identity.check_file(out, settings)
    moments = mom.from_data(x)
    spectrum = mom.spectrum(moments)
    if options.sigma2 is None:
        learnable(spectrum.eigenvalues, moments.count, options.k)
    model = ppca.mle_from_spectrum(spectrum, moments.mean, options.k, options.sigma2)
    best = float(ppca.log_likelihood(model.W, model.sigma2, moments))
    attrs = text.attrs(options, source)
    gap, bound = 0.0, _bound(options, moments)
    if options.method == "ppca":
        params = linear.with_optimal_encoder(model.W, model.sigma2)
        gap = best - float(linear.elbo(params, moments))
    else:
        params, table, unit = _train(options, moments, attrs)
        gap = table.gap.isel(step=-1).item()
        history = out.with_name(out.name.removesuffix(".nc") + "_history.nc")
        print(f"history           {tables.save(table, history)}")
        own = "their own units" if options.raw else f"units of {unit:.6g}, their spread"
        print(f"trained           on data in {own}; all numbers are in the data's units")
    if not np.isfinite(gap):
        print("linvae fit: not a fit: training diverged; take a smaller --learning-rate",
              file=sys.stderr)  # fmt: skip
        return 1
    facts = tables.provenance(options) | attrs
    table = identity.signed(tables.from_linear(params, moments, facts), settings)
    print(f"model             {tables.save(table, out)}")
    print(f"σ²                {float(jnp.exp(params.log_sigma2)):.6g}")
    print(f"ELBO              {best - gap:.6f} nats/datum")
    print(f"below the optimum {gap:.3g} nats/datum")
    if constant:
        print(f"on pixel scale    {best - gap + constant:.6f} nats/datum")
    if options.method == "train" and not gap <= bound:
        print(
            f"linvae fit: not a fit: {gap:.3g} nats/datum below the optimum, more than "
            f"{bound:.3g}; take more --num-steps, another --learning-rate, or --method ppca",
            file=sys.stderr,
        )
        return 1
    return 0


def _default_out(options: Fit) -> Path:
    held = "" if options.sigma2 is None else f"-sigma2={options.sigma2:g}"
    name = f"{Path(options.data.data).stem}-k{options.k}-{options.method}{held}.nc"
    return Path("results/fit") / name


def _bound(options: Fit, moments: mom.Moments) -> float:
    """Return how many nats per datum below the optimum still are a fit.

    0.01 for each latent, which is what a latent may know and count as collapsed; or, for few
    data, p/2N with p parameters: so far below its maximum is the likelihood of the truth
    (Wilks), and nobody can tell such models apart by these data.
    """
    n, k = moments.mean.shape[0], options.k
    parameters = n * k - k * (k - 1) // 2 + (options.sigma2 is None)
    return max(0.01 * k, parameters / (2 * float(moments.count)))


def _train(
    options: Fit, moments: mom.Moments, attrs: dict[str, str]
) -> tuple[linear.LinearVAEParams, xr.Dataset, float]:
    """Train; return model and history in the data's units, and the unit that training took."""
    from linvae_jax import linear_task, sweeps, training  # not for a closed form

    n = moments.mean.shape[0]
    unit = 1.0 if options.raw else float(jnp.sqrt(mom.trace(moments) / n))
    scaled = mom.Moments(moments.mean / unit, moments.cov / unit / unit, moments.count)
    config = training.TrainConfig(options.num_steps, training.interval(options.num_steps, 100))
    grid = sweeps.Grid(
        seeds=(options.seed,), learned=(options.sigma2 is None,),
        learning_rate=(options.learning_rate,),
        sigma2=(1.0 if options.sigma2 is None else options.sigma2 / unit / unit,),
    )  # fmt: skip
    sweep = sweeps.run(
        linear_task.LinearTask(options.k), config, linear_task.problem(scaled), grid,
        attrs=attrs | {"training_unit": repr(unit)},
        title="" if options.raw else f"in units of {unit:.3g}",
    )  # fmt: skip
    found: linear.LinearVAEParams = sweep.run().params
    # a density of x is one of x/u divided by uⁿ
    log_unit = float(np.log(unit))
    params = replace(
        found, W=found.W * unit, V=found.V / unit, log_sigma2=found.log_sigma2 + 2 * log_unit
    )
    table = sweep.table
    table = table.assign(elbo=table.elbo - n * log_unit, sigma2=table.sigma2 * unit * unit)
    return params, table.assign_coords(sigma2_init=table.sigma2_init * unit * unit), unit
