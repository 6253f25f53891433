"""Laws that an objective must obey, as functions that raise `AssertionError` where one is broken.

Each takes a scalar function of a pytree, which is called as `function(point, *arguments)`, by
`assert_symmetries` as `function(params, moments, *arguments)`. One program is compiled for each
function and shape. So give the same function object each time, and what changes from test to test
as `arguments`. All laws compute in float64 (set jax_enable_x64). The message says what broke, in
which array, and by how much.

A zero is relative to something. Here each array of the point is measured in a unit of its own, in
which its largest second derivative is ±1. A gradient in these units is the Newton step that is
left, and index and nullity do not depend on the data's unit (Sylvester's law of inertia).

This runs one's own objective, per datum instead of in moments, through three laws:

>>> import jax, jax.numpy as jnp
>>> from landscape.testing import laws
>>> from linvae_jax import linear, moments, ppca
>>> def my_elbo(weights, log_sigma2, x):
...     z = x @ weights["V"].T
...     W, D = weights["W"], jnp.exp(weights["log_d"])
...     error = jnp.sum((x - z @ W.T) ** 2, axis=1) + D @ jnp.sum(W**2, axis=0)
...     kl = 0.5 * jnp.sum(z**2 + D - 1 - weights["log_d"], axis=1)
...     n = x.shape[1]
...     density = -0.5 * (n * jnp.log(2 * jnp.pi) + n * log_sigma2 + error / jnp.exp(log_sigma2))
...     return jnp.mean(density - kl)
>>> with jax.enable_x64(True):
...     x = jax.random.normal(jax.random.key(0), (500, 3)) * jnp.array([2.0, 1.5, 0.5])
...     m = moments.from_data(x)
...     best = linear.with_optimal_encoder(ppca.mle(m, 2, 1.0).W, 1.0)
...     point = {"W": best.W, "V": best.V, "log_d": best.log_d}
...     arguments = (best.log_sigma2, x - m.mean)
...     laws.assert_stationary(my_elbo, point, *arguments)
...     laws.assert_index(my_elbo, point, *arguments, index=0, nullity=0)
...     laws.assert_highest(my_elbo, point, *arguments)
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from landscape.autodiff import hessian
from linvae_jax import linear
from linvae_jax import moments as mom
from linvae_jax._internal import checks

Function = Callable[..., Float[Array, ""]]

# differences of sums of some hundred terms in float64: four digits are left for cancellation
EXACT = 1e-12
# a dense eigensolver's rounding is a few hundred ε of the largest eigenvalue
SPECTRUM = 1e-11
# two ways to compute one number, with an eigendecomposition or a Cholesky factorisation in between,
# of a moderately conditioned matrix: condition numbers up to 1e4 are drawn
FACTORED = 1e-9


@partial(jax.jit, static_argnames="function")
def _derivatives(
    function: Function, point: Any, arguments: tuple[Any, ...]
) -> tuple[Float[Array, "p"], Float[Array, "p p"]]:
    at = lambda p: function(p, *arguments)  # noqa: E731
    hessian.check(at, point)
    return ravel_pytree(jax.grad(at)(point))[0], hessian.dense(at, point)


@partial(jax.jit, static_argnames="function")
def _slope(function: Function, point: Any, arguments: tuple[Any, ...]) -> Any:
    return jax.grad(function)(point, *arguments)


@partial(jax.jit, static_argnames="function")
def _along(
    function: Function, point: Any, direction: Any, sizes: Array, arguments: tuple[Any, ...]
) -> Float[Array, "sizes"]:
    """Compute the values at point + size · direction."""
    moved = lambda t: jax.tree.map(lambda p, d: p + t * d, point, direction)  # noqa: E731
    return jax.lax.map(lambda t: function(moved(t), *arguments), sizes)


def _random(rng: np.random.Generator, point: Any) -> Any:
    """Draw a standard normal direction, by NumPy: JAX would compile a program for each shape."""
    return jax.tree.map(lambda x: jax.device_put(rng.normal(size=np.shape(x))), point)


def _read(function: Function, point: Any, arguments: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
    """Return the point, the gradient and the Hessian, flat, as NumPy's."""
    flat = ravel_pytree(point)[0]
    if flat.dtype != jnp.float64:
        checks.fail("point", flat.dtype, "float64", "Set jax_enable_x64.")
    return tuple(map(np.asarray, (flat, *_derivatives(function, point, arguments))))


