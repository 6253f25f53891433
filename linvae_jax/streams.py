"""An integer seed becomes a random key here, one of its own for each purpose.

A key is used once: split, drawn from, folded for one purpose, or passed on. Where the same noise is
meant to be drawn again, as for the points of one path, the code says so with `jax.random.clone`.
tests/test_keys.py sees to both.

>>> import jax
>>> from linvae_jax import streams
>>> a, b = (streams.key(0, purpose) for purpose in ("training", "data noise"))
>>> bool((jax.random.key_data(a) == jax.random.key_data(b)).all())
False
"""

import zlib
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from linvae_jax._internal import checks

# kept with the folders of sweeps, which must not go on with other noise: raise it with any change
VERSION = 2


def check(name: str, seed: Any) -> None:
    """Raise `ValueError` unless this is a seed: an integer of Python or NumPy, 0 ≤ seed < 2³².

    A bool is none. With JAX's 64-bit mode off a larger integer would give the key of its lowest 32
    bits: two seeds, one stream. The message calls the seed `name`.
    """
    checks.in_range(name, seed, 0, 2**32 - 1, "JAX takes 32 bits of a seed")


def key(seed: Any, purpose: str, name: str = "seed") -> PRNGKeyArray:
    """Return the key of a seed for one purpose, independent of that for any other.

    This typed key () does not depend on JAX's 64-bit mode.

    Args:
        seed: as for `check`, which raises `ValueError` for others.
        purpose: what the randomness is for, any text, such as "training". Another text gives
            another key.
        name: what messages call the seed.
    """
    check(name, seed)
    return branch(jax.random.key(int(seed)), purpose)


def branch(key: PRNGKeyArray, purpose: str) -> PRNGKeyArray:
    """Return the key for one of several purposes that a key serves, each by a branch of its own.

    Such a key must not be used in any other way. The CRC-32 of the purpose is folded in.
    """
    return jax.random.fold_in(key, zlib.crc32(purpose.encode()))
