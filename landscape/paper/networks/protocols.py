"""How were the paper's networks trained? Protocols are compared with the ELBO as the clock.

The paper says neither for how long its networks were trained, nor at which learning rate, nor in
which batches. A protocol, that is a rate and a batch size, is read at the epoch at which its ELBO
is the paper's: how far are KL, collapse and σ² from the paper's there? Where a run ended before,
the trend of its last epochs says when it would be there, and with what, if there is a trend: if
half of the run has foretold its end.

Source: own.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from landscape.figures import formats
from landscape.paper import facts
from landscape.paper.networks import table as paper_table

# what is read of a trajectory; the paper's table has cells of these names
_CELLS = ("sigma2", "kl", "percent_collapsed")
_ROW = ("protocol", "sigma2_init", "learned")
_SIDE = 2  # epochs before and after one, for a median: a single record may be of a bad moment
_MEDIAN = 2 * _SIDE + 1
_FAR = 4.0  # times the epochs of a run: half of a run foretells twice its epochs, not sixteen times


def of_sweep(table: xr.Dataset) -> xr.Dataset:
    """Keep of a sweep's table what a protocol is judged by: trajectories, means over seeds.

    Runs that diverged are left out; where all did, there is NaN.

    The table is one of `experiments.summary` with one learning rate. Over (protocol, sigma2_init,
    learned, epoch), with one protocol: `elbo` and `kl`, nats per datum, `sigma2`, data unit², and
    `percent_collapsed`, per cent of latents that are (0.01, 0.01)-collapsed, of the data that the
    records look at; over (protocol, sigma2_init, learned) how many `seeds`; coordinates
    `learning_rate`, `batch_size`. ELBOs are on the scale of the data, as the sweep's are.
    """
    how = facts.training(table)
    names = ("elbo", "kl", "sigma2", "num_collapsed")
    small = table[list(names)].where(~table.diverged).mean("seed")
    small["percent_collapsed"] = (100 * small.num_collapsed / how.k).assign_attrs(
        units="%", long_name="(0.01, 0.01)-collapsed latents"
    )
    of_epoch = facts.steps_per_epoch(facts.origin(table).count, how.batch_size)
    small = small.drop_vars(
        ["num_collapsed", "annealing", "beta", "learning_rate"], errors="ignore"
    )
    small = small.assign_coords(step=small.step / of_epoch).rename(step="epoch")
    for name in ("elbo", "kl", "sigma2"):
        small[name].attrs = table[name].attrs
    small["seeds"] = (
        (~table.diverged)
        .sum("seed")
        .assign_attrs(units="1", long_name="seeds, of which this is the mean")
    )
    name = f"{how.learning_rate:g}, batches of {how.batch_size}"
    return small.astype(np.float32).expand_dims(protocol=[name]).assign_coords(
        learning_rate=("protocol", [how.learning_rate]),
        batch_size=("protocol", [how.batch_size]),
    )  # fmt: skip


def joined(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Join what `of_sweep` gave, also parts of one protocol; NaN is what was not trained.

    A part may itself be joined. Of a row that several parts trained by one protocol the longest
    run stays.
    """
    longest: dict[tuple[Any, ...], xr.Dataset] = {}
    for part in parts:
        for at in np.ndindex(*(part.sizes[name] for name in _ROW)):
            one = part.isel({name: [i] for name, i in zip(_ROW, at, strict=True)})
            one = one.isel(epoch=np.isfinite(one.elbo.values.ravel()))
            which = tuple(one[name].item() for name in _ROW)
            if one.sizes["epoch"] > (longest[which].sizes["epoch"] if which in longest else 0):
                longest[which] = one
    table = xr.merge(
        longest.values(), join="outer", compat="no_conflicts", combine_attrs="drop_conflicts"
    )
    order = np.lexsort((table.batch_size.values, -table.learning_rate.values))
    return table.isel(protocol=order).sel(sigma2_init=np.sort(table.sigma2_init)[::-1])


