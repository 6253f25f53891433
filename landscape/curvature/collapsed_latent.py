"""The Hessian in the weights of one collapsed latent of a VAE: could it come back, at which σ²?

Where the decoder ignores latent j and the encoder gives it the prior, first derivatives in that
latent's own weights vanish: such a point is stationary in them wherever the other weights are. Its
Hessian in them has the closed form of README.md here, section 5: three matrices, the same for all
σ² and β, which give the σ² below which the latent can come back. For a linear VAE in which it has
nothing to share that is the largest eigenvalue that no latent uses.

>>> import jax, jax.numpy as jnp
>>> from landscape.curvature import collapsed_latent
>>> from linvae_jax import linear
>>> with jax.enable_x64(True):
...     x = jax.random.normal(jax.random.key(0), (1000, 2)) * jnp.array([3.0, 1.0])
...     model = linear.Model(2, 1)
...     params = model.init(jax.random.key(1), 1.0)  # of no matter: the one latent is collapsed
...     blocks = collapsed_latent.blocks(model, params, x, jax.random.key(2), 0)
...     largest = jnp.linalg.eigvalsh(x.T @ x / 1000)[-1]
...     print(round(float(blocks.critical_sigma2() / largest), 12))
1.0
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from landscape.autodiff import hessian
from linvae_jax import sources, vae
from linvae_jax._internal import checks
from linvae_jax._internal.linalg import matmul

_PIECE = 2000  # data whose gradients are kept at once


def in_float64(params: Any) -> Any:
    """Take floats to double precision; raise `ValueError` if jax_enable_x64 is off."""
    if jnp.result_type(float) != jnp.float64:
        checks.fail("jax_enable_x64", False, "True", "Curvature needs double precision.")

    def double(leaf: Any) -> Array:
        if isinstance(leaf, jax.Array) and not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf  # counts and keys, in a module of someone else
        return jnp.asarray(leaf, jnp.float64)

    return jax.tree.map(double, params)


def collapse_latents(model: vae.LatentModel, params: Any, latents: Sequence[int]) -> Any:
    """Collapse latents of a VAE: the decoder ignores them, the encoder gives them the prior.

    Latents are counted from 0. One that does not exist raises `ValueError`.
    """
    chosen = tuple(int(j) for j in latents)
    weights = jax.tree.map(jnp.zeros_like, model.latent_weights(params, chosen))
    return model.with_latent_weights(params, chosen, weights)


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Blocks:
    """`Blocks` make the β-ELBO's Hessian in one collapsed latent's weights, at all σ² and β.

    It is [[−A/σ², B/σ²], [Bᵀ/σ², −βC]], over the decoder's weights and then the encoder's.

    Attributes:
        decoder: (d, d), A: the mean Hessian of half the square error in what the latent feeds.
        coupling: (d, e), B: minus the mean of that error's gradient times the encoder's features.
        encoder: (e, e), C: second moments of those features.
    """

    decoder: Float[Array, "d d"]
    coupling: Float[Array, "d e"]
    encoder: Float[Array, "e e"]

    @jax.jit
    def hessian(self, sigma2: Any, beta: Any = 1.0) -> Float[Array, "p p"]:
        """Put the whole matrix together at one σ², nats per datum; p = d + e."""
        top = jnp.concatenate([-self.decoder, self.coupling], axis=1) / sigma2
        bottom = jnp.concatenate([self.coupling.T / sigma2, -beta * self.encoder], axis=1)
        return jnp.concatenate([top, bottom])

    def critical_sigma2(self, beta: Any = 1.0) -> Float[Array, ""]:
        """Compute the σ² below which the latent can come back, to second order; data unit².

        It is γ/β, γ the largest eigenvalue of B C⁻¹Bᵀ against A. It is inf where A has a negative
        eigenvalue, because reconstruction then gains by letting the latent's noise in, and where B
        couples to a direction in which A is zero.
        """
        return self._steepest()[0] / beta

    def direction(self) -> Float[Array, "d"]:
        """Give the unit vector of decoder weights in which the latent would leave; 0 if nowhere."""
        return self._steepest()[1]

    @jax.jit
    def index(self, sigma2: Any, beta: Any = 1.0) -> Int[Array, ""]:
        """Count the ways in which the latent can come back: the index of `hessian`, in every unit.

        Counted are the positive eigenvalues of B C⁻¹Bᵀ/(βσ²) − A. Its variables are the decoder's
        weights alone, all of one unit. Eigenvalues of `hessian` range from one over the data's
        variance to that variance.
        """
        told = self._told()
        gain = matmul(told, told.T) / (beta * sigma2)
        values = jnp.linalg.eigvalsh(gain - self.decoder)
        largest = jnp.abs(gain).max() + jnp.abs(self.decoder).max()
        rounding = hessian.default_rtol(len(values), values.dtype) * largest
        return (values > rounding).sum()

    def _told(self) -> Float[Array, "d e"]:
        """Compute B C^(−½), what the encoder can tell of the error's gradient."""
        # features in units of their own: their scales may differ by many orders
        size = jnp.sqrt(jnp.diag(self.encoder))
        size = jnp.where(size > 0, size, 1)
        values, vectors = jnp.linalg.eigh(self.encoder / size / size[:, None])
        return matmul(self.coupling / size, vectors * _inverse_root(values)[0])

    @jax.jit  # op by op it compiles forty programs for each size
    def _steepest(self) -> tuple[Float[Array, ""], Float[Array, "d"]]:
        """Compute γ and its direction."""
        coupled = self._told()
        values, vectors = jnp.linalg.eigh(self.decoder)
        scale, small = _inverse_root(values)
        whitened = vectors * scale
        # singular values, not eigenvalues of the square, which would lose half of the digits
        left, found, _ = jnp.linalg.svd(matmul(whitened.T, coupled), full_matrices=False)
        flat = jnp.where(scale == 0, jnp.linalg.norm(matmul(vectors.T, coupled), axis=1), 0)
        free = flat.max() > jnp.sqrt(jnp.finfo(flat.dtype).eps) * jnp.linalg.norm(coupled)
        infinite = (values[0] < -small) | free
        best = matmul(whitened, left[:, :1])[:, 0]
        best = jnp.where(free, vectors[:, flat.argmax()], best)
        best = jnp.where(values[0] < -small, vectors[:, 0], best)
        size = jnp.linalg.norm(best)
        return jnp.where(infinite, jnp.inf, found[0] ** 2), best / jnp.where(size > 0, size, 1)


