"""Hessian spectra without the Hessian: extreme eigenvalues, density, index, trace, log-determinant.

For models with no closed form. Where there is one, `blocks` is exact and thousands of times
faster; where the dense Hessian fits, so is `hessian.dense`. All that is asked of the function is
Hessian-vector products, `hessian.product`. Two methods, since neither does the other's work:

| question | function | method |
| --- | --- | --- |
| which are the largest, how often each? | `extremes` | LOBPCG of a polynomial of H |
| which are all ways to escape? | `escapes` | the same, until none is left |
| how are all of them spread? | `quadrature`, then see below | stochastic Lanczos quadrature |

LOBPCG returns residuals: within ‖Hv − μv‖ of μ lies an eigenvalue. A `Quadrature` holds what
`density`, `index`, `trace`, `trace_of` and `log_determinant` need; these return standard errors
over probes, and a bracket or a drift for the number of steps.

Lanczos from one vector sees one copy of a repeated eigenvalue, and escape eigenvalues repeat, one
copy for each collapsed latent. A block sees as many copies as it has columns: `extremes` grows it
until a smaller eigenvalue shows up behind the last. Quadrature needs no copies: the weight of a
node is how much of a random vector lies in the whole eigenspace.

>>> import jax, jax.numpy as jnp
>>> from landscape import lanczos
>>> def f(v):
...     return 2 * v["a"] @ v["a"] - jnp.sum(v["b"] ** 2)
>>> with jax.enable_x64(True):
...     point = {"a": jnp.ones(3), "b": jnp.ones(97)}
...     found = lanczos.escapes(f, point, jax.random.key(0), tolerance=0.1)
...     spectrum = lanczos.quadrature(f, point, jax.random.key(0), probes=2, steps=5)
...     trace = lanczos.trace(spectrum).value
...     print(found.values.round(9).tolist(), found.complete, trace.round(9))
[4.0, 4.0, 4.0] True -182.0
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse.linalg import lobpcg_standard
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from matfree import decomp, stochtrace

from landscape import hessian
from linvae_jax import _checks

PyTree = Any
Function = Callable[[PyTree], Float[Array, ""]]

# β_j below this many ε of the spectrum's size: what is left of the vector is rounding
BREAKDOWN = 1e4
# The polynomial raises the largest eigenvalue to at most this: LOBPCG knows its values to ε of
# the largest, so that ten digits are left for those near the cut.
AMPLIFICATION = 1e5
MAX_DEGREE = 101
SWEEPS = 3  # LOBPCG iterations before the polynomial is adapted


class Estimate(NamedTuple):
    """A Monte Carlo estimate.

    Attributes:
        value: (*shape,), mean over probes.
        standard_error: (*shape,), of that mean: the luck of the probes.
        drift: (*shape,), how far the last quarter of the Lanczos steps moved the value: an
            indication, no bound, of what too few steps leave out. Zero where steps do not matter.
    """

    value: Float[Array, "*shape"]
    standard_error: Float[Array, "*shape"]
    drift: Float[Array, "*shape"]


class IndexEstimate(NamedTuple):
    """How many eigenvalues exceed a tolerance.

    Attributes:
        value: (), middle of the bracket.
        standard_error: (), the luck of the probes.
        lower: (), the least that the Lanczos steps allow.
        upper: (), the most. With more steps the two meet; the exact count lies between them up to
            the luck of the probes.
    """

    value: Float[Array, ""]
    standard_error: Float[Array, ""]
    lower: Float[Array, ""]
    upper: Float[Array, ""]


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Quadrature:
    """Lanczos' tridiagonal matrix for each random probe: all that the estimates need.

    Where a probe found an invariant subspace its matrix ends, and its rule is exact; the rest of
    its row is filled with entries that carry no weight.

    Attributes:
        diagonal: (probes, steps), α.
        offdiagonal: (probes, steps), β, the last of which couples to the step not taken.
        steps_taken: (probes,), steps before an invariant subspace was found.
        parameters: p, the number of eigenvalues.
    """

    diagonal: Float[Array, "probes steps"]
    offdiagonal: Float[Array, "probes steps"]
    steps_taken: Int[Array, "probes"]
    parameters: int = field(metadata={"static": True})


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Extremes:
    """Eigenvalues from one end of the spectrum, repeated ones repeated.

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


