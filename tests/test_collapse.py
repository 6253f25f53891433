"""The collapse metric: against its definition, Monte Carlo, and the exact curve at the optimum."""

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
