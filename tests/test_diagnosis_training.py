"""Truth known: VAEs trained on losses as users write them become what the diagnosis said.

The linear VAE is trained in PyTorch, or in JAX where PyTorch is not (`user_code`), by each
convention of a squared error: by a weight that a user may have put, and by the weights that the
diagnosis advises.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import user_code
import xarray as xr
from user_code import kl_of, mse_loss, xp

from landscape import diagnosis
from landscape.diagnosis import Loss, verdicts
from landscape.testing.strategies import data_with, moments_with
from linvae_jax.data import datasets

pytestmark = pytest.mark.slow

LAM = np.array([9.0, 5.0, 3.0, 1.5, 0.8, 0.4, 0.2, 0.1])
N, n, k, B = 600, len(LAM), 5, 300
SUMMED, HALF, MEAN = "summed-squared-error", "half-squared-error", "mean-squared-error"

# (x, x̂, KL (B, k), the KL's weight, log σ²) → loss; by the loss as the diagnosis is told it, with
# a weight that spreads the number of latents in use over 1 to 5, away from ties
CODE: dict[Loss, Callable[..., Any]] = {
    Loss(SUMMED, kl_weight=1.0): lambda x, x_hat, kl, w, _: (
        mse_loss(x_hat, x, reduction="sum") / len(x) + w * kl.sum(1).mean()
    ),
    Loss(HALF, kl_weight=1.0): lambda x, x_hat, kl, w, _: (
        0.5 * ((x - x_hat) ** 2).sum(1).mean() + w * kl.sum(1).mean()
    ),
    Loss(MEAN, kl_weight=1.0): lambda x, x_hat, kl, w, _: (
        mse_loss(x_hat, x) + w * kl.sum(1).mean()
    ),
    Loss(MEAN, kl="mean", kl_weight=3.0): lambda x, x_hat, kl, w, _: (
        mse_loss(x_hat, x) + w * kl.mean()
    ),
    Loss(SUMMED, kl_weight=600.0, error_over_batch="sum", batch_size=B): (
        lambda x, x_hat, kl, w, _: mse_loss(x_hat, x, reduction="sum") + w * kl.sum(1).mean()
    ),
    Loss(MEAN, kl_weight=0.005, kl_over_batch="sum", batch_size=B): lambda x, x_hat, kl, w, _: (
        mse_loss(x_hat, x) + w * kl.sum()
    ),
    Loss(SUMMED, kl_weight=4.0, error_over_batch="sum", kl_over_batch="sum"): (
        lambda x, x_hat, kl, w, _: mse_loss(x_hat, x, reduction="sum") + w * kl.sum()
    ),
    Loss("gaussian", kl_weight=2.0, sigma2=0.3): lambda x, x_hat, kl, w, _: (
        ((x - x_hat) ** 2 / 0.3 + np.log(2 * np.pi * 0.3)).sum(1).mean() / 2 + w * kl.sum(1).mean()
    ),
    Loss("gaussian", kl_weight=1.0): lambda x, x_hat, kl, w, log_sigma2: (
        ((x - x_hat) ** 2 / xp.exp(log_sigma2) + np.log(2 * np.pi) + log_sigma2).sum(1).mean() / 2
        + w * kl.sum(1).mean()
    ),
}  # fmt: skip
LEARNED = list(CODE)[-1]
ADVISED = [f"advised to keep {r}" for r in (1, 3, 5)]
# times the weight from which all collapse; 0.1 % below it λ₁ > τ, but by so little that its latent
# too is (0.01, 0.01)-collapsed
EDGE = {"just above": 1.05, "just below": 0.95, "at the edge": 0.999}
AT_THE_EDGE = [list(CODE)[2], LEARNED]


class Run(NamedTuple):
    """A trained VAE: its loss, what was said beforehand, its codes early, and at the end."""

    loss: Loss
    said: xr.Dataset
    early: xr.Dataset
    end: xr.Dataset
    log_sigma2: float


def data() -> np.ndarray:
    moments, _ = moments_with(LAM, seed=0)
    return data_with(moments, 0, rows=N)


def objective_of(losses: list[tuple[Callable[..., Any], list[float]]]) -> user_code.Objective:
    """Sum the losses of all runs: each code with each of its weights."""

    def objective(weights: Any, x: Any, eps: Any) -> Any:
        x_hat, mean, log_var = user_code.forward(weights, x, eps)
        kl, log_sigma2 = kl_of(mean, log_var), weights["log_sigma2"]
        total, first = 0.0, 0
        for code, values in losses:
            runs = slice(first, first + len(values))
            of_each = user_code.vmap(partial(code, x))
            total = (
                total
                + of_each(
                    x_hat[runs], kl[runs], xp.asarray(values, dtype=xp.float32), log_sigma2[runs]
                ).sum()
            )
            first += len(values)
        return total

    return objective


def weights_of(loss: Loss) -> dict[str, float]:
    """Choose the KL weights that a loss is trained with."""
    said = diagnosis.of_data(data(), loss, k)
    found = {"a user's": loss.kl_weight}
    for kept, weight in zip(said.kept.values, said.weight.values, strict=True):
        found[f"advised to keep {kept}"] = float(weight)
    if loss in AT_THE_EDGE:
        for name, factor in EDGE.items():
            found[name] = factor * float(said.weight_collapse)
    return found


@cache
def trained() -> dict[tuple[Loss, str], Run]:
    """Train all runs side by side, 9,600 steps: a minute of PyTorch, less in JAX.

    What is kept is the mean of the weights over the last third of training, where the rate falls to
    zero. The last weights alone have a KL up to 1.5 % off, from the noise of z; these 0.8 %.
    """
    x = data()
    weights = {loss: weights_of(loss) for loss in CODE}
    runs = [(loss, name, weight) for loss in CODE for name, weight in weights[loss].items()]
    start = user_code.mlp({"encoder": (n, 2 * k), "decoder": (k, n)}, len(runs), seed=0)
    objective = objective_of([(CODE[loss], list(weights[loss].values())) for loss in CODE])
    kept = user_code.train(start, objective, x, k=k, batch=B, epochs=2400, rate=0.02, chunks=600)
    end = {name: np.mean([w[name] for w in kept[400:]], axis=0) for name in start}
    found = {}
    # stopped after 16 steps
    saved = user_code.saved(kept[0], x, k), user_code.saved(end, x, k)
    for (loss, name, weight), *codes, log_sigma2 in zip(
        runs, *saved, end["log_sigma2"], strict=True
    ):
        told = replace(loss, kl_weight=weight)
        found[loss, name] = Run(
            told, diagnosis.of_data(x, told, k),
            *(diagnosis.of_codes(**each, x=x, loss=told) for each in codes), float(log_sigma2),
        )  # fmt: skip
    return found


by_loss = pytest.mark.parametrize("loss", CODE, ids=lambda loss: loss.in_words())


@pytest.fixture(scope="module", autouse=True)
def _optimised() -> Iterator[None]:
    """Programs that run for long are worth compiling well, as they are for users."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@by_loss
