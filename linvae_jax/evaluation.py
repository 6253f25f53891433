"""An evaluation says what a trained VAE does with a data set: ELBO, KL and collapse, in one pass.

`evaluate` is the whole of it. For data that come in pieces, larger than memory or on several
machines, take the `totals` of each piece, `merge` them, and `finish`.

>>> import jax, jax.numpy as jnp
>>> from linvae_jax import evaluation, linear
>>> model = linear.Model(n=3, k=2)
>>> params = model.init(jax.random.key(0), 1.0)
>>> x = jax.random.normal(jax.random.key(1), (50, 3))
>>> result = evaluation.evaluate(model, params, x, jnp.zeros(3), jax.random.key(2))
>>> int(result.count), result.kl.shape
(50, (2,))
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from linvae_jax import collapse, gaussian, vae
from linvae_jax._internal import arrays, checks
from linvae_jax._internal.linalg import matmul

# pixels (N, n) and a key → (N, n) real data, row by row; hashable, for it is compiled in
Transform = Callable[[Any, PRNGKeyArray], Any]


class Measured(NamedTuple):
    """`Measured` has numbers of one datum, or their means or variances over data.

    ELBO and KL are in nats, the ELBO at the σ² of the parameters. The square error is ‖x − x̂‖²
    with z drawn from q(z | x).
    """

    elbo: Float[Array, "*batch"]
    square_error: Float[Array, "*batch"]
    kl: Float[Array, "*batch k"]
    posterior_mean: Float[Array, "*batch k"]


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Totals:
    """Totals are all that is kept of data, of the same size however many data there are.

    These are means and variances rather than sums, which would lose digits in float32. The variance
    is divided by the number of data; that of `square_error` is at most the largest number of its
    dtype. `below` (grid, k) counts data with KL_j < ε for each ε, in nats, of the grid `epsilon`.
    """

    count: Int[Array, "*runs"]
    mean: Measured
    variance: Measured
    below: Int[Array, "*runs grid k"]
    epsilon: tuple[float, ...] = field(metadata={"static": True})


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Evaluation:
    """The numbers of a trained VAE are in nats per datum, at β = 1 whatever it was trained with.

    Attributes:
        count: (), number of data.
        elbo: (), reconstruction − KL. Estimate, unbiased, of one z per datum.
        elbo_error: (), standard error of `elbo` as that of the distribution the data came from.
            Much of it is the data's own spread, which two models on the same data share.
        reconstruction: (), E log p(x | z).
        kl: (k,), exact.
        square_error: (), E‖x − x̂‖² with z drawn from q(z | x).
        sigma2: (), the model's own noise.
        sigma2_tuned: (), the σ² that maximises `elbo` for these networks, `square_error`/n.
        elbo_tuned: (), `elbo` with that σ².
        below: (grid, k), P_x[KL_j < ε]; NaN for a latent that has a NaN among its KL.
        num_collapsed: (), number of (0.01, 0.01)-collapsed latents; like the next a whole number in
            floating point, NaN of a model that diverged.
        active_units: (), number of latents with `mean_variance` > 0.01.
        mean_variance: (k,), variance over data of the posterior means.
        epsilon: the grid of ε, nats.
    """

    count: Int[Array, "*runs"]
    elbo: Float[Array, "*runs"]
    elbo_error: Float[Array, "*runs"]
    reconstruction: Float[Array, "*runs"]
    kl: Float[Array, "*runs k"]
    square_error: Float[Array, "*runs"]
    sigma2: Float[Array, "*runs"]
    sigma2_tuned: Float[Array, "*runs"]
    elbo_tuned: Float[Array, "*runs"]
    below: Float[Array, "*runs grid k"]
    num_collapsed: Float[Array, "*runs"]
    active_units: Float[Array, "*runs"]
    mean_variance: Float[Array, "*runs k"]
    epsilon: tuple[float, ...] = field(metadata={"static": True})


def totals(
    model: vae.Model,
    params: Any,
    values: Any,
    mean: Float[Array, "n"],
    key: PRNGKeyArray,
    *,
    transform: Transform | None = None,
    epsilon: tuple[float, ...] = collapse.EPSILON,
    batch_size: int = 1000,
    first: int | Int[Array, ""] = 0,
) -> Totals:
    """Measure data in one pass, in compiled batches.

    The noise of a datum depends on `key` and on its index alone, so that the result does not
    depend on `batch_size`, nor on how the data were cut, but for rounding: in float32 about 1e-6
    of each mean over 60,000 data in batches of 100 to 1,000, and 5e-5 if all were one batch.
    Works under `jit` and `vmap`, for many models at once.

    Args:
        model: the architecture. Static.
        params: of the model.
        values: (N, n), real numbers as for `moments.from_data`; or pixels, which `transform` makes
            real. A NaN among them makes the means NaN.
        mean: (n,), μ of the data after `transform`, which the model does not see. Without a
            transform it is taken off in the precision of `values` and of itself, then rounded.
        key: for z, and for `transform`.
        transform: (rows, key) → x, both (1, n), for instance dequantisation and logit. Hashable,
            so one function object, not a new lambda for each call. Static.
        epsilon: the grid of ε, nats, 0.01 among them. Static.
        batch_size: data in memory at a time, a matter of speed. Static.
        first: index of the first row in the whole data set, when `values` is a piece of it.

    Raises:
        ValueError: shapes disagree, a grid without 0.01, batch_size < 1, NaN or Inf in `mean`, an
            integer for a key, values that are no real numbers.
    """
    values = checks.numbers("values", values)
    checks.shape("values", values, ("N", model.n))
    mean = checks.numbers("mean", mean)
    checks.shape("mean", mean, (model.n,))
    checks.finite("mean", mean)
    checks.key("key", key)
    collapse.check_grid(epsilon)
    checks.in_range("batch_size", batch_size, 1, 2**31 - 1, "at least one datum at a time")
    checks.nonnegative("first", first)
    if transform is not None:
        values = arrays.as_given("values", values)
        mean = arrays.as_float("mean", mean)
    elif checks.concrete(values, mean) and (
        arrays.rounds(values) or not isinstance(values, jax.Array)
    ):
        # before JAX rounds either of them
        values = arrays.less("values", values, mean)
        mean = jnp.zeros(model.n, values.dtype)
    else:
        values, mean = arrays.as_float("values", values), arrays.as_float("mean", mean)
    size = min(batch_size, values.shape[0])
    key_x, key_z = jax.random.split(key)
    return _stream(model, params, values, mean, key_x, key_z, first, transform, epsilon, size)


@partial(jax.jit, static_argnames=("model", "transform", "epsilon", "batch_size"))
def _stream(
    model: vae.Model,
    params: Any,
    values: Array,
    mean: Array,
    key_transform: PRNGKeyArray,
    key_latents: PRNGKeyArray,
    first: Array,
    transform: Transform | None,
    epsilon: tuple[float, ...],
    batch_size: int,
) -> Totals:
    N = values.shape[0]

    def of_datum(row: Array, index: Array) -> Measured:
        key_x = jax.random.fold_in(key_transform, first + index)
        key_z = jax.random.fold_in(key_latents, first + index)
        x = row[None] if transform is None else transform(row[None], key_x)
        passed = vae.forward(model, params, x - mean, key_z)
        error, kl = passed.square_error[0], passed.kl[0]
        elbo = gaussian.log_density(error, model.n, params.log_sigma2) - kl.sum()
        return Measured(elbo, error, kl, passed.posterior.mean[0])

    def of_batch(batch: Array) -> Totals:
        # the last batch starts early so as to be full; data that were counted before are masked
        start = jnp.minimum(batch * batch_size, N - batch_size)
        index = start + jnp.arange(batch_size)
        rows = jax.lax.dynamic_slice_in_dim(values, start, batch_size)
        return _of_data(jax.vmap(of_datum)(rows, index), index >= batch * batch_size, epsilon)

    def add(so_far: Totals, batch: Array) -> tuple[Totals, None]:
        return merge(so_far, of_batch(batch)), None

    shapes = jax.eval_shape(of_datum, values[0], 0)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    below = jnp.zeros((len(epsilon), *zero.kl.shape), jnp.int32)
    nothing = Totals(jnp.zeros((), jnp.int32), zero, zero, below, epsilon)
    return jax.lax.scan(add, nothing, jnp.arange(-(-N // batch_size)))[0]


def _of_data(measured: Measured, counted: Array, epsilon: tuple[float, ...]) -> Totals:
    """Return the totals of those rows that are `counted` (N,)."""
    count = counted.sum(dtype=jnp.int32)

    def average(values: Array) -> Array:
        return matmul(counted.astype(values.dtype), values) / count.astype(values.dtype)

    mean = jax.tree.map(average, measured)
    variance = jax.tree.map(lambda v, m: average((v - m) ** 2), measured, mean)
    variance = _saturated(variance)
    kl = jnp.where(counted[:, None], measured.kl, jnp.inf)
    below = collapse.count_below(kl, jnp.asarray(epsilon, kl.dtype))
    return Totals(count, mean, variance, below, epsilon)


@jax.jit
def merge(a: Totals, b: Totals) -> Totals:
    """Return the totals of two sets of data together (Chan, Golub and LeVeque 1979).

    Exact and independent of order, up to rounding.

    Raises:
        ValueError: different grids of ε; many models at once, which need a `vmap`.
    """
    _check_one_model("a", a)
    _check_one_model("b", b)
    if a.epsilon != b.epsilon:
        checks.fail("b.epsilon", b.epsilon, f"the grid of a, {a.epsilon}")
    count = a.count + b.count

    def share(leaf: Array) -> Array:
        return b.count.astype(leaf.dtype) / count.astype(leaf.dtype)

    step = jax.tree.map(jnp.subtract, b.mean, a.mean)
    mean = jax.tree.map(lambda m, d: m + share(m) * d, a.mean, step)

    def spread(u: Array, v: Array, d: Array) -> Array:
        both = u + share(u) * (v - u + (1 - share(u)) * d**2)
        # no data on one side: 0 times a square that may be infinite would be NaN
        return jnp.where(a.count == 0, v, jnp.where(b.count == 0, u, both))

    variance = jax.tree.map(spread, a.variance, b.variance, step)
    return Totals(count, mean, _saturated(variance), a.below + b.below, a.epsilon)


def _saturated(variance: Measured) -> Measured:
    """Keep a variance finite, because in large units a fourth power leaves float32's range."""
    error = variance.square_error
    return variance._replace(square_error=jnp.minimum(error, jnp.finfo(error.dtype).max))


