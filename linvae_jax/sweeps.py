"""A sweep is many training runs at once, over seeds × σ² × {learned, held} and more, labelled.

Runs are independent; one that diverges is reported as diverged, has NaN in place of
its numbers from there on, counts of latents too, and does not touch its neighbours. With a folder
nothing computed is lost: `run` goes on where it was ended.

>>> import jax.numpy as jnp
>>> from linvae_jax import linear_task, moments, sweeps, training
>>> problem = linear_task.problem(moments.from_covariance(jnp.diag(jnp.array([4.0, 2.0, 0.5]))))
>>> grid = sweeps.Grid(seeds=(0, 1), sigma2=(0.5, 3.0), learned=(False,), learning_rate=(0.05,))
>>> config = training.TrainConfig(num_steps=1000, record_every=500)
>>> sweep = sweeps.run(linear_task.LinearTask(k=2), config, problem, grid, quiet=True)
>>> sweep.table.num_collapsed.isel(step=-1, learned=0).values.tolist()  # σ² = 3 > λ₂ collapses one
[[0.0, 1.0], [0.0, 1.0]]
>>> sweep.run(seed=1, sigma2_init=3.0).params.W.shape
(3, 2)
"""

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array

from linvae_jax import progress, sources, streams, tables, training
from linvae_jax._engine import layouts, run_files, shapes, sweep_table
from linvae_jax._engine.trainer import ProgressReport, Result, Trainer
from linvae_jax._engine.trainer import Stopped as Stopped
from linvae_jax._internal import checks
from linvae_jax.training import Annealing, Hyperparameters


@dataclass(frozen=True)
class Grid:
    """A grid has a run for each combination of these values, the last varying fastest.

    A seed, 0 ≤ seed < 2³², gives one key, which all runs with this seed share. The other fields are
    values of the fields of `training.Hyperparameters`.

    Raises:
        ValueError: a field that is no sequence, the same value twice in one, which would count as
            two independent runs, or what is no seed (`streams.check`).
    """

    seeds: tuple[int, ...] = (0,)
    sigma2: tuple[float, ...] = (1.0,)
    learned: tuple[bool, ...] = (True,)
    learning_rate: tuple[float, ...] = (1e-3,)
    beta: tuple[float, ...] = (1.0,)
    annealing: tuple[Annealing, ...] = (Annealing(),)

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not isinstance(value, tuple | list | range):
                checks.fail(f.name, repr(value), "a tuple, of one value or more")
        # 1 and 1.0 are the same run, and so are their folders
        for name in ("sigma2", "learning_rate", "beta"):
            values = tuple(float(checks.scalar(name, value)) for value in getattr(self, name))
            object.__setattr__(self, name, values)
        for value in self.learned:
            if not isinstance(value, bool | np.bool_):
                checks.fail("learned", repr(value), "True or False")
        object.__setattr__(self, "learned", tuple(map(bool, self.learned)))
        for value in self.annealing:
            checks.kind("annealing", value, Annealing)
        for seed in self.seeds:
            streams.check("seeds", seed)
        for f in fields(self):
            for value, times in Counter(getattr(self, f.name)).items():
                if times > 1:
                    checks.fail(f.name, f"{value} twice", "each value once")

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of values of each."""
        return tuple(len(getattr(self, f.name)) for f in fields(self))

    @property
    def size(self) -> int:
        """The number of runs."""
        return int(np.prod(self.shape))

    def only(self, run: int) -> "Grid":
        """Return the grid of one of the runs."""
        values = [getattr(self, f.name) for f in fields(self)]
        return Grid(*((value,) for value in list(itertools.product(*values))[run]))

    def keys(self) -> Any:
        """Return a key for each run, (runs,)."""
        keys = [streams.key(seed, "training", "seeds") for seed in self.seeds]
        return _each(keys, self.size // len(self.seeds))

    def hyperparameters(self, dtype: Any) -> Hyperparameters:
        """Return the runs' hyperparameters, whose leaves are (runs,)."""
        values = (getattr(self, f.name) for f in fields(self))
        runs = [
            Hyperparameters(rate, sigma2, learned, beta, annealing)
            for _, sigma2, learned, rate, beta, annealing in itertools.product(*values)
        ]

        def stacked(*leaves: Any) -> jax.Array:
            if isinstance(leaves[0], bool):
                return jnp.asarray(leaves)
            # as floats first: JAX takes Python's integers for 32 bits wide
            return jnp.asarray([float(leaf) for leaf in leaves], dtype)

        return jax.tree.map(stacked, *runs)


