"""The linear VAE: closed forms against autodiff, Monte Carlo, per-datum sums and symmetries."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from tolerances import EXACT, FACTORED, STANDARD_ERRORS

from landscape.curvature import escape
from landscape.testing import laws
from landscape.testing.strategies import (
    moments_with,
    noise,
    problems,
    seeds,
    separated_spectra,
    spectra,
    weights,
)
from linvae_jax import gaussian, linear, ppca
from linvae_jax import moments as mom


@pytest.mark.slow
@given(problems(), weights)
def test_gradient_is_autodiffs(problem, beta):
    params, moments, _ = problem
    laws.assert_gradient(linear.elbo, linear.gradient, params, moments, beta)


@given(problems(), weights)
def test_moments_form_is_the_mean_over_data(problem, beta):
    params, moments, x = problem
    terms = linear.elbo_terms(params, moments)
    each = linear.elbo_terms_per_datum(params, moments, jnp.asarray(x))
    scale = float(jnp.abs(each.reconstruction).mean())
    np.testing.assert_allclose(
        each.reconstruction.mean(), terms.reconstruction, rtol=0, atol=EXACT * scale * 10
    )
    np.testing.assert_allclose(
        each.kl.mean(0), terms.kl, rtol=EXACT * 10, atol=EXACT * float(terms.kl.max())
    )
    total = linear.score_per_datum(params, moments.mean, jnp.asarray(x), beta).mean()
    expected = terms.reconstruction - beta * terms.kl.sum()
    np.testing.assert_allclose(total, expected, rtol=EXACT * 100)
    np.testing.assert_allclose(linear.elbo(params, moments, beta), expected, rtol=EXACT * 100)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_elbo_is_within_monte_carlo_error_of_its_definition(seed):
    """E_q[log p(x, z) − log q(z|x)] with SciPy's densities: shares no line with the code."""
    rng = np.random.default_rng(seed)
    n, k, N, draws = 4, 2, 20, 4000
    x = rng.normal(size=(N, n))
    moments = mom.from_data(x)
    params = linear.init(jax.random.key(seed), n, k, 0.7)
    params = replace(params, log_d=jnp.asarray(rng.normal(size=k)))
    W, V, sd = np.asarray(params.W), np.asarray(params.V), np.exp(0.5 * np.asarray(params.log_d))
    centred = x - np.asarray(moments.mean)
    mean = centred @ V.T
    z = mean + sd * rng.normal(size=(draws, N, k))
    log_px = norm.logpdf(centred, z @ W.T, np.sqrt(0.7)).sum(-1)
    estimates = (log_px + norm.logpdf(z).sum(-1) - norm.logpdf(z, mean, sd).sum(-1)).mean(1)
    error = estimates.std(ddof=1) / np.sqrt(draws)
    assert abs(estimates.mean() - linear.elbo(params, moments)) < STANDARD_ERRORS * error


@jax.jit
def stochastic_elbos(params, moments, x, keys, beta):
    return jax.vmap(lambda key: linear.elbo_stochastic(params, moments, x, key, beta).mean())(keys)


@settings(max_examples=10)
@given(problems(), seeds, weights)
def test_stochastic_elbo_is_unbiased(problem, seed, beta):
    params, moments, x = problem
    keys = jax.random.split(jax.random.key(seed), 400)
    draws = stochastic_elbos(params, moments, jnp.asarray(x), keys, beta)
    error = draws.std(ddof=1) / np.sqrt(len(draws))
    assert abs(draws.mean() - linear.elbo(params, moments, beta)) < STANDARD_ERRORS * error


@given(problems())
def test_gap_to_the_likelihood_is_the_kl_to_the_true_posterior(problem):
    params, moments, x = problem
    sigma2 = jnp.exp(params.log_sigma2)
    gap = ppca.log_likelihood(params.W, sigma2, moments) - linear.elbo(params, moments)
    true = ppca.posterior(ppca.PPCA(params.W, sigma2, moments.mean), jnp.asarray(x))
    D = np.diag(np.exp(params.log_d))
    inverse = np.linalg.inv(true.cov)
    shift = (x - moments.mean) @ params.V.T - true.mean
    log_dets = np.linalg.slogdet(true.cov)[1] - np.linalg.slogdet(D)[1]
    quadratic = np.einsum("ni,ij,nj->n", shift, inverse, shift).mean()
    kl = 0.5 * (np.trace(inverse @ D) - len(D) + quadratic + log_dets)
    np.testing.assert_allclose(gap, kl, rtol=FACTORED, atol=FACTORED * float(abs(kl) + 1))
    laws.assert_lower_bound(0, gap)


def elbo_of_encoder(encoder, params, moments, beta):
    return linear.elbo(replace(params, **encoder), moments, beta)


