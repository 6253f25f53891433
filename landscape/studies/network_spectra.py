"""Hessian spectra of a VAE in all its weights, over σ², are estimated without the matrix.

Data and noise are held fixed, so that their mean, the ELBO, is a function of the weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray

from landscape.autodiff import lanczos, lobpcg
from landscape.autodiff.objectives import Objective
from landscape.curvature import collapsed_latent
from landscape.studies.networks import at_networks, latent_model
from linvae_jax import gaussian, network_task, progress, sweeps, tables, vae
from linvae_jax._internal import checks


@lru_cache(maxsize=64)
def _elbo(model: Any, structure: Any, fixed: int) -> Callable[..., Float[Array, ""]]:
    """Make the β-ELBO of all weights but leaf number `fixed`, log σ²; it compiles once."""

    def of_weights(
        data: Array, noise: Array, log_sigma2: Array, beta: Array, weights: dict[str, Array]
    ) -> Float[Array, ""]:
        places = range(structure.num_leaves)
        leaves = [log_sigma2 if i == fixed else weights[str(i)] for i in places]
        point = structure.unflatten(leaves)

        def of_draw(eps: Array) -> Array:
            passed = vae.with_noise(model, point, data, eps)
            rec = gaussian.log_density(passed.square_error, model.n, log_sigma2)
            return vae.ElboTerms(rec, passed.kl).elbo(beta).mean()

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
    """Make the β-ELBO of a `vae.Model` a function of all its weights; data and noise are fixed.

    The data are centred. Each of the `draws` of z for each datum is used twice, mirrored, so that
    where all latents are collapsed first derivatives vanish exactly and not just on average. With
    N ≥ k the noise over the data has unit covariance exactly, which those points' curvature depends
    on. σ² is held fixed, at that of the parameters when None.

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
    """Tabulate matrix-free spectra in all weights over σ², trained and with every latent collapsed.

    Estimates, by `lanczos.quadrature` with these probes and steps; data and `draws` as for
    `objective`. Of so many of the largest eigenvalues `lobpcg` makes sure, with thousands of
    Hessian-vector products.

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
        "all collapsed": collapsed_latent.collapse_latents(model, exact, range(model.k)),
    }
    values: dict[str, list[np.ndarray]] = {name: [] for name in _SPECTRA}
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
    """Tabulate `spectra` at the networks of a sweep's first seed, on `count` of the data.

    Returns:
        Labelled over the sweep's dimensions but for seed and step, with those of `spectra`, and
        own_sigma2. NaN where a run diverged.

    Raises:
        ValueError: a model that is no `vae.LatentModel`; all runs diverged; as `spectra`.
    """
    model = latent_model(task)
    key_data, key_spectra = jax.random.split(key)
    x = network_task.centred(data, task.transform, key_data, count)

    def at_network(params: Any, run: xr.Dataset) -> xr.Dataset:
        beta = float(run.beta)
        same = jax.random.clone(key_spectra)  # at all networks, as in `escape_of_sweep`
        return spectra(
            model, params, x, same, sigma2, beta=beta, probes=probes, steps=steps, quiet=quiet
        )

    return at_networks(sweep, at_network, quiet)
