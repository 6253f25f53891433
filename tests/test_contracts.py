"""What every public function of the core keeps: jit = eager, vmap = loop, dtype in = dtype out."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.curvature import conditioning, escape, onset
from landscape.points import stationary
from linvae_jax import collapse, gaussian, information, linear, networks, ppca, predictions, vae
from linvae_jax import moments as mom
from linvae_jax.data import preprocessing

N, n, k = 30, 5, 2
KEY = jax.random.key(0)
ASSIGNMENT = jnp.array([1, -1])


@cache
def _inputs(dtype: Any) -> dict[str, Any]:
    """Data, parameters and what follows from them; nobody changes them."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(N, n)) @ rng.normal(size=(n, n)), dtype)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), linear.init(KEY, n, k))
    moments = mom.from_data(x)
    s = mom.spectrum(moments)
    sigma2 = jnp.asarray(0.4 * s.eigenvalues[1], dtype)
    return {"x": x, "params": params, "moments": moments, "s": s, "sigma2": sigma2}


# names → a function of the inputs' σ², the argument that every study varies
FUNCTIONS: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "moments.from_data": lambda i, s2: mom.from_data(i["x"] * s2),
    "moments.merge, moments.from_chunks, moments.from_covariance": lambda i, s2: mom.merge(
        mom.from_chunks([i["x"] * s2]), mom.from_covariance(i["moments"].cov * s2, count=20.0)
    ),
    "moments.about": lambda i, s2: mom.about(i["moments"], i["x"][0] * s2).cov,
    "moments.spectrum": lambda i, s2: mom.spectrum(mom.from_data(i["x"] * s2)).eigenvalues,
    "moments.thin_spectrum": lambda i, s2: mom.thin_spectrum(i["x"] * s2).eigenvalues,
    "moments.in_eigenbasis, moments.trace, moments.cov_matmul": lambda i, s2: [
        (mom.trace(m), mom.cov_matmul(m, i["x"][:n, :2]))
        for m in (mom.in_eigenbasis(mom.from_covariance(i["moments"].cov * s2))[0], i["moments"])
    ],
    "gaussian.log_density": lambda i, s2: gaussian.log_density(i["x"][0] ** 2, n, jnp.log(s2)),
    "gaussian.kl": lambda i, s2: gaussian.kl(i["x"] ** 2 * s2, i["x"][0]),
    "linear.elbo": lambda i, s2: linear.elbo(_at(i, s2), i["moments"]),
    "linear.gradient": lambda i, s2: linear.gradient(_at(i, s2), i["moments"], 0.7),
    "linear.rotate, linear.elbo_terms": lambda i, s2: linear.elbo_terms(
        linear.rotate(_at(i, s2), jnp.eye(n, dtype=s2.dtype)[::-1]), i["moments"]
    ),
    "linear.elbo_terms_per_datum": lambda i, s2: linear.elbo_terms_per_datum(
        _at(i, s2), i["moments"], i["x"]
    ),
    "linear.score_per_datum, linear.score": lambda i, s2: linear.score(
        _at(i, s2), i["moments"].mean, i["x"]
    ),
    "linear.elbo_stochastic": lambda i, s2: linear.elbo_stochastic(
        _at(i, s2), i["moments"], i["x"], KEY
    ),
    "linear.with_optimal_encoder": lambda i, s2: linear.with_optimal_encoder(i["params"].W, s2),
    "linear.profile_elbo": lambda i, s2: linear.profile_elbo(i["params"].W, s2, i["moments"]),
    "linear.hadamard_gap": lambda i, s2: linear.hadamard_gap(i["params"].W, s2),
    "escape.rotation_cost": lambda i, s2: escape.rotation_cost(i["s"].eigenvalues, s2),
    "ppca.log_likelihood": lambda i, s2: ppca.log_likelihood(i["params"].W, s2, i["moments"]),
    "ppca.mle_from_spectrum": lambda i, s2: ppca.mle_from_spectrum(
        i["s"], i["moments"].mean, k, s2
    ),
    "ppca.optimal_sigma2": lambda i, s2: ppca.optimal_sigma2(i["s"].eigenvalues * s2, k),
    "ppca.optimal_elbo": lambda i, s2: ppca.optimal_elbo(i["s"].eigenvalues, k, s2),
    "ppca.posterior": lambda i, s2: ppca.posterior(_ppca(i, s2), i["x"]),
    "ppca.score_per_datum, ppca.score": lambda i, s2: ppca.score(_ppca(i, s2), i["x"]),
    "ppca.sample": lambda i, s2: ppca.sample(_ppca(i, s2), KEY, 4),
    "predictions.predict": lambda i, s2: predictions.predict(i["s"].eigenvalues, k, s2),
    "collapse.gaussian_probability_below": lambda i, s2: collapse.gaussian_probability_below(
        i["x"][0] ** 2, i["x"][1], s2
    ),
    "collapse.fraction_below": lambda i, s2: collapse.fraction_below(i["x"] ** 2, s2),
    "information.mutual_information": lambda i, s2: information.mutual_information(
        i["x"], jnp.log(s2) + i["x"][0], i["x"] + 1
    ),
    "networks.im2col, networks.col2im": lambda i, s2: networks.col2im(
        networks.im2col(i["x"][:4, :4].reshape(1, 4, 4, 1)) * s2
    ),
    "data.preprocessing.logit, data.preprocessing.sigmoid, data.preprocessing.log_jacobian": (
        lambda i, s2: (_unit(i, s2), preprocessing.log_jacobian(_unit(i, s2), 0.01))
    ),
    "stationary.point, stationary.params": lambda i, s2: stationary.params(
        stationary.point(i["s"].eigenvalues, ASSIGNMENT, s2), i["s"].eigenvectors
    ),
    "stationary.value": lambda i, s2: stationary.value(
        stationary.point(i["s"].eigenvalues, ASSIGNMENT, s2)
    ),
    "conditioning.of_eigenvalues": lambda i, s2: (
        conditioning.of_eigenvalues(i["x"][0] * s2).escape_rate
    ),
    "escape.escape_rate": lambda i, s2: escape.escape_rate(i["s"].eigenvalues, s2),
    "onset.eigenvalues": lambda i, s2: [
        onset.eigenvalues(mom.from_data(_unit(i, s2)), "bernoulli"),
        onset.eigenvalues(mom.from_data(i["x"] ** 2 * s2), "poisson"),
        onset.eigenvalues(i["moments"], "gaussian", s2),
    ],
}
# public functions that are not held here by themselves, and why
ELSEWHERE = {
    "moments.check": "raises or not",
    "moments.rounding": "in moments.rank",
    "moments.rank": "an integer; in ppca.optimal_sigma2",
    "linear.check": "raises or not; in every other function",
    "linear.init": "no arrays but a key; in the default float type",
    "ppca.check_learned_sigma2": "raises or not",
    "ppca.mle": "mle_from_spectrum of moments.spectrum",
    "ppca.principal_weights": "in mle_from_spectrum",
    "ppca.elbo_with_components": "in optimal_elbo",
    "vae.with_noise": "in vae.elbo_terms",
    "vae.forward": "in vae.elbo_terms",
    "vae.elbo_terms": "in linear.elbo_stochastic",
    "collapse.count_below": "integers; in fraction_below",
    "collapse.is_collapsed": "booleans; in num_collapsed",
    "collapse.is_active": "booleans",
    "collapse.count": "in num_collapsed",
    "collapse.num_collapsed": "in predictions.predict",
    "collapse.check_grid": "raises or not",
    "information.mutual_information_per_latent": "mutual_information under vmap",
    "networks.named": "no arrays",
    "data.preprocessing.dequantise": "pixels; test_preprocessing holds jit and dtypes",
    "data.preprocessing.pixel_constant": "a number, on the host",
}


