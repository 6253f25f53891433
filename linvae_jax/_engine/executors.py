"""Executors call the programs that train a chunk of runs, side by side or one by one.

Both have the same methods. They hold no state of the runs: a batch of runs goes in and comes out as
that executor has it, side by side a pytree with a leading axis, one by one a list of pytrees.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from operator import attrgetter, itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from linvae_jax import training
from linvae_jax._engine import processes, shapes
from linvae_jax._engine.divergence import START
from linvae_jax._engine.layouts import RunLayout

Args = tuple[Any, ...]


def executor(task: Any, config: training.TrainConfig, layout: RunLayout) -> "SideBySide":
    """Return the executor of a layout."""
    kind = OneByOne if layout.batching == "loop" else SideBySide
    return kind(task, config, layout)


class SideBySide:
    """This executor has a program for all runs, over one device or many."""

    def __init__(self, task: Any, config: training.TrainConfig, layout: RunLayout) -> None:
        self.task, self.config, self.layout = task, config, layout

    def place(self, tree: Any) -> Any:
        """Make a batch of runs of NumPy or JAX arrays with a leading axis."""
        return self._put(tree, PartitionSpec("run"))

    def replicate(self, data: Any) -> Any:
        """Put data on every device."""
        return self._put(data, PartitionSpec())

    def _put(self, tree: Any, spec: PartitionSpec) -> Any:
        if self.layout.devices == 1:
            return jax.tree.map(jnp.asarray, tree)
        sharding = NamedSharding(_mesh(self.layout.devices), spec)

        def put(leaf: Any) -> Any:
            host = np.asarray(shapes.raw(leaf))
            array = jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
            return shapes.typed(array, leaf)

        return jax.tree.map(put, tree)

    def gather(self, batch: Any) -> dict[str, Any]:
        """Return leaves by name with a leading axis of runs, keys as numbers, shards as shards."""
        return shapes.raw(shapes.flat(batch))

    def _each(self, function: Callable[[Any], Any], batch: Any) -> Any:
        """Apply a function of pytrees to a batch."""
        return function(batch)

    def _call(self, one: Args, shared: Args, *batches: Any, donate: Args = ()) -> Any:
        """Call `function(*static, *shared, *run)` of one = (function, *static) for all runs."""
        return _together(one, donate, self.layout)(shared, *batches)

    def host(self, batch: Any) -> dict[str, np.ndarray]:
        """Return what `gather` does as NumPy arrays, whole in every process."""
        return {name: processes.to_host(leaf) for name, leaf in self.gather(batch).items()}

    def scatter(self, leaves: Mapping[str, Any], shape: shapes.Shape) -> Any:
        """Return the batch of this shape of which `gather` made the leaves."""
        typed = [shapes.typed(jnp.asarray(leaves[n]), like) for n, like in shape.leaves.items()]
        return self.place(jax.tree.unflatten(shape.structure, typed))

    def params(self, states: Any) -> Any:
        """Return the parameters in the states."""
        return self._each(attrgetter("params"), states)

    def begin(self, data: Any, hyper: Any, keys: Any) -> tuple[Any, Any]:
        """Return states before the first step, and of their records what `START` names."""
        return self._pair(self._call((_begin, self.task, self.config), (data,), hyper, keys))

    def segment(self, data: Any, hyper: Any, states: Any) -> tuple[Any, Any]:
        """Return states and records after `record_every` more steps; uses up the states given."""
        one = (training.segment, self.task, self.config)
        return self._pair(self._call(one, (data,), hyper, states, donate=(2,)))

    def totals(self, data: Any, first: int, states: Any) -> Any:
        """Measure trained models on a piece of the data, which begins with row `first` of all."""
        piece = (data, self.replicate(np.int32(first)))
        return self._call((training.totals, self.task), piece, states)

    def merge(self, a: Any, b: Any) -> Any:
        """Return the totals of two pieces together."""
        # not the bound method, which is another one for each task that is equal to this
        return self._call((type(self.task).merge, self.task), (), a, b)

    def finish(self, data: Any, hyper: Any, states: Any, *total: Any) -> Any:
        """Return final numbers from the totals of all data; without, if `data` are all of them."""
        return self._call((training.finish, self.task), (data,), hyper, states, *total)

    def _pair(self, pairs: Any) -> tuple[Any, Any]:
        return self._each(itemgetter(0), pairs), self._each(itemgetter(1), pairs)


class OneByOne(SideBySide):
    """This executor, on one device, has a program for a run, which each core calls for another."""

    def place(self, tree: Any) -> Any:
        runs = len(jax.tree.leaves(tree)[0])
        return [jax.tree.map(lambda leaf: jnp.asarray(leaf[i]), tree) for i in range(runs)]  # noqa: B023

    def gather(self, batch: Any) -> dict[str, Any]:
        of_runs = [shapes.raw(shapes.flat(one)) for one in batch]
        return {name: np.stack([one[name] for one in of_runs]) for name in of_runs[0]}

    def _each(self, function: Callable[[Any], Any], batch: Any) -> Any:
        return [function(one) for one in batch]

    def _call(self, one: Args, shared: Args, *batches: Any, donate: Args = ()) -> Any:
        program = _alone(one, donate)  # the same however many runs there are
        with ThreadPoolExecutor(self.layout.threads) as pool:
            calls = pool.map(lambda *run: jax.block_until_ready(program(shared, *run)), *batches)
            return list(calls)


def _begin(
    task: training.Task, config: training.TrainConfig, data: Any, hyper: Any, key: Any
) -> tuple[Any, Any]:
    state = training.init(task, config, data, hyper, key)
    record = training.observe(task, data, hyper, state)
    return state, {name: getattr(record, of) for name, of in START.items()}


@lru_cache(maxsize=64)
def _alone(one: Args, donate: Args) -> Callable[..., Any]:
    """Compile `function(*static, *shared, *run)` of (shared, *run) for one run."""
    return jax.jit(lambda shared, *run: partial(*one)(*shared, *run), donate_argnums=donate)


@lru_cache(maxsize=64)
def _together(one: Args, donate: Args, layout: RunLayout) -> Callable[..., Any]:
    """Compile the same for runs side by side, in a layout."""

    def many(shared: Args, *runs: Any) -> Any:
        call = partial(*one, *shared)
        if layout.batching == "map":
            return jax.lax.map(lambda run: call(*run), runs)
        return jax.vmap(call)(*runs)

    def sharded(shared: Args, *runs: Any) -> Any:
        specs = (PartitionSpec(), *(PartitionSpec("run") for _ in runs))
        # the runs of a device are its own affair: nothing is exchanged, nothing to be checked
        return jax.shard_map(
            many, mesh=_mesh(layout.devices), in_specs=specs, out_specs=PartitionSpec("run"),
            check_vma=False,
        )(shared, *runs)  # fmt: skip

    return jax.jit(many if layout.devices == 1 else sharded, donate_argnums=donate)


@lru_cache(maxsize=8)
def _mesh(devices: int) -> Mesh:
    return Mesh(np.array(jax.devices()[:devices]), ("run",), axis_types=(AxisType.Auto,))
