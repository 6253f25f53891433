"""Many trainings at once: vmap, `lax.map`, or a Python loop over compiled single runs."""

from collections.abc import Iterator

import jax
import numpy as np

from benchmarks import problems, records, timing
from benchmarks.records import Measurement, Scale
from linvae_jax import linear_task, sweeps, training

SIGMA2 = 1.0
RATE = 1e-3


def batching(scale: Scale) -> Iterator[Measurement]:
    """Exact gradients, Adam, float64; the same seeds by each way, answers compared."""
    sizes = [(20, 5, 40, 500), (100, 20, 10, 200), (784, 50, 10, 20)]
    if scale == "smoke":
        sizes = [(6, 2, 3, 10)]
    for n, k, runs, steps in sizes:
        task = linear_task.LinearTask(k)
        problem = linear_task.problem(problems.full_moments(n))
        config = training.TrainConfig(num_steps=steps, record_every=steps)
        grid = sweeps.Grid(tuple(range(runs)), (SIGMA2,), learning_rate=(RATE,))
        hyper = training.Hyperparameters(RATE, SIGMA2)

        def sweep(how: str, args=(task, config, problem, grid)) -> np.ndarray:
            return sweeps.run(*args, batching=how, quiet=True).table.elbo.values[:, 0, 0, -1]

        def loop(task=task, config=config, problem=problem, hyper=hyper, runs=runs) -> np.ndarray:
            ends = [
                training.train(task, config, problem, hyper, jax.random.key(seed))[1].elbo[-1]
                for seed in range(runs)
            ]
            return np.array(ends)

        samples, ends = timing.interleaved(
            {
                "Python loop": loop,
                "vmap": lambda sweep=sweep: sweep("vmap"),
                "map": lambda sweep=sweep: sweep("map"),
            },
            3 if scale == "smoke" else 5,
        )
        for how, sample in samples.items():
            what = f"{how}, n = {n}, k = {k}, {runs} runs of {steps} steps"
            error = np.abs(ends[how] - ends["Python loop"]).max()
            note = f"ELBOs differ from the loop's by {error:.0e} nats"
            yield records.duration(what, sample, "ms", note="" if how == "Python loop" else note)
            if how != "Python loop":
                yield records.ratio(f"{what}, over Python loop", sample, samples["Python loop"])
