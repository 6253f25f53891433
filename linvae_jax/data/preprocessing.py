"""Pixels become real numbers and back: dequantise, logit, and the constant between two scales.

A Gaussian model needs data on the whole real line, and a density needs data that are not
discrete. So a pixel p ∈ {0, …, 255} gets uniform noise, x = (p + u)/256 ∈ (0, 1), and then
y = logit(α + (1 − 2α) x). The model is fitted to y; bounds on the pixel scale differ from those
of y by a constant J of the data alone (`pixel_constant`), so that

    ELBO of the pixels = ELBO of y + J, in nats per datum.

>>> import jax, numpy as np
>>> from linvae_jax.data import preprocessing
>>> pixels = np.array([[0, 128], [255, 3]], np.uint8)
>>> x = preprocessing.dequantise(pixels, jax.random.key(0))
>>> y = preprocessing.logit(x, alpha=0.01)
>>> np.floor(256 * preprocessing.sigmoid(y, alpha=0.01)).astype(int).tolist()
[[0, 128], [255, 3]]
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from linvae_jax._internal import arrays, checks

LEVELS = 256  # grey values of an 8-bit pixel


def dequantise(pixels: Any, key: PRNGKeyArray, dtype: Any = None) -> Float[Array, "*shape"]:
    """Dequantise uniformly: x = (p + u)/256 with u uniform between 0 and 1.

    The pixel can be read off again exactly: ⌊256 x⌋ = p in every dtype. `key` draws u; the same key
    gives the same noise. Works under `jit`.

    Pixels are of any integer dtype. The result has their shape, strictly between 0 and 1, and the
    dtype given, float32 or float64; by default JAX's default float.

    Raises:
        ValueError: pixels that are not integers from 0 to 255, or another dtype.
    """
    pixels = _check_pixels(pixels)
    checks.key("key", key)
    dtype = _float_dtype(dtype)
    floor = jnp.asarray(pixels).astype(dtype)
    # `uniform` returns multiples of eps from 0; half a step more centres them, and none is 0
    u = jax.random.uniform(key, floor.shape, dtype) + jnp.finfo(dtype).eps / 2
    # p + u may round up to p + 1, as 255 + u does once in 2¹⁷ draws of float32: the next pixel,
    # or x = 1, where the logit of α = 0.01 is still finite but the pixel is 256
    below_next = jnp.nextafter((floor + 1) / LEVELS, jnp.zeros((), dtype))
    return jnp.minimum((floor + u) / LEVELS, below_next)


def logit(x: Any, alpha: float | Float[Array, ""]) -> Float[Array, "*shape"]:
    """Map (0, 1) to the real line: y = log s − log(1 − s) with s = α + (1 − 2α) x.

    α keeps y within ±logit(1 − α). With α = 0, which is refused, an x of exactly 0 or 1 would go to
    ±∞; `dequantise` never gives such an x, but other sources do. The result has x's shape and
    dtype; float32 if that is narrower.

    Raises:
        ValueError: x outside [0, 1], NaN or not floating; α outside (0, ½).
    """
    s, t = _squeezed(x, alpha)
    return jnp.log(s) - jnp.log(t)


def sigmoid(y: Any, alpha: float | Float[Array, ""]) -> Float[Array, "*shape"]:
    """Invert `logit`: x = (sigmoid(y) − α)/(1 − 2α), in y's dtype; float32 if that is narrower.

    Beyond ±logit(1 − α), where a model's samples may fall but no data do, x leaves [0, 1] by at
    most α/(1 − 2α); clip it to show images.

    Raises:
        ValueError: y not numeric, NaN or Inf; α outside (0, ½).
    """
    _check_alpha(alpha)
    y = arrays.as_float("y", y)
    checks.finite("y", y)
    return (jax.nn.sigmoid(y) - alpha) / (1 - 2 * alpha)


@dataclass(frozen=True)
class Logit:
    """A `Logit` takes pixels to what a Gaussian model sees: `dequantise` once, then `logit`.

    `alpha` is that of `logit`; one outside (0, ½) raises `ValueError`. A `Logit` is hashable, so a
    training step that is compiled with it can carry uint8 pixels on the device, an eighth of
    float64, and draw fresh noise whenever it looks at them.

    >>> import jax, numpy as np
    >>> from linvae_jax.data import preprocessing
    >>> transform = preprocessing.Logit(alpha=1e-6)
    >>> y = jax.jit(transform)(np.array([[0, 128], [255, 3]], np.uint8), jax.random.key(0))
    >>> y.dtype
    dtype('float32')
    """

    alpha: float

    def __post_init__(self) -> None:
        """Raise `ValueError` for α outside (0, ½)."""
        _check_alpha(self.alpha)
        # a NumPy scalar has a dtype, which would make float64 of float32 pixels
        object.__setattr__(self, "alpha", float(self.alpha))

    def __call__(
        self, pixels: Any, key: PRNGKeyArray, dtype: Any = jnp.float32
    ) -> Float[Array, "*shape"]:
        """Take pixels (*shape,) to y (*shape,), finite: |y| ≤ logit(1 − α), whatever is drawn."""
        return logit(dequantise(pixels, key, dtype), self.alpha)

    def constant(self, pixels: Any) -> float:
        """Compute `pixel_constant` of pixels (N, n), in memory or mapped."""
        return pixel_constant(pixels, self.alpha)


def log_jacobian(x: Any, alpha: float | Float[Array, ""]) -> Float[Array, "N"]:
    """Sum log|dy/dx| of `logit` over the n dimensions: the log determinant of its Jacobian.

    With s = α + (1 − 2α) x: log|dy/dx| = log(1 − 2α) − log s − log(1 − s), in nats per datum. For a
    whole image data set `pixel_constant` has its expectation without drawing noise.

    Raises:
        ValueError: x not (N, n), or as for `logit`.
    """
    checks.shape("x", x, ("N", "n"))
    s, t = _squeezed(x, alpha)
    return (jnp.log1p(-2 * alpha) - jnp.log(s) - jnp.log(t)).sum(axis=1)


def pixel_constant(pixels: Any, alpha: float) -> float:
    """Compute the J that takes an ELBO of y to the pixel scale: ELBO(pixels) = ELBO(y) + J.

    J = (1/N) Σ_images E_u[ Σ log|dy/dx| ] − n log 256, the second term because x is 256 times
    finer than a pixel. Exact in u: with s = α + (1 − 2α) x uniform on an interval of width
    w = (1 − 2α)/256 for each grey value, E[log s] is a difference of s log s − s over w. So 256
    numbers and a histogram of the pixels are enough.

    The bound holds for discrete pixels, since log P(p) ≥ E_u[log density of p + u]. J is in nats
    per datum, computed in float64 whatever JAX's precision.

    Raises:
        ValueError: pixels not (N, n) or not integers from 0 to 255; α outside (0, ½).
    """
    checks.shape("pixels", pixels, ("N", "n"))
    values = np.asarray(_check_pixels(pixels))
    _check_alpha(alpha)
    # `bincount` wants int64 (before NumPy 2.3 it refuses uint64), eight times the memory of bytes:
    # go by pieces
    rows = max(1, 2**22 // values.shape[1])
    counts = sum(
        np.bincount(values[i : i + rows].ravel().astype(np.int64), minlength=LEVELS)
        for i in range(0, len(values), rows)
    )
    per_pixel = counts @ _expected_log_slope(float(alpha)) / values.size
    return float(values.shape[1] * (per_pixel - np.log(LEVELS)))


def _expected_log_slope(alpha: float) -> np.ndarray:
    """Compute E_u[log|dy/dx|] for each of the 256 grey values."""
    edges = alpha + (1 - 2 * alpha) * np.arange(LEVELS + 1) / LEVELS
    width = (1 - 2 * alpha) / LEVELS
    mean_log = np.diff(edges * np.log(edges) - edges) / width  # E[log s]
    # the edges mirrored are 1 − s, so that E[log(1 − s)] is the same table backwards
    return np.log1p(-2 * alpha) - mean_log - mean_log[::-1]


def _squeezed(x: Any, alpha: Any) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Return the number s = α + (1 − 2α) x, and 1 − s."""
    _check_alpha(alpha)
    x = checks.numbers("x", x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        checks.fail(
            "x",
            f"dtype {x.dtype}",
            "floats from 0 to 1",
            "Are these pixels? `dequantise` them first.",
        )
    x = arrays.as_float("x", x)
    if checks.concrete(x) and x.size:
        low, high = float(x.min()), float(x.max())  # NaN if any is
        if not (low >= 0 and high <= 1):
            checks.fail("x", f"values from {low:.6g} to {high:.6g}", "floats from 0 to 1")
    # 1 − x is exact near 1, whereas 1 − s would keep one digit at s = 1 − 10⁻⁶ in float32
    return alpha + (1 - 2 * alpha) * x, alpha + (1 - 2 * alpha) * (1 - x)


def _check_alpha(alpha: Any) -> None:
    checks.numbers("alpha", alpha)
    checks.shape("alpha", alpha, ())
    if checks.concrete(alpha) and not 0 < alpha < 0.5:
        checks.fail(
            "alpha", alpha, "0 < alpha < 0.5", "At 0, x = 0 maps to -inf; at 0.5, all to 0."
        )


def _check_pixels(pixels: Any) -> Any:
    pixels = checks.numbers("pixels", pixels)
    dtype = pixels.dtype
    if not jnp.issubdtype(dtype, jnp.integer):
        checks.fail(
            "pixels",
            f"an array of dtype {dtype}",
            "integers from 0 to 255",
            "If they are whole numbers, pixels.astype('uint8').",
        )
    if dtype != np.uint8 and checks.concrete(pixels):
        values = np.asarray(pixels)
        if values.size and (values.min() < 0 or values.max() > LEVELS - 1):
            checks.fail(
                "pixels", f"values from {values.min()} to {values.max()}", "integers from 0 to 255"
            )
    return pixels


def _float_dtype(dtype: Any) -> np.dtype[Any]:
    default = jnp.result_type(float)
    wanted = np.dtype(default if dtype is None else dtype)
    if wanted not in (np.dtype(np.float32), np.dtype(np.float64)):
        checks.fail("dtype", wanted, "float32 or float64", "Fewer bits leave none for the noise.")
    if wanted == np.float64 and default != np.float64:
        checks.fail("dtype", wanted, "float32", "float64 needs jax_enable_x64.")
    return wanted
