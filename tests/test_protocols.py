"""Protocols are read at the paper's ELBO: on trajectories whose end is known by construction."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import paper_rows, rows
from landscape.figures import networks as network_figures
from landscape.paper import facts, report
from landscape.paper.networks import claims, experiments, protocols
from landscape.paper.networks import table as paper_table
from linvae_jax import tables

CONSTANT = 272.0
K, COUNT = 200, 60_000


def sweep(rate: float, size: int, epochs: int, starts: list[float], **shape: float) -> xr.Dataset:
    """What `summary` keeps, where all that is measured is a straight line over log₂ of the epoch.

    They pass the paper's numbers at the epoch `meet`, with `slope` nats of ELBO for each doubling.
    `off` is added to the KL.
    """
    meet, slope, off = shape.get("meet", 64.0), shape.get("slope", 30.0), shape.get("off", 0.0)
    of_epoch = COUNT // size
    log = np.log2(np.arange(1, epochs + 1) / meet)
    found = {name: np.zeros((2, len(starts), 2, epochs)) for name in ("elbo", "kl", "sigma2", "c")}
    for row in paper_table.ROWS[:10]:
        if row.sigma2_init in starts:
            at = (slice(None), starts.index(row.sigma2_init), int(row.learned))
            found["elbo"][at] = row.elbo.value - CONSTANT + slope * log
            found["kl"][at] = row.kl.value + off - 4 * log
            found["sigma2"][at] = (row.sigma2.value if row.sigma2 else row.sigma2_init) - 0.01 * log
            found["c"][at] = np.clip(K / 100 * (row.percent_collapsed.value + 3 * log), 0, K)
    dims = ("seed", "sigma2_init", "learned", "step")
    seeds = xr.DataArray([1.0, -1.0], dims="seed")  # whose mean counts
    table = tables.dataset(
        {
            "elbo": (dims, found["elbo"], "nats/datum", ""),
            "kl": (dims, found["kl"], "nats/datum", ""),
            "sigma2": (dims, found["sigma2"], "data unit²", ""),
            "num_collapsed": (dims, found["c"], "1", ""),
            "diverged": (dims[:-1], np.zeros((2, len(starts), 2), bool), "1", ""),
        },
        {
            "seed": [0, 1], "sigma2_init": starts, "learned": [False, True],
            "step": of_epoch * np.arange(1, epochs + 1),
        },
        tables.provenance(
            {
                "task": {"model": {"kind": "Mlp", "encoder": [4], "k": K}, "batch_size": size},
                "config": {"num_steps": epochs * of_epoch, "optimizer": "adam"},
                "grid": {"learning_rate": [rate], "seeds": [0, 1]},
            },
            count=COUNT, pixel_constant=CONSTANT, source="mnist 3.0.1", command="a",
        ),
    )  # fmt: skip
    table["kl"] = table.kl + seeds
    return table


def readings(*parts: xr.Dataset) -> dict[str, list[protocols.Reading]]:
    return protocols.read(protocols.joined([protocols.of_sweep(part) for part in parts]))


ALL = [10.0, 1.0, 0.1, 0.01, 0.001]


def test_trajectories_through_the_papers_numbers_have_no_distance():
    (found,) = readings(sweep(1e-3, 128, 100, ALL)).values()
    assert [one.row.number for one in found] == list(range(1, 11))
    for one in found:
        assert one.seen
        assert (one.epochs, one.seeds) == (100, 2)
        # float32 of the table at half a million nats, and medians over a slight bend
        assert one.epoch == pytest.approx(64, rel=2e-2)
        assert ("sigma2" in one.cells) == one.row.learned
        assert one.distance < 0.01


@pytest.mark.parametrize("epochs", [32, 50])
def test_a_run_that_ended_before_is_continued_as_a_line(epochs):
    (found,) = readings(sweep(3e-4, 1000, epochs, [1.0])).values()
    for one in found:
        assert not one.seen
        # medians of a line over log₂ are of another epoch by what it bends: 2 % of a tenth
        assert one.epoch == pytest.approx(64, rel=2e-3)
        assert one.distance < 0.01
    text = protocols.markdown({"0.0003, batches of 1000": found})
    assert text.count("≈ 64 |") == text.count("≈ ") == 2


@given(off=st.floats(-60, 60), meet=st.floats(20, 150))
def test_distance_is_what_cells_are_off_by_over_what_the_rule_allows(off, meet):
    (found,) = readings(sweep(1e-3, 128, 40, [1.0], off=off, meet=meet)).values()
    for one in found:
        allowed = max(0.15 * one.row.kl.value, 2 * (one.row.kl.spread or 0))
        assert one.distances["kl"] == pytest.approx(abs(off) / allowed, abs=0.02)
        others = [x for name, x in one.distances.items() if name != "kl"]
        assert one.distance == pytest.approx((one.distances["kl"] + sum(others)) / len(one.cells))
    # of rows 2 and 7; only row 7 has a final σ², whose line is that of the paper
    near = [bool(one.distances["kl"] <= 1) for one in found]
    agree = {"final σ²": [True], "KL": near, "collapsed %": [True, True]}
    assert protocols.agreement(found) == agree


def test_what_falls_or_is_too_far_is_not_in_sight():
    """Four times the epochs are seen, 38 of them but for the median; five times are not."""
    for one in readings(sweep(1e-3, 128, 40, [1.0], meet=38 * 3.9))["0.001, batches of 128"]:
        assert one.epoch == pytest.approx(38 * 3.9, rel=1e-2)
    for slope, meet in ((-5.0, 0.01), (30.0, 38 * 5.0)):
        (found,) = readings(sweep(1e-3, 128, 40, [1.0], slope=slope, meet=meet)).values()
        for one in found:
            assert one.epoch == float("inf")
            assert one.distance == float("inf")
            assert not one.distances
            # what it shows at its end, two epochs before for the median
            assert one.cells["kl"] == pytest.approx(
                one.row.kl.value - 4 * np.log2(38 / meet), abs=0.01
            )
    assert "no trend yet" in protocols.markdown({"a": found})


def test_what_half_of_a_run_did_not_foretell_is_no_trend():
    """A run that has just left a plateau rises steeply, and who continues that is far off."""
    table = sweep(1e-3, 128, 40, [1.0], meet=640.0)
    bend = np.log2(np.maximum(table.step / (20 * 468), 1))
    table["elbo"] = table.elbo + 60 * bend
    (found,) = readings(table).values()
    for one in found:
        assert not one.seen
        assert one.epoch == float("inf")
        # half of it, the first 18 of 36 medians, knows nothing of the bend
        assert one.miss == pytest.approx(-60 * np.log2(38 / 20), abs=0.5)


def test_what_is_above_from_the_first_record_has_no_reading():
    """Its first record is ten nats above the paper's ELBO: what it showed at that is not known."""
    table = sweep(1e-3, 128, 40, [1.0], meet=1.0)
    table["elbo"] = table.elbo + 10.0
    (found,) = readings(table).values()
    for one in found:
        assert (one.epoch, one.seen, one.distances) == (float("-inf"), False, {})
    assert protocols.markdown({"a": found}).count("| before the first |") == 2


