"""How numbers, tables and the page of a report are written: Markdown, and HTML made from it."""

import base64
import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from markdown_it import MarkdownIt

from landscape.figures import style

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 82rem; margin: 1.5rem auto;
       padding: 0 1rem; color: #222; background: #fff }
h1 { font-size: 1.5rem; margin: 0 }
h2 { border-bottom: 1px solid #ddd }
p, li { max-width: 54rem }
header, section { display: flex; flex-wrap: wrap; column-gap: 2rem; align-items: flex-start }
header > *, section > * { flex: 1 1 100% }
header > *, section > p { margin: 0.3rem 0 }
header > figure, section > figure { flex: 0 1 auto }
header > div, section > div { flex: 1 1 32rem; max-width: max-content; overflow-x: auto }
table { border-collapse: collapse; font-size: 0.8rem; line-height: 1.35; margin: 1rem 0 }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.6rem; vertical-align: top;
         text-align: left }
th[style], td[style], td strong { white-space: nowrap; font-variant-numeric: tabular-nums }
figure { margin: 1rem 0; min-width: 0 }
figcaption { font-size: 0.85rem; color: #555; width: 0; min-width: 100% }
img { max-width: 100%; display: block; margin: 0 0 0.2rem }
code { font-size: 0.85em; overflow-wrap: anywhere }
.number { white-space: nowrap }
"""

# a number stays on one line with its sign of comparison, its spread and its unit
_UNBROKEN = re.compile(
    r"(?<=[=≤≥±<>]) (?=[−\d-])|(?<=[²εk]) (?=[=≤≥] ?[−\d-])"
    r"|(?<=\d) (?=[%±×?]|nats|epochs|images|latents|cells|rows|runs|claims|seeds?\b|steps|of \d)"
)

_POWER = re.compile(r"[−\d.]+e-\d+")  # where browsers break the line after the hyphen
_DENSITY = style.DPI / 96  # dots of a figure for a dot of the page: as large as on paper


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

    What stands before its first heading of the second level is the first screen. There, and below
    each heading, tables stand beside figures if the window is wide enough.
    """
    body = MarkdownIt("commonmark").enable("table").render(text)
    body = re.sub(
        r'<p><img src="([^"]+)" alt="[^"]*" /></p>\s*<p><em>(.*?)</em></p>',
        lambda m: (
            f'<figure><img srcset="{_inline(folder / html.unescape(m[1]))} {_DENSITY:.2f}x" alt="">'
            f"<figcaption>{m[2]}</figcaption></figure>"
        ),
        body,
    )
    body = re.sub(
        r"<(h[23])>(.*?)</\1>",
        lambda m: f'<{m[1]} id="{anchor(html.unescape(m[2]))}">{m[2]}</{m[1]}>',
        body,
    )
    body = body.replace("<table>", "<div><table>").replace("</table>", "</table></div>")
    first, *rest = re.split(r"(?=<h[23] )", body)
    sections = "".join(f"<section>{part}</section>\n" for part in rest)
    # tags and code as they are: between them is what is read
    pieces = re.split(r"(<code>.*?</code>|<[^>]*>)", f"<header>{first}</header>\n{sections}")
    pieces[::2] = [
        _POWER.sub(r'<span class="number">\g<0></span>', _UNBROKEN.sub("\u00a0", piece))
        for piece in pieces[::2]
    ]
    title = html.escape(text.splitlines()[0].lstrip("# "))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}'
        f"</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{''.join(pieces)}</body>\n</html>\n"
    )


def _inline(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
