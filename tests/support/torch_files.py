"""Writer of PyTorch's two file formats, including malicious files, without PyTorch.

The pickles are assembled from single instructions, as in torch.save. This was checked manually with PyTorch 2.13.0:
torch.load, with and without weights_only, reads files of `write` in both formats to the same numbers, for all dtypes
here except u1; and `training.weights.reader` reads files of torch.save in both formats.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from training.weights.torch_reader import MAGIC, PROTOCOL

Array = np.ndarray[Any, Any]

KINDS = {
    **{"f8": "Double", "f4": "Float", "f2": "Half"},
    **{"i8": "Long", "i4": "Int", "i2": "Short", "i1": "Char", "u1": "Byte"},
}


def name(module: str, attribute: str) -> bytes:
    return b"c" + f"{module}\n{attribute}\n".encode()


def value(one: Any) -> bytes:
    """Encode a plain value as pickle instructions; bytes are returned unchanged, as already encoded instructions."""
    if isinstance(one, bytes):
        return one
    return next(encode(one) for kind, encode in _ENCODERS.items() if isinstance(one, kind))


def _encode_int(one: int) -> bytes:
    size = (one.bit_length() + 8) // 8
    return b"\x8a" + bytes([size]) + one.to_bytes(size, "little", signed=True)


def _encode_all(values: Iterable[Any]) -> bytes:
    return b"".join(map(value, values))


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"N",
    bool: lambda one: b"\x88" if one else b"\x89",
    int: _encode_int,
    float: lambda one: b"G" + struct.pack(">d", one),
    str: lambda one: b"X" + struct.pack("<I", len(one.encode())) + one.encode(),
    tuple: lambda one: b"(" + _encode_all(one) + b"t",
    list: lambda one: b"](" + _encode_all(one) + b"e",
    dict: lambda one: b"}(" + _encode_all(part for pair in one.items() for part in pair) + b"u",
}


def call(function: bytes, *arguments: Any) -> bytes:
    return function + value(arguments) + b"R"


def pickle(one: Any) -> bytes:
    return b"\x80\x02" + value(one) + b"."


def tensor(key: str, array: Array, numbers: Array | None = None, offset: int = 0, view: bool = False) -> bytes:
    """Encode a tensor in storage `key`; `numbers` is the content of the storage if it is not exactly the array.

    `view` adds the view metadata of the storage, which only the legacy format has.
    """
    storage = array if numbers is None else numbers
    kind = name("torch", f"{KINDS[array.dtype.str[1:]]}Storage")
    place = value(("storage", kind, key, "cpu", storage.size, *([None] if view else []))) + b"Q"
    stride = tuple(step // array.itemsize for step in array.strides)
    hooks = call(name("collections", "OrderedDict"))
    return call(name("torch._utils", "_rebuild_tensor_v2"), place, offset, array.shape, stride, False, hooks)


def dictionary(items: Mapping[str, Any]) -> bytes:
    """Encode an ordered dictionary with the attribute `_metadata`, like a state dict."""
    filled = b"(" + _encode_all(part for pair in items.items() for part in pair) + b"u"
    return call(name("collections", "OrderedDict")) + filled + value({"_metadata": {"version": 1}}) + b"b"


def legacy(tree: Any, blocks: Mapping[str, Array]) -> bytes:
    """Return a file in the format of PyTorch before 1.6, from a pickled object and storages by key."""
    system = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    pickles = [pickle(each) for each in (MAGIC, PROTOCOL, system, tree, list(blocks))]
    numbers = [struct.pack("<q", block.size) + block.tobytes() for block in blocks.values()]
    return b"".join(pickles + numbers)


def zipped(tree: Any, blocks: Mapping[str, Array], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a file in the format of PyTorch since 1.6."""
    entries = {"data.pkl": pickle(tree), "byteorder": b"little", "version": b"3\n"}
    entries |= {f"data/{key}": block.tobytes() for key, block in blocks.items()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for entry, data in entries.items():
            archive.writestr(f"weights/{entry}", data)
    return file.getvalue()


Format = Callable[[Any, Mapping[str, Array]], bytes]
FORMATS: dict[str, Format] = {"legacy": legacy, "zip": zipped}


def write(path: Path, arrays: Mapping[str, Array], kind: str) -> Path:
    """Write named arrays in the format of torch.save; `kind` is a key of FORMATS."""
    keys = {each: str(i) for i, each in enumerate(arrays)}
    tree = dictionary({each: tensor(keys[each], array, view=kind == "legacy") for each, array in arrays.items()})
    path.write_bytes(FORMATS[kind](tree, {keys[each]: array for each, array in arrays.items()}))
    return path
