"""The data's unit decides nothing: index, nullity, signs and determinants in every unit.

Data × u and σ² × u² are the same data in another unit. Exact numbers come from `fractions`.
"""

from fractions import Fraction
from functools import partial

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from landscape.autodiff import hessian, lanczos, lobpcg, objectives
from landscape.curvature import (
    blocks,
    collapsed_latent,
    conditioning,
    directions,
    escape,
    mixed_blocks,
    operators,
    own_blocks,
    summaries,
)
from landscape.points import census, mixed, stationary
from landscape.studies import surface
from landscape.testing.strategies import moments_with, normal, orthogonal
from linvae_jax import linear, moments, ppca, predictions
from linvae_jax.linear import LinearVAEParams

WEIGHTS = blocks.WEIGHTS
NOISE = (*WEIGHTS, "log_sigma2")
LEARN = (WEIGHTS, NOISE, (*WEIGHTS, "mean"), (*NOISE, "mean"))

# u² rounds λ and σ² by ε; 1 ± 1e-6 next to σ² = 1 leaves ten digits of the difference, to which a
# rate near its threshold is proportional; its own block and the arrowhead lose two more
INVARIANT = 1e-8

# ties and zeros are likely; six decimals, so that rounding in another unit makes no new ties
_eigenvalue = st.one_of(
    st.sampled_from([0.0, 0.5, 1.0, 1 + 1e-6, 1 - 1e-6, 2.0, 4.0]),
    st.floats(0.05, 20.0).map(lambda x: round(x, 6)),
)
units = st.one_of(
    st.sampled_from([1e-12, 1e-6, 1e-3, 1e3, 1e4, 1e12]), st.floats(-12, 12).map(lambda e: 10.0**e)
)
N, K = 5, 3  # one shape: each compiles anew


@st.composite
def problems(draw):
    """Spectrum (N,), an assignment (K,), σ², and β, a power of two so that ties stay ties."""
    lam = np.sort(draw(st.lists(_eigenvalue, min_size=N, max_size=N)))[::-1].copy()
    hypothesis.assume(lam[0] > 0)
    beta = draw(st.sampled_from([1.0, 0.5, 2.0]))
    sigma2 = draw(
        st.one_of(st.sampled_from([0.5, 1.0]), st.floats(0.05, 5).map(lambda x: round(x, 6)))
    )
    there = np.append(np.flatnonzero(lam > beta * sigma2), np.full(K, -1))
    return lam, np.array(draw(st.permutations(there)))[:K], sigma2, beta


def in_unit(problem, u, dtype=np.float64):
    lam, assignment, sigma2, beta = problem
    return jnp.asarray(lam * u**2, dtype), assignment, float(dtype(sigma2 * u**2)), beta


def counted(problem, learn=WEIGHTS):
    """Index and nullity by hand: theory's formula, ties, zeros of S, and σ² that nothing fixes."""
    lam, assignment, sigma2, beta = problem
    active = assignment[assignment >= 0]
    unused = np.delete(lam, active)
    tau = beta * sigma2
    # landscape/README.md, 2
    index = (K - len(active)) * (unused > tau).sum()
    index += sum((unused > lam[t]).sum() for t in active)
    levels = np.where(assignment >= 0, lam[assignment], tau)
    flat = sum(int(i == level or i == 0) for i in unused for level in levels)
    flat += sum(lam[s] == lam[t] for x, s in enumerate(active) for t in active[:x])
    if "log_sigma2" in learn:
        flat += not unused.any()
    return int(index), int(flat)


@pytest.mark.slow
@pytest.mark.parametrize("learn", LEARN)
@hypothesis.settings(max_examples=20)
@given(problems(), units)
def test_summary_is_the_same_in_every_unit(learn, problem, u):
    here = in_unit(problem, u)
    found = summaries.summarise(stationary.point(*here), learn=learn)
    index, flat = counted(problem, learn)
    assert (int(found.index), int(found.nullity)) == (index, flat)
    assert index == stationary.index(stationary.point(*here))
    assert (found.escape_rate > 0) == (found.unit_free.escape_rate > 0) == (index > 0)
    assert found.stiffness > 0
    # the eigenvalues' own signs say the same
    values = blocks.hessian_eigenvalues(stationary.point(*here), learn=learn)
    assert ((values > 0).sum(), (values == 0).sum()) == (index, flat)
    first = summaries.summarise(stationary.point(*in_unit(problem, 1.0)), learn=learn)
    np.testing.assert_allclose(
        jnp.stack(found.unit_free), jnp.stack(first.unit_free), rtol=INVARIANT
    )


@hypothesis.settings(max_examples=20)
@given(problems(), units)
def test_unit_free_numbers_are_those_of_normalised_data(problem, u):
    here = in_unit(problem, u)
    found = summaries.summarise(stationary.point(*here), learn=NOISE)
    root = np.sqrt(problem[0][0])
    plain = summaries.summarise(stationary.point(*in_unit(problem, 1 / root)), learn=NOISE)
    expected = (plain.stiffness, plain.condition_number, plain.escape_rate)
    np.testing.assert_allclose(jnp.stack(found.unit_free), jnp.stack(expected), rtol=INVARIANT)
    edges = jnp.array([-np.inf, -0.5, 0.0, 0.7, np.inf])
    values = blocks.hessian_eigenvalues(stationary.point(*here), learn=NOISE, unit_free=True)
    histogram = summaries.histogram(stationary.point(*here), edges, learn=NOISE, unit_free=True)
    np.testing.assert_array_equal(histogram.counts, np.histogram(values, edges)[0])


