"""Work of the host beside the network: in threads, in order, bounded ahead of what is taken."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")

_THREADS = 2
"""That prepare pictures and decode maps while the network works; together they take a few ms a picture."""


def host_threads() -> ThreadPoolExecutor:
    """The pool; OpenCV's own threads would compete with it, and are switched off."""
    import cv2

    cv2.setNumThreads(0)
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="pictures")


def map_ahead(
    pool: Executor, function: Callable[[Given], Made], given: Iterable[Given], depth: int
) -> Generator[Made, None, None]:
    """map() in the pool's threads, in order, at most `depth` results ahead of what is taken."""
    running: deque[Future[Made]] = deque()
    try:
        for one in given:
            running.append(pool.submit(function, one))
            if len(running) > depth:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


def read_ahead(items: Iterator[Made], depth: int) -> Iterator[Made]:
    """The same items, read by a thread of their own, at most `depth` ahead of what is taken."""
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as pool:
        found = map_ahead(pool, lambda _: list(itertools.islice(items, 1)), itertools.repeat(None), depth)
        with contextlib.closing(found):
            for item in itertools.takewhile(bool, found):
                yield from item
