"""`linvae verify`: what stands in a folder of results is what its tables say, to the digit."""

import hashlib
import re
import shutil
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from test_report import bent, linear_sweep

from landscape.cli import main
from landscape.paper import ledger, quotes, report, verify
from landscape.paper.networks import experiments as network_experiments
from landscape.paper.networks import table as paper_table
from landscape.paper.verify import Differs
from linvae_jax import tables

MNIST = Path(__file__).parent.parent / "benchmarks" / "results" / "mnist"
README = """# Rows 1 to 10 in 3 pages

Row 6 has {elbo}<!-- row 6: ELBO: ours --> nats
at σ² = 10, and {kl}<!-- row 6:
KL: paper --> nats of KL. `17 %` of [it](page17.html) is from Lucas et al. (2019), the 2nd in C9.

<!-- from report.md: The table -->
{table}
<!-- end -->

```sh
linvae verify --pages 5
```
"""


def filled(found: dict[str, xr.Dataset], text: str) -> str:
    """The page above with the numbers in it, rounded by other code."""
    elbo = float(found["table"].final_elbo.sel(sigma2_init=10, learned=True).mean()) - 1000
    lines = text.split("### The table")[1].split("###")[0].split("\n")
    table = "\n".join(line for line in lines if line.startswith("|"))
    return README.format(elbo=f"{elbo:,.1f}".replace("-", "−"), kl="73.8 ± 9.8", table=table)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ledger.Claim]]:
    """A folder of results, on the paper's rows, and its claims; nobody changes them."""
    found = {
        "table": linear_sweep([10.0, 1.0, 0.1]),
        "curves": linear_sweep([100.0, 3.0], seeds=1)[{"learned": [0]}],
        "annealing": linear_sweep([10.0], ["linear", "cycles"])[{"learned": [0]}],
        "curvature": bent(),
    }
    folder = tmp_path_factory.mktemp("results")
    for name, table in found.items():
        of = table.assign_attrs(source="mnist 3.0.1", seconds="90")
        tables.save(of, network_experiments.path(folder, name))
    with pytest.MonkeyPatch.context() as patch:

        def draw(found: object, folder: Path) -> None:
            (folder / "curvature.png").write_bytes(b"")

        patch.setattr(report, "draw", draw)
        claims = report.write(folder)
    text = filled(found, (folder / "report.md").read_text(encoding="utf-8"))
    (folder / "README.md").write_text(text, encoding="utf-8")
    return folder, claims


@pytest.fixture
def folder(made: tuple[Path, list[ledger.Claim]], tmp_path: Path, monkeypatch) -> Path:
    """A copy; its tables are judged once for all tests."""
    monkeypatch.setattr(report, "judge", lambda folder: made[1])
    return Path(shutil.copytree(made[0], tmp_path / "results"))


