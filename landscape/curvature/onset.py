"""At which KL weight does everything collapse, for Bernoulli, Poisson and Gaussian likelihoods?

At total collapse the decoder gives the data's mean whatever z is, and the encoder gives the prior.
That point is stationary for every likelihood of an exponential family. It can be left exactly when
β is below β_c, the largest ν. The ν are the eigenvalues of A^(−½) S A^(−½), where A has the
variance that the family itself has at the data's mean. So ν says along each direction how many
times more the data vary than the family explains by itself. For binary data these are the
eigenvalues of the correlation matrix, without constant columns. For a Gaussian ν = λ/σ².

The onset is exact, with all its ways out. No smooth network leaves total collapse at a larger β
than the linear decoder, but some leave it only at a smaller one. How many latents are in use below
β_c in the end, ν can only guess. Above β_c total collapse is a local maximum; only for a Gaussian
is it known to be the global one. README.md of `landscape` has the proof, section 6.

>>> import jax.numpy as jnp
>>> from landscape.curvature import onset
>>> from linvae_jax import moments
>>> x = jnp.array([[0.0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]])  # columns 0 and 1 are equal
>>> nu = onset.eigenvalues(moments.from_data(x), "bernoulli")
>>> [round(float(value), 5) for value in nu]  # the first is β_c
[2.0, 1.0, 0.0]
>>> int(onset.ways_out(nu, k=5, beta=1.5)), int(onset.ways_out(nu, k=5, beta=2.5))
(5, 0)
"""

from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from linvae_jax import moments as mom
from linvae_jax._internal import arrays, checks
from linvae_jax._internal.arrays import Scalar

Family = Literal["bernoulli", "poisson", "gaussian"]


def _variance(mean: Any, family: Family, sigma2: Any) -> Any:
    """Compute A (n,), a family's variance at its mean; negative where it has no such mean."""
    if family == "gaussian":
        return jnp.full_like(mean, sigma2)
    return mean * (1 - mean) if family == "bernoulli" else mean


@partial(jax.jit, static_argnames="family")
def _normalised(mean: Array, cov: Array, family: Family, sigma2: Array | float) -> Array:
    """Compute A^(−½) S A^(−½), with zeros where A is zero and NaN where the mean is no mean."""
    variance = _variance(mean, family, sigma2)
    # the inner `where` keeps the derivative at a constant column from being NaN
    root = jnp.where(variance == 0, 0, jnp.where(variance == 0, 1, variance) ** -0.5)
    return cov * root * (root if cov.ndim == 1 else root[:, None])


@partial(jax.jit, static_argnames="family")
def _without_constants(values: Array, mean: Array, family: Family, sigma2: Array | float) -> Array:
    """Set as many of the last eigenvalues to zero as there are columns without variance."""
    constant = (_variance(mean, family, sigma2) == 0).sum()
    # a dense solver leaves rounding there
    return jnp.where(jnp.arange(len(values)) < len(values) - constant, values, 0)


def _check_means(moments: mom.Moments, family: Family) -> None:
    """Refuse means that the family has not, and variance at a mean where it has none."""
    mean, cov = np.asarray(moments.mean), np.asarray(moments.cov)
    allowed = _variance(mean, family, 1.0)
    if (allowed < 0).any():
        i = int(allowed.argmin())
        range_ = "in [0, 1]" if family == "bernoulli" else ">= 0"
        checks.fail("moments.mean", f"{mean[i]:.6g} in column {i}", f"means {range_} ({family})")
    spread = np.where(allowed == 0, cov if cov.ndim == 1 else np.diag(cov), 0)
    if (spread > 0).any():
        i = int(spread.argmax())
        checks.fail(
            "moments.mean",
            f"{mean[i]:.6g} in column {i}, whose variance is {spread[i]:.3g}",
            f"the mean of the data ({family}: only constant columns have this one)",
            "moments.from_covariance takes the mean as an argument.",
        )


def eigenvalues(
    moments: mom.Moments, family: Family, sigma2: Scalar | None = None
) -> Float[Array, "n"]:
    """Compute the β below which total collapse can be left, one for each direction.

    The decoder makes the natural parameter b + W z: logits for "bernoulli", logs of the mean for
    "poisson", the mean over σ² for "gaussian". `sigma2` is the Gaussian's noise variance, and is
    of no other family. `moments` are those of the data's own columns. So they are diagonal only
    where columns are uncorrelated, and not those of `moments.in_eigenbasis`.

    A column that the family holds for certain (always 0, for Bernoulli also always 1) has no
    variance, and adds a ν of exactly 0. Whether each datum is one of the family, nobody looks.

    Returns:
        ν, from large to small, with no unit; nu[0] is β_c. Exact.

    Raises:
        ValueError: no such family; a mean that it has not (NaN where traced); variance in a
            column whose mean leaves none; σ² ≤ 0, or missing, or given to another family; moments
            that `moments.spectrum` refuses.

    Source: landscape/README.md, 6.
    """
    mom.check(moments)
    checks.one_of("family", family, get_args(Family))
    if (sigma2 is None) == (family == "gaussian"):
        checks.fail("sigma2", sigma2, 'a noise variance with "gaussian", None with other families')
    if sigma2 is not None:
        sigma2 = jnp.asarray(checks.positive_scalar("sigma2", sigma2, moments.mean.dtype))
        sigma2 = sigma2.astype(moments.mean.dtype)
    elif checks.concrete(moments.mean, moments.cov):
        _check_means(moments, family)
    mean, noise = moments.mean, 1.0 if sigma2 is None else sigma2
    scaled = replace(moments, cov=_normalised(mean, moments.cov, family, noise))
    return _without_constants(mom.spectrum(scaled).eigenvalues, mean, family, noise)


def ways_out(nu: Float[Array, "n"] | Any, k: int, beta: Scalar) -> Int[Array, ""]:
    """Count the ways out of total collapse of k latents: k · #{ν > β}, the Hessian's index.

    `nu` (n,) are from `eigenvalues`. The index is that in all weights together: decoder, encoder,
    log D and b. It is exact, an int32, and 0 from β_c on.

    Raises:
        ValueError: ν unsorted or negative, k < 1, β ≤ 0.

    Source: landscape/README.md, 6.
    """
    values = arrays.spectrum("nu", nu)
    checks.in_range("k", k, 1, 2**31 - 1, "at least one latent")
    beta = checks.positive_scalar("beta", beta, values.dtype)
    return _ways_out(values, k, beta)


@jax.jit
def _ways_out(nu: Array, k: Int[Array, ""] | int, beta: Array | float) -> Array:
    return k * (nu > jnp.asarray(beta, nu.dtype)).sum(dtype=jnp.int32)
