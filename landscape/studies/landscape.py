"""The landscape of a linear VAE on one spectrum is four tables, and their three figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from landscape.figures import linear as linear_figures
from landscape.figures import style
from landscape.studies import linear as linear_study
from linvae_jax import moments as mom
from linvae_jax import tables
from linvae_jax._internal import checks


class Landscape(NamedTuple):
    """These are the tables of one landscape.

    Attributes:
        conditioning: of `linear.conditioning_path`, over σ².
        escapes: of `linear.escapes`, along three components, over σ².
        spectra: of `linear.spectrum_histogram`, at the optimum and at three collapsed points.
        census: of `linear.census_table`, three latents on the `leading` components.
        leading: number of components of the census, at most six.
    """

    conditioning: xr.Dataset
    escapes: xr.Dataset
    spectra: xr.Dataset
    census: xr.Dataset
    leading: int


def study(eigenvalues: Float[Array, "n"], k: int, sigma2: float) -> Landscape:
    """Tabulate conditioning, escapes, Hessian spectra (at this σ²) and the census of a spectrum.

    Raises:
        ValueError: k not from 3 to n − 1; as the functions of `studies.linear`.
    """
    checks.in_range("k", k, 3, len(eigenvalues) - 1, "three components to follow")
    grid = linear_study.sigma2_grid(eigenvalues, k)
    followed = (0, max(k // 5, 1), k - 1)
    # down to the smallest σ² of a simulation, so that each lies on its curve
    lowest = min(linear_study.SIMULATED_AT) * eigenvalues[k - 1]
    below = jnp.geomspace(lowest, grid[0], 20, endpoint=False) if lowest < grid[0] else grid[:0]
    points = {"optimum": np.arange(k), **linear_study.patterns(k)}
    # at a σ² of the user's, latents on components below it are collapsed
    alive = np.asarray(eigenvalues) > sigma2
    points = {name: np.where((a >= 0) & alive[a], a, -1) for name, a in points.items()}
    # a component without variance has no σ² below it
    leading = min(6, int(mom.rank(eigenvalues)))
    below_all = 0.6 * float(eigenvalues[leading - 1])  # so that the census may use each of them
    return Landscape(
        linear_study.conditioning_path(eigenvalues, k, grid),
        linear_study.escapes(eigenvalues, followed, jnp.concatenate([below, grid])),
        linear_study.spectrum_histogram(eigenvalues, points, sigma2),
        linear_study.census_table(eigenvalues[:leading], 3, below_all),
        leading,
    )


def save(found: Landscape, folder: Path, attrs: Mapping[str, Any]) -> dict[str, xr.Dataset]:
    """Write tables, `landscape_<name>.nc`, with these attributes, and draw the figures.

    Returns the tables by `landscape_<name>`.
    """
    pairs = zip(found._fields[:4], found[:4], strict=True)
    saved = {f"landscape_{name}": table.assign_attrs(attrs) for name, table in pairs}
    for name, table in saved.items():
        tables.save(table, folder / f"{name}.nc")
    drawn = {
        "conditioning": linear_figures.escape_and_conditioning(found.conditioning, found.escapes),
        "spectra": linear_figures.hessian_spectra(found.spectra),
        "census": linear_figures.census_scatter(found.census),
    }
    for name, figure in drawn.items():
        style.save(figure, folder / f"landscape_{name}")
    return saved
