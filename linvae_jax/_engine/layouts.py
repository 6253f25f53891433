"""A layout says which runs of a sweep lie where: side by side or one by one, on which devices.

One function trains one run (`training.segment`); a `RunLayout` says how it is mapped over the runs
of a chunk (`executors`):

| batching | how | for |
| --- | --- | --- |
| "vmap" | all runs in one program, sharded over all devices | accelerators; small models |
| "map" | one program that goes through the runs | when memory is short |
| "loop" | a program for one run; on a CPU each core calls it for another run | large models |

Runs never talk to each other, so no layout changes a result by more than rounding.

On one H100 networks of the paper's size train side by side three times as fast, 16 of them, as one
by one (benchmarks/README.md). That more than 64 gain more, and that convolutions gain at all, is
assumed.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from linvae_jax import machine, sources, training
from linvae_jax._engine import shapes
from linvae_jax._internal import checks

Batching = Literal["vmap", "map", "loop"]

# share of the memory that is free which a chunk may fill: the rest is for evaluation and luck
_FILL = 0.8
# a chunk whose states take less than this share of it is not worth compiling for to know more
_SMALL = 0.05


@dataclass(frozen=True)
class RunLayout:
    """A layout says how the runs of a sweep are spread; the same one gives the same bits."""

    batching: Batching
    chunk: int  # runs trained together; the next chunk starts when they are done
    devices: int = 1  # over how many a chunk is sharded
    threads: int = 1  # that call programs at the same time


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
) -> RunLayout:
    """Choose a layout for the runs whose hyperparameters and keys have a leading axis.

    "auto" is "vmap", except on a CPU with one device, where it is what `task.cpu` says. A chunk has
    as many runs as the memory (bytes of each device) allows, and in a loop on a CPU one for each
    core.
    """
    checks.one_of("batching", batching, ("auto", *get_args(Batching)))
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
        return RunLayout("loop", chunk, threads=min(workers, chunk))
    if batching == "map":
        return RunLayout("map", min(chunk or runs, runs))
    devices = min(jax.device_count(), runs) if jax.process_count() == 1 else jax.device_count()
    if chunk is None:
        each = math.ceil(runs / devices)
        chunk = min(each, _most(task, config, data, hyper, keys, each, memory)) * devices
    # as many rounds as needed, all alike, and as many runs on each device
    rounds = math.ceil(runs / chunk)
    each = math.ceil(math.ceil(runs / rounds) / devices)
    return RunLayout("vmap", each * devices, devices=devices)


def _most(
    task: training.Task, config: training.TrainConfig, data: Any, hyper: Any, keys: Any,
    wanted: int, memory: int | None,
) -> int:  # fmt: skip
    """Return how many runs fit on a device side by side, or `wanted` if they take little."""
    room = _FILL * (machine.free_memory() if memory is None else memory)
    room -= sources.bytes_ahead(data)
    state = shapes.shape_of(
        lambda *one: shapes.raw(shapes.flat(training.init(task, config, *one))),
        data, shapes.first(hyper), shapes.one_of(keys),
    )  # fmt: skip
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in state.leaves.values())
    if wanted * size < _SMALL * room:
        return wanted
    return max(1, int(room // max(bytes_per_run(task, config, data, hyper, keys), 1)))


def bytes_per_run(
    task: training.Task, config: training.TrainConfig, data: Any, hyper: Any, keys: Any
) -> int:
    """Compute the bytes that one more run side by side takes, as the compiler counts them."""
    init: Any = jax.vmap(partial(training.init, task, config), (None, 0, 0))

    def need(runs: int) -> int:
        rows = jnp.zeros(runs, int)
        some, some_keys = jax.tree.map(lambda leaf: leaf[rows], (hyper, keys))
        states = shapes.shape_of(init, data, some, some_keys)

        inputs, structure = jax.tree.flatten(sources.traceable((data, some)))

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