def test_a_cell_whose_trend_fails_stays_as_it_is_at_the_end():
    """Collapse that levels off in the second half, at 60 %: the first foretold far more."""
    table = sweep(1e-3, 128, 40, [1.0], meet=80.0)
    rising = 6.0 * table.step / 468  # three per cent an epoch, of 200 latents
    table["num_collapsed"] = xr.zeros_like(table.elbo) + np.minimum(rising, 120.0)
    (found,) = readings(table).values()
    for one in found:
        assert not one.seen
        assert one.epoch == pytest.approx(80, rel=1e-2)
        assert one.cells["percent_collapsed"] == pytest.approx(60)
        # the others go on
        assert one.cells["kl"] == pytest.approx(one.row.kl.value, abs=0.1)
        off = abs(60 - one.row.percent_collapsed.value)
        assert one.distances["percent_collapsed"] == pytest.approx(off / 15, rel=1e-3)


def test_runs_that_diverged_are_left_out():
    """Of two seeds one; then both, of σ² learned."""
    table = sweep(1e-3, 128, 100, [1.0, 0.1])
    lost = (table.seed == 0) & (table.sigma2_init == 1.0)
    late = table.step > 30 * 468
    for name in ("elbo", "kl", "sigma2", "num_collapsed"):
        table[name] = table[name].where(~(lost & late))
    table["diverged"] = table.diverged | lost
    (found,) = readings(table).values()
    assert [(one.row.number, one.seeds, one.epochs) for one in found] == [
        (2, 1, 100), (3, 2, 100), (7, 1, 100), (8, 2, 100)
    ]  # fmt: skip
    # the seed that is left has a KL that is lower by one
    assert found[0].cells["kl"] == pytest.approx(found[0].row.kl.value - 1, abs=0.05)
    table["diverged"] = table.diverged | table.learned
    (found,) = readings(table).values()
    assert [one.row.number for one in found] == [2, 3]


