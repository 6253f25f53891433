"""The file of a finished run has its parameters, its history and its final numbers.

It is an `.npz` of NumPy, `numpy.load("runs/0007.npz")`. Its arrays are called as the leaves of the
parameters and as the table's variables, behind `params/`, `history/` and `final/`. The text `facts`
says in JSON which run of which sweep it is. Each array has a checksum, compared when it is read.
"""

import io
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from linvae_jax._engine import shapes
from linvae_jax._engine.trainer import Result
from linvae_jax._internal import checks, whole_files


class Damaged(ValueError):
    """The file cannot be read or fails its checksums, and the run must be trained again."""


def path_of(folder: Path, run: int) -> Path:
    """Return where the file of a run is in the folder of its sweep."""
    return folder / "runs" / f"{run:04d}.npz"


def save(path: Path, result: Result, facts: Mapping[str, Any]) -> None:
    """Write the file of a run, whole or not at all; the facts are JSON values."""
    arrays = shapes.joined(result._asdict())
    buffer = io.BytesIO()  # in memory first, because a zip file is written here and there
    np.savez(buffer, allow_pickle=False, facts=np.array(json.dumps(facts)), **arrays)
    whole_files.write(path, buffer.getvalue())


def load(
    path: Path, params: Mapping[str, Any], history: Collection[str], final: Collection[str]
) -> Result:
    """Read the file of a run, of which the names, and of parameters shapes and dtypes, are known.

    Raises `Damaged`, or `ValueError` for another model or a version that measured less.
    """
    if not path.is_file():
        checks.fail("path", f"{path} (no such file)", "the file of a finished run")
    content = path.read_bytes()  # what fails here says nothing of the file
    try:
        with np.load(io.BytesIO(content)) as file:
            arrays = {name: file[name] for name in file.files}
    except MemoryError:
        raise
    except Exception as error:  # each way of being broken raises another type
        raise Damaged(f"{path} is damaged ({type(error).__name__}: {error})") from error
    parts = shapes.parted(arrays)
    found = Result(*(parts.get(part, {}) for part in Result._fields))
    lacking = [*sorted(set(history) - found.history.keys())]
    lacking += [f"final_{name}" for name in sorted(set(final) - found.final.keys())]
    if lacking:
        checks.fail(
            "folder", f"{path}, without {', '.join(lacking)}", "what this version measures",
            "It was written by another one: take a new folder.",
        )  # fmt: skip
    for name, array in found.params.items():
        # NumPy's files do not know the types that are not its own, such as bfloat16
        if name in params and array.dtype.kind == "V":
            found.params[name] = array.view(params[name].dtype)
    here = {name: (leaf.shape, str(leaf.dtype)) for name, leaf in found.params.items()}
    asked = {name: (leaf.shape, str(leaf.dtype)) for name, leaf in params.items()}
    if here != asked:
        checks.fail("task", f"one with parameters {asked}", f"{here}, as stored in {path}")
    return found
