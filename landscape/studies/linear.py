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


def sigma2_grid(
    eigenvalues: Float[Array, "n"] | Any, k: int, num: int = 200
) -> Float[Array, "num"]:
    """Make a logarithmic grid of σ², from a tenth of its MLE to beyond the collapse of all."""
    low = 0.1 * ppca.optimal_sigma2(eigenvalues, k)
    largest = arrays.spectrum("eigenvalues", eigenvalues)[0]
    return jnp.geomspace(low, 1.5 * largest, num)


def patterns(k: int) -> dict[str, np.ndarray]:
    """Name three patterns of collapse by the latents left: none, the first, every second."""
    alternating = np.where(np.arange(k) % 2 == 0, np.arange(k), -1)
    first = np.where(np.arange(k) == 0, 0, -1)
    return {
        "all collapsed": np.full(k, -1),
        "first active": first,
        "every second active": alternating,
    }


def conditioning_path(
    eigenvalues: Float[Array, "n"] | Any,
    k: int,
    sigma2: Float[Array, "steps"],
    chosen: dict[str, np.ndarray] | None = None,
    learn: Sequence[str] = blocks.WEIGHTS,
) -> xr.Dataset:
    """Tabulate index, conditioning and escape of patterns of collapse over σ², exactly.

    Args:
        eigenvalues: (n,), of S.
        k: number of latents.
        sigma2: (steps,).
        chosen: name → assignment; `patterns(k)` by default.
        learn: which variables the Hessian is taken in.

    Returns:
        Data set over (pattern, sigma2); with `critical_sigma2` (pattern, latent), the σ² beyond
        which each latent of the pattern is collapsed.
    """
    chosen = patterns(k) if chosen is None else chosen
    paths = [summaries.over_sigma2(eigenvalues, a, sigma2, learn=learn) for a in chosen.values()]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *paths)
    c = stacked.conditioning
    free = c.unit_free
    dims = ("pattern", "sigma2")
    optimum = jax.vmap(lambda s: ppca.optimal_elbo(eigenvalues, k, s))(sigma2)
    assignments = np.stack(list(chosen.values()))
    critical = np.where(assignments >= 0, np.asarray(eigenvalues)[assignments], 0.0)
    return tables.dataset(
        {
            "value": (dims, stacked.value, _NATS, "ELBO"),
            "gap": (dims, optimum - stacked.value, _NATS, "ELBO below the optimum"),
            "index": (dims, c.index, "1", "escape directions"),
            "nullity": (dims, c.nullity, "1", "degenerate directions"),
            "condition_number": (dims, c.condition_number, "1", "of the stable directions"),
            "escape_rate": (dims, c.escape_rate, "nats", "fastest escape rate"),
            "stiffness": (dims, c.stiffness, "nats", "stiffest stable direction"),
            "escape_steps": (
                dims,
                escape.steps(c.escape_rate, 1 / c.stiffness, np.e),
                "steps",
                "gradient descent steps to grow by e",
            ),
            # raw numbers change with the unit of the data, and differently for W and V
            "unit_free_condition_number": (
                dims,
                free.condition_number,
                "1",
                "of the stable directions, for data x/√λ₁",
            ),
            "unit_free_escape_rate": (
                dims,
                free.escape_rate,
                "nats",
                "fastest escape rate, for data x/√λ₁",
            ),
            "unit_free_escape_steps": (
                dims,
                escape.steps(free.escape_rate, 1 / free.stiffness, np.e),
                "steps",
                "gradient descent steps to grow by e, for data x/√λ₁",
            ),
            "critical_sigma2": (
                ("pattern", "latent"),
                critical,
                "data unit²",
                "collapse of each latent of the pattern (0: collapsed throughout)",
            ),
        },
        coords={
            "pattern": list(chosen),
            "sigma2": (sigma2, "data unit²", "observation noise σ²"),
            "latent": np.arange(k),
        },
        attrs=tables.provenance(n=len(eigenvalues), k=k, learn=list(learn)),
    )


def escapes(
    eigenvalues: Float[Array, "n"] | Any,
    components: Sequence[int],
    sigma2: Float[Array, "steps"],
    simulate_at: Sequence[float] = (0.003, 0.01, 0.1, 0.5),
) -> xr.Dataset:
    """Tabulate escape from total collapse along single components: theory, and simulations.

    Args:
        eigenvalues: (n,), of S.
        components: 0-based.
        sigma2: (steps,), for the curves.
        simulate_at: fractions of each component's eigenvalue, at which to simulate.

    Returns:
        Data set with `rate` and `conditioning` over (component, sigma2), and `sigma2_simulated`,
        `predicted_steps`, `simulated_steps` over (component, fraction).
    """
    eigenvalues = arrays.spectrum("eigenvalues", eigenvalues)
    lam = eigenvalues[jnp.asarray(components)]
    rate = escape.escape_rate(lam[:, None], sigma2[None, :])
    stiffness = escape.collapsed_stiffness(eigenvalues[0], sigma2)
    runs = [
        [escape.simulate(eigenvalues, c, f * float(eigenvalues[c])) for f in simulate_at]
        for c in components
    ]
    dims, simulated = ("component", "sigma2"), ("component", "fraction")
    return tables.dataset(
        {
            "rate": (dims, rate, "nats", "escape rate μ₊ (negative: return)"),
            "conditioning": (
                dims,
                jnp.where(rate > 0, stiffness / rate, jnp.nan),
                "1",
                "stiffness over escape rate",
            ),
            "eigenvalue": ("component", lam, "data unit²", "critical σ² of the component"),
            "sigma2_simulated": (
                simulated,
                np.outer(lam, simulate_at),
                "data unit²",
                "σ² of the simulation",
            ),
            "predicted_steps": (
                simulated,
                [[float(r.predicted_steps) for r in row] for row in runs],
                "steps",
                "to grow a thousandfold, predicted",
            ),
            "simulated_steps": (
                simulated,
                [[float(r.simulated_steps) for r in row] for row in runs],
                "steps",
                "to grow a thousandfold, gradient descent",
            ),
        },
        coords={
            "component": (np.asarray(components) + 1, "1", "principal component, from 1"),
            "sigma2": (sigma2, "data unit²", "observation noise σ²"),
            "fraction": (list(simulate_at), "1", "σ² over the eigenvalue"),
        },
        attrs=tables.provenance(),
    )


