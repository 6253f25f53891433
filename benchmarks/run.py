"""All benchmarks with one command: `python -m benchmarks.run`; see README.md here."""

import os

# before JAX starts: a GPU's memory is shared with the processes that measure memory
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import tyro

from benchmarks import (
    bench_diagnose,
    bench_elbo,
    bench_networks,
    bench_ppca,
    bench_spectrum,
    bench_start,
    bench_sweep,
    figure,
    records,
    timing,
)
from benchmarks.records import FOLDER, Measurement, Record, Scale
from linvae_jax import progress

Name = Literal[
    "size", "dense", "lanczos", "scaling", "gradient", "sweep", "networks", "conv", "start",
    "ppca", "diagnose",
]  # fmt: skip
NAMES: tuple[Name, ...] = get_args(Name)
BENCHMARKS: dict[Name, Callable[[Scale], Iterator[Measurement]]] = {
    "size": bench_spectrum.real_size,
    "dense": bench_spectrum.dense,
    "lanczos": bench_spectrum.lanczos,
    "scaling": bench_spectrum.scaling,
    "gradient": bench_elbo.gradient,
    "sweep": bench_sweep.batching,
    "networks": bench_networks.dense,
    "conv": bench_networks.convolutional,
    "start": bench_start.start,
    "ppca": bench_ppca.from_data,
    "diagnose": bench_diagnose.diagnose,
}


@dataclass(frozen=True)
class Run:
    """Measure speed and memory, print them, and keep them in benchmarks/records."""

    smoke: bool = False
    """Everything at tiny sizes, in seconds; nothing is written."""
    large: bool = False
    """The dense Hessian of 8,040 parameters too: about a minute and 3 GB."""
    only: tuple[Name, ...] = ()
    """Only these; the record keeps what it has of the others."""


def measure(
    names: Sequence[Name],
    scale: Scale,
    keep: Callable[[Record], object] | None = None,
    quiet: bool = False,
) -> Record:
    """Run benchmarks.

    Args:
        names: which.
        scale: sizes.
        keep: called with the record so far after each benchmark, so that nothing gets lost.
        quiet: print nothing.

    Returns:
        The record.
    """
    record = records.new()
    # in a log the lines are progress enough
    with progress.bar(
        len(names), "benchmarks", "benchmark", quiet or not sys.stderr.isatty()
    ) as bar:
        for name in names:
            bar.set_postfix_str(name)
            if not quiet:
                bar.write(f"\n{name}: {(BENCHMARKS[name].__doc__ or '').strip()}")
            begin = timing.Clock.now()
            measured = []
            for m in BENCHMARKS[name](scale):
                measured.append(m)
                if not quiet:
                    what, *rest = records.cells(m.as_dict())
                    bar.write(f"  {what}: " + "  ".join(f"[{x}]" for x in rest if x))
            passed = timing.Clock.now().since(begin)
            record["benchmarks"][name] = records.entry(measured, passed)
            if keep is not None:
                keep(record)
            bar.update()
    return record


def main(args: Run) -> int:
    """Run, record, draw; 1 if a bar is not met."""
    jax.config.update("jax_enable_x64", True)
    scale: Scale = "smoke" if args.smoke else "large" if args.large else "full"
    record = measure(args.only or NAMES, scale, None if args.smoke else records.save)
    measured = [m for run in record["benchmarks"].values() for m in run["measurements"]]
    missed = [m["what"] for m in measured if m["met"] is False]
    busy = sum(m["busy"] for m in measured)
    print(f"\n{record['device']}: {len(measured)} measurements, {busy} of them doubtful")
    for what in missed:
        print(f"bar not met: {what}")
    if not args.smoke:
        print(f"wrote {records.save(record)}")
        records.write_tables(FOLDER / "README.md")
        if figure.exponents(record):  # the figure may be of another machine, which measured curves
            whole = next(r for r in records.load() if r["device"] == record["device"])
            print(f"wrote {figure.save(whole, FOLDER / 'results')}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Run, prog="benchmarks.run", config=(tyro.conf.FlagCreatePairsOff,))))
