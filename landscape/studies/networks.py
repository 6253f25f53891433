"""Could a collapsed latent of a trained VAE come back? Labelled tables over σ².

`escape_path` answers for one VAE, linear or not, by `collapsed_latent`; `escape_of_sweep` answers
for the networks of a sweep. `network_spectra` has the Hessian in all weights.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, PRNGKeyArray

from landscape.curvature import collapsed_latent, conditioning, escape
from linvae_jax import gaussian, network_task, progress, sweeps, tables, vae
from linvae_jax._internal import checks
from linvae_jax._internal.linalg import matmul


def escape_path(
    model: vae.LatentModel,
    params: Any,
    x: Float[Array, "N n"],
    key: PRNGKeyArray,
    sigma2: Sequence[float],
    *,
    latent: int | None = None,
    beta: float = 1.0,
    hessian_data: int = 1000,
) -> xr.Dataset:
    """Tabulate over σ² whether a collapsed latent can come back, and how fast.

    It is that with the least KL on average when `latent` is None. The other weights stay as they
    are. The data are centred; the arguments are those of `collapsed_latent.blocks`.

    Returns:
        Labelled over sigma2, from small to large: index, escape_rate (of gradient flow in these
        weights: not to be compared between architectures), stiffness; and of the latent its number,
        its KL in the trained model, critical_sigma2, and critical_sigma2_by_steps, which tells what
        the kinks of a ReLU decoder and A's sample change.

    Raises:
        ValueError: as `collapsed_latent.blocks`; σ² or β ≤ 0.
    """
    checks.positive("sigma2", sigma2)
    checks.positive("beta", beta)
    checks.data_matrix("x", x, model.n)
    sigma2 = sorted(sigma2)
    params = collapsed_latent.in_float64(params)
    kl = _mean_kl(model, params, jnp.asarray(x, jnp.float64))
    latent = int(jnp.argmin(kl)) if latent is None else latent
    # cloned: the same noise again below, so that both curvatures differ by finite steps alone
    noise = jax.random.clone(key)
    blocks = collapsed_latent.blocks(model, params, x, noise, latent, hessian_data=hessian_data)
    index = [int(blocks.index(s, beta)) for s in sigma2]
    spectra = [jnp.linalg.eigvalsh(blocks.hessian(s, beta)) for s in sigma2]
    found = conditioning.of_eigenvalues(jnp.stack(spectra))
    critical, direction = float(blocks.critical_sigma2(beta)), blocks.direction()
    # a step that is small beside the weights of a latent in use, if there is one
    in_use = model.latent_weights(params, (int(jnp.argmax(kl)),))[model.decoder_name]
    step = 0.2 * (float(jnp.linalg.norm(in_use)) or 1.0)
    bent = collapsed_latent.curvature_along(model, params, x, key, latent, direction, step)
    smooth = direction @ matmul(blocks.decoder, direction[:, None])[:, 0]
    by_steps = _by_steps(critical, float(smooth), float(bent))
    return tables.dataset(
        {
            "index": ("sigma2", index, "1", "ways for it to come back"),
            "escape_rate": ("sigma2", found.escape_rate, "nats", "largest eigenvalue if positive"),
            "stiffness": ("sigma2", found.stiffness, "nats", "largest |μ| of the negative ones"),
            "critical_sigma2": (
                (), critical, "data unit²", "σ² below which collapse of this latent is unstable"
            ),
            "critical_sigma2_by_steps": (
                (), by_steps, "data unit²",
                "the same along that way out alone, its curvature from finite steps of all data",
            ),
            "latent": ((), latent, "1", "the latent that is made to collapse"),
            "latent_kl": ((), float(kl[latent]), "nats/datum", "its KL in the trained model"),
        },
        coords={"sigma2": (sigma2, "data unit²", "observation noise σ²")},
        attrs=tables.provenance(
            {"model": model}, data=len(x), hessian_data=hessian_data, beta=beta
        ),
    )  # fmt: skip


@partial(jax.jit, static_argnames="model")
def _mean_kl(model: vae.LatentModel, params: Any, x: Array) -> Float[Array, "k"]:
    def of_datum(datum: Array) -> Array:
        posterior = model.encode(params, datum[None])
        return gaussian.kl(posterior.mean**2, posterior.log_d)[0]

    return jax.lax.map(of_datum, x, batch_size=256).mean(axis=0)


def _by_steps(critical: float, smooth: float, bent: float) -> float:
    """Return the critical σ² for another curvature along its direction; NaN: it says nothing."""
    if critical == 0:  # a latent that nothing comes through
        return 0.0
    if bent <= 0:
        return np.inf
    return critical * smooth / bent if np.isfinite(critical) else np.nan


def sigma2_grid(sigma2: Sequence[float], count: int = 25) -> tuple[float, ...]:
    """Return a grid from a tenth of the smallest of some σ² to ten times the largest."""
    return tuple(np.geomspace(min(sigma2) / 10, 10 * max(sigma2), count).tolist())


def escape_of_sweep(
    task: network_task.NetworkTask,
    data: network_task.Data,
    sweep: sweeps.Sweep,
    key: PRNGKeyArray,
    sigma2: Sequence[float],
    *,
    count: int = 10_000,
    draws: int = 4,
    hessian_data: int = 1000,
    quiet: bool = False,
) -> xr.Dataset:
    """Tabulate `escape_path` at a sweep's networks, first seed, with the linear VAE's threshold.

    `count` data are looked at, spread over all. Of a sample of the training data the critical σ² is
    too large, unless it is many times the width of the encoder's last layer. Each is looked at
    `draws` times, with noise of its own each time, which that is to average out.

    Returns:
        Labelled over the sweep's dimensions but for seed and step, with those of `escape_path`;
        own_sigma2, where training ended, and own_escape_rate there; and linear_critical_sigma2, of
        a linear VAE at its optimum at that σ². NaN, and integers −1, where a run diverged.

    Raises:
        ValueError: a model that is no `vae.LatentModel`; all runs diverged; as `escape_path`.
    """
    checks.in_range("draws", draws, 1, 2**31 - 1, "at least one")
    model = latent_model(task)
    key_data, key_latents = jax.random.split(key)
    keys = jax.random.split(key_data, draws)
    x = jnp.stack([network_task.centred(data, task.transform, k, count) for k in keys], axis=1)
    x = x.reshape(-1, task.model.n)  # a datum's draws in a row: A is to have many data
    lam = jnp.sort(jnp.asarray(data.eigenvalues, jnp.float64))[::-1]

    def at_network(params: Any, run: xr.Dataset) -> xr.Dataset:
        own, beta = float(run.final_sigma2), float(run.beta)
        # its own σ² first of all, which need not be on the grid
        values = sorted({*sigma2, own})
        # the same noise at all networks, which then differ by themselves alone
        noise = jax.random.clone(key_latents)
        found = escape_path(model, params, x, noise, values, beta=beta, hessian_data=hessian_data)
        rate = float(found.escape_rate[values.index(own)])
        found = found.isel(sigma2=[values.index(s) for s in sorted(sigma2)])
        linear = float(escape.critical_sigma2(lam, model.k, own, beta))
        of_linear = "critical σ² of the linear VAE at its optimum at own_sigma2"
        return found.assign(
            own_escape_rate=((), rate, _told("nats", "escape rate at own_sigma2")),
            linear_critical_sigma2=((), linear, _told("data unit²", of_linear)),
        )

    table = at_networks(sweep, at_network, quiet)
    return table.assign_attrs(data=str(len(x) // draws), draws=str(draws))


def latent_model(task: network_task.NetworkTask) -> vae.LatentModel:
    """Return a task's model; raise `ValueError` if it does not know which weights a latent has."""
    if not isinstance(task.model, vae.LatentModel):
        checks.fail("task.model", type(task.model).__name__, "a vae.LatentModel")
    return task.model