@given(problems(), weights, seeds)
def test_optimal_encoder_is_the_maximiser(problem, beta, seed):
    params, moments, _ = problem
    best = linear.with_optimal_encoder(params.W, jnp.exp(params.log_sigma2), beta)
    encoder = {"V": best.V, "log_d": best.log_d}
    arguments = (params, moments, beta)
    laws.assert_stationary(elbo_of_encoder, encoder, *arguments, tolerance=FACTORED)
    laws.assert_highest(elbo_of_encoder, encoder, *arguments, seed=seed)
    top = linear.elbo(best, moments, beta)
    laws.assert_lower_bound(linear.elbo(replace(params, V=best.V), moments, beta), top)


@given(problems())
def test_profile_elbo_is_the_likelihood_less_the_hadamard_gap(problem):
    params, moments, _ = problem
    sigma2 = jnp.exp(params.log_sigma2)
    M = np.asarray(params.W.T @ params.W + sigma2 * np.eye(params.W.shape[1]))
    hadamard = 0.5 * (np.log(np.diag(M)).sum() - np.linalg.slogdet(M)[1])
    exact = ppca.log_likelihood(params.W, sigma2, moments) - hadamard
    ours = linear.profile_elbo(params.W, sigma2, moments)
    np.testing.assert_allclose(ours, exact, rtol=FACTORED)
    gap = linear.hadamard_gap(params.W, sigma2)
    np.testing.assert_allclose(gap, hadamard, rtol=FACTORED, atol=FACTORED)
    assert gap >= -EXACT
    straight = jnp.linalg.qr(params.W)[0] * jnp.arange(1, params.W.shape[1] + 1)
    assert abs(linear.hadamard_gap(straight, sigma2)) <= EXACT


@given(spectra(4), st.floats(0.01, 0.9), st.floats(-3.2, 3.2))
def test_rotation_cost_is_what_the_elbo_loses_and_half_the_stiffness(lam, share, angle):
    moments, sigma2 = mom.from_covariance(lam), share * lam[2]
    W = ppca.mle(moments, 3, sigma2).W
    best = linear.profile_elbo(W, sigma2, moments)
    cost = escape.rotation_cost(lam[:3], angle)
    for j in range(2):
        turn = np.eye(3)
        turn[j : j + 2, j : j + 2] = [
            [np.cos(angle), -np.sin(angle)],
            [np.sin(angle), np.cos(angle)],
        ]
        loss = best - linear.profile_elbo(W @ turn, sigma2, moments)
        np.testing.assert_allclose(cost[j], loss, atol=FACTORED * float(1 + abs(best)))
        np.testing.assert_allclose(linear.hadamard_gap(W @ turn, sigma2), cost[j], atol=FACTORED)
    bend = jax.jacfwd(jax.jacfwd(lambda t: escape.rotation_cost(lam[:3], t)))(0.0)
    np.testing.assert_allclose(bend, (lam[:2] - lam[1:3]) ** 2 / (lam[:2] * lam[1:3]), rtol=1e-9)


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_gap_and_cost_keep_float32s_digits_in_any_unit(unit):
    W = np.random.default_rng(0).normal(size=(6, 3))
    exact = linear.hadamard_gap(W, 0.5)
    single = linear.hadamard_gap((W * unit).astype(np.float32), 0.5 * unit**2)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, exact, rtol=1e-5)
    # one column twice, all but without noise: M is singular in float32, the gap is not
    twice = linear.hadamard_gap(np.ones((4, 2), np.float32) * unit, 1e-9 * unit**2)
    np.testing.assert_allclose(twice, 0.5 * np.log(4e9 / 2), rtol=1e-3)
    cost = escape.rotation_cost(np.array([3, 1], np.float32) * np.float32(unit**2))
    np.testing.assert_allclose(cost, [0.5 * np.log(16 / 12)], rtol=1e-5)


@given(problems(), weights)
def test_beta_is_a_rescaling_of_the_noise(problem, beta):
    """ELBO_β at σ² = β · ELBO at βσ², plus a constant in (W, V, D) (landscape/README.md, 1)."""
    params, moments, _ = problem
    scaled = replace(params, log_sigma2=params.log_sigma2 + jnp.log(beta))
    n = len(params.W)
    constant = (
        0.5
        * n
        * (
            beta * jnp.log(2 * jnp.pi * jnp.exp(scaled.log_sigma2))
            - jnp.log(2 * jnp.pi * jnp.exp(params.log_sigma2))
        )
    )
    expected = beta * linear.elbo(scaled, moments) + constant
    np.testing.assert_allclose(linear.elbo(params, moments, beta), expected, rtol=FACTORED)


@pytest.mark.slow
@given(problems(), seeds)
def test_symmetries(problem, seed):
    """Rotated data, permuted or reflected latents, rescaled units, a shifted mean."""
    laws.assert_symmetries(linear.elbo, problem.params, problem.moments, seed=seed)
    decoder = lambda p, m: ppca.log_likelihood(p.W, jnp.exp(p.log_sigma2), m)  # noqa: E731
    laws.assert_symmetries(decoder, problem.params, problem.moments, seed=seed)


