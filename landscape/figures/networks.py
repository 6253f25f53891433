"""These figures show nonlinear VAEs: collapse, encoders, annealing, training, curvature.

Sweeps' tables come on the scale that is to be drawn.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from landscape.figures import style
from landscape.figures.style import BLACK, BLUE, GREEN, ORANGE, RED, curve, shades, styled


@styled
def encoders(tables: Mapping[str, xr.Dataset]) -> Figure:
    """Draw figure 4: a linear decoder with three encoders, against the pPCA maximum likelihood.

    Takes a sweep's table for each encoder, by its name.
    """
    figure, axis = style.panels(4.6, 3.2)
    best = nothing = np.nan
    for color, name in zip((BLUE, ORANGE, GREEN), tables, strict=True):
        table = tables[name].squeeze(("sigma2_init", "learned"))
        curve(axis, table.elbo, color, name.replace("-", " ").replace("mlp", "MLP"))
        best = float(table.final_linear_optimum.mean())
        early = table.elbo.isel(step=table.sizes["step"] // 15)
        nothing = np.nanmin([nothing, float(early.min())])
    axis.axhline(best, color=BLACK, ls=":", label="pPCA maximum likelihood")
    if nothing < best:
        axis.set_ylim(nothing, best + 0.15 * (best - nothing))
    axis.set(xlabel="optimiser steps", xlim=(0, None), ylabel="ELBO (nats/datum, pixel scale)")
    axis.legend(loc="lower right")
    return figure


@styled
def collapse_curves(runs: xr.Dataset) -> Figure:
    """Draw figure 5: share of collapsed latents against ε for each σ² held, and the prediction.

    Takes shares over σ² and (σ², ε): `share_collapsed` and `curve`, and of the linear VAE
    `predicted` and `predicted_curve`.
    """
    figure, (left, middle, right) = style.panels(7.2, 3.4, 1, 3, sharey=True)
    for color, s in zip(shades(runs.sizes["sigma2"]), runs.sigma2.values, strict=True):
        at = runs.sel(sigma2=s)
        left.plot(runs.epsilon, at.curve, color=color, label=f"σ² = {s:g}")
        middle.plot(runs.epsilon, at.predicted_curve, color=color)
    for axis, title in ((left, "nonlinear VAE"), (middle, "linear VAE, predicted")):
        axis.set(title=title, xlabel="ε (nats)", xlim=(0, 2))
    left.set_ylabel("share of (ε, 0.01)-collapsed latents")
    right.plot(runs.sigma2, runs.share_collapsed, "o", color=BLACK, ls="none", label="measured")
    right.plot(runs.sigma2, runs.predicted, color=RED, label="linear VAE")
    right.set(title="ε = 0.01", xscale="log", xlabel="σ² held (data unit²)", ylim=(-0.02, 1.04))
    right.legend(loc="upper left")
    count = runs.sizes["sigma2"]
    style.legend_below(figure, left, -(-count // -(-count // 6)))  # rows of at most 6, all alike
    return figure


@styled
def prediction(runs: xr.Dataset, paper: xr.Dataset | None = None) -> Figure:
    """Draw collapse and KL over σ²: of trained networks, and what the linear VAE predicts.

    Takes `sigma2`, `learned`, `share`, `share_least`, `share_most` and `kl` over run, and
    `linear_share` and `linear_kl` over level; and the paper's numbers over (sigma2_init, learned),
    of which those are drawn whose σ² was held.
    """
    figure, (left, right) = style.panels(7.2, 3.0, 1, 2)
    left.plot(runs.level, 100 * runs.linear_share, color=RED, label="linear VAE")
    right.plot(runs.level, runs.linear_kl, color=RED)
    for learned, marker in ((False, "o"), (True, "s")):
        at = runs.isel(run=runs.learned.values == learned)
        if not at.sizes["run"]:
            continue
        look = {"marker": marker, "color": BLUE, "mfc": "none" if learned else BLUE, "ls": "none"}
        label = "network, σ² learned" if learned else "network, σ² held"
        bars = 100 * np.abs(np.stack([at.share - at.share_least, at.share_most - at.share]))
        left.errorbar(at.sigma2, 100 * at.share, bars, label=label, lw=1, **look)
        right.plot(at.sigma2, at.kl, **look)
    if paper is not None:
        at = paper.sel(learned=False)
        look = {"color": ORANGE, "ls": "none", "ms": 9, "mec": BLACK, "mew": 0.7}
        left.plot(at.sigma2_init, at.percent_collapsed, "*", label="the paper's, σ² held", **look)
        right.plot(at.sigma2_init, at.kl, "*", **look)
    for axis in (left, right):
        axis.set(xscale="log", xlabel="σ² (data unit²)")
    left.set(ylabel="collapsed latents (%), ε = 0.01", ylim=(-4, 104))
    right.set(yscale="log", ylabel="KL (nats/datum)")
    style.legend_below(figure, left, 4)
    return figure


@styled
def training(table: xr.Dataset) -> Figure:
    """Draw figure 6: the ELBO during training for each initial σ², held and learned."""
    figure, axes = style.panels(7.2, 3.2, 1, 2, sharey=True)
    for axis, learned in zip(axes, (False, True), strict=True):
        colors = shades(table.sizes["sigma2_init"])
        for color, s in zip(colors, np.sort(table.sigma2_init.values), strict=True):
            at = table.sel(learned=learned, sigma2_init=s)
            curve(axis, -at.elbo, color, f"σ² = {s:g}")
        axis.set(title="σ² learned, from" if learned else "σ² held at", yscale="log")
    style.over_steps(*axes)
    axes[0].invert_yaxis()  # shared: better is up
    axes[0].set_ylabel("−ELBO (nats/datum, pixel scale)")
    style.legend_below(figure, axes[0], 5)
    return figure


@styled
def annealing(annealed: xr.Dataset, plain: xr.Dataset) -> Figure:
    """Draw KL and collapse during training, with KL annealing and without, for each σ² held."""
    annealed = annealed.squeeze("learned")
    plain = plain.sel(learned=False, seed=annealed.seed)
    k = annealed.sizes["latent"]
    starts = annealed.sigma2_init.values
    figure, rows = style.panels(7.2, 4.4, 2, len(starts), sharex=True, sharey="row", squeeze=False)
    for column, s in zip(rows.T, starts, strict=True):
        runs = {"plain": (BLACK, plain.sel(sigma2_init=s))}
        for color, name in zip((ORANGE, BLUE), annealed.annealing.values, strict=True):
            kind = "linear" if str(name).startswith("linear") else "cyclical"
            runs[f"{kind} annealing"] = color, annealed.sel(sigma2_init=s, annealing=name)
        for label, (color, one) in runs.items():
            curve(column[0], one.kl, color, label)
            curve(column[1], one.num_collapsed / k, color, label)
        for axis in column:
            axis.axvline(float(annealed.step[-1]) / 2, color=BLACK, ls=":", label="annealing ends")
        style.over_steps(*column)
        column[0].set(title=f"σ² = {s:g}, held", yscale="log", xlabel="")
        column[1].set_ylim(-0.02, 1.02)
    rows[0, 0].set_ylabel("KL (nats)")
    rows[1, 0].set_ylabel("share of latents\ncollapsed, ε = 0.01")
    style.legend_below(figure, rows[0, 0], 4)
    return figure


@styled
def curvature(table: xr.Dataset) -> Figure:
    """Draw whether a collapsed latent of trained networks can come back: rate and threshold."""
    runs = _networks(table)
    figure, (left, right) = style.panels(7.2, 3.2, 1, 2)
    held = runs.isel(run=~runs.learned.values) if (~runs.learned).any() else runs
    rate = held.escape_rate.transpose("run", "sigma2")
    for color, one, values in zip(shades(rate.sizes["run"]), held.run, rate, strict=True):
        own, at = held.own_sigma2.sel(run=one), held.own_escape_rate.sel(run=one)
        left.plot(values.sigma2, values.where(values > 0), color=color, label=f"{float(own):.3g}")
        left.plot(own, at.where(at > 0), "o", color=color)
    left.set(xscale="log", yscale="log", xlabel="σ² (data unit²)", ylabel="escape rate (nats)")
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
    right.set(
        xscale="log", yscale="log", xlabel="σ² of the trained network (data unit²)",
        ylabel="critical σ² (data unit²)",
    )  # fmt: skip
    right.legend(loc="lower right")
    return figure


@styled
def protocols(table: xr.Dataset, paper: xr.Dataset, nearest: str) -> Figure:
    """Draw where protocols lead, with the ELBO as the clock: KL and collapse against it.

    Takes trajectories over (protocol, sigma2_init, learned, epoch) on the pixel scale and the
    paper's numbers over (sigma2_init, learned). At the left all protocols at the start of σ² that
    most of them have trained, held and learned; at the right all of the paper's rows that learn σ²
    in the nearest protocol.
    """
    figure, axes = style.panels(7.2, 4.6, 2, 3, sharex="col")
    names = {"kl": "KL (nats)", "percent_collapsed": "collapsed latents (%)"}
    rates = np.unique(table.learning_rate)[::-1]
    sizes = np.unique(table.batch_size)
    table = table.sel(sigma2_init=np.isin(table.sigma2_init, paper.sigma2_init))
    trained = table.elbo.notnull().any(["learned", "epoch"]).sum("protocol")
    common = float(trained.idxmax())
    for column, learned in enumerate((False, True)):
        for rate, size, protocol in zip(
            table.learning_rate.values, table.batch_size.values, table.protocol.values, strict=True
        ):
            look = {
                "color": _ORDER[list(rates).index(rate) % len(_ORDER)],
                "ls": _DASHES[list(sizes).index(size) % len(_DASHES)],
            }
            at = table.sel(protocol=protocol, sigma2_init=common, learned=learned)
            for axis, name in zip(axes[:, column], names, strict=True):
                axis.plot(at.elbo, at[name], label=str(protocol), lw=1.2, **look)
        _papers(axes[:, column], names, paper.sel(sigma2_init=[common], learned=learned), [BLACK])
        axes[0, column].set(title=f"σ² {'learned from' if learned else 'held at'} {common:g}")
    starts = np.sort(table.sigma2_init.values)
    at = table.sel(protocol=nearest, learned=True)
    for color, start in zip(shades(len(starts)), starts, strict=True):
        for axis, name in zip(axes[:, 2], names, strict=True):
            one = at.sel(sigma2_init=start)
            axis.plot(one.elbo, one[name], color=color, lw=1.2)
            axis.plot([], [], color=color, label=f"from σ² = {start:g}")
    _papers(axes[:, 2], names, paper.sel(sigma2_init=starts, learned=True), shades(len(starts)))
    axes[0, 2].set(title=f"σ² learned, {nearest.split(',')[0]}")
    # where the paper's learned rows are, and as far before them as thirteen of their lengths, where
    # short runs end: ELBOs come from tens of thousands of nats below
    ends = float(paper.elbo.sel(learned=True).min()), float(paper.elbo.sel(learned=True).max())
    for axis in axes[1]:
        axis.set(xlabel="ELBO (nats/datum)", ylim=(-3, 100))
        axis.locator_params(axis="x", nbins=3)
        axis.set_xlim(ends[1] - 13 * (ends[1] - ends[0]), ends[1] + (ends[1] - ends[0]) / 2)
    for axis in axes[0]:
        axis.set(ylim=(60, 220))
    for axis, name in zip(axes[:, 0], names.values(), strict=True):
        axis.set_ylabel(name)
    axes[1, 2].legend(fontsize=7)
    style.legend_below(figure, axes[0, 0], 3)
    return figure


_ORDER = (RED, BLUE, GREEN, ORANGE)
_DASHES = ("-", ":", "--", "-.")


def _papers(axes: Any, names: Iterable[str], paper: xr.Dataset, colors: Sequence[Any]) -> None:
    """Mark the paper's numbers, with their spreads."""
    for axis, name in zip(axes, names, strict=True):
        for color, start in zip(colors, paper.sigma2_init.values, strict=True):
            one = paper.sel(sigma2_init=start)
            error = {"xerr": one.elbo_spread}
            if name == "kl":
                error["yerr"] = one.kl_spread
            axis.errorbar(one.elbo, one[name], fmt="*", ms=9, color=color, mec=BLACK, lw=1, **error)


