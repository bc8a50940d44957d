"""Prefetch batches with a pool of threads: in order, with bounded memory, independent of the number of threads.

`mindspore.dataset`'s own `map` and `batch` are not used: each copies every image once more, and the samples of a Python
function in threads depend on the order in which the threads run. Here each thread writes into the memory of the batch.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

Row = TypeVar("Row")
Batch = TypeVar("Batch")
Task = Callable[[], None]
"""Writes one sample into its batch."""


@dataclass
class _PendingBatch(Generic[Batch]):
    """A batch that is not yet complete or not yet consumed.

    Attributes:
        batch: None if the preparation of the batch failed.
        unfinished_tasks: number of tasks that have not finished.
        failure: index and exception of the first task in the batch that failed.
    """

    batch: Batch | None
    unfinished_tasks: int
    failure: tuple[int, Exception] | None = None


class _ThreadPool(Generic[Row, Batch]):
    """State shared by the threads. It holds no reference to the iterator, so that dropping the iterator ends them."""

    def __init__(
        self,
        rows: Generator[Row, None, None],
        prepare: Callable[[list[Row]], tuple[Batch, list[Task]]],
        *,
        batches: int,
        batch_size: int,
        max_pending: int,
    ) -> None:
        self._rows, self._prepare = rows, prepare
        self._batches, self._batch_size, self._max_pending = batches, batch_size, max_pending
        self._condition = threading.Condition()
        self._pending: deque[_PendingBatch[Batch]] = deque()
        self._tasks: deque[tuple[_PendingBatch[Batch], int, Task]] = deque()
        self._prepared = 0  # number of batches
        self._preparing = self._stopped = False
        self._thread_error: BaseException | None = None
        self.threads: list[threading.Thread] = []

    def run(self) -> None:
        """Prepare batches and run tasks until all are done or the pool is stopped. This is the body of each thread."""
        try:
            while (job := self._next_job()) is not None:
                job()
        except BaseException as error:  # belongs to no task, and would be lost in a thread
            with self._condition:
                self._thread_error = error
                self._condition.notify_all()

    def _next_job(self) -> Callable[[], None] | None:
        """Wait for a job: prepare a batch while few tasks are left, else run the oldest task. None ends the thread."""
        with self._condition:
            while not self._stopped:
                if self._should_prepare():
                    self._preparing = True
                    return self._prepare_batch
                if self._tasks:
                    return partial(self._run_task, *self._tasks.popleft())
                if self._prepared == self._batches:
                    return None
                self._condition.wait()
        return None

    def _should_prepare(self) -> bool:
        """Return whether to prepare a batch now: one thread at a time, and at most `max_pending` pending batches."""
        needed = self._prepared < self._batches and len(self._tasks) < self._batch_size
        return needed and not self._preparing and len(self._pending) < self._max_pending

    def _prepare_batch(self) -> None:
        batch: Batch | None = None
        tasks: list[Task] = []
        failure = None
        try:
            rows = list(itertools.islice(self._rows, self._batch_size))
            if len(rows) < self._batch_size:
                raise RuntimeError(f"rows ended in batch {self._prepared + 1} of {self._batches}")
            batch, tasks = self._prepare(rows)
        except Exception as error:
            failure = (0, error)
        pending = _PendingBatch(batch, len(tasks), failure)
        with self._condition:
            self._prepared += 1
            self._preparing = False
            self._pending.append(pending)
            self._tasks.extend((pending, index, task) for index, task in enumerate(tasks))
            self._condition.notify_all()

    def _run_task(self, pending: _PendingBatch[Batch], index: int, task: Task) -> None:
        failure = None
        try:
            task()
        except Exception as error:
            failure = error
        with self._condition:
            pending.unfinished_tasks -= 1
            if failure is not None and (pending.failure is None or index < pending.failure[0]):
                pending.failure = (index, failure)
            if not pending.unfinished_tasks:
                self._condition.notify_all()

    def next_batch(self) -> Batch:
        """Wait for the oldest batch and return it. Raises the exception of its first failed task."""
        with self._condition:
            self._condition.wait_for(
                lambda: self._thread_error or (self._pending and not self._pending[0].unfinished_tasks)
            )
            if self._thread_error is not None:
                raise self._thread_error
            pending = self._pending.popleft()
            self._condition.notify_all()
        if pending.failure is not None:
            raise pending.failure[1]
        assert pending.batch is not None  # only a failed preparation leaves no batch
        return pending.batch

    def stop(self) -> None:
        """Stop the threads, wait until they have ended, and close the rows."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        # The garbage collector may run this as a finalizer in one of the threads, and a thread cannot join itself.
        if threading.current_thread() in self.threads:
            return
        for thread in self.threads:
            thread.join()
        self._rows.close()


def prefetch_batches(
    rows: Generator[Row, None, None],
    prepare: Callable[[list[Row]], tuple[Batch, list[Task]]],
    *,
    batches: int,
    batch_size: int,
    threads: int,
    max_pending: int,
) -> Iterator[Batch]:
    """Build batches in several threads, one task per sample, and yield them in order.

    The threads are stopped and joined when the iterator is exhausted, closed or garbage-collected, when it raises, and
    when the interpreter exits.

    Args:
        rows: read in order, by one thread at a time, and closed at the end.
        prepare: returns the batch for a list of rows, and one task per sample that writes it into the batch. Both run
            in any thread, `prepare` in one at a time. Their results must depend on the rows alone, so that the batches
            do not depend on the number of threads.
        batches: number of batches to yield.
        batch_size: number of rows per batch.
        threads: number of threads, at least 1.
        max_pending: maximum number of batches in memory that are incomplete or not yet consumed.

    Raises:
        Exception: an exception from `rows`, `prepare` or the first failed task of a batch, when the iterator reaches
            that batch.
    """
    pool = _ThreadPool(rows, prepare, batches=batches, batch_size=batch_size, max_pending=max_pending)
    # Daemon threads, because at exit the interpreter joins all others before it runs the finalizer that stops them.
    pool.threads = [threading.Thread(target=pool.run, name=f"batches-{i}", daemon=True) for i in range(threads)]
    for thread in pool.threads:
        thread.start()
    return _BatchIterator(pool, batches)


class _BatchIterator(Iterator[Batch]):
    """Yields the batches of a pool, and stops the pool when it is closed or garbage-collected."""

    def __init__(self, pool: _ThreadPool[Row, Batch], batches: int) -> None:
        self._pool, self._remaining = pool, batches
        self.close = weakref.finalize(self, pool.stop)

    def __next__(self) -> Batch:
        if not self._remaining or not self.close.alive:
            self.close()
            raise StopIteration
        try:
            batch: Batch = self._pool.next_batch()
        except BaseException:
            self.close()
            raise
        self._remaining -= 1
        if not self._remaining:
            self.close()
        return batch
