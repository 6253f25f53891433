"""Lanczos tells a Hessian's spectrum without the Hessian: density, index, trace, determinant.

Use it for models with no closed form. Where there is one, `blocks` is exact and thousands of times
faster; where the dense Hessian fits, so is `hessian.dense`. The function is a scalar function of a
pytree, used only for Hessian-vector products (`hessian.product`). For single eigenvalues from the
ends see `lobpcg`.

`quadrature` (stochastic Lanczos) makes a `Quadrature`. From it `density`, `index`, `trace`,
`trace_of` and `log_determinant` make estimates. Each has a standard error, for the number of
probes, and a bracket or a drift, for the number of steps.

Lanczos from one vector sees one copy of a repeated eigenvalue, and escape eigenvalues repeat, one
copy for each collapsed latent. Quadrature needs no copies, since the weight of a node is how much
of a random vector lies in the whole eigenspace.

>>> import jax, jax.numpy as jnp
>>> from landscape.autodiff import lanczos
>>> def f(v):
...     return 2 * v["a"] @ v["a"] - jnp.sum(v["b"] ** 2)
>>> with jax.enable_x64(True):
...     point = {"a": jnp.ones(3), "b": jnp.ones(97)}
...     spectrum = lanczos.quadrature(f, point, jax.random.key(0), probes=2, steps=5)
...     print(lanczos.trace(spectrum).value.round(9))
-182.0
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PRNGKeyArray
from matfree import decomp, stochtrace

from landscape.autodiff import hessian
from landscape.autodiff.matrix_free import Function, PyTree, argument, check, operator
from linvae_jax._internal import checks

# β_j below this many ε of the spectrum's size: what is left of the vector is rounding
BREAKDOWN = 1e4


class Estimate(NamedTuple):
    """A Monte Carlo estimate is a mean over random probes.

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
    """An index estimate says how many eigenvalues exceed a tolerance.

    Attributes:
        value: middle of the bracket.
        standard_error: the luck of the probes.
        lower: the least that the Lanczos steps allow.
        upper: the most. With more steps the two meet; the exact count lies between them up to
            the luck of the probes.
    """

    value: Float[Array, ""]
    standard_error: Float[Array, ""]
    lower: Float[Array, ""]
    upper: Float[Array, ""]


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Quadrature:
    """Lanczos' tridiagonal matrix for each random probe is all that the estimates need.

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


@jax.jit
def truncate(
    diagonal: Float[Array, "probes steps"], offdiagonal: Float[Array, "probes steps"]
) -> tuple[Float[Array, "probes steps"], Float[Array, "probes steps"], Int[Array, "probes"]]:
    """Cut tridiagonal matrices where their probe found an invariant subspace.

    From there on β_j is rounding, or zero followed by NaN, because matfree goes on with the noise
    that is left, normalised. Up to there the matrix is exact. Returned are both diagonals, with
    zero β from there on, and the number of steps before.
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


@partial(jax.jit, static_argnames=("probes", "steps", "batch_size"))
def tridiagonal(
    function: Partial, point: PyTree, key: Array, probes: int, steps: int, batch_size: int
) -> tuple[Array, Array]:
    """Compute Lanczos' α (probes, steps) and β likewise, from random signs, before `truncate`."""
    flat, _ = ravel_pytree(point)
    product = operator(function, point)
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
    """Replace the whole spectrum by a few numbers: stochastic Lanczos quadrature.

    Each probe is a random vector of signs, drawn from `key`. Lanczos with full reorthogonalisation
    turns it into a Gauss rule for the spectrum as that vector sees it. Errors shrink as 1/√probes.
    The point is float64.

    A probe takes `steps` Hessian-vector products, p at most. `batch_size` probes run at once, and
    each needs memory for `steps` vectors. Details of the spectrum finer than its width over `steps`
    stay unseen; the resolution is coarser in the middle than at the ends.

    Raises:
        ValueError: as `matrix_free.check`, fewer than two probes, not 1 ≤ steps ≤ p.

    Source: Ubaru, Chen, Saad, SIAM J. Matrix Anal. Appl. 2017; Golub & Meurant 2010.
    """
    p = ravel_pytree(point)[0].size
    checks.in_range("probes", probes, 2, 2**31 - 1, "a standard error needs two")
    checks.in_range("steps", steps, 1, p, "the number of parameters")
    checks.in_range("batch_size", batch_size, 1, 2**31 - 1, "at least one")
    key_check, key_probes = jax.random.split(key)
    check(function, point, key_check)
    size = min(batch_size, probes)
    found = tridiagonal(argument(function), point, key_probes, probes, steps, size)
    diagonal, offdiagonal, taken = truncate(*found)
    checks.finite("Hessian of function", diagonal)
    return Quadrature(diagonal, offdiagonal, taken, p)


