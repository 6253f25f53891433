"""Every pPCA stationary point: the gradient vanishes, value and index match their formulas."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from objective import elbo, variables_of
from tolerances import EXACT, FACTORED

from landscape.autodiff import hessian, objectives
from landscape.curvature import conditioning, escape
from landscape.points import stationary
from landscape.testing import laws
from landscape.testing.strategies import (
    moments_with,
    noise,
    points,
    seeds,
    separated_spectra,
    spectra,
)
from linvae_jax import linear, ppca

SIZES = ((3, 2), (4, 3), (6, 4))


@pytest.mark.slow
@given(points(st.sampled_from(SIZES)), seeds)
def test_gradient_vanishes_at_every_point(point, seed):
    """Ties, zeros and τ exactly at an eigenvalue included."""
    lam, sigma2, beta = point.eigenvalues, point.sigma2, point.beta
    moments, U = moments_with(lam, seed)
    for assignment in stationary.assignments(lam, point.k, sigma2, beta):
        p = stationary.point(lam, assignment, sigma2, beta)
        params = stationary.params(p, U)
        laws.assert_stationary(elbo, variables_of(params, moments), params, moments, beta)
        value = linear.elbo(params, moments, beta)
        np.testing.assert_allclose(stationary.value(p), value, rtol=FACTORED)
        laws.assert_lower_bound(value, ppca.optimal_elbo(lam, point.k, sigma2, beta))


@jax.jit
def dense_conditioning(params, moments):
    objective = objectives.elbo(params, moments)
    # 1e-10 of the stiffest direction: dense eigenvalues are good to about 1e-14 of it
    found, direction = conditioning.of_function(*objective, rtol=1e-10)
    rate = hessian.product(*objective, direction)
    return found, sum(jnp.vdot(direction[name], rate[name]) for name in direction)


@pytest.mark.slow
@settings(max_examples=15)
@given(st.data(), st.sampled_from(SIZES), seeds, st.floats(0.1, 10))
def test_index_is_that_of_the_dense_hessian(draw, size, seed, sigma2):
    n, k = size
    lam = draw.draw(separated_spectra(n))
    # the index jumps where σ² crosses an eigenvalue: keep 2 % away, or signs are rounding
    if np.min(np.abs(np.log(lam / sigma2))) < 0.02:
        sigma2 *= 1.05
    moments, U = moments_with(lam, seed)
    points = list(stationary.assignments(jnp.asarray(lam), k, sigma2))
    rng = np.random.default_rng(seed)
    chosen = [points[i] for i in rng.choice(len(points), min(4, len(points)), replace=False)]
    for assignment in [points[0], points[-1], *chosen]:
        shuffled = rng.permutation(assignment)
        params = stationary.params(stationary.point(jnp.asarray(lam), shuffled, sigma2), U)
        found, along_direction = dense_conditioning(params, moments)
        assert found.index == stationary.index(stationary.point(jnp.asarray(lam), shuffled, sigma2))
        assert found.nullity == 0
        if found.index:
            np.testing.assert_allclose(along_direction, found.escape_rate, rtol=1e-8)


@given(st.data(), seeds, noise)
def test_only_the_first_point_has_index_zero_and_it_is_the_optimum(draw, seed, sigma2):
    lam = jnp.asarray(draw.draw(separated_spectra(5)))
    points = list(stationary.assignments(lam, 3, sigma2))
    indices = [int(stationary.index(stationary.point(lam, a, sigma2))) for a in points]
    assert indices[0] == 0
    assert min(indices[1:], default=1) >= 1
    values = [float(stationary.value(stationary.point(lam, a, sigma2))) for a in points]
    assert max(values) == values[0]
    np.testing.assert_allclose(values[0], ppca.optimal_elbo(lam, 3, sigma2), rtol=EXACT)


@given(st.data(), noise)
def test_points_are_counted_distinct_and_complete(draw, sigma2):
    lam = jnp.asarray(draw.draw(spectra(5)))
    points = [tuple(a) for a in stationary.assignments(lam, 3, sigma2)]
    assert len(points) == len(set(points)) == stationary.count(lam, 3, sigma2)
    available = [i for i in range(5) if lam[i] > sigma2]
    subsets = {s for r in range(4) for s in itertools.combinations(available, r)}
    assert {tuple(i for i in p if i >= 0) for p in points} == subsets


def test_points_are_lazy():
    lam = jnp.linspace(10, 5, 500)
    first = list(itertools.islice(stationary.assignments(lam, 200, 1.0), 3))
    assert first[0].tolist() == list(range(200))
    assert stationary.count(lam, 200, 1.0) > 10**140


def test_directions_along_ties_are_flat_and_not_counted():
    """A tie between a used and an unused component, and one with the noise level."""
    point = stationary.point(jnp.array([4.0, 2.0, 2.0, 1.0]), np.array([1, -1]), 1.0)
    assert stationary.index(point) == 1 + 2  # to 4; from collapse to 4 and 2


def test_index_runs_over_assignments_and_noise_at_once():
    lam = jnp.array([4.0, 2.0, 1.0, 0.5])
    assignments = jnp.array([[0, 1], [0, -1], [1, -1]])
    sigma2 = jnp.array([0.3, 0.7])
    count = lambda a, s: stationary.index(stationary.point(lam, a, s))  # noqa: E731
    both = jax.jit(jax.vmap(jax.vmap(count, (0, None)), (None, 0)))(assignments, sigma2)
    # with k − r spare latents and unused λ above σ² or above a used one, counted by hand
    assert both.tolist() == [[0, 3, 4], [0, 2, 3]]


def test_what_a_point_knows_of_itself():
    # 1e-17 is a zero of S, of a size that an eigensolver leaves
    point = stationary.point(jnp.array([4.0, 2.0, 0.5, 1e-17]), np.array([1, -1]), 0.6, 2.0)
    assert (point.n, point.k, float(point.tau)) == (4, 2, 1.2)
    assert point.owners.tolist() == [2, 0, 2, 2]
    assert (point.used.tolist(), point.active.tolist()) == ([0, 1, 0, 0], [1, 0])
    assert point.lam.tolist() == [4.0, 2.0, 0.5, 0.0]
    np.testing.assert_allclose(point.levels, [2.0, 1.2])
    np.testing.assert_allclose(point.widths, [np.sqrt(0.8), 0.0])
    assert stationary.unit_free(point).unit == 4.0


def test_points_are_values_for_jit_vmap_and_grad():
    lam, a = jnp.array([4.0, 2.0, 0.5]), jnp.array([0, -1])
    sigma2 = jnp.array([0.3, 1.0])
    points = jax.vmap(lambda s: stationary.point(lam, a, s))(sigma2)
    many = jax.jit(jax.vmap(stationary.value))(points)
    for s, value in zip(sigma2, many, strict=True):
        np.testing.assert_allclose(value, stationary.value(stationary.point(lam, a, s)), rtol=EXACT)
    slope = jax.grad(lambda s: stationary.value(stationary.point(lam, a, s)))(1.0)
    # of the likelihood at fixed W, which moves to second order only: −½ Σ_unused (1/σ² − λ/σ⁴)
    np.testing.assert_allclose(slope, -0.5 * (2 - 2.0 - 0.5), rtol=FACTORED)


def test_a_collapsed_column_is_zero_however_the_noise_level_is_rounded():
    """β σ² = 3 · (1/3) and the like, compiled in one program with all that follows."""
    lam, a = jnp.array([4.0, 2.0, 0.5]), jnp.array([0, -1])
    weights = jax.jit(lambda s, b: stationary.params(stationary.point(lam, a, s, b), jnp.eye(3)))
    for beta in (3.0, 7.0, 0.7):
        params = weights(1 / beta, beta)
        assert params.W[:, 1].tolist() == params.V[1].tolist() == [0, 0, 0]
        assert params.log_d[1] == 0


@pytest.mark.parametrize("wrong", [[2, -1], [0, 0], [3, -1]])  # λ ≤ τ, twice, no such component
def test_traced_points_that_are_none_say_nan(wrong):
    lam = jnp.array([4.0, 2.0, 0.5])

    @jax.vmap
    def measure(a):
        point = stationary.point(lam, a, 1.0)
        params = stationary.params(point, jnp.eye(3))
        known = jnp.isnan(point.levels).any(), jnp.isnan(params.W).any()
        return *known, jnp.isnan(stationary.value(point)), stationary.index(point)

    right, bad = np.transpose(measure(jnp.array([[0, -1], wrong])))
    assert right.tolist() == [0, 0, 0, 1]
    assert bad[:3].tolist() == [1, 1, 1]


@pytest.mark.slow
def test_zero_column_curvature_of_the_profile():
    """Along an unused u_i the profile ELBO bends with (λ_i − σ²)/σ⁴ (landscape/README.md, 2)."""
    lam, sigma2 = jnp.array([4.0, 2.0, 0.5]), 1.3
    moments, U = moments_with(np.asarray(lam), 0)
    W = stationary.params(stationary.point(lam, jnp.array([0, -1]), sigma2), U).W
    for i in (1, 2):
        direction = jnp.zeros_like(W).at[:, 1].set(U[:, i])
        line = lambda t, d=direction: linear.profile_elbo(W + t * d, sigma2, moments)  # noqa: E731
        bend = jax.grad(jax.grad(line))(0.0)
        np.testing.assert_allclose(bend, (lam[i] - sigma2) / sigma2**2, rtol=FACTORED)


@given(st.floats(0.1, 50), st.floats(0.1, 50))
def test_escape_rate_is_the_eigenvalue_of_its_block(lam, sigma2):
    block = [[-1 / sigma2, lam / sigma2], [lam / sigma2, -lam]]
    exact = np.linalg.eigvalsh(block)[-1]
    scale = abs(np.linalg.eigvalsh(block)[0])
    ours = escape.escape_rate(jnp.asarray(lam), sigma2)
    np.testing.assert_allclose(ours, exact, rtol=0, atol=10 * EXACT * scale)


def test_escape_rate_keeps_its_digits_at_the_threshold():
    # at σ² = 1, λ = 1 + δ the block has determinant −δ(1 + δ), and μ₋ is −2: μ₊ is δ/2
    delta = 1e-12
    ours = escape.escape_rate(jnp.asarray(1 + delta), 1.0)
    np.testing.assert_allclose(ours, delta / 2, rtol=1e-3)  # 1 + 1e-12 itself has four digits of δ


@pytest.mark.slow
@settings(max_examples=5)
@given(st.data(), seeds, noise)
def test_rotation_stiffness_is_the_second_derivative(draw, seed, sigma2):
    lam = draw.draw(separated_spectra(4))
    sigma2 = min(sigma2, 0.5 * lam[1])
    moments, _ = moments_with(lam, seed)
    best = linear.with_optimal_encoder(ppca.mle(moments, 2, sigma2).W, sigma2)

    def turned(angle):
        c, s = jnp.cos(angle), jnp.sin(angle)
        R = jnp.array([[c, -s], [s, c]])
        return linear.elbo(
            linear.LinearVAEParams(best.W @ R, R.T @ best.V, best.log_d, best.log_sigma2), moments
        )

    bend = jax.grad(jax.grad(turned))(0.0)
    # D is held while rotating, as in the joint space of all parameters
    expected = -escape.rotation_stiffness(jnp.asarray(lam[:2]))[0]
    np.testing.assert_allclose(bend, expected, rtol=1e-7, atol=1e-9)


def test_zeros_of_s_are_within_ten_eps_of_the_largest_and_below_the_noise():
    """10 ε = 2.2e-15; a λ above τ is never taken for rounding."""
    lam = np.array([1.0, 1e-9, 3e-15, 2e-15])
    assert stationary.zeros_of_s(jnp.asarray(lam), 0.1).tolist() == [False, False, False, True]
    assert not stationary.zeros_of_s(jnp.asarray(lam), 1.5e-15).any()


def test_the_largest_component_must_be_above_the_noise_too():
    with pytest.raises(ValueError, match="assignment: got"):
        stationary.point(jnp.array([1.0, 0.5]), np.array([0]), 1.0)


@pytest.mark.parametrize(
    ("lam", "expected"),
    [
        ([0.5, 0.2], 0.5),  # none in use: along its own
        ([4.0, 0.1, 0.1], 0.25),  # one in use: what noise its component leaves, τ²/λ
        ([4.0, 0.5, 0.1], 0.5),  # or along the next one
        ([4.0, 3.0, 0.1], 3.0),  # as many as there are latents: along its own
    ],
)
def test_critical_sigma2_of_the_linear_vae_by_hand(lam, expected):
    found = escape.critical_sigma2(jnp.array(lam), 2, 0.5, 2.0)
    np.testing.assert_allclose(found, expected / 2, rtol=1e-15)


def test_a_simulation_is_given_up_after_the_steps_it_may_take():
    simulate = partial(escape.simulate, jnp.array([4.0, 2.0]), 0, 1.0, start=1e-3, growth=1e3)
    found = simulate()
    last = int(np.ceil(found.simulated_steps))
    assert found.predicted_steps < last - 1  # beyond the linear regime it takes longer
    assert simulate(max_steps=last).simulated_steps == found.simulated_steps
    assert np.isnan(simulate(max_steps=last - 1).simulated_steps)
