"""Whether a device computes what a CPU does: values kept in `reference.npz`, both precisions.

`python -m benchmarks.bench_right` writes that file anew, which only a CPU should; the suite holds
it to what it computes itself.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import problems, records
from benchmarks.lease import Lease
from benchmarks.records import Measurement
from landscape.cli import programs
from landscape.curvature import blocks, collapsed_latent, operators
from landscape.points import stationary
from linvae_jax import linear, linear_task, moments, network_task, networks, ppca, sweeps, training
from linvae_jax._engine import shapes

REFERENCE = Path(__file__).with_name("reference.npz")
N, K, COUNT = 24, 8, 300
# Largest difference over the largest value. Float64: sums of 300 terms in another order, an
# eigendecomposition, inverse roots of matrices of condition 1e4; float32 anywhere would give 1e-7
# and more. Float32: sums of 300 terms again; TF32, which keeps three digits, would give 1e-4 and
# more. Networks in float32: roundings grow over 60 steps of Adam.
BARS = {"float64": 1e-10, "float32": 2e-5}
SWEEP_BAR = 1e-3

NETWORK = networks.Mlp(n=N, k=4, encoder=(16,), decoder=(16,))
TASK = network_task.NetworkTask(NETWORK, batch_size=32, observed=100)
# long enough to be killed; its first steps are compared, of which a constant rate makes the same
# however many follow
CONFIG = training.TrainConfig(num_steps=400, record_every=5, schedule="constant")
COMPARED = 12  # records, of 60 steps
GRID = sweeps.Grid(seeds=(0, 1), sigma2=(0.5, 3.0), learned=(True, False), learning_rate=(0.01,))


def wave(*shape: int, start: float = 1.0) -> np.ndarray:
    """Numbers between −1 and 1 that no library's generator decides."""
    return np.sin(start + np.sqrt(2) * np.arange(np.prod(shape)) ** 1.5).reshape(shape)


def data() -> np.ndarray:
    """(300, 24), with variances that fall."""
    return wave(COUNT, N) * np.sqrt(8 / np.arange(1, N + 1))


