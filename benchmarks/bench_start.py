"""What a user waits for before anything is computed: help, imports, and a fit from the shell."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import records, timing
from benchmarks.records import Measurement, Scale

ROOT = Path(__file__).parent.parent
CORE = ("moments", "ppca", "linear", "collapse", "gaussian", "vae", "streams")
HELP, JAX, OURS, FIT = "help", "jax", "core", "fit"


def start(scale: Scale) -> Iterator[Measurement]:
    """Each a process of its own, in turns; of `linvae fit` the second call on, on the digits."""
    core = "; ".join(f"import linvae_jax.{name}" for name in CORE)
    with tempfile.TemporaryDirectory() as place:
        fit = ("-m", "landscape", "fit", "--k", "50", "--out", f"{place}/model.nc")
        if scale == "smoke":
            fit = (*fit, "--count", "100")
        commands = {
            HELP: ("-m", "landscape", "--help"),
            JAX: ("-c", "import jax"),
            OURS: ("-c", core),
            FIT: fit,
        }
        own = environment(Path(place))
        functions = {name: partial(_process, own, *given) for name, given in commands.items()}
        begin = timing.Clock.now()
        functions[FIT]()
        first = timing.Clock.now().since(begin).wall
        # files of packages are in the system's cache after one call, and so is what was compiled
        for name in () if scale == "smoke" else (HELP, OURS):
            functions[name]()
        samples, _ = timing.interleaved(
            functions, 1 if scale == "smoke" else 7, compiled=tuple(functions)
        )
    bars = {HELP: 0.6, FIT: 3.0} if scale != "smoke" else {}
    yield records.duration("`linvae --help`", samples[HELP], "s", bar=bars.get(HELP))
    yield records.duration("`import jax`", samples[JAX], "s")
    yield records.duration("`import linvae_jax` with its core", samples[OURS], "s")
    yield records.ratio("the same, over `import jax`", samples[OURS], samples[JAX])
    yield records.duration(
        "`linvae fit --k 50` on the digits, programs kept", samples[FIT], "s", bar=bars.get(FIT),
        note=f"{first:.3g} s the first time, when they are compiled",
    )  # fmt: skip


def environment(place: Path) -> dict[str, str]:
    """Without what this process was told of JAX, and with a cache that is empty at first."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    return own | {"XDG_CACHE_HOME": str(place), "PYTHONPATH": str(ROOT)}


def _process(environment: dict[str, str], *arguments: str) -> None:
    subprocess.run(
        [sys.executable, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL
    )
