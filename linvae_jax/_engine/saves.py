"""A save has arrays by name, which Orbax writes, and their checksums, which reading compares.

Every process checks the parts of arrays that its devices hold, because none may see a whole one.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath  # the paths that Orbax takes

from linvae_jax._engine.identity import some
from linvae_jax._engine.processes import everywhere
from linvae_jax._internal import checks


class Restored(NamedTuple):
    """This is what came back of a save; the arrays are whole in every process."""

    step: int
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


class Damaged(Exception):
    """This save cannot be trusted, and the message says why."""


def describe(arrays: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what Orbax shall write, and what must come back: shapes, dtypes, checksums.

    Arrays of size 0, which Orbax cannot write, are in the second alone.
    """
    written, leaves = {}, {}
    for name, array in arrays.items():
        leaf = array if hasattr(array, "dtype") else np.asarray(array)
        checks.numbers(f"arrays[{name!r}]", leaf)
        leaves[name] = {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
        if jax.process_count() > 1 and isinstance(leaf, jax.Array) and leaf.is_fully_addressable:
            leaf = np.asarray(leaf)  # process 0 writes its copy; Orbax refuses local JAX arrays
        if leaf.size:
            written[name] = leaf
    if not written:
        checks.fail("arrays", "no numbers at all", "at least one array")
    checksums = _of_shards(written)
    for name in leaves:
        leaves[name]["shards"] = checksums.get(name, [])
    return written, leaves


# first and last + 1 index on each axis, of the part of an array that one device holds
_Box = tuple[tuple[int, int], ...]


def _box(index: tuple[slice, ...], shape: tuple[int, ...]) -> _Box:
    ends = [part.indices(length) for part, length in zip(index, shape, strict=True)]
    return tuple((start, stop) for start, stop, _ in ends)


def _part(array: np.ndarray, box: Sequence[Sequence[int]]) -> np.ndarray:
    return array[(..., *(slice(*ends) for ends in box))]  # with "..." an array also where () is


def _crc(block: Any) -> int:
    # as bytes, since zlib does not know bfloat16; without a copy where the block is contiguous
    return zlib.crc32(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)


def crc_of_text(record: Any) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def _of_shards(arrays: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return a checksum of each shard, and where it lies; every process reads its own shards."""
    shards: dict[tuple[str, _Box], Any] = {}  # every one, with its data where this process has it
    for name, array in arrays.items():
        if isinstance(array, jax.Array):
            for index in array.sharding.devices_indices_map(array.shape).values():
                shards.setdefault((name, _box(index, array.shape)))
            for shard in array.addressable_shards:
                if shard.replica_id == 0:
                    shards[name, _box(shard.index, array.shape)] = shard.data
        else:
            whole = tuple((0, length) for length in array.shape)
            shards[name, whole] = array if jax.process_index() == 0 else None
    with ThreadPoolExecutor() as pool:
        crcs = list(pool.map(lambda data: 0 if data is None else _crc(data), shards.values()))
    # one process has the checksum, the others 0
    total = everywhere(np.array(crcs, np.uint32)).sum(axis=0, dtype=np.uint32)
    described: dict[str, list[dict[str, Any]]] = {name: [] for name in arrays}
    for (name, box), crc in zip(shards, total.tolist(), strict=True):
        described[name].append({"box": box, "crc32": crc})
    return described


def read(path: Path, step: int, template: Mapping[str, Any] | None, free_axes: int) -> Restored:
    """Read one save; raise `Damaged`, or `ValueError` if it is intact but not like the template."""
    record = _read_record(path)
    leaves = record["leaves"]
    if template is not None:
        _compare(template, leaves, free_axes, path)
    return Restored(step, _read_arrays(path, leaves), record["facts"])


def _local() -> ocp.options.MultiprocessingOptions:
    """Return options that say that a process reads by itself, so that Orbax waits for no other."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})


def _read_record(path: Path) -> dict[str, Any]:
    try:
        with closing(ocp.JsonCheckpointHandler(multiprocessing_options=_local())) as handler:
            stored = handler.restore(epath.Path(path / "record"))
        record = stored["record"]
        intact = crc_of_text(record) == stored["crc32"]
    except Exception as error:  # each way of being broken raises another type
        raise Damaged(f"its record is unreadable: {first_line(error)}") from error
    if not intact:
        raise Damaged("its record fails its checksum")
    return record


def _read_arrays(path: Path, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Read the leaves by name, with the dtype, the shape and the bytes that were saved.

    Each takes a call of Orbax of its own, because of a damaged array among many TensorStore would
    print traces.
    """

    def read(name: str) -> Any:
        leaf = leaves[name]
        if not leaf["shards"]:
            return np.zeros(leaf["shape"], leaf["dtype"])
        only = {name: ocp.RestoreArgs(restore_type=np.ndarray)}
        try:
            array = handler.restore(
                epath.Path(path / "tree"),
                args=ocp.args.PyTreeRestore(item=only, restore_args=only, partial_restore=True),
            )[name]
            intact = all(_crc(_part(array, s["box"])) == s["crc32"] for s in leaf["shards"])
        except MemoryError:  # the save may be fine
            raise
        except Exception as error:  # each way of being broken raises another type
            raise Damaged(f"{name} is unreadable: {first_line(error)}") from error
        if not intact:
            raise Damaged(f"{name} fails its checksum")
        if _spec(array) != (tuple(leaf["shape"]), leaf["dtype"]):
            raise Damaged(f"{name} came back as {_spec(array)}")
        return array

    with (
        closing(ocp.PyTreeCheckpointHandler(multiprocessing_options=_local())) as handler,
        ThreadPoolExecutor() as pool,
    ):
        return dict(zip(leaves, pool.map(read, leaves), strict=True))


def _compare(
    wanted: Mapping[str, Any], leaves: Mapping[str, Any], free_axes: int, path: Path
) -> None:
    """Raise `ValueError` unless a template's leaves are those of a save."""
    absent = [name for name in wanted if name not in leaves]
    ignored = [name for name in leaves if name not in wanted]
    if absent or ignored:
        checks.fail(
            "template",
            f"leaves that were not saved: {some(absent)}; saved ones it lacks: {some(ignored)}",
            f"the structure of {path}",
        )
    for name, leaf in wanted.items():
        shape, dtype = _spec(leaf)
        stored_shape, stored_dtype = tuple(leaves[name]["shape"]), leaves[name]["dtype"]
        where = f"template at {name}"
        if dtype != stored_dtype:
            checks.fail(
                where,
                f"dtype {dtype}",
                f"{stored_dtype}, as stored in {path}",
                "Was jax_enable_x64 set differently then?",
            )
        if len(shape) != len(stored_shape) or shape[free_axes:] != stored_shape[free_axes:]:
            checks.fail(where, f"shape {shape}", f"{stored_shape}, as stored in {path}")


def _spec(leaf: Any) -> tuple[tuple[int, ...], str]:
    return tuple(leaf.shape), str(leaf.dtype)


def first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:500] if lines else ''}"
