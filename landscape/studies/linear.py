"""What a study of the landscape reads off, as labelled tables: functions of a spectrum and σ².

Each table is made by one function from the exact theory (`blocks`, `census`, `escape`); `figures`
draws them, `reproduce` and the command line save them.
"""

from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from landscape.curvature import blocks, escape, summaries
from landscape.points import census, search, stationary
from linvae_jax import ppca, streams, tables
from linvae_jax._internal import arrays, checks

_NATS = "nats/datum"

# shares of a component's eigenvalue: σ² at which its escape is simulated
SIMULATED_AT = (0.003, 0.01, 0.1, 0.5)


def sigma2_grid(
    eigenvalues: Float[Array, "n"] | Any, k: int, num: int = 200
) -> Float[Array, "num"]:
    """Make a logarithmic grid of σ², from a tenth of its MLE to beyond the collapse of all."""
    low = 0.1 * ppca.optimal_sigma2(eigenvalues, k)
    largest = arrays.spectrum("eigenvalues", eigenvalues)[0]
    return jnp.geomspace(low, 1.5 * largest, num)


def patterns(k: int) -> dict[str, np.ndarray]:
    """Name three patterns of collapse by the latents left: none, the first, every second."""
    latent = np.arange(k)
    return {
        "all collapsed": np.full(k, -1),
        "first active": np.where(latent == 0, 0, -1),
        "every second active": np.where(latent % 2 == 0, latent, -1),
    }


def conditioning_path(
    eigenvalues: Float[Array, "n"] | Any,
    k: int,
    sigma2: Float[Array, "steps"],
    chosen: dict[str, np.ndarray] | None = None,
    learn: Sequence[str] = blocks.WEIGHTS,
) -> xr.Dataset:
    """Tabulate index, conditioning and escape of patterns of collapse over σ², exactly.

    Of the eigenvalues of S, for the assignments `chosen` by name, `patterns(k)` by default, with
    the Hessian in the variables `learn`. Over (pattern, sigma2); with `critical_sigma2` (pattern,
    latent), the σ² beyond which each latent of the pattern is collapsed.
    """
    chosen = patterns(k) if chosen is None else chosen
    paths = [summaries.over_sigma2(eigenvalues, a, sigma2, learn=learn) for a in chosen.values()]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *paths)
    c, free = stacked.conditioning, stacked.conditioning.unit_free
    dims = ("pattern", "sigma2")
    optimum = jax.vmap(lambda s: ppca.optimal_elbo(eigenvalues, k, s))(sigma2)
    assignments = np.stack(list(chosen.values()))
    critical = np.where(assignments >= 0, np.asarray(eigenvalues)[assignments], 0.0)
    steps, free_steps = (escape.steps(of.escape_rate, 1 / of.stiffness, np.e) for of in (c, free))
    condition, rate = "of the stable directions", "fastest escape rate"
    grow, unit = "gradient descent steps to grow by e", "for data x/√λ₁"
    return tables.dataset(
        {
            "value": (dims, stacked.value, _NATS, "ELBO"),
            "gap": (dims, optimum - stacked.value, _NATS, "ELBO below the optimum"),
            "index": (dims, c.index, "1", "escape directions"),
            "nullity": (dims, c.nullity, "1", "degenerate directions"),
            "condition_number": (dims, c.condition_number, "1", condition),
            "escape_rate": (dims, c.escape_rate, "nats", rate),
            "stiffness": (dims, c.stiffness, "nats", "stiffest stable direction"),
            "escape_steps": (dims, steps, "steps", grow),
            # raw numbers change with the unit of the data, and differently for W and V
            "unit_free_condition_number": (
                dims, free.condition_number, "1", f"{condition}, {unit}"
            ),
            "unit_free_escape_rate": (dims, free.escape_rate, "nats", f"{rate}, {unit}"),
            "unit_free_escape_steps": (dims, free_steps, "steps", f"{grow}, {unit}"),
            "critical_sigma2": (
                ("pattern", "latent"), critical, "data unit²",
                "collapse of each latent of the pattern (0: collapsed throughout)",
            ),
        },
        coords={
            "pattern": list(chosen),
            "sigma2": (sigma2, "data unit²", "observation noise σ²"),
            "latent": np.arange(k),
        },
        attrs=tables.provenance(n=len(eigenvalues), k=k, learn=list(learn)),
    )  # fmt: skip


def escapes(
    eigenvalues: Float[Array, "n"] | Any,
    components: Sequence[int],
    sigma2: Float[Array, "steps"],
    simulate_at: Sequence[float] = SIMULATED_AT,
) -> xr.Dataset:
    """Tabulate escape from total collapse along components (from 0): theory, and simulations.

    Of the eigenvalues of S: `rate` and `conditioning` over (component, sigma2), and, with σ² the
    fractions `simulate_at` of each component's eigenvalue, `sigma2_simulated`, `predicted_steps`
    and `simulated_steps` over (component, fraction).
    """
    eigenvalues = arrays.spectrum("eigenvalues", eigenvalues)
    lam = eigenvalues[jnp.asarray(components)]
    rate = escape.escape_rate(lam[:, None], sigma2[None, :])
    stiffness = escape.collapsed_stiffness(eigenvalues[0], sigma2)
    over_rate = jnp.where(rate > 0, stiffness / rate, jnp.nan)
    runs = [
        [escape.simulate(eigenvalues, c, f * float(eigenvalues[c])) for f in simulate_at]
        for c in components
    ]
    predicted = [[float(r.predicted_steps) for r in row] for row in runs]
    found = [[float(r.simulated_steps) for r in row] for row in runs]
    dims, at, grow = ("component", "sigma2"), ("component", "fraction"), "to grow a thousandfold"
    return tables.dataset(
        {
            "rate": (dims, rate, "nats", "escape rate μ₊ (negative: return)"),
            "conditioning": (dims, over_rate, "1", "stiffness over escape rate"),
            "eigenvalue": ("component", lam, "data unit²", "critical σ² of the component"),
            "sigma2_simulated": (
                at, np.outer(lam, simulate_at), "data unit²", "σ² of the simulation"
            ),
            "predicted_steps": (at, predicted, "steps", f"{grow}, predicted"),
            "simulated_steps": (at, found, "steps", f"{grow}, gradient descent"),
        },
        coords={
            "component": (np.asarray(components) + 1, "1", "principal component, from 1"),
            "sigma2": (sigma2, "data unit²", "observation noise σ²"),
            "fraction": (list(simulate_at), "1", "σ² over the eigenvalue"),
        },
        attrs=tables.provenance(),
    )  # fmt: skip