def _operator(function: Function, point: PyTree) -> Callable[[Array], Array]:
    """H times a flat vector."""
    _, unravel = ravel_pytree(point)
    return lambda v: ravel_pytree(hessian.product(function, point, unravel(v)))[0]


def check(function: Function, point: PyTree, key: PRNGKeyArray) -> None:
    """Raise `ValueError` unless Lanczos can be trusted with this function at this point.

    The function is traced, compiled and run twice, so that randomness shows whether it is drawn
    as Python runs or as the device does.

    Args:
        function: scalar function of a pytree.
        point: where; float64.
        key: for two directions.

    Raises:
        ValueError: not float64, not finite, not scalar, not deterministic, or its derivative by
            forward over reverse is no symmetric matrix (`stop_gradient`, a custom derivative).
    """
    leaves, _ = jax.tree.flatten(point)
    if not leaves:
        _checks.fail("point", "no arrays", "a pytree of at least one array")
    for leaf in leaves:
        dtype = jnp.asarray(leaf).dtype
        if dtype != jnp.float64:
            _checks.fail(
                "point",
                f"an array of dtype {dtype}",
                "float64 throughout",
                "Small eigenvalues drown in the rounding of large ones: enable jax_enable_x64.",
            )
        _checks.finite("point", leaf)
    out = jax.eval_shape(function, point)
    if getattr(out, "shape", None) != () or not jnp.issubdtype(out.dtype, jnp.floating):
        _checks.fail("function", f"a function with values {out}", "a real scalar function")

    flat, _ = ravel_pytree(point)
    u, v = jax.random.normal(key, (2, flat.size), flat.dtype)

    def run(point: PyTree, u: Array, v: Array) -> tuple[Array, Array, Array]:
        product = _operator(function, point)
        return ravel_pytree(jax.grad(function)(point))[0], product(u), product(v)

    try:
        # a new lambda each time: jit would give back what it traced the first time
        gradient, Hu, Hv = (np.asarray(x) for x in jax.jit(lambda *a: run(*a))(point, u, v))
        again = [np.asarray(x) for x in jax.jit(lambda *a: run(*a))(point, u, v)]
    except jax.errors.UnexpectedTracerError:
        _checks.fail(
            "function",
            "one that keeps state, such as a key that it splits, from one call to the next",
            "a deterministic function",
        )
    _checks.finite("gradient of function", gradient)
    _checks.finite("Hessian of function", Hu)
    _checks.finite("Hessian of function", Hv)
    # atomics on a GPU reorder sums: some ε; a noisy function differs by its noise
    rounding = 1e4 * np.finfo(flat.dtype).eps
    size = sum(np.linalg.norm(x) for x in (gradient, Hu, Hv))
    gap = sum(np.linalg.norm(x - y) for x, y in zip((gradient, Hu, Hv), again, strict=True))
    if not gap <= rounding * size:
        _checks.fail(
            "function",
            f"derivatives that differ by {gap / size:.1e} of their size between two runs",
            "a deterministic function",
            "Close over one random key, or over one set of noise, instead of drawing it anew.",
        )
    u, v = np.asarray(u), np.asarray(v)
    skew = abs(v @ Hu - u @ Hv)
    if skew > np.sqrt(rounding) * np.linalg.norm(u) * (np.linalg.norm(Hu) + np.linalg.norm(Hv)):
        _checks.fail(
            "function",
            f"u'Hv and v'Hu that differ by {skew:.1e}",
            "a symmetric Hessian",
            "Is there a stop_gradient or a custom derivative in it?",
        )


# Stochastic Lanczos quadrature


@jax.jit
def truncate(
    diagonal: Float[Array, "probes steps"], offdiagonal: Float[Array, "probes steps"]
) -> tuple[Float[Array, "probes steps"], Float[Array, "probes steps"], Int[Array, "probes"]]:
    """Cut tridiagonal matrices where their probe found an invariant subspace.

    There β_j is rounding, or zero and all that follows NaN: matfree goes on with the noise that
    is left, normalised. Up to there the matrix is exact.

    Returns:
        Both diagonals with zero β from there on, and the steps before.
    """
    steps = diagonal.shape[1]
    # the largest so far: after a breakdown nothing can be believed
    both = jnp.abs(diagonal) + jnp.abs(offdiagonal)
    scale = jax.lax.cummax(jnp.where(jnp.isnan(both), 0, both), axis=1)
    small = ~(offdiagonal > BREAKDOWN * jnp.finfo(diagonal.dtype).eps * scale)
    taken = jnp.where(small.any(axis=1), jnp.argmax(small, axis=1) + 1, steps)
    place = jnp.arange(steps)
    diagonal = jnp.where(place < taken[:, None], diagonal, diagonal[:, :1])
    kept = (place < taken[:, None]) & ~small
    return diagonal, jnp.where(kept, offdiagonal, 0), taken