def _inverse_root(values: Array) -> tuple[Array, Array]:
    """Compute values^(−1/2), zero where they are rounding, and what counts as rounding."""
    small = hessian.default_rtol(len(values), values.dtype) * jnp.abs(values).max()
    return jnp.where(values > small, values, jnp.inf) ** -0.5, small


def _as_first(
    model: vae.LatentModel, params: Any, x: Array, key: PRNGKeyArray, latent: int
) -> tuple[Any, Array, Array]:
    """Collapse this latent and make it the first, in the VAE and in the noise.

    So the programs below serve any latent, and are compiled once.
    """
    checks.in_range("latent", latent, 0, model.k - 1, "k latents, from 0")
    point = collapse_latents(model, in_float64(params), (latent,))
    data = jnp.asarray(x, jnp.float64)
    noise = jax.random.normal(key, (len(data), model.k), jnp.float64)
    if latent:
        swapped = model.latent_weights(point, (latent, 0))
        point = model.with_latent_weights(point, (0, latent), swapped)
        noise = _swapped(noise, latent)
    return point, data, noise


@jax.jit
def _swapped(noise: Array, latent: Array | int) -> Array:
    """Put columns 0 and `latent` in each other's place."""
    return noise.at[:, 0].set(noise[:, latent]).at[:, latent].set(noise[:, 0])


@jax.jit
def _added(total: Any, more: Any, count: Array | int) -> Any:
    """Add to the means so far what more of all `count` data adds."""
    return jax.tree.map(lambda a, b: a + b / count, total, more)


@jax.jit
def _blocks(decoder: Array, coupling: Array, encoder: Array) -> "Blocks":
    # units silent in all data of A are as good as dead
    silent = jnp.diag(decoder) == 0
    return Blocks(decoder, jnp.where(silent[:, None], 0, coupling), encoder)


