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


class Numbers:
    """Rows 0, 1, 2, …, with a record of what was read and whether they were closed."""

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


def write(row: int, batch: Array, place: int) -> None:
    batch[place] = row


def write_late(row: int, batch: Array, place: int) -> None:
    time.sleep(0.002 * (row * 7 % 3))
    batch[place] = row


def begin(fill: Callable[[int, Array, int], None], rows: list[int]) -> tuple[Array, list[Callable[[], None]]]:
    batch = np.full(4, -1)
    return batch, [partial(fill, row, batch, place) for place, row in enumerate(rows)]


def start(
    numbers: Numbers, fill: Callable[[int, Array, int], None] = write, *, batches: int, threads: int, ahead: int = 3
):
    return prefetch_batches(
        numbers.rows(),
        partial(begin, fill),
        batches=batches,
        batch_size=4,
        threads=threads,
        ahead=ahead,
    )


@pytest.fixture(autouse=True)
def _threads_end():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("threads", [1, 2, 4, 9])
def test_batches_come_in_order_and_whole(threads):
    numbers = Numbers(40)
    batches = list(start(numbers, write_late, batches=10, threads=threads))
    np.testing.assert_array_equal(np.concatenate(batches), np.arange(40))
    assert numbers.closed


def test_none():
    assert list(start(Numbers(0), batches=0, threads=2)) == []


def test_no_more_than_ahead_is_begun():
    numbers = Numbers(400)
    batches = start(numbers, batches=100, threads=3, ahead=2)
    next(batches)
    time.sleep(0.1)
    assert numbers.read == 12  # the one that was taken and two ahead
    del batches


@pytest.mark.parametrize("threads", [1, 4])
def test_the_earliest_failure_is_raised_when_its_turn_comes(threads):
    def fill(row: int, batch: Array, place: int) -> None:
        if row in (9, 10):
            time.sleep(0.05 if row == 9 else 0)
            raise ValueError(f"row {row}")
        write(row, batch, place)

    numbers = Numbers(40)
    batches = start(numbers, fill, batches=10, threads=threads)
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


def test_no_memory_for_a_batch():
    def no_memory(rows: list[int]) -> tuple[Array, list[Callable[[], None]]]:
        raise MemoryError

    with pytest.raises(MemoryError):
        list(prefetch_batches(Numbers(8).rows(), no_memory, batches=2, batch_size=4, threads=2, ahead=2))


@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_that_cannot_be_begun_fails_in_its_turn(threads):
    def begin_some(rows: list[int]) -> tuple[Array, list[Callable[[], None]]]:
        if 9 in rows:
            raise ValueError("batch of 9")
        return begin(write, rows)

    numbers = Numbers(40)
    batches = prefetch_batches(numbers.rows(), begin_some, batches=10, batch_size=4, threads=threads, ahead=3)
    assert [next(batches).tolist() for _ in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(ValueError, match="batch of 9"):
        next(batches)
    assert numbers.closed


def test_batches_are_begun_one_at_a_time_and_before_they_are_needed():
    running, most, lock = 0, 0, threading.Lock()

    def counted(rows: list[int]) -> tuple[Array, list[Callable[[], None]]]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.001)
        with lock:
            running -= 1
        return begin(write_late, rows)

    rows = Numbers(80).rows()
    batches = list(prefetch_batches(rows, counted, batches=20, batch_size=4, threads=5, ahead=4))
    np.testing.assert_array_equal(np.concatenate(batches), np.arange(80))
    assert most == 1


@pytest.mark.parametrize("taken", [0, 1])
def test_dropping_or_closing_ends_the_threads(taken):
    for end in ("drop", "close"):
        numbers = Numbers(4000)
        batches = start(numbers, write_late, batches=1000, threads=3)
        for _ in range(taken):
            next(batches)
        if end == "close":
            batches.close()
            assert list(batches) == []
        del batches
        gc.collect()
        assert numbers.closed


def test_the_program_ends_with_an_iterator_left():
    code = """
import itertools, numpy as np
from pipeline.loading.prefetch import prefetch_batches
rows = (number for number in itertools.count())
sizes = {"batches": 99, "batch_size": 4, "threads": 2, "ahead": 2}
left = prefetch_batches(rows, lambda rows: (np.zeros(4), [lambda: None] * 4), **sizes)
next(left)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=20).returncode == 0
