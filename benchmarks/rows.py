"""The paper's MNIST rows on all 60,000 images, as far as time allows, and on another day.

python -m benchmarks.rows --manual-dir DIR --out OUT --sigma2 1 --epochs 200
python -m benchmarks.rows --manual-dir DIR --out OUT --sigma2 1 --rates 0.001 --batches 1000
python -m benchmarks.rows --out OUT --join benchmarks/results/mnist

The first trains the rows that start at σ² = 1, held and learned, side by side, at a constant rate.
It goes on where it was ended, and further if it is told more epochs. At its end OUT has a table of
each protocol and start, measured on all images. The last makes the tables that `linvae report`
reads of all that OUT has, tables of `make device` among them: trajectories of all protocols, and
the paper's table, of the protocol of `linvae reproduce --full`, if all ten rows were trained
equally long.
"""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import jax
import numpy as np
import tyro
import xarray as xr

from benchmarks.bench_rows import DATA_SEED, FILE, TRANSFORM, Plan, Side
from landscape.cli import programs
from landscape.paper import facts
from landscape.paper.networks import experiments, protocols
from landscape.paper.settings import MNIST
from linvae_jax import network_task, networks, progress, streams, sweeps, tables
from linvae_jax._internal import checks
from linvae_jax.data import mnist

SOURCE = "mnist 3.0.1, split train, in the order of the original file"


@dataclass(frozen=True)
class Run:
    """Train rows of the paper's table on all of MNIST, as far as time allows."""

    out: Path
    """The folder for states and tables."""
    manual_dir: Path | None = None
    """With MNIST's four original files."""
    sigma2: tuple[float, ...] = MNIST.sigma2
    """Starts of σ²; each is trained held and learned, two runs side by side."""
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
    if args.manual_dir is None or not (args.manual_dir / FILE).is_file():
        checks.fail("manual_dir", args.manual_dir, f"a folder with {FILE}")
    images = mnist.read_idx(args.manual_dir / FILE)
    images = images.reshape(len(images), -1)
    data = network_task.prepare(images, TRANSFORM, streams.key(DATA_SEED, "data noise"))
    constant, scale = TRANSFORM.constant(images), network_task.data_scale(data)
    widths = MNIST.widths
    model = networks.Mlp(images.shape[1], MNIST.k, widths, widths[::-1], data_scale=scale)
    written, ends = [], monotonic() + 60 * args.minutes
    for rate, batch, start in itertools.product(args.rates, args.batches, args.sigma2):
        plan = Plan(model, (start,), batch_size=batch, learning_rate=rate, warmup=MNIST.warmup)
        side = Side(
            plan, data, sweeps.Grid((args.seed,), (start,), (False, True), (rate,)), constant
        )
        path = args.out / f"rows_{start:g}_rate{rate:g}_batch{batch}_seed{args.seed}.nc"
        _train(side, path, args.epochs, ends)
        written.append(path)
    return written


def _train(side: Side, path: Path, epochs: int, ends: float) -> None:
    """Take a protocol to its epochs, or as far as time allows; measure it there."""
    state = path.with_suffix(".npz")
    if state.exists():
        side.resume(state)
    begun, saved = side.epochs, monotonic()
    with progress.bar(epochs, path.stem, "epoch") as bar:
        bar.n = bar.initial = begun
        while side.epochs < epochs and monotonic() < ends:
            low, high = np.sort(side.epoch())
            bar.set_postfix_str(f"ELBO {low:.0f} and {high:.0f}", refresh=False)
            bar.update()
            if monotonic() - saved > 300:  # seconds
                side.save(state)
                saved = monotonic()
    if side.epochs > begun:
        side.save(state)
        command = f"python -m benchmarks.rows {' '.join(sys.argv[1:])}"
        tables.save(side.table().assign_attrs(source=SOURCE, command=command), path)


def join(out: Path, folder: Path) -> list[Path]:
    """Make the report's tables of those in a folder; return the files.

    Raises:
        ValueError: no tables there.
    """
    found = [tables.load(path) for path in sorted(out.glob("*.nc"))]
    if not found:
        checks.fail("out", f"{out}, without tables", "what this command has trained")
    made = {"protocols": protocols.joined([protocols.of_sweep(table) for table in found])}
    if own := _ten_rows(found):
        made["table"] = xr.concat(
            own, "sigma2_init", data_vars="minimal", coords="minimal", compat="equals",
            join="exact", combine_attrs="drop_conflicts",
        )  # fmt: skip
    origins = [facts.origin(table) for table in found]
    attrs = {of: found[0].attrs[of] for of in ("pixel_constant", "count")} | {
        "source": SOURCE, "device": ", ".join(dict.fromkeys(one.device for one in origins)),
        "command": "python -m benchmarks.rows --out OUT --join DIR, of tables made by "
        + "; ".join(dict.fromkeys(one.command for one in origins)),
    }  # fmt: skip
    return [
        tables.save(
            table.assign_attrs(tables.provenance() | attrs | table.attrs),
            experiments.path(folder, name),
        )
        for name, table in made.items()
    ]


def _ten_rows(found: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """Return the longest tables that together are the paper's ten rows; none if some is missing."""
    wanted = MNIST.learning_rate, MNIST.batch_size
    by_length: dict[int, list[xr.Dataset]] = {}
    for table in found:
        how = facts.training(table)
        if (how.learning_rate, how.batch_size) == wanted:
            by_length.setdefault(how.num_steps, []).append(table)
    for _, own in sorted(by_length.items(), reverse=True):
        starts = [start for table in own for start in table.sigma2_init.values]
        if sorted(starts) == sorted(MNIST.sigma2):
            return sorted(own, key=lambda table: -float(table.sigma2_init[0]))
    return []


def main(args: Run) -> int:
    """Train or join, and name the files."""
    jax.config.update("jax_enable_x64", True)  # noise as in `linvae reproduce`
    programs.keep()
    for path in train(args) if args.join is None else join(args.out, args.join):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Run, description=__doc__)))