@partial(jax.jit, static_argnames=("function", "probes", "steps", "batch_size"))
def _tridiagonal(
    function: Function, point: PyTree, key: Array, probes: int, steps: int, batch_size: int
) -> tuple[Array, Array]:
    flat, _ = ravel_pytree(point)
    product = _operator(function, point)
    # not tridiag_sym: it averages both off-diagonals, and a breakdown makes only the lower small
    decompose = decomp.hessenberg(steps, reortho="full", custom_vjp=False)

    def of_probe(probe: Array) -> tuple[Array, Array]:
        found = decompose(product, probe)
        matrix = cast(Array, found.J_small)
        lower = jnp.diagonal(matrix, -1)
        return jnp.diagonal(matrix), jnp.append(lower, jnp.linalg.norm(found.residual))

    # signs: α_0 is then the trace with the least variance that needs no knowledge of H
    signs = stochtrace.sampler_signs(flat, num=probes)(key)
    return jax.lax.map(of_probe, signs, batch_size=batch_size)


def quadrature(
    function: Function,
    point: PyTree,
    key: PRNGKeyArray,
    *,
    probes: int = 10,
    steps: int = 60,
    batch_size: int = 4,
) -> Quadrature:
    """Stochastic Lanczos quadrature: a few numbers that stand for the whole spectrum.

    Each probe is a random vector of signs; Lanczos with full reorthogonalisation turns it into a
    Gauss rule for the spectrum as that vector sees it.

    Args:
        function: scalar function of a pytree.
        point: where; float64.
        key: for the probes.
        probes: errors shrink as 1/√probes.
        steps: Hessian-vector products for each probe; at most p. Details of the spectrum finer
            than its width over `steps`, more coarsely in the middle than at the ends, stay unseen.
        batch_size: probes at once; each needs memory for `steps` vectors.

    Raises:
        ValueError: as `check`, fewer than two probes, not 1 ≤ steps ≤ p.

    Source: Ubaru, Chen, Saad, SIAM J. Matrix Anal. Appl. 2017; Golub & Meurant 2010.
    """
    p = ravel_pytree(point)[0].size
    _checks.in_range("probes", probes, 2, 2**31 - 1, "a standard error needs two")
    _checks.in_range("steps", steps, 1, p, "the number of parameters")
    _checks.in_range("batch_size", batch_size, 1, 2**31 - 1, "at least one")
    key_check, key = jax.random.split(key)
    check(function, point, key_check)
    found = _tridiagonal(function, point, key, probes, steps, min(batch_size, probes))
    diagonal, offdiagonal, taken = truncate(*found)
    _checks.finite("Hessian of function", diagonal)
    return Quadrature(diagonal, offdiagonal, taken, p)


def shortened(spectrum: Quadrature, steps: int) -> Quadrature:
    """What fewer steps from the same probes would have given."""
    _checks.in_range("steps", steps, 1, spectrum.diagonal.shape[1], "the steps there are")
    return Quadrature(
        spectrum.diagonal[:, :steps],
        spectrum.offdiagonal[:, :steps],
        jnp.minimum(spectrum.steps_taken, steps),
        spectrum.parameters,
    )


def rule(
    spectrum: Quadrature,
) -> tuple[Float[Array, "probes steps"], Float[Array, "probes steps"]]:
    """Nodes (probes, steps) and weights (probes, steps) of each probe's rule; weights add to 1."""
    return _rule(spectrum.diagonal, spectrum.offdiagonal[:, :-1])