def test_the_longest_run_of_a_row_stands_for_it():
    """Also one that was joined before, whose other rows have as many epochs, of them NaN."""
    many, longer = sweep(3e-4, 128, 30, [1.0, 0.1]), sweep(3e-4, 128, 50, [1.0]).isel(seed=[0])
    other = sweep(1e-3, 1000, 70, [1.0])
    before = protocols.joined([protocols.of_sweep(part) for part in (other, many)])
    table = protocols.joined([before, protocols.of_sweep(longer.isel(learned=[1]))])
    found = protocols.read(table)["0.0003, batches of 128"]
    assert [(one.row.number, one.seeds, one.epochs) for one in found] == [
        (2, 2, 30), (3, 2, 30), (7, 1, 50), (8, 2, 30)
    ]  # fmt: skip
    xr.testing.assert_equal(protocols.joined([table, before]), table)


def test_a_spike_of_one_epoch_is_no_passing():
    table = sweep(1e-3, 128, 60, [1.0])
    table["elbo"] = table.elbo + xr.where(table.step == 20 * 468, 500.0, 0.0)
    (found,) = readings(table).values()
    assert all(one.epoch > 55 for one in found)


def test_parts_of_a_protocol_come_together_and_the_nearest_is_named(tmp_path):
    near = [sweep(3e-4, 128, 70, [start]) for start in (1.0, 10.0)]
    far = sweep(1e-3, 128, 40, [1.0], off=40.0)
    table = protocols.joined([protocols.of_sweep(part) for part in (*near, far)])
    assert table.protocol.values.tolist() == ["0.001, batches of 128", "0.0003, batches of 128"]
    assert table.sigma2_init.values.tolist() == [10.0, 1.0]
    assert np.isnan(table.elbo.sel(protocol=table.protocol[0], sigma2_init=10.0)).all()
    found = protocols.read(table)
    assert [one.row.number for one in found["0.0003, batches of 128"]] == [1, 2, 6, 7]
    distances = protocols.distances(found)
    # of rows 2 and 7, which both have
    assert distances["0.0003, batches of 128"] < 0.01 < 0.5 < distances["0.001, batches of 128"]
    assert all(abs(one.miss) < 0.1 for of in found.values() for one in of)
    # the saved table says the same, in a report
    tables.save(table.assign_attrs(source="mnist 3.0.1"), experiments.path(tmp_path, "protocols"))
    report.write(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "The nearest is 0.0003, batches of 128." in text
    assert "is the paper's, final σ² 2 of 2, KL 4 of 4, collapsed % 4 of 4 rows agree" in text
    assert "](protocols.png)" in text
    named = protocols.numbers(table, "mnist")
    assert named["0.001, batches of 128: row 7: KL"] == pytest.approx(146.3, abs=0.1)
    assert named["0.0003, batches of 128: mean distance"] < 0.01
    # 40 nats are more than 15 % of either row
    assert named["0.001, batches of 128: KL: rows that agree"] == 0
    assert named["0.001, batches of 128: KL: rows"] == 2


def test_protocols_are_compared_at_the_highest_elbo_that_all_have_passed():
    """The shorter of two runs ends, but for the median, at epoch 14; the longer was there at 28."""
    short, long = sweep(1e-3, 128, 16, [1.0]), sweep(1e-4, 1000, 40, [1.0], meet=128.0, off=20.0)
    table = protocols.joined([protocols.of_sweep(part) for part in (short, long)])
    found = protocols.common(table)
    assert [one.row.number for one in found] == [2, 7]
    names = "0.001, batches of 128", "0.0001, batches of 1000"
    for one in found:
        assert one.elbo == pytest.approx(one.row.elbo.value + 30 * np.log2(14 / 64), abs=1e-3)
        assert [one.epochs[name] for name in names] == pytest.approx([14, 28])
        kl = one.row.kl.value - 4 * np.log2(14 / 64)
        assert [one.kl[name] for name in names] == pytest.approx([kl, kl + 20], abs=1e-3)
    lines = protocols.side_by_side(table, found).splitlines()[2:]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[:3] for row in cells] == [[names[0], "8.8e-05", "14"], [names[1], "3.2e-06", "28"]]
    named = protocols.numbers(table, "mnist")
    assert named["row 7 at one ELBO: 0.001, batches of 128: epoch"] == pytest.approx(14)


