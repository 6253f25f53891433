"""VAEs are made of Flax networks: multilayer perceptrons, convolutions, linear decoders.

Each class describes an architecture and is a `vae.Model`; its parameters are `vae.VAEParams`, with
plain nested dictionaries as weights. Nothing else here imports Flax.

Weights start as LeCun, Bottou, Orr and Müller (1998) have it, with variance 1/fan-in, and biases at
zero. log D starts at zero whatever the data, as in the linear VAE, because a random log D of
unscaled data would give variances of e^10. Posterior means start at a tenth of LeCun's scale
(`mean_scale`): from a larger KL Adam's first steps flee so fast that where σ² is large all latents
collapse, which is none of the ELBO's doing.

>>> import jax, jax.numpy as jnp
>>> from linvae_jax import networks
>>> model = networks.Mlp(n=6, k=2, encoder=(8,), decoder=(8,))
>>> params = model.init(jax.random.key(0), 1.0)
>>> model.decode(params, model.encode(params, jnp.ones((5, 6))).mean).shape
(5, 6)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from linvae_jax._internal import checks
from linvae_jax.vae import LatentParts, Part, Posterior, VAEParams

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "softplus": jax.nn.softplus,
    "identity": lambda x: x,  # a deep linear network
}


def _head_init(scale: float) -> Any:
    """Start means near zero, and log variances at zero where the encoder has them."""
    lecun = nnx.initializers.lecun_normal()

    def init(key: PRNGKeyArray, shape: tuple[int, int], dtype: Any) -> Array:
        k = shape[1] // 2
        mean = scale * lecun(key, (shape[0], k), dtype)
        return jnp.concatenate([mean, jnp.zeros((shape[0], k), dtype)], axis=1)

    return init


class _Mlp(nnx.Module):
    """The layers have names, in order: encoder0, …, head, decoder0, …, output."""

    def __init__(self, config: "Mlp", rngs: nnx.Rngs) -> None:
        layer = partial(nnx.Linear, param_dtype=config.dtype, precision=config.precision, rngs=rngs)
        widths = (config.n, *config.encoder)
        for i, (a, b) in enumerate(pairwise(widths)):
            setattr(self, f"encoder{i}", layer(a, b))
        if config.shared_variance:
            variance = config.mean_scale**2
            means = nnx.initializers.variance_scaling(variance, "fan_in", "truncated_normal")
            self.head = layer(widths[-1], config.k, kernel_init=means)
            self.log_d = nnx.Param(jnp.zeros(config.k, config.dtype))
        else:
            self.head = layer(widths[-1], 2 * config.k, kernel_init=_head_init(config.mean_scale))
        widths = (config.k, *config.decoder)
        for i, (a, b) in enumerate(pairwise(widths)):
            setattr(self, f"decoder{i}", layer(a, b))
        self.output = layer(widths[-1], config.n)


class _Conv(nnx.Module):
    """The layers for images are encoder0, …, head, start, decoder0, …, the last to pixels."""

    def __init__(self, config: "Conv", rngs: nnx.Rngs) -> None:
        layer = partial(nnx.Linear, param_dtype=config.dtype, precision=config.precision, rngs=rngs)
        up = nnx.initializers.variance_scaling(0.25, "fan_in", "truncated_normal")
        channels = (config.shape[2], *config.channels)
        size = math.prod(config.code)
        for i, (a, b) in enumerate(pairwise(channels)):
            setattr(self, f"encoder{i}", layer(16 * a, b))
        self.head = layer(size, 2 * config.k, kernel_init=_head_init(config.mean_scale))
        self.start = layer(config.k, size)
        for i, (a, b) in enumerate(pairwise(reversed(channels))):
            # four of the sixteen weights meet in a pixel
            setattr(self, f"decoder{i}", layer(a, 16 * b, use_bias=False, kernel_init=up))
            setattr(self, f"bias{i}", nnx.Param(jnp.zeros(b, config.dtype)))


def _shapes(weights: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(weights)
    return {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}


@lru_cache(maxsize=64)
def _structure(config: Any) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """Say what Flax needs besides the weights, and their shapes; no array is made."""
    made = nnx.eval_shape(lambda: config.module(config, nnx.Rngs(0)))
    graph, weights = nnx.split(made, nnx.Param)
    return graph, _shapes(nnx.to_pure_dict(weights))


def _pixelwise(layer: nnx.Linear, x: Float[Array, "N h w a"]) -> Float[Array, "N h w b"]:
    """Apply the layer at each pixel, as a product of two matrices.

    The same product of four dimensions takes a training step a quarter longer on CPU: for the
    gradient of the weights XLA then copies its operands into another order.
    """
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


@partial(jax.jit, static_argnames="config")
def _init(config: Any, key: PRNGKeyArray, sigma2: Any) -> VAEParams:
    _, weights = nnx.split(config.module(config, nnx.Rngs(key)), nnx.Param)
    return VAEParams(nnx.to_pure_dict(weights), jnp.log(jnp.asarray(sigma2, config.dtype)))


def _check_sizes(config: Any, widths: dict[str, tuple[int, ...]]) -> None:
    checks.in_range("k", config.k, 1, config.n, "no more latents than dimensions")
    checks.positive("data_scale", config.data_scale)
    checks.positive("mean_scale", config.mean_scale)
    for name, values in widths.items():
        if not isinstance(values, tuple):
            checks.fail(name, repr(values), "a tuple, which is hashable")
        for width in values:
            checks.in_range(name, width, 1, 2**31 - 1, "widths of layers")
    checks.one_of("activation", config.activation, tuple(ACTIVATIONS))
    checks.literals(config)


class _Network(LatentParts):
    """Both architectures start, and know their latents' weights, in the same way."""

    decoder_name: ClassVar[str] = "decoder"
    module: ClassVar[type]
    dtype: Literal["float32", "float64"]

    def init(self, key: PRNGKeyArray, sigma2: Any) -> VAEParams:
        """Draw random weights; the noise is σ²."""
        checks.positive_scalar("sigma2", sigma2)
        if jax.dtypes.canonicalize_dtype(self.dtype) != self.dtype:
            checks.fail("dtype", self.dtype, "float32", "float64 needs jax_enable_x64.")
        return _init(self, key, sigma2)

    def _with_weights(self, params: VAEParams) -> Any:
        """Make the module with these weights. Flax itself would take weights of other shapes."""
        graph, expected = _structure(self)
        got = _shapes(params.weights)
        for name in sorted(got.keys() | expected.keys()):
            if got.get(name) != expected.get(name):
                checks.fail(
                    f"params.weights{name}",
                    f"shape {got[name]}" if name in got else "nothing",
                    f"shape {expected[name]}" if name in expected else "nothing",
                    "They are of another architecture, or of several models, which is for vmap.",
                )
        return nnx.merge(graph, params.weights)

    def _parts(self, first: str, rows: np.ndarray, columns: np.ndarray) -> dict[str, Part]:
        """The decoder has rows of its first layer, the encoder columns of its head."""
        return {
            "decoder": Part(("weights", first, "kernel"), rows),
            "encoder": Part(("weights", "head", "kernel"), columns, axis=1),
            "bias": Part(("weights", "head", "bias"), columns),
        }


