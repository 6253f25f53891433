"""The paper's ten MNIST rows on all 60,000 images at a constant rate, all runs side by side.

As far as time allows: after every hundred epochs the table is measured on all images and kept, and
training goes on. Then curves of collapse at σ² between the rows.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic

import numpy as np

from benchmarks import records
from benchmarks.lease import Lease
from benchmarks.paper_rows import DATA_SEED, FILE, TRANSFORM, Plan, Side, images_in
from benchmarks.records import Measurement
from landscape.paper.networks import table as paper_table
from linvae_jax import network_task, networks, streams, sweeps, tables


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
