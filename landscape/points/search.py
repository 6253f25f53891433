"""Brute force against the census: a search for stationary points that knows nothing of them.

Many random starts descend ½‖∇ELBO‖² over (W, V, log D) by a damped Newton method
(Levenberg–Marquardt), to which saddles are as good as maxima. Each point found is compared with
the `census`; one that is on no line of it would refute the list. For small problems, in float64.

The gradient also vanishes at infinity, as 1/‖W‖, and draws starts there; so it is the residual
(1 + ‖W‖²) ∇ELBO that is brought to zero, which has the same zeros and no such attraction.

>>> import jax, jax.numpy as jnp
>>> from landscape.points import search
>>> jax.config.update("jax_enable_x64", True)
>>> found = search.search(jnp.array([4.0, 1.0]), 1, 0.5, jax.random.key(0), num_starts=32)
>>> len(found.census.types), len(found.unexplained)
(3, 0)
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float, Int, PRNGKeyArray

from landscape.points import census, mixed
from linvae_jax import linear
from linvae_jax import moments as mom
from linvae_jax._internal import checks
from linvae_jax._internal.arrays import Scalar
from linvae_jax._internal.linalg import matmul


@dataclass(frozen=True)
class Search:
    """A `Search` says what a search found.

    Attributes:
        census: the list it was compared with.
        hits: (types,), starts that ended at each type.
        distance: (types,), of the worst hit: the largest difference in W Wᵀ and in the norms of
            the columns of W, squared, over λ₁ + βσ²; 0 where there is no hit.
        unexplained: (u, n, k), decoders in the eigenbasis of stationary points on no line of the
            list.
        not_converged: starts that ended elsewhere, most at a minimum of the residual's norm.
    """

    census: census.Census
    hits: Int[np.ndarray, "types"]
    distance: Float[np.ndarray, "types"]
    unexplained: Float[np.ndarray, "u n k"]
    not_converged: int

    @property
    def num_starts(self) -> int:
        """Number of starts: explained, unexplained and not converged."""
        return int(self.hits.sum()) + len(self.unexplained) + self.not_converged


class _State(NamedTuple):
    x: Float[Array, "p"]
    r: Float[Array, "p"]
    damping: Float[Array, ""]
    step: Int[Array, ""]


@partial(jax.jit, static_argnames=("k", "num_starts"))
def _newton(
    lam: Float[Array, "n"],
    key: PRNGKeyArray,
    tolerance: Float[Array, ""] | float,
    max_steps: Int[Array, ""] | int,
    *,
    k: int,
    num_starts: int,
) -> tuple[Float[Array, "starts n k"], Float[Array, "starts"]]:
    """Give decoders at the end of the search, and the residual's largest entry there; σ² = 1."""
    moments = mom.Moments(jnp.zeros_like(lam), lam, jnp.asarray(jnp.inf, lam.dtype))

    def run(key: PRNGKeyArray) -> tuple[Array, Array]:
        # a Gaussian decoder of random size, up to √λ₁, with its best encoder
        key_W, key_size = jax.random.split(key)
        size = jnp.sqrt(lam[0]) * jax.random.uniform(key_size, (), lam.dtype)
        W = size / np.sqrt(len(lam)) * jax.random.normal(key_W, (len(lam), k), lam.dtype)
        start = linear.with_optimal_encoder(W, 1.0)
        x0, unravel = ravel_pytree((start.W, start.V, start.log_d))

        def residual(x: Array) -> Array:
            W, V, log_d = unravel(x)
            g = linear.gradient(linear.LinearVAEParams(W, V, log_d, start.log_sigma2), moments)
            return (1 + jnp.sum(W**2)) * ravel_pytree((g.W, g.V, g.log_d))[0]

        def searching(s: _State) -> Array:
            return (jnp.abs(s.r).max() > tolerance) & (s.step < max_steps)

        def step(s: _State) -> _State:
            J = jax.jacfwd(residual)(s.x)
            normal = matmul(J.T, J) + s.damping * jnp.eye(len(s.x), dtype=s.x.dtype)
            x = s.x - cho_solve((jnp.linalg.cholesky(normal), True), matmul(J.T, s.r))
            r = residual(x)
            # a NaN, from a matrix that rounding made indefinite, is not better either
            better = r @ r < s.r @ s.r
            return _State(
                jnp.where(better, x, s.x),
                jnp.where(better, r, s.r),
                jnp.where(better, s.damping / 8, s.damping * 4),
                s.step + 1,
            )

        first = _State(x0, residual(x0), jnp.ones((), x0.dtype), jnp.array(0))
        end = jax.lax.while_loop(searching, step, first)
        return unravel(end.x)[0], jnp.abs(end.r).max()

    return jax.vmap(run)(jax.random.split(key, num_starts))


