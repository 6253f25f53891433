"""How many runs share a machine: side by side, one by one on all cores, over devices and hosts.

One function trains one run (`training.segment`); an `Executor` maps it over the runs of a chunk in
the way that a `Layout` says:

| batching | how | for |
| --- | --- | --- |
| "vmap" | all runs in one program, sharded over all devices | accelerators; small models |
| "map" | one program that goes through the runs | when memory is short |
| "loop" | a program for one run; on a CPU each core calls it for another run | large models |

Runs never talk to each other, so no layout changes a result by more than rounding.

Of accelerators it is measured on one H100 (benchmarks/README.md) that networks of the paper's size
train side by side three times as fast, 16 of them, as one by one. That more than 64 gain more, and
that convolutions gain at all, is assumed.
"""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from linvae_jax import machine, training, windowed
from linvae_jax._internal import checks

Batching = Literal["vmap", "map", "loop"]
BATCHINGS = ("auto", "vmap", "map", "loop")

# share of the memory that is free which a chunk may fill: the rest is for evaluation and luck
_FILL = 0.8
# a chunk whose states take less than this share of it is not worth compiling for to know more
_SMALL = 0.05


@dataclass(frozen=True)
class Layout:
    """How the runs of a sweep are spread; the same layout gives the same bits.

    Attributes:
        batching: see the module's table.
        chunk: runs trained together; the next chunk starts when they are done.
        devices: over how many a chunk is sharded.
        threads: that call programs at the same time.
    """

    batching: Batching
    chunk: int
    devices: int = 1
    threads: int = 1


class Shape(NamedTuple):
    """Of a pytree: name of each leaf → its shape and dtype, and how to put them together."""

    leaves: dict[str, jax.ShapeDtypeStruct]
    structure: Any


def flat(tree: Any) -> dict[str, Any]:
    """Leaves by name, such as "params.W"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def shape_of(function: Callable[..., Any], *args: Any) -> Shape:
    """The `Shape` of `function(*args)`, which is traced and not run; of windows it sees one."""
    seen: list[tuple[list[str], Any]] = []

    def traced(*args: Any) -> list[Any]:
        tree = function(*args)
        named = flat(tree)
        seen.append((list(named), jax.tree.structure(tree)))
        return list(named.values())  # not the dictionary: JAX would sort it

    shapes = jax.eval_shape(traced, *windowed.traceable(args))
    names, structure = seen[0]
    return Shape(dict(zip(names, shapes, strict=True)), structure)


def of_runs(count: int, one: Shape) -> Shape:
    """Of `count` runs together, with a leading axis, from that of one."""
    leaves = {
        name: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype)
        for name, leaf in one.leaves.items()
    }
    return Shape(leaves, one.structure)


def one_of(runs: Any) -> Any:
    """What `shape_of` takes for one of several runs: the shapes of a leading axis's elements."""
    return jax.eval_shape(_first, runs)


def _first(runs: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], runs)


def bytes_per_run(
    task: training.Task, config: training.TrainConfig, data: Any, hyper: Any, keys: Any
) -> int:
    """Memory that one more run side by side takes, computed by the compiler: state and workspace.

    Args:
        task: what is trained.
        config: how.
        data: as the task wants them; of windows one is counted.
        hyper: hyperparameters with a leading axis of runs.
        keys: likewise.
    """
    init: Any = jax.vmap(partial(training.init, task, config), (None, 0, 0))

    def need(runs: int) -> int:
        rows = jnp.zeros(runs, int)
        some, some_keys = jax.tree.map(lambda leaf: leaf[rows], (hyper, keys))
        states = shape_of(init, data, some, some_keys)

        inputs, structure = jax.tree.flatten(windowed.traceable((data, some)))

        def segment(inputs: list[Any], leaves: list[Any]) -> Any:
            data, hyper = jax.tree.unflatten(structure, inputs)
            state = jax.tree.unflatten(states.structure, leaves)
            return jax.vmap(partial(training.segment, task, config, data))(hyper, state)

        program = jax.jit(segment, donate_argnums=1)
        memory = program.lower(inputs, list(states.leaves.values())).compile().memory_analysis()
        assert memory is not None
        held = memory.argument_size_in_bytes + memory.output_size_in_bytes
        return held - memory.alias_size_in_bytes + memory.temp_size_in_bytes

    return need(2) - need(1)


