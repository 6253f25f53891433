"""These experiments on the linear VAE stand behind figures 1 to 3 and C1 to C7.

Each stage makes a labelled table, draws it, and writes both at once, so that what is computed
is on disk before the next stage starts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import xarray as xr

from landscape.figures import linear as linear_figures
from landscape.figures import style
from landscape.paper import facts
from landscape.paper.linear import claims, measurements, notebook
from landscape.paper.settings import LinearSettings
from landscape.studies import landscape, surface
from landscape.studies import linear as linear_study
from linvae_jax import linear_task, ppca, progress, sweeps, tables, training
from linvae_jax import moments as mom
from linvae_jax._internal.linalg import matmul

# Consecutive eigenvalues differ by a factor of 1.5, so rotations are stiff (0.17 nats/rad²) and
# nothing is slow; 15 small ones are left for σ².
SEPARATED = (16.0, 10.7, 7.1, 4.7, 3.2, *(1.0 - 0.03 * i for i in range(15)))


def _separated(seeds: range) -> xr.Dataset:
    """Train on a spectrum whose eigenvalues lie well apart."""
    lam = jnp.asarray(SEPARATED)
    config = training.TrainConfig(num_steps=20_000, record_every=250)
    problem = linear_task.problem(mom.from_covariance(lam))
    grid = sweeps.Grid(tuple(seeds), sigma2=(0.1, 1.0, 10.0), learning_rate=(0.03,))
    task = linear_task.LinearTask(k=5)
    return sweeps.run(task, config, problem, grid, title="well-separated problem").table


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
            "fixed_sigma2": ((), held, "data unit²", "σ² where it is held"),
            "fixed_latents": ((), settings.fixed_latents, "1", "for which that is the MLE"),
        },
        coords={
            "latents": ([0, *latents], "1", "number of latents k"),
            "trained_latents": (trained, "1", "number of latents k of trained models"),
        },
        attrs=tables.provenance(config) | facts.attributes(constant),
    )  # fmt: skip


def measure(
    settings: LinearSettings,
    x: Any,
    folder: Path,
    constant: float = 0.0,
    attrs: Mapping[str, str] | None = None,
    pixels: Any = None,
) -> dict[str, xr.Dataset]:
    """Train, tabulate and draw everything about the linear VAE on one data set.

    The data are real numbers, (N, n). Figures (.png, .pdf) and tables (.nc, with these attributes)
    go into the folder; the constant is added, in nats, to quote values on the pixel scale. Returns
    the tables by name, among them those that `claims.judge` needs. If the data are MNIST's images,
    their 8-bit `pixels` are what the authors' notebook is run on.
    """
    found = {}

    def keep(name: str, table: xr.Dataset) -> xr.Dataset:
        found[name] = table.assign_attrs(attrs or {})
        tables.save(found[name], path(folder, name))
        return found[name]

    with progress.bar(8, "reproduce", "stage") as bar:

        def stage(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        moments, x = mom.from_data(x), jnp.asarray(x, float)
        diagonal, spectrum = mom.in_eigenbasis(moments)
        lam = spectrum.eigenvalues

        table = keep("figure1_surface", surface.zero_column(lam, surface.sigma2_around(lam)))
        style.save(linear_figures.stationary_surface(table), folder / "figure1_surface")
        stage("surfaces drawn")

        runs = range(settings.seed, settings.seed + settings.separated_seeds)
        separated = keep("convergence_separated", _separated(runs))
        style.save(linear_figures.convergence(separated), folder / "convergence_separated")
        stage("well-separated problem trained")

        # everything from here on is in the eigenbasis of S: see `moments.in_eigenbasis`
        problem = linear_task.problem(diagonal, matmul(x, spectrum.eigenvectors))
        config = training.TrainConfig(settings.num_steps, training.interval(settings.num_steps, 80))
        seeds = tuple(range(settings.seed, settings.seed + settings.seeds))

        def trained(gradients: Literal["exact", "sampled"], rate: float) -> xr.Dataset:
            task = linear_task.LinearTask(settings.k, gradients, settings.batch_size)
            grid = sweeps.Grid(seeds, learning_rate=(rate,))
            sweep = sweeps.run(task, config, problem, grid, title=f"{gradients} gradients")
            stage(f"data trained, {gradients} gradients")
            return keep(f"figure2_training_{gradients}", sweep.table)

        exact = trained("exact", settings.learning_rate)
        sampled = trained("sampled", settings.sampled_learning_rate)
        optimum = float(ppca.optimal_elbo(lam, settings.k))
        drawn = linear_figures.training_curves(exact, sampled, optimum)
        style.save(drawn, folder / "figure2_training")

        table = keep("figure3_latents", _by_latents(settings, problem, constant))
        style.save(linear_figures.likelihood_by_latents(table), folder / "figure3_latents")
        stage("likelihood by number of latents")

        sigma2 = float(ppca.optimal_sigma2(lam, settings.k))
        studied = landscape.study(lam, settings.k, sigma2)
        found |= landscape.save(studied, folder, attrs or {})
        keep("search", linear_study.searches(settings.searches, settings.num_starts, settings.seed))
        stage("landscape studied")

        wide = jnp.asarray(SEPARATED)
        keep(
            "linear_measurements",
            measurements.measure(x, moments, spectrum, settings.k, settings.seed, wide),
        )
        stage("claims measured")

        told = notebook.PRINTED
        if pixels is not None and settings.notebook_subsets and len(pixels) >= told.count:
            subsets, steps = settings.notebook_subsets, settings.notebook_steps
            table = keep("notebook", notebook.run(pixels, subsets, steps, settings.seed))
            drawn = linear_figures.notebook(table, told.steps, told.elbo, told.true_maximum)
            style.save(drawn, folder / "notebook")
        stage("the authors' notebook")
    return found


def path(folder: Path, name: str) -> Path:
    """Return where a table is kept."""
    return folder / f"{name}.nc"


def load(folder: Path) -> dict[str, xr.Dataset]:
    """Load the tables that `claims.judge` reads, those that are there.

    Raises:
        ValueError: one that cannot be read.
    """
    wanted = (*claims.TABLES, *claims.OPTIONAL)
    places = {name: path(folder, name) for name in wanted}
    return {name: tables.load(place) for name, place in places.items() if place.exists()}
