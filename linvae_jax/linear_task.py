"""The linear VAE is trained here, and each record says exactly how far it is from the pPCA optimum.

Gradients are the closed form, which needs only the moments of the data, or sampled as a network's
are. Whatever a run climbs by, its records are exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from linvae_jax import collapse, linear, ppca, training
from linvae_jax import moments as mom
from linvae_jax._internal import arrays, checks
from linvae_jax._internal.linalg import matmul
from linvae_jax.training import Label


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Problem:
    """A problem is the data as training sees them."""

    moments: mom.Moments
    spectrum: mom.Spectrum  # to measure how far training is from the optimum
    x: Float[Array, "N n"] | None = None  # needed only for sampled gradients


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Record:
    """A record is what one looks at during a run; in a history its fields have an axis of records.

    `LinearTask.record_labels` has units and descriptions of all.

    Attributes:
        elbo: β-weighted when β ≠ 1.
        gap: of `elbo` below its global maximum at the held σ², or with σ² learned.
        likelihood_gap: of (W, σ²). The rest of `gap` is rotation: right subspace, wrong axes.
        angle: in float64 no smaller than 1e-6, the arccos of 1 − ε, unless zero.
        num_collapsed: for Gaussian data of these moments; a whole number in floating point, NaN
            where it is unknown.
    """

    elbo: Float[Array, "*records"]
    gap: Float[Array, "*records"]
    likelihood_gap: Float[Array, "*records"]
    sigma2: Float[Array, "*records"]
    kl: Float[Array, "*records k"]
    angle: Float[Array, "*records k"]
    num_collapsed: Float[Array, "*records"]
    reconstruction: Float[Array, "*records"]


def problem(moments: mom.Moments, x: Any = None) -> Problem:
    """Bundle the data for training.

    Args:
        moments: of the data. For the eigenbasis pass `moments.in_eigenbasis(m)[0]`, which is
            several times faster, the same path for "sgd" and another one for "adam".
        x: (N, n), real numbers as for `moments.from_data`, for sampled gradients.

    Raises:
        ValueError: something else than moments, S not a covariance, or x of another n; x so far
            from zero, compared with how much they vary, that the dtype of the moments can't hold
            x − μ to three digits.
    """
    mom.check(moments)
    if x is not None:
        x = checks.data_matrix("x", x, moments.mean.shape[0])
        dtype = moments.mean.dtype
        variance = moments.cov if moments.cov.ndim == 1 else jnp.diag(moments.cov)
        if checks.concrete(x, moments.mean, variance):
            # what rounding x and μ does to a difference, beside the largest standard deviation
            step = float(jnp.finfo(dtype).eps) * float(jnp.abs(moments.mean).max())
            if step > 1e-3 * float(jnp.sqrt(variance.max())):
                checks.fail(
                    "x",
                    f"a mean of {float(jnp.abs(moments.mean).max()):.3g} beside a standard "
                    f"deviation of {float(jnp.sqrt(variance.max())):.3g}",
                    f"differences that {dtype} holds to three digits",
                    "Take the mean off the data first, or set jax_enable_x64.",
                )
        x = arrays.as_float("x", x).astype(dtype)
    return Problem(moments, mom.spectrum(moments), x)


@dataclass(frozen=True)
class LinearTask:
    """This `training.Task` trains a linear VAE on a `Problem`.

    Attributes:
        k: number of latents.
        gradients: "exact" uses the closed form, which needs only the moments; "sampled" draws a
            minibatch and one z per datum, as for a network.
        batch_size: data per step when gradients are sampled, drawn with replacement.
    """

    k: int
    gradients: Literal["exact", "sampled"] = "exact"
    batch_size: int = 128

    # S Vᵀ of all runs is one large product (benchmarks/bench_sweep.py)
    cpu: ClassVar[Literal["vmap", "loop"]] = "vmap"
    unroll: ClassVar[int] = 1
    record_labels: ClassVar[Mapping[str, Label]] = MappingProxyType(
        {
            "elbo": Label((), "nats/datum", "exact ELBO"),
            "gap": Label((), "nats/datum", "ELBO below its global maximum"),
            "likelihood_gap": Label((), "nats/datum", "pPCA log-likelihood below its maximum"),
            "sigma2": Label((), "data unit²", "observation noise σ²"),
            "kl": Label(("latent",), "nats/datum", "mean KL per latent"),
            "angle": Label(
                ("latent",),
                "degree",
                "angle of a decoder column to the nearest principal direction",
            ),
            "num_collapsed": Label((), "1", "(0.01, 0.01)-collapsed latents"),
            "reconstruction": Label((), "nats/datum", "E log p(x | z)"),
        }
    )
    final_labels: ClassVar[Mapping[str, Label]] = MappingProxyType({})
    coordinates: ClassVar[Mapping[str, tuple[Any, str, str]]] = MappingProxyType({})

    @property
    def samples(self) -> int:
        """The number of data that one step looks at; 0 with exact gradients."""
        return self.batch_size if self.gradients == "sampled" else 0

    def check(self, data: Problem, hyper: training.Hyperparameters) -> None:
        """Raise `ValueError` for what cannot run."""
        maker = "Make one of data x: linear_task.problem(moments.from_data(x), x)."
        checks.kind("data", data, Problem, maker)
        n = self.dimension(data)
        # where `learned` is traced, k = n gives no optimum to compare with: NaN
        learned = checks.concrete(hyper.learned) and bool(np.any(np.asarray(hyper.learned)))
        checks.in_range("k", self.k, 1, n - learned, "k < n when σ² is learned")
        checks.literals(self)
        if self.gradients == "sampled":
            if data.x is None:
                checks.fail("data.x", "None", "data (N, n): sampled gradients need them")
            checks.in_range("batch_size", self.batch_size, 1, data.x.shape[0], "N data points")

    def dimension(self, data: Problem) -> int:
        """Return the number of data dimensions n."""
        return data.moments.mean.shape[0]

    def variance(self, data: Problem) -> float:
        """Return the total variance tr S of the data."""
        return float(np.sum(data.spectrum.eigenvalues, dtype=float))

    def init(self, data: Problem, key: PRNGKeyArray, sigma2: Any) -> linear.LinearVAEParams:
        """Draw parameters by `linear.init`, in the dtype of the moments."""
        params = linear.init(key, self.dimension(data), self.k, sigma2)
        return jax.tree.map(lambda leaf: leaf.astype(data.moments.mean.dtype), params)

    def gradient(
        self, data: Problem, params: linear.LinearVAEParams, beta: Any, key: PRNGKeyArray
    ) -> linear.LinearVAEParams:
        """Return the gradient in closed form, or that of a minibatch."""
        if self.gradients == "exact":
            return linear.gradient(params, data.moments, beta)
        assert data.x is not None  # `check` saw to it
        key_batch, key_z = jax.random.split(key)
        rows = jax.random.randint(key_batch, (self.batch_size,), 0, data.x.shape[0])
        model = linear.Model(*params.W.shape)
        centred = data.x[rows] - data.moments.mean
        return training.sampled_gradient(model, params, centred, beta, key_z)

    def observe(
        self,
        data: Problem,
        params: linear.LinearVAEParams,
        hyper: training.Hyperparameters,
        key: PRNGKeyArray,
    ) -> Record:
        """Measure exactly, whatever gradients the model is trained with; no noise is drawn."""
        moments, spectrum = data.moments, data.spectrum
        terms = linear.elbo_terms(params, moments)
        elbo = terms.elbo(hyper.beta)
        sigma2 = jnp.exp(params.log_sigma2)
        optimum, likelihood_optimum = (
            ppca.optimal_elbo(spectrum.eigenvalues, self.k, self._sigma2(data, hyper, sigma2, b), b)
            for b in (hyper.beta, 1.0)
        )
        likelihood = ppca.log_likelihood(params.W, sigma2, moments)
        norms = jnp.linalg.norm(params.W, axis=0)
        cosine = jnp.abs(matmul(spectrum.eigenvectors.T, params.W)).max(axis=0) / norms
        # m² = v S vᵀ, read back from KL = ½ (D − 1 − log D + m²)
        mean_square = 2 * terms.kl - (jnp.expm1(params.log_d) - params.log_d)
        below = collapse.gaussian_probability_below(
            jnp.maximum(mean_square, 0),
            params.log_d,
            jnp.asarray(collapse.TABLE_EPSILON, mean_square.dtype),
        )
        return Record(
            elbo=elbo,
            gap=optimum - elbo,
            likelihood_gap=likelihood_optimum - likelihood,
            sigma2=sigma2,
            kl=terms.kl,
            angle=jnp.degrees(jnp.arccos(jnp.minimum(cosine, 1))),
            num_collapsed=collapse.count(collapse.is_collapsed(below), below),
            reconstruction=terms.reconstruction,
        )

    def _sigma2(
        self, data: Problem, hyper: training.Hyperparameters, held: Array, beta: Any
    ) -> Array:
        """Return the σ² of the optimum to compare with, which is held or learned."""
        if self.k == self.dimension(data):
            return jnp.where(hyper.learned, jnp.nan, held)
        best = ppca.optimal_sigma2(data.spectrum.eigenvalues, self.k, beta)
        return jnp.where(hyper.learned, best, held)
