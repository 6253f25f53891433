"""Exact spectra that are read off and let go: six numbers, a walk over σ², a histogram.

A point must have all n eigenvalues. `learn`, and the `ValueError` it raises, are as in `blocks`. By
default signs are exact, with no tolerance: zeros are ties and zeros of S alone (`blocks.inertia`).
With `rtol` each |μ| below rtol · max|μ| counts as zero too. That number depends on the data's unit.

>>> import jax.numpy as jnp
>>> from landscape.curvature import summaries
>>> lam, pattern = jnp.array([4.0, 2.0, 0.5]), jnp.array([0, -1])
>>> found = summaries.over_sigma2(lam, pattern, sigma2=jnp.array([0.4, 1.0, 3.0, 5.0]))
>>> found.assignment.tolist(), found.conditioning.index.tolist()
([[0, -1], [0, -1], [0, -1], [-1, -1]], [2, 1, 0, 0])
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from landscape.curvature import blocks, conditioning, own_blocks
from landscape.curvature.blocks import WEIGHTS
from landscape.curvature.conditioning import Conditioning, UnitFree
from landscape.points import stationary
from landscape.points.stationary import Point
from linvae_jax._internal import arrays, checks
from linvae_jax._internal.arrays import Scalar


def summarise(
    point: Point, *, learn: Sequence[str] = WEIGHTS, rtol: float | None = None
) -> Conditioning:
    """Summarise the Hessian at a point: index, nullity, condition number, escape rate.

    Index and nullity do not depend on the data's unit. The other numbers do (landscape/README.md,
    3); `unit_free` has them for normalised data x/√λ₁, which is what one trains on.
    """
    return _summarise(point, blocks.learned(learn), rtol)


@partial(jax.jit, static_argnames=("learn", "rtol"))
def _summarise(p: Point, learn: frozenset[str], rtol: float | None) -> Conditioning:
    def read(unit_free: bool) -> Conditioning:
        values = blocks.hessian_eigenvalues(p, learn=tuple(learn), unit_free=unit_free)
        return conditioning.of_eigenvalues(values, rtol or 0.0)

    found, free = read(unit_free=False), read(unit_free=True)
    unit_free = UnitFree(free.stiffness, free.condition_number, free.escape_rate)
    if rtol is not None:
        return replace(found, unit_free=unit_free)
    count = blocks.inertia(p, tuple(learn))
    return replace(found, index=count.positive, nullity=count.zero, unit_free=unit_free)


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class OverSigma2:
    """`OverSigma2` has a pattern of collapse, followed over σ².

    Attributes:
        sigma2: (steps,), noise variances.
        assignment: (steps, k), the pattern without the latents that have collapsed.
        value: (steps,), β-ELBO, nats per datum.
        conditioning: fields (steps,).
    """

    sigma2: Float[Array, "*steps"]
    assignment: Int[Array, "*steps k"]
    value: Float[Array, "*steps"]
    conditioning: Conditioning


@partial(jax.jit, static_argnames=("learn", "rtol", "batch_size"))
def _over_sigma2(
    eigenvalues: Array,
    pattern: Array,
    sigma2: Array,
    beta: Array,
    learn: frozenset[str],
    rtol: float | None,
    batch_size: int,
) -> OverSigma2:
    def step(s: Array) -> OverSigma2:
        a = jnp.where((pattern >= 0) & (eigenvalues[pattern] > beta * s), pattern, -1)
        point = stationary.unchecked(eigenvalues, a, s, beta)
        return OverSigma2(s, a, stationary.value(point), _summarise(point, learn, rtol))

    return jax.lax.map(step, sigma2, batch_size=batch_size)


def over_sigma2(
    eigenvalues: Float[Array, "n"] | Any,
    pattern: Int[Array, "k"] | Any,
    sigma2: Float[Array, "steps"] | Any,
    *,
    beta: Scalar = 1.0,
    learn: Sequence[str] = WEIGHTS,
    rtol: float | None = None,
    batch_size: int = 8,
) -> OverSigma2:
    """Follow one pattern of collapse over many σ², in one compiled call.

    Latent j of the pattern sits on its component while βσ² < λ_i, and is collapsed beyond: the
    point with it on the component has merged with the one without. Its critical σ² is λ_i/β.

    Eigenvalues (n,) are those of S, from large to small. The pattern (k,) is an assignment, of any
    components. The σ² (steps,) may be in any order; `batch_size` of them are taken at once, and
    each needs memory for all its eigenvalues.

    Raises:
        ValueError: unsorted or negative eigenvalues, σ² or β ≤ 0, a component twice or out of
            range.
    """
    variables = blocks.learned(learn)
    eigenvalues = arrays.spectrum("eigenvalues", eigenvalues)
    sigma2 = arrays.as_float("sigma2", sigma2).astype(eigenvalues.dtype)
    checks.shape("sigma2", sigma2, ("steps",))
    checks.positive("sigma2", sigma2)
    beta = jnp.asarray(checks.positive_scalar("beta", beta, eigenvalues.dtype), eigenvalues.dtype)
    pattern = jnp.asarray(stationary.read_pattern(pattern, len(eigenvalues)))
    at_once = min(batch_size, len(sigma2))
    return _over_sigma2(eigenvalues, pattern, sigma2, beta, variables, rtol, at_once)


class Histogram(NamedTuple):
    """A `Histogram` counts (bins,) eigenvalues between edges (bins + 1,), the last bin closed."""

    counts: Int[Array, "bins"]
    edges: Float[Array, "edges"]


@partial(jax.jit, static_argnames=("learn", "bins"))
def _histogram(p: Point, edges: Array | None, learn: frozenset[str], bins: int) -> Histogram:
    k, n = p.k, p.n
    threes, log_sigma2 = own_blocks.eigenvalues(p, "log_sigma2" in learn)
    # not concatenated: on CPUs XLA of JAX 0.12 makes no program of that and the counting below
    others = [threes[:, 2]]
    if "log_sigma2" in learn:
        others.append(log_sigma2[None])
    if "mean" in learn:
        others.append(blocks.mean_eigenvalues(p))

    def of_latent(j: Array) -> Float[Array, "2 n"]:
        mine = p.assignment[j] == jnp.arange(n)
        return jnp.where(mine, threes[j, :2, None], jnp.stack(blocks.pair_eigenvalues(p, j)))

    if edges is None:
        ends = jax.lax.map(
            lambda j: jnp.stack([of_latent(j).min(), of_latent(j).max()]), jnp.arange(k)
        )
        low = jnp.stack([ends.min(), *(values.min() for values in others)]).min()
        high = jnp.stack([ends.max(), *(values.max() for values in others)]).max()
        edges = jnp.linspace(low, high, bins + 1)

    def add(counts: Array, values: Array) -> Array:
        place = jnp.searchsorted(edges, values.ravel(), side="right") - 1
        place = jnp.where(values.ravel() == edges[-1], bins - 1, place)
        # −1 would count from the end
        return counts.at[jnp.where(place < 0, bins, place)].add(1, mode="drop")

    counts = jnp.zeros(bins, int)
    for values in others:
        counts = add(counts, values)
    counts, _ = jax.lax.scan(lambda c, j: (add(c, of_latent(j)), None), counts, jnp.arange(k))
    return Histogram(counts, edges)


def histogram(
    point: Point,
    bins: int | Float[Array, "edges"] | Any = 100,
    *,
    learn: Sequence[str] = WEIGHTS,
    unit_free: bool = False,
) -> Histogram:
    """Count the whole spectrum into a histogram, latent by latent, in O(n) memory.

    `bins` is a number of equal bins between the extreme eigenvalues, or the edges of bins,
    increasing. Eigenvalues beyond the edges are not counted. With `unit_free` the eigenvalues are
    those for the data x/√λ₁. In the data's own unit a histogram of fixed reach may miss one end of
    the spectrum.

    Returns:
        Counts as `numpy.histogram` of the flat spectrum, up to rounding at the edges.

    Raises:
        ValueError: edges that do not increase.
    """
    variables = blocks.learned(learn)
    p = stationary.unit_free(point) if unit_free else point
    edges = None
    if isinstance(bins, int | np.integer):
        checks.in_range("bins", bins, 1, 2**31 - 1, "at least one")
    else:
        given = checks.numbers("bins", bins)
        increase = not checks.concrete(given) or (np.diff(given) > 0).all()
        edges = arrays.as_float("bins", given).astype(p.eigenvalues.dtype)
        if edges.shape[:1] in ((), (1,)) or not increase:
            checks.fail("bins", "edges that do not increase", "a number, or increasing edges")
        bins = len(edges) - 1
    return _histogram(p, edges, variables, int(bins))
