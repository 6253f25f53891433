"""The gradient of the ELBO: by hand or by autodiff, with a full S or in its eigenbasis."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import problems, records, timing
from benchmarks.records import Measurement, Scale
from linvae_jax import linear
from linvae_jax import moments as mom


def _norm(tree: Any) -> float:
    leaves = [np.linalg.norm(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)]
    return float(np.linalg.norm(leaves))


def _error(found: Any, exact: Any) -> float:
    """Relative, over the whole gradient."""
    difference = jax.tree.map(lambda a, b: jnp.asarray(a, jnp.float64) - b, found, exact)
    return _norm(difference) / _norm(exact)


def gradient(scale: Scale) -> Iterator[Measurement]:
    """Four ways to the same gradient, in both precisions."""
    n, k = (20, 5) if scale == "smoke" else (784, 200)
    pixel = problems.full_moments(n)
    rotated, spectrum = mom.in_eigenbasis(pixel)
    params = linear.init(jax.random.key(0), n, k, 1.0)
    there = linear.rotate(params, spectrum.eigenvectors)
    analytic = jax.jit(linear.gradient)
    autodiff = jax.jit(jax.grad(linear.elbo))
    reference = autodiff(params, pixel)
    exact = {
        "pixel": reference,
        "eigenbasis": linear.rotate(reference, spectrum.eigenvectors),
    }
    base = "autodiff, pixel"
    for dtype in (jnp.float32,) if scale == "smoke" else (jnp.float64, jnp.float32):
        cast = jax.tree.map(
            lambda leaf, dtype=dtype: leaf.astype(dtype),
            {"pixel": (params, pixel), "eigenbasis": (there, rotated)},
        )
        functions = {
            f"{how}, {basis}": lambda function=function, args=args: function(*args)
            for basis, args in cast.items()
            for how, function in (("autodiff", autodiff), ("by hand", analytic))
        }
        samples, found = timing.interleaved(functions, 3 if scale == "smoke" else 21)
        for name, sample in samples.items():
            error = _error(found[name], exact[name.split(", ")[1]])
            what = f"gradient {name}, n = {n}, k = {k}, {jnp.dtype(dtype).name}"
            note = f"relative difference from autodiff, pixel, float64: {error:.0e}"
            yield records.duration(what, sample, "ms", note=note)
            if name != base:
                yield records.ratio(f"{what}, over {base}", sample, samples[base])
