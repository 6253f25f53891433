"""All that is to be known of a device, in one command that ends in the time it is given.

`python -m benchmarks.device --minutes 9 --manual-dir DIR --out DIR`, or `make device`; README.md
here says more. It is meant for a borrowed accelerator: it runs from the tree, asks no network,
saves each number as soon as it is measured, and leaves out what there is no time for.
"""

import os

# before JAX starts: PyTorch and a child process share the memory
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import tyro

from benchmarks import (
    bench_machine,
    bench_many,
    bench_right,
    bench_rows,
    bench_spectrum,
    records,
    timing,
)
from benchmarks.lease import Lease
from benchmarks.records import FOLDER, Measurement, Record
from landscape.cli import programs

Name = Literal["machine", "right", "throughput", "spectra", "rows", "convolutions"]
NAMES: tuple[Name, ...] = get_args(Name)
RESERVE = 8.0  # seconds at the end, to save and to leave


class Stage(NamedTuple):
    """What is measured, and which part of the time it may take if all others take theirs."""

    measure: Callable[[Lease], Iterator[Measurement]]
    share: float


STAGES: dict[Name, Stage] = {
    "machine": Stage(bench_machine.ceilings, 0.04),
    "right": Stage(bench_right.agreement, 0.10),
    "throughput": Stage(bench_many.throughput, 0.30),
    "spectra": Stage(bench_spectrum.on_device, 0.03),
    "rows": Stage(bench_rows.rows, 0.44),
    "convolutions": Stage(bench_many.convolutions, 0.09),
}


@dataclass(frozen=True)
class Run:
    """Measure a device: is it right there, how fast, the paper's rows; in the time given."""

    minutes: float = 9.0
    """All together; what there is no time for is left out, and said to be."""
    manual_dir: Path | None = None
    """With MNIST's four original files, for the paper's rows."""
    out: Path | None = None
    """A folder for record and tables, to be brought home; by default benchmarks/ here."""
    only: tuple[Name, ...] = ()
    """Only these stages; the record keeps what it has of the others."""
    skip: tuple[Name, ...] = ()
    """All stages but these."""
    smoke: bool = False
    """Everything at tiny sizes, in a minute on a CPU; only --out is written."""
    adopt: Path | None = None
    """Measure nothing: bring record and tables of this folder into benchmarks/ here."""


def out_of_memory(error: Exception) -> bool:
    """Whether JAX or PyTorch had no room on the device."""
    text = f"{type(error).__name__}: {error}"
    return any(sign in text for sign in ("RESOURCE_EXHAUSTED", "OutOfMemory", "out of memory"))


def measure(args: Run, out: Path, begin: float) -> tuple[Record, list[str]]:
    """Run the stages; what failed, in words."""
    record, failed = records.new(), []
    before = records.path_of(record, out)
    if before.is_file():
        record["benchmarks"] = records.read(before)["benchmarks"]
    ends = begin + 60 * args.minutes - RESERVE
    chosen: list[Name] = [
        name for name in NAMES if name in (args.only or NAMES) and name not in args.skip
    ]
    lock = threading.Lock()  # the watch saves too

    def save(name: Name, measured: list[Measurement], started: timing.Clock, lease: Lease) -> None:
        with lock:
            passed = timing.Clock.now().since(started)
            entry = records.entry(measured, passed) | {"left_out": list(lease.left_out)}
            record["benchmarks"][name] = entry
            records.save(record, out)

    under_way: list[Any] = []  # what `save` takes

    def give_up() -> None:
        name, _, _, lease = under_way
        lease.left_out.append(f"the rest of {name}: the time was up")
        save(*under_way)
        lock.acquire()  # for good: nothing half written
        print(f"time is up in {name}: {records.path_of(record, out)} has the rest", flush=True)
        os._exit(0)

    watch = threading.Timer(max(ends + RESERVE - 2 - time.monotonic(), 0), give_up)
    watch.daemon = True
    watch.start()
    for place, name in enumerate(chosen):
        left = ends - time.monotonic()
        share = STAGES[name].share / sum(STAGES[later].share for later in chosen[place:])
        lease = Lease(
            time.monotonic() + share * left, out, record, args.manual_dir, args.smoke,
            lambda line: print(line, flush=True),
        )  # fmt: skip
        print(f"\n{name}, {lease.left:.0f} s: {STAGES[name].measure.__doc__}", flush=True)
        started, measured = timing.Clock.now(), []
        under_way[:] = name, measured, started, lease
        try:
            for m in STAGES[name].measure(lease):
                measured.append(m)
                what, *rest = records.cells(m.as_dict())
                print(f"  {what}: " + "  ".join(f"[{x}]" for x in rest if x), flush=True)
                save(name, measured, started, lease)
        # one stage must not take the others with it
        except Exception as error:
            if out_of_memory(error):
                lease.left_out.append(f"the rest of {name}: out of memory")
                print(f"  out of memory: the rest of {name} is left out", flush=True)
            else:
                traceback.print_exc()
                failed.append(f"{name}: {type(error).__name__}: {error}")
                lease.left_out.append(f"the rest of {name}: {type(error).__name__}")
        save(name, measured, started, lease)
        jax.clear_caches()
    watch.cancel()
    return record, failed


def adopt(folder: Path) -> list[Path]:
    """Bring what a device measured into benchmarks/: its record, its tables, the README's rows.

    Raises:
        ValueError: a folder without a record.
    """
    found = sorted(folder.glob("*.json"))
    if not found:
        raise ValueError(f"adopt: {folder} holds no record, expected <device>.json")
    written = [records.save(records.read(path), FOLDER / "records") for path in found]
    target = FOLDER / "results" / found[0].stem
    for table in bench_rows.kept(folder):
        target.mkdir(parents=True, exist_ok=True)
        written.append(Path(shutil.copy(table, target)))
    records.write_tables(FOLDER / "README.md", FOLDER / "records")
    return written


def main(args: Run) -> int:
    """Measure and save; 1 if a stage failed or a bar is not met."""
    begin = time.monotonic()
    if args.adopt is not None:
        for path in adopt(args.adopt):
            print(f"wrote {path}")
        return 0
    if args.smoke and args.out is None:
        print("device: --smoke wants --out, for its numbers say nothing", file=sys.stderr)
        return 2
    out = FOLDER / "records" if args.out is None else args.out
    out.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_enable_x64", True)
    record, failed = measure(args, out, begin)
    missed = [
        m["what"]
        for name in NAMES
        for m in record["benchmarks"].get(name, {}).get("measurements", [])
        if m["met"] is False
    ]
    print(f"\n{record['device']}: {time.monotonic() - begin:.0f} s of {60 * args.minutes:.0f}")
    for name in NAMES:
        for what in record["benchmarks"].get(name, {}).get("left_out", []):
            print(f"left out of {name}: {what}")
    for what in missed:
        print(f"bar not met: {what}")
    for what in failed:
        print(f"failed: {what}")
    if args.out is None:
        adopt(out)
    print(f"wrote {records.path_of(record, out)}")
    return 1 if failed or missed else 0


if __name__ == "__main__":
    given = tyro.cli(Run, prog="benchmarks.device", config=(tyro.conf.FlagCreatePairsOff,))
    programs.keep()  # compiling takes most of a short time: for the child, and for the next call
    if given.smoke:  # whose time is all compiling; the child process hears of it too
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        jax.config.update("jax_disable_most_optimizations", True)
    sys.exit(main(given))
