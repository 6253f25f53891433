"""What Hypothesis draws: shapes from a few fixed pairs (each compiles once), contents freely."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from linvae_jax import linear
from linvae_jax import moments as mom

# (n, k): one latent, k = n, tall
SHAPES = ((2, 1), (4, 4), (5, 2), (9, 3))

shapes = st.sampled_from(SHAPES)
seeds = st.integers(0, 2**31 - 1)
noise = st.floats(0.05, 20.0)
weights = st.floats(0.2, 5.0)  # β

# eigenvalues on a coarse grid tie often; those from the continuum hardly ever
_eigenvalue = st.one_of(st.sampled_from([0.5, 1.0, 2.0, 4.0]), st.floats(0.05, 20.0))


@st.composite
def spectra(draw: st.DrawFn, n: int) -> np.ndarray:
    """Eigenvalues (n,), from large to small, ties likely."""
    values = draw(st.lists(_eigenvalue, min_size=n, max_size=n))
    return np.sort(np.array(values))[::-1].copy()


@st.composite
def separated_spectra(draw: st.DrawFn, n: int) -> np.ndarray:
    """Eigenvalues (n,) with ratios of at least 1.1 between neighbours."""
    ratios = draw(st.lists(st.floats(1.1, 3.0), min_size=n, max_size=n))
    return 0.2 * np.cumprod(np.array(ratios))[::-1].copy()


def normal(seed: int | list[int], *shape: int) -> jax.Array:
    """Standard normal numbers; by NumPy, for JAX would compile a program for each shape."""
    return jax.device_put(np.random.default_rng(seed).normal(size=shape))


def orthogonal(seed: int, n: int) -> jax.Array:
    """A random rotation."""
    return jnp.asarray(np.linalg.qr(normal(seed, n, n))[0])


def moments_with(eigenvalues: np.ndarray, seed: int) -> tuple[mom.Moments, jax.Array]:
    """Moments with these eigenvalues in a random basis, and that basis."""
    U = orthogonal(seed, len(eigenvalues))
    S = (np.asarray(U) * eigenvalues) @ np.asarray(U).T
    mean = normal(seed + 1, len(eigenvalues))
    return mom.from_covariance(jnp.asarray((S + S.T) / 2), mean), U


@st.composite
def data(draw: st.DrawFn, n: int, rows: int = 40) -> np.ndarray:
    """Correlated data (rows, n) of varied scale, away from the origin."""
    rng = np.random.default_rng(draw(seeds))
    scale = draw(st.floats(0.1, 10.0))
    return scale * (rng.normal(size=(rows, n)) @ rng.normal(size=(n, n)) + rng.normal(size=n))


@st.composite
def parameters(draw: st.DrawFn, n: int, k: int) -> linear.LinearVAEParams:
    """A linear VAE with nothing special about it."""
    rng = np.random.default_rng(draw(seeds))
    weights = (jax.device_put(rng.normal(size=shape)) for shape in ((n, k), (k, n), (k,)))
    return linear.LinearVAEParams(*weights, jnp.asarray(np.log(draw(noise))))


@st.composite
def problems(draw: st.DrawFn) -> tuple[linear.LinearVAEParams, mom.Moments, np.ndarray]:
    """Parameters, moments and the data behind them, of one shape."""
    n, k = draw(shapes)
    x = draw(data(n))
    return draw(parameters(n, k)), mom.from_data(x), x
