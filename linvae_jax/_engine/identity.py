"""A file says which run a folder of checkpoints belongs to."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from linvae_jax._engine.processes import together
from linvae_jax._internal import checks, whole_files

# tells our folders from other people's
_FORMAT = "linvae_jax checkpoints 1"
_IDENTITY = "identity.json"


def claim(folder: Path, identity: Mapping[str, Any], longer: str) -> None:
    """Make the folder this run's, or see that it is, before anything else is written to it.

    The list of the identity with the dotted name `longer` may be longer than in the folder.
    """
    asked = as_json("identity", identity)
    path, partial = folder / _IDENTITY, folder / f"{_IDENTITY}.partial"

    def write() -> None:
        text = json.dumps({"format": _FORMAT, "identity": asked}, indent=1)
        whole_files.write(path, text.encode())

    if jax.process_index() == 0 and not folder.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        if all(entry == partial for entry in folder.iterdir()):
            write()
    together(f"linvae_jax identity of {folder}")
    if not path.is_file():
        what = "which is a file"
        if folder.is_dir():
            what = f"which holds {some(sorted(entry.name for entry in folder.iterdir()))}"
        checks.fail("folder", f"{folder}, {what}", "a new or empty one, or one of this run")
    if _compare_identity(folder, asked, longer) and jax.process_index() == 0:
        write()


def _compare_identity(folder: Path, asked: Mapping[str, Any], longer: str) -> bool:
    """Refuse another run's folder; return whether the list that may be longer is."""
    path = folder / _IDENTITY
    try:
        written = json.loads(path.read_text())
    except ValueError:
        written = None
    if not isinstance(written, dict) or written.get("format") != _FORMAT:
        checks.fail(
            "folder", f"{folder}, whose {_IDENTITY} is not ours or damaged", "a folder of this run"
        )
    here, there = dict(_fields(asked)), dict(_fields(written["identity"]))
    # as text: [0, 1] begins like [0], but for the bracket that closes it
    grown = here.get(longer, "").startswith(there.get(longer, "]")[:-1] + ",")
    if grown:
        there[longer] = here[longer]
    differ = [name for name in here | there if here.get(name) != there.get(name)]
    if differ:

        def told(fields: dict[str, str]) -> str:
            return some([f"{name} = {fields.get(name, 'nothing')}" for name in differ])

        checks.fail(
            "identity",
            told(here),
            f"{told(there)}, as stored in {path}",
            "Take another folder, or delete this one to start again.",
        )
    return grown


def _fields(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the values of nested dictionaries as text, each with its dotted name."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _fields(inner, f"{name}.{key}" if name else key)
    else:
        yield name, json.dumps(value)


def as_json(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mapping as it will be read again: tuples become lists, keys become text."""
    try:
        return json.loads(json.dumps(dict(value)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: got {value!r}, expected JSON values ({error}).") from error


def some(names: list[str]) -> str:
    """Return the first few of some names, for a message."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "none") + more