def test_protocols_without_an_elbo_that_all_have_passed_are_not_compared():
    """The first record of the quick one is above the last of the slow one."""
    quick, slow = sweep(1e-3, 128, 16, [1.0], meet=2.0), sweep(1e-4, 1000, 16, [1.0], meet=640.0)
    table = protocols.joined([protocols.of_sweep(part) for part in (quick, slow)])
    assert protocols.common(table) == []


def test_more_data_in_a_batch_than_there_are_make_epochs_of_one_step():
    assert facts.steps_per_epoch(60_000, 128) == 468
    assert facts.steps_per_epoch(500, 1000) == 1
    table = sweep(1e-3, 128, 40, [1.0]).assign_attrs(count="100")
    table["step"] = np.arange(1, 41)
    assert protocols.of_sweep(table).epoch.values.tolist() == list(range(1, 41))


def test_figure_draws_any_protocols():
    """More rates and batches than there are looks, and a start of σ² that the paper has not."""
    parts = [sweep(rate, 128, 9, [10.0]) for rate in (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)]
    parts += [sweep(1e-3, size, 9, [10.0]) for size in (16, 32, 64, 256)]
    parts[0] = xr.concat(
        [parts[0], parts[0].assign_coords(sigma2_init=[30.0])], "sigma2_init",
        data_vars="minimal", coords="minimal", compat="equals", join="exact",
    )  # fmt: skip
    table = facts.on_pixel_scale(protocols.joined([protocols.of_sweep(part) for part in parts]))
    paper = paper_table.printed("mnist")
    figure = network_figures.protocols(table, paper, "0.01, batches of 128")
    assert "σ² held at 10" in {axis.get_title() for axis in figure.axes}


def test_figure_marks_the_papers_numbers():
    table = protocols.joined(
        [
            protocols.of_sweep(sweep(3e-4, 128, 70, ALL)),
            protocols.of_sweep(sweep(1e-4, 1000, 9, [1.0])),
        ]
    )
    paper = paper_table.printed("mnist")
    figure = network_figures.protocols(facts.on_pixel_scale(table), paper, "0.0003, batches of 128")
    stars = [
        line.get_xydata()[0].tolist()
        for axis in figure.axes
        for line in axis.lines
        if line.get_marker() == "*"
    ]
    rows = [paper_table.ROWS[i] for i in (1, 6, 9, 8, 7, 6, 5)]
    kl = [[row.elbo.value, row.kl.value] for row in rows]
    percent = [[row.elbo.value, row.percent_collapsed.value] for row in rows]
    assert sorted(stars) == sorted(kl + percent)


