"""Inputs that nobody meant: trees of JSON and strings of bytes, changed at random by a generator."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Chance = np.random.Generator

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e308, -1e308, 5e-324),
    *(float("nan"), float("inf"), -float("inf")),
    *("", "x", "0", "nan", "../../etc/passwd", "/etc/passwd", "a/../../b", "a\\b", "line\nline", "\0", "\ud800", "é"),
    *([], {}, [[]], [None], {"": 0}, [0] * 7, [1.5] * 51, ["x"] * 4, [[0, 0, 1, 1, 2]], [[0.0] * 6]),
    *({"size": [48, 64], "counts": [1]}, {"size": [48, 64], "counts": "~~~"}, {"size": [48, 64], "counts": [-1, 3073]}),
    *({"size": [2**40, 2**40], "counts": "0"}, {"size": [48, 64], "counts": [2**70]}),
)
"""What a field can hold that it should not."""

LONG = 10_000_000
"""Characters of a text that is far too long; drawn once in a few hundred."""


def changed(tree: Any, chance: Chance) -> Any:
    """A deep copy of a JSON tree, changed in one to three places."""
    tree = copy.deepcopy(tree)
    for _ in range(int(chance.integers(1, 4))):
        places = list(_places(tree))
        if not places:
            return _value(chance)
        node, key = places[int(chance.integers(len(places)))]
        _OPERATIONS[int(chance.integers(len(_OPERATIONS)))](node, key, chance)
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every container with every key of it; of long lists only a few."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict | list):
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))[:6]
            found.extend((node, key) for key in keys)
            waiting.extend(node[key] for key in keys)
    return found


def _value(chance: Chance) -> Any:
    kind = int(chance.integers(400))
    if kind == 0:
        return "x" * LONG
    if kind < 4:
        nested: Any = 0
        for _ in range(int(chance.integers(2, 60))):
            nested = [nested]
        return nested
    return copy.deepcopy(VALUES[int(chance.integers(len(VALUES)))])


def _replace(node: Any, key: Any, chance: Chance) -> None:
    node[key] = _value(chance)


def _remove(node: Any, key: Any, _: Chance) -> None:
    del node[key]


def _repeat(node: Any, key: Any, chance: Chance) -> None:
    if isinstance(node, list):
        node.extend([copy.deepcopy(node[key])] * int(chance.integers(1, 5)))
    else:
        node[f"{key}_"[:80]] = copy.deepcopy(node[key])


def _shift(node: Any, key: Any, chance: Chance) -> None:
    if isinstance(node[key], int | float):
        node[key] = node[key] * int(chance.choice([-1, 0, 2, 1000])) + int(chance.integers(-2, 3))
    else:
        node[key] = _value(chance)


_OPERATIONS: tuple[Callable[[Any, Any, Chance], None], ...] = (_replace, _replace, _remove, _repeat, _shift)


def damaged(data: bytes, chance: Chance, tokens: Sequence[bytes] = (b"\0", b"\xff")) -> bytes:
    """Bytes with flipped bits, a hole, a tail cut off, a piece that is repeated, or tokens put in."""
    if not data:
        return data
    at = int(chance.integers(len(data)))
    end = min(len(data), at + int(chance.integers(1, 200)))
    flipped = bytearray(data)
    for place in chance.integers(0, len(data), int(chance.integers(1, 9))):
        flipped[place] ^= 1 << int(chance.integers(8))
    ways = (
        bytes(flipped),
        data[:at],
        data[:at] + data[end:],
        data[:end] + data[at:end] * int(chance.integers(1, 4)) + data[end:],
        data[:at] + tokens[int(chance.integers(len(tokens)))] + data[at:],
        data[:at] + bytes(end - at) + data[end:],
    )
    return ways[int(chance.integers(len(ways)))]


def as_json(tree: Any, chance: Chance) -> bytes:
    """A tree as a file, one in eight of them damaged as bytes too."""
    data = json.dumps(tree).encode("utf-8")
    return (
        damaged(data, chance, (b"[" * 2000, b"NaN", b"1e999", b"9" * 5000, b'"')) if chance.random() < 1 / 8 else data
    )


def json_variant(tree: Any, case: int, seed: int) -> bytes:
    """The file of case 0 is sound, so that a suite that refuses everything is noticed; all others are changed."""
    chance = np.random.default_rng((seed, case))
    return as_json(changed(tree, chance), chance) if case else json.dumps(tree).encode("utf-8")
