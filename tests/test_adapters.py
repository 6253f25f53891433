"""A VAE of someone else is the native one with the same weights, or a clear error."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from landscape.curvature import collapsed_latent
from landscape.diagnosis import adapters
from landscape.diagnosis.adapters import At
from linvae_jax import evaluation, linear, networks, vae

KEY = jax.random.key(0)
N, n, k, width = 40, 6, 2, 5
SHAPES = {"flat": (n,), "rows": (2, 3, 1), "channels": (1, 2, 3)}
pytestmark = pytest.mark.usefixtures("no_annotation_checks")


def dense(of: Any, x: Any) -> Any:
    return jnp.dot(x, of["kernel"], precision="highest") + of["bias"]


def encode(w: Any, x: Any) -> Any:
    hidden = jnp.tanh(dense(w["hidden"], x.reshape(len(x), -1)))
    if "head" in w:
        return jnp.split(dense(w["head"], hidden), 2, axis=1)
    return dense(w["mean"], hidden), dense(w["log_var"], hidden)


def decode(shape: Any, w: Any, z: Any) -> Any:
    return dense(w["output"], jnp.tanh(dense(w["first"], z))).reshape(len(z), *shape)


class Nnx(nnx.Module):
    """A perceptron as one writes it in Flax, with one head or two."""

    def __init__(self, shape: Any, heads: Any, rngs: nnx.Rngs) -> None:
        layer = partial(nnx.Linear, precision="highest", rngs=rngs)
        self.shape, self.hidden = shape, layer(n, width)
        for name, size in heads.items():
            setattr(self, name, layer(width, size))
        self.first, self.output = layer(k, width), layer(width, n)

    def encode(self, x: Any) -> Any:
        hidden = jnp.tanh(self.hidden(x.reshape(len(x), -1)))
        if hasattr(self, "head"):
            return jnp.split(self.head(hidden), 2, axis=1)
        return self.mean(hidden), self.log_var(hidden)

    def decode(self, z: Any) -> Any:
        return self.output(jnp.tanh(self.first(z))).reshape(len(z), *self.shape)


class Linen(nn.Module):
    """The same in Flax's older way; its decoder has another name and another argument."""

    shape: Any
    heads: Any

    def setup(self) -> None:
        layer = partial(nn.Dense, precision="highest")
        self.hidden, self.first, self.output = layer(width), layer(width), layer(n)
        for name, size in self.heads:
            setattr(self, name, layer(size))

    def encode(self, x: Any) -> Any:
        hidden = jnp.tanh(self.hidden(x.reshape(len(x), -1)))
        if len(self.heads) == 1:
            return jnp.split(self.head(hidden), 2, axis=1)
        return self.mean(hidden), self.log_var(hidden)

    def reconstruct(self, z: Any, scale: float) -> Any:
        return scale * self.output(jnp.tanh(self.first(z)))


def images(shape: Any, dtype: Any) -> Any:
    """Data far from zero in the unit of their spread."""
    spread = jnp.array([3.0, 2.0, 1.0, 0.5, 0.3, 0.2], dtype)
    x = 2.0 + spread * jax.random.normal(jax.random.key(1), (N, n), dtype)
    return x.reshape(N, *shape)


def layout(weights: Any, mean: Any, joint: bool) -> Any:
    """The weights of a native network as someone else has them, who takes no mean off."""
    hidden, head, output = weights["encoder0"], weights["head"], weights["output"]
    shift = jnp.dot(mean, hidden["kernel"], precision="highest")
    halves = [{name: of[..., s] for name, of in head.items()} for s in np.s_[:k, k:]]
    return {
        "hidden": hidden | {"bias": hidden["bias"] - shift},
        **({"head": head} if joint else {"mean": halves[0], "log_var": halves[1]}),
        "first": weights["decoder0"],
        "output": output | {"bias": output["bias"] + mean},
    }