@dataclass(frozen=True)
class Mlp(_Network):
    """An `Mlp` is a VAE of multilayer perceptrons; without hidden layers it is a linear VAE.

    n is the data dimension, k the latent dimension.

    Attributes:
        encoder: widths of its hidden layers; () is a linear encoder.
        decoder: likewise.
        activation: of the hidden layers; "identity" makes deep linear networks.
        data_scale: the encoder sees the data divided by it; their standard deviation, say.
        mean_scale: of initial posterior means, in LeCun's.
        shared_variance: one log D for all data, as in the linear VAE, instead of one for each.
        dtype: of the weights at the start; functions compute in that of the weights they get.
        precision: of the products; "highest" is all digits, "default" is TF32 on some devices.

    Raises:
        ValueError: sizes below 1, k > n, an unknown activation, dtype or precision; from its
            functions, data or weights of other shapes.
    """

    n: int = 784
    k: int = 200
    encoder: tuple[int, ...] = (1024, 512)
    decoder: tuple[int, ...] = (512, 1024)
    activation: str = "relu"
    data_scale: float = 1.0
    mean_scale: float = 0.1
    shared_variance: bool = False
    dtype: Literal["float32", "float64"] = "float32"
    precision: Literal["highest", "high", "default"] = "highest"
    module: ClassVar[type] = _Mlp

    def __post_init__(self) -> None:
        """Raise `ValueError` for what cannot be built."""
        _check_sizes(self, {"encoder": self.encoder, "decoder": self.decoder})

    def encode(self, params: VAEParams, x: Float[Array, "N n"]) -> Posterior:
        """Return q(z | x) of centred data."""
        checks.shape("x", x, ("N", self.n))
        net, act = self._with_weights(params), ACTIVATIONS[self.activation]
        x = x.astype(params.log_sigma2.dtype) / self.data_scale
        for i in range(len(self.encoder)):
            x = act(getattr(net, f"encoder{i}")(x))
        out = net.head(x)
        if self.shared_variance:
            return Posterior(out, net.log_d[...])
        return Posterior(out[:, : self.k], out[:, self.k :])

    def decode(self, params: VAEParams, z: Float[Array, "N k"]) -> Float[Array, "N n"]:
        """Return E[x | z] − μ."""
        checks.shape("z", z, ("N", self.k))
        net, act = self._with_weights(params), ACTIVATIONS[self.activation]
        for i in range(len(self.decoder)):
            z = act(getattr(net, f"decoder{i}")(z))
        return net.output(z)

    def parts(self, latents: np.ndarray) -> dict[str, Part]:
        """Say where the weights of some latents lie, for `latent_weights`."""
        first = "decoder0" if self.decoder else "output"
        if self.shared_variance:
            log_d = {"log_d": Part(("weights", "log_d"), latents)}
            return self._parts(first, latents, latents) | log_d
        return self._parts(first, latents, np.concatenate([latents, self.k + latents]))


