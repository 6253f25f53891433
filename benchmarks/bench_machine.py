"""What a machine is, and its ceilings: products in each precision, and copies."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import records, timing
from benchmarks.bench_networks import peak
from benchmarks.lease import Lease
from benchmarks.records import Measurement


class Product(NamedTuple):
    """A kind of matrix product."""

    dtype: str
    precision: str

    @property
    def what(self) -> str:
        """Its name in the record."""
        return f"product of {self.dtype} matrices, {self.precision}"


PRODUCTS = (
    Product("float32", "highest"),
    Product("float32", "default"),
    Product("float64", "highest"),
)
COPY = "copy, bytes read and written"


def facts() -> str:
    """The device as its driver names it, and the host."""
    device = jax.devices()[0]
    parts = [f"{len(jax.devices())} × {device.device_kind}"]
    if shutil.which("nvidia-smi"):
        query = "--query-gpu=name,memory.total,driver_version"
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True
        )
        parts.append(done.stdout.strip().replace("\n", "; "))
    memory = (device.memory_stats() or {}).get("bytes_limit")
    if memory:
        parts.append(f"{memory / 1e9:.1f} GB for JAX")
    parts.append(f"{os.cpu_count()} cores, {platform.platform()}")
    return ", ".join(p for p in parts if p)


def ceilings(lease: Lease) -> Iterator[Measurement]:
    """What the machine is; the fastest products and copies that it does."""
    yield records.plain("devices", len(jax.devices()), "1", note=facts())
    on_cpu = jax.default_backend() == "cpu"
    size, times = (64, 1) if lease.smoke else (1024, 2) if on_cpu else (8192, 4)
    functions = {p.what: peak(size, times, p.dtype, p.precision) for p in PRODUCTS}
    samples, _ = timing.interleaved(functions, 3)
    for name, sample in samples.items():
        work = 2 * size**3 * times / 1e12
        yield records.rate(name, work, sample, "TFLOP/s", note=f"{size} × {size}")
    count = 2**12 if lease.smoke else 2**26 if on_cpu else 2**29
    x = jnp.ones(count, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    sample = timing.interleaved({COPY: lambda: copy(x)}, 5)[0][COPY]
    yield records.rate(COPY, 2 * x.nbytes / 1e12, sample, "TB/s", note=f"{x.nbytes / 1e9:.2g} GB")
