"""Autodiff gives the Hessian of any scalar function of a pytree, dense or as a product.

The order of parameters in a dense Hessian is that of `jax.flatten_util.ravel_pytree`: for a
dictionary, by key (V, W, log_d, log_sigma2, mean), each array row by row.

>>> import jax.numpy as jnp
>>> from landscape.autodiff import hessian
>>> point = {"a": jnp.array(1.0), "b": jnp.array(3.0)}
>>> hessian.dense(lambda v: v["a"] ** 2 * v["b"], point).tolist()
[[6.0, 2.0], [2.0, 0.0]]
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from linvae_jax._internal import checks

PyTree = Any


def check(function: Callable[[PyTree], Float[Array, ""]], point: PyTree) -> None:
    """Raise `ValueError` unless this is a real scalar function at a point of finite floats.

    The point must have at least one array. The function is traced, not run. Values are checked
    where they are known.
    """
    leaves = jax.tree.leaves(point)
    if not leaves:
        checks.fail("point", "no arrays", "a pytree of at least one array")
    for leaf in leaves:
        checks.numbers("point", leaf)
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            checks.fail("point", f"an array of dtype {dtype}", "floats: nothing varies in integers")
        checks.finite("point", leaf)
    out = jax.eval_shape(function, point)
    shape, dtype = getattr(out, "shape", None), getattr(out, "dtype", None)
    if shape != () or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        checks.fail("function", f"a function with values {out}", "a real scalar function")


def product(
    function: Callable[[PyTree], Float[Array, ""]], point: PyTree, direction: PyTree
) -> PyTree:
    """Multiply the Hessian with a vector, forward over reverse: about three gradients, no matrix.

    `direction` and the result are pytrees like `point`. The result has the dtypes of `point`.

    Raises:
        ValueError: as `check`, or a direction of another structure or shape than the point.
    """
    check(function, point)
    if jax.tree.structure(point) != jax.tree.structure(direction):
        checks.fail(
            "direction", jax.tree.structure(direction), f"{jax.tree.structure(point)}, as the point"
        )
    for there, way in zip(jax.tree.leaves(point), jax.tree.leaves(direction), strict=True):
        if jnp.shape(there) != jnp.shape(way):
            checks.fail("direction", f"shape {jnp.shape(way)}", f"{jnp.shape(there)}")
    direction = jax.tree.map(lambda x, v: jnp.asarray(v, jnp.result_type(x)), point, direction)
    return jax.jvp(jax.grad(function), (point,), (direction,))[1]


def gigabytes(point: PyTree) -> float:
    """Return the size of the dense Hessian at `point`, in GB (10⁹ bytes)."""
    flat, _ = ravel_pytree(point)
    return flat.size**2 * flat.dtype.itemsize / 1e9


def dense(
    function: Callable[[PyTree], Float[Array, ""]],
    point: PyTree,
    *,
    max_gigabytes: float = 1.0,
    chunk: int = 64,
) -> Float[Array, "p p"]:
    """Build the whole Hessian, p × p for p scalar parameters.

    It is built from Hessian-vector products, `chunk` columns at a time, which needs little more
    memory than the matrix itself.

    Raises:
        ValueError: the matrix would be larger than `max_gigabytes` (10⁹ bytes); the message says
            how large. A function or point as `check` refuses them; a Hessian with NaN or Inf.
    """
    check(function, point)
    checks.in_range("chunk", chunk, 1, 2**31 - 1, "at least one")
    flat, unravel = ravel_pytree(point)
    size = gigabytes(point)
    if size > max_gigabytes:
        checks.fail(
            "point",
            f"{flat.size:,} parameters, whose dense Hessian takes {size:,.2f} GB",
            f"at most max_gigabytes = {max_gigabytes:g} GB",
            "Use hessian.product, or raise max_gigabytes if the memory is there.",
        )
    gradient = jax.grad(lambda v: function(unravel(v)))

    @jax.jit
    def symmetric(flat: Array) -> Array:
        def column(i: Array) -> Array:
            basis = jnp.zeros_like(flat).at[i].set(1)
            return jax.jvp(gradient, (flat,), (basis,))[1]

        matrix = jax.lax.map(column, jnp.arange(flat.size), batch_size=min(chunk, flat.size))
        return (matrix + matrix.T) / 2

    matrix = symmetric(flat)
    checks.finite("Hessian of function", matrix)
    return matrix


def default_rtol(p: int, dtype: Any) -> float:
    """Return 10 p ε: what a dense eigensolver leaves undecided of p eigenvalues, in the largest."""
    return 10 * p * float(jnp.finfo(dtype).eps)
