"""The Hessian of a collapsed latent against the dense one, for every kind of network."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from tolerances import EXACT

from landscape.autodiff import hessian
from landscape.curvature import collapsed_latent
from linvae_jax import linear, networks, vae

KEY = jax.random.key(0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "other"),
    [
        (networks.Mlp(4, 2, (5,), (5, 3), "relu", dtype="float64"), 0.0),
        (networks.Mlp(4, 2, (5,), (), "relu", shared_variance=True, dtype="float64"), 0.0),
        (networks.Conv((2, 2, 1), 2, (3,), "gelu", dtype="float64"), 0.0),
        (linear.Model(4, 2), 0.1),
    ],
)
def test_blocks_of_a_collapsed_latent_are_the_dense_hessian(model, other):
    """Wherever the other weights are: here nothing is trained. Rounding alone is left.

    Of a ReLU decoder both are without its kinks.
    """
    params = jax.tree.map(lambda leaf: leaf + other, model.init(KEY, 1.0))
    data = jax.random.normal(jax.random.key(1), (60, 4)) * jnp.array([3.0, 2.0, 1.0, 0.5])
    sigma2, beta = 0.7, 1.3
    noise = jax.random.normal(KEY, (60, 2))
    point = collapsed_latent.collapse_latents(model, params, (1,))

    def elbo(weights):
        at = model.with_latent_weights(point, (1,), weights)
        # the latent's own noise is ±1, which has the moments that matter
        both = [vae.with_noise(model, at, data, noise.at[:, 1].set(s)) for s in (1, -1)]
        return sum(-p.square_error / (2 * sigma2) - beta * p.kl.sum(1) for p in both).mean() / 2

    weights = model.latent_weights(point, (1,))
    slopes = jax.jit(jax.grad(elbo))(weights)  # jit: op by op it takes ten times as long
    assert max(float(abs(g).max()) for g in jax.tree.leaves(slopes)) < 1e-13
    dense = jnp.linalg.eigvalsh(jax.jit(partial(hessian.dense, elbo))(weights))
    blocks = collapsed_latent.blocks(model, params, data, KEY, 1)
    found = jnp.linalg.eigvalsh(blocks.hessian(sigma2, beta))
    np.testing.assert_allclose(found, dense, atol=1e-12 * float(abs(dense).max()))
    # the threshold is where the largest eigenvalue crosses zero
    critical = float(blocks.critical_sigma2(beta))
    for at in (1e-3 * critical, 0.5 * critical, 2 * critical):
        values = np.asarray(jnp.linalg.eigvalsh(blocks.hessian(at, beta)))
        assert blocks.index(at, beta) == (values > 1e-12 * abs(values).max()).sum()
    scale = float(abs(dense).max())
    assert jnp.linalg.eigvalsh(blocks.hessian(0.99 * critical, beta))[-1] > 1e-9 * scale
    assert jnp.linalg.eigvalsh(blocks.hessian(1.01 * critical, beta))[-1] < 1e-12 * scale


@pytest.mark.slow
def test_blocks_of_the_linear_vae_are_those_of_the_theory(monkeypatch):
    """A = I, B = S, C = diag(S, ½) at total collapse, signs included; data come in pieces."""
    monkeypatch.setattr(collapsed_latent, "_PIECE", 7)  # 20 data: two pieces and a rest
    model = linear.Model(3, 1)
    x = jax.random.normal(KEY, (20, 3))
    blocks = collapsed_latent.blocks(
        model, model.init(KEY, 1.0), x, KEY, 0, hessian_data=5, batch_size=4
    )
    S = x.T @ x / 20
    np.testing.assert_allclose(blocks.decoder, np.eye(3), atol=1e-14)
    # the encoder's weights by name: V, then log D
    np.testing.assert_allclose(blocks.coupling, np.append(S, np.zeros((3, 1)), axis=1), atol=1e-14)
    np.testing.assert_allclose(blocks.encoder[:3, :3], S, atol=1e-14)
    np.testing.assert_allclose(blocks.encoder[3], [0, 0, 0, 0.5], atol=1e-14)
    lam, U = jnp.linalg.eigh(S)
    np.testing.assert_allclose(float(blocks.critical_sigma2()), lam[-1], rtol=1e-13)
    np.testing.assert_allclose(abs(blocks.direction() @ U[:, -1]), 1, rtol=1e-12)


def test_noise_and_data_of_each_datum_stay_together():
    """Whatever the pieces are, and with A from some of the data."""
    model = networks.Mlp(4, 2, (5,), (5,), "tanh", dtype="float64")
    params = model.init(KEY, 1.0)
    x = jax.random.normal(jax.random.key(1), (60, 4))
    # datum i is used where the noise is its own: by hand, from those alone
    some = [0, 15, 30, 45]
    blocks = collapsed_latent.blocks(model, params, x, KEY, 1, hessian_data=4)
    noise = jax.random.normal(KEY, (60, 2))[jnp.array(some)].at[:, 1].set(1)
    point = collapsed_latent.collapse_latents(model, params, (1,))

    def half_error(w):
        weights = model.latent_weights(point, (1,)) | {"decoder": w}
        at = model.with_latent_weights(point, (1,), weights)
        return vae.with_noise(model, at, x[jnp.array(some)], noise).square_error.mean() / 2

    dense = jax.jit(jax.hessian(half_error))(jnp.zeros((1, 5))).reshape(5, 5)
    np.testing.assert_allclose(blocks.decoder, dense, atol=1e-14)


@pytest.mark.parametrize(
    ("decoder", "coupling", "encoder", "gamma"),
    [
        # γ = 3²/(2 · 6); the second unit is dead: nothing comes through
        (np.diag([2.0, 0.0]), np.array([[3.0, 0.0], [0.0, 0.0]]), np.diag([6.0, 3.0]), 0.75),
        # nothing holds a unit that the encoder can tell about
        (np.diag([2.0, 0.0]), np.array([[3.0, 0.0], [0.0, 1.0]]), np.diag([6.0, 3.0]), np.inf),
        # noise itself helps
        (np.diag([2.0, -1.0]), np.array([[3.0, 0.0], [0.0, 0.0]]), np.diag([6.0, 3.0]), np.inf),
        # a feature of another scale, and one that is zero
        (np.eye(2), np.array([[0.0, 1e-8, 0], [0.5, 0, 0]]), np.diag([1.0, 1e-16, 0.0]), 1.0),
    ],
)
@pytest.mark.parametrize(("beta", "unit"), [(1.0, 1.0), (3.0, 1.0), (1.0, 2.0**-40)])
@pytest.mark.parametrize("feature", [2.0**-20, 1.0, 2.0**20])
def test_critical_sigma2_by_hand(decoder, coupling, encoder, gamma, beta, unit, feature):
    """γ is a variance: it has the data's unit squared, and none of what the latent feeds."""
    decoder, coupling = feature**2 * decoder, feature * unit * coupling
    blocks = collapsed_latent.Blocks(*map(jnp.asarray, (decoder, coupling, encoder)))
    critical = float(blocks.critical_sigma2(beta))
    np.testing.assert_allclose(critical, unit**2 * gamma / beta, rtol=1e-13)
    way = blocks.direction()
    np.testing.assert_allclose(jnp.linalg.norm(way), 1, rtol=1e-14)
    assert abs(way[0]) == np.isfinite(gamma)  # along the first unit, or the second
    if np.isinf(gamma):
        assert jnp.linalg.eigvalsh(blocks.hessian(1e3, beta))[-1] > 0


