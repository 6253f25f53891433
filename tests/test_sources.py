"""Windows of data that are read ahead: which rows, in which order, and by whom."""

import contextlib
import itertools
import threading
import time
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tolerances import STANDARD_ERRORS

from linvae_jax import moments
from linvae_jax._internal.ahead import ahead
from linvae_jax.data import preprocessing
from linvae_jax.sources import Windows

SECONDS = 20.0  # to wait for a thread before the test fails


def numbered(num):
    """Data whose rows say which row they are."""
    return np.arange(num)[:, None] * np.array([1, 10])


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("linvae-ahead")]


# --------------------------------------------------------------- which windows

# (N, size): a divisor, no divisor, one row, all but one row
cuts = st.sampled_from([(12, 4), (12, 5), (7, 1), (7, 6), (1, 1), (5, 9)])
seeds = st.integers(0, 2**63 - 1)


@given(cut=cuts, seed=seeds, count=st.integers(0, 30))
def test_every_row_is_seen_equally_often(cut, seed, count):
    num, size = cut
    windows = Windows(numbered(num), size, seed)
    seen = Counter(dict.fromkeys(range(num), 0))
    for t in range(count):
        seen.update(windows.window(t)[:, 0].tolist())
    assert sum(seen.values()) == count * min(size, num)
    assert max(seen.values()) - min(seen.values()) <= 1


@given(cut=cuts, seed=seeds, t=st.integers(0, 10**6))
def test_a_window_is_a_function_of_seed_and_number_in_the_order_of_the_data(cut, seed, t):
    num, size = cut
    values = numbered(num)
    window = Windows(values, size, seed).window(t)
    assert window.shape == (min(size, num), 2)
    np.testing.assert_array_equal(window, values[window[:, 0]])
    assert (np.diff(window[:, 0]) >= 0).all()
    np.testing.assert_array_equal(window, Windows(values.copy(), size, seed).window(t))