def im2col(x: Float[Array, "N H W C"]) -> Float[Array, "N h w p"]:
    """Lay out the 4 × 4 surroundings of each 2 × 2 block of pixels, with zeros beyond the edge.

    A convolution with kernel 4, stride 2, padding 1 is a product of these with its weights. That is
    one large matrix product, fast inside loops and under `vmap`, where XLA's convolutions are not.
    H and W are even; the result is (N, H/2, W/2, 16 C).
    """
    N, H, W, C = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    blocks = x.reshape(N, H // 2 + 1, 2, W // 2 + 1, 2, C).transpose(0, 1, 3, 2, 4, 5)
    blocks = blocks.reshape(N, H // 2 + 1, W // 2 + 1, 4 * C)
    corners = (blocks[:, i : i + H // 2, j : j + W // 2] for i in (0, 1) for j in (0, 1))
    return jnp.concatenate(list(corners), axis=-1)


def col2im(p: Float[Array, "N h w p"]) -> Float[Array, "N H W C"]:
    """Add up what `im2col` lays out, (N, h, w, 16 C), to (N, 2h, 2w, C).

    It is the transpose of `im2col`, not its inverse. Transposed convolutions use it.
    """
    N, h, w, _ = p.shape
    C = p.shape[-1] // 16
    corners = jnp.split(p, 4, axis=-1)
    blocks = sum(
        jnp.pad(c, ((0, 0), (i, 1 - i), (j, 1 - j), (0, 0)))
        for c, (i, j) in zip(corners, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True)
    )
    x = jnp.asarray(blocks).reshape(N, h + 1, w + 1, 2, 2, C).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(N, 2 * h + 2, 2 * w + 2, C)[:, 1:-1, 1:-1]


@dataclass(frozen=True)
class Conv(_Network):
    """A `Conv` is a VAE of convolutions, kernel 4 and stride 2, down to a linear code and back.

    It is in the manner of Higgins et al., *β-VAE*, ICLR 2017. The other attributes are as in `Mlp`.

    Attributes:
        shape: (H, W, C) of an image; data are its pixels row by row, n = H·W·C.
        channels: of the layers of the encoder; each halves H and W.

    Raises:
        ValueError: H or W not divisible by 2 for each layer, or as in `Mlp`.
    """

    shape: tuple[int, ...] = (64, 64, 3)
    k: int = 500
    channels: tuple[int, ...] = (32, 64, 128, 256)
    activation: str = "relu"
    data_scale: float = 1.0
    mean_scale: float = 0.1
    dtype: Literal["float32", "float64"] = "float32"
    precision: Literal["highest", "high", "default"] = "highest"
    module: ClassVar[type] = _Conv

    def __post_init__(self) -> None:
        """Raise `ValueError` for what cannot be built."""
        factor = 2 ** len(self.channels)
        if len(self.shape) != 3 or not self.channels or any(s % factor for s in self.shape[:2]):
            checks.fail("shape", self.shape, f"(H, W, C) with H and W divisible by {factor}")
        _check_sizes(self, {"shape": self.shape, "channels": self.channels})

    @property
    def n(self) -> int:
        """The data have n = H·W·C dimensions."""
        return math.prod(self.shape)

    @property
    def code(self) -> tuple[int, int, int]:
        """The last convolution has this shape (h, w, channels)."""
        factor = 2 ** len(self.channels)
        return self.shape[0] // factor, self.shape[1] // factor, self.channels[-1]

    def encode(self, params: VAEParams, x: Float[Array, "N n"]) -> Posterior:
        """Return q(z | x) of centred data."""
        checks.shape("x", x, ("N", self.n))
        net, act = self._with_weights(params), ACTIVATIONS[self.activation]
        image = x.reshape(-1, *self.shape).astype(params.log_sigma2.dtype) / self.data_scale
        for i in range(len(self.channels)):
            image = act(_pixelwise(getattr(net, f"encoder{i}"), im2col(image)))
        out = net.head(image.reshape(x.shape[0], -1))
        return Posterior(out[:, : self.k], out[:, self.k :])

    def decode(self, params: VAEParams, z: Float[Array, "N k"]) -> Float[Array, "N n"]:
        """Return E[x | z] − μ."""
        checks.shape("z", z, ("N", self.k))
        net, act = self._with_weights(params), ACTIVATIONS[self.activation]
        image = net.start(z).reshape(-1, *self.code)
        for i in range(len(self.channels)):
            image = col2im(_pixelwise(getattr(net, f"decoder{i}"), act(image)))
            image = image + getattr(net, f"bias{i}")[...]
        return image.reshape(z.shape[0], -1)

    def parts(self, latents: np.ndarray) -> dict[str, Part]:
        """Say where the weights of some latents lie, for `latent_weights`."""
        return self._parts("start", latents, np.concatenate([latents, self.k + latents]))


def named(
    name: str,
    n: int,
    k: int,
    *,
    image_shape: tuple[int, ...] | None = None,
    widths: tuple[int, ...] | None = None,
    data_scale: float = 1.0,
) -> Mlp | Conv:
    """Make the architecture that has a name.

    `name` is "mlp" or "conv". With a linear decoder, to compare with pPCA, it is "linear-encoder"
    (the linear VAE as a network), "deep-linear-encoder" or "mlp-encoder". "conv" needs
    `image_shape`, (H, W, C). `widths` are those of the encoder's hidden layers in "mlp", whose
    decoder mirrors them, and in "mlp-encoder", or the channels of "conv"; by default they are those
    of the class. `data_scale` is as in `Mlp`.

    Raises:
        ValueError: another name; "conv" for data that are no colour images; sizes that do not fit.
    """
    if name == "conv":
        if image_shape is None or len(image_shape) != 3:
            checks.fail("network", f"'conv' for data of shape {image_shape}", "colour images")
        channels = Conv.channels if widths is None else widths
        return Conv(image_shape, k, channels, data_scale=data_scale)
    widths = Mlp.encoder if widths is None else widths
    known = {
        "mlp": Mlp(n, k, widths, widths[::-1]),
        "linear-encoder": Mlp(n, k, (), (), shared_variance=True),
        "deep-linear-encoder": Mlp(n, k, (256, 256), (), "identity", shared_variance=True),
        "mlp-encoder": Mlp(n, k, widths, ()),
    }
    checks.one_of("network", name, ("conv", *known))
    return replace(known[name], data_scale=data_scale)