class Run(NamedTuple):
    """A run of a sweep is a trained model and what was measured of it.

    `table` is the run's part of the sweep's table, without the dimensions of the grid.
    """

    params: Any
    table: xr.Dataset


class Sweep(NamedTuple):
    """A sweep holds trained models and what was measured of them.

    Attributes:
        params: parameters whose arrays have the leading axes of the table: (seeds, σ², learned),
            then learning rate, β and annealing where there are several.
        table: labelled; dimensions seed, sigma2_init, learned, step (and latent, …). What is
            measured once, of the trained model on all data, has a name that starts with `final_`.
            What starts with `start_` is from before the first step. Of a run that diverged all
            `final_` is NaN, and so are the records from the one on after which it was lost for
            good; counts of latents are therefore floating-point numbers.
    """

    params: Any
    table: xr.Dataset

    def run(self, **labels: Any) -> Run:
        """Return the run with these labels, such as `run(seed=0, sigma2_init=1.0, learned=True)`.

        Values are as in the table's coordinates or as they were in the `Grid`. A dimension with one
        value need not be named.

        Raises:
            ValueError: no such dimension, a value that it does not have, or one of several that is
                not said.
        """
        axes = self.table.diverged.dims
        known = [str(axis.dim) for axis in sweep_table.AXES.values()]
        for name in labels:
            if name not in known:
                checks.fail(name, f"{labels[name]!r}", f"one of the dimensions {known}")
        place = []
        for name in known:
            values = self.table[name].values.reshape(-1).tolist()
            if name not in labels and len(values) > 1:
                checks.fail(name, "no value", f"one of {values}")
            asked = labels.get(name, values[0])
            asked = str(asked) if isinstance(asked, Annealing) else asked
            # True is 1 for Python, and no seed
            found = [i for i, v in enumerate(values) if v == asked and _same_kind(v, asked)]
            if not found:
                checks.fail(name, repr(labels[name]), f"one of {values}")
            if name in axes:
                place.append(found[0])
        table = self.table.isel(dict(zip(axes, place, strict=True)))
        return Run(_one_run(tuple(place), self.params), table)


def _same_kind(value: Any, asked: Any) -> bool:
    return isinstance(value, bool) == isinstance(asked, bool | np.bool_)


@jax.jit
def _one_run(place: tuple[Any, ...], params: Any) -> Any:
    """Take one run out of all, in one program."""
    return jax.tree.map(lambda leaf: leaf[place], params)


class NotSaved(OSError):
    """All runs are trained and in the folder, but the table of all runs cannot be written.

    The attribute `sweep` is what `run` would have returned.
    """

    def __init__(self, message: str, sweep: Sweep) -> None:
        super().__init__(message)
        self.sweep = sweep


