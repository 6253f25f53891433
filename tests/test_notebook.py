"""The authors' notebook: its model against sums over data, its start, and checks that can fail."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from tolerances import EXACT, STANDARD_ERRORS

from landscape.figures import linear as linear_figures
from landscape.paper import reproduce
from landscape.paper.linear import notebook
from landscape.paper.networks.experiments import NetworkData
from landscape.paper.settings import LinearSettings
from linvae_jax import linear, linear_task, network_task, ppca, tables
from linvae_jax import moments as mom
from linvae_jax.data import preprocessing

PRINTED = notebook.PRINTED
N, K = 6, 3
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def x() -> jax.Array:
    return 0.5 + jax.random.normal(KEY, (40, N)) * jnp.linspace(1.0, 0.3, N)


@pytest.fixture(scope="module")
def problem(x) -> linear_task.Problem:
    return linear_task.problem(mom.from_data(x))


def start(problem: linear_task.Problem, key: jax.Array) -> notebook.Params:
    """A start in float64, as records take it."""
    drawn = notebook.NotebookTask(K).init(problem, key, 0.7)
    return jax.tree.map(lambda leaf: leaf.astype(float), drawn)


def test_elbo_and_gradient_are_those_of_a_sum_over_the_data(problem, x):
    def over_data(params: notebook.Params) -> jax.Array:
        return linear.score(params, params.mean, x)

    task, params = notebook.NotebookTask(K), start(problem, KEY)
    exact = linear.elbo(params, mom.about(problem.moments, params.mean))
    np.testing.assert_allclose(exact, over_data(params), rtol=EXACT)
    ours, autodiff = task.gradient(problem, params, 1.0, KEY), jax.grad(over_data)(params)
    for name in (*linear.NAMES, "mean"):
        expected = getattr(autodiff, name)
        atol = EXACT * float(jnp.abs(expected).max())
        np.testing.assert_allclose(getattr(ours, name), expected, atol=atol, rtol=0)
    assert float(jnp.abs(autodiff.mean).max()) > 0.1  # μ is not at the data mean


def test_start_is_expected_where_random_ones_are(problem):
    @jax.jit
    @jax.vmap
    def elbo(key: jax.Array) -> jax.Array:
        params = replace(start(problem, key), log_sigma2=jnp.zeros(()))
        return linear.elbo(params, mom.about(problem.moments, params.mean))

    values = np.asarray(elbo(jax.random.split(KEY, 20_000)))
    error = values.std(ddof=1) / np.sqrt(len(values))
    expected = notebook.expected_start(problem.moments, K)
    assert abs(values.mean() - expected) < STANDARD_ERRORS * error
    # so many starts see a mean that begins at zero, or log D that does: 0.5 E‖μ‖² and more
    for name in ("mean", "log_d"):
        drawn = jax.vmap(lambda key: start(problem, key))(jax.random.split(KEY, 1000))
        variance = float(getattr(drawn, name).var())
        size = N if name == "mean" else K
        # uniform: the variance of a square is 4/5 of its square
        assert abs(variance * size - 1) < STANDARD_ERRORS * np.sqrt(0.8 / (1000 * size))


def test_maximum_by_n_and_by_n_minus_one():
    lam, count = jnp.linspace(4.0, 0.5, N), 20
    by_n, by_less = (ppca.optimal_elbo(lam * f, K) for f in (1.0, count / (count - 1)))
    np.testing.assert_allclose(by_n - by_less, notebook.unbiased_shift(N, count), rtol=1e-10)
    assert abs(PRINTED.true_maximum - 942.0465) < 5e-5
    assert max(PRINTED.elbo) > PRINTED.maximum  # which is therefore none
    assert max(PRINTED.elbo) < PRINTED.true_maximum
    assert len(PRINTED.elbo) * PRINTED.every == PRINTED.num_steps


def told(stretched: float = 1.0, **changed: Any) -> xr.Dataset:
    """The printed run as a table of two subsets, the second with a change."""
    # from step 400 on the printed steps are close; the last one stands for the end too
    steps = np.append(PRINTED.steps, PRINTED.num_steps)
    elbo = np.append(PRINTED.elbo, PRINTED.elbo[-1])
    slower = np.interp(steps, steps * stretched, elbo)
    gap = PRINTED.true_maximum - np.stack([elbo, slower])
    gap[1] = np.maximum(gap[1], changed.pop("least_gap", -np.inf))
    gap[1] -= changed.pop("rise", 0.0)
    starts = PRINTED.elbo[0] + np.linspace(-3, 3, 30)
    values = {"maximum": PRINTED.true_maximum, "maximum_unbiased": PRINTED.maximum,
              "likelihood_unbiased": PRINTED.likelihood,
              "expected_start": PRINTED.elbo[0]}  # fmt: skip
    both = {name: ("subset", [was, changed.get(name, was)]) for name, was in values.items()}
    curves = {"gap": (("subset", "step"), gap),
              "elbo": (("subset", "step"), PRINTED.true_maximum - gap),
              "start_elbo": (("subset", "start"), np.stack([starts, starts]))}  # fmt: skip
    return xr.Dataset({**both, **curves}, coords={"step": steps})


@pytest.mark.parametrize(
    ("changed", "failing"),
    [
        ({}, []),
        ({"stretched": 1.1}, [("C7", 2), ("C7", 3)]),
        ({"stretched": 1.04}, []),
        ({"least_gap": 0.3}, [("C7", 0)]),
        ({"least_gap": 0.45}, [("C2", 2), ("C7", 0)]),
        ({"rise": 0.2}, [("C2", 0), ("C7", 0)]),
        ({"rise": 5.0}, [("C2", 0), ("C7", 0)]),  # as subsets differ
        ({"rise": np.nan}, [("C2", 0), ("C2", 2), ("C7", 0), ("C7", 2), ("C7", 3)]),
        ({"maximum_unbiased": PRINTED.true_maximum}, [("C2", 1), ("C2", 2), ("C7", 1)]),
        ({"likelihood_unbiased": PRINTED.maximum + 0.004}, [("C2", 3)]),
        ({"likelihood_unbiased": PRINTED.maximum - 0.1}, [("C7", 1)]),
        ({"expected_start": PRINTED.elbo[0] + 30}, [("C1", 0), ("C1", 1)]),
    ],
)
def test_checks_fail_where_they_should(changed, failing):
    found = notebook.checks(told(**changed))
    assert [
        (claim, i) for claim, of in found.items() for i, check in enumerate(of) if not check.holds
    ] == failing


def test_run_on_mnist_that_is_kept_meets_the_bars():
    kept = Path(__file__).parent.parent / "benchmarks" / "results" / "mnist" / "notebook.nc"
    table = tables.load(kept)
    assert table.sizes["subset"] == 3
    found = notebook.checks(table)
    assert {claim: len(of) for claim, of in found.items()} == {"C1": 2, "C2": 4, "C7": 4}
    assert all(check.holds for of in found.values() for check in of)


@pytest.mark.slow
def test_stage_of_a_smoke_run_is_measured_and_drawn():
    noise = np.random.default_rng(0)
    # images of little contrast, of which some pixels are always black
    pixels = noise.integers(0, 256, (1100, 784), np.uint8) * (np.arange(784) % 4 > 0)
    steps = LinearSettings().smoke().notebook_steps
    table = notebook.run(pixels.astype(np.uint8), 1, steps)
    assert table.step.values.tolist() == list(range(steps + 1))
    assert (np.diff(table.elbo) > 0).all()
    found = notebook.checks(table)
    assert {claim: len(of) for claim, of in found.items()} == {"C1": 2, "C2": 2}
    # the printed start is one of images: these are brighter
    assert [c.holds for of in found.values() for c in of] == [True, False, True, True]
    drawn = linear_figures.notebook(table, PRINTED.steps, PRINTED.elbo, PRINTED.true_maximum)
    assert len(drawn.axes) == 2


def test_only_pixels_of_the_digits_are_for_the_notebook():
    pixels = np.arange(40, dtype=np.uint8).reshape(10, 4)
    logit = preprocessing.Logit(1e-6)
    data = network_task.prepare(pixels, logit, KEY)
    digits = NetworkData(data, logit, (2, 2), 0.0, "mnist 3.0.1, split train", {})
    np.testing.assert_array_equal(reproduce._digits(digits), pixels)
    assert reproduce._digits(digits._replace(source="photographs: china.jpg")) is None
    assert reproduce._digits(digits._replace(transform=None)) is None


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="pixels: got 999"):
        notebook.run(np.zeros((999, 784), np.uint8), 1)
