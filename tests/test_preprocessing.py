"""Dequantisation, logit and the constant between the pixel scale and the model's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from linvae_jax.data import preprocessing as pre

seeds = st.integers(0, 2**31 - 1)
alphas = st.floats(1e-6, 0.45)
unit = st.floats(0.0, 1.0)
EPS = np.finfo(np.float64).eps
ALL_PIXELS = np.arange(256, dtype=np.uint8).reshape(1, 256)


# ------------------------------------------------------------------ dequantise


@given(seed=seeds, dtype=st.sampled_from([jnp.float32, jnp.float64]))
def test_the_pixel_can_be_read_off_its_dequantised_value(seed, dtype):
    x = pre.dequantise(np.tile(ALL_PIXELS, (20, 1)), jax.random.key(seed), dtype)
    assert x.dtype == dtype
    assert ((x > 0) & (x < 1)).all()
    np.testing.assert_array_equal(np.floor(256 * np.asarray(x)), np.tile(ALL_PIXELS, (20, 1)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("u", ["smallest", "largest"])
def test_the_extreme_draws_stay_inside_the_pixel(monkeypatch, dtype, u):
    """255 + u rounds to 256 in float32, and u = 0 would make a black pixel's x exactly 0."""
    value = 0.0 if u == "smallest" else 1 - jnp.finfo(dtype).eps  # the range of jax's uniform
    monkeypatch.setattr(
        jax.random, "uniform", lambda key, shape, dtype: jnp.full(shape, value, dtype)
    )
    x = pre.dequantise(ALL_PIXELS, jax.random.key(0), dtype)
    assert ((x > 0) & (x < 1)).all()
    np.testing.assert_array_equal(np.floor(256 * np.asarray(x)), ALL_PIXELS)


def test_the_noise_is_uniform():
    pixels = np.full(100_000, 7, np.int32)
    u = np.asarray(256 * pre.dequantise(pixels, jax.random.key(1)) - 7)
    # 5 standard errors of the mean (variance 1/12) and of the mean square (variance 4/45)
    assert abs(u.mean() - 1 / 2) < 5 * np.sqrt(1 / 12 / len(u))
    assert abs((u**2).mean() - 1 / 3) < 5 * np.sqrt(4 / 45 / len(u))


def test_dequantise_is_the_same_under_jit_and_for_every_integer_type():
    key = jax.random.key(2)
    expected = pre.dequantise(ALL_PIXELS, key)
    assert expected.dtype == jnp.float64  # the default float of these tests
    for dtype in (np.uint8, np.int16, np.int64):
        pixels = ALL_PIXELS.astype(dtype)
        np.testing.assert_array_equal(jax.jit(pre.dequantise)(pixels, key), expected)
        np.testing.assert_array_equal(pre.dequantise(jnp.asarray(pixels), key), expected)


# ------------------------------------------------------------- logit and back


@given(x=st.lists(unit, min_size=4, max_size=4), alpha=alphas)
def test_sigmoid_inverts_logit(x, alpha):
    x = jnp.array(x)
    back = pre.sigmoid(pre.logit(x, alpha), alpha)
    # |y| < 14 carries a rounding error of 14 ε or so, and dx/dy is at most ¼/(1 − 2α)
    np.testing.assert_allclose(back, x, rtol=0, atol=32 * EPS / (1 - 2 * alpha))


@given(x=st.lists(unit, min_size=4, max_size=4), alpha=alphas)
def test_logit_is_odd_about_one_half(x, alpha):
    x = jnp.round(jnp.array(x) * 2**20) / 2**20  # so that 1 − x is exact
    y, mirrored = pre.logit(x, alpha), pre.logit(1 - x, alpha)
    np.testing.assert_allclose(mirrored, -y, rtol=4 * EPS, atol=32 * EPS)
    edge = np.log1p(-alpha) - np.log(alpha)
    assert (jnp.abs(y) <= edge * (1 + 4 * EPS)).all()


def test_logit_in_float32_is_accurate_at_both_ends():
    """logit(s) from a rounded s near 1 would be off by 0.03."""
    x = np.concatenate([np.geomspace(1e-9, 0.5, 50), 1 - np.geomspace(2**-23, 0.5, 50)])
    x = x.astype(np.float32)
    y32, y64 = pre.logit(x, 1e-6), pre.logit(x.astype(np.float64), 1e-6)
    assert y32.dtype == jnp.float32
    # two logarithms of up to 14, each rounded
    np.testing.assert_allclose(y32, y64, rtol=0, atol=32 * 2**-23)


@given(x=st.lists(st.floats(1e-3, 1 - 1e-3), min_size=3, max_size=3), alpha=alphas)
def test_log_jacobian_is_that_of_autodiff(x, alpha):
    x = jnp.array(x)
    jacobian = jax.jacfwd(lambda v: pre.logit(v, alpha))(x)
    np.testing.assert_array_equal(jacobian, jnp.diag(jnp.diag(jacobian)))  # elementwise
    expected = jnp.log(jnp.diag(jacobian)).sum()
    # sums of a few logarithms below 10
    np.testing.assert_allclose(pre.log_jacobian(x[None], alpha), expected[None], atol=200 * EPS)


def test_a_density_stays_normalised_under_the_change_of_variables():
    # midpoint rule; N(0, 1) has 10⁻⁴³ of its mass beyond the edges ±13.8
    x = (jnp.arange(200_000) + 0.5)[:, None] / 200_000
    y = pre.logit(x, 1e-6)[:, 0]
    log_density = -0.5 * (y**2 + jnp.log(2 * jnp.pi)) + pre.log_jacobian(x, 1e-6)
    np.testing.assert_allclose(jnp.exp(log_density).mean(), 1.0, rtol=1e-8)