@jax.jit
def _rule(diagonal: Array, offdiagonal: Array) -> tuple[Array, Array]:
    places = jnp.arange(diagonal.shape[1])
    T = jnp.zeros((*diagonal.shape, places.size), diagonal.dtype)
    T = T.at[:, places, places].set(diagonal)
    T = T.at[:, places[1:], places[:-1]].set(offdiagonal)
    T = T.at[:, places[:-1], places[1:]].set(offdiagonal)
    nodes, vectors = jnp.linalg.eigh(T)
    return nodes, vectors[:, 0] ** 2


def _scale(spectrum: Quadrature) -> Float[Array, ""]:
    """Largest |node|, a little less than max|μ|."""
    return jnp.abs(rule(spectrum)[0]).max()


def _mean(of_probes: Array, drift: Array | None = None) -> Estimate:
    """Mean and standard error over the leading axis."""
    value = of_probes.mean(axis=0)
    error = of_probes.std(axis=0, ddof=1) / jnp.sqrt(of_probes.shape[0])
    return Estimate(value, error, jnp.zeros_like(value) if drift is None else drift)


def trace(spectrum: Quadrature) -> Estimate:
    """Trace of the Hessian, by Hutchinson: the mean of vᵀHv = p α_0. Needs no more than one step.

    Estimate, unbiased.
    """
    return _mean(spectrum.parameters * spectrum.diagonal[:, 0])


def _trace_of(
    spectrum: Quadrature, of_eigenvalue: Callable[[Array], Array]
) -> Float[Array, "probes *shape"]:
    nodes, weights = rule(spectrum)
    values = of_eigenvalue(nodes)
    weights = weights.reshape(weights.shape + (1,) * (values.ndim - 2))
    # a filler has no weight, whatever the function is there
    terms = jnp.where(weights > 0, weights * values, 0)
    return spectrum.parameters * terms.sum(axis=1)


