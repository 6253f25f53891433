"""Sweeps on data of which a window at a time is on the device."""

import gc
from dataclasses import replace
from pathlib import Path

import children
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import windowed_child as child
from agreement import assert_close, same_bits, stop_after

from linvae_jax import (
    evaluation,
    network_task,
    sources,
    streams,
    sweeps,
    tables,
    training,
)
from linvae_jax._engine import executors, layouts, sweep_folder
from linvae_jax.sources import Windows

WINDOWS = child.CONFIG.num_records  # of a run: with 70 rows each, more than all 500 once


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("windowed")


@pytest.fixture(scope="module")
def data(folder) -> network_task.Data:
    return child.data(folder)


@pytest.fixture(scope="module")
def whole(data) -> sweeps.Sweep:
    """Uninterrupted, two chunks of two runs."""
    return child.run(data, chunk=2)


@pytest.mark.slow
def test_segment_t_of_every_chunk_sees_window_t_and_all_rows_are_seen(monkeypatch, data, whole):
    seen, alive = [], []
    segment, replicate = executors.SideBySide.segment, executors.SideBySide.replicate

    def watched(self, window, *args):
        seen.append(np.array(window.values))
        return segment(self, window, *args)

    def counted(self, leaf):
        placed = replicate(self, leaf)
        alive.append(sum(a.shape == (child.SIZE, 49) for a in jax.live_arrays()))
        return placed

    gc.collect()  # the type checks of the suite leave a cycle around the last window of `whole`
    monkeypatch.setattr(executors.SideBySide, "segment", watched)
    monkeypatch.setattr(executors.SideBySide, "replicate", counted)
    assert same_bits(child.run(data, chunk=2), whole)
    assert len(seen) == 2 * WINDOWS
    for t, window in enumerate(seen):
        assert window.dtype == np.uint8
        np.testing.assert_array_equal(window, data.values.window(t % WINDOWS))
    rows = {row.tobytes() for window in seen[:WINDOWS] for row in window}
    assert rows == {row.tobytes() for row in child.pixels()}
    assert max(alive) == 2  # the window in use and the next; nothing else of the data
    assert isinstance(data.values.values, np.memmap)


def test_the_end_is_measured_on_all_data_with_the_noise_of_a_resident_evaluation(data, whole):
    _, key = jax.random.split(streams.key(1, "training"))  # of the run, as in `training.init`
    key = jax.random.fold_in(streams.branch(key, "end"), child.CONFIG.num_steps)
    params = whole.run(seed=1, sigma2_init=0.5).params
    expected = jax.jit(evaluation.evaluate, static_argnums=0, static_argnames="transform")(
        *(child.MODEL, params, child.pixels(), data.mean, key), transform=child.LOGIT
    )
    assert expected.count == 500
    found = whole.table.isel(seed=1, sigma2_init=0, learned=0)
    for name in (
        "below",
        "num_collapsed",
        "active_units",
    ):  # counts: KL are not at an ε to rounding
        np.testing.assert_array_equal(found[f"final_{name}"], getattr(expected, name))
    for name in ("elbo", "elbo_error", "kl", "square_error", "sigma2_tuned", "mean_variance"):
        # float32 sums of 500 terms in another order
        np.testing.assert_allclose(found[f"final_{name}"], getattr(expected, name), rtol=2e-5)
    assert (expected.below > 0).any()
    assert (expected.below < 1).any()


@pytest.mark.slow
def test_one_window_of_all_data_trains_as_data_on_the_device_do(folder):
    one = child.run(child.data(folder, size=500), chunk=4)
    other = child.run(child.data(folder, size=None), chunk=4)
    for name in child.TASK.record_labels:
        np.testing.assert_array_equal(one.table[name], other.table[name])
    for x, y in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_array_equal(x, y)
    assert_close(one.table, other.table)
    assert one.table.attrs["windows"] == "500 of 500 rows, seed 0"
    assert "windows" not in other.table.attrs


@pytest.mark.slow
def test_layouts_agree(data, whole):
    assert_close(child.run(data, batching="loop", chunk=2).table, whole.table)