@hypothesis.settings(max_examples=20)
@given(problems(), st.sampled_from([WEIGHTS, NOISE]), st.randoms(use_true_random=False))
def test_order_of_latents_and_of_equal_components_decides_nothing(problem, learn, random):
    lam, assignment, sigma2, beta = problem
    base = summaries.summarise(stationary.point(*in_unit(problem, 1.0)), learn=learn)
    shuffled = np.array(random.sample(list(assignment), K))
    # another of the equal components for each latent in use
    other, taken = [], set()
    for a in shuffled:
        equal = [i for i in range(N) if a >= 0 and lam[i] == lam[a] and i not in taken]
        other.append(random.choice(equal) if equal else -1)
        taken.add(other[-1])
    for again in (shuffled, np.array(other)):
        found = summaries.summarise(
            stationary.point(jnp.asarray(lam), again, sigma2, beta), learn=learn
        )
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(base), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11)


@pytest.fixture(scope="module")
def issue():
    """λ of 1000 data in four dimensions, and σ² below the third."""
    x = np.random.default_rng(0).standard_normal((1000, 4)) @ np.diag([4.0, 3, 2, 1])
    return x, moments.spectrum(moments.from_data(x)).eigenvalues


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("u", [1e-12, 1e-6, 1e-3, 1.0, 1e3, 1e4, 1e12])
def test_two_latents_collapsed_at_a_sigma2_below_three_eigenvalues(issue, u, dtype):
    """Both can escape along three components, whatever the unit: 6, where it was 0 to 6."""
    problem = np.asarray(issue[1]), np.array([-1, -1]), 0.9 * float(issue[1][2]), 1.0
    lam, a, sigma2, _ = in_unit(problem, u, dtype)
    found = summaries.summarise(stationary.point(lam, a, sigma2))
    assert (found.index, found.nullity) == (6, 0)
    base = summaries.summarise(stationary.point(*in_unit(problem, 1.0)))
    rtol = 100 * np.finfo(dtype).eps  # λ₃ − σ² is a tenth of σ²
    np.testing.assert_allclose(jnp.stack(found.unit_free), jnp.stack(base.unit_free), rtol=rtol)
    for rate in (escape.escape_rate(lam[0], sigma2), found.escape_rate):
        assert is_escape_rate(rate, lam[0], sigma2, 20 * np.finfo(dtype).eps)
    H = operators.block_hessian(stationary.point(lam, a, sigma2), jnp.eye(4, dtype=dtype))
    assert operators.inertia(H) == (6, 12, 0)
    ways = directions.escape_directions(stationary.point(lam, a, sigma2), jnp.eye(4, dtype=dtype))
    assert sum(1 for _ in ways) == 6
    sign, log = operators.slogdet(H)
    # det = ½² Π [λ(λ − σ²)/σ⁴]² over all components, and six signs are plus
    x = np.asarray(issue[1]) / problem[2]
    assert sign == 1
    np.testing.assert_allclose(log, 2 * np.log(np.abs(x * (x - 1)) / 2**0.25).sum(), rtol=rtol)


def is_escape_rate(rate, lam, sigma2, rtol):
    """Whether the positive root of μ² + (1/σ² + λ)μ = λ(λ − σ²)/σ⁴ is that near, exactly."""
    rate, lam, sigma2 = (Fraction(float(x)) for x in (rate, lam, sigma2))
    left = lambda mu: mu * (mu + 1 / sigma2 + lam)  # noqa: E731
    room = rate * Fraction(float(rtol))
    return left(rate - room) < lam * (lam - sigma2) / sigma2**2 < left(rate + room)


@given(st.floats(-12, 12), st.floats(1e-9, 30), st.floats(0.1, 10))
def test_escape_rate_has_all_its_digits_in_every_unit(e, excess, sigma2):
    """And just above the threshold: an exact root of the exact numbers that came in."""
    for dtype in (np.float64, np.float32):
        sigma2_u = dtype(sigma2 * 10 ** (2 * e))
        lam = dtype(sigma2_u * dtype(1 + excess))
        hypothesis.assume(lam > sigma2_u)
        ours = escape.escape_rate(jnp.asarray(lam), jnp.asarray(sigma2_u))
        assert ours.dtype == dtype
        # λ − σ² is exact; a dozen roundings
        assert is_escape_rate(ours, lam, sigma2_u, 12 * np.finfo(dtype).eps)


