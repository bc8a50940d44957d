"""A tensor inside a file of weights: its position and shape are validated first, its values are read later.

A VGG19 with its classifier takes half a gigabyte, of which this network needs a hundredth. A file that declares a
tensor larger than itself must be refused before memory is allocated for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MAX_DIMENSIONS = 8
"""Largest number of dimensions of a tensor."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor inside a file.

    Attributes:
        shape: shape of the tensor.
        read: function that returns the values with the dtype of the file; raises ValueError if they are damaged.
    """

    shape: tuple[int, ...]
    read: Callable[[], Array]


def strided_view(storage: Array, offset: int, shape: Sequence[int], stride: Sequence[int]) -> Array:
    """Return a tensor as a read-only view of its storage, without a copy.

    Args:
        storage: (N,) values of the storage.
        offset: index of the first value of the tensor in the storage, >= 0.
        shape: shape of the tensor, no side below 0.
        stride: stride of each dimension in elements, >= 0.

    Raises:
        ValueError: the tensor reaches beyond its storage, is empty, or has more elements than the storage.
    """
    if len(shape) != len(stride):
        raise ValueError(f"has a tensor of {len(shape)} dimensions and {len(stride)} strides")
    count = math.prod(shape)
    last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
    if not 0 < count <= len(storage) or last >= len(storage):
        raise ValueError(f"has a tensor of {count} elements at offset {offset} in a storage of {len(storage)}")
    byte_strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], tuple(shape), byte_strides, writeable=False)