# ---------------------------------------------------------- the pixel constant


@pytest.mark.parametrize("alpha", [1e-6, 1e-4, 0.01, 0.05, 0.3])
def test_the_constant_is_the_integral_over_the_noise(alpha):
    def slope(u, pixel):
        s = alpha + (1 - 2 * alpha) * (pixel + u) / 256
        return np.log((1 - 2 * alpha) / (s * (1 - s)))

    for pixel in (0, 1, 127, 254, 255):
        # breakpoints where the logarithm is steep
        integral = integrate.quad(slope, 0, 1, (pixel,), points=[1e-3, 1 - 1e-3], epsabs=1e-11)[0]
        ours = pre.pixel_constant(np.array([[pixel]]), alpha)
        # differences of 257 edges: ε over a width of 1/256, and quad's own error
        np.testing.assert_allclose(ours, integral - np.log(256), rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1e-6, 0.01, 0.2])
def test_the_constant_is_the_mean_of_dequantised_jacobians(alpha):
    pixels = np.random.default_rng(0).choice([0, 0, 0, 1, 40, 200, 254, 255], (50, 8))

    def draw(key):
        return pre.log_jacobian(pre.dequantise(pixels, key), alpha).mean() - 8 * jnp.log(256)

    draws = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(3), 4000)))
    error = draws.std() / np.sqrt(len(draws))
    assert abs(pre.pixel_constant(pixels, alpha) - draws.mean()) < 5 * error
    assert error < 0.05  # otherwise the line above says little


@given(seed=seeds, alpha=alphas)
def test_the_constant_obeys_its_symmetries(seed, alpha):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 256, (5, 6), np.uint8), rng.integers(0, 256, (3, 6), np.uint8)
    of = lambda pixels: pre.pixel_constant(pixels, alpha)  # noqa: E731
    close = lambda value: pytest.approx(value, rel=1e-12, abs=1e-12)  # noqa: E731
    assert of(rng.permuted(a, axis=0)) == close(of(a))
    assert of(255 - a) == close(of(a))  # the negative image
    assert of(np.concatenate([a, b])) == close((5 * of(a) + 3 * of(b)) / 8)
    assert of(a) == close(of(a[:, :2]) + of(a[:, 2:]))


def test_the_constant_of_a_set_too_large_for_one_piece():
    pixels = np.tile(ALL_PIXELS, (20, 1024))  # 20 rows; 16 of them are a piece
    expected = 1024 * pre.pixel_constant(ALL_PIXELS, 0.01)
    assert pre.pixel_constant(pixels, 0.01) == pytest.approx(expected, rel=1e-12)


# ------------------------------------------------------------------ bad inputs

KEY = jax.random.key(0)
HALF = np.full((2, 3), 0.5)
GREY = np.full((2, 3), 128, np.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pre.dequantise(HALF, KEY), r"pixels: got an array of dtype float64, expected int"),
        (lambda: pre.dequantise(HALF, KEY), r"astype\('uint8'\)"),
        (lambda: pre.dequantise(GREY > 0, KEY), "pixels: got an array of dtype bool"),
        (lambda: pre.dequantise(np.array([["a"]]), KEY), "pixels: got an array of dtype <U1"),
        (lambda: pre.dequantise(np.array([0, 256]), KEY), "pixels: got values from 0 to 256"),
        (lambda: pre.dequantise(np.array([-1, 9]), KEY), "pixels: got values from -1 to 9"),
        (lambda: pre.dequantise(GREY, KEY, jnp.float16), "dtype: got float16, expected float32 or"),
        (lambda: pre.logit(HALF, 0.0), r"alpha: got 0.0, expected 0 < alpha < 0.5. At 0, x = 0"),
        (lambda: pre.logit(HALF, 0.5), r"alpha: got 0.5, expected 0 < alpha < 0.5"),
        (lambda: pre.logit(HALF, float("nan")), "alpha: got nan"),
        (lambda: pre.logit(HALF, jnp.asarray(-0.1)), "alpha: got -0.1"),
        (
            lambda: pre.logit(GREY, 0.1),
            "x: got dtype uint8, expected floats from 0 to 1. Are these",
        ),
        (lambda: pre.logit(256 * HALF, 0.1), "x: got values from 128 to 128, expected floats from"),
        (lambda: pre.logit(HALF * np.nan, 0.1), "x: got values from nan to nan"),
        (lambda: pre.sigmoid(HALF * np.inf, 0.1), "y: got 6 NaN or Inf among 6 values"),
        (lambda: pre.sigmoid(HALF, 0.7), "alpha: got 0.7"),
        (lambda: pre.log_jacobian(HALF[0], 0.1), r"x: got shape \(3,\), expected shape \(N, n\)"),
        (lambda: pre.log_jacobian(-HALF, 0.1), "x: got values from -0.5 to -0.5"),
        (lambda: pre.pixel_constant(GREY[0], 0.1), r"pixels: got shape \(3,\), expected shape"),
        (lambda: pre.pixel_constant(GREY[:0], 0.1), r"pixels: got shape \(0, 3\)"),
        (lambda: pre.pixel_constant(HALF, 0.1), "pixels: got an array of dtype float64"),
        (lambda: pre.pixel_constant(GREY, 1e-6 - 1), "alpha: got -0.999"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_float64_without_x64_is_named():
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        pre.dequantise(GREY, KEY, jnp.float64)


def test_traced_values_are_not_looked_at():
    """Under jit only dtype and shape are known; a bad value shows as NaN."""
    assert jnp.isnan(jax.jit(pre.logit)(jnp.array([2.0, -1.0]), 0.1)).any()
    with pytest.raises(ValueError, match="dtype float64"):
        jax.jit(pre.dequantise)(HALF, KEY)
