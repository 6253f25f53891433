"""LOBPCG finds extreme eigenvalues without the Hessian, repeated ones with all their copies.

It works on a polynomial of H, block by block, and returns residuals: within ‖Hv − μv‖ of μ lies an
eigenvalue. Lanczos from one vector sees one copy of a repeated eigenvalue, and escape eigenvalues
repeat, one copy for each collapsed latent. A block sees as many copies as it has columns:
`extremes` grows it until a smaller eigenvalue shows up behind the last, `escapes` until no
positive one is left.

Both searches take a scalar function of a pytree. They end when no copy is missing and all residuals
are at most rtol · max|μ|, the maximum taken over both ends of the spectrum; or after `max_rounds`
rounds of LOBPCG, growth included. Look at `Extremes.complete`. `batch_size` Hessian-vector products
are made at once. Points are float64, and `key` draws the first block.

>>> import jax, jax.numpy as jnp
>>> from landscape.autodiff import lobpcg
>>> def f(v):
...     return 2 * v["a"] @ v["a"] - jnp.sum(v["b"] ** 2)
>>> with jax.enable_x64(True):
...     point = {"a": jnp.ones(3), "b": jnp.ones(97)}
...     found = lobpcg.escapes(f, point, jax.random.key(0), tolerance=0.1)
...     print(found.values.round(9).tolist(), found.complete)
[4.0, 4.0, 4.0] True
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse.linalg import lobpcg_standard
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from landscape.autodiff import lanczos
from landscape.autodiff.matrix_free import Function, PyTree, argument, check, operator
from linvae_jax._internal import checks

# The polynomial raises the largest eigenvalue to at most this: LOBPCG knows its values to ε of
# the largest, so that ten digits are left for those near the cut.
AMPLIFICATION = 1e5
MAX_DEGREE = 101
SWEEPS = 3  # LOBPCG iterations before the polynomial is adapted
# of a block that knows no eigenvalue yet: enough to tell the halves of the spectrum apart, cheap
# where it turns out to cut in the wrong place
FIRST_DEGREE = 11
PROBE_STEPS = 30  # of Lanczos, for the two ends; only the cost depends on how sharp they are


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Extremes:
    """Extremes are eigenvalues from one end of the spectrum, repeated ones repeated.

    Attributes:
        values: (m,), from the end inwards.
        vectors: pytree like the point with a leading axis (m,); orthonormal.
        residuals: (m,), ‖Hv − μv‖: so close to each value lies an eigenvalue.
        converged: (m,), residual at most rtol · max|μ|.
        multiplicity: (m,), how many of the values agree with this one to 10 rtol · max|μ|.
        complete: all converged, and the block holds a value beyond the last: no copy missing.
        products: Hessian-vector products spent.
    """

    values: Float[Array, "m"]
    vectors: PyTree
    residuals: Float[Array, "m"]
    converged: Bool[Array, "m"]
    multiplicity: Int[Array, "m"]
    complete: bool = field(metadata={"static": True})
    products: int = field(metadata={"static": True})


class _Block(NamedTuple):
    """A block has Ritz values (b,), decreasing, vectors (p, b) and residual norms (b,) of ±H."""

    values: Array
    vectors: Array
    residuals: Array


@partial(jax.jit, static_argnames=("sign", "sweeps", "batch_size"))
def _round(
    function: Partial,
    point: PyTree,
    start: Array,
    low: Array,
    cut: Array,
    degree: Array,
    sign: int,
    sweeps: int,
    batch_size: int,
) -> _Block:
    """Run LOBPCG on a Chebyshev polynomial, within ±1 on [low, cut], then Rayleigh–Ritz on H.

    The stiff end of H is a hundred thousand times as large as the eigenvalues that are looked
    for. On H itself LOBPCG would creep; the polynomial folds that end away.
    """
    product = operator(function, point)
    middle, radius = (cut + low) / 2, (cut - low) / 2

    def apply(V: Array) -> Array:
        if V.shape[1] <= batch_size:
            return sign * jax.vmap(product, in_axes=1, out_axes=1)(V)
        return sign * jax.lax.map(product, V.T, batch_size=batch_size).T

    def once(V: Array) -> Array:
        return (apply(V) - middle * V) / radius

    def polynomial(V: Array) -> Array:
        # T₁ = x T₀, then T_{i+1} = 2x T_i − T_{i−1}
        def step(i: Array, pair: tuple[Array, Array]) -> tuple[Array, Array]:
            return pair[1], jnp.where(i == 0, 1, 2) * once(pair[1]) - pair[0]

        # plus 2: where LOBPCG runs out of directions it fills up with zeros, which must not pass
        # for larger eigenvalues
        return jax.lax.fori_loop(0, degree, step, (jnp.zeros_like(V), V))[1] + 2 * V

    p = start.shape[0]
    # LOBPCG stops at a residual of 10 p tol: never by itself, the rounds decide that
    _, vectors, _ = lobpcg_standard(polynomial, start, sweeps, 1e-16 / p)
    vectors, _ = jnp.linalg.qr(vectors)
    image = apply(vectors)
    small = jnp.matmul(vectors.T, image, precision="highest")
    values, turn = jnp.linalg.eigh((small + small.T) / 2)
    values, turn = values[::-1], turn[:, ::-1]
    vectors = jnp.matmul(vectors, turn, precision="highest")
    image = jnp.matmul(image, turn, precision="highest")
    return _Block(values, vectors, jnp.linalg.norm(image - values * vectors, axis=0))


class _Bounds(NamedTuple):
    """These are a safe lower bound of ±H, its largest node, max|μ| about, and products spent."""

    low: float
    top: float
    scale: float
    products: int


def _bounds(function: Function, point: PyTree, key: Array, sign: int) -> _Bounds:
    p = ravel_pytree(point)[0].size
    steps = min(PROBE_STEPS, p)
    diagonal, offdiagonal, _ = lanczos.truncate(
        *lanczos.tridiagonal(argument(function), point, key, 2, steps, 2)
    )
    nodes = sign * np.asarray(lanczos.gauss_rule(diagonal, offdiagonal[:, :-1])[0])
    checks.finite("Hessian of function", nodes)
    scale = float(np.abs(nodes).max())
    # every eigenvalue that the probes see lies within the last β of the nodes; 5 % for others, and
    # a thousandth of the largest where all eigenvalues are equal
    margin = 0.05 * np.ptp(nodes) + 1e-3 * scale + float(np.asarray(offdiagonal)[:, -1].max())
    return _Bounds(float(nodes.min() - (margin or 1.0)), float(nodes.max()), scale, 2 * steps)


def _degree(low: float, cut: float, top: float) -> int:
    """Find the largest odd degree whose polynomial stays below `AMPLIFICATION` at the top.

    Odd, so that an eigenvalue below `low`, should there be one, becomes very negative.
    """
    stretch = np.arccosh(1 + max(2 * (top - cut) / (cut - low), 1e-12))
    return int(np.clip(np.arccosh(AMPLIFICATION) / stretch, 3, MAX_DEGREE) - 1) | 1


def _search(
    function: Function,
    point: PyTree,
    key: PRNGKeyArray,
    sign: int,
    wanted: Callable[[np.ndarray, float], tuple[int, float]],
    sizes: tuple[int, int],
    rtol: float,
    max_rounds: int,
    batch_size: int,
) -> Extremes:
    """Run rounds of LOBPCG in a block that grows until something lies behind what is wanted.

    `wanted` takes the block's Ritz values and how close equal ones are, and says how many of them
    to return, and which value the one behind them must stay below. `sizes` are the block's first
    and largest.
    """
    flat, unravel = ravel_pytree(point)
    p = flat.size
    room = (p - 1) // 5  # LOBPCG's own bound
    block, max_block = min(sizes), sizes[1]
    if block > room:
        checks.fail(
            "point",
            f"{p} parameters for a block of {block} vectors",
            f"more than {5 * block}",
            "A Hessian as small as this is best taken whole: hessian.dense.",
        )
    checks.positive("rtol", rtol)
    checks.in_range("max_rounds", max_rounds, 1, 2**31 - 1, "at least one")
    checks.in_range("batch_size", batch_size, 1, 2**31 - 1, "at least one")
    max_block = min(max_block, room)
    key_check, key_bounds, key_start, key_more = jax.random.split(key, 4)
    check(function, point, key_check)
    bounds = _bounds(function, point, key_bounds, sign)
    span = bounds.top - bounds.low
    target, equal = rtol * bounds.scale, 10 * rtol * bounds.scale
    products = bounds.products
    vectors = jax.random.normal(key_start, (p, block), flat.dtype)
    cut, degree = bounds.low + 0.5 * span, FIRST_DEGREE
    rounds = 0
    while True:
        rounds += 1
        found = _round(
            argument(function), point, vectors, bounds.low, cut, degree, sign, SWEEPS, batch_size
        )
        b = vectors.shape[1]
        # LOBPCG applies its operator to the block and its three bases at each iteration
        products += b * (degree * (4 * SWEEPS + 1) + 1)
        values, residuals = np.asarray(found.values), np.asarray(found.residuals)
        checks.finite("LOBPCG's residuals (products with the Hessian of function)", residuals)
        # Ritz values lie below the eigenvalues they stand for, so none that is wanted is cut off;
        # nor may the interval that is damped shrink to nothing
        cut = max(float(values[-1]), bounds.low + 1e-3 * span)
        degree = _degree(bounds.low, cut, max(bounds.top, float(values[0])))
        vectors = found.vectors
        m, edge = wanted(values, equal)
        # the one behind need not be sharp, but must not turn out to be another copy: an eigenvalue
        # lies within its residual, and that is to be a hundredth of the gap
        behind = residuals[m] if m < b else np.inf
        apart = m < b and behind <= max(target, 0.01 * (edge - values[m]))
        apart = bool(apart and values[m] + behind <= edge)
        if rounds == max_rounds or (apart and (residuals[:m] <= target).all()):
            break
        if m == b and b < max_block:
            key_new = jax.random.fold_in(key_more, rounds)
            extra = jax.random.normal(key_new, (p, min(2 * b, max_block) - b), flat.dtype)
            vectors = jnp.concatenate([vectors, extra], axis=1)
            cut, degree = bounds.low + 0.5 * (cut - bounds.low), FIRST_DEGREE

    converged = residuals[:m] <= target
    group = np.cumsum(np.append(0, -np.diff(values[:m]) > equal))[:m]
    return Extremes(
        values=sign * found.values[:m],
        vectors=jax.jit(jax.vmap(unravel, in_axes=1))(found.vectors[:, :m]),
        residuals=found.residuals[:m],
        converged=jnp.asarray(converged),
        multiplicity=jnp.asarray(np.bincount(group, minlength=1)[group]),
        complete=bool(converged.all() and apart),
        products=products,
    )


def extremes(
    function: Function,
    point: PyTree,
    key: PRNGKeyArray,
    count: int = 10,
    *,
    end: Literal["largest", "smallest"] = "largest",
    rtol: float = 1e-9,
    max_block: int | None = None,
    max_rounds: int = 20,
    batch_size: int = 64,
) -> Extremes:
    """Find eigenvalues from one end of the spectrum, with multiplicity.

    `end` is "largest" for the most positive eigenvalues, "smallest" for the most negative. At least
    `count` are found, and all copies of the last one. For copies the block grows from 3/2 count + 5
    columns to `max_block`, by default 4 count + 20, but not beyond p/5.

    Returns:
        `Extremes`. An eigenvalue lies within `residuals` of each value, and far closer where it
        stands alone. Look at `complete`.

    Raises:
        ValueError: as `matrix_free.check`, or p not larger than five blocks of 3/2 count + 5.

    Source: Knyazev 2001 (LOBPCG, as in JAX); Zhou & Saad 2007 (Chebyshev filters).
    """
    checks.in_range("count", count, 1, 2**31 - 1, "at least one")
    max_block = 4 * count + 20 if max_block is None else max_block
    checks.in_range("max_block", max_block, count, 2**31 - 1, "at least count")
    if end not in ("largest", "smallest"):
        checks.fail("end", repr(end), "'largest' or 'smallest'")

    def wanted(values: np.ndarray, equal: float) -> tuple[int, float]:
        edge = float(values[count - 1]) - equal
        return int((values >= edge).sum()), edge

    sign, sizes = 1 if end == "largest" else -1, (count + count // 2 + 5, max_block)
    return _search(function, point, key, sign, wanted, sizes, rtol, max_rounds, batch_size)


def escapes(
    function: Function,
    point: PyTree,
    key: PRNGKeyArray,
    *,
    tolerance: float,
    max_count: int = 200,
    rtol: float = 1e-9,
    max_rounds: int = 30,
    batch_size: int = 64,
) -> Extremes:
    """Find all eigenvalues above `tolerance` and their directions; their number is the index.

    The block doubles until it holds an eigenvalue that is not above the tolerance. The number
    found never exceeds the index, not even where `complete` is false (Ritz values lie below the
    eigenvalues); where it is true, they are all. For an index of thousands see `lanczos.index`.

    Accuracy is relative to max|μ|. With data far from unit variance the stiffest direction hides
    the ways to escape: look for them in `objectives.rescaled`, which has as many, and take the
    directions back by `objectives.in_data_units`.

    The function is to be maximised. Convergence is fast if the tolerance, > 0, is in a gap of the
    spectrum above the zeros. The search stops at `max_count` eigenvalues.

    Raises:
        ValueError: as `matrix_free.check`, tolerance ≤ 0, or p too small.
    """
    checks.positive("tolerance", tolerance)
    checks.in_range("max_count", max_count, 1, 2**31 - 1, "at least one")

    def wanted(values: np.ndarray, equal: float) -> tuple[int, float]:
        return int((values > tolerance).sum()), float(tolerance)

    most = max_count + max_count // 4 + 5
    return _search(function, point, key, 1, wanted, (16, most), rtol, max_rounds, batch_size)
