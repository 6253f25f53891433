"""Hypothesis strategies for linear VAEs, which draw more often than chance what breaks formulas.

Eigenvalues tie, are zero, or lie exactly at the noise level βσ². Shapes (n, k) come from a few
fixed pairs, because JAX compiles a program for each new shape; what is in the arrays is free.
The numbers are float64: set jax_enable_x64. Hypothesis gives the argument `draw`; leave it out.

This module needs Hypothesis: `pip install 'linvae-jax[test]'`.

>>> import jax
>>> from hypothesis import given, settings
>>> from landscape.testing import laws, strategies
>>> from linvae_jax import linear
>>> @settings(max_examples=3, database=None, deadline=None)
... @given(strategies.problems(), strategies.weights)
... def test_gradient(problem, beta):
...     laws.assert_gradient(linear.elbo, linear.gradient, problem.params, problem.moments, beta)
>>> with jax.enable_x64(True):
...     test_gradient()
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from landscape.points import stationary
from linvae_jax import linear
from linvae_jax import moments as mom

try:
    from hypothesis import strategies as st
    from hypothesis.strategies import SearchStrategy
except ImportError as error:
    raise ImportError(
        "landscape.testing.strategies needs Hypothesis: pip install 'linvae-jax[test]'"
    ) from error

# `st.DrawFn` is a protocol that cannot be checked while the program runs
Draw = Callable[..., Any]

SHAPES = ((2, 1), (4, 4), (5, 2), (9, 3))  # (n, k): one latent, k = n, tall

shapes: SearchStrategy[tuple[int, int]] = st.sampled_from(SHAPES)
seeds: SearchStrategy[int] = st.integers(0, 2**31 - 1)
noise: SearchStrategy[float] = st.floats(0.05, 20.0)  # σ²
# β; with a power of two, βσ² is an eigenvalue to the bit where it is meant to be one
weights: SearchStrategy[float] = st.sampled_from([0.5, 1.0, 2.0]) | st.floats(0.2, 5.0)

# eigenvalues on a coarse grid tie often; those from the continuum hardly ever do
_GRID = (0.5, 1.0, 2.0, 4.0)
# 1 ± 1e-9 is beside the noise level 1
_EDGES = (0.0, 1 + 1e-9, 1 - 1e-9)


class Problem(NamedTuple):
    """Parameters of a linear VAE, and moments of data x (N, n) that do not come from it."""

    params: linear.LinearVAEParams
    moments: mom.Moments
    x: Float[np.ndarray, "N n"]


class NoisySpectrum(NamedTuple):
    """This has eigenvalues (n,) from large to small, a noise variance σ² and a KL weight β."""

    eigenvalues: Float[np.ndarray, "n"]
    sigma2: float
    beta: float


@st.composite
def spectra(draw: Draw, n: int, *, edges: bool = False) -> Float[np.ndarray, "n"]:
    """Draw eigenvalues (n,) of a covariance, from large to small. Ties are likely.

    With `edges` zeros and the eigenvalues 1 ± 1e-9 are likely too. The largest eigenvalue stays
    positive.
    """
    grid = _GRID + _EDGES if edges else _GRID
    values = st.lists(st.sampled_from(grid) | st.floats(0.05, 20.0), min_size=n, max_size=n)
    return np.sort(np.array(draw(values.filter(any))))[::-1].copy()


@st.composite
def separated_spectra(draw: Draw, n: int) -> Float[np.ndarray, "n"]:
    """Draw eigenvalues (n,) with ratios of at least 1.1 between neighbours, from large to small."""
    ratios = draw(st.lists(st.floats(1.1, 3.0), min_size=n, max_size=n))
    return 0.2 * np.cumprod(np.array(ratios))[::-1].copy()


@st.composite
def noisy_spectra(
    draw: Draw, n: int, betas: SearchStrategy[float] = weights, edges: bool = True
) -> NoisySpectrum:
    """Draw a spectrum with a noise level, often one that is exactly an eigenvalue: βσ² = λ_i.

    `betas` draws the KL's weight; `edges` is as for `spectra`.
    """
    eigenvalues, beta = draw(spectra(n, edges=edges)), draw(betas)
    levels = st.sampled_from([float(value) for value in eigenvalues if value > 0])
    level = draw(levels | st.sampled_from([0.5, 1.0]) | st.floats(0.05, 20.0))
    return NoisySpectrum(eigenvalues, level / beta, beta)


def assignments(
    eigenvalues: Any, k: int, sigma2: float, beta: float = 1.0
) -> SearchStrategy[Int[np.ndarray, "k"]]:
    """Draw which latent sits on which component, −1 if collapsed, of the points that exist.

    The eigenvalues are (n,), from large to small.
    """
    there = np.flatnonzero(np.asarray(eigenvalues) > beta * sigma2)
    places = st.permutations([*there.tolist(), *[-1] * k])
    return places.map(lambda order: np.array(order[:k], np.int32))


@st.composite
def points(
    draw: Draw,
    shapes: SearchStrategy[tuple[int, int]] = shapes,
    betas: SearchStrategy[float] = weights,
) -> stationary.Point:
    """Draw a stationary point that pPCA has too, of any index: ties, zeros and λ_i = βσ² included.

    `stationary.params(point, eigenvectors)` has the weights there, and `moments_with(
    point.eigenvalues, seed)` gives moments with this spectrum and their eigenvectors.
    """
    n, k = draw(shapes)
    eigenvalues, sigma2, beta = draw(noisy_spectra(n, betas))
    assignment = draw(assignments(eigenvalues, k, sigma2, beta))
    return stationary.point(jnp.asarray(eigenvalues), assignment, sigma2, beta)


@st.composite
def parameters(draw: Draw, n: int, k: int) -> linear.LinearVAEParams:
    """Draw a linear VAE (n, k) with nothing special about it."""
    rng = np.random.default_rng(draw(seeds))
    W, V, log_d = (jax.device_put(rng.normal(size=shape)) for shape in ((n, k), (k, n), (k,)))
    return linear.LinearVAEParams(W, V, log_d, jnp.asarray(np.log(draw(noise))))


@st.composite
def data(draw: Draw, n: int, rows: int = 40) -> Float[np.ndarray, "rows n"]:
    """Draw correlated data (rows, n) of varied scale, away from the origin."""
    rng = np.random.default_rng(draw(seeds))
    scale = draw(st.floats(0.1, 10.0))
    return scale * (rng.normal(size=(rows, n)) @ rng.normal(size=(n, n)) + rng.normal(size=n))


@st.composite
def problems(
    draw: Draw, shapes: SearchStrategy[tuple[int, int]] = shapes, rows: int = 40
) -> Problem:
    """Draw parameters, moments and the data behind them, of one shape."""
    n, k = draw(shapes)
    x = draw(data(n, rows))
    return Problem(draw(parameters(n, k)), mom.from_data(x), x)


def normal(seed: int | Sequence[int], *shape: int) -> Float[Array, "..."]:
    """Return standard normal numbers; by NumPy, because JAX compiles a program for each shape."""
    return jax.device_put(np.random.default_rng(seed).normal(size=shape))


def orthogonal(seed: int, n: int) -> Float[Array, "n n"]:
    """Return a random orthogonal matrix (n, n)."""
    return jnp.asarray(np.linalg.qr(normal(seed, n, n))[0])


def moments_with(
    eigenvalues: Float[Array, "n"] | Float[np.ndarray, "n"], seed: int
) -> tuple[mom.Moments, Float[Array, "n n"]]:
    """Return moments with these eigenvalues in a random basis and a random mean, and that basis."""
    U = orthogonal(seed, len(eigenvalues))
    S = (np.asarray(U) * np.asarray(eigenvalues)) @ np.asarray(U).T
    mean = normal(seed + 1, len(eigenvalues))
    return mom.from_covariance(jnp.asarray((S + S.T) / 2), mean), U


def data_with(moments: mom.Moments, seed: int, rows: int = 40) -> Float[np.ndarray, "rows n"]:
    """Return data (rows, n), rows > n, that have these moments up to rounding.

    The covariance must be full, not diagonal. `seed` draws what the moments leave open.
    """
    n = len(moments.mean)
    z = np.random.default_rng(seed).normal(size=(rows, n))
    whitened = np.sqrt(rows) * np.linalg.qr(z - z.mean(axis=0))[0]
    values, vectors = np.linalg.eigh(np.asarray(moments.cov))
    return whitened * np.sqrt(np.maximum(values, 0)) @ vectors.T + np.asarray(moments.mean)
