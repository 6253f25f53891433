"""The paper's table of 20 rows is data here; ours stands beside it, judged by a stated rule.

Source: the poster of Lucas, Tucker, Grosse, Norouzi, NeurIPS 2019, read by OCR: cells whose
arithmetic does not close are marked as doubtful.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import xarray as xr

from landscape.figures import formats
from landscape.paper import facts


class Cell(NamedTuple):
    """A number of the paper: value, spread over trials where given, and what is doubtful of it."""

    value: float
    spread: float | None = None
    doubt: str = ""

    def __str__(self) -> str:
        """Write it as a table shows it."""
        if not np.isfinite(self.value):
            return "diverged"
        spread = "" if self.spread is None else f" ± {formats.number(self.spread)}"
        return f"{formats.number(self.value)}{spread}{' ?' if self.doubt else ''}"


@dataclass(frozen=True)
class Row:
    """A row is of Gaussian VAEs on "mnist" or "celeba" with one initial σ², held or learned.

    Attributes:
        elbo: final ELBO, pixel scale, nats per datum.
        elbo_tuned: after σ² alone was tuned, by gradient; ours is the closed form.
        sigma2_tuned: that σ².
        percent_collapsed: (0.01, 0.01)-collapsed latents, per cent.
        kl: nats per datum.
        sigma2: final σ², where learned.
    """

    number: int
    data: str
    learned: bool
    sigma2_init: float
    elbo: Cell
    elbo_tuned: Cell
    sigma2_tuned: Cell
    percent_collapsed: Cell
    kl: Cell
    sigma2: Cell | None = None


def _row(number: int, sigma2: float | Cell | None, *cells: tuple[float, ...] | Cell | float) -> Row:
    """Make a row by its number: the first ten are MNIST's, of each ten the first five hold σ²."""
    made = [c if isinstance(c, Cell) else Cell(*np.atleast_1d(c).tolist()) for c in cells]
    final = sigma2 if sigma2 is None or isinstance(sigma2, Cell) else Cell(sigma2)
    i = number - 1
    start = (10.0, 1.0, 0.1, 0.01, 0.001)[i % 5]
    return Row(number, "mnist" if i < 10 else "celeba", i % 10 >= 5, start, *made, sigma2=final)


_OCR = "as read by OCR"
ROWS = (
    _row(1, None, (-1450.3, 4.2), (-1098.2, 28.3), 1.797, 89.88, (28.8, 1.4)),
    _row(2, None, (-1022.1, 5.4), (-1018.3, 5.3), 1.145, 27.38, (125.4, 4.2)),
    _row(3, None, (-3697.3, 493.3), (-1190.8, 37.4), 0.968, 3.25, (368.7, 94.6)),
    _row(4, None, (-38612.5, 1189.8), Cell(-2090.8, 975.1, _OCR), 0.877, 0.0, (695.9, 118.1)),
    _row(5, None, (-504259.1, 49149.8), (-1744.7, 48.4), 0.81, 0.0, (756.2, 12.6)),
    _row(6, 1.32, (-1022.2, 4.5), (-1022.3, 4.6), 1.318, 73.75, (73.8, 9.8)),
    _row(7, 1.183, (-1011.1, 2.7), (-1011.1, 2.8), 1.182, 47.88, (106.3, 2.5)),
    _row(8, 1.194, (-1025.4, 8.6), (-1025.4, 8.6), 1.195, 29.25, (116.1, 11.4)),
    _row(9, 1.194, (-1030.6, 3.5), (-1030.5, 3.5), 1.191, 23.0, (121.9, 7.7)),
    _row(10, 1.208, (-1038.7, 5.6), (-1038.8, 5.6), 1.209, 27.0, (124.9, 1.6)),
    _row(11, None, (-73328.4, 0.49), (-55186.7, 35.1), 0.204, 30.56, (56.12, 0.42)),
    _row(12, None, (-59841.8, 30.1), (-51294.8, 333.7), 0.102, Cell(2.52, None, _OCR),
         (213.4, 6.3)),
    _row(13, None, (-50760.3, 353.4), Cell(-50608.5, 393.9, "arithmetic says about -50707"),
         0.0883, 32.72, (483.8, 36.2)),
    _row(14, None, (-82478.7, 1823.3), (-51373.9, 213.3), 0.0817, 0.0, (1624.2, 8.78)),
    _row(15, None, (-531924.5, 17177.6), (-57381.5, 512.6), 0.0296, 0.0, (2680.2, 41.45)),
    _row(16, 0.0962, (-51109.5, 408.2), (-51109.5, 408.3), 0.0963, 53.32, (364.5, 26.4)),
    _row(17, 0.0875, (-50631.2, 163.4), (-50631.0, 163.3), 0.0875, 54.76, (462.2, 20.0)),
    _row(18, 0.0863, (-50646.9, 269.0), (-50645.9, 267.5), 0.0869, 28.84, (520.9, 11.7)),
    _row(19, Cell(0.0911, None, "arithmetic says 0.096"), (-51285.0, 708.1), (-51284.8, 708.1),
         0.0963, 5.64, (557.0, 50.5)),
    _row(20, 0.104, (-51695.1, 322.4), (-51694.8, 322.7), Cell(0.0974, None, "perhaps 0.103"),
         0.0, (537.5, 46.2)),
)  # fmt: skip