class Reading(NamedTuple):
    """What a run shows at the epoch at which its ELBO is the paper's.

    Attributes:
        row: of the paper's table.
        epochs: that were trained.
        seeds: of which all is the mean.
        elbo: at their end, the median of the last five records; pixel scale, nats per datum.
        epoch: at which the ELBO is the paper's; infinite where none is in sight, −infinite where
            it was above from the first record.
        seen: whether it was trained for so long; else `epoch` and `cells` continue a trend.
        miss: what half of the epochs foretold of the ELBO at the end, less what it was; nats per
            datum. There is a trend if that is within what `paper_table.RULE` allows.
        cells: "kl", "percent_collapsed" and, if it is learned, "sigma2" at that epoch. At the end
            of training, if there is no such epoch, and for a cell that has no trend in that sense.
        distances: from the paper's, in units of what `paper_table.RULE` allows; empty without
            epoch.
    """

    row: paper_table.Row
    epochs: int
    seeds: int
    elbo: float
    epoch: float
    seen: bool
    miss: float
    cells: dict[str, float]
    distances: dict[str, float]

    @property
    def distance(self) -> float:
        """The mean of the distances; infinite without epoch."""
        return float(np.mean(list(self.distances.values()))) if self.distances else float("inf")


def read(table: xr.Dataset, data: str = "mnist") -> dict[str, list[Reading]]:
    """Read each protocol, by name, at the paper's ELBO in each row of "mnist" that it trained."""
    table = facts.on_pixel_scale(table)
    found: dict[str, list[Reading]] = {}
    for protocol in table.protocol.values:
        of = found.setdefault(str(protocol), [])
        for row in paper_table.ROWS:
            if row.data == data and _has(table, row):
                at = table.sel(protocol=protocol, learned=row.learned, sigma2_init=row.sigma2_init)
                at = at.isel(epoch=np.isfinite(at.elbo.values))
                if at.sizes["epoch"]:
                    of.append(_reading(row, at))
    return found


def _has(table: xr.Dataset, row: paper_table.Row) -> bool:
    return row.sigma2_init in table.sigma2_init and row.learned in table.learned


def _reading(row: paper_table.Row, at: xr.Dataset) -> Reading:
    smooth = _smooth(at)
    epochs, elbo = smooth.epoch.values, smooth.elbo.values
    epoch, seen = passing(epochs, elbo, row.elbo.value)
    miss = foretold(epochs, elbo)
    if not seen and not abs(miss) <= paper_table.tolerance("elbo", row.elbo, row.learned):
        epoch = float("inf")
    cells: dict[str, float] = {}
    distances: dict[str, float] = {}
    for name in _CELLS:
        paper = getattr(row, name)
        if paper is None:
            continue
        values, allowed = smooth[name].values, paper_table.tolerance(name, paper, row.learned)
        there = epoch if np.isfinite(epoch) else epochs[-1]
        if not seen and not abs(foretold(epochs, values)) <= allowed:
            there = epochs[-1]
        cells[name] = value_at(epochs, values, there)
        if name == "percent_collapsed":
            cells[name] = float(np.clip(cells[name], 0, 100))
        if np.isfinite(epoch):
            distances[name] = abs(cells[name] - paper.value) / allowed
    trained = round(float(at.epoch[-1]))
    return Reading(
        row, trained, int(at.seeds), float(elbo[-1]), epoch, seen, miss, cells, distances
    )


class Common(NamedTuple):
    """What protocols show in a row of the paper's table when their ELBOs are equal.

    Attributes:
        row: of the paper's table.
        elbo: the highest that all have passed, none before its first record; pixel scale, nats
            per datum.
        epochs: at which each passed it, by protocol.
        kl: there, nats per datum.
    """

    row: paper_table.Row
    elbo: float
    epochs: dict[str, float]
    kl: dict[str, float]


