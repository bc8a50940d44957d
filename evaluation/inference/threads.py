"""Threads that load and decode images while the network runs: results keep their order, and prefetching is bounded."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

Input = TypeVar("Input")
Output = TypeVar("Output")

NUM_THREADS = 2
"""Threads that prepare images and decode maps while the network runs; both together take a few ms an image."""


def create_thread_pool() -> ThreadPoolExecutor:
    """Create the thread pool, and disable OpenCV's own threads, which would compete with it."""
    import cv2

    cv2.setNumThreads(0)
    return ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="images")


def prefetch_map(
    pool: Executor, function: Callable[[Input], Output], inputs: Iterable[Input], depth: int
) -> Generator[Output, None, None]:
    """Apply a function in the pool's threads, like `map()`: in order, at most `depth` results ahead of the consumer."""
    running: deque[Future[Output]] = deque()
    try:
        for value in inputs:
            running.append(pool.submit(function, value))
            if len(running) > depth:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


def prefetch(items: Iterator[Output], depth: int) -> Iterator[Output]:
    """Iterate over the items in a separate thread, at most `depth` items ahead of the consumer."""
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as pool:
        # each result is a list of one item, or an empty list at the end, so that items may be false
        chunks = prefetch_map(pool, lambda _: list(itertools.islice(items, 1)), itertools.repeat(None), depth)
        with contextlib.closing(chunks):
            for chunk in itertools.takewhile(bool, chunks):
                yield from chunk