def _check_one_model(name: str, totals: Totals) -> None:
    if jnp.ndim(totals.count) > 0:
        got = f"count of shape {totals.count.shape}"
        checks.fail(name, got, "those of one model", "Many at once take jax.vmap.")


@partial(jax.jit, static_argnames="model")
def finish(model: vae.Model, params: Any, totals: Totals) -> Evaluation:
    """Make the `Evaluation` of a model from the totals of all data; the model is static.

    Raises:
        ValueError: many models at once, which need a `vmap`.

    Source: Lucas et al. 2019 for "σ²-tuned"; tuned here by its closed form, not by gradients.
    """
    _check_one_model("totals", totals)
    error, kl = totals.mean.square_error, totals.mean.kl
    reconstruction = gaussian.log_density(error, model.n, params.log_sigma2)
    sigma2_tuned = error / model.n
    # a count of NaN would say 0 % collapsed of a model that diverged
    below = totals.below.astype(kl.dtype) / totals.count.astype(kl.dtype)
    below = jnp.where(jnp.isnan(kl), jnp.nan, below)
    variance = totals.variance.posterior_mean
    return Evaluation(
        count=totals.count,
        elbo=reconstruction - kl.sum(),
        elbo_error=jnp.sqrt(totals.variance.elbo / (totals.count - 1).astype(kl.dtype)),
        reconstruction=reconstruction,
        kl=kl,
        square_error=error,
        sigma2=jnp.exp(params.log_sigma2),
        sigma2_tuned=sigma2_tuned,
        elbo_tuned=gaussian.log_density(error, model.n, jnp.log(sigma2_tuned)) - kl.sum(),
        below=below,
        num_collapsed=collapse.num_collapsed(below, totals.epsilon),
        active_units=collapse.count(collapse.is_active(variance), variance),
        mean_variance=variance,
        epsilon=totals.epsilon,
    )


def evaluate(
    model: vae.Model,
    params: Any,
    values: Any,
    mean: Float[Array, "n"],
    key: PRNGKeyArray,
    *,
    transform: Transform | None = None,
    epsilon: tuple[float, ...] = collapse.EPSILON,
    batch_size: int = 1000,
) -> Evaluation:
    """Return `finish` of the `totals` of all data; arguments and errors are those of `totals`."""
    options = {"transform": transform, "epsilon": epsilon, "batch_size": batch_size}
    return finish(model, params, totals(model, params, values, mean, key, **options))
