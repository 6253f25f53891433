"""Collapse metrics: against their definitions, Monte Carlo, exact curves and exact information."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from tolerances import STANDARD_ERRORS

from linvae_jax import collapse, linear, ppca
from linvae_jax import moments as mom

LAM = np.array([6.0, 3.0, 1.2, 0.3])


def test_fraction_counts_data_for_every_epsilon():
    kl = jnp.array([[0.0, 1.0], [0.2, 1.0], [0.4, 3.0]])
    shares = collapse.fraction_below(kl, jnp.array([[0.1, 0.3], [1.0, 2.0]]))
    np.testing.assert_allclose(shares[..., 0], [[1 / 3, 2 / 3], [1, 1]])
    np.testing.assert_allclose(shares[..., 1], [[0, 0], [0, 2 / 3]])  # strictly below


def test_metric_is_per_datum_not_on_means_and_delta_is_not_its_complement():
    kl = jnp.zeros((100, 1)).at[:2].set(0.2)  # mean 0.004 < ε, but 2 % of the data use it
    below = collapse.fraction_below(kl, jnp.asarray(0.01))
    assert not collapse.is_collapsed(below, delta=0.01)[0]
    assert collapse.is_collapsed(below, delta=0.02)[0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_exactly_99_percent_below_is_collapsed_in_every_dtype(dtype):
    """Compiled, a division by a constant is a product: 99 · (1/100) < 0.99 in float32."""
    for used, collapsed in ((1, True), (2, False)):
        kl = jnp.zeros((100, 1), dtype).at[:used].set(1)
        share = jax.jit(collapse.fraction_below)(kl, jnp.asarray(0.01))
        assert collapse.is_collapsed(share)[0] == collapsed


@given(st.sampled_from([1, 16, 37]), st.integers(0, 2**31 - 1))
def test_counts_are_those_of_numpy_and_of_batches_added_up(N, seed):
    rng = np.random.default_rng(seed)
    kl = jnp.asarray(rng.choice([0.0, 0.01, 0.1, 0.5, 2.0, 7.0], size=(2 * N, 3)))  # ties
    epsilon = jnp.array(collapse.EPSILON)
    counts = collapse.count_below(kl[:N], epsilon) + collapse.count_below(kl[N:], epsilon)
    kl, epsilon = np.asarray(kl), np.asarray(epsilon)
    np.testing.assert_array_equal(counts, (kl < epsilon[:, None, None]).sum(axis=1))
    assert counts.dtype == np.int32


def test_nan_is_below_nothing():
    counts = jax.jit(collapse.count_below)(jnp.array([[0.0], [jnp.nan]]), jnp.array([0.1, 9.0]))
    assert counts.tolist() == [[1], [1]]


def test_grid_runs_from_0_to_2_and_holds_the_epsilon_of_the_table():
    grid = collapse.EPSILON
    assert grid[0] == 0
    assert grid[-1] == 2
    assert 0.01 in grid
    assert (np.diff(grid) > 0).all()


def test_number_of_collapsed_latents_is_counted_at_the_epsilon_of_the_table():
    below = jnp.array([[1.0, 1.0, 1.0], [1.0, 0.99, 0.5], [0.0, 0.0, 1.0]])
    assert collapse.num_collapsed(below, (0.0, 0.01, 0.1)) == 2
    with pytest.raises(ValueError, match="epsilon"):
        collapse.num_collapsed(below, (0.0, 0.02, 0.1))
    with pytest.raises(ValueError, match="probability"):
        collapse.num_collapsed(below, (0.01, 0.02))


def test_active_units_vary_by_more_than_the_threshold():
    assert collapse.is_active(jnp.array([0.0, 0.01, 0.011, 5.0])).tolist() == [0, 0, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("sigma2", [0.5, 2.0, 4.0])
def test_gaussian_curve_matches_data_and_theory_at_the_optimum(sigma2):
    moments = mom.from_covariance(jnp.asarray(LAM))
    params = linear.with_optimal_encoder(ppca.mle(moments, 3, sigma2).W, sigma2)
    epsilon = jnp.array([0.01, 0.1, 0.3, 1.0, 2.0])
    mean_square = jnp.diag(params.V @ jnp.diag(LAM) @ params.V.T)
    exact = collapse.gaussian_probability_below(mean_square, params.log_d, epsilon)

    D = np.minimum(sigma2 / LAM[:3], 1)  # landscape/README.md, 2
    with np.errstate(divide="ignore"):
        theory = np.where(
            D < 1,
            chi2(1).cdf(
                (2 * np.asarray(epsilon)[:, None] + 1 - D + np.log(D)) / np.where(D < 1, 1 - D, 1)
            ),
            1.0,
        )
    np.testing.assert_allclose(exact, theory, atol=1e-9)

    N = 40_000
    x = jax.random.normal(jax.random.key(0), (N, 4)) * jnp.sqrt(LAM)
    kl = linear.elbo_terms_per_datum(params, moments, x).kl
    measured = collapse.fraction_below(kl, epsilon)
    error = np.sqrt(theory * (1 - theory) / N)
    assert (np.abs(measured - theory) <= STANDARD_ERRORS * error + 1e-12).all()


@given(st.floats(0, 5), st.floats(-6, 1), st.floats(0, 5))
def test_gaussian_probability_is_a_distribution_function(mean_square, log_d, epsilon):
    args = (jnp.array([mean_square]), jnp.array([log_d]))
    low, high = collapse.gaussian_probability_below(*args, jnp.array([epsilon, epsilon + 0.1]))
    assert 0 <= low[0] <= high[0] <= 1


def test_kl_in_narrow_numbers():
    """float16 counts to 2,048 and integers have no 0.01."""
    kl = np.repeat([[0], [2]], 3000, axis=0)
    for dtype in (int, "uint8", "float16", "bool", "longdouble"):
        share = collapse.fraction_below(np.asarray(kl, dtype), [0.01, 0.5])
        assert share.tolist() == [[0.5], [0.5]]
    assert collapse.fraction_below([[0, 1], [2, 0]], 1).tolist() == [0.5, 0.5]