def _arrays(point: Any) -> list[tuple[str, slice]]:
    """Name of each array of a pytree, and its place in the flat point."""
    leaves = jax.tree_util.tree_leaves_with_path(point)
    ends = np.cumsum([0, *(np.size(leaf) for _, leaf in leaves)])
    names = [jax.tree_util.keystr(path) or "point" for path, _ in leaves]
    return [(name, slice(a, b)) for name, a, b in zip(names, ends[:-1], ends[1:], strict=True)]


def _units(point: Any, matrix: np.ndarray) -> Float[np.ndarray, "p"]:
    """Return what each variable is measured in: 1 over the root of its array's largest curvature.

    An array that has no curvature by itself takes its unit from what couples it to the others.
    """
    units = np.zeros(len(matrix))
    for _, place in _arrays(point):
        curvature = np.abs(np.diag(matrix)[place]).max()
        units[place] = curvature and 1 / np.sqrt(curvature)
    coupled = np.abs(matrix) @ np.diag(units)
    for _, place in _arrays(point):
        if not units[place].any():
            units[place] = 1 / (coupled[place].max() or 1)
    return units


def _fail(law: str, got: str, expected: str) -> NoReturn:
    raise AssertionError(f"{law}: got {got}; expected {expected}")


def assert_gradient(
    function: Function,
    gradient: Callable[..., Any],
    point: Any,
    *arguments: Any,
    tolerance: float = EXACT,
) -> None:
    """Raise unless an analytic gradient is that of autodiff and of finite differences.

    `gradient(point, *arguments)` gives a pytree like `point`. Each array may differ from autodiff
    by `tolerance` times the array's largest entry. Central differences along one direction must
    agree to 1e-6 of the function's own changes.
    """
    exact = _slope(function, point, arguments)
    ours = gradient(point, *arguments)
    if jax.tree.structure(ours) != jax.tree.structure(point):
        _fail("gradient", f"{jax.tree.structure(ours)}", f"{jax.tree.structure(point)}")
    leaves = zip(_arrays(point), jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True)
    for (name, _), a, b in leaves:
        a, b = np.asarray(a), np.asarray(b)
        off, size = np.abs(a - b).max(), np.abs(b).max()
        if not off <= tolerance * size:
            _fail(
                f"gradient in {name}",
                f"a difference of {off:.3g} from autodiff",
                f"at most {tolerance:.3g} of its largest entry {size:.3g}",
            )
    # autodiff itself is wrong of a function with a wrong derivative of its own (custom_vjp)
    rng = np.random.default_rng(0)
    way = _random(rng, point)
    h = 1e-4
    f = np.asarray(_along(function, point, way, jnp.array([-2 * h, -h, h, 2 * h]), arguments))
    slope = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h)
    pairs = zip(jax.tree.leaves(exact), jax.tree.leaves(way), strict=True)
    terms = [float(np.sum(g * d)) for g, d in pairs]
    # h⁴ of a fifth derivative, and ε/h of the value
    size = np.abs(terms).sum() + np.abs(f).max() + (f.max() - f.min()) / h
    if not abs(slope - sum(terms)) <= 1e-6 * size:
        _fail(
            "gradient along a direction",
            f"{sum(terms):.10g} by autodiff",
            f"{slope:.10g}, which finite differences give",
        )