def spectrum_histogram(
    eigenvalues: Float[Array, "n"] | Any,
    chosen: dict[str, np.ndarray],
    sigma2: float,
    bins: int = 200,
) -> xr.Dataset:
    """Count all Hessian eigenvalues at several points over |μ|, by sign, on a log scale.

    They are those of the data x/√λ₁: in the data's own unit the curvatures in W and in V may lie
    too many decades apart for one picture.

    Args:
        eigenvalues: (n,), of S.
        chosen: name → assignment (k,).
        sigma2: noise variance.
        bins: number of bins over the decades from 1e-12 of the stiffest.
    """
    points = [stationary.point(eigenvalues, a, sigma2) for a in chosen.values()]
    negative, positive = [], []
    largest = max(float(summaries.summarise(point).unit_free.stiffness) for point in points)
    edges = jnp.geomspace(1e-12 * largest, 2 * largest, bins + 1)
    for point in points:
        count = partial(summaries.histogram, point, unit_free=True)
        positive.append(count(edges).counts)
        negative.append(count(-edges[::-1]).counts[::-1])
    dims = ("point", "size")
    return tables.dataset(
        {
            "negative": (dims, jnp.stack(negative), "1", "stable directions in the bin"),
            "positive": (dims, jnp.stack(positive), "1", "escape directions in the bin"),
        },
        coords={
            "point": list(chosen),
            "size": (
                jnp.sqrt(edges[1:] * edges[:-1]),
                "nats",
                "|eigenvalue| of the Hessian, data x/√λ₁",
            ),
        },
        attrs=tables.provenance(sigma2=sigma2),
    )


def census_table(
    eigenvalues: Float[Array, "n"] | Any, k: int, sigma2: float, max_types: int = 20_000
) -> xr.Dataset:
    """Tabulate every stationary point of a small problem: pPCA's and the mixed ones.

    Args:
        eigenvalues: (n,), of S; few.
        k: number of latents; few.
        sigma2: noise variance.
        max_types: refuse a longer list, which grows combinatorially.

    Returns:
        Data set over `type`, labelled by its name, with value, gap, index, nullity, mixed.
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


def searches(shapes: Sequence[tuple[int, int]], num_starts: int, seed: int) -> xr.Dataset:
    """Search for stationary points of random small problems, against the census.

    Args:
        shapes: (n, k) of each problem.
        num_starts: Newton starts for each.
        seed: of spectra, σ² and starts.

    Raises:
        ValueError: no seed, as `streams.check`; as `search.search`.
    """
    key = streams.key(seed, "searches")
    rows = []
    for i, (n, k) in enumerate(shapes):
        # ratios of at least 1.2 keep the points apart, so that a match means one type
        key_ratios, key_noise, key_starts = jax.random.split(jax.random.fold_in(key, i), 3)
        ratios = jax.random.uniform(key_ratios, (n,), minval=1.2, maxval=2.5)
        lam = jnp.cumprod(ratios)[::-1]
        share = float(jax.random.uniform(key_noise, minval=0.3, maxval=1.2))
        sigma2 = share * float(lam[min(k, n - 1)])
        found = search.search(lam, k, sigma2, key_starts, num_starts)
        listed = found.census
        rows.append(
            (
                n,
                k,
                sigma2,
                len(listed.types),
                sum(t.mixed for t in listed.types),
                int((found.hits > 0).sum()),
                len(found.unexplained),
                found.not_converged,
                int((listed.index == 0).sum()),
            )
        )
    names = (
        ("n", "data dimension"),
        ("k", "latents"),
        ("sigma2", "observation noise σ²"),
        ("types", "types on the list"),
        ("mixed", "mixed types among them"),
        ("found", "types that the search found"),
        ("unexplained", "points found that are on no line of the list"),
        ("not_converged", "starts that ended at no stationary point"),
        ("maxima", "types of index 0"),
    )
    return tables.dataset(
        {
            name: ("problem", [row[i] for row in rows], "1", text)
            for i, (name, text) in enumerate(names)
        },
        coords={"problem": np.arange(len(rows))},
        attrs=tables.provenance(num_starts=num_starts, seed=seed),
    )
