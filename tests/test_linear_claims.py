"""C1 to C5 hold where they should, and fail when what they measure is made to disagree."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from landscape.paper.linear import claims as linear_claims
from landscape.points import stationary
from linvae_jax import moments as mom

KEY = jax.random.key(0)
LAM = jnp.array([6.0, 4.0, 2.0, 0.5, 0.3])
K, SIGMA2 = 2, 1.0


@pytest.fixture(scope="module")
def x() -> jax.Array:
    return jax.random.normal(KEY, (200, 5)) * jnp.sqrt(LAM)


@pytest.fixture(scope="module")
def moments(x) -> mom.Moments:
    return mom.from_data(x)


def history(**values: float) -> xr.Dataset:
    return xr.Dataset({name: ("step", [1.0, value]) for name, value in values.items()})


def searched(**changed: int) -> xr.Dataset:
    numbers = {"unexplained": 0, "maxima": 1, "not_converged": 3} | changed
    found = {name: ("problem", [number, number]) for name, number in numbers.items()}
    return xr.Dataset(found, attrs={"num_starts": 100})


def census(*index: int) -> xr.Dataset:
    return xr.Dataset({"index": ("type", list(index)), "mixed": ("type", [False] * len(index))})


@pytest.mark.slow
def test_closed_form_against_other_data(moments, x):
    assert linear_claims.closed_form(moments, x, K, KEY).holds
    failed = linear_claims.closed_form(moments, 1.5 * x, K, KEY)
    assert [check.holds for check in failed.checks] == [False, False, True]


def test_global_maximum_that_a_run_passes_or_of_another_spectrum(moments):
    spectrum = mom.spectrum(moments)
    assert linear_claims.global_maximum(moments, spectrum, K, history(gap=0.0)).holds
    for gap in (-1e-3, float("nan")):
        failed = linear_claims.global_maximum(
            moments, spectrum, K, history(gap=0.0), history(gap=gap)
        )
        assert [check.holds for check in failed.checks] == [True, True, True, False]
    wrong = replace(spectrum, eigenvalues=1.01 * spectrum.eigenvalues)
    failed = linear_claims.global_maximum(moments, wrong, K, history(gap=0.0))
    # with orthogonal columns bound and likelihood meet even where there is no optimum
    assert [check.holds for check in failed.checks] == [True, False, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))  # of rotations: with two latents some do next to nothing
def test_columns_that_are_not_the_principal_directions(moments, seed):
    spectrum = mom.spectrum(moments)

    def judged(angle: float) -> list[bool]:
        runs = history(angle=angle)
        claim = linear_claims.identifiable(
            moments, spectrum, K, LAM, runs, runs, jax.random.key(seed)
        )
        return [check.holds for check in claim.checks]

    assert judged(1e-3) == [True] * 4
    assert judged(1.0) == judged(float("nan")) == [True, True, True, False]


def test_a_tie_leaves_rotations_that_cost_nothing():
    tied = mom.from_covariance(jnp.array([4.0, 4.0, 2.0, 0.5, 0.3]))
    runs = history(angle=1e-3)
    claim = linear_claims.identifiable(tied, mom.spectrum(tied), K, LAM, runs, runs, KEY)
    assert [check.holds for check in claim.checks[:3]] == [True, False, True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("search", "listed", "failing"),
    [
        (searched(), census(0, 1, 4), None),
        (searched(unexplained=1), census(0, 1), 0),
        (searched(), census(0, 0, 4), 1),
        (searched(), census(1, 4), 1),
        (searched(maxima=2), census(0, 1), 2),
    ],
)
def test_saddles_that_are_maxima_or_off_the_list(search, listed, failing):
    spectrum = mom.Spectrum(LAM, jnp.eye(5))
    claim = linear_claims.only_saddles(spectrum, K, SIGMA2, search, listed, KEY)
    assert [i for i, check in enumerate(claim.checks) if not check.holds] == (
        [] if failing is None else [failing]
    )


def test_points_that_are_not_stationary(monkeypatch):
    spectrum = mom.Spectrum(LAM, jnp.eye(5))
    assert linear_claims.collapsed_points(spectrum, K, SIGMA2, KEY).holds
    exact = stationary.params

    def shifted(*args):
        params = exact(*args)
        return replace(params, W=params.W + 0.01)

    monkeypatch.setattr(stationary, "params", shifted)
    failed = linear_claims.collapsed_points(spectrum, K, SIGMA2, KEY)
    assert not any(check.holds for check in failed.checks)
    assert np.isfinite([check.value for check in failed.checks]).all()
