"""The waterline: which components of the data rise above the level that the loss sets?"""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures import style
from landscape.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, styled

# a verdict → colour and marker
_MARKS = {
    "in use": (BLUE, "o"),
    "collapsed, as is optimal": (BLACK, "x"),
    "collapsed although λ > τ": (RED, "X"),
    "not converged": (ORANGE, "^"),
    "collapsed": (PURPLE, "x"),
}
_SHOWN = 2.5  # so many times k components, at least 12


@styled
def waterline(table: xr.Dataset) -> Figure:
    """Draw eigenvalues with the waterline, and above it the KL of latents, of a diagnosis.

    Takes a table of `diagnosis.of_data`, or one of codes with data. Without codes the upper panel
    has the linear VAE's KL alone.
    """
    gaussian = table.attrs["likelihood"] == "gaussian"
    names = ("λ", "τ") if gaussian else ("ν", "β")
    k, n = int(table.attrs["k"]), table.sizes["component"]
    shown = min(n, max(12, int(_SHOWN * k)))
    figure, (top, bottom) = style.panels(
        4.8, 4.6, 2, 1, sharex=True, gridspec_kw={"height_ratios": (1, 1.15)}
    )
    _kl(top, table, k, names)
    _water(bottom, table.isel(component=slice(shown)), names)
    bottom.set_xlim(0, shown + 1)
    if min(k, n) < shown:
        for axis in (top, bottom):
            axis.axvline(min(k, n) + 0.5, color=BLACK, lw=0.7, ls=":")
        bottom.annotate(
            f"k = {k}", (min(k, n) + 0.5, 1), (3, -3), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", fontsize=8,
        )  # fmt: skip
    return figure


@styled
def collapse(table: xr.Dataset) -> Figure:
    """Draw the share of data of which each latent tells less than ε, of a diagnosis of codes."""
    figure, axis = style.panels(4.8, 3.2)
    for verdict, (color, _) in _MARKS.items():
        at = table.share_below.isel(latent=table.verdict.values == verdict)
        lines = axis.plot(at.epsilon, at.transpose("epsilon", "latent"), color=color, lw=0.8)
        if lines:
            lines[0].set_label(f"{verdict} ({len(lines)})")
    axis.axhline(0.99, color=BLACK, lw=0.7, ls=":")
    axis.axvline(0.01, color=BLACK, lw=0.7, ls=":")
    axis.set(
        xscale="log", xlabel="ε (nats)", ylabel="share of data with KL < ε", ylim=(-0.02, 1.04)
    )
    style.legend_below(figure, axis, 2)
    return figure


def _kl(axis: Axes, table: xr.Dataset, k: int, names: tuple[str, str]) -> None:
    used = table.isel(component=slice(k))
    law = f"linear VAE: ½ log({names[0]}/{names[1]})"
    axis.plot(used.component, used.linear_kl, "-", color=GREEN, label=law, zorder=1)
    if "kl" in table:
        for verdict, (color, marker) in _MARKS.items():
            at = table.isel(latent=table.verdict.values == verdict)
            if at.sizes["latent"]:
                count = at.sizes["latent"]
                axis.plot(at["rank"], at.kl, marker, color=color, ls="none", ms=4.5,
                          label=f"{verdict} ({count})", zorder=2)  # fmt: skip
    most = max(axis.get_ylim()[1], 0.1)
    axis.set(ylabel="KL (nats)", ylim=(-0.04 * most, most))
    axis.legend(loc="upper right")


def _water(axis: Axes, table: xr.Dataset, names: tuple[str, str]) -> None:
    """Draw eigenvalues as columns that stand in water; those of zero have none."""
    lam, level = table.eigenvalue.values, float(table.waterline)
    there = lam > 1e-12 * lam[0]
    least = min(lam[there].min(), level if np.isfinite(level) else np.inf)
    floor, roof = least / 3, 3 * max(lam[0], level if np.isfinite(level) else 0)
    above = lam > level
    for chosen, color in ((there & above, BLUE), (there & ~above, "0.6")):
        at = table.component.values[chosen]
        axis.bar(at, lam[chosen] - floor, bottom=floor, width=0.8, color=color, zorder=2)
    label = f"water: {names[1]} = {level:.3g} of the loss"
    axis.axhspan(floor, level, color=SKY, alpha=0.35, lw=0, zorder=3)
    axis.axhline(level, color=BLUE, lw=1, zorder=4, label=label)
    axis.set(yscale="log", ylim=(floor, roof), xlabel="component, from large to small")
    # where σ² is learned levels are of β, and have no place on this axis
    levels = table.kept_level if float(table.level) == level else []
    for number, weight, at in zip(table.kept, table.weight, levels, strict=False):
        if number > 0:
            text = f"weight {float(weight):.3g} keeps {int(number)}"
            axis.axhline(float(at), color=BLACK, lw=0.7, ls="--", zorder=4)
            axis.annotate(
                text, (1, float(at)), (-2, 2), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="right", fontsize=7.5, zorder=5,
            )  # fmt: skip
    unit = table.eigenvalue.attrs["units"]
    axis.set_ylabel(f"eigenvalue {names[0]}" + ("" if unit == "1" else f" ({unit})"))
    axis.legend(loc="upper right")
