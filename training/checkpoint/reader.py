"""The tensors in a MindSpore checkpoint, read without trusting the file.

`mindspore.load_checkpoint` (2.8.0) copies as many bytes as the file has for a tensor into a buffer as large as the file
says its shape is, without comparing the two: a file made to do so overwrites the heap, and its checksum is no more than
a checksum. So the file's protobuf message is read here, and every size compared, before NumPy looks at it. The format
holds numbers and strings, no code: there is nothing to unpickle.
"""

from __future__ import annotations

import binascii
import itertools
import math
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np

_MARK = b"crc_num"
_CRC_BYTES = 10
_DTYPES = {
    "Int8": np.int8,
    "UInt8": np.uint8,
    "Int16": np.int16,
    "Int32": np.int32,
    "Int64": np.int64,
    "Float16": np.float16,
    "Float32": np.float32,
    "Float64": np.float64,
    "Bool": np.bool_,
}
_TEXT = "str"


def read_tensors(path: Path) -> dict[str, ms.Parameter | str]:
    """Every parameter and every string of a checkpoint by name; raises what `read_arrays` does."""
    return {
        name: value if isinstance(value, str) else ms.Parameter(ms.Tensor(value), name=name)
        for name, value in read_arrays(path).items()
    }


def read_arrays(path: Path, *, checksum: bool = True) -> dict[str, np.ndarray[Any, Any] | str]:
    """Every tensor and every string of a checkpoint by name.

    Args:
        path: the file.
        checksum: it must have one; else one that is there must be right, for MindSpore writes none unless asked to.

    Raises:
        ValueError: it has no checksum or a wrong one, is no checkpoint, or holds a tensor whose bytes, type or shape
            cannot be.
        OSError: it cannot be read.
    """
    content = _checked(path.read_bytes(), checksum)
    return {
        name: data.decode("utf-32-le") if kind == _TEXT else _array(name, kind, dims, data)
        for name, kind, dims, data in _entries(content)
    }


def _checked(content: bytes, needed: bool) -> memoryview:
    """The message without the checksum that ends the file; ValueError where that is needed and missing, or wrong."""
    body = memoryview(content)[: -len(_MARK) - _CRC_BYTES]
    if content[len(body) : len(body) + len(_MARK)] != _MARK:
        if not needed:
            return memoryview(content)
        raise ValueError("no checksum at the end")
    if int.from_bytes(content[-_CRC_BYTES:], "big") != binascii.crc32(body):
        raise ValueError("wrong checksum")
    return body


def _entries(content: memoryview) -> Iterator[tuple[str, str, list[int], bytes]]:
    """Name, type, shape and bytes of every tensor; MindSpore cuts large ones into several entries in a row."""
    from google.protobuf.message import DecodeError
    from mindspore.train.checkpoint_pb2 import Checkpoint

    message: Any = Checkpoint()
    try:
        message.ParseFromString(content)
    except DecodeError as error:
        raise ValueError("not a checkpoint's message") from error
    for name, parts in itertools.groupby(message.value, operator.attrgetter("tag")):
        tensors = [part.tensor for part in parts]
        data = b"".join(tensor.tensor_content for tensor in tensors)
        yield name, tensors[0].tensor_type, list(tensors[0].dims), data


def _array(name: str, kind: str, dims: list[int], data: bytes) -> np.ndarray[Any, Any]:
    if kind not in _DTYPES:
        raise ValueError(f"{name[:60]!r} is of type {kind[:20]!r}")
    shape = () if dims == [0] else tuple(dims)  # how MindSpore writes a scalar
    dtype = np.dtype(_DTYPES[kind])
    if len(shape) > 8 or min(shape, default=1) < 1 or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{name[:60]!r} has {len(data)} bytes, which do not fit its shape")
    return np.frombuffer(data, dtype).reshape(shape)
