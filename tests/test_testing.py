"""The laws fail on wrong objectives and hold on right ones; strategies draw what they promise."""

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import find, given
from hypothesis import strategies as st

from benchmarks import mutants, mutation
from landscape.testing import laws, strategies
from linvae_jax import gaussian, linear, ppca
from linvae_jax import moments as mom

LAM, SIGMA2 = np.array([6.0, 3.0, 1.2, 0.4]), 0.9
MOMENTS, U = strategies.moments_with(LAM, 0)
ORDINARY = replace(linear.init(jax.random.key(0), 4, 2, 0.7), log_d=jnp.array([0.3, -0.5]))


def elbo_with(kl=1.0, spread=1.0, cross=2.0, precision=1.0, constant=1.0, density=1.0):
    """The ELBO with a factor on each of its terms; all as they are give the right one."""

    def function(p, moments, beta=1.0):
        W, V, D = p.W, p.V, jnp.exp(p.log_d)
        SVt = moments.cov @ V.T
        G = W.T @ W
        fit = jnp.trace(moments.cov) - cross * jnp.sum(W * SVt) + jnp.sum(G * (V @ SVt))
        error = fit + spread * jnp.sum(D * jnp.diag(G))
        noise = -0.5 * len(W) * (constant * jnp.log(2 * jnp.pi) + p.log_sigma2)
        terms = gaussian.kl(jnp.sum(V.T * SVt, axis=0), p.log_d)
        value = noise - 0.5 * precision * jnp.exp(-p.log_sigma2) * error - kl * beta * terms.sum()
        return density * value

    return function


# factors of two and signs, in each term
WRONG = {
    "KL": {"kl": 2.0},
    "KL's sign": {"kl": -1.0},
    "spread": {"spread": 2.0},
    "no spread": {"spread": 0.0},
    "spread's sign": {"spread": -1.0},
    "cross term": {"cross": 1.0},
    "cross term's sign": {"cross": -2.0},
    "precision": {"precision": 2.0},
    "precision's sign": {"precision": -1.0},
}


def of_weights(function):
    """As a function of the weights at fixed σ²."""
    return lambda weights, params, moments: function(replace(params, **weights), moments)


right = of_weights(linear.elbo)


def weights_of(params):
    return {name: getattr(params, name) for name in ("W", "V", "log_d")}


def at(assignment, unit=1.0):
    """A stationary point of pPCA and the moments, of data in another unit."""
    lam = np.append(LAM, SIGMA2)[list(assignment)]
    W = np.asarray(U)[:, list(assignment)] * np.sqrt(lam - SIGMA2)
    params = linear.with_optimal_encoder(jnp.asarray(W * unit), SIGMA2 * unit**2)
    return params, mom.Moments(MOMENTS.mean * unit, MOMENTS.cov * unit**2, MOMENTS.count)


# (assignment, index, nullity): collapsed latents × unused λ > σ², and larger λ left unused
POINTS = [((0, 1), 0, 0), ((0, -1), 2, 0), ((2, 1), 2, 0), ((-1, -1), 6, 0)]


@pytest.mark.slow
@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize(("assignment", "index", "nullity"), POINTS)
def test_laws_of_points_hold_in_every_unit(assignment, index, nullity, unit):
    params, moments = at(assignment, unit)
    arguments = (weights_of(params), params, moments)
    laws.assert_stationary(right, *arguments)
    laws.assert_index(right, *arguments, index=index, nullity=nullity)
    for wrong in ({"index": index + 1}, {"index": index, "nullity": nullity + 1}):
        with pytest.raises(AssertionError, match=rf"index and nullity: got {index} positive and"):
            laws.assert_index(right, *arguments, **wrong)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_objective_is_not_stationary(wrong):
    params, moments = at((0, 1))
    function = of_weights(elbo_with(**WRONG[wrong]))
    with pytest.raises(AssertionError, match=r"^stationary in \['(W|V|log_d)'\]: got a gradient"):
        laws.assert_stationary(function, weights_of(params), params, moments)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_gradient_is_found(wrong):
    laws.assert_gradient(elbo_with(), linear.gradient, ORDINARY, MOMENTS)
    with pytest.raises(AssertionError, match=r"^gradient in \.(W|V|log_d|log_sigma2): got a diff"):
        laws.assert_gradient(elbo_with(**WRONG[wrong]), linear.gradient, ORDINARY, MOMENTS)


def test_a_wrong_rule_for_derivatives_is_found_though_autodiff_agrees():
    @jax.custom_vjp
    def square(x):
        return jnp.sum(x**2)

    square.defvjp(lambda x: (square(x), x), lambda x, g: (g * x,))  # half of it
    with pytest.raises(AssertionError, match=r"gradient along a direction: got .* by autodiff"):
        laws.assert_gradient(square, lambda x: x, jnp.arange(3.0))
    with pytest.raises(AssertionError, match="gradient: got PyTreeDef"):
        laws.assert_gradient(square, lambda x: [x], jnp.arange(3.0))