def at_networks(
    sweep: sweeps.Sweep, at_network: Callable[[Any, xr.Dataset], xr.Dataset], quiet: bool
) -> xr.Dataset:
    """Join the tables of the networks of a first seed to one over the sweep's dimensions.

    It has own_sigma2, where training ended. NaN, and integers −1, where a run diverged.
    """
    first = sweep.table.isel(seed=0)
    dims, shape = first.diverged.dims, first.diverged.shape
    if bool(first.diverged.all()):
        checks.fail("sweep", "a first seed that diverged everywhere", "a trained network")
    found: dict[tuple[int, ...], xr.Dataset] = {}
    with progress.bar(first.diverged.size, "curvature", "network", quiet) as bar:
        for place in np.ndindex(*shape):
            run = first.isel(dict(zip(dims, place, strict=True)))
            if not bool(run.diverged):
                labels = {name: run[name].item() for name in (*dims, "seed")}
                params = sweep.run(**labels).params
                own = ((), float(run.final_sigma2), _told("data unit²", "σ² when training ended"))
                found[place] = at_network(params, run).assign(own_sigma2=own)
            bar.update()
    like = list(found.values())[-1]
    nothing = like.map(lambda v: xr.full_like(v, -1 if v.dtype.kind == "i" else np.nan))
    runs = [found.get(place, nothing) for place in np.ndindex(*shape)]
    whole = {}
    for name, one in like.items():
        stacked = np.stack([run[name].values for run in runs])
        whole[name] = ((*dims, *one.dims), stacked.reshape(*shape, *one.shape), one.attrs)
    return xr.Dataset(whole, {name: first[name] for name in dims} | dict(like.coords), like.attrs)


def _told(unit: str, text: str) -> dict[str, str]:
    return {"units": unit, "long_name": text}
