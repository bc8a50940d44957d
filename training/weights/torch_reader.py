"""Read weights in the two file formats of PyTorch, without PyTorch.

Before version 1.6, and still in torchvision's VGG19, a file consists of a few pickles followed by the values of every
storage. Since version 1.6 it is an uncompressed zip archive with one entry for each storage. Source:
torch/serialization.py.
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

from training.weights import pickle_reader
from training.weights.pickle_reader import PickledTensor, StorageReference
from training.weights.stored_tensor import MAX_DIMENSIONS, Array, StoredTensor, strided_view

MAGIC = 0x1950A86A20F9469CFC6C
"""Content of the first pickle of a file in the older format."""
PROTOCOL = 1001
"""Content of the second pickle of a file in the older format."""

Bytes = NDArray[np.uint8]
FindStorage = Callable[[StorageReference], Bytes]
"""Function that returns the bytes of a storage; raises ValueError if they are missing or damaged."""

_ZIP_HEADER_SIZE = 30
"""Bytes of the local header of a zip entry, before the name of the entry."""


def read_zip(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors by name of a file in the newer format (zip).

    Raises:
        ValueError: the file is damaged, or contains anything but tensors.
    """
    content = np.memmap(path, np.uint8, mode="r")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError("a damaged zip") from error
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError("a zip that was not written by PyTorch")

    def read_entry(name: str) -> Bytes:
        if roots[0] + name not in entries:
            raise ValueError(f"the zip has no entry {name[:40]!a}")
        return _zip_entry(content, entries[roots[0] + name])

    if f"{roots[0]}byteorder" in entries and bytes(read_entry("byteorder")[:6]) != b"little":
        raise ValueError("was written on a big-endian machine")
    tree, _ = pickle_reader.load(_stream(read_entry("data.pkl")))
    return _collect_tensors(tree, lambda storage: read_entry(f"data/{storage.key}"))


def _zip_entry(content: Bytes, info: zipfile.ZipInfo) -> Bytes:
    """Return the bytes of a zip entry as a view of the file, after checking size and CRC."""
    head = bytes(content[info.header_offset : info.header_offset + _ZIP_HEADER_SIZE])
    name_length, extra_length = int.from_bytes(head[26:28], "little"), int.from_bytes(head[28:30], "little")
    start = info.header_offset + _ZIP_HEADER_SIZE + name_length + extra_length
    data = content[start : start + info.file_size]
    stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    if not stored or head[:4] != b"PK\x03\x04" or len(data) < info.file_size or binascii.crc32(data.data) != info.CRC:
        raise ValueError(f"the entry {info.filename[:60]!a} of the zip is damaged")
    return data


def read_legacy(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors by name of a file in the older format (pickles, then storages).

    Raises:
        ValueError: the file is damaged, or contains anything but tensors.
    """
    content = np.memmap(path, np.uint8, mode="r")
    stream = _stream(content)
    (magic, _), (protocol, _), (system, _) = (pickle_reader.load(stream) for _ in range(3))
    if magic != MAGIC or protocol != PROTOCOL:
        raise ValueError("a pickle that was not written by PyTorch")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("was written on a big-endian machine")
    tree, storages = pickle_reader.load(stream)
    keys, _ = pickle_reader.load(stream)
    data_by_key = _split_storages(content[stream.tell() :], keys, storages)

    def find_storage(storage: StorageReference) -> Bytes:
        if storage.key not in data_by_key:
            raise ValueError(f"has no storage {storage.key[:40]!a}")
        return data_by_key[storage.key]

    return _collect_tensors(tree, find_storage)


def _split_storages(content: Bytes, keys: Any, storages: dict[str, StorageReference]) -> dict[str, Bytes]:
    """Return the bytes of each storage; in the file, the number of elements (8 bytes) precedes the values."""
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise ValueError("its list of storages is damaged")
    data_by_key = {}
    for key in keys:
        size = int.from_bytes(content[:8].tobytes(), "little") * storages[key].dtype.itemsize
        if size > len(content) - 8:
            raise ValueError("is truncated")
        data_by_key[key], content = content[8 : 8 + size], content[8 + size :]
    return data_by_key


def _stream(content: Bytes) -> io.BytesIO:
    return io.BytesIO(content[: pickle_reader.MAX_PICKLE_BYTES].tobytes())


def _collect_tensors(tree: Any, find_storage: FindStorage) -> dict[str, StoredTensor]:
    """Return the tensors of a dictionary, or of the `state_dict` in it; all other values are ignored."""
    if isinstance(tree, dict) and isinstance(tree.get("state_dict"), dict):
        tree = tree["state_dict"]
    if not isinstance(tree, dict):
        raise ValueError("contains no dictionary of tensors; save the state_dict() of the model")
    return {
        name: _stored_tensor(value.layout, find_storage)
        for name, value in tree.items()
        if isinstance(name, str) and isinstance(value, PickledTensor)
    }


def _stored_tensor(layout: Any, find_storage: FindStorage) -> StoredTensor:
    """Validate the storage, offset, shape and stride of a tensor."""
    if not isinstance(layout, tuple) or len(layout) != 4 or not isinstance(layout[0], StorageReference):
        raise ValueError("has a tensor without a storage")
    storage, offset, shape, stride = layout
    if not isinstance(shape, tuple) or not isinstance(stride, tuple) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"has a tensor without a shape, or with more than {MAX_DIMENSIONS} dimensions")
    if any(type(value) is not int or not 0 <= value < 2**48 for value in (offset, *shape, *stride)):
        raise ValueError("has a tensor with an invalid offset, shape or stride")
    return StoredTensor(shape, functools.partial(_read, storage, find_storage, offset, shape, stride))


def _read(
    storage: StorageReference, find_storage: FindStorage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
) -> Array:
    data = find_storage(storage)
    if len(data) != storage.count * storage.dtype.itemsize:
        raise ValueError(f"has {len(data)} bytes for {storage.count} elements of type {storage.dtype}")
    return strided_view(data.view(storage.dtype), offset, shape, stride)
