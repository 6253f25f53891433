"""The linear VAE's predictions: against the ELBO of the constructed optimum, and its laws."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from tolerances import EXACT, FACTORED

from landscape.testing.strategies import noise, spectra, weights
from linvae_jax import collapse, linear, ppca, predictions
from linvae_jax import moments as mom

predict = jax.jit(predictions.predict, static_argnames=("k", "epsilon"))


@st.composite
def problems(draw: st.DrawFn) -> tuple[jax.Array, int, float, float]:
    """Eigenvalues, k, σ² and β; σ² and β often such that an eigenvalue is exactly βσ²."""
    n, k = draw(st.sampled_from([(4, 3), (4, 4)]))
    lam = draw(spectra(n))
    sigma2 = draw(st.one_of(noise, st.sampled_from(lam.tolist())))
    return jnp.asarray(lam), k, sigma2, draw(st.one_of(st.just(1.0), weights))


@partial(jax.jit, static_argnames="k")
def constructed(lam: jax.Array, k: int, sigma2: float, beta: float) -> dict[str, jax.Array]:
    """The same from parameters: pPCA's at noise βσ², and the encoder that is best for them."""
    moments = mom.Moments(jnp.zeros_like(lam), lam, jnp.asarray(jnp.inf))
    W = ppca.principal_weights(jnp.eye(len(lam))[:, :k], lam[:k], beta * sigma2)
    params = linear.with_optimal_encoder(W, sigma2, beta)
    terms = linear.elbo_terms(params, moments)
    tuned = replace(params, log_sigma2=jnp.log(predict(lam, k, sigma2, beta).sigma2_tuned))
    return {
        "kl": terms.kl,
        "reconstruction": terms.reconstruction,
        "elbo": terms.reconstruction - terms.kl.sum(),
        "maximum": ppca.optimal_elbo(lam, k, sigma2, beta),
        "elbo_tuned": linear.elbo(tuned, moments),
        "slope_at_tuned": linear.gradient(tuned, moments).log_sigma2,
        "below": collapse.gaussian_probability_below(
            jnp.sum(params.V**2 * lam, axis=1), params.log_d, jnp.array(collapse.EPSILON)
        ),
        "zero_columns": (W == 0).all(axis=0).sum(),
    }


@given(problems())
def test_prediction_is_the_elbo_of_the_constructed_optimum(problem):
    lam, k, sigma2, beta = problem
    got, expected = predict(*problem), constructed(*problem)
    # nats that cancel in the square error of W and V, over the noise
    close = partial(np.testing.assert_allclose, rtol=EXACT, atol=EXACT * (1 + lam.sum() / sigma2))
    close(got.reconstruction, expected["reconstruction"])
    close(got.elbo, expected["elbo"])
    close(got.elbo_tuned, expected["elbo_tuned"])
    np.testing.assert_allclose(got.kl, expected["kl"], atol=FACTORED)
    assert got.zero_columns == expected["zero_columns"]
    assert got.zero_columns <= got.num_collapsed <= k
    # the square root of a χ² near zero takes rounding of 1e-16 to 1e-8; and at ε = 0 rounding
    # decides for a collapsed latent
    np.testing.assert_allclose(got.below[1:], expected["below"][1:], atol=1e-7)
    # with W, V and D held, the ELBO is flat in σ² at the tuned one
    assert abs(expected["slope_at_tuned"]) < FACTORED
    # and in W, V and D nothing does better: the β-ELBO is the maximum that ppca knows
    close(got.reconstruction - beta * got.kl.sum(), expected["maximum"])


def test_eigenvalue_exactly_at_the_threshold_is_a_zero_column():
    lam = jnp.array([4.0, 3.0, 1.5, 0.5])
    at = predict(lam, 3, sigma2=0.75, beta=2.0)  # βσ² = 1.5 = λ₃
    assert at.zero_columns == 1
    assert at.kl[2] == 0
    np.testing.assert_allclose(at.kl[:2], 0.5 * np.log([4 / 1.5, 2]), rtol=EXACT)
    np.testing.assert_allclose(at.square_error, 1.5 + 1.5 + 1.5 + 0.5)
    assert at.below[:, 2].tolist() == [epsilon > 0 for epsilon in collapse.EPSILON]
    below = predict(lam, 3, sigma2=float(np.nextafter(0.75, 0)), beta=2.0)
    assert below.zero_columns == 0
    assert below.num_collapsed == at.num_collapsed == 1  # a column of 1e-8 carries nothing either
    np.testing.assert_allclose(below.elbo, at.elbo, rtol=EXACT)  # a kink, not a jump


