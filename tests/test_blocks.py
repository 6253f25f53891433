"""Exact block spectra against dense autodiff Hessians, for every set of variables."""

from dataclasses import replace
from functools import partial
from itertools import islice

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from objective import elbo, likelihood, variables_of

from landscape.autodiff import hessian, objectives
from landscape.curvature import (
    arrowhead,
    blocks,
    directions,
    escape,
    operators,
    own_blocks,
    summaries,
)
from landscape.points import stationary
from landscape.testing import laws
from landscape.testing.strategies import moments_with, normal, orthogonal, points, seeds
from linvae_jax.linear import LinearVAEParams

# relative to the largest eigenvalue; the dense eigensolver has a few hundred rounding errors
SPECTRUM = 1e-11

WEIGHTS = blocks.WEIGHTS
NOISE = (*WEIGHTS, "log_sigma2")
LEARN = (WEIGHTS, NOISE, (*NOISE, "mean"))

# (n, k): k = 1, k = n, tall; each compiles a dense Hessian for each set of variables
SHAPES = ((2, 1), (3, 3), (5, 2))

weights = st.sampled_from([1.0, 0.3, 2.5])
shapes = st.sampled_from(SHAPES)
few = st.just((5, 3))


@partial(jax.jit, static_argnames="learn")
def dense(params, moments, beta, learn):
    return hessian.dense(*objectives.elbo(params, moments, beta=beta, learn=learn))


def at(point, seed):
    """The weights at a point in a random basis, its moments, and that basis."""
    moments, U = moments_with(np.asarray(point.eigenvalues), seed)
    return stationary.params(point, U), moments, U


def close(ours, exact, scale):
    np.testing.assert_allclose(ours, exact, rtol=0, atol=SPECTRUM * scale)


def some_direction(seed, n, k):
    shapes = ((n, k), (k, n), (k,), ())
    return LinearVAEParams(*(normal([seed, i], *shape) for i, shape in enumerate(shapes)))


def flat(direction, learn=NOISE):
    """The variables in `learn`, in the order of the dense Hessian."""
    return jax.flatten_util.ravel_pytree({name: getattr(direction, name) for name in learn})[0]


@pytest.mark.slow
@pytest.mark.parametrize("learn", LEARN)
@given(points(shapes, weights), seeds)
def test_spectrum_is_the_dense_hessians(learn, point, seed):
    params, moments, _ = at(point, seed)
    ours = blocks.hessian_eigenvalues(point, learn=learn)
    variables = variables_of(params, moments, learn)
    laws.assert_spectrum(elbo, variables, params, moments, point.beta, eigenvalues=ours)


@pytest.mark.slow
@pytest.mark.parametrize("learn", [("W",), ("W", "log_sigma2")])
@given(points(shapes, st.just(1.0)), seeds)
def test_likelihood_spectrum_is_the_dense_hessians(learn, point, seed):
    params, moments, _ = at(point, seed)
    rotation = orthogonal(seed + 1, point.k)  # not the basis, where k = n
    variables = variables_of(replace(params, W=params.W @ rotation), moments, learn)
    ours = blocks.log_likelihood_eigenvalues(point, learn=learn)
    # at λ = σ² everything may cancel; 1/σ² is the size of what does
    laws.assert_spectrum(
        likelihood, variables, point.sigma2, moments,
        eigenvalues=ours, scale=float(1 / point.sigma2),
    )  # fmt: skip


@pytest.mark.slow
# where log σ² bends far more than W does, and where W bends but little
@pytest.mark.parametrize(("lam", "sigma2"), [(0.5005, 0.5), (20.0, 10.0)])
def test_likelihood_spectrum_where_sigma2_has_the_lowest_eigenvalue(lam, sigma2):
    point = stationary.point(jnp.array([lam, 0.01 * sigma2]), np.array([0]), sigma2)
    learn = ("W", "log_sigma2")
    params, moments, _ = at(point, 0)
    variables = variables_of(params, moments, learn)
    ours = blocks.log_likelihood_eigenvalues(point, learn=learn)
    laws.assert_spectrum(likelihood, variables, point.sigma2, moments, eigenvalues=ours)