def exact_hessian(w, tau, sigma2, lam, learn):
    """Second variation (1) of landscape/README.md, 3, in fractions: variables A, B, d, s, m.

    Latent j is on component j where w_j > 0, and collapsed elsewhere.
    """
    n, k = len(lam), len(w)
    A = lambda i, j: i * k + j  # noqa: E731
    B = lambda j, i: n * k + j * n + i  # noqa: E731
    d = lambda j: 2 * n * k + j  # noqa: E731
    size = 2 * n * k + k + ("log_sigma2" in learn) + n * ("mean" in learn)
    H = [[Fraction(0)] * size for _ in range(size)]

    def add(x, y, value):  # of xᵀHx, for one ordered product
        H[x][y] += value / sigma2 / 2
        H[y][x] += value / sigma2 / 2

    level = [w[j] ** 2 + tau for j in range(k)]
    used = [i < k and w[i] > 0 for i in range(n)]
    for i in range(n):
        for j in range(k):
            add(A(i, j), A(i, j), Fraction(-1))
            add(A(i, j), B(j, i), 2 * (tau if used[i] else lam[i]))
            add(B(j, i), B(j, i), -lam[i] * level[j])
    for j in range(k):
        for l in range(k):
            add(A(l, j), B(l, j), -2 * w[j] * w[l])
        add(d(j), A(j, j), -2 * tau * w[j] / level[j])
        add(d(j), d(j), -tau / 2)
    s = 2 * n * k + k
    if "log_sigma2" in learn:
        add(s, s, -sum(tau if used[i] else lam[i] for i in range(n)) / 2)
        for j in range(k):
            add(s, B(j, j), -2 * tau * w[j])
            add(s, d(j), tau * w[j] ** 2 / level[j])
        s += 1
    if "mean" in learn:
        for i in range(n):
            add(s + i, s + i, -(tau / lam[i] if used[i] else Fraction(1)))
    units = [1] * (n * k) + [-1] * (n * k) + [0] * (s - 2 * n * k) + [1] * n
    return H, units


def pivots(H, shift):
    """Of H − shift · I, whose signs are those of its eigenvalues (Sylvester)."""
    M = [row[:] for row in H]
    for i in range(len(M)):
        M[i][i] -= shift
    found = []
    for i in range(len(M)):
        p = M[i][i]
        found.append(p)
        if p == 0:
            # with a row of zeros it is an eigenvalue; else the order would have to change
            assert not any(M[i][i:])
            continue
        for r in range(i + 1, len(M)):
            if M[r][i]:
                f = M[r][i] / p
                M[r] = [a - f * b for a, b in zip(M[r], M[i], strict=True)]
    return found


# τ = 1: λ = 1 + w² for latents in use, small whole numbers; unused λ, zero among them
POINTS = {
    "one in use, one collapsed, a spare component": ([2, 0], [5, 3, Fraction(1, 2)]),
    "all in use": ([2, 1], [5, 2, Fraction(1, 4)]),
    "near the threshold": (
        [Fraction(1, 1024), 0],
        [1 + Fraction(1, 2**20), 1 + Fraction(1, 2**21)],
    ),
    "all collapsed, one far above": ([0, 0], [1024, 3]),
    "a long way up": ([300, 0], [90001, 7]),
}


@pytest.mark.slow
@pytest.mark.parametrize("learn", LEARN[::3])
@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("e", [-40, -9, 40])
def test_every_eigenvalue_and_the_determinant_are_right_in_every_unit(name, e, learn):
    """All within 1e-9 of themselves, the smallest too; u = 2^e, so that nothing is rounded."""
    w, lam = POINTS[name]
    beta, sigma2 = Fraction(2), Fraction(1, 2)
    w, lam = [Fraction(x) for x in w], [Fraction(x) for x in lam]
    H, power = exact_hessian(w, beta * sigma2, sigma2, lam, learn)
    u = Fraction(2) ** e
    scaled = [
        [x / u ** power[i] / u ** power[j] for j, x in enumerate(row)] for i, row in enumerate(H)
    ]
    assignment = np.array([j if x else -1 for j, x in enumerate(w)])
    order = np.argsort([-x for x in lam], kind="stable")
    place = np.append(np.argsort(order), -1)  # of component i among the sorted
    args = (
        jnp.array([float(lam[i] * u**2) for i in order]),
        place[np.where(assignment < 0, len(lam), assignment)],
        float(sigma2 * u**2),
    )
    values = np.sort(blocks.hessian_eigenvalues(stationary.point(*args, beta=2.0), learn=learn))
    room = Fraction(1, 10**9)
    for q, value in enumerate(values):
        value = Fraction(float(value))
        away = abs(value) * room
        assert sum(p < 0 for p in pivots(scaled, value - away)) <= q, (q, float(value))
        assert sum(p > 0 for p in pivots(scaled, value + away)) <= len(values) - 1 - q
    signs = pivots(H, Fraction(0))
    count = summaries.summarise(stationary.point(*args, beta=2.0), learn=learn)
    assert count.index == sum(p > 0 for p in signs)
    assert count.nullity == sum(p == 0 for p in signs) == 0
    exact = sum(np.log(float(abs(p))) for p in signs)
    if "mean" in learn:
        exact -= 2 * len(lam) * e * np.log(2)
    p = stationary.point(*args, beta=2.0)
    ours = blocks.log_determinant(p, learn)
    np.testing.assert_allclose(ours, exact, rtol=1e-12, atol=1e-12)


def some_direction(seed):
    shapes = ((N, K), (K, N), (K,), ())
    return LinearVAEParams(*(normal([seed, i], *shape) for i, shape in enumerate(shapes)))


def flat(direction, learn):
    return np.asarray(ravel_pytree({name: getattr(direction, name) for name in learn})[0])


@partial(jax.jit, static_argnames="learn")
def dense(point, m, beta, learn):
    return hessian.dense(*objectives.elbo(point, m, beta=beta, learn=learn))


