"""The benchmarks run, at tiny sizes, and what they leave is a record that can be believed."""

import json
import time
from importlib.util import find_spec

import jax
import numpy as np
import pytest

from benchmarks import figure, memory, peers, problems, records, run, timing
from linvae_jax import tables

# PyTorch, where it is installed, uses what it has deprecated itself
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")


@pytest.fixture(scope="module")
def record():
    """Everything once, at the sizes of `--smoke`."""
    return run.measure(run.NAMES, "smoke", quiet=True)


@pytest.mark.slow
def test_smoke_run_measures_everything(record):
    assert tuple(record["benchmarks"]) == run.NAMES
    assert record["float"] == "float64"
    assert record["platform"] == jax.devices()[0].platform
    assert record["cores"] >= 1
    for entry in record["benchmarks"].values():
        assert set(entry["versions"]) == {"python", *records.PACKAGES}
        assert entry["measurements"]
        for m in entry["measurements"]:
            assert np.isfinite([m["value"], m["low"], m["high"], m["others"]]).all(), m
            assert m["low"] <= m["value"] <= m["high"], m
            assert m["unit"] in {"ms", "s", "GB", "samples/s", "×", "1"}, m
            assert m["met"] in (True, None), m  # the only bars at this size are on accuracy


@pytest.mark.slow
def test_each_time_comes_with_the_accuracy_reached(record):
    found = record["benchmarks"]
    errors = [m for m in found["dense"]["measurements"] if m["bar"] == 1e-11]
    assert len(errors) == 2
    for name, word in (
        ("lanczos", "right to 1e-8"),
        ("gradient", "difference"),
        ("sweep", "ELBOs"),
    ):
        times = [m for m in found[name]["measurements"] if m["unit"] != "×"]
        assert any(word in m["note"] for m in times), name


@pytest.mark.slow
def test_peers_train_the_same_network_or_are_said_to_be_missing(record):
    for name in ("networks", "conv"):
        measured = record["benchmarks"][name]["measurements"]
        torch = "PyTorch" if find_spec("torch") else "no PyTorch"
        assert any(torch in m["what"] + m["note"] for m in measured), name
        # same weights, batch and noise: the rounding of float32, and some room
        assert all(m["value"] < 1e-5 for m in measured if "same weights" in m["what"])
        for m in measured:
            if "over ours" in m["what"]:
                assert "difference" in m["note"], m
    dense = record["benchmarks"]["networks"]["measurements"]
    assert any("Flax NNX's" in m["what"] for m in dense)


def test_lanczos_from_one_vector_misses_copies_that_the_blocks_have():
    p = problems.point(12, 6, 0)
    exact = np.sort(np.asarray(problems.all_eigenvalues(p)))[:5]
    np.testing.assert_allclose(exact, exact[0], rtol=1e-12)  # six copies of the largest |μ|
    found = peers.matfree_largest(problems.objective(p), 5, 20)()
    assert np.isclose(found.values[0], exact[0])
    assert not np.allclose(found.values, exact)


