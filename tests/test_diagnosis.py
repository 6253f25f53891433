"""The diagnosis as users get it: labelled data, words, page and command; what is refused."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from tolerances import FACTORED

from landscape import cli, diagnosis
from landscape.cli import options
from landscape.curvature import onset
from landscape.diagnosis import Loss, losses, page, reading, verdicts, words
from landscape.figures import waterline
from linvae_jax import (
    collapse,
    evaluation,
    linear,
    networks,
    ppca,
    predictions,
    tables,
)
from linvae_jax import moments as mom

LAM = np.array([9.0, 5.0, 3.0, 1.5, 0.8, 0.4, 0.2, 0.1])
N, n = 600, len(LAM)
TAU = 1.0
HALF = Loss("half-squared-error")  # τ is the weight, 1


def data(seed: int = 0) -> np.ndarray:
    """Data (N, n) whose covariance has exactly these eigenvalues."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(N, n))
    white = np.sqrt(N) * np.linalg.qr(z - z.mean(axis=0))[0]
    return white * np.sqrt(LAM) @ np.linalg.qr(rng.normal(size=(n, n)))[0] + rng.normal(size=n)


def optimum(x: np.ndarray, k: int) -> tuple[linear.LinearVAEParams, dict[str, np.ndarray]]:
    """The best linear VAE at τ = 1, and what it would have saved."""
    moments = mom.from_data(x)
    best = ppca.mle(moments, k, sigma2=TAU)
    params = linear.with_optimal_encoder(best.W, best.sigma2)
    mean = (x - x.mean(axis=0)) @ np.asarray(params.V).T
    z = mean + np.exp(np.asarray(params.log_d) / 2) * np.random.default_rng(1).normal(
        size=mean.shape
    )
    saved = {
        "mean": mean, "log_var": np.asarray(params.log_d),
        "reconstruction": z @ np.asarray(params.W).T + x.mean(axis=0),
    }  # fmt: skip
    return params, saved


# data and loss


def test_data_and_loss_alone():
    found = diagnosis.of_data(data(), HALF, 6)
    np.testing.assert_allclose(found.eigenvalue, LAM, rtol=FACTORED)
    assert found.level == found.waterline == TAU
    assert int(found.num_above) == int(found.linear_num_in_use) == 4
    assert not found.collapse_is_optimal
    np.testing.assert_allclose(found.linear_kl[:4], np.log(LAM[:4]) / 2, rtol=FACTORED)
    want = predictions.predict(LAM, 6, TAU)
    np.testing.assert_allclose(found.linear_distortion, want.square_error, rtol=FACTORED)
    best = float(ppca.optimal_elbo(LAM, 6))
    np.testing.assert_allclose(found.nats_lost, best - float(want.elbo), rtol=FACTORED)
    np.testing.assert_allclose(found.nats_lost_tuned, best - float(want.elbo_tuned), rtol=FACTORED)
    np.testing.assert_allclose(found.weight_best, LAM[6:].mean(), rtol=FACTORED)
    np.testing.assert_allclose(found.weight_collapse, LAM[0], rtol=FACTORED)
    assert found.wanted.values.tolist() == [1, 3, 6]
    np.testing.assert_allclose(found.weight, [45**0.5, 4.5**0.5, 0.2], rtol=FACTORED)
    np.testing.assert_allclose(found.weight_low, [5, 1.5, 0], rtol=FACTORED)
    np.testing.assert_allclose(found.weight_high, [9, 3, 0.4], rtol=FACTORED)


def test_the_loss_of_the_question_makes_total_collapse_optimal():
    """mse_loss as it comes: λ₁ = 9 is far below τ = wn/2 = 40."""
    found = diagnosis.of_data(data(), Loss("mean-squared-error", kl_weight=10.0), 6)
    assert found.level == 40
    assert found.collapse_is_optimal
    assert found.linear_rate == 0
    np.testing.assert_allclose(found.weight, np.array([45**0.5, 4.5**0.5, 0.2]) / 4, rtol=FACTORED)
    said = words.sections(found)[0].sentences
    assert said[-1].startswith("Total collapse is the optimum")