def test_every_public_function_is_held_or_named_with_a_reason():
    modules = (mom, gaussian, vae, ppca, linear, predictions, collapse, information, networks)
    found = {
        f"{module.__name__.removeprefix('linvae_jax.')}.{name}"
        for module in (*modules, preprocessing)
        for name, member in vars(module).items()
        if not name.startswith("_")
        and getattr(member, "__module__", None) == module.__name__
        and inspect.isroutine(inspect.unwrap(member))
    }
    held = {name for names in FUNCTIONS for name in names.split(", ")}
    rooms = ("stationary.", "conditioning.", "escape.", "onset.")
    of_landscape = {name for name in held if name.startswith(rooms)}
    assert found == held - of_landscape | set(ELSEWHERE)
    assert not held & set(ELSEWHERE)


def _ppca(i: dict[str, Any], s2: Any) -> ppca.PPCA:
    return ppca.PPCA(i["params"].W, s2, i["moments"].mean)


def _unit(i: dict[str, Any], s2: Any) -> Any:
    """Numbers from 0 to 1, as pixels that were seen through a model are."""
    inside = jnp.clip(preprocessing.sigmoid(i["x"] * s2, 0.01), 0.1, 0.9)
    return preprocessing.sigmoid(preprocessing.logit(inside, 0.2), 0.2)


def _at(i: dict[str, Any], s2: Any) -> linear.LinearVAEParams:
    p = i["params"]
    return linear.LinearVAEParams(p.W, p.V, p.log_d, jnp.log(s2))


def assert_same(a: Any, b: Any, dtype: Any) -> None:
    # fused and batched kernels round differently; sums of some hundred terms in this dtype
    tolerance = 1e3 * float(jnp.finfo(dtype).eps)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        scale = np.abs(np.asarray(y)).max()
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_jit_vmap_and_dtype(name, dtype):
    i = _inputs(dtype)
    function = lambda s2: FUNCTIONS[name](i, s2)  # noqa: E731
    several = i["sigma2"] * jnp.asarray([0.5, 1.0, 1.5], dtype)
    eager = [function(sigma2) for sigma2 in several]
    assert {leaf.dtype for leaf in jax.tree.leaves(eager)} == {np.dtype(dtype)}
    assert_same(jax.jit(function)(several[0]), eager[0], dtype)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *eager)
    assert_same(jax.jit(jax.vmap(function))(several), stacked, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivative_in_sigma2_is_finite_and_right(name):
    i = _inputs(jnp.float64)
    flat = lambda s2: sum(  # noqa: E731
        jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(FUNCTIONS[name](i, s2))
    )
    s2, h = i["sigma2"], 1e-6
    slope = jax.jit(jax.grad(flat))(s2)
    compiled = jax.jit(flat)
    differences = (compiled(s2 + h) - compiled(s2 - h)) / (2 * h)
    if name == "collapse.fraction_below":
        assert slope == 0  # counts are piecewise constant
        return
    # central differences: h² of the third derivative, and rounding over h
    np.testing.assert_allclose(slope, differences, rtol=1e-5, atol=1e-6)