RULE = (
    "ELBO: within 1.5 % of the paper's where σ² is learned, within 2 % or two of the paper's "
    "spreads where it is held; final σ²: within 5 %; collapse: within 15 points; KL: within 15 % "
    "or two of the paper's spreads. σ²-tuned ELBO: ours is the closed form σ² = mean squared "
    "error, the paper's was tuned by gradient and not converged where it starts tiny, so ours may "
    "be higher, and must not be more than 2 % lower. The tuned σ² itself follows from the trained "
    "networks and is not judged, nor are cells marked ?. A row agrees if all cells judged do."
)


def printed(data: str) -> xr.Dataset:
    """Tabulate ELBO, KL and collapse of the rows of "mnist" or "celeba", as the paper has them.

    Over (sigma2_init, learned): `elbo`, `kl` and `percent_collapsed`, `elbo_spread`, `kl_spread`.
    """
    rows = sorted((row for row in ROWS if row.data == data), key=lambda row: row.number)
    both = np.array(rows, object).reshape(2, -1).T  # held, learned

    def cells(of: Callable[[Row], float | None]) -> tuple[tuple[str, str], np.ndarray]:
        return ("sigma2_init", "learned"), np.array([[of(r) for r in pair] for pair in both], float)

    return xr.Dataset(
        {
            "elbo": cells(lambda row: row.elbo.value),
            "elbo_spread": cells(lambda row: row.elbo.spread),
            "kl": cells(lambda row: row.kl.value),
            "kl_spread": cells(lambda row: row.kl.spread),
            "percent_collapsed": cells(lambda row: row.percent_collapsed.value),
        },
        {"sigma2_init": [row.sigma2_init for row in both[:, 0]], "learned": [False, True]},
    )


class Comparison(NamedTuple):
    """A cell of ours, mean and spread over seeds (NaN if one diverged), beside the paper's.

    Whether it agrees is by `RULE`; None where that does not judge.
    """

    ours: Cell
    paper: Cell
    agrees: bool | None


class Compared(NamedTuple):
    """This is a row, with its cells by name."""

    row: Row
    cells: dict[str, Comparison]

    @property
    def differs(self) -> list[str]:
        """Names of the cells that do not agree."""
        return [name for name, cell in self.cells.items() if cell.agrees is False]

    @property
    def judged(self) -> int:
        """Number of cells that `RULE` judges."""
        return sum(cell.agrees is not None for cell in self.cells.values())


class Tuned(NamedTuple):
    """σ² in closed form, and the ELBO with it, for networks as they are."""

    sigma2: float
    elbo: float


# dimensions, and nats that turn an ELBO into one of pixels: MNIST's is computed, on its 60,000
# training images; CelebA's is what most of the rows' tuned ELBOs give
_SCALES = {"mnist": (784, 272.18), "celeba": (12_288, -47_709.0)}


def closed_form(row: Row) -> Tuned:
    """Compute what tuning σ² in closed form would have given the paper's networks.

    The paper's σ², ELBO and KL give the mean squared error, ELBO = −(n/2) log 2πσ² − n·MSE/(2σ²)
    − KL + constant; the best σ² is that error.
    """
    n, constant = _SCALES[row.data]
    sigma2 = row.sigma2_init if row.sigma2 is None else row.sigma2.value
    left = constant - row.kl.value - row.elbo.value - n / 2 * np.log(2 * np.pi * sigma2)
    error = 2 * sigma2 / n * left
    tuned = constant - row.kl.value - n / 2 * (np.log(2 * np.pi * error) + 1)
    return Tuned(float(error), float(tuned))


def not_tuned(compared: Sequence[Compared]) -> str:
    """Say where the paper's tuned σ² is not the best by its own numbers; "" if nowhere."""
    return "; ".join(
        f"row {row.number}, σ² = {formats.number(best.sigma2)} and {formats.number(best.elbo)} "
        f"nats instead of {row.sigma2_tuned} and {row.elbo_tuned}"
        for row, best in _better(compared)
    )


