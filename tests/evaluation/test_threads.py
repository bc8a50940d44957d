"""Reading and working ahead: in order, bounded, and ended with the caller."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from evaluation.inference.threads import prefetch, prefetch_map


def counting(numbers, taken):
    for number in numbers:
        taken.append(number)
        yield number


@pytest.mark.parametrize("ahead", [0, 3, 100])
def test_items_are_read_in_order_and_not_far_ahead(ahead):
    taken = []
    reader = prefetch(counting(range(30), taken), ahead)
    for number in range(30):
        assert next(reader) == number
        time.sleep(0.001)
        assert len(taken) <= number + ahead + 2
    assert list(reader) == []
    assert taken == list(range(30))


def test_items_may_be_false():
    assert list(prefetch(iter([0, None, "", False]), 2)) == [0, None, "", False]
    assert list(prefetch(iter([]), 2)) == []


def test_reading_ends_with_the_caller_and_fails_where_it_failed():
    taken = []
    reader = prefetch(counting(range(10**9), taken), 4)
    assert next(reader) == 0
    reader.close()
    assert len(taken) <= 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader")]

    def failing():
        yield 1
        raise OSError("gone")

    reader = prefetch(failing(), 4)
    assert next(reader) == 1
    with pytest.raises(OSError, match="gone"):
        next(reader)


def test_work_is_in_order_whoever_is_first():
    with ThreadPoolExecutor(4) as pool:

        def slow_if_even(number):
            time.sleep(0.002 * (1 - number % 2))
            return number * number

        assert list(prefetch_map(pool, slow_if_even, range(40), 8)) == [number * number for number in range(40)]
