"""When two sweeps are the same: to the bit, or up to the rounding of another layout."""

from collections.abc import Callable

import jax
import numpy as np
import xarray as xr

from linvae_jax import sweeps


def leaves(tree: object) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def same_bits(a: sweeps.Sweep, b: sweeps.Sweep) -> bool:
    of_a, of_b = (
        [(leaf.shape, leaf.dtype, leaf.tobytes()) for leaf in leaves(sweep.params)]
        for sweep in (a, b)
    )
    return of_a == of_b and a.table.drop_attrs().identical(b.table.drop_attrs())


def assert_close(a: xr.Dataset, b: xr.Dataset) -> None:
    """Equal up to float32 rounding in sums of some hundred terms, amplified by up to 60 steps."""
    for name in ("final_elbo", "final_kl", "elbo", "sigma2"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-4, err_msg=name)


def stop_after(calls: int) -> Callable[[bool], bool]:
    """In place of `sweep_folder.anywhere`: asked whether to stop, yes after so many questions."""
    asked = []

    def stop(flag: bool) -> bool:
        asked.append(flag)
        return len(asked) > calls

    return stop