def _better(compared: Sequence[Compared]) -> list[tuple[Row, Tuned]]:
    """Tune the rows of the paper whose own tuned ELBO is not the best by its own numbers."""
    tuned = ((row, closed_form(row)) for row, _ in compared)
    # rounding of the cells makes up to 0.4 %
    return [(row, best) for row, best in tuned
            if best.elbo > row.elbo_tuned.value + 0.01 * abs(row.elbo_tuned.value)]  # fmt: skip


# name of a cell → heading, and the variable of the sweep's table
COLUMNS = {
    "sigma2": ("final σ²", "final_sigma2"),
    "elbo": ("ELBO", "final_elbo"),
    "elbo_tuned": ("σ²-tuned ELBO", "final_elbo_tuned"),
    "sigma2_tuned": ("tuned σ²", "final_sigma2_tuned"),
    "percent_collapsed": ("collapsed %", "final_num_collapsed"),
    "kl": ("KL", "final_kl"),
}


def compare(table: xr.Dataset, data: str) -> list[Compared]:
    """Put ours beside the rows of "mnist" or "celeba" that were trained, in the paper's order.

    The table is one of `experiments.train`, with the attribute `pixel_constant`. Other data
    have no rows.
    """
    found = []
    table = facts.on_pixel_scale(table)
    for row in ROWS:
        if row.data != data or row.sigma2_init not in table.sigma2_init.values:
            continue
        at = table.sel(sigma2_init=row.sigma2_init, learned=row.learned)
        cells = {}
        for name in COLUMNS:
            paper = getattr(row, name)
            if paper is not None:
                ours = _ours(at, name)
                judged = not paper.doubt and name != "sigma2_tuned"
                agrees = _agrees(name, ours.value, paper, row.learned) if judged else None
                cells[name] = Comparison(ours, paper, agrees)
        found.append(Compared(row, cells))
    return found


def _ours(at: xr.Dataset, name: str) -> Cell:
    """Make a cell of one row of a sweep: mean and standard deviation over seeds."""
    values = at[COLUMNS[name][1]]
    if "latent" in values.dims:
        values = values.sum("latent", skipna=False)
    if name == "percent_collapsed":
        values = 100 * values / at.sizes["latent"]
    return _cell(values)


def _cell(values: xr.DataArray) -> Cell:
    spread = float(values.std("seed", ddof=1)) if values.sizes["seed"] > 1 else None
    # skipna=False: a diverged seed is no reason to leave it out
    return Cell(float(values.mean("seed", skipna=False)), spread)


def tolerance(name: str, paper: Cell, learned: bool) -> float:
    """Return how far a cell may be off by `RULE`; the σ²-tuned ELBO only downwards."""
    size, two = abs(paper.value), 2 * (paper.spread or 0.0)
    return {
        "sigma2": 0.05 * size,
        "elbo": 0.015 * size if learned else max(0.02 * size, two),
        "elbo_tuned": 0.02 * size,
        "percent_collapsed": 15.0,
        "kl": max(0.15 * size, two),
    }[name]


def _agrees(name: str, ours: float, paper: Cell, learned: bool) -> bool:
    """Judge a cell by `RULE`; NaN never agrees."""
    lower = paper.value - ours
    return (lower if name == "elbo_tuned" else abs(lower)) <= tolerance(name, paper, learned)


def markdown(compared: Sequence[Compared]) -> str:
    """Write two lines for each row, ours and the paper's; cells that disagree are bold."""
    lines = []
    for one in compared:
        row, cells, differs = one.row, one.cells, one.differs
        told = f"differs: {', '.join(COLUMNS[name][0] for name in differs)}"
        ours = {n: f"**{c.ours}**" if n in differs else str(c.ours) for n, c in cells.items()}
        paper = {n: str(c.paper) for n, c in cells.items()}
        start = (str(row.number), mode(row.learned), f"{row.sigma2_init:g}")
        lines.append((*start, "ours", *_in_order(ours), told if differs else "**agrees**"))
        lines.append(("", "", "", "paper", *_in_order(paper), ""))
    return formats.table(("#:", "σ²", "start:", "", *_headings(COLUMNS), "verdict"), lines)


def _headings(names: Iterable[str]) -> list[str]:
    return [f"{COLUMNS[name][0]}:" for name in names]


def _in_order(cells: Mapping[str, str]) -> list[str]:
    return [cells.get(name, "") for name in COLUMNS]


