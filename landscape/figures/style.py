"""The look of all figures: colours, fonts, curves over seeds, and how a figure is saved.

Colours are Okabe and Ito's, told apart by colour-blind readers and in grey; sizes are those of a
two-column paper.
"""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip

DPI = 220  # of a saved PNG

_STYLE: Any = {
    "font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.alpha": 0.25, "grid.linewidth": 0.5, "legend.fontsize": 8,
    "legend.frameon": False, "lines.linewidth": 1.5, "figure.constrained_layout.use": True,
    "figure.dpi": 110, "savefig.dpi": DPI, "pdf.fonttype": 42,  # text stays text
}  # fmt: skip


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Make a function draw in the style of this module."""

    @wraps(draw)
    def wrapper(*args: Any, **kwargs: Any) -> Figure:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return wrapper


def save(figure: Figure, path: Path) -> list[Path]:
    """Write PNG and PDF beside each other; `path` is without suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    with mpl.rc_context(_STYLE):
        figure.draw_without_rendering()  # lays it out, once for both
        figure.set_layout_engine("none")
        for suffix in (".png", ".pdf"):
            target = path.with_name(path.name + suffix)
            figure.savefig(target)
            written.append(target)
    return written


def panels(width: float, height: float, *shape: int, **shared: Any) -> tuple[Figure, Any]:
    """Make a figure of this size in inches, and its axes as `Figure.subplots` does."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(*shape, **shared)


def over_steps(*axes: Axes) -> None:
    """Let steps of the optimiser go to the right, from 0."""
    for axis in axes:
        axis.set(xlabel="optimiser steps", xlim=(0, None))
        axis.locator_params(axis="x", nbins=5)


def legend_below(figure: Figure, axis: Axes, columns: int) -> None:
    """Explain under all panels what one of them shows."""
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def curve(axis: Axes, data: xr.DataArray, color: Any, label: str, style: str = "-") -> None:
    """Draw the mean over seeds against steps, with the range of the seeds."""
    mean = data.mean("seed")
    axis.plot(data.step, mean, color=color, label=label, ls=style)
    axis.fill_between(data.step, data.min("seed"), data.max("seed"), color=color, alpha=0.2, lw=0)


def shades(count: int) -> list[Any]:
    """Return colours for values of σ², from small (dark) to large (light)."""
    return [mpl.colormaps["viridis"](x) for x in np.linspace(0, 0.92, count)]