def edit(path: Path, old: str, new: str) -> int:
    """Replace the first of something in a file; return in which line."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return text[: text.index(old)].count("\n") + 1


def refused(folder: Path, name: str, line: int, *told: str, kind: type = Differs) -> None:
    """It fails there, and says so."""
    with pytest.raises(ValueError, match=rf"{re.escape(name)}, line {line}\b") as error:
        verify.folder(folder)
    assert type(error.value) is kind
    for text in told:
        assert text in str(error.value)


def test_what_was_written_is_verified(made):
    """Judged anew, from the saved tables; all four files and their numbers are counted."""
    folder, claims = made
    checked = verify.folder(folder)
    assert (checked.files, checked.tables) == (4, 4)
    assert checked.numbers > 300
    assert [claim.id for claim in claims] == ["C8", "C9", "C10"]


def test_what_differs_is_named_with_its_place(folder):
    line = edit(folder / "report.md", "28.8 ± 1.4", "28.7 ± 1.4")
    refused(folder, "report.md", line, "(The table)", "28.7 ± 1.4", "28.8 ± 1.4")


def test_a_digit_of_the_ledger_is_seen(folder, made):
    value = made[1][1].checks[0].value
    line = edit(folder / "ledger.json", f'"value": {value},', f'"value": {value + 2e-9},')
    refused(folder, "ledger.json", line, "(C9: rank correlation of collapse", f"{value + 2e-9}")


def test_a_verdict_of_the_ledger_is_seen(folder):
    line = edit(folder / "ledger.json", '"holds": true', '"holds": false')
    refused(folder, "ledger.json", line, "(C8: ")


def test_rounding_of_another_machine_is_no_difference(folder, made):
    value = made[1][1].checks[0].value
    edit(folder / "ledger.json", f'"value": {value},', f'"value": {np.nextafter(value, 2)},')
    verify.folder(folder)


def test_a_changed_table_is_seen_before_all_else(folder):
    path = network_experiments.path(folder, "curves")
    table = tables.load(path)
    tables.save(table.assign(final_kl=table.final_kl + 1e-6), path)
    edit(folder / "report.md", "28.8 ± 1.4", "28.7 ± 1.4")
    with pytest.raises(Differs, match=r"nonlinear_curves\.nc: .*sha256"):
        verify.folder(folder)
    path.unlink()
    with pytest.raises(Differs, match=r"nonlinear_curves\.nc: nothing stands there"):
        verify.folder(folder)


def test_a_table_that_came_later_is_seen_in_the_report(folder):
    shutil.copy(network_experiments.path(folder, "curves"), folder / "later.nc")
    with pytest.raises(Differs, match=r"report\.md, line \d+ \(Where the numbers come from\)"):
        verify.folder(folder)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("<!-- row 6: ELBO: ours", "0<!-- row 6: ELBO: ours", "“row 6: ELBO: ours” is"),
        ("73.8 ±", "73.9 ±", "“row 6: KL: paper” is 73.8 (73.8)"),
        ("± 9.8<", "± 9.9<", "“row 6: KL: paper: spread” is 9.8 (9.8)"),
        ("28.8 ± 1.4", "28.7 ± 1.4", "28.8 ± 1.4"),
        ("| ours |", "| our |", "| our |"),
        ("σ² = 10,", "σ² = 10 for 90 epochs,", "“90” stands there"),
        ("\n\n```sh", "\n\n12 more\n```sh", "number without a source"),
    ],
)
def test_a_page_that_quotes_wrongly_is_refused(folder, old, new, told):
    line = edit(folder / "README.md", old, new) + new.startswith("\n\n") * 2
    refused(folder, "README.md", line, told)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("row 6: ELBO: ours", "row 6: ELBO: our", "The nearest is “row 6: ELBO: ours”"),
        ("report.md: The table", "report.md: The tables", "The nearest is “The table”"),
        ("<!-- end -->", "<!-- END -->", "line 7: got <!-- from report.md: The table -->"),
        ("nats\nat", "nats<!-- row 6: KL: ours -->\nat", "a name after “nats”"),
    ],
)
def test_a_page_that_names_what_is_not_there_is_refused(folder, old, new, told):
    line = edit(folder / "README.md", old, new)
    refused(folder, "README.md", 7 if "END" in new else line, told, kind=ValueError)


loaded = cache(tables.load)


@pytest.mark.slow
@given(st.data())
def test_no_number_of_report_or_ledger_can_be_changed(made, data):
    """Each as it is written there, of any kind, wherever it stands."""
    folder, claims = made
    name = data.draw(st.sampled_from(["report.md", "ledger.md"]))
    path = folder / name
    text = path.read_text(encoding="utf-8")
    digit = data.draw(st.sampled_from(list(re.finditer(r"\d", text))))
    other = data.draw(st.sampled_from([d for d in "0123456789" if d != digit[0]]))
    path.write_text(text[: digit.start()] + other + text[digit.end() :], encoding="utf-8")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(report, "judge", lambda folder: claims)
            patch.setattr(tables, "load", loaded)
            refused(folder, name, text.count("\n", 0, digit.start()) + 1)
    finally:
        path.write_text(text, encoding="utf-8")


def cells(text: str, heading: str) -> list[tuple[list[str], dict[str, str]]]:
    """The lines of a section's table: all cells, and those that are filled by heading."""
    lines = text.split(f"### {heading}\n")[1].split("\n#")[0].splitlines()
    rows = [[cell.strip(" *?") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rows = [row for row in rows if row]
    return [(row, {n: c for n, c in zip(rows[0], row, strict=True) if c}) for row in rows[2:]]


def test_every_number_of_the_reports_tables_has_a_name(made):
    """A page that quotes all of them, as they are shown, is right."""
    folder, _ = made
    text = (folder / "report.md").read_text(encoding="utf-8")
    known, page, row = verify.numbers(folder), [], ""
    for line, of in cells(text, "The table"):
        row = line[0] or row
        quoted = [of.pop(name, "") for name in ("#", "σ²", "start", "verdict")]
        assert any(quoted) == (of[""] == "ours")
        who = of.pop("")
        page += [f"{cell}<!-- row {row}: {name}: {who} -->" for name, cell in of.items()]
    of_latent = [name for name in known if name.startswith("held at 1: ")]
    for line, _ in cells(text, "Could a collapsed latent come back?"):
        start = paper_table.named_start(line[0] == "learned", float(line[1]))
        names = [f"{start}:{name.split(':')[1]}" for name in of_latent]
        page += [f"{c}<!-- {n} -->" for c, n in zip(line[2:7], names, strict=True)]
    for claim in ("C8. Noise controls collapse", "C10. KL annealing"):
        for line, of in cells(text, claim):
            name = f"{claim.split('.')[0]}: {line[0]}"
            if of["value"] != "nan":  # where there is nothing to prevent
                page.append(f"{of['value']}<!-- {name} -->")
            page.append(f"{of['bound']}<!-- {name}: bound -->")
    (share,) = (of["value"] for line, of in cells(text, "C9. What the linear VAE predicts")
                if "share" in line[0])  # fmt: skip
    page.append(rf"| {share}<!-- C9: share collapsed, \|measured − predicted\|, mean over σ² --> |")
    agree = re.search(r"(\d+) of (\d+) rows .* (\d+) of (\d+) cells .*ELBO (\d+) of (\d+)", text)
    assert agree
    names = ("rows that agree", "rows", "cells that agree", "cells",
             "σ²-tuned ELBO: cells that agree", "σ²-tuned ELBO: cells")  # fmt: skip
    page += [f"{n}<!-- {name} -->" for n, name in zip(agree.groups(), names, strict=True)]
    settings = {"1,000": "images", "2": "seeds", "8": "latents", "1": "epochs", "100": "steps",
                "10": "batch size", "0.001": "learning rate", "−1,000.00": "constant",
                "4": "layer 1 of the encoder", "12": "runs"}  # fmt: skip
    page += [f"{n}<!-- table: {name} -->" for n, name in settings.items()]
    page.append("1.5<!-- nonlinear_table.nc: minutes -->")
    spreads = sum("±" in one for one in page)
    assert quotes.page("all", "\n".join(page), known, text) == len(page) + spreads
    # none is left but those of spreads of the paper, counts and minutes of other tables
    said = {" ".join(re.findall("<!-- (.*) -->", one)).replace("\\|", "|") for one in page}
    numbers = {name for name, value in known.items() if not np.isnan(value)}
    left = {name.removesuffix(": spread") for name in numbers} - said
    assert all(
        re.search(r"^claims|^C9|^σ² held at|cells|minutes|diverged|closed form", n) for n in left
    ), left


def test_data_that_the_paper_does_not_have_are_named_by_their_start():
    table = linear_sweep([30.0, 1.0])
    known = paper_table.numbers(table, "")
    for line in paper_table.alone(table).splitlines()[2:]:
        _, mode, start, *values, linear, _ = (cell.strip() for cell in line.split("|"))
        name = f"{'learned from' if mode == 'learned' else 'held at'} {start}"
        assert quotes.page("alone", f"{linear}<!-- {name}: collapsed %, linear VAE -->", known, "")
        assert quotes.page("alone", f"{values[1]}<!-- {name}: ELBO -->", known, "") == 2


@pytest.mark.parametrize(
    ("shown", "value", "right"),
    [
        ("−1,026.4", -1026.444, True),
        ("-1026", -1026.444, True),
        ("1,026.4", -1026.444, False),
        ("−1,026.5", -1026.444, False),
        ("−1,026.44", -1026.444, True),
        ("1.30", 1.3049, True),
        ("1.3", 1.25001, True),
        ("1.31", 1.3049, False),
        ("10,000", 10_000.0, True),
        ("10,00", 1000.0, False),
        ("1.0e-3", 0.00104, True),
        ("1e-03", 0.00104, True),
        ("2e-3", 0.00104, False),
        ("0", -0.2, True),
        ("0", float("nan"), False),
    ],
)
def test_numbers_are_rounded_to_the_digits_that_are_shown(shown, value, right):
    text = f"It is **{shown}<!-- it -->**."
    if right:
        assert quotes.page("page", text, {"it": value}, "") == 1
    else:
        with pytest.raises(Differs, match=r"page, line 1"):
            quotes.page("page", text, {"it": value}, "")


def test_digits_of_a_hash_are_no_numbers():
    digest = hashlib.sha256(b"a table").hexdigest()
    assert quotes.count(f"| 12 | `{digest}` | -1,024.5 |\n{digest}") == 2


@pytest.mark.parametrize(
    "text",
    [
        "in row 5, rows 4 and 5, rows 1, 2\nand 3, and figures 4 to 6 of section 3",
        "at σ² = 0.1 and ε = 0.01, k = 20, on an H100 in float64, by C8 to C10",
        "as they say (Lucas et al. 2019), the 3rd and 100th time",
        "`1.5 of\n2`, ``3 ` 4``, [five](5.html#6), https://x.org/7 <!-- 8\nof 9 -->",
        "## 10\n\n~~~\n11\n~~~\n\n[a]: 12.html",
    ],
)
def test_labels_code_and_links_need_no_source(text):
    assert quotes.page("page", text, {}, "") == 0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("At σ² = 1, 77 % collapse.", "77"),
        ("falls in row 5 to 3 nats", "3"),
        ("σ² = 1 and 2", "2"),
        ("row 5.3", "5.3"),
        ("rows 1 to 2.5", "1"),
        ("in (54 minutes of 2019)", "54"),
        ("| a | 12 |", "12"),
        ("10-20 of them", "10"),
        ("(0.5,0.7)", "0.5"),
        ("`a\n\n5 of `b`", "5"),
        ("5<!-- -->", ""),
        ("60k", "60"),
        ("![Figure of 3](x.png)", "3"),
    ],
)
def test_other_numbers_do(text, number):
    with pytest.raises(ValueError, match=rf"“{re.escape(number)}”"):
        quotes.page("page", text, {}, "")


