"""What a diagnosis computes: losses, levels, the optimum to expect, residuals of codes."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tolerances import EXACT

from landscape.diagnosis import codes, expected, levels, verdicts
from landscape.diagnosis.losses import Loss
from landscape.points import census, mixed, stationary
from landscape.testing.strategies import data_with, moments_with, points, seeds, spectra
from linvae_jax import collapse, linear, ppca, predictions
from linvae_jax import moments as mom

# losses

N, n, k = 24, 5, 3


def bernoulli_loss(x, a):
    return -(x * jax.nn.log_sigmoid(a) + (1 - x) * jax.nn.log_sigmoid(-a))


def poisson_loss(x, a):
    return jnp.exp(a) - x * a


def square(x, a):
    return (x - a) ** 2


# as a user writes them: (x, decoder's output, KL (N, k)) → a number to be minimised
CODE = {
    Loss("summed-squared-error", kl_weight=0.7): lambda x, a, kl: (
        square(x, a).sum(1).mean() + 0.7 * kl.sum(1).mean()
    ),
    Loss("half-squared-error", kl_weight=0.7): lambda x, a, kl: (
        0.5 * square(x, a).sum(1).mean() + 0.7 * kl.sum(1).mean()
    ),
    # mse_loss as it comes: averaged over everything
    Loss("mean-squared-error", kl_weight=0.7): lambda x, a, kl: (
        square(x, a).mean() + 0.7 * kl.sum(1).mean()
    ),
    Loss("mean-squared-error", kl="mean", kl_weight=0.7): lambda x, a, kl: (
        square(x, a).mean() + 0.7 * kl.mean()
    ),
    # summed over the batch and everything, the KL averaged over the batch
    Loss("summed-squared-error", kl_weight=0.7, error_over_batch="sum", batch_size=N): (
        lambda x, a, kl: square(x, a).sum() + 0.7 * kl.sum(1).mean()
    ),
    Loss("mean-squared-error", kl_weight=0.7, kl_over_batch="sum", batch_size=N): (
        lambda x, a, kl: square(x, a).mean() + 0.7 * kl.sum()
    ),
    # both summed: the batch size cancels
    Loss("summed-squared-error", kl_weight=0.7, error_over_batch="sum", kl_over_batch="sum"): (
        lambda x, a, kl: square(x, a).sum() + 0.7 * kl.sum()
    ),
    Loss("gaussian", kl_weight=0.7, sigma2=0.3): lambda x, a, kl: (
        square(x, a).sum(1).mean() / 0.6 + n / 2 * np.log(2 * np.pi * 0.3) + 0.7 * kl.sum(1).mean()
    ),
    # GaussianNLLLoss as it comes
    Loss("mean-gaussian", kl_weight=0.7, sigma2=0.3): lambda x, a, kl: (
        (square(x, a) / 0.3 + np.log(2 * np.pi * 0.3)).mean() / 2 + 0.7 * kl.sum(1).mean()
    ),
    Loss("binary-cross-entropy", kl_weight=0.7): lambda x, a, kl: (
        bernoulli_loss(x, a).sum(1).mean() + 0.7 * kl.sum(1).mean()
    ),
    Loss("mean-binary-cross-entropy", kl="mean", kl_weight=0.7): lambda x, a, kl: (
        bernoulli_loss(x, a).mean() + 0.7 * kl.mean()
    ),
    Loss("poisson", kl_weight=0.7): lambda x, a, kl: (
        poisson_loss(x, a).sum(1).mean() + 0.7 * kl.sum(1).mean()
    ),
    Loss("mean-poisson", kl_weight=0.7): lambda x, a, kl: (
        poisson_loss(x, a).mean() + 0.7 * kl.sum(1).mean()
    ),
}  # fmt: skip
NEGATIVE_LOG_LIKELIHOOD = {
    "gaussian": lambda x, a, tau: square(x, a).sum(1) / (2 * tau),
    "bernoulli": lambda x, a, beta: bernoulli_loss(x, a).sum(1) / beta,
    "poisson": lambda x, a, beta: poisson_loss(x, a).sum(1) / beta,
}


@pytest.mark.parametrize("loss", CODE, ids=Loss.in_words)
def test_gradient_of_the_code_is_that_of_the_elbo_at_the_level(loss):
    """At τ or β, error/(2τ) + KL, or error/β + KL: the negative ELBO, in units of its own."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 2, (N, n)).astype(float))
    eps = jnp.asarray(rng.normal(size=(N, k)))
    weights = [jnp.asarray(rng.normal(size=shape)) for shape in ((n, k), (k, n), (k,))]

    def value(weights, of):
        W, V, log_d = weights
        mean = x @ V.T
        kl = 0.5 * (mean**2 + jnp.exp(log_d) - 1 - log_d)
        return of(x, (mean + jnp.exp(log_d / 2) * eps) @ W.T, kl)

    def objective(x, a, kl):
        error = NEGATIVE_LOG_LIKELIHOOD[loss.family](x, a, loss.level(n, k))
        return (error + kl.sum(1)).mean()

    got, want = (
        np.concatenate([leaf.ravel() for leaf in jax.grad(value)(weights, of)])
        for of in (CODE[loss], objective)
    )
    ratio = got @ want / (want @ want)
    assert ratio > 0
    np.testing.assert_allclose(got, ratio * want, rtol=1e-11, atol=1e-11 * np.abs(got).max())


