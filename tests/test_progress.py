"""Progress is told truly: what an earlier process has done says nothing of the speed."""

import pytest

from linvae_jax import progress


def test_what_was_done_before_is_no_part_of_the_rate():
    """Of 1,000, 900 and then 20 are there; in 100 seconds come 50, by a clock of the test's own."""
    with progress.bar(1000, "a") as bar:
        begin = bar.start_t
        bar._time = lambda: begin + 100.0
        progress.skip(bar, 900)
        progress.skip(bar, 20)
        bar.update(50)
        assert bar.n == 970
        # 2 s each, 30 to go; exact but for rounding
        assert bar.format_dict["rate"] == pytest.approx(0.5)
        assert "00:59" in str(bar) or "01:00" in str(bar)


def test_a_quiet_bar_counts_what_was_done_before():
    with progress.bar(10, "a", quiet=True) as bar:
        progress.skip(bar, 4)
        bar.update(1)
        # tqdm leaves counting out where it shows nothing
        assert bar.n == 4
