"""Does a folder of results say what its tables say? Everything is computed anew, without training.

In this order: the tables are those that the ledger was made of; the ledger and the report are what
`report.write` would write; pages beside them, a README, quote them truly (`quotes`).
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import xarray as xr

from landscape.paper import facts, ledger, quotes, report
from landscape.paper.networks import claims as network_claims
from landscape.paper.networks import experiments as network_experiments
from landscape.paper.networks import protocols
from landscape.paper.networks import table as paper_table
from landscape.paper.quotes import Differs
from linvae_jax import tables
from linvae_jax._internal import checks

_JSON_NUMBER = re.compile(r'( *"(?:value|bound)": )(.*?)(,?)')


class Checked(NamedTuple):
    """How many numbers stand in how many files, and are right; and how many tables say so."""

    numbers: int
    files: int
    tables: int


def folder(place: Path, pages: Sequence[Path] = ()) -> Checked:
    """Check the ledger, the report, the other Markdown beside them, then further pages.

    Raises:
        Differs: at the first that differs; it says which file and line.
        ValueError: no folder, no ledger or a broken one, no such page; as `quotes.page`.
    """
    for page in pages:
        if not page.is_file():
            checks.fail("pages", f"{page} (no such file)", "pages of Markdown")
    _there(place)
    kept = ledger.load(place).tables
    for name, sha256 in kept.items():
        _same_file(place / name, sha256)
    claims, found = report.judge(place), network_experiments.load(place)
    told = report.markdown(found, claims, place)
    written = {
        "ledger.json": ledger.document(claims, kept),
        "ledger.md": ledger.markdown(claims, kept),
        "report.md": told,
    }
    counted = [
        quotes.same(
            str(place / name), _read(place / name), text,
            alike=_close if name == "ledger.json" else str.__eq__,
        )
        for name, text in written.items()
    ]  # fmt: skip
    beside = [page for page in sorted(place.glob("*.md")) if page.name not in written]
    known = _numbers(found, claims, place)
    counted += [quotes.page(str(page), _read(page), known, told) for page in (*beside, *pages)]
    return Checked(sum(counted), len(counted), len(list(place.glob("*.nc"))))


def _there(place: Path) -> None:
    if not place.is_dir():
        checks.fail("folder", f"{place} (no such folder)", "one that `linvae reproduce` wrote")


def _same_file(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise Differs(str(path), "", "the ledger was made of this table")
    if (made := ledger.sha256(path)) != sha256:
        told = f"the ledger was made of the table with {sha256}"
        raise Differs(str(path), f"a table with sha256 {made}", told)


def _read(path: Path) -> str:
    """Read a page; one that is missing has no lines, which is a difference."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _close(stands: str, told: str) -> bool:
    """Compare lines of `ledger.json`, values and bounds to 1e-9 relative.

    Another processor sums in another order: float64 then differs by some 1e-13 of the terms, and
    differences of terms by a thousand times that. The other files show three digits.
    """
    one, other = _JSON_NUMBER.fullmatch(stands), _JSON_NUMBER.fullmatch(told)
    if stands == told or not one or not other or one.group(1, 3) != other.group(1, 3):
        return stands == told
    try:
        return math.isclose(float(one[2]), float(other[2]), rel_tol=1e-9)
    except ValueError:  # no number
        return False


def numbers(place: Path) -> dict[str, float]:
    """Name the numbers that the report and the ledger of a folder state.

    Each part of the report names its own: claims "C9: <quantity of a check>", the table "row 2:
    ELBO: ours", and so on. Units are as they are shown.

    Raises:
        ValueError: no folder, or a table that cannot be read.
    """
    _there(place)
    return _numbers(network_experiments.load(place), report.judge(place), place)


def _numbers(
    found: Mapping[str, xr.Dataset], claims: Sequence[ledger.Claim], place: Path
) -> dict[str, float]:
    """Put the numbers of all parts together."""
    named = ledger.numbers(claims)
    for path in sorted(place.glob("*.nc")):
        if (seconds := facts.origin(tables.load(path)).seconds) is not None:
            named[f"{path.name}: minutes"] = seconds / 60
    if "table" in found:
        table = found["table"]
        named |= facts.numbers(table) | paper_table.numbers(table, facts.paper_data_of(table))
        named |= network_claims.numbers(found)
    if "protocols" in found and (data := facts.paper_data_of(found["protocols"])):
        named |= protocols.numbers(found["protocols"], data)
    if "curvature" in found:
        named |= report.numbers_of_curvature(found["curvature"])
    return named
