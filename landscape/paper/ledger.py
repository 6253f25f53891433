"""A ledger of claims: what was measured, against which bound and why, and whether it holds."""

import hashlib
import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from landscape.figures import formats
from linvae_jax._internal import checks

_RELATIONS = {"<=": ("≤", operator.le), ">=": ("≥", operator.ge), "==": ("=", operator.eq)}


@dataclass(frozen=True)
class Check:
    """One measured number, `quantity` with its unit, against one bound, and where that is from.

    `tables` are the names of the saved files from which the number and its bound are computed.
    """

    quantity: str
    value: float
    relation: Literal["<=", ">=", "=="]
    bound: float
    why: str
    tables: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the number is within its bound; NaN never is."""
        return _RELATIONS[self.relation][1](self.value, self.bound)


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, "C1" to "C10", and the checks that it stands on: all must hold.

    Attributes:
        note: what a reader should know beside the numbers.
        source: where the paper makes the claim.
        reduced: what was smaller in the measurement than in the paper's, in words (`size`); "" if
            nothing was.
    """

    id: str
    statement: str
    checks: tuple[Check, ...]
    note: str = ""
    source: str = ""
    reduced: str = ""

    @property
    def holds(self) -> bool:
        """Whether every check holds; a claim without checks does not."""
        return bool(self.checks) and all(check.holds for check in self.checks)

    @property
    def verdict(self) -> Literal["holds", "holds at reduced size", "does not hold"]:
        """Whether it holds, and whether that was seen at the paper's size."""
        if not self.holds:
            return "does not hold"
        return "holds at reduced size" if self.reduced else "holds"


def stands(place: str) -> str:
    """Name a place in the paper where a claim stands; statements are no quotations."""
    return f"Lucas et al. 2019, {place}; in our words"


def measured(claim: Claim) -> str:
    """Write what was measured for a claim as a Markdown table, and its note."""
    headings = ("measured", "value:", "bound:", "why this bound", "from", "holds")
    rows = [
        (c.quantity, _shown(c.value), _bound(c), c.why,
         ", ".join(f"`{name.removesuffix('.nc')}`" for name in c.tables),
         "yes" if c.holds else "**no**")
        for c in claim.checks
    ]  # fmt: skip
    return formats.table(headings, rows) + (f"\n{claim.note}\n" if claim.note else "")


def numbers(claims: Sequence[Claim]) -> dict[str, float]:
    """Name what claims state: "C9: <quantity of a check>", and the same with ": bound"."""
    named = {"claims": float(len(claims)), "claims that hold": float(sum(c.holds for c in claims))}
    for claim in claims:
        for check in claim.checks:
            name = f"{claim.id}: {check.quantity}"
            named |= {name: check.value, f"{name}: bound": check.bound}
    return named


def verdict(claim: Claim) -> str:
    """Write the verdict on a claim."""
    return f"**{claim.verdict if claim.holds else claim.verdict.upper()}**"


def told(claim: Claim) -> str:
    """Write a claim, where it stands, the verdict on it, and what was smaller than the paper's."""
    source = f" ({claim.source}.)" if claim.source else ""
    reduced = f" ({claim.reduced})" if claim.reduced else ""
    return f"{claim.statement}{source} This {verdict(claim)}{reduced}."


def markdown(claims: Sequence[Claim], tables: Mapping[str, str]) -> str:
    """Write the ledger as a Markdown document: claims with verdicts and numbers, then the tables.

    The tables are those of `Saved`.
    """
    parts = [f"## {claim.id}\n\n{told(claim)}\n\n{measured(claim)}" for claim in claims]
    of = {c.id: {name for check in c.checks for name in check.tables} for c in claims}
    rows = [
        (f"`{name}`", ", ".join(id for id, names in of.items() if name in names), f"`{made}`")
        for name, made in tables.items()
    ]
    if rows:
        parts.append(f"## The tables\n\n{formats.table(('table', 'claims', 'sha256'), rows)}")
    return "\n".join(parts)


def _shown(x: float) -> str:
    return formats.number(x, whole=True)


def _bound(check: Check) -> str:
    return f"{_RELATIONS[check.relation][0]} {_shown(check.bound)}"


def text(claims: Sequence[Claim]) -> str:
    """Write the ledger for a terminal, one line for each check."""
    lines = []
    for claim in claims:
        lines.append(f"{claim.id}  {verdict(claim).strip('*'):<22}{claim.statement}")
        lines.extend([f"    ({claim.reduced})"] if claim.reduced else [])
        lines.extend(
            f"    {'ok ' if c.holds else 'NO '} {c.quantity:<66} {_shown(c.value):>10} {_bound(c)}"
            for c in claim.checks
        )
    return "\n".join(lines)


def save(claims: Sequence[Claim], folder: Path) -> None:
    """Write `ledger.md` for people and `ledger.json` for programs, with the folder's tables.

    Raises:
        ValueError: a check is of a table that is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = {path.name: sha256(path) for path in sorted(folder.glob("*.nc"))}
    for name in (name for claim in claims for check in claim.checks for name in check.tables):
        if name not in made:
            checks.fail("folder", f"{folder}, without {name}", "the tables that claims are of")
    (folder / "ledger.md").write_text(markdown(claims, made), encoding="utf-8")
    (folder / "ledger.json").write_text(document(claims, made), encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def document(claims: Sequence[Claim], tables: Mapping[str, str]) -> str:
    """Write claims as JSON, and the `sha256` of each of the folder's tables, by file name."""
    plain = [
        asdict(claim)
        | {"checks": [asdict(c) | {"holds": c.holds} for c in claim.checks]}
        | {"verdict": claim.verdict, "holds": claim.holds}
        for claim in claims
    ]
    whole = {"claims": plain, "tables": dict(tables)}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


class Saved(NamedTuple):
    """This is what `ledger.json` holds: claims, and the `sha256` of tables by file name."""

    claims: list[Claim]
    tables: dict[str, str]


def load(folder: Path) -> Saved:
    """Read what `save` wrote for programs.

    Raises:
        ValueError: no ledger there, or not one of ours.
    """
    path = folder / "ledger.json"
    if not path.is_file():
        checks.fail("folder", f"{folder}, without ledger.json", "what `linvae reproduce` wrote")
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        claims = [_claim(claim) for claim in whole["claims"]]
        return Saved(claims, {str(name): str(of) for name, of in whole["tables"].items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"folder: {path} is no ledger of linvae ({type(error).__name__}: {error})"
        ) from error


def _claim(saved: dict[str, Any]) -> Claim:
    """Make a claim of what `document` wrote of it."""
    found = []
    for check in saved["checks"]:
        of = {f.name: check[f.name] for f in fields(Check)}
        of["tables"] = tuple(of["tables"])
        found.append(Check(**of))
    of = {f.name: saved[f.name] for f in fields(Claim)}
    of["checks"] = tuple(found)
    return Claim(**of)