def assert_stationary(
    function: Function, point: Any, *arguments: Any, tolerance: float = EXACT
) -> None:
    """Raise unless the gradient is zero at a point, in every array.

    The gradient's largest entry, each array in its own unit (see the module), may be `tolerance` ×
    (1 + the largest entry of the point in these units): the terms that cancel are that large.
    """
    flat, gradient, matrix = _read(function, point, arguments)
    units = _units(point, matrix)
    size = 1 + np.abs(flat / units).max()
    for name, place in _arrays(point):
        slope = np.abs(gradient * units)[place].max()
        if not slope <= tolerance * size:
            _fail(
                f"stationary in {name}",
                f"a gradient of {slope:.3g} in units of its curvature "
                f"({np.abs(gradient[place]).max():.3g} as it is)",
                f"at most {tolerance:.3g} of {size:.3g}",
            )


def assert_index(
    function: Function,
    point: Any,
    *arguments: Any,
    index: int | Any,
    nullity: int | Any | None = None,
    rtol: float = 1e-10,
) -> None:
    """Raise unless the dense Hessian has so many positive, and so many zero, eigenvalues.

    The function is to be maximised: `index` counts ways to escape, and `nullity` flat directions.
    With None for `nullity` any number of those will do. An eigenvalue counts as zero if its size is
    at most `rtol` times the largest, units taken out. The message has the eigenvalues next to zero.
    """
    _, _, matrix = _read(function, point, arguments)
    units = _units(point, matrix)
    values = np.linalg.eigvalsh(matrix * units * units[:, None])
    zero = np.abs(values) <= rtol * np.abs(values).max()
    counted = int((values[~zero] > 0).sum()), int(zero.sum())
    if counted[0] != index or (nullity is not None and counted[1] != nullity):
        near = ", ".join(f"{v:.3g}" for v in sorted(values, key=abs)[: counted[1] + 4])
        _fail(
            "index and nullity",
            f"{counted[0]} positive and {counted[1]} zero of {len(values)} eigenvalues "
            f"(nearest zero: {near})",
            f"{index} positive" + (f" and {nullity} zero" if nullity is not None else ""),
        )


def assert_spectrum(
    function: Function,
    point: Any,
    *arguments: Any,
    eigenvalues: Any,
    tolerance: float = SPECTRUM,
    scale: float = 0.0,
) -> None:
    """Raise unless `eigenvalues` (p,), in any order, are all eigenvalues of the dense Hessian.

    They may differ by `tolerance` times the largest eigenvalue, or times `scale` if that is larger.
    Give as `scale` the size of the terms that cancel where all eigenvalues are small.
    """
    exact = np.linalg.eigvalsh(_read(function, point, arguments)[2])
    ours = np.sort(np.ravel(eigenvalues))
    if ours.shape != exact.shape:
        _fail("spectrum", f"{ours.size} eigenvalues", f"{exact.size}")
    off, size = np.abs(ours - exact), max(np.abs(exact).max(), scale)
    if not off.max() <= tolerance * size:
        worst = int(off.argmax())
        _fail(
            "spectrum",
            f"{ours[worst]:.10g} as eigenvalue {worst} of {exact.size} from the smallest",
            f"{exact[worst]:.10g}, up to {tolerance:.3g} of the largest, {size:.3g}",
        )


def assert_highest(
    function: Function,
    point: Any,
    *arguments: Any,
    sizes: tuple[float, ...] = (1e-3, 0.1, 1.0),
    directions: int = 20,
    tolerance: float = FACTORED,
    seed: int = 0,
) -> None:
    """Raise if a step from a point leads higher, as none does from a global maximum.

    Steps of all `sizes` go both ways along the eigenvector of the Hessian's largest eigenvalue, and
    along as many standard normal directions as `directions` says, drawn from `seed`. For rounding,
    a value may be higher by `tolerance` × (1 + the size of the value at the point).
    """
    rng = np.random.default_rng(seed)
    _, _, matrix = _read(function, point, arguments)
    steepest = ravel_pytree(point)[1](jnp.asarray(np.linalg.eigh(matrix)[1][:, -1]))
    steps = jnp.array([0.0, *sizes, *(-size for size in sizes)])
    for way in [steepest, *(_random(rng, point) for _ in range(directions))]:
        f = np.asarray(_along(function, point, way, steps, arguments))
        if not (f[1:] <= f[0] + tolerance * (1 + abs(f[0]))).all():
            best = int(f.argmax())
            _fail("highest", f"{f[best]:.10g} at a step of {steps[best]:g}", f"at most {f[0]:.10g}")


