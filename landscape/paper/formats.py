"""How numbers, tables and the page of a report are written: Markdown, and HTML made from it."""

import base64
import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from markdown_it import MarkdownIt

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 1.5rem auto;
       padding: 0 1rem; color: #222; background: #fff }
h1 { font-size: 1.5rem; margin: 0 0 0.5rem }
h2 { border-bottom: 1px solid #ddd; margin-top: 2.5rem }
header { display: grid; grid-template-columns: 1fr 1fr; column-gap: 2rem; align-items: start }
header > * { grid-column: 1 / -1; margin: 0 0 0.5rem }
header > table { grid-column: 1; display: table }
header > figure { grid-column: 2; margin: 0 }
@media (max-width: 50rem) { header > * { grid-column: 1 / -1 !important } }
table { border-collapse: collapse; font-size: 0.8rem; line-height: 1.35; margin: 1rem 0;
        display: block; overflow-x: auto }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.6rem; vertical-align: top;
         text-align: left }
th[style], td[style], td strong { white-space: nowrap; font-variant-numeric: tabular-nums }
figure { margin: 1.5rem 0 }
figcaption { font-size: 0.85rem; color: #555 }
img { max-width: 100%; display: block; margin: 0 auto 0.2rem }
code { font-size: 0.85em; overflow-wrap: anywhere }
"""

# a number stays on one line with its sign of comparison, its spread and its unit
_UNBROKEN = re.compile(
    r"(?<=[=≤≥±<>]) (?=[−\d-])|(?<=[²εk]) (?=[=≤≥] ?[−\d-])"
    r"|(?<=\d) (?=[%±×?]|nats|epochs|images|latents|cells|rows|runs|claims|seeds?\b|steps|of \d)"
)


def number(x: float, *, whole: bool = False) -> str:
    """Write a number: one decimal from 10 on, three digits below; if `whole`, counts without."""
    if whole and float(x).is_integer() and abs(x) < 1e7:
        return f"{int(x):,}"
    return f"{x:,.1f}" if 10 <= abs(x) < 1e7 else f"{x:.3g}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table; what has a colon after its heading stands right, as numbers do."""
    names = [heading.removesuffix(":") for heading in headings]
    rules = ["---:" if heading.endswith(":") else "---" for heading in headings]
    return "\n".join(map(_row, [names, rules, *rows])) + "\n"


def _row(cells: Iterable[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)  # a bar would end it
    return f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in escaped)}|"


def figure(name: str, caption: str) -> str:
    """Write a figure: a link to the file beside the report, and its caption."""
    return f"![{caption}]({name}.png)\n\n*{caption}*\n"


def anchor(heading: str) -> str:
    """Return the name by which a link reaches a heading, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def page(text: str, folder: Path) -> str:
    """Turn a Markdown report into one self-contained HTML page, with the folder's figures in it.

    What stands before its first heading of the second level is the first screen: there tables and
    figures stand side by side.
    """
    body = MarkdownIt("commonmark").enable("table").render(text)
    body = re.sub(
        r'<p><img src="([^"]+)" alt="[^"]*" /></p>\s*<p><em>(.*?)</em></p>',
        lambda m: (
            f'<figure><img src="{_inline(folder / html.unescape(m[1]))}" alt="">'
            f"<figcaption>{m[2]}</figcaption></figure>"
        ),
        body,
    )
    body = re.sub(
        r"<(h[23])>(.*?)</\1>",
        lambda m: f'<{m[1]} id="{anchor(html.unescape(m[2]))}">{m[2]}</{m[1]}>',
        body,
    )
    first, heading, rest = body.partition("<h2")
    # tags and code as they are: between them is what is read
    pieces = re.split(r"(<code>.*?</code>|<[^>]*>)", f"<header>{first}</header>{heading}{rest}")
    pieces[::2] = [_UNBROKEN.sub("\u00a0", piece) for piece in pieces[::2]]
    title = html.escape(text.splitlines()[0].lstrip("# "))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}'
        f"</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{''.join(pieces)}</body>\n</html>\n"
    )


def _inline(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
