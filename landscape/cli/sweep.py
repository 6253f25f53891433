"""`linvae sweep` trains many VAEs, and measures the curvature at what they found."""

import sys
from dataclasses import fields
from typing import Any

import jax.numpy as jnp
import xarray as xr

from landscape.cli import text
from landscape.cli.data import distinct, learnable, real_data, seed
from landscape.cli.options import Sweep
from landscape.paper import facts
from landscape.studies import identity
from linvae_jax import linear_task, network_task, streams, sweeps, tables, training
from linvae_jax import moments as mom
from linvae_jax._internal import checks


def sweep(options: Sweep) -> int:
    """Train all, save, summarise."""
    # what is used only after the training
    checks.in_range("curvature_data", options.curvature_data, 1, 2**31 - 1, "at least one")
    checks.positive("curvature_sigma2", options.curvature_sigma2)
    distinct("curvature_sigma2", options.curvature_sigma2)
    checks.in_range("seeds", options.seeds, 1, 2**31 - 1, "at least one")
    seed("seed", options.seed, options.seeds)
    config = training.TrainConfig(
        options.num_steps, training.interval(options.num_steps, 100), schedule=options.schedule,
        warmup=options.warmup, sigma2_update=options.sigma2_update,
    )  # fmt: skip
    grid = sweeps.Grid(
        seeds=tuple(range(options.seed, options.seed + options.seeds)), sigma2=options.sigma2,
        learned=options.learned, learning_rate=options.learning_rate, beta=options.beta,
        annealing=(training.Annealing(options.anneal_steps, options.anneal_cycles),),
    )  # fmt: skip
    if options.network == "linear":
        if options.curvature != "none":
            checks.fail(
                "curvature", f"{options.curvature!r} of network 'linear'", "'none'",
                "`linvae landscape` has the linear VAE's exactly.",
            )  # fmt: skip
        x, constant, source, of_data = real_data(options.data)
        task = linear_task.LinearTask(options.k, options.gradients, options.batch_size)
        rows = jnp.asarray(x, float) if options.gradients == "sampled" else None
        data = linear_task.problem(mom.from_data(x), rows)
        if any(options.learned):
            learnable(data.spectrum.eigenvalues, data.moments.count, options.k)
    else:
        from landscape.cli.pixels import network_data
        from linvae_jax import networks  # and with it Flax

        images = network_data(options.data)
        data, constant, source = images.data, images.constant, images.source
        of_data = images.identity
        if any(options.learned):  # what it is compared with, the linear VAE, has no optimum else
            learnable(jnp.asarray(data.eigenvalues, float), float(data.values.shape[0]), options.k)
        model = networks.named(
            options.network, data.values.shape[1], options.k, image_shape=images.image_shape,
            data_scale=network_task.data_scale(data),
        )  # fmt: skip
        task = network_task.NetworkTask(model, options.batch_size, images.transform)
    attrs = text.attrs(options, source) | facts.attributes(constant)
    training.check(task, config, data, grid.hyperparameters(float))
    _claim(options, of_data)
    trained = sweeps.run(
        task, config, data, grid, folder=options.out, batching=options.batching, attrs=attrs,
        checkpoint_seconds=options.checkpoint_seconds,
    )  # fmt: skip
    table = trained.table
    print("\n".join(summary(table)))
    print(f"saved {options.out / 'sweep.nc'}")
    trained_some = not bool(table.diverged.isel(seed=0).all())
    if isinstance(task, network_task.NetworkTask) and options.curvature != "none" and trained_some:
        _look_at_curvature(options, task, data, trained, attrs)
    if diverged := int(table.diverged.sum()):
        print(f"{diverged} of {table.diverged.size} runs diverged", file=sys.stderr)
    return int(diverged > 0)


def _claim(options: Sweep, of_data: dict[str, Any]) -> None:
    """Make the folder this sweep's; one without our file, from Python, knows by itself whose."""
    made = ("checkpoints", "runs", "sweep.nc")
    there = any(any(options.out.glob(pattern)) for pattern in made)
    if there and not (options.out / "sweep.json").exists():
        return
    unused = {"data", "curvature", "curvature_sigma2", "curvature_data", "batching",
              "checkpoint_seconds", "out"}  # fmt: skip
    if options.network == "linear":
        unused |= {"batch_size"} if options.gradients == "exact" else set()
    else:
        unused |= {"gradients"}
    settings = text.chosen(options, *(f.name for f in fields(options) if f.name not in unused))
    identity.claim_folder(options.out, "sweep", of_data | settings, made, longer=("--seeds",))


def _look_at_curvature(
    options: Sweep,
    task: network_task.NetworkTask,
    data: Any,
    sweep: sweeps.Sweep,
    attrs: dict[str, str],
) -> None:
    """Compute, save, draw what is asked for."""
    from landscape.figures import networks as network_figures
    from landscape.figures import style
    from landscape.studies import network_spectra
    from landscape.studies import networks as network_study

    sigma2 = options.curvature_sigma2 or network_study.sigma2_grid(options.sigma2)
    curvature = network_study.escape_of_sweep(
        task, data, sweep, streams.key(options.seed, "curvature"), sigma2,
        count=options.curvature_data,
    )  # fmt: skip
    print(curvature.critical_sigma2.to_dataframe().to_string())
    made = {"curvature": (curvature, network_figures.curvature(curvature))}
    if options.curvature == "all":
        spectra = network_spectra.spectra_of_sweep(
            task, data, sweep, streams.key(options.seed, "spectra"), options.sigma2,
            count=max(options.curvature_data // 10, 1),
        )  # fmt: skip
        made["spectra"] = spectra, network_figures.spectra(spectra)
    for name, (found, drawn) in made.items():
        print(f"saved {tables.save(found.assign_attrs(attrs), options.out / f'{name}.nc')}")
        print("\n".join(f"saved {path}" for path in style.save(drawn, options.out / name)))


def summary(table: xr.Dataset) -> list[str]:
    """Write a line for each σ² and other value: means over the seeds that did not diverge."""
    final = table.isel(step=-1)
    collapsed = f"collapsed of {table.sizes['latent']}" if "latent" in table.sizes else "collapsed"
    names = {"elbo": "ELBO", "gap": "below optimum", "sigma2": "final σ²",
             "num_collapsed": collapsed, "linear_elbo": "linear VAE: ELBO",
             "linear_num_collapsed": f"linear VAE: {collapsed}"}  # fmt: skip
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
        *text.columns(rows),
        "ELBO in nats per datum, σ² in squares of the data's unit; collapsed: latents with a KL "
        "below 0.01 nats for 99 % of the data",
    ]
