"""A training run is a pure function, for any VAE, objective, optimiser and schedule.

What is trained is a `Task`: `linear_task.LinearTask` or `network_task.NetworkTask`.
`train(task, config, data, hyper, key)` is one compiled program; `vmap` over keys and
hyperparameters gives sweeps (see `sweeps`, which also shows progress). What is static, and
recompiles when it changes, is in the task and in `TrainConfig`; what may vary between runs of one
program is in `Hyperparameters`. All functions take their arguments in that order.

>>> import jax, jax.numpy as jnp
>>> from linvae_jax import linear_task, moments, training
>>> problem = linear_task.problem(moments.from_covariance(jnp.diag(jnp.array([4.0, 2.0, 0.5]))))
>>> task = linear_task.LinearTask(k=2)
>>> config = training.TrainConfig(num_steps=2000, record_every=500)
>>> hyper = training.Hyperparameters(learning_rate=0.05)
>>> _, history = training.train(task, config, problem, hyper, jax.random.key(0))
>>> bool(history.gap[-1] < 1e-4)  # nats below the pPCA optimum
True
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from linvae_jax import sources, streams, vae
from linvae_jax._internal import checks

Params = Any  # a pytree with an attribute `log_sigma2`


class Label(NamedTuple):
    """A label says what a number in a record is: further dimensions, unit, description."""

    dims: tuple[str, ...]
    unit: str
    text: str


@runtime_checkable
class Task(Protocol):
    """A task says what is trained: a frozen, hashable description with pure functions.

    `data` is a pytree, the same type for all functions of a task.

    Attributes:
        samples: data that one step looks at, for the throughput; 0 if it needs none.
        cpu: what is faster on a CPU, many runs side by side ("vmap") or one at a time ("loop").
        unroll: steps in the body of the compiled loop; more may be faster and compile longer.
        record_labels: one for each field that `observe` returns. `elbo`, `reconstruction`, `kl`
            (k,) and `sigma2` are among them, because they tell when a run diverges.
        final_labels: one for each number that a `FinishedTask` measures at the end, those four
            among them; or none.
        coordinates: of the dimensions in those labels: values, unit, description.
    """

    cpu: ClassVar[Literal["vmap", "loop"]]
    unroll: ClassVar[int]
    record_labels: ClassVar[Mapping[str, Label]]
    final_labels: ClassVar[Mapping[str, Label]]
    coordinates: ClassVar[Mapping[str, tuple[Any, str, str]]]

    @property
    def samples(self) -> int: ...  # noqa: D102  # in the class's docstring

    def check(self, data: Any, hyper: "Hyperparameters") -> None:
        """Raise `ValueError` for what cannot run."""
        ...

    def dimension(self, data: Any) -> int:
        """Return the number of data dimensions n."""
        ...

    def variance(self, data: Any) -> float:
        """Return the total variance tr S of the data."""
        ...

    def init(self, data: Any, key: PRNGKeyArray, sigma2: Any) -> Params:
        """Draw parameters with noise variance σ²."""
        ...

    def gradient(self, data: Any, params: Params, beta: Any, key: PRNGKeyArray) -> Params:
        """Return the gradient of the β-ELBO, exact or an unbiased estimate, in nats per datum."""
        ...

    def observe(
        self, data: Any, params: Params, hyper: "Hyperparameters", key: PRNGKeyArray
    ) -> Any:
        """Return a record of where a run is, a dataclass of arrays; cheap beside the training."""
        ...


@runtime_checkable
class FinishedTask(Task, Protocol):
    """A `FinishedTask` also measures trained models on all data; `final_labels` say what."""

    def totals(self, data: Any, first: Any, params: Params, key: PRNGKeyArray) -> Any:
        """Measure a piece of the data, which begins with row `first` of all."""
        ...

    def merge(self, a: Any, b: Any) -> Any:
        """Return the totals of two pieces together."""
        ...

    def finish(self, data: Any, params: Params, hyper: "Hyperparameters", totals: Any) -> Any:
        """Return the final numbers by name, from the totals of all data; `data` may be a piece."""
        ...


@dataclass(frozen=True)
class TrainConfig:
    """The configuration defines the program of a run, with its task; static under jit.

    Attributes:
        num_steps: optimiser steps.
        record_every: steps between records of the history; divides `num_steps`.
        optimizer: "adam" or "sgd", as in optax.
        schedule: learning rate "constant", "cosine" from its value down to zero, or "decay":
            constant for four fifths of the steps, then linearly to zero. Adam moves log σ² by at
            most about the sum of all learning rates, half as far with "cosine" as with "constant".
        warmup: first steps, in which the learning rate rises linearly from zero.
        sigma2_update: how σ² is learned: by the "gradient" of log σ² with everything else, or in
            "closed_form": set in each step to the mean square error of the batch, its maximiser
            (Rybkin, Daniilidis and Levine, ICML 2021).
    """

    num_steps: int = 5000
    record_every: int = 50
    optimizer: Literal["adam", "sgd"] = "adam"
    schedule: Literal["constant", "cosine", "decay"] = "cosine"
    warmup: int = 0
    sigma2_update: Literal["gradient", "closed_form"] = "gradient"

    @property
    def num_records(self) -> int:
        """The length of the history, the start not counted."""
        return self.num_steps // self.record_every


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Annealing:
    """In KL annealing the weight of the KL rises from 0 to β, once or in cycles, and stays there.

    Attributes:
        steps: optimiser steps until the plain objective resumes; 0: no annealing.
        cycles: 1 is the usual warm-up (Bowman et al. 2016); more are cyclical (Fu et al. 2019).
        ramp: share of a cycle in which the weight rises, linearly; the rest is at β.
    """

    steps: Float[Array, "*runs"] | float | int = 0.0
    cycles: Float[Array, "*runs"] | float | int = 1.0
    ramp: Float[Array, "*runs"] | float | int = 1.0

    def __str__(self) -> str:
        if not self.steps:
            return "none"
        cycles = "linear" if self.cycles == 1 else f"{self.cycles:g} cycles"
        return f"{cycles} over {self.steps:g} steps, ramp {self.ramp:g}"


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Hyperparameters:
    """Hyperparameters may differ between runs of one program; each is () or, batched, (runs,).

    Attributes:
        learning_rate: the largest one; `TrainConfig` says how it changes.
        sigma2: initial σ², or its value when it is held.
        learned: whether σ² is learned with the weights, or held.
        beta: weight of the KL, after annealing.
        annealing: how that weight rises; by default it is β from the start.
    """

    learning_rate: Float[Array, "*runs"] | float = 1e-3
    sigma2: Float[Array, "*runs"] | float = 1.0
    learned: Bool[Array, "*runs"] | bool = True
    beta: Float[Array, "*runs"] | float = 1.0
    annealing: Annealing = field(default_factory=Annealing)


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class TrainState:
    """The state is all that a run carries from step to step.

    `step` counts the steps done, and `opt_state` is optax's. The run's key is the same in each
    step. Steps, records and the measurement at the end have a branch of it each. Step t draws from
    fold_in(branch, t), so that a run can stop and go on.
    """

    params: Params
    opt_state: optax.OptState
    step: Int[Array, "*runs"]
    key: Key[Array, "*runs"]


def interval(num_steps: int, records: int) -> int:
    """Return the steps between records, a divisor of `num_steps`, for `records` or more of them."""
    most = max(num_steps // records, 1)
    return next(steps for steps in range(most, 0, -1) if num_steps % steps == 0)


def check(task: Task, config: TrainConfig, data: Any, hyper: Hyperparameters) -> None:
    """Raise `ValueError` for a configuration that cannot run."""
    checks.kind("task", task, Task, "Such as linear_task.LinearTask(k=2).")
    checks.kind("config", config, TrainConfig)
    checks.kind("hyper", hyper, Hyperparameters)
    checks.in_range("num_steps", config.num_steps, 1, 2**31 - 1, "at least one")
    checks.in_range("record_every", config.record_every, 1, config.num_steps, "num_steps")
    checks.in_range("warmup", config.warmup, 0, config.num_steps, "num_steps")
    if config.num_steps % config.record_every:
        checks.fail("record_every", config.record_every, f"a divisor of {config.num_steps}")
    check_values(hyper)
    checks.literals(config)
    task.check(data, hyper)


def check_values(hyper: Hyperparameters) -> None:
    """Raise `ValueError` for hyperparameters that are no positive numbers."""
    for name in ("learning_rate", "sigma2", "beta"):
        checks.positive(name, getattr(hyper, name))
    for name in ("steps", "cycles", "ramp"):
        checks.nonnegative(f"annealing.{name}", getattr(hyper.annealing, name))


def beta_at(hyper: Hyperparameters, step: Int[Array, ""]) -> Float[Array, ""]:
    """Return the weight of the KL in a step, which is β or less where it is annealed."""
    annealing, t = hyper.annealing, jnp.asarray(step, jnp.result_type(hyper.beta))
    steps = jnp.maximum(annealing.steps, 1)
    phase = jnp.mod(t * annealing.cycles / steps, 1)
    # a ramp of zero length is no ramp
    risen = jnp.where(phase < annealing.ramp, phase / jnp.maximum(annealing.ramp, 1e-30), 1)
    return hyper.beta * jnp.where(t < annealing.steps, risen, 1)


def sampled_gradient(
    model: vae.Model,
    params: Params,
    x: Float[Array, "B n"],
    beta: Float[Array, ""] | float,
    key: PRNGKeyArray,
) -> Params:
    """Estimate the gradient of the mean β-ELBO of a batch, with one reparameterised z per datum.

    x (B, n) are centred data, `beta` is the weight of the KL, and `key` draws z. The estimate is
    unbiased.
    """

    def objective(params: Params, key: PRNGKeyArray) -> Float[Array, ""]:
        return vae.elbo_terms(model, params, x, key).elbo(beta).mean()

    return jax.grad(objective)(params, key)


def _transformation(config: TrainConfig, hyper: Hyperparameters) -> optax.GradientTransformation:
    def rate(t: Any) -> Any:
        t = 1.0 * t  # else the quotient of two integers of 32 bits is a float of 32
        left = 1 - t / config.num_steps
        risen = jnp.minimum((t + 1) / config.warmup, 1) if config.warmup else 1
        share = {
            "constant": 1.0,
            "cosine": 0.5 * (1 - jnp.cos(jnp.pi * left)),
            "decay": jnp.minimum(left / 0.2, 1),
        }[config.schedule]
        return hyper.learning_rate * risen * share

    return {"adam": optax.adam, "sgd": optax.sgd}[config.optimizer](rate)


def init(
    task: Task, config: TrainConfig, data: Any, hyper: Hyperparameters, key: PRNGKeyArray
) -> TrainState:
    """Return the state before the first step; the key decides the weights and all noise."""
    key_init, key_run = jax.random.split(key)
    params = task.init(data, key_init, hyper.sigma2)
    opt_state = _transformation(config, hyper).init(params)
    return TrainState(params, opt_state, jnp.zeros((), jnp.int32), key_run)


def step(
    task: Task, config: TrainConfig, data: Any, hyper: Hyperparameters, state: TrainState
) -> TrainState:
    """Take one optimiser step up the ELBO."""
    key = _key(state, "steps")
    beta = beta_at(hyper, state.step).astype(state.params.log_sigma2.dtype)
    up = task.gradient(data, state.params, beta, key)
    slope = jnp.where(hyper.learned, up.log_sigma2, 0)
    climbed = slope if config.sigma2_update == "gradient" else jnp.zeros_like(slope)
    down = jax.tree.map(jnp.negative, replace(up, log_sigma2=climbed))  # optax minimises
    transformation = _transformation(config, hyper)
    updates, opt_state = transformation.update(down, state.opt_state, state.params)
    params = jax.tree.map(jnp.add, state.params, updates)
    if config.sigma2_update == "closed_form":
        # the slope −n/2 + E‖x − x̂‖²/(2σ²) tells the maximiser: E‖x − x̂‖²/n = σ² (1 + 2 slope/n)
        ratio = jnp.maximum(1 + 2 * slope / task.dimension(data), jnp.finfo(slope.dtype).tiny)
        params = replace(params, log_sigma2=params.log_sigma2 + jnp.log(ratio))
    return replace(state, params=params, opt_state=opt_state, step=state.step + 1)


def _key(state: TrainState, purpose: Literal["steps", "records", "end"]) -> PRNGKeyArray:
    """Return the key of this step for a purpose, each of which has a stream of its own."""
    return jax.random.fold_in(streams.branch(state.key, purpose), state.step)


def observe(task: Task, data: Any, hyper: Hyperparameters, state: TrainState) -> Any:
    """Return the task's record of a state."""
    return task.observe(data, state.params, hyper, _key(state, "records"))