def spectrum_histogram(
    eigenvalues: Float[Array, "n"] | Any,
    chosen: dict[str, np.ndarray],
    sigma2: float,
    bins: int = 200,
) -> xr.Dataset:
    """Count all Hessian eigenvalues at several points over |μ|, by sign, on a log scale.

    Of the eigenvalues of S, at the assignments `chosen` by name. The Hessian is that of the data
    x/√λ₁: in the data's own unit the curvatures in W and in V may lie too many decades apart for
    one picture. The bins cover the decades from 1e-12 of the stiffest.
    """
    points = [stationary.point(eigenvalues, a, sigma2) for a in chosen.values()]
    largest = max(float(summaries.summarise(point).unit_free.stiffness) for point in points)
    edges = jnp.geomspace(1e-12 * largest, 2 * largest, bins + 1)
    count = partial(summaries.histogram, unit_free=True)
    positive = jnp.stack([count(point, edges).counts for point in points])
    negative = jnp.stack([count(point, -edges[::-1]).counts[::-1] for point in points])
    size = jnp.sqrt(edges[1:] * edges[:-1])
    dims = ("point", "size")
    return tables.dataset(
        {
            "negative": (dims, negative, "1", "stable directions in the bin"),
            "positive": (dims, positive, "1", "escape directions in the bin"),
        },
        coords={
            "point": list(chosen),
            "size": (size, "nats", "|eigenvalue| of the Hessian, data x/√λ₁"),
        },
        attrs=tables.provenance(sigma2=sigma2),
    )


def census_table(
    eigenvalues: Float[Array, "n"] | Any, k: int, sigma2: float, max_types: int = 20_000
) -> xr.Dataset:
    """Tabulate every stationary point of a small problem: pPCA's and the mixed ones.

    Of a few eigenvalues of S: value, gap, index, nullity, mixed over `type`, labelled by its name.

    Raises:
        ValueError: more than `max_types`, whose number grows combinatorially.
    """
    if len(list(islice(census.types(eigenvalues, k, sigma2), max_types + 1))) > max_types:
        checks.fail("k", f"{k}, with more types of points than that", f"<= {max_types:,} types")
    found = census.table(eigenvalues, k, sigma2)
    return tables.dataset(
        {
            "value": ("type", found.value, _NATS, "ELBO"),
            "gap": ("type", found.gap, _NATS, "ELBO below the optimum"),
            "index": ("type", found.index, "1", "escape directions"),
            "nullity": ("type", found.nullity, "1", "degenerate directions"),
            "mixed": ("type", [t.mixed for t in found.types], "1", "no stationary point of pPCA"),
        },
        coords={"type": [str(t) for t in found.types]},
        attrs=tables.provenance(sigma2=sigma2, k=k, eigenvalues=[float(v) for v in eigenvalues]),
    )


_SEARCHED = {
    "n": "data dimension",
    "k": "latents",
    "sigma2": "observation noise σ²",
    "types": "types on the list",
    "mixed": "mixed types among them",
    "found": "types that the search found",
    "unexplained": "points found that are on no line of the list",
    "not_converged": "starts that ended at no stationary point",
    "maxima": "types of index 0",
}


def searches(shapes: Sequence[tuple[int, int]], num_starts: int, seed: int) -> xr.Dataset:
    """Search for stationary points of random small problems, against the census.

    Each problem has (n, k) of `shapes` and `num_starts` Newton starts; the seed gives spectra, σ²
    and starts.

    Raises:
        ValueError: no seed, as `streams.check`; as `search.search`.
    """
    key = streams.key(seed, "searches")
    rows: dict[str, list[float]] = {name: [] for name in _SEARCHED}
    for i, (n, k) in enumerate(shapes):
        # ratios of at least 1.2 keep the points apart, so that a match means one type
        key_ratios, key_noise, key_starts = jax.random.split(jax.random.fold_in(key, i), 3)
        ratios = jax.random.uniform(key_ratios, (n,), minval=1.2, maxval=2.5)
        lam = jnp.cumprod(ratios)[::-1]
        share = float(jax.random.uniform(key_noise, minval=0.3, maxval=1.2))
        sigma2 = share * float(lam[min(k, n - 1)])
        found = search.search(lam, k, sigma2, key_starts, num_starts)
        listed = found.census
        row = (
            n, k, sigma2, len(listed.types), sum(t.mixed for t in listed.types),
            int((found.hits > 0).sum()), len(found.unexplained), found.not_converged,
            int((listed.index == 0).sum()),
        )  # fmt: skip
        for values, value in zip(rows.values(), row, strict=True):
            values.append(value)
    return tables.dataset(
        {name: ("problem", values, "1", _SEARCHED[name]) for name, values in rows.items()},
        coords={"problem": np.arange(len(shapes))},
        attrs=tables.provenance(num_starts=num_starts, seed=seed),
    )