@pytest.mark.slow
@pytest.mark.parametrize("learn", [WEIGHTS, NOISE])
@pytest.mark.parametrize(
    ("lam", "assignment"),
    [
        ([6.0, 3.0, 2.0, 1.2, 0.4], [2, -1, 0]),
        ([6.0, 3.0, 3.0, 1.0, 0.0], [0, 1, 2]),  # a tie in use, a zero of S
        ([6.0, 3.0, 3.0, 1.0, 0.0], [-1, 1, -1]),  # ties with a component that is not, and with σ²
        ([6.0, 3.0, 2.0, 0.0, 0.0], [0, 2, 1]),  # nothing fixes σ²
    ],
)
def test_solve_and_determinant_without_tolerance_are_numpys(lam, assignment, learn):
    """The pseudo-inverse and the product of nonzero eigenvalues, of the dense Hessian."""
    m, U = moments_with(np.array(lam), 0)
    lam, assignment = jnp.asarray(lam), np.array(assignment)
    point = stationary.params(stationary.point(lam, assignment, 1.0), U)
    H = np.asarray(dense(point, m, 1.0, learn))
    values = np.linalg.eigvalsh(H)
    zero = np.abs(values) < 1e-11 * np.abs(values).max()
    ours = operators.block_hessian(stationary.point(lam, assignment, 1.0), U, learn=learn)
    assert operators.inertia(ours) == (
        (values[~zero] > 0).sum(), (values[~zero] < 0).sum(), zero.sum(),
    )  # fmt: skip
    x = some_direction(1)
    inverse = np.linalg.pinv(H, rcond=1e-11, hermitian=True)
    solved = operators.solve(ours, x, pseudo=True)
    expected = inverse @ flat(x, learn)
    np.testing.assert_allclose(flat(solved, learn), expected, atol=1e-11 * np.abs(expected).max())
    sign, log = operators.slogdet(ours, pseudo=True)
    assert sign == np.sign(values[~zero]).prod()
    np.testing.assert_allclose(log, np.log(np.abs(values[~zero])).sum(), rtol=1e-11)
    if zero.any():
        with pytest.raises(ValueError, match=f"{zero.sum()} zero eigenvalues"):
            operators.solve(ours, x)


@pytest.mark.parametrize("learn", [WEIGHTS, NOISE])
@pytest.mark.parametrize("u", [1e-12, 1e-5, 1e12])
def test_newton_steps_are_the_same_in_every_unit(u, learn):
    """H⁻¹ b with b a gradient: W's entry has one over the unit of W, and so on."""
    problem = np.array([6.0, 3.0, 2.0, 1.2, 0.4]), np.array([2, -1, 0]), 0.9, 1.0
    U = orthogonal(0, N)
    b = some_direction(2)

    def solve(u, back):
        lam, a, sigma2, _ = in_unit(problem, u)
        H = operators.block_hessian(stationary.point(lam, a, sigma2), U, learn=learn)
        step = operators.solve(H, LinearVAEParams(b.W / u, b.V * u, b.log_d, b.log_sigma2))
        if back:
            step = operators.apply(H, step)
            u = 1 / u
        return flat(LinearVAEParams(step.W / u, step.V * u, step.log_d, step.log_sigma2), learn)

    np.testing.assert_allclose(solve(u, back=False), solve(1.0, back=False), rtol=1e-10)
    np.testing.assert_allclose(solve(u, back=True), flat(b, learn), rtol=1e-11, atol=1e-11)