@pytest.mark.parametrize("shape", [(N, 2, 2, 2), (N, 2, 4), (N, 8)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_images_and_short_floats_are_data_with_a_note(shape, dtype):
    x = data().astype(dtype)
    found = diagnosis.of_data(x.reshape(shape), HALF, 3)
    notes = found.attrs["notes"]
    assert (f"Data of shape {shape[1:]} are taken as n = 8" in notes) == (len(shape) > 2)
    assert ("float16, three digits" in notes) == (dtype == np.float16)
    # float16 keeps 11 bits; of float32 what is formed is formed in float64
    atol = {2: 2e-2, 4: 1e-5, 8: 1e-8}[x.itemsize]
    np.testing.assert_allclose(found.eigenvalue, LAM, atol=atol)


def test_constant_columns_are_noted():
    x = np.concatenate([data(), np.ones((N, 2))], axis=1)
    found = diagnosis.of_data(x, HALF, 3)
    assert "2 of 10 columns are constant" in found.attrs["notes"]
    np.testing.assert_allclose(found.eigenvalue[8:], 0, atol=1e-12)


def test_fewer_data_than_dimensions():
    x = data()[:5]
    found = diagnosis.of_data(x, HALF, 3)
    np.testing.assert_allclose(
        found.eigenvalue, np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1], atol=1e-12
    )
    assert found.sizes["component"] == n


def test_data_that_latents_explain_completely_have_no_best_weight(tmp_path):
    x = np.concatenate([data(), np.ones((N, 1))], axis=1)  # of rank n in n + 1 dimensions
    found = diagnosis.of_data(x, HALF, n)
    assert np.isnan(found.weight_best)
    assert np.isnan(found.nats_lost)
    assert "there is no best KL weight" in found.attrs["notes"]
    learned = diagnosis.of_data(x, Loss("gaussian"), n)
    assert np.isnan(learned.waterline)
    assert np.isnan(learned.weight_best)
    said = [text for section in words.sections(learned) for text in section.sentences]
    assert "No σ² is best" in said[0]
    assert not any("nan" in text for text in said)
    # and a picture can be drawn all the same
    page.write(learned, tmp_path)
    assert diagnosis.of_data(x, HALF, n + 2).kept.values.tolist() == [1, 5, 0]


def test_as_many_latents_as_dimensions_leave_the_likelihood_a_maximum():
    # a Gaussian of any covariance: its likelihood has a maximum, where σ² is λ_n at most
    found = diagnosis.of_data(data(), Loss("half-squared-error", kl_weight=LAM[-1] / 2), n)
    np.testing.assert_allclose(found.weight_best, LAM[-1], rtol=FACTORED)
    np.testing.assert_allclose(found.nats_lost, 0, atol=1e-12)
    assert "every σ² up to the smallest λ is as good" in found.attrs["notes"]
    # σ² does not run to zero from β = 1 on
    learned = diagnosis.of_data(data(), Loss("gaussian", kl_weight=4.0), n)
    assert learned.collapse_is_optimal
    np.testing.assert_allclose(learned.waterline, 4 * LAM.mean(), rtol=FACTORED)
    below = diagnosis.of_data(data(), Loss("gaussian", kl_weight=0.9), n)
    assert "No σ² is best" in words.sections(below)[0].sentences[0]
    assert not any("nan" in text for text in words.sections(below)[1].sentences)


def test_best_weight_at_a_stated_sigma2_needs_another_sigma2():
    loss = Loss("gaussian", sigma2=1.0)
    at_one = diagnosis.of_data(data(), loss, 3)
    weight = float(at_one.weight_best)
    at_best = diagnosis.of_data(data(), replace(loss, kl_weight=weight), 3)
    # at σ² = 1 the ELBO is best at β = 1; with σ² tuned it is best where τ is the tuned σ²
    assert at_best.nats_lost > at_one.nats_lost + 0.1
    np.testing.assert_allclose(at_best.nats_lost_tuned, 0, atol=1e-12)
    said = " ".join(words.sections(at_one)[1].sentences)
    assert f"is {weight:.3g}, if σ² is fitted after training." in said
    assert "Read as a Gaussian with its own σ²" in said


def test_components_above_a_learned_waterline_are_counted_by_it():
    found = diagnosis.of_data(data(), Loss("gaussian"), 3)
    np.testing.assert_allclose(found.waterline, LAM[3:].mean(), rtol=FACTORED)  # 0.6
    assert int(found.num_above) == 5
    assert words.sections(found)[0].sentences[1].startswith("5 of 8 components have λ > τ")


def test_weight_of_a_kl_mean_is_not_beta():
    """8/2 × the mean over 2 latents is β = 4, at which σ² is best though 2 explain all data."""
    x = np.zeros((N, 5))
    x[:, :2] = data()[:, :2]
    for kl, weight in (("sum", 4.0), ("mean", 8.0)):
        found = diagnosis.of_data(x, Loss("gaussian", kl=kl, kl_weight=weight), 2)
        np.testing.assert_allclose(found.waterline, 4 * x.var(axis=0).sum() / 5, rtol=FACTORED)


def test_what_is_said_of_networks_is_what_is_proved():
    """Few data far from the rest: a network with a step does better than total collapse.

    x = 10 for 1 of 1,000 data, else 0; encoder N(m, D) for that one, N(0, 1) for the rest; the
    decoder is a for z < t, else b. Exact.
    """
    p, top, t, m, D = 1e-3, 10.0, 3.5, 4.0, 0.05
    cdf = jax.scipy.stats.norm.cdf
    lam = p * (1 - p) * top**2
    tau = 2 * lam
    there, wrong = 1 - cdf((t - m) / D**0.5), 1 - cdf(t)
    a, b = 0.0, top * p * there / (p * there + (1 - p) * wrong)
    error = p * (there * (top - b) ** 2 + (1 - there) * top**2) + (1 - p) * wrong * b**2 + a
    elbo = -error / (2 * tau) - p * 0.5 * (m**2 + D - 1 - np.log(D))
    assert elbo > -lam / (2 * tau) + 0.1
    x = np.where(np.arange(1000) == 0, top, 0.0)[:, None]
    found = diagnosis.of_data(x, Loss("half-squared-error", kl_weight=tau), 1)
    assert found.collapse_is_optimal
    assert "A better point elsewhere is not ruled out" in words.sections(found)[0].sentences[2]


def test_data_far_from_zero_keep_their_digits_without_float64():
    x = 0.01 * data() + 1e6
    with jax.enable_x64(False):
        found = diagnosis.of_data(x, Loss("half-squared-error", kl_weight=1e-4), 3)
    np.testing.assert_allclose(found.eigenvalue, 1e-4 * LAM, rtol=1e-4)


def test_sigma2_that_is_learned():
    beta = 1.2
    found = diagnosis.of_data(data(), Loss("gaussian", kl_weight=beta), 3)
    sigma2 = float(ppca.optimal_sigma2(LAM, 3, beta))
    np.testing.assert_allclose(found.waterline, beta * sigma2, rtol=FACTORED)
    np.testing.assert_allclose(found.weight_best, 1)
    np.testing.assert_allclose(found.weight_collapse, n * LAM[0] / LAM.sum(), rtol=FACTORED)
    # what it advises does what it says
    for weight, kept in zip(found.weight.values, found.kept.values, strict=True):
        at = diagnosis.of_data(data(), Loss("gaussian", kl_weight=float(weight)), 3)
        assert at.linear_num_in_use == kept


@pytest.mark.parametrize("reconstruction", ["binary-cross-entropy", "mean-poisson"])
def test_other_likelihoods_have_an_onset(reconstruction):
    rng = np.random.default_rng(3)
    z = rng.normal(size=(2000, 1))
    p = 1 / (1 + np.exp(-2 * z * np.ones(6)))
    x = rng.binomial(1 if "cross" in reconstruction else 4, p)
    loss = Loss(reconstruction)
    found = diagnosis.of_data(x, loss, 3)
    nu = onset.eigenvalues(mom.from_data(x), loss.family)
    np.testing.assert_allclose(found.eigenvalue, nu)
    level = 6.0 if reconstruction.startswith("mean") else 1.0
    assert found.level == level
    assert int(found.ways_out) == 3 * int((nu > level).sum())
    assert bool(found.collapse_is_optimal) == (nu[0] <= level)
    # the onset in the user's own weight
    np.testing.assert_allclose(found.weight_collapse * level, nu[0], rtol=FACTORED)
    np.testing.assert_allclose(found.weight_best * level, 1, rtol=FACTORED)
    assert "linear_distortion" not in found
    said = " ".join(words.sections(found)[0].sentences)
    assert "(exact" in said
    assert ("no theorem" in said) == bool(found.ways_out)


# codes


def test_codes_of_the_optimum_are_all_as_they_should_be():
    x = data()
    _, saved = optimum(x, 6)
    found = diagnosis.of_codes(**saved, x=x, loss=HALF)
    assert found.verdict.values.tolist() == ["in use"] * 4 + ["collapsed, as is optimal"] * 2
    np.testing.assert_allclose(found.kl, found.expected_kl, atol=1e-12)
    np.testing.assert_allclose(found.scale_residual, 0, atol=1e-10)
    np.testing.assert_allclose(found.shift_residual, 0, atol=1e-10)
    assert found.at_rest
    assert int(found.num_in_use) == int(found.num_active) == 4
    np.testing.assert_allclose(found.rate, found.linear_rate, rtol=FACTORED)
    # of one draw of z for each of 600 data
    assert abs(float(found.distortion / found.linear_distortion) - 1) < 0.1
    np.testing.assert_allclose(found.sigma2_tuned, found.distortion / n)
    # a latent alone knows at most what its KL says, and here just that
    inside = found.information_lower[:4] - 0.1 < found.kl[:4]
    assert inside.all()
    assert (found.information_upper[:4] + 0.1 > found.kl[:4]).all()


def test_elbo_of_codes_is_that_of_the_evaluation():
    x = data()
    params, saved = optimum(x, 6)
    model = linear.Model(n, 6)
    want = evaluation.evaluate(model, params, x, jnp.asarray(x.mean(0)), jax.random.key(0))
    found = diagnosis.of_codes(**saved, x=x, loss=HALF, log_sigma2=float(params.log_sigma2))
    np.testing.assert_allclose(found.kl, want.kl, rtol=FACTORED, atol=1e-12)
    below = found.share_below.sel(epsilon=0.01)
    np.testing.assert_allclose(below, want.below[collapse.EPSILON.index(0.01)])
    # the two draw z by themselves: standard errors of a mean over 600 data
    assert abs(float(found.elbo) - float(want.elbo)) < 5 * float(want.elbo_error)
    gain, theirs = found.elbo_tuned - found.elbo, want.elbo_tuned - want.elbo
    assert abs(float(gain) - float(theirs)) < 0.1
    assert gain > 0
    # without log σ² a loss that states none is an ELBO with σ² = τ, here the same
    again = diagnosis.of_codes(**saved, x=x, loss=HALF)
    np.testing.assert_allclose(again.elbo, found.elbo, rtol=1e-12)


def test_verdicts_tell_what_was_done_to_codes():
    x = data()
    _, saved = optimum(x, 6)
    saved["mean"][:, 1] = 0.0
    saved["log_var"] = saved["log_var"].copy()
    saved["log_var"][1] = 0.0  # λ₂ = 5 is lost
    saved["mean"][:, 2] += 0.5  # the decoder's bias has not followed
    found = diagnosis.of_codes(saved["mean"], saved["log_var"], x=x, loss=HALF)
    assert found.verdict.values.tolist() == [
        "in use", "collapsed although λ > τ", "not converged", "in use",
        "collapsed, as is optimal", "collapsed, as is optimal",
    ]  # fmt: skip
    assert not found.at_rest
    assert found["rank"].values.tolist()[1] == 4
    text = " ".join(words.sections(found)[2].sentences)
    assert "1 latent is collapsed although" in text
    assert "The codes are not at rest" in text
    alone = diagnosis.of_codes(saved["mean"], saved["log_var"])
    assert alone.verdict.values.tolist()[4:] == ["collapsed"] * 2
    assert "waterline" not in alone


def test_a_collapsed_latent_with_few_loud_data_does_not_take_the_place_of_one_in_use():
    x = data()
    mean = np.zeros((N, 3))
    mean[:, 0] = (x - x.mean(0)) @ np.linalg.eigh(np.cov(x.T))[1][:, -1] * np.sqrt(8.0) / 9
    mean[:5, 1] = 4.0  # 0.8 % of the data: 0.07 nats on average
    mean[:30, 2] = 0.2  # 5 %: 0.001 nats
    lam = np.diag([9.0, 1.5, 0.5])  # two are above τ
    x = (x - x.mean(0)) @ np.linalg.eigh(np.cov(x.T))[1][:, ::-1][:, [0, 3, 4]]
    assert (np.linalg.eigvalsh(np.cov(x.T)) > 1).sum() == len(lam) - 1
    found = diagnosis.of_codes(mean, np.log([1 / 9, 1, 1]), x=x, loss=HALF)
    assert found.kl[1] > found.kl[2]
    assert found["rank"].values.tolist() == [1, 3, 2]
    assert found.verdict.values.tolist() == ["in use", "collapsed, as is optimal", "in use"]


def test_without_a_latent_in_use_nobody_knows_whether_training_has_ended():
    found = diagnosis.of_codes(np.zeros((N, 2)), np.zeros(2))
    said = " ".join(words.sections(found)[0].sentences)
    assert "No latent is in use: whether training has ended, residuals do not tell." in said
    assert "The code tells nothing of the data." in said


def test_sigma2_that_was_not_given_or_is_another_is_noted():
    x = data()
    _, saved = optimum(x, 3)
    learned = diagnosis.of_codes(**saved, x=x, loss=Loss("gaussian"))
    assert "the ELBO is with σ² of the best linear VAE" in learned.attrs["notes"]
    loss = Loss("gaussian", sigma2=0.1)
    other = diagnosis.of_codes(**saved, x=x, loss=loss, log_sigma2=0.0)
    assert "The loss has σ² = 0.1, and log_sigma2 says 1:" in other.attrs["notes"]
    assert not diagnosis.of_codes(**saved, x=x, loss=loss, log_sigma2=np.log(0.1)).attrs["notes"]
    del saved["reconstruction"]
    idle = diagnosis.of_codes(**saved, log_sigma2=0.0)
    assert "log_sigma2 tells nothing here" in idle.attrs["notes"]


def test_log_variances_of_a_collapsed_code_may_all_be_positive():
    rng = np.random.default_rng(0)
    found = diagnosis.of_codes(0.01 * rng.normal(size=(N, 2)), rng.uniform(1e-5, 1e-4, (N, 2)))
    assert found.collapsed.all()
    assert "All log variances are a little above 0" in found.attrs["notes"]
    # means that vary by 1 are those of small variances
    with refused("log_var: got numbers that are all positive"):
        diagnosis.of_codes(rng.normal(size=(N, 2)), rng.uniform(1e-5, 1e-4, (N, 2)))


def said_of(found: xr.Dataset) -> str:
    return " ".join(text for section in words.sections(found) for text in section.sentences)


def test_data_and_codes_of_another_order_are_suspected():
    x = data()
    _, saved = optimum(x, 6)
    shuffled = np.random.default_rng(0).permutation(N)
    found = diagnosis.of_codes(**saved, x=x[shuffled], loss=HALF)
    assert found.distortion > 1.1 * LAM.sum()
    assert "worse than the mean of the data" in said_of(found)
    assert "in the same order and unit." in words.sections(found)[-1].sentences[0]
    assert "Training or the network failed" not in said_of(found)
    assert "worse than the mean" not in said_of(diagnosis.of_codes(**saved, x=x, loss=HALF))


def test_codes_of_another_weight_are_suspected():
    x = data()
    _, saved = optimum(x, 6)
    said = said_of(diagnosis.of_codes(**saved, x=x, loss=replace(HALF, kl_weight=20.0)))
    assert "More latents are in use than that. Were the codes trained with this loss" in said
    assert "More latents are in use" not in said_of(diagnosis.of_codes(**saved, x=x, loss=HALF))


def test_a_lower_loss_than_the_linear_vaes_makes_up_for_collapsed_latents():
    x = data()
    _, saved = optimum(x, 6)
    saved["mean"][:, 1] = 0.0
    saved["log_var"] = np.where(np.arange(6) == 1, 0.0, saved["log_var"])
    lost = diagnosis.of_codes(**saved, x=x, loss=HALF)
    np.testing.assert_allclose(lost.objective, lost.distortion / 2 + lost.rate, rtol=FACTORED)
    saved["reconstruction"] = x + 0.01  # as a network might that explains all by the others
    made_up = diagnosis.of_codes(**saved, x=x, loss=HALF)
    assert "The others make up for it" in said_of(made_up)
    del saved["reconstruction"]
    assert "reconstructions would tell" in said_of(diagnosis.of_codes(**saved, x=x, loss=HALF))


def test_latents_that_few_data_use_are_counted_apart():
    mean = np.zeros((N, 2))
    mean[:, 0] = np.random.default_rng(0).normal(size=N)
    mean[:12, 1] = 0.3  # 2 % of the data, 0.045 nats each
    found = diagnosis.of_codes(mean, np.array([-3.0, 0.0]))
    assert found.collapsed.values.tolist() == [False, False]
    assert "1 of those in use has a mean KL below 0.01 nats" in said_of(found)


def test_it_says_what_to_do():
    x = data()
    _, saved = optimum(x, 6)
    best = diagnosis.of_codes(**saved, x=x, loss=HALF)
    assert words.sections(best)[-1].sentences == ["Nothing, if so many latents are enough for you."]
    gone = diagnosis.of_data(x, Loss("mean-squared-error", kl_weight=10.0), 6)
    (todo,) = words.sections(gone)[-1].sentences
    assert todo == f"Take a smaller KL weight: {float(gone.weight[1]):.3g} keeps 3 in use."
    flat = np.where(np.arange(n) < 2, x, 0.0)
    few = diagnosis.of_data(flat, replace(HALF, kl_weight=50.0), 8)
    assert few.kept.values.tolist() == [1, 0, 0]
    assert words.sections(few)[-2].sentences[0].endswith("keeps 1 in use.")
    moving = diagnosis.of_codes(saved["mean"] + 1, saved["log_var"])
    assert words.sections(moving)[-1].sentences[0].startswith("Train on, with a learning rate that")


def test_a_weak_latent_that_collapses_by_the_rule_is_as_is_optimal():
    """λ just above τ: the best linear VAE's own latent counts as collapsed there."""
    lam = np.array([4.0, 1.001, 0.5])
    rng = np.random.default_rng(0)
    z = rng.normal(size=(N, 3))
    x = np.sqrt(N) * np.linalg.qr(z - z.mean(axis=0))[0] * np.sqrt(lam)
    mean = np.zeros((N, 2))
    mean[:, 0] = x[:, 0] * np.sqrt(3.0) / 4
    found = diagnosis.of_codes(mean, np.log([0.25, 1.0]), x=x, loss=HALF)
    assert found.linear_num_in_use == 2
    assert found.verdict.values.tolist() == ["in use", "collapsed, as is optimal"]


def test_cross_entropy_and_poisson_nats_are_scipys():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    p, rate = rng.uniform(0.05, 0.95, (50, 4)), rng.uniform(0.5, 5, (50, 4))
    x, counts = rng.binomial(1, p), rng.poisson(rate)
    got = reading.error("bernoulli", x, p)
    np.testing.assert_allclose(got, -stats.bernoulli.logpmf(x, p).sum(1).mean(), rtol=1e-12)
    got = reading.error("poisson", counts, rate)
    np.testing.assert_allclose(got, -stats.poisson.logpmf(counts, rate).sum(1).mean(), rtol=1e-12)
    got = reading.error("bernoulli", np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))
    assert got == 200  # PyTorch's clamp
    found = diagnosis.of_codes(
        np.zeros((50, 2)), np.zeros(2), x=x, loss=Loss("binary-cross-entropy"), reconstruction=p
    )
    np.testing.assert_allclose(found.elbo, -reading.error("bernoulli", x, p), rtol=1e-12)


