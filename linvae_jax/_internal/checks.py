"""Every check of user input is here. Its message says which argument, what came, what was due.

Shapes are checked always, also under tracing, since they are static. Values (finite, positive,
symmetric) are checked where they are concrete; inside `jit`, `vmap` and `grad` they are tracers
and a bad value propagates as NaN instead.
"""

import os
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def fail(name: str, got: object, expected: str, hint: str = "") -> NoReturn:
    """Raise the `ValueError` that every bad input gets."""
    raise ValueError(f"{name}: got {got}, expected {expected}." + (f" {hint}" if hint else ""))


def concrete(*values: Any) -> bool:
    """Say whether all values are known, rather than traced by a transformation."""
    return not any(isinstance(v, Tracer) for v in values)


def numbers(name: str, x: Any) -> Any:
    """Read the real numbers of `x`: an array of JAX as it is, anything else as NumPy reads it.

    This is where data as they come are looked at first: lists and tuples, read-only,
    Fortran-ordered and memory-mapped arrays, tables of pandas, whatever has `__array__`. Those of
    NumPy come back in the machine's byte order, not copied unless they must be. Refused are
    strings, objects, complex numbers, times, sparse matrices, masked entries, ragged rows.
    """
    if isinstance(x, jax.Array):
        if not (jnp.issubdtype(x.dtype, jnp.number) or x.dtype == jnp.bool_) or (
            jnp.issubdtype(x.dtype, jnp.complexfloating)
        ):
            fail(name, f"an array of dtype {x.dtype}", "real numbers")
        return x
    if hasattr(x, "todense"):
        fail(name, f"a sparse matrix ({type(x).__name__})", "a dense array", "Try x.toarray().")
    if isinstance(x, np.ma.MaskedArray):
        if hidden := int(np.ma.getmaskarray(x).sum()):
            fail(name, f"{hidden} masked entries among {x.size}", "a value for each of them")
        x = x.data
    if not (type(x) is np.ndarray or type(x) is np.memmap):
        x = _read(name, x)
    kind = x.dtype.kind
    if kind == "V":  # bfloat16 and its relatives, which only JAX knows
        if jnp.issubdtype(x.dtype, jnp.floating):
            return x.astype(np.float32)
        if jnp.issubdtype(x.dtype, jnp.integer):
            return x.astype(np.int8)
    if kind not in "biuf":
        fail(name, f"an array of dtype {x.dtype}", "real numbers")
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def _read(name: str, x: Any) -> Any:
    """Let NumPy read something that is no array."""
    try:
        if type(x) is int:  # NumPy makes an object of one beyond 64 bits
            return np.asarray(x if -(2**63) <= x < 2**63 else float(x))
        return np.asarray(x)
    except jax.errors.TracerArrayConversionError:  # a list of traced numbers
        return jnp.asarray(x)
    except OverflowError:
        fail(name, "an integer beyond all floats", "a float")
    except Exception as error:  # whatever `__array__` raises
        got = f"{type(x).__name__} that is no array ({str(error).splitlines()[0]})"
        fail(name, got, "an array of real numbers")


def floating(name: str, x: Any) -> None:
    """Expect an array of floats, as formulas do that compute in the dtype they are given."""
    dtype = getattr(x, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        got = type(x).__name__ if dtype is None else f"an array of dtype {dtype}"
        fail(name, got, "an array of floats")


def shape(name: str, x: Any, expected: tuple[int | str, ...]) -> None:
    """Expect an exact shape; letters stand for any positive length."""
    got = np.shape(x)
    if len(got) != len(expected) or any(
        g == 0 or (isinstance(e, int) and g != e) for g, e in zip(got, expected, strict=True)
    ):
        wanted = "(" + ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "") + ")"
        fail(name, f"shape {got}", f"shape {wanted}")


