"""`linvae diagnose` on 60,000 × 784 data and codes of 200 latents, from files to the page."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import memory, records, timing
from benchmarks.bench_start import environment
from benchmarks.records import Measurement, Scale
from landscape import diagnosis

LOSS = diagnosis.Loss("mean-squared-error", kl_weight=1e-4)
# what nobody can do without: read the files, and the eigenvalues of the covariance
LEAST = """
import sys
import numpy as np
x = np.load(sys.argv[1]).astype(float)
with np.load(sys.argv[2]) as codes:
    arrays = {name: codes[name] for name in codes.files}
x -= x.mean(axis=0)
np.linalg.eigvalsh(x.T @ x / len(x))
"""


def arrays(count: int, n: int, k: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Data (count, n) and codes of k latents, as a network in float32 would save them."""
    rng = np.random.default_rng(0)
    x = rng.random((count, n), dtype=np.float32) * rng.random(n, dtype=np.float32)
    variance = np.linspace(0.05, 1, k, dtype=np.float32)
    mean = rng.standard_normal((count, k), dtype=np.float32) * np.sqrt(1 - variance)
    log_var = np.log(variance) + 0 * mean
    return x, {"mean": mean, "log_var": log_var, "reconstruction": x.mean(axis=0) + 0 * x}


def whole(count: int, n: int, k: int) -> Any:
    """The diagnosis of these arrays, in this process."""
    x, saved = arrays(count, n, k)
    return diagnosis.of_codes(**saved, x=x, loss=LOSS).kl.values


def diagnose(scale: Scale) -> Iterator[Measurement]:
    """Each a process of its own, in turns; of ours the second call on."""
    count, n, k = (300, 12, 3) if scale == "smoke" else (60_000, 784, 200)
    size = f"{count:,} × {n}, {k} latents"
    with tempfile.TemporaryDirectory() as place:
        x, saved = arrays(count, n, k)
        files = [f"{place}/x.npy", f"{place}/codes.npz"]
        np.save(files[0], x)
        np.savez(files[1], **saved)
        del x, saved
        ours = ("-m", "landscape", "diagnose", "--data", files[0], "--codes", files[1],
                "--reconstruction", LOSS.reconstruction, "--kl-weight", str(LOSS.kl_weight),
                "--out", f"{place}/out")  # fmt: skip
        own = environment(Path(place))
        functions = {
            name: partial(
                subprocess.run, [sys.executable, *given], env=own, check=True,
                stdout=subprocess.DEVNULL,
            )
            for name, given in (("ours", ours), ("least", ("-c", LEAST, *files)))
        }  # fmt: skip
        functions["ours"]()
        samples, _ = timing.interleaved(
            functions, 1 if scale == "smoke" else 5, compiled=tuple(functions)
        )
    bars = (20.0, 4.0) if scale != "smoke" else (None, None)
    yield records.duration(f"`linvae diagnose`, {size}", samples["ours"], "s", bar=bars[0])
    yield records.duration(
        f"NumPy reads the files and finds the eigenvalues, {size}", samples["least"], "s"
    )
    yield records.ratio("the former over the latter", samples["ours"], samples["least"])
    peak = memory.of("benchmarks.bench_diagnose:whole", count, n, k)
    yield records.plain(f"peak memory, arrays included, {size}", peak.host / 1e9, "GB", bar=bars[1])
