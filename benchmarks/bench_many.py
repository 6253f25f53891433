"""How many VAEs train side by side on a device, and how fast; convolutions by each way."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import bench_machine, bench_networks, records, timing
from benchmarks.bench_networks import Case
from benchmarks.lease import Lease
from benchmarks.network_peers import Problem
from benchmarks.records import Measurement
from linvae_jax import machine, network_task, networks, sweeps
from linvae_jax._engine import layouts
from linvae_jax.training import TrainConfig

Precision = Literal["highest", "default"]
MLP = networks.Mlp(784, 200, (1024, 512), (512, 1024))
TINY = networks.Mlp(12, 3, (8,), (8,))


def _case(lease: Lease, models: int, precision: Precision = "highest") -> Case:
    model = replace(TINY if lease.smoke else MLP, precision=precision)
    if lease.smoke:
        return Case(model, models, 8, 2, 2, 64, 16)
    # a turn of a tenth of a second or more, and an even number of steps
    steps = 40 if models <= 16 else 20
    return Case(model, models, 128, steps, 3, 10_000, 128)


def _precisions(lease: Lease) -> tuple[Precision, ...]:
    return ("highest",) if lease.smoke else ("highest", "default")


def _started(cases: dict[str, tuple[Case, str]]) -> dict[str, Callable[[], np.ndarray]]:
    """Calls that train on, compiled side by side: compiling takes one core each."""

    def start(named: tuple[str, tuple[Case, str]]) -> tuple[str, Callable[[], np.ndarray]]:
        name, (case, batching) = named
        train, _ = bench_networks.ours(case, bench_networks.data_of(case), batching)
        train()
        return name, train

    with ThreadPoolExecutor(8) as pool:
        return dict(pool.map(start, cases.items()))


def _share(lease: Lease, case: Case, precision: Precision, sample: timing.Sample) -> str:
    """Of the machine's own ceiling."""
    ceiling = lease.found("machine", bench_machine.Product("float32", precision).what)
    rate = bench_networks.operations(case) / float(np.median(sample.seconds)) / 1e12
    share = f", {rate / ceiling:.0%} of the product of large matrices" if ceiling else ""
    return f"{rate:.3g} TFLOP/s{share}"


def throughput(lease: Lease) -> Iterator[Measurement]:
    """MLP VAEs of the paper's size side by side: by vmap, in a loop, and PyTorch's."""
    groups = [[1, 2]] if lease.smoke else [[1, 4, 16], [64], [256]]
    for models in groups:
        if not lease.allows(
            0 if lease.smoke else 30, f"{', '.join(map(str, models))} models side by side"
        ):
            continue
        cases = {
            f"{m} models by {how}, {precision}": (_case(lease, m, precision), how)
            for m in models
            for precision in _precisions(lease)
            # in a loop all numbers of models are as fast
            for how in (("vmap", "loop") if m == 1 and precision == "highest" else ("vmap",))
        }
        started = _started(cases)
        for name, train in started.items():
            case = cases[name][0]
            sample = timing.interleaved({name: train}, case.rounds)[0][name]
            precision = case.model.precision
            assert precision != "high"
            note = _share(lease, case, precision, sample)
            yield records.rate(name, case.samples, sample, "samples/s", note=note)
        del started
    yield from _against_peers(lease)
    if lease.allows(0 if lease.smoke else 15, "how many models fit"):
        yield from _how_many(lease)


