"""Each latent gets a verdict: in use, collapsed as it should be, collapsed although, or not done.

A latent is collapsed by the (0.01, 0.01) rule of `linvae_jax.collapse`. Whether it *should* be is
read off the linear VAE on the same data with the same loss: sort the latents by KL, collapsed ones
last, and compare each with the component of that rank.

>>> import jax.numpy as jnp
>>> from landscape.diagnosis import verdicts
>>> collapsed = jnp.array([False, True, True])
>>> given = verdicts.judge(collapsed, jnp.array([1, 1, 0]) > 0, jnp.zeros(3), jnp.zeros(3))
>>> [verdicts.WORDS[int(number)] for number in given]
['in use', 'collapsed although λ > τ', 'collapsed, as is optimal']
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

IN_USE, OPTIMAL, ALTHOUGH, UNFINISHED, COLLAPSED = range(5)
WORDS = (
    "in use",
    "collapsed, as is optimal",
    "collapsed although λ > τ",
    "not converged",
    "collapsed",  # without data or loss nobody knows whether it should be
)

# |residuals| above which a latent in use has not converged, or something else holds it: twice the
# largest that networks on the digits had where a decaying rate had brought training to rest
# (benchmarks/README.md, "When has training ended?")
SCALE_RESIDUAL = 0.3
SHIFT_RESIDUAL = 0.05
# the same of the median over latents in use, for the code as a whole
MEDIAN_SCALE_RESIDUAL = 0.02
MEDIAN_SHIFT_RESIDUAL = 0.009


@jax.jit
def judge(
    collapsed: Bool[Array, "k"],
    expected: Bool[Array, "k"] | None,
    scale_residual: Float[Array, "k"],
    shift_residual: Float[Array, "k"],
) -> Int[Array, "k"]:
    """Give each latent the number of its verdict in `WORDS`.

    Args:
        collapsed: whether each latent is collapsed.
        expected: whether the linear VAE's latent of the same rank by KL is in use; None if nobody
            knows.
        scale_residual: of `codes.statistics`.
        shift_residual: likewise.
    """
    moving = (jnp.abs(scale_residual) > SCALE_RESIDUAL) | (jnp.abs(shift_residual) > SHIFT_RESIDUAL)
    if expected is None:
        gone: Any = COLLAPSED
    else:
        gone = jnp.where(expected, ALTHOUGH, OPTIMAL)
    return jnp.where(collapsed, gone, jnp.where(moving, UNFINISHED, IN_USE))


@jax.jit
def at_rest(
    collapsed: Bool[Array, "k"],
    scale_residual: Float[Array, "k"],
    shift_residual: Float[Array, "k"],
) -> Bool[Array, ""]:
    """Say whether all residuals are as small as at the end of training; true where none is in use.

    Where they are not, training has not ended, or something else than the loss holds the latents.
    Where they are, it need not have ended: an untrained network's can be small too.
    """
    given = judge(collapsed, None, scale_residual, shift_residual)
    scale, shift = (median_in_use(collapsed, r) for r in (scale_residual, shift_residual))
    small = (scale <= MEDIAN_SCALE_RESIDUAL) & (shift <= MEDIAN_SHIFT_RESIDUAL)
    return (given != UNFINISHED).all() & small


def median_in_use(collapsed: Bool[Array, "k"], residual: Float[Array, "k"]) -> Float[Array, ""]:
    """Return the median of |residual| over latents that are not collapsed; 0 if there are none."""
    used = jnp.where(collapsed, jnp.nan, jnp.abs(residual))
    return jnp.where(collapsed.all(), 0, jnp.nanmedian(used))
