"""Single eigenvectors of the Hessian at a single-component stationary point show ways to escape.

`blocks` numbers the eigenvalues; here one number gives one direction, without the others. The
eigenvector of latent j with component i moves latent j along u_i in W and V. If another latent l
owns component i, it moves latent l along j's component as well, by as much in the same or the
opposite sense.

`eigenvectors` (n, m) are the leading ones of S, as many as the point has eigenvalues. `learn` must
have "W", "V" and "log_d", and may have "log_sigma2". It cannot have "mean", which is uncoupled: its
eigenvectors are the u_i. Another `learn`, and eigenvectors of another shape, raise `ValueError`.

>>> import jax.numpy as jnp
>>> from landscape.curvature import directions
>>> from landscape.points import stationary
>>> collapsed = stationary.point(jnp.array([4.0, 2.0, 0.5]), jnp.array([-1]), sigma2=1.0)
>>> for rate, way in directions.escape_directions(collapsed, jnp.eye(3)):
...     print(f"{rate:.3f}", abs(way.W[:, 0]).argmax(), abs(way.V[0]).argmax())
1.772 0 0
0.562 1 1
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from landscape.curvature import arrowhead, blocks, own_blocks
from landscape.curvature.blocks import WEIGHTS
from landscape.points.stationary import Point
from linvae_jax._internal import arrays, checks
from linvae_jax.linear import LinearVAEParams


def read(
    point: Point, eigenvectors: Float[Array, "n m"] | Any, learn: Sequence[str]
) -> tuple[Float[Array, "n m"], bool]:
    """Return the eigenvectors, checked, and whether log σ² is learned, or raise `ValueError`."""
    variables = blocks.learned(learn, optional=("log_sigma2",))
    eigenvectors = arrays.as_float("eigenvectors", eigenvectors).astype(point.eigenvalues.dtype)
    checks.shape("eigenvectors", eigenvectors, ("n", point.n))
    return eigenvectors, "log_sigma2" in variables


def turns(p: Point, latents: Int[Array, "*latents"]) -> tuple[Array, Array]:
    """Compute cosine and sine, each (*latents, m), of θ of the 2 × 2 blocks."""
    a, b, c, _ = blocks.pair_blocks(p, latents)
    return own_blocks.rotation(a, b, c)


def own(p: Point, learn_sigma2: bool) -> tuple[Float[Array, "k 3 3"], Float[Array, "p p"] | None]:
    """Compute eigenvectors of the 3 × 3 blocks, and of the arrowhead in their coordinates.

    Columns are in the eigenvalues' places (`blocks.Modes`); the second is None if log σ² is held.
    """
    threes, vectors = own_blocks.spectra(p)
    if not learn_sigma2:
        return vectors, None
    h = own_blocks.arrow(p, threes, vectors)
    m, edge = h.diagonal.size, h.edge.ravel()
    matrix = jnp.diag(jnp.append(h.diagonal, h.corner)).at[m, :m].set(edge).at[:m, m].set(edge)
    return vectors, jnp.linalg.eigh(matrix)[1][:, arrowhead.places(jnp.append(h.real, True))]


@jax.jit
def _pair(U: Array, p: Point, upper: Array, j: Array, i: Array) -> LinearVAEParams:
    """Make the eigenvector of latent j's block with component i, not its own."""
    n, k = U.shape[0], p.k
    cos, sin = (x[i] for x in turns(p, j))
    A, B = jnp.where(upper, cos, -sin), jnp.where(upper, sin, cos)
    l = p.owners[i]
    both = p.active[j] & (l < k)
    half = jnp.where(both, jnp.sqrt(0.5).astype(U.dtype), 1)
    # latent j along u_i, and l, if there is one, along j's component
    step = jnp.zeros((k, n), U.dtype).at[j].set(half * U[:, i])
    step = step.at[jnp.where(both, l, k)].set(
        jnp.where(j < l, half, -half) * U[:, p.assignment[j]], mode="drop"
    )
    return LinearVAEParams(A * step.T, B * step, jnp.zeros(k, U.dtype), jnp.zeros((), U.dtype))


