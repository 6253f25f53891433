"""The same inputs for everyone: spectra that fall like those of images, and points on them."""

import jax
import jax.numpy as jnp
import numpy as np

from landscape.autodiff import objectives
from landscape.curvature import blocks
from landscape.points import stationary
from landscape.points.stationary import Point
from linvae_jax import moments as mom

LEARN = ("W", "V", "log_d")


def parameters(p: Point) -> int:
    """2nk + k, in W, V and log D."""
    return 2 * p.n * p.k + p.k


def spectrum(n: int) -> jax.Array:
    """λ_i = 50 i^−1.2 + 0.2, (n,): a few large ones, a long tail, as pixels after the logit."""
    return jnp.asarray(50 * np.arange(1, n + 1) ** -1.2 + 0.2)


def point(n: int, k: int, active: int | None = None) -> Point:
    """`active` of k latents on the leading components, at the σ² that is optimal for all k."""
    lam = spectrum(n)
    latents = np.arange(k)
    assignment = np.where(latents < (k if active is None else active), latents, -1)
    return stationary.point(lam, assignment, float(lam[k:].mean()))


def objective(p: Point) -> objectives.Objective:
    """The ELBO there in the eigenbasis of S, the cheapest coordinates for autodiff."""
    moments = mom.Moments(jnp.zeros(p.n), p.eigenvalues, jnp.asarray(1.0))
    model = stationary.params(p, jnp.eye(p.n))
    return objectives.elbo(model, moments, learn=LEARN)


def all_eigenvalues(p: Point) -> jax.Array:
    """What is measured: the exact spectrum, as a user calls it."""
    return blocks.hessian_eigenvalues(p, learn=LEARN)


def full_moments(n: int) -> mom.Moments:
    """Moments with the spectrum above and random eigenvectors: a full S."""
    normal = np.random.default_rng(0).normal(size=(n, n))
    U = np.linalg.qr(normal)[0]
    S = (U * np.asarray(spectrum(n))) @ U.T
    return mom.Moments(jnp.zeros(n), jnp.asarray((S + S.T) / 2), jnp.asarray(1.0))


def spectrum_of(n: int, k: int) -> jax.Array:
    """For `memory`: all eigenvalues at the optimum, λ known."""
    return all_eigenvalues(point(n, k))


def spectrum_of_data(n: int, k: int, count: int) -> jax.Array:
    """For `memory`: from `count` data through a thin SVD, with n ≫ count, to all eigenvalues."""
    x = np.random.default_rng(0).normal(size=(count, n)) * np.sqrt(np.asarray(spectrum(n)))
    thin = mom.thin_spectrum(x).eigenvalues
    lam = jnp.pad(thin, (0, n - len(thin)))
    return all_eigenvalues(stationary.point(lam, np.arange(k), float(lam[k:].mean())))