def rule(
    spectrum: Quadrature,
) -> tuple[Float[Array, "probes steps"], Float[Array, "probes steps"]]:
    """Return nodes and weights (probes, steps) of each probe's rule; weights add to 1."""
    return gauss_rule(spectrum.diagonal, spectrum.offdiagonal[:, :-1])


@jax.jit
def gauss_rule(diagonal: Array, offdiagonal: Array) -> tuple[Array, Array]:
    """Return tridiagonal matrices' eigenvalues, and the squares of their vectors' first entries."""
    places = jnp.arange(diagonal.shape[1])
    T = jnp.zeros((*diagonal.shape, places.size), diagonal.dtype)
    T = T.at[:, places, places].set(diagonal)
    T = T.at[:, places[1:], places[:-1]].set(offdiagonal)
    T = T.at[:, places[:-1], places[1:]].set(offdiagonal)
    nodes, vectors = jnp.linalg.eigh(T)
    return nodes, vectors[:, 0] ** 2


def _scale(spectrum: Quadrature) -> Float[Array, ""]:
    """Return the largest |node|, a little less than max|μ|."""
    return jnp.abs(rule(spectrum)[0]).max()


@jax.jit
def _mean(of_probes: Array, before: Array | None = None) -> Estimate:
    """Average over the leading axis, with the standard error, and the drift from `before`."""
    value = of_probes.mean(axis=0)
    error = of_probes.std(axis=0, ddof=1) / jnp.sqrt(of_probes.shape[0])
    if before is None:
        return Estimate(value, error, jnp.zeros_like(value))
    return Estimate(value, error, jnp.abs((of_probes - before).mean(axis=0)))


def trace(spectrum: Quadrature) -> Estimate:
    """Estimate the trace, unbiased, by Hutchinson: the mean of vᵀHv = p α_0. One step is enough."""
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
    """Estimate Σ f(μ) over all eigenvalues, the trace of f(H).

    `of_eigenvalue` is f. It works elementwise, (probes, steps) → (probes, steps, *shape); the
    estimate is (*shape,). The smoother f is on the scale of the spectrum's width over the number of
    steps, the better.
    """
    of_probes = _trace_of(spectrum, of_eigenvalue)
    diagonal, offdiagonal = _shortened(spectrum.diagonal, spectrum.offdiagonal)
    short = replace(spectrum, diagonal=diagonal, offdiagonal=offdiagonal)
    return _mean(of_probes, _trace_of(short, of_eigenvalue))


