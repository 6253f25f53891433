"""Data as they come are made floats that JAX computes with: here and nowhere else.

Two things go wrong when JAX is given data of another program. Without `jax_enable_x64` it keeps the
low 32 bits of a 64-bit integer, another number; and it rounds float64 to float32, which leaves
nothing of coordinates of 5,000,000 ± 0.5. So integers become floats before JAX sees them, and where
a mean is to be taken off, it is taken off in the precision in which the data came.

Floats keep their dtype, float32 or float64, if JAX has it; narrower ones, which overflow at 65,504
or count to 256, become float32; integers and long double become JAX's default float.

In every function `name` is what the user calls the data, for messages.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linvae_jax._internal import checks

Scalar = Float[Array, ""] | float  # one number; many at once are for `vmap`

# rows that are converted in one go: few enough to stay in the cache, and no copy of all data
_BLOCK = 2048


def float_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the float dtype in which numbers of this dtype are computed with."""
    if dtype == np.float32 or (
        jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4
    ):
        return np.dtype(np.float32)
    return np.dtype(jnp.result_type(float))


def as_float(name: str, x: Any) -> Float[Array, "..."]:
    """Make an array of any shape floats on the device, each number rounded once.

    A number beyond the largest of `float_dtype` is refused.
    """
    x = checks.numbers(name, x)
    if isinstance(x, jax.Array) and x.dtype in (jnp.float32, jnp.float64):
        return x
    dtype = float_dtype(x.dtype)
    return jnp.asarray(_cast(name, np.asarray(x), dtype)) if rounds(x, dtype) else _placed(x, dtype)


def finite(name: str, x: Any, shape: tuple[int | str, ...]) -> Float[Array, "..."]:
    """Make floats on the device of finite numbers of this shape (see `checks.shape`)."""
    made = as_float(name, x)
    checks.shape(name, made, shape)
    checks.finite(name, made)
    return made


def spectrum(name: str, values: Any) -> Float[Array, "n"]:
    """Check the eigenvalues of a covariance as they come, and make them floats on the device.

    A largest eigenvalue of which the float type would make zero is refused.
    """
    made = read_spectrum(name, values)
    if not checks.concrete(made):
        return made
    with jax.ensure_compile_time_eval():  # a constant of a compiled function stays known
        return jnp.asarray(made)


def read_spectrum(name: str, values: Any) -> Any:
    """Do as `spectrum`, not yet on the device: inside `jit` a constant there is known no more."""
    given = checks.numbers(name, values)
    dtype = float_dtype(given.dtype)
    if isinstance(given, jax.Array):
        made = as_float(name, given)
    else:
        made = given if given.dtype == dtype else _cast(name, given, dtype)
    checks.eigenvalues(name, made)
    if made.dtype != given.dtype and checks.concrete(given):
        first, tiny = float(np.asarray(given)[0]), float(jnp.finfo(dtype).tiny)
        if 0 < first < tiny:
            checks.fail(
                name,
                f"{first:.3g} as the largest",
                f"at least {tiny:.3g}, as {dtype} holds",
                "Rescale the data, or compute in float64 (jax_enable_x64).",
            )
    return made


def host_spectrum(name: str, values: Any) -> np.ndarray:
    """Do as `spectrum`, on the host: float32 stays, all else is float64, whatever JAX has."""
    given = np.asarray(checks.numbers(name, values))
    if given.dtype != np.float32:
        given = _cast(name, given, np.float64)
    checks.eigenvalues(name, given)
    return given


def as_given(name: str, x: Any) -> Array:
    """Put an array on the device for a transform: integers stay integers."""
    x = checks.numbers(name, x)
    if np.dtype(_numpy_dtype(x.dtype)).kind not in "iub":
        return as_float(name, x)
    check_held(name, x)
    return jnp.asarray(x)


def check_held(name: str, x: Any) -> None:
    """Raise `ValueError` for integers that JAX's widest dtype does not hold: it would wrap them."""
    if not checks.concrete(x) or np.dtype(_numpy_dtype(x.dtype)).kind not in "iu":
        return
    limits = np.iinfo(jax.dtypes.canonicalize_dtype(x.dtype))
    if limits.dtype != x.dtype:
        least, most = int(x.min()), int(x.max())
        if least < limits.min or most > limits.max:
            checks.fail(
                name,
                f"integers from {least} to {most}",
                f"integers from {limits.min} to {limits.max}, as {limits.dtype} holds",
                "Make them floats, or set jax_enable_x64.",
            )


@partial(jax.jit, static_argnames="axis")
def put(array: Array, places: np.ndarray | Array, values: Any, axis: int = 0) -> Array:
    """Set other values at some places along an axis, by one program."""
    return array.at[(slice(None),) * axis + (places,)].set(values)


def less(name: str, x: Any, mean: Any, dtype: Any = None) -> Float[Array, "N n"]:
    """Take the difference x − mean in the precision that came, then round it for the device.

    The result's dtype is by default that of x (N, n) and the mean (n,), as JAX has them, promoted.
    """
    x, mean = checks.numbers(name, x), checks.numbers("mean", mean)
    if dtype is None:
        dtype = jnp.promote_types(float_dtype(x.dtype), float_dtype(mean.dtype))
    if not checks.concrete(x, mean):
        return as_float(name, x).astype(dtype) - as_float("mean", mean).astype(dtype)
    if not rounds(x, dtype) and not rounds(mean, dtype):
        return _placed(x, dtype) - _placed(mean, dtype)
    return jnp.asarray(host_less(name, x, mean, dtype))