def _signature(WWt: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Flatten what tells types apart: W Wᵀ, and the squared norms of W's columns in order."""
    flat = WWt.reshape(*WWt.shape[:-2], WWt.shape[-1] ** 2)  # there may be none at all
    return np.concatenate([flat, np.sort(columns)], axis=-1)


def _listed_signature(lam: np.ndarray, point_type: mixed.PointType) -> np.ndarray:
    """Give the signature of a type in the census, at noise 1."""
    p = mixed.point(lam, point_type, 1.0)
    squares = np.zeros(len(lam))
    squares[p.components] = p.gamma - 1
    return _signature(np.diag(squares), np.append(p.s2, p.spare_s2) - 1)


def search(
    eigenvalues: Float[Array, "n"],
    k: int,
    sigma2: Scalar,
    key: PRNGKeyArray,
    num_starts: int = 200,
    beta: Scalar = 1.0,
    *,
    max_steps: int = 100,
    tolerance: float = 1e-9,
    match: float = 1e-5,
) -> Search:
    """Search for stationary points from random starts, and look each one up in the census.

    The search works in units of the noise (λ/βσ², W/√βσ²), which changes nothing but the scale. The
    eigenvalues (n,) must be distinct. They, k, σ² and β are as for `census.types`; `key` draws the
    starts.

    A start takes at most `max_steps` Newton steps. It has converged when no entry of the residual
    is above `tolerance`. The point found is of a type if its distance to the type, as in `Search`,
    is at most `match`. Its distance to the true point depends on the smallest eigenvalue of the
    Hessian, and `match` must allow for that.

    Raises:
        ValueError: as `census.types`, or eigenvalues that are not float64.
    """
    listed = census.table(eigenvalues, k, sigma2, beta)
    if eigenvalues.dtype != jnp.float64:
        checks.fail("eigenvalues", eigenvalues.dtype, "float64", "Set jax_enable_x64.")
    checks.in_range("num_starts", num_starts, 1, 2**31 - 1, "at least one")
    tau = float(beta) * float(sigma2)
    lam = jnp.maximum(eigenvalues, 0) / tau
    W, residual = _newton(lam, key, tolerance, max_steps, k=k, num_starts=num_starts)
    W, converged = np.asarray(W), np.asarray(residual) <= tolerance
    W = W[converged]
    found = _signature(W @ W.swapaxes(1, 2), (W**2).sum(axis=1))
    expected = np.stack([_listed_signature(np.asarray(lam), t) for t in listed.types])
    hits = np.zeros(len(expected), int)
    worst = np.zeros(len(expected))
    unexplained = []
    for decoder, signature in zip(W, found, strict=True):
        distance = np.abs(expected - signature).max(axis=1) / (1 + float(lam[0]))
        nearest = int(distance.argmin())
        if distance[nearest] <= match:
            hits[nearest] += 1
            worst[nearest] = max(worst[nearest], distance[nearest])
        else:
            unexplained.append(np.sqrt(tau) * decoder)
    strangers = np.array(unexplained).reshape(-1, len(lam), k)
    return Search(listed, hits, worst, strangers, num_starts - int(converged.sum()))