def test_a_latent_that_nothing_comes_through_goes_nowhere():
    blocks = collapsed_latent.Blocks(jnp.zeros((2, 2)), jnp.zeros((2, 3)), jnp.eye(3))
    assert blocks.critical_sigma2() == 0
    np.testing.assert_array_equal(blocks.direction(), [0, 0])
    assert blocks.index(1.0) == 0


@pytest.mark.slow
def test_curvature_by_finite_steps_sees_the_kink_of_a_relu():
    """E ½(3 − 0.1 relu(z₁ + w z₂))² bends with 0.01 P(z₁ > 0) − 0.3 p(0), p(0) = 1/√2π."""
    model = networks.Mlp(2, 2, (), (1,), dtype="float64")
    params = jax.tree.map(jnp.zeros_like, model.init(KEY, 1.0))
    weights = params.weights | {
        "decoder0": params.weights["decoder0"] | {"kernel": jnp.array([[1.0], [0.0]])},
        "output": params.weights["output"] | {"kernel": jnp.array([[0.1, 0.0]])},
    }
    params = vae.VAEParams(weights, params.log_sigma2)
    x = jnp.tile(jnp.array([3.0, 0.0]), (200_000, 1))
    along = jnp.ones(1)
    blocks = collapsed_latent.blocks(model, params, x[:2000], KEY, 1)
    np.testing.assert_allclose(blocks.decoder[0, 0], 0.005, rtol=0.1)  # half of 2000, ± 2 %
    bent = collapsed_latent.curvature_along(model, params, x, KEY, 1, along, 0.1)
    # 4 % of the data cross the kink, each with 0.3 · |a|/step² ≲ 3: ± 0.001; step² of it is 1 %
    np.testing.assert_allclose(bent, 0.005 - 0.3 / np.sqrt(2 * np.pi), atol=0.006)