def trace_of(spectrum: Quadrature, of_eigenvalue: Callable[[Array], Array]) -> Estimate:
    """Σ f(μ) over all eigenvalues, the trace of f(H).

    Args:
        spectrum: from `quadrature`.
        of_eigenvalue: f, elementwise (probes, steps) → (probes, steps, *shape). The smoother it
            is on the scale of spectrum width over steps, the better.

    Returns:
        Estimate (*shape,).
    """
    of_probes = _trace_of(spectrum, of_eigenvalue)
    steps = spectrum.diagonal.shape[1]
    # cut by a zero in place: another shape would compile anew
    kept = jnp.arange(steps) < max(1, steps - max(1, steps // 4))
    short = Quadrature(
        jnp.where(kept, spectrum.diagonal, spectrum.diagonal[:, :1]),
        jnp.where(kept & jnp.append(kept[1:], False), spectrum.offdiagonal, 0),
        spectrum.steps_taken,
        spectrum.parameters,
    )
    return _mean(of_probes, jnp.abs((of_probes - _trace_of(short, of_eigenvalue)).mean(axis=0)))


def density(
    spectrum: Quadrature,
    grid: Float[Array, "points"],
    width: float | Float[Array, ""] | None = None,
) -> Estimate:
    """Spectral density, each eigenvalue a Gaussian of area 1/p.

    Args:
        spectrum: from `quadrature`.
        grid: (points,), where.
        width: standard deviation of the Gaussians; by default the width of the spectrum over the
            number of steps, about what those resolve.

    Returns:
        Estimate (points,), per unit of eigenvalue; integrates to one.
    """
    if width is None:
        nodes, _ = rule(spectrum)
        span = nodes.max() - nodes.min()
        width = jnp.where(span > 0, span, 1) / spectrum.diagonal.shape[1]
    _checks.positive("width", width)

    def bell(nodes: Array) -> Array:
        z = (jnp.asarray(grid) - nodes[..., None]) / width
        area = width * jnp.sqrt(2 * jnp.pi) * spectrum.parameters
        return jnp.exp(-(z**2) / 2) / area

    return trace_of(spectrum, bell)


def index(spectrum: Quadrature, tolerance: float | Float[Array, ""] | None = None) -> IndexEstimate:
    """Number of eigenvalues above `tolerance`: the index, if it parts zeros from positive ones.

    A step function is no polynomial, so a Gauss rule could be wrong by the weight of a node.
    Gauss–Radau, with a node put on the tolerance itself, is wrong by at most that node's weight,
    which makes the bracket (Chebyshev–Markov–Stieltjes). It is narrow where no eigenvalues are
    near: put the tolerance in a gap of the spectrum, not at the edge of the zeros.

    Args:
        spectrum: from `quadrature`.
        tolerance: by default 10 p ε max|μ|, as in `conditioning.summarise`; zeros are then inside
            the bracket, unless an invariant subspace was found.

    Returns:
        Estimate with a bracket. Exact for a probe that found an invariant subspace, up to its luck.
    """
    if tolerance is None:
        eps = jnp.finfo(spectrum.diagonal.dtype).eps
        tolerance = 10 * spectrum.parameters * eps * _scale(spectrum)
    _checks.finite("tolerance", tolerance)
    lower, upper = _bracket(spectrum, jnp.asarray(tolerance, spectrum.diagonal.dtype))
    middle = _mean((lower + upper) / 2)
    return IndexEstimate(middle.value, middle.standard_error, lower.mean(), upper.mean())


@jax.jit
def _bracket(spectrum: Quadrature, t: Array) -> tuple[Array, Array]:
    """Least and most eigenvalues above t, for each probe, by Gauss–Radau with a node at t."""
    diagonal, inner = spectrum.diagonal, spectrum.offdiagonal[:, :-1]
    last = spectrum.offdiagonal[:, -1]
    eps = jnp.finfo(diagonal.dtype).eps
    close = jnp.sqrt(eps) * (_scale(spectrum) + jnp.abs(t))
    # a matrix one larger has the eigenvalue t if its last entry is t + β² [(T − t)⁻¹]_mm
    nodes, _ = _rule(diagonal, inner)
    # reversed, the first component of an eigenvector is the last one
    _, ends = _rule(diagonal[:, ::-1], inner[:, ::-1])
    gap = nodes - t
    there = jnp.abs(gap) < close
    pull = (ends / jnp.where(there, jnp.inf, gap)).sum(axis=1)
    # with a Gauss node on t already, Gauss will do
    coupling = jnp.where(there.any(axis=1), 0, last)
    nodes, weights = _rule(
        jnp.append(diagonal, (t + coupling**2 * pull)[:, None], axis=1),
        jnp.append(inner, coupling[:, None], axis=1),
    )
    # the last entry may be as large as scale²/close, and t an eigenvalue to ε of that;
    # in an invariant subspace the nodes are eigenvalues, and above t or not
    on_it = (jnp.abs(nodes - t) <= 2 * close) & (last > 0)[:, None]
    above = nodes > t
    count = spectrum.parameters * jnp.stack(
        [(weights * (above & ~on_it)).sum(axis=1), (weights * (above | on_it)).sum(axis=1)]
    )
    return count[0], count[1]


def log_determinant(
    spectrum: Quadrature,
    *,
    sign: Literal[1, -1] = 1,
    shift: float | Float[Array, ""] = 0.0,
) -> Estimate:
    """Logarithm of |det(sign · H + shift · I)|, nats.

    For a Laplace approximation at a maximum: sign = −1, with the prior's precision as shift. The
    logarithm needs many steps where an eigenvalue of sign · H + shift is close to zero, and its
    drift then says so; best is a shift that makes all of them positive.

    Args:
        spectrum: from `quadrature`.
        sign: of H.
        shift: added to every eigenvalue after the sign.

    Raises:
        ValueError: sign not ±1, or singular to rounding.
    """
    if sign not in (1, -1):
        _checks.fail("sign", sign, "1 or -1")
    _checks.finite("shift", shift)
    nodes, weights = rule(spectrum)
    if _checks.concrete(nodes, weights, shift):
        eps = float(jnp.finfo(nodes.dtype).eps)
        size = np.abs(sign * np.asarray(nodes) + float(shift))
        bottom = spectrum.parameters * eps * (float(_scale(spectrum)) + abs(float(shift)))
        if (np.asarray(weights)[size <= bottom] > eps).any():
            _checks.fail(
                "shift",
                f"{float(shift):g}, with which an eigenvalue is zero to rounding",
                "a non-singular matrix",
                "Degenerate directions have log-determinant -inf: shift them away from zero.",
            )
    return trace_of(spectrum, lambda mu: jnp.log(jnp.abs(sign * mu + shift)))


# Extreme eigenvalues


class _Block(NamedTuple):
    """Ritz values (b,), decreasing, vectors (p, b) and residual norms (b,) of ±H."""

    values: Array
    vectors: Array
    residuals: Array


def _matmat(function: Function, point: PyTree, sign: int, batch_size: int) -> Any:
    """± H times the columns of a matrix."""
    product = _operator(function, point)

    def apply(V: Array) -> Array:
        if V.shape[1] <= batch_size:
            return sign * jax.vmap(product, in_axes=1, out_axes=1)(V)
        return sign * jax.lax.map(product, V.T, batch_size=batch_size).T

    return apply


@partial(jax.jit, static_argnames=("function", "sign", "sweeps", "batch_size"))
def _round(
    function: Function,
    point: PyTree,
    start: Array,
    low: Array,
    cut: Array,
    degree: Array,
    sign: int,
    sweeps: int,
    batch_size: int,
) -> _Block:
    """LOBPCG on the Chebyshev polynomial that keeps [low, cut] within ±1, then Rayleigh–Ritz on H.

    The stiff end of H is a hundred thousand times as large as the eigenvalues that are looked
    for. On H itself LOBPCG would creep; the polynomial folds that end away.
    """
    apply = _matmat(function, point, sign, batch_size)
    middle, radius = (cut + low) / 2, (cut - low) / 2

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
    """A safe lower bound of ±H, its largest node, max|μ| about, and products spent."""

    low: float
    top: float
    scale: float
    products: int


def _bounds(function: Function, point: PyTree, key: Array, sign: int) -> _Bounds:
    p = ravel_pytree(point)[0].size
    steps = min(30, p)
    diagonal, offdiagonal, _ = truncate(*_tridiagonal(function, point, key, 2, steps, 2))
    nodes = sign * np.asarray(_rule(diagonal, offdiagonal[:, :-1])[0])
    _checks.finite("Hessian of function", nodes)
    scale = float(np.abs(nodes).max())
    # every eigenvalue that the probes see lies within the last β of the nodes; 5 % for others
    margin = 0.05 * np.ptp(nodes) + 1e-3 * scale + float(np.asarray(offdiagonal)[:, -1].max())
    return _Bounds(float(nodes.min() - (margin or 1.0)), float(nodes.max()), scale, 2 * steps)


def _degree(low: float, cut: float, top: float) -> int:
    """Largest odd degree whose polynomial stays below `AMPLIFICATION` at the top.

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
    *,
    block: int,
    max_block: int,
    rtol: float,
    max_rounds: int,
    batch_size: int,
) -> Extremes:
    """Rounds of LOBPCG in a block that grows until something lies behind what is wanted.

    `wanted` takes the block's Ritz values and how close equal ones are, and says how many of them
    to return, and which value the one behind them must stay below.
    """
    flat, unravel = ravel_pytree(point)
    p = flat.size
    room = (p - 1) // 5  # LOBPCG's own bound
    block = min(block, max_block)
    if block > room:
        _checks.fail(
            "point",
            f"{p} parameters for a block of {block} vectors",
            f"more than {5 * block}",
            "A Hessian as small as this is best taken whole: hessian.dense.",
        )
    _checks.positive("rtol", rtol)
    _checks.in_range("max_rounds", max_rounds, 1, 2**31 - 1, "at least one")
    _checks.in_range("batch_size", batch_size, 1, 2**31 - 1, "at least one")
    max_block = min(max_block, room)
    key_check, key_bounds, key = jax.random.split(key, 3)
    check(function, point, key_check)
    bounds = _bounds(function, point, key_bounds, sign)
    span = bounds.top - bounds.low
    target, equal = rtol * bounds.scale, 10 * rtol * bounds.scale
    products = bounds.products
    vectors = jax.random.normal(key, (p, block), flat.dtype)
    cut, degree = bounds.low + 0.5 * span, 11
    rounds = 0
    while True:
        rounds += 1
        found = _round(function, point, vectors, bounds.low, cut, degree, sign, SWEEPS, batch_size)
        b = vectors.shape[1]
        # LOBPCG applies its operator to the block and its three bases at each iteration
        products += b * (degree * (4 * SWEEPS + 1) + 1)
        values, residuals = np.asarray(found.values), np.asarray(found.residuals)
        _checks.finite("LOBPCG's residuals (products with the Hessian of function)", residuals)
        # Ritz values lie below the eigenvalues they stand for, so none that is wanted is cut off
        cut = max(float(values[-1]), bounds.low + 1e-3 * span)
        degree = _degree(bounds.low, cut, max(bounds.top, float(values[0])))
        vectors = found.vectors
        m, edge = wanted(values, equal)
        # the one behind need not be sharp, but must not turn out to be another copy
        behind = residuals[m] if m < b else np.inf
        apart = m < b and behind <= max(target, 0.01 * (edge - values[m]))
        apart = bool(apart and values[m] + behind <= edge)
        if rounds == max_rounds or (apart and (residuals[:m] <= target).all()):
            break
        if m == b and b < max_block:
            key, key_new = jax.random.split(key)
            extra = jax.random.normal(key_new, (p, min(2 * b, max_block) - b), flat.dtype)
            vectors = jnp.concatenate([vectors, extra], axis=1)
            cut, degree = bounds.low + 0.5 * (cut - bounds.low), 11

    converged = residuals[:m] <= target
    group = np.cumsum(np.append(0, -np.diff(values[:m]) > equal))[:m]
    return Extremes(
        values=sign * found.values[:m],
        vectors=jax.vmap(unravel)(found.vectors[:, :m].T),
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
    """Eigenvalues from one end of the spectrum, with multiplicity.

    Args:
        function: scalar function of a pytree.
        point: where; float64.
        key: for the start.
        count: at least so many; where the last of them is repeated, all its copies.
        end: "largest" for the most positive, "smallest" for the most negative.
        rtol: residuals to reach, relative to max|μ|, the stiff end's too.
        max_block: how far the block may grow after copies, from 3/2 count + 5 to at most p/5; by
            default 4 count + 20.
        max_rounds: of LOBPCG, growth included; then what there is is returned, and says so.
        batch_size: Hessian-vector products at once.

    Returns:
        `Extremes`. An eigenvalue lies within `residuals` of each value, and far closer where it
        stands alone. Look at `complete`.

    Raises:
        ValueError: as `check`, or p not larger than five blocks of 3/2 count + 5.

    Source: Knyazev 2001 (LOBPCG, as in JAX); Zhou & Saad 2007 (Chebyshev filters).
    """
    _checks.in_range("count", count, 1, 2**31 - 1, "at least one")
    max_block = 4 * count + 20 if max_block is None else max_block
    _checks.in_range("max_block", max_block, count, 2**31 - 1, "at least count")
    if end not in ("largest", "smallest"):
        _checks.fail("end", repr(end), "'largest' or 'smallest'")

    def wanted(values: np.ndarray, equal: float) -> tuple[int, float]:
        edge = float(values[count - 1]) - equal
        return int((values >= edge).sum()), edge

    return _search(
        function,
        point,
        key,
        1 if end == "largest" else -1,
        wanted,
        block=count + count // 2 + 5,
        max_block=max_block,
        rtol=rtol,
        max_rounds=max_rounds,
        batch_size=batch_size,
    )


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
    """All eigenvalues above `tolerance` and their directions; their number is the index.

    The block doubles until it holds an eigenvalue that is not above the tolerance. The number
    found never exceeds the index, not even where `complete` is false (Ritz values lie below the
    eigenvalues); where it is true, they are all. For an index of thousands see `index`.

    Args:
        function: scalar function of a pytree, to be maximised.
        point: where; float64.
        key: for the start.
        tolerance: > 0, in a gap of the spectrum, above the zeros, for fast convergence.
        max_count: stop at so many.
        rtol: as `extremes`, like the arguments below.
        max_rounds: of LOBPCG.
        batch_size: products at once.

    Raises:
        ValueError: as `check`, tolerance ≤ 0, or p too small.
    """
    _checks.positive("tolerance", tolerance)
    _checks.in_range("max_count", max_count, 1, 2**31 - 1, "at least one")

    def wanted(values: np.ndarray, equal: float) -> tuple[int, float]:
        return int((values > tolerance).sum()), float(tolerance)

    most = max_count + max_count // 4 + 5
    return _search(
        function,
        point,
        key,
        1,
        wanted,
        block=min(16, most),
        max_block=most,
        rtol=rtol,
        max_rounds=max_rounds,
        batch_size=batch_size,
    )
