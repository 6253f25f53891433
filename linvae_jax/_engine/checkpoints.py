"""Saves of long runs: atomic, checked to the bit, readable on any number of devices.

A `Store` is a folder with the newest few saves of one run. Orbax writes them in the background,
shard by shard from every process, into a folder that gets its name only when it is complete: a
process killed at any moment leaves the last complete save. What Orbax does not do is done here:
the folder knows which run it belongs to, each save carries checksums of its arrays, taken from
memory before the write, and a save that fails them is never returned.

Restored arrays are whole NumPy arrays in every process, so that a run may go on with another
number of devices. One run at a time may write to a folder.

>>> import tempfile, numpy as np
>>> from linvae_jax._engine import checkpoints
>>> with tempfile.TemporaryDirectory() as folder:
...     with checkpoints.Store(folder, {"run": "example"}) as store:
...         store.save(10, {"W": np.ones((3, 2))}, facts={"seed": 0})
...         restored = store.restore()
>>> restored.step, restored.tree["W"].sum(), restored.facts
(10, np.float64(6.0), {'seed': 0})
"""

import errno
import json
import logging
import shutil
import traceback
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from weakref import WeakSet

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath  # the paths that Orbax takes
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from linvae_jax._internal import checks, whole_files

# tells our folders from other people's
_FORMAT = "linvae_jax checkpoints 1"
_IDENTITY = "identity.json"
# bytes on disk besides those of the arrays, blocks half full and descriptions: where blocks are
# 4 kB, 70,000 for a few arrays to 160,000 for a hundred
_BESIDES = 2**18

# Orbax tells its progress through absl, on stderr, and its errors too, though it raises them
_ORBAX = str(Path(ocp.__file__).parent)
logging.getLogger("absl").addFilter(lambda record: not record.pathname.startswith(_ORBAX))


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Whether asyncio tells of a task that is not Orbax's, of whose errors it raises the first."""
    trace = record.exc_info[2] if record.exc_info else None
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace)]
    return not any(file.startswith(_ORBAX) for file in files)


logging.getLogger("asyncio").addFilter(_not_of_orbax)


class Restored(NamedTuple):
    """What came back.

    Attributes:
        step: of the save.
        tree: NumPy arrays, whole, in every process; typed keys stay typed, on the default device.
        facts: what was stored with it.
    """

    step: int
    tree: Any
    facts: dict[str, Any]


