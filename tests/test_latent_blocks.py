"""The Hessian of a collapsed latent against the dense one, for every kind of network."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape import hessian, latent_blocks
from linvae_jax import linear, networks, vae

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("model", "other"),
    [
        (networks.Mlp(4, 2, (5,), (5,), "tanh", dtype="float64"), 0.0),
        (networks.Mlp(4, 2, (5,), (), "relu", shared_variance=True, dtype="float64"), 0.0),
        (networks.Conv((2, 2, 1), 2, (3,), "gelu", dtype="float64"), 0.0),
        (linear.Model(4, 2), 0.1),
    ],
)
def test_blocks_of_a_collapsed_latent_are_the_dense_hessian(model, other):
    """Wherever the other weights are: here nothing is trained. Rounding alone is left."""
    params = jax.tree.map(lambda leaf: leaf + other, model.init(KEY, 1.0))
    data = jax.random.normal(jax.random.key(1), (60, 4)) * jnp.array([3.0, 2.0, 1.0, 0.5])
    sigma2, beta = 0.7, 1.3
    noise = jax.random.normal(KEY, (60, 2))
    point = latent_blocks.collapsed(model, params, (1,))

    def elbo(weights):
        at = model.with_latent_weights(point, (1,), weights)
        # the latent's own noise is ±1, which has the moments that matter
        both = [vae.with_noise(model, at, data, noise.at[:, 1].set(s)) for s in (1, -1)]
        return sum(-p.square_error / (2 * sigma2) - beta * p.kl.sum(1) for p in both).mean() / 2

    weights = model.latent_weights(point, (1,))
    slopes = jax.jit(jax.grad(elbo))(weights)  # jit: op by op it takes ten times as long
    assert max(float(abs(g).max()) for g in jax.tree.leaves(slopes)) < 1e-13
    dense = jnp.linalg.eigvalsh(jax.jit(partial(hessian.dense, elbo))(weights))
    blocks = latent_blocks.at(model, params, data, KEY, 1)
    found = jnp.linalg.eigvalsh(blocks.hessian(sigma2, beta))
    np.testing.assert_allclose(found, dense, atol=1e-12 * float(abs(dense).max()))
    # the threshold is where the largest eigenvalue crosses zero
    critical = float(blocks.critical_sigma2(beta))
    scale = float(abs(dense).max())
    if np.isfinite(critical):
        assert jnp.linalg.eigvalsh(blocks.hessian(0.99 * critical, beta))[-1] > 1e-9 * scale
        assert jnp.linalg.eigvalsh(blocks.hessian(1.01 * critical, beta))[-1] < 1e-12 * scale
    else:
        assert jnp.linalg.eigvalsh(blocks.decoder)[0] < 0
        assert jnp.linalg.eigvalsh(blocks.hessian(1e3, beta))[-1] > 0


def test_dead_units_do_not_count():
    """A unit of the decoder that nothing comes through has no threshold of its own."""
    blocks = latent_blocks.Blocks(
        jnp.diag(jnp.array([2.0, 0.0])),
        jnp.array([[3.0, 0.0], [0.0, 0.0]]),
        jnp.diag(jnp.array([6.0, 3.0])),
    )
    # γ = 3²/(2 · 6)
    np.testing.assert_allclose(float(blocks.critical_sigma2()), 0.75, rtol=1e-14)
    np.testing.assert_allclose(float(blocks.critical_sigma2(3.0)), 0.25, rtol=1e-14)


def test_single_precision_and_unknown_latents_are_refused():
    model = linear.Model(4, 2)
    params = model.init(KEY, 1.0)
    with pytest.raises(ValueError, match=r"latents: got 2, expected 0 <= latents <= 1"):
        latent_blocks.collapsed(model, params, (2,))
    with pytest.raises(ValueError, match="second: got 0"):
        latent_blocks.at(model, params, jnp.ones((5, 4)), KEY, 0, second=0)
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        latent_blocks.in_float64(params)