@pytest.mark.slow
def test_records_merge_by_benchmark_and_fill_the_readme(record, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{records.BEGIN}\nold\n{records.END}\nafter\n", encoding="utf-8")
    only = record | {"benchmarks": {"size": record["benchmarks"]["size"]}}
    path = records.save(record, tmp_path / "records")
    assert records.save(only, tmp_path / "records") == path
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert saved == json.loads(json.dumps(record))

    for _ in range(2):  # a second time changes nothing
        records.write_tables(readme, tmp_path / "records")
        text = readme.read_text(encoding="utf-8")
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert "old" not in text
        assert text.count(f"### {record['device']}") == 1
        assert text.count("\n| --- ") == len(run.NAMES)
        rows = [line for line in text.splitlines() if line.startswith("| ")]
        assert {line.replace(r"\|", "").count("|") for line in rows} == {6}
    with pytest.raises(ValueError, match="once each"):
        records.write_tables(path, tmp_path / "records")


@pytest.mark.slow
def test_figure_and_its_data(record, tmp_path):
    assert figure.save(record, tmp_path).stat().st_size > 10_000
    table = tables.load(tmp_path / "spectrum_time.nc")
    assert set(table.method.values.tolist()) == set(figure.exponents(record))
    assert table.time.attrs["units"] == "s"
    assert bool((table.time > 0).all())


@pytest.mark.slow
def test_smoke_run_leaves_the_records_alone(record, monkeypatch, capsys):
    def refuse(*args):
        raise AssertionError("a smoke run writes nothing")

    monkeypatch.setattr(run, "measure", lambda names, scale, keep: record)
    monkeypatch.setattr(records, "save", refuse)
    monkeypatch.setattr(records, "write_tables", refuse)
    monkeypatch.setattr(figure, "save", refuse)
    assert run.main(run.Run(smoke=True)) == 0
    assert record["device"] in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppca", "start"])
def test_a_run_without_curves_leaves_the_figure_of_those_there_are(record, monkeypatch, name):
    drawn = []
    of = record | {"benchmarks": {name: record["benchmarks"][name]}}
    monkeypatch.setattr(run, "measure", lambda names, scale, keep: of)
    monkeypatch.setattr(records, "save", lambda record: "record")
    monkeypatch.setattr(records, "write_tables", lambda path: None)
    monkeypatch.setattr(records, "load", lambda: [record])
    monkeypatch.setattr(figure, "save", lambda record, folder: drawn.append(record))
    run.main(run.Run(only=(name,)))
    assert drawn == []
    monkeypatch.setattr(run, "measure", lambda names, scale, keep: record)
    run.main(run.Run())
    assert drawn == [record]


@pytest.mark.slow
def test_a_bar_that_is_not_met_makes_the_command_fail(record, monkeypatch, capsys):
    slow = records.plain("a slow thing", 3.0, "s", bar=2.0).as_dict()
    failed = record | {"benchmarks": {"size": {"measurements": [slow]}}}
    monkeypatch.setattr(run, "measure", lambda names, scale, keep: failed)
    assert run.main(run.Run(smoke=True, only=("size",))) == 1
    assert "bar not met: a slow thing" in capsys.readouterr().out
    assert records.cells(slow)[3] == "≤ 2 s: **not met**"


def test_a_bar_can_be_a_lower_one_and_old_records_have_none():
    good = records.plain("a ratio", 1.3, "×", at_least=1.2).as_dict()
    assert good["met"] is True
    assert records.cells(good)[3] == "≥ 1.2 ×: met"
    assert records.plain("a ratio", 1.1, "×", at_least=1.2).met is False
    assert records.plain("a ratio", np.nan, "×", at_least=1.2).met is False
    old = records.plain("a time", 1.0, "s", bar=2.0).as_dict()
    del old["at_least"]
    assert records.cells(old)[3] == "≤ 2 s: met"


def test_functions_take_turns_and_slow_ones_are_called_once():
    calls = []

    def call(name, seconds):
        calls.append(name)
        time.sleep(seconds)
        return name

    samples, results = timing.interleaved(
        {"fast": lambda: call("fast", 0.011), "slow": lambda: call("slow", 0.03)},
        2,
        compiled=("slow",),
    )
    # warm-up, one to see how fast it is, then two calls a turn fill 20 ms
    assert calls == ["fast", "fast", *["fast", "fast", "slow"] * 2]
    assert results == {"fast": "fast", "slow": "slow"}
    assert (samples["slow"].seconds > samples["fast"].seconds).all()
    assert all(0 <= sample.others <= 1 for sample in samples.values())


def test_busy_neighbours_and_rounds_that_disagree_are_flagged():
    calm = timing.Sample(np.array([1.0, 1.01, 1.02]), 0.02)
    assert not records.duration("t", calm, "s").busy
    crowded = records.duration("t", timing.Sample(calm.seconds, 0.4), "ms")
    assert crowded.busy
    assert records.cells(crowded.as_dict())[-1] == "busy: others used 40%"
    torn = records.duration("t", timing.Sample(np.array([1.0, 2.0, 3.0]), 0.0), "s")
    assert records.cells(torn.as_dict())[-1] == "rounds disagree"


def test_clock_counts_our_own_work_as_ours():
    passed = timing.Clock(wall=1.0, machine=1.5, own=1.5)
    assert passed.others == 0
    assert timing.Clock(wall=1.0, machine=0.0, own=1.0).others == 0  # a system that keeps quiet


@pytest.mark.slow
def test_memory_of_a_child_is_its_own():
    """What this process holds, here 400 MB, is no part of it."""
    ballast = np.ones(50_000_000)
    peak = memory.of("benchmarks.problems:spectrum_of", 6, 2)
    assert ballast.nbytes == 400_000_000
    assert 0 < peak.host < 200e6
    assert peak.before < 400e6


def test_memory_reports_why_a_child_failed():
    with pytest.raises(RuntimeError, match="no_such_module"):
        memory.of("benchmarks.no_such_module:f")