def places(prefix: str, joint: bool) -> dict[str, At]:
    mean, log_var, offset = ("head", "head", k) if joint else ("mean", "log_var", 0)
    return {
        "decoder": At(f"{prefix}first/kernel"),
        "mean": At(f"{prefix}{mean}/kernel", axis=1),
        "mean_bias": At(f"{prefix}{mean}/bias"),
        "log_var": At(f"{prefix}{log_var}/kernel", axis=1, offset=offset),
        "log_var_bias": At(f"{prefix}{log_var}/bias", offset=offset),
    }


def native(dtype: str) -> tuple[Any, Any]:
    model = networks.Mlp(n, k, (width,), (width,), "tanh", mean_scale=1.0, dtype=dtype)
    params = model.init(KEY, 0.7)
    return model, jax.tree.map(lambda of: of + jnp.asarray(0.1, dtype), params)


def adapted(way: str, weights: Any, x: Any, sigma2: Any, joint: bool) -> tuple[Any, Any]:
    shape, heads = x.shape[1:], {"head": 2 * k} if joint else {"mean": k, "log_var": k}
    own = layout(weights, x.reshape(N, n).mean(0), joint)
    prefix = "params/" if way == "linen" else ""
    options = {"sigma2": sigma2, "latents": places(prefix, joint)}
    if way == "functions":
        return adapters.from_functions(encode, partial(decode, shape), own, x, **options)
    if way == "nnx":
        graph, _ = nnx.split(Nnx(shape, heads, nnx.Rngs(1)))
        return adapters.from_nnx(nnx.merge(graph, own), x, **options)
    module = Linen(shape, tuple(heads.items()))
    # a function of (module, z) for what needs more, and x̂ comes flat
    return adapters.from_linen(
        module, {"params": own}, x, decode=lambda m, z: m.reconstruct(z, scale=1.0), **options
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("way", "shape", "joint"),
    [
        ("functions", "flat", True),
        ("functions", "channels", False),
        ("nnx", "rows", True),
        ("nnx", "flat", False),
        ("linen", "channels", True),
        ("linen", "rows", False),
    ],
)
def test_an_adapted_network_is_the_native_one(way, shape, joint, dtype):
    ours, params = native(dtype)
    x = images(SHAPES[shape], dtype)
    model, own = adapted(way, params.weights, x, 0.7 * np.exp(0.1), joint)
    assert isinstance(model, vae.LatentModel)
    assert (model.n, model.k) == (n, k)
    flat = x.reshape(N, n)
    np.testing.assert_allclose(own.mean, flat.mean(0), rtol=1e-6)
    # float32: 2.0 is taken off and added again, and biases take it up, in numbers of about 10
    rtol = 1e-4 if dtype == "float32" else 1e-11
    close = partial(np.testing.assert_allclose, rtol=rtol, atol=rtol)
    z = jax.random.normal(KEY, (N, k), dtype)
    for fn in (model.encode, jax.jit(model.encode)):
        for found, expected in zip(
            fn(own, flat - own.mean), ours.encode(params, flat - own.mean), strict=True
        ):
            assert found.dtype == dtype
            close(found, expected)
    for fn in (model.decode, jax.jit(model.decode)):
        assert fn(own, z).dtype == dtype
        close(fn(own, z), ours.decode(params, z))
    found = evaluation.evaluate(model, own, flat, own.mean, KEY)
    expected = evaluation.evaluate(ours, params, flat, own.mean, KEY)
    jax.tree.map(close, found, expected)
    for j in range(k):
        blocks = [
            collapsed_latent.blocks(m, p, flat - own.mean, KEY, j)
            for m, p in ((model, own), (ours, params))
        ]
        close(*(float(b.critical_sigma2()) for b in blocks))
        close(*(b.decoder for b in blocks))
    slopes = [
        jax.grad(lambda p, m=m: sum(o.sum() for o in vae.elbo_terms(m, p, flat - own.mean, KEY)))(p)
        for m, p in ((model, own), (ours, params))
    ]
    path = "params/first/kernel" if way == "linen" else "first/kernel"
    scale = float(jnp.abs(slopes[1].weights["decoder0"]["kernel"]).max())
    close(slopes[0].weights[path] / scale, slopes[1].weights["decoder0"]["kernel"] / scale)


