"""What a VAE of someone else gives is looked at before it is believed.

`params` are `adapters.AdaptedParams`; data x (N, n) have their mean taken off. The VAE runs as one
program, and NumPy looks at the rest: JAX would compile fifty small ones.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from landscape.curvature import collapsed_latent
from linvae_jax import vae
from linvae_jax._internal import checks


def what(out: Any) -> str:
    """Say what a function of the user gave."""
    if isinstance(out, tuple | list):
        return f"{len(out)} values ({', '.join(map(what, out))})"
    shape = f" of shape {out.shape}" if hasattr(out, "shape") else ""
    return ("array" if isinstance(out, jax.Array) else type(out).__name__) + shape


def pair(out: Any, N: int, k: int | str = "k") -> tuple[Array, Array]:
    """Expect means and log variances of N data."""
    two = isinstance(out, tuple | list) and len(out) == 2
    shape, other = (getattr(each, "shape", ()) for each in out) if two else ((), ())
    fits = len(shape) == 2 and shape[0] == N and k in ("k", shape[1])
    if not fits or other not in (shape, shape[1:]):
        due = f"(mean, log_var) of shapes ({N}, {k}) and ({N}, {k}) or ({k},) of {N} data"
        checks.fail("encode", what(out), due, "Hand over a function that picks these.")
    return out[0], out[1]


@partial(jax.jit, static_argnames="model")
def _program(model: Any, params: Any, x: Array, z: Array) -> tuple[Array, Array, Array]:
    found = model.encode(params, x)
    log_d = jnp.broadcast_to(found.log_d, found.mean.shape)
    return found.mean, log_d, model.decode(params, z) + params.mean


def _run(model: Any, params: Any, x: np.ndarray, z: np.ndarray) -> list[np.ndarray]:
    """Compute means, log variances (N, k) and E[x | z] in the data's own units."""
    return [np.asarray(of) for of in _program(model, params, x, z)]


def _codes(model: vae.Model, x: np.ndarray) -> np.ndarray:
    """Make codes (N, k) of about the prior's size, all different."""
    return np.cos(1.0 + np.arange(len(x) * model.k)).astype(x.dtype).reshape(len(x), model.k)


def _with(z: np.ndarray, j: int, value: float) -> np.ndarray:
    """Set column j."""
    return np.where(np.arange(z.shape[1]) == j, z.dtype.type(value), z)


def check_alone(model: vae.Model, params: Any, x: np.ndarray) -> None:
    """Expect of a datum alone what it gives among others."""
    z = _codes(model, x)
    together, alone = _run(model, params, x, z), _run(model, params, x[-1:], z[-1:])
    names = ("encode: mean", "encode: log variance", "decode: x̂")
    scales = (1.0, 1.0, _size(params, x))
    for name, many, one, scale in zip(names, together, alone, scales, strict=True):
        checks.finite(name, many)
        # networks may compute in bfloat16, of three digits; dropout changes much more
        if np.abs(many[-1:] - one).max() > 0.02 * (np.abs(many).max() + scale):
            hint = "Dropout off, batch normalisation in evaluation mode? In NNX, module.eval()."
            checks.fail(name, "another value of a datum alone than among others", "one", hint)


def _size(params: Any, x: np.ndarray) -> float:
    return float(np.abs(x + np.asarray(params.mean)).max())


def check_collapse(model: vae.LatentModel, params: Any, x: np.ndarray, j: int) -> None:
    """Expect that latent j, and no other, is collapsed where its weights are zero."""
    z = _with(_codes(model, x), j, 0.0)
    point = collapsed_latent.collapse_latents(model, params, (j,))
    before, after = _run(model, params, x, z), _run(model, point, x, z)
    heard = _run(model, point, x, _with(z, j, 1.0))[2]
    # what is multiplied by zero is zero; this leaves room for sums in another order
    small = 10 * np.finfo(z.dtype).eps

    def expect(holds: Any, got: str, hint: str) -> None:
        if not holds:
            got = f"weights of latent {j} without which {got}"
            checks.fail("latents", got, "all that are its own, and no other's", hint)

    for name, of in (("mean", after[0][:, j]), ("log variance", after[1][:, j])):
        part = "bias" if np.ptp(of) <= small * np.abs(of).max() else "kernel"
        hint = f"A {part} is missing, or its axis or offset is another."
        expect(np.abs(of).max() <= small, f"its {name} is still {of[0]:.3g}, not 0", hint)
    near = small * (np.abs(before[2]).max() + _size(params, x))
    hint = 'Of "decoder" the path or axis is another, or z enters in several places.'
    expect(np.abs(heard - after[2]).max() <= near, "the decoder still hears it", hint)
    hint = "One of the parts is not the latent's alone, or its axis or offset is another."
    expect(np.abs(after[2] - before[2]).max() <= near, "the decoder at z_j = 0 changes", hint)
    for old, new in zip(before[:2], after[:2], strict=True):
        changed = np.abs(_with(new - old, j, 0.0)).max()
        expect(changed <= small * (1 + np.abs(old).max()), "other latents change", hint)
