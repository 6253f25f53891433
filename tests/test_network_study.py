"""Curvature at trained VAEs: on the linear one against the closed forms, then on a network."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landscape.autodiff import hessian
from landscape.curvature import collapsed_latent, escape
from landscape.points import stationary
from landscape.studies import network_spectra
from landscape.studies import networks as network_study
from landscape.testing.strategies import orthogonal
from linvae_jax import linear, network_task, networks, sweeps, training
from linvae_jax import moments as mom

LAM = np.array([6.0, 3.0, 1.2, 0.3])
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def x() -> jax.Array:
    """400 data whose sample covariance has exactly the eigenvalues LAM."""
    z = jax.random.normal(KEY, (400, 4))
    z = jnp.linalg.qr(z - z.mean(0))[0] * 20
    return (z * jnp.sqrt(LAM)) @ orthogonal(1, 4).T


def at_component(x: jax.Array, sigma2: float) -> tuple[linear.Model, linear.LinearVAEParams]:
    """The linear VAE with its first latent on the first component, the second collapsed."""
    s = mom.spectrum(mom.from_data(x))
    return linear.Model(4, 2), stationary.params(
        stationary.point(s.eigenvalues, jnp.array([0, -1]), sigma2), s.eigenvectors
    )


@pytest.mark.slow
@pytest.mark.parametrize("sigma2", [0.5, 2.0, 5.0])
def test_collapsed_latent_of_the_linear_vae_escapes_as_the_closed_form_says(x, sigma2):
    model, params = at_component(x, sigma2)
    table = network_study.escape_path(model, params, x, KEY, [sigma2], latent=1)
    rate = max(float(escape.escape_rate(jnp.asarray(3.0), sigma2)), 0)
    # the active latent's noise is one draw of 400, its correlation with the data some 1/20; it acts
    # on another component, and so to second order alone
    np.testing.assert_allclose(float(table.escape_rate[0]), rate, rtol=1e-5)
    assert int(table["index"][0]) == (LAM[1:] > sigma2).sum()
    # what is left on the component in use, σ⁴/λ, is more than λ₂ at σ² = 5; there that correlation
    # counts in full
    expected = max(LAM[1], sigma2**2 / LAM[0])
    np.testing.assert_allclose(float(table.critical_sigma2), expected, rtol=0.1)
    assert int(table.latent) == 1
    assert float(table.latent_kl) == 0


@pytest.mark.slow
@given(seed=st.integers(0, 2**16), beta=st.sampled_from([0.5, 1.0, 2.0]))
def test_threshold_of_the_linear_vae_is_that_of_its_blocks(seed, beta):
    """At its optimum, ties and zeros among λ included; the least latent made to collapse."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 6))
    k, sigma2 = int(rng.integers(1, n + 1)), float(rng.uniform(0.1, 4))
    drawn = rng.uniform(0, 6, n) if seed % 2 else rng.choice([0, 0.3, 1.5, 3, 6.0], n)
    lam = np.sort(drawn)[::-1]
    used = np.arange(n) < min((lam > beta * sigma2).sum(), k - 1)
    wv = np.where(used, 1 - beta * sigma2 / np.where(used, lam, 1), 0)
    blocks = collapsed_latent.Blocks(
        jnp.eye(n), jnp.diag(jnp.asarray((1 - wv) * lam)), jnp.diag(jnp.asarray(lam))
    )
    found = float(blocks.critical_sigma2(beta))
    expected = float(escape.critical_sigma2(jnp.asarray(lam), k, sigma2, beta))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_latent_of_least_kl_is_taken(x):
    s = mom.spectrum(mom.from_data(x))
    both = stationary.params(
        stationary.point(s.eigenvalues, jnp.array([1, 0]), 0.5), s.eigenvectors
    )
    table = network_study.escape_path(linear.Model(4, 2), both, x, KEY, [1.0, 0.5])
    assert int(table.latent) == 0
    # ½ log λ₂/σ², to the float64 rounding of a mean over data
    np.testing.assert_allclose(float(table.latent_kl), 0.5 * np.log(3 / 0.5), rtol=1e-10)
    np.testing.assert_array_equal(table.sigma2, [0.5, 1.0])
    np.testing.assert_allclose(table.critical_sigma2_by_steps, table.critical_sigma2, rtol=1e-10)
    nothing = collapsed_latent.collapse_latents(linear.Model(4, 2), both, (0, 1))
    table = network_study.escape_path(linear.Model(4, 2), nothing, x, KEY, [1.0])
    np.testing.assert_allclose(table.critical_sigma2, 6.0, rtol=1e-10)  # total collapse: λ₁
    np.testing.assert_allclose(table.critical_sigma2_by_steps, 6.0, rtol=1e-10)
    with pytest.raises(ValueError, match="beta: got 0"):
        network_study.escape_path(linear.Model(4, 2), both, x, KEY, [1.0], beta=0.0)


