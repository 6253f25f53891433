"""What a benchmark measured, and the record that it goes into: JSON, and a table to read.

A record belongs to a device. Benchmarks that were not run again keep what they had.
"""

import json
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import numpy as np

from benchmarks import timing
from linvae_jax import machine
from linvae_jax._internal import whole_files

FOLDER = Path(__file__).parent
BEGIN, END = "<!-- records: written by run.py -->", "<!-- end of records -->"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "matfree", "torch")

Scale: TypeAlias = Literal["smoke", "full", "large"]
Record: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """One number with its unit, its bar and what is needed to believe it.

    Attributes:
        what: one line.
        value: the median where there are several rounds.
        unit: "ms", "s", "GB", "samples/s", "×" for a ratio, "1" for an error or an exponent.
        low: lower quartile.
        high: upper quartile.
        rounds: how many times it was measured.
        bar: at most this; None where there is none.
        at_least: likewise, of a value that should be large.
        note: the accuracy reached, mostly.
        others: share of the machine's CPU time that other processes used meanwhile.
        method: curve in the figure that it belongs to.
        parameters: where on that curve.
    """

    what: str
    value: float
    unit: str
    low: float
    high: float
    rounds: int = 1
    bar: float | None = None
    note: str = ""
    others: float = 0.0
    method: str | None = None
    parameters: int | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None without one."""
        if self.bar is None and self.at_least is None:
            return None
        low = -np.inf if self.at_least is None else self.at_least
        high = np.inf if self.bar is None else self.bar
        return bool(low <= self.value <= high)

    @property
    def busy(self) -> bool:
        """Whether the machine had other work, or the rounds disagree."""
        return timing.is_busy(self.others, self.low, self.value, self.high)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"met": self.met, "busy": self.busy}


def plain(what: str, value: float, unit: str, **more: Any) -> Measurement:
    """A number that is not timed."""
    return Measurement(what, float(value), unit, float(value), float(value), **more)


def duration(
    what: str, sample: timing.Sample, unit: Literal["ms", "s"], **more: Any
) -> Measurement:
    """Seconds per call."""
    low, median, high = timing.quartiles(sample.seconds * {"ms": 1e3, "s": 1.0}[unit])
    rounds = len(sample.seconds)
    return Measurement(what, median, unit, low, high, rounds, others=sample.others, **more)


def ratio(what: str, over: timing.Sample, under: timing.Sample, **more: Any) -> Measurement:
    """How many times longer `over` takes than `under`, turn by turn."""
    low, median, high = timing.quartiles(over.seconds / under.seconds)
    others = max(over.others, under.others)
    return Measurement(what, median, "×", low, high, len(over.seconds), others=others, **more)


def rate(what: str, work: float, sample: timing.Sample, unit: str, **more: Any) -> Measurement:
    """What is done in a second, where each call does `work`."""
    low, median, high = timing.quartiles(work / sample.seconds)
    rounds = len(sample.seconds)
    return Measurement(what, median, unit, low, high, rounds, others=sample.others, **more)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def device_name() -> str:
    """The accelerator, or the processor with the cores that this process may use."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    name = found.group(1) if found else platform.processor() or platform.machine()
    return f"{name}, {machine.cores()} cores"


def new() -> Record:
    """A record of this device without measurements."""
    return {
        "format": "linvae_jax benchmarks 1",
        "device": device_name(),
        "platform": jax.devices()[0].platform,
        "cores": machine.cores(),
        "float": str(np.dtype(jax.numpy.result_type(float))),
        "benchmarks": {},
    }


def entry(measurements: Iterable[Measurement], passed: timing.Clock) -> Record:
    """What a record holds of one benchmark."""
    measured = [m.as_dict() for m in measurements]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        "seconds": round(passed.wall, 1),
        "others": passed.others,
        "busy": passed.others > timing.BUSY,
        "measurements": measured,
    }


def path_of(record: Record, folder: Path) -> Path:
    """Named after the device."""
    slug = re.sub(r"[^a-z0-9]+", "-", record["device"].lower()).strip("-")
    return folder / f"{slug}.json"


def read(path: Path) -> Record:
    """A record."""
    return json.loads(path.read_text(encoding="utf-8"))


def save(record: Record, folder: Path = FOLDER / "records") -> Path:
    """Write a record, keeping what the last one has of benchmarks that are not in this one."""
    path = path_of(record, folder)
    before = read(path) if path.is_file() else new()
    missing = {n: b for n, b in before["benchmarks"].items() if n not in record["benchmarks"]}
    merged = record | {"benchmarks": record["benchmarks"] | missing}
    text = json.dumps(merged, indent=1, ensure_ascii=False) + "\n"
    return whole_files.write(path, text.encode())


def load(folder: Path = FOLDER / "records") -> list[Record]:
    """All records, sorted by file name."""
    return [read(path) for path in sorted(folder.glob("*.json"))]


def number(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cells(m: Mapping[str, Any]) -> list[str]:
    """A measurement as a row: what, value, quartiles, bar, note."""
    unit = "" if m["unit"] == "1" else " " + m["unit"]
    spread = f"{number(m['low'])} to {number(m['high'])}" if m["rounds"] > 1 else ""
    bounds = (("≤", m["bar"]), ("≥", m.get("at_least")))  # old records have no "at_least"
    bar = " and ".join(f"{sign} {number(b)}{unit}" for sign, b in bounds if b is not None)
    if bar:
        bar += f": {'met' if m['met'] else '**not met**'}"
    doubt = ""
    if m["busy"]:
        others = m["others"] > timing.BUSY
        doubt = f"busy: others used {m['others']:.0%}" if others else "rounds disagree"
    return [
        m["what"],
        number(m["value"]) + unit,
        spread,
        bar,
        "; ".join(x for x in (m["note"], doubt) if x),
    ]


def table(record: Record) -> str:
    """A record as Markdown."""
    lines = [f"### {record['device']} ({record['float']})"]
    for name, run in record["benchmarks"].items():
        versions = ", ".join(f"{p} {v}" for p, v in run["versions"].items())
        busy = " **The machine was busy: to be repeated.**" if run["busy"] else ""
        lines += [
            "",
            f"**{name}**, {run['date'][:10]}, {run['seconds']:.0f} s; {versions}.{busy}",
            "",
            "| what | median | quartiles | bar | note |",
            "| --- | --- | --- | --- | --- |",
        ]
        for m in run["measurements"]:
            escaped = [cell.replace("|", r"\|") for cell in cells(m)]  # as in max|μ|
            lines.append("| " + " | ".join(escaped) + " |")
        if run.get("left_out"):
            lines += ["", f"Left out: {'; '.join(run['left_out'])}."]
    return "\n".join(lines)


def write_tables(readme: Path, folder: Path = FOLDER / "records") -> None:
    """Put the tables of all records between the README's markers.

    Raises:
        ValueError: the README has no markers.
    """
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{readme}: expected the lines {BEGIN!r} and {END!r}, once each")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    tables = "\n\n".join(table(record) for record in load(folder))
    readme.write_text(f"{head}{BEGIN}\n\n{tables}\n\n{END}{tail}", encoding="utf-8")