def segment(
    task: Task, config: TrainConfig, data: Any, hyper: Hyperparameters, state: TrainState
) -> tuple[TrainState, Any]:
    """Take `record_every` steps and observe the result; progress is reported after each segment."""

    def body(carry: TrainState, _: None) -> tuple[TrainState, None]:
        return step(task, config, data, hyper, carry), None

    # what is left over would be compiled once more
    unroll = task.unroll if config.record_every % task.unroll == 0 else 1
    state, _ = jax.lax.scan(body, state, length=config.record_every, unroll=unroll)
    return state, observe(task, data, hyper, state)


def totals(task: FinishedTask, data: Any, first: Any, state: TrainState) -> Any:
    """Measure a trained model on a piece of the data, which begins with row `first` of all."""
    return task.totals(data, first, state.params, _key(state, "end"))


def finish(
    task: FinishedTask, data: Any, hyper: Hyperparameters, state: TrainState, total: Any = None
) -> Any:
    """Return a trained model's final numbers from its totals, or without them from all data."""
    total = totals(task, data, 0, state) if total is None else total
    return task.finish(data, state.params, hyper, total)


@partial(jax.jit, static_argnums=(0, 1))
def _train(
    task: Task, config: TrainConfig, data: Any, hyper: Hyperparameters, key: PRNGKeyArray
) -> tuple[Params, Any]:
    def body(state: TrainState, _: None) -> tuple[TrainState, Any]:
        return segment(task, config, data, hyper, state)

    state, history = jax.lax.scan(
        body, init(task, config, data, hyper, key), length=config.num_records
    )
    return state.params, history


def train(
    task: Task, config: TrainConfig, data: Any, hyper: Hyperparameters, key: PRNGKeyArray
) -> tuple[Params, Any]:
    """Train one model, by a program that is compiled once per (task, config, shapes).

    `task` and `config` are static. `hyper` is traced, so it may change without recompiling. `key`
    decides everything random: the same key gives the same run.

    Returns:
        The trained parameters and the history, the task's record with a leading axis of
        `config.num_records`. A run that diverges has NaN in both, or numbers beyond all bounds;
        a sweep's table says of each run whether it did.

    Raises:
        ValueError: steps that do not divide, σ² ≤ 0, …, and what the task cannot do; data of
            another kind than the task's, an integer in place of a key; data in windows, which
            only `sweeps.run` exchanges.
    """
    if sources.find(data) is not None:
        checks.fail("data", "values in windows", "arrays", "Windows are for sweeps.run.")
    check(task, config, data, hyper)
    checks.key("key", key)
    # JAX takes Python's integers for 32 bits wide
    hyper = jax.tree.map(lambda leaf: float(leaf) if type(leaf) is int else leaf, hyper)
    return _train(task, config, data, hyper, key)
