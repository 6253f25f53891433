"""Figures of nonlinear VAEs: collapse, encoders, annealing, training, curvature.

Sweeps' tables come on the scale that is to be drawn.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from landscape.figures.style import BLACK, BLUE, GREEN, ORANGE, RED, curve, shades, styled


@styled
def encoders(tables: Mapping[str, xr.Dataset]) -> Figure:
    """Draw figure 4: a linear decoder with three encoders, against the pPCA maximum likelihood.

    Takes a sweep's table for each encoder, by its name.
    """
    figure = Figure(figsize=(4.6, 3.2))
    axis = figure.subplots()
    best = nothing = np.nan
    for color, name in zip((BLUE, ORANGE, GREEN), tables, strict=True):
        table = tables[name].squeeze(("sigma2_init", "learned"))
        label = name.replace("-", " ").replace("mlp", "MLP")
        curve(axis, table.elbo, color, label)
        best = float(table.final_linear_optimum.mean())
        early = table.elbo.isel(step=table.sizes["step"] // 15)
        nothing = np.nanmin([nothing, float(early.min())])
    axis.axhline(best, color=BLACK, ls=":", label="pPCA maximum likelihood")
    if nothing < best:
        axis.set_ylim(nothing, best + 0.15 * (best - nothing))
    axis.set_xlim(0, None)
    axis.set_xlabel("optimiser steps")
    axis.set_ylabel("ELBO (nats/datum, pixel scale)")
    axis.legend(loc="lower right")
    return figure


@styled
def collapse_curves(runs: xr.Dataset) -> Figure:
    """Draw figure 5: share of collapsed latents against ε for each σ² held, and the prediction.

    Takes shares over σ² and (σ², ε): `collapsed` and `curve`, of the linear VAE `predicted` and
    `predicted_curve`.
    """
    figure = Figure(figsize=(7.2, 3.4))
    left, middle, right = figure.subplots(1, 3, sharey=True)
    for color, s in zip(shades(runs.sizes["sigma2"]), runs.sigma2.values, strict=True):
        at = runs.sel(sigma2=s)
        left.plot(runs.epsilon, at.curve, color=color, label=f"σ² = {s:g}")
        middle.plot(runs.epsilon, at.predicted_curve, color=color)
    left.set_title("nonlinear VAE")
    middle.set_title("linear VAE, predicted")
    for axis in (left, middle):
        axis.set_xlabel("ε (nats)")
        axis.set_xlim(0, 2)
    left.set_ylabel("share of (ε, 0.01)-collapsed latents")
    right.plot(runs.sigma2, runs.collapsed, "o", color=BLACK, ls="none", label="measured")
    right.plot(runs.sigma2, runs.predicted, color=RED, label="linear VAE")
    right.set_xscale("log")
    right.set_xlabel("σ² held (data unit²)")
    right.set_title("ε = 0.01")
    right.legend(loc="upper left")
    right.set_ylim(-0.02, 1.04)
    count = runs.sizes["sigma2"]
    columns = -(-count // -(-count // 6))  # rows of at most 6, all alike
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    return figure


@styled
def training(table: xr.Dataset) -> Figure:
    """Draw figure 6: the ELBO during training for each initial σ², held and learned."""
    figure = Figure(figsize=(7.2, 3.2))
    panels = figure.subplots(1, 2, sharey=True)
    for axis, learned in zip(panels, (False, True), strict=True):
        colors = shades(table.sizes["sigma2_init"])
        for color, s in zip(colors, np.sort(table.sigma2_init.values), strict=True):
            at = table.sel(learned=learned, sigma2_init=s)
            curve(axis, -at.elbo, color, f"σ² = {s:g}")
        axis.set_title("σ² learned, from" if learned else "σ² held at")
        axis.set_xlabel("optimiser steps")
        axis.set_xlim(0, None)
        axis.set_yscale("log")
        axis.locator_params(axis="x", nbins=5)
    panels[0].invert_yaxis()  # shared: better is up
    panels[0].set_ylabel("−ELBO (nats/datum, pixel scale)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


@styled
def annealing(annealed: xr.Dataset, plain: xr.Dataset) -> Figure:
    """Draw KL and collapse during training, with KL annealing and without, for each σ² held."""
    annealed = annealed.squeeze("learned")
    plain = plain.sel(learned=False, seed=annealed.seed)
    k = annealed.sizes["latent"]
    figure = Figure(figsize=(7.2, 4.4))
    rows = figure.subplots(
        2, annealed.sizes["sigma2_init"], sharex=True, sharey="row", squeeze=False
    )
    for column, s in zip(rows.T, annealed.sigma2_init.values, strict=True):
        runs = {"plain": (BLACK, plain.sel(sigma2_init=s))}
        for color, name in zip((ORANGE, BLUE), annealed.annealing.values, strict=True):
            kind = "linear" if str(name).startswith("linear") else "cyclical"
            runs[f"{kind} annealing"] = color, annealed.sel(sigma2_init=s, annealing=name)
        for label, (color, one) in runs.items():
            curve(column[0], one.kl, color, label)
            curve(column[1], one.collapsed / k, color, label)
        for axis in column:
            axis.axvline(float(annealed.step[-1]) / 2, color=BLACK, ls=":", label="annealing ends")
            axis.set_xlim(0, None)
            axis.locator_params(axis="x", nbins=5)
        column[0].set_yscale("log")
        column[0].set_title(f"σ² = {s:g}, held")
        column[1].set_ylim(-0.02, 1.02)
        column[1].set_xlabel("optimiser steps")
    rows[0, 0].set_ylabel("KL (nats)")
    rows[1, 0].set_ylabel("share of latents\ncollapsed, ε = 0.01")
    figure.legend(*rows[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


@styled
def curvature(table: xr.Dataset) -> Figure:
    """Draw whether a collapsed latent of trained networks can come back: rate and threshold."""
    runs = table.stack(run=table.own_sigma2.dims).dropna("run", subset=["own_sigma2"])
    runs = runs.sortby("own_sigma2")
    figure = Figure(figsize=(7.2, 3.2))
    left, right = figure.subplots(1, 2)
    held = runs.isel(run=~runs.learned.values) if (~runs.learned).any() else runs
    rate = held.escape_rate.transpose("run", "sigma2")
    for color, one, values in zip(shades(rate.sizes["run"]), held.run, rate, strict=True):
        own, at = held.own_sigma2.sel(run=one), held.own_escape_rate.sel(run=one)
        left.plot(values.sigma2, values.where(values > 0), color=color, label=f"{float(own):.3g}")
        left.plot(own, at.where(at > 0), "o", color=color)
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlabel("σ² (data unit²)")
    left.set_ylabel("escape rate (nats)")
    left.legend(title="network trained at σ²")
    for learned, marker, fill in ((False, "o", BLUE), (True, "s", "none")):
        at = runs.isel(run=runs.learned.values == learned)
        if not at.sizes["run"]:
            continue
        label = "σ² learned" if learned else "σ² held"
        right.plot(at.own_sigma2, at.critical_sigma2.where(np.isfinite(at.critical_sigma2)), marker,
                   color=BLUE, mfc=fill, ls="none", label=label)  # fmt: skip
        right.vlines(at.own_sigma2, at.critical_sigma2_by_steps, at.critical_sigma2, color=BLUE)
    for own in runs.own_sigma2.values[np.isinf(runs.critical_sigma2.values)]:
        right.plot(own, 1.0, "^", color=BLUE, transform=right.get_xaxis_transform(), clip_on=False)
    for i, beta in enumerate(np.unique(runs.beta.values)):
        at = runs.isel(run=np.broadcast_to(runs.beta.values == beta, runs.sizes["run"]))
        label = None if i else "linear VAE"
        right.plot(at.own_sigma2, at.linear_critical_sigma2, color=RED, label=label)
    ends = [float(runs.own_sigma2.min()), float(runs.own_sigma2.max())]
    right.plot(ends, ends, color=BLACK, ls=":", label="above: collapse is unstable")
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel("σ² of the trained network (data unit²)")
    right.set_ylabel("critical σ² (data unit²)")
    right.legend(loc="lower right")
    return figure


@styled
def spectra(table: xr.Dataset) -> Figure:
    """Draw the Hessian of networks in all weights: ways up and both ends, trained and collapsed.

    One colour for each network; learned and other sweeps' dimensions are told apart by σ² alone.
    """
    runs = table.stack(run=table.own_sigma2.dims).dropna("run", subset=["own_sigma2"])
    runs = runs.sortby("own_sigma2")
    figure = Figure(figsize=(7.2, 3.4))
    left, right = figure.subplots(1, 2)
    for color, i in zip(shades(runs.sizes["run"]), range(runs.sizes["run"]), strict=True):
        one = runs.isel(run=i)
        for name, style in (("trained", "-"), ("all collapsed", "--")):
            at = one.sel(point=name)
            middle = (at.index_lower + at.index_upper) / 2
            label = f"σ² = {float(one.own_sigma2):.3g}, {name}"
            left.plot(at.sigma2, middle, style, color=color, label=label)
            left.fill_between(at.sigma2, at.index_lower, at.index_upper, color=color, alpha=0.15,
                              lw=0)  # fmt: skip
            right.plot(at.sigma2, at.top.where(at.top > 0), style, color=color)
            right.plot(at.sigma2, -at.bottom, style, color=color, lw=0.7)
    left.set_ylabel("index: positive eigenvalues")
    right.set_ylabel("largest eigenvalue; stiffness, thin (nats)")
    right.set_yscale("log")
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_xlabel("σ² (data unit²)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
