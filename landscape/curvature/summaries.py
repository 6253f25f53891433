"""Exact spectra that are read off and let go: five numbers, a sweep over σ², a histogram.

>>> import jax.numpy as jnp
>>> from landscape.curvature import summaries
>>> lam, pattern = jnp.array([4.0, 2.0, 0.5]), jnp.array([0, -1])
>>> path = summaries.path(lam, pattern, sigma2=jnp.array([0.4, 1.0, 3.0, 5.0]))
>>> path.assignment.tolist(), path.conditioning.index.tolist()
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

from landscape.curvature import blocks, conditioning
from landscape.curvature.blocks import WEIGHTS, Assignment, Levels, Scalar
from landscape.curvature.conditioning import Conditioning, UnitFree
from landscape.points import stationary
from linvae_jax._internal import arrays, checks


def summarise(
    eigenvalues: Float[Array, "n"] | Any,
    assignment: Assignment,
    sigma2: Scalar,
    *,
    beta: Scalar = 1.0,
    learn: Sequence[str] = WEIGHTS,
    rtol: float | None = None,
) -> Conditioning:
    """Index, nullity, condition number and escape rate at a stationary point.

    Index and nullity do not depend on the data's unit. The others do, as landscape/README.md, 3,
    says; `unit_free` has them for normalised data x/√λ₁, which is what one trains on.

    Args:
        eigenvalues: as for `blocks.eigenvalues`, like the arguments below.
        assignment: (k,) int.
        sigma2: noise variance.
        beta: weight of the KL.
        learn: which variables.
        rtol: by default no tolerance: signs are exact, zeros are ties and zeros of S alone
            (`blocks.inertia`). If given, |μ| below rtol · max|μ| counts as zero too, which depends
            on the data's unit.

    Raises:
        ValueError: as `blocks.eigenvalues`.
    """
    blocks.check_learn(learn)
    p = blocks.levels(eigenvalues, assignment, sigma2, beta)
    return _summarise(p, frozenset(learn), rtol)


@partial(jax.jit, static_argnames=("learn", "rtol"))
def _summarise(p: Levels, learn: frozenset[str], rtol: float | None) -> Conditioning:
    found = conditioning.summarise(blocks.at_levels(p, learn), rtol or 0.0)
    free = conditioning.summarise(blocks.at_levels(blocks.normalised(p), learn), rtol or 0.0)
    unit_free = UnitFree(free.stiffness, free.condition_number, free.escape_rate)
    if rtol is not None:
        return replace(found, unit_free=unit_free)
    count = blocks.inertia(p, learn)
    return replace(found, index=count.positive, nullity=count.zero, unit_free=unit_free)


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Path:
    """A pattern of collapse followed over σ².

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
def _path(
    eigenvalues: Array,
    pattern: Array,
    sigma2: Array,
    beta: Array,
    learn: frozenset[str],
    rtol: float | None,
    batch_size: int,
) -> Path:
    def at(s: Array) -> Path:
        a = jnp.where((pattern >= 0) & (eigenvalues[pattern] > beta * s), pattern, -1)
        summary = _summarise(blocks.levels(eigenvalues, a, s, beta), learn, rtol)
        return Path(s, a, stationary.value(eigenvalues, a, s, beta), summary)

    return jax.lax.map(at, sigma2, batch_size=batch_size)


def path(
    eigenvalues: Float[Array, "n"] | Any,
    pattern: Assignment,
    sigma2: Float[Array, "steps"] | Any,
    *,
    beta: Scalar = 1.0,
    learn: Sequence[str] = WEIGHTS,
    rtol: float | None = None,
    batch_size: int = 8,
) -> Path:
    """One pattern of collapse over many σ², in one compiled call.

    Latent j of the pattern sits on its component while βσ² < λ_i, and is collapsed beyond: the
    point with it on the component has merged with the one without. Its critical σ² is λ_i/β.

    Args:
        eigenvalues: (n,), of S, from large to small.
        pattern: (k,) int, an assignment, of any components.
        sigma2: (steps,), in any order.
        beta: weight of the KL.
        learn: which variables, see `blocks.eigenvalues`.
        rtol: see `summarise`.
        batch_size: σ² taken at once; each needs memory for all its eigenvalues.

    Raises:
        ValueError: unsorted or negative eigenvalues, σ² or β ≤ 0, a component twice or out of
            range.
    """
    blocks.check_learn(learn)
    eigenvalues = arrays.spectrum("eigenvalues", eigenvalues)
    sigma2 = arrays.as_float("sigma2", sigma2).astype(eigenvalues.dtype)
    checks.shape("sigma2", sigma2, ("steps",))
    checks.positive("sigma2", sigma2)
    beta = jnp.asarray(checks.positive_scalar("beta", beta, eigenvalues.dtype), eigenvalues.dtype)
    # any component will do: at some σ² it may exist
    pattern = stationary.read(pattern, jnp.ones_like(eigenvalues), 0.5)[0]
    return _path(
        eigenvalues,
        pattern,
        sigma2,
        beta,
        frozenset(learn),
        rtol,
        min(batch_size, len(sigma2)),
    )


class Histogram(NamedTuple):
    """Counts (bins,) of eigenvalues between edges (bins + 1,), the last bin closed."""

    counts: Int[Array, "bins"]
    edges: Float[Array, "edges"]


@partial(jax.jit, static_argnames=("learn", "bins"))
def _histogram(p: Levels, edges: Array | None, learn: frozenset[str], bins: int) -> Histogram:
    k, n = p.assignment.shape[0], p.owner.shape[0]
    threes, log_sigma2 = blocks.own_eigenvalues(p, "log_sigma2" in learn)
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
    eigenvalues: Float[Array, "n"] | Any,
    assignment: Assignment,
    sigma2: Scalar,
    bins: int | Float[Array, "edges"] | Any = 100,
    *,
    beta: Scalar = 1.0,
    learn: Sequence[str] = WEIGHTS,
    unit_free: bool = False,
) -> Histogram:
    """The whole spectrum as a histogram, latent by latent: O(n) memory.

    Args:
        eigenvalues: as for `blocks.eigenvalues`, like the arguments below.
        assignment: (k,) int.
        sigma2: noise variance.
        bins: their number, equal between the extreme eigenvalues; or their edges, increasing.
            Eigenvalues beyond the edges are not counted.
        beta: weight of the KL.
        learn: which variables.
        unit_free: of the data x/√λ₁ instead, as `blocks.eigenvalues`. In the data's own unit a
            histogram of fixed reach may miss one end of the spectrum.

    Returns:
        Counts as `numpy.histogram` of the flat spectrum, up to rounding at the edges.

    Raises:
        ValueError: as `blocks.eigenvalues`, or edges that do not increase.
    """
    blocks.check_learn(learn)
    p = blocks.levels(eigenvalues, assignment, sigma2, beta)
    p = blocks.normalised(p) if unit_free else p
    edges = None
    if isinstance(bins, int | np.integer):
        checks.in_range("bins", bins, 1, 2**31 - 1, "at least one")
    else:
        given = checks.numbers("bins", bins)
        increase = (
            not checks.concrete(given) or (np.asarray(given)[1:] > np.asarray(given)[:-1]).all()
        )
        edges = arrays.as_float("bins", given).astype(p.noise.dtype)
        if edges.shape[:1] in ((), (1,)) or not increase:
            checks.fail("bins", "edges that do not increase", "a number, or increasing edges")
        bins = len(edges) - 1
    return _histogram(p, edges, frozenset(learn), int(bins))
