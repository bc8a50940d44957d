"""Batches filled ahead of time by threads: in order, bounded in memory, the same whatever the number of threads."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

Row = TypeVar("Row")
Batch = TypeVar("Batch")
Fill = Callable[[], None]
"""Fills one place of a batch."""


@dataclass
class _Unfinished(Generic[Batch]):
    """A batch being filled, how many of its places are open, and the first of them that failed.

    One that could not be begun has no batch and no place.
    """

    batch: Batch | None
    open: int
    failure: tuple[int, Exception] | None = field(default=None)


class _Work(Generic[Row, Batch]):
    """What the threads share. They never see the consumer, so that a dropped consumer can end them."""

    def __init__(
        self,
        rows: Generator[Row, None, None],
        begin: Callable[[list[Row]], tuple[Batch, list[Fill]]],
        *,
        batches: int,
        batch_size: int,
        ahead: int,
    ) -> None:
        self._rows, self._begin = rows, begin
        self._batches, self._batch_size, self._ahead = batches, batch_size, ahead
        self._changed = threading.Condition()
        self._queue: deque[_Unfinished[Batch]] = deque()
        self._places: deque[tuple[_Unfinished[Batch], int, Fill]] = deque()
        self._begun = 0
        self._beginning = self._stopped = False
        self._broken: BaseException | None = None
        self.threads: list[threading.Thread] = []

    def run(self) -> None:
        """Begin batches and fill places until all are done or the work is stopped: the body of every thread."""
        try:
            while (task := self._next()) is not None:
                task()
        except BaseException as error:  # no place can be blamed, and nobody would hear of it in a thread
            with self._changed:
                self._broken = error
                self._changed.notify_all()

    def _next(self) -> Callable[[], None] | None:
        """Wait for something to do: begin a batch before the places run out, or fill the oldest place."""
        with self._changed:
            while not self._stopped:
                if self._may_begin():
                    self._beginning = True
                    return self._begin_batch
                if self._places:
                    return partial(self._fill_place, *self._places.popleft())
                if self._begun == self._batches:
                    return None
                self._changed.wait()
        return None

    def _may_begin(self) -> bool:
        """Whether another batch has to be begun: by one thread at a time, and while few enough are waiting."""
        wanted = self._begun < self._batches and len(self._places) < self._batch_size
        return wanted and not self._beginning and len(self._queue) < self._ahead

    def _begin_batch(self) -> None:
        batch: Batch | None = None
        fills: list[Fill] = []
        failure = None
        try:
            rows = list(itertools.islice(self._rows, self._batch_size))
            if len(rows) < self._batch_size:
                raise RuntimeError(f"rows ended in batch {self._begun + 1} of {self._batches}")
            batch, fills = self._begin(rows)
        except Exception as error:
            failure = (0, error)
        unfinished = _Unfinished(batch, len(fills), failure)
        with self._changed:
            self._begun += 1
            self._beginning = False
            self._queue.append(unfinished)
            self._places.extend((unfinished, place, fill) for place, fill in enumerate(fills))
            self._changed.notify_all()

    def _fill_place(self, unfinished: _Unfinished[Batch], place: int, fill: Fill) -> None:
        failure = None
        try:
            fill()
        except Exception as error:
            failure = error
        with self._changed:
            unfinished.open -= 1
            if failure is not None and (unfinished.failure is None or place < unfinished.failure[0]):
                unfinished.failure = (place, failure)
            if not unfinished.open:
                self._changed.notify_all()

    def take(self) -> Batch:
        """Wait for the oldest batch. Raises what its first failing place raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._broken or (self._queue and not self._queue[0].open))
            if self._broken is not None:
                raise self._broken
            unfinished = self._queue.popleft()
            self._changed.notify_all()
        if unfinished.failure is not None:
            raise unfinished.failure[1]
        assert unfinished.batch is not None  # only one that could not be begun has none, and that is a failure
        return unfinished.batch

    def stop(self) -> None:
        """End the threads, wait until they have ended, and close the rows."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        # the garbage collector may run a finalizer in any thread, and none can wait for itself
        if threading.current_thread() in self.threads:
            return
        for thread in self.threads:
            thread.join()
        self._rows.close()


def prefetch_batches(
    rows: Generator[Row, None, None],
    begin: Callable[[list[Row]], tuple[Batch, list[Fill]]],
    *,
    batches: int,
    batch_size: int,
    threads: int,
    ahead: int,
) -> Iterator[Batch]:
    """Fill batches by several threads, each place on its own, and yield them in order.

    The threads end, and are waited for, when the iterator is exhausted, closed, dropped or fails, and at exit.

    Args:
        rows: read in order, by one thread at a time, and closed at the end.
        begin: gives the batch of some rows, and for each place what fills it. Both run in any thread, `begin` one call
            at a time, and depend on the rows alone, so that the number of threads cannot be seen in the result.
        batches: how many to yield.
        batch_size: rows in each.
        threads: at least 1.
        ahead: most batches in memory that are unfinished or not yet taken.

    Raises:
        Whatever `rows`, `begin` or the filling of the earliest place raised, once its batch's turn comes.
    """
    work = _Work(rows, begin, batches=batches, batch_size=batch_size, ahead=ahead)
    # daemons: interpreter exit waits for other threads before it runs the finalizer that ends these
    work.threads = [threading.Thread(target=work.run, name=f"batches-{i}", daemon=True) for i in range(threads)]
    for thread in work.threads:
        thread.start()
    return _Batches(work, batches)


class _Batches(Iterator[Batch]):
    """The consumer's end."""

    def __init__(self, work: _Work[Row, Batch], batches: int) -> None:
        self._work, self._left = work, batches
        self.close = weakref.finalize(self, work.stop)

    def __next__(self) -> Batch:
        if not self._left or not self.close.alive:
            self.close()
            raise StopIteration
        try:
            batch: Batch = self._work.take()
        except BaseException:
            self.close()
            raise
        self._left -= 1
        if not self._left:
            self.close()
        return batch