def _networks(table: xr.Dataset) -> xr.Dataset:
    """Return the networks that did not diverge over one dimension, by the σ² they ended with."""
    runs = table.stack(run=table.own_sigma2.dims).dropna("run", subset=["own_sigma2"])
    return runs.sortby("own_sigma2")


@styled
def spectra(table: xr.Dataset) -> Figure:
    """Draw the Hessian of networks in all weights: ways up and both ends, trained and collapsed.

    One colour for each network; learned and other sweeps' dimensions are told apart by σ² alone.
    """
    runs = _networks(table)
    figure, (left, right) = style.panels(7.2, 3.4, 1, 2)
    for i, color in enumerate(shades(runs.sizes["run"])):
        one = runs.isel(run=i)
        for name, dashes in (("trained", "-"), ("all collapsed", "--")):
            at = one.sel(point=name)
            middle = (at.index_lower + at.index_upper) / 2
            label = f"σ² = {float(one.own_sigma2):.3g}, {name}"
            left.plot(at.sigma2, middle, dashes, color=color, label=label)
            left.fill_between(at.sigma2, at.index_lower, at.index_upper, color=color, alpha=0.15,
                              lw=0)  # fmt: skip
            right.plot(at.sigma2, at.top.where(at.top > 0), dashes, color=color)
            right.plot(at.sigma2, -at.bottom, dashes, color=color, lw=0.7)
    left.set_ylabel("index: positive eigenvalues")
    right.set(ylabel="largest eigenvalue; stiffness, thin (nats)", yscale="log")
    for axis in (left, right):
        axis.set(xscale="log", xlabel="σ² (data unit²)")
    style.legend_below(figure, left, 2)
    return figure
