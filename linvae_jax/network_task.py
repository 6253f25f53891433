"""Any `vae.Model` is trained on minibatches here: networks, or the linear VAE as a network.

The data may stay pixels: a `transform` makes them real numbers batch by batch, with fresh
dequantisation noise in each step (`data.preprocessing.Logit`). They may also stay in a file, with
a window of them on the device at a time (`sources.Windows`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Real

from linvae_jax import collapse, evaluation, ppca, predictions, sources, training, vae
from linvae_jax import moments as mom
from linvae_jax._internal import arrays, checks
from linvae_jax.training import Label

# above this dimension a covariance is looked at through as many data, not through all entries
_LARGE = 2048


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Data:
    """A data set is on the device, or a window of it at a time.

    Attributes:
        values: (N, n), real numbers, or pixels for a transform; an array, or `sources.Windows`.
        mean: (n,), μ of the real numbers, which models do not see. NumPy's float64 from `prepare`
            without a transform: new data far from zero need all of its digits.
        eigenvalues: (n,), λ of their covariance, for the linear VAE's prediction.
        centred: whether μ is off the values already.
    """

    values: Real[Any, "N n"]  # also shapes without numbers, as JAX traces them
    mean: Float[Any, "n"]
    eigenvalues: Float[Array, "n"]
    centred: bool = field(default=False, metadata={"static": True})

    @property
    def offset(self) -> Float[Array, "n"]:
        """The mean that is still to be taken off after any transform, μ or zero, (n,)."""
        return jnp.zeros_like(self.eigenvalues) if self.centred else jnp.asarray(self.mean)


def prepare(values: Any, transform: evaluation.Transform | None = None, key: Any = None) -> Data:
    """Make `Data` of a set in one pass through it, which gives μ and λ.

    Without a transform, values are centred in the precision that they come in, and only then
    rounded to JAX's floats: `Data.values` are x − μ, with `Data.centred`. So nothing is lost of
    coordinates far from zero. Pixels stay as they are; what a transform makes of them is centred
    batch by batch.

    λ is in float32, computed in JAX's default float. Above 2,048 dimensions it is that of as many
    data, spread over the set; the others are zero.

    Args:
        values: (N, n), real numbers as for `moments.from_data`, or pixels for `transform`: an
            array, which is put on the device, or `sources.Windows`, which are not. Integers
            stay integers, and `NetworkTask` wants a transform for them.
        transform: as for `NetworkTask`.
        key: for the noise of the transform.

    Raises:
        ValueError: values not (N, n), NaN or Inf, constant, no real numbers, integers that JAX
            would wrap; standard deviations beyond float32, below 3e-16 or above 6e15; a transform
            without a key.
    """
    given = values
    values = checks.data_matrix("values", sources.whole(given))
    if transform is not None:
        if key is None:
            checks.fail("key", "None", "a key for the transform's noise")
        checks.key("key", key)

    def real(rows: Any, i: int) -> Any:
        if transform is None:
            return rows
        return transform(arrays.as_given("values", rows), jax.random.fold_in(key, i))

    arrays.check_held("values", values)
    N, n = values.shape
    pieces = range(0, N, 4096)
    # in float32 a mean would leave nothing of data far from zero
    mean = None if transform is not None else np.asarray(arrays.centre(values), np.float64)
    if n <= _LARGE:
        moments = mom.from_chunks(
            (real(values[i : i + 4096], i) for i in pieces), "values", "values"
        )
        lam = mom.spectrum(moments).eigenvalues
        mean = moments.mean if mean is None else mean
    else:
        if mean is None:
            mean = sum(real(values[i : i + 4096], i).sum(axis=0) for i in pieces) / N
            checks.finite("values", mean)
        some = values[sources.spread(N, _LARGE)]
        lam = mom.thin_spectrum(real(some, N), "values").eigenvalues
    arrays.check_scale("values", lam[0], jnp.float32)
    lam = jnp.asarray(jnp.pad(lam, (0, n - len(lam))), jnp.float32)
    windows = isinstance(given, sources.Windows)
    if transform is not None or values.dtype.kind in "biu":
        kept = given if windows else arrays.as_given("values", values)
        return Data(kept, jnp.asarray(mean, jnp.float32), lam)
    dtype = arrays.float_dtype(values.dtype)
    less = given.less(mean) if windows else arrays.less("values", values, mean, dtype)
    return Data(less, mean, lam, centred=True)


def data_scale(data: Data) -> float:
    """Return the standard deviation of a dimension, √(Σλ/n), to two digits, for `networks`.

    More digits would make the architecture another one with every draw of the noise.

    Raises:
        ValueError: not `Data`; eigenvalues that are not those of data that vary.
    """
    _check_data(data)
    scale = float(f"{float(np.sqrt(np.mean(np.asarray(data.eigenvalues, np.float64)))):.2g}")
    if not 0 < scale < float("inf"):
        checks.fail("data.eigenvalues", f"a mean of {scale**2:.3g}", "those of data that vary")
    return scale


def _check_data(data: Any) -> None:
    checks.kind("data", data, Data, "Make one of data x: network_task.prepare(x).")


def centred(
    data: Data, transform: evaluation.Transform | None, key: PRNGKeyArray, count: int
) -> Float[Array, "N n"]:
    """Return `count` data, spread over all, as models see them: real, with their mean taken off.

    All, where there are fewer; in JAX's default float. The key is for the noise of the transform.

    Raises:
        ValueError: not `Data`, count < 1.
    """
    _check_data(data)
    checks.key("key", key)
    values, places = data.values, sources.spread(data.values.shape[0], count)
    rows = jnp.take(values, places, axis=0) if isinstance(values, jax.Array) else values[places]
    if transform is not None:
        x = transform(arrays.as_given("data.values", rows), key) - data.offset
    else:
        x = arrays.less("data.values", rows, data.offset)
    return jnp.asarray(x, jnp.result_type(float))


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Record:
    """A record is what one looks at during a run, measured on some of the data with one z each.

    `NetworkTask.record_labels` has units and descriptions. The ELBO is a bound whatever β the run
    is trained with. Numbers of latents are NaN where they are unknown.
    """

    elbo: Float[Array, "*records"]
    reconstruction: Float[Array, "*records"]
    kl: Float[Array, "*records k"]
    sigma2: Float[Array, "*records"]
    num_collapsed: Float[Array, "*records"]
    active_units: Float[Array, "*records"]


_COMMON = {
    "elbo": Label((), "nats/datum", "ELBO (reconstruction − KL)"),
    "reconstruction": Label((), "nats/datum", "E log p(x | z)"),
    "kl": Label(("latent",), "nats/datum", "mean KL per latent"),
    "sigma2": Label((), "data unit²", "observation noise σ²"),
    "num_collapsed": Label((), "1", "(0.01, 0.01)-collapsed latents"),
    "active_units": Label((), "1", "latents whose posterior mean has variance > 0.01"),
}


_LINEAR = {
    "linear_elbo": Label((), "nats/datum", "ELBO of the linear VAE at the same σ²"),
    "linear_kl": Label(("latent",), "nats/datum", "KL of the linear VAE at the same σ²"),
    "linear_num_collapsed": Label((), "1", "collapsed latents of the linear VAE at the same σ²"),
    "linear_sigma2": Label((), "data unit²", "σ² of the linear VAE: held, or its own optimum"),
    "linear_optimum": Label((), "nats/datum", "ELBO of the linear VAE at that σ²"),
}


@dataclass(frozen=True)
class NetworkTask:
    """This `training.FinishedTask` trains a VAE on `Data` with sampled gradients.

    Attributes:
        model: the architecture.
        batch_size: data per step, drawn with replacement, of the current window if there are some.
        transform: (values, key) → real numbers, a hashable function; None if they are already.
        observed: how many data a record looks at, spread evenly over the set; over the window that
            was just trained on if there are some, so others for each record.
    """

    model: vae.Model
    batch_size: int = 128
    transform: evaluation.Transform | None = None
    observed: int = 1000

    # matrices of one model fill a core already: side by side gains nothing
    cpu: ClassVar[Literal["vmap", "loop"]] = "loop"
    unroll: ClassVar[int] = 2  # a few per cent faster on a CPU
    record_labels: ClassVar[Mapping[str, Label]] = MappingProxyType(_COMMON)
    final_labels: ClassVar[Mapping[str, Label]] = MappingProxyType(
        _COMMON
        | _LINEAR
        | {
            "elbo_error": Label((), "nats/datum", "standard error of the ELBO"),
            "square_error": Label((), "data unit²/datum", "E‖x − x̂‖²"),
            "sigma2_tuned": Label((), "data unit²", "σ² that is best for the trained networks"),
            "elbo_tuned": Label((), "nats/datum", "ELBO with that σ²"),
            "mean_variance": Label(("latent",), "1", "variance of the posterior mean over data"),
            "below": Label(
                ("epsilon", "latent"), "1", "share of data with KL below ε in this latent"
            ),
        }
    )

    coordinates: ClassVar[Mapping[str, tuple[Any, str, str]]] = MappingProxyType(
        {"epsilon": (collapse.EPSILON, "nats", "threshold of collapse ε")}
    )

    @property
    def samples(self) -> int:
        """The number of data that one step looks at."""
        return self.batch_size

    def check(self, data: Data, hyper: training.Hyperparameters) -> None:
        """Raise `ValueError` for what cannot run."""
        _check_data(data)
        checks.shape("data.values", data.values, ("N", self.model.n))
        checks.shape("data.mean", data.mean, (self.model.n,))
        checks.finite("data.values", sources.whole(data.values))
        checks.finite("data.mean", data.mean)
        checks.shape("data.eigenvalues", data.eigenvalues, (self.model.n,))
        checks.eigenvalues("data.eigenvalues", data.eigenvalues)
        checks.in_range("k", self.model.k, 1, self.model.n - 1, "k < n, to compare with pPCA")
        checks.in_range("batch_size", self.batch_size, 1, 2**31 - 1, "at least one")
        if (windows := sources.find(data)) is not None:
            checks.in_range("batch_size", self.batch_size, 1, windows.size, "rows of a window")
        checks.in_range("observed", self.observed, 1, 2**31 - 1, "at least one")
        if self.transform is None and not jnp.issubdtype(data.values.dtype, jnp.floating):
            checks.fail(
                "data.values",
                f"dtype {data.values.dtype} without a transform",
                "real numbers",
                "Pixels need one: data.preprocessing.Logit.",
            )

    def dimension(self, data: Data) -> int:
        """Return the number of data dimensions n."""
        return self.model.n

    def variance(self, data: Data) -> float:
        """Return the total variance tr S of the data."""
        return float(np.sum(data.eigenvalues, dtype=float))

    def init(self, data: Data, key: PRNGKeyArray, sigma2: Any) -> Any:
        """Draw parameters of the model."""
        return self.model.init(key, sigma2)

    def gradient(self, data: Data, params: Any, beta: Any, key: PRNGKeyArray) -> Any:
        """Estimate the gradient from a minibatch, with one z per datum."""
        key_batch, key_noise, key_z = jax.random.split(key, 3)
        rows = jax.random.randint(key_batch, (self.batch_size,), 0, data.values.shape[0])
        x = data.values[rows]
        if self.transform is not None:
            x = self.transform(x, key_noise)
        return training.sampled_gradient(self.model, params, x - data.offset, beta, key_z)

    def observe(
        self, data: Data, params: Any, hyper: training.Hyperparameters, key: PRNGKeyArray
    ) -> Record:
        """Measure the model on `observed` data."""
        rows = sources.spread(data.values.shape[0], self.observed)
        found = evaluation.evaluate(
            *(self.model, params, data.values[rows], data.offset, key), transform=self.transform
        )
        return Record(*(getattr(found, name) for name in _COMMON))

    def totals(self, data: Data, first: Any, params: Any, key: PRNGKeyArray) -> evaluation.Totals:
        """Measure a piece of the data; the noise of a datum depends on its index among all."""
        return evaluation.totals(
            *(self.model, params, data.values, data.offset, key),
            transform=self.transform,
            first=first,
        )

    def merge(self, a: evaluation.Totals, b: evaluation.Totals) -> evaluation.Totals:
        """Return the totals of two pieces together."""
        return evaluation.merge(a, b)

    def finish(
        self, data: Data, params: Any, hyper: training.Hyperparameters, totals: evaluation.Totals
    ) -> dict[str, Array]:
        """Return what the totals of all data say, beside what the linear VAE predicts."""
        found = evaluation.finish(self.model, params, totals)
        measured = {name: getattr(found, name) for name in self.final_labels if name not in _LINEAR}
        return measured | _linear(
            data.eigenvalues, self.model.k, found.sigma2, hyper.learned, hyper.beta
        )


@partial(jax.jit, static_argnames="k")
def _linear(
    eigenvalues: Float[Array, "n"], k: int, sigma2: Array, learned: Any, beta: Any
) -> dict[str, Array]:
    """Return what `_LINEAR` labels; compiled, because so it is NaN where no σ² is best."""
    same = predictions.predict(eigenvalues, k, sigma2, beta)
    own = jnp.where(learned, ppca.optimal_sigma2(eigenvalues, k, beta), sigma2)
    best = predictions.predict(eigenvalues, k, own, beta)
    return {
        "linear_elbo": same.elbo,
        "linear_kl": same.kl,
        "linear_num_collapsed": same.num_collapsed,
        "linear_sigma2": own,
        "linear_optimum": best.elbo,
    }