# models in JAX


def test_of_model_is_of_codes_of_what_the_model_says():
    x = data()
    params, _ = optimum(x, 6)
    model = linear.Model(n, 6)
    found = diagnosis.of_model(model, params, x, jax.random.key(0))
    again = diagnosis.of_codes(
        (x - x.mean(axis=0)) @ np.asarray(params.V).T, params.log_d,
        x=x, loss=Loss("gaussian", sigma2=TAU),
    )  # fmt: skip
    for name in ("kl", "scale_residual", "mean_variance", "expected_kl"):
        np.testing.assert_allclose(found[name], again[name], atol=1e-12)
    assert found.verdict.values.tolist() == again.verdict.values.tolist()
    assert abs(float(found.distortion / found.linear_distortion) - 1) < 0.1


def test_sigma2_of_a_model_is_that_of_the_loss():
    x = data()
    params, _ = optimum(x, 3)
    given = (
        (Loss("half-squared-error", kl_weight=0.5), 0.5),
        (Loss("gaussian", sigma2=0.2, kl_weight=3.0), 0.2),
        (Loss("gaussian"), TAU),
        (None, TAU),
    )
    for loss, sigma2 in given:
        found = diagnosis.of_model(linear.Model(n, 3), params, x, jax.random.key(0), loss=loss)
        np.testing.assert_allclose(found.sigma2, sigma2, rtol=FACTORED)


