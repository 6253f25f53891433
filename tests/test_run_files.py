"""The file of a finished run: what comes back, and what is never taken for it."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from linvae_jax._engine import run_files
from linvae_jax._engine.trainer import Result

HISTORY, FINAL = ("elbo", "start_elbo"), ("elbo", "code")


@pytest.fixture
def result() -> Result:
    rng = np.random.default_rng(0)
    params = {
        "['layers'][0]/W": rng.normal(size=(3, 2)),
        "file": rng.normal(size=2).astype(np.float32),  # an argument of `numpy.savez`
        "half": rng.normal(size=5).astype(ml_dtypes.bfloat16),
        "empty": np.zeros((0, 4)),
        "log_sigma2": np.array(-0.0),
    }
    history = {"elbo": np.array([1.0, np.nan]), "start_elbo": np.array(-np.inf)}
    return Result(params, history, {"elbo": np.array(2.0), "code": np.arange(3)})


def load(path: Path, like: Result) -> Result:
    return run_files.load(path, like.params, HISTORY, FINAL)


def test_a_run_comes_back_to_the_bit_and_says_which_it_is(tmp_path, result):
    path = tmp_path / "runs" / "0007.npz"
    run_files.save(path, result, {"run": {"seeds": [3]}, "σ²": 0.5})
    back = load(path, result)
    for mine, other in zip(result, back, strict=True):
        assert mine.keys() == other.keys()
        for name, array in mine.items():
            assert (array.dtype, array.shape) == (other[name].dtype, other[name].shape), name
            assert array.tobytes() == other[name].tobytes(), name
    with np.load(path) as file:  # as a user does, who has NumPy alone
        assert json.loads(str(file["facts"])) == {"run": {"seeds": [3]}, "σ²": 0.5}
        np.testing.assert_array_equal(file["history/elbo"], [1.0, np.nan])
    assert list(tmp_path.rglob("*.partial")) == []


def test_no_changed_byte_gives_other_numbers(tmp_path, result):
    """A byte that is changed is found, or in a place that holds no number."""
    path = tmp_path / "run.npz"
    run_files.save(path, result, {})
    whole = path.read_bytes()
    found = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            back = load(path, result)
        except ValueError:
            found += 1
            continue
        for mine, other in zip(result, back, strict=True):
            for name, array in mine.items():
                assert array.tobytes() == other[name].tobytes(), (place, name)
    assert found > len(whole) // 2  # the rest are dates, and what is said twice
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(run_files.Damaged, match=r"run\.npz is damaged"):
            load(path, result)


def test_what_is_not_such_a_run_is_refused(tmp_path, result):
    path = tmp_path / "run.npz"
    with pytest.raises(ValueError, match=r"run\.npz \(no such file\)"):
        load(path, result)
    run_files.save(path, result._replace(final={"code": np.arange(3)}), {})
    with pytest.raises(ValueError, match=r"run\.npz, without final_elbo, expected what this"):
        load(path, result)
    run_files.save(path, result, {})
    fewer = {name: array for name, array in result.params.items() if name != "half"}
    wider = result.params | {"file": np.zeros(2)}
    other = result.params | {"file": np.zeros(3, np.float32)}
    for params in (fewer, wider, other):
        with pytest.raises(ValueError, match=r"task: got one with parameters .*stored in"):
            load(path, result._replace(params=params))