def test_printed_numbers_are_the_rows():
    for data, first in (("mnist", 0), ("celeba", 10)):
        table = paper_table.printed(data)
        for row in paper_table.ROWS[first : first + 10]:
            at = table.sel(sigma2_init=row.sigma2_init, learned=row.learned)
            assert float(at.elbo) == row.elbo.value
            assert float(at.kl_spread) == row.kl.spread


@pytest.fixture
def tiny(monkeypatch) -> np.ndarray:
    """`benchmarks.rows` at tiny sizes: 400 images of 12 pixels."""
    rng = np.random.default_rng(0)
    images = np.repeat(rng.integers(0, 256, (400, 3), np.uint8), 4, axis=1)
    monkeypatch.setattr(paper_rows.mnist, "read_idx", lambda path: images)
    small = replace(rows.MNIST, k=3, widths=(8,), warmup=2)
    monkeypatch.setattr(rows, "MNIST", small)
    return images


@pytest.mark.slow
def test_rows_go_on_where_they_were_ended_to_the_bit(tiny, tmp_path, monkeypatch):
    """Epochs in two goes give the weights and records that one go gives."""
    (tmp_path / paper_rows.FILE).touch()
    said = ["rows.py", "--manual-dir", str(tmp_path), "--out", "a", "--epochs", "4"]
    monkeypatch.setattr(rows.sys, "argv", said)
    common = {"manual_dir": tmp_path, "sigma2": (1.0,), "rates": (1e-2,), "batches": (16,)}
    (whole,) = rows.train(rows.Run(out=tmp_path / "a", epochs=4, **common))
    rows.train(rows.Run(out=tmp_path / "b", epochs=3, **common))
    # nothing to do: what is there stays
    before = (tmp_path / "b" / whole.name).read_bytes()
    assert rows.train(rows.Run(out=tmp_path / "b", epochs=2, **common)) == []
    assert (tmp_path / "b" / whole.name).read_bytes() == before
    # a state whose table was lost is measured
    (tmp_path / "b" / whole.name).unlink()
    (again,) = rows.train(rows.Run(out=tmp_path / "b", epochs=3, **common))
    assert tables.load(again).sizes["step"] == 3
    (parts,) = rows.train(rows.Run(out=tmp_path / "b", epochs=4, **common))
    one, two = tables.load(whole), tables.load(parts)
    for name in ("elbo", "kl", "sigma2", "final_elbo", "final_kl"):
        np.testing.assert_array_equal(one[name], two[name])
    assert dict(one.sizes)["step"] == 4
    command = "python -m benchmarks.rows --manual-dir DIR --out OUT --epochs 4"
    assert one.attrs["command"] == command
    (written,) = rows.join(tmp_path / "a", tmp_path / "c")
    joined = tables.load(written)
    np.testing.assert_array_equal(
        joined.elbo.squeeze("protocol").values, one.elbo.squeeze("seed").values
    )


