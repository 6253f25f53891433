"""Networks as VAEs: convolutions against XLA's, linear networks against the linear VAE."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tolerances import EXACT

from linvae_jax import gaussian, linear, network_task, networks, training, vae
from linvae_jax.data import datasets, preprocessing

KEY = jax.random.key(0)
SMALL = {
    "mlp": networks.Mlp(6, 3, (8,), (5, 4), "tanh"),
    "linear": networks.Mlp(6, 3, (), (), shared_variance=True),
    "conv": networks.Conv((8, 4, 2), 5, (3, 4)),
}


def normal(seed: int, *shape: int) -> jax.Array:
    # NumPy compiles nothing for a new shape
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def stirred(model: vae.Model, seed: int = 3) -> vae.VAEParams:
    """Float64 parameters with nothing special about them, biases and log variances included."""
    rng = np.random.default_rng(seed)

    def values(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        # a kernel's rows are its fan-in
        scale = leaf.shape[0] ** -0.5 if len(leaf.shape) == 2 else 0.1
        return jnp.asarray(scale * rng.normal(size=leaf.shape))

    shapes = jax.eval_shape(lambda: model.init(KEY, 0.7).weights)
    return vae.VAEParams(jax.tree.map(values, shapes), jnp.log(0.7))


def kernel(weights: jax.Array, outputs: int) -> jax.Array:
    """Weights (16 C, D) of `im2col` as a convolution kernel (4, 4, C, D).

    Rows are corner (i, j), place in the block (a, b), channel; the pixel is (2i + a, 2j + b).
    """
    C = weights.shape[0] // 16
    split = weights.reshape(2, 2, 2, 2, C, outputs).transpose(0, 2, 1, 3, 4, 5)
    return split.reshape(4, 4, C, outputs)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 2, 2, 1)])
def test_im2col_makes_the_convolution_and_its_derivatives(shape):
    x, w = normal(0, *shape), normal(1, 16 * shape[-1], 5)

    def ours(x, w):
        return networks.im2col(x) @ w

    def xla(x, w):
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel(w, 5), (2, 2), ((1, 1), (1, 1)), dimension_numbers=dims
        )

    np.testing.assert_allclose(ours(x, w), xla(x, w), atol=EXACT)
    y = normal(2, *ours(x, w).shape)
    for a, b in zip(jax.vjp(ours, x, w)[1](y), jax.vjp(xla, x, w)[1](y), strict=True):
        np.testing.assert_allclose(a, b, atol=EXACT)


def test_col2im_is_the_transpose_and_the_transposed_convolution():
    x, p = normal(0, 2, 8, 6, 3), normal(1, 2, 4, 3, 48)
    np.testing.assert_allclose(
        jnp.vdot(networks.im2col(x), p), jnp.vdot(x, networks.col2im(p)), rtol=1e-12
    )
    (transposed,) = jax.vjp(networks.im2col, x)[1](p)
    np.testing.assert_allclose(networks.col2im(p), transposed, atol=EXACT)


def xla_network(w, x, z):
    """What `SMALL["conv"]` is, in XLA's own convolutions: head and decoded images."""
    dims, stride = ("NHWC", "HWIO", "NHWC"), (2, 2)
    for i, channels in enumerate((3, 4)):
        k = kernel(w[f"encoder{i}"]["kernel"], channels)
        x = jax.lax.conv_general_dilated(x, k, stride, ((1, 1), (1, 1)), dimension_numbers=dims)
        x = jnp.maximum(x + w[f"encoder{i}"]["bias"], 0)
    head = x.reshape(len(x), -1) @ w["head"]["kernel"] + w["head"]["bias"]
    y = (z @ w["start"]["kernel"] + w["start"]["bias"]).reshape(-1, 2, 1, 4)
    for i, channels in enumerate((4, 3)):
        # the kernel of the convolution that it is the transpose of, out of `channels`
        k = kernel(w[f"decoder{i}"]["kernel"].T, channels)
        y = jax.lax.conv_transpose(
            jnp.maximum(y, 0), k, stride, ((2, 2), (2, 2)), dimension_numbers=dims,
            transpose_kernel=True,
        )  # fmt: skip
        y = y + w[f"bias{i}"]
    return head, y.reshape(len(y), -1)