def test_threshold_by_steps_where_there_is_none():
    assert network_study._by_steps(2.0, 3.0, 1.5) == 4.0
    assert network_study._by_steps(2.0, 3.0, -0.1) == np.inf  # kinks make noise help
    assert network_study._by_steps(np.inf, -1.0, -0.1) == np.inf
    assert np.isnan(network_study._by_steps(np.inf, -1.0, 0.5))
    assert network_study._by_steps(0.0, 0.0, 0.0) == 0.0


def test_objective_is_the_elbo_and_compiles_once(x):
    model, params = at_component(x, 1.0)
    of = network_spectra.objective(model, params, x, KEY, draws=300)
    exact = linear.elbo(params, mom.from_data(x - x.mean(0)))
    # 240,000 draws of a reconstruction whose spread is about 1
    assert abs(of.function(of.variables) - exact) < 0.02
    assert sum(leaf.size for leaf in of.variables.values()) == 2 * 4 * 2 + 2
    lower = network_spectra.objective(model, params, x, KEY, draws=300, sigma2=4.0, beta=2.0)
    changed = linear.LinearVAEParams(params.W, params.V, params.log_d, jnp.log(4.0))
    exact = linear.elbo(changed, mom.from_data(x - x.mean(0)), 2.0)
    assert abs(lower.function(lower.variables) - exact) < 0.02
    # σ², β, data and noise are arguments of the program
    assert jax.tree.structure(of.function) == jax.tree.structure(lower.function)


@pytest.mark.slow
def test_spectra_of_a_network_agree_with_the_dense_hessian(x):
    model = networks.Mlp(4, 2, (5,), (5,), "tanh", dtype="float64")
    params = model.init(KEY, 1.0)
    table = network_spectra.spectra(
        model, params, x[:50], KEY, [4.0], steps=20, probes=8, largest=1
    )
    assert table.index_lower.dims == ("point", "sigma2")
    assert table.largest.dims == ("point", "sigma2", "rank")
    key_noise, _ = jax.random.split(KEY)
    points = {
        "trained": params,
        "all collapsed": collapsed_latent.collapse_latents(model, params, (0, 1)),
    }
    for name, at in points.items():
        of = network_spectra.objective(model, at, x[:50], key_noise, sigma2=4.0)
        values = jnp.linalg.eigvalsh(hessian.dense(of.function, of.variables))
        found = table.sel(point=name, sigma2=4.0)
        # ends of Lanczos lie inside the spectrum, and 20 steps come close
        assert values[0] * (1 + 1e-12) <= float(found.bottom) <= 0.99 * values[0]
        assert float(found.top) <= values[-1] * (1 + 1e-12)
        np.testing.assert_allclose(float(found.largest[0]), values[-1], rtol=1e-6)
        # 6 standard errors over 8 probes, and the bracket where the error is small
        error = 6 * float(found.index_error) + 1
        positive = int((values > 1e-10).sum())
        assert found.index_lower - error <= positive <= found.index_upper + error
        assert abs(float(found.trace) - values.sum()) <= 6 * float(found.trace_error)


