"""Matrix-free methods need products with a Hessian, from a function that can be trusted.

`lanczos` and `lobpcg` know a Hessian by its products with vectors only. They go wrong in silence
where the function is noisy, float32 or not twice differentiable; `check` refuses those.

What they find small or zero is small beside the largest eigenvalue. Where variables have units, as
W and V have the data's and one over it, that compares apples with pears: take the units out first,
by `objectives.rescaled`. Index and nullity stay what they are.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray

from landscape.autodiff import hessian
from linvae_jax._internal import checks

PyTree = Any
Function = Callable[[PyTree], Float[Array, ""]]


def argument(function: Function) -> Partial:
    """Make the function an argument of a program that jit compiles once.

    A `jax.tree_util.Partial` is taken apart: functions that differ in its arrays alone, data, noise
    or σ², share the program.
    """
    return function if isinstance(function, Partial) else Partial(function)


def operator(function: Function, point: PyTree) -> Callable[[Array], Array]:
    """Return the product of the Hessian with a flat vector, as a function."""
    flat, unravel = ravel_pytree(point)
    gradient = jax.grad(lambda x: function(unravel(x)))
    return lambda v: jax.jvp(gradient, (flat,), (v,))[1]


def check(function: Function, point: PyTree, key: PRNGKeyArray) -> None:
    """Refuse a function whose Hessian-vector products cannot be trusted at this point.

    The function is traced, compiled and run twice, which shows whether randomness is drawn as
    Python runs or as the device does. `key` draws two directions for the products.

    Raises:
        ValueError: a point that is not float64; a function that is not finite, scalar and
            deterministic, or whose derivative by forward over reverse is no symmetric matrix
            (`stop_gradient`, a custom derivative).
    """
    for leaf in jax.tree.leaves(point):
        dtype = jnp.asarray(leaf).dtype
        if dtype != jnp.float64:
            checks.fail(
                "point",
                f"an array of dtype {dtype}",
                "float64 throughout",
                "Small eigenvalues drown in the rounding of large ones: enable jax_enable_x64.",
            )
    hessian.check(function, point)
    flat, _ = ravel_pytree(point)
    u, v = jax.random.normal(key, (2, flat.size), flat.dtype)

    def run(point: PyTree, u: Array, v: Array) -> tuple[Array, Array, Array]:
        product = operator(function, point)
        return ravel_pytree(jax.grad(function)(point))[0], product(u), product(v)

    try:
        # a new lambda each time: jit would give back what it traced the first time
        gradient, Hu, Hv = (np.asarray(x) for x in jax.jit(lambda *a: run(*a))(point, u, v))
        again = [np.asarray(x) for x in jax.jit(lambda *a: run(*a))(point, u, v)]
    except jax.errors.UnexpectedTracerError:
        checks.fail(
            "function",
            "one that keeps state, such as a key that it splits, from one call to the next",
            "a deterministic function",
        )
    checks.finite("gradient of function", gradient)
    checks.finite("Hessian of function", Hu)
    checks.finite("Hessian of function", Hv)
    # atomics on a GPU reorder sums: some ε; a noisy function differs by its noise
    rounding = 1e4 * np.finfo(flat.dtype).eps
    size = sum(np.linalg.norm(x) for x in (gradient, Hu, Hv))
    gap = sum(np.linalg.norm(x - y) for x, y in zip((gradient, Hu, Hv), again, strict=True))
    if not gap <= rounding * size:
        checks.fail(
            "function",
            f"derivatives that differ by {gap / size:.1e} of their size between two runs",
            "a deterministic function",
            "Close over one random key, or over one set of noise, instead of drawing it anew.",
        )
    u, v = np.asarray(u), np.asarray(v)
    skew = abs(v @ Hu - u @ Hv)
    if skew > np.sqrt(rounding) * np.linalg.norm(u) * (np.linalg.norm(Hu) + np.linalg.norm(Hv)):
        checks.fail(
            "function",
            f"u'Hv and v'Hu that differ by {skew:.1e}",
            "a symmetric Hessian",
            "Is there a stop_gradient or a custom derivative in it?",
        )