@pytest.mark.slow
def test_the_command_says_what_it_found(folder, tmp_path, capsys):
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["verify", *map(str, arguments)])
        told = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return stop.value.code, told.out.splitlines()[-1], told.err

    page = tmp_path / "page.md"
    page.write_text("2<!-- table: seeds -->\n", encoding="utf-8")
    code, told, _ = run(folder, "--pages", page)
    assert code == 0
    assert re.fullmatch(r"[\d,]+ numbers in 5 files are what 4 tables say \(\d+\.\d s\)\.", told)
    page.write_text("3<!-- table: seeds -->\n", encoding="utf-8")
    code, _, told = run(folder, "--pages", page)
    assert code == 1
    assert told == (
        f"linvae verify: {page}, line 1: “3” stands there, but “table: seeds” is 2 (2.0)\n"
    )  # fmt: skip
    code, listed, _ = run(folder, "--names")
    assert code == 0
    assert listed.endswith("critical σ² of the linear VAE")
    for arguments, told in (
        ([tmp_path / "none"], "no such folder"),
        ([tmp_path / "none", "--names"], "no such folder"),
        ([tmp_path], "without ledger.json"),
        ([folder, "--pages", tmp_path / "none.md"], "--pages: got"),
    ):
        code, _, error = run(*arguments)
        assert code == 2
        assert told in error


@pytest.mark.slow
def test_saved_results_are_verified():
    """What is committed, its README too; also for a user who has not set float64."""
    assert verify.folder(MNIST).files == 4
    with jax.enable_x64(False):
        assert verify.folder(MNIST).files == 4
