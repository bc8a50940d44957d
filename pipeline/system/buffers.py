"""Memory that is used again and again, for fresh memory is paid for page by page."""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ThreadBuffers(threading.local):
    """Arrays of bytes by name, of the calling thread alone."""

    def __init__(self) -> None:
        self._memory: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, *shape: int) -> NDArray[np.uint8]:
        """A contiguous uint8 array with anything in it, the thread's until it asks for the same name again."""
        size = math.prod(shape)
        memory = self._memory.get(name)
        if memory is None or memory.size < size:
            memory = self._memory[name] = np.empty(size, dtype=np.uint8)
        return memory[:size].reshape(shape)


class BufferPool:
    """Arrays that are given out again when nobody holds them any more, nor a view of them."""

    _UNHELD = 3
    """References to an array that only this object knows: its list's, the loop's and getrefcount's own."""

    def __init__(self) -> None:
        self._arrays: list[NDArray[Any]] = []

    def array(self, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """A contiguous array with anything in it, the caller's until the last reference to it is gone."""
        for array in self._arrays:
            if array.shape == shape and array.dtype == dtype and sys.getrefcount(array) == self._UNHELD:
                return array
        self._arrays.append(np.empty(shape, dtype))
        return self._arrays[-1]
