from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from functools import partial

import numpy as np
import pytest

from pipeline.loading.prefetch import prefetch_batches

Array = np.ndarray
WriteRow = Callable[[int, Array, int], None]


class Numbers:
    """Rows 0, 1, 2, …; counts the rows read and remembers whether the generator was closed."""

    def __init__(self, count: int, fail_at: int = -1) -> None:
        self.count, self.fail_at = count, fail_at
        self.read = 0
        self.closed = False

    def rows(self) -> Generator[int, None, None]:
        try:
            for number in range(self.count):
                if number == self.fail_at:
                    raise OSError(f"row {number}")
                self.read += 1
                yield number
        finally:
            self.closed = True


def write(row: int, batch: Array, index: int) -> None:
    batch[index] = row


def write_with_delay(row: int, batch: Array, index: int) -> None:
    time.sleep(0.002 * (row * 7 % 3))
    batch[index] = row


def prepare(write_row: WriteRow, rows: list[int]) -> tuple[Array, list[Callable[[], None]]]:
    batch = np.full(4, -1)
    return batch, [partial(write_row, row, batch, index) for index, row in enumerate(rows)]


def start(numbers: Numbers, write_row: WriteRow = write, *, batches: int, threads: int, max_pending: int = 3):
    return prefetch_batches(
        numbers.rows(),
        partial(prepare, write_row),
        batches=batches,
        batch_size=4,
        threads=threads,
        max_pending=max_pending,
    )


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("threads", [1, 2, 4, 9])
def test_batches_come_in_order_and_whole(threads):
    numbers = Numbers(40)
    batches = list(start(numbers, write_with_delay, batches=10, threads=threads))
    np.testing.assert_array_equal(np.concatenate(batches), np.arange(40))
    assert numbers.closed


def test_zero_batches():
    assert list(start(Numbers(0), batches=0, threads=2)) == []


def test_at_most_max_pending_batches_are_prepared():
    numbers = Numbers(400)
    batches = start(numbers, batches=100, threads=3, max_pending=2)
    next(batches)
    time.sleep(0.1)
    assert numbers.read == 12  # the consumed batch and two pending ones
    del batches


@pytest.mark.parametrize("threads", [1, 4])
def test_the_first_failure_is_raised_at_its_batch(threads):
    def write_or_fail(row: int, batch: Array, index: int) -> None:
        if row in (9, 10):
            time.sleep(0.05 if row == 9 else 0)
            raise ValueError(f"row {row}")
        write(row, batch, index)

    numbers = Numbers(40)
    batches = start(numbers, write_or_fail, batches=10, threads=threads)
    np.testing.assert_array_equal(next(batches), range(4))
    np.testing.assert_array_equal(next(batches), range(4, 8))
    with pytest.raises(ValueError, match="row 9"):
        next(batches)
    assert numbers.closed
    assert list(batches) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_a_reader_that_fails(threads):
    batches = start(Numbers(40, fail_at=5), batches=10, threads=threads)
    next(batches)
    with pytest.raises(OSError, match="row 5"):
        next(batches)


def test_a_reader_that_ends_early():
    with pytest.raises(RuntimeError, match="rows ended in batch 2 of 3"):
        list(start(Numbers(6), batches=3, threads=2))


def test_a_memory_error_in_prepare_is_raised():
    def no_memory(rows: list[int]) -> tuple[Array, list[Callable[[], None]]]:
        raise MemoryError

    with pytest.raises(MemoryError):
        list(prefetch_batches(Numbers(8).rows(), no_memory, batches=2, batch_size=4, threads=2, max_pending=2))


@pytest.mark.parametrize("threads", [1, 3])
def test_a_failed_preparation_is_raised_at_its_batch(threads):
    def prepare_or_fail(rows: list[int]) -> tuple[Array, list[Callable[[], None]]]:
        if 9 in rows:
            raise ValueError("batch of 9")
        return prepare(write, rows)

    numbers = Numbers(40)
    batches = prefetch_batches(
        numbers.rows(), prepare_or_fail, batches=10, batch_size=4, threads=threads, max_pending=3
    )
    assert [next(batches).tolist() for _ in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(ValueError, match="batch of 9"):
        next(batches)
    assert numbers.closed


def test_batches_are_prepared_one_at_a_time():
    running, max_running, lock = 0, 0, threading.Lock()

    def counting_prepare(rows: list[int]) -> tuple[Array, list[Callable[[], None]]]:
        nonlocal running, max_running
        with lock:
            running += 1
            max_running = max(max_running, running)
        time.sleep(0.001)
        with lock:
            running -= 1
        return prepare(write_with_delay, rows)

    rows = Numbers(80).rows()
    batches = list(prefetch_batches(rows, counting_prepare, batches=20, batch_size=4, threads=5, max_pending=4))
    np.testing.assert_array_equal(np.concatenate(batches), np.arange(80))
    assert max_running == 1


@pytest.mark.parametrize("consumed", [0, 1])
def test_dropping_or_closing_the_iterator_ends_the_threads(consumed):
    for end in ("drop", "close"):
        numbers = Numbers(4000)
        batches = start(numbers, write_with_delay, batches=1000, threads=3)
        for _ in range(consumed):
            next(batches)
        if end == "close":
            batches.close()
            assert list(batches) == []
        del batches
        gc.collect()
        assert numbers.closed


def test_the_interpreter_exits_while_an_iterator_is_open():
    code = """
import itertools, numpy as np
from pipeline.loading.prefetch import prefetch_batches
rows = (number for number in itertools.count())
sizes = {"batches": 99, "batch_size": 4, "threads": 2, "max_pending": 2}
iterator = prefetch_batches(rows, lambda rows: (np.zeros(4), [lambda: None] * 4), **sizes)
next(iterator)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=20).returncode == 0
