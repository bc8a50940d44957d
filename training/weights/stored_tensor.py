"""A tensor that lies in a file: its place was checked, its numbers are not read before they are wanted.

A VGG19 with its classifier is half a gigabyte, of which a pose network wants a hundredth; and a file that claims a
tensor larger than itself must be refused before memory is taken for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]

MAX_DIMENSIONS = 8


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file.

    Attributes:
        shape: its shape.
        read: gives its numbers, in the file's type; ValueError where they turn out to be damaged.
    """

    shape: tuple[int, ...]
    read: Callable[[], Numbers]


def strided_view(numbers: Numbers, offset: int, shape: Sequence[int], stride: Sequence[int]) -> Numbers:
    """A view of a file's numbers as a tensor lies in them, without a copy.

    Args:
        numbers: (N,) what the tensor's storage holds.
        offset: of the tensor's first number; not negative, like all that follows.
        shape: of the tensor.
        stride: in numbers, along each of its dimensions.

    Raises:
        ValueError: the tensor leaves its storage, or claims more numbers than that has.
    """
    if len(shape) != len(stride):
        raise ValueError(f"has a tensor of {len(shape)} dimensions and {len(stride)} strides")
    count = math.prod(shape)
    last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
    if not 0 < count <= len(numbers) or last >= len(numbers):
        raise ValueError(f"has a tensor of {count} numbers at {offset} in a storage of {len(numbers)}")
    steps = [step * numbers.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(numbers[offset:], tuple(shape), steps, writeable=False)