def _against_peers(lease: Lease) -> Iterator[Measurement]:
    if find_spec("torch") is None:
        lease.left_out.append(bench_networks.NO_TORCH)
        return
    from benchmarks import torch_peers  # an optional package

    many: Sequence[int] = (2,) if lease.smoke else (16, 64)
    peers: list[tuple[str, int, float, Callable[[Problem], Callable[[], Any]]]] = [
        ("PyTorch loop", 1, 8, torch_peers.loop),
        *(("PyTorch ensemble", m, 12, torch_peers.ensemble) for m in many),
        ("PyTorch compiled", 1, 40, lambda p: torch_peers.loop(p, compiled=True)),
    ]
    for name, models, seconds, peer in peers:
        for precision in _precisions(lease):
            what = f"{name} over ours, {models} models, {precision}"
            if not lease.allows(0 if lease.smoke else seconds, what):
                continue
            case = _case(lease, models, precision)
            x = bench_networks.data_of(case)
            ours, starts = bench_networks.ours(case, x, "vmap")
            weights = starts()
            torch_peers.precision(precision)
            problem = Problem(x, weights, case.batch_size, case.num_steps, case.observed)
            functions = {"ours": ours, "theirs": peer(problem)}
            samples, _ = timing.interleaved(functions, case.rounds)
            rate = f"{name}, {models} models, {precision}"
            yield records.rate(rate, case.samples, samples["theirs"], "samples/s")
            yield records.ratio(what, samples["theirs"], samples["ours"])


def _how_many(lease: Lease) -> Iterator[Measurement]:
    """What a model takes by the compiler's word, so how many fit; and whether they do."""
    case = _case(lease, 2)
    task = network_task.NetworkTask(case.model, case.batch_size, observed=case.observed)
    config = TrainConfig(case.num_steps, case.num_steps, schedule="constant")
    zero, one = jnp.zeros(case.model.n, jnp.float32), jnp.ones(case.model.n, jnp.float32)
    data = network_task.Data(jnp.asarray(bench_networks.data_of(case)), zero, one)
    grid = sweeps.Grid(seeds=(0, 1))
    hyper, keys = grid.hyperparameters("f4"), grid.keys()
    each = layouts.bytes_per_run(task, config, data, hyper, keys)
    yield records.plain("memory of one more model side by side", each / 1e9, "GB")
    fit = int(0.8 * machine.free_memory() / each)
    yield records.plain("models that fit in 80 % of the memory", fit, "1")
    if jax.default_backend() != "cpu" and lease.allows(30, f"training {fit} models side by side"):
        case = replace(_case(lease, fit), num_steps=4)
        name = f"{fit} models by vmap, highest"
        started = _started({name: (case, "vmap")})
        sample = timing.interleaved(started, 2)[0][name]
        note = _share(lease, case, "highest", sample)
        yield records.rate(name, case.samples, sample, "samples/s", note=note)


def convolutions(lease: Lease) -> Iterator[Measurement]:
    """Convolutional VAEs, 64 × 64 × 3, 500 latents, four of them: a loop, `lax.map`, vmap."""
    for precision in _precisions(lease):
        if lease.smoke:
            model = networks.Conv((8, 8, 1), 2, (2,), precision=precision)
            case = Case(model, 2, 4, 2, 2, 16, 4)
        else:
            case = Case(networks.Conv(precision=precision), 4, 64, 10, 3, 1000, 64)
        if not lease.allows(0 if lease.smoke else 25, f"convolutions, {precision}"):
            continue
        ways = ("loop", "map", "vmap")
        names = {f"convolutions, {case} by {how}, {precision}": (case, how) for how in ways}
        samples, _ = timing.interleaved(_started(names), case.rounds)
        loop, *others = samples
        for name, sample in samples.items():
            yield records.rate(name, case.samples, sample, "samples/s")
        for name in others:
            yield records.ratio(f"loop over {name}", samples[loop], samples[name])
        if find_spec("torch") and lease.allows(0 if lease.smoke else 15, "PyTorch's convolutions"):
            yield from _convolutions_of_torch(case, precision)


def _convolutions_of_torch(case: Case, precision: Precision) -> Iterator[Measurement]:
    from benchmarks import torch_peers  # an optional package

    x = bench_networks.data_of(case)
    ours, starts = bench_networks.ours(case, x, "loop")
    shaped = bench_networks.shaped(case, x)
    problem = Problem(shaped, starts(), case.batch_size, case.num_steps, case.observed)
    torch_peers.precision(precision)
    functions = {"ours": ours, "theirs": torch_peers.loop(problem)}
    samples, _ = timing.interleaved(functions, case.rounds)
    name = f"PyTorch loop over our loop, convolutions, {case}, {precision}"
    yield records.ratio(name, samples["theirs"], samples["ours"])
