"""Peak memory of one call in a process of its own, what its imports take subtracted.

In a child, since memory once taken by the parent is never given back to the measurement. The
high-water mark is read from /proc: `ru_maxrss` survives exec, so that a child inherits the peak
of the parent that started it. Where there is no /proc it has to do.

python -m benchmarks.memory benchmarks.problems:count_all 784 200
"""

import importlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Peak(NamedTuple):
    """Bytes.

    Attributes:
        host: high-water mark of the process above its size before the call.
        before: its size then: Python, JAX and their libraries.
        device: most that an accelerator's allocator held; 0 on CPU.
    """

    host: int
    before: int
    device: int


def of(function: str, *args: int) -> Peak:
    """Peak memory of `module:function(*args)`, compiling included, in a fresh process.

    Raises:
        RuntimeError: the process failed; with what it wrote.
    """
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    command = [sys.executable, "-m", "benchmarks.memory", function, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


def _status(field: str) -> int:
    """A size of this process in bytes: VmHWM its high-water mark, VmRSS what it holds now."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _main(function: str, *args: str) -> None:
    module, name = function.split(":")
    call = getattr(importlib.import_module(module), name)
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.block_until_ready(jax.numpy.ones(8) @ jax.numpy.ones(8))  # starts the device
    before = _status("VmRSS")
    jax.block_until_ready(call(*(int(a) for a in args)))
    statistics = jax.devices()[0].memory_stats() or {}
    peak = Peak(_status("VmHWM") - before, before, statistics.get("peak_bytes_in_use", 0))
    print(json.dumps(peak._asdict()))


if __name__ == "__main__":
    _main(*sys.argv[1:])
