"""One command measures a device: every stage runs, in the time given, and what fails is said."""

import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import bench_right, bench_rows, device, records
from benchmarks.lease import Lease
from benchmarks.records import FOLDER
from landscape.paper.networks import table as paper_table
from linvae_jax import tables

# PyTorch, where it is installed, uses what it has deprecated itself
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """All stages at tiny sizes: exit code, folder, record."""
    out = tmp_path_factory.mktemp("device")
    code = device.main(device.Run(smoke=True, out=out))
    (path,) = out.glob("*.json")
    return code, out, records.read(path)


@pytest.mark.slow
def test_smoke_run_measures_every_stage(smoke):
    code, _, record = smoke
    assert code == 0
    assert tuple(record["benchmarks"]) == device.NAMES
    for name, entry in record["benchmarks"].items():
        assert entry["measurements"], name
        assert not [m for m in entry["measurements"] if not np.isfinite(m["value"])], name
        # without PyTorch, its rows, and nothing else
        assert all("PyTorch" in what for what in entry["left_out"]), name


@pytest.mark.slow
@pytest.mark.device
def test_device_computes_what_the_reference_holds(smoke):
    measured = smoke[2]["benchmarks"]["right"]["measurements"]
    assert all(m["met"] for m in measured), [m["what"] for m in measured if not m["met"]]
    (note,) = [m["note"] for m in measured if "killed and went on" in m["what"]]
    assert note.endswith("; the same bits") or jax.default_backend() != "cpu"
    kept = set(np.load(bench_right.REFERENCE))
    float64 = {m["what"].split(", float64")[0] for m in measured if ", float64" in m["what"]}
    assert kept - float64 == {"ELBO of networks in training"}  # which is float32


def test_the_reference_would_show_lesser_precision():
    """TF32 keeps 10 bits: products of inputs rounded so miss the bar of float32."""
    with np.load(bench_right.REFERENCE) as kept:
        exact = kept["covariance"]
    x = bench_right.data()
    rounded = np.round(x * 2**10 / 2 ** np.floor(np.log2(np.abs(x)))) / 2**10
    rounded = rounded * 2 ** np.floor(np.log2(np.abs(x)))
    centred = rounded - rounded.mean(axis=0)
    assert bench_right.error(centred.T @ centred / len(x), exact) > bench_right.BARS["float32"]


@pytest.mark.slow
def test_rows_are_kept_as_tables_with_all_runs(smoke):
    _, out, _ = smoke
    names = [path.name for path in bench_rows.kept(out)]
    expected = ["curves_2", "curves_4", "table_2", "table_4"]
    assert names == [f"mnist_{name}.nc" for name in expected]
    two, four = (tables.load(out / f"mnist_table_{epochs}.nc") for epochs in (2, 4))
    assert dict(four.sizes)["step"] == 4
    # training went on from where the first table was made
    np.testing.assert_array_equal(two.elbo, four.elbo.isel(step=slice(2)))
    assert float(abs(four.final_elbo - two.final_elbo).min()) > 0
    assert {"pixel_constant", "device", "config"} <= set(four.attrs)


@pytest.mark.slow
def test_adopted_record_and_tables_come_home(smoke, tmp_path, monkeypatch):
    _, out, record = smoke
    readme = f"a\n{records.BEGIN}\n{records.END}\n"
    (tmp_path / "README.md").write_text(readme, encoding="utf-8")
    monkeypatch.setattr(device, "FOLDER", tmp_path)
    written = device.adopt(out)
    assert all(path.is_file() and tmp_path in path.parents for path in written)
    assert len(written) == 5
    assert record["device"] in (tmp_path / "README.md").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="holds no record"):
        device.adopt(tmp_path)


def _stages(monkeypatch, **stages):
    chosen = {name: device.Stage(stage, 1.0) for name, stage in stages.items()}
    monkeypatch.setattr(device, "STAGES", chosen)
    monkeypatch.setattr(device, "NAMES", tuple(chosen))


