"""How commands read and write: flags, aligned columns, the configuration in one line."""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, fields, is_dataclass
from itertools import zip_longest
from typing import Any


def shown(command: Any) -> str:
    """Write the command and its whole configuration, as printed at the start of each run."""
    name = type(command).__name__.lower()
    return f"linvae {name} {json.dumps(asdict(command), default=str)}"


def attrs(command: Any, source: str) -> dict[str, str]:
    """Return what is kept with a table, for `paper.facts`: the data's origin, the command."""
    return {"source": source, "command": shown(command)}


def columns(rows: Sequence[Sequence[str]], left: Collection[int] = ()) -> list[str]:
    """Align columns, those that `left` numbers to the left; rows may end early."""
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    return [
        "   ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in rows
    ]


def flag(name: str) -> str:
    """Write a field as it is typed."""
    return "--" + name.replace("_", "-")


def chosen(command: Any, *names: str) -> dict[str, Any]:
    """Return what was chosen for some fields, by flag."""
    return {flag(name): getattr(command, name) for name in names}


# names of arguments → the flag by which a user gives them, where its name is another
_GIVEN_BY = {
    "x": "data", "values": "data", "chunks": "data", "cov": "data", "moments.cov": "data",
    "problem.x": "data", "eigenvalues": "data", "data_scale": "data", "name_or_path": "data",
    "images": "data", "n": "data", "folder": "out", "identity": "out", "path": "out",
}  # fmt: skip


def as_flags(message: str, command: Any) -> str:
    """Put the flag that the user typed in place of an argument's name in a message."""
    found = re.match(r"(?:grid\.|config\.|model\.)?([a-z]\w*(?:\.\w+)?)(?:\[\d+\])?: got ", message)
    if not found:
        return message
    known = _names(command) - {"folder"}  # of `report`, which has no flag
    name = found[1] if found[1] in known else _GIVEN_BY.get(found[1], "")
    return f"{flag(name)}: got {message[found.end() :]}" if name in known else message


def _names(command: Any) -> set[str]:
    """Collect the names of the fields that are flags, those of nested options too."""
    names = set()
    for f in fields(command):
        value = getattr(command, f.name)
        names |= _names(value) if is_dataclass(value) else {f.name}
    return names
