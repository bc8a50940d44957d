"""Batches filled ahead of time by threads: in order, bounded in memory, the same whatever the number of threads."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Row = TypeVar("Row")
Batch = TypeVar("Batch")


@dataclass
class _Unfinished(Generic[Batch]):
    """A batch being filled: how many of its places are open, and the first of them that failed."""

    batch: Batch
    open: int
    failure: tuple[int, Exception] | None = field(default=None)


class _Work(Generic[Row, Batch]):
    """What the threads share. They never see the consumer, so that a dropped consumer can end them."""

    def __init__(
        self,
        rows: Generator[Row, None, None],
        allocate: Callable[[], Batch],
        fill: Callable[[Row, Batch, int], None],
        *,
        batches: int,
        batch_size: int,
        ahead: int,
    ) -> None:
        self._rows, self._allocate, self._fill = rows, allocate, fill
        self._batches, self._batch_size, self._ahead = batches, batch_size, ahead
        self._claiming = threading.Lock()
        self._changed = threading.Condition()
        self._queue: deque[_Unfinished[Batch]] = deque()
        self._started = self._place = 0
        self._stopped = False
        self._broken: BaseException | None = None
        self.threads: list[threading.Thread] = []

    def run(self) -> None:
        """Fill places until all batches are done or the work is stopped: the body of every thread."""
        try:
            while (claim := self._claim()) is not None:
                row, unfinished, place = claim
                self._finish(unfinished, place, self._try_fill(row, unfinished.batch, place))
        except BaseException as error:  # no place can be blamed, and nobody would hear of it in a thread
            with self._changed:
                self._broken = error
                self._changed.notify_all()

    def _try_fill(self, row: Row | Exception, batch: Batch, place: int) -> Exception | None:
        if isinstance(row, Exception):
            return row
        try:
            self._fill(row, batch, place)
        except Exception as error:
            return error
        return None

    def _claim(self) -> tuple[Row | Exception, _Unfinished[Batch], int] | None:
        """Take the next row and its place; rows are read here, in order, by one thread at a time."""
        with self._claiming:
            if self._place == 0 and not self._start_batch():
                return None
            if self._stopped:
                return None
            unfinished, place = self._current, self._place
            self._place = (place + 1) % self._batch_size
            try:
                return next(self._rows), unfinished, place
            except StopIteration:
                return RuntimeError(f"rows ended in batch {self._started} of {self._batches}"), unfinished, place
            except Exception as error:
                return error, unfinished, place

    def _start_batch(self) -> bool:
        """Open the next batch once few enough are waiting; False when there is none, or the work is stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._queue) < self._ahead)
            if self._stopped or self._started == self._batches:
                return False
            self._started += 1
            self._current = _Unfinished(self._allocate(), self._batch_size)
            self._queue.append(self._current)
        return True

    def _finish(self, unfinished: _Unfinished[Batch], place: int, failure: Exception | None) -> None:
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


def fill_ahead(
    rows: Generator[Row, None, None],
    allocate: Callable[[], Batch],
    fill: Callable[[Row, Batch, int], None],
    *,
    batches: int,
    batch_size: int,
    threads: int,
    ahead: int,
) -> Iterator[Batch]:
    """Fill batches by several threads, each row straight into its place, and yield them in order.

    The threads end, and are waited for, when the iterator is exhausted, closed, dropped or fails, and at exit.

    Args:
        rows: read in order, by one thread at a time, and closed at the end.
        allocate: makes an empty batch.
        fill: (row, batch, place) writes a row into its place of a batch; runs in any thread, and depends on its
            arguments alone, so that the number of threads cannot be seen in the result.
        batches: how many to yield.
        batch_size: rows in each.
        threads: at least 1.
        ahead: most batches in memory that are unfinished or not yet taken.

    Raises:
        Whatever `rows` or `fill` raised for the earliest row, once its batch's turn comes.
    """
    work = _Work(rows, allocate, fill, batches=batches, batch_size=batch_size, ahead=ahead)
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