@pytest.mark.slow
def test_curvature_of_a_sweep_is_that_of_its_networks(x):
    model = networks.Mlp(4, 2, (5,), (5,), mean_scale=1.0)
    data = network_task.prepare(np.asarray(x, np.float32))
    task = network_task.NetworkTask(model, batch_size=20)
    grid = sweeps.Grid((0, 1), (0.5, 5.0), (False, True), beta=(1.0, 2.0))
    sweep = sweeps.run(task, training.TrainConfig(40, 20), data, grid, quiet=True)
    table = sweep.table
    table["diverged"][0, 1, 0, 1] = True
    table = network_study.escape_of_sweep(
        task, data, sweep, KEY, [0.1, 1.0], count=200, draws=2, quiet=True
    )
    assert table.attrs["data"] == "200"
    assert table.escape_rate.dims == ("sigma2_init", "learned", "beta", "sigma2")
    assert table.critical_sigma2.dims == ("sigma2_init", "learned", "beta")
    gone = {"sigma2_init": 5.0, "learned": False, "beta": 2.0}
    assert np.isnan(table.critical_sigma2.sel(gone))
    assert (table["index"].sel(gone) == -1).all()
    assert int(np.isnan(table.critical_sigma2).sum()) == 1
    np.testing.assert_allclose(table.own_sigma2.sel(learned=False, beta=1.0), [0.5, 5.0])
    # by hand: at σ² = 0.5 both are in use, and one that collapses leaves λ₂; at 5 one is, and what
    # is left on its component, σ⁴/λ₁, is more than λ₂
    linear_critical = table.linear_critical_sigma2.sel(learned=False, beta=1.0)
    np.testing.assert_allclose(linear_critical, [3.0, 25 / 6], rtol=1e-5)
    params = jax.tree.map(lambda leaf: leaf[0, 1, 0, 0], sweep.params)
    same = jnp.repeat(network_task.centred(data, None, KEY, 200), 2, axis=0)
    _, key = jax.random.split(KEY)  # the first is for the noise of pixels
    one = network_study.escape_path(model, params, same, key, [0.1, 1.0])
    assert float(one.critical_sigma2) == float(table.critical_sigma2[1, 0, 0])
    # at a network's own σ², which the grid does not have
    at_own = network_study.escape_path(model, params, same, key, [5.0])
    assert float(table.own_escape_rate[1, 0, 0]) == float(at_own.escape_rate[0])
    sweep.table["diverged"][:] = True
    with pytest.raises(ValueError, match="diverged everywhere"):
        network_study.escape_of_sweep(task, data, sweep, KEY, [0.1], quiet=True)


class Opaque(NamedTuple):
    """A model that does not say which weights are those of a latent."""

    n: int = 4
    k: int = 2

    def init(self, key: Any, sigma2: Any) -> Any:
        raise NotImplementedError

    def encode(self, params: Any, x: Any) -> Any:
        raise NotImplementedError

    def decode(self, params: Any, z: Any) -> Any:
        raise NotImplementedError


@pytest.mark.slow
@pytest.mark.parametrize(
    "function", [network_study.escape_of_sweep, network_spectra.spectra_of_sweep]
)
def test_model_that_does_not_know_its_latents_is_refused(x, function):
    data = network_task.prepare(np.asarray(x, np.float32))
    trainable = networks.Mlp(4, 2, (5,), (5,))
    grid, config = sweeps.Grid((0,)), training.TrainConfig(2, 2)
    sweep = sweeps.run(network_task.NetworkTask(trainable), config, data, grid, quiet=True)
    with pytest.raises(ValueError, match=r"got Opaque, expected a vae\.LatentModel"):
        function(network_task.NetworkTask(Opaque()), data, sweep, KEY, [1.0], quiet=True)
