"""One training run of a linear VAE as a pure function: exact or sampled gradients, any optimiser.

`train(config, problem, hyper, key)` is one compiled program; `vmap` over keys and
hyperparameters gives sweeps (see `sweeps`, which also shows progress). What is static, and
recompiles when it changes, is in `TrainConfig`; what may vary between runs of one program is in
`Hyperparameters`.

>>> import jax, jax.numpy as jnp
>>> from linvae_jax import moments, training
>>> problem = training.problem(moments.from_covariance(jnp.diag(jnp.array([4.0, 2.0, 0.5]))))
>>> config = training.TrainConfig(k=2, num_steps=2000, record_every=500)
>>> hyper = training.Hyperparameters(learning_rate=0.05)
>>> _, history = training.train(config, problem, hyper, jax.random.key(0))
>>> bool(history.gap[-1] < 1e-4)  # nats below the pPCA optimum
True
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from linvae_jax import _checks, collapse, linear, ppca
from linvae_jax import moments as mom
from linvae_jax._linalg import matmul


@dataclass(frozen=True)
class TrainConfig:
    """What defines the program of a run; hashable, static under jit.

    Attributes:
        k: number of latents.
        num_steps: optimiser steps.
        record_every: steps between records of the history; divides `num_steps`.
        gradients: "exact" uses the closed form, which needs only the moments; "sampled" draws a
            minibatch and one z per datum, as a nonlinear VAE would.
        optimizer: "adam" or "sgd", as in optax.
        schedule: learning rate "constant", or "cosine" from its value down to zero.
        learn_sigma2: learn log σ² with the weights, or hold it.
        batch_size: data per step when gradients are sampled, drawn with replacement.
    """

    k: int
    num_steps: int = 5000
    record_every: int = 50
    gradients: Literal["exact", "sampled"] = "exact"
    optimizer: Literal["adam", "sgd"] = "adam"
    schedule: Literal["constant", "cosine"] = "cosine"
    learn_sigma2: bool = True
    batch_size: int = 128

    @property
    def num_records(self) -> int:
        """Length of the history, the start not counted."""
        return self.num_steps // self.record_every


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Hyperparameters:
    """What may differ between runs of one program; each () or, batched, (runs,).

    Attributes:
        learning_rate: initial learning rate.
        sigma2: initial σ², or its value when it is held.
        beta: weight of the KL.
    """

    learning_rate: Float[Array, "*runs"] | float = 1e-3
    sigma2: Float[Array, "*runs"] | float = 1.0
    beta: Float[Array, "*runs"] | float = 1.0


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Problem:
    """The data as training sees it.

    Attributes:
        moments: of the data; μ, S.
        spectrum: eigenpairs of S, for the optimum and the principal directions.
        x: (N, n), needed for sampled gradients only.
    """

    moments: mom.Moments
    spectrum: mom.Spectrum
    x: Float[Array, "N n"] | None = None


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class TrainState:
    """All that a run carries from step to step.

    Attributes:
        params: the model.
        opt_state: optax's state.
        step: (), steps done.
        key: the run's key; step t draws from fold_in(key, t), so a run can stop and go on.
    """

    params: linear.LinearVAE
    opt_state: optax.OptState
    step: Int[Array, "*runs"]
    key: Key[Array, "*runs"]


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Record:
    """What one looks at during a run; in a history each field has a leading axis of records.

    Attributes:
        step: (), steps done.
        elbo: (), exact ELBO, nats per datum (β-weighted when β ≠ 1).
        gap: (), nats by which `elbo` falls short of its global maximum (at the held σ², or with
            σ² learned).
        likelihood_gap: (), nats by which the pPCA log-likelihood of (W, σ²) falls short of its
            maximum. The rest of `gap` is rotation: the right subspace, the wrong axes.
        sigma2: (), σ².
        kl: (k,), mean KL of each latent, nats.
        angle: (k,), degrees from each column of W to the nearest principal direction; in float64
            no smaller than 1e-6, the arccos of 1 − ε, unless zero.
        collapsed: (), latents that are (0.01, 0.01)-collapsed, for Gaussian data of these moments.
    """

    step: Int[Array, "*records"]
    elbo: Float[Array, "*records"]
    gap: Float[Array, "*records"]
    likelihood_gap: Float[Array, "*records"]
    sigma2: Float[Array, "*records"]
    kl: Float[Array, "*records k"]
    angle: Float[Array, "*records k"]
    collapsed: Int[Array, "*records"]


def problem(moments: mom.Moments, x: Float[Array, "N n"] | None = None) -> Problem:
    """Bundle the data for training.

    Args:
        moments: of the data. For the eigenbasis pass `moments.in_eigenbasis(m)[0]`, which is
            several times faster, the same path for "sgd" and another one for "adam".
        x: (N, n), for sampled gradients.

    Raises:
        ValueError: S not a covariance, or x of another n.
    """
    if x is not None:
        _checks.data_matrix("x", x, moments.mean.shape[0])
        x = jnp.asarray(x, moments.mean.dtype)
    return Problem(moments, mom.spectrum(moments), x)


def check(config: TrainConfig, problem: Problem, hyper: Hyperparameters) -> None:
    """Raise `ValueError` for a configuration that cannot run."""
    n = problem.moments.mean.shape[0]
    _checks.in_range("k", config.k, 1, n - config.learn_sigma2, "k < n when σ² is learned")
    _checks.in_range("num_steps", config.num_steps, 1, 2**31 - 1, "at least one")
    _checks.in_range("record_every", config.record_every, 1, config.num_steps, "num_steps")
    if config.num_steps % config.record_every:
        _checks.fail("record_every", config.record_every, f"a divisor of {config.num_steps}")
    for name in ("learning_rate", "sigma2", "beta"):
        _checks.positive(name, getattr(hyper, name))
    for name, known in (
        ("gradients", ("exact", "sampled")),
        ("optimizer", ("adam", "sgd")),
        ("schedule", ("constant", "cosine")),
    ):
        if getattr(config, name) not in known:
            _checks.fail(name, repr(getattr(config, name)), f"one of {known}")
    if config.gradients == "sampled":
        if problem.x is None:
            _checks.fail("problem.x", "None", "data (N, n): sampled gradients need them")
        _checks.in_range("batch_size", config.batch_size, 1, problem.x.shape[0], "N data points")


def _transformation(config: TrainConfig, hyper: Hyperparameters) -> optax.GradientTransformation:
    rate = hyper.learning_rate
    if config.schedule == "cosine":
        rate = lambda t: hyper.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * t / config.num_steps))  # noqa: E731
    return {"adam": optax.adam, "sgd": optax.sgd}[config.optimizer](rate)


def init(
    config: TrainConfig, problem: Problem, hyper: Hyperparameters, key: PRNGKeyArray
) -> TrainState:
    """The state before the first step; the key decides the initial weights and all noise."""
    check(config, problem, hyper)
    key_init, key_run = jax.random.split(key)
    n, dtype = problem.moments.mean.shape[0], problem.moments.mean.dtype
    params = linear.init(key_init, n, config.k, hyper.sigma2)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    opt_state = _transformation(config, hyper).init(params)
    return TrainState(params, opt_state, jnp.zeros((), jnp.int32), key_run)


def _gradient(
    config: TrainConfig, problem: Problem, beta: Array | float, state: TrainState
) -> linear.LinearVAE:
    if config.gradients == "exact":
        return linear.gradient(state.params, problem.moments, beta)
    assert problem.x is not None  # `check` saw to it
    key_batch, key_z = jax.random.split(jax.random.fold_in(state.key, state.step))
    rows = jax.random.randint(key_batch, (config.batch_size,), 0, problem.x.shape[0])
    batch = problem.x[rows]

    def objective(params: linear.LinearVAE) -> Float[Array, ""]:
        return linear.elbo_stochastic(params, problem.moments, batch, key_z, beta).mean()

    return jax.grad(objective)(state.params)


def step(
    config: TrainConfig, problem: Problem, hyper: Hyperparameters, state: TrainState
) -> TrainState:
    """One optimiser step up the ELBO."""
    up = _gradient(config, problem, hyper.beta, state)
    if not config.learn_sigma2:
        up = replace(up, log_sigma2=jnp.zeros_like(up.log_sigma2))
    down = jax.tree.map(jnp.negative, up)  # optax minimises
    transformation = _transformation(config, hyper)
    updates, opt_state = transformation.update(down, state.opt_state, state.params)  # pyright: ignore[reportArgumentType]  # optax takes any pytree
    params = jax.tree.map(jnp.add, state.params, updates)
    return TrainState(params, opt_state, state.step + 1, state.key)


def observe(
    config: TrainConfig, problem: Problem, hyper: Hyperparameters, state: TrainState
) -> Record:
    """Measure a state exactly, whatever gradients it is trained with."""
    params, moments, spectrum = state.params, problem.moments, problem.spectrum
    terms = linear.elbo_terms(params, moments)
    elbo = terms.reconstruction - hyper.beta * terms.kl.sum()
    held = None if config.learn_sigma2 else jnp.exp(params.log_sigma2)
    optimum = ppca.optimal_elbo(spectrum.eigenvalues, config.k, held, hyper.beta)
    likelihood = ppca.log_likelihood(params.W, jnp.exp(params.log_sigma2), moments)
    likelihood_optimum = ppca.optimal_elbo(spectrum.eigenvalues, config.k, held)
    norms = jnp.linalg.norm(params.W, axis=0)
    cosine = jnp.abs(matmul(spectrum.eigenvectors.T, params.W)).max(axis=0) / norms
    # m² = v S vᵀ, read back from KL = ½ (D − 1 − log D + m²)
    mean_square = 2 * terms.kl - (jnp.expm1(params.log_d) - params.log_d)
    below = collapse.gaussian_probability_below(
        jnp.maximum(mean_square, 0), params.log_d, jnp.asarray(0.01, mean_square.dtype)
    )
    return Record(
        step=state.step,
        elbo=elbo,
        gap=optimum - elbo,
        likelihood_gap=likelihood_optimum - likelihood,
        sigma2=jnp.exp(params.log_sigma2),
        kl=terms.kl,
        angle=jnp.degrees(jnp.arccos(jnp.minimum(cosine, 1))),
        collapsed=collapse.is_collapsed(below).sum(),
    )


def segment(
    config: TrainConfig, problem: Problem, hyper: Hyperparameters, state: TrainState
) -> tuple[TrainState, Record]:
    """`record_every` steps and one look at the result: the unit between progress reports."""

    def body(carry: TrainState, _: None) -> tuple[TrainState, None]:
        return step(config, problem, hyper, carry), None

    state, _ = jax.lax.scan(body, state, length=config.record_every)
    return state, observe(config, problem, hyper, state)


@partial(jax.jit, static_argnums=0)
def _train(
    config: TrainConfig, problem: Problem, hyper: Hyperparameters, key: PRNGKeyArray
) -> tuple[linear.LinearVAE, Record]:
    def body(state: TrainState, _: None) -> tuple[TrainState, Record]:
        return segment(config, problem, hyper, state)

    state, history = jax.lax.scan(
        body, init(config, problem, hyper, key), length=config.num_records
    )
    return state.params, history


def train(
    config: TrainConfig, problem: Problem, hyper: Hyperparameters, key: PRNGKeyArray
) -> tuple[linear.LinearVAE, Record]:
    """A whole run, compiled once per (config, shapes).

    Args:
        config: static.
        problem: data.
        hyper: learning rate, σ² and β; traced, so they vary without recompiling.
        key: decides everything random: the same key gives the same run.

    Returns:
        The trained `LinearVAE` and the history, a `Record` with a leading axis of
        `config.num_records`. A run that diverges has NaN in both.

    Raises:
        ValueError: k > n, steps that do not divide, sampled gradients without data, σ² ≤ 0, …
    """
    check(config, problem, hyper)
    return _train(config, problem, hyper, key)