@pytest.mark.slow
def test_collapsed_latents_of_a_linear_vae_come_back_below_the_next_eigenvalue():
    x = data()
    params, _ = optimum(x, 6)
    found = diagnosis.of_model(linear.Model(n, 6), params, x, jax.random.key(0))
    # A, B and C are means over the data, one z for each: exact where there is nothing to draw
    np.testing.assert_allclose(found.critical_tau, LAM[4], rtol=0.02)
    assert int(found.ways_out) == 0
    assert found.critical_sigma2 == found.critical_tau
    vector = mom.spectrum(mom.from_data(x)).eigenvectors[:, 4]
    assert abs(float(np.asarray(vector) @ found.way_out.values)) > 0.99
    # the same weights at a lower τ: unused components above it, 0.8 and 0.4, and what is left of
    # used ones, 1/λ (landscape/README.md, 5): 1/1.5 and 1/3
    loss = Loss("half-squared-error", kl_weight=0.3)
    lower = diagnosis.of_model(linear.Model(n, 6), params, x, jax.random.key(0), loss=loss)
    assert int(lower.ways_out) == 4
    assert "4 ways out" in words.sections(lower)[-2].sentences[0]
    beta = Loss("gaussian", kl_weight=2.0, sigma2=0.5)
    at = diagnosis.of_model(linear.Model(n, 6), params, x, jax.random.key(0), loss=beta)
    np.testing.assert_allclose(at.critical_sigma2, at.critical_tau / 2)


