"""Moments: streaming, merging, rotating and the spectrum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tolerances import EXACT, FACTORED

from landscape.testing.strategies import data, orthogonal, seeds, shapes
from linvae_jax import moments as mom


def assert_close(a: mom.Moments, b: mom.Moments) -> None:
    scale = float(jnp.abs(b.cov).max())
    np.testing.assert_allclose(a.cov, b.cov, atol=EXACT * scale, rtol=0)
    np.testing.assert_allclose(a.mean, b.mean, atol=EXACT * (1 + float(jnp.abs(b.mean).max())))
    assert a.count == b.count


@given(st.data())
def test_from_data_is_numpys_covariance_with_divisor_n(draw):
    x = draw.draw(data(draw.draw(shapes)[0]))
    ours = mom.from_data(x)
    scale = np.abs(x).max() ** 2
    np.testing.assert_allclose(ours.cov, np.cov(x.T, ddof=0), atol=EXACT * scale)
    np.testing.assert_allclose(ours.mean, x.mean(0), atol=EXACT * np.abs(x).max())


@pytest.mark.slow
@given(st.data())
def test_any_cut_in_any_order_gives_the_same_moments(draw):
    x = draw.draw(data(draw.draw(shapes)[0]))
    cuts = sorted(draw.draw(st.sets(st.sampled_from([1, 5, 20, 39]), max_size=4)))
    pieces = np.split(x, cuts)
    order = draw.draw(st.permutations(range(len(pieces))))
    assert_close(mom.from_chunks(pieces[i] for i in order), mom.from_data(x))


def test_streaming_keeps_digits_when_the_mean_is_large():
    # mean 1e6 and deviations of order one: E[x²] − E[x]² would keep four digits
    x = 1e6 + np.random.default_rng(0).normal(size=(1000, 3))
    exact = np.cov((x - 1e6).T, ddof=0)
    np.testing.assert_allclose(mom.from_chunks(np.split(x, 10)).cov, exact, rtol=0, atol=1e-9)


@given(st.data())
def test_merge_commutes_and_matches_the_union(draw):
    x = draw.draw(data(draw.draw(shapes)[0]))
    a, b = mom.from_data(x[:15]), mom.from_data(x[15:])
    assert_close(mom.merge(a, b), mom.from_data(x))
    assert_close(mom.merge(b, a), mom.merge(a, b))


def test_merge_leaves_its_arguments_alone():
    x = np.random.default_rng(0).normal(size=(10, 2))
    a, b = mom.from_data(x[:5]), mom.from_data(x[5:])
    mom.merge(a, b)
    assert np.isfinite(a.cov).all()  # a donated buffer would raise here


@given(st.data(), seeds)
def test_spectrum_rebuilds_the_covariance_and_thin_svd_agrees(draw, seed):
    n, _ = draw.draw(shapes)
    x = draw.draw(data(n))
    moments = mom.from_data(x)
    s = mom.spectrum(moments)
    scale = float(s.eigenvalues[0])
    rebuilt = (s.eigenvectors * s.eigenvalues) @ s.eigenvectors.T
    np.testing.assert_allclose(rebuilt, moments.cov, atol=EXACT * scale)
    assert (np.diff(s.eigenvalues) <= 0).all()
    thin = mom.thin_spectrum(x)
    np.testing.assert_allclose(thin.eigenvalues, s.eigenvalues, atol=EXACT * scale)
    rotated = mom.spectrum(mom.from_data(x @ orthogonal(seed, n)))
    np.testing.assert_allclose(rotated.eigenvalues, s.eigenvalues, atol=10 * EXACT * scale)


def test_thin_spectrum_of_few_rows_in_many_dimensions():
    x = np.random.default_rng(0).normal(size=(7, 30))
    thin, full = mom.thin_spectrum(x), mom.spectrum(mom.from_data(x))
    assert thin.eigenvectors.shape == (30, 7)
    np.testing.assert_allclose(thin.eigenvalues, full.eigenvalues[:7], atol=FACTORED)
    np.testing.assert_allclose(full.eigenvalues[7:], 0, atol=FACTORED)


@given(st.data())
def test_eigenbasis_moments_are_those_of_rotated_data(draw):
    x = draw.draw(data(draw.draw(shapes)[0]))
    diagonal, s = mom.in_eigenbasis(mom.from_data(x))
    again = mom.from_data(x @ s.eigenvectors)
    scale = float(s.eigenvalues[0])
    np.testing.assert_allclose(jnp.diag(diagonal.cov), again.cov, atol=10 * EXACT * scale)
    np.testing.assert_allclose(diagonal.mean, again.mean, atol=EXACT * np.abs(x).max() * 10)
    np.testing.assert_allclose(mom.trace(diagonal), mom.trace(again), rtol=EXACT)


def test_a_diagonal_covariance_has_a_sorted_spectrum():
    s = mom.spectrum(mom.from_covariance(jnp.array([1.0, 3.0, 2.0])))
    assert s.eigenvalues.tolist() == [3.0, 2.0, 1.0]
    np.testing.assert_array_equal(s.eigenvectors, np.eye(3)[:, [1, 2, 0]])


def test_integers_and_float32_keep_their_place():
    assert mom.from_data(np.array([[0, 1], [2, 5]])).cov.dtype == np.float64
    assert mom.from_data(jnp.ones((3, 2), jnp.float32).at[0, 0].set(2)).cov.dtype == np.float32


def test_gradient_flows_through_moments():
    x = np.random.default_rng(0).normal(size=(5, 2))
    slope = jax.grad(lambda x: mom.trace(mom.from_data(x)))(jnp.asarray(x))
    np.testing.assert_allclose(slope, 2 * (x - x.mean(0)) / 5, atol=EXACT)


@pytest.mark.parametrize("rows", [1, 3])
def test_chunks_of_single_rows_are_fine(rows):
    x = np.random.default_rng(0).normal(size=(6, 2))
    assert_close(mom.from_chunks(np.split(x, 6 // rows)), mom.from_data(x))


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("dtype", ["int64", "uint64", "float64", "longdouble"])
def test_large_integers_are_numbers_of_their_size(x64, dtype):
    x = np.array([[3_000_000_000, 1], [1_000_000_000, 2]], dtype)
    with jax.enable_x64(x64):
        for found in (mom.from_data(x), mom.from_chunks([x[:1], x[1:]])):
            assert found.mean.tolist() == [2e9, 1.5]
            exact = np.array([[1e18, -5e8], [-5e8, 0.25]], found.cov.dtype)
            np.testing.assert_array_equal(found.cov, exact)
        # (1e9, -1/2) is the one direction that there is
        np.testing.assert_allclose(mom.thin_spectrum(x).eigenvalues, [1e18, 0], rtol=1e-6, atol=1e5)


def test_coordinates_keep_their_spread_in_float32():
    x = 5e6 + 0.5 * np.random.default_rng(0).standard_normal((1000, 3))
    exact = np.cov(x.T, ddof=0)
    with jax.enable_x64(False):
        found = [mom.from_data(x).cov, mom.from_chunks(np.split(x, 4)).cov]
        lam = mom.thin_spectrum(x).eigenvalues
    # N ε at worst
    for cov in found:
        np.testing.assert_allclose(cov, exact, rtol=0, atol=1000 * 2**-23 * exact.max())
    np.testing.assert_allclose(lam, np.linalg.eigvalsh(exact)[::-1], rtol=1000 * 2**-23)


def test_three_large_numbers_that_float32_tells_apart():
    x = np.array([[1e6], [1e6 + 1], [1e6 + 2]])
    for x64 in (True, False):
        with jax.enable_x64(x64):
            for dtype in ("float32", "float64"):
                found = mom.from_data(x.astype(dtype)).cov
                np.testing.assert_allclose(found, [[2 / 3]], rtol=1e-6)


def test_traced_float32_data_far_from_zero():
    x = np.float32(5e6) + np.random.default_rng(0).integers(-2, 3, (1000, 2)).astype("f4")
    traced = jax.jit(mom.from_data)(jnp.asarray(x))
    assert traced.cov.dtype == jnp.float32
    np.testing.assert_allclose(traced.cov, np.cov(x.T.astype(float), ddof=0), atol=1e-4)


def test_float16_counts_its_rows():
    x = np.random.default_rng(0).normal(size=(70_000, 2)).astype(np.float16)
    found = mom.from_data(x)
    assert found.count == 70_000
    assert found.cov.dtype == jnp.float32
    np.testing.assert_allclose(found.cov, np.cov(x.T.astype(float), ddof=0), atol=1e-4)


@pytest.mark.parametrize("unit", [1e-21, 1e-15, 1e12, 1e18])
def test_units_whose_squares_leave_float32_are_refused(unit):
    """Squares from 1e-30 to 1e24 are float32, with their rounding; 1e-42 and 1e36 are not."""
    x = np.random.default_rng(0).normal(size=(20, 2))
    exact = np.cov(x.T, ddof=0)
    with jax.enable_x64(False):
        for function in (lambda x: mom.from_data(x).cov, lambda x: mom.from_chunks([x]).cov):
            if 1e-16 < unit < 1e15:
                np.testing.assert_allclose(function(x * unit) / unit / unit, exact, rtol=1e-4)
            else:
                with pytest.raises(ValueError, match="largest variance is beyond float32"):
                    function(x * unit)
        inside = jax.jit(lambda x: mom.from_data(x).cov)(jnp.asarray(x * unit, jnp.float32))
        assert np.isfinite(inside).all() == (1e-16 < unit < 1e15)


def test_rank_is_decided_in_one_place():
    lam = jnp.array([1.0, 0.5, 1e-12, 1e-16])
    assert mom.rank(lam) == 3
    assert mom.rank(lam, count=3.0) == 2
    assert mom.rank(lam.astype(jnp.float32)) == 2
    assert mom.rank(jnp.zeros(3)) == 0


@given(
    st.sampled_from([np.float32, np.float64]),
    st.lists(st.sampled_from([0.0, 0.5, 1.9, 2.1, 30.0, 1e3]), min_size=3, max_size=3),
    st.sampled_from([1e-12, 1.0, 1e12]),
    st.booleans(),
    seeds,
)
def test_each_entry_has_its_digits_however_far_columns_are_from_zero(
    dtype, offsets, unit, rare, seed
):
    """The product is taken without centring where that is harmless, with it where it is not.

    Each entry is relative to its own two variances, against long double. 2,000 sums of products
    round by some hundred ε at worst, and by five times that without centring.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2000, 5)) * [4, 1, 1e-3, 1, 1]
    x[:, :3] += np.array(offsets) * [4, 1, 1e-3]
    x[:, 3] = 7.0  # does not vary
    x[:, 4] = 0.0
    if rare:  # in few rows, none of which may be among those that are looked at first
        x[rng.choice(2000, 3, replace=False), 4] = rng.random(3)
    x = (x * unit).astype(dtype)
    exact = x.astype(np.longdouble)
    exact -= exact.mean(axis=0)
    exact = exact.T @ exact / 2000
    found = mom.from_data(x)
    assert found.cov.dtype == dtype
    widths = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    off = np.abs(np.asarray(found.cov) - exact)
    assert (off <= 500 * np.finfo(dtype).eps * widths).all()
    assert found.cov[3, 3] == 0