def formulas(dtype: Any) -> dict[str, Any]:
    """Closed forms of the linear VAE, in a precision; its spectrum where that is well separated."""
    m = moments.from_data(data().astype(dtype))
    params = linear.LinearVAEParams(
        *(jnp.asarray(wave(*shape, start=i), dtype) for i, shape in
          enumerate([(N, K), (K, N), (K,), ()]))
    )  # fmt: skip
    up = linear.gradient(params, m)
    spectrum = moments.spectrum(m)
    lam = problems.spectrum(N).astype(dtype)
    assignment = np.where(np.arange(K) < K // 2, np.arange(K), -1)
    sigma2 = 2.0
    point = stationary.point(lam, assignment, sigma2)
    hessian = operators.block_hessian(point, jnp.eye(N, dtype=dtype))
    product = jax.jit(operators.apply)(hessian, params)
    return {
        "covariance": m.cov,
        "eigenvalues of the covariance": spectrum.eigenvalues,
        "ELBO": linear.elbo(params, m),
        **{f"gradient in {f.name}": getattr(up, f.name) for f in fields(up)},
        "likelihood": ppca.log_likelihood(params.W, 1.5, m),
        "stationary point": stationary.params(point, jnp.eye(N, dtype=dtype)).W,
        "Hessian eigenvalues": jnp.sort(blocks.hessian_eigenvalues(point)),
        # together, as the product is exact to rounding of the largest eigenvalue
        "Hessian product": jnp.concatenate([product.W.ravel(), product.V.ravel(), product.log_d]),
    }


def curvature() -> dict[str, Any]:
    """Of a collapsed latent of a network, in float64."""
    shape = shapes.shape_of(NETWORK.init, jax.random.key(0), 1.0)
    leaves = [
        jnp.asarray(0.3 * wave(*leaf.shape, start=i))
        for i, leaf in enumerate(shape.leaves.values())
    ]
    params = jax.tree.unflatten(shape.structure, leaves)
    x = jnp.asarray(data())
    found = collapsed_latent.blocks(NETWORK, params, x - x.mean(axis=0), jax.random.key(1), 0)
    return {
        "A of a collapsed latent": found.decoder,
        "B of a collapsed latent": found.coupling,
        "C of a collapsed latent": found.encoder,
        "critical σ² of a collapsed latent": found.critical_sigma2(),
    }


def linear_sweep() -> dict[str, Any]:
    """Exact gradients and SGD in float64, many runs side by side."""
    task, problem = linear_task.LinearTask(4), linear_task.problem(moments.from_data(data()))
    config = training.TrainConfig(num_steps=50, record_every=10, optimizer="sgd")
    sweep = sweeps.run(task, config, problem, GRID, quiet=True)
    return {"ELBO of linear VAEs in training": sweep.table.elbo.values}


def network_sweep(folder: Path | None = None, save_seconds: float = 60.0) -> np.ndarray:
    """ELBOs of float32 networks, four runs side by side; steps last."""
    prepared = network_task.prepare(data().astype(np.float32))
    sweep = sweeps.run(
        TASK, CONFIG, prepared, GRID, folder=folder, checkpoint_seconds=save_seconds, quiet=True,
        batching="vmap", chunk=4,
    )  # fmt: skip
    return sweep.table.elbo.values


def values() -> dict[str, np.ndarray]:
    """All that `reference.npz` holds, computed here in float64; of networks in float32."""
    found = formulas(np.float64) | curvature() | linear_sweep()
    found["ELBO of networks in training"] = network_sweep()[..., :COMPARED]
    return {name: np.asarray(value) for name, value in found.items()}


def error(found: Any, reference: np.ndarray) -> float:
    """Largest difference over the largest value."""
    difference = np.abs(np.asarray(found, np.float64) - reference).max()
    return float(difference / np.abs(reference).max())


def agreement(lease: Lease) -> Iterator[Measurement]:
    """Formulas, spectra and sweeps against a CPU's; a sweep that is killed and goes on."""
    with np.load(REFERENCE) as stored:
        kept = dict(stored)
    groups: list[tuple[str, Callable[[], dict[str, Any]], float]] = [
        ("float64", lambda: formulas(np.float64), BARS["float64"]),
        ("float64", curvature, BARS["float64"]),
        ("float64", linear_sweep, BARS["float64"]),
        ("float32", lambda: formulas(np.float32), BARS["float32"]),
    ]
    for precision, compute, bar in groups:
        for name, value in compute().items():
            what = f"{name}, {precision}, largest difference from a CPU's"
            yield records.plain(what, error(value, kept[name]), "1", bar=bar)
    whole = network_sweep()
    off = error(whole[..., :COMPARED], kept["ELBO of networks in training"])
    what = "ELBO of networks in training, float32, largest difference from a CPU's"
    yield records.plain(what, off, "1", bar=SWEEP_BAR)
    if lease.allows(0 if lease.smoke else 25, "a sweep that is killed and goes on"):
        yield killed(whole)


def killed(whole: np.ndarray) -> Measurement:
    """A child's sweep, killed by SIGKILL after its first checkpoint, and brought to its end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "sweep"
        command = [sys.executable, "-m", "benchmarks.bench_right", str(folder)]
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        ends = time.monotonic() + 120
        while child.poll() is None and time.monotonic() < ends:
            if any(folder.glob("checkpoints/step_*[0-9]")):
                break
            time.sleep(0.01)
        with suppress(ProcessLookupError):
            child.send_signal(signal.SIGKILL)
        complaint = (child.communicate()[1] or "").strip()
        finished = len(list(folder.glob("runs/*.npz")))
        if not folder.is_dir():
            raise RuntimeError(f"the sweep to be killed did not start: {complaint[-500:]}")
        found = network_sweep(folder)
    note = f"killed with {finished} of {GRID.size} runs finished"
    same = "the same bits" if np.array_equal(found, whole) else "not the same bits"
    what = "ELBO of a sweep that was killed and went on, largest difference from an undisturbed one"
    off = error(found, np.asarray(whole, np.float64))
    return records.plain(what, off, "1", bar=SWEEP_BAR, note=f"{note}; {same}")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    programs.keep()
    if len(sys.argv) > 1:
        network_sweep(Path(sys.argv[1]), save_seconds=0.0)  # at every moment it can be killed
    else:
        np.savez(REFERENCE, **values())  # pyright: ignore[reportArgumentType]