def critical_sigma2(A: Any, B: Any, C: Any, beta: Any = 1.0) -> float:
    """Compute the σ² below which a collapsed latent can come back, from arrays of any framework.

    README.md here, section 5, says what they are, and shows how PyTorch makes them. They must be
    float64: in single precision a direction that bends little looks flat, and lets the latent out
    at any σ². The result is float64 too, whether or not `jax_enable_x64` is set. It takes arrays as
    they are, not traced ones, for which `Blocks` is.

    Args:
        A: (d, d), mean Hessian of half the square error in what the latent feeds.
        B: (d, e), minus the mean of that error's gradient times the encoder's features.
        C: (e, e), second moments of those features.
        beta: weight of the KL.

    Returns:
        `Blocks(A, B, C).critical_sigma2(beta)`, in the unit of the square error, inf as there. A
        row of B where A is zero is taken for zero: that unit is silent in all data.

    Raises:
        ValueError: shapes that disagree, NaN or Inf, A or C not symmetric, a negative eigenvalue of
            C, narrower floats, β ≤ 0.
    """
    decoder, coupling, encoder = (
        _double(name, of) for name, of in zip("ABC", (A, B, C), strict=True)
    )
    checks.symmetric("A", decoder)
    checks.symmetric("C", encoder)
    checks.shape("B", coupling, (len(decoder), len(encoder)))
    checks.finite("B", coupling)
    beta = checks.positive_scalar("beta", beta)
    values = np.linalg.eigvalsh(encoder)
    if values[0] < -hessian.default_rtol(len(values), values.dtype) * abs(values).max():
        checks.fail("C", f"smallest eigenvalue {values[0]:.3g}", "second moments, all >= 0")
    with jax.enable_x64(True):
        found = _blocks(*map(jnp.asarray, (decoder, coupling, encoder)))
        return float(found.critical_sigma2(beta))


def _double(name: str, x: Any) -> np.ndarray:
    """Read float64, or integers, which are exact."""
    values = np.asarray(checks.numbers(name, x))
    if values.dtype.kind == "f" and values.dtype.itemsize < 8:
        hint = "Compute in double precision: model.double() in PyTorch."
        checks.fail(name, f"an array of dtype {values.dtype}", "float64", hint)
    return values.astype(np.float64)


def _square_error(
    model: vae.LatentModel, params: Any, weights: dict[str, Array], x: Array, noise: Array
) -> Float[Array, "N"]:
    """Compute the error of each datum with these weights of the first latent."""
    point = model.with_latent_weights(params, (0,), weights)
    return vae.with_noise(model, point, x, noise).square_error


@partial(jax.jit, static_argnames=("model", "batch_size"))
def _first_order(
    model: vae.LatentModel, params: Any, x: Array, noise: Array, batch_size: int
) -> tuple[Array, Array]:
    """Sum up B and C, from one gradient of the error and of the posterior for each datum."""
    weights = dict(model.latent_weights(params, (0,)))
    decoder = {model.decoder_name: weights.pop(model.decoder_name)}

    def half_error(changed: Any, datum: Array, eps: Array) -> Array:
        return _square_error(model, params, weights | changed, datum[None], eps[None])[0] / 2

    def posterior(changed: Any, datum: Array) -> Array:
        point = model.with_latent_weights(params, (0,), decoder | changed)
        found = model.encode(point, datum[None])
        log_d = jnp.broadcast_to(found.log_d, found.mean.shape)
        return jnp.stack([found.mean[0, 0], log_d[0, 0]])

    def flat(tree: Any, batch: int = 0) -> Array:
        return jnp.concatenate([leaf.reshape(*leaf.shape[:batch], -1) for leaf in tree], axis=-1)

    def of_datum(datum_eps: tuple[Array, Array]) -> tuple[Array, Array]:
        datum, eps = datum_eps
        # with z = 1 the gradient in the latent's weights is that in what they feed
        slope = jax.grad(half_error)(decoder, datum, eps.at[0].set(1))
        features = jax.jacrev(posterior)(weights, datum)
        return flat(jax.tree.leaves(slope)), flat(jax.tree.leaves(features), 1)

    slopes, features = jax.lax.map(of_datum, (x, noise), batch_size=batch_size)
    mean, log_d = features[:, 0], features[:, 1]
    return -matmul(slopes.T, mean), matmul(mean.T, mean) + matmul(log_d.T, log_d) / 2