def common(table: xr.Dataset, data: str = "mnist") -> list[Common]:
    """Compare all protocols at one ELBO, in each row of "mnist" that all have trained."""
    table = facts.on_pixel_scale(table)
    found = []
    for row in paper_table.ROWS:
        if row.data != data or not _has(table, row):
            continue
        of = table.sel(learned=row.learned, sigma2_init=row.sigma2_init)
        each = {str(name): of.sel(protocol=name) for name in table.protocol.values}
        each = {name: at.isel(epoch=np.isfinite(at.elbo.values)) for name, at in each.items()}
        if not all(at.sizes["epoch"] for at in each.values()):
            continue
        each = {name: _smooth(at) for name, at in each.items()}
        level = min(float(at.elbo.max()) for at in each.values())
        if level < max(float(at.elbo[0]) for at in each.values()):
            continue
        epochs = {
            name: passing(at.epoch.values, at.elbo.values, level)[0] for name, at in each.items()
        }
        kl = {
            name: value_at(at.epoch.values, at.kl.values, epochs[name]) for name, at in each.items()
        }
        found.append(Common(row, level, epochs, kl))
    return found


def _smooth(at: xr.Dataset) -> xr.Dataset:
    """Take medians of five records; of fewer none are taken.

    The first record stays and the second is a median of three: soon the ELBO rises so steeply that
    noise does not matter. The last two are left out.
    """
    if at.sizes["epoch"] < _MEDIAN:
        return at
    # as many on either side: the median of a slope is that of its middle
    parts = [at.rolling(epoch=2 * i + 1, center=True).median() for i in range(_SIDE + 1)]
    starts = [part.isel(epoch=[i]) for i, part in enumerate(parts[:-1])]
    return xr.concat(
        [*starts, parts[-1].isel(epoch=slice(_SIDE, -_SIDE))], "epoch", data_vars="minimal",
        coords="minimal", compat="equals", join="exact",
    )  # fmt: skip


