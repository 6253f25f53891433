"""pPCA against SciPy's multivariate normal, scikit-learn's PCA, and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from tolerances import EXACT, FACTORED, STANDARD_ERRORS

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
from linvae_jax import linear, ppca, predictions
from linvae_jax import moments as mom
from linvae_jax.data import datasets


@given(problems(), noise)
def test_log_likelihood_is_scipys(problem, sigma2):
    params, moments, x = problem
    C = np.asarray(params.W @ params.W.T + sigma2 * np.eye(len(params.W)))
    exact = multivariate_normal(np.asarray(moments.mean), C).logpdf(x).mean()
    ours = ppca.log_likelihood(params.W, sigma2, moments)
    np.testing.assert_allclose(ours, exact, rtol=FACTORED)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "k"), [(5, 2), (9, 3), (30, 10)])
def test_mle_is_scikit_learns_up_to_its_n_minus_one(n, k):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(200, n)) @ rng.normal(size=(n, n))
    pca = PCA(k, svd_solver="full").fit(x)
    ours = ppca.mle(mom.from_data(x), k)
    N = len(x)
    np.testing.assert_allclose(ours.sigma2, pca.noise_variance_ * (N - 1) / N, rtol=FACTORED)
    np.testing.assert_allclose(
        ours.W @ ours.W.T + ours.sigma2 * np.eye(n),
        pca.get_covariance() * (N - 1) / N,
        atol=FACTORED * pca.explained_variance_[0],
    )
    # their score is the log-likelihood of their covariance, which is larger by N/(N − 1)
    theirs = ppca.log_likelihood(
        ours.W * np.sqrt(N / (N - 1)), ours.sigma2 * N / (N - 1), mom.from_data(x)
    )
    np.testing.assert_allclose(theirs, pca.score(x), rtol=FACTORED)


@given(st.data(), seeds, noise)
def test_no_weights_beat_the_mle(draw, seed, sigma2):
    lam = draw.draw(spectra(5))
    moments, _ = moments_with(lam, seed)
    best = ppca.mle(moments, 2, sigma2)
    top = ppca.log_likelihood(best.W, sigma2, moments)
    np.testing.assert_allclose(top, ppca.optimal_elbo(jnp.asarray(lam), 2, sigma2), rtol=FACTORED)
    laws.assert_highest(ppca.log_likelihood, best.W, sigma2, moments, seed=seed)


optimal_elbo = jax.jit(ppca.optimal_elbo, static_argnums=1)


@given(st.data(), weights)
def test_learned_noise_is_the_best_noise(draw, beta):
    lam = jnp.asarray(draw.draw(spectra(6)))
    k = draw.draw(st.sampled_from([1, 3, 5]))
    ours = float(ppca.optimal_sigma2(lam, k, beta))

    def loss(log_sigma2: float) -> float:
        return -float(optimal_elbo(lam, k, float(np.exp(log_sigma2)), beta))

    # a search that knows nothing of components; the objective is smooth but not convex
    grid = np.linspace(np.log(1e-3), np.log(100), 400)
    start = grid[np.argmin([loss(g) for g in grid[::20]]) * 20]
    found = minimize_scalar(loss, bounds=(start - 0.7, start + 0.7), method="bounded")
    assert loss(np.log(ours)) <= found.fun + 1e-6


@pytest.mark.slow
def test_noise_of_images_is_learned_in_float32_too():
    pixels = datasets.load("digits").images / 255
    exact = ppca.mle(mom.from_data(pixels), 50)
    single = ppca.mle(mom.from_data(pixels.astype(np.float32)), 50)
    assert single.sigma2.dtype == jnp.float32
    # rounding of λ₁ is n eps = 1e-4 of it, and σ² a four-hundredth of λ₁
    np.testing.assert_allclose(single.sigma2, exact.sigma2, rtol=400e-4)
    with pytest.raises(ValueError, match=r"a covariance of rank 50 <= k = 50, .* or more data"):
        ppca.mle(mom.from_data(pixels[:51].astype(np.float32)), 50)


def test_learned_noise_is_the_mean_of_what_is_discarded():
    lam = jnp.array([9.0, 4.0, 1.0, 0.5, 0.3])
    np.testing.assert_allclose(ppca.optimal_sigma2(lam, 2), 0.6, rtol=EXACT)


@given(separated_spectra(5))
def test_total_collapse_exactly_beyond_the_critical_beta(lam):
    """β ≥ nλ₁/tr S leaves no latent in use (landscape/README.md, 2)."""
    critical = 5 * lam[0] / lam.sum()
    for beta, collapsed in ((critical * 1.001, True), (critical * 0.999, False)):
        sigma2 = ppca.optimal_sigma2(jnp.asarray(lam), 3, beta)
        assert (lam[0] <= beta * sigma2) == collapsed


@given(problems())
def test_posterior_is_gaussian_conditioning(problem):
    params, moments, x = problem
    sigma2 = float(jnp.exp(params.log_sigma2))
    W = np.asarray(params.W)
    ours = ppca.posterior(ppca.PPCA(params.W, jnp.asarray(sigma2), moments.mean), jnp.asarray(x))
    # condition the joint Gaussian of (z, x), by the n × n inverse that the code avoids
    gain = W.T @ np.linalg.inv(W @ W.T + sigma2 * np.eye(len(W)))
    scale = np.abs(x).max()
    np.testing.assert_allclose(ours.mean, (x - moments.mean) @ gain.T, atol=FACTORED * scale)
    np.testing.assert_allclose(ours.cov, np.eye(W.shape[1]) - gain @ W, atol=FACTORED)


def test_samples_have_the_models_moments():
    model = ppca.PPCA(jnp.array([[2.0], [1.0], [0.0]]), jnp.asarray(0.5), jnp.array([1.0, 2, 3]))
    N = 20_000
    drawn = mom.from_data(ppca.sample(model, jax.random.key(0), N))
    C = np.asarray(model.W @ model.W.T + model.sigma2 * np.eye(3))
    error = np.sqrt((C**2 + np.outer(np.diag(C), np.diag(C))) / N)  # of a Gaussian covariance
    assert (np.abs(drawn.cov - C) < STANDARD_ERRORS * error).all()
    assert (np.abs(drawn.mean - model.mean) < STANDARD_ERRORS * np.sqrt(np.diag(C) / N)).all()


@given(st.data(), seeds, noise)
def test_value_with_components_is_the_likelihood_there(draw, seed, sigma2):
    lam = draw.draw(separated_spectra(6))
    active = np.array(draw.draw(st.lists(st.booleans(), min_size=6, max_size=6))) & (lam > sigma2)
    moments, U = moments_with(lam, seed)
    weights = np.where(active, np.sqrt(np.maximum(lam - sigma2, 0)), 0)
    exact = ppca.log_likelihood(U * weights, sigma2, moments)
    ours = ppca.elbo_with_components(jnp.asarray(lam), jnp.asarray(active), sigma2)
    np.testing.assert_allclose(ours, exact, rtol=FACTORED)


def test_weights_are_differentiable_where_latents_collapse():
    slope = jax.grad(lambda s: ppca.principal_weights(jnp.eye(2), jnp.array([2.0, 0.5]), s).sum())
    np.testing.assert_allclose(slope(jnp.asarray(1.0)), -0.5, rtol=EXACT)


@given(problems(), noise)
def test_score_of_new_data_is_scipys_at_the_models_mean(problem, sigma2):
    params, moments, x = problem
    new = x[:7] + 3.0  # which have another mean than the model's
    model = ppca.PPCA(params.W, jnp.asarray(sigma2), moments.mean)
    C = np.asarray(params.W @ params.W.T + sigma2 * np.eye(len(params.W)))
    exact = multivariate_normal(np.asarray(moments.mean), C).logpdf(new)
    np.testing.assert_allclose(ppca.score_per_datum(model, new), exact, rtol=FACTORED)
    np.testing.assert_allclose(ppca.score(model, new), exact.mean(), rtol=FACTORED)
    # of the data that made the moments, it is the likelihood
    fitted = ppca.log_likelihood(params.W, sigma2, moments)
    np.testing.assert_allclose(ppca.score(model, x), fitted, rtol=FACTORED)


def test_score_is_scikit_learns_of_the_same_covariance():
    rng = np.random.default_rng(0)
    x, new = rng.normal(size=(200, 5)) * [4, 3, 2, 1, 1], rng.normal(size=(30, 5)) + 1
    N = len(x)
    pca = PCA(2, svd_solver="full").fit(x)
    ours = ppca.mle(mom.from_data(x), 2)
    # theirs is divided by N − 1
    model = ppca.PPCA(ours.W * np.sqrt(N / (N - 1)), ours.sigma2 * N / (N - 1), ours.mean)
    np.testing.assert_allclose(
        ppca.score_per_datum(model, new), pca.score_samples(new), rtol=FACTORED
    )
    np.testing.assert_allclose(ppca.score(model, new), pca.score(new), rtol=FACTORED)


@pytest.mark.slow
def test_no_optimum_where_k_latents_explain_everything():
    """Rank 2 of n = 5, in exact zeros and as rounding leaves them."""
    z = np.random.default_rng(0).normal(size=(50, 2)) @ np.ones((2, 5)) * [1, 2, 3, 4, 5]
    z[:, 0] += np.random.default_rng(1).normal(size=50)
    for lam in (
        jnp.array([2.0, 1.0, 0.0, 0.0, 0.0]),
        mom.spectrum(mom.from_data(z)).eigenvalues,
        mom.spectrum(mom.from_data(z.astype("f4"))).eigenvalues,
    ):
        for function in (
            lambda k, lam=lam: ppca.optimal_sigma2(lam, k),
            lambda k, lam=lam: ppca.optimal_elbo(lam, k),
            lambda k, lam=lam: ppca.check_learned_sigma2(lam, k),
            lambda k, lam=lam: predictions.predict(lam, k),
        ):
            function(1)
            for k in (2, 3):
                with pytest.raises(ValueError, match=f"a covariance of rank 2 <= k = {k}"):
                    function(k)
        inside = jax.jit(ppca.optimal_sigma2, static_argnums=1)
        assert jnp.isfinite(inside(lam, 1))
        assert jnp.isnan(inside(lam, 2))
        # with βr ≥ n the KL of so many latents costs more than σ² → 0 gains (r = 2, n = 5)
        assert ppca.optimal_sigma2(lam, 2, 2.6) > 0


def test_why_a_rank_is_too_low_is_said():
    few = np.random.default_rng(0).normal(size=(3, 5))
    with pytest.raises(ValueError, match=r"rank 2 <= k = 2, .*or more data"):
        ppca.mle(mom.from_data(few), 2)
    lam = jnp.array([1.0, 0.5, 1e-7], jnp.float32)
    with pytest.raises(ValueError, match=r"as far as float32 can tell .*float64"):
        ppca.optimal_sigma2(lam, 2)
    with pytest.raises(ValueError, match="data of one dimension have none to spare"):
        ppca.optimal_sigma2(jnp.ones(1), 1)


@pytest.mark.parametrize("unit", [1e-15, 1e-12, 1.0, 1e12])
def test_likelihood_and_gradient_in_any_unit_of_float32(unit):
    rng = np.random.default_rng(0)
    x, W = rng.normal(size=(50, 4)), rng.normal(size=(4, 2))
    m = mom.from_data(x)
    exact = ppca.log_likelihood(jnp.asarray(W), 0.5, m) - 4 * np.log(unit)
    p = linear.LinearVAEParams(*map(jnp.asarray, (W, W.T, np.zeros(2), np.log(0.5))))
    slope = linear.gradient(p, m)
    with jax.enable_x64(False):
        scaled = mom.from_data(x * unit)
        V = jnp.asarray(W * unit, jnp.float32)
        found = ppca.log_likelihood(V, 0.5 * unit**2, scaled)
        np.testing.assert_allclose(found, exact, rtol=1e-5)
        q = linear.LinearVAEParams(
            V, jnp.asarray(W.T / unit), jnp.zeros(2), jnp.log(jnp.float32(0.5 * unit**2))
        )
        found = linear.gradient(q, scaled)
        np.testing.assert_allclose(found.V / unit, slope.V, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.W * unit, slope.W, rtol=1e-4, atol=1e-4)