def test_a_small_gradient_is_found_where_curvatures_differ():
    """Six orders below the other array's, which a tolerance for all would hide."""
    function = lambda p, slope: -1e12 * p["a"] ** 2 - 1e-12 * p["b"] ** 2 + slope * p["b"]  # noqa: E731
    point = {"a": jnp.zeros(()), "b": jnp.zeros(())}
    laws.assert_stationary(function, point, 0.0)
    with pytest.raises(AssertionError, match=r"stationary in \['b'\]"):
        laws.assert_stationary(function, point, 1e-17)
    laws.assert_index(function, point, 0.0, index=0, nullity=0)


def test_a_flat_direction_is_counted():
    ring = lambda p: -((jnp.sum(p**2) - 1) ** 2)  # noqa: E731
    laws.assert_index(ring, jnp.array([0.6, 0.8]), index=0, nullity=1)
    saddle = lambda p: p["a"] * p["b"]  # noqa: E731
    laws.assert_index(saddle, {"a": jnp.zeros(()), "b": jnp.zeros(())}, index=1, nullity=0)


@pytest.mark.slow
def test_a_wrong_spectrum_is_found():
    params, moments = at((0, -1))
    exact = np.linalg.eigvalsh(jax.hessian(lambda v: right({"V": v}, params, moments))(params.V)
                               .reshape(8, 8))  # fmt: skip
    laws.assert_spectrum(right, {"V": params.V}, params, moments, eigenvalues=exact[::-1])
    for wrong in (2 * exact, -exact, exact + 1e-9 * np.eye(8)[3]):
        with pytest.raises(AssertionError, match=r"spectrum: got .* as eigenvalue"):
            laws.assert_spectrum(right, {"V": params.V}, params, moments, eigenvalues=wrong)
    with pytest.raises(AssertionError, match="spectrum: got 7 eigenvalues; expected 8"):
        laws.assert_spectrum(right, {"V": params.V}, params, moments, eigenvalues=exact[1:])


@pytest.mark.slow
def test_only_the_global_maximum_is_highest():
    params, moments = at((0, 1))
    laws.assert_highest(right, weights_of(params), params, moments)
    for assignment in ((0, 2), (0, -1), (-1, -1)):
        params, moments = at(assignment)
        with pytest.raises(AssertionError, match=r"highest: got .* at a step of"):
            laws.assert_highest(right, weights_of(params), params, moments)


def test_a_bound_that_is_none_is_found():
    tight, moments = at((0, 1))
    for params in (ORDINARY, tight):
        likelihood = ppca.log_likelihood(params.W, jnp.exp(params.log_sigma2), moments)
        laws.assert_lower_bound(linear.elbo(params, moments), likelihood)
    for wrong in ({"kl": -1.0}, {"precision": 0.5}, {"spread": 0.0}, {"cross": 4.0}):
        with pytest.raises(AssertionError, match=r"lower bound: got .* expected at most"):
            laws.assert_lower_bound(elbo_with(**wrong)(tight, moments), likelihood)
    with pytest.raises(AssertionError, match="lower bound: got nan"):
        laws.assert_lower_bound(jnp.array([0.0, jnp.nan]), jnp.ones(2))


def diagonal_only(p, moments):
    return linear.elbo(p, replace(moments, cov=jnp.diag(jnp.diag(moments.cov))))


def first_latent_twice(p, moments):
    return linear.elbo(p, moments) + p.log_d[0]


def signed(p, moments):
    return linear.elbo(p, moments) + jnp.sum(p.W)


def about_zero(p, moments):
    return linear.elbo(p, moments) - 0.5 * jnp.sum(moments.mean**2) / jnp.exp(p.log_sigma2)


@pytest.mark.parametrize(
    ("function", "broken"),
    [
        (diagonal_only, "rotation"),
        (first_latent_twice, "relabelling"),
        (signed, "relabelling"),
        (about_zero, "shift"),
        (elbo_with(density=2.0), "unit"),
        (lambda p, m: linear.elbo(p, m) - p.log_sigma2, "unit"),
    ],
)
def test_a_broken_symmetry_is_named(function, broken):
    laws.assert_symmetries(linear.elbo, ORDINARY, MOMENTS)
    with pytest.raises(AssertionError, match=f"^symmetry: {broken}: got"):
        laws.assert_symmetries(function, ORDINARY, MOMENTS, symmetries=(broken,), seed=1)


def test_laws_want_float64_and_a_scalar():
    with pytest.raises(ValueError, match=r"point: got float32, expected float64.*jax_enable_x64"):
        laws.assert_stationary(jnp.sum, jnp.zeros(2, jnp.float32))
    with pytest.raises(ValueError, match="real scalar function"):
        laws.assert_index(lambda x: x, jnp.zeros(2), index=0)


@given(st.data())
def test_spectra_are_sorted_and_points_exist(draw):
    n, k = draw.draw(strategies.shapes)
    found = draw.draw(strategies.noisy_spectra(n))
    assert found.eigenvalues.shape == (n,)
    assert (np.diff(found.eigenvalues) <= 0).all()
    assert found.eigenvalues[0] > 0
    assert found.sigma2 > 0
    a = draw.draw(strategies.assignments(found.eigenvalues, k, found.sigma2, found.beta))
    used = a[a >= 0]
    assert a.shape == (k,)
    assert len(set(used.tolist())) == len(used)
    assert (found.eigenvalues[used] > found.beta * found.sigma2).all()


