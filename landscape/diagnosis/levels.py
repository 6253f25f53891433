"""At which level does a component stop being used? Which level keeps as many latents as I want?

The *level* is what a loss fixes: τ = βσ², or β where σ² is learned or there is none. Component i is
in use below its *threshold*: λ_i where τ is fixed, β_i of `learned` where σ² is learned, ν_i of
`curvature.onset` for other likelihoods. Thresholds go from large to small.

>>> import jax.numpy as jnp
>>> from landscape.diagnosis import levels
>>> kept = levels.keep(jnp.array([4.0, 1.0, 0.25, 0.0]), k=2, wanted=jnp.array([1, 2]))
>>> kept.low.tolist(), kept.high.tolist(), kept.level.tolist()
([1.0, 0.0], [4.0, 1.0], [2.0, 0.5])
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# components whose thresholds are as near as this are kept or lost together
TIE = 0.99


class Kept(NamedTuple):
    """Levels that keep some number of latents in use, in the unit of the thresholds.

    Attributes:
        number: (w,), how many are kept: as many as wanted, or more where components tie; 0 where
            the data have not so many.
        low: (w,), at this level and above no more are kept; 0 where there are no more latents.
        high: (w,), below this level they are kept: the last one's threshold.
        level: (w,), to be advised: the geometric mean of `low` and `high`, as far from both as it
            can be; half of `high` where no more can be kept; NaN if there is none.
    """

    number: Int[Array, "w"]
    low: Float[Array, "w"]
    high: Float[Array, "w"]
    level: Float[Array, "w"]


@partial(jax.jit, static_argnames="k")
def keep(thresholds: Float[Array, "n"], k: int, wanted: Int[Array, "w"]) -> Kept:
    """Find the levels at which the optimum uses `wanted` (w,) of k latents, each from 1 to k.

    Exact for the linear VAE; n may be smaller than k.
    """
    padded = jnp.pad(thresholds, (0, max(k + 1 - len(thresholds), 1)))
    first = padded[wanted - 1]
    tied = (padded >= TIE * first[:, None]).sum(axis=1)
    below = jnp.where(tied < k, jnp.append(padded, 0.0)[tied], 0)
    there = first > 0
    number = jnp.where(there, jnp.minimum(tied, k), 0)
    # all that tie are kept below the least of them only
    high = padded[jnp.maximum(number, 1) - 1]
    level = jnp.where(below > 0, jnp.sqrt(high * below), high / 2)
    return Kept(
        number=number,
        low=below,
        high=jnp.where(there, high, 0),
        level=jnp.where(there, level, jnp.nan),
    )


@jax.jit
def learned(eigenvalues: Float[Array, "n"]) -> Float[Array, "n"]:
    """Compute the β below which each component is used where σ² is learned: the thresholds β_r.

    β_r = n λ_r / (r λ_r + Σ_{i>r} λ_i). They do not increase, and β_1 = n λ₁ / tr S: at it and
    above all latents collapse. Zero where λ_r is. Exact.

    Source: landscape/README.md, 2: f_r > 0, solved for β.
    """
    n = len(eigenvalues)
    rest = jnp.cumsum(eigenvalues[::-1])[::-1] - eigenvalues
    total = jnp.arange(1, n + 1) * eigenvalues + rest
    return jnp.where(total > 0, n * eigenvalues / jnp.where(total > 0, total, 1), 0)
