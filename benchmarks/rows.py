"""The paper's MNIST rows on all 60,000 images, as far as time allows, and on another day.

python -m benchmarks.rows --manual-dir DIR --out OUT --sigma2 1 --epochs 200
python -m benchmarks.rows --manual-dir DIR --out OUT --sigma2 1 --rates 0.001 --batches 1000
python -m benchmarks.rows --manual-dir DIR --out OUT --sigma2 10 --epochs 200 --runs annealing
python -m benchmarks.rows --out OUT --join benchmarks/results/mnist

The first trains the rows that start at σ² = 1, held and learned, side by side, at a constant rate.
It goes on where it was ended, and further if it is told more epochs. At its end OUT has a table of
each protocol and start, measured on all images. The third trains no row, but two KL annealings at
σ² = 10, each of which ends after half of the epochs. The last makes the tables that `linvae report`
reads of all that OUT has, tables of `make device` and those that it made before among them:
trajectories of all protocols; the paper's table, of the protocol of `linvae reproduce --full`, if
all ten rows were trained equally long; and annealing, if there is as much of it.
"""

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Literal

import jax
import numpy as np
import tyro
import xarray as xr

from benchmarks.paper_rows import DATA_SEED, TRANSFORM, Plan, Side, images_in
from landscape.cli import programs
from landscape.paper import facts
from landscape.paper.networks import experiments, protocols
from landscape.paper.settings import MNIST
from linvae_jax import network_task, networks, progress, streams, sweeps, tables
from linvae_jax._internal import checks

SOURCE = "mnist 3.0.1, split train, in the order of the original file"


@dataclass(frozen=True)
class Run:
    """Train rows of the paper's table on all of MNIST, as far as time allows."""

    out: Path
    """The folder for states and tables."""
    manual_dir: Path | None = None
    """With MNIST's four original files."""
    sigma2: tuple[float, ...] = MNIST.sigma2
    """Starts of σ², one after the other."""
    runs: Literal["rows", "held", "learned", "annealing"] = "rows"
    """Rows: σ² held and learned, two runs side by side. Held or learned: only that, but all starts
    side by side. Annealing: σ² held, with the two KL annealings of C10 side by side."""
    rates: tuple[float, ...] = (MNIST.learning_rate,)
    """Learning rates, constant after 500 steps."""
    batches: tuple[int, ...] = (MNIST.batch_size,)
    """Data per step."""
    epochs: int = MNIST.epochs
    """Of each."""
    seed: int = 0
    """Of weights and noise."""
    minutes: float = float("inf")
    """After which it ends; what is trained by then is measured and kept."""
    join: Path | None = None
    """Train nothing: make a report's tables of all that --out has, in this folder."""


def train(args: Run) -> list[Path]:
    """Train protocol after protocol; return the tables that were written.

    Raises:
        ValueError: no folder with MNIST's images.
    """
    images = images_in(args.manual_dir)
    data = network_task.prepare(images, TRANSFORM, streams.key(DATA_SEED, "data noise"))
    constant, scale = TRANSFORM.constant(images), network_task.data_scale(data)
    widths = MNIST.widths
    model = networks.Mlp(images.shape[1], MNIST.k, widths, widths[::-1], data_scale=scale)
    written, ends = [], monotonic() + 60 * args.minutes
    for rate, batch in itertools.product(args.rates, args.batches):
        for name, grid in _grids(args, rate, facts.steps_per_epoch(len(images), batch)).items():
            plan = Plan(model, batch_size=batch, warmup=MNIST.warmup)
            path = args.out / f"{name}_rate{rate:g}_batch{batch}_seed{args.seed}.nc"
            if _train(Side(plan, data, grid, constant), path, args.epochs, ends):
                written.append(path)
    return written


def _grids(args: Run, rate: float, of_epoch: int) -> dict[str, sweeps.Grid]:
    """Return what is trained together, by a name for its files."""
    both = sweeps.Grid((args.seed,), args.sigma2, (False, True), (rate,))
    if args.runs in ("held", "learned"):
        starts = "-".join(f"{start:g}" for start in args.sigma2)
        return {f"{args.runs}_{starts}": replace(both, learned=(args.runs == "learned",))}
    each = {f"{start:g}": replace(both, sigma2=(start,)) for start in args.sigma2}
    if args.runs == "rows":
        return {f"rows_{start}": grid for start, grid in each.items()}
    annealing = experiments.annealings(args.epochs * of_epoch)
    return {  # which can't go on for more epochs: half of those would be other ones
        f"annealing_{start}_of{args.epochs}": replace(grid, learned=(False,), annealing=annealing)
        for start, grid in each.items()
    }


def _train(side: Side, path: Path, epochs: int, ends: float) -> bool:
    """Take runs to their epochs, or as far as time allows, and measure them there.

    It says whether that is more than what the table was made of.
    """
    state = path.with_suffix(".npz")
    if state.exists():
        side.resume(state)
    saved = monotonic()
    with progress.bar(epochs, path.stem, "epoch") as bar:
        progress.skip(bar, side.epochs)
        while side.epochs < epochs and monotonic() < ends:
            elbo = side.epoch()
            bar.set_postfix_str(f"ELBO {elbo.min():.0f} to {elbo.max():.0f}", refresh=False)
            bar.update()
            if monotonic() - saved > 300:  # seconds
                side.save(state)
                saved = monotonic()
    measured = tables.load(path).sizes["step"] if path.exists() else 0
    if side.epochs <= measured:
        return False
    side.save(state)
    # which folders of which machine says nothing to others
    hidden = {"--manual-dir": "DIR", "--out": "OUT"}
    words = [hidden.get(before, word) for before, word in itertools.pairwise(sys.argv)]
    command = f"python -m benchmarks.rows {' '.join(words)}"
    tables.save(side.table().assign_attrs(source=SOURCE, command=command), path)
    return True


