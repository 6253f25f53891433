"""What every public function of the core keeps: jit = eager, vmap = loop, dtype in = dtype out."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape.curvature import conditioning
from landscape.points import stationary
from linvae_jax import collapse, gaussian, linear, ppca
from linvae_jax import moments as mom

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


# name → a function of the inputs' σ², the argument that every study varies
FUNCTIONS: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "moments.from_data": lambda i, s2: mom.from_data(i["x"] * s2),
    "moments.spectrum": lambda i, s2: mom.spectrum(mom.from_data(i["x"] * s2)).eigenvalues,
    "moments.thin_spectrum": lambda i, s2: mom.thin_spectrum(i["x"] * s2).eigenvalues,
    "gaussian.log_density": lambda i, s2: gaussian.log_density(i["x"][0] ** 2, n, jnp.log(s2)),
    "gaussian.kl": lambda i, s2: gaussian.kl(i["x"] ** 2 * s2, i["x"][0]),
    "linear.elbo": lambda i, s2: linear.elbo(_at(i, s2), i["moments"]),
    "linear.gradient": lambda i, s2: linear.gradient(_at(i, s2), i["moments"], 0.7),
    "linear.elbo_per_datum": lambda i, s2: linear.elbo_per_datum(_at(i, s2), i["moments"], i["x"]),
    "linear.elbo_stochastic": lambda i, s2: linear.elbo_stochastic(
        _at(i, s2), i["moments"], i["x"], KEY
    ),
    "linear.optimal_encoder": lambda i, s2: linear.optimal_encoder(i["params"].W, s2),
    "linear.profile_elbo": lambda i, s2: linear.profile_elbo(i["params"].W, s2, i["moments"]),
    "ppca.log_likelihood": lambda i, s2: ppca.log_likelihood(i["params"].W, s2, i["moments"]),
    "ppca.mle": lambda i, s2: ppca.mle_from_spectrum(i["s"], i["moments"].mean, k, s2),
    "ppca.optimal_sigma2": lambda i, s2: ppca.optimal_sigma2(i["s"].eigenvalues * s2, k),
    "ppca.optimal_elbo": lambda i, s2: ppca.optimal_elbo(i["s"].eigenvalues, k, s2),
    "ppca.posterior": lambda i, s2: ppca.posterior(
        ppca.PPCA(i["params"].W, s2, i["moments"].mean), i["x"]
    ),
    "ppca.sample": lambda i, s2: ppca.sample(
        ppca.PPCA(i["params"].W, s2, i["moments"].mean), KEY, 4
    ),
    "collapse.gaussian": lambda i, s2: collapse.gaussian_probability_below(
        i["x"][0] ** 2, i["x"][1], s2
    ),
    "collapse.fraction_below": lambda i, s2: collapse.fraction_below(i["x"] ** 2, s2),
    "stationary.point": lambda i, s2: stationary.point(
        i["s"].eigenvectors, i["s"].eigenvalues, ASSIGNMENT, s2
    ),
    "stationary.value": lambda i, s2: stationary.value(i["s"].eigenvalues, ASSIGNMENT, s2),
    "conditioning.summarise": lambda i, s2: conditioning.summarise(i["x"][0] * s2).escape_rate,
    "conditioning.escape_rate": lambda i, s2: conditioning.escape_rate(i["s"].eigenvalues, s2),
}


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
    eager = function(i["sigma2"])
    assert {leaf.dtype for leaf in jax.tree.leaves(eager)} == {np.dtype(dtype)}
    assert_same(jax.jit(function)(i["sigma2"]), eager, dtype)
    several = i["sigma2"] * jnp.asarray([0.5, 1.0, 1.5], dtype)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[function(s) for s in several])
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