def assert_lower_bound(lower: Any, upper: Any, tolerance: float = FACTORED) -> None:
    """Raise unless `lower` is a lower bound of `upper`, and neither is NaN.

    Both are numbers or arrays, in nats per datum, such as `linear.elbo(params, moments)` below
    `ppca.log_likelihood(params.W, sigma2, moments)`. For rounding, `lower` may be higher by
    `tolerance` × (1 + the size of `upper`).
    """
    below, above = np.broadcast_arrays(np.asarray(lower), np.asarray(upper))
    held = below <= above + tolerance * (1 + np.abs(above))
    if not held.all():
        place = tuple(int(i) for i in np.argwhere(~held)[0])
        _fail("lower bound", f"{below[place]:.10g}", f"at most {above[place]:.10g}")


SYMMETRIES = ("rotation", "relabelling", "unit", "shift")


def assert_symmetries(
    function: Function,
    params: linear.LinearVAEParams,
    moments: mom.Moments,
    *arguments: Any,
    symmetries: Collection[str] = SYMMETRIES,
    tolerance: float = FACTORED,
    seed: int = 0,
) -> None:
    """Raise unless a linear VAE's log-density per datum has its symmetries.

    The log-density is the same in rotated coordinates of the data ("rotation"), with latents in
    another order and with other signs ("relabelling"), and for data about another mean ("shift").
    For data c x it falls by n log c ("unit"), and by nothing else.

    `function`, such as `linear.elbo`, gives nats per datum. Its values may differ by `tolerance` ×
    (1 + their size). Only those of `SYMMETRIES` that are in `symmetries` are tried. `seed` draws
    rotation, order and signs. The message names the symmetry.
    """
    rng = np.random.default_rng(seed)
    n, k = params.W.shape
    R = np.linalg.qr(rng.normal(size=(n, n)))[0]
    order, sign, c = rng.permutation(k), rng.choice([-1.0, 1.0], k), 3.0
    sign[0] = -1  # never all as they were
    order = order[::-1] if (order == np.arange(k)).all() else order
    cov = np.diag(moments.cov) if np.ndim(moments.cov) == 1 else np.asarray(moments.cov)
    W, V = params.W * sign, params.V * sign[:, None]
    relabelled = linear.LinearVAEParams(
        W[:, order], V[order], params.log_d[order], params.log_sigma2
    )
    scaled = linear.LinearVAEParams(
        c * params.W, params.V / c, params.log_d, params.log_sigma2 + 2 * np.log(c)
    )
    changed = {
        "rotation": (
            linear.rotate(params, R),
            replace(moments, mean=R.T @ moments.mean, cov=jnp.asarray(R.T @ cov @ R)),
        ),
        "relabelling": (relabelled, moments),
        "unit": (scaled, replace(moments, mean=c * moments.mean, cov=c**2 * moments.cov)),
        "shift": (params, replace(moments, mean=moments.mean + 5 * np.sqrt(np.diag(cov)))),
    }
    value = float(function(params, moments, *arguments))
    for name in symmetries:
        got = float(function(*changed[name], *arguments))
        expected = value - n * np.log(c) * (name == "unit")
        if not abs(got - expected) <= tolerance * (1 + abs(expected)):
            _fail(
                f"symmetry: {name}", f"{got:.12g}", f"{expected:.12g}, up to {tolerance:.3g} of it"
            )