def join(out: Path, folder: Path) -> list[Path]:
    """Make the report's tables of those in a folder; return the files.

    Raises:
        ValueError: no tables there.
    """
    found = [tables.load(path) for path in sorted(out.glob("*.nc"))]
    if not found:
        checks.fail("out", f"{out}, without tables", "what this command has trained")
    parts = [table for table in found if "protocol" in table.dims]
    annealed = [table for table in found if "annealing" in table.dims]
    plain = [table for table in found if {"protocol", "annealing"}.isdisjoint(table.dims)]
    rows = [table for table in plain if np.isin(table.sigma2_init, MNIST.sigma2).all()]
    joined = protocols.joined([*parts, *map(protocols.of_sweep, rows)])
    made: dict[str, xr.Dataset | None] = {"protocols": _signed(joined, [*parts, *rows])}
    if table := _longest(rows, MNIST.sigma2, 2):
        made["table"] = table
        length = facts.training(table).num_steps
        curves = [one for one in plain if np.isin(one.sigma2_init, MNIST.curve_sigma2).all()]
        there = [s for s in MNIST.curve_sigma2 if any(s in one.sigma2_init for one in curves)]
        # what was ended in the midst of annealing is not what C10 compares
        annealed = [one for one in annealed if _annealed_for(one) == length // 2]
        made["curves"] = _longest(curves, there, 1, length) if there else None
        made["annealing"] = _longest(annealed, MNIST.annealed_sigma2, 1, length)
    return [
        tables.save(table, experiments.path(folder, name))
        for name, table in made.items()
        if table is not None
    ]


def _annealed_for(table: xr.Dataset) -> int:
    """Return after how many steps annealing ended."""
    grid = json.loads(table.attrs["config"])["grid"]
    return int(max(one["steps"] for one in grid["annealing"]))


def _longest(
    found: Sequence[xr.Dataset], sigma2: Sequence[float], modes: int, length: int | None = None
) -> xr.Dataset | None:
    """Join the longest tables of the paper's protocol that together have all σ²; None without.

    Each is to have so many modes: σ² held, and perhaps learned; and so many steps. It has the seeds
    that were trained at every σ².
    """
    by_length: dict[int, dict[float, list[xr.Dataset]]] = {}
    for table in found:
        how = facts.training(table)
        ours = how.learning_rate, how.batch_size, table.sizes["learned"]
        if ours == (MNIST.learning_rate, MNIST.batch_size, modes):
            for start in table.sigma2_init.values.tolist():
                starts = by_length.setdefault(how.num_steps, {})
                starts.setdefault(start, []).append(table.sel(sigma2_init=[start]))
    for steps, starts in sorted(by_length.items(), reverse=True):
        if length in (None, steps) and set(sigma2) <= set(starts):
            own = [_along("seed", starts[start]) for start in sorted(sigma2, reverse=True)]
            if set.intersection(*(set(one.seed.values.tolist()) for one in own)):
                return _along("sigma2_init", own)
    return None


def _along(name: Literal["seed", "sigma2_init"], found: Sequence[xr.Dataset]) -> xr.Dataset:
    """Join tables that differ in one thing to one, as if it was of one sweep."""
    # eigenvalues of the data, which all have, differ by the rounding of another device
    table = xr.concat(
        found, name, data_vars="minimal", coords="minimal", compat="override", join="inner",
        combine_attrs="drop_conflicts",
    )  # fmt: skip
    table = table.drop_duplicates("seed")  # a table may be there twice, as it was and joined
    config = json.loads(found[0].attrs["config"])
    config["grid"]["sigma2"] = table.sigma2_init.values.tolist()
    config["grid"]["seeds"] = table.seed.values.tolist()
    table = table.assign_attrs(config=json.dumps(config, sort_keys=True))
    # several may be of one run
    times = {(one.attrs.get("command"), facts.origin(one).seconds or 0.0) for one in found}
    return facts.timed(_signed(table, found), sum(seconds for _, seconds in times))


def _signed(table: xr.Dataset, of: Sequence[xr.Dataset]) -> xr.Dataset:
    """Say of a table how those that it was joined of were made."""
    told = "python -m benchmarks.rows --out OUT --join DIR, of tables made by "

    def of_all(name: str) -> str:
        # of one that was joined before, too
        lists = [one.attrs.get(name, "not recorded").removeprefix(told).split("; ") for one in of]
        return "; ".join(dict.fromkeys(itertools.chain(*lists)))

    names = ("device", "linvae_jax", "jax", "python")
    attrs = {name: of[0].attrs[name] for name in ("pixel_constant", "count")}
    attrs |= {name: of_all(name) for name in names}
    attrs |= {"source": SOURCE, "command": told + of_all("command")}
    return table.assign_attrs(tables.provenance() | table.attrs | attrs)


def main(args: Run) -> int:
    """Train or join, and name the files."""
    jax.config.update("jax_enable_x64", True)  # noise as in `linvae reproduce`
    programs.keep()
    written = train(args) if args.join is None else join(args.out, args.join)
    for path in written:
        print(f"wrote {path}")
    if args.join is not None and experiments.path(args.join, "table") not in written:
        print("no table: the ten rows, of one length and with a seed in common, are not there")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Run, description=__doc__)))
