"""A ledger of claims: what was measured, against which bound and why, and whether it holds."""

import hashlib
import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple

from landscape.figures import formats
from linvae_jax._internal import checks

_RELATIONS = {"<=": ("≤", operator.le), ">=": ("≥", operator.ge), "==": ("=", operator.eq)}


@dataclass(frozen=True)
class Check:
    """One measured number, `quantity` with its unit, against one bound, and where that is from."""

    quantity: str
    value: float
    relation: Literal["<=", ">=", "=="]
    bound: float
    why: str

    @property
    def holds(self) -> bool:
        """Whether the number is within its bound; NaN never is."""
        return _RELATIONS[self.relation][1](self.value, self.bound)


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, "C1" to "C10", and the checks that it stands on: all must hold.

    The note is what a reader should know beside the numbers.
    """

    id: str
    statement: str
    checks: tuple[Check, ...]
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether every check holds; a claim without checks does not."""
        return bool(self.checks) and all(check.holds for check in self.checks)


def numbers(claim: Claim) -> str:
    """Write what was measured for a claim as a Markdown table, and its note."""
    headings = ("measured", "value:", "bound:", "why this bound", "holds")
    rows = [
        (c.quantity, _shown(c.value), _bound(c), c.why, "yes" if c.holds else "**no**")
        for c in claim.checks
    ]
    return formats.table(headings, rows) + (f"\n{claim.note}\n" if claim.note else "")


def numbers_of(claims: Sequence[Claim]) -> dict[str, float]:
    """Name what claims state: "C9: <quantity of a check>", and the same with ": bound"."""
    named = {"claims": float(len(claims)), "claims that hold": float(sum(c.holds for c in claims))}
    for claim in claims:
        for check in claim.checks:
            name = f"{claim.id}: {check.quantity}"
            named |= {name: check.value, f"{name}: bound": check.bound}
    return named


def verdict(claim: Claim) -> str:
    """Write whether a claim holds."""
    return "**holds**" if claim.holds else "**DOES NOT HOLD**"


def markdown(claims: Sequence[Claim]) -> str:
    """Write the ledger as a Markdown document: for each claim its verdict and its numbers."""
    return "\n".join(
        f"## {claim.id}\n\n{claim.statement} This {verdict(claim)}.\n\n{numbers(claim)}"
        for claim in claims
    )


def _shown(x: float) -> str:
    return formats.number(x, whole=True)


def _bound(check: Check) -> str:
    return f"{_RELATIONS[check.relation][0]} {_shown(check.bound)}"


def text(claims: Sequence[Claim]) -> str:
    """Write the ledger for a terminal, one line for each check."""
    lines = []
    for claim in claims:
        lines.append(f"{claim.id}  {verdict(claim).strip('*'):<14}{claim.statement}")
        lines.extend(
            f"    {'ok ' if c.holds else 'NO '} {c.quantity:<66} {_shown(c.value):>10} {_bound(c)}"
            for c in claim.checks
        )
    return "\n".join(lines)


def save(claims: Sequence[Claim], folder: Path) -> None:
    """Write `ledger.md` for people, and `ledger.json` for programs: `document`, of these tables."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ledger.md").write_text(markdown(claims), encoding="utf-8")
    made = {path.name: sha256(path) for path in sorted(folder.glob("*.nc"))}
    (folder / "ledger.json").write_text(document(claims, made), encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def document(claims: Sequence[Claim], tables: Mapping[str, str]) -> str:
    """Write claims as JSON, and the `sha256` of each of the folder's tables, by file name."""
    plain = [
        asdict(claim)
        | {"holds": claim.holds, "checks": [asdict(c) | {"holds": c.holds} for c in claim.checks]}
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
    names = [f.name for f in fields(Check)]
    try:
        claims = []
        whole = json.loads(path.read_text(encoding="utf-8"))
        for claim in whole["claims"]:
            found = tuple(Check(*(check[name] for name in names)) for check in claim["checks"])
            claims.append(Claim(claim["id"], claim["statement"], found, claim["note"]))
        return Saved(claims, {str(name): str(of) for name, of in whole["tables"].items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"folder: {path} is no ledger of linvae ({type(error).__name__}: {error})"
        ) from error
