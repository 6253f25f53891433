"""Curvature at trained VAEs, linear or not: where training ended, and where a latent has collapsed.

At any VAE whose decoder ignores latent j and whose encoder gives it the prior, all derivatives in
that latent's own weights vanish: such a point is stationary in them wherever the other weights
are. Its Hessian in those weights says whether the latent could come back, how fast, at which σ².
For the linear VAE that is the collapsed latent of `conditioning.escape_rate`.

The ELBO is a mean over data and noise. Both are held fixed here, so that it is a function of the
weights; and each draw of the noise comes with its mirror image in the latents looked at, which
makes those derivatives vanish exactly and not just on average.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, PRNGKeyArray

from landscape import conditioning, hessian, lanczos, lobpcg
from landscape.objectives import Objective
from linvae_jax import _checks, gaussian, progress, tables, vae


def in_float64(params: Any) -> Any:
    """Parameters in double precision: small eigenvalues drown in the rounding of large ones.

    Raises:
        ValueError: jax_enable_x64 is off.
    """
    if jnp.result_type(float) != jnp.float64:
        _checks.fail("jax_enable_x64", False, "True", "Curvature needs double precision.")
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)


def collapsed(model: Any, params: Any, latents: Sequence[int]) -> Any:
    """The same VAE with some latents collapsed: ignored by the decoder, the prior for the encoder.

    Args:
        model: a `vae.Model` with `latent_weights` and `with_latent_weights`.
        params: its parameters.
        latents: which, from 0.

    Raises:
        ValueError: a latent that there is not.
    """
    chosen = _chosen(model, latents)
    nothing = jax.tree.map(jnp.zeros_like, model.latent_weights(params, chosen))
    return model.with_latent_weights(params, chosen, nothing)


def _chosen(model: Any, latents: Sequence[int]) -> tuple[int, ...]:
    for j in latents:
        _checks.in_range("latents", j, 0, model.k - 1, "k latents, from 0")
    return tuple(int(j) for j in latents)


def objective(
    model: Any,
    params: Any,
    x: Float[Array, "N n"],
    key: PRNGKeyArray,
    *,
    latents: Sequence[int] | None = None,
    draws: int = 1,
    sigma2: float | Float[Array, ""] | None = None,
    beta: float = 1.0,
) -> Objective:
    """The β-ELBO of a VAE as a function of its weights, or of those of some latents.

    Args:
        model: a `vae.Model`.
        params: the point.
        x: (N, n), centred data.
        key: for the noise.
        latents: the variables are the weights of these; None: all weights.
        draws: of z for each datum; each is used twice, mirrored in `latents` (in all).
        sigma2: noise variance; that of the parameters when None. Held fixed.
        beta: weight of the KL.

    Returns:
        `Objective` of float64 variables, nats per datum.

    Raises:
        ValueError: data of another n, NaN or Inf, no latent of that number, σ² ≤ 0.
    """
    _checks.data_matrix("x", x, model.n)
    _checks.in_range("draws", draws, 1, 2**31 - 1, "at least one")
    params = in_float64(params)
    if sigma2 is not None:
        _checks.positive("sigma2", sigma2)
        params = replace(params, log_sigma2=jnp.log(jnp.asarray(sigma2, jnp.float64)))
    chosen = _chosen(model, range(model.k) if latents is None else latents)
    noise = jax.random.normal(key, (draws, x.shape[0], model.k), jnp.float64)
    mirror = jnp.ones(model.k).at[np.array(chosen)].set(-1)
    noise = jnp.concatenate([noise, noise * mirror])
    data = jnp.asarray(x, jnp.float64)

    def elbo(at: Any) -> Float[Array, ""]:
        def of_draw(eps: Array) -> Array:
            passed = vae.with_noise(model, at, data, eps)
            rec = gaussian.log_density(passed.square_error, model.n, at.log_sigma2)
            return (rec - beta * passed.kl.sum(axis=-1)).mean()

        return jax.lax.map(of_draw, noise).mean()

    if latents is None:
        leaves, structure = jax.tree.flatten(params)
        # σ² is no variable here
        names = [str(i) for i, leaf in enumerate(leaves) if leaf is not params.log_sigma2]

        def function(variables: Any) -> Float[Array, ""]:
            full = [variables.get(str(i), leaf) for i, leaf in enumerate(leaves)]
            return elbo(structure.unflatten(full))

        return Objective(function, {name: leaves[int(name)] for name in names})
    return Objective(
        lambda variables: elbo(model.with_latent_weights(params, chosen, variables)),
        model.latent_weights(params, chosen),
    )


def escape_path(
    model: Any,
    params: Any,
    x: Float[Array, "N n"],
    key: PRNGKeyArray,
    latent: int,
    sigma2: Sequence[float],
    *,
    draws: int = 1,
    max_gigabytes: float = 1.0,
    quiet: bool = True,
) -> xr.Dataset:
    """Can a collapsed latent come back, and how fast? Over σ², the other weights as they are.

    Args:
        model: a `vae.Model`.
        params: a trained one.
        x: (N, n), centred data.
        key: for the noise.
        latent: the one that is made to collapse.
        sigma2: at which noise.
        draws: of z for each datum.
        max_gigabytes: for the dense Hessian in that latent's weights.
        quiet: no progress bar.

    Returns:
        Labelled over sigma2: index, escape_rate, stiffness, slope (the largest derivative in the
        latent's weights: rounding, if the point is stationary in them).
    """
    point = collapsed(model, in_float64(params), (latent,))
    rows = []
    with progress.bar(len(sigma2), "escape over σ²", "σ²", quiet) as bar:
        for s in sigma2:
            of = objective(model, point, x, key, latents=(latent,), draws=draws, sigma2=s)
            matrix = hessian.dense(of.function, of.variables, max_gigabytes=max_gigabytes)
            found = conditioning.summarise(jnp.linalg.eigvalsh(matrix))
            slopes = jax.grad(of.function)(of.variables)
            largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slopes))
            rows.append(
                (int(found.index), float(found.escape_rate), float(found.stiffness), largest)
            )
            bar.update()
    index, rate, stiffness, slope = np.array(rows).T
    return tables.dataset(
        {
            "index": ("sigma2", index.astype(int), "1", "ways for the latent to come back"),
            "escape_rate": ("sigma2", rate, "nats", "largest eigenvalue if positive"),
            "stiffness": ("sigma2", stiffness, "nats", "largest |μ| of the negative ones"),
            "slope": ("sigma2", slope, "nats", "largest derivative in the latent's weights"),
        },
        coords={"sigma2": (list(sigma2), "data unit²", "observation noise σ²")},
        attrs=tables.provenance({"model": model}, latent=latent, draws=draws, data=len(x)),
    )


def spectra(
    model: Any,
    params: Any,
    x: Float[Array, "N n"],
    key: PRNGKeyArray,
    sigma2: Sequence[float],
    *,
    draws: int = 1,
    probes: int = 4,
    steps: int = 40,
    largest: int = 2,
    quiet: bool = True,
) -> xr.Dataset:
    """Matrix-free spectra in all weights over σ²: trained, and with every latent collapsed.

    Args:
        model: a `vae.Model`.
        params: a trained one.
        x: (N, n), centred data.
        key: for noise and probes.
        sigma2: at which noise.
        draws: of z for each datum.
        probes: of the quadrature.
        steps: of Lanczos for each probe.
        largest: how many of the largest eigenvalues `lobpcg` looks for; 0: none.
        quiet: no progress bar.

    Returns:
        Labelled over (point, sigma2): bracket and standard error of the index, trace with
        standard error, the largest eigenvalues, and whether they converged.
    """
    key_noise, key_probes = jax.random.split(key)
    exact = in_float64(params)
    points = {"trained": exact, "all collapsed": collapsed(model, exact, range(model.k))}
    names = ("index_lower", "index_upper", "index_error", "trace", "trace_error")
    values: dict[str, list[Any]] = {name: [] for name in (*names, "largest", "converged")}
    with progress.bar(len(points) * len(sigma2), "spectra", "point", quiet) as bar:
        for point in points.values():
            for s in sigma2:
                of = objective(model, point, x, key_noise, draws=draws, sigma2=s)
                rule = lanczos.quadrature(
                    of.function, of.variables, key_probes, probes=probes, steps=steps
                )
                index, trace = lanczos.index(rule), lanczos.trace(rule)
                if largest:
                    top = lobpcg.extremes(of.function, of.variables, key_probes, largest)
                    values["largest"].append(np.asarray(top.values)[:largest])
                    values["converged"].append(np.asarray(top.converged)[:largest])
                for name, value in zip(
                    names,
                    (index.lower, index.upper, index.standard_error, trace.value,
                     trace.standard_error), strict=True,
                ):  # fmt: skip
                    values[name].append(float(value))
                bar.update()
    shape = (len(points), len(sigma2))
    told = {
        "index_lower": ("1", "least number of positive eigenvalues, by the Lanczos steps"),
        "index_upper": ("1", "most"),
        "index_error": ("1", "standard error of their mean, by the probes"),
        "trace": ("nats", "trace of the Hessian"),
        "trace_error": ("nats", "its standard error"),
        "largest": ("nats", "largest eigenvalues"),
        "converged": ("1", "whether they are to be believed"),
    }
    return tables.dataset(
        {
            name: (
                ("point", "sigma2", "rank")[: 2 + (np.ndim(values[name][0]) > 0)],
                np.array(values[name]).reshape(*shape, *np.shape(values[name][0])),
                *told[name],
            )
            for name in values
            if values[name]
        },
        coords={
            "point": list(points),
            "sigma2": (list(sigma2), "data unit²", "observation noise σ²"),
        },
        attrs=tables.provenance({"model": model}, draws=draws, data=len(x), steps=steps),
    )
