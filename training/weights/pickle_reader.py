"""Read the pickle inside a PyTorch file as data: nothing is imported and no function that the file names is called.

A pickle is a program for a stack machine. The interpreter in this module implements only the opcodes that a dictionary
of tensors needs, and replaces the few functions and classes that such a dictionary refers to by its own. A file with
any other opcode or name is refused.

A `pickle.Unpickler` whose `find_class` accepts only these names is not enough. It prevents calls of other functions,
but a small file can still take all memory or time (measured on CPython 3.11; `test_unpickler_limits.py`):

* The opcode LONG_BINPUT allocates the memo up to the index in the file: 9 bytes took 268 MB, with the largest index
  tens of GB.
* A dictionary key may be a tuple that contains its predecessor twice, n times. SETITEM hashes it in 2**n steps: a file
  of 127 bytes took 0.4 s, and every 5 further bytes double that. No signal handler runs before the hash is complete.

The methods of `pickle.Unpickler` for single opcodes cannot be overridden, so it can neither check keys nor refuse
opcodes. The Python class that allows this, `pickle._Unpickler`, is private.

Sources: Lib/pickletools.py of Python for the opcodes; torch/serialization.py and torch/_utils.py for the names.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

MAX_PICKLE_BYTES = 4 << 20
"""Largest size of a pickle in bytes, ten times that of the largest published networks: the values of the tensors are
stored outside the pickle."""

MAX_NAME_LENGTH = 1000
"""Largest number of characters of a dictionary key and of the key of a storage."""

STORAGE_DTYPES: dict[str, DTypeLike] = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
"""Dtypes of the storage classes in `torch` and `torch.cuda`."""


@dataclass(frozen=True)
class GlobalName:
    """A function or class that the pickle refers to, as a name only; it is never imported."""

    text: str


@dataclass(frozen=True)
class StorageReference:
    """A reference to a block of values that is stored outside the pickle.

    Attributes:
        key: key of the storage in the file.
        dtype: dtype of the values.
        count: number of elements that the pickle declares.
    """

    key: str
    dtype: np.dtype[Any]
    count: int


@dataclass
class PickledTensor:
    """A tensor as the pickle describes it, not validated. Files of 2017 create it empty and set its layout later.

    Attributes:
        layout: storage, offset, shape and stride in elements; None while the tensor is empty.
    """

    layout: tuple[Any, ...] | None = None


def load(stream: io.BytesIO) -> tuple[Any, dict[str, StorageReference]]:
    """Read the pickle at the position of a stream and leave the stream at the end of the pickle.

    Returns:
        The object, and the storages that it refers to by key. The object consists of None, bool, int, float, str,
        tuple, list, dict, `GlobalName`, `StorageReference` and `PickledTensor`. It may contain itself, or the same
        object a very large number of times, so do not print, compare, hash or traverse it recursively.

    Raises:
        ValueError: the pickle is damaged, or contains anything that a dictionary of tensors does not need.
    """
    interpreter = _Interpreter(stream)
    try:
        return interpreter.run(), interpreter.storages
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise ValueError("its pickle is damaged") from error


def _call(function: Any, arguments: Any) -> Any:
    """Return what a call of an allowed name gives, computed here."""
    if not isinstance(function, GlobalName) or not isinstance(arguments, tuple):
        raise ValueError("its pickle calls an object that is not a function")
    if function.text == "collections.OrderedDict":
        return _dict_from_pairs(*arguments[:1])
    if function.text in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
        return PickledTensor(arguments[:4])
    if function.text in ("torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter"):
        return arguments[0]
    if function.text in _TENSOR_CLASSES and not arguments:
        return PickledTensor()
    raise ValueError(f"its pickle calls {function.text[:80]!a}")


def _dict_from_pairs(pairs: Any = ()) -> dict[Any, Any]:
    """Build a dictionary from pairs, as Python 2 writes them; Python 3 starts with an empty one."""
    if not isinstance(pairs, tuple | list) or not all(isinstance(one, tuple | list) and len(one) == 2 for one in pairs):
        raise ValueError("its pickle builds a dictionary from something other than pairs")
    return _set_items({}, [part for pair in pairs for part in pair])


def _set_items(target: Any, items: list[Any]) -> dict[Any, Any]:
    keys, values = items[::2], items[1::2]
    if not isinstance(target, dict) or len(keys) != len(values) or not all(map(_is_valid_key, keys)):
        raise ValueError("its pickle has a dictionary with keys that are not names")
    target.update(zip(keys, values, strict=True))
    return target


def _is_valid_key(key: Any) -> bool:
    """True for an int or a short str. To hash a nested tuple can take exponential time, so tuples are refused."""
    return isinstance(key, int) or (isinstance(key, str) and len(key) <= MAX_NAME_LENGTH)


def _extend(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list):
        raise ValueError("its pickle appends to an object that is not a list")
    target.extend(items)


_TENSOR_CLASSES = {f"torch.{storage.replace('Storage', 'Tensor')}" for storage in STORAGE_DTYPES}
_STORAGE_CLASSES = {
    f"{module}.{storage}": dtype for module in ("torch", "torch.cuda") for storage, dtype in STORAGE_DTYPES.items()
}
_ALLOWED_NAMES = {
    *("collections.OrderedDict", "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"),
    *("torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter", *_TENSOR_CLASSES, *_STORAGE_CLASSES),
}


class _Interpreter:
    """The stack machine. `_OPCODES` maps each opcode to a method, or to a lambda that calls one."""

    def __init__(self, stream: io.BytesIO) -> None:
        self.stream = stream
        self.stack: list[Any] = []
        self.outer_stacks: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StorageReference] = {}
        self.expanded_pairs = 0  # pairs from which dictionaries were built, repetitions included

    def run(self) -> Any:
        while True:
            code = self.read(1)
            if code == b".":
                return self.stack.pop()
            opcode = _OPCODES.get(code)
            if opcode is None:
                raise ValueError(f"its pickle has the opcode {code!r}, which a dictionary of tensors does not need")
            opcode(self)

    def read(self, count: int) -> bytes:
        data = self.stream.read(count)
        if len(data) < count:
            raise ValueError("its pickle is truncated")
        return data

    def skip(self, count: int) -> None:
        self.read(count)

    def unpack(self, layout: str) -> Any:
        """Read one number in a format of `struct`."""
        return struct.unpack(layout, self.read(struct.calcsize(layout)))[0]

    def read_line(self) -> str:
        data = self.stream.readline()
        if not data.endswith(b"\n"):
            raise ValueError("its pickle is truncated")
        return data[:-1].decode("utf-8")

    def pop_to_mark(self) -> list[Any]:
        """Remove and return the items above the last mark."""
        items, self.stack = self.stack, self.outer_stacks.pop()
        return items

    def push_tuple(self, count: int) -> None:
        items = tuple(self.stack.pop() for _ in range(count))
        self.push(items[::-1])

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_text(self, layout: str, encoding: str) -> None:
        self.push(self.read(self.unpack(layout)).decode(encoding))

    def push_long(self) -> None:
        self.push(int.from_bytes(self.read(self.unpack("<B")), "little", signed=True))

    def append(self) -> None:
        item = self.stack.pop()
        _extend(self.stack[-1], [item])

    def append_to_mark(self) -> None:
        items = self.pop_to_mark()
        _extend(self.stack[-1], items)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _set_items(self.stack[-1], [key, value])

    def set_items_to_mark(self) -> None:
        items = self.pop_to_mark()
        _set_items(self.stack[-1], items)

    def mark(self) -> None:
        self.outer_stacks.append(self.stack)
        self.stack = []

    def memoize(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def push_from_memo(self, key: int) -> None:
        self.push(self.memo[key])

    def push_global_from_lines(self) -> None:
        module = self.read_line()
        self.push_global(module, self.read_line())

    def push_global_from_stack(self) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        self.push_global(module, attribute)

    def push_global(self, module: Any, attribute: Any) -> None:
        text = f"{module}.{attribute}" if isinstance(module, str) and isinstance(attribute, str) else ""
        if text not in _ALLOWED_NAMES:
            raise ValueError(f"contains {text[:80]!a}, which is not a tensor; save the state_dict() of the model")
        self.push(GlobalName(text))

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        # The memo allows one long list to be converted to a dictionary many times, at a few bytes each.
        if isinstance(arguments, tuple) and arguments and isinstance(arguments[0], tuple | list):
            self.expanded_pairs += len(arguments[0])
        if self.expanded_pairs > MAX_PICKLE_BYTES:
            raise ValueError("its pickle expands to more data than it contains")
        self.push(_call(function, arguments))

    def build(self) -> None:
        """Set the state of an object. Only that of an empty tensor, its layout, is needed."""
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, PickledTensor | dict):
            raise ValueError("its pickle sets the state of an object that is not a tensor")
        if isinstance(target, PickledTensor) and target.layout is None and isinstance(state, tuple):
            target.layout = state[:4]

    def push_storage(self) -> None:
        persistent_id = self.stack.pop()
        if not isinstance(persistent_id, tuple) or len(persistent_id) not in (5, 6) or persistent_id[0] != "storage":
            raise ValueError("its pickle has a persistent id that is not a storage")
        storage_class, key, count, view = persistent_id[1], persistent_id[2], persistent_id[4], persistent_id[5:]
        known_class = isinstance(storage_class, GlobalName) and storage_class.text in _STORAGE_CLASSES
        if not known_class or type(count) is not int:
            raise ValueError("its pickle has a storage of an unknown type")
        if not isinstance(key, str) or len(key) > MAX_NAME_LENGTH:
            raise ValueError("its pickle has a storage without a key")
        if view not in ((), (None,)):
            raise ValueError("has a storage that is a view of another; save it again with PyTorch 0.4 or later")
        storage = StorageReference(key, np.dtype(_STORAGE_CLASSES[storage_class.text]), count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("its pickle describes one storage in two ways")
        self.push(storage)


_OPCODES: dict[bytes, Callable[[_Interpreter], None]] = {
    b"\x80": lambda m: m.skip(1),  # PROTO
    b"\x95": lambda m: m.skip(8),  # FRAME
    b"N": lambda m: m.push(None),  # NONE
    b"\x88": lambda m: m.push(True),  # NEWTRUE
    b"\x89": lambda m: m.push(False),  # NEWFALSE
    b"J": lambda m: m.push(m.unpack("<i")),  # BININT
    b"K": lambda m: m.push(m.unpack("<B")),  # BININT1
    b"M": lambda m: m.push(m.unpack("<H")),  # BININT2
    b"\x8a": _Interpreter.push_long,  # LONG1
    b"G": lambda m: m.push(m.unpack(">d")),  # BINFLOAT
    b"X": lambda m: m.push_text("<I", "utf-8"),  # BINUNICODE
    b"\x8c": lambda m: m.push_text("<B", "utf-8"),  # SHORT_BINUNICODE
    b"U": lambda m: m.push_text("<B", "latin-1"),  # SHORT_BINSTRING, of Python 2
    b"T": lambda m: m.push_text("<I", "latin-1"),  # BINSTRING, of Python 2
    b"}": lambda m: m.push({}),  # EMPTY_DICT
    b"]": lambda m: m.push([]),  # EMPTY_LIST
    b")": lambda m: m.push(()),  # EMPTY_TUPLE
    b"(": _Interpreter.mark,  # MARK
    b"\x85": lambda m: m.push_tuple(1),  # TUPLE1
    b"\x86": lambda m: m.push_tuple(2),  # TUPLE2
    b"\x87": lambda m: m.push_tuple(3),  # TUPLE3
    b"t": lambda m: m.push(tuple(m.pop_to_mark())),  # TUPLE
    b"a": _Interpreter.append,  # APPEND
    b"e": _Interpreter.append_to_mark,  # APPENDS
    b"s": _Interpreter.set_item,  # SETITEM
    b"u": _Interpreter.set_items_to_mark,  # SETITEMS
    b"q": lambda m: m.memoize(m.unpack("<B")),  # BINPUT
    b"r": lambda m: m.memoize(m.unpack("<I")),  # LONG_BINPUT
    b"\x94": lambda m: m.memoize(len(m.memo)),  # MEMOIZE
    b"h": lambda m: m.push_from_memo(m.unpack("<B")),  # BINGET
    b"j": lambda m: m.push_from_memo(m.unpack("<I")),  # LONG_BINGET
    b"c": _Interpreter.push_global_from_lines,  # GLOBAL
    b"\x93": _Interpreter.push_global_from_stack,  # STACK_GLOBAL
    b"R": _Interpreter.call,  # REDUCE
    b"\x81": _Interpreter.call,  # NEWOBJ
    b"b": _Interpreter.build,  # BUILD
    b"Q": _Interpreter.push_storage,  # BINPERSID
}