@pytest.mark.slow
def test_networks_in_float32_and_without_float64_are_diagnosed():
    with jax.enable_x64(False):
        model = networks.Mlp(n, 3, encoder=(16,), decoder=(16,), activation="tanh")
        params = model.init(jax.random.key(0), 1.0)
        head = params.weights["head"]
        params.weights["head"] = jax.tree.map(lambda leaf: leaf.at[..., 1].set(0), head)
        found = diagnosis.of_model(model, params, data().astype(np.float32), jax.random.key(1))
    assert found.sizes["latent"] == 3
    assert "critical_tau" in found
    assert found.kl.dtype == np.float32


# what is refused


def refused(message: str) -> Any:
    return pytest.raises(ValueError, match=re.escape(message))


def test_data_that_cannot_be_meant_are_refused():
    x = data()
    with refused("data: got shape (600,), expected (N, ...)"):
        diagnosis.of_data(x[:, 0], HALF, 2)
    with refused("data: got 1 NaN or Inf among 4800 values"):
        diagnosis.of_data(np.where(np.arange(4800).reshape(x.shape) == 7, np.nan, x), HALF, 2)
    with refused("data: got numbers from"):
        diagnosis.of_data(x, Loss("binary-cross-entropy"), 2)
    with refused("Pixels in [-1, 1] have no cross-entropy"):
        diagnosis.of_data(np.tanh(x), Loss("binary-cross-entropy"), 2)
    with refused("8-bit pixels: divide by 255."):
        diagnosis.of_data(np.full((5, 4), 255.0), Loss("mean-binary-cross-entropy"), 2)
    with refused("8-bit pixels: divide by 255."):
        diagnosis.of_data(np.full((5, 4), 255, np.uint8), Loss("mean-binary-cross-entropy"), 2)
    with refused("data: got numbers down to -1"):
        diagnosis.of_data(np.full((5, 4), -1), Loss("poisson"), 2)
    with refused("data: got 50% numbers that are not whole, expected counts"):
        diagnosis.of_data(np.tile([1.0, 0.5], (6, 2)), Loss("poisson"), 2)
    with refused("constant data"):
        diagnosis.of_data(np.ones((6, 4)), HALF, 2)
    with refused("k: got 0"):
        diagnosis.of_data(x, HALF, 0)


