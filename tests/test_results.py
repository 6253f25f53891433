"""Tables and the ledger: what is written can be read, and a failing check fails."""

import errno
import gc
import json
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jaxtyping
import numpy as np
import pytest
import xarray as xr

from landscape.cli import sweep
from landscape.paper import ledger, size
from linvae_jax import linear, tables
from linvae_jax import moments as mom


@contextmanager
def annotations_off() -> Iterator[None]:
    """As for users, whom no annotation stops before our own messages."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def table() -> xr.Dataset:
    return tables.dataset(
        {
            "elbo": (("seed", "sigma2"), np.ones((2, 3)), "nats/datum", "exact ELBO"),
            "diverged": (("seed",), np.array([True, False]), "1", "ended in NaN"),
        },
        coords={"seed": [0, 1], "sigma2": ([0.1, 1.0, 10.0], "data unit²", "noise")},
        attrs=tables.provenance({"k": 3}, source="test"),
    )


def test_round_trip_keeps_values_labels_units_and_provenance(table, tmp_path):
    loaded = tables.load(tables.save(table, tmp_path / "deep" / "table.nc"))
    xr.testing.assert_identical(loaded, table)
    assert loaded.elbo.attrs["units"] == "nats/datum"
    assert json.loads(loaded.attrs["config"]) == {"k": 3}
    assert list(tmp_path.rglob("*.partial")) == []


def test_truncated_foreign_and_missing_files_are_refused(table, tmp_path):
    path = tables.save(table, tmp_path / "table.nc")
    whole = path.read_bytes()
    used = len(whole.rstrip(b"\0"))  # zeros fill a file up to whole blocks
    for left in (used - 1, used // 2, used // 10, 1, 0):
        path.write_bytes(whole[:left])
        with pytest.raises(ValueError, match=r"table.nc is not a readable netCDF file .*truncated"):
            tables.load(path)
    path.write_text("not netCDF at all")
    with pytest.raises(ValueError, match="is not a readable netCDF file"):
        tables.load(path)
    xr.Dataset({"a": 1}).to_netcdf(path)
    with pytest.raises(ValueError, match="a netCDF file of another origin, expected one of"):
        tables.load(path)
    with pytest.raises(ValueError, match=r"nothing.nc \(no such file\), expected a netCDF file"):
        tables.load(tmp_path / "nothing.nc")


@pytest.mark.parametrize(
    ("where", "name", "error"),
    [
        (xr, "open_dataset", MemoryError()),
        (Path, "read_bytes", OSError(errno.EMFILE, "Too many open files")),
    ],
)
def test_what_is_no_fault_of_the_file_is_not_called_damage(
    table, tmp_path, monkeypatch, where, name, error
):
    path = tables.save(table, tmp_path / "table.nc")

    def fails(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(where, name, fails)
    with pytest.raises(type(error)):
        tables.load(path)


def test_a_model_survives_the_disk(tmp_path):
    moments = mom.from_data(np.random.default_rng(0).normal(size=(9, 4)))
    params = linear.init(jax.random.key(0), 4, 2)
    path = tables.save(tables.from_linear(params, moments), tmp_path / "model.nc")
    back = tables.to_linear(tables.load(path))
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("value", "relation", "bound", "holds"),
    [
        (1.0, "<=", 1.0, True),
        (1.1, "<=", 1.0, False),
        (1.0, ">=", 1.0, True),
        (0.9, ">=", 1.0, False),
        (0.0, "==", 0.0, True),
        (1e-9, "==", 0.0, False),
        (math.nan, "<=", 1.0, False),
    ],
)
def test_a_check_holds_when_it_should(value, relation, bound, holds):
    assert ledger.Check("q", value, relation, bound, "why").holds is holds


def test_a_claim_is_as_good_as_its_worst_check_and_none_is_not_enough(tmp_path):
    good, bad = (ledger.Check("q", v, "<=", 1.0, "why", ("a.nc",)) for v in (0.0, 2.0))
    claims = [
        ledger.Claim("C1", "fine", (good,), "a note", ledger.stands("Lemma 1")),
        ledger.Claim("C2", "not", (good, bad)),
        ledger.Claim("C3", "empty", ()),
        ledger.Claim("C4", "small", (good,), reduced="5 data; the paper has 60"),
        ledger.Claim("C5", "small and not", (bad,), reduced="5 data; the paper has 60"),
    ]
    assert [c.holds for c in claims] == [True, False, False, True, False]
    verdicts = [c.verdict for c in claims]
    assert verdicts == [
        "holds", "does not hold", "does not hold", "holds at reduced size", "does not hold"
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"without a\.nc, expected the tables"):
        ledger.save(claims, tmp_path)
    (tmp_path / "a.nc").write_bytes(b"a table")
    (tmp_path / "b.nc").write_bytes(b"of no claim")
    ledger.save(claims, tmp_path)
    # of `printf 'a table' | sha256sum`
    of_a = "ad875d4bcb7fa0fef5d27aadd709b8ca253b2a10d15e8283d4dc7823bf26918e"
    document = (tmp_path / "ledger.md").read_text()
    assert document.count("DOES NOT HOLD") == 3
    first = document.split("## C1")[1].split("## C2")[0]
    assert "fine (Lucas et al. 2019, Lemma 1; in our words.) This **holds**." in first
    assert "| q | 0 | ≤ 1 | why | `a` | yes |\n\na note" in first
    assert "This **holds at reduced size** (5 data; the paper has 60)." in document
    assert "This **DOES NOT HOLD** (5 data; the paper has 60)." in document
    assert f"| `a.nc` | C1, C2, C4, C5 | `{of_a}` |" in document.split("## The tables")[1]
    assert "| `b.nc` | | `" in document
    saved = json.loads((tmp_path / "ledger.json").read_text())
    assert [c["holds"] for c in saved["claims"]] == [c.holds for c in claims]
    assert [c["verdict"] for c in saved["claims"]] == verdicts
    assert saved["claims"][1]["checks"][1] == {
        "quantity": "q", "value": 2.0, "relation": "<=", "bound": 1.0, "why": "why",
        "tables": ["a.nc"], "holds": False,
    }  # fmt: skip
    assert saved["tables"]["a.nc"] == of_a
    assert ledger.load(tmp_path) == (claims, saved["tables"])
    text = ledger.text(claims)
    assert "NO  q" in text
    assert "C4  holds at reduced size small\n    (5 data; the paper has 60)\n    ok  q" in text


@pytest.mark.parametrize(
    ("source", "count", "k", "spectrum", "networks"),
    [
        ("mnist 3.0.1, split train", 60_000, 200, "", ""),
        ("mnist 3.0.1, split train", 59_999, 200, "59,999 data; the paper has 60,000 of MNIST",
         "59,999 data with 200 latents; the paper has 60,000 of MNIST with 200"),
        ("mnist 3.0.1, split train", 60_000, 199, "",
         "60,000 data with 199 latents; the paper has 60,000 of MNIST with 200"),
        ("celeba 2.1.0, split train", 162_770, 500,
         "162,770 data; the paper has 60,000 of MNIST", ""),
        ("celeba 2.1.0, split train", 60_000, 200, "60,000 data; the paper has 60,000 of MNIST",
         "60,000 data with 200 latents; the paper has 162,770 of CelebA with 500"),
        ("mnist.npy, sha256 0123", 60_000, 200, "60,000 data; the paper has 60,000 of MNIST",
         "60,000 data with 200 latents; the paper has 60,000 of MNIST with 200, or 162,770 of "
         "CelebA with 500"),
    ],
)  # fmt: skip
def test_size_is_that_of_data_and_latents(source, count, k, spectrum, networks):
    table = xr.Dataset({"kl": ("latent", np.zeros(k))}, attrs={"source": source, "count": count})
    assert size.of_spectrum(table) == spectrum
    assert size.of_networks(table) == networks


def test_the_notebook_is_at_its_size_with_all_its_steps():
    table = xr.Dataset(coords={"step": [0, 6000, 12_000]})
    assert size.of_notebook(table) == ""
    assert "was not run" in size.of_notebook(table.isel(step=slice(2)))
    assert "was not run" in size.of_notebook(None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("a", None),
        ("a", {"b": 1}),
        ("a", Path("data")),
        ("a", True),
        ("a", [True, False]),
        ("a", 2**70),
        ("a", b"bytes"),
        ("a", (1, "text")),
        ("a", "a\0b"),
        ("a", object()),
        ("CLASS", "x"),
        ("_NCProperties", "x"),
        ("DIMENSION_LIST", "x"),
        ("coordinates", "x"),
        ("", "x"),
        (3, "x"),
        ("a\0b", "x"),
        ("a/b", "x"),
        ("config", "x"),
    ],
)
def test_attributes_that_a_file_would_not_give_back_are_refused_by_name(key, value):
    with pytest.raises(ValueError, match=re.escape(f"attrs[{key!r}]: got ")):
        tables.check_attrs("attrs", {"fine": "x", key: value}, taken=["config"])


def test_attributes_that_are_let_through_come_back(tmp_path):
    attrs = {
        "text": "σ² = 1", "empty": "", "long": "x" * 10**5, "number": 1.5, "integer": 3,
        "nan": math.nan, "list": [1, 2], "texts": ["a", "b"], "numpy": np.float32(0.1),
        "array": np.arange(3.0), "é x": "name",
    }  # fmt: skip
    tables.check_attrs("attrs", attrs)
    data = tables.dataset({"x": (("y",), np.ones(2), "1", "")}, attrs=attrs)
    back = tables.load(tables.save(data, tmp_path / "table.nc")).attrs
    assert back.keys() == attrs.keys() | {"format"}
    for name, value in attrs.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
    with pytest.raises(ValueError, match="attrs: got list, expected a mapping"):
        tables.check_attrs("attrs", ["a"])
    with pytest.raises(ValueError, match="extra: got a fact called 'device'"):
        tables.provenance(device="mine")


def test_a_table_is_written_whole_or_not_at_all(table, tmp_path, monkeypatch):
    path = tables.save(table, tmp_path / "table.nc")
    whole = path.read_bytes()
    for wrong, message in [
        (table.assign_attrs(a=None), r"data\.attrs\['a'\]: got None"),
        (table.assign(elbo=table.elbo.assign_attrs(b={})), r"elbo\.attrs\['b'\]: got {}"),
        (5, "data: got int, expected a Dataset"),
    ]:
        with pytest.raises(ValueError, match=message), annotations_off():
            tables.save(wrong, path)
    (tmp_path / "folder").mkdir()
    for place, message in [
        (tmp_path / "folder", "folder, which is a folder, expected a file"),
        (path / "deeper" / "t.nc", "where .*table.nc is a file"),
        (7, "path: got 7, expected a path"),
    ]:
        with pytest.raises(ValueError, match=message), annotations_off():
            tables.save(table, place)
    with pytest.raises(ValueError, match="path: got None, expected a path"), annotations_off():
        tables.load(None)

    def full(self: Path, data: Any) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"table\.nc could not be written: No space left") as raised:
        tables.save(table, path)
    assert raised.value.errno == errno.ENOSPC
    assert path.read_bytes() == whole
    assert {p.name for p in tmp_path.iterdir()} == {"table.nc", "folder"}


def test_the_summary_of_a_sweep_says_which_seeds_diverged():
    dims = ("seed", "sigma2_init", "step")
    values = np.array([[[1.0], [2.0], [math.nan]], [[3.0], [math.nan], [math.nan]]])
    lost = np.isnan(values[..., 0])
    named = dict.fromkeys(("elbo", "sigma2", "num_collapsed"), (dims, values, "1", ""))
    named["diverged"] = (dims[:2], lost, "1", "")
    lines = sweep.summary(tables.dataset(named, {"sigma2_init": [0.5, 4.0, 9.0]}))
    assert [line.split() for line in lines[1:4]] == [
        ["0.5", "2", "2", "2"],
        ["4", "2", "2", "2", "(1", "diverged)"],  # of the other seed
        ["9", "diverged", "diverged", "diverged"],
    ]


def test_an_error_leaves_nothing_that_fails_later(tmp_path, monkeypatch):
    """From Python 3.13 on, a buffer that is freed while a view of it lives says so."""
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    (tmp_path / "x.nc.partial").mkdir()

    def fail() -> None:
        try:
            tables.save(xr.Dataset({"x": ("y", [0.0])}), tmp_path / "x.nc")
        except OSError as error:
            error.again = error  # a cycle, as frames and tracebacks make them  # pyright: ignore
        else:
            pytest.fail("a folder stands in the file's way")

    fail()
    gc.collect()
    assert not heard
