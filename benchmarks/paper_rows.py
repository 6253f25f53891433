"""Rows of the paper's table on MNIST train side by side, an epoch at a time, as long as one likes.

`bench_rows` trains them as long as a GPU is lent, `rows` on CPUs, on another day too.
"""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import xarray as xr

from landscape.paper import facts
from landscape.paper.networks import experiments as network_experiments
from landscape.paper.settings import MNIST
from linvae_jax import network_task, networks, sources, sweeps, tables, training
from linvae_jax._engine import executors, layouts, shapes, sweep_table
from linvae_jax._engine.trainer import Result
from linvae_jax._internal import checks, whole_files
from linvae_jax.data import mnist, preprocessing

FILE = "train-images-idx3-ubyte.gz"
TRANSFORM = preprocessing.Logit(1e-6)
DATA_SEED = 0


@dataclass(frozen=True)
class Plan:
    """How much.

    Attributes:
        model: the architecture.
        sigma2: initial σ² of the rows.
        seeds: of each row.
        curves: further σ², held.
        batch_size: data per step.
        learning_rate: of Adam; constant.
        warmup: steps in which it rises at first.
        epochs: between measurements on all images.
        most: epochs after which the curves come.
        observed: data that each epoch's record looks at.
    """

    model: networks.Mlp
    sigma2: tuple[float, ...] = MNIST.sigma2
    seeds: int = MNIST.seeds
    curves: tuple[float, ...] = MNIST.curve_sigma2
    batch_size: int = MNIST.batch_size
    learning_rate: float = MNIST.learning_rate
    warmup: int = MNIST.warmup
    epochs: int = 100
    most: int = MNIST.epochs
    observed: int = 1000


def images_in(folder: Path | None) -> np.ndarray:
    """Read MNIST's training images, (60000, 784) pixels, from a folder with its original files.

    Raises:
        ValueError: they are not there.
    """
    if folder is None or not (folder / FILE).is_file():
        checks.fail("manual_dir", folder, f"a folder with {FILE}")
    images = mnist.read_idx(folder / FILE)
    return images.reshape(len(images), -1)


class Side:
    """Runs of a grid side by side, trained an epoch at a time as long as one likes."""

    def __init__(self, plan: Plan, data: network_task.Data, grid: sweeps.Grid, constant: float):
        self.begin = monotonic()
        count = data.values.shape[0]
        self.grid, self.data = grid, data
        self.task = network_task.NetworkTask(
            plan.model, plan.batch_size, TRANSFORM, observed=plan.observed
        )
        steps = facts.steps_per_epoch(count, plan.batch_size)
        # a constant rate does not look at the number of steps: one program however many there are
        self.config = training.TrainConfig(
            10_000 * steps, steps, schedule="constant", warmup=plan.warmup
        )
        hyper, keys = grid.hyperparameters("f4"), grid.keys()
        training.check(self.task, self.config, data, hyper)
        layout = layouts.plan(self.task, self.config, data, hyper, keys, chunk=grid.size)
        checks.in_range("layout.chunk", layout.chunk, grid.size, grid.size, "all runs together")
        self.executor = executors.executor(self.task, self.config, layout)
        self.placed = self.executor.replicate(data)
        self.hyper, keys = self.executor.place(hyper), self.executor.place(keys)
        self.states, record = self.executor.begin(self.placed, self.hyper, keys)
        self.begun = {name: leaf[: grid.size] for name, leaf in self.executor.host(record).items()}
        self.history: dict[str, list[np.ndarray]] = {}
        self.facts = facts.attributes(constant, count)
        of = {"task": self.task, "grid": grid, "warmup": plan.warmup}
        self.identity = f"{tables.plain(of)}, data {sources.fingerprint(data)}"
        self.before = 0.0  # seconds, of what is resumed

    @property
    def seconds(self) -> float:
        """That it has taken, compiling included."""
        return self.before + monotonic() - self.begin

    @property
    def epochs(self) -> int:
        """Done so far."""
        return len(next(iter(self.history.values()), []))

    def epoch(self) -> np.ndarray:
        """One more; the ELBOs, (runs,), of the data of its record."""
        self.states, record = self.executor.segment(self.placed, self.hyper, self.states)
        for name, values in self.executor.host(record).items():
            self.history.setdefault(name, []).append(values)
        return self.history["elbo"][-1]

    def save(self, path: Path) -> None:
        """Write all that is needed to go on."""
        history = {name: np.stack(values) for name, values in self.history.items()}
        of = shapes.joined({"states": self.executor.gather(self.states), "history": history})
        with io.BytesIO() as file:
            np.savez(file, seconds=self.seconds, identity=self.identity, allow_pickle=False, **of)
            whole_files.write(path, file.getbuffer())

    def resume(self, path: Path) -> None:
        """Go on from what `save` wrote of the same runs.

        Raises:
            ValueError: it is of other runs or data.
        """
        with np.load(path) as kept:
            if (identity := str(kept["identity"])) != self.identity:
                checks.fail("path", f"{path}, of {identity}", self.identity)
            names = [name for name in kept if name not in ("seconds", "identity")]
            of = shapes.parted({name: kept[name] for name in names})
            self.before = float(kept["seconds"])

        def init(*one: Any) -> training.TrainState:
            return training.init(self.task, self.config, *one)

        keys = shapes.one_of(self.grid.keys())
        hyper = shapes.first(self.grid.hyperparameters("f4"))
        one = shapes.shape_of(init, self.data, hyper, keys)
        self.states = self.executor.scatter(of["states"], shapes.of_runs(self.grid.size, one))
        self.history = {name: list(values) for name, values in of["history"].items()}

    def table(self) -> xr.Dataset:
        """Measure the runs as they are on all data, as `experiments.train` does."""
        final = self.executor.host(self.executor.finish(self.placed, self.hyper, self.states))
        history = {name: np.stack(values, axis=1) for name, values in self.history.items()}
        parts = history | self.begun, final
        results = [
            Result({}, *({n: np.asarray(leaf[i]) for n, leaf in of.items()} for of in parts))
            for i in range(self.grid.size)
        ]
        config = replace(self.config, num_steps=self.epochs * self.config.record_every)
        made = {"task": self.task, "config": config, "grid": self.grid}
        attrs = tables.provenance(made) | self.facts
        whole = sweep_table.table_of(self.task, config, self.data, self.grid, results, attrs)
        small = network_experiments.summary(whole, np.asarray(self.data.eigenvalues))
        return facts.timed(small, self.seconds)