def plan(
    task: training.Task,
    config: training.TrainConfig,
    data: Any,
    hyper: training.Hyperparameters,
    keys: Any,
    *,
    batching: str = "auto",
    chunk: int | None = None,
    memory: int | None = None,
) -> Layout:
    """Choose a layout for the runs whose hyperparameters and keys have a leading axis.

    Args:
        task: what is trained.
        config: how.
        data: as the task wants them.
        hyper: (runs,) each.
        keys: (runs,).
        batching: "vmap", "map" or "loop"; "auto" is "vmap" except on a CPU with one device, where
            it is what `task.cpu` says.
        chunk: runs together; by default as many as memory allows, and in a loop on a CPU one for
            each core.
        memory: bytes that each device may use; by default what it has left.

    Raises:
        ValueError: an unknown batching, a chunk below 1.
    """
    if batching not in BATCHINGS:
        checks.fail("batching", repr(batching), f"one of {BATCHINGS}")
    runs = len(keys)
    if chunk is not None:
        checks.in_range("chunk", chunk, 1, 2**31 - 1, "runs at once")
    on_cpu = jax.default_backend() == "cpu"
    if batching == "auto":
        batching = task.cpu if on_cpu and jax.device_count() == 1 else "vmap"
    if batching == "loop":
        # a program waits for its last thread at the end of each product; another fills the gap
        workers = machine.cores() if on_cpu else 1
        chunk = min(chunk or workers, runs)
        return Layout("loop", chunk, threads=min(workers, chunk))
    if batching == "map":
        return Layout("map", min(chunk or runs, runs))
    devices = min(jax.device_count(), runs) if jax.process_count() == 1 else jax.device_count()
    if chunk is None:
        each = math.ceil(runs / devices)
        chunk = min(each, _most(task, config, data, hyper, keys, each, memory)) * devices
    # as many rounds as needed, all alike, and as many runs on each device
    rounds = math.ceil(runs / chunk)
    each = math.ceil(math.ceil(runs / rounds) / devices)
    return Layout("vmap", each * devices, devices=devices)


