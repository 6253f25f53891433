"""What others offer for the same question: dense eigenvalues, matfree's Lanczos, SciPy's eigsh.

Each gets the ELBO in its cheapest coordinates and a compiled operator.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matfree import decomp, eig
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from landscape.autodiff import hessian, matrix_free, objectives


class Found(NamedTuple):
    """Eigenvalues as a peer found them, and the Hessian-vector products that it took."""

    values: np.ndarray
    products: int


def dense_eigenvalues(objective: objectives.Objective) -> Callable[[], jax.Array]:
    """All eigenvalues by an autodiff Hessian and LAPACK or cuSOLVER; compiled here."""
    function = jax.jit(
        lambda variables: jnp.linalg.eigvalsh(hessian.dense(objective.function, variables))
    )
    compiled = function.lower(objective.variables).compile()
    return lambda: compiled(objective.variables)


def _start(objective: objectives.Objective) -> jax.Array:
    size = ravel_pytree(objective.variables)[0].size
    return jax.random.normal(jax.random.key(0), (size,))


def _largest(values: Any, count: int) -> np.ndarray:
    values = np.asarray(values)
    return values[np.argsort(-np.abs(values))[:count]]


def matfree_largest(objective: objectives.Objective, count: int, steps: int) -> Callable[[], Found]:
    """The `count` largest |μ| by `steps` of Lanczos, fully reorthogonalised; compiled here."""
    start = _start(objective)

    def values(variables: Any, start: jax.Array) -> jax.Array:
        tridiagonalise = decomp.tridiag_sym(steps, reortho="full", custom_vjp=False)
        return eig.eigh_partial(tridiagonalise)(
            matrix_free.operator(objective.function, variables), start
        )[0]

    compiled = jax.jit(values).lower(objective.variables, start).compile()
    return lambda: Found(_largest(compiled(objective.variables, start), count), steps)


def scipy_largest(objective: objectives.Objective, count: int) -> Callable[[], Found]:
    """The `count` largest |μ| by ARPACK's restarted Lanczos to 1e-8; compiled here."""
    start = _start(objective)
    product = jax.jit(lambda variables, v: matrix_free.operator(objective.function, variables)(v))
    product = product.lower(objective.variables, start).compile()

    def find() -> Found:
        products = 0

        def apply(vector: np.ndarray) -> np.ndarray:
            nonlocal products
            products += 1
            return np.asarray(product(objective.variables, jnp.asarray(vector.ravel())))

        operator = LinearOperator((start.size, start.size), apply, dtype=np.float64)  # pyright: ignore[reportCallIssue]
        try:
            values = eigsh(
                operator,
                count,
                which="LM",
                v0=np.asarray(start),
                tol=1e-8,  # pyright: ignore[reportArgumentType]
                maxiter=50,
                return_eigenvectors=False,
            )
        except ArpackNoConvergence as stopped:
            values = stopped.eigenvalues
        return Found(_largest(values, count), products)

    return find
