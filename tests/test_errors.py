"""Bad input: the message names the argument, what came, and what was expected.

The annotations' own check would come first and hide our messages, so it is off here, as it is for
users.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape import cli
from landscape.autodiff import hessian, objectives
from landscape.cli import options
from landscape.curvature import blocks, conditioning, escape, summaries
from landscape.points import stationary
from landscape.studies import surface
from linvae_jax import collapse, linear, linear_task, network_task, ppca, sweeps, tables, training
from linvae_jax import moments as mom
from linvae_jax.data import preprocessing

EYE = jnp.eye(3)
LAM = jnp.array([4.0, 2.0, 0.5])
MOMENTS = mom.Moments(jnp.zeros(3), jnp.diag(LAM), jnp.asarray(10.0))
PARAMS = linear.LinearVAEParams(jnp.ones((3, 2)), jnp.ones((2, 3)), jnp.zeros(2), jnp.zeros(()))
NAN = float("nan")

pytestmark = pytest.mark.usefixtures("no_annotation_checks")


def train(**changes: object) -> object:
    values = {"k": 2, "num_steps": 10, "record_every": 5} | changes

    def built(kind: type, *names: str) -> Any:
        return kind(**{name: values.pop(name) for name in names if name in values})

    hyper = built(training.Hyperparameters, "sigma2", "beta", "annealing")
    task = built(linear_task.LinearTask, "k", "gradients", "batch_size")
    config = training.TrainConfig(**values)  # pyright: ignore[reportArgumentType]
    return training.train(task, config, linear_task.problem(MOMENTS), hyper, jax.random.key(0))


def sweep(**changes: object) -> object:
    options = {name: changes.pop(name) for name in ("batching", "chunk") if name in changes}
    task, config = linear_task.LinearTask(k=1), training.TrainConfig(num_steps=2, record_every=1)
    problem, grid = linear_task.problem(MOMENTS), sweeps.Grid(**changes)  # pyright: ignore[reportArgumentType]
    return sweeps.run(task, config, problem, grid, quiet=True, **options)  # pyright: ignore[reportArgumentType]


CASES: dict[str, tuple[Callable[[], object], str]] = {
    # moments
    "data of one dimension": (
        lambda: mom.from_data(np.zeros(3)),
        r"x: got shape \(3,\), expected shape \(N, n\)",
    ),
    "data with NaN": (
        lambda: mom.from_data([[0.0, NAN], [1.0, 2.0]]),
        r"x: got 1 NaN or Inf among 4 values, expected finite numbers",
    ),
    "data with Inf": (lambda: mom.from_data([[0.0, np.inf], [1, 2]]), r"x: got 1 NaN or Inf"),
    "one datum": (
        lambda: mom.from_data([[1.0, 2.0]]),
        r"x: got one row \(N = 1\), expected at least two data points",
    ),
    "constant data": (
        lambda: mom.from_data(np.ones((5, 2))),
        r"x: got constant data .*, expected data that vary",
    ),
    "constant data with rounding": (
        lambda: mom.from_data(np.full((10, 2), 0.1)),
        r"x: got constant data",
    ),
    "constant data by SVD": (
        lambda: mom.thin_spectrum(np.full((10, 2), 0.1)),
        r"x: got constant data",
    ),
    "a negative variance": (
        lambda: linear.elbo(PARAMS, replace(MOMENTS, cov=-MOMENTS.cov)),
        r"moments.cov: got a variance of -4, expected variances >= 0",
    ),
    "β < 0": (
        lambda: linear.elbo(PARAMS, MOMENTS, -1.0),
        r"beta: got -1.0, expected a number >= 0",
    ),
    "many β at once": (
        lambda: linear.gradient(PARAMS, MOMENTS, jnp.ones(2)),
        r"beta: got shape \(2,\), expected shape \(\)",
    ),
    "many σ² at once": (
        lambda: ppca.optimal_elbo(LAM, 2, jnp.ones(3)),
        r"sigma2: got shape \(3,\), expected shape \(\)",
    ),
    "W of complex numbers": (
        lambda: ppca.log_likelihood(jnp.ones((3, 2), complex), 1.5, MOMENTS),
        r"W: got an array of dtype complex128, expected real numbers",
    ),
    "words for eigenvalues": (
        lambda: ppca.optimal_sigma2(["4", "2", "1"], 1),
        r"eigenvalues: got an array of dtype <U1, expected real numbers",
    ),
    "moments of integers": (
        lambda: linear.elbo(PARAMS, replace(MOMENTS, cov=jnp.diag(jnp.array([4, 2, 1])))),
        r"moments.cov: got an array of dtype int64, expected an array of floats",
    ),
    "a rotation of another n": (
        lambda: linear.rotate(PARAMS, jnp.eye(4)),
        r"rotation: got shape \(4, 4\), expected shape \(3, 3\)",
    ),
    "β NaN": (lambda: linear.gradient(PARAMS, MOMENTS, NAN), r"beta: got 1 NaN or Inf"),
    "index at σ² < 0": (
        lambda: stationary.index(stationary.point(LAM, np.array([-1]), -1.0)),
        r"sigma2: got -1.0, expected a number > 0",
    ),
    "value at σ² = NaN": (
        lambda: stationary.value(stationary.point(LAM, np.array([-1]), NAN)),
        r"sigma2: got 1 NaN or Inf",
    ),
    "samples at σ² < 0": (
        lambda: ppca.sample(ppca.PPCA(PARAMS.W, -jnp.ones(()), jnp.zeros(3)), jax.random.key(0), 1),
        r"model.sigma2: got -1.0",
    ),
    "no data at all": (
        lambda: mom.from_data(np.zeros((0, 2))),
        r"x: got shape \(0, 2\), expected shape \(N, n\)",
    ),
    "text as data": (
        lambda: mom.from_data(np.array([["a", "b"]])),
        r"x: got an array of dtype <U1, expected real numbers",
    ),
    "complex data": (lambda: mom.from_data(np.ones((2, 2), complex)), r"x: .*complex128.*real"),
    "objects as data": (lambda: mom.from_data(np.array([[{}]])), r"x: .*dtype object.*real"),
    "no chunks": (lambda: mom.from_chunks([]), r"chunks: got no chunk at all, expected at least"),
    "chunks of different n": (
        lambda: mom.from_chunks([np.eye(2), np.eye(3)]),
        r"chunks\[1\]: got shape \(3, 3\), expected shape \(N, 2\)",
    ),
    "one row in all chunks": (lambda: mom.from_chunks([np.ones((1, 2))]), r"chunks: got one row"),
    "constant chunks": (lambda: mom.from_chunks([np.ones((2, 2))]), r"chunks: got constant data"),
    "asymmetric S": (
        lambda: mom.from_covariance(np.array([[1.0, 0.5], [0.2, 1.0]])),
        r"cov: got a matrix with max \|S - S.T\| = 0.3, expected a symmetric matrix",
    ),
    "indefinite S": (
        lambda: mom.from_covariance(np.array([[1.0, 2.0], [2.0, 1.0]])),
        r"cov: got smallest eigenvalue -1, expected eigenvalues >= 0",
    ),
    "S that is not square": (
        lambda: mom.from_covariance(np.ones((2, 3))),
        r"cov: got shape \(2, 3\), expected shape \(2, 2\)",
    ),
    "mean of another length": (
        lambda: mom.from_covariance(np.eye(2), np.zeros(3)),
        r"cov: got shape \(2, 2\), expected shape \(3, 3\)",
    ),
    "merging different n": (
        lambda: mom.merge(mom.from_data(np.eye(2)), MOMENTS),
        r"b.cov: got shape \(3, 3\), expected shape \(2, 2\)",
    ),
    "merging in an eigenbasis": (
        lambda: mom.merge(mom.from_covariance(LAM, count=10), MOMENTS),
        r"a.cov: got shape \(3,\), expected shape \(3, 3\)",
    ),
    "merging with a population": (
        lambda: mom.merge(MOMENTS, mom.from_covariance(np.diag(LAM))),
        r"b.count: got 1 NaN or Inf",
    ),
    # pPCA
    "k > n": (
        lambda: ppca.mle(MOMENTS, 4, 1.0),
        r"k: got 4, expected 1 <= k <= 3",
    ),
    "k = n with σ² learned": (lambda: ppca.mle(MOMENTS, 3), r"k: got 3, expected 1 <= k <= 2"),
    "k = 0": (lambda: ppca.mle(MOMENTS, 0, 1.0), r"k: got 0, expected 1 <= k"),
    "k not an integer": (lambda: ppca.mle(MOMENTS, 1.5, 1.0), r"k: got 1.5, expected an integer"),
    "σ² = 0": (lambda: ppca.mle(MOMENTS, 1, 0.0), r"sigma2: got 0.0, expected a number > 0"),
    "σ² < 0": (
        lambda: ppca.log_likelihood(PARAMS.W, -1.0, MOMENTS),
        r"sigma2: got -1.0, expected a number > 0",
    ),
    "σ² NaN": (lambda: ppca.log_likelihood(PARAMS.W, NAN, MOMENTS), r"sigma2: got 1 NaN"),
    "W of another n": (
        lambda: ppca.log_likelihood(jnp.ones((2, 1)), 1.0, MOMENTS),
        r"W: got shape \(2, 1\), expected shape \(3, k\)",
    ),
    "S of rank k with σ² learned": (
        lambda: ppca.mle(mom.from_covariance(jnp.diag(jnp.array([1.0, 0.0, 0.0]))), 1),
        r"moments.cov: got a covariance of rank 1 <= k = 1, expected variance left",
    ),
    "x of another n": (
        lambda: ppca.posterior(ppca.PPCA(PARAMS.W, jnp.ones(()), jnp.zeros(3)), jnp.ones((2, 4))),
        r"x: got shape \(2, 4\), expected shape \(N, 3\)",
    ),
    "no samples": (
        lambda: ppca.sample(ppca.PPCA(PARAMS.W, jnp.ones(()), jnp.zeros(3)), jax.random.key(0), 0),
        r"num_samples: got 0",
    ),
    # linear VAE
    "V transposed": (
        lambda: linear.elbo(replace(PARAMS, V=PARAMS.V.T), MOMENTS),
        r"params.V: got shape \(3, 2\), expected shape \(2, 3\)",
    ),
    "log_d of another k": (
        lambda: linear.gradient(replace(PARAMS, log_d=jnp.zeros(3)), MOMENTS),
        r"params.log_d: got shape \(3,\), expected shape \(2,\)",
    ),
    "W with NaN": (
        lambda: linear.elbo(replace(PARAMS, W=PARAMS.W.at[0, 0].set(NAN)), MOMENTS),
        r"params.W: got 1 NaN or Inf among 6 values",
    ),
    "σ² = 0 as log": (
        lambda: linear.elbo(replace(PARAMS, log_sigma2=jnp.asarray(-jnp.inf)), MOMENTS),
        r"params.log_sigma2: got 1 NaN or Inf",
    ),
    "asymmetric S in the ELBO": (
        lambda: linear.elbo(PARAMS, replace(MOMENTS, cov=MOMENTS.cov.at[0, 1].set(1.0))),
        r"moments.cov: got a matrix with max \|S - S.T\| = 1",
    ),
    "more latents than dimensions": (
        lambda: linear.init(jax.random.key(0), 2, 3),
        r"k: got 3, expected 1 <= k <= 2",
    ),
    "β = 0": (
        lambda: linear.with_optimal_encoder(PARAMS.W, 1.0, 0.0),
        r"beta: got 0.0, expected a number > 0",
    ),
    # stationary points
    "component used twice": (
        lambda: stationary.params(stationary.point(LAM, np.array([0, 0]), 0.1), EYE),
        r"assignment: got \[0, 0\], expected no component twice",
    ),
    "component out of range": (
        lambda: stationary.params(stationary.point(LAM, np.array([0, 3]), 0.1), EYE),
        r"assignment: got \[0, 3\], expected components 0 to 2, or -1",
    ),
    "component at the noise in float32, 0.1f > 0.1": (
        lambda: blocks.hessian_eigenvalues(
            stationary.point(jnp.array([4.0, 0.1], jnp.float32), np.array([1]), 0.1)
        ),
        r"assignment: got component 1 with eigenvalue 0.1, expected eigenvalues >",
    ),
    "critical σ² of no latents": (
        lambda: escape.critical_sigma2(LAM, 0, 1.0),
        r"k: got 0, expected 1 <= k <= 3",
    ),
    "escape at σ² < 0": (lambda: escape.escape_rate(4.0, -1.0), r"sigma2: got -1.0"),
    "edges that do not increase": (
        lambda: summaries.histogram(
            stationary.point(LAM, np.array([0]), 1.0), jnp.array([1.0, 1.0])
        ),
        r"bins: got edges that do not increase",
    ),
    "component below the noise": (
        lambda: stationary.params(stationary.point(LAM, np.array([0, 2]), 1.0), EYE),
        r"assignment: got component 2 with eigenvalue 0.5, expected eigenvalues > .* = 1",
    ),
    "component at the noise exactly": (
        lambda: stationary.index(stationary.point(LAM, np.array([1]), 2.0)),
        r"assignment: got component 1 with eigenvalue 2, expected eigenvalues >",
    ),
    "assignment of floats": (
        lambda: stationary.value(stationary.point(LAM, np.array([0.0]), 1.0)),
        r"assignment: got dtype float64, expected integers",
    ),
    "more latents than components": (
        lambda: stationary.assignments(LAM, 4, 1.0),
        r"k: got 4, expected 1 <= k <= 3",
    ),
    "unsorted eigenvalues": (
        lambda: stationary.assignments(LAM[::-1], 2, 1.0),
        r"eigenvalues: got an increasing sequence",
    ),
    "negative eigenvalues": (
        lambda: stationary.assignments(LAM - 1.0, 2, 1.0),
        r"eigenvalues: got smallest eigenvalue -0.5",
    ),
    "eigenvectors of another n": (
        lambda: stationary.params(stationary.point(LAM, np.array([0]), 1.0), jnp.eye(2)),
        r"eigenvectors: got shape \(2, 2\), expected shape \(n, 3\)",
    ),
    # Hessians and surfaces
    "Hessian too large": (
        lambda: hessian.dense(lambda v: (v**2).sum(), jnp.zeros(40_000)),
        r"point: got 40,000 parameters, whose dense Hessian takes 12.80 GB",
    ),
    "unknown variable": (
        lambda: objectives.elbo(PARAMS, MOMENTS, learn=("w",)),
        r"learn: got \('w',\), expected some of \('W', 'V', 'log_d', 'log_sigma2', 'mean'\)",
    ),
    "directions out of order": (
        lambda: surface.zero_column(LAM, [1.0], (2, 1)),
        r"components: got \(2, 1\), expected 0 <= first < second < n = 3",
    ),
    # training
    "training with k = n": (lambda: train(k=3), r"k: got 3, expected 1 <= k <= 2"),
    "training at σ² = 0": (lambda: train(sigma2=0.0), r"sigma2: got 0.0, expected a number > 0"),
    "records that do not divide": (
        lambda: train(record_every=3),
        r"record_every: got 3, expected a divisor of 10",
    ),
    "unknown schedule": (
        lambda: train(schedule="step"),
        r"schedule: got 'step', expected one of \('constant'",
    ),
    "unknown way to σ²": (
        lambda: train(sigma2_update="none"),
        r"sigma2_update: got 'none', expected one of",
    ),
    "a warm-up longer than the run": (lambda: train(warmup=11), r"warmup: got 11, expected 0 <="),
    "annealing backwards": (
        lambda: train(annealing=training.Annealing(-1)),
        r"annealing.steps: got -1",
    ),
    "pixels without a key": (
        lambda: network_task.prepare(np.ones((3, 2), np.uint8), preprocessing.Logit(0.1)),
        r"key: got None, expected a key",
    ),
    "no runs at once": (lambda: sweep(chunk=0), r"chunk: got 0, expected 1 <= chunk"),
    "unknown optimiser": (
        lambda: train(optimizer="adamw"),
        r"optimizer: got 'adamw', expected one of \('adam', 'sgd'\)",
    ),
    "sampled gradients without data": (
        lambda: train(gradients="sampled"),
        r"data.x: got None, expected data",
    ),
    "pixels with NaN": (
        lambda: network_task.prepare(np.array([[0.0, NAN], [1, 2]])),
        r"values: got 1 NaN or Inf",
    ),
    "one σ² that is no tuple": (lambda: sweep(sigma2=1.0), r"sigma2: got 1.0, expected a tuple"),
    "no seeds": (lambda: sweep(seeds=()), r"seeds: got an empty sequence"),
    "a σ² that is negative": (lambda: sweep(sigma2=(1.0, -2.0)), r"sigma2: got -2.0"),
    "unknown batching": (
        lambda: sweep(batching="pmap"),
        r"batching: got 'pmap', expected one of",
    ),
    "δ = 1": (
        lambda: collapse.is_collapsed(jnp.ones(2), 1.0),
        r"delta: got 1.0, expected 0 <= delta < 1",
    ),
    "a model where a folder is": (
        lambda: cli.run(options.Fit(out=Path(__file__).parent)),
        r"out: got .*tests, a folder, expected a file's name",
    ),
    "a model in a file": (
        lambda: cli.run(options.Fit(out=Path(__file__) / "model.nc")),
        r"out: got .*, where .*test_errors\.py is a file, expected a path in a folder",
    ),
    "no points to list": (
        lambda: cli.run(options.Points(limit=0)),
        r"limit: got 0, expected 1 <= limit",
    ),
    "a table without a model": (
        lambda: tables.to_linear(tables.dataset({"W": (("a",), np.zeros(2), "1", "")})),
        r"data: got a data set without \['V', 'log_d', 'log_sigma2'\]",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_a_clear_error(case):
    call, message = CASES[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_inside_jit_bad_values_become_nan_and_bad_shapes_still_raise():
    likelihood = jax.jit(lambda W, s: ppca.log_likelihood(W, s, MOMENTS))
    assert jnp.isnan(likelihood(PARAMS.W, -1.0))
    with pytest.raises(ValueError, match="W: got shape"):
        likelihood(jnp.ones((2, 2)), 1.0)


def test_what_is_known_is_looked_at_inside_jit_too():
    """Constants of a compiled function, and edges, chunks and `learned` among them."""
    histogram = jax.jit(
        lambda s: summaries.histogram(stationary.point(LAM, np.array([0]), s), np.ones(2))
    )
    with pytest.raises(ValueError, match="bins: got edges that do not increase"):
        histogram(1.0)
    with pytest.raises(ValueError, match="assignment: got component 2"):
        jax.jit(lambda U: stationary.params(stationary.point(LAM, np.array([2]), 1.0), U))(EYE)
    with pytest.raises(ValueError, match="chunks: got one row"):
        jax.jit(lambda x: mom.from_chunks([x]))(np.ones((1, 2)))
    hyper = training.Hyperparameters(learned=False)
    config, problem = training.TrainConfig(2, 1), linear_task.problem(MOMENTS)
    task = linear_task.LinearTask(k=2)
    params, _ = jax.jit(lambda key: training.train(task, config, problem, hyper, key))(
        jax.random.key(0)
    )
    assert jnp.isfinite(params.W).all()


def test_assignments_that_are_no_points_are_nan_under_vmap():
    """Component 2 is below the noise, 7 is none at all; [0, -1] is a point."""
    assignments = jnp.array([[0, -1], [2, -1], [7, -1]])
    expected = [False, True, True]
    values = jax.vmap(lambda a: stationary.value(stationary.point(LAM, a, 1.0)))(assignments)
    assert jnp.isnan(values).tolist() == expected
    points = jax.vmap(lambda a: stationary.params(stationary.point(LAM, a, 1.0), EYE))(assignments)
    for leaf in (points.W[:, :, 0], points.V[:, 0], points.log_d[:, :1]):
        assert jnp.isnan(leaf).all(axis=1).tolist() == expected
        assert jnp.isfinite(leaf[0]).all()


def test_a_spectrum_with_nan_is_not_taken_for_a_flat_maximum():
    found = conditioning.of_eigenvalues(jnp.array([[1.0, NAN], [1.0, -1.0]]))
    for name in ("stiffness", "condition_number", "escape_rate", "tolerance"):
        assert jnp.isnan(getattr(found, name)).tolist() == [True, False], name
