"""Anybody's VAE in JAX becomes a `vae.Model` in one line: two functions, Flax NNX, Flax Linen.

The VAE stays as it is: it takes data in their own units and shape, (N, n) or images, and gives
E[x | z] in the same. Around it `Adapted` flattens the data and takes their mean off.

    model, params = adapters.from_functions(encode, decode, weights, x)
    model, params = adapters.from_nnx(module, x)
    model, params = adapters.from_linen(module, variables, x)

`encode` gives a pair: means (N, k), and log variances (N, k), or (k,) if all data share them. A
module must be in evaluation mode, without dropout, and with the running statistics of a batch
normalisation: `module.eval()` in NNX. Where `encode` draws a sample, needs a key or a flag, or
gives standard deviations, hand over a function around it: `lambda m, x: m.heads(x, train=False)`.
`decode` gives x̂, not logits.

`latents` says where each latent's own weights lie, and makes the result a `vae.LatentModel`. They
are the row that its z_j meets in the decoder's first layer, named "decoder", and all that makes
its mean and log variance in the encoder, under any names. The convolutional or dense layers
beyond are of no matter.

>>> import jax, jax.numpy as jnp
>>> from landscape.diagnosis import adapters
>>> weights = {"V": 0.1 * jnp.ones((4, 2)), "log_d": jnp.zeros(2), "W": jnp.ones((2, 4))}
>>> x = 5.0 + jax.random.normal(jax.random.key(0), (50, 2, 2))  # images
>>> model, params = adapters.from_functions(
...     lambda w, x: (x.reshape(-1, 4) @ w["V"] - 2.0, w["log_d"]),
...     lambda w, z: (z @ w["W"]).reshape(-1, 2, 2) + 5.0,
...     weights,
...     x,
... )
>>> model.encode(params, x.reshape(-1, 4) - params.mean).mean.shape  # as every model here
(50, 2)
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from landscape.diagnosis import _adapting
from linvae_jax import sources, vae
from linvae_jax._internal import checks


class At(NamedTuple):
    """Weights of latent j are entry `offset` + j along `axis` of the array at `path`.

    A path is the names on the way, "params/head/kernel" in Linen's variables, "head/kernel" in an
    NNX module, "0/1" in a list of tuples. `offset` is k for the second half of a head of 2k.
    """

    path: str
    axis: int = 0
    offset: int = 0


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class AdaptedParams(vae.VAEParams):
    """The weights are a flat dictionary of arrays by path; `mean` is the data's μ, flattened."""

    mean: Float[Array, "n"]


@dataclass(frozen=True)
class Adapted:
    """A VAE of someone else is a `vae.Model`: of data (N, n) with their mean taken off.

    Attributes:
        encoder: (weights, x) → (mean, log_var), as the user has it.
        decoder: (weights, z) → x̂, likewise.
        shape: of one datum as they take it.
        k: number of latents.
        names: paths of the weights, in the order of `tree`.
        tree: how the weights are nested, as JAX flattens them.
    """

    encoder: Callable[[Any, Array], Any]
    decoder: Callable[[Any, Array], Any]
    shape: tuple[int, ...]
    k: int
    names: tuple[str, ...]
    tree: Any

    @property
    def n(self) -> int:
        """A datum has n numbers."""
        return math.prod(self.shape)

    def init(self, key: Any, sigma2: Any) -> Any:
        """Raise `ValueError`: how to draw weights is not known here."""
        checks.fail("init", "an adapted model", "one of linvae_jax", "Draw weights as you did.")

    def encode(self, params: AdaptedParams, x: Float[Array, "N n"]) -> vae.Posterior:
        """Return q(z | x) of centred data, in the dtype of the parameters."""
        checks.shape("x", x, ("N", self.n))
        weights, dtype = self.weights(params), params.log_sigma2.dtype
        own = (x.astype(dtype) + params.mean).reshape(-1, *self.shape)
        mean, log_var = _adapting.pair(self.encoder(weights, own), len(x), self.k)
        return vae.Posterior(mean.astype(dtype), log_var.astype(dtype))

    def decode(self, params: AdaptedParams, z: Float[Array, "N k"]) -> Float[Array, "N n"]:
        """Return E[x | z] − μ, flattened."""
        checks.shape("z", z, ("N", self.k))
        weights, dtype = self.weights(params), params.log_sigma2.dtype
        out = self.decoder(weights, z.astype(dtype))
        due = (len(z), *self.shape)
        if not hasattr(out, "shape") or out.shape not in (due, (len(z), self.n)):
            checks.fail(
                "decode", _adapting.what(out), f"x̂ of shape {due}", f"z had shape {z.shape}."
            )
        return out.reshape(-1, self.n).astype(dtype) - params.mean

    def weights(self, params: AdaptedParams) -> Any:
        """Nest the weights as the user's functions take them."""
        checks.kind("params", params, AdaptedParams, "They came beside the model.")
        return jax.tree.unflatten(self.tree, [params.weights[name] for name in self.names])