@pytest.mark.slow
def test_conv_is_the_network_of_xla_convolutions_and_so_is_its_gradient():
    model = SMALL["conv"]
    params, x, z = stirred(model), normal(5, 4, 8, 4, 2), normal(6, 4, 5)
    weigh = normal(7, 4, 10), normal(8, 4, 64)

    def ours(w, x, z):
        p = vae.VAEParams(w, params.log_sigma2)
        head = jnp.concatenate(model.encode(p, x.reshape(4, -1)), axis=1)
        return head, model.decode(p, z)

    def checked(function):
        def scalar(*a):
            outputs = function(*a)
            return sum(map(jnp.vdot, weigh, outputs)), outputs

        return jax.jit(jax.value_and_grad(scalar, (0, 1, 2), has_aux=True))(params.weights, x, z)

    for a, b in zip(*map(jax.tree.leaves, (checked(ours), checked(xla_network))), strict=True):
        np.testing.assert_allclose(a, b, atol=EXACT * max(1, np.abs(np.asarray(b)).max()))
    for a, b in zip(ours(params.weights, x, z), checked(ours)[0][1], strict=True):
        np.testing.assert_allclose(a, b, atol=EXACT)  # without jit


def test_parameters_are_as_many_as_the_layers_say():
    def count(model):
        shapes = jax.eval_shape(lambda: model.init(KEY, 1.0).weights)
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    mlp = 784 * 1024 + 1024 * 512 + 512 * 400 + 200 * 512 + 512 * 1024 + 1024 * 784
    assert count(networks.Mlp()) == mlp + 1024 + 512 + 400 + 512 + 1024 + 784
    convolutions = 16 * (3 * 32 + 32 * 64 + 64 * 128 + 128 * 256)
    biases = (32 + 64 + 128 + 256) + (128 + 64 + 32 + 3)
    code = 4096 * 1000 + 1000 + 500 * 4096 + 4096
    assert count(networks.Conv()) == 2 * convolutions + biases + code


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_jit_vmap_dtype_and_finite_gradients(name):
    model = SMALL[name]
    assert hash(model) == hash(type(model)(**vars(model)))

    def objective(params, x):
        terms = vae.elbo_terms(model, params, x, KEY)
        return (terms.reconstruction - terms.kl.sum(axis=1)).mean()

    def in_dtype(tree, dtype):
        return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, dtype)), tree)

    for dtype in (np.float32, np.float64):
        params, x = in_dtype((stirred(model), normal(5, 4, model.n)), dtype)
        value, gradient = jax.jit(jax.value_and_grad(objective))(params, x)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((value, gradient))]
        assert {leaf.dtype for leaf in leaves} == {np.dtype(dtype)}
        assert all(np.isfinite(leaf).all() for leaf in leaves)
    pair = jax.tree.map(lambda *p: jnp.asarray(np.stack(p)), params, stirred(model, 50))
    both = jax.jit(jax.vmap(objective, (0, None)))(pair, x)
    np.testing.assert_allclose(both[0], value, rtol=EXACT)


def test_linear_network_is_the_linear_vae():
    model = SMALL["linear"]
    params = stirred(model)
    w = {name: params.weights[name] for name in ("head", "output", "log_d")}
    for layer in ("head", "output"):
        w[layer] = w[layer] | {"bias": jnp.zeros_like(w[layer]["bias"])}
    params = vae.VAEParams(w, params.log_sigma2)
    twin = linear.LinearVAEParams(
        w["output"]["kernel"].T, w["head"]["kernel"].T, w["log_d"], params.log_sigma2
    )
    x = normal(7, 10, 6)
    ours = vae.elbo_terms(model, params, x, KEY)
    theirs = vae.elbo_terms(linear.Model(6, 3), twin, x, KEY)
    np.testing.assert_allclose(ours.reconstruction, theirs.reconstruction, rtol=EXACT)
    np.testing.assert_allclose(ours.kl, theirs.kl, rtol=EXACT)


DEEP = networks.Mlp(6, 3, (8, 7), (), "identity", shared_variance=True)
DEEP_MEAN = jax.jit(lambda x: DEEP.encode(stirred(DEEP), x).mean)