def test_likelihood_eigenvalues_are_latent_by_latent_and_log_sigma2_comes_last():
    point = stationary.point(jnp.array([6.0, 3.0, 0.4]), np.array([1, -1]), 0.9)
    held = blocks.log_likelihood_eigenvalues(point).reshape(2, 3)
    both = blocks.log_likelihood_eigenvalues(point, learn=("W", "log_sigma2"))
    free, last = both[:-1].reshape(2, 3), both[-1]
    others = np.ones((2, 3), bool)
    others[0, 1] = False  # latent 0 on its component is tied to log σ²
    np.testing.assert_allclose(free[others], held[others], rtol=1e-15)
    # [[a, b], [b, c]] of that weight and log σ²; its trace and determinant by hand
    a, b, c = -2 * 2.1 / 9, -0.9 / 3 * np.sqrt(2.1) / 3, -((0.3) ** 2 + 6.4 / 0.9) / 2
    np.testing.assert_allclose(free[0, 1] + last, a + c, rtol=1e-14)
    np.testing.assert_allclose(free[0, 1] * last, a * c - b**2, rtol=1e-13)
    assert last > free[0, 1]


@pytest.mark.parametrize("learn", [("W",), ("W", "log_sigma2")])
def test_likelihood_eigenvalues_of_a_unit_free_point_are_those_of_normalised_data(learn):
    lam, a = jnp.array([6.0, 3.0, 0.4]), np.array([1, -1])
    free = stationary.unit_free(stationary.point(lam, a, 0.9))
    normalised = stationary.point(lam / 6, a, 0.9 / 6)
    ours, exact = (blocks.log_likelihood_eigenvalues(p, learn=learn) for p in (free, normalised))
    np.testing.assert_allclose(ours, exact, rtol=1e-14, atol=1e-15)


