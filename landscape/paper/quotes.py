"""Pages quote the report, and say what they quote, so that it can be compared.

A page is Markdown, beside the report or elsewhere. It may hold:

- A number with its name: `−1,026.4<!-- row 6: ELBO: ours -->`. It must be the number of that name,
  rounded to the digits that are shown. `A ± B<!-- NAME -->` is also the number "NAME: spread". The
  comment comes directly after the number, and may go on in the next line.
- Tables: between the lines `<!-- from report.md: HEADING -->` and `<!-- end -->` stands what stands
  in tables below that heading of the report.

Any other number in prose or in a table is one without a source. Not looked at are code, comments,
where links lead, headings, numbers in a word (H100, C9), and `LABELS`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from itertools import zip_longest
from typing import NoReturn

from linvae_jax._internal import checks

# a sign, thousands, decimals, a power of ten; no digits of a word, of which σ² is one
_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:e[-−+]?[0-9]+)?"
_NUMBER = rf"(?<!\w)[-−]?{_UNSIGNED}"
_QUOTE = re.compile(rf"({_NUMBER})(?:\s±\s({_UNSIGNED}))?<!--((?:(?!-->).)*)-->", re.DOTALL)
_INCLUDED = re.compile(r"^<!-- from report\.md: (.*) -->\n(.*?)^<!-- end -->$", re.M | re.DOTALL)
_HASH = re.compile(r"\b[0-9a-f]{64}\b")  # SHA-256, which says what a table is
_CODE = (
    re.compile(r"^(```|~~~).*?^\1", re.M | re.DOTALL),
    re.compile(r"(?<!`)(`+)(?!`)(?:(?!\n\n).)+?(?<!`)\1(?!`)", re.DOTALL),  # of one paragraph
)
_UNREAD = (
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"\]\([^)\s]*|^\[[^]]+\]: \S+|https?://\S+", re.M),
    re.compile(r"^#{1,6} .*", re.M),
)
# numbers that say which one, not how much; few and narrow, for a result that looks like one of them
# is not checked
LABELS = tuple(
    re.compile(pattern)
    for pattern in (
        # rows of the paper's table, and what documents count: only a plural has several
        r"\b(?:[Rr]ow|[Ff]igure|[Ss]ection)\s[0-9]+\b(?![.,]?[0-9])",
        r"\b(?:[Rr]ow|[Ff]igure|[Ss]ection)s\s[0-9]+(?:,\s[0-9]+)*,?\s(?:and|or|to)\s[0-9]+\b"
        r"(?![.,]?[0-9])",
        # where something is looked at; one number, because "at σ² = 1, 77 % collapse"
        rf"(?:σ²|ε|δ|\bk)\s=\s{_NUMBER}",
        # the year of a paper: (Lucas et al. 2019)
        r"\([^()0-9]*(?:19|20)[0-9]{2}\)",
        # ordinals
        r"\b[0-9]*(?:1st|2nd|3rd|[0-9]th)\b",
    )
)  # fmt: skip


class Differs(ValueError):
    """Something stands in a file that the tables do not say; the text says what and where."""

    def __init__(self, place: str, stands: str, told: str) -> None:
        """Say it in one line."""
        super().__init__(f"{place}: {_short(stands)} stands there, but {told}")


def _short(text: str) -> str:
    text = text.strip()
    return f"“{text if len(text) <= 200 else text[:200] + ' …'}”" if text else "nothing"


def count(text: str) -> int:
    """Count the numbers in a text; the digits of a hash are none."""
    return len(re.findall(_NUMBER, _HASH.sub("", text)))


def same(
    name: str,
    stands: str,
    told: str,
    *,
    first: int = 1,
    alike: Callable[[str, str], bool] = str.__eq__,
) -> int:
    """Compare a text of a file, from line `first` on, with what it should be; count its numbers.

    Raises:
        Differs: at the first line that is not `alike`, with its number and what it is about.
    """
    lines, ours = stands.split("\n"), told.split("\n")
    for i, (line, our) in enumerate(zip_longest(lines, ours)):
        if line is None or our is None or not alike(line, our):
            about = _about(ours[: i + 1])
            place = f"{name}, line {first + i}{about}"
            raise Differs(place, line or "", f"the tables say {_short(our or '')}")
    return count(stands)


def _about(lines: Sequence[str]) -> str:
    """Say which section, or which claim and check of a ledger, the last of these lines is in."""
    above = "\n".join(lines)
    claim = re.split(r'^ *"id": ', above, flags=re.M)[-1]
    found = [
        *re.findall(r"^#+ (.*)", above, re.M)[-1:],
        *re.findall(r'^"(C\d+)"', claim),
        *re.findall(r'^ *"quantity": "(.*)"', claim, re.M)[-1:],
    ]
    return f" ({': '.join(found)})" if found else ""


def page(name: str, text: str, numbers: Mapping[str, float], report: str) -> int:
    """Compare all that a page quotes with numbers by name and with a report; count what it quotes.

    Raises:
        Differs: a number, or a line of a table, is another one; a number has no source.
        ValueError: a name or a heading that there is not, or a table without an end.
    """
    read = _without(text, *_CODE)
    checked = 0
    for found in _INCLUDED.finditer(read):
        stands = text[slice(*found.span(2))]
        told = _tables(f"{name}, line {_line(text, found.start())}", found[1], report)
        first = _line(text, found.start(2)) + len(stands) - len(stands.lstrip("\n"))
        checked += same(name, stands.strip("\n"), told, first=first)
    read = _without(read, _INCLUDED)
    if opened := re.search(r"<!-- from report\.md.*", read):
        checks.fail(
            f"{name}, line {_line(text, opened.start())}", opened[0],
            "`<!-- from report.md: HEADING -->`, tables, and `<!-- end -->`, each on a line",
        )  # fmt: skip
    for found in _QUOTE.finditer(read):
        place = f"{name}, line {_line(text, found.start())}"
        named = " ".join(found[3].replace("\\|", "|").split())  # of a table: a bar would end a cell
        _compare(place, found[1], named, numbers)
        if found[2]:
            _compare(place, found[2], f"{named}: spread", numbers)
        checked += 1 + bool(found[2])
    read = _without(read, _QUOTE)
    if found := re.search(r"\S<!--", read):
        checks.fail(
            f"{name}, line {_line(text, found.start())}",
            f"a name after “{read[: found.start() + 1].split()[-1]}”",
            "a name directly after a number",
        )  # fmt: skip
    read = _without(read, *_UNREAD, *LABELS)
    if found := re.search(_NUMBER, read):
        place = f"{name}, line {_line(text, found.start())}"
        raise Differs(place, found[0], "it is a number without a source")
    return checked


def _without(text: str, *patterns: re.Pattern[str]) -> str:
    """Put spaces where a pattern matches, so that all else keeps its place."""
    for pattern in patterns:
        text = pattern.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    return text


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def _tables(place: str, heading: str, report: str) -> str:
    """Return the lines of tables below a heading of the report; between two tables one is empty."""
    headings = re.findall(r"^#+ (.*)", report, re.M)
    if heading not in headings:
        _unknown(place, "heading", heading, headings, "a heading of the report")
    section = re.split(rf"^#+ {re.escape(heading)}\n", report, flags=re.M)[1]
    section = re.split(r"^#+ ", section, flags=re.M)[0]
    return "\n\n".join(re.findall(r"^\|.*(?:\n\|.*)*", section, re.M))


def _compare(place: str, stands: str, name: str, numbers: Mapping[str, float]) -> None:
    """Compare one number; what is shown is rounded."""
    if name not in numbers:
        _unknown(place, "name", name, numbers, "a number of the report or the ledger")
    plain = stands.replace("−", "-").replace(",", "")
    mantissa, _, power = plain.partition("e")
    rounded = f".{len(mantissa.partition('.')[2])}{'e' if power else 'f'}"
    value = numbers[name]
    # as numbers, because one is "1e-3", the other "1e-03", and "-0" is zero
    if Decimal(plain) != Decimal(f"{value:{rounded}}"):
        raise Differs(place, stands, f"“{name}” is {value:,.{rounded[1:]}} ({value!r})")


def _unknown(place: str, kind: str, name: str, known: Mapping[str, float] | Sequence[str],
             expected: str) -> NoReturn:  # fmt: skip
    """Fail with what is nearest among those that there are."""
    near = get_close_matches(name, known, n=1, cutoff=0.0)
    hint = f"The nearest is “{near[0]}”." if near else ""
    checks.fail(place, f"the {kind} “{name}”", expected, hint)