@pytest.mark.slow
@hypothesis.settings(max_examples=15)
@given(problems(), units)
def test_census_is_the_same_in_every_unit(problem, u):
    lam, _, sigma2, beta = problem
    lam = lam[:4] + 1e-3 * np.arange(4)[::-1]  # distinct; equal s of two groups would be luck
    base = census.table(jnp.asarray(lam), 3, sigma2, beta)
    found = census.table(jnp.asarray(lam * u**2), 3, sigma2 * u**2, beta)
    assert found.types == base.types
    np.testing.assert_array_equal(found.index, base.index)
    np.testing.assert_array_equal(found.nullity, base.nullity)
    for t in base.types[:: max(1, len(base.types) // 8)]:
        one, other = (
            mixed_blocks.hessian_eigenvalues(mixed.point(here, t, s2, beta), unit_free=True)
            for here, s2 in [(lam, sigma2), (lam * u**2, sigma2 * u**2)]
        )
        np.testing.assert_allclose(other, one, atol=1e-12 * np.abs(one).max(), rtol=INVARIANT)
        if t.mixed:
            continue
        used = [g.components[0] for g in t.groups]
        a = np.array(used + [-1] * t.collapsed)
        own = in_unit((lam, a, sigma2, beta), u)
        assert mixed.inertia(mixed.point(own[0], t, own[2], beta)) == tuple(
            blocks.inertia(stationary.point(*own), WEIGHTS)[::2]
        )


def test_raw_spectrum_of_mixed_points_is_that_of_normalised_data_but_for_units():
    lam = jnp.array([9.0, 4.0, 2.0, 0.5])
    for t in census.types(lam, 3, 0.7):
        free = mixed_blocks.hessian_eigenvalues(mixed.point(lam, t, 0.7), unit_free=True)
        plain = mixed_blocks.hessian_eigenvalues(mixed.point(lam / 9, t, 0.7 / 9))
        np.testing.assert_allclose(free, plain, atol=1e-12 * np.abs(plain).max())


@pytest.fixture(scope="module")
def saddle():
    """λ, U, an assignment and σ² with three ways out, at u = 1."""
    lam = np.array([6.0, 3.0, 1.5, 0.4])
    return lam, np.asarray(orthogonal(0, 4)), np.array([1, -1]), 1.0


def objective_in(saddle, u):
    lam, U, a, sigma2 = saddle
    lam = jnp.asarray(lam * u**2)
    m = moments.from_covariance((U * lam) @ U.T)
    return objectives.elbo(
        stationary.params(stationary.point(lam, a, sigma2 * u**2), jnp.asarray(U)), m
    )


@pytest.mark.slow
@pytest.mark.parametrize("u", [1e-8, 1e-4, 1.0, 1e4, 1e8])
def test_dense_index_needs_no_unit(saddle, u):
    objective = objective_in(saddle, u)
    found, _ = conditioning.of_function(*objective)
    expected = int(stationary.index(stationary.point(jnp.asarray(saddle[0]), saddle[2], saddle[3])))
    assert (found.index, found.nullity) == (expected, 0) == (3, 0)
    # with units taken out all numbers are those of the blocks
    scale = float(np.sqrt(saddle[0][0])) * u
    free, way = conditioning.of_function(*objectives.rescaled(objective, scale))
    exact = summaries.summarise(
        stationary.point(jnp.asarray(saddle[0] * u**2), saddle[2], saddle[3] * u**2)
    ).unit_free
    assert (free.index, free.nullity) == (3, 0)
    ours = (free.stiffness, free.condition_number, free.escape_rate)
    np.testing.assert_allclose(ours, exact, rtol=1e-9)
    # and the way out, taken back to the data's units, climbs
    way = objectives.in_data_units(way, scale)
    climb = hessian.product(*objective, way)
    gain = sum(jnp.vdot(way[name], climb[name]) for name in way)
    np.testing.assert_allclose(gain, exact.escape_rate, rtol=1e-9)


@pytest.mark.slow
def test_dense_index_takes_the_unit_of_an_array_without_curvature_from_its_coupling():
    for c in (1e-8, 1.0, 1e8):
        f = lambda v, c=c: -((v["a"] / c) ** 2) / 2 + v["a"] * v["b"]  # noqa: E731
        found, _ = conditioning.of_function(f, {"a": jnp.array(0.0), "b": jnp.array(0.0)})
        assert (found.index, found.nullity) == (1, 0)
    found, _ = conditioning.of_function(
        lambda v: 1e9 * v["a"] * v["b"], {"a": 0.0, "b": 0.0, "c": 0.0}
    )
    assert (found.index, found.nullity) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("u", [1e6])
def test_matrix_free_index_of_a_rescaled_objective(saddle, u):
    lam = np.concatenate([saddle[0], np.linspace(0.3, 0.1, 16)])
    U = np.asarray(orthogonal(1, 20))
    objective = objective_in((lam, U, *saddle[2:]), u)
    free = objectives.rescaled(objective, float(np.sqrt(lam[0])) * u)
    found = lobpcg.escapes(*free, jax.random.key(0), tolerance=0.01)
    exact = blocks.hessian_eigenvalues(
        stationary.point(jnp.asarray(lam), saddle[2], saddle[3]), unit_free=True
    )
    exact = np.sort(exact)[::-1]
    assert found.complete
    np.testing.assert_allclose(found.values, exact[exact > 0], rtol=1e-7)
    spectrum = lanczos.quadrature(*free, jax.random.key(0), probes=4, steps=40)
    count = lanczos.index(spectrum, 0.01)
    room = 5 * count.standard_error
    assert count.lower - room <= 3 <= count.upper + room


@pytest.mark.slow
@pytest.mark.parametrize("u", [1e-12, 1e12])
def test_what_a_collapsed_latent_waits_for_scales_with_the_data(u):
    model = linear.Model(3, 2)
    params = model.init(jax.random.key(1), 1.0)
    x = jax.random.normal(jax.random.key(0), (50, 3)) * jnp.array([3.0, 2.0, 1.0])
    x = x - x.mean(axis=0)
    point = LinearVAEParams(params.W * 0, params.V * 0, params.log_d * 0, params.log_sigma2)
    found = collapsed_latent.blocks(model, point, x * u, jax.random.key(2), 0)
    lam = np.linalg.eigvalsh(x.T @ x / 50)[::-1]
    np.testing.assert_allclose(found.critical_sigma2(), lam[0] * u**2, rtol=1e-12)
    for sigma2, index in ((1.01 * lam[0], 0), (0.9 * lam[0], 1), (0.9 * lam[2], 3)):
        assert found.index(sigma2 * u**2) == index
        assert found.index(sigma2 * u**2 / 2, 2.0) == index


@pytest.mark.slow
@pytest.mark.parametrize("u", [1e-12, 1e12])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_critical_sigma2_and_rotations_in_every_unit(u, dtype):
    lam = np.array([6.0, 3.0, 1.5, 0.4])
    here = jnp.asarray(lam * u**2, dtype)
    rtol = 10 * np.finfo(dtype).eps
    # below σ² = 2 two are in use, and what the second leaves, τ²/λ₂, is less than λ₃ at σ² = 2
    for sigma2, beta in ((2.0, 1.0), (2.9, 1.0), (1.0, 2.9)):
        expected = max(1.5, (beta * sigma2) ** 2 / 3.0) / beta
        ours = escape.critical_sigma2(here, 3, sigma2 * u**2, beta)
        np.testing.assert_allclose(ours, expected * u**2, rtol=rtol)
    gaps = (lam[:-1] - lam[1:]) ** 2 / (lam[:-1] * lam[1:])
    np.testing.assert_allclose(escape.rotation_stiffness(here), gaps, rtol=rtol)
    stiff = escape.collapsed_stiffness(here[0], jnp.asarray(u**2, dtype))
    spectrum = blocks.hessian_eigenvalues(stationary.point(here, np.array([-1]), u**2))
    np.testing.assert_allclose(stiff, -spectrum.min(), rtol=rtol)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-12, -2.0, 1e6])