def test_own_component_in_the_pairs_is_the_corner_of_the_own_block():
    point = stationary.point(jnp.array([6.0, 3.0, 0.4]), np.array([1, 0, -1]), 0.9, 1.3)
    a, b, c, det = blocks.pair_blocks(point, jnp.arange(3))
    corner = own_blocks.matrices(point)[:2, :2, :2]
    own = (np.arange(2), np.array([1, 0]))
    np.testing.assert_allclose(-a, corner[:, 0, 0], rtol=1e-14)
    np.testing.assert_allclose(-b[own], corner[:, 1, 1], rtol=1e-14)
    np.testing.assert_allclose(c[own], corner[:, 0, 1], rtol=1e-14)
    np.testing.assert_allclose(det[own], np.linalg.det(corner), rtol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("learn", [WEIGHTS, NOISE])
@hypothesis.settings(max_examples=15)
@given(points(few, weights), seeds)
def test_operator_is_the_dense_hessian(learn, point, seed):
    params, moments, U = at(point, seed)
    H = np.asarray(dense(params, moments, point.beta, learn))
    scale = np.abs(np.linalg.eigvalsh(H)).max()
    ours = operators.block_hessian(point, U, learn=learn)
    x = some_direction(seed, point.n, point.k)
    size = scale * len(flat(x))
    close(flat(operators.apply(ours, x), learn), H @ flat(x, learn), size)
    close(operators.quadratic(ours, x), flat(x, learn) @ H @ flat(x, learn), size)
    again = operators.from_modes(ours, operators.to_modes(ours, x))
    close(flat(again, learn), flat(x, learn), 1)
    spectrum = blocks.hessian_eigenvalues(point, learn=learn)
    close(ours.values, spectrum, scale * 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("learn", [WEIGHTS, NOISE])
@hypothesis.settings(max_examples=15)
@given(points(few, weights), seeds)
def test_solving_undoes_applying(learn, point, seed):
    _, _, U = at(point, seed)
    H = operators.block_hessian(point, U, learn=learn)
    rtol = 1e-6  # eigenvalues smaller than that are flat here, so that ten digits remain
    x = some_direction(seed, point.n, point.k)
    count = operators.inertia(H, rtol)
    if count.zero:
        with pytest.raises(ValueError, match=f"{count.zero} zero eigenvalues.*pseudo=True"):
            operators.solve(H, x, rtol=rtol)
        with pytest.raises(ValueError, match="zero eigenvalues"):
            operators.slogdet(H, rtol=rtol)
    solve = partial(operators.solve, H, pseudo=True, rtol=rtol)
    once = solve(x)
    again = solve(operators.apply(H, once))
    close(flat(again, learn), flat(once, learn), 1e4 * np.abs(flat(once)).max())
    values = np.asarray(H.values)
    values = values[np.abs(values) > rtol * np.abs(values).max()]
    sign, log = operators.slogdet(H, pseudo=True, rtol=rtol)
    assert (count.positive, count.negative) == ((values > 0).sum(), (values < 0).sum())
    np.testing.assert_allclose(sign, np.sign(values).prod())
    np.testing.assert_allclose(log, np.log(np.abs(values)).sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("learn", [WEIGHTS, NOISE])
@pytest.mark.parametrize(
    ("assignment", "unused"),
    # at last all that varies is explained: log σ² is free to move, the others with it
    [([0, 1, 2], 0.4), ([2, -1, 0], 0.4), ([-1, -1, -1], 0.4), ([2, 1, 0], 0.0)],
)
def test_solution_and_determinant_are_those_of_the_dense_pseudo_inverse(learn, assignment, unused):
    """Block by block, with a tie and a zero of S, far from σ² = 1."""
    lam = jnp.array([2.0, 1.3, 1.3, unused, 0.0])
    point = stationary.point(lam, np.array(assignment), 0.1, 2.3)
    params, moments, U = at(point, 0)
    values, vectors = np.linalg.eigh(dense(params, moments, 2.3, learn))
    flat_ones = np.abs(values) < 1e-10 * np.abs(values).max()
    inverse = np.where(flat_ones, 0, 1 / np.where(flat_ones, 1, values))
    H = operators.block_hessian(point, U, learn=learn)
    x = some_direction(1, 5, 3)
    exact = vectors @ (inverse * (vectors.T @ flat(x, learn)))
    ours = operators.solve(H, x, pseudo=True)
    close(flat(ours, learn), exact, 10 * np.abs(exact).max())
    sign, log = operators.slogdet(H, pseudo=True)
    assert sign == np.sign(values[~flat_ones]).prod()
    np.testing.assert_allclose(log, np.log(np.abs(values[~flat_ones])).sum(), rtol=1e-11)
    exact = np.asarray(blocks.hessian_eigenvalues(point, learn=learn))
    assert (exact == 0).sum() == flat_ones.sum()
    few = operators.inertia(H, 0.3)  # of the largest, which is 10 and more
    large = np.abs(values) > 0.3 * np.abs(values).max()
    assert (few.positive, few.negative) == ((values[large] > 0).sum(), (values[large] < 0).sum())


@pytest.mark.parametrize("excess", [1e-10, 1e-3, 1.0])
def test_own_eigenvalues_have_the_exact_determinant_near_the_threshold_too(excess):
    """A latent at λ = τ(1 + excess): the product is −β²w²/σ², though one is of the size of w²."""
    lam = 1.3 * 0.7 * (1 + excess)
    p = stationary.point(jnp.array([lam, 0.1]), np.array([0]), 0.7, 1.3)
    expected = -(1.3**2) * (lam - float(p.tau)) / 0.7
    np.testing.assert_allclose(own_blocks.spectra(p)[0].prod(), expected, rtol=1e-14)


@pytest.mark.parametrize("beta", [1e-3, 1.0, 1e3])
def test_a_collapsed_latent_has_the_eigenvalue_of_log_d_at_every_weight(beta):
    p = stationary.point(jnp.array([1.0, 0.1]), np.array([0, -1]), 0.5 / beta, beta)
    values, vectors = own_blocks.spectra(p)
    assert values[1, 2] == -beta / 2
    np.testing.assert_array_equal(np.abs(vectors[1, :, 2]), [0, 0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("learn", [WEIGHTS, NOISE])
def test_determinant_is_numpys(learn):
    point = stationary.point(jnp.array([6.0, 3.0, 1.2, 0.4]), np.array([2, -1, 0]), 0.9, 1.3)
    params, moments, U = at(point, 0)
    sign, log = np.linalg.slogdet(np.asarray(dense(params, moments, 1.3, learn)))
    ours = operators.slogdet(operators.block_hessian(point, U, learn=learn))
    assert ours[0] == sign
    np.testing.assert_allclose(ours[1], log, rtol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("learn", [WEIGHTS, NOISE])
@hypothesis.settings(max_examples=10)
@given(points(few, weights), seeds)
def test_every_eigenvector_is_one(learn, point, seed):
    params, moments, U = at(point, seed)
    H = np.asarray(dense(params, moments, point.beta, learn))
    values = np.asarray(blocks.hessian_eigenvalues(point, learn=learn))
    one = lambda q: directions.eigenvector(point, U, q, learn=learn)  # noqa: E731
    vectors = np.stack([flat(one(q), learn) for q in range(len(values))], axis=1)
    scale = np.abs(values).max()
    close(H @ vectors, vectors * values, scale)
    close(vectors.T @ vectors, np.eye(len(values)), 1)
    with pytest.raises(ValueError, match="number: got"):
        one(len(values))


@given(points(few, weights), seeds)
def test_escapes_come_fastest_first_and_all(point, seed):
    _, _, U = at(point, seed)
    found = list(directions.escape_directions(point, U, rtol=0.0))
    rates = np.array([float(rate) for rate, _ in found])
    assert (np.diff(rates) <= 0).all()
    # ties are exact zeros of the blocks, so the closed form agrees with them too
    assert len(found) == stationary.index(point)
    H = operators.block_hessian(point, U)
    for rate, way in islice(found, 3):
        np.testing.assert_allclose(
            operators.quadratic(H, way), rate, atol=SPECTRUM * np.abs(H.values).max()
        )


@pytest.mark.slow
@given(points(shapes, weights))
def test_summary_reads_the_spectrum(point):
    lam, assignment = np.asarray(point.eigenvalues), np.asarray(point.assignment)
    summary = summaries.summarise(point, rtol=0.0)
    assert summary.index == stationary.index(point)
    levels = np.where(assignment >= 0, lam[assignment], point.beta * point.sigma2)
    unused = np.delete(lam, assignment[assignment >= 0])
    active = levels[assignment >= 0]
    flat_rotations = sum(a == b for i, a in enumerate(active) for b in active[:i])
    ties = (unused == levels[:, None]).sum() + (unused == 0).sum() * len(assignment)
    assert summary.nullity == ties + flat_rotations


@given(st.sampled_from([1.0, 1 + 1e-6, 1 + 1e-12, 1 - 1e-9]))
def test_rates_near_the_threshold_keep_their_digits(lam):
    """Collapsed latent: the known escape rate; active one: the determinant of its own block."""
    rate = blocks.hessian_eigenvalues(stationary.point(jnp.array([lam, 0.1]), np.array([-1]), 1.0))[
        2
    ]
    np.testing.assert_allclose(rate, escape.escape_rate(jnp.asarray(lam), 1.0), rtol=1e-14)
    if lam > 1:
        soft = blocks.hessian_eigenvalues(
            stationary.point(jnp.array([lam, 0.1]), np.array([0]), 1.0)
        )[4]
        # −τ²w² over the other two eigenvalues, −2 and −½ in the limit
        np.testing.assert_allclose(soft, 1 - lam, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("learn", [WEIGHTS, (*NOISE, "mean")])
@hypothesis.settings(max_examples=15)
@given(points(few, weights))
def test_histogram_counts_the_whole_spectrum(learn, point):
    values = np.asarray(blocks.hessian_eigenvalues(point, learn=learn))
    count = partial(summaries.histogram, point, learn=learn)
    counts, edges = map(np.asarray, count(7))
    assert counts.sum() == len(values)
    np.testing.assert_allclose(edges, np.linspace(values.min(), values.max(), 8), atol=1e-12)
    if np.abs(values[:, None] - edges[1:-1]).min() > 1e-9 * np.abs(values).max():
        np.testing.assert_array_equal(counts, np.histogram(values, edges)[0])
    edges = np.array([-3.0, -1.0, -0.3, 0.7])  # not all of them
    hypothesis.assume(np.abs(values[:, None] - edges).min() > 1e-9)
    np.testing.assert_array_equal(count(jnp.asarray(edges)).counts, np.histogram(values, edges)[0])


@pytest.mark.slow
@hypothesis.settings(max_examples=15)
@given(points(few, weights))
def test_path_is_point_after_point(point):
    lam, beta = point.eigenvalues, point.beta
    sigma2 = jnp.linspace(0.03, 5.0, 11)
    pattern = np.array([2, -1, 0])
    path = summaries.over_sigma2(lam, pattern, sigma2, beta=beta, learn=NOISE)
    for q in range(0, 11, 5):
        assignment = np.asarray(path.assignment[q])
        alive = np.asarray(lam)[pattern] > beta * sigma2[q]
        np.testing.assert_array_equal(assignment, np.where((pattern >= 0) & alive, pattern, -1))
        one = summaries.summarise(stationary.point(lam, assignment, sigma2[q], beta), learn=NOISE)
        many = jax.tree.map(lambda x, q=q: x[q], path.conditioning)
        assert (many.index, many.nullity) == (one.index, one.nullity)
        np.testing.assert_allclose(many.escape_rate, one.escape_rate, rtol=1e-9, atol=1e-12)
        value = stationary.value(stationary.point(lam, assignment, sigma2[q], beta))
        np.testing.assert_allclose(path.value[q], value, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("learn", LEARN)
def test_vmap_is_a_loop_and_jit_changes_nothing(learn):
    lam = jnp.array([5.0, 3.0, 3.0, 0.2])
    assignments = jnp.array([[1, -1, 0], [-1, -1, -1], [2, 0, 1], [-1, 2, -1]])
    one = lambda a, s: blocks.hessian_eigenvalues(stationary.point(lam, a, s), learn=learn)  # noqa: E731
    sigma2 = jnp.array([0.3, 1.0, 2.5])
    many = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(assignments, sigma2)
    for i, a in enumerate(assignments):
        for j, s in enumerate(sigma2):
            np.testing.assert_allclose(many[i, j], one(a, s), rtol=1e-12, atol=1e-13)


def test_operator_under_jit_and_vmap():
    lam, a = jnp.array([5.0, 3.0, 1.5, 0.2]), np.array([1, -1, 0])
    _, _, U = at(stationary.point(lam, a, 1.0), 0)
    x = some_direction(1, 4, 3)

    def solved(sigma2):
        H = operators.block_hessian(stationary.point(lam, a, sigma2), U)
        return flat(operators.solve(H, x)), operators.slogdet(H)[1]

    sigma2 = jnp.array([0.3, 0.9, 2.5])
    many = jax.jit(jax.vmap(solved))(sigma2)
    for i, s in enumerate(sigma2):
        for ours, one in zip(many, solved(s), strict=True):
            np.testing.assert_allclose(ours[i], one, rtol=1e-11, atol=1e-11)


@pytest.mark.slow
def test_float32_stays_float32():
    lam = jnp.array([5.0, 3.0, 0.2], jnp.float32)
    U, a = jnp.eye(3, dtype=jnp.float32), np.array([1, -1])
    for learn in (WEIGHTS, LEARN[-1]):
        values = blocks.hessian_eigenvalues(stationary.point(lam, a, 1.0), learn=learn)
        exact = blocks.hessian_eigenvalues(stationary.point(lam.astype(float), a, 1.0), learn=learn)
        assert values.dtype == jnp.float32
        np.testing.assert_allclose(values, exact, rtol=0, atol=1e-5 * np.abs(exact).max())
    assert blocks.log_likelihood_eigenvalues(stationary.point(lam, a, 1.0)).dtype == jnp.float32
    x = jax.tree.map(jnp.float32, some_direction(0, 3, 2))
    H = operators.block_hessian(stationary.point(lam, a, 1.0), U, learn=NOISE)
    way = directions.eigenvector(stationary.point(lam, a, 1.0), U, 0, learn=NOISE)
    leaves = jax.tree.leaves((operators.solve(H, x), operators.slogdet(H), way))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


@pytest.mark.slow
@pytest.mark.parametrize("unit", [lambda point: point, stationary.unit_free])
def test_thin_spectrum_is_the_padded_one(unit):
    """Leading eigenvectors only, the rest of S zero: the operator needs no other columns."""
    n, lam, a = 6, jnp.array([5.0, 3.0, 0.2]), np.array([1, -1])
    _, U = moments_with(np.append(lam, np.zeros(3)), 0)

    def both(lam, sigma2, learn):
        points = (stationary.point(x, a, sigma2) for x in (lam, jnp.pad(lam, (0, 3))))
        pairs = zip(map(unit, points), (U[:, :3], U), strict=True)
        return [operators.block_hessian(*pair, learn=learn) for pair in pairs]

    thin, full = both(lam, 0.8, NOISE)
    x = some_direction(1, n, 2)
    for f in (jnp.sin, lambda mu: mu + 1):
        close(flat(operators.function(thin, f, x)), flat(operators.function(full, f, x)), 1)
    close(operators.quadratic(thin, x), operators.quadratic(full, x), 1)
    assert operators.inertia(thin) == operators.inertia(full)
    for rtol in (1e-3, 0.1):  # the eigenvalues that U leaves out count, and do not
        assert operators.inertia(thin, rtol) == operators.inertia(full, rtol)
        determinants = (operators.slogdet(H, pseudo=True, rtol=rtol) for H in (thin, full))
        np.testing.assert_allclose(*determinants)
        solutions = (flat(operators.solve(H, x, pseudo=True, rtol=rtol)) for H in (thin, full))
        close(*solutions, 1)
    np.testing.assert_allclose(
        operators.slogdet(thin, pseudo=True), operators.slogdet(full, pseudo=True)
    )
    solutions = (flat(operators.solve(H, x, pseudo=True)) for H in (thin, full))
    close(*solutions, 1)
    # in this unit of the data the eigenvalues that U leaves out are nearly the largest
    thin, full = both(0.01 * lam, 0.008, WEIGHTS)
    assert operators.inertia(thin, 0.9) == operators.inertia(full, 0.9)
    determinants = (operators.slogdet(H, pseudo=True, rtol=0.9) for H in (thin, full))
    np.testing.assert_allclose(*determinants)


@pytest.mark.slow
def test_newton_step_returns_to_the_point():
    point = stationary.point(jnp.array([6.0, 3.0, 1.2]), np.array([0, 1]), 0.9)
    params, moments, U = at(point, 3)
    H = operators.block_hessian(point, U)
    x = replace(some_direction(2, 3, 2), log_sigma2=jnp.zeros(()))
    away = jax.tree.map(lambda p, d: p + 1e-4 * d, params, x)
    gradient = jax.grad(lambda p: objectives.elbo(p, moments).function({}))(away)
    step = operators.solve(H, gradient)
    left = jax.tree.map(lambda p, q, s: p - s - q, away, params, step)
    assert np.abs(flat(left, WEIGHTS)).max() < 1e-5  # (1e-4)², times third derivatives


@pytest.mark.slow
@given(st.sampled_from([1, 4]), st.sampled_from([-1, 0, 1]), seeds)
def test_arrowhead_eigenvalues(m, shift, seed):
    rng = np.random.default_rng(seed)
    diagonal = rng.integers(-2, 3, (m, 2)) + 10.0 * shift  # ties; all positive, or negative
    edge = rng.normal(size=(m, 2)) * rng.integers(0, 2, (m, 2)) * 10.0 ** rng.integers(-9, 2)
    real = rng.random((m, 2)) < 0.7
    corner = rng.normal() + 10 * shift
    h = arrowhead.build(
        jnp.asarray(diagonal), jnp.asarray(edge), jnp.asarray(corner), jnp.asarray(real)
    )
    values, last = arrowhead.eigenvalues(h)
    size = real.sum()
    matrix = np.diag(np.append(diagonal[real], corner))
    matrix[size, :size] = matrix[:size, size] = edge[real]
    exact = np.linalg.eigvalsh(matrix)
    np.testing.assert_allclose(
        np.append(np.asarray(values)[real], last), exact, atol=1e-13 * np.abs(exact).max()
    )


@pytest.mark.parametrize("pole", [1e12, 1.0, 1e-12])
def test_eigenvalues_of_an_arrowhead_with_schur_keep_their_own_digits(pole):
    """[[−a, e], [e, −s − e²/a]] has the determinant a s, so the small eigenvalue has its digits."""
    edge, schur = 0.3 * pole, 1e-9
    h = arrowhead.build(
        *(jnp.full((1, 1), x) for x in (-pole, edge)), jnp.asarray(-schur - edge**2 / pole),
        jnp.ones((1, 1), bool), jnp.asarray(-schur),
    )  # fmt: skip
    values, last = arrowhead.eigenvalues(h)
    a, c = pole, schur + edge**2 / pole
    large = (a + c) / 2 + np.hypot((a - c) / 2, edge)
    np.testing.assert_allclose([values[0, 0], last], [-large, -a * schur / large], rtol=1e-14)


@pytest.mark.slow
def test_bad_input_is_refused():
    lam, a = jnp.array([4.0, 2.0, 0.5]), np.array([0, -1])
    with pytest.raises(ValueError, match=r"learn: got .* expected .*'log_d'.* any of .*'mean'"):
        blocks.hessian_eigenvalues(stationary.point(lam, a, 1.0), learn=("W", "V"))
    with pytest.raises(ValueError, match="learn"):
        blocks.log_likelihood_eigenvalues(stationary.point(lam, a, 1.0), learn=("V",))
    with pytest.raises(ValueError, match=r"component 2 with eigenvalue 0\.5"):
        blocks.hessian_eigenvalues(stationary.point(lam, np.array([2, -1]), 1.0))
    with pytest.raises(ValueError, match="component 0 with eigenvalue 4"):
        blocks.hessian_eigenvalues(stationary.point(lam, a, 2.0, 3.0))
    with pytest.raises(ValueError, match="sorted"):
        blocks.hessian_eigenvalues(stationary.point(lam[::-1], a, 1.0))
    with pytest.raises(ValueError, match="sigma2"):
        blocks.hessian_eigenvalues(stationary.point(lam, a, 0.0))
    with pytest.raises(ValueError, match="beta"):
        summaries.over_sigma2(lam, a, jnp.ones(2), beta=-1.0)
    with pytest.raises(ValueError, match="no component twice"):
        summaries.over_sigma2(lam, np.array([1, 1]), jnp.ones(2))
    with pytest.raises(ValueError, match="edges that do not increase"):
        summaries.histogram(stationary.point(lam, a, 1.0), jnp.array([1.0, 1.0]))
    with pytest.raises(ValueError, match="bins"):
        summaries.histogram(stationary.point(lam, a, 1.0), 0)
    with pytest.raises(ValueError, match="learn"):
        operators.block_hessian(stationary.point(lam, a, 1.0), jnp.eye(3), learn=(*WEIGHTS, "mean"))
    H = operators.block_hessian(stationary.point(lam, a, 1.0), jnp.eye(3))
    with pytest.raises(ValueError, match=r"direction.W: got shape \(3, 3\)"):
        operators.apply(H, some_direction(0, 3, 3))