def host_less(
    name: str, x: Any, mean: Any, dtype: Any, out: np.ndarray | None = None
) -> np.ndarray:
    """Take the difference x − mean as `less`, but on the host, into `out` (N, n) if given."""
    x, wide = np.asarray(x), _wide(x)
    mean = np.asarray(mean, wide)
    found = np.empty(x.shape, dtype) if out is None else out

    def block(rows: slice) -> None:
        if x.dtype == wide == dtype:
            np.subtract(x[rows], mean, out=found[rows])
        else:
            found[rows] = _cast(name, x[rows].astype(wide, copy=False) - mean, dtype)

    _by_blocks(block, len(x))
    return found


def _by_blocks(work: Callable[[slice], Any], rows: int) -> list[Any]:
    """Do `work` on each block of rows, several at a time, as NumPy lets; results are in order."""
    blocks = [slice(i, i + _BLOCK) for i in range(0, rows, _BLOCK)]

    # a thread's own state; what overflows is refused by its result
    quiet = np.errstate(all="ignore")(work)
    if len(blocks) < 4:  # threads cost more than they bring
        return [quiet(block) for block in blocks]
    with ThreadPoolExecutor(min(len(blocks), os.cpu_count() or 1)) as pool:
        return list(pool.map(quiet, blocks))


def mean(x: np.ndarray) -> np.ndarray:
    """Average floats (N, n) on the host, in float64; NaN or Inf if one of them is."""
    sums = _by_blocks(lambda rows: x[rows].sum(axis=0, dtype=np.float64), len(x))
    return np.sum(sums, axis=0) / len(x)


def centre(x: Any) -> np.ndarray:
    """Average concrete rows (N, n) in float64 or wider; of equal numbers, that number.

    Data are to be looked at from there: its own rounding is far below their spread, as long as the
    precision in which they came tells them apart.
    """
    x, wide = np.asarray(x), _wide(x)
    # from the first row, so that a column that doesn't vary is met exactly
    first = x[0].astype(wide)

    sums = _by_blocks(lambda rows: (x[rows].astype(wide, copy=False) - first).sum(axis=0), len(x))
    return first + sum(sums) / len(x)


def on_host(x: Any) -> bool:
    """Say whether this is known data in the memory of a CPU that computes."""
    if not checks.concrete(x):
        return False
    if not isinstance(x, jax.Array):
        return jax.default_backend() == "cpu"
    return len(x.devices()) == 1 and next(iter(x.devices())).platform == "cpu"


def vary(x: Any) -> bool:
    """Say whether any concrete row differs from the first."""
    x = np.asarray(x)
    # most data are known to vary after the first block
    return any((x[i : i + _BLOCK] != x[0]).any() for i in range(0, len(x), _BLOCK))


def rounds(x: Any, dtype: Any = None) -> bool:
    """Say whether numbers that are known change when they get this dtype, by default JAX's."""
    if not checks.concrete(x):
        return False
    dtype = float_dtype(x.dtype) if dtype is None else dtype
    x_dtype = _numpy_dtype(x.dtype)
    if np.dtype(x_dtype).kind in "iu":
        return _largest(x) > 2 ** (jnp.finfo(dtype).nmant + 1)
    return not np.can_cast(x_dtype, dtype, "safe")


def _largest(x: Any) -> int:
    """Return the largest magnitude among integers; by their dtype where that says enough."""
    limits = np.iinfo(x.dtype)
    if limits.max < 2**24 or not x.size:
        return limits.max
    return max(int(x.max()), -int(x.min()))


def _placed(x: Any, dtype: Any) -> Array:
    # NumPy converts first, for JAX would begin with its own 32 bits of an integer
    return x.astype(dtype) if isinstance(x, jax.Array) else jnp.asarray(x.astype(dtype, copy=False))


def _numpy_dtype(dtype: Any) -> Any:
    """Return the dtype, with NumPy's float32 in place of floats that only JAX has."""
    return np.float32 if np.dtype(dtype).kind == "V" else dtype


def _wide(x: Any) -> np.dtype[Any]:
    """Return float64, or long double for numbers that float64 would round."""
    return np.dtype(np.longdouble if rounds(x, np.float64) else np.float64)


def _cast(name: str, x: np.ndarray, dtype: Any) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        out = x.astype(dtype)
    if not np.isfinite(out).all():
        checks.finite(name, x)
        checks.fail(
            name,
            f"numbers up to {np.abs(x).max():.3g}",
            f"at most {np.finfo(dtype).max:.3g}, the largest {np.dtype(dtype)}",
            "Rescale the data, or compute in float64 (jax_enable_x64).",
        )
    return out


def variance_range(dtype: Any) -> tuple[float, float]:
    """Return the least and largest variance of which the dtype holds the rounding and sums too."""
    limits = jnp.finfo(dtype)
    eps = float(limits.eps)
    return float(limits.tiny) / eps, float(limits.max) * eps


def check_scale(name: str, variance: Any, dtype: Any) -> None:
    """Raise `ValueError` if the largest variance is known and beyond `variance_range`.

    Covariances are accurate relative to the largest variance; so its rounding must be a number too.
    """
    if not checks.concrete(variance):
        return
    limits = jnp.finfo(dtype)
    least, most = variance_range(dtype)
    if not least <= float(variance) <= most:
        low, high = float(np.sqrt(least)), float(np.sqrt(most))
        other = " or compute in float64 (jax_enable_x64)" if limits.bits == 32 else ""
        checks.fail(
            name,
            f"numbers whose largest variance is beyond {limits.dtype}",
            f"a standard deviation from {low:.2g} to {high:.2g}",
            f"Rescale the data{other}.",
        )