@pytest.mark.usefixtures("no_annotation_checks")
def test_codes_that_cannot_be_meant_are_refused():
    x = data()
    _, saved = optimum(x, 6)
    mean, log_var = saved["mean"], saved["log_var"]
    with refused("mean: got codes of 599 data, expected codes of the 600 data"):
        diagnosis.of_codes(mean[1:], log_var, x=x, loss=HALF)
    with refused("log_var: got shape (5,), expected shape (600, 6) or (6,)"):
        diagnosis.of_codes(mean, log_var[1:])
    with refused("log_var: got numbers that are all positive, from 0.111 to 1, expected log var"):
        diagnosis.of_codes(mean, np.exp(log_var))
    with refused("of standard deviations s give 2 log s"):
        diagnosis.of_codes(mean, np.exp(log_var / 2))
    with refused("mean: got 1 NaN or Inf"):
        diagnosis.of_codes(np.where(np.arange(3600).reshape(600, 6) == 0, np.nan, mean), log_var)
    with refused("log_var: got 1 NaN or Inf"):
        diagnosis.of_codes(mean, np.where(np.arange(6) == 0, -np.inf, log_var))
    with refused("mean: got one datum (N = 1), expected codes of at least two"):
        diagnosis.of_codes(mean[:1], log_var)
    with refused("log_var: got log variances up to 1000"):
        diagnosis.of_codes(mean, np.where(np.arange(6) == 0, 1000.0, log_var))
    with refused("loss: got none, with data, expected both or neither"):
        diagnosis.of_codes(mean, log_var, x=x)
    with refused("data: got none, with a loss"):
        diagnosis.of_codes(mean, log_var, loss=HALF)
    with refused("reconstruction: got some, without data"):
        diagnosis.of_codes(mean, log_var, reconstruction=x)
    with refused("reconstruction: got shape (600, 7), expected that of the data, (600, 8)"):
        diagnosis.of_codes(mean, log_var, x=x, loss=HALF, reconstruction=x[:, 1:])
    with refused("reconstruction: got the data themselves, expected what the decoder gives"):
        diagnosis.of_codes(mean, log_var, x=x, loss=HALF, reconstruction=x)
    with refused("reconstruction: got numbers from -1 to 0, expected probabilities"):
        logits = np.tile([-1.0, 0.0], (5, 2))
        reading.reconstruction(logits, np.ones((5, 4)), "bernoulli")
    with refused("reconstruction: got numbers down to 0, expected rates > 0"):
        reading.reconstruction(np.zeros((5, 4)), np.ones((5, 4)), "poisson")
    with refused("log_sigma2: got 1 NaN or Inf"):
        diagnosis.of_codes(**saved, x=x, loss=HALF, log_sigma2=float("nan"))