@partial(jax.jit, static_argnames="learn_sigma2")
def _own(U: Array, p: Point, place: Array, learn_sigma2: bool) -> LinearVAEParams:
    """Make an eigenvector of the own blocks; `place` counts (latent, three), then log σ²."""
    k = p.k
    vectors, arrow = own(p, learn_sigma2)
    if arrow is None:
        y, log_sigma2 = jnp.zeros(3 * k, U.dtype).at[place].set(1), jnp.zeros((), U.dtype)
    else:
        y, log_sigma2 = arrow[:-1, place], arrow[-1, place]
    x = own_blocks.times(vectors, y.reshape(k, 3))
    columns = jnp.where(p.active, U[:, p.assignment], 0)
    return LinearVAEParams(columns * x[:, 0], (columns * x[:, 1]).T, x[:, 2], log_sigma2)


def _eigenvector(U: Array, p: Point, number: int, learn_sigma2: bool) -> LinearVAEParams:
    k, m = p.k, p.n
    checks.in_range(
        "number",
        number,
        0,
        (2 * m + 1) * k + learn_sigma2 - 1,
        "order of blocks.hessian_eigenvalues",
    )
    if number >= 2 * m * k:
        j = number - 2 * m * k
        return _own(U, p, jnp.asarray(3 * j + 2 if j < k else 3 * k), learn_sigma2)
    upper, pair = divmod(number, m * k)
    j, i = divmod(pair, m)
    if int(p.assignment[j]) == i:
        return _own(U, p, jnp.asarray(3 * j + upper), learn_sigma2)
    return _pair(U, p, jnp.asarray(upper == 1), jnp.asarray(j), jnp.asarray(i))


def eigenvector(
    point: Point,
    eigenvectors: Float[Array, "n m"] | Any,
    number: int,
    *,
    learn: Sequence[str] = WEIGHTS,
) -> LinearVAEParams:
    """Make the unit eigenvector that belongs to one of `blocks.hessian_eigenvalues`.

    `number` counts from 0 in the order of those eigenvalues, with m in place of n. The point must
    be of known values, not traced.

    Returns:
        A `LinearVAEParams`, the direction in the original basis; `log_sigma2` is zero if log σ² is
        held. The cost is O(nk), or O(k³) for an eigenvector of the arrowhead.

    Raises:
        ValueError: no such number.
    """
    eigenvectors, learn_sigma2 = read(point, eigenvectors, learn)
    return _eigenvector(eigenvectors, point, number, learn_sigma2)


def escape_directions(
    point: Point,
    eigenvectors: Float[Array, "n m"] | Any,
    *,
    learn: Sequence[str] = WEIGHTS,
    rtol: float | None = None,
) -> Iterator[tuple[Float[Array, ""], LinearVAEParams]]:
    """List all ways to escape, the fastest first; each is made when it is asked for.

    By default all positive eigenvalues are ways to escape, their signs being exact. With `rtol`,
    rates up to rtol · max|μ| count as zero, which depends on the data's unit. Errors are raised at
    the call.

    Returns:
        Pairs of rate, an eigenvalue > 0, and its unit eigenvector. `itertools.islice` takes the
        first few. Equal rates span one space of directions.
    """
    eigenvectors, learn_sigma2 = read(point, eigenvectors, learn)
    values = blocks.hessian_eigenvalues(point, learn=learn)
    rates = np.asarray(values)
    ways = np.flatnonzero(rates > (rtol or 0.0) * np.abs(rates).max())
    ways = ways[np.argsort(-rates[ways], kind="stable")]
    return ((values[w], _eigenvector(eigenvectors, point, int(w), learn_sigma2)) for w in ways)