@dataclass(frozen=True)
class AdaptedWithLatents(Adapted, vae.LatentParts):
    """An `AdaptedWithLatents` knows its latents' own weights too: it is a `vae.LatentModel`."""

    latents: tuple[tuple[str, At], ...]
    decoder_name: ClassVar[str] = "decoder"

    def parts(self, latents: np.ndarray) -> dict[str, vae.Part]:
        """Say where the weights of some latents lie, for `latent_weights`."""
        return {
            name: vae.Part(("weights", at.path), at.offset + latents, at.axis)
            for name, at in self.latents
        }


def from_functions(
    encode: Callable[[Any, Array], Any],
    decode: Callable[[Any, Array], Any],
    weights: Any,
    x: Any,
    *,
    sigma2: Any = 1.0,
    latents: Mapping[str, At] | None = None,
) -> tuple[Adapted, AdaptedParams]:
    """Adapt a VAE of two pure functions; see the module for what they take and give.

    k is that of the means that `encode` gives. Encoder and decoder run on four of the data, to see
    whether the data of a batch are independent, and whether latents without their weights collapse.
    The result's dtype is that of the weights, at least float32. Hand over one function object, not
    a new lambda for each call: another function is another program.

    Args:
        encode: (weights, x) → (mean, log_var).
        decode: (weights, z) → x̂, in the shape of the data, or (N, n).
        weights: any pytree of arrays.
        x: the data, or some of them, in the shape and unit that `encode` takes. Their mean is what
            the model does not see: `params.mean`, flattened.
        sigma2: the observation noise σ²; that of a loss is its τ, with β = 1.
        latents: where latents' own weights lie, with "decoder" among the names.

    Returns:
        The model, static under `jit`, an `AdaptedWithLatents` if `latents` are given; and its
        parameters.

    Raises:
        ValueError: functions that give something else or cannot be hashed, weights that are no
            arrays, fewer than two data, NaN or Inf, σ² ≤ 0; paths that lead nowhere, latents that
            do not collapse when their weights are zero, and others that then change.
    """
    values = checks.numbers("x", x)
    if values.ndim < 2 or len(values) < 2 or 0 in values.shape:
        checks.fail("x", f"shape {values.shape}", "shape (N, ...), at least two rows or images")
    checks.finite("x", values)
    flat, tree = _flat(weights)
    floats = [a.dtype for a in flat.values() if jnp.issubdtype(a.dtype, jnp.floating)]
    dtype = jnp.result_type(jnp.float32, *floats) if floats else jnp.result_type(float)
    log_sigma2 = jnp.log(jnp.asarray(checks.positive_scalar("sigma2", sigma2, dtype), dtype))
    mean = np.asarray(values).reshape(len(values), -1).mean(axis=0, dtype=np.float64)
    params = AdaptedParams(flat, log_sigma2, jnp.asarray(mean, dtype))

    few = np.asarray(values[sources.spread(len(values), 4)]).astype(dtype)
    own = jax.tree.unflatten(tree, flat.values())
    try:
        given = jax.eval_shape(lambda w, x: _adapting.pair(encode(w, x), len(x)), own, few)
    except Exception as error:
        error.add_note(f"`encode` was given the weights and data of shape {few.shape}, {dtype}.")
        raise
    k = given[0].shape[1]
    parts = encode, decode, values.shape[1:], k, tuple(flat), tree
    try:
        hash(parts)
    except TypeError as error:
        checks.fail("encode, decode", f"what has no hash ({error})", "functions, or static modules")
    rows = few.reshape(len(few), -1) - np.asarray(params.mean)
    if latents is None:
        _adapting.check_alone(model := Adapted(*parts), params, rows)
        return model, params
    model = AdaptedWithLatents(*parts, _places(latents, flat, k))
    _adapting.check_alone(model, params, rows)
    for j in sorted({0, k - 1}):
        _adapting.check_collapse(model, params, rows, j)
    return model, params