class Store:
    """The saves of one run in one folder, a context manager that waits for what is being written.

    With several processes every one of them calls every method, at the same point of the run, on
    a folder that all of them see.
    """

    def __init__(
        self, folder: str | Path, identity: Mapping[str, Any], keep: int = 2, longer: str = ""
    ):
        """Open a folder, or make it.

        Args:
            folder: new, empty, or of an earlier `Store`.
            identity: what defines the run, JSON values; all that resuming must not change.
            keep: how many saves stay; with 1 there is nothing to fall back to.
            longer: a list of the identity, by its dotted name, that resuming may lengthen.

        Raises:
            ValueError: the folder belongs to another run (the text names what differs), or holds
                other files.
        """
        if keep < 1:
            checks.fail("keep", keep, "a number of saves >= 1")
        self.folder = checks.path("folder", folder).absolute()
        _claim(self.folder, identity, longer)
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                step_prefix="step",
                preservation_policy=preservation_policy.LatestN(n=keep),
                cleanup_tmp_directories=True,
                create=False,
                lightweight_initialize=True,  # or a damaged save would stop it here
            ),
        )
        self._damaged: list[int] = []
        _OPEN.add(self)

    def save(self, step: int, tree: Any, facts: Mapping[str, Any] | None = None) -> None:
        """Save in the background; the arrays may be donated as soon as this returns.

        Waits for the save before it, also of another open store. On a CPU the write reads the
        arrays in place, so a call that donates them copies them instead, until it is done.

        Args:
            step: larger than all saved before.
            tree: pytree of NumPy or JAX arrays, typed keys and numbers; sharded ones stay so.
            facts: small, JSON values, stored with it (those of process 0).

        Raises:
            ValueError: a step that is not larger, something that is not an array, facts that JSON
                cannot hold.
            OSError: the save before it failed, or the disk has no room for this one.
        """
        for store in tuple(_OPEN):
            store.wait()
        for damaged in self._damaged:  # the run has gone back behind them
            self._manager.delete(damaged)
        self._damaged = []
        newest = self._manager.latest_step()
        if newest is not None and step <= newest:
            checks.fail("step", step, f"one after {newest}, the newest in {self.folder}")
        arrays, leaves = _describe(tree)
        record = {"facts": _json("facts", facts or {}), "leaves": leaves}
        self._check_room(arrays)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                tree=ocp.args.PyTreeSave(arrays),
                record=ocp.args.JsonSave({"record": record, "crc32": _crc_text(record)}),
            ),
            force=True,
        )

    def _check_room(self, arrays: Mapping[str, Any]) -> None:
        """Raise `OSError` where a save cannot fit.

        Orbax would find out in one of many threads, and as the others go on without the loop that
        started them, each prints a traceback ("Event loop is closed") that says nothing.
        """
        needed = sum(leaf.nbytes for leaf in arrays.values()) + _BESIDES + 2**10 * len(arrays)
        disk = shutil.disk_usage(self.folder)
        # a file system that does not know its size has no free space either
        if everywhere(np.uint32(disk.total > 0 and disk.free < needed)).any():
            raise OSError(
                errno.ENOSPC,
                f"A save to {self.folder} failed: it needs up to {needed:,} bytes of disk, "
                f"{disk.free:,} are free. The saves before it are intact.",
            )

    def restore(self, template: Any = None, free_axes: int = 0) -> Restored | None:
        """The newest intact save, or None if nothing was saved yet.

        A damaged save is passed over with a warning, and deleted by the next `save`.

        Args:
            template: pytree of arrays or `jax.ShapeDtypeStruct` that the save must match, and
                whose structure comes back; without it, nested dictionaries do.
            free_axes: how many leading axes may have another length than in the template, e.g. 1
                for stacked runs that were padded for another number of devices.

        Raises:
            ValueError: another structure, shape or dtype than the template's, before anything is
                read; or saves there are, but none is intact.
        """
        self.wait()
        restored, self._damaged = _newest_intact(self.folder, template, free_axes)
        return restored

    def wait(self) -> None:
        """Wait until what was saved is on disk.

        Raises:
            OSError: that failed, e.g. the disk is full. The saves before it are intact.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # each storage has its own types
            raise OSError(
                f"A save to {self.folder} failed ({_first_line(error)}). "
                "The saves before it are intact."
            ) from error

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except OSError as failed:
            if error is None:
                raise
            error.add_note(f"Besides: {failed}")  # the body's own error is the one to see
        finally:
            self._manager.close()
            _OPEN.discard(self)


# one save at a time: between processes, Orbax's barriers have the same names in every folder
_OPEN: WeakSet[Store] = WeakSet()


# --- whose folder is it? ---


def _claim(folder: Path, identity: Mapping[str, Any], longer: str) -> None:
    """Make the folder this run's, or see that it is."""
    asked = _json("identity", identity)
    path, partial = folder / _IDENTITY, folder / f"{_IDENTITY}.partial"

    def write() -> None:
        text = json.dumps({"format": _FORMAT, "identity": asked}, indent=1)
        whole_files.write(path, text.encode())

    if jax.process_index() == 0 and not folder.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        if all(entry == partial for entry in folder.iterdir()):
            write()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"linvae_jax identity of {folder}")
    if not path.is_file():
        what = "which is a file"
        if folder.is_dir():
            what = f"which holds {_some(sorted(entry.name for entry in folder.iterdir()))}"
        checks.fail("folder", f"{folder}, {what}", "a new or empty one, or one of this run")
    if _compare_identity(folder, asked, longer) and jax.process_index() == 0:
        write()


