"""Curvature at trained VAEs: on the linear one against the closed forms, then on a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from strategies import orthogonal

from landscape import conditioning, hessian, stationary, trained
from linvae_jax import linear, networks, vae
from linvae_jax import moments as mom

LAM = np.array([6.0, 3.0, 1.2, 0.3])
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def x() -> jax.Array:
    """400 data whose sample covariance has exactly the eigenvalues LAM."""
    z = jax.random.normal(KEY, (400, 4))
    z = jnp.linalg.qr(z - z.mean(0))[0] * 20
    return (z * jnp.sqrt(LAM)) @ orthogonal(1, 4).T


def at_component(x: jax.Array, sigma2: float) -> tuple[linear.Model, linear.LinearVAE]:
    """The linear VAE with its first latent on the first component, the second collapsed."""
    s = mom.spectrum(mom.from_data(x))
    return linear.Model(4, 2), stationary.point(
        s.eigenvectors, s.eigenvalues, jnp.array([0, -1]), sigma2
    )


@pytest.mark.parametrize("sigma2", [0.5, 2.0, 5.0])
def test_collapsed_latent_of_the_linear_vae_escapes_as_the_closed_form_says(x, sigma2):
    model, params = at_component(x, sigma2)
    table = trained.escape_path(model, params, x, KEY, 1, [sigma2], draws=200)
    # mirrored noise makes first derivatives vanish; what is left is rounding
    assert float(table.slope[0]) < 1e-12
    rate = max(float(conditioning.escape_rate(jnp.asarray(3.0), sigma2)), 0)
    # the decoder's curvature −E[ε²]/σ² is a mean over 80,000 draws: 6 standard errors of 0.005
    np.testing.assert_allclose(float(table.escape_rate[0]), rate, atol=0.03 / sigma2)
    below = int((LAM[1:] > sigma2).sum())
    assert int(table["index"][0]) == below


def test_objective_is_the_elbo_and_its_variables_are_what_they_say(x):
    model, params = at_component(x, 1.0)
    of = trained.objective(model, params, x, KEY, draws=300)
    exact = linear.elbo(params, mom.from_data(x - x.mean(0)))
    # 240,000 draws of a reconstruction whose spread is about 1
    assert abs(of.function(of.variables) - exact) < 0.02
    assert sum(leaf.size for leaf in of.variables.values()) == 2 * 4 * 2 + 2
    lower = trained.objective(model, params, x, KEY, draws=300, sigma2=4.0, beta=2.0)
    changed = linear.LinearVAE(params.W, params.V, params.log_d, jnp.log(4.0))
    exact = linear.elbo(changed, mom.from_data(x - x.mean(0)), 2.0)
    assert abs(lower.function(lower.variables) - exact) < 0.02


def test_network_collapsed_point_is_stationary_and_its_curvature_is_that_of_the_whole(x):
    """Wherever the other weights are: here nothing is trained."""
    model = networks.Mlp(4, 2, (5,), (5,), "tanh", dtype="float64")
    params = model.init(KEY, 1.0)
    point = trained.collapsed(model, params, (1,))
    of = trained.objective(model, point, x[:50], KEY, latents=(1,))
    slopes = jax.tree.leaves(jax.grad(of.function)(of.variables))
    assert max(float(jnp.abs(leaf).max()) for leaf in slopes) < 1e-12
    # second derivative along a random direction by differences of the ELBO itself
    direction = jax.tree.map(lambda leaf: jax.random.normal(KEY, leaf.shape), of.variables)
    h = 1e-4

    def along(t):
        return of.function(jax.tree.map(lambda a, b: a + t * b, of.variables, direction))

    second = (along(h) - 2 * along(0.0) + along(-h)) / h**2
    product = hessian.product(of.function, of.variables, direction)
    exact = sum(jnp.vdot(product[name], direction[name]) for name in product)
    np.testing.assert_allclose(second, exact, rtol=1e-4)  # h² and rounding over h²


def test_spectra_of_a_network_agree_with_the_dense_hessian(x):
    model = networks.Mlp(4, 2, (5,), (5,), "tanh", dtype="float64")
    params = model.init(KEY, 1.0)
    table = trained.spectra(model, params, x[:50], KEY, [4.0], steps=20, probes=8, largest=1)
    assert table.index_lower.dims == ("point", "sigma2")
    assert table.largest.dims == ("point", "sigma2", "rank")
    key_noise, _ = jax.random.split(KEY)
    points = {"trained": params, "all collapsed": trained.collapsed(model, params, (0, 1))}
    for name, at in points.items():
        of = trained.objective(model, at, x[:50], key_noise, sigma2=4.0)
        values = jnp.linalg.eigvalsh(hessian.dense(of.function, of.variables))
        found = table.sel(point=name, sigma2=4.0)
        np.testing.assert_allclose(float(found.largest[0]), values[-1], rtol=1e-6)
        # 6 standard errors over 8 probes, and the bracket where the error is small
        error = 6 * float(found.index_error) + 1
        positive = int((values > 1e-10).sum())
        assert found.index_lower - error <= positive <= found.index_upper + error
        assert abs(float(found.trace) - values.sum()) <= 6 * float(found.trace_error)


def test_single_precision_and_unknown_latents_are_refused(x):
    model, params = at_component(x, 1.0)
    with pytest.raises(ValueError, match=r"latents: got 2, expected 0 <= latents <= 1"):
        trained.collapsed(model, params, (2,))
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        trained.in_float64(params)
    assert vae.with_noise(model, params, x, jnp.zeros((400, 2))).kl.shape == (400, 2)
