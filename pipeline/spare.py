"""Memory that a thread uses again and again, for fresh memory is paid for page by page."""

from __future__ import annotations

import math
import threading

import numpy as np
from numpy.typing import NDArray


class Spare(threading.local):
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
