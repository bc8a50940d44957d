"""The pickle inside a PyTorch file, read as data: nothing is imported, nothing is called, nothing is run.

A pickle is a program for a stack machine, and Python's own machine does whatever the program says. This one knows the
instructions that a dictionary of tensors takes, and knows the few names that such a dictionary calls as names alone;
what they stand for is written here. Any other name, and any other instruction, refuses the file.

Facts: Python's Lib/pickletools.py for the instructions, torch/serialization.py and torch/_utils.py for the names.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

LARGEST = 4 << 20
"""Bytes of a pickle; those of the largest published networks have a tenth of it, for the numbers lie beside it."""

LONGEST = 1000
"""Characters of a name in a dictionary, or of a storage's."""

STORAGES: dict[str, DTypeLike] = {
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
"""Names in `torch` and `torch.cuda` of memory blocks, and what they hold."""


@dataclass(frozen=True)
class Name:
    """Something that the pickle wants imported: a name, and no more."""

    text: str


@dataclass(frozen=True)
class Storage:
    """A block of numbers that lies outside the pickle.

    Attributes:
        key: where, in the file's own way.
        dtype: of its numbers.
        count: how many numbers the pickle says there are.
    """

    key: str
    dtype: np.dtype[Any]
    count: int


@dataclass
class Tensor:
    """A tensor as the pickle describes it; unchecked. One of 2017 comes empty and is told its place afterwards.

    Attributes:
        place: storage, offset, shape and stride in numbers; None while it is empty.
    """

    place: tuple[Any, ...] | None = None


def load(stream: io.BytesIO) -> tuple[Any, dict[str, Storage]]:
    """The object that the pickle at the stream's position describes, and the storages it refers to, by key.

    The object is made of None, bool, int, float, str, tuple, list, dict, `Name`, `Storage` and `Tensor`. It may hold
    itself, or one thing very many times, so it should neither be printed nor walked to its depths. The stream is left
    at the pickle's end.

    Raises:
        ValueError: it is damaged, or needs anything that a dictionary of tensors does not.
    """
    machine = _Machine(stream)
    try:
        return machine.run(), machine.storages
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise ValueError("its pickle is damaged") from error


def _called(function: Any, arguments: Any) -> Any:
    """What comes of calling a name."""
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise ValueError("its pickle calls what is no name")
    if function.text == "collections.OrderedDict":
        return _ordered(*arguments[:1])
    if function.text in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
        return Tensor(arguments[:4])
    if function.text in ("torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter"):
        return arguments[0]
    if function.text in _TENSORS and not arguments:
        return Tensor()
    raise ValueError(f"its pickle calls {function.text[:80]!a}")


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    """A dictionary of pairs, as Python 2 writes it; Python 3 begins with an empty one."""
    if not isinstance(pairs, tuple | list) or not all(isinstance(one, tuple | list) and len(one) == 2 for one in pairs):
        raise ValueError("its pickle has a dictionary of no pairs")
    return _filled({}, [part for pair in pairs for part in pair])


def _filled(target: Any, items: list[Any]) -> dict[Any, Any]:
    keys, values = items[::2], items[1::2]
    if not isinstance(target, dict) or len(keys) != len(values) or not all(map(_is_name, keys)):
        raise ValueError("its pickle has a dictionary with keys that are no names")
    target.update(zip(keys, values, strict=True))
    return target


def _is_name(key: Any) -> bool:
    """Whether a dictionary needs such a key. To hash a tuple that holds one thing very many times takes for ever."""
    return isinstance(key, int) or (isinstance(key, str) and len(key) <= LONGEST)


def _extended(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list):
        raise ValueError("its pickle appends to what is no list")
    target.extend(items)


_TENSORS = {f"torch.{kind.replace('Storage', 'Tensor')}" for kind in STORAGES}
_BLOCKS = {f"{module}.{kind}": dtype for module in ("torch", "torch.cuda") for kind, dtype in STORAGES.items()}
_NAMES = {
    *("collections.OrderedDict", "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"),
    *("torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter", *_TENSORS, *_BLOCKS),
}


class _Machine:
    """The stack machine. Each method below is one instruction, or several that differ in the size of their number."""

    def __init__(self, stream: io.BytesIO) -> None:
        self.stream = stream
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks that a mark hides
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.walked = 0  # pairs that dictionaries were made of

    def run(self) -> Any:
        while True:
            code = self.read(1)
            if code == b".":
                return self.stack.pop()
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise ValueError(f"its pickle has an instruction, {code!r}, that no dictionary of tensors needs")
            instruction(self)

    def read(self, count: int) -> bytes:
        data = self.stream.read(count)
        if len(data) < count:
            raise ValueError("its pickle is cut off")
        return data

    def skip(self, count: int) -> None:
        self.read(count)

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.read(struct.calcsize(layout)))[0]

    def line(self) -> str:
        data = self.stream.readline()
        if not data.endswith(b"\n"):
            raise ValueError("its pickle is cut off")
        return data[:-1].decode("utf-8")

    def marked(self) -> list[Any]:
        """What lies above the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack.pop() for _ in range(count))
        self.push(items[::-1])

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_text(self, layout: str, encoding: str) -> None:
        self.push(self.read(self.number(layout)).decode(encoding))

    def push_long(self) -> None:
        self.push(int.from_bytes(self.read(self.number("<B")), "little", signed=True))

    def append(self) -> None:
        item = self.stack.pop()
        _extended(self.stack[-1], [item])

    def append_marked(self) -> None:
        items = self.marked()
        _extended(self.stack[-1], items)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _filled(self.stack[-1], [key, value])

    def set_marked(self) -> None:
        items = self.marked()
        _filled(self.stack[-1], items)

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def recall(self, key: int) -> None:
        self.push(self.memo[key])

    def name_from_lines(self) -> None:
        module = self.line()
        self.name(module, self.line())

    def name_from_stack(self) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        self.name(module, attribute)

    def name(self, module: Any, attribute: Any) -> None:
        text = f"{module}.{attribute}" if isinstance(module, str) and isinstance(attribute, str) else ""
        if text not in _NAMES:
            raise ValueError(f"holds {text[:80]!a}, which is no tensor; save a model's state_dict()")
        self.push(Name(text))

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        # one long list can be made a dictionary again and again, for a few bytes each time
        if isinstance(arguments, tuple) and arguments and isinstance(arguments[0], tuple | list):
            self.walked += len(arguments[0])
        if self.walked > LARGEST:
            raise ValueError("its pickle makes more of itself than it holds")
        self.push(_called(function, arguments))

    def build(self) -> None:
        """Give an object its state: only an empty tensor has one that matters, its place."""
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Tensor | dict):
            raise ValueError("its pickle changes what is no tensor")
        if isinstance(target, Tensor) and target.place is None and isinstance(state, tuple):
            target.place = state[:4]

    def storage(self) -> None:
        place = self.stack.pop()
        if not isinstance(place, tuple) or len(place) not in (5, 6) or place[0] != "storage":
            raise ValueError("its pickle refers to something outside that is no block of numbers")
        kind, key, count, view = place[1], place[2], place[4], place[5:]
        if not isinstance(kind, Name) or kind.text not in _BLOCKS or type(count) is not int:
            raise ValueError("its pickle refers to a block of numbers of no known type")
        if not isinstance(key, str) or len(key) > LONGEST:
            raise ValueError("its pickle refers to a block of numbers without a name")
        if view not in ((), (None,)):
            raise ValueError("has a block of numbers inside another; save it again with a later PyTorch")
        storage = Storage(key, np.dtype(_BLOCKS[kind.text]), count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("its pickle describes one block of numbers in two ways")
        self.push(storage)


_INSTRUCTIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": lambda m: m.skip(1),  # PROTO
    b"\x95": lambda m: m.skip(8),  # FRAME
    b"N": lambda m: m.push(None),  # NONE
    b"\x88": lambda m: m.push(True),  # NEWTRUE
    b"\x89": lambda m: m.push(False),  # NEWFALSE
    b"J": lambda m: m.push(m.number("<i")),  # BININT
    b"K": lambda m: m.push(m.number("<B")),  # BININT1
    b"M": lambda m: m.push(m.number("<H")),  # BININT2
    b"\x8a": _Machine.push_long,  # LONG1
    b"G": lambda m: m.push(m.number(">d")),  # BINFLOAT
    b"X": lambda m: m.push_text("<I", "utf-8"),  # BINUNICODE
    b"\x8c": lambda m: m.push_text("<B", "utf-8"),  # SHORT_BINUNICODE
    b"U": lambda m: m.push_text("<B", "latin-1"),  # SHORT_BINSTRING, of Python 2
    b"T": lambda m: m.push_text("<I", "latin-1"),  # BINSTRING, of Python 2
    b"}": lambda m: m.push({}),  # EMPTY_DICT
    b"]": lambda m: m.push([]),  # EMPTY_LIST
    b")": lambda m: m.push(()),  # EMPTY_TUPLE
    b"(": _Machine.mark,  # MARK
    b"\x85": lambda m: m.tuple_of(1),  # TUPLE1
    b"\x86": lambda m: m.tuple_of(2),  # TUPLE2
    b"\x87": lambda m: m.tuple_of(3),  # TUPLE3
    b"t": lambda m: m.push(tuple(m.marked())),  # TUPLE
    b"a": _Machine.append,  # APPEND
    b"e": _Machine.append_marked,  # APPENDS
    b"s": _Machine.set_item,  # SETITEM
    b"u": _Machine.set_marked,  # SETITEMS
    b"q": lambda m: m.remember(m.number("<B")),  # BINPUT
    b"r": lambda m: m.remember(m.number("<I")),  # LONG_BINPUT
    b"\x94": lambda m: m.remember(len(m.memo)),  # MEMOIZE
    b"h": lambda m: m.recall(m.number("<B")),  # BINGET
    b"j": lambda m: m.recall(m.number("<I")),  # LONG_BINGET
    b"c": _Machine.name_from_lines,  # GLOBAL
    b"\x93": _Machine.name_from_stack,  # STACK_GLOBAL
    b"R": _Machine.call,  # REDUCE
    b"\x81": _Machine.call,  # NEWOBJ
    b"b": _Machine.build,  # BUILD
    b"Q": _Machine.storage,  # BINPERSID
}
