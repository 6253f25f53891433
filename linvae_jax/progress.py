"""A progress bar is live on a terminal, in a log a line now and then, and nothing when quiet."""

import sys
from typing import Any

from tqdm import tqdm


def bar(total: int, description: str, unit: str = "it", quiet: bool = False) -> "tqdm[Any]":
    """Return a progress bar, a context manager with `.update(n)` and `.set_postfix_str`."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        disable=quiet,
        mininterval=0.1 if terminal else 60.0,  # a log wants few lines
        ascii=None if terminal else True,
        dynamic_ncols=terminal,
    )


def skip(of: "tqdm[Any]", done: int) -> None:
    """Count what an earlier process has done, which is no part of the rate."""
    of.initial = getattr(of, "initial", 0) + done  # a quiet bar has none
    of.n += done
    of.last_print_n = of.n  # the rate is that of what is done since
    of.refresh()
