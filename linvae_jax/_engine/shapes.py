"""Pytrees get names for their leaves here, and shapes, which are traced and not computed."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from linvae_jax import sources


class Shape(NamedTuple):
    """A shape describes a pytree: its leaves by name, and how to put them together."""

    leaves: dict[str, jax.ShapeDtypeStruct]
    structure: Any


def flat(tree: Any) -> dict[str, Any]:
    """Return the leaves by name, such as "params.W"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def shape_of(function: Callable[..., Any], *args: Any) -> Shape:
    """Return the shape of `function(*args)`, which is traced; of windows it sees one."""
    seen: list[tuple[list[str], Any]] = []

    def traced(*args: Any) -> list[Any]:
        tree = function(*args)
        named = flat(tree)
        seen.append((list(named), jax.tree.structure(tree)))
        return list(named.values())  # not the dictionary: JAX would sort it

    shapes = jax.eval_shape(traced, *sources.traceable(args))
    names, structure = seen[0]
    return Shape(dict(zip(names, shapes, strict=True)), structure)


def joined(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the leaves of all parts, such as "states/params.W"."""
    return {f"{part}/{name}": leaf for part, of in parts.items() for name, leaf in of.items()}


def parted(leaves: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parts of which `joined` made the leaves."""
    parts: dict[str, dict[str, Any]] = {}
    for name, leaf in leaves.items():
        part, _, own = name.partition("/")
        parts.setdefault(part, {})[own] = leaf
    return parts


def of_runs(count: int, one: Shape) -> Shape:
    """Return the shape of `count` runs with a leading axis, from that of one."""
    leaves = {
        name: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype)
        for name, leaf in one.leaves.items()
    }
    return Shape(leaves, one.structure)


def first(runs: Any) -> Any:
    """Return the first of several runs, whose arrays have a leading axis."""
    return jax.tree.map(lambda leaf: leaf[0], runs)


def one_of(runs: Any) -> Any:
    """Return the shapes of one of several runs, for `shape_of`."""
    return jax.eval_shape(first, runs)


def raw(tree: Any) -> Any:
    """Return the tree with typed keys as the numbers that they are."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def typed(leaf: Any, like: Any) -> Any:
    """Return the numbers of keys as keys again, if that is what they are to be like."""
    return jax.random.wrap_key_data(leaf) if _is_key(like) else leaf


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
