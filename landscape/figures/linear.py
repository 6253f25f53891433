"""These figures show the linear VAE: surface, conditioning, escape, census, training."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from landscape.figures import style
from landscape.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, curve, styled

_SUBSETS = (BLUE, ORANGE, GREEN)  # of MNIST, as `notebook` draws them


@styled
def stationary_surface(table: xr.Dataset) -> Figure:
    """Draw figure 1: the likelihood as a collapsed latent's column moves along two directions.

    Takes `surface.zero_column`'s table: a panel for each σ².
    """
    lam = table.eigenvalue.values
    names = [f"column along $u_{{{c + 1}}}$ (data unit)" for c in table.component.values]
    figure, axes = style.panels(7.2, 2.9, 1, table.sizes["sigma2"], sharey=True, squeeze=False)
    axes, images = axes[0], []
    below = table.log_likelihood.max(("along_first", "along_second")) - table.log_likelihood
    # levels as squares show both the flat top and the steep flanks; the same in all panels
    levels = np.linspace(0, 1, 16) ** 2 * float(below.max())
    for axis, sigma2, surface in zip(axes, table.sigma2.values, below, strict=True):
        drawn = table.along_first, table.along_second, surface.T
        images.append(axis.contourf(*drawn, levels=levels, cmap="cividis_r"))
        axis.contour(*drawn, levels=levels, colors="white", linewidths=0.4, alpha=0.6)
        captured = lam > sigma2
        reach = np.sqrt(np.maximum(lam - sigma2, 0))
        top = np.array([[reach[0], 0], [-reach[0], 0]]) if captured[0] else np.zeros((1, 2))
        axis.plot(
            *top.T, "*", color=RED, ms=10, mec="white", mew=0.6, ls="none",
            label="maximum in the plane\n(pPCA optimum)",
        )  # fmt: skip
        saddles = [(0.0, 0.0)] if captured[0] else []
        if captured[1]:
            saddles += [(0.0, reach[1]), (0.0, -reach[1])]
        if saddles:
            axis.plot(
                *np.array(saddles).T, "o", mfc="white", mec=RED, ms=5, ls="none",
                label="saddle or minimum\nin the plane",
            )  # fmt: skip
        state = ("neither captured", "larger one captured", "both captured")[captured.sum()]
        axis.set(title=f"σ² = {sigma2:.3g}\n{state}", xlabel=names[0], aspect="equal")
        axis.grid(False)
    axes[0].set_ylabel(names[1])
    most = max(axes, key=lambda axis: len(axis.get_legend_handles_labels()[1]))
    style.legend_below(figure, most, 2)
    bar = figure.colorbar(images[-1], ax=list(axes), shrink=0.75, ticks=levels[::3], format="%.2g")
    bar.ax.invert_yaxis()
    bar.set_label("log-likelihood below\nthe panel's best (nats/datum)")
    return figure


@styled
def training_curves(exact: xr.Dataset, sampled: xr.Dataset, optimum: float) -> Figure:
    """Draw figure 2: the ELBO during training against the pPCA optimum, and what is missing.

    Takes two sweeps' tables with a single σ², and the optimum in nats per datum.
    """
    runs = (
        (exact.squeeze(("sigma2_init", "learned")), BLUE, "exact gradients"),
        (sampled.squeeze(("sigma2_init", "learned")), ORANGE, "sampled gradients"),
    )
    figure, (left, right) = style.panels(7.2, 3.1, 1, 2)
    for table, color, label in runs:
        curve(left, table.elbo, color, label)
        curve(right, table.gap, color, "")
        curve(right, table.likelihood_gap, color, f"its likelihood: {label}", "--")
    left.axhline(optimum, color=BLACK, ls=":", label="pPCA maximum likelihood")
    left.set_ylim(optimum - 0.3 * abs(optimum), optimum + 0.03 * abs(optimum))
    left.set_ylabel("ELBO (nats/datum)")
    right.set(yscale="log", ylabel="below the pPCA optimum\n(nats/datum)")
    figure.legend(loc="outside lower center", ncols=3)
    style.over_steps(left, right)
    return figure


@styled
def notebook(table: xr.Dataset, steps: np.ndarray, elbo: Sequence[float], maximum: float) -> Figure:
    """Draw the authors' notebook, run again, beside what it printed.

    Takes `paper.linear.notebook`'s table; the steps (p,) of what was printed, the ELBOs (p,), and
    the true maximum of the notebook's data, in nats per datum.
    """
    figure, (left, right) = style.panels(7.2, 3.1, 1, 2)
    for axis, ours, theirs in (
        (left, table.elbo, np.asarray(elbo)),
        (right, table.gap, maximum - np.asarray(elbo)),
    ):
        label = "ours, random subsets"
        for color, run in zip(_SUBSETS * len(ours), ours, strict=False):
            axis.plot(run.step, run, color=color, lw=1.2, label=label)
            label = None
        axis.plot(
            steps, theirs, "o", color=BLACK, mfc="none", ms=3.5, mew=0.7, ls="none",
            label="printed in the authors' notebook",
        )  # fmt: skip
    line = float((table.maximum - table.maximum_unbiased).mean())
    right.axhline(line, color=BLACK, ls=":", label='its "maximum" (covariance by N − 1)')
    left.set_ylabel("ELBO (nats/datum)")
    right.set(yscale="log", ylabel="below the true maximum\n(nats/datum)")
    style.over_steps(left, right)
    style.legend_below(figure, right, 3)
    return figure


@styled
def likelihood_by_latents(table: xr.Dataset) -> Figure:
    """Draw figure 3: pPCA log-likelihood against the number of latents, and trained linear VAEs."""
    figure, axis = style.panels(4.6, 3.2)
    fixed, held = float(table.fixed_sigma2), int(table.fixed_latents)
    axis.plot(table.latents, table.mle, color=BLUE, label="pPCA, maximum-likelihood σ²")
    axis.plot(
        table.latents, table.fixed, color=RED, ls="--",
        label=f"pPCA, σ² = {fixed:.3g} (its MLE for {held} latents)",
    )  # fmt: skip
    for name, marker, color, how in (("mle", "o", BLUE, "learned"), ("fixed", "s", RED, "held")):
        axis.plot(
            table.trained_latents, table[f"trained_{name}"], marker, color=color, mfc="white", ms=5,
            label=f"trained linear VAE, σ² {how}",
        )  # fmt: skip
    low = float(min(table.mle[1], table.fixed[1]))
    axis.set_ylim(low, float(table.mle.max()) + 0.05 * abs(float(table.mle.max()) - low))
    axis.set(
        xlabel="number of latents k", ylabel="log-likelihood or ELBO\n(nats/datum, pixel scale)"
    )
    axis.legend(loc="lower right")
    return figure


@styled
def convergence(table: xr.Dataset) -> Figure:
    """Draw how gap and angle go to zero on a well-separated spectrum, from every initial σ²."""
    figure, (left, right) = style.panels(7.2, 2.8, 1, 2)
    colors = (BLUE, GREEN, ORANGE, RED, PURPLE)
    for color, (sigma2, at) in zip(colors, table.groupby("sigma2_init"), strict=False):
        at = at.squeeze(("sigma2_init", "learned"))
        # rounding makes a converged gap slightly negative now and then: show its size
        curve(left, np.abs(at.gap) + 1e-15, color, f"initial σ² = {sigma2:g}")
        curve(right, at.angle.max("latent") + 1e-9, color, f"initial σ² = {sigma2:g}")
    left.axhline(1e-6, color=BLACK, ls=":", label="10⁻⁶ nats")
    left.set_ylabel("|ELBO − pPCA optimum| (nats/datum)")
    right.set_ylabel("largest angle to a\nprincipal direction (degrees)")
    for axis in (left, right):
        axis.set(yscale="log", xlabel="optimiser steps", xlim=(0, None))
    left.legend()
    return figure


@styled
def escape_and_conditioning(path: xr.Dataset, escapes: xr.Dataset) -> Figure:
    """Draw collapsed points over σ²: how many ways out, how fast, and at what conditioning.

    Takes `linear.conditioning_path` and `linear.escapes`.
    """
    figure, (left, middle, right) = style.panels(7.2, 3.3, 1, 3)
    for dashes, name in zip(("-", "--", ":"), path.pattern.values, strict=False):
        left.plot(path.sigma2, path["index"].sel(pattern=name), color=BLACK, ls=dashes, label=name)
    left.set(ylabel="index: escape directions", ylim=(0, None))
    for color, c in zip((BLUE, ORANGE, GREEN), escapes.component.values, strict=False):
        at = escapes.sel(component=c)
        middle.plot(at.sigma2, at.rate.where(at.rate > 0), color=color, label=f"along $u_{{{c}}}$")
        right.plot(at.sigma2, at.conditioning, color=color)
        for axis in (middle, right):
            axis.axvline(float(at.eigenvalue), color=color, ls=":", lw=0.8)
        # growth e per (steps/log 1000) steps, seen as the ratio that sets it
        right.plot(
            at.sigma2_simulated, at.simulated_steps / np.log(1e3), "o", color=color, mfc="white",
            ms=4.5, ls="none",
        )  # fmt: skip
    right.plot([], [], "o", color=BLACK, mfc="white", ms=4.5, ls="none", label="simulated descent")
    middle.set(yscale="log", ylabel="escape rate μ₊ (nats)")
    right.set(yscale="log", ylabel="stiffness / escape rate\n≈ descent steps to grow by e")
    middle.plot([], [], color=BLACK, ls=":", lw=0.8, label="σ² = λ")
    figure.legend(loc="outside lower center", ncols=4)
    for axis in (left, middle, right):
        axis.set(xscale="log", xlabel="σ² (data unit²)")
    return figure


@styled
def hessian_spectra(table: xr.Dataset) -> Figure:
    """Draw all Hessian eigenvalues at several points: stable ones up, escape directions down.

    Takes `linear.spectrum_histogram`.
    """
    figure, axes = style.panels(7.2, 2.6, 1, table.sizes["point"], sharey=True, squeeze=False)
    for axis, name in zip(axes[0], table.point.values, strict=True):
        at = table.sel(point=name)
        axis.fill_between(at["size"], at.negative, step="mid", color=BLUE, lw=0, label="stable")
        axis.fill_between(at["size"], -at.positive, step="mid", color=RED, lw=0, label="escape")
        seen = at["size"].where(at.negative + at.positive > 0, drop=True)
        axis.set(xscale="log", xlim=(0.3 * float(seen[0]), 3 * float(seen[-1])))
        axis.set_yscale("symlog", linthresh=10)
        axis.axhline(0, color=BLACK, lw=0.6)
        axis.set_title(f"{name}:\n{int(at.positive.sum()):,} ways to escape", fontsize=8)
    figure.supxlabel("|eigenvalue| of the Hessian, for data x/√λ₁ (nats)", fontsize=9)
    first = axes[0, 0]
    first.set(ylabel="eigenvalues per bin\n(escape directions below 0)", ylim=(None, 1e7))
    first.legend(loc="upper right")
    return figure


@styled
def census_scatter(table: xr.Dataset) -> Figure:
    """Draw every stationary point of a small problem: index against the ELBO that it lacks.

    Takes `linear.census_table`.
    """
    figure, axis = style.panels(4.6, 3.2)
    optimum = table.isel(type=int(np.argmin(table.gap.values)))
    for mixed, color, marker, label in (
        (False, BLUE, "o", "pPCA's (collapse included)"),
        (True, ORANGE, "x", "mixed: the ELBO's own"),
    ):
        at = table.where((table.mixed == mixed) & (table["index"] > 0), drop=True)
        axis.plot(at.gap, at["index"], marker, color=color, ms=4.5, mfc="none", ls="none",
                  label=f"{label}, {at.sizes['type']:,} saddles")  # fmt: skip
    axis.plot(
        float(optimum.gap), int(optimum["index"]), "*", color=RED, ms=11, ls="none",
        label="pPCA optimum, the only maximum",
    )  # fmt: skip
    axis.set(xlabel="ELBO below the optimum (nats/datum)", ylabel="index: escape directions")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(loc="upper left")
    return figure