@pytest.mark.parametrize("vary", ["epoch", "seed"])
def test_windows_are_random_subsets(vary):
    """Two rows are in one window as often as in random subsets."""
    num, size, count = 6, 3, 1500
    together = np.zeros((num, num))
    for i in range(count):
        seed, epoch = (0, i) if vary == "epoch" else (i, 0)
        rows = Windows(numbered(num), size, seed).window(num // size * epoch)[:, 0]
        together[np.ix_(rows, rows)] += 1 / count
    expected = size * (size - 1) / (num * (num - 1))
    error = STANDARD_ERRORS * np.sqrt(expected * (1 - expected) / count)
    np.testing.assert_allclose(together[~np.eye(num, dtype=bool)], expected, rtol=0, atol=error)


def test_data_that_fit_are_one_window_and_not_copied():
    values = numbered(5)
    for size in (5, 9):
        windows = Windows(values, size, 0)
        assert windows.resident
        assert np.shares_memory(windows.window(3), values)
        np.testing.assert_array_equal(windows.window(3), values)
        with windows.prefetch(put=jnp.asarray) as stream:
            first, second = next(stream), next(stream)
            assert not threads()
        assert first is second  # put on the device once
    assert not Windows(values, 4, 0).resident


def test_windows_of_a_mapped_file_are_plain_arrays_and_it_stays_unchanged(tmp_path):
    np.save(tmp_path / "a.npy", numbered(50).astype(np.uint8))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    window = Windows(mapped, 20, 1).window(0)
    assert type(window) is np.ndarray
    window[:] = 0  # a copy
    np.testing.assert_array_equal(mapped, numbered(50).astype(np.uint8))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Windows(np.zeros((0, 3)), 1, 0), r"values: got shape \(0, 3\), expected"),
        (lambda: Windows(numbered(3), 0, 0), "size: got 0, expected 1 <= size"),
        (lambda: Windows(numbered(3), 2, -1), "seed: got -1, expected 0 <= seed"),
        (lambda: Windows(numbered(3), 2, 0).window(-1), "t: got -1, expected 0 <= t"),
        (lambda: Windows(numbered(3), 2, 0).prefetch(-2).__enter__(), "start: got -2, expected"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --------------------------------------------------------------- reading ahead


@pytest.mark.parametrize("put", [None, jnp.asarray], ids=["host", "device"])
def test_prefetched_windows_are_the_windows(put):
    windows = Windows(numbered(11).astype(np.float32), 4, seed=3)
    with windows.prefetch(start=5, put=put) as stream:
        for t, window in zip(range(5, 12), stream, strict=False):
            np.testing.assert_array_equal(window, windows.window(t))
            assert isinstance(window, np.ndarray if put is None else jax.Array)
    assert not threads()


def test_the_next_window_is_read_while_this_one_is_in_use_and_no_further():
    class Watched(Windows):
        def window(self, t):
            begun[t].set()
            return super().window(t)

    begun = [threading.Event() for _ in range(5)]
    with Watched(numbered(12), 4, 0).prefetch() as stream:
        assert begun[0].wait(SECONDS)  # before it is asked for
        next(stream)
        assert begun[1].wait(SECONDS)
        assert not begun[2].wait(0.05)
        next(stream)
        assert begun[2].wait(SECONDS)
        assert not begun[3].is_set()


class Broken(Windows):
    """The third window cannot be read."""

    def window(self, t):
        if t == 2:
            raise OSError("a bad sector")
        return super().window(t)


def test_prefetching_stops_where_it_is_told_to():
    for size in (4, 11):  # windows, and all data as one
        with Windows(numbered(11), size, 0).prefetch(2, 5) as stream:
            assert len(list(stream)) == 3


@pytest.mark.parametrize(("num", "size"), [(12, 4), (11, 4), (3, 4)])
def test_pieces_are_all_rows_in_order(num, size):
    with Windows(numbered(num), size, 0).pieces(jnp.asarray) as pieces:
        firsts, rows = zip(*pieces, strict=True)
    assert list(firsts) == list(range(0, num, size))
    np.testing.assert_array_equal(np.concatenate(rows), numbered(num))
    assert not threads()


def test_an_error_in_the_thread_is_raised_where_the_window_is_asked_for():
    with Broken(numbered(12), 4, 0).prefetch() as stream:
        next(stream)
        next(stream)
        with pytest.raises(OSError, match="a bad sector"):
            next(stream)
    assert not threads()


def test_leaving_early_ends_the_thread():
    windows = Windows(numbered(12), 4, 0)
    with windows.prefetch() as stream:
        next(stream)
    assert not threads()
    with contextlib.suppress(KeyboardInterrupt), windows.prefetch():
        raise KeyboardInterrupt
    assert not threads()
    with Broken(numbered(12), 4, 0).prefetch(start=2):
        pass  # an error that nobody asks for is nobody's
    assert not threads()


@given(
    num=st.integers(0, 12), workers=st.integers(1, 3), depth=st.integers(1, 5), seed=st.integers(0)
)
def test_results_come_in_order_and_no_more_than_depth_ahead(num, workers, depth, seed):
    delays = np.random.default_rng(seed).uniform(0, 1e-3, num)
    taken, furthest = 0, []

    def work(i):
        furthest.append(i - taken)
        time.sleep(delays[i])
        return 10 * i

    with ahead(work, range(num), workers, depth) as results:
        for i, result in enumerate(results):
            assert result == 10 * i
            taken = i + 1
    assert taken == num
    # the one that was just asked for, and `depth` behind it
    assert all(distance <= depth for distance in furthest)


# ------------------------------------------------------- what windows are for


def test_a_compiled_segment_trains_on_pixels_of_one_window_after_another():
    """The mean of the logits of a mapped set, summed over two epochs."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 3), np.uint8)
    transform = preprocessing.Logit(0.05)

    @jax.jit
    def segment(total, window, key):
        step = lambda total, batch: (total + transform(*batch).sum(0), None)  # noqa: E731
        batches = window.reshape(4, 4, 3), jax.random.split(key, 4)
        return jax.lax.scan(step, total, batches)[0]

    total, key = jnp.zeros(3, jnp.float32), jax.random.key(1)
    with Windows(pixels, 16, 0).prefetch(put=jnp.asarray) as stream:
        for t, window in enumerate(itertools.islice(stream, 8)):
            total = segment(total, window, jax.random.fold_in(key, t))
    found = total / (2 * len(pixels))
    expected = preprocessing.logit((pixels + 0.5) / 256, 0.05).mean(0)
    # x moves by at most half a pixel, at a slope of at most (1 − 2α)/(α(1 − α))
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.9 / (0.05 * 0.95) / 512)


def test_moments_of_a_mapped_file_are_streamed_by_slices(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 4), np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    found = moments.from_chunks(mapped[i : i + 16] for i in range(0, len(mapped), 16))
    np.testing.assert_allclose(found.cov, np.cov(pixels.T, bias=True), rtol=1e-12)
