"""The exact spectrum by blocks: at real size, against the dense Hessian, against Lanczos."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import memory, peers, problems, records, timing
from benchmarks.lease import Lease
from benchmarks.records import Measurement, Scale
from landscape.curvature import operators
from landscape.points import stationary

BLOCKS, DENSE = "blocks", "dense Hessian + eigvalsh"


def size_name(p: problems.Point) -> str:
    """Its n and k."""
    return f"n = {len(p.eigenvalues):,}, k = {len(p.assignment)}"


def _exponent(method: str, curve: list[tuple[int, float]], least: int) -> Measurement:
    """Slope of log time over log p, from `least` parameters on, by least squares."""
    p, seconds = np.array([point for point in curve if point[0] >= least]).T
    slope = np.polyfit(np.log(p), np.log(seconds), 1)[0]
    where = f"p = {p.min():,.0f} to {p.max():,.0f}, {len(p)} sizes"
    return records.plain(f"time ∝ p^exponent, {method}", slope, "1", note=where, method=method)


def on_device(lease: Lease) -> Iterator[Measurement]:
    """All eigenvalues at the sizes of MNIST and of colour images; products with the operator."""
    sizes = [(12, 6)] if lease.smoke else [(784, 200), (12_288, 500)]
    for n, k in sizes:
        p = problems.point(n, k, k // 2)
        sample = timing.interleaved({BLOCKS: lambda p=p: problems.all_eigenvalues(p)}, 7)[0]
        what = f"all {problems.parameters(p):,} eigenvalues, {size_name(p)}, half collapsed"
        yield records.duration(what, sample[BLOCKS], "ms")
    n, k = sizes[0]
    p = problems.point(n, k, k // 2)
    U = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))[0])
    hessian = operators.block_hessian(p, U)
    direction = stationary.params(p, U)
    product = jax.jit(operators.apply)
    sample = timing.interleaved({BLOCKS: lambda: product(hessian, direction)}, 7)[0][BLOCKS]
    what = f"product of the Hessian as an operator, {size_name(p)}, half collapsed"
    yield records.duration(what, sample, "ms")


def real_size(scale: Scale) -> Iterator[Measurement]:
    """All eigenvalues at the sizes of MNIST and of small colour images; time and memory."""
    smoke = scale == "smoke"
    n, k = (12, 6) if smoke else (784, 200)
    points = {
        "optimum": problems.point(n, k),
        "half collapsed": problems.point(n, k, k // 2),
        "total collapse": problems.point(n, k, 0),
    }
    samples, values = timing.interleaved(
        {name: lambda p=p: problems.all_eigenvalues(p) for name, p in points.items()},
        3 if smoke else 30,
    )
    for name, p in points.items():
        yield records.duration(
            f"all {values[name].size:,} eigenvalues, {size_name(p)}, {name}",
            samples[name],
            "ms",
            bar=None if smoke else 50,
        )

    n, k = (20, 5) if smoke else (12_288, 500)
    p = problems.point(n, k)
    samples, values = timing.interleaved(
        {"optimum": lambda: problems.all_eigenvalues(p)}, 2 if smoke else 9
    )
    what = f"all {values['optimum'].size:,} eigenvalues, {size_name(p)}"
    yield records.duration(f"{what}, optimum", samples["optimum"], "s", bar=None if smoke else 2)

    count = 2 * k
    for how, peak in (
        ("λ known", memory.of("benchmarks.problems:spectrum_of", n, k)),
        (f"from {count:,} data", memory.of("benchmarks.problems:spectrum_of_data", n, k, count)),
    ):
        note = f"above {peak.before / 1e9:.2f} GB after imports; compiling included"
        if peak.device:
            note += f"; {peak.device / 1e9:.2f} GB on the device"
        yield records.plain(
            f"peak memory, {what}, {how}",
            max(peak.host, peak.device) / 1e9,
            "GB",
            bar=None if smoke else 2,
            note=note,
        )


def dense(scale: Scale) -> Iterator[Measurement]:
    """Against the dense autodiff Hessian with all its eigenvalues."""
    sizes = {
        "smoke": [(6, 2), (12, 6)],
        "full": [(12, 6), (24, 10), (32, 16), (48, 24), (64, 32)],
        "large": [(12, 6), (24, 10), (32, 16), (48, 24), (64, 32), (100, 40)],
    }[scale]
    curve = []
    for n, k in sizes:
        p = problems.point(n, k, k // 2)
        slow = (DENSE,) if problems.parameters(p) > 1000 else ()
        functions = {
            BLOCKS: lambda p=p: problems.all_eigenvalues(p),
            DENSE: peers.dense_eigenvalues(problems.objective(p)),
        }
        rounds = 1 if problems.parameters(p) > 6000 else 3 if slow else 7
        samples, values = timing.interleaved(functions, rounds, compiled=slow)
        curve.append((problems.parameters(p), float(np.median(samples[DENSE].seconds))))
        exact = np.sort(np.asarray(values[BLOCKS]))
        error = np.abs(exact - np.asarray(values[DENSE])).max() / np.abs(exact).max()
        where = f"{problems.parameters(p):,} parameters ({size_name(p)}, half collapsed)"
        for method in (BLOCKS, DENSE):
            yield records.duration(
                f"{method}, {where}",
                samples[method],
                "ms",
                method=method,
                parameters=problems.parameters(p),
            )
        yield records.ratio(f"{DENSE} over blocks, {where}", samples[DENSE], samples[BLOCKS])
        yield records.plain(
            f"largest difference of an eigenvalue over max|μ|, {where}", error, "1", bar=1e-11
        )
    yield _exponent(DENSE, curve, 0 if scale == "smoke" else 1000)


def lanczos(scale: Scale) -> Iterator[Measurement]:
    """Against matfree's Lanczos and SciPy's eigsh for the 50 largest |μ|, with what they found."""
    smoke = scale == "smoke"
    n, k = (12, 6) if smoke else (784, 200)
    count, steps = (5, 20) if smoke else (50, 160)
    for name, active in {"optimum": k, "total collapse": 0}.items():
        if smoke and active:
            continue
        p = problems.point(n, k, active)
        objective = problems.objective(p)
        matfree = f"matfree Lanczos, {steps} steps"
        functions = {
            BLOCKS: lambda p=p: problems.all_eigenvalues(p),
            matfree: peers.matfree_largest(objective, count, steps),
            "SciPy eigsh": peers.scipy_largest(objective, count),
        }
        slow = (matfree, "SciPy eigsh")
        samples, found = timing.interleaved(functions, 1, compiled=slow)
        values = np.asarray(found[BLOCKS])
        exact = values[np.argsort(-np.abs(values))[:count]]
        where = f"{count} largest |μ|, {size_name(p)}, {name}"
        yield records.duration(f"blocks (all eigenvalues), {where}", samples[BLOCKS], "ms")
        for method in slow:
            errors = np.full(count, np.inf)
            got = found[method].values
            errors[: len(got)] = np.abs(got - exact[: len(got)]) / np.abs(exact[0])
            note = (
                f"{(errors < 1e-8).sum()} of {count} right to 1e-8, "
                f"largest error {errors.max():.1e} of max|μ|; {found[method].products} products"
            )
            yield records.duration(f"{method}, {where}", samples[method], "s", note=note)
            yield records.ratio(
                f"{method} over blocks, {where}", samples[method], samples[BLOCKS], note=note
            )


def scaling(scale: Scale) -> Iterator[Measurement]:
    """Time of the blocks against the number of parameters."""
    sizes = [(100, 40), (200, 100), (400, 150), (784, 200), (2048, 300), (4096, 400), (12_288, 500)]
    if scale == "smoke":
        sizes = [(6, 2), (12, 6)]
    curve = []
    for n, k in sizes:
        p = problems.point(n, k, k // 2)
        samples, _ = timing.interleaved({BLOCKS: lambda p=p: problems.all_eigenvalues(p)}, 9)
        curve.append((problems.parameters(p), float(np.median(samples[BLOCKS].seconds))))
        what = f"blocks, {problems.parameters(p):,} parameters ({size_name(p)}, half collapsed)"
        yield records.duration(
            what, samples[BLOCKS], "ms", method=BLOCKS, parameters=problems.parameters(p)
        )
    yield _exponent(BLOCKS, curve, 0 if scale == "smoke" else 300_000)