def test_stage_that_fails_does_not_take_the_others_with_it(monkeypatch, tmp_path, capsys):
    def full(lease: Lease):
        """Fills the memory."""
        yield records.plain("before", 1.0, "1")
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")

    def broken(lease: Lease):
        """Fails."""
        yield records.plain("one", 1.0, "1")
        raise ZeroDivisionError("a fault")

    def fine(lease: Lease):
        """Works."""
        if lease.allows(1e9, "what takes years"):
            yield records.plain("never", 1.0, "1")
        yield records.plain("two", 2.0, "1")

    _stages(monkeypatch, machine=full, right=broken, spectra=fine)
    assert device.main(device.Run(out=tmp_path)) == 1
    found = json.loads(next(tmp_path.glob("*.json")).read_text(encoding="utf-8"))["benchmarks"]
    assert found["machine"]["left_out"] == ["the rest of machine: out of memory"]
    assert found["right"]["left_out"] == ["the rest of right: ZeroDivisionError"]
    assert found["spectra"]["left_out"] == ["what takes years"]
    assert [len(entry["measurements"]) for entry in found.values()] == [1, 1, 1]
    printed = capsys.readouterr().out
    assert "failed: right: ZeroDivisionError: a fault" in printed
    assert "failed: machine" not in printed
    # to go on later: what is there stays
    assert device.main(device.Run(out=tmp_path, only=("spectra",))) == 0
    again = json.loads(next(tmp_path.glob("*.json")).read_text(encoding="utf-8"))["benchmarks"]
    assert set(again) == set(found)


@pytest.mark.slow
def test_command_ends_in_the_time_it_is_given_whatever_it_is_doing(tmp_path):
    """In a process of its own, as it is ended from a thread while a stage sleeps."""
    code = (
        "import sys, time, benchmarks.device as d, benchmarks.records as r\n"
        "def slow(lease):\n"
        "    '''Sleeps.'''\n"
        "    yield r.plain('one', 1.0, '1')\n"
        "    time.sleep(600)\n"
        "d.STAGES = {'machine': d.Stage(slow, 1.0)}\n"
        "d.NAMES = ('machine',)\n"
        "from pathlib import Path\n"
        "sys.exit(d.main(d.Run(minutes=0.1, out=Path(sys.argv[1]))))\n"
    )
    begin = time.monotonic()
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(device.__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=root)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begin < 60
    assert "time is up in machine" in done.stdout
    found = json.loads(next(tmp_path.glob("*.json")).read_text(encoding="utf-8"))["benchmarks"]
    assert [m["what"] for m in found["machine"]["measurements"]] == ["one"]


def test_rows_without_images_are_left_out_and_said_to_be(tmp_path, capsys):
    lease = Lease(time.monotonic() + 9, tmp_path, records.new(), manual_dir=tmp_path)
    assert list(bench_rows.rows(lease)) == []
    assert "no train-images-idx3-ubyte.gz" in lease.left_out[0]
    assert "train-images" in capsys.readouterr().out


def test_smoke_numbers_go_nowhere_by_default(capsys):
    assert device.main(device.Run(smoke=True)) == 2
    assert "--out" in capsys.readouterr().err


def _told() -> str:
    """What the README of benchmarks says of one H100."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    return " ".join(text.split("## What one H100 did")[1].split("## Records")[0].split())


def test_readme_has_the_numbers_of_the_rows_on_a_gpu():
    table = tables.load(FOLDER / "results/mnist/nonlinear_table.nc")
    said = paper_table.agreement(paper_table.compare(table, "mnist"))
    rows, cells = said.split(" rows")[0], said.split("paper, ")[1].split(" cells")[0]
    text = _told()
    assert f"{rows} rows" in text
    assert f"{cells} cells" in text
    assert "final σ² 5 of 5" in said
    assert "5 of 5 rows" in text
    assert not table.diverged.any()


def test_readme_has_the_numbers_of_the_record_of_the_gpu():
    record = records.read(FOLDER / "records/nvidia-h100-80gb-hbm3.json")["benchmarks"]
    found = {m["what"]: m for stage in record.values() for m in stage["measurements"]}
    rate = {what: m["value"] / 1e6 for what, m in found.items() if m["unit"] == "samples/s"}
    text = _told()
    eigenvalues = "all 12,288,500 eigenvalues, n = 12,288, k = 500, half collapsed"
    times = found["PyTorch loop over ours, 1 models, highest"]["value"]
    for number in (
        f"{rate['1 models by vmap, highest']:.2f} million",
        f"{rate['16 models by vmap, highest']:.1f} million",
        f"{rate['64 models by vmap, highest']:.1f} million",
        f"{rate['64 models by vmap, default']:.1f} million",
        f"{rate['16 models by loop, highest']:.2f} million",
        f"{rate['PyTorch loop, 1 models, highest']:.2f} million",
        f"{times:.0f} times",
        f"{found[eigenvalues]['value']:.0f} ms",
        "59 %",
    ):
        assert number in text, number
    assert "59% of" in found["64 models by vmap, highest"]["note"]
    off = [m["value"] for what, m in found.items() if ", float64, largest" in what]
    assert max(off) < 1e-14
