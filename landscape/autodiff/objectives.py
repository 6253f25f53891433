"""An objective is a function, and the variables that it is a function of.

The same model has different Hessians as its noise and mean are held fixed or learned. Each
builder here returns the pair that `hessian` and `conditioning` take.

>>> import jax.numpy as jnp
>>> from landscape.autodiff import hessian, objectives
>>> from linvae_jax import linear, moments
>>> params = linear.with_optimal_encoder(jnp.array([[2.0], [0.0]]), sigma2=1.0)
>>> data = moments.from_covariance(jnp.diag(jnp.array([5.0, 0.5])))
>>> hessian.dense(*objectives.elbo(params, data, learn=("log_d",))).round(3).tolist()
[[-0.5]]
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from landscape.autodiff import matrix_free
from linvae_jax import linear, ppca
from linvae_jax import moments as mom
from linvae_jax._internal import arrays, checks
from linvae_jax._internal.arrays import Scalar

Variables = Mapping[str, Array]


class Objective(NamedTuple):
    """An objective has a scalar function of a pytree, and the point at which it is looked at.

    Attributes:
        function: variables → (), nats per datum, to be maximised.
        variables: the point: a dictionary of arrays.
    """

    function: Callable[[Any], Float[Array, ""]]
    variables: dict[str, Array]


def _select(available: Variables, learn: Sequence[str]) -> dict[str, Array]:
    unknown = set(learn) - set(available)
    if unknown or not learn:
        checks.fail("learn", tuple(learn), f"some of {tuple(available)}")
    return {name: available[name] for name in learn}


# how each variable grows with the unit of the data; logarithms do not
_POWERS = {"W": 1, "V": -1, "mean": 1}


def in_data_units(variables: Variables, scale: Scalar) -> dict[str, Array]:
    """Take variables of the data x/scale to those of x: W and the mean × scale, V / scale.

    The variables may be a point, or a direction such as `lobpcg.escapes` finds. A scale ≤ 0 raises
    `ValueError`.
    """
    checks.positive("scale", scale)
    return {name: x * scale ** _POWERS.get(name, 0) for name, x in variables.items()}


def rescaled(objective: Objective, scale: Scalar) -> Objective:
    """Make the same objective a function of the variables of the data x/scale.

    W bends with one over the data's unit squared, V with the unit squared, log D not at all: in the
    data's own unit the Hessian's eigenvalues have no common scale, and what is small beside the
    largest need not be small. With scale = √λ₁ (the first principal standard deviation), or the
    root of the mean variance, they are those of normalised data: no unit is left. Values do not
    change, nor do index and nullity, for the new Hessian is D H D with D > 0 diagonal (Sylvester).
    A scale that is not one number > 0 raises `ValueError`.
    """
    checks.positive_scalar("scale", scale)
    function, variables = objective
    dtype = jnp.result_type(*variables.values())
    scale = jnp.asarray(scale, dtype)
    # a Partial of a Partial, so that matrix-free programs are shared as before
    rescaled = Partial(_of_rescaled, matrix_free.argument(function), scale)
    return Objective(rescaled, in_data_units(variables, 1 / scale))


def _of_rescaled(function: Partial, scale: Array, variables: Variables) -> Float[Array, ""]:
    return function(in_data_units(variables, scale))


def elbo(
    params: linear.LinearVAEParams,
    moments: mom.Moments,
    *,
    beta: Scalar = 1.0,
    learn: Sequence[str] = ("W", "V", "log_d"),
) -> Objective:
    """Make the β-ELBO a function of the variables named in `learn`.

    `learn` has any of "W", "V", "log_d", "log_sigma2", "mean"; the other variables are held fixed.

    Raises:
        ValueError: an unknown name, or parameters that do not fit the moments.
    """
    params = linear.check(params, moments)
    available = {name: getattr(params, name) for name in linear.NAMES}

    def function(variables: Variables) -> Float[Array, ""]:
        variables = dict(variables)
        mean = variables.pop("mean", None)
        about = moments if mean is None else mom.about(moments, mean)
        return linear.elbo(replace(params, **variables), about, beta)

    return Objective(function, _select(available | {"mean": moments.mean}, learn))


def log_likelihood(
    W: Float[Array, "n k"] | Any,
    sigma2: Scalar,
    moments: mom.Moments,
    *,
    learn: Sequence[str] = ("W",),
) -> Objective:
    """Make the pPCA log-likelihood a function of the variables named in `learn`.

    `learn` has "W", "log_sigma2" or both. Another name, and σ² ≤ 0, raise `ValueError`.
    """
    W = arrays.as_float("W", W)
    sigma2 = checks.positive_scalar("sigma2", sigma2, W.dtype)
    log_sigma2 = jnp.log(jnp.asarray(sigma2, W.dtype))

    def function(variables: Variables) -> Float[Array, ""]:
        v = {"W": W, "log_sigma2": log_sigma2} | dict(variables)
        return ppca.log_likelihood(v["W"], jnp.exp(v["log_sigma2"]), moments)

    return Objective(function, _select({"W": W, "log_sigma2": log_sigma2}, learn))
