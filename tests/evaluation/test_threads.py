"""Tests of prefetching: it keeps the order, is bounded, and ends with the consumer."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from evaluation.inference.threads import prefetch, prefetch_map


def counting(numbers, consumed):
    for number in numbers:
        consumed.append(number)
        yield number


@pytest.mark.parametrize("ahead", [0, 3, 100])
def test_items_are_read_in_order_and_prefetching_is_bounded(ahead):
    consumed = []
    reader = prefetch(counting(range(30), consumed), ahead)
    for number in range(30):
        assert next(reader) == number
        time.sleep(0.001)
        assert len(consumed) <= number + ahead + 2
    assert list(reader) == []
    assert consumed == list(range(30))


def test_items_may_be_false():
    assert list(prefetch(iter([0, None, "", False]), 2)) == [0, None, "", False]
    assert list(prefetch(iter([]), 2)) == []


def test_reading_ends_with_the_consumer_and_passes_errors_on():
    consumed = []
    reader = prefetch(counting(range(10**9), consumed), 4)
    assert next(reader) == 0
    reader.close()
    assert len(consumed) <= 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader")]

    def failing():
        yield 1
        raise OSError("gone")

    reader = prefetch(failing(), 4)
    assert next(reader) == 1
    with pytest.raises(OSError, match="gone"):
        next(reader)


def test_results_keep_the_order_of_the_inputs():
    with ThreadPoolExecutor(4) as pool:

        def slow_if_even(number):
            time.sleep(0.002 * (1 - number % 2))
            return number * number

        assert list(prefetch_map(pool, slow_if_even, range(40), 8)) == [number * number for number in range(40)]
