"""Runs that diverge: known by their numbers, and missing in every column."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linvae_jax import (
    collapse,
    evaluation,
    linear,
    linear_task,
    network_task,
    predictions,
    sweeps,
    tables,
    training,
)
from linvae_jax import moments as mom
from linvae_jax._engine import divergence, trainer

LAM = np.array([8.0, 4.0, 2.0, 0.6, 0.5, 0.4])
PROBLEM = linear_task.problem(mom.from_covariance(jnp.asarray(LAM)))
TASK = linear_task.LinearTask(k=3)
NAN, INF = float("nan"), float("inf")


def log_density(error: float, sigma2: float, n: int = 6) -> float:
    """E log p(x | z) of an error E‖x − x̂‖², in extended precision."""
    noise = np.longdouble(sigma2)
    return float(-n / 2 * np.log(2 * np.pi * noise) - np.longdouble(error) / (2 * noise))


def judged(
    error: float, kl: float, sigma2: float, start: tuple[float, float] = (16.0, 0.0),
    held: bool = True, scale: float = 1.0, step: int = 100, first: float | None = None,
    **changes: Any,
) -> bool:  # fmt: skip
    """The verdict on one run with these numbers, in data of S × scale; `start` is its error, KL."""
    first = sigma2 if first is None else first
    hyper = training.Hyperparameters(0.1, first, not held, **changes)
    hyper = jax.tree.map(lambda x: jnp.asarray([x], bool if isinstance(x, bool) else float), hyper)
    reconstruction = log_density(error, sigma2) if 0 < sigma2 < INF else -INF
    weight = float(hyper.beta[0])
    measured = {
        "elbo": np.array([[reconstruction - weight * kl]]),
        "reconstruction": np.array([[reconstruction]]),
        "kl": np.array([[[kl, 0.0, 0.0]]]),
        "sigma2": np.array([[sigma2]]),
        "start_reconstruction": np.array([log_density(start[0], first)]),
        "start_kl": np.array([[start[1], 0.0, 0.0]]),
    }
    spectrum = replace(PROBLEM.spectrum, eigenvalues=jnp.asarray(scale * LAM))
    problem = replace(PROBLEM, spectrum=spectrum)
    return bool(divergence.lost(TASK, problem, hyper, np.array([step]), measured)[0, 0])


TRACE = float(LAM.sum())


@pytest.mark.parametrize(
    ("case", "lost"),
    [
        ({"error": 2e29, "kl": 0.0, "sigma2": 1.0}, True),  # −1e29 nats
        ({"error": TRACE, "kl": 1e6, "sigma2": 1.0}, True),
        ({"error": NAN, "kl": 0.0, "sigma2": 1.0}, True),
        ({"error": 1.0, "kl": INF, "sigma2": 1.0}, True),
        # log σ² ran away
        ({"error": 1.0, "kl": 0.0, "sigma2": 0.0, "held": False, "first": 1.0}, True),
        ({"error": 1.0, "kl": 0.0, "sigma2": INF, "held": False, "first": 1.0}, True),
        ({"error": 1.0, "kl": 0.0, "sigma2": 1e30, "held": False, "first": 1.0}, True),
        ({"error": 1e-29, "kl": 200.0, "sigma2": 1e-30, "held": False, "first": 1.0}, False),
        ({"error": 1.0, "kl": 0.0, "sigma2": 1e-30, "held": False, "first": 1.0}, True),
        ({"error": 40.0, "kl": 0.0, "sigma2": 1e-30, "held": False, "first": 1.0}, True),
        # −8e5 nats, and fine: total collapse at a small σ², and what has not yet learned
        ({"error": TRACE, "kl": 0.0, "sigma2": 1e-5}, False),
        ({"error": 1.1 * TRACE, "kl": 3.0, "sigma2": 1e-5}, False),
        ({"error": 1e9, "kl": 5.0, "sigma2": 1.0, "start": (1e9, 7.0)}, False),
        ({"error": 1e9, "kl": 5.0, "sigma2": 1e-3, "start": (1e9, 7.0), "held": False}, False),
        ({"error": TRACE, "kl": 0.0, "sigma2": 50.0, "held": False, "first": 100.0}, False),
        # better than total collapse with many nats of KL, for σ² is tiny
        ({"error": 0.01, "kl": 1e6, "sigma2": 1e-6}, False),
        # few nats, and lost: three times the data's variance
        ({"error": 3 * TRACE, "kl": 0.0, "sigma2": 0.1}, True),
        # the KL counts as much as training makes it count
        ({"error": 1.0, "kl": 1e4, "sigma2": 1.0, "beta": 1e-4}, False),
        ({"error": 1.0, "kl": 1e4, "sigma2": 1.0, "beta": 1.0}, True),
        ({"error": 1.0, "kl": 1e4, "sigma2": 1.0, "annealing": training.Annealing(1e5)}, False),
        ({"error": 1.0, "kl": 1e4, "sigma2": 1.0, "annealing": training.Annealing(90)}, True),
    ],
)  # fmt: skip
def test_what_counts_as_lost(case, lost):
    assert judged(**case) is lost


sizes = st.floats(-3, 4).map(lambda e: 10.0**e)


@settings(max_examples=50)
@given(sizes, sizes, sizes, sizes, sizes, st.floats(0.2, 5.0), st.floats(-12, 12))
def test_the_rule_with_held_noise_in_units_of_the_data(error, kl, start, kl0, sigma2, beta, unit):
    """Multiplied by 2σ² it reads without logarithms; and the unit of the data changes nothing."""
    paid = error + 2 * sigma2 * beta * kl
    limit = 2 * max(start + 2 * sigma2 * beta * kl0, TRACE) + 6 * sigma2
    if abs(paid - limit) < 1e-6 * limit:
        return
    u = 10.0 ** (2 * unit)
    for scale in (1.0, u):
        found = judged(
            scale * error, kl, scale * sigma2, (scale * start, kl0), beta=beta, scale=scale
        )
        assert found == (paid > limit)


def test_only_runs_that_never_come_back_have_diverged():
    lost = np.array([[0, 1, 0, 1, 1], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]], bool)
    found = divergence.ended(lost, np.array([True, False, True]))
    assert found.astype(int).tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]


def missing(table: Any) -> Any:
    """The variables of one run, as whether all is missing; those that say so aside."""
    names = [n for n in table.data_vars if n != "diverged" and not n.startswith("start_")]
    return {name: bool(np.isnan(table[name].isel(step=-1, missing_dims="ignore")).all())
            for name in names}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("noise", [1e-3, 1.0])
def test_of_a_network_that_diverged_nothing_is_left_but_the_word(tmp_path, noise):
    """Adam at a rate of 100 ends at finite numbers, in which no latent would have collapsed."""
    x = np.random.default_rng(0).normal(size=(200, 6)) * np.sqrt(LAM)
    task = network_task.NetworkTask(linear.Model(6, 3), batch_size=20, observed=50)
    config = training.TrainConfig(num_steps=20, record_every=5, schedule="constant")
    grid = sweeps.Grid(sigma2=(noise,), learned=(True, False), learning_rate=(0.01, 100.0))
    args = (task, config, network_task.prepare(x), grid)
    raw, lost = [], trainer.Trainer.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "train", lambda *a: raw.append(lost(*a)) or raw[-1])
        table = sweeps.run(*args, folder=tmp_path, quiet=True, batching="map").table
    ends = [result.final for results in raw for result in results.values()]
    assert len(ends) == 4
    assert all(np.isfinite(end["elbo"]) for end in ends)  # numbers there were
    assert table.diverged.values.squeeze().tolist() == [[False, True], [False, True]]
    for learned in (True, False):
        fine, gone = (table.sel(learned=learned).isel(seed=0, sigma2_init=0, learning_rate=i)
                      for i in (0, 1))  # fmt: skip
        assert not any(missing(fine).values())
        assert all(missing(gone).values()), missing(gone)
        assert np.isfinite(gone.start_elbo)
    assert set(missing(gone)) >= {
        "num_collapsed",
        "final_active_units",
        "final_linear_num_collapsed",
    }
    # and so they are on disk, and when read again
    assert tables.load(tmp_path / "sweep.nc").drop_attrs().identical(table.drop_attrs())
    again = sweeps.run(*args, folder=tmp_path, quiet=True, batching="map").table
    assert again.drop_attrs().identical(table.drop_attrs())


@pytest.mark.slow
def test_a_linear_run_keeps_its_records_from_before_it_diverged():
    """Plain ascent with a step too long: from a record that is fine to numbers without end."""
    config = training.TrainConfig(7, 1, optimizer="sgd", schedule="constant")
    grid = sweeps.Grid(seeds=(0, 1, 2), sigma2=(10.0,), learned=(False,), learning_rate=(0.01, 0.3))
    table = sweeps.run(TASK, config, PROBLEM, grid, quiet=True).table.squeeze()
    assert table.diverged.values.tolist() == [[False, True]] * 3
    for seed in range(3):
        gone = table.isel(learning_rate=1, seed=seed)
        first = int(np.isnan(gone.elbo).argmax("step"))
        assert 0 < first < 7
        for name in ("elbo", "num_collapsed", "kl", "sigma2", "gap"):
            assert not np.isnan(gone[name].isel(step=slice(0, first))).any(), name
            assert np.isnan(gone[name].isel(step=slice(first, None))).all(), name
    assert not np.isnan(table.isel(learning_rate=0).num_collapsed).any()


@pytest.mark.slow
def test_counts_of_latents_of_which_nothing_is_known_are_missing():
    below = jnp.ones((len(collapse.EPSILON), 3))
    assert collapse.num_collapsed(below) == 3
    assert jnp.isnan(collapse.num_collapsed(below.at[:, 1].set(NAN)))
    assert collapse.num_collapsed(below.astype(jnp.float32)).dtype == jnp.float32
    args = jnp.array([0.5, NAN, 0.5]), jnp.array([-0.1, -0.1, NAN]), jnp.array(0.01)
    assert jnp.isnan(collapse.gaussian_probability_below(*args)).tolist() == [False, True, True]
    found = jax.vmap(lambda s: predictions.predict(jnp.asarray(LAM), 3, s))(jnp.array([1.0, NAN]))
    assert jnp.isnan(found.num_collapsed).tolist() == [False, True]
    assert found.zero_columns[0] == 0
    assert jnp.isnan(found.zero_columns[1])
    model = linear.Model(6, 2)
    params = model.init(jax.random.key(0), 1.0)
    broken = replace(params, V=params.V.at[0, 0].set(NAN))
    x, mean = np.random.default_rng(0).normal(size=(40, 6)), jnp.zeros(6)
    results = [evaluation.evaluate(model, p, x, mean, jax.random.key(1)) for p in (params, broken)]
    for name in ("num_collapsed", "active_units"):
        assert [bool(jnp.isnan(getattr(r, name))) for r in results] == [False, True], name
    hyper = training.Hyperparameters()
    params = replace(linear.init(jax.random.key(0), 6, 3), log_d=jnp.array([0.0, NAN, 0.0]))
    observed = jax.jit(lambda p: TASK.observe(PROBLEM, p, hyper, jax.random.key(0)))(params)
    assert jnp.isnan(observed.num_collapsed)


def test_the_progress_bar_counts_what_is_lost():
    class Bar:
        n = 0

        def set_postfix_str(self, text: str, refresh: bool) -> None:
            self.text = text

        def update(self, steps: int) -> None:
            self.n += steps

    bar = Bar()
    look = trainer.ProgressReport(bar, 0)
    look.segment(3, 10, np.array([-1.9e29, -12.0, -11.0]), np.array([True, False, False]))
    assert bar.text == "ELBO -12.00 to -11.00, 1 diverged"
    assert bar.n == 30