def run(
    task: training.Task,
    config: training.TrainConfig,
    data: Any,
    grid: Grid,
    *,
    folder: str | Path | None = None,
    checkpoint_seconds: float = 300.0,
    batching: str = "auto",
    chunk: int | None = None,
    memory: int | None = None,
    attrs: Mapping[str, str] | None = None,
    quiet: bool = False,
    title: str = "",
) -> Sweep:
    """Train a model for every run of a grid.

    The result is the same for the same arguments and layout, whether a sweep was stopped or not.

    Args:
        task: what is trained; static.
        config: how it is trained; static.
        data: as the task wants them. If they are in windows (`sources.Windows`), all runs
            train on window t until record t + 1, while the next is read; at the end a run is
            measured on all data. A warning tells if the windows, one for each record, do not
            hold all rows.
        grid: the runs.
        folder: where results and checkpoints go, and where a sweep that was stopped goes on, or
            one that is to have more seeds after those it has; shared by all processes if there
            are several. None: nothing is written.
        checkpoint_seconds: between checkpoints, at the end of a segment of `record_every` steps.
        batching: "vmap", "map" or "loop"; see `_engine.layouts`. "auto" takes what is faster.
        chunk: runs trained together; by default as many as fit.
        memory: bytes that each device may use; by default what it has left.
        attrs: kept with the table: where the data came from, the command that was run; name →
            text, number or list of them.
        quiet: no progress bar.
        title: said beside that bar: which sweep this is, where there are several.

    Raises:
        ValueError: before anything is trained: a grid without values, what `training.check`
            refuses, attributes that a file could not keep, a folder of another sweep, checkpoints
            that cannot be read.
        OSError: no room on the disk, or a folder that cannot be written; what is there is intact,
            and with room the same call goes on. `NotSaved`: all is there but `sweep.nc`.
        Stopped: by SIGTERM or Ctrl-C, after a checkpoint; only with a folder.
    """
    checks.kind("grid", grid, Grid)
    layout_facts = {field.name for field in fields(layouts.RunLayout)}
    tables.check_attrs("attrs", attrs or {}, {*tables.provenance({}), *layout_facts, "windows"})
    if folder is not None:
        folder = checks.folder("folder", folder)
        if (folder / "sweep.nc").is_dir():
            checks.fail("folder", f"{folder}, where sweep.nc is a folder", "one without that")
    _nonnegative("checkpoint_seconds", checkpoint_seconds)
    if memory is not None:
        _nonnegative("memory", memory)
    for field in fields(grid):
        if not len(getattr(grid, field.name)):
            checks.fail(f"grid.{field.name}", "an empty sequence", "at least one value")
    keys = grid.keys()
    training.check(task, config, data, grid.hyperparameters(float))
    shape = shapes.shape_of(task.init, data, shapes.one_of(keys), 1.0)
    hyper = grid.hyperparameters(shape.leaves["log_sigma2"].dtype)
    training.check_values(hyper)  # 1e-60 is no number > 0 in float32
    sources.warn_of_unseen(data, config.num_records)
    layout = layouts.plan(
        task, config, data, hyper, keys, batching=batching, chunk=chunk, memory=memory
    )
    identity = {"task": task, "config": config, "grid": grid}
    facts = tables.provenance(identity, **asdict(layout)) | dict(attrs or {}) | sources.facts(data)
    named = f"{title}: {grid.size} runs" if title else f"{grid.size} runs"
    with progress.bar(grid.size * config.num_steps, named, "step", quiet) as bar:
        report = ProgressReport(bar, task.samples)
        trainer = Trainer(task, config, data, hyper, keys, layout, report)
        if folder is None:
            finished: dict[int, Result] = {}
            for start in range(0, grid.size, layout.chunk):
                ids = list(range(grid.size))[start : start + layout.chunk]
                finished |= trainer.train(trainer.start(ids))
        else:
            from linvae_jax._engine import (
                sweep_folder,  # and with it Orbax, which no other sweep needs
            )

            def of_run(run: int) -> dict[str, Any]:
                return tables.plain(facts | {"run": grid.only(run)})

            finished = sweep_folder.train(trainer, folder, identity, of_run, checkpoint_seconds)
    results = [finished[i] for i in range(grid.size)]
    table = sweep_table.table_of(task, config, data, grid, results, facts)
    sweep = Sweep(_stacked(table, shape, [result.params for result in results]), table)
    if folder is not None and jax.process_index() == 0:
        try:
            tables.save(sweep.table, folder / "sweep.nc")
        except OSError as error:
            raise NotSaved(
                f"{error.strerror}. All {grid.size} runs are in {folder / 'runs'}: "
                "run the same again to write it.",
                sweep,
            ) from error
    return sweep


def load(folder: str | Path, task: training.Task, data: Any) -> Sweep:
    """Read a finished sweep from its folder.

    `task` is what was trained; `data` are those of the sweep, or others of the same dimension.

    Raises:
        ValueError: no finished sweep, a damaged file, or parameters of another model.
    """
    folder = checks.folder("folder", folder)
    table = tables.load(folder / "sweep.nc")
    shape = shapes.shape_of(task.init, data, streams.key(0, "shapes"), 1.0)
    paths = [run_files.path_of(folder, run) for run in range(table.diverged.size)]
    params = [run_files.load(path, shape.leaves, (), ()).params for path in paths]
    return Sweep(_stacked(table, shape, params), table)


def _nonnegative(name: str, value: Any) -> None:
    """Raise `ValueError` for what is no number >= 0; it may be infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not value >= 0:
        checks.fail(name, repr(value), "a number >= 0")


@partial(jax.jit, static_argnames="times")
def _each(keys: list[Array], times: int) -> Array:
    """Return each key so many times, because the runs of a seed have the same noise on purpose."""
    return jax.random.clone(jnp.repeat(jnp.stack(keys), times))


def _stacked(table: xr.Dataset, shape: shapes.Shape, of_runs: list[dict[str, np.ndarray]]) -> Any:
    """Return parameters with the table's leading axes, from those of each run."""
    axes = table.diverged.shape
    leaves = [
        # unlike `asarray`, compiles nothing; nobody else has this array
        jax.device_put(np.stack([run[name] for run in of_runs]).reshape(*axes, *like.shape))
        for name, like in shape.leaves.items()
    ]
    return jax.tree.unflatten(shape.structure, leaves)