def test_rate_and_distortion_are_those_of_a_gaussian_source():
    """No split of the same distortion over the components costs less rate: SciPy looks for one."""
    lam = np.array([5.0, 2.0, 1.0, 0.4])
    got = predictions.predict(jnp.asarray(lam), 4, sigma2=0.7)
    best = minimize(
        lambda d: 0.5 * np.log(lam / d).sum(),
        lam / 2,
        bounds=[(1e-3, value) for value in lam],
        constraints={"type": "eq", "fun": lambda d: d.sum() - float(got.square_error)},
        options={"ftol": 1e-14},
    )
    assert best.success
    np.testing.assert_allclose(got.kl.sum(), best.fun, rtol=1e-8)  # SLSQP's own accuracy


@given(problems(), st.floats(1.0, 3.0))
def test_more_noise_means_less_information_and_more_collapse(problem, factor):
    lam, k, sigma2, beta = problem
    low, high = (predict(lam, k, s, beta) for s in (sigma2, sigma2 * factor))
    assert (high.kl <= low.kl).all()
    assert high.square_error >= low.square_error
    assert high.zero_columns >= low.zero_columns
    assert high.num_collapsed >= low.num_collapsed
    # the mixture of rounding in D and a χ² near zero, as above
    assert (high.below >= low.below - 1e-7).all()


@given(problems())
def test_scaling_the_data_and_the_noise_changes_only_units(problem):
    lam, k, sigma2, beta = problem
    a = predict(lam, k, sigma2, beta)
    b = predict(4 * lam, k, 4 * sigma2, beta)  # x twice as large: exact
    np.testing.assert_array_equal(a.kl, b.kl)
    np.testing.assert_array_equal(a.below, b.below)
    np.testing.assert_allclose(b.elbo, a.elbo - len(lam) * np.log(2), rtol=EXACT, atol=EXACT)


@given(problems())
def test_learned_noise_is_its_own_tuned_value(problem):
    lam, k, _, beta = problem
    if k == len(lam):
        return  # σ² learned needs a discarded component
    got = predict(lam, k, beta=beta)
    np.testing.assert_allclose(got.sigma2, got.sigma2_tuned, rtol=EXACT)
    np.testing.assert_allclose(got.elbo, got.elbo_tuned, rtol=EXACT, atol=EXACT)
    total = beta >= len(lam) * lam[0] / lam.sum() * (1 + 1e-9)  # landscape/README.md, 2
    if total or beta <= len(lam) * lam[0] / lam.sum() * (1 - 1e-9):  # at the threshold, either
        assert (got.zero_columns == k) == total


def test_vmap_over_sigma2_is_a_loop_and_keeps_float32():
    lam, sigma2 = jnp.array([4.0, 2.0, 0.5, 0.2], "f4"), jnp.array([0.1, 1.0, 3.0], "f4")
    together = jax.vmap(lambda s: predict(lam, 3, s))(sigma2)
    loop = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[predict(lam, 3, s) for s in sigma2])
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(loop), strict=True):
        assert a.dtype == b.dtype
        assert a.dtype in (jnp.float32, jnp.int32)
        # some ten roundings
        np.testing.assert_allclose(a, b, rtol=20 * jnp.finfo("f4").eps, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 4}, r"k: got 4, expected 1 <= k <= 3"),
        ({"k": 3, "sigma2": None}, r"k: got 3"),
        ({"sigma2": 0.0}, "sigma2: got 0.0"),
        ({"beta": 0.0}, "beta: got 0.0"),
        ({"eigenvalues": jnp.array([1.0, 2.0])}, "eigenvalues: got an increasing sequence"),
        ({"epsilon": (0.1,)}, "epsilon: got"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    good = {"eigenvalues": jnp.array([4.0, 2.0, 0.5]), "k": 2, "sigma2": 1.0}
    with pytest.raises(ValueError, match=message):
        predictions.predict(**good | arguments)