def linear_functions(x: Any) -> tuple[Any, Any, Any, Any, dict[str, At]]:
    model = linear.Model(n, k)
    params = jax.tree.map(lambda of: of + 0.1, model.init(KEY, 1.0))
    weights = {"enc": [params.V, params.log_d], "W": params.W, "mean": x.mean(0)}
    latents = {"decoder": At("W", 1), "mean": At("enc/0"), "log_var": At("enc/1")}
    return model, params, weights, linear_encode, latents


def linear_encode(w: Any, x: Any) -> Any:
    return (x - w["mean"]) @ w["enc"][0].T, w["enc"][1]


def linear_decode(w: Any, z: Any) -> Any:
    return z @ w["W"].T + w["mean"]


@pytest.mark.slow
def test_a_linear_vae_as_two_functions_is_the_native_one():
    """Here log variances are (k,), and weights lie in a list."""
    x = images((n,), "float64")
    ours, params, weights, _, latents = linear_functions(x)
    sigma2 = float(jnp.exp(params.log_sigma2))
    model, own = adapters.from_functions(
        linear_encode, linear_decode, weights, x, sigma2=sigma2, latents=latents
    )
    found, expected = (m.encode(p, x - own.mean) for m, p in ((model, own), (ours, params)))
    assert found.log_d.shape == (k,)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(found.log_d, expected.log_d)
    blocks = [
        collapsed_latent.blocks(m, p, x - own.mean, KEY, 1)
        for m, p in ((model, own), (ours, params))
    ]
    np.testing.assert_allclose(*(float(b.critical_sigma2()) for b in blocks), rtol=1e-12)
    # many sets of weights at once, and the same description of the same functions
    many = jax.tree.map(lambda of: jnp.stack([of, 2 * of]), own)
    means = jax.vmap(lambda p: model.encode(p, x - own.mean).mean)(many)
    np.testing.assert_array_equal(means[0], found.mean)
    again, _ = adapters.from_functions(
        linear_encode, linear_decode, weights, x, sigma2=3.0, latents=latents
    )
    assert (again, hash(again)) == (model, hash(model))


def test_without_latents_it_is_a_model_and_no_more():
    x = images((n,), "float64")
    *_, weights, _, _ = linear_functions(x)
    model, params = adapters.from_functions(linear_encode, linear_decode, weights, x)
    assert isinstance(model, vae.Model)
    assert not isinstance(model, vae.LatentModel)
    assert params.log_sigma2 == 0
    jax.tree.map(np.testing.assert_array_equal, model.weights(params), weights)
    with pytest.raises(ValueError, match="init: got an adapted model"):
        model.init(KEY, 1.0)
    with pytest.raises(ValueError, match="params: got dict, expected an AdaptedParams"):
        model.encode(weights, x)


def test_data_and_weights_come_as_they_are():
    """Pixels are bytes, weights NumPy's or JAX's narrow ones, and closures have none."""
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    kernel = jnp.full((6, 1), 0.25, jnp.bfloat16)
    model, params = adapters.from_functions(
        lambda w, x: (x.reshape(-1, 6) @ w, jnp.zeros(1)),
        lambda w, z: (z @ w.T).reshape(-1, 2, 3),
        kernel,
        pixels,
    )
    assert params.log_sigma2.dtype == params.mean.dtype == np.float32
    np.testing.assert_array_equal(params.mean, pixels.reshape(4, 6).mean(0))
    found = model.encode(params, pixels.reshape(4, 6) - params.mean)
    assert found.mean.dtype == np.float32
    np.testing.assert_allclose(found.mean[:, 0], pixels.sum((1, 2)) / 4, rtol=1e-6)
    model, params = adapters.from_functions(
        lambda _, x: (x[:, :1], jnp.zeros(1)), lambda _, z: z * jnp.ones(3), None, np.eye(3)
    )
    assert params.weights == {}
    assert params.mean.dtype == np.float64


