"""Weights in PyTorch's two file formats, read without PyTorch.

Until version 1.6, and in torchvision's VGG19 still, a file is a few pickles and then the numbers of every storage, one
after the other; since then it is an uncompressed zip with one entry a storage. Source: torch/serialization.py.
"""

from __future__ import annotations

import binascii
import functools
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.weights import pickle_reader as pickled
from training.weights.stored_tensor import MAX_DIMENSIONS, Numbers, StoredTensor, strided_view

MAGIC = 0x1950A86A20F9469CFC6C
"""What the first pickle of an old file says."""
PROTOCOL = 1001
"""What its second one says."""

Bytes = NDArray[np.uint8]
Find = Callable[[pickled.Storage], Bytes]
"""Gives the bytes of a storage; ValueError where they are not there, or damaged."""

_HEADER = 30
"""Bytes of a zip entry's own header, before its name."""


def read_zip(path: Path) -> dict[str, StoredTensor]:
    """Tensors by name of a file in the newer format; ValueError where it is damaged or holds anything else."""
    content = np.memmap(path, np.uint8, mode="r")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError("a damaged zip") from error
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError("a zip that PyTorch did not write")

    def entry(name: str) -> Bytes:
        if roots[0] + name not in entries:
            raise ValueError(f"has no {name[:40]!a} inside")
        return _entry(content, entries[roots[0] + name])

    if f"{roots[0]}byteorder" in entries and bytes(entry("byteorder")[:6]) != b"little":
        raise ValueError("was written on a big-endian machine")
    tree, _ = pickled.load(_stream(entry("data.pkl")))
    return _tensors(tree, lambda storage: entry(f"data/{storage.key}"))


def _entry(content: Bytes, info: zipfile.ZipInfo) -> Bytes:
    """The bytes of a zip's entry, where they lie, checked."""
    head = bytes(content[info.header_offset : info.header_offset + _HEADER])
    start = info.header_offset + _HEADER + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    data = content[start : start + info.file_size]
    stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    if not stored or head[:4] != b"PK\x03\x04" or len(data) < info.file_size or binascii.crc32(data.data) != info.CRC:
        raise ValueError(f"{info.filename[:60]!a} inside is damaged")
    return data


def read_legacy(path: Path) -> dict[str, StoredTensor]:
    """Tensors by name of a file in the older format; ValueError where it is damaged or holds anything else."""
    content = np.memmap(path, np.uint8, mode="r")
    stream = _stream(content)
    (magic, _), (protocol, _), (system, _) = (pickled.load(stream) for _ in range(3))
    if magic != MAGIC or protocol != PROTOCOL:
        raise ValueError("a pickle that PyTorch did not write")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("was written on a big-endian machine")
    tree, storages = pickled.load(stream)
    keys, _ = pickled.load(stream)
    blocks = _blocks(content[stream.tell() :], keys, storages)

    def block(storage: pickled.Storage) -> Bytes:
        if storage.key not in blocks:
            raise ValueError(f"has no block of numbers {storage.key[:40]!a}")
        return blocks[storage.key]

    return _tensors(tree, block)


def _blocks(content: Bytes, keys: Any, storages: dict[str, pickled.Storage]) -> dict[str, Bytes]:
    """Where the numbers of each storage lie, each after their count."""
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise ValueError("its list of blocks of numbers is damaged")
    blocks = {}
    for key in keys:
        size = int.from_bytes(content[:8].tobytes(), "little") * storages[key].dtype.itemsize
        if size > len(content) - 8:
            raise ValueError("is cut off")
        blocks[key], content = content[8 : 8 + size], content[8 + size :]
    return blocks


def _stream(content: Bytes) -> io.BytesIO:
    return io.BytesIO(content[: pickled.LARGEST].tobytes())


def _tensors(tree: Any, find: Find) -> dict[str, StoredTensor]:
    """The tensors of a dictionary, or of the `state_dict` in it; everything else that it holds is left aside."""
    if isinstance(tree, dict) and isinstance(tree.get("state_dict"), dict):
        tree = tree["state_dict"]
    if not isinstance(tree, dict):
        raise ValueError("holds no dictionary of tensors")
    return {
        name: _stored(value.place, find)
        for name, value in tree.items()
        if isinstance(name, str) and isinstance(value, pickled.Tensor)
    }


def _stored(place: Any, find: Find) -> StoredTensor:
    if not isinstance(place, tuple) or len(place) != 4 or not isinstance(place[0], pickled.Storage):
        raise ValueError("has a tensor without a place")
    storage, offset, shape, stride = place
    if not isinstance(shape, tuple) or not isinstance(stride, tuple) or len(shape) > MAX_DIMENSIONS:
        raise ValueError("has a tensor without a shape")
    if any(type(value) is not int or not 0 <= value < 2**48 for value in (offset, *shape, *stride)):
        raise ValueError("has a tensor with a place that is none")
    return StoredTensor(shape, functools.partial(_read, storage, find, offset, shape, stride))


def _read(
    storage: pickled.Storage, find: Find, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
) -> Numbers:
    data = find(storage)
    if len(data) != storage.count * storage.dtype.itemsize:
        raise ValueError(f"has {len(data)} bytes for {storage.count} numbers")
    return strided_view(data.view(storage.dtype), offset, shape, stride)
