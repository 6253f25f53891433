"""What a stage of `device` may use: a share of the time, a folder, and what is known by then."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.records import Record


@dataclass
class Lease:
    """Of one stage.

    Attributes:
        ends: when its time is over, on `time.monotonic`.
        out: the folder for tables.
        record: what other stages have measured.
        manual_dir: with MNIST's four original files, if there is one.
        smoke: tiny sizes, to see whether all works.
        say: prints a line.
        left_out: what there was no time for, in words.
    """

    ends: float
    out: Path
    record: Record
    manual_dir: Path | None = None
    smoke: bool = False
    say: Callable[[str], None] = print
    left_out: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def allows(self, seconds: float, what: str) -> bool:
        """Whether there is time for something; if not, it is noted as left out."""
        if self.left >= seconds:
            return True
        self.left_out.append(what)
        self.say(f"  left out for lack of time: {what}")
        return False

    def found(self, stage: str, what: str) -> float | None:
        """What another stage has measured, if it has."""
        measured: list[dict[str, Any]] = (
            self.record["benchmarks"].get(stage, {}).get("measurements", [])
        )
        return next((m["value"] for m in measured if m["what"] == what), None)