@pytest.mark.slow
@given(problems())
def test_the_eigenbasis_changes_nothing(problem):
    params, moments, _ = problem
    diagonal, s = mom.in_eigenbasis(moments)
    inside = linear.rotate(params, s.eigenvectors)
    np.testing.assert_allclose(
        linear.elbo(inside, diagonal), linear.elbo(params, moments), rtol=FACTORED
    )
    back = linear.rotate(linear.gradient(inside, diagonal), s.eigenvectors.T)
    slope = linear.gradient(params, moments)
    for name in ("W", "V", "log_d", "log_sigma2"):
        a, b = getattr(back, name), getattr(slope, name)
        np.testing.assert_allclose(a, b, rtol=0, atol=FACTORED * float(jnp.abs(b).max() + 1))


@given(st.data(), seeds, noise)
def test_rate_and_distortion_at_the_optimum_fill_water_from_below(draw, seed, sigma2):
    """KL_j = ½ log⁺(λ_j/σ²); mean ‖x − x̂‖² = Σ min(λ_i, σ²) + the rest (landscape/README.md, 2)."""
    lam = draw.draw(separated_spectra(5))
    moments, _ = moments_with(lam, seed)
    W = ppca.mle(moments, 3, sigma2).W
    terms = linear.elbo_terms(linear.with_optimal_encoder(W, sigma2), moments)
    rate = 0.5 * np.log(np.maximum(lam[:3] / sigma2, 1))
    np.testing.assert_allclose(terms.kl, rate, rtol=FACTORED, atol=FACTORED)
    # log p(x|z) = −n/2 log 2πσ² − E‖x − x̂‖²/2σ², with x̂ = Wz and z drawn from q
    distortion = -2 * sigma2 * (terms.reconstruction + 2.5 * np.log(2 * np.pi * sigma2))
    expected = np.minimum(lam[:3], sigma2).sum() + lam[3:].sum()
    np.testing.assert_allclose(distortion, expected, rtol=FACTORED)


@given(seeds, noise)
def test_log_density_is_scipys(seed, sigma2):
    x = np.random.default_rng(seed).normal(size=(3, 4))
    exact = norm.logpdf(x, 0, np.sqrt(sigma2)).sum(1)
    ours = gaussian.log_density(jnp.sum(jnp.asarray(x) ** 2, 1), 4, jnp.log(jnp.asarray(sigma2)))
    np.testing.assert_allclose(ours, exact, rtol=EXACT)


@given(st.floats(-3, 3), st.floats(-4, 2))
def test_kl_is_the_integral_that_defines_it(mean, log_d):
    grid = np.linspace(-40, 40, 200_001)
    q = norm(mean, np.exp(0.5 * log_d))
    integral = np.trapezoid(q.pdf(grid) * (q.logpdf(grid) - norm.logpdf(grid)), grid)
    ours = gaussian.kl(jnp.asarray([mean**2]), jnp.asarray([log_d]))
    # the trapezoidal rule is exact to rounding for a Gaussian that is wide against the grid
    np.testing.assert_allclose(ours[0], integral, rtol=1e-9, atol=1e-9)


def test_kl_keeps_its_digits_when_a_latent_is_all_but_collapsed():
    # D = 1 + 1e-9: KL = δ²/4 = 2.5e-19, which D − 1 − log D would round to 0
    ours = gaussian.kl(jnp.zeros(1), jnp.asarray([1e-9]))
    np.testing.assert_allclose(ours[0], 2.5e-19, rtol=1e-6)


@pytest.mark.slow
@given(problems())
def test_score_of_new_data_has_the_models_mean(problem):
    params, moments, x = problem
    new = x[:7] + 3.0
    ours = linear.score_per_datum(params, moments.mean, new)
    terms = linear.elbo_terms_per_datum(params, moments, new)
    expected = terms.reconstruction - terms.kl.sum(axis=1)
    np.testing.assert_allclose(ours, expected, rtol=EXACT)
    np.testing.assert_allclose(linear.score(params, moments.mean, new), ours.mean(), rtol=EXACT)
    # of the training data it is the ELBO, and it never exceeds the likelihood
    np.testing.assert_allclose(
        linear.score(params, moments.mean, x), linear.elbo(params, moments), rtol=1e-9
    )
    model = ppca.PPCA(params.W, jnp.exp(params.log_sigma2), moments.mean)
    likelihood = ppca.score_per_datum(model, new)
    assert (ours <= likelihood + 1e-9 * jnp.abs(likelihood)).all()
    best = linear.with_optimal_encoder(params.W[:, :1], model.sigma2)
    # one latent: the posterior is of the encoder's form, and the bound is tight
    tight = ppca.score_per_datum(ppca.PPCA(best.W, model.sigma2, moments.mean), new)
    np.testing.assert_allclose(linear.score_per_datum(best, moments.mean, new), tight, rtol=1e-9)


def test_random_weights_have_the_variances_that_init_promises():
    n, k = 300, 40
    params = linear.init(jax.random.key(0), n, k, 0.7)
    luck = STANDARD_ERRORS * np.sqrt(2 / (n * k))  # of the variance of n k normal numbers
    assert abs(k * jnp.var(params.W) - 1) < luck
    assert abs(n * jnp.var(params.V) - 1) < luck
    assert abs(jnp.corrcoef(params.W.ravel(), params.V.T.ravel())[0, 1]) < luck
