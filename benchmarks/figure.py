"""What draws: time of a spectrum against the number of parameters; residuals along training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import xarray as xr
from matplotlib.figure import Figure

from benchmarks.records import Record
from landscape.figures import style
from linvae_jax import tables

# Okabe and Ito's colours; told apart by marker and line too
_LOOKS = (("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", ":"))


def curves(record: Record) -> xr.Dataset:
    """The times of a record that have a number of parameters, one entry each."""
    scales = {"ms": 1e-3, "s": 1.0}
    found = [
        m
        for run in record["benchmarks"].values()
        for m in run["measurements"]
        if m["method"] and m["parameters"]
    ]
    found.sort(key=lambda m: (m["method"], m["parameters"]))

    def seconds(field: str) -> tuple[Any, ...]:
        return ("measurement",), [m[field] * scales[m["unit"]] for m in found], "s"

    return tables.dataset(
        {
            "method": (("measurement",), [m["method"] for m in found], "1", "how"),
            "parameters": (
                ("measurement",),
                [m["parameters"] for m in found],
                "1",
                "number of parameters, which is that of eigenvalues",
            ),
            "time": (*seconds("value"), "time of the whole spectrum, median"),
            "time_low": (*seconds("low"), "lower quartile"),
            "time_high": (*seconds("high"), "upper quartile"),
        },
        attrs=tables.provenance(benchmark_device=record["device"]),
    )


def exponents(record: Record) -> dict[str, float]:
    """Fitted exponent of each method: the measurement of a curve as a whole."""
    return {
        m["method"]: m["value"]
        for run in record["benchmarks"].values()
        for m in run["measurements"]
        if m["method"] and not m["parameters"]
    }


def draw(table: xr.Dataset, fitted: dict[str, float]) -> Figure:
    """Both axes logarithmic; one curve a method."""
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained", dpi=200)
        axes = figure.subplots()
        methods: Sequence[str] = sorted(set(table.method.values.tolist()))
        for method, (colour, marker, line) in zip(methods, _LOOKS, strict=False):
            own = table.isel(measurement=table.method.values == method).sortby("parameters")
            label = method + (f": ∝ p$^{{{fitted[method]:.2f}}}$" if method in fitted else "")
            axes.plot(
                own.parameters, own.time, color=colour, marker=marker, ls=line, ms=4, label=label
            )
            axes.fill_between(
                own.parameters, own.time_low, own.time_high, color=colour, alpha=0.2, lw=0
            )
        axes.set(xscale="log", yscale="log")
        axes.set_xlabel("number of parameters p, all of whose p eigenvalues are computed")
        axes.set_ylabel("time (s)")
        axes.set_title(table.attrs["benchmark_device"], fontsize=9)
        axes.grid(alpha=0.25, lw=0.5)
        if methods:
            axes.legend(frameon=False, fontsize=8)
    return figure


def save(record: Record, folder: Path) -> Path:
    """Write spectrum_time.png and its data, spectrum_time.nc."""
    folder.mkdir(parents=True, exist_ok=True)
    table = curves(record)
    tables.save(table, folder / "spectrum_time.nc")
    path = folder / "spectrum_time.png"
    with mpl.rc_context({"font.size": 9}):
        draw(table, exponents(record)).savefig(path)
    return path


# colour and line of each variant of residuals.py; those that come to rest have whole lines
_VARIANTS: Mapping[str, tuple[str, str]] = {
    "constant": (style.ORANGE, "-"),
    "decayed": (style.BLUE, "-"),
    "longer": (style.BLACK, "-"),
    "relu": (style.GREEN, "-"),
    "relu-longer": (style.PURPLE, "-"),
    "mnist": (style.SKY, "-"),
    "adamw-0.01": (style.PURPLE, "--"),
    "adamw-0.1": (style.RED, "--"),
    "l2": (style.BLACK, "--"),
    "free-bits-mean": (style.GREEN, ":"),
    "free-bits-datum": (style.RED, ":"),
    "batch-norm": (style.SKY, ":"),
}


@style.styled
def draw_residuals(
    measured: Mapping[str, xr.Dataset],
    rise: Mapping[str, xr.DataArray],
    texts: Mapping[str, str],
    threshold: float,
) -> Figure:
    """Median scale residual, against the rise of the ELBO to come (left) and steps (right).

    `measured` are summaries by variant. Left are those of `rise`, seeds and mean, from the largest
    residual on. Right are means over seeds.
    """
    figure, (left, right) = style.panels(7.2, 4.1, 1, 2, sharey=True)
    for name, all_to_come in rise.items():
        colour, line = _VARIANTS[name]
        size = measured[name].scale_median
        late = slice(int(size.mean("seed").argmax("step")), None)
        to_come, size = all_to_come[:, late], size[:, late]
        to_come = to_come.where(to_come > 0)
        left.plot(to_come.T, size.T, color=colour, ls="", marker="o", ms=2, mew=0, alpha=0.5)
        left.plot(to_come.mean("seed"), size.mean("seed"), color=colour, ls=line)
    left.set(xscale="log", yscale="log", xlabel="rise of the ELBO still to come (nats/datum)")
    left.invert_xaxis()
    left.set_ylabel("|E[m² + D] − 1|, median in use")
    for name, (colour, line) in _VARIANTS.items():
        if name in measured:
            mean = measured[name].scale_median.mean("seed")
            right.plot(mean.step, mean, color=colour, ls=line, lw=1.2, label=texts[name])
    right.set(xscale="log", xlabel="optimiser steps")
    for axis in (left, right):
        axis.axhline(threshold, color="0.35", lw=0.8, ls=(0, (6, 3)))
    left.annotate(
        f"threshold {threshold:g}", (0.02, threshold), (0, -10), color="0.35", fontsize=8,
        xycoords=("axes fraction", "data"), textcoords="offset points",
    )  # fmt: skip
    left.set_title("(a) with the ELBO’s own rise", loc="left")
    right.set_title("(b) along training", loc="left")
    style.legend_below(figure, right, 3)
    return figure
