"""Threads work ahead of a consumer here: they read, decode, or copy to a device."""

import collections
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextlib.contextmanager
def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int = 1, depth: int = 1
) -> Iterator[Iterator[Result]]:
    """Yield `function` of each item, in order, `depth` of them computed before they are asked for.

    Items may be endless. An error that the function raises, the consumer gets in its place. The
    iterator is valid inside the context; at its end the calls that had begun are waited for.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="linvae-ahead")
    items = iter(items)
    pending: collections.deque[Future[Result]] = collections.deque()

    def submit(number: int) -> None:
        pending.extend(pool.submit(function, item) for item in itertools.islice(items, number))

    def results() -> Iterator[Result]:
        while pending:
            pending[0].result()  # wait, so that no more than `depth` are ever under way
            submit(1)
            yield pending.popleft().result()  # and keep no result, which may be large

    try:
        submit(depth)
        yield results()
    finally:
        pool.shutdown(cancel_futures=True)
        pending.clear()