def test_variances_beyond_a_hundred_are_noted():
    _, saved = optimum(data(), 6)
    log_var = np.where(np.arange(6) == 0, 7.0, saved["log_var"])
    found = diagnosis.of_codes(saved["mean"], log_var)
    assert "The largest posterior variance is exp(7)" in found.attrs["notes"]


def test_a_model_of_another_n_is_refused():
    model = linear.Model(4, 2)
    params = model.init(jax.random.key(0), 1.0)
    with refused("data: got shape (600, 8), expected shape (N, 4)"):
        diagnosis.of_model(model, params, data(), jax.random.key(0))
    with refused("loss: got binary cross entropy"):
        loss = Loss("binary-cross-entropy")
        diagnosis.of_model(model, params, data()[:, :4], jax.random.key(0), loss=loss)


# pictures and the page


def test_every_verdict_has_a_mark_in_the_figures():
    """Figures know tables alone, so the words stand there once more."""
    assert set(waterline._MARKS) == set(verdicts.WORDS)


def test_page_is_one_file_with_everything_in_it(tmp_path):
    x = data()
    _, saved = optimum(x, 6)
    found = diagnosis.of_codes(**saved, x=x, loss=HALF)
    written = page.write(found, tmp_path / "new")
    text = written.read_text(encoding="utf-8")
    assert {path.name for path in written.parent.iterdir()} == {
        "diagnosis.html", "diagnosis.nc", "waterline.png", "waterline.pdf", "collapse.png",
        "collapse.pdf",
    }  # fmt: skip
    assert text.count("data:image/png;base64,") == 2
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", text)
    xr.testing.assert_identical(tables.load(tmp_path / "new" / "diagnosis.nc"), found)
    for verdict in ("in use", "collapsed, as is optimal"):
        assert verdict in text
    assert text.count("<tr>") == 3 + 1 + 2 + 1 + 6 + 1
    # codes alone have no waterline
    alone = page.write(diagnosis.of_codes(saved["mean"], saved["log_var"]), tmp_path / "alone")
    assert alone.read_text(encoding="utf-8").count("data:image/png") == 1


# the command


def linvae(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(["diagnose", *map(str, arguments)])
    return stop.value.code  # pyright: ignore[reportReturnType]


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path]:
    """Files of data and of codes, as a user would save them."""
    x = data()
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "codes.npz", **optimum(x, 6)[1], log_sigma2=0.0)
    return tmp_path / "x.npy", tmp_path / "codes.npz"