def agreement(compared: Sequence[Compared]) -> str:
    """Say how many rows and cells agree by `RULE`, and how many of each kind of cell."""
    judged = _judged(compared)
    parts = [f"{name} {sum(of)} of {len(of)}" for name, of in judged.items() if of]
    rows, cells = sum(not one.differs for one in compared), [*chain(*judged.values())]
    return (
        f"{rows} of {len(compared)} rows agree with the paper, {sum(cells)} of {len(cells)} cells "
        f"({', '.join(parts)})"
    )


def _judged(compared: Sequence[Compared]) -> dict[str, list[bool]]:
    """Collect by heading which of the cells that `RULE` judges agree."""
    judged = {heading: [] for heading, _ in COLUMNS.values()}
    for name, cell in (item for one in compared for item in one.cells.items()):
        if cell.agrees is not None:
            judged[COLUMNS[name][0]].append(cell.agrees)
    return judged


def doubts(compared: Sequence[Compared]) -> str:
    """Say what is doubtful of the paper's numbers in these rows; "" if nothing is."""
    return "; ".join(
        f"row {one.row.number}, {COLUMNS[name][0]}: {cell.paper.doubt}"
        for one in compared
        for name, cell in one.cells.items()
        if cell.paper.doubt
    )


def alone(table: xr.Dataset) -> str:
    """Write ours alone, for data that the paper does not have, with the linear VAE's collapse."""
    rows = _alone(table)
    lines = [(mode(learned), f"{start:g}", *map(str, cells.values()))
             for (learned, start), cells in rows.items()]  # fmt: skip
    names = next(iter(rows.values()))
    return formats.table(("σ²", "start:", *(f"{name}:" for name in names)), lines)


def _alone(table: xr.Dataset) -> dict[tuple[bool, float], dict[str, Cell]]:
    """Make the cells of `alone` by heading, for each way to treat σ² and each start of it."""
    table, rows = facts.on_pixel_scale(table), {}
    for learned in table.learned.values.tolist():
        for start in table.sigma2_init.values.tolist():
            at = table.sel(learned=learned, sigma2_init=start)
            linear = _cell(100 * at.final_linear_num_collapsed / at.sizes["latent"])
            cells = {heading: _ours(at, name) for name, (heading, _) in COLUMNS.items()}
            rows[learned, start] = cells | {"collapsed %, linear VAE": linear}
    return rows


def numbers(table: xr.Dataset, data: str) -> dict[str, float]:
    """Name what is stated of a table beside the rows of "mnist" or "celeba", or else alone.

    "row 2: ELBO: ours", "row 2: ELBO: paper", each with ": spread" where it has one; alone "held at
    1: ELBO". "rows that agree" of "rows", "cells that agree" of "cells", "ELBO: cells that agree"
    of "ELBO: cells". "row 5: tuned σ²: closed form" where the paper's is not the best.
    """
    compared = compare(table, data)
    cells: dict[str, Cell] = {}
    for row, of in compared:
        for name, cell in of.items():
            what = f"row {row.number}: {COLUMNS[name][0]}"
            cells |= {f"{what}: ours": cell.ours, f"{what}: paper": cell.paper}
    for row, best in _better(compared):
        cells[f"row {row.number}: tuned σ²: closed form"] = Cell(best.sigma2)
        cells[f"row {row.number}: σ²-tuned ELBO: closed form"] = Cell(best.elbo)
    if not compared:
        for (learned, start), of in _alone(table).items():
            cells |= {f"{named_start(learned, start)}: {name}": cell for name, cell in of.items()}
    runs, diverged = float(table.diverged.size), float(table.diverged.sum())
    found = {"table: runs": runs, "table: runs that diverged": diverged}
    for name, cell in cells.items():
        found[name] = cell.value
        if cell.spread is not None:
            found[f"{name}: spread"] = cell.spread
    if compared:
        judged = _judged(compared)
        agree = {"": [*chain(*judged.values())]} | {
            f"{name}: ": of for name, of in judged.items() if of
        }
        for kind, of in agree.items():
            found[f"{kind}cells"], found[f"{kind}cells that agree"] = float(len(of)), float(sum(of))
        found["rows"] = float(len(compared))
        found["rows that agree"] = float(sum(not one.differs for one in compared))
    return found


def named_start(learned: bool, start: float) -> str:
    """Say how σ² is treated, and where it starts, as names of numbers do."""
    return f"{'learned from' if learned else 'held at'} {start:g}"


def mode(learned: bool) -> str:
    """Say in a word how σ² is treated."""
    return "learned" if learned else "held"
