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
    """Starts of σ², one after the other."""
    runs: Literal["rows", "learned", "annealing"] = "rows"
    """Rows: σ² held and learned, two runs side by side. Learned: only that, but all starts side by
    side. Annealing: σ² held, with the two KL annealings of C10 side by side."""
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
    for rate, batch in itertools.product(args.rates, args.batches):
        for name, grid in _grids(args, rate, len(images) // batch).items():
            plan = Plan(
                model, grid.sigma2, batch_size=batch, learning_rate=rate, warmup=MNIST.warmup
            )
            path = args.out / f"{name}_rate{rate:g}_batch{batch}_seed{args.seed}.nc"
            _train(Side(plan, data, grid, constant), path, args.epochs, ends)
            written.append(path)
    return written


def _grids(args: Run, rate: float, of_epoch: int) -> dict[str, sweeps.Grid]:
    """Return what is trained together, by a name for its files."""
    both = sweeps.Grid((args.seed,), args.sigma2, (False, True), (rate,))
    if args.runs == "learned":
        starts = "-".join(f"{start:g}" for start in args.sigma2)
        return {f"learned_{starts}": replace(both, learned=(True,))}
    each = {f"{start:g}": replace(both, sigma2=(start,)) for start in args.sigma2}
    if args.runs == "rows":
        return {f"rows_{start}": grid for start, grid in each.items()}
    annealing = experiments.annealings(args.epochs * of_epoch)
    return {  # which can't go on for more epochs: half of those would be other ones
        f"annealing_{start}_of{args.epochs}": replace(grid, learned=(False,), annealing=annealing)
        for start, grid in each.items()
    }


def _train(side: Side, path: Path, epochs: int, ends: float) -> None:
    """Take a protocol to its epochs, or as far as time allows; measure it there."""
    state = path.with_suffix(".npz")
    if state.exists():
        side.resume(state)
    begun, saved = side.epochs, monotonic()
    with progress.bar(epochs, path.stem, "epoch") as bar:
        bar.n = bar.initial = begun
        while side.epochs < epochs and monotonic() < ends:
            elbo = side.epoch()
            bar.set_postfix_str(f"ELBO {elbo.min():.0f} to {elbo.max():.0f}", refresh=False)
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
    plain = [table for table in found if {"protocol", "annealing"}.isdisjoint(table.dims)]
    parts = [table for table in found if "protocol" in table.dims]
    parts += [protocols.of_sweep(table) for table in plain]
    made = {"protocols": _signed(protocols.joined(parts), found)}
    if own := _equally_long(plain, MNIST.sigma2, 2):
        made["table"] = _signed(_over_starts(own), own)
        length = facts.training(own[0]).num_steps
        annealed = [table for table in found if "annealing" in table.dims]
        annealed = [table for table in annealed if facts.training(table).num_steps == length]
        if own := _equally_long(annealed, MNIST.annealed_sigma2, 1):
            made["annealing"] = _signed(_over_starts(own), own)
    return [tables.save(table, experiments.path(folder, name)) for name, table in made.items()]


def _equally_long(
    found: Sequence[xr.Dataset], sigma2: tuple[float, ...], modes: int
) -> list[xr.Dataset]:
    """Return the longest tables of the paper's protocol that together have all σ²; else none.

    Each is to have so many modes: σ² held, and perhaps learned.
    """
    wanted = MNIST.learning_rate, MNIST.batch_size
    by_length: dict[int, list[xr.Dataset]] = {}
    for table in found:
        how = facts.training(table)
        if (how.learning_rate, how.batch_size) == wanted and table.sizes["learned"] == modes:
            by_length.setdefault(how.num_steps, []).append(table)
    for _, own in sorted(by_length.items(), reverse=True):
        starts = [start for table in own for start in table.sigma2_init.values]
        if sorted(starts) == sorted(sigma2):
            return own
    return []


def _over_starts(found: Sequence[xr.Dataset]) -> xr.Dataset:
    """Join tables that differ in σ² to one, as if it was of one sweep."""
    table = xr.concat(
        sorted(found, key=lambda table: -float(table.sigma2_init[0])), "sigma2_init",
        data_vars="minimal", coords="minimal", compat="equals", join="exact",
        combine_attrs="drop_conflicts",
    )  # fmt: skip
    config = json.loads(found[0].attrs["config"])
    config["grid"]["sigma2"] = table.sigma2_init.values.tolist()
    seconds = sum(facts.origin(one).seconds or 0.0 for one in found)
    return facts.timed(table.assign_attrs(config=json.dumps(config, sort_keys=True)), seconds)


def _signed(table: xr.Dataset, of: Sequence[xr.Dataset]) -> xr.Dataset:
    """Say of a table how those that it was joined of were made."""
    told = "python -m benchmarks.rows --out OUT --join DIR, of tables made by "
    origins = [facts.origin(one) for one in of]
    # one that was joined before says of which, too
    commands = [each for one in origins for each in one.command.removeprefix(told).split("; ")]
    attrs = {name: of[0].attrs[name] for name in ("pixel_constant", "count")} | {
        "source": SOURCE,
        "device": ", ".join(dict.fromkeys(one.device for one in origins)),
        "command": told + "; ".join(dict.fromkeys(commands)),
    }
    return table.assign_attrs(tables.provenance() | table.attrs | attrs)


def main(args: Run) -> int:
    """Train or join, and name the files."""
    jax.config.update("jax_enable_x64", True)  # noise as in `linvae reproduce`
    programs.keep()
    for path in train(args) if args.join is None else join(args.out, args.join):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Run, description=__doc__)))