def trend(epochs: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Fit a + b log₂(epoch) to the last half of the epochs by least squares, and return (a, b).

    So the ELBO on training data rises once what can be found soon is found: by the same number of
    nats for each doubling (`foretold` says how well that foretells).
    """
    late = epochs >= epochs[-1] / 2
    if late.sum() < 2:
        return float("nan"), float("nan")
    slope, start = np.polyfit(np.log2(epochs[late]), values[late].astype(float), 1)
    return float(start), float(slope)


def passing(epochs: np.ndarray, elbo: np.ndarray, level: float) -> tuple[float, bool]:
    """Return at which epoch an ELBO passes a level, and whether that was seen.

    Where it was not, its `trend` goes on; the epoch is infinite if that falls, or takes more than
    four times the epochs. It is −infinite for an ELBO that is above the level from its first
    record.
    """
    above = np.flatnonzero(elbo >= level)
    if above.size:
        i = int(above[0])
        if i == 0:
            return (float(epochs[0]), True) if elbo[0] == level else (float("-inf"), False)
        share = (level - elbo[i - 1]) / (elbo[i] - elbo[i - 1])
        return float(epochs[i - 1] + share * (epochs[i] - epochs[i - 1])), True
    start, slope = trend(epochs, elbo)
    if not slope > 0:
        return float("inf"), False
    there = (level - start) / slope
    most = float(np.log2(_FAR * epochs[-1]))
    # the line may lie above the last records, and then be there already
    return (float(max(2**there, epochs[-1])) if there <= most else float("inf")), False


def value_at(epochs: np.ndarray, values: np.ndarray, epoch: float) -> float:
    """Return what a trajectory shows at an epoch, beyond its end by its `trend`."""
    if epoch <= epochs[-1]:
        return float(np.interp(epoch, epochs, values))
    start, slope = trend(epochs, values)
    return start + slope * float(np.log2(epoch))


def foretold(epochs: np.ndarray, values: np.ndarray) -> float:
    """Return what the `trend` of half of the epochs says of the end, less what is there."""
    half = len(epochs) // 2
    if half < _MEDIAN:
        return float("nan")
    return value_at(epochs[:half], values[:half], float(epochs[-1])) - float(values[-1])


def agreement(of: Sequence[Reading]) -> dict[str, list[bool]]:
    """Say by heading which cells agree by `paper_table.RULE` where the ELBO is the paper's."""
    return {
        paper_table.COLUMNS[name][0]: [
            one.distances[name] <= 1 for one in of if name in one.distances
        ]
        for name in _CELLS
    }


def markdown(found: Mapping[str, Sequence[Reading]]) -> str:
    """Write for each protocol and row when its ELBO is the paper's, and what it shows there."""
    headings = (
        "learning rate", "#:", "σ²", "start:", "seeds:", "epochs:", "ELBO:",
        "paper's ELBO at epoch:", "σ²:", "paper's σ²:", "KL:", "paper's KL:",
        "collapsed %:", "paper's collapsed %:", "distance:",
    )  # fmt: skip
    lines = []
    for protocol, readings in found.items():
        head = protocol
        for one in readings:
            row = one.row
            cells = []
            for name in _CELLS:
                paper = getattr(row, name)
                ours = formats.number(one.cells[name]) if name in one.cells else ""
                cells += [ours, "" if paper is None else str(paper)]
            lines.append(
                (head, str(row.number), paper_table.mode(row.learned), f"{row.sigma2_init:g}",
                 str(one.seeds), str(one.epochs), formats.number(one.elbo), _epoch(one), *cells,
                 formats.number(one.distance) if one.distances else "")
            )  # fmt: skip
            head = ""
    return formats.table(headings, lines)


def side_by_side(table: xr.Dataset, found: Sequence[Common]) -> str:
    """Write what all protocols show at one ELBO, by the noise of their steps."""
    headings = ["learning rate", "rate/√batch:"]
    for one in found:
        which = f"row {one.row.number}, ELBO {formats.number(one.elbo)}"
        headings += [f"{which}: epoch:", f"{which}: KL:"]
    noise = table.learning_rate.values / np.sqrt(table.batch_size.values)
    lines = []
    for i in np.argsort(-noise):
        name = str(table.protocol.values[i])
        cells = [(f"{one.epochs[name]:.0f}", formats.number(one.kl[name])) for one in found]
        lines.append((name, f"{noise[i]:.1e}", *itertools.chain(*cells)))
    return formats.table(headings, lines)


def _epoch(one: Reading) -> str:
    if not np.isfinite(one.epoch):
        return "no trend yet" if one.epoch > 0 else "before the first"
    return f"{'' if one.seen else '≈ '}{one.epoch:.0f}"


def numbers(table: xr.Dataset, data: str) -> dict[str, float]:
    """Name what `markdown` and `side_by_side` state.

    "0.001, batches of 128: row 7: KL", "0.001, batches of 128: mean distance", "0.001, batches of
    128: KL: rows that agree" of "0.001, batches of 128: KL: rows", and "row 7 at one ELBO: 0.001,
    batches of 128: KL".
    """
    found = read(table, data)
    named = {f"{name}: mean distance": x for name, x in distances(found).items()}
    for protocol, readings in found.items():
        at = table.sel(protocol=protocol)
        named[f"{protocol}: learning rate"] = float(at.learning_rate)
        named[f"{protocol}: batch size"] = float(at.batch_size)
        for heading, cells in agreement(readings).items():
            named[f"{protocol}: {heading}: rows"] = float(len(cells))
            named[f"{protocol}: {heading}: rows that agree"] = float(sum(cells))
        for one in readings:
            of = f"{protocol}: row {one.row.number}"
            named |= {f"{of}: epochs": float(one.epochs), f"{of}: seeds": float(one.seeds),
                      f"{of}: ELBO": one.elbo,
                      f"{of}: epoch": one.epoch, f"{of}: distance": one.distance}  # fmt: skip
            named |= {f"{of}: {paper_table.COLUMNS[n][0]}": v for n, v in one.cells.items()}
    for one in common(table, data):
        of = f"row {one.row.number} at one ELBO"
        named[f"{of}: ELBO"] = one.elbo
        for name in one.kl:
            named |= {f"{of}: {name}: KL": one.kl[name], f"{of}: {name}: epoch": one.epochs[name]}
    return named


def distances(found: Mapping[str, Sequence[Reading]]) -> dict[str, float]:
    """Return each protocol's mean distance over the rows that all of them have trained."""
    common = set.intersection(*({one.row.number for one in of} for of in found.values()))
    return {
        protocol: float(np.mean([one.distance for one in of if one.row.number in common]))
        for protocol, of in found.items()
    }