def _compare_identity(folder: Path, asked: Mapping[str, Any], longer: str = "") -> bool:
    """Refuse another run's folder; whether the list that may be longer is."""
    path = folder / _IDENTITY
    try:
        written = json.loads(path.read_text())
    except ValueError:
        written = None
    if not isinstance(written, dict) or written.get("format") != _FORMAT:
        checks.fail(
            "folder", f"{folder}, whose {_IDENTITY} is not ours or damaged", "a folder of this run"
        )
    here, there = dict(_fields(asked)), dict(_fields(written["identity"]))
    # as text: [0, 1] begins like [0], but for the bracket that closes it
    grown = here.get(longer, "").startswith(there.get(longer, "]")[:-1] + ",")
    if grown:
        there[longer] = here[longer]
    differ = [name for name in here | there if here.get(name) != there.get(name)]
    if differ:

        def told(fields: dict[str, str]) -> str:
            return _some([f"{name} = {fields.get(name, 'nothing')}" for name in differ])

        checks.fail(
            "identity",
            told(here),
            f"{told(there)}, as stored in {path}",
            "Take another folder, or delete this one to start again.",
        )
    return grown


def _fields(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The values of nested dictionaries as text, each with its dotted name."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _fields(inner, f"{name}.{key}" if name else key)
    else:
        yield name, json.dumps(value)


def _json(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping as it will be read again: tuples become lists, keys become text."""
    try:
        return json.loads(json.dumps(dict(value)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: got {value!r}, expected JSON values ({error}).") from error


# --- what is in a save ---


def _named(tree: Any) -> dict[str, Any]:
    """The leaves by their path in the tree, e.g. "weights/W"."""
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in named:
            checks.fail("tree", f"two leaves at {name}", "keys without '/'")
        named[name] = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return named


def _describe(tree: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What Orbax shall write, and what must come back: shapes, dtypes, checksums.

    Flat, and without the arrays that Orbax cannot write, those of size 0.
    """
    arrays, leaves = {}, {}
    for name, leaf in _named(tree).items():
        leaves[name] = {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            if not leaf.size:
                checks.fail(f"tree at {name}", "no keys at all", "at least one key")
            leaves[name]["key"] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        checks.numbers(f"tree at {name or 'its root'}", leaf)
        if jax.process_count() > 1 and isinstance(leaf, jax.Array) and leaf.is_fully_addressable:
            leaf = np.asarray(leaf)  # process 0 writes its copy; Orbax refuses local JAX arrays
        if leaf.size:
            arrays[name] = leaf
    if not arrays:
        checks.fail("tree", "no numbers at all", "at least one array")
    checksums = _checksums(arrays)
    for name in leaves:
        leaves[name]["shards"] = checksums.get(name, [])
    return arrays, leaves


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


def _crc_text(record: Any) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def _checksums(arrays: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """A checksum of each shard, and where it lies; every process reads its own shards.

    Of shards rather than of whole arrays, since no process may see a whole one.
    """
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


def everywhere(values: Any) -> np.ndarray:
    """The values of every process, (processes, ...)."""
    if jax.process_count() == 1:
        return np.asarray(values)[None]
    return np.asarray(multihost_utils.process_allgather(np.asarray(values)))


# --- reading ---


class _Damaged(Exception):
    """This save cannot be trusted; says why."""


def _steps(folder: Path) -> list[int]:
    """The complete saves, from old to new."""
    numbers = (entry.name.removeprefix("step_") for entry in folder.glob("step_*"))
    return sorted(int(number) for number in numbers if number.isdigit())


def _newest_intact(
    folder: Path, template: Any, free_axes: int
) -> tuple[Restored | None, list[int]]:
    """The newest save that passes its checks, and the steps after it that do not."""
    faults: dict[int, str] = {}
    for step in reversed(_steps(folder)):
        restored: Restored | None = None
        problem: Exception | None = None
        try:
            restored = _read(folder / f"step_{step}", step, template, free_axes)
        except (_Damaged, ValueError) as error:
            problem = error
        # a save that one process cannot read is damaged for all, or they would go on differently
        damaged = isinstance(problem, _Damaged)
        if everywhere(np.uint32(damaged)).any():
            faults[step] = str(problem) if damaged else "another process could not read it"
            continue
        if problem is not None:
            raise problem
        if faults and jax.process_index() == 0:
            warnings.warn(
                f"{folder}: going back to step {step}, since {_told(faults)}.", stacklevel=3
            )
        return restored, list(faults)
    if faults:
        checks.fail(
            "folder",
            f"{folder}, where {_told(faults)}",
            "at least one intact save",
            "Delete the folder to start again.",
        )
    return None, []


def _told(faults: Mapping[int, str]) -> str:
    return "; ".join(f"step {step} is damaged ({why})" for step, why in faults.items())


def _read(path: Path, step: int, template: Any, free_axes: int) -> Restored:
    """One save, checked.

    Raises:
        _Damaged: a file is missing, unreadable, or holds other numbers than were saved.
        ValueError: intact as far as can be told, but not like the template.
    """
    record = _read_record(path)
    leaves = record["leaves"]
    if template is not None:
        _compare(_named(template), leaves, free_axes, path)
    arrays = _read_arrays(path, leaves)
    tree = _nested(arrays)
    if template is not None:
        structure = jax.tree.structure(template)
        tree = jax.tree.unflatten(structure, [arrays[name] for name in _named(template)])
    return Restored(step, tree, record["facts"])


def _local() -> ocp.options.MultiprocessingOptions:
    """Reading is each process's own business: Orbax shall wait for no other."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})


def _read_record(path: Path) -> dict[str, Any]:
    try:
        with closing(ocp.JsonCheckpointHandler(multiprocessing_options=_local())) as handler:
            stored = handler.restore(epath.Path(path / "record"))
        record = stored["record"]
        intact = _crc_text(record) == stored["crc32"]
    except Exception as error:  # each way of being broken raises another type
        raise _Damaged(f"its record is unreadable: {_first_line(error)}") from error
    if not intact:
        raise _Damaged("its record fails its checksum")
    return record


def _read_arrays(path: Path, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves by name, with the dtype, the shape and the bytes that were saved.

    One call of Orbax for each: of a damaged array among many, TensorStore would print traces.
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
            raise _Damaged(f"{name or 'its array'} is unreadable: {_first_line(error)}") from error
        if not intact:
            raise _Damaged(f"{name or 'its array'} fails its checksum")
        value = jax.random.wrap_key_data(array, impl=leaf["key"]) if "key" in leaf else array
        if _spec(value) != (tuple(leaf["shape"]), leaf["dtype"]):
            raise _Damaged(f"{name or 'its array'} came back as {_spec(value)}")
        return value

    with (
        closing(ocp.PyTreeCheckpointHandler(multiprocessing_options=_local())) as handler,
        ThreadPoolExecutor() as pool,
    ):
        return dict(zip(leaves, pool.map(read, leaves), strict=True))


def _compare(
    wanted: Mapping[str, Any], leaves: Mapping[str, Any], free_axes: int, path: Path
) -> None:
    """Raise unless a template's leaves are those of a save."""
    absent = [name for name in wanted if name not in leaves]
    ignored = [name for name in leaves if name not in wanted]
    if absent or ignored:
        checks.fail(
            "template",
            f"leaves that were not saved: {_some(absent)}; saved ones it lacks: {_some(ignored)}",
            f"the structure of {path}",
        )
    for name, leaf in wanted.items():
        shape, dtype = _spec(leaf)
        stored_shape, stored_dtype = tuple(leaves[name]["shape"]), leaves[name]["dtype"]
        where = f"template at {name or 'its root'}"
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


def _nested(arrays: Mapping[str, Any]) -> Any:
    """Dictionaries of dictionaries by the parts of the names; a lone leaf is itself."""
    if list(arrays) == [""]:
        return arrays[""]
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *branches, last = name.split("/")
        branch = tree
        for part in branches:
            branch = branch.setdefault(part, {})
        branch[last] = array
    return tree


def _some(names: list[str]) -> str:
    """The first few, for a message."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "none") + more


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:500] if lines else ''}"
