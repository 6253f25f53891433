"""The paper's ten MNIST rows on all 60,000 images at a constant rate, all runs side by side.

As far as time allows: after every hundred epochs the table is measured on all images and kept, and
training goes on. Then curves of collapse at σ² between the rows.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import xarray as xr

from benchmarks import records
from benchmarks.lease import Lease
from benchmarks.records import Measurement
from landscape.paper import facts
from landscape.paper.networks import experiments as network_experiments
from landscape.paper.networks import table as paper_table
from landscape.paper.settings import MNIST
from linvae_jax import network_task, networks, sources, streams, sweeps, tables, training
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


def _images(lease: Lease) -> np.ndarray | None:
    """(N, 784) pixels; None where there are none."""
    if lease.smoke:
        rng = np.random.default_rng(0)
        return np.repeat(rng.integers(0, 256, (200, 3), np.uint8), 4, axis=1)
    if lease.manual_dir is None or not (lease.manual_dir / FILE).is_file():
        lease.left_out.append(f"the ten rows: no {FILE} in --manual-dir {lease.manual_dir}")
        lease.say(f"  {lease.left_out[-1]}")
        return None
    return images_in(lease.manual_dir)  # which fails, and says why, if the file is broken


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


def rows(lease: Lease) -> Iterator[Measurement]:
    """The paper's ten MNIST rows × 4 seeds on 60,000 images, batch 128, a constant rate of 3e-4."""
    images = _images(lease)
    if images is None:
        return
    if lease.smoke:
        plan = Plan(
            networks.Mlp(12, 3, (8,), (8,)), (10.0, 1.0), 2, (3.0,), 16, 1e-3, 2, 2, 4, 50
        )  # fmt: skip
    else:
        plan = Plan(networks.Mlp(784, 200, (1024, 512), (512, 1024)))
    key = streams.key(DATA_SEED, "data noise")
    data = network_task.prepare(images, TRANSFORM, key)
    plan = replace(plan, model=replace(plan.model, data_scale=network_task.data_scale(data)))
    constant = TRANSFORM.constant(images)
    yield records.plain("constant of the pixel scale", constant, "nats")
    rate = (plan.learning_rate,)
    grid = sweeps.Grid(tuple(range(plan.seeds)), plan.sigma2, (False, True), rate)
    begin = monotonic()
    side = Side(plan, data, grid, constant)
    side.epoch()  # compiles, which takes a minute on a GPU
    compiling = monotonic() - begin
    lease.say(f"  compiled and one epoch in {compiling:.0f} s")
    yield from _trained("table", lease, plan, side)
    if lease.allows(0 if lease.smoke else 2 * compiling, "curves of collapse"):
        grid = sweeps.Grid((0, 1)[: plan.seeds], plan.curves, (False,), rate)
        side = Side(plan, data, grid, constant)
        yield from _trained("curves", lease, plan, side)


def _trained(name: str, lease: Lease, plan: Plan, side: Side) -> Iterator[Measurement]:
    """Train as far as time allows; a table every so many epochs and at the end."""
    took, measuring, saved = 0.0, 5.0, 0
    while side.epochs < plan.most:
        compiled, began = side.epochs > 0, monotonic()
        elbo = side.epoch()
        took = monotonic() - began if compiled else took
        if side.epochs % 10 == 0:
            low, high = np.nanmin(elbo), np.nanmax(elbo)
            lease.say(
                f"  {name}: epoch {side.epochs}, {took:.2f} s each, ELBO {low:.0f} to {high:.0f}"
            )
        over = lease.left < 2 * took + 2 * measuring and not lease.smoke
        if side.epochs % plan.epochs == 0 or over:
            began = monotonic()
            yield from _keep(name, lease, side)
            measuring, saved = monotonic() - began, side.epochs
        if over:
            left_out = f"{name}: epochs {side.epochs + 1} to {plan.most}"
            lease.left_out.append(left_out)
            lease.say(f"  left out for lack of time: {left_out}")
            break
    if saved < side.epochs:
        yield from _keep(name, lease, side)


def _keep(name: str, lease: Lease, side: Side) -> Iterator[Measurement]:
    seconds, table = side.seconds, side.table()
    path = lease.out / f"mnist_{name}_{side.epochs}.nc"
    tables.save(table, path)
    work = side.epochs * side.config.record_every * side.task.batch_size * side.grid.size
    note = f"{side.grid.size} runs, {side.epochs} epochs, compiling included: {path.name}"
    yield records.plain(f"{name}, training", work / seconds, "samples/s", note=note)
    if name == "table":
        compared = paper_table.compare(table, "mnist")
        if compared:
            lease.say(paper_table.markdown(compared))
            lease.say(paper_table.agreement(compared))


def kept(folder: Path) -> list[Path]:
    """The tables in a folder."""
    return sorted(folder.glob("mnist_*.nc"))