class Normalised(nnx.Module):
    """Dropout and batch normalisation, with the keys and counts that come with them."""

    def __init__(self, rngs: nnx.Rngs, rate: float, norm: bool) -> None:
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        if norm:
            self.norm = nnx.BatchNorm(n, rngs=rngs)
        self.head, self.first = nnx.Linear(n, 2 * k, rngs=rngs), nnx.Linear(k, n, rngs=rngs)

    def encode(self, x: Any) -> Any:
        x = self.dropout(self.norm(x) if hasattr(self, "norm") else x)
        return jnp.split(self.head(x), 2, axis=1)

    def decode(self, z: Any) -> Any:
        return self.first(z)


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "norm"), [(0.5, False), (0.0, True)])
def test_a_module_in_training_mode_is_refused(rate, norm):
    x, module = images((n,), "float32"), Normalised(nnx.Rngs(0), rate, norm)
    with pytest.raises(ValueError, match=r"datum alone than among others.*module.eval\(\)"):
        adapters.from_nnx(module, x)
    module.eval()
    latents = places("", True) | {"decoder": At("first/kernel")}
    model, params = adapters.from_nnx(module, x, latents=latents)
    # keys and counts stay what they are
    blocks = collapsed_latent.blocks(model, params, x.reshape(N, n) - params.mean, KEY, 1)
    np.testing.assert_allclose(
        blocks.decoder, jnp.eye(n), atol=1e-12
    )  # of a linear decoder, section 5


@pytest.mark.slow
def test_weights_without_which_no_latent_collapses_are_refused():
    x = images((n,), "float64")
    _, params = native("float64")
    own = layout(params.weights, x.mean(0), joint=False)
    whole = places("", joint=False)
    adapt = partial(adapters.from_functions, encode, partial(decode, (n,)), own, x)
    for missing, said in {
        "mean": "its mean is still .*, not 0.*A kernel is missing",
        "mean_bias": "its mean is still 0.1, not 0.*A bias is missing",
        "log_var": "its log variance is still .*, not 0.*A kernel is missing",
        "log_var_bias": "its log variance is still 0.1, not 0.*A bias is missing",
    }.items():
        latents = {name: at for name, at in whole.items() if name != missing}
        with pytest.raises(ValueError, match="latents: got weights of latent 0 without.*" + said):
            adapt(latents=latents)
    others = {
        "still hears it.*path or axis": {"decoder": At("output/kernel")},
        "the decoder at z_j = 0 changes": {"decoder_bias": At("first/bias")},
        "other latents change": {"hidden": At("hidden/kernel", 1)},
    }
    for said, wrong in others.items():
        with pytest.raises(ValueError, match=said):
            adapt(latents=whole | wrong)
    assert adapt(latents=whole)[0].k == k


def test_the_last_latent_is_looked_at_too():
    """Latent 0's weights are right, and those of the last lie elsewhere."""
    x = images((n,), "float64")
    _, params = native("float64")
    own = layout(params.weights, x.mean(0), joint=False)

    def of_wide(w, x):
        mean, log_var = encode(w, x)
        return mean.at[:, 1].add(0.3), log_var

    with pytest.raises(ValueError, match=r"weights of latent 1 .* mean is still 0\.3, not 0"):
        adapters.from_functions(
            of_wide, partial(decode, (n,)), own, x, latents=places("", joint=False)
        )


@pytest.mark.parametrize(
    ("latents", "said"),
    [
        ([], "latents: got \\[\\], expected a dictionary with \"decoder\""),
        ({"decoder": At("W", 1)}, "and the encoder's parts"),
        ({"mean": At("enc/0"), "log_var": At("enc/1")}, "with \"decoder\" and"),
        ({"decoder": ("W", 1), "mean": At("enc/0")}, r"latents\['decoder'\]: got tuple, .*an At"),
        ({"decoder": At("V"), "mean": At("enc/0")}, r"got 'V', expected one of \['W', 'enc/0'"),
        ({"decoder": At("W", 2), "mean": At("enc/0")}, r"axis: got 2, .*an axis of \(6, 2\)"),
        ({"decoder": At("W", 1), "mean": At("enc/0", 0, 1)}, r"offset: got 1, .*k latents along"),
    ],
)  # fmt: skip
def test_places_that_are_not_there_are_refused(latents, said):
    x = images((n,), "float64")
    *_, weights, _, _ = linear_functions(x)
    with pytest.raises(ValueError, match=said):
        adapters.from_functions(linear_encode, linear_decode, weights, x, latents=latents)


