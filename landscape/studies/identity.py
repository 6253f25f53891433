"""Of which settings and data a place holds results: others are refused before any work.

A folder has a small file beside its results, `<command>.json`; a table has an attribute. Both say
with which settings and on which data the results were made, each by the name that a user knows.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from linvae_jax import tables
from linvae_jax._internal import checks, whole_files

_ATTRIBUTE = "settings"
_HINT = "Take another --out, or delete what is there."


def claim_folder(
    folder: Path,
    command: str,
    settings: Mapping[str, Any],
    made: Sequence[str],
    *,
    longer: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> None:
    """Make a folder one of these settings, or see that it is.

    Args:
        folder: new, empty, with other things in it, or with results of an earlier call.
        command: names the file that remembers, `<command>.json`.
        settings: name as a user knows it → JSON value; names of dashes (`--k`) are flags.
        made: patterns of the names of results; where none is there, the folder is free.
        longer: settings, numbers, that may be larger than before.
        optional: settings that may be None now or before: a part that is left out.

    Raises:
        ValueError: the folder is a file, or holds results of other settings, or results that do not
            say of which settings they are.
    """
    checks.folder("out", folder)
    asked, path = tables.plain(settings), folder / f"{command}.json"
    found = sorted(entry.name for pattern in made for entry in folder.glob(pattern))
    if found:
        there = _read(path)
        if there is None:
            checks.fail(
                "out", f"{folder}, with {found[0]} and no {path.name} that says of which settings",
                f"a folder without results, or one that `linvae {command}` made", _HINT,
            )  # fmt: skip
        _compare(folder, asked, there, longer, optional)
        asked = there | {name: value for name, value in asked.items() if value is not None}
    whole_files.write(path, (json.dumps(asked, indent=1, ensure_ascii=False) + "\n").encode())


def check_file(path: Path, settings: Mapping[str, Any]) -> None:
    """See that a table may be written: nothing there, or a table of the same settings.

    Raises:
        ValueError: a folder is there, a folder above it is a file, or what is there is no table of
            `linvae`, or one of other settings.
    """
    checks.path("out", path)
    if path.is_dir():
        checks.fail("out", f"{path}, a folder", "a file's name")
    if not path.exists():
        return
    try:
        there = json.loads(tables.load(path).attrs[_ATTRIBUTE])
    except (ValueError, KeyError):
        there = None
    if not isinstance(there, dict):
        checks.fail(
            "out", f"{path}, a file that does not say of which settings it is",
            "a new name, or that of a table made with the same settings", _HINT,
        )  # fmt: skip
    _compare(path, tables.plain(settings), there)


def signed(table: xr.Dataset, settings: Mapping[str, Any]) -> xr.Dataset:
    """Return the table with the attribute that `check_file` reads."""
    text = json.dumps(tables.plain(settings), ensure_ascii=False)
    return table.assign_attrs({_ATTRIBUTE: text})


def _read(path: Path) -> dict[str, Any] | None:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return read if isinstance(read, dict) else None


def _compare(
    place: Path,
    here: Mapping[str, Any],
    there: Mapping[str, Any],
    longer: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> None:
    def same(name: str) -> bool:
        a, b = here.get(name), there.get(name)
        if name in optional and (a is None or b is None):
            return True
        return a == b or (name in longer and a is not None and b is not None and a > b)

    differ = [name for name in dict.fromkeys([*here, *there]) if not same(name)]
    # what one kind of results has and the other hasn't, follows from what both have
    differ = [name for name in differ if name in here and name in there] or differ
    if differ:
        got = f"{place}, whose results are of {_told(differ, there)}"
        checks.fail("out", got, f"those of {_told(differ, here)}", _HINT)


def _told(names: Sequence[str], values: Mapping[str, Any]) -> str:
    """Write the first four settings by name; of long checksums the beginning."""
    text = ", ".join(f"{name} {_word(values.get(name))}" for name in names[:4])
    text += f" and {len(names) - 4} more" if len(names) > 4 else ""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{20,}\b", r"\1…", text)


def _word(value: Any) -> str:
    if value is None:
        return "(not given)"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
