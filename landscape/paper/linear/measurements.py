"""The numbers behind C1 to C5 that need no training are measured here, into one table.

All that is random about the claims is drawn here: Monte Carlo, rotations, stationary points. What
the numbers say of the claims is judged in `claims`, from the table.

Source: Lucas, Tucker, Grosse, Norouzi, NeurIPS 2019.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, PRNGKeyArray

from landscape.curvature import summaries
from landscape.points import stationary
from linvae_jax import linear, ppca, streams, tables
from linvae_jax import moments as mom

# of `tables.dataset`: name → (dimensions, values, unit, description)
Variables = dict[str, tuple[Any, ...]]
_NATS = "nats/datum"


def measure(
    x: Float[Array, "N n"],
    moments: mom.Moments,
    spectrum: mom.Spectrum,
    k: int,
    seed: int,
    separated_eigenvalues: Float[Array, "s"],
) -> xr.Dataset:
    """Measure everything on the data x with these moments and spectrum, with k latents.

    The eigenvalues of the well-separated problem are kept beside those of the data. Everything
    random follows from the seed.
    """
    sigma2 = float(ppca.optimal_sigma2(spectrum.eigenvalues, k))
    keys = jax.random.split(streams.key(seed, "claims"), 4)
    unit = "data unit²"
    return tables.dataset(
        {
            "latents": ((), k, "1", "number of latents k"),
            "sigma2": ((), sigma2, unit, "MLE of σ² for them"),
            "eigenvalue": ("component", spectrum.eigenvalues, unit, "eigenvalues of S"),
            "separated_eigenvalue": (
                "separated_component", separated_eigenvalues, unit,
                "eigenvalues of the well-separated problem",
            ),
            **closed_form(moments, x, k, keys[0]),
            **optimum(moments, spectrum, k),
            **rotations(moments, spectrum, k, keys[1]),
            **random_points(spectrum, k, sigma2, keys[2]),
            **collapsed_points(spectrum, k, sigma2, keys[3]),
        },
        attrs=tables.provenance(seed=seed, count=len(x)),
    )  # fmt: skip


def closed_form(
    moments: mom.Moments, x: Float[Array, "N n"], k: int, key: PRNGKeyArray
) -> Variables:
    """Measure for C1 a random model's ELBO in three ways, and its gradient in two."""
    key_init, key_z = jax.random.split(key)
    params = linear.init(key_init, moments.mean.shape[0], k)

    # the data are an argument: a constant of 30 MB would be folded at compile time
    estimate = jax.jit(lambda x, key: linear.elbo_stochastic(params, moments, x, key).mean())
    draws = np.array([estimate(x, one) for one in jax.random.split(key_z, 30)])

    ours = jax.tree.leaves(linear.gradient(params, moments))
    autodiff = jax.tree.leaves(jax.grad(linear.elbo)(params, moments))
    apart = [jnp.abs(a - b).max() for a, b in zip(ours, autodiff, strict=True)]
    size = [jnp.abs(b).max() for b in autodiff]
    told = "of a random model, by"
    return {
        "elbo": ((), linear.elbo(params, moments), _NATS, f"ELBO {told} moments"),
        "elbo_per_datum": (
            (), linear.score_per_datum(params, moments.mean, x).mean(), _NATS,
            f"ELBO {told} the mean over data",
        ),
        "elbo_draw": ("draw", draws, _NATS, f"ELBO {told} Monte Carlo, one z for each datum"),
        "gradient_difference": (
            "variable", apart, _NATS, "largest |analytic − autodiff gradient| in each variable"
        ),
        "gradient_size": ("variable", size, _NATS, "largest |autodiff gradient| in each variable"),
    }  # fmt: skip


def optimum(moments: mom.Moments, spectrum: mom.Spectrum, k: int) -> Variables:
    """Measure for C2 what the closed-form optimum of pPCA is to the ELBO."""
    mle = ppca.mle_from_spectrum(spectrum, moments.mean, k)
    best = linear.with_optimal_encoder(mle.W, mle.sigma2)
    slopes = [jnp.abs(leaf).max() for leaf in jax.tree.leaves(linear.gradient(best, moments))]
    at = "at the closed-form optimum"
    return {
        "optimum_elbo": ((), linear.elbo(best, moments), _NATS, f"ELBO {at}"),
        "optimum_likelihood": (
            (), ppca.log_likelihood(mle.W, mle.sigma2, moments), _NATS, f"log-likelihood {at}"
        ),
        # kept, because what it is off by is rounding, which another machine does otherwise
        "optimum_formula": (
            (), ppca.optimal_elbo(spectrum.eigenvalues, k), _NATS, "its formula in the eigenvalues"
        ),
        "optimum_slope": ("variable", slopes, _NATS, f"largest |gradient| {at}, each variable"),
        "largest_covariance": ((), jnp.abs(moments.cov).max(), "data unit²", "max |S|"),
    }  # fmt: skip


