"""Training and sweeps: where they end, and that batching and chunking change nothing."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import FACTORED

from landscape.curvature import escape
from linvae_jax import linear, linear_task, ppca, streams, sweeps, training
from linvae_jax import moments as mom

LAM = jnp.array([8.0, 4.0, 2.0, 0.6, 0.5, 0.4])


@pytest.fixture(scope="module")
def problem() -> linear_task.Problem:
    x = np.random.default_rng(0).normal(size=(500, 6)) * np.sqrt(np.asarray(LAM))
    return linear_task.problem(mom.from_data(x), jnp.asarray(x))


TASK = linear_task.LinearTask(k=3)
CONFIG = training.TrainConfig(num_steps=400, record_every=100)


@pytest.mark.slow
@pytest.mark.parametrize("sigma2", [0.1, 1.0, 10.0])
def test_training_reaches_the_ppca_optimum(sigma2):
    problem = linear_task.problem(mom.from_covariance(LAM))
    config = replace(CONFIG, num_steps=20_000, record_every=5000)
    hyper = training.Hyperparameters(learning_rate=0.03, sigma2=sigma2)
    params, history = training.train(TASK, config, problem, hyper, jax.random.key(1))
    assert 0 - 1e-12 <= history.gap[-1] <= 1e-6  # the bar; usually rounding
    best = ppca.optimal_sigma2(LAM, 3)
    np.testing.assert_allclose(history.sigma2[-1], best, rtol=1e-5)
    # the angle that a gap of 1e-6 can hide, from the stiffness against rotation
    hidden = np.degrees(np.sqrt(2e-6 / escape.rotation_stiffness(LAM[:3]).min()))
    assert history.angle[-1].max() <= hidden
    np.testing.assert_allclose(np.sort(jnp.sum(params.W**2, 0)), np.sort(LAM[:3] - best), rtol=1e-2)


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("constant", [1] * 10),
        ("cosine", [(1 + np.cos(np.pi * t / 10)) / 2 for t in range(10)]),
        ("decay", [*[1] * 9, 0.5]),  # linear in the last fifth: after step 8, at its middle
    ],
)
def test_each_step_is_as_long_as_the_schedule_says(problem, schedule, shares):
    """Plain ascent moves by rate × gradient, so the steps taken tell the rates."""
    config = training.TrainConfig(10, 1, optimizer="sgd", schedule=schedule, warmup=4)
    hyper = training.Hyperparameters(1e-3)
    step = jax.jit(lambda s: training.step(TASK, config, problem, hyper, s))
    state = training.init(TASK, config, problem, hyper, jax.random.key(0))
    rates = []
    for _ in range(10):
        up = linear.gradient(state.params, problem.moments)
        new = step(state)
        moved = new.params.W - state.params.W
        rates.append(float(jnp.vdot(moved, up.W) / jnp.vdot(up.W, up.W)))
        state = new
    rising = np.minimum(np.arange(1, 11) / 4, 1)
    # differences of weights of about 1 by steps of about 1e-3: rounding of 1e-13
    np.testing.assert_allclose(rates, 1e-3 * rising * shares, rtol=1e-9)


def test_held_noise_stays_and_collapses_what_it_should():
    """σ² = 3 lies between λ₂ and λ₃: of four latents two stay in use, two collapse."""
    problem = linear_task.problem(mom.from_covariance(LAM))
    task, config = linear_task.LinearTask(k=4), replace(CONFIG, num_steps=8000, record_every=8000)
    hyper = training.Hyperparameters(learning_rate=0.03, sigma2=3.0, learned=False)
    _, history = training.train(task, config, problem, hyper, jax.random.key(0))
    np.testing.assert_allclose(history.sigma2, 3.0, rtol=1e-12)
    assert history.num_collapsed[-1] == 2
    np.testing.assert_allclose(
        np.sort(history.kl[-1])[::-1], [0.5 * np.log(8 / 3), 0.5 * np.log(4 / 3), 0, 0], atol=1e-3
    )
    assert history.gap[-1] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("gradients", ["exact", "sampled"])
def test_as_many_latents_as_dimensions_with_held_noise(problem, gradients):
    """With σ² held k = n needs no discarded component; all n components are in use."""
    n = problem.moments.mean.shape[0]
    task = linear_task.LinearTask(n, gradients)
    sigma2 = 0.5 * float(problem.spectrum.eigenvalues[-1])
    hyper = training.Hyperparameters(learning_rate=0.03, sigma2=sigma2, learned=False)
    _, history = training.train(task, CONFIG, problem, hyper, jax.random.key(0))
    assert history.gap.shape == (CONFIG.num_records,)
    assert (history.gap >= -1e-9).all()  # a true optimum; 1e-9 is rounding of values of 10 nats
    assert history.gap[-1] < history.gap[0]


def test_as_many_latents_as_dimensions_with_learned_noise_have_no_optimum(problem):
    """Refused where `learned` is known; where it is traced, NaN and no number in its place."""
    n = problem.moments.mean.shape[0]
    task, params = linear_task.LinearTask(n), linear.init(jax.random.key(0), n, n)

    def gap(learned):
        hyper = training.Hyperparameters(learned=learned)
        return task.observe(problem, params, hyper, jax.random.key(0)).gap

    assert jnp.isnan(jax.vmap(gap)(jnp.array([True, False]))).tolist() == [True, False]


def test_sampled_gradients_average_to_the_exact_one(problem):
    task = replace(TASK, gradients="sampled", batch_size=50)
    params = task.init(problem, jax.random.key(0), 1.0)
    one = jax.jit(lambda key: task.gradient(problem, params, 1.0, key))
    draws = jax.vmap(one)(jax.random.split(jax.random.key(1), 2000))
    exact = linear.gradient(params, problem.moments)
    for name in ("W", "V", "log_d", "log_sigma2"):
        sample, truth = getattr(draws, name), getattr(exact, name)
        error = sample.std(0, ddof=1) / np.sqrt(len(sample))
        # 5.5 standard errors: the largest of 43 entries, 1 in 600,000 by chance
        assert (jnp.abs(sample.mean(0) - truth) <= 5.5 * error).all(), name


@pytest.mark.slow
def test_sampled_training_approaches_the_optimum(problem):
    task = replace(TASK, gradients="sampled")
    config = replace(CONFIG, num_steps=4000, record_every=4000)
    hyper = training.Hyperparameters(learning_rate=0.02)
    _, history = training.train(task, config, problem, hyper, jax.random.key(0))
    assert history.gap[-1] < 0.02  # noise of batches of 128 at the end of a cosine schedule


@pytest.mark.slow
@pytest.mark.parametrize("gradients", ["exact", "sampled"])
def test_same_key_same_run_and_another_key_another(problem, gradients):
    task = replace(TASK, gradients=gradients)
    hyper = training.Hyperparameters()
    runs = [training.train(task, CONFIG, problem, hyper, jax.random.key(s))[0] for s in (0, 0, 1)]
    assert all(jnp.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, runs[:2]), strict=True))
    assert not jnp.array_equal(runs[0].W, runs[2].W)


@pytest.mark.slow
def test_sweep_equals_single_runs_however_it_is_batched(problem):
    grid = sweeps.Grid(seeds=(3, 5), sigma2=(0.5, 2.0))
    ways = [
        sweeps.run(TASK, CONFIG, problem, grid, batching=batching, chunk=chunk, quiet=True)
        for batching, chunk in (("vmap", None), ("vmap", 3), ("map", None), ("loop", 2))
    ]
    for seed in (3, 5):
        for sigma2 in (0.5, 2.0):
            hyper = training.Hyperparameters(1e-3, sigma2)
            key = streams.key(seed, "training")
            params, history = training.train(TASK, CONFIG, problem, hyper, key)
            for batched in ways:
                # batched products may sum in another order; 400 steps amplify it
                run = batched.run(seed=seed, sigma2_init=sigma2)
                np.testing.assert_allclose(run.params.W, params.W, atol=FACTORED)
                np.testing.assert_allclose(run.table.elbo, history.elbo, rtol=FACTORED)
                np.testing.assert_array_equal(run.table.step, [100, 200, 300, 400])


@pytest.mark.slow
def test_a_diverging_run_is_reported_and_leaves_its_neighbours_alone(problem):
    config = replace(CONFIG, optimizer="sgd", schedule="constant")
    grid = sweeps.Grid(sigma2=(2.0,), learned=(False,), learning_rate=(2e-3,))
    good = sweeps.run(TASK, config, problem, grid, quiet=True)
    both = sweeps.run(TASK, config, problem, replace(grid, sigma2=(1e-6, 2.0)), quiet=True)
    assert both.table.diverged.squeeze().values.tolist() == [True, False]
    fine = both.run(sigma2_init=2.0).params
    np.testing.assert_allclose(fine.W, good.run().params.W, atol=FACTORED)


def test_gradient_descent_takes_the_same_path_in_the_eigenbasis(problem):
    config = replace(CONFIG, optimizer="sgd", schedule="constant", num_steps=50, record_every=50)
    hyper = training.Hyperparameters(learning_rate=1e-2)
    diagonal, s = mom.in_eigenbasis(problem.moments)
    inside = linear_task.problem(diagonal)
    state = training.init(TASK, config, problem, hyper, jax.random.key(0))
    rotated = replace(state, params=linear.rotate(state.params, s.eigenvectors))
    a, _ = training.segment(TASK, config, problem, hyper, state)
    b, _ = training.segment(TASK, config, inside, hyper, rotated)
    back = linear.rotate(b.params, s.eigenvectors.T)
    np.testing.assert_allclose(back.W, a.params.W, atol=FACTORED)


def test_hyperparameters_vary_without_recompiling(problem):
    config = replace(CONFIG, num_steps=10, record_every=10)
    training.train(TASK, config, problem, training.Hyperparameters(), jax.random.key(0))
    before = training._train._cache_size()
    for rate, sigma2, beta in ((1e-2, 1.0, 1.0), (1e-3, 5.0, 1.0), (1e-3, 1.0, 0.5)):
        hyper = training.Hyperparameters(rate, sigma2, beta=beta)
        training.train(TASK, config, problem, hyper, jax.random.key(1))
    assert training._train._cache_size() == before


def test_float32_stays_float32():
    problem = linear_task.problem(mom.from_covariance(LAM.astype(jnp.float32)))
    config = replace(CONFIG, num_steps=20, record_every=10)
    params, history = training.train(
        TASK, config, problem, training.Hyperparameters(), jax.random.key(0)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    assert history.elbo.dtype == np.float32


def test_beta_run_ends_at_the_beta_optimum():
    problem = linear_task.problem(mom.from_covariance(LAM))
    config = replace(CONFIG, num_steps=10_000, record_every=10_000)
    hyper = training.Hyperparameters(learning_rate=0.03, beta=1.5)
    _, history = training.train(TASK, config, problem, hyper, jax.random.key(0))
    assert abs(history.gap[-1]) < 1e-6
    np.testing.assert_allclose(history.sigma2[-1], ppca.optimal_sigma2(LAM, 3, 1.5), rtol=1e-5)


@pytest.mark.parametrize(("num_steps", "records"), [(12_000, 80), (5000, 80), (7, 100), (97, 10)])
def test_interval_between_records_divides_the_steps(num_steps, records):
    steps = training.interval(num_steps, records)
    assert num_steps % steps == 0
    assert num_steps // steps >= min(records, num_steps)
    assert training.interval(5000, 80) == 50  # by hand: 62 is the most, and no divisor
