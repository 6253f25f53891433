"""Residuals of codes fall along training; the rule for thresholds is the one that is told."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from benchmarks import residuals
from linvae_jax import networks
from linvae_jax.data import datasets


@pytest.fixture(scope="module")
def tiny() -> tuple[residuals.Variant, jnp.ndarray]:
    """Every fifth digit at half its resolution, every second pixel of it; some seconds of Adam."""
    images = datasets.load("digits").images[::5].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))
    x = images.reshape(-1, 196)[:, ::2] / 255
    model = networks.Mlp(n=98, k=4, encoder=(16,), decoder=(16,), activation="tanh", data_scale=0.3)
    variant = residuals.Variant(
        "tiny", model, sigma2=0.2, steps=1500, batch_size=100, learning_rate=5e-3, seeds=(0,)
    )
    return variant, jnp.asarray(x - x.mean(axis=0), "f4")


def trained(variant: residuals.Variant, x: jnp.ndarray) -> xr.Dataset:
    return residuals.table(variant, [residuals.run(variant, x, seed=0)]).isel(seed=0)


@pytest.mark.slow
def test_residuals_fall_while_a_vae_is_trained_and_do_not_where_free_bits_hold(tiny):
    variant, x = tiny
    found = trained(variant, x)
    measured = residuals.summary(found)
    assert measured.in_use[-1] == 4
    assert found.elbo[-1] > found.elbo[0] + 5
    peak, end = float(measured.scale_median.max()), float(measured.scale_median[-1])
    assert peak > 0.1
    assert end < min(peak / 5, 0.03)
    assert measured.shift_largest[-1] < 0.1
    # max(KL_j(x), λ) is flat for data below λ: only the others pull at the scale
    kept = trained(replace(variant, free_bits=0.5, each_datum=True), x)
    assert residuals.summary(kept).scale_median[-1] > 5 * end
    np.testing.assert_array_equal(kept.step, variant.recorded())


def table(scale: list[float], shift: list[float], collapsed: list[bool]) -> xr.Dataset:
    """Two seeds and two steps, the first of them wild."""
    dims = ("seed", "step", "latent")
    whole = {"scale_residual": scale, "shift_residual": shift, "collapsed": collapsed}
    values = {k: np.stack([np.stack([np.ones(len(v)), v])] * 2) for k, v in whole.items()}
    return xr.Dataset({k: (dims, v) for k, v in values.items()}, {"seed": [0, 1]})


def test_thresholds_are_twice_the_largest_at_rest_rounded_up():
    at_rest = table([0.01, -0.024, 0.001, 9.0], [0.003, 0, -0.0041, 9.0], [0, 0, 0, 1])
    quiet = table([0.0] * 4, [0.0] * 4, [0] * 4)
    found = dict.fromkeys(residuals.AT_REST, quiet) | {residuals.AT_REST[-1]: at_rest}
    assert residuals.thresholds(found) == {
        "scale_median": 0.02,
        "scale_largest": 0.05,
        "shift_median": 0.006,
        "shift_largest": 0.009,
    }


def test_no_latent_in_use_has_no_residual():
    end = residuals.summary(table([0.5], [0.5], [1])).isel(step=-1)
    assert (end.in_use == 0).all()
    assert np.isnan(end[["scale_median", "scale_largest", "shift_90"]].to_array()).all()


def test_rise_is_counted_from_the_end_of_the_decayed_run():
    def runs(elbo: list[float]) -> xr.Dataset:
        return xr.Dataset({"elbo": (("seed", "step"), [elbo])}, {"seed": [0], "step": [1, 2]})

    found = {"constant": runs([1.0, 2.0]), "decayed": runs([1.0, 3.0])}
    assert residuals.remaining(found, "constant").values.tolist() == [[2.0, 1.0]]
    assert residuals.remaining(found, "decayed").values.tolist() == [[2.0, 0.0]]