@pytest.mark.slow
def test_stopped_in_either_chunk_it_goes_on_to_the_bit(data, whole, tmp_path, monkeypatch):
    for calls, finished in ((5, 0), (9, 2)):  # two questions for each of 7 records of a chunk
        monkeypatch.setattr(sweep_folder, "anywhere", stop_after(calls))
        with pytest.raises(sweep_folder.Stopped, match=f"after {finished} of 4 runs"):
            child.run(data, tmp_path, chunk=2, checkpoint_seconds=1e9)
    monkeypatch.undo()
    assert same_bits(child.run(data, tmp_path, chunk=2), whole)


@pytest.mark.slow
def test_other_windows_are_another_sweep(folder, tmp_path):
    done = child.run(child.data(folder), tmp_path, chunk=2)
    for other in (child.data(folder, 80), child.data(folder, seed=1), child.data(folder, None)):
        with pytest.raises(ValueError, match="data"):
            child.run(other, tmp_path, chunk=2)
    loaded = sweeps.load(tmp_path, child.TASK, child.data(folder))
    assert same_bits(loaded, done)


@pytest.mark.slow
def test_two_processes_of_two_devices_share_a_sweep(whole, folder):
    children.share(child.run_all_in, folder, 2, devices=2)
    table = tables.load(folder / "sweep" / "sweep.nc")
    assert table.attrs["devices"] == "4"
    assert_close(table, whole.table)


@pytest.mark.slow
def test_memory_is_planned_for_two_windows_and_not_for_all_data(data, monkeypatch):
    args = (child.TASK, child.CONFIG, data, child.GRID.hyperparameters("f4"), child.GRID.keys())
    each, windows = layouts.bytes_per_run(*args), 2 * child.SIZE * 49
    assert each >= 3 * 4 * (2 * 49 * 3 + 3 + 1)  # parameters and two moments of Adam
    monkeypatch.setattr(layouts, "bytes_per_run", lambda *args: each)
    for room, chunk in ((4 * each, 4), (3 * each, 2)):  # 2 and 2 rather than 3 and 1
        for spare, expected in ((9, chunk), (-9, 2)):
            memory = round((room + windows + spare) / 0.8)
            assert layouts.plan(*args, batching="vmap", memory=memory).chunk == expected


@pytest.mark.slow
def test_what_cannot_run_is_told():
    windows = Windows(np.ones((40, 49), np.float32), 20, 0)
    data = network_task.Data(windows, jnp.zeros(49, "f4"), jnp.ones(49, "f4"))
    task, config = network_task.NetworkTask(child.MODEL, 16), training.TrainConfig(2, 1)
    hyper = training.Hyperparameters()
    pixels, broken = Windows(child.pixels(), 20, 0), windows.values.copy()
    broken[3, 4] = np.nan
    with pytest.raises(ValueError, match="batch_size: got 32, expected 1 <= batch_size <= 20"):
        training.check(replace(task, batch_size=32), config, data, hyper)
    with pytest.raises(ValueError, match=r"data\.values: got dtype uint8 without a transform"):
        training.check(task, config, replace(data, values=pixels), hyper)
    with pytest.raises(ValueError, match=r"data\.values: got 1 NaN or Inf among 1960 values"):
        training.check(task, config, replace(data, values=Windows(broken, 20, 0)), hyper)
    with pytest.raises(ValueError, match=r"data: got 2 arrays in windows, expected at most one"):
        sources.find((windows, windows))
    with pytest.raises(ValueError, match="data: got values in windows, expected arrays"):
        training.train(task, config, data, hyper, jax.random.key(0))
    with pytest.warns(UserWarning, match=r"trains on 20 of 40 rows: 1 windows of 20"):
        sweeps.run(task, training.TrainConfig(1, 1), data, sweeps.Grid(), quiet=True)


def test_some_rows_of_pixels_are_the_same_in_windows_and_not(data):
    logit, key = child.TASK.transform, jax.random.key(3)
    values = np.asarray(sources.whole(data.values))
    resident = replace(data, values=jnp.asarray(values))
    some = network_task.centred(data, logit, key, 7)
    np.testing.assert_array_equal(some, network_task.centred(resident, logit, key, 7))
    # by hand: every so many of all rows, with the transform's noise, the mean taken off
    rows = jnp.asarray(values[[int(i * len(values) / 7) for i in range(7)]])
    real = rows if logit is None else logit(rows, key)
    np.testing.assert_allclose(some, real - data.mean, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="count: got 0"):
        network_task.centred(data, logit, key, 0)