def rotations(moments: mom.Moments, spectrum: mom.Spectrum, k: int, key: PRNGKeyArray) -> Variables:
    """Measure for C3 what 20 random rotations of the latents do at the optimum."""
    mle = ppca.mle_from_spectrum(spectrum, moments.mean, k)

    def rotated(key: PRNGKeyArray) -> tuple[Array, Array, Array]:
        R = jnp.linalg.qr(jax.random.normal(key, (k, k)))[0]
        W = mle.W @ R
        elbo = linear.profile_elbo(W, mle.sigma2, moments)
        likelihood = ppca.log_likelihood(W, mle.sigma2, moments)
        return elbo, likelihood, linear.hadamard_gap(W, mle.sigma2)

    elbo, likelihood, hadamard = jax.lax.map(rotated, jax.random.split(key, 20))
    best, after = linear.profile_elbo(mle.W, mle.sigma2, moments), "after a random rotation"
    return {
        "profile_elbo": ((), best, _NATS, "profile ELBO at the optimum"),
        "rotated_elbo": ("rotation", elbo, _NATS, f"profile ELBO {after}"),
        "rotated_likelihood": ("rotation", likelihood, _NATS, f"log-likelihood {after}"),
        "hadamard_gap": ("rotation", hadamard, _NATS, f"Hadamard gap of M {after}"),
    }


def random_points(spectrum: mom.Spectrum, k: int, sigma2: float, key: PRNGKeyArray) -> Variables:
    """Measure for C4 value and index of 50 random stationary points of the whole landscape."""
    lam = spectrum.eigenvalues
    best = stationary.point(lam, next(stationary.assignments(lam, k, sigma2)), sigma2)
    points = [
        stationary.point(lam, random_assignment(one, lam, k, sigma2), sigma2)
        for one in jax.random.split(key, 50)
    ]
    index = [int(summaries.summarise(point).index) for point in points]
    return {
        "highest_value": ((), stationary.value(best), _NATS, "ELBO of the best stationary point"),
        "point_value": (
            "point", [stationary.value(p) for p in points], _NATS, "ELBO of random points"
        ),
        "point_index": ("point", index, "1", "escape directions there, of the exact Hessian"),
    }  # fmt: skip


def random_assignment(
    key: PRNGKeyArray, eigenvalues: Float[Array, "n"], k: int, sigma2: float
) -> np.ndarray:
    """Draw a random pPCA stationary point: how many latents are active, which, and on what."""
    key_number, key_latents, key_components = jax.random.split(key, 3)
    available = int(np.sum(np.asarray(eigenvalues) > sigma2))
    r = int(jax.random.randint(key_number, (), 0, min(k, available) + 1))
    assignment = np.full(k, -1)
    latents = np.asarray(jax.random.permutation(key_latents, k))[:r]
    assignment[latents] = np.asarray(jax.random.permutation(key_components, available))[:r]
    return assignment


def collapsed_points(spectrum: mom.Spectrum, k: int, sigma2: float, key: PRNGKeyArray) -> Variables:
    """Measure for C5 what 100 random stationary points of pPCA are to the ELBO."""
    lam = spectrum.eigenvalues
    moments = mom.from_covariance(lam)  # eigenbasis: gradients there are rotated, no smaller
    eye = jnp.eye(len(lam))

    @jax.jit
    def at(assignment: Array) -> tuple[Array, ...]:
        params = stationary.params(stationary.point(lam, assignment, sigma2), eye)
        slope = linear.gradient(params, moments)
        largest = jnp.max(jnp.stack([jnp.abs(g).max() for g in (slope.W, slope.V, slope.log_d)]))
        zero = jnp.sum(jnp.all(params.W == 0, axis=0))
        kl = linear.elbo_terms(params, moments).kl
        mismatch = jnp.sum((assignment < 0) != (kl <= 1e-12)) + (zero != jnp.sum(assignment < 0))
        tight = linear.elbo(params, moments) - ppca.log_likelihood(params.W, sigma2, moments)
        return largest, mismatch, jnp.abs(tight)

    assignments = [random_assignment(one, lam, k, sigma2) for one in jax.random.split(key, 100)]
    slopes, mismatches, gaps = zip(*(at(jnp.asarray(a)) for a in assignments), strict=True)
    dim, told = "ppca_point", "at random pPCA stationary points"
    return {
        "ppca_slope": (dim, slopes, _NATS, f"largest |gradient| in W, V, log D {told}"),
        "ppca_mismatches": (
            dim, mismatches, "1",
            "latents of which zero column, zero KL and being unassigned disagree",
        ),
        "ppca_gap": (dim, gaps, _NATS, f"|ELBO − log-likelihood| {told}"),
    }  # fmt: skip