def _most(
    task: training.Task, config: training.TrainConfig, data: Any, hyper: Any, keys: Any,
    wanted: int, memory: int | None,
) -> int:  # fmt: skip
    """Runs side by side that fit on a device."""
    room = _FILL * (machine.free_memory() if memory is None else memory)
    if (windows := windowed.find(data)) is not None:
        room -= 2 * _bytes(windowed.window_shape(windows))  # that in use and the next
    state = shape_of(
        lambda *one: raw(flat(training.init(task, config, *one))),
        data, _first(hyper), one_of(keys),
    )  # fmt: skip
    size = sum(map(_bytes, state.leaves.values()))
    if wanted * size < _SMALL * room:
        return wanted
    return max(1, int(room // max(bytes_per_run(task, config, data, hyper, keys), 1)))


def _bytes(leaf: jax.ShapeDtypeStruct) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def _raw(leaf: Any) -> Any:
    typed = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if typed else leaf


def raw(tree: Any) -> Any:
    """The same with typed keys as the numbers that they are."""
    return jax.tree.map(_raw, tree)


def _typed(leaf: Any, like: Any) -> Any:
    typed = jnp.issubdtype(like.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(leaf) if typed else leaf


def _to_host(leaf: Any) -> np.ndarray:
    """A NumPy copy, whole in every process."""
    if getattr(leaf, "is_fully_addressable", True):
        return np.array(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


@lru_cache(maxsize=64)
def _program(
    function: Callable[..., Any], static: tuple[Any, ...], layout: Layout, donate: int | None
) -> Callable[..., Any]:
    """`function(*static, data, *rest)` compiled over a leading axis of runs of `rest`."""
    one = partial(function, *static)
    donated = () if donate is None else (donate,)
    if layout.batching == "loop":
        return jax.jit(one, donate_argnums=donated)

    def many(data: Any, *rest: Any) -> Any:
        if layout.batching == "map":
            return jax.lax.map(lambda args: one(data, *args), rest)
        return jax.vmap(partial(one, data))(*rest)

    if layout.devices == 1:
        return jax.jit(many, donate_argnums=donated)
    mesh = _mesh(layout.devices)
    along = PartitionSpec("run")

    def sharded(data: Any, *rest: Any) -> Any:
        specs = (PartitionSpec(), *(along for _ in rest))
        # the runs of a device are its own affair: nothing is exchanged, nothing to be checked
        return jax.shard_map(many, mesh=mesh, in_specs=specs, out_specs=along, check_vma=False)(
            data, *rest
        )

    return jax.jit(sharded, donate_argnums=donated)


@lru_cache(maxsize=8)
def _mesh(devices: int) -> Mesh:
    return Mesh(np.array(jax.devices()[:devices]), ("run",), axis_types=(AxisType.Auto,))


class Executor:
    """Trains a chunk of runs in a layout; holds no state of theirs.

    Batches of runs are pytrees with a leading axis; in a loop, lists of one pytree for each run.
    """

    def __init__(self, task: training.Task, config: training.TrainConfig, layout: Layout) -> None:
        self.static, self.layout = (task, config), layout

    def place(self, tree: Any) -> Any:
        """Put NumPy or JAX arrays with a leading axis of runs where the programs want them."""
        if self.layout.batching == "loop":
            runs = len(jax.tree.leaves(tree)[0])
            return [jax.tree.map(lambda leaf: jnp.asarray(leaf[i]), tree) for i in range(runs)]  # noqa: B023
        if self.layout.devices == 1:
            return jax.tree.map(jnp.asarray, tree)
        return self._spread(tree, PartitionSpec("run"))

    def replicate(self, data: Any) -> Any:
        """Put data on every device."""
        if self.layout.devices == 1:
            return jax.tree.map(jnp.asarray, data)
        return self._spread(data, PartitionSpec())

    def _spread(self, tree: Any, spec: PartitionSpec) -> Any:
        sharding = NamedSharding(_mesh(self.layout.devices), spec)

        def put(leaf: Any) -> Any:
            host = np.asarray(_raw(leaf))
            array = jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
            return _typed(array, leaf)

        return jax.tree.map(put, tree)

    def gather(self, tree: Any) -> dict[str, Any]:
        """Leaves by name with a leading axis of runs, keys as numbers; sharded ones stay so."""
        if self.layout.batching != "loop":
            return raw(flat(tree))
        of_runs = [raw(flat(one)) for one in tree]
        return {name: np.stack([one[name] for one in of_runs]) for name in of_runs[0]}

    def host(self, tree: Any) -> dict[str, np.ndarray]:
        """The same as NumPy arrays, whole in every process."""
        return {name: _to_host(leaf) for name, leaf in self.gather(tree).items()}

    def scatter(self, leaves: Mapping[str, Any], shape: Shape) -> Any:
        """The inverse of `gather`: states of this shape from NumPy arrays."""
        typed = [_typed(jnp.asarray(leaves[name]), like) for name, like in shape.leaves.items()]
        return self.place(jax.tree.unflatten(shape.structure, typed))

    def shapes(self, data: Any, hyper: Any, keys: Any) -> tuple[Shape, Shape]:
        """Of the state and the records of one of these runs."""

        def init(data: Any, hyper: Any, keys: Any) -> Any:
            return training.init(*self.static, data, *_first((hyper, keys)))

        state = shape_of(init, data, hyper, keys)

        def record(data: Any, hyper: Any, leaves: list[Any]) -> Any:
            there = jax.tree.unflatten(state.structure, leaves)
            return training.segment(*self.static, data, _first(hyper), there)[1]

        return state, shape_of(record, data, hyper, list(state.leaves.values()))

    def params(self, states: Any) -> Any:
        """The parameters in the states."""
        if self.layout.batching != "loop":
            return states.params
        return [state.params for state in states]

    def init(self, data: Any, hyper: Any, keys: Any) -> Any:
        """States before the first step."""
        return self._call(training.init, None, data, hyper, keys)

    def begin(self, data: Any, hyper: Any, keys: Any) -> tuple[Any, Any]:
        """States before the first step, and of their records what `training.START` names."""
        return self._unzipped(self._call(_begin, None, data, hyper, keys))

    def segment(self, data: Any, hyper: Any, states: Any) -> tuple[Any, Any]:
        """States and records after `record_every` more steps; the states given are used up."""
        return self._unzipped(self._call(training.segment, 2, data, hyper, states))

    def finish(self, data: Any, hyper: Any, states: Any) -> Any:
        """What the task wants to know of trained models."""
        return self._call(_finish, None, data, hyper, states)

    def tally(self, data: Any, first: int, states: Any) -> Any:
        """What the task notes of a piece of the data that begins with row `first`."""
        return self._call(_tally, None, (data, self.replicate(np.int32(first))), states)

    def merge(self, a: Any, b: Any) -> Any:
        """What the task notes of two pieces together."""
        return self._call(_merge, None, (), a, b)

    def conclude(self, data: Any, hyper: Any, states: Any, total: Any) -> Any:
        """As `finish`, from what was noted of all pieces."""
        return self._call(_conclude, None, data, hyper, states, total)

    def _unzipped(self, both: Any) -> tuple[Any, Any]:
        """Both outputs of a program, where the runs of a loop gave a pair each."""
        if self.layout.batching != "loop":
            return both
        first, second = zip(*both, strict=True)
        return list(first), list(second)

    def _call(self, function: Callable[..., Any], donate: int | None, data: Any, *rest: Any) -> Any:
        if self.layout.batching != "loop":
            return _program(function, self.static, self.layout, donate)(data, *rest)
        # one run at a time: the same program however many there are
        program = _program(function, self.static, Layout("loop", 1), donate)
        with ThreadPoolExecutor(self.layout.threads) as pool:
            return list(
                pool.map(
                    lambda args: jax.block_until_ready(program(data, *args)),
                    zip(*rest, strict=True),
                )
            )


def _begin(
    task: training.Task, config: training.TrainConfig, data: Any, hyper: Any, key: Any
) -> tuple[Any, Any]:
    """A state before the first step, and what is kept of the record there."""
    state = training.init(task, config, data, hyper, key)
    record = training.observe(task, data, hyper, state)
    return state, {name: getattr(record, name) for name in training.START}


def _finish(
    task: training.Task, config: training.TrainConfig, data: Any, hyper: Any, state: Any
) -> Any:
    return training.finish(task, data, hyper, state)


def _tally(task: Any, config: training.TrainConfig, piece: Any, state: Any) -> Any:
    data, first = piece
    return training.tally(task, data, first, state)


def _merge(task: Any, config: training.TrainConfig, _: Any, a: Any, b: Any) -> Any:
    return task.merge(a, b)


def _conclude(
    task: Any, config: training.TrainConfig, data: Any, hyper: Any, state: Any, total: Any
) -> Any:
    return task.conclude(data, state.params, hyper, total)