X = np.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (lambda x: (x, x, x), r"got 3 values \(array of shape \(4, 3\), "),
        (lambda x: x, r"got array of shape \(4, 3\), expected \(mean, log_var\) of shapes"),
        (lambda x: {"mean": x}, "got dict, expected"),
        (lambda x: (x, x[:, :1]), r"got 2 values .*\(4, 1\)"),
        (lambda x: (x[:, 0], x[:, 0]), r"got 2 values \(array of shape \(4,\)"),
        (lambda x: (x[:2], x[:2]), r"got 2 values .*\(2, 3\).*of 4 data"),
        (lambda x: (x, 1.0), r"got 2 values .*, float\)"),
    ],
)  # fmt: skip
def test_an_encoder_that_gives_no_pair_is_refused(gives, said):
    with pytest.raises(ValueError, match="encode: .*" + said):
        adapters.from_functions(lambda _, x: gives(x), None, {}, X)


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (lambda z: (z, z), r"decode: got 2 values .*expected x̂ of shape \(4, 3, 1\)"),
        (lambda z: z[:, :2], r"decode: got array of shape \(4, 2\)"),
        (lambda z: jnp.log(z - 9.0), "decode: x̂: got 12 NaN"),
    ],
)
def test_a_decoder_that_gives_no_data_is_refused(gives, said):
    with pytest.raises(ValueError, match=said):
        adapters.from_functions(
            lambda _, x: (x[..., 0], jnp.zeros(3)), lambda _, z: gives(z), {}, X[..., None]
        )


class Unhashable:
    """A function with arrays in it, say."""

    __hash__ = None  # pyright: ignore

    def __call__(self, w, x):
        return x, x


def test_other_bad_input_is_refused():
    identity = {"encode": lambda w, x: (x, jnp.zeros(3)), "decode": lambda w, z: z}
    make = partial(adapters.from_functions, **identity)
    for x in (np.arange(3.0), X[:1], X[:, :0]):
        with pytest.raises(ValueError, match=r"x: got shape .*at least two"):
            make(weights={}, x=x)
    with pytest.raises(ValueError, match="x: got 1 NaN"):
        make(weights={}, x=np.where(X == 5, np.nan, X))
    with pytest.raises(ValueError, match="sigma2: got 0"):
        make(weights={}, x=X, sigma2=0.0)
    with pytest.raises(ValueError, match="weights at 'a': got an array of dtype"):
        make(weights={"a": "relu"}, x=X)
    with pytest.raises(ValueError, match="weights: got two arrays at 'a/b'"):
        make(weights={"a/b": 1.0, "a": {"b": 1.0}}, x=X)
    with pytest.raises(ValueError, match="encode, decode: got what has no hash"):
        adapters.from_functions(Unhashable(), Unhashable(), {}, X)
    with pytest.raises(ValueError, match="encode, decode: got 'heads', expected a method of Nnx"):
        adapters.from_nnx(Nnx((n,), {"head": 2 * k}, nnx.Rngs(0)), images((n,), "float32"), "heads")
    module = Linen((n,), (("head", 2 * k),))
    own = {"params": layout(native("float32")[1].weights, jnp.zeros(n), joint=True)}
    with pytest.raises(TypeError) as error:  # Flax's own, where weights and data do not fit
        adapters.from_functions(encode, decode, own["params"], X)
    note = "`encode` was given the weights and data of shape (4, 3), float64."
    assert note in error.value.__notes__
    with pytest.raises(ValueError, match="got 'decode', expected a method of Linen"):
        adapters.from_linen(module, own, images((n,), "float32"))