def finite(name: str, x: Any) -> None:
    """Expect no NaN and no Inf, where the value is known."""
    if concrete(x):
        values = np.asarray(x)
        if values.dtype.kind in "biu":
            return
        # in parts, since the values may be mapped from a file and larger than memory
        parts = np.array_split(np.atleast_1d(values), max(1, values.size // 2**24))
        with np.errstate(over="ignore", invalid="ignore"):
            # a sum is faster, and only if it is infinite or NaN there is something to look for
            if all(np.isfinite(part.sum()) for part in parts):
                return
        bad = values.size - sum(int(np.isfinite(part).sum()) for part in parts)
        if bad:
            fail(name, f"{bad} NaN or Inf among {values.size} values", "finite numbers only")


def positive(name: str, x: Any) -> None:
    """Expect finite numbers > 0, whatever the shape, where the value is known."""
    _ordered(name, x, above=True)


def nonnegative(name: str, x: Any) -> None:
    """Expect finite numbers >= 0, whatever the shape, where the value is known."""
    _ordered(name, x, above=False)


def _ordered(name: str, x: Any, above: bool) -> None:
    x = numbers(name, x)
    finite(name, x)
    if concrete(x):
        values = np.asarray(x)
        if not (values > 0 if above else values >= 0).all():
            fail(name, values.min(), "a number > 0" if above else "a number >= 0")


def positive_scalar(name: str, x: Any, dtype: Any = None) -> Any:
    """Expect one number > 0, and return it as `scalar` does."""
    positive(name, x)
    return scalar(name, x, dtype)


def nonnegative_scalar(name: str, x: Any, dtype: Any = None) -> Any:
    """Expect one number >= 0, and return it as `scalar` does."""
    nonnegative(name, x)
    return scalar(name, x, dtype)


def scalar(name: str, x: Any, dtype: Any = None) -> Any:
    """Return one number as JAX takes it: integers, which it would wrap at 32 bits, become floats.

    A number that is too large for the formula's `dtype`, or so small that it would become zero, is
    refused. What is traced, a Python float, float32 or float64 is returned as it is, all else as a
    Python float. Many numbers at once are for `vmap`.
    """
    shape(name, x, ())
    if not concrete(x):
        return x
    value = float(np.asarray(numbers(name, x)))
    if dtype is not None and value != 0:
        limits = jnp.finfo(dtype)
        if not float(limits.tiny) <= abs(value) <= float(limits.max):
            fail(
                name,
                f"{value:.6g}",
                f"a number from {limits.tiny:.3g} to {limits.max:.3g}, as {limits.dtype} holds",
                "Rescale the data, or compute in float64 (jax_enable_x64).",
            )
    taken = isinstance(x, float) or getattr(x, "dtype", None) in (np.float32, np.float64)
    return x if taken else value


def in_range(name: str, x: Any, low: int, high: int, why: str) -> None:
    """Expect an integer with low <= x <= high; `why` says where the bounds come from."""
    if isinstance(x, bool) or not isinstance(x, int | np.integer):
        fail(name, repr(x), "an integer")
    if not low <= x <= high:
        fail(name, x, f"{low} <= {name} <= {high} ({why})")


def one_of(name: str, x: Any, known: tuple[Any, ...]) -> None:
    """Expect one of these values."""
    if x not in known:
        fail(name, repr(x), f"one of {known}")


def literals(config: Any) -> None:
    """Expect what its type says in each field of a dataclass whose type is a `Literal`."""
    for field in fields(config):
        if get_origin(field.type) is Literal:
            one_of(field.name, getattr(config, field.name), get_args(field.type))


def data_matrix(name: str, x: Any, n: int | str = "n") -> Any:
    """Expect N rows of n finite numbers, and return them as `numbers` does."""
    values = numbers(name, x)
    shape(name, values, ("N", n))
    finite(name, values)
    return values


def symmetric(name: str, S: Any) -> None:
    """Expect a square matrix that is symmetric to rounding, where the value is known."""
    numbers(name, S)
    rows = np.shape(S)[0] if np.ndim(S) == 2 else "n"
    shape(name, S, (rows, rows))
    finite(name, S)
    if concrete(S):
        values = np.asarray(S)
        gap = np.abs(values - values.T).max()
        # sums of products in another order differ by a few hundred ulps at most
        if gap > 1e3 * np.finfo(values.dtype).eps * np.abs(values).max():
            fail(name, f"a matrix with max |S - S.T| = {gap:.3g}", "a symmetric matrix")


def eigenvalues(name: str, values: Any) -> None:
    """Expect finite numbers (n,) from large to small, none negative beyond rounding."""
    floating(name, values)
    shape(name, values, ("n",))
    finite(name, values)
    if concrete(values):
        v = np.asarray(values)
        eps = float(jnp.finfo(v.dtype).eps)
        if (np.diff(v) > 0).any():
            fail(name, "an increasing sequence somewhere", "eigenvalues sorted from large to small")
        if v[-1] < -100 * len(v) * eps * abs(float(v[0])):
            fail(
                name,
                f"smallest eigenvalue {v[-1]:.3g}",
                "eigenvalues >= 0 (positive semi-definite S)",
            )


def key(name: str, x: Any) -> None:
    """Expect one key of JAX, typed or of the old kind (unsigned integers)."""
    dtype = getattr(x, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not (typed and np.shape(x) == ()) and not (dtype == np.uint32 and np.ndim(x) == 1):
        got = repr(x) if dtype is None else f"an array of dtype {dtype}, shape {np.shape(x)}"
        hint = "jax.random.key(0) makes one of an integer; many at once take jax.vmap."
        fail(name, got, "a key", hint)


def kind(name: str, x: Any, expected: type, maker: str = "") -> None:
    """Expect an object of one of our classes; `maker` says how to get one."""
    if not isinstance(x, expected):
        array = f" of shape {np.shape(x)}" if hasattr(x, "shape") else ""
        article = "an" if expected.__name__[0] in "AEIOU" else "a"
        fail(name, f"{type(x).__name__}{array}", f"{article} {expected.__name__}", maker)


def path(name: str, x: Any) -> Path:
    """Return where a file or folder is or shall be, in a folder that is there or can be made."""
    if not isinstance(x, str | os.PathLike):
        fail(name, repr(x), "a path")
    found = Path(x)
    for parent in found.parents:
        if parent.exists():
            if not parent.is_dir():
                fail(name, f"{found}, where {parent} is a file", "a path in a folder")
            break
    return found


def folder(name: str, x: Any) -> Path:
    """Return where a folder is or shall be."""
    found = path(name, x)
    if found.exists() and not found.is_dir():
        fail(name, f"{found}, which is a file", "a folder, new or there already")
    return found
