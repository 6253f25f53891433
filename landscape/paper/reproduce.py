"""The main job: everything the paper claims of linear VAEs, measured on one data set.

Each stage makes a labelled table, draws it, and writes both at once, so that what is computed
is on disk before the next stage starts.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from landscape.figures import linear as linear_figures
from landscape.figures import style
from landscape.paper import ledger, linear_claims
from landscape.paper.settings import LinearSettings
from landscape.studies import linear as linear_study
from landscape.studies import surface
from linvae_jax import linear_task, ppca, progress, streams, sweeps, tables, training
from linvae_jax import moments as mom
from linvae_jax._internal import checks
from linvae_jax._internal.linalg import matmul

# Consecutive eigenvalues differ by a factor of 1.5, so rotations are stiff (0.17 nats/rad²) and
# nothing is slow; 15 small ones are left for σ².
SEPARATED = (16.0, 10.7, 7.1, 4.7, 3.2, *(1.0 - 0.03 * i for i in range(15)))


def _surfaces(spectrum: mom.Spectrum) -> xr.Dataset:
    lam = spectrum.eigenvalues
    return surface.zero_column(lam, surface.default_sigma2(lam))


def _separated(seeds: range) -> tuple[Float[Array, "s"], xr.Dataset]:
    lam = jnp.asarray(SEPARATED)
    config = training.TrainConfig(num_steps=20_000, record_every=250)
    problem = linear_task.problem(mom.from_covariance(lam))
    grid = sweeps.Grid(tuple(seeds), sigma2=(0.1, 1.0, 10.0), learning_rate=(0.03,))
    task = linear_task.LinearTask(k=5)
    return lam, sweeps.run(task, config, problem, grid, title="well-separated problem").table


def _by_latents(
    settings: LinearSettings, problem: linear_task.Problem, constant: float
) -> xr.Dataset:
    lam = problem.spectrum.eigenvalues
    n = len(lam)
    k_max = min(settings.max_latents, n - 1)
    held = float(ppca.optimal_sigma2(lam, min(settings.fixed_latents, k_max)))
    latents = range(1, k_max + 1)
    trained = [k for k in settings.latents if k <= k_max]
    num_steps = max(settings.num_steps // 5, 1)
    config = training.TrainConfig(num_steps=num_steps, record_every=num_steps)
    final: dict[bool, list[float]] = {True: [], False: []}
    for learned in (True, False):
        for k in trained:
            grid = sweeps.Grid(
                seeds=(settings.seed,), sigma2=(1.0 if learned else held,), learned=(learned,),
                learning_rate=(settings.learning_rate,),
            )  # fmt: skip
            title = f"{k} latents, σ² {'learned' if learned else 'held'}"
            sweep = sweeps.run(linear_task.LinearTask(k=k), config, problem, grid, title=title)
            final[learned].append(float(sweep.table.elbo.squeeze()) + constant)
    nats = "nats/datum"
    zero = ppca.elbo_with_components(lam, jnp.zeros(n, bool), lam.mean())
    zero_held = ppca.elbo_with_components(lam, jnp.zeros(n, bool), held)
    mle = [zero, *(ppca.optimal_elbo(lam, k) for k in latents)]
    fixed = [zero_held, *(ppca.optimal_elbo(lam, k, held) for k in latents)]
    return tables.dataset(
        {
            "mle": ("latents", jnp.stack(mle) + constant, nats, "pPCA log-likelihood, σ² at MLE"),
            "fixed": ("latents", jnp.stack(fixed) + constant, nats, "pPCA log-likelihood, σ² held"),
            "trained_mle": ("trained_latents", final[True], nats, "trained ELBO, σ² learned"),
            "trained_fixed": ("trained_latents", final[False], nats, "trained ELBO, σ² held"),
        },
        coords={
            "latents": ([0, *latents], "1", "number of latents k"),
            "trained_latents": (trained, "1", "number of latents k of trained models"),
        },
        attrs=tables.provenance(
            config, fixed_sigma2=held, fixed_latents=settings.fixed_latents,
            pixel_constant=constant,
        ),
    )  # fmt: skip


Keep = Callable[[str, xr.Dataset], xr.Dataset]


def study_landscape(
    eigenvalues: Float[Array, "n"], k: int, sigma2: float, keep: Keep, folder: Path
) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """Conditioning, escapes, spectra and census of a spectrum: tables kept, figures drawn.

    Args:
        eigenvalues: (n,), of S.
        k: number of latents, ≥ 3.
        sigma2: noise variance at which the Hessian's spectra are taken.
        keep: saves a table under a name.
        folder: for the figures.

    Returns:
        The tables of `linear_study.conditioning_path`, `linear_study.escapes` and
        `linear_study.census_table`; the last for three latents on the six leading components.
    """
    checks.in_range("k", k, 3, len(eigenvalues) - 1, "three components to follow")
    grid = linear_study.default_sigma2(eigenvalues, k)
    path = keep("landscape_conditioning", linear_study.conditioning_path(eigenvalues, k, grid))
    followed = (0, max(k // 5, 1), k - 1)
    escapes = keep("landscape_escapes", linear_study.escapes(eigenvalues, followed, grid))
    drawn = linear_figures.escape_and_conditioning(path, escapes)
    style.save(drawn, folder / "landscape_conditioning")
    points = {"optimum": np.arange(k), **linear_study.patterns(k)}
    # at a σ² of the user's, latents on components below it are collapsed
    alive = np.asarray(eigenvalues) > sigma2
    points = {name: np.where((a >= 0) & alive[a], a, -1) for name, a in points.items()}
    table = keep("landscape_spectra", linear_study.spectrum_histogram(eigenvalues, points, sigma2))
    style.save(linear_figures.hessian_spectra(table), folder / "landscape_spectra")
    # a component without variance has no σ² below it
    leading = eigenvalues[: min(6, int(mom.rank(eigenvalues)))]
    census = keep(
        "landscape_census", linear_study.census_table(leading, 3, 0.6 * float(leading[-1]))
    )
    style.save(linear_figures.census_scatter(census), folder / "landscape_census")
    return path, escapes, census


def check(settings: LinearSettings, x: Any) -> None:
    """Raise `ValueError` for data that `run` cannot look at, before it computes anything."""
    checks.data_matrix("x", x)
    if x.shape[1] < 8:
        checks.fail(
            "x", f"data of {x.shape[1]} dimensions", "8 or more",
            "Figure 1 looks at the 5th and 7th directions.",
        )  # fmt: skip
    checks.in_range("k", settings.k, 3, x.shape[1] - 1, "k < n, σ² being learned")
    streams.check("seed", settings.seed)
    most = max(settings.seeds, settings.separated_seeds)
    streams.check("seed + seeds - 1", settings.seed + max(most, 1) - 1)


def run(
    settings: LinearSettings,
    x: Any,
    folder: Path,
    *,
    constant: float = 0.0,
    attrs: Mapping[str, str] | None = None,
) -> list[ledger.Claim]:
    """Measure, draw, and judge the claims; write everything into `folder`.

    Args:
        settings: how much to compute.
        x: (N, n), the data: real numbers.
        folder: where figures (.png, .pdf), tables (.nc) and the ledger (.md, .json) go.
        constant: nats added to quote values on the pixel scale.
        attrs: kept with every table: where the data came from, the command that was run.

    Returns:
        The claims, in order.
    """
    check(settings, x)
    keys = jax.random.split(streams.key(settings.seed, "claims"), 4)
    folder.mkdir(parents=True, exist_ok=True)

    def keep(name: str, table: xr.Dataset) -> xr.Dataset:
        tables.save(table.assign_attrs(attrs or {}), folder / f"{name}.nc")
        return table

    with progress.bar(7, "reproduce", "stage") as bar:

        def stage(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        moments, x = mom.from_data(x), jnp.asarray(x, float)
        diagonal, spectrum = mom.in_eigenbasis(moments)
        lam = spectrum.eigenvalues

        table = keep("figure1_surface", _surfaces(spectrum))
        style.save(linear_figures.stationary_surface(table), folder / "figure1_surface")
        stage("surfaces drawn")

        separated_lam, separated = _separated(
            range(settings.seed, settings.seed + settings.separated_seeds)
        )
        keep("convergence_separated", separated)
        style.save(linear_figures.convergence(separated), folder / "convergence_separated")
        stage("well-separated problem trained")

        # everything from here on is in the eigenbasis of S: see `moments.in_eigenbasis`
        problem = linear_task.problem(diagonal, matmul(x, spectrum.eigenvectors))
        config = training.TrainConfig(settings.num_steps, training.interval(settings.num_steps, 80))
        seeds = tuple(range(settings.seed, settings.seed + settings.seeds))
        digits = {}
        rates: dict[Literal["exact", "sampled"], float] = {
            "exact": settings.learning_rate, "sampled": settings.sampled_learning_rate,
        }  # fmt: skip
        for gradients, rate in rates.items():
            task = linear_task.LinearTask(settings.k, gradients, settings.batch_size)
            grid = sweeps.Grid(seeds, learning_rate=(rate,))
            sweep = sweeps.run(task, config, problem, grid, title=f"{gradients} gradients")
            digits[gradients] = keep(f"figure2_training_{gradients}", sweep.table)
            stage(f"data trained, {gradients} gradients")
        optimum = float(ppca.optimal_elbo(lam, settings.k))
        drawn = linear_figures.training_curves(digits["exact"], digits["sampled"], optimum)
        style.save(drawn, folder / "figure2_training")

        table = keep("figure3_latents", _by_latents(settings, problem, constant))
        style.save(linear_figures.likelihood_by_latents(table), folder / "figure3_latents")
        stage("likelihood by number of latents")

        sigma2 = float(ppca.optimal_sigma2(lam, settings.k))
        path, escapes, census = study_landscape(lam, settings.k, sigma2, keep, folder)
        searches = keep(
            "search", linear_study.searches(settings.searches, settings.num_starts, settings.seed)
        )
        stage("landscape studied")

        runs = (separated, digits["exact"], digits["sampled"])
        result = [
            linear_claims.closed_form(moments, x, settings.k, keys[0]),
            linear_claims.global_maximum(moments, spectrum, settings.k, runs[1], runs[2]),
            linear_claims.identifiable(
                moments, spectrum, settings.k, separated_lam[:5], separated, digits["exact"],
                keys[1],
            ),
            linear_claims.only_saddles(spectrum, settings.k, sigma2, searches, census, keys[2]),
            linear_claims.collapsed_points(spectrum, settings.k, sigma2, keys[3]),
            linear_claims.conditioning_improves(path, escapes),
            linear_claims.recovers_ppca(lam, settings.k, *runs),
        ]  # fmt: skip
        ledger.save(result, folder)
        stage("claims judged")
    return result
