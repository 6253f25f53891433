"""The diagnosis of a model in JAX: its codes, and whether collapsed latents can come back."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, PRNGKeyArray

from landscape.curvature import collapsed_latent
from landscape.diagnosis import labelled, reading
from landscape.diagnosis.losses import Loss
from linvae_jax import vae
from linvae_jax._internal import arrays, checks

_PIECE = 1000  # data that go through a model at once


def of_model(
    model: vae.Model,
    params: Any,
    x: Any,
    key: PRNGKeyArray,
    *,
    loss: Loss | None = None,
    hessian_data: int = 1000,
) -> xr.Dataset:
    """Say all that `of_codes` says of a model in JAX, and whether its collapsed latents can return.

    Args:
        model: a VAE of `linvae_jax`, or your own by `adapters`.
        params: of the model, trained. Its own mean of the data is taken off where it has one
            (those of `adapters`), else the mean of `x`.
        x: (N, ...), the training data in their own units.
        key: for z.
        loss: that it was trained with; by default the ELBO at its own σ². The model's σ² counts
            only there and where the loss learns it.
        hessian_data: of so many data A is a mean (`collapsed_latent.blocks`); B and C are of all.

    Returns:
        The data set of `of_codes`. For a `vae.LatentModel` with collapsed latents also, equal for
        all of these: `critical_tau`, the τ below which a latent comes back by itself,
        `critical_sigma2` at the loss's β, `ways_out` at the loss's τ, and `way_out`, the direction
        of decoder weights in which it would leave. They are computed in double precision, at the
        point where all collapsed latents are collapsed exactly: an estimate, over these data and
        one z for each.

    Raises:
        ValueError: data of another n than the model's, and as `of_codes`; a loss whose likelihood
            is not Gaussian.
    """
    checks.key("key", key)
    if loss is None:
        loss = Loss("gaussian", sigma2=float(np.exp(params.log_sigma2)))
    if loss.family != "gaussian":
        checks.fail("loss", loss.in_words(), "a Gaussian likelihood, which models here have",
                    "Of codes and data `of_codes` tells as much.")  # fmt: skip
    values, notes = reading.data(x, loss.family)
    checks.shape("data", values, ("N", model.n))
    centred = _centred(params, values)
    key_z, key_information, key_curvature = jax.random.split(key, 3)
    mean, log_var, error = _through(model, params, centred, key_z)
    # adapted models have some σ² even where the loss has another, or none
    log_sigma2 = params.log_sigma2 if loss.learns_sigma2 else None
    variables, extra = labelled.describe_codes(
        mean, log_var, values, loss, error, log_sigma2, key_information, notes
    )
    collapsed = np.asarray(variables["collapsed"][1])
    if isinstance(model, vae.LatentModel) and collapsed.any():
        beta = loss.sigma2_and_beta(model.n, model.k)[1]
        blocks = _blocks(model, params, centred, key_curvature, collapsed, hessian_data)
        variables |= _ways_back(blocks, float(variables["waterline"][1]), beta)
    return labelled.dataset(variables, loss, notes, k=model.k, count=len(mean), **extra)


def _centred(params: Any, values: np.ndarray) -> Float[Array, "N n"]:
    """Take off the mean that the model takes off, in the precision that came."""
    own = getattr(params, "mean", None)
    mean = arrays.centre(values) if own is None else np.asarray(own)
    return arrays.less("data", values, mean).astype(params.log_sigma2.dtype)


@partial(jax.jit, static_argnames="model")
def _pass(model: vae.Model, params: Any, x: Array, key: PRNGKeyArray) -> tuple[Array, ...]:
    passed = vae.forward(model, params, x, key)
    mean, log_d = passed.posterior
    return mean, jnp.broadcast_to(log_d, mean.shape), passed.square_error


def _through(
    model: vae.Model, params: Any, x: Array, key: PRNGKeyArray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Encode and decode all data in pieces; return the codes and E‖x − x̂‖²."""
    parts = [
        _pass(model, params, x[i : i + _PIECE], jax.random.fold_in(key, i))
        for i in range(0, len(x), _PIECE)
    ]
    mean, log_var, error = (np.concatenate(part) for part in zip(*parts, strict=True))
    return mean, log_var, float(error.mean(dtype=np.float64))


def _blocks(
    model: vae.LatentModel,
    params: Any,
    x: Array,
    key: PRNGKeyArray,
    collapsed: np.ndarray,
    hessian_data: int,
) -> collapsed_latent.Blocks:
    """Make the blocks of one of the latents that are all collapsed exactly: all are alike then."""
    which = [int(j) for j in np.flatnonzero(collapsed)]
    with jax.enable_x64(True):
        params = collapsed_latent.in_float64(params)
        params = collapsed_latent.collapse_latents(model, params, which)
        return collapsed_latent.blocks(model, params, x, key, which[0], hessian_data=hessian_data)


def _ways_back(blocks: collapsed_latent.Blocks, tau: float, beta: float) -> labelled.Variables:
    """Say at which τ a collapsed latent comes back, and how."""
    with jax.enable_x64(True):
        critical, ways = float(blocks.critical_sigma2()), int(blocks.index(tau))
        way = np.asarray(blocks.direction())
    return {
        "critical_tau": ((), critical, "data unit²", "τ below which a collapsed latent comes back"),
        "critical_sigma2": ((), critical / beta, "data unit²", "σ² below which it does, at this β"),
        "ways_out": ((), ways, "1", "ways in which it can come back at this τ"),
        "way_out": ("decoder_weight", way, "1", "the fastest, a direction of decoder weights"),
    }
