"""Attacks that a `pickle.Unpickler` with an allow-list does not prevent, and `training.weights.pickle_reader` does.

They are the reason why this project has its own reader. When the first assertion of each test fails on a new version of
Python, the reader may have become unnecessary.
"""

from __future__ import annotations

import io
import pickle
import time
import tracemalloc
from typing import Any, NoReturn

import pytest

from training.weights import pickle_reader

INDEX = 2**21
LARGE_MEMO_INDEX = b"\x80\x02Nr" + INDEX.to_bytes(4, "little") + b"."
"""None, stored in the memo at a large index."""


def key_of_nested_tuples(depth: int) -> bytes:
    """A dictionary with one key: a tuple that contains its predecessor twice, `depth` times."""
    return b"\x80\x02})" + b"q\x00h\x00\x86" * depth + b"Ns."


class AllowList(pickle.Unpickler):
    """An unpickler with the shortest possible allow-list: it refuses every name and every persistent id."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError(str(pid))


def peak_memory(load: Any) -> int:
    tracemalloc.start()
    try:
        load()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_allow_list_does_not_limit_the_memo():
    assert peak_memory(AllowList(io.BytesIO(LARGE_MEMO_INDEX)).load) > 8 * INDEX
    assert peak_memory(lambda: pickle_reader.load(io.BytesIO(LARGE_MEMO_INDEX))) < 100_000


def test_an_allow_list_does_not_limit_the_time_to_hash_a_key():
    def seconds(depth: int) -> float:
        start = time.process_time()
        AllowList(io.BytesIO(key_of_nested_tuples(depth))).load()
        return time.process_time() - start

    assert seconds(20) > 20 * seconds(10)
    start = time.process_time()
    with pytest.raises(ValueError, match="keys that are not names"):
        pickle_reader.load(io.BytesIO(key_of_nested_tuples(5000)))
    assert time.process_time() - start < 5