def test_command_knows_all_losses():
    """The options import no JAX, and so not the class that has them."""
    hints = get_type_hints(options.Diagnose)
    (known,) = (kind for kind in get_args(hints["reconstruction"]) if kind is not type(None))
    assert get_args(known) == get_args(losses.Reconstruction)


def test_command_on_data_and_loss(saved, capsys):
    x, _ = saved
    assert linvae("--data", x, "--k", 6, "--reconstruction", "half-squared-error") == 0
    printed = capsys.readouterr().out
    assert "The best linear VAE uses 4 of 6 latents" in printed
    assert re.search(r"^ +3 +2\.12 +1\.5 to 3$", printed, re.MULTILINE)


def test_command_on_codes_writes_and_goes_on(saved, tmp_path, capsys):
    x, codes = saved
    out = tmp_path / "out"
    arguments = ("--data", x, "--codes", codes, "--reconstruction", "half-squared-error")
    assert linvae(*arguments, "--out", out) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^in use +4 +0–3$", printed, re.MULTILINE)
    assert f"page: {out / 'diagnosis.html'}" in printed
    assert tables.load(out / "diagnosis.nc").attrs["source"].startswith("x.npy, sha256")
    # again is fine, other settings are not
    assert linvae(*arguments, "--out", out) == 0
    assert linvae(*arguments, "--out", out, "--kl-weight", 2) == 2
    assert "--kl-weight 1.0" in capsys.readouterr().err
    assert linvae("--codes", codes) == 0
    assert "Without --data nothing is told of the reconstructions." in capsys.readouterr().out


def test_command_takes_variances_by_their_names(tmp_path, capsys):
    _, saved = optimum(data(), 6)
    for name, values in (("var", np.exp(saved["log_var"])), ("std", np.exp(saved["log_var"] / 2))):
        np.savez(tmp_path / "codes.npz", mu=saved["mean"], **{name: values})
        assert linvae("--codes", tmp_path / "codes.npz") == 0
        printed = capsys.readouterr().out
        assert f"log_var was made of '{name}'" in printed
        assert "Nothing in the codes says that training goes on" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data: got none, and no --codes"),
        (["--data", "X"], "--reconstruction: got none, expected the error in your loss"),
        (["--data", "X", "--reconstruction", "poisson", "--k", 2], "--data: got numbers down to -"),
        (["--data", "X", "--reconstruction", "gaussian"], "--k: got none, and no --codes"),
        (["--data", "X", "--reconstruction", "gaussian", "--k", 2, "--kl-weight", 0],
         "--kl-weight: got 0, expected a number > 0. Without the KL"),
        (["--data", "X", "--reconstruction", "gaussian", "--codes", "C", "--k", 2],
         "--k: got 2, expected 6, as the codes have"),
        (["--codes", "X"], "a name that ends in '.npy', expected a .npz file"),
        (["--codes", "missing.npz"], "got no such file"),
        (["--data", "nothing", "--reconstruction", "gaussian", "--k", 2], "--data: got 'nothing'"),
    ],
)  # fmt: skip
def test_command_says_what_is_wrong(saved, capsys, arguments, message):
    names = {"X": saved[0], "C": saved[1]}
    assert linvae(*(names.get(a, a) for a in arguments)) == 2
    assert message in capsys.readouterr().err


def test_options_of_the_loss_without_data_and_names_in_capitals(tmp_path, capsys):
    np.savez(tmp_path / "codes.npz", Mean=np.zeros((5, 2)), LogVar=np.zeros(2))
    assert linvae("--codes", tmp_path / "codes.npz", "--kl-weight", 2) == 0
    assert "Without --data nothing is told of the loss" in capsys.readouterr().out
    assert linvae("--codes", tmp_path / "codes.npz") == 0
    assert "Without --data" not in capsys.readouterr().out


def test_codes_without_a_name_are_refused(tmp_path, capsys):
    np.savez(tmp_path / "codes.npz", z=np.zeros((5, 2)), log_var=np.zeros(2))
    assert linvae("--codes", tmp_path / "codes.npz") == 2
    assert "expected one named mean" in capsys.readouterr().err
    np.savez(tmp_path / "codes.npz", mean=1.0, log_var=np.zeros(2))
    assert linvae("--codes", tmp_path / "codes.npz", "--k", 2) == 2
    assert "mean: got shape ()" in capsys.readouterr().err


def test_pixels_are_divided_and_counts_are_not(tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.integers(0, 256, (50, 4, 4), dtype=np.uint8))
    common = ("--data", tmp_path / "x.npy", "--k", 2, "--reconstruction")
    assert linvae(*common, "binary-cross-entropy") == 0
    assert "The data were divided by 255" in capsys.readouterr().out
    assert linvae(*common, "poisson") == 0
    assert "divided by 255" not in capsys.readouterr().out
    assert linvae(*common, "binary-cross-entropy", "--preprocess", "none") == 2
    assert "8-bit pixels: divide by 255" in capsys.readouterr().err