@given(st.integers(0, 1000), st.floats(-3, 3))
def test_deep_linear_encoder_is_linear(seed, t):
    encode = DEEP_MEAN
    x, y, zero = normal(seed, 2, 6), normal(seed + 1, 2, 6), jnp.zeros((2, 6))
    mixed = encode(x + t * y) - encode(zero)
    alone = encode(x) - encode(zero) + t * (encode(y) - encode(zero))
    np.testing.assert_allclose(mixed, alone, atol=1e-11)  # sums of 8 × 7 × 6 products of size 10


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_latent_without_weights_is_collapsed_and_the_others_are_as_before(name):
    model = SMALL[name]
    params, x = stirred(model), normal(5, 4, model.n)
    weights = model.latent_weights(params, (0, 2))
    back = model.with_latent_weights(params, (0, 2), weights)
    assert all(map(np.array_equal, jax.tree.leaves(back), jax.tree.leaves(params)))
    bare = model.with_latent_weights(params, (0, 2), jax.tree.map(jnp.zeros_like, weights))
    passed = vae.forward(model, bare, x, KEY)
    assert not passed.kl[:, [0, 2]].any()  # exactly
    others = [j for j in range(model.k) if j not in (0, 2)]
    np.testing.assert_array_equal(
        passed.kl[:, others], vae.forward(model, params, x, KEY).kl[:, others]
    )
    moved = passed.z.at[:, jnp.array([0, 2])].add(10.0)
    np.testing.assert_array_equal(model.decode(bare, moved), model.decode(bare, passed.z))


@pytest.mark.parametrize("name", ["mlp", "linear", "conv"])
def test_collapsed_latents_are_stationary_in_their_own_weights(name):
    """Averaged over z, by pairs of draws that differ in the sign of the collapsed latents only."""
    model, latents = SMALL[name], (0, 2)
    params, x, noise = stirred(model), normal(5, 4, model.n), np.asarray(normal(6, 4, model.k))
    mirrored = np.where(np.isin(np.arange(model.k), latents), -noise, noise)

    def elbo(weights, draws):
        p = model.with_latent_weights(params, latents, weights)
        mean, log_d = model.encode(p, x)
        kl = gaussian.kl(mean**2, log_d).sum(axis=1)

        def reconstruction(e):
            error = jnp.sum((x - model.decode(p, mean + jnp.exp(log_d / 2) * e)) ** 2, axis=1)
            return gaussian.log_density(error, model.n, p.log_sigma2)

        return (jax.vmap(reconstruction)(draws).mean(axis=0) - kl).mean()

    @jax.jit
    def largest(draws):
        nothing = jax.tree.map(jnp.zeros_like, model.latent_weights(params, latents))
        gradient = jax.tree.leaves(jax.grad(elbo)(nothing, draws))
        return jnp.stack([jnp.abs(leaf).max() for leaf in gradient]).max()

    one_draw = largest(np.stack([noise, noise]))
    assert one_draw > 0.1
    assert largest(np.stack([noise, mirrored])) < EXACT * one_draw


@pytest.mark.slow
@pytest.mark.parametrize(("means", "record"), [(0.1, (10.0, 21.0)), (1.0, (0.003, 0.03))])
def test_first_steps_keep_latents_where_the_noise_is_large(means, record):
    """From posteriors far from the prior Adam's first steps collapse all: why means start small.

    Of 24 keys, with the random streams of today and with those before, 15.6 nats are left with a
    standard deviation of 1.3 (least 12.3, most 17.6), of which the bounds leave room for four. From
    far away 0.01 nats are the median, and one or two latents, 3 nats, survive for one key in eight.
    """
    pixels = datasets.load("digits").images[::10]
    logit = preprocessing.Logit(1e-6)
    data = network_task.prepare(pixels, logit, KEY)
    scale = network_task.data_scale(data)
    assert 2.5 < scale < 3.5  # √9.08 on all of MNIST
    model = networks.Mlp(784, 100, (256, 128), (128, 256), data_scale=scale, mean_scale=means)
    task = network_task.NetworkTask(model, 32, logit, observed=100)
    config = training.TrainConfig(150, 150, schedule="constant")
    hyper = training.Hyperparameters(1e-3, 10.0, learned=False)
    _, history = training.train(task, config, data, hyper, KEY)
    low, high = record
    assert low <= history.kl[-1].sum() <= high


