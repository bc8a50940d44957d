"""Reader of MindSpore checkpoint files that does not trust their content.

`mindspore.load_checkpoint` (2.8.0) allocates a buffer by the shape stored in the file, and copies as many bytes into it
as the file holds for the tensor, without comparing the two sizes. A crafted file can therefore overwrite the heap, and
the checksum is no protection because it is not cryptographic. This module parses the protobuf message itself and checks
every size before NumPy uses the data. The format holds only numbers and strings; nothing is unpickled.
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

_CHECKSUM_MARKER = b"crc_num"
_CHECKSUM_BYTES = 10
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
_STRING_TYPE = "str"


def read_tensors(path: Path) -> dict[str, ms.Parameter | str]:
    """Return every parameter and every string of a checkpoint by name. Raises as `read_arrays`."""
    return {
        name: value if isinstance(value, str) else ms.Parameter(ms.Tensor(value), name=name)
        for name, value in read_arrays(path).items()
    }


def read_arrays(path: Path, *, require_checksum: bool = True) -> dict[str, np.ndarray[Any, Any] | str]:
    """Return every tensor and every string of a checkpoint by name.

    Args:
        path: the file.
        require_checksum: reject a file without a checksum; MindSpore writes one only on request. A checksum that is
            present must be correct in any case.

    Raises:
        ValueError: the checksum is missing or wrong, the file is not a checkpoint, or the size, type or shape of a
            tensor is invalid.
        OSError: the file cannot be read.
    """
    content = _verify_checksum(path.read_bytes(), require_checksum)
    return {
        name: data.decode("utf-32-le") if kind == _STRING_TYPE else _array(name, kind, dims, data)
        for name, kind, dims, data in _entries(content)
    }


def _verify_checksum(content: bytes, required: bool) -> memoryview:
    """Return the message without the checksum at its end; ValueError if that is wrong, or required and missing."""
    body = memoryview(content)[: -len(_CHECKSUM_MARKER) - _CHECKSUM_BYTES]
    if content[len(body) : len(body) + len(_CHECKSUM_MARKER)] != _CHECKSUM_MARKER:
        if not required:
            return memoryview(content)
        raise ValueError("no checksum at the end")
    if int.from_bytes(content[-_CHECKSUM_BYTES:], "big") != binascii.crc32(body):
        raise ValueError("wrong checksum")
    return body


def _entries(content: memoryview) -> Iterator[tuple[str, str, list[int], bytes]]:
    """Yield name, type, shape and bytes of every tensor. MindSpore splits a large one into consecutive entries."""
    from google.protobuf.message import DecodeError
    from mindspore.train.checkpoint_pb2 import Checkpoint

    message: Any = Checkpoint()
    try:
        message.ParseFromString(content)
    except DecodeError as error:
        raise ValueError("not a checkpoint message") from error
    for name, parts in itertools.groupby(message.value, operator.attrgetter("tag")):
        tensors = [part.tensor for part in parts]
        data = b"".join(tensor.tensor_content for tensor in tensors)
        yield name, tensors[0].tensor_type, list(tensors[0].dims), data


def _array(name: str, kind: str, dims: list[int], data: bytes) -> np.ndarray[Any, Any]:
    if kind not in _DTYPES:
        raise ValueError(f"{name[:60]!r} has the unknown type {kind[:20]!r}")
    shape = () if dims == [0] else tuple(dims)  # MindSpore writes a scalar with shape (0,)
    dtype = np.dtype(_DTYPES[kind])
    if len(shape) > 8 or min(shape, default=1) < 1 or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{name[:60]!r} has {len(data)} bytes, which does not match its shape")
    return np.frombuffer(data, dtype).reshape(shape)
