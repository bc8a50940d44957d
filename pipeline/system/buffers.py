"""Reusable array buffers. The first write to new memory is slow, because the kernel clears each page."""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ThreadBuffers(threading.local):
    """Named uint8 buffers, separate for each thread."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, *shape: int) -> NDArray[np.uint8]:
        """Return a contiguous, uninitialised uint8 array, valid until this thread requests the same name again."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            buffer = self._buffers[name] = np.empty(size, dtype=np.uint8)
        return buffer[:size].reshape(shape)


class BufferPool:
    """Pool of arrays. An array is reused once no reference to it, nor to a view of it, exists outside of the pool."""

    _POOL_REFERENCES = 3
    """References to an array in use nowhere else: from the list, the loop variable and the argument of getrefcount."""

    def __init__(self) -> None:
        self._arrays: list[NDArray[Any]] = []

    def array(self, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """Return a contiguous, uninitialised array. It stays the caller's until the last reference to it is dropped."""
        for array in self._arrays:
            if array.shape == shape and array.dtype == dtype and sys.getrefcount(array) == self._POOL_REFERENCES:
                return array
        self._arrays.append(np.empty(shape, dtype))
        return self._arrays[-1]