@pytest.mark.parametrize("spread", [0.0, 1e-14])
def test_density_of_a_rotated_multiple_of_the_identity_integrates_to_one(scale, spread):
    Q = orthogonal(0, 40)
    H = scale * (Q * (1 + spread * jnp.linspace(-1, 1, 40))) @ Q.T

    def f(x):
        return x @ (H @ x) / 2

    found = lanczos.quadrature(f, jnp.ones(40), jax.random.key(0), probes=4, steps=8)
    grid = jnp.linspace(scale - 2 * abs(scale), scale + 2 * abs(scale), 401)
    density = lanczos.density(found, grid)
    np.testing.assert_allclose(np.trapezoid(density.value, grid), 1, atol=1e-8)


def test_points_that_are_none_count_as_nothing_where_values_are_traced():
    lam = jnp.array([4.0, 2.0, 0.5])
    assignments = jnp.array([[0, -1], [2, -1], [0, 1], [0, 0], [2, 2]])
    found = jax.jit(
        jax.vmap(lambda a: summaries.summarise(stationary.point(lam, a, 1.0), learn=NOISE))
    )(assignments)
    assert found.index.tolist() == [1, 0, 0, 0, 0]
    assert found.nullity.tolist() == [0, 0, 0, 0, 0]
    for leaf in (found.stiffness, found.condition_number, found.escape_rate, *found.unit_free):
        assert jnp.isnan(leaf).tolist() == [False, True, False, True, True]
    counted = jax.vmap(lambda a: blocks.inertia(stationary.point(lam, a, 1.0)))(assignments)
    assert (sum(counted) == 0).tolist() == [False, True, False, True, True]


def test_all_units_at_once_under_vmap():
    lam, a = np.array([6.0, 3.0, 2.0, 1.2, 0.4]), np.array([2, -1, 0])
    squares = jnp.array([1e-24, 1e-6, 1.0, 1e24])

    def read(u2):
        found = summaries.summarise(
            stationary.point(jnp.asarray(lam) * u2, a, 0.9 * u2), learn=NOISE
        )
        H = operators.block_hessian(
            stationary.point(jnp.asarray(lam) * u2, a, 0.9 * u2), jnp.eye(N), learn=NOISE
        )
        return found, operators.inertia(H), operators.slogdet(H)

    found, count, (sign, log) = jax.jit(jax.vmap(read))(squares)
    index, flat_ways = counted((lam, a, 0.9, 1.0), NOISE)
    assert set(found.index.tolist()) == set(count.positive.tolist()) == {index}
    assert set(found.nullity.tolist()) == set(count.zero.tolist()) == {flat_ways}
    np.testing.assert_allclose(log, log[0], rtol=1e-13)
    assert set(sign.tolist()) == {(-1.0) ** int(count.negative[0])}
    np.testing.assert_allclose(found.unit_free.escape_rate, found.unit_free.escape_rate[0])


def test_lists_and_integers_of_eigenvalues():
    for values in ([-8, 3, 0, -2, 1], [-8.0, 3.0, 0.0, -2.0, 1.0], np.array([-8, 3, 0, -2, 1])):
        found = conditioning.of_eigenvalues(values)
        assert (found.index, found.nullity, found.stiffness) == (2, 1, 8.0)
    for nothing in ([], 3.0, ["a"]):
        with pytest.raises(ValueError, match=r"^eigenvalues: got"):
            conditioning.of_eigenvalues(nothing)


@pytest.mark.parametrize(
    ("function", "point", "message"),
    [
        (lambda x: x**2, jnp.ones(3), r"function: .* real scalar function"),
        (lambda x: (x[0], x[1]), jnp.ones(3), r"function: .* real scalar function"),
        (lambda x: jnp.sum(x) > 0, jnp.ones(3), r"function: .* real scalar function"),
        (lambda x: jnp.sum(x) * 1j, jnp.ones(3), r"function: .* real scalar function"),
        (jnp.sum, jnp.arange(3), r"point: got an array of dtype int64, expected floats"),
        (lambda v: v["a"] * 1.0, {"a": 3}, r"point: got an array of dtype int"),
        (lambda x: jnp.sum(x**2), jnp.array([1.0, np.nan]), r"point: got 1 NaN or Inf"),
        (lambda x: 1.0, {}, r"point: got no arrays"),
    ],
)
def test_what_has_no_hessian_is_refused(function, point, message):
    directions = jax.tree.map(jnp.ones_like, point)
    for ask in (
        lambda: hessian.dense(function, point),
        lambda: conditioning.of_function(function, point),
        lambda: hessian.product(function, point, directions),
    ):
        with pytest.raises(ValueError, match=message):
            ask()


