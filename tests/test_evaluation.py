"""Metrics of a trained VAE: against NumPy, closed forms, and the laws of a pass over data."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy.stats import norm
from tolerances import EXACT, STANDARD_ERRORS

from landscape.testing.strategies import parameters, seeds
from linvae_jax import collapse, evaluation, linear
from linvae_jax import moments as mom
from linvae_jax.data import preprocessing

n, k, N = 4, 3, 48
# each number of rows and each batch size compiles for a second or two: the tests share 48 rows in
# batches of 20, the last one ragged, and 16 rows in one batch that would hold more
RAGGED = 20
MODEL = linear.Model(n, k)
KEY = jax.random.key(7)
LAM = np.array([6.0, 3.0, 1.2, 0.3])


def some_data(seed: int, rows: int = N) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, n)) @ rng.normal(size=(n, n)) + 3


def some_parameters(seed: int) -> linear.LinearVAEParams:
    rng = np.random.default_rng(seed)
    W, V, log_d = rng.normal(size=(n, k)), rng.normal(size=(k, n)) / 2, rng.normal(size=k)
    return linear.LinearVAEParams(*(jnp.asarray(a) for a in (W, V, log_d)), jnp.log(jnp.array(0.7)))


def without_noise(params: linear.LinearVAEParams) -> linear.LinearVAEParams:
    """D = e⁻⁸⁰: z is its mean, to the last digit."""
    return replace(params, log_d=jnp.full(k, -80.0))


def optimum(sigma2: float) -> linear.LinearVAEParams:
    W = np.diag(np.sqrt(np.maximum(LAM - sigma2, 0)))[:, :k]
    return jax.jit(linear.with_optimal_encoder)(jnp.asarray(W), sigma2)


def assert_same(a: object, b: object, tolerance: float = EXACT) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def numpy_evaluation(params: linear.LinearVAEParams, x: np.ndarray) -> dict[str, ArrayLike]:
    """All metrics by their definitions, for a posterior so narrow that z is its mean."""
    W, V, log_d = (np.asarray(leaf) for leaf in (params.W, params.V, params.log_d))
    sigma2 = np.exp(float(params.log_sigma2))
    z = x @ V.T
    kl = 0.5 * (np.exp(log_d) + z**2 - 1 - log_d)
    residual = x - z @ W.T
    reconstruction = norm(scale=np.sqrt(sigma2)).logpdf(residual).sum(axis=1)
    tuned = (residual**2).mean()
    tuned_reconstruction = norm(scale=np.sqrt(tuned)).logpdf(residual).sum(axis=1).mean()
    elbo = reconstruction - kl.sum(axis=1)
    below = (kl < np.array(collapse.EPSILON)[:, None, None]).mean(axis=1)
    return {
        "count": len(x),
        "elbo": elbo.mean(),
        "elbo_error": elbo.std(ddof=1) / np.sqrt(len(x)),
        "reconstruction": reconstruction.mean(),
        "kl": kl.mean(axis=0),
        "square_error": (residual**2).sum(axis=1).mean(),
        "sigma2": sigma2,
        "sigma2_tuned": tuned,
        "elbo_tuned": tuned_reconstruction - kl.mean(axis=0).sum(),
        "below": below,
        "num_collapsed": (below[collapse.EPSILON.index(0.01)] >= 0.99).sum(),
        "active_units": (z.var(axis=0) > 0.01).sum(),
        "mean_variance": z.var(axis=0),
    }


def test_every_metric_is_its_definition():
    params = without_noise(some_parameters(0))
    params = replace(params, V=params.V.at[2].set(0))  # a latent that is not in use
    x, mu = some_data(0), np.arange(n) / 10
    got = evaluation.evaluate(MODEL, params, x, jnp.asarray(mu), KEY, batch_size=RAGGED)
    for name, value in numpy_evaluation(params, x - mu).items():
        np.testing.assert_allclose(getattr(got, name), value, rtol=EXACT, err_msg=name)
    assert got.active_units == 2
    assert got.epsilon == collapse.EPSILON


def test_noise_belongs_to_the_datum_and_not_to_its_batch():
    params, x = some_parameters(1), np.ones((N, n))  # all data the same, so that z alone varies

    def of(rows: np.ndarray, first: int = 0) -> evaluation.Totals:
        return evaluation.totals(
            *(MODEL, params, rows, jnp.zeros(n), KEY), first=first, batch_size=RAGGED
        )

    whole = of(x)
    assert whole.variance.square_error > 0
    pieces = [float(of(x[:16], first).mean.square_error) for first in (0, 16, 32, 1)]
    assert len(set(pieces)) == 4
    np.testing.assert_allclose(np.mean(pieces[:3]), whole.mean.square_error, rtol=EXACT)


MANY = 60_000


@pytest.mark.slow
@pytest.mark.parametrize("sigma2", [0.5, 2.0])
def test_linear_vae_at_its_optimum_is_what_its_closed_forms_say(sigma2):
    params = optimum(sigma2)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(MANY, n)) * np.sqrt(LAM) + 5)
    moments = mom.from_data(x)  # the closed forms of these data, so that only z is random
    keys = jax.random.split(KEY, 10)
    runs = [evaluation.evaluate(MODEL, params, x, moments.mean, key) for key in keys]
    exact = jax.jit(linear.elbo_terms)(params, moments)
    V = np.asarray(params.V)
    variance = np.diag(V @ np.asarray(moments.cov) @ V.T)
    for run in runs:
        # sums of 60,000 terms
        np.testing.assert_allclose(run.kl, exact.kl, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(run.mean_variance, variance, rtol=1e-11)
        assert run.elbo_tuned >= run.elbo
    reconstruction = np.array([run.reconstruction for run in runs])
    error = reconstruction.std(ddof=1) / np.sqrt(len(runs))
    assert abs(reconstruction.mean() - exact.reconstruction) <= STANDARD_ERRORS * error
    assert error < 0.005  # of about 8 nats

    # shares, for the distribution that the data are a sample of
    mean_square = jnp.asarray(np.diag((V * LAM) @ V.T))
    epsilon = jnp.array(collapse.EPSILON)
    share = jax.jit(collapse.gaussian_probability_below)(mean_square, params.log_d, epsilon)
    share = np.asarray(share)
    error = STANDARD_ERRORS * np.sqrt(share * (1 - share) / MANY)
    # μ is that of the sample, which moves a share by about a count
    np.testing.assert_array_less(np.abs(runs[0].below - share), error + 1 / MANY)
    assert runs[0].num_collapsed == collapse.num_collapsed(jnp.asarray(share))
    assert runs[0].active_units == (LAM[:k] > sigma2).sum()


def test_float32_keeps_six_digits_over_60000_data():
    x = np.random.default_rng(3).normal(size=(MANY, n)) + 10  # far from the origin
    params = without_noise(some_parameters(3))
    double, single = (
        evaluation.evaluate(
            *(MODEL, jax.tree.map(lambda leaf: leaf.astype(dtype), params)),  # noqa: B023
            *(jnp.asarray(x, dtype), jnp.zeros(n, dtype), KEY),
        )
        for dtype in (np.float64, np.float32)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(single)} == {np.dtype("f4"), np.dtype("i4")}
    for name in ("elbo", "elbo_error", "kl", "square_error", "elbo_tuned", "mean_variance"):
        # means of 1,000 by products, merged by weights: a few eps of 1.2e-7. The variance is of
        # posterior means some ten standard deviations from 0, whose own rounding it inherits
        tolerance = 1e-5 if name == "mean_variance" else 2e-6
        a, b = getattr(single, name), getattr(double, name)
        np.testing.assert_allclose(a, b, rtol=tolerance, err_msg=name)
    # a KL within rounding of an ε may change sides
    np.testing.assert_allclose(single.below, double.below, atol=3 / MANY)


@given(st.data(), seeds)
def test_totals_of_pieces_merge_in_any_order_to_those_of_the_whole(data, seed):
    params, x, mu = data.draw(parameters(n, k)), some_data(seed), jnp.zeros(n)
    pieces = [
        evaluation.totals(MODEL, params, x[i : i + 16], mu, KEY, first=i) for i in (0, 16, 32)
    ]
    while len(pieces) > 1:  # neighbours or not, alone or merged before
        a = pieces.pop(data.draw(st.integers(0, len(pieces) - 1)))
        b = pieces.pop(data.draw(st.integers(0, len(pieces) - 1)))
        pieces.append(evaluation.merge(a, b))
    whole = evaluation.totals(MODEL, params, x, mu, KEY, batch_size=RAGGED)
    np.testing.assert_array_equal(pieces[0].below, whole.below)
    # a mean may be near zero: against the size of what is averaged, squares of squares
    assert_same(pieces[0], whole, 1e-11 * max(1, np.abs(x).max() ** 4))


def test_vmap_over_models_is_a_loop_and_merges_and_finishes_under_vmap():
    x, mu = jnp.asarray(some_data(2)), jnp.ones(n)
    params = [some_parameters(seed) for seed in range(3)]
    keys = jax.random.split(KEY, 3)

    def run(p: linear.LinearVAEParams, key: jax.Array) -> evaluation.Totals:
        return evaluation.totals(MODEL, p, x, mu, key, batch_size=RAGGED)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    together = jax.vmap(run)(stacked, keys)
    loop = [run(p, key) for p, key in zip(params, keys, strict=True)]
    twice = jax.vmap(evaluation.merge)(together, together)
    finished = jax.vmap(lambda t, p: evaluation.finish(MODEL, p, t))(twice, stacked)
    for i, (p, one) in enumerate(zip(params, loop, strict=True)):
        assert_same(jax.tree.map(lambda leaf: leaf[i], together), one)  # noqa: B023
        expected = evaluation.finish(MODEL, p, evaluation.merge(one, one))
        assert_same(jax.tree.map(lambda leaf: leaf[i], finished), expected)  # noqa: B023

    # many at once without vmap would mix their axes
    with pytest.raises(ValueError, match=r"a: got count of shape \(3,\)"):
        evaluation.merge(together, together)
    with pytest.raises(ValueError, match=r"vmap"):
        evaluation.finish(MODEL, params[0], together)


def dequantised(pixels: jax.Array, key: jax.Array) -> jax.Array:
    return 256 * preprocessing.dequantise(pixels, key)


def test_pixels_are_made_real_on_the_way():
    """One image 4,000 times: p + u has mean p + ½ and covariance I/12, and u knows nothing of z."""
    pixels = np.tile(np.array([0, 3, 200, 255], np.uint8), (4000, 1))
    params = some_parameters(4)
    mean = jnp.asarray(pixels[0] + 0.5)
    got = evaluation.evaluate(MODEL, params, pixels, mean, KEY, transform=dequantised)
    exact = linear.elbo_terms(params, mom.from_covariance(jnp.full(n, 1 / 12)))
    elbo = exact.reconstruction - exact.kl.sum()
    assert abs(got.elbo - elbo) <= STANDARD_ERRORS * got.elbo_error
    assert got.elbo_error < 0.2  # of 15 nats
    # a mean square of 4,000 uniforms varies by √(2/4000) or less of itself
    variance = (np.asarray(params.V) ** 2).sum(axis=1) / 12
    np.testing.assert_allclose(got.mean_variance, variance, rtol=STANDARD_ERRORS * 0.023)
    # the transform's noise, too, belongs to the datum and not to its place: begin one later, and
    # one in 4,000 changes, which has √4000 times less effect than if all did
    later = evaluation.totals(MODEL, params, pixels, mean, KEY, transform=dequantised, first=1)
    assert 0 < abs(later.mean.elbo - got.elbo) < got.elbo_error / 5


def test_a_diverged_model_shows_as_nan_and_not_as_free_of_collapse():
    params = some_parameters(5)
    params = replace(params, log_d=params.log_d.at[1].set(jnp.nan))
    got = evaluation.evaluate(MODEL, params, some_data(5), jnp.zeros(n), KEY, batch_size=RAGGED)
    assert jnp.isnan(got.elbo)
    assert jnp.isnan(got.below).all(axis=0).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": np.ones((5, n + 1))}, r"values: got shape \(5, 5\), expected shape \(N, 4\)"),
        ({"values": np.array([["a"]])}, "values: got an array of dtype <U1"),
        ({"mean": jnp.ones(n + 1)}, r"mean: got shape \(5,\)"),
        ({"mean": jnp.full(n, jnp.nan)}, "mean: got 4 NaN"),
        ({"epsilon": (0.0, 0.1)}, r"epsilon: got \(0.0, 0.1\), expected a tuple"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"first": -1}, "first: got -1"),
    ],
)
def test_bad_input_is_refused(changes, message):
    good = {"values": np.ones((5, n)), "mean": jnp.ones(n), "key": KEY}
    with pytest.raises(ValueError, match=message):
        evaluation.totals(MODEL, some_parameters(0), **good | changes)


def test_totals_of_different_grids_do_not_merge():
    one = evaluation.totals(MODEL, some_parameters(0), some_data(0, 16), jnp.zeros(n), KEY)
    with pytest.raises(ValueError, match=r"^b\.epsilon"):
        evaluation.merge(one, replace(one, epsilon=(0.01,)))