@pytest.mark.parametrize("name", SMALL)
def test_starts_with_unit_variances_and_never_collapsed(name):
    model = SMALL[name]

    @jax.jit
    def start(x):
        params = model.init(KEY, 2.0)
        return params.log_sigma2, model.encode(params, x)

    log_sigma2, posterior = start(100 * normal(1, 4, model.n).astype(jnp.float32))
    assert not posterior.log_d.any()
    assert (jnp.abs(posterior.mean) > 0).any(axis=0).all()
    np.testing.assert_allclose(log_sigma2, np.log(2), rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: networks.Mlp(3, 4), r"k: got 4, expected 1 <= k <= 3"),
        (lambda: networks.Mlp(3, 2, (0,)), r"encoder: got 0"),
        (lambda: networks.Mlp(activation="swish"), r"activation: got 'swish', expected one of"),
        (lambda: networks.Conv((60, 64, 3)), r"shape: got \(60, 64, 3\).*divisible by 16"),
        (lambda: networks.named("cnn", 3, 2), r"network: got 'cnn', expected one of \('conv', "),
        (lambda: networks.Mlp(3, 2).init(KEY, -1.0), r"sigma2: got -1.0"),
        (lambda: networks.Mlp(3, 2, [4]), r"encoder: got \[4\], expected a tuple"),
        (lambda: networks.Mlp(dtype="bfloat16"), r"dtype: got 'bfloat16'"),
        (lambda: networks.Conv(mean_scale=0.0), r"mean_scale: got 0"),
        (lambda: networks.Conv(precision="best"), r"precision: got 'best'"),
    ],
)
def test_what_cannot_be_built_is_refused(build, message):
    # as a user sees it: without the suite's own checks of annotations
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match=message):
            build()
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_architectures_by_name():
    named = networks.named
    assert named("mlp", 784, 200) == networks.Mlp()
    assert named("mlp", 9, 3, widths=(8, 4)) == networks.Mlp(9, 3, (8, 4), (4, 8))
    colour = (64, 64, 3)
    assert named("conv", 12_288, 500, image_shape=colour) == networks.Conv()
    small = named("conv", 12_288, 5, image_shape=colour, widths=(4,), data_scale=2.0)
    assert small == networks.Conv(colour, 5, (4,), data_scale=2.0)
    linear = named("linear-encoder", 9, 3, data_scale=2.0)
    assert linear == networks.Mlp(9, 3, (), (), data_scale=2.0, shared_variance=True)
    with pytest.raises(ValueError, match=r"'conv' for data of shape \(28, 28\)"):
        named("conv", 784, 5, image_shape=(28, 28))


def test_float64_needs_x64():
    with jax.enable_x64(False), pytest.raises(ValueError, match="float64 needs jax_enable_x64"):
        networks.Mlp(3, 2, (), (), dtype="float64").init(KEY, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_float32_weights_compute_in_float32_whatever_the_data(name):
    model = networks.named(name, 48, 2, image_shape=(4, 4, 3), widths=(4,))
    params = model.init(jax.random.key(0), 1.0)
    data = jnp.ones((2, 48))
    assert data.dtype == jnp.float64
    q = model.encode(params, data)
    assert {q.mean.dtype, model.decode(params, q.mean).dtype} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_data_and_weights_of_other_shapes_are_refused():
    model, conv = SMALL["mlp"], SMALL["conv"]
    params = stirred(model)
    x = jnp.ones((4, 6))
    with pytest.raises(ValueError, match=r"x: got shape \(4, 5\), expected shape \(N, 6\)"):
        model.encode(params, x[:, 1:])
    with pytest.raises(ValueError, match=r"z: got shape \(4, 6\), expected shape \(N, 5\)"):
        conv.decode(stirred(conv), x)
    others = {
        r"\['decoder1'\]\['bias'\]: got shape \(4,\), expected nothing": (5,),
        r"\['decoder1'\]\['bias'\]: got shape \(4,\), expected shape \(9,\)": (5, 9),
        r"\['decoder2'\]\['bias'\]: got nothing, expected shape \(7,\)": (5, 4, 7),
    }
    for message, decoder in others.items():
        with pytest.raises(ValueError, match=message):
            networks.Mlp(6, 3, (8,), decoder).encode(params, x)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)
    with pytest.raises(ValueError, match="several models, which is for vmap"):
        model.encode(stacked, x)
    with pytest.raises(ValueError, match=r"latents: got 3, expected 0 <= latents <= 2"):
        model.latent_weights(params, (3,))