@partial(jax.jit, static_argnames="model")
def _second_order(model: vae.LatentModel, params: Any, x: Array, noise: Array) -> Array:
    """Make A from Hessian-vector products of the error."""
    noise = noise.at[:, 0].set(1)  # enters by its square, of mean 1
    weights = model.latent_weights(params, (0,))
    name = model.decoder_name

    def half_error(decoder: Array) -> Array:
        return _square_error(model, params, weights | {name: decoder}, x, noise).mean() / 2

    return hessian.dense(half_error, weights[name], chunk=8)


def blocks(
    model: vae.LatentModel,
    params: Any,
    x: Float[Array, "N n"],
    key: PRNGKeyArray,
    latent: int,
    *,
    hessian_data: int = 1000,
    batch_size: int = 64,
) -> Blocks:
    """Make the Hessian in the weights of a latent of a trained VAE that is made to collapse.

    The other latents stay as they are; `key` draws their noise, once for each datum.

    `x` (N, n) are centred data. Take those that the model was trained on: in a smaller sample
    chance correlations of features make the critical σ² too large. A datum may come several times
    in a row, with other noise each time.

    A is a mean over `hessian_data` of the data. It takes a Hessian-vector product for each of the
    decoder's weights, eight at a time, each with memory for all of these data. B and C take one
    gradient for each datum, `batch_size` at once.

    Returns:
        `Blocks`, float64; exact for these data and this noise, where the decoder is smooth. For
        ReLU, A is that of almost every z, E[JᵀJ]: it does not see the kinks that noise smooths out;
        `curvature_along` does.

    Raises:
        ValueError: data of another n, NaN or Inf, no latent of that number, no float64.

    Source: README.md here, section 5; our own derivation.
    """
    checks.data_matrix("x", x, model.n)
    checks.in_range("hessian_data", hessian_data, 1, 2**31 - 1, "at least one")
    checks.in_range("batch_size", batch_size, 1, 2**31 - 1, "at least one")
    point, data, noise = _as_first(model, params, x, key, latent)
    some = sources.spread(len(data), hessian_data)
    means: Any = (0.0, 0.0)
    for i in range(0, len(data), _PIECE):
        piece = slice(i, i + _PIECE)
        sums = _first_order(model, point, data[piece], noise[piece], batch_size)
        means = _added(means, sums, len(data))
    decoder = _second_order(model, point, *(jnp.take(of, some, axis=0) for of in (data, noise)))
    return _blocks(decoder, *means)


@partial(jax.jit, static_argnames="model")
def _slopes(model: vae.LatentModel, params: Any, x: Array, noise: Array, along: Array) -> Array:
    """Sum over data the error's slope along a direction of the decoder's weights, z = ±1."""
    weights = model.latent_weights(params, (0,))
    name = model.decoder_name
    step = along.reshape(weights[name].shape)

    def half_error(t: Array, z: float) -> Array:
        noisy = noise.at[:, 0].set(z)
        return _square_error(model, params, weights | {name: t * step}, x, noisy).sum() / 2

    slope = jax.grad(half_error)
    return (slope(jnp.ones(()), 1.0) + slope(jnp.ones(()), -1.0)) / 2


def curvature_along(
    model: vae.LatentModel,
    params: Any,
    x: Float[Array, "N n"],
    key: PRNGKeyArray,
    latent: int,
    direction: Float[Array, "d"],
    step: float,
) -> Float[Array, ""]:
    """Measure dᵀA d by slopes of the error at ±step · d, with the kinks that lie between.

    `direction` (d,) is a unit vector of the decoder's weights, and step > 0. The other arguments
    are those of `blocks`. The error is of order step²; small steps see few kinks.

    Returns:
        The mean over the data, in the unit of A.

    Raises:
        ValueError: as `blocks`; a direction of another shape, NaN or Inf; step ≤ 0.
    """
    checks.data_matrix("x", x, model.n)
    checks.shape("direction", direction, ("d",))
    checks.finite("direction", direction)
    checks.positive("step", step)
    point, data, noise = _as_first(model, params, x, key, latent)
    total = jnp.zeros(())
    for i in range(0, len(data), _PIECE):
        piece = slice(i, i + _PIECE)
        total += _slopes(model, point, data[piece], noise[piece], step * direction)
    return total / (len(data) * step**2)