@pytest.mark.parametrize("name", ["a user's", *ADVISED])
def test_training_uses_the_latents_that_were_said(loss, name):
    run = trained()[loss, name]
    used = int(run.said.linear_num_in_use)
    assert run.end.num_in_use == used
    kl, expected = (np.sort(run.end[name])[::-1] for name in ("kl", "expected_kl"))
    # the bar that the project set itself
    np.testing.assert_allclose(kl[:used], expected[:used], rtol=0.01)
    # the rule of collapse allows 0.01 nats per datum; these are left by the noise of z
    assert (kl[used:] < 1e-3).all()
    assert sorted(run.end.verdict.values) == sorted(
        [verdicts.WORDS[verdicts.IN_USE]] * used + [verdicts.WORDS[verdicts.OPTIMAL]] * (k - used)
    )
    assert run.end.at_rest
    # one z for each of 600 data: a standard error of at most 2 %
    assert abs(float(run.end.distortion / run.said.linear_distortion) - 1) < 0.1


@by_loss
def test_advised_weights_do_what_they_say(loss):
    advised = diagnosis.of_data(data(), loss, k)
    assert advised.kept.values.tolist() == [1, 3, 5]
    for kept, name in zip(advised.kept.values, ADVISED, strict=True):
        assert trained()[loss, name].end.num_in_use == kept


@by_loss
def test_training_that_is_stopped_early_has_not_converged(loss):
    for name in ["a user's", *ADVISED]:
        early = trained()[loss, name].early
        assert not early.at_rest
        unfinished = (early.verdict == verdicts.WORDS[verdicts.UNFINISHED]).any()
        assert unfinished or early.median_scale_residual > verdicts.MEDIAN_SCALE_RESIDUAL


@pytest.mark.parametrize("name", ["a user's", *ADVISED])
def test_learned_sigma2_is_the_one_expected(name):
    run = trained()[LEARNED, name]
    expected = float(run.said.waterline) / run.loss.kl_weight
    # it moves with the distortion, to which latents that are 1 % off in KL add as much
    np.testing.assert_allclose(np.exp(run.log_sigma2), expected, rtol=0.01)


@pytest.mark.parametrize("loss", AT_THE_EDGE, ids=lambda loss: loss.in_words())
def test_all_latents_collapse_from_the_weight_that_was_said(loss):
    above, below, edge = (trained()[loss, name] for name in EDGE)
    assert above.said.collapse_is_optimal
    assert above.end.num_in_use == 0
    assert not below.said.collapse_is_optimal
    assert below.said.linear_num_in_use == below.end.num_in_use == 1
    # a latent has some KL there, which the rule counts as collapsed, in theory and when trained
    assert edge.said.linear_num_in_use == 1
    assert edge.end.num_in_use == 0
    for run, used in ((above, 0), (below, 1), (edge, 0)):
        assert (run.end.verdict == verdicts.WORDS[verdicts.OPTIMAL]).sum() == k - used


def test_digits_with_mse_loss_collapse_as_was_said_and_not_with_the_advised_weight():
    x = datasets.load("digits").images.reshape(5000, -1) / 255.0
    latents, half = 16, 8
    loss = Loss(MEAN, kl_weight=1.0)
    said = diagnosis.of_data(x, loss, latents)
    assert said.level == 392
    assert said.collapse_is_optimal
    assert said.kept[1] == half
    weights = [1.0, float(said.weight[1])]
    widths = {"encoder": (784, 128, 2 * latents), "decoder": (latents, 128, 784)}
    start = user_code.mlp(widths, 2, seed=0)
    objective = objective_of([(CODE[loss], weights)])
    # 1,500 steps of batches of 200
    kept = user_code.train(start, objective, x, k=latents, batch=200, epochs=30, rate=2e-3)
    collapsed, found = (
        diagnosis.of_codes(**saved, x=x, loss=replace(loss, kl_weight=weight))
        for saved, weight in zip(user_code.saved(kept[-1], x, latents), weights, strict=True)
    )
    assert (collapsed.verdict == verdicts.WORDS[verdicts.OPTIMAL]).all()
    assert collapsed.rate < 0.01
    assert found.linear_num_in_use == half
    # claim C9: of a network's latents a share collapses that is up to 0.25 off the linear VAE's;
    # here 7 are in use in JAX, 5 in PyTorch, whose noise is another
    assert abs(int(found.num_in_use) - half) <= 0.25 * latents