@pytest.mark.parametrize(
    "special",
    [
        lambda s: (np.diff(s.eigenvalues) == 0).any(),
        lambda s: (s.eigenvalues == 0).any(),
        lambda s: s.sigma2 * s.beta in s.eigenvalues.tolist() and s.beta != 1,
        lambda s: 0 < np.abs(s.eigenvalues - s.sigma2 * s.beta).min() < 1e-8,
    ],
    ids=["tie", "zero", "threshold", "beside the threshold"],
)
def test_what_breaks_formulas_is_drawn(special):
    find(strategies.noisy_spectra(4), special)


def test_data_have_the_moments_that_they_should():
    x = strategies.data_with(MOMENTS, seed=1, rows=9)
    assert x.shape == (9, 4)
    found = mom.from_data(x)
    np.testing.assert_allclose(found.cov, MOMENTS.cov, atol=1e-13)
    np.testing.assert_allclose(found.mean, MOMENTS.mean, atol=1e-13)
    np.testing.assert_allclose(U.T @ U, np.eye(4), atol=1e-14)
    np.testing.assert_allclose(MOMENTS.cov @ U, U * LAM, atol=1e-13)


@pytest.mark.slow
def test_without_hypothesis_it_says_what_to_install():
    script = "import sys; sys.modules['hypothesis'] = None; import landscape.testing.strategies"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 1
    assert "pip install 'linvae-jax[test]'" in ran.stderr
    laws_alone = script.replace("strategies", "laws")
    assert subprocess.run([sys.executable, "-c", laws_alone], check=False).returncode == 0


SOURCE = """
LIMIT = 3  # a comment
def area(a: Float[Array, "n 2"], *, axis=0) -> float:
    '''A docstring with 2 * 3.'''
    checks.positive("a", a)
    if a > 5 * LIMIT:
        raise ValueError("a - 1")
    λ = jnp.sum(a, axis=1)
    return -λ[:n] * (1 + 0.5 * matmul(a, b)) if n < 4 else λ @ λ
"""


def test_mutants_are_one_mistake_each_and_none_outside_formulas():
    found = mutants.of_source("area.py", SOURCE.encode())
    changes = {(m.before, m.after) for m in found}
    assert changes >= {
        ("3", "4"),
        ("-λ[:n]", "(λ[:n])"),
        ("n", "n + 1"),
        ("n < 4", "(n <= 4)"),
        ("n < 4", "(n > 4)"),
        ("0.5", "1.0"),
        ("matmul(a, b)", "(matmul(b, a))"),
        ("1 + 0.5 * matmul(a, b)", "(1 - 0.5 * matmul(a, b))"),
        ("1 + 0.5 * matmul(a, b)", "(1)"),
        ("-λ[:n] * (1 + 0.5 * matmul(a, b))", "(2 * (-λ[:n] * (1 + 0.5 * matmul(a, b))))"),
    }
    lines = SOURCE.splitlines()
    assert {lines[m.line - 1].split()[0] for m in found} == {"LIMIT", "return"}
    for m in found:
        mutated = m.applied(SOURCE.encode()).decode()
        compile(mutated, "area.py", "exec")
        assert ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(SOURCE))
        assert len(set(mutated.splitlines()) - set(lines)) == 1


def test_a_larger_sample_has_the_smaller_ones_mutants():
    possible = mutation.shuffled(seed=1)
    small, large = mutation.sample(possible, 50), mutation.sample(possible, 100)
    assert set(small) < set(large)
    assert {m.file for m in small} == set(possible) == set(mutation.files())
    for file in possible:
        assert len(mutation.tests_of(file)) >= 2, file
    # each mutant is text of the file that it is said to be of
    for m in large:
        assert m.before.encode() in (mutation.ROOT / m.file).read_bytes()


def test_each_mutant_that_survived_is_explained():
    """And the shares that are told are those of the record."""
    record = json.loads(mutation.RECORD.read_text(encoding="utf-8"))
    text = mutation.RECORD.parent.parent.joinpath("mutation_survivors.md").read_text("utf-8")
    rows = [line.split(" | ")[:2] for line in text.splitlines() if line.startswith("| `")]
    expected = [[f"| `{Path(s['file']).stem}.{s['function']}`", f"`{s['before']}` → `{s['after']}`"]
                for s in record["survivors"]]  # fmt: skip
    assert sorted(rows) == sorted(expected)
    equivalent = sum("| equivalent: " in line for line in text.splitlines())
    assert f"catches {record['caught']} of {record['run']}, {record['share']:.1%}" in text
    share = record["caught"] / (record["run"] - equivalent)
    assert f"{equivalent} of the others are equivalent" in text
    assert f"Of those that are not, {share:.1%} are caught" in text