def test_levels_of_the_table_in_theory():
    w = 0.3
    assert Loss("summed-squared-error", kl_weight=w).level(784, 32) == w / 2
    assert Loss("half-squared-error", kl_weight=w).level(784, 32) == w
    assert Loss("mean-squared-error").level(784, 32) == 392
    assert Loss("mean-squared-error", kl="mean").level(784, 32) == 784 / 64
    assert Loss("gaussian", kl_weight=2.0, sigma2=0.25).level(784, 32) == 0.5
    assert Loss("gaussian", kl_weight=2.0).level(784, 32) == 2.0  # σ² is learned: β
    assert Loss("mean-gaussian", kl_weight=2.0).level(784, 32) == 2.0 * 784
    assert Loss("mean-gaussian", sigma2=0.5).sigma2_and_beta(784, 32) == (0.5, 784)
    assert Loss("mean-binary-cross-entropy", kl_weight=0.5).level(784, 32) == 392


@given(
    st.sampled_from([*CODE, Loss("gaussian", kl_weight=0.5)]),
    st.floats(1e-6, 1e6), st.integers(1, 1000), st.integers(1, 200),
)  # fmt: skip
def test_weight_is_the_inverse_of_level(loss, level, n, k):
    weight = loss.weight(level, n, k)
    got = replace(loss, kl_weight=weight).level(n, k)
    np.testing.assert_allclose(got, level, rtol=EXACT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reconstruction": "mse"}, "reconstruction: got 'mse', expected one of"),
        ({"kl": "batchmean"}, "kl: got 'batchmean'"),
        ({"kl_weight": 0}, "kl_weight: got 0, expected a number > 0. Without the KL this is an"),
        ({"kl_weight": -1.0}, "kl_weight: got -1.0"),
        ({"kl_weight": float("nan")}, "kl_weight: got 1 NaN"),
        ({"sigma2": 0.1}, "sigma2: got 0.1 with the reconstruction 'summed-squared-error'"),
        ({"reconstruction": "gaussian", "sigma2": 0.0}, "sigma2: got 0.0, expected a number > 0"),
        ({"kl_over_batch": "sum"}, "batch_size: got none, the error's mean and the KL's sum"),
        ({"batch_size": 64}, "batch_size: got 64, with error and KL both the batch's mean"),
        ({"kl_over_batch": "sum", "batch_size": 0}, "batch_size: got 0"),
    ],
)
@pytest.mark.usefixtures("no_annotation_checks")
def test_what_is_no_loss_says_so(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Loss(**arguments)


# levels

keep = jax.jit(levels.keep, static_argnames="k")


@given(spectra(6), st.integers(1, 8))
def test_levels_keep_as_many_as_they_say(lam, k):
    wanted = jnp.arange(1, k + 1)
    kept = keep(jnp.asarray(lam), k, wanted)

    def in_use(level):
        return min(k, int((lam > level).sum()))

    for want, number, low, high, level in zip(wanted, *kept, strict=True):
        if number == 0:
            assert (lam > 0).sum() < want
            assert np.isnan(level)
            continue
        assert number >= want
        assert low < level < high
        assert in_use(level) == number
        assert in_use(high * (1 - 1e-9)) >= number > in_use(high)
        if number < k:
            # at the lower end and above no more; below it there are
            assert in_use(low) == number
            assert low == 0 or in_use(low * (1 - 1e-9)) > number
        if number > want:
            assert lam[number - 1] >= levels.TIE * high


def test_components_that_nearly_tie_are_all_kept_at_the_advised_level():
    lam = jnp.array([1.0, 0.9901, 0.985, 0.5])
    kept = keep(lam, 3, jnp.array([1, 3]))
    assert kept.number.tolist() == [2, 3]
    assert kept.high.tolist() == [0.9901, 0.985]
    assert kept.low.tolist() == [0.985, 0.0]
    assert [int((lam > level).sum()) for level in kept.level] == [2, 4]


@given(spectra(5), st.floats(0.05, 5.0))
def test_thresholds_of_a_learned_sigma2_are_where_components_leave_its_optimum(lam, beta):
    thresholds = np.asarray(levels.learned(jnp.asarray(lam)))
    assert (np.diff(thresholds) <= 1e-12 * thresholds[0]).all()
    np.testing.assert_allclose(thresholds[0], len(lam) * lam[0] / lam.sum(), rtol=EXACT)
    try:
        sigma2 = float(ppca.optimal_sigma2(jnp.asarray(lam), 4, beta))
    except ValueError:
        return  # all variance is explained, and no σ² is best
    if np.abs(thresholds[:4] / beta - 1).min() > 1e-9:  # a tie is decided by rounding
        np.testing.assert_array_equal(lam[:4] > beta * sigma2, thresholds[:4] > beta)


# the optimum to expect


@given(spectra(5), st.integers(1, 5), st.floats(0.05, 20.0))
def test_expected_is_what_is_predicted_for_the_linear_vae(lam, k, weight):
    loss = Loss("half-squared-error", kl_weight=weight)  # τ = weight
    lam = jnp.asarray(lam)
    got = jax.jit(expected.of_spectrum, static_argnames=("loss", "k", "has_best"))(
        lam, loss, k, has_best=False
    )
    want = predictions.predict(lam, k, weight)
    np.testing.assert_allclose(got.kl[:k], want.kl, rtol=EXACT, atol=EXACT)
    assert (got.kl[k:] == 0).all()
    assert (got.in_use[:k] == ~collapse.is_collapsed(want.below[7])).all()
    assert collapse.EPSILON[7] == 0.01
    np.testing.assert_allclose(got.rate, want.kl.sum(), rtol=EXACT, atol=EXACT)
    np.testing.assert_allclose(got.distortion, want.square_error, rtol=EXACT)
    np.testing.assert_allclose(got.elbo, want.elbo, rtol=EXACT)
    np.testing.assert_allclose(got.elbo_tuned, want.elbo_tuned, rtol=EXACT)
    assert got.num_in_use == (want.kl > 0).sum()


def test_use_near_the_waterline_is_that_of_the_prediction():
    """Where λ is a few thousandths above τ, the best latent counts as collapsed."""
    lam = jnp.linspace(1.012, 1.0005, 24)
    got = expected.of_spectrum(lam, Loss("half-squared-error"), 24, has_best=False).in_use
    below = predictions.predict(lam, 24, 1.0).below[collapse.EPSILON.index(0.01)]
    assert got.tolist() == (~collapse.is_collapsed(below)).tolist()
    assert 0 < got.sum() < 24


def test_a_loss_in_words():
    assert Loss("mean-squared-error").in_words() == "mean squared error + 1 × the KL"
    loss = Loss("gaussian", "mean", 0.5, 0.1, kl_over_batch="sum", batch_size=64)
    assert loss.in_words() == (
        "−log p(x | z), Gaussian with σ² 0.1 + 0.5 × the KL averaged over latents; the KL summed "
        "over batches of 64, the other averaged"
    )


def test_more_latents_than_dimensions_are_collapsed():
    lam = jnp.array([3.0, 2.0])
    got = expected.of_spectrum(lam, Loss("half-squared-error"), 5, has_best=False)
    assert got.kl.shape == (2,)
    assert got.num_in_use == 2
    assert got.kept.number.tolist() == [1, 0, 0]


def test_as_many_latents_as_dimensions_have_a_maximum_over_sigma2_unless_beta_is_below_1():
    lam = jnp.array([4.0, 2.0, 0.5])
    loss = Loss("half-squared-error", kl_weight=0.3)
    found = expected.of_spectrum(lam, loss, 3)
    # the Gaussian that has the data's own covariance, whatever σ² up to λ_n
    want = -0.5 * (3 * np.log(2 * np.pi) + np.log(4.0) + 3)
    np.testing.assert_allclose(found.elbo_best, want, rtol=EXACT)
    np.testing.assert_allclose(found.elbo, want, rtol=EXACT)
    np.testing.assert_allclose(found.level_best, 0.5, rtol=EXACT)
    assert [expected.has_maximum(lam, 3, beta, 100.0) for beta in (0.9, 1.0, 1.5)] == [0, 1, 1]
    # a rank below n: β < n/rank has none
    lam = jnp.array([4.0, 2.0, 0.0, 0.0])
    for k in (2, 3, 4, 7):
        assert [expected.has_maximum(lam, k, beta, 100.0) for beta in (1.0, 1.5, 2.2)] == [0, 0, 1]

    # the optimum over σ² by brute force, with as many latents as there are dimensions
    beta, lam = 1.3, np.array([4.0, 2.0, 0.5])
    found = expected.of_spectrum(jnp.asarray(lam), Loss("gaussian", kl_weight=beta), 5)
    grid = np.geomspace(1e-3, 10, 200_001)[:, None]
    value = -1.5 * np.log(grid[:, 0]) - beta / 2 * (
        np.maximum(np.log(lam / (beta * grid)), 0) + np.minimum(lam / (beta * grid), 1)
    ).sum(1)
    np.testing.assert_allclose(found.waterline, beta * grid[value.argmax(), 0], rtol=1e-4)


def test_best_level_is_where_the_likelihood_is_highest():
    lam = jnp.array([5.0, 3.0, 1.0, 0.5, 0.3])
    loss = Loss("mean-squared-error")
    found = expected.of_spectrum(lam, loss, 2)
    weights = [loss.weight(float(found.level_best) * factor, 5, 2) for factor in (0.9, 1.0, 1.1)]
    lost = []
    for weight in weights:
        at = expected.of_spectrum(lam, replace(loss, kl_weight=weight), 2)
        lost.append([at.elbo_best - at.elbo, at.elbo_best - at.elbo_tuned])
    assert np.abs(lost[1]).max() < 1e-12
    assert np.min([lost[0], lost[2]]) > 1e-4


def test_beta_with_a_learned_sigma2():
    lam = jnp.array([5.0, 3.0, 1.0, 0.5, 0.3])
    beta = 1.3
    found = expected.of_spectrum(lam, Loss("gaussian", kl_weight=beta), 3)
    sigma2 = float(ppca.optimal_sigma2(lam, 3, beta))
    np.testing.assert_allclose(found.waterline, beta * sigma2, rtol=EXACT)
    assert found.level == beta
    assert found.level_best == 1
    # total collapse from n λ₁ / tr S on, and a little below it not
    start = float(found.thresholds[0])
    np.testing.assert_allclose(start, 5 * 5.0 / 9.8, rtol=EXACT)
    for factor, used in ((1.001, 0), (0.999, 1)):
        loss = Loss("gaussian", kl_weight=factor * start)
        assert expected.of_spectrum(lam, loss, 3).num_in_use == used


# codes


def residuals(params, moments, seed):
    x = data_with(moments, seed)
    mean = (x - np.asarray(moments.mean)) @ np.asarray(params.V).T
    return codes.statistics(mean, params.log_d)


@given(points(), seeds)
def test_residuals_are_zero_at_stationary_points_of_ppca(point, seed):
    moments, U = moments_with(point.eigenvalues, seed)
    found = residuals(stationary.params(point, U), moments, seed)
    # the bar that the project set itself; rounding is some 1e-13
    np.testing.assert_allclose(found.scale_residual, 0, atol=1e-10)
    np.testing.assert_allclose(found.shift_residual, 0, atol=1e-10)


@pytest.mark.slow
@given(seeds)
def test_residuals_are_zero_at_all_stationary_points(seed):
    lam = np.sort(np.random.default_rng(seed).uniform(0.3, 6.0, 4))[::-1].copy()
    moments, U = moments_with(lam, seed)
    kinds = list(census.types(lam, 3, 1.0))
    for point_type in kinds[:: max(1, len(kinds) // 8)]:
        found = residuals(mixed.params(mixed.point(lam, point_type, 1.0), U), moments, seed)
        np.testing.assert_allclose(found.scale_residual, 0, atol=1e-10)
        np.testing.assert_allclose(found.shift_residual, 0, atol=1e-10)


def test_residuals_are_the_derivatives_of_the_kl_by_scale_and_shift():
    rng = np.random.default_rng(1)
    mean, log_var = rng.normal(size=(50, 3)), rng.normal(size=(50, 3)) - 1

    def kl(scale, shift):
        moved = codes.statistics(scale * mean + shift, log_var + 2 * jnp.log(scale))
        return moved.kl.sum()

    found = codes.statistics(mean, log_var)
    scale, shift = jax.grad(kl, (0, 1))(jnp.ones(3), jnp.zeros(3))
    np.testing.assert_allclose(found.scale_residual, scale, rtol=EXACT, atol=EXACT)
    np.testing.assert_allclose(found.shift_residual, shift, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_of_codes_are_those_of_numpy(dtype):
    rng = np.random.default_rng(2)
    mean = (rng.normal(size=(400, 4)) * [1, 0.5, 0.15, 0]).astype(dtype)
    log_var = (np.zeros(4) + np.log([0.1, 0.6, 0.98, 1])).astype(dtype)
    found = codes.statistics(mean, log_var)
    kl = (mean.astype(float) ** 2 + np.exp(log_var.astype(float)) - 1 - log_var) / 2
    close = partial(np.testing.assert_allclose, rtol=1e4 * np.finfo(dtype).eps, atol=1e-6)
    close(found.kl, kl.mean(axis=0))
    close(found.mean_variance, mean.var(axis=0))
    close(found.below[7], (kl < 0.01).mean(axis=0))
    assert found.collapsed.tolist() == [False, False, False, True]
    assert found.active.tolist() == [True, True, True, False]
    assert found.kl.dtype == dtype
    several = codes.statistics(mean, np.tile(log_var, (400, 1)))
    close(several.kl, found.kl)
    jitted = jax.jit(codes.statistics)(mean, log_var)
    np.testing.assert_allclose(jitted.kl, found.kl, rtol=1e-6)


def test_kl_and_use_at_the_optimum_are_those_expected():
    lam = np.array([4.0, 2.0, 1.004, 0.5])
    moments, _ = moments_with(lam, 3)
    best = ppca.mle(moments, 4, sigma2=1.0)
    params = linear.with_optimal_encoder(best.W, best.sigma2)
    x = np.random.default_rng(0).multivariate_normal(
        np.asarray(moments.mean), np.asarray(moments.cov), 20_000
    )
    sample = mom.from_data(x)
    found = codes.statistics((x - np.asarray(moments.mean)) @ np.asarray(params.V).T, params.log_d)
    want = expected.of_spectrum(mom.spectrum(sample).eigenvalues, Loss("half-squared-error"), 4)
    # the sample's eigenvalues differ from the population's, of whose optimum the codes are
    np.testing.assert_allclose(found.kl, want.kl, atol=0.02)
    assert found.collapsed.tolist() == [False, False, False, True]


# verdicts


def test_each_latent_gets_its_verdict():
    collapsed = jnp.array([False, False, False, True, True])
    in_use = jnp.array([True, True, True, True, False])
    scale = jnp.array([0.0, 2 * verdicts.SCALE_RESIDUAL, 0.0, 0.0, 0.0])
    shift = jnp.array([0.0, 0.0, -2 * verdicts.SHIFT_RESIDUAL, 0.0, 0.0])
    given = verdicts.judge(collapsed, in_use, scale, shift)
    assert given.tolist() == [
        verdicts.IN_USE, verdicts.UNFINISHED, verdicts.UNFINISHED, verdicts.ALTHOUGH,
        verdicts.OPTIMAL,
    ]  # fmt: skip
    unknown = verdicts.judge(collapsed, None, scale, shift)
    assert unknown.tolist()[3:] == [verdicts.COLLAPSED] * 2
    assert not verdicts.at_rest(collapsed, scale, shift)
    assert verdicts.at_rest(collapsed, 0 * scale, 0 * shift)
    # each small, but all of them: the medians tell
    for i, median in enumerate((verdicts.MEDIAN_SCALE_RESIDUAL, verdicts.MEDIAN_SHIFT_RESIDUAL)):
        for factor in (0.9, 1.5):
            many = [0 * scale, 0 * shift]
            many[i] = jnp.full(5, factor * median)
            assert (verdicts.judge(collapsed, None, *many)[:3] == verdicts.IN_USE).all()
            assert verdicts.at_rest(collapsed, *many) == (factor < 1)
    # nothing in use, nothing that could be on its way
    assert verdicts.at_rest(jnp.ones(5, bool), 0 * scale, 0 * shift)
