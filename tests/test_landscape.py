"""Hessians, conditioning and surfaces of any objective."""

from functools import partial

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from tolerances import EXACT, FACTORED

from landscape.autodiff import hessian, objectives
from landscape.curvature import conditioning, escape
from landscape.points import stationary
from landscape.studies import surface
from landscape.testing.strategies import moments_with, normal, problems
from linvae_jax import linear, ppca
from linvae_jax import moments as mom

EVERYTHING = ("W", "V", "log_d", "log_sigma2", "mean")


# jitted here, not in the test, these compile once per shape instead of once per example
@jax.jit
def product_along(params, moments, direction):
    function, point = objectives.elbo(params, moments, learn=EVERYTHING)
    unravel = jax.flatten_util.ravel_pytree(point)[1]
    product = hessian.product(function, point, unravel(direction))
    return jax.flatten_util.ravel_pytree(product)[0]


@jax.jit
def gradient_beside(params, moments, shift):
    function, point = objectives.elbo(params, moments, learn=EVERYTHING)
    flat, unravel = jax.flatten_util.ravel_pytree(point)
    return jax.flatten_util.ravel_pytree(jax.grad(function)(unravel(flat + shift)))[0]


@pytest.mark.slow
@settings(max_examples=8)
@given(problems())
def test_dense_columns_are_products(problem):
    params, moments, _ = problem
    _, point = objectives.elbo(params, moments, learn=EVERYTHING)
    size = sum(leaf.size for leaf in jax.tree.leaves(point))
    direction = normal(0, size)
    ours = product_along(params, moments, direction)
    # central differences of the gradient share nothing with forward-over-reverse
    gradient = partial(gradient_beside, params, moments)
    h = 1e-5
    differences = (gradient(h * direction) - gradient(-h * direction)) / (2 * h)
    # error h²·third derivative + ε/h·gradient
    scale = float(jnp.abs(gradient(0 * direction)).max() + jnp.abs(ours).max())
    np.testing.assert_allclose(ours, differences, atol=1e-5 * scale)


def test_dense_is_symmetric_and_ordered_like_ravel_pytree():
    H = hessian.dense(
        lambda v: v["b"][0] ** 3 * v["a"] + v["b"][1] ** 2,
        {"b": jnp.array([2.0, 1.0]), "a": jnp.array(5.0)},
    )
    np.testing.assert_allclose(H, [[0, 12, 0], [12, 60, 0], [0, 0, 2]])


def test_dense_refuses_what_does_not_fit():
    point = {"W": jnp.zeros((784, 200))}
    with pytest.raises(ValueError, match=r"156,800 parameters.*196\.69 GB"):
        hessian.dense(lambda v: jnp.sum(v["W"] ** 2), point)


def test_summary_of_a_known_spectrum():
    flat = conditioning.of_eigenvalues(jnp.zeros(3))
    assert (flat.index, flat.nullity, flat.stiffness, flat.escape_rate) == (0, 3, 0, 0)
    slow = conditioning.of_eigenvalues(jnp.array([-2.0, 0.25]))
    assert (slow.index, slow.escape_rate, slow.condition_number) == (1, 0.25, 1)
    found = conditioning.of_eigenvalues(jnp.array([[-8.0, 3.0, 0.0, -2.0, 1.0], [1, 1, 1, 1, 1]]))
    assert found.index.tolist() == [2, 5]
    assert found.nullity.tolist() == [1, 0]
    assert found.stiffness.tolist() == [8.0, 0.0]
    assert found.condition_number[0] == 4.0
    assert jnp.isnan(found.condition_number[1])
    assert found.escape_rate.tolist() == [3.0, 1.0]
    coarse = conditioning.of_eigenvalues(jnp.array([-8.0, 3.0, 0.5, -0.5, -2.0]), rtol=0.125)
    assert (coarse.tolerance, coarse.index, coarse.nullity) == (1, 1, 2)
    assert coarse.condition_number == 4
    # without a tolerance zeros are zeros alone: they hold nothing
    exact = conditioning.of_eigenvalues(jnp.array([-8.0, 3.0, 0.0, -1e-9]), rtol=0.0)
    assert (exact.index, exact.nullity) == (1, 1)
    np.testing.assert_allclose(exact.condition_number, 8e9, rtol=1e-15)


def test_numbers_of_a_function_are_those_of_its_spectrum():
    curvatures = jnp.array([-8.0, -2.0, 3.0, 0.0])
    bowl = lambda v: 0.5 * jnp.sum(curvatures * v["x"] ** 2)  # noqa: E731
    found, way = conditioning.of_function(bowl, {"x": jnp.ones(4)})
    assert (found.index, found.nullity) == (1, 1)
    assert (found.stiffness, found.condition_number, found.escape_rate) == (8.0, 4.0, 3.0)
    np.testing.assert_allclose(np.abs(way["x"]), [0, 0, 1, 0], atol=EXACT)


