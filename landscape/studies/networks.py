"""Curvature at trained VAEs, linear or not, as labelled tables over σ².

`escape_path` and `escape_of_sweep` ask of a collapsed latent whether it could come back, by
`collapsed_latent`. `spectra` are of the Hessian in all weights, without its matrix: there the ELBO
is a mean over data and noise that are both held fixed, so that it is a function of the weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray

from landscape.autodiff import lanczos, lobpcg
from landscape.autodiff.objectives import Objective
from landscape.curvature import collapsed_latent, conditioning
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
    """Can a collapsed latent come back, and how fast? Over σ², the other weights as they are.

    Args:
        model: as for `collapsed_latent.at`, like the arguments not listed here.
        params: a trained one.
        x: (N, n), centred data.
        key: for the noise.
        sigma2: at which noise.
        latent: which is made to collapse; that with the least KL on average when None.
        beta: weight of the KL.
        hessian_data: how many of the data A is a mean over.

    Returns:
        Labelled over sigma2, from small to large: index, escape_rate (of gradient flow in these
        weights: not to be compared between architectures), stiffness; and of the latent its number,
        its KL in the trained model, critical_sigma2, and critical_sigma2_by_steps, which tells what
        the kinks of a ReLU decoder and A's sample change.

    Raises:
        ValueError: as `collapsed_latent.at`; σ² or β ≤ 0.
    """
    for s in sigma2:
        checks.positive("sigma2", s)
    checks.positive("beta", beta)
    checks.data_matrix("x", x, model.n)
    sigma2 = sorted(sigma2)
    params = collapsed_latent.in_float64(params)
    kl = _mean_kl(model, params, jnp.asarray(x, jnp.float64))
    latent = int(jnp.argmin(kl)) if latent is None else latent
    # cloned: the same noise again below, so that both curvatures differ by finite steps alone
    noise = jax.random.clone(key)
    blocks = collapsed_latent.at(model, params, x, noise, latent, hessian_data=hessian_data)
    found = [conditioning.summarise(jnp.linalg.eigvalsh(blocks.hessian(s, beta))) for s in sigma2]
    critical, direction = float(blocks.critical_sigma2(beta)), blocks.direction()
    # a step that is small beside the weights of a latent in use, if there is one
    in_use = model.latent_weights(params, (int(jnp.argmax(kl)),))[model.decoder_name]
    step = 0.2 * (float(jnp.linalg.norm(in_use)) or 1.0)
    bent = collapsed_latent.curvature_along(model, params, x, key, latent, direction, step)
    smooth = direction @ matmul(blocks.decoder, direction[:, None])[:, 0]
    by_steps = _by_steps(critical, float(smooth), float(bent))
    return tables.dataset(
        {
            "index": ("sigma2", [int(blocks.index(s, beta)) for s in sigma2], "1",
                "ways for it to come back",),
            "escape_rate": (
                "sigma2", [float(f.escape_rate) for f in found], "nats",
                "largest eigenvalue if positive",
            ),
            "stiffness": (
                "sigma2", [float(f.stiffness) for f in found], "nats",
                "largest |μ| of the negative ones",
            ),
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
    """The critical σ² with another curvature along its direction; NaN where that says nothing."""
    if critical == 0:  # a latent that nothing comes through
        return 0.0
    if bent <= 0:
        return np.inf
    return critical * smooth / bent if np.isfinite(critical) else np.nan


def default_sigma2(sigma2: Sequence[float], count: int = 25) -> tuple[float, ...]:
    """A grid for curvature: from a tenth of the smallest of some σ² to ten times the largest."""
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
    """`escape_path` at the networks of a sweep's first seed, beside the linear VAE's threshold.

    Args:
        task: what was trained.
        data: on which.
        sweep: its result.
        key: for noise.
        sigma2: at which noise.
        count: data looked at, spread over all. Of a sample of the training data the critical σ² is
            too large, unless it is many times the width of the encoder's last layer.
        draws: how often each, with noise of its own each time, which it is to average out.
        hessian_data: as for `collapsed_latent.at`.
        quiet: no progress bar.

    Returns:
        Labelled over the sweep's dimensions but for seed and step, with those of `escape_path`;
        own_sigma2, where training ended, and own_escape_rate there; and linear_critical_sigma2, of
        a linear VAE at its optimum at that σ². NaN, and integers −1, where a run diverged.

    Raises:
        ValueError: a model that is no `vae.LatentModel`; all runs diverged; as `escape_path`.
    """
    checks.in_range("draws", draws, 1, 2**31 - 1, "at least one")
    model = _latent_model(task)
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
        linear = float(conditioning.critical_sigma2(lam, model.k, own, beta))
        of_linear = "critical σ² of the linear VAE at its optimum at own_sigma2"
        return found.assign(
            own_escape_rate=((), rate, _told("nats", "escape rate at own_sigma2")),
            linear_critical_sigma2=((), linear, _told("data unit²", of_linear)),
        )

    table = _at_networks(sweep, at_network, quiet)
    return table.assign_attrs(data=str(len(x) // draws), draws=str(draws))


def _latent_model(task: network_task.NetworkTask) -> vae.LatentModel:
    if not isinstance(task.model, vae.LatentModel):
        checks.fail("task.model", type(task.model).__name__, "a vae.LatentModel")
    return task.model


def _at_networks(
    sweep: sweeps.Sweep, at_network: Callable[[Any, xr.Dataset], xr.Dataset], quiet: bool
) -> xr.Dataset:
    """A table of each network of the first seed, as one over the sweep's dimensions.

    With own_sigma2, where training ended. NaN, and integers −1, where a run diverged.
    """
    first = sweep.table.isel(seed=0)
    dims, shape = first.diverged.dims, first.diverged.shape
    if bool(first.diverged.all()):
        checks.fail("sweep", "a first seed that diverged everywhere", "a trained network")
    rows: list[dict[Any, np.ndarray]] = []
    found = xr.Dataset()
    with progress.bar(first.diverged.size, "curvature", "network", quiet) as bar:
        for place in np.ndindex(*shape):
            run = first.isel(dict(zip(dims, place, strict=True)))
            row: dict[Any, np.ndarray] = {}
            if not bool(run.diverged):
                params = jax.tree.map(lambda leaf, i=place: leaf[(0, *i)], sweep.params)
                own = ((), float(run.final_sigma2), _told("data unit²", "σ² when training ended"))
                found = at_network(params, run).assign(own_sigma2=own)
                row = {name: values.values for name, values in found.items()}
            rows.append(row)
            bar.update()
    whole = {}
    for name, like in found.items():
        nothing = np.full_like(like.values, -1 if like.dtype.kind == "i" else np.nan)
        stacked = np.stack([row.get(name, nothing) for row in rows])
        whole[name] = ((*dims, *like.dims), stacked.reshape(*shape, *like.shape), like.attrs)
    coords = {name: first[name] for name in dims} | dict(found.coords)
    return xr.Dataset(whole, coords, found.attrs)


def _told(unit: str, text: str) -> dict[str, str]:
    return {"units": unit, "long_name": text}


@lru_cache(maxsize=64)
def _elbo(model: Any, structure: Any, fixed: int) -> Callable[..., Float[Array, ""]]:
    """The β-ELBO of the weights but for leaf number `fixed`, log σ²; compiled once for all data."""

    def of_weights(
        data: Array, noise: Array, log_sigma2: Array, beta: Array, weights: dict[str, Array]
    ) -> Float[Array, ""]:
        places = range(structure.num_leaves)
        leaves = [log_sigma2 if i == fixed else weights[str(i)] for i in places]
        point = structure.unflatten(leaves)

        def of_draw(eps: Array) -> Array:
            passed = vae.with_noise(model, point, data, eps)
            rec = gaussian.log_density(passed.square_error, model.n, log_sigma2)
            return (rec - beta * passed.kl.sum(axis=-1)).mean()

        return jax.lax.map(of_draw, noise).mean()

    return of_weights


def objective(
    model: Any,
    params: Any,
    x: Float[Array, "N n"],
    key: PRNGKeyArray,
    *,
    draws: int = 1,
    sigma2: float | Float[Array, ""] | None = None,
    beta: float = 1.0,
) -> Objective:
    """The β-ELBO of a VAE as a function of all its weights, with data and noise held fixed.

    Args:
        model: a `vae.Model`.
        params: the point.
        x: (N, n), centred data.
        key: for the noise.
        draws: of z for each datum; each is used twice, mirrored, so that where all latents are
            collapsed first derivatives vanish exactly and not just on average. With N ≥ k the noise
            over the data has unit covariance exactly, which those points' curvature depends on.
        sigma2: noise variance; that of the parameters when None. Held fixed.
        beta: weight of the KL.

    Returns:
        `Objective` of float64 variables, nats per datum. What takes it compiles once for one model
        and shape of data, whatever σ², β and the data are.

    Raises:
        ValueError: data of another n, NaN or Inf, σ² ≤ 0, β < 0.
    """
    checks.data_matrix("x", x, model.n)
    checks.nonnegative("beta", beta)
    checks.in_range("draws", draws, 1, 2**31 - 1, "at least one")
    params = collapsed_latent.in_float64(params)
    if sigma2 is not None:
        checks.positive("sigma2", sigma2)
        params = replace(params, log_sigma2=jnp.log(jnp.asarray(sigma2, jnp.float64)))
    N = x.shape[0]
    noise = jax.random.normal(key, (draws, N, model.k), jnp.float64)
    if model.k <= N:
        noise = jnp.sqrt(N) * jnp.linalg.qr(noise)[0]
    leaves, structure = jax.tree.flatten(params)
    fixed = next(i for i, leaf in enumerate(leaves) if leaf is params.log_sigma2)
    function = Partial(
        _elbo(model, structure, fixed), jnp.asarray(x, jnp.float64),
        jnp.concatenate([noise, -noise]), params.log_sigma2, jnp.asarray(beta, jnp.float64),
    )  # fmt: skip
    # σ² is no variable here
    return Objective(function, {str(i): leaf for i, leaf in enumerate(leaves) if i != fixed})


def spectra(
    model: vae.LatentModel,
    params: Any,
    x: Float[Array, "N n"],
    key: PRNGKeyArray,
    sigma2: Sequence[float],
    *,
    beta: float = 1.0,
    draws: int = 1,
    probes: int = 4,
    steps: int = 40,
    largest: int = 0,
    quiet: bool = True,
) -> xr.Dataset:
    """Matrix-free spectra in all weights over σ²: trained, and with every latent collapsed.

    Args:
        model: whose networks.
        params: trained ones.
        x: (N, n), centred data.
        key: for noise and probes.
        sigma2: at which noise.
        beta: weight of the KL.
        draws: of z for each datum.
        probes: of the quadrature.
        steps: of Lanczos for each probe.
        largest: how many of the largest eigenvalues `lobpcg` makes sure of, with thousands of
            Hessian-vector products; 0: none.
        quiet: no progress bar.

    Returns:
        Labelled over (point, sigma2), from small to large: bracket and standard error of the index,
        trace with standard error, both ends of the spectrum as Lanczos sees them, and with
        `largest` the largest eigenvalues and whether they converged.
    """
    checks.positive("beta", beta)
    sigma2 = sorted(sigma2)
    key_noise, key_probes, key_start = jax.random.split(key, 3)
    exact = collapsed_latent.in_float64(params)
    points = {
        "trained": exact,
        "all collapsed": collapsed_latent.collapsed(model, exact, range(model.k)),
    }
    values: dict[str, list[Any]] = {name: [] for name in _SPECTRA}
    with progress.bar(len(points) * len(sigma2), "spectra", "point", quiet) as bar:
        for point in points.values():
            for s in sigma2:
                # the same noise and probes everywhere: what differs is σ² and the point
                noise, signs, start = map(jax.random.clone, (key_noise, key_probes, key_start))
                of = objective(model, point, x, noise, draws=draws, sigma2=s, beta=beta)
                rule = lanczos.quadrature(
                    of.function, of.variables, signs, probes=probes, steps=steps
                )
                index, trace = lanczos.index(rule), lanczos.trace(rule)
                nodes = lanczos.rule(rule)[0]
                row = (
                    index.lower, index.upper, index.standard_error, trace.value,
                    trace.standard_error, nodes.min(), nodes.max(),
                )  # fmt: skip
                if largest:
                    top = lobpcg.extremes(of.function, of.variables, start, largest)
                    row = (*row, top.values[:largest], top.converged[:largest])
                for name, value in zip(_SPECTRA, row, strict=False):
                    values[name].append(np.asarray(value))
                bar.update()
    shape = (len(points), len(sigma2))
    return tables.dataset(
        {
            name: (
                ("point", "sigma2", *(["rank"] if found[0].ndim else [])),
                np.stack(found).reshape(*shape, *found[0].shape),
                *_SPECTRA[name],
            )
            for name, found in values.items()
            if found
        },
        coords={
            "point": list(points),
            "sigma2": (list(sigma2), "data unit²", "observation noise σ²"),
        },
        attrs=tables.provenance({"model": model}, draws=draws, data=len(x), steps=steps),
    )


_SPECTRA = {
    "index_lower": ("1", "least number of positive eigenvalues, by the Lanczos steps"),
    "index_upper": ("1", "most"),
    "index_error": ("1", "standard error of their mean, by the probes"),
    "trace": ("nats", "trace of the Hessian"),
    "trace_error": ("nats", "its standard error"),
    "bottom": ("nats", "most negative node of Lanczos: the stiffest direction, nearly"),
    "top": ("nats", "largest node of Lanczos: the fastest way up, nearly"),
    "largest": ("nats", "largest eigenvalues"),
    "converged": ("1", "whether they are to be believed"),
}


def spectra_of_sweep(
    task: network_task.NetworkTask,
    data: network_task.Data,
    sweep: sweeps.Sweep,
    key: PRNGKeyArray,
    sigma2: Sequence[float],
    *,
    count: int = 1000,
    probes: int = 4,
    steps: int = 40,
    quiet: bool = False,
) -> xr.Dataset:
    """`spectra` at the networks of a sweep's first seed.

    Args:
        task: as for `escape_of_sweep`, like the arguments not listed here.
        data: on which it was trained.
        sweep: its result.
        key: for noise and probes.
        sigma2: at which noise.
        count: data looked at, one draw of noise each.
        probes: as for `spectra`.
        steps: as for `spectra`.
        quiet: no progress bar.

    Returns:
        Labelled over the sweep's dimensions but for seed and step, with those of `spectra`, and
        own_sigma2. NaN where a run diverged.

    Raises:
        ValueError: a model that is no `vae.LatentModel`; all runs diverged; as `spectra`.
    """
    model = _latent_model(task)
    key_data, key_spectra = jax.random.split(key)
    x = network_task.centred(data, task.transform, key_data, count)

    def at_network(params: Any, run: xr.Dataset) -> xr.Dataset:
        beta = float(run.beta)
        same = jax.random.clone(key_spectra)  # at all networks, as in `escape_of_sweep`
        return spectra(
            model, params, x, same, sigma2, beta=beta, probes=probes, steps=steps, quiet=quiet
        )

    return _at_networks(sweep, at_network, quiet)
