"""Moments: streaming, merging, rotating and the spectrum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import data, orthogonal, seeds, shapes
from tolerances import EXACT, FACTORED

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