@pytest.mark.slow
def test_escape_direction_climbs():
    lam = jnp.array([4.0, 2.0, 0.5])
    moments, U = moments_with(np.asarray(lam), 0)
    params = stationary.params(stationary.point(lam, jnp.array([1, -1]), 1.0), U)
    function, point = objectives.elbo(params, moments)
    found, direction = conditioning.of_function(function, point)
    assert found.index == stationary.index(stationary.point(lam, jnp.array([1, -1]), 1.0)) == 2
    step = 1e-4
    moved = jax.tree.map(lambda p, d: p + step * d, point, direction)
    gain = function(moved) - function(point)
    np.testing.assert_allclose(gain, 0.5 * step**2 * found.escape_rate, rtol=1e-3)
    # the collapsed latent's rate is the closed form's, here the fastest of the two
    np.testing.assert_allclose(found.escape_rate, escape.escape_rate(lam[0], 1.0), rtol=FACTORED)


def test_objective_of_the_mean_is_highest_at_the_data_mean():
    moments, _ = moments_with(np.array([3.0, 1.0]), 0)
    params = linear.init(jax.random.key(0), 2, 1)
    function, point = objectives.elbo(params, moments, learn=("mean",))
    np.testing.assert_allclose(function(point), linear.elbo(params, moments), rtol=EXACT)
    np.testing.assert_allclose(jax.grad(function)(point)["mean"], 0, atol=EXACT)
    assert function({"mean": point["mean"] + 0.1}) < function(point)


def test_likelihood_objective_is_ppcas():
    moments, _ = moments_with(np.array([3.0, 1.0]), 0)
    W = jnp.array([[1.0], [0.3]])
    function, point = objectives.log_likelihood(W, 0.5, moments, learn=("W", "log_sigma2"))
    np.testing.assert_allclose(function(point), ppca.log_likelihood(W, 0.5, moments), rtol=EXACT)


def test_surface_has_its_extrema_where_theory_puts_them():
    lam = jnp.array([9.0, 4.0, 2.0, 0.5])
    table = surface.zero_column(lam, [1.0, 3.0, 5.0], components=(1, 2), num=81)
    for i, sigma2 in enumerate((1.0, 3.0, 5.0)):
        panel = table.log_likelihood.isel(sigma2=i)
        at = panel.argmax(...)
        expected = np.sqrt(max(4.0 - sigma2, 0))
        spacing = float(table.along_first[1] - table.along_first[0])
        assert abs(abs(float(table.along_first[at["along_first"]])) - expected) <= spacing
        assert abs(float(table.along_second[at["along_second"]])) <= 1e-9
    # W keeps orthogonal columns in this plane, so the ELBO is tight (Lemma 2's Hadamard gap is 0)
    gap = np.abs(table.log_likelihood - table.profile_elbo).max()
    assert gap < FACTORED


def test_plane_of_a_known_function():
    point, d1, d2 = jnp.zeros(2), jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    a, b = jnp.array([0.0, 1.0, 2.0]), jnp.array([0.0, 3.0])
    values = surface.plane(lambda v: v[0] + 10 * v[1], point, (d1, d2), a, b)
    np.testing.assert_allclose(values, [[0, 30], [1, 31], [2, 32]])


def test_thin_and_diagonal_moments_give_the_same_value():
    x = np.random.default_rng(0).normal(size=(50, 4))
    moments = mom.from_data(x)
    diagonal, s = mom.in_eigenbasis(moments)
    W = ppca.mle(moments, 2).W
    np.testing.assert_allclose(
        ppca.log_likelihood(s.eigenvectors.T @ W, 0.3, diagonal),
        ppca.log_likelihood(W, 0.3, moments),
        rtol=FACTORED,
    )


def test_an_array_of_tiny_curvature_is_not_flat():
    """Each array is measured in a unit of its own, however small its curvature is."""
    point = {"x": jnp.zeros(()), "y": jnp.zeros(())}
    found, _ = conditioning.of_function(lambda p: -(1e-20 * p["x"] ** 2 + p["y"] ** 2), point)
    assert (found.index, found.nullity) == (0, 0)
    # y has no curvature of its own, and is coupled to one 1e20 times as stiff
    saddle = lambda p: -1e20 * p["x"] ** 2 + p["x"] * p["y"]  # noqa: E731
    found, _ = conditioning.of_function(saddle, point)
    assert (found.index, found.nullity) == (1, 0)
    # x is coupled to y alone, in a unit of its own that must not hide z
    point["z"] = jnp.zeros(())
    three = lambda p: -1e-40 * p["x"] ** 2 + 1e-20 * p["x"] * p["y"] - p["z"] ** 2  # noqa: E731
    found, _ = conditioning.of_function(three, point)
    assert (found.index, found.nullity) == (1, 0)