@jax.jit
def _shortened(diagonal: Array, offdiagonal: Array) -> tuple[Array, Array]:
    """Leave out the last quarter of the steps: a zero in place cuts, so that the shape stays."""
    steps = diagonal.shape[1]
    kept = jnp.arange(steps) < max(1, steps - max(1, steps // 4))
    return (
        jnp.where(kept, diagonal, diagonal[:, :1]),
        jnp.where(kept & jnp.append(kept[1:], False), offdiagonal, 0),
    )


def density(
    spectrum: Quadrature,
    grid: Float[Array, "points"],
    width: float | Float[Array, ""] | None = None,
) -> Estimate:
    """Estimate the spectral density, each eigenvalue a Gaussian of area 1/p.

    The estimate (points,) is per unit of eigenvalue, and integrates to one. `width` is the standard
    deviation of the Gaussians. By default it is the width of the spectrum over the number of steps,
    about what those resolve. If the spectrum is one number to rounding, as of a multiple of the
    identity, the default is the size of that number.
    """
    if width is None:
        nodes, _ = rule(spectrum)
        span, scale = nodes.max() - nodes.min(), jnp.abs(nodes).max()
        # what `truncate` takes for rounding is rounding here too
        wide = span > BREAKDOWN * jnp.finfo(nodes.dtype).eps * scale
        width = jnp.where(wide, span, jnp.where(scale > 0, scale, 1)) / spectrum.diagonal.shape[1]
    checks.positive("width", width)

    def bell(nodes: Array) -> Array:
        z = (jnp.asarray(grid) - nodes[..., None]) / width
        area = width * jnp.sqrt(2 * jnp.pi) * spectrum.parameters
        return jnp.exp(-(z**2) / 2) / area

    return trace_of(spectrum, bell)


def index(spectrum: Quadrature, tolerance: float | Float[Array, ""] | None = None) -> IndexEstimate:
    """Count the eigenvalues above `tolerance`: the index, if it parts zeros from positive ones.

    A step function is no polynomial, so a Gauss rule could be wrong by the weight of a node.
    Gauss–Radau, with a node put on the tolerance itself, is wrong by at most that node's weight,
    which makes the bracket (Chebyshev–Markov–Stieltjes). It is narrow where no eigenvalues are
    near: put the tolerance in a gap of the spectrum, not at the edge of the zeros.

    `tolerance` is by default 10 p ε max|μ|, as in `conditioning.of_eigenvalues`. Zeros are then
    inside the bracket, unless an invariant subspace was found. Since max|μ| depends on the data's
    unit, count in variables without a unit: `objectives.rescaled`. Where a probe found an invariant
    subspace its count is exact, but for the luck of the probe.
    """
    if tolerance is None:
        rtol = hessian.default_rtol(spectrum.parameters, spectrum.diagonal.dtype)
        tolerance = rtol * _scale(spectrum)
    checks.finite("tolerance", tolerance)
    lower, upper = _bracket(spectrum, jnp.asarray(tolerance, spectrum.diagonal.dtype))
    middle = _mean((lower + upper) / 2)
    return IndexEstimate(middle.value, middle.standard_error, lower.mean(), upper.mean())


@jax.jit
def _bracket(spectrum: Quadrature, t: Array) -> tuple[Array, Array]:
    """Count the least and most eigenvalues above t, for each probe, by Gauss–Radau at t."""
    diagonal, inner = spectrum.diagonal, spectrum.offdiagonal[:, :-1]
    last = spectrum.offdiagonal[:, -1]
    eps = jnp.finfo(diagonal.dtype).eps
    close = jnp.sqrt(eps) * (_scale(spectrum) + jnp.abs(t))
    # a matrix one larger has the eigenvalue t if its last entry is t + β² [(T − t)⁻¹]_mm
    nodes, _ = gauss_rule(diagonal, inner)
    # reversed, the first component of an eigenvector is the last one
    _, ends = gauss_rule(diagonal[:, ::-1], inner[:, ::-1])
    gap = nodes - t
    there = jnp.abs(gap) < close
    pull = (ends / jnp.where(there, jnp.inf, gap)).sum(axis=1)
    # with a Gauss node on t already, Gauss will do
    coupling = jnp.where(there.any(axis=1), 0, last)
    nodes, weights = gauss_rule(
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
    """Estimate the logarithm of |det(sign · H + shift · I)|, nats.

    For a Laplace approximation at a maximum take −1 as `sign`, and the prior's precision as
    `shift`. The logarithm needs many steps where an eigenvalue of sign · H + shift is close to
    zero, and the drift then says so. Best is a shift that makes all of them positive. If W and V
    are both variables, an objective that is `objectives.rescaled` has the same determinant, and
    needs fewer steps.

    Raises:
        ValueError: sign not ±1, or singular to rounding.
    """
    if sign not in (1, -1):
        checks.fail("sign", sign, "1 or -1")
    checks.finite("shift", shift)
    nodes, weights = rule(spectrum)
    if checks.concrete(nodes, weights, shift):
        eps = float(jnp.finfo(nodes.dtype).eps)
        size = np.abs(sign * np.asarray(nodes) + float(shift))
        bottom = spectrum.parameters * eps * (float(_scale(spectrum)) + abs(float(shift)))
        if (np.asarray(weights)[size <= bottom] > eps).any():
            checks.fail(
                "shift",
                f"{float(shift):g}, with which an eigenvalue is zero to rounding",
                "a non-singular matrix",
                "Degenerate directions have log-determinant -inf: shift them away from zero.",
            )
    return trace_of(spectrum, lambda mu: jnp.log(jnp.abs(sign * mu + shift)))