def test_a_hessian_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"Hessian of function: got .* NaN or Inf"):
        hessian.dense(lambda x: jnp.sum(x**1.5), jnp.zeros(3))
    with pytest.raises(ValueError, match=r"direction: got shape \(2,\)"):
        hessian.product(lambda x: jnp.sum(x**2), jnp.ones(3), jnp.ones(2))
    with pytest.raises(ValueError, match="direction"):
        hessian.product(lambda x: jnp.sum(x**2), jnp.ones(3), [jnp.ones(3)])
    with pytest.raises(ValueError, match="scale: got"):
        objectives.rescaled(objectives.Objective(jnp.sum, {"W": jnp.ones(2)}), 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("u", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zeros_of_a_covariance_of_low_rank_are_flat_in_every_unit(u, dtype):
    """Rounding leaves some ε of λ₁ in their place, as likely above zero as below."""
    x = np.random.default_rng(0).normal(size=(6, 12)).astype(dtype) * dtype(u)
    lam = moments.spectrum(moments.from_data(jnp.asarray(x))).eigenvalues
    rough = jnp.sort(jnp.linalg.eigvalsh(jnp.cov(jnp.asarray(x), rowvar=False, bias=True)))[::-1]
    sigma2 = float(lam[2]) / 2
    for spectrum in (lam, rough):
        found = summaries.summarise(stationary.point(spectrum, np.array([0, -1]), sigma2))
        # six data have five directions about their mean
        assert found.nullity == 2 * (12 - 5)
        above = int((spectrum > sigma2).sum())
        assert found.index == above - 1
        assert found.unit_free.condition_number < 1e3
        if dtype == np.float64:
            t = mixed.PointType((mixed.Group((0,), 1),), 1)
            assert mixed.inertia(mixed.point(spectrum, t, sigma2)) == (above - 1, 14)


@pytest.mark.parametrize(("u", "power"), [(1e-6, -1), (1e6, 1)])
def test_raw_numbers_scale_as_the_chapter_says(u, power):
    """Like u⁴ or 1/u⁴ where they compare W with V, and the rate's two limits."""
    lam, sigma2, a = np.array([6.0, 3.0, 0.4]), 0.9, np.array([-1, -1])

    def read(u):
        return summaries.summarise(stationary.point(lam * u**2, a, sigma2 * u**2))

    one, ten = read(u), read(10.0**power * u)
    np.testing.assert_allclose(ten.stiffness / one.stiffness, 1e2, rtol=1e-9)
    np.testing.assert_allclose(ten.condition_number / one.condition_number, 1e4, rtol=1e-9)
    np.testing.assert_allclose(ten.escape_rate / one.escape_rate, 1e-2, rtol=1e-9)
    limit = (lam[0] - sigma2) / sigma2**2 / u**2 if u > 1 else u**2 * lam[0] * (lam[0] / sigma2 - 1)
    np.testing.assert_allclose(one.escape_rate, limit, rtol=1e-9)


SPECTRUM = (9.0, 4.0, 2.0, 1.0)
CONTAINERS = {
    "list": list(SPECTRUM),
    "tuple of integers": tuple(int(v) for v in SPECTRUM),
    "float16": np.array(SPECTRUM, np.float16),
    "bfloat16": jnp.array(SPECTRUM, jnp.bfloat16),
    "float64": np.array(SPECTRUM),
    "big-endian": np.array(SPECTRUM, ">f8"),
    "long double": np.array(SPECTRUM, np.longdouble),
    "unsigned": np.array(SPECTRUM, np.uint64),
    "strided": np.repeat(SPECTRUM, 2)[::2],
    "series": pd.Series(SPECTRUM),
}
PLACE = [0, -1]
AXES = np.eye(4)
BOTH = mixed.PointType((mixed.Group((0, 1), 2),))
# every function of a spectrum, by a number that follows from all of its result
OF_SPECTRUM = {
    "summarise": lambda v: summaries.summarise(stationary.point(v, PLACE, 1.5)).condition_number,
    "path": lambda v: summaries.over_sigma2(v, PLACE, [0.5, 1.5]).value.sum(),
    "points": lambda v: len(list(stationary.assignments(v, 2, 1.5))),
    "count": lambda v: stationary.count(v, 2, 1.5),
    "point": lambda v: stationary.params(stationary.point(v, PLACE, 1.5), AXES).W.sum(),
    "value": lambda v: stationary.value(stationary.point(v, PLACE, 1.5)),
    "census": lambda v: census.table(v, 2, 1.5).value.sum(),
    "mixed": lambda v: mixed_blocks.hessian_eigenvalues(mixed.point(v, BOTH, 1.5)).sum(),
    "escape rate": lambda v: escape.escape_rate(v, 1.5).sum(),
    "critical": lambda v: escape.critical_sigma2(v, 2, 1.5),
    "rotations": lambda v: escape.rotation_stiffness(v).sum(),
    "conditioning": lambda v: conditioning.of_eigenvalues(v).condition_number,
    "simulated": lambda v: escape.simulate(v, 0, 1.5).simulated_steps,
    "sigma2": lambda v: ppca.optimal_sigma2(v, 2),
    "elbo": lambda v: ppca.optimal_elbo(v, 2),
    "components": lambda v: ppca.elbo_with_components(v, [True, False, False, False], 1.5),
    "weights": lambda v: ppca.principal_weights(AXES[:, :4], v, 1.5).sum(),
    "predicted": lambda v: predictions.predict(v, 2).elbo,
    "rank": lambda v: moments.rank(v, 3.0),
    "surface": lambda v: float(
        surface.zero_column(v, [1.5], (1, 2), 3).profile_elbo.sum()
        + surface.sigma2_around(v, (1, 2))[0]
    ),
}
NO_SPECTRUM = (None, "abc", 3.0, np.zeros((4, 1)), [], [1j, 1j], [9.0, np.nan, 1.0, 1.0])


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", OF_SPECTRUM)
def test_a_spectrum_in_any_container_is_the_same_spectrum(name):
    """Silently 0.09 nats off before, from integers; or a traceback of JAX."""
    function = OF_SPECTRUM[name]
    with jax.enable_x64(False):
        expected = float(function(jnp.array(SPECTRUM, jnp.float32)))
        for container, values in CONTAINERS.items():
            np.testing.assert_allclose(function(values), expected, rtol=1e-6, err_msg=container)
        for none in NO_SPECTRUM:
            if name in ("escape rate", "conditioning") and np.asarray(none).dtype == float:
                continue  # these take numbers of any shape
            with pytest.raises(ValueError, match=r"^(eigenvalues?|k): got"):
                function(none)


def test_a_point_is_compared_with_the_noise_in_the_precision_of_the_formulas():
    """In float64 there is such a point; rounded to float32 λ₁ is σ², and it was NaN."""
    with jax.enable_x64(False):
        lam, sigma2 = np.array([1 + 1e-9, 0.5]), 1.0
        with pytest.raises(ValueError, match=r"assignment: got component 0 with eigenvalue 1, "):
            stationary.value(stationary.point(lam, [0], sigma2))
        assert stationary.count(lam, 1, sigma2) == 1
        with pytest.raises(ValueError, match=r"eigenvalues: got 1e-50 as the largest"):
            stationary.count(np.array([1e-50, 0.0]), 1, sigma2)


@pytest.mark.slow
@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("ratio", [1 + 1e-6, 2.0, 1e3, 1e6, 1e9, 1e12])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_own_blocks_keep_their_digits_however_small_the_noise_is(ratio, unit, dtype):
    """Roots of the characteristic polynomial, in fractions; before, λ/τ times ε was lost."""
    if dtype == np.float32 and (ratio == 1 + 1e-6 or (ratio > 1e9 and unit != 1)):
        return  # 1 + 1e-6 is eight roundings from one; σ² is beyond float32
    lam = dtype(1.7 * unit)
    sigma2 = dtype(lam / dtype(ratio))
    p = stationary.point(jnp.asarray([lam]), np.array([0]), jnp.asarray(sigma2))
    found = np.sort(np.asarray(own_blocks.spectra(p)[0])[0].astype(float))
    l, s = Fraction(float(lam)), Fraction(float(sigma2))
    AA, BB, dd = -1 / s, -l * l / s, Fraction(-1, 2)
    AB, square_of_Ad = (2 * s - l) / s, (l - s) / l**2
    total = AA + BB + dd
    pairs = AA * BB - AB**2 + AA * dd - square_of_Ad + BB * dd
    det = dd * (AA * BB - AB**2) - BB * square_of_Ad
    for mu in found:
        x = Fraction(mu)
        for _ in range(3):  # Newton, from what is nearly a root
            x -= (x**3 - total * x**2 + pairs * x - det) / (3 * x**2 - 2 * total * x + pairs)
            x = Fraction(float(x))
        np.testing.assert_allclose(mu, float(x), rtol=30 * np.finfo(dtype).eps)


_W = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
_X = np.array([[3.0, 1.0, 0.0], [0.0, -2.0, 1.0], [-1.0, 0.0, 2.0], [1.0, 2.0, -1.0]])


def unchecked(cls, **fields):
    """As users make it, who have no type checker."""
    made = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("x64", [False, True])
def test_weights_in_any_container_are_the_same_weights(x64):
    """The likelihood by NumPy; of float16 and long double there were tracebacks."""
    S, C = np.cov(_X, rowvar=False, bias=True), _W @ _W.T + 1.5 * np.eye(3)
    fit = np.trace(np.linalg.solve(C, S))
    expected = -0.5 * (3 * np.log(2 * np.pi) + np.linalg.slogdet(C)[1] + fit)
    noise = np.array(np.log(1.5))
    with jax.enable_x64(x64):
        m = moments.from_data(_X)
        M = _W.T @ _W + 1.5 * np.eye(2)
        for dtype in ("int64", "float16", "float32", ">f8", "g", None):
            convert = (lambda a, d=dtype: a.astype(d)) if dtype else lambda a: a.tolist()
            W = convert(_W)
            model = unchecked(ppca.PPCA, W=W, sigma2=1.5, mean=_X.mean(axis=0))
            encoder = linear.with_optimal_encoder(W, 1.5)
            near = {"rtol": 1e-5, "atol": 1e-6, "err_msg": str(dtype)}
            np.testing.assert_allclose(ppca.log_likelihood(W, 1.5, m), expected, **near)
            np.testing.assert_allclose(ppca.score(model, _X), expected, **near)
            np.testing.assert_allclose(linear.profile_elbo(W, 1.5, m), expected, **near)
            np.testing.assert_allclose(encoder.V, np.linalg.solve(M, _W.T), **near)
            found = objectives.log_likelihood(W, 1.5, m)
            np.testing.assert_allclose(found.function(found.variables), expected, **near)
            assert ppca.sample(model, jax.random.key(0), 2).shape == (2, 3)
            params = unchecked(
                LinearVAEParams, W=W, V=encoder.V, log_d=encoder.log_d, log_sigma2=noise
            )
            np.testing.assert_allclose(linear.elbo(params, m), expected, **near)
            np.testing.assert_allclose(linear.score(params, m.mean, _X), expected, **near)
            np.testing.assert_allclose(linear.gradient(params, m).V, 0, **near)
            turned = linear.rotate(params, np.eye(3)[::-1])
            np.testing.assert_allclose(turned.W, _W[::-1], **near)
