"""Matrix-free spectra, scored against exact ones: the blocks and dense eigensolvers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from tolerances import EXACT, FACTORED, STANDARD_ERRORS

from landscape.autodiff import hessian, lanczos, lobpcg, matrix_free, objectives
from landscape.curvature import blocks
from landscape.points import stationary
from landscape.testing.strategies import moments_with, normal

KEY = jax.random.key(7)
SIGMA2 = 1.0
LAM = np.geomspace(6.0, 0.3, 10)
# two latents in use, one of them on too small a component, and four collapsed
ASSIGNMENT = np.array([0, 3, -1, -1, -1, -1])
COLLAPSED = 4
# between the smallest positive eigenvalue, 0.070, and the largest negative one, −0.088
TOLERANCE = 0.05


@pytest.fixture(scope="module")
def elbo():
    """Objective at a saddle with repeated escape eigenvalues; p = 126."""
    moments, U = moments_with(LAM, 0)
    params = stationary.params(stationary.point(jnp.asarray(LAM), ASSIGNMENT, SIGMA2), U)
    return objectives.elbo(params, moments)


@pytest.fixture(scope="module")
def exact():
    """All eigenvalues, from large to small."""
    return np.sort(
        blocks.hessian_eigenvalues(stationary.point(jnp.asarray(LAM), ASSIGNMENT, SIGMA2))
    )[::-1]


@pytest.fixture(scope="module")
def escapes(elbo):
    return lobpcg.escapes(*elbo, KEY, tolerance=TOLERANCE)


@pytest.fixture(scope="module")
def spectrum(elbo):
    return lanczos.quadrature(*elbo, KEY, probes=20, steps=50)


def cubic(x):
    """Its Hessian is diag(x): any spectrum, and one compilation for all."""
    return jnp.sum(x**3) / 6


def within(estimate, truth):
    """Monte Carlo: the luck of the probes, and what the last steps still moved."""
    bound = STANDARD_ERRORS * estimate.standard_error + estimate.drift
    # a trace that every probe knows exactly has no luck in it: EXACT of its value then
    bound += EXACT * (1 + np.abs(truth).max())
    np.testing.assert_array_less(np.abs(np.asarray(estimate.value) - truth), bound)


@pytest.mark.slow
def test_the_exact_spectrum_here_is_that_of_the_dense_hessian(elbo, exact):
    dense = jnp.linalg.eigvalsh(hessian.dense(*elbo))[::-1]
    np.testing.assert_allclose(exact, dense, atol=EXACT * np.abs(exact).max())


@pytest.mark.slow
def test_escapes_are_all_found_with_every_copy(escapes, exact):
    index = int(stationary.index(stationary.point(jnp.asarray(LAM), ASSIGNMENT, SIGMA2)))
    assert escapes.complete
    assert escapes.values.shape == (index,)
    # four copies of each λ > σ² without a latent, and the latent that sits too low, twice
    assert index == (exact > TOLERANCE).sum() == 18
    # eigenvalues are off by residual²/gap: far below the residual, which is 1e-9 of the largest
    np.testing.assert_allclose(escapes.values, exact[:index], atol=1e-9 * np.abs(exact).max())
    assert (np.asarray(escapes.multiplicity) % COLLAPSED == 0).sum() >= index - 2


def test_residuals_are_those_of_the_vectors(elbo, escapes):
    function, point = elbo
    flat = jax.vmap(lambda v: ravel_pytree(v)[0])(escapes.vectors)
    np.testing.assert_allclose(flat @ flat.T, np.eye(len(flat)), atol=EXACT)
    Hv = jax.vmap(lambda v: ravel_pytree(hessian.product(function, point, v))[0])(escapes.vectors)
    residuals = jnp.linalg.norm(Hv - escapes.values[:, None] * flat, axis=1)
    # differences of numbers of size max|μ| = 36 in sums of 126
    np.testing.assert_allclose(residuals, escapes.residuals, atol=1e-12)
    assert jax.tree.structure(escapes.vectors) == jax.tree.structure(point)


@pytest.mark.slow
def test_the_stiff_end(elbo, exact):
    found = lobpcg.extremes(*elbo, KEY, 2, end="smallest")
    assert found.complete
    assert found.multiplicity.tolist() == [1, 1]
    np.testing.assert_allclose(found.values, exact[:-3:-1], rtol=1e-9)


@pytest.mark.slow
def test_a_repeated_eigenvalue_is_never_cut(elbo, exact):
    found = lobpcg.extremes(*elbo, KEY, 2)
    assert found.complete
    assert found.multiplicity.tolist() == [COLLAPSED] * COLLAPSED
    np.testing.assert_allclose(found.values, exact[:COLLAPSED], rtol=1e-9)


def test_a_block_too_small_for_all_copies_says_so(elbo, exact):
    few = lobpcg.escapes(*elbo, KEY, tolerance=TOLERANCE, max_count=12, max_rounds=2)
    assert not few.complete
    # Ritz values lie below eigenvalues: never more than there are
    assert 12 <= len(few.values) < (exact > TOLERANCE).sum()


def test_unfinished_values_lie_within_their_residuals(elbo, exact):
    found = lobpcg.extremes(*elbo, KEY, 2, max_rounds=1)
    assert not found.complete
    gaps = np.abs(np.asarray(found.values)[:, None] - exact).min(axis=1)
    # for a symmetric H some eigenvalue is that near, whatever the vector
    np.testing.assert_array_less(gaps, found.residuals + EXACT)


@pytest.mark.slow
def test_a_maximum_has_no_escapes():
    found = lobpcg.escapes(cubic, -jnp.arange(60.0), KEY, tolerance=0.1, max_count=3)
    assert found.values.shape == found.multiplicity.shape == (0,)
    assert found.complete


@pytest.mark.slow
def test_one_vector_sees_one_copy_but_its_weights_count_all(spectrum, exact):
    nodes, weights = lanczos.rule(spectrum)
    positive = (nodes > TOLERANCE) & (weights > 1e-8)
    # why nodes must not be counted
    assert positive.sum(axis=1).max() < (exact > TOLERANCE).sum() / 2
    found = lanczos.index(spectrum, TOLERANCE)
    error = STANDARD_ERRORS * found.standard_error
    assert found.lower - error <= (exact > TOLERANCE).sum() <= found.upper + error
    # fifty steps resolve this gap
    assert found.upper - found.lower < 1


def test_traces_and_determinants_within_their_errors(spectrum, exact):
    within(lanczos.trace(spectrum), exact.sum())
    within(lanczos.trace_of(spectrum, jnp.square), (exact**2).sum())
    within(lanczos.log_determinant(spectrum), np.log(np.abs(exact)).sum())
    shifted = lanczos.log_determinant(spectrum, sign=-1, shift=exact[0] + 1)
    within(shifted, np.log(exact[0] + 1 - exact).sum())
    # an estimate whose error bar is wide enough for anything would pass: it is narrow
    assert shifted.standard_error < 0.03 * np.log(exact[0] + 1 - exact).sum()


def test_density_within_its_errors(spectrum, exact):
    grid = jnp.linspace(exact[-1] - 6, exact[0] + 6, 400)
    width = 1.0
    found = lanczos.density(spectrum, grid, width)
    bells = np.exp(-(((np.asarray(grid)[:, None] - exact) / width) ** 2) / 2)
    within(found, bells.mean(axis=1) / (width * np.sqrt(2 * np.pi)))
    # Gaussians end at six widths, 1e-9
    np.testing.assert_allclose(np.trapezoid(found.value, grid), 1, atol=1e-8)
    assert np.isfinite(lanczos.density(spectrum, grid).value).all()


@pytest.mark.slow
def test_the_bracket_holds_what_these_probes_would_see_in_the_end(elbo):
    # at the last step there is nothing left
    whole = lanczos.quadrature(*elbo, KEY, probes=4, steps=126)
    for steps in (5, 25):
        # what fewer steps from the same probes would have given
        spectrum = lanczos.Quadrature(
            whole.diagonal[:, :steps], whole.offdiagonal[:, :steps],
            jnp.minimum(whole.steps_taken, steps), whole.parameters,
        )  # fmt: skip
        for tolerance in (TOLERANCE, 0.0, -0.4, -3.0, 1e3):
            end = lanczos.index(whole, tolerance)
            np.testing.assert_allclose(end.lower, end.upper, atol=FACTORED)
            few = lanczos.index(spectrum, tolerance)
            # Gauss–Radau's inequality, and FACTORED of p for the eigensolver
            assert few.lower - 126 * FACTORED <= end.value <= few.upper + 126 * FACTORED


@pytest.mark.slow
def test_deep_linear_network():
    x = normal(3, 20, 5)
    point = [{"W": normal(i, 5, 5) / 2, "b": jnp.ones(5)} for i in range(3)]

    def loss(layers):
        y = x
        for layer in layers:
            y = y @ layer["W"] + layer["b"]
        return -jnp.mean((y - x) ** 2)

    exact = np.linalg.eigvalsh(hessian.dense(loss, point))[::-1]
    scale = np.abs(exact).max()
    found = lobpcg.extremes(loss, point, KEY, 5)
    assert found.complete
    np.testing.assert_allclose(found.values, exact[: len(found.values)], atol=1e-9 * scale)
    assert jax.tree.structure(found.vectors) == jax.tree.structure(point)
    spectrum = lanczos.quadrature(loss, point, KEY, probes=20, steps=60)
    within(lanczos.trace(spectrum), exact.sum())
    shift = exact[0] + 0.1 * scale
    found = lanczos.log_determinant(spectrum, sign=-1, shift=shift)
    within(found, np.log(shift - exact).sum())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scale", "count"), [(1.0, 60), (-2.0, 0), (0.0, 0)], ids=["identity", "negative", "zero"]
)
def test_breakdown_at_once(scale, count):
    found = lanczos.quadrature(cubic, jnp.full(60, scale), KEY, probes=2, steps=10)
    assert found.steps_taken.tolist() == [1, 1]
    nodes, weights = lanczos.rule(found)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=EXACT)
    np.testing.assert_allclose(nodes, scale, rtol=EXACT)
    index = lanczos.index(found, 0.5)
    np.testing.assert_allclose([index.lower, index.value, index.upper], count, atol=1e-10)
    within(lanczos.trace(found), 60 * scale)
    assert np.isfinite(lanczos.density(found, jnp.linspace(-1.0, 1.0, 5)).value).all()


@pytest.mark.slow
def test_breakdown_of_a_rank_one_hessian():
    direction = normal(0, 60)
    found = lanczos.quadrature(
        lambda x: (direction @ x) ** 2 / 2, jnp.ones(60), KEY, probes=30, steps=10
    )
    # two eigenspaces, two steps
    assert (found.steps_taken == 2).all()
    nodes, weights = lanczos.rule(found)
    norm = float(direction @ direction)
    gaps = np.minimum(np.abs(nodes), np.abs(nodes - norm))
    assert (gaps[np.asarray(weights) > 1e-8] < EXACT * norm).all()
    index = lanczos.index(found)
    assert index.lower == index.upper
    assert abs(index.value - 1) < STANDARD_ERRORS * index.standard_error


def test_lobpcg_on_a_rank_one_hessian():
    # it runs out of directions at once
    found = lobpcg.extremes(cubic, jnp.zeros(60).at[0].set(5.0), KEY, 2, max_block=8)
    np.testing.assert_allclose(found.values, [5, *np.zeros(7)], atol=FACTORED)
    # of the 59 zeros not all fit
    assert not found.complete
    one = lobpcg.escapes(cubic, jnp.zeros(60).at[0].set(5.0), KEY, tolerance=0.1, max_count=3)
    np.testing.assert_allclose(one.values, [5], rtol=FACTORED)
    assert one.complete


def test_what_follows_a_breakdown_is_cut():
    nan = np.nan
    diagonal = jnp.array([[2.0, 1.0, nan, nan], [2.0, 1.0, 5.0, 7.0], [2.0, 1.0, 3.0, 1.0]])
    offdiagonal = jnp.array([[1.0, 0.0, nan, nan], [1.0, 1e-14, 4.0, 9.0], [1.0, 1.0, 1.0, 1.0]])
    a, b, taken = lanczos.truncate(diagonal, offdiagonal)
    assert taken.tolist() == [2, 2, 4]
    np.testing.assert_array_equal(b, [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(a, [[2, 1, 2, 2], [2, 1, 2, 2], [2, 1, 3, 1]])


def test_a_hessian_of_one_cluster_is_never_complete():
    found = lobpcg.extremes(cubic, jnp.full(60, -2.0), KEY, 2, max_block=8)
    np.testing.assert_allclose(found.values, -2 * np.ones(8), rtol=EXACT)
    assert found.multiplicity.tolist() == [8] * 8
    assert not found.complete


def test_randomness_is_refused_wherever_it_is_drawn():
    rng = np.random.default_rng(0)
    point = jnp.ones(50)

    def while_tracing(x):
        return jnp.sum(x**2) * rng.normal()

    def while_running(x):
        shape = jax.ShapeDtypeStruct((), jnp.float64)
        noise = jax.pure_callback(lambda: np.float64(rng.normal()), shape)
        return jnp.sum(x**2) * noise

    keys = [KEY]

    def by_splitting(x):
        keys[0], key = jax.random.split(keys[0])
        return jnp.sum((x + 1e-6 * jax.random.normal(key, x.shape)) ** 3)

    for function in (while_tracing, while_running, by_splitting):
        with pytest.raises(ValueError, match=r"function.*deterministic"):
            lanczos.quadrature(function, point, KEY, steps=5)
        with pytest.raises(ValueError, match=r"function.*deterministic"):
            lobpcg.extremes(function, point, KEY, 2)
    # one key for all is a function like any other
    matrix_free.check(lambda x: jnp.sum((x + jax.random.normal(KEY, x.shape)) ** 3), point, KEY)


@jax.custom_vjp
def _wrong_gradient(x):
    return jnp.sum(x**2)


# no function has this gradient: each entry depends on the one before, and not the other way
_wrong_gradient.defvjp(
    lambda x: (jnp.sum(x**2), x), lambda x, cotangent: (cotangent * jnp.roll(x, 1) ** 2,)
)


@pytest.mark.parametrize(
    ("function", "point", "message"),
    [
        (lambda x: jnp.sum(x**2), jnp.ones(50, jnp.float32), r"float32.*float64.*x64"),
        (lambda x: jnp.sum(x["b"] ** 2), {"a": jnp.arange(9), "b": jnp.ones(50)}, "int64"),
        (lambda x: jnp.sum(x**2), jnp.full(50, np.nan), "NaN"),
        (lambda x: jnp.sum(jnp.log(x)), jnp.zeros(50), r"gradient.*NaN or Inf"),
        # 0^1.5 has a gradient, but no curvature
        (lambda x: jnp.sum(x**1.5), jnp.zeros(50), r"Hessian.*NaN or Inf"),
        (lambda x: x**2, jnp.ones(50), "scalar"),
        (lambda x: 1.0, {}, "no arrays"),
        (_wrong_gradient, jnp.arange(1.0, 51.0), "symmetric"),
    ],
)
def test_what_cannot_be_trusted_is_refused(function, point, message):
    with pytest.raises(ValueError, match=message):
        matrix_free.check(function, point, KEY)


def test_bad_arguments_are_named():
    def function(x):
        return jnp.sum(x**2)

    point = jnp.ones(30)
    with pytest.raises(ValueError, match="probes"):
        lanczos.quadrature(function, point, KEY, probes=1)
    with pytest.raises(ValueError, match=r"steps.*number of parameters"):
        lanczos.quadrature(function, point, KEY, steps=31)
    with pytest.raises(ValueError, match=r"30 parameters.*hessian\.dense"):
        lobpcg.extremes(function, point, KEY, 10)
    with pytest.raises(ValueError, match="count"):
        lobpcg.extremes(function, point, KEY, 0)
    with pytest.raises(ValueError, match="tolerance"):
        lobpcg.escapes(function, point, KEY, tolerance=0.0)


def test_a_singular_determinant_is_refused():
    spectrum = lanczos.quadrature(lambda x: jnp.sum(x[:20] ** 2), jnp.ones(30), KEY, steps=5)
    with pytest.raises(ValueError, match=r"shift.*zero to rounding"):
        lanczos.log_determinant(spectrum)
    # two for twenty, zero for ten, one added
    within(lanczos.log_determinant(spectrum, shift=1.0), 20 * np.log(3.0))


@pytest.mark.slow
def test_estimates_compile(spectrum):
    for ask in (
        lanczos.trace,
        lanczos.log_determinant,
        lambda s: lanczos.index(s, TOLERANCE),
        lambda s: lanczos.density(s, jnp.linspace(-1.0, 1.0, 3), 0.5),
    ):
        for compiled, plain in zip(jax.jit(ask)(spectrum), ask(spectrum), strict=True):
            np.testing.assert_allclose(compiled, plain, rtol=FACTORED, atol=FACTORED)