@pytest.mark.slow
def test_rows_are_joined_with_annealing_of_their_length(tiny, tmp_path):
    """What is trained in parts is the paper's table, with curves and annealing beside it.

    Then C8 to C10 are judged. Annealing of another length is left out, that which was ended too
    soon as well. A longer run of learned rows stands for them in the protocols alone, and a seed
    that one row alone has is left out.
    """
    (tmp_path / paper_rows.FILE).touch()
    out, folder = tmp_path / "a", tmp_path / "b"
    common = {"manual_dir": tmp_path, "out": out, "epochs": 4}
    rows.train(rows.Run(**common))
    rows.train(rows.Run(**common | {"epochs": 2}, sigma2=(10.0, 1.0), runs="annealing"))
    (cut,) = rows.train(rows.Run(**common | {"epochs": 5}, sigma2=(10.0,), runs="annealing"))
    table = tables.load(cut)  # told to take five, ended after four
    config = json.loads(table.attrs["config"])
    config["config"]["num_steps"] = 12
    tables.save(table.isel(step=slice(4)).assign_attrs(config=json.dumps(config)), cut)
    assert [path.name for path in rows.join(out, folder)] == [
        "nonlinear_protocols.nc", "nonlinear_table.nc"
    ]  # fmt: skip
    rows.train(rows.Run(**common, sigma2=(10.0, 1.0), runs="annealing"))
    rows.train(rows.Run(**common | {"epochs": 6}, sigma2=(0.01, 0.001), runs="learned", seed=1))
    rows.train(rows.Run(**common, sigma2=(3.0, 0.3), runs="held"))
    rows.train(rows.Run(**common, sigma2=(1.0,), seed=7))
    rows.join(out, folder)
    found = experiments.load(folder)
    assert found["table"].seed.values.tolist() == [0]
    assert found["curves"].sigma2_init.values.tolist() == [3.0, 0.3]
    assert found["table"].sigma2_init.values.tolist() == list(rows.MNIST.sigma2)
    assert found["table"].sizes["step"] == found["annealing"].sizes["step"] == 4
    grid = json.loads(found["table"].attrs["config"])["grid"]
    assert grid["sigma2"] == list(rows.MNIST.sigma2)
    assert grid["learned"] == [False, True]
    assert found["annealing"].sigma2_init.values.tolist() == [10.0, 1.0]
    # an epoch is three batches of 128 of 400
    ways = "linear over 6 steps, ramp 1", "4 cycles over 6 steps, ramp 0.5"
    assert found["annealing"].annealing.values.tolist() == list(ways)
    assert [claim.id for claim in claims.judge(found)] == ["C8", "C9", "C10"]
    longest = found["protocols"].elbo.squeeze("protocol").count("epoch")
    assert longest.sel(learned=True).values.tolist() == [4, 4, 4, 6, 6]
    assert longest.sel(learned=False).values.tolist() == [4, 4, 4, 4, 4]
    # tables that it made are as good as those they were made of, alone or beside them
    shutil.copy(folder / "nonlinear_table.nc", out)
    of_another_device = tables.load(out / "rows_0.1_rate0.0003_batch128_seed0.nc")
    of_another_device["eigenvalue"] = of_another_device.eigenvalue * (1 + 1e-6)
    tables.save(of_another_device, out / "rows_0.1_rate0.0003_batch128_seed0.nc")
    rows.join(out, tmp_path / "d")
    # to the rounding that was just added
    xr.testing.assert_allclose(experiments.load(tmp_path / "d")["table"], found["table"])
    again = [tables.load(path) for path in rows.join(folder, tmp_path / "c")]
    for table, name in zip(again, ("protocols", "table", "curves", "annealing"), strict=True):
        xr.testing.assert_equal(table, found[name])
        assert table.attrs["command"] == found[name].attrs["command"]


@pytest.mark.slow
def test_rows_do_not_go_on_with_what_other_runs_left(tiny, tmp_path):
    (tmp_path / paper_rows.FILE).touch()
    common = {"manual_dir": tmp_path, "out": tmp_path, "sigma2": (1.0,), "epochs": 1}
    (path,) = rows.train(rows.Run(**common))
    path.with_suffix(".npz").rename(tmp_path / path.name.replace("rows_1_", "rows_10_")
                                    .replace(".nc", ".npz"))  # fmt: skip
    with pytest.raises(ValueError, match=r"path: got .*rows_10_.*sigma2': \[1.0\].* expected"):
        rows.train(rows.Run(**common | {"sigma2": (10.0,)}))


def test_rows_need_images_and_tables(tmp_path):
    with pytest.raises(ValueError, match=r"manual_dir: .* expected a folder with train-images"):
        rows.train(rows.Run(out=tmp_path))
    with pytest.raises(ValueError, match="without tables"):
        rows.join(tmp_path, tmp_path)