def test_curvature_by_finite_steps_is_the_block_of_a_smooth_decoder(monkeypatch):
    monkeypatch.setattr(collapsed_latent, "_PIECE", 25)  # of 60 data: two pieces and a rest
    model = networks.Mlp(4, 2, (5,), (5,), "tanh", dtype="float64")
    params = model.init(KEY, 1.0)
    x = jax.random.normal(jax.random.key(1), (60, 4))
    blocks = collapsed_latent.blocks(model, params, x, KEY, 1)
    along = blocks.direction()
    bent = collapsed_latent.curvature_along(model, params, x, KEY, 1, along, 1e-3)
    np.testing.assert_allclose(bent, along @ blocks.decoder @ along, rtol=1e-5)  # step²


def test_single_precision_and_unknown_latents_are_refused():
    model = linear.Model(4, 2)
    params = model.init(KEY, 1.0)
    with pytest.raises(ValueError, match=r"latents: got 2, expected 0 <= latents <= 1"):
        collapsed_latent.collapse_latents(model, params, (2,))
    with pytest.raises(ValueError, match="hessian_data: got 0"):
        collapsed_latent.blocks(model, params, jnp.ones((5, 4)), KEY, 0, hessian_data=0)
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        collapsed_latent.in_float64(params)


GENERIC = (
    np.array([[2.0, 0.3, 0.0], [0.3, 1.0, 0.0], [0.0, 0.0, 0.0]]),
    np.array([[0.5, -1.0], [2.0, 0.7], [0.0, 0.4]]),  # the last unit is silent in A's data
    np.array([[1.5, 0.2], [0.2, 0.8]]),
)


def test_critical_sigma2_of_plain_arrays_is_that_of_their_blocks():
    """By a generalised eigenproblem of SciPy, without the silent unit; float64 without x64 too."""
    A, B, C = GENERIC
    told = B[:2] @ np.linalg.solve(C, B[:2].T)
    gamma = scipy.linalg.eigh(told, A[:2, :2])[0][-1]
    of_blocks = collapsed_latent.Blocks(*map(jnp.asarray, (A[:2, :2], B[:2], C)))
    for arrays in (GENERIC, [of.tolist() for of in GENERIC], map(jnp.asarray, GENERIC)):
        found = collapsed_latent.critical_sigma2(*arrays, beta=0.5)
        assert isinstance(found, float)
        np.testing.assert_allclose(found, gamma / 0.5, rtol=EXACT)
    np.testing.assert_allclose(float(of_blocks.critical_sigma2()), gamma, rtol=EXACT)
    with jax.enable_x64(False):
        np.testing.assert_allclose(collapsed_latent.critical_sigma2(A, B, C), gamma, rtol=EXACT)
    assert collapsed_latent.critical_sigma2(-A, B, C) == np.inf


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"A": GENERIC[0][:2]}, r"A: got shape \(2, 3\)"),
        ({"A": GENERIC[0] + np.eye(3, k=1)}, "A: got a matrix with max"),
        ({"A": np.full((3, 3), np.nan)}, "A: got 9 NaN"),
        ({"B": GENERIC[1].T}, r"B: got shape \(2, 3\), expected shape \(3, 2\)"),
        ({"B": np.full((3, 2), np.inf)}, "B: got 6 NaN or Inf"),
        ({"C": GENERIC[2] + np.eye(2, k=1)}, "C: got a matrix with max"),
        ({"C": np.diag([1.0, -0.1])}, "C: got smallest eigenvalue -0.1, expected second moments"),
        ({"C": np.eye(3)}, r"B: got shape \(3, 2\), expected shape \(3, 3\)"),
        ({"B": np.ones((3, 2), np.float32)}, r"B: got .*float32, .*float64.*model.double\(\)"),
        ({"A": "A"}, "A: got an array of dtype"),
        ({"beta": 0.0}, "beta: got 0"),
        ({"beta": np.ones(2)}, r"beta: got shape \(2,\)"),
    ],
)
def test_critical_sigma2_refuses(changed, said):
    given = dict(zip("ABC", GENERIC, strict=True)) | {"beta": 1.0}
    with pytest.raises(ValueError, match=said):
        collapsed_latent.critical_sigma2(**given | changed)