class _Nnx(NamedTuple):
    graph: Any
    method: Any

    def __call__(self, weights: Any, value: Array) -> Any:
        from flax import nnx  # here: it takes a second, which others need not wait

        module = nnx.merge(self.graph, weights)
        if isinstance(self.method, str):
            return _method(module, self.method)(value)
        return self.method(module, value)


class _Linen(NamedTuple):
    module: Any
    method: Any

    def __call__(self, variables: Any, value: Array) -> Any:
        if isinstance(self.method, str):
            _method(self.module, self.method)
        return self.module.apply(variables, value, method=self.method)


def from_nnx(
    module: Any,
    x: Any,
    encode: str | Callable[[Any, Array], Any] = "encode",
    decode: str | Callable[[Any, Array], Any] = "decode",
    *,
    sigma2: Any = 1.0,
    latents: Mapping[str, At] | None = None,
) -> tuple[Adapted, AdaptedParams]:
    """Adapt a module of Flax NNX, by methods' names or by functions of (module, x or z).

    Paths are of `nnx.to_pure_dict(nnx.state(module))`. A layer that was made with a dtype computes
    in that, whatever its weights. All else is as in `from_functions`.
    """
    from flax import nnx

    graph, state = nnx.split(module)
    pair = _Nnx(graph, encode), _Nnx(graph, decode)
    return from_functions(*pair, nnx.to_pure_dict(state), x, sigma2=sigma2, latents=latents)


def from_linen(
    module: Any,
    variables: Any,
    x: Any,
    encode: str | Callable[[Any, Array], Any] = "encode",
    decode: str | Callable[[Any, Array], Any] = "decode",
    *,
    sigma2: Any = 1.0,
    latents: Mapping[str, At] | None = None,
) -> tuple[Adapted, AdaptedParams]:
    """Adapt a module of Flax Linen, by methods' names or by functions of (module, x or z).

    Paths begin with the collection, "params/…". All else is as in `from_functions`.
    """
    pair = _Linen(module, encode), _Linen(module, decode)
    return from_functions(*pair, variables, x, sigma2=sigma2, latents=latents)


def _method(module: Any, name: str) -> Any:
    found = getattr(module, name, None)
    if not callable(found):
        hint = "Name another, or give a function of (module, x)."
        checks.fail("encode, decode", repr(name), f"a method of {type(module).__name__}", hint)
    return found


def _flat(weights: Any) -> tuple[dict[str, Array], Any]:
    """Name each array by its path."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(weights)
    flat = {}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in flat:
            checks.fail("weights", f"two arrays at {name!r}", "a path for each")
        # JAX's own may be keys too, which are no numbers
        of = leaf if isinstance(leaf, jax.Array) else checks.numbers(f"weights at {name!r}", leaf)
        flat[name] = jnp.asarray(of)
    return flat, tree


def _places(latents: Any, flat: dict[str, Array], k: int) -> tuple[tuple[str, At], ...]:
    """Expect places that exist, the decoder's among them."""
    if not isinstance(latents, Mapping) or "decoder" not in latents or len(latents) < 2:
        due = 'a dictionary with "decoder" and the encoder\'s parts, under names of your own'
        checks.fail("latents", repr(latents), due)
    places = []
    for name, at in latents.items():
        label = f"latents[{name!r}]"
        checks.kind(label, at, At, "At(path, axis, offset) says where.")
        if at.path not in flat:
            checks.fail(label, repr(at.path), f"one of {sorted(flat)}")
        shape = flat[at.path].shape
        checks.in_range(f"{label}.axis", at.axis, 0, len(shape) - 1, f"an axis of {shape}")
        why = f"k latents along axis {at.axis} of {shape}"
        checks.in_range(f"{label}.offset", at.offset, 0, shape[at.axis] - k, why)
        places.append((name, at))
    return tuple(places)
