"""Timing on a machine that may have other work to do: interleaved, paired, and with an alibi.

Functions that are compared take turns, so that a neighbour who comes and goes slows all of them;
ratios are taken within a turn. Every sample says how much of the machine others used meanwhile.
"""

import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

# Above this share of the machine's CPU time used by others, or this spread of the quartiles
# relative to the median, a measurement is flagged.
BUSY, SPREAD = 0.10, 0.25
TURN = 0.02  # seconds: a function that is faster is called several times in a turn


class Quartiles(NamedTuple):
    """Lower quartile, median, upper quartile."""

    low: float
    median: float
    high: float


def quartiles(values: Any) -> Quartiles:
    """The three of a sample."""
    return Quartiles(*(float(q) for q in np.quantile(values, [0.25, 0.5, 0.75])))


@dataclass(frozen=True)
class Sample:
    """Seconds per call, one for each turn; and the share of the machine that others used."""

    seconds: np.ndarray
    others: float


def is_busy(others: float, low: float, middle: float, high: float) -> bool:
    """Whether a neighbour, or anything else, makes a measurement doubtful."""
    return others > BUSY or high - low > SPREAD * abs(middle)


class Clock(NamedTuple):
    """Seconds: of the wall, of CPU that the whole machine used, and of that this process."""

    wall: float
    machine: float
    own: float

    @classmethod
    def now(cls) -> "Clock":
        """Read it; children that have ended are our own."""
        times = os.times()
        own = time.process_time() + times.children_user + times.children_system
        return cls(time.perf_counter(), _busy_seconds(), own)

    def since(self, before: "Clock") -> "Clock":
        """What passed."""
        return Clock(*(b - a for a, b in zip(before, self, strict=True)))

    @property
    def others(self) -> float:
        """Share of all CPU time that other processes used; the machine's ticks are 10 ms apart."""
        total = (os.cpu_count() or 1) * max(self.wall, 1e-9)
        return float(np.clip((self.machine - self.own - 0.02) / total, 0, 1))


def _busy_seconds() -> float:
    """Of all processes, and stolen by other virtual machines; 0 where the system keeps quiet."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return 0.0
    fields = [int(x) for x in stat.read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def interleaved(
    functions: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    compiled: Collection[str] = (),
) -> tuple[dict[str, Sample], dict[str, Any]]:
    """Time functions in turns.

    Args:
        functions: name → a call without arguments. What it returns is waited for.
        rounds: turns for each.
        compiled: names of slow functions that are compiled already: no warm-up, and one call a
            turn.

    Returns:
        Samples, and what each function returned at its last call.
    """
    results: dict[str, Any] = {}
    repeats = dict.fromkeys(functions, 1)
    for name, function in functions.items():
        if name not in compiled:
            jax.block_until_ready(function())
            begin = time.perf_counter()
            jax.block_until_ready(function())
            seconds = time.perf_counter() - begin
            repeats[name] = int(np.clip(np.ceil(TURN / max(seconds, 1e-9)), 1, 100))
    seconds = {name: np.zeros(rounds) for name in functions}
    passed = {name: np.zeros(3) for name in functions}
    for turn in range(rounds):
        for name, function in functions.items():
            begin = Clock.now()
            for _ in range(repeats[name]):
                results[name] = jax.block_until_ready(function())
            turned = Clock.now().since(begin)
            seconds[name][turn] = turned.wall / repeats[name]
            passed[name] += turned
    return {name: Sample(s, Clock(*passed[name]).others) for name, s in seconds.items()}, results
