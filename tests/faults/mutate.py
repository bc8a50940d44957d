"""Random mutations of JSON trees and of bytes, for fuzzing."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Generator = np.random.Generator

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e308, -1e308, 5e-324),
    *(float("nan"), float("inf"), -float("inf")),
    *("", "x", "0", "nan", "../../etc/passwd", "/etc/passwd", "a/../../b", "a\\b", "line\nline", "\0", "\ud800", "é"),
    *([], {}, [[]], [None], {"": 0}, [0] * 7, [1.5] * 51, ["x"] * 4, [[0, 0, 1, 1, 2]], [[0.0] * 6]),
    *({"size": [48, 64], "counts": [1]}, {"size": [48, 64], "counts": "~~~"}, {"size": [48, 64], "counts": [-1, 3073]}),
    *({"size": [2**40, 2**40], "counts": "0"}, {"size": [48, 64], "counts": [2**70]}),
)
"""Invalid or unusual values for a field."""

LONG_TEXT_LENGTH = 10_000_000
"""Characters of a very long text; used in one of 400 values."""


def mutate_tree(tree: Any, rng: Generator) -> Any:
    """Return a deep copy of a JSON tree with one to three random changes."""
    tree = copy.deepcopy(tree)
    for _ in range(int(rng.integers(1, 4))):
        places = list(_container_keys(tree))
        if not places:
            return _sample_value(rng)
        node, key = places[int(rng.integers(len(places)))]
        _OPERATIONS[int(rng.integers(len(_OPERATIONS)))](node, key, rng)
    return tree


def _container_keys(tree: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) for every key of every container; only the first six indices of a list."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict | list):
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))[:6]
            found.extend((node, key) for key in keys)
            waiting.extend(node[key] for key in keys)
    return found


def _sample_value(rng: Generator) -> Any:
    kind = int(rng.integers(400))
    if kind == 0:
        return "x" * LONG_TEXT_LENGTH
    if kind < 4:
        nested: Any = 0
        for _ in range(int(rng.integers(2, 60))):
            nested = [nested]
        return nested
    return copy.deepcopy(VALUES[int(rng.integers(len(VALUES)))])


def _replace(node: Any, key: Any, rng: Generator) -> None:
    node[key] = _sample_value(rng)


def _remove(node: Any, key: Any, _: Generator) -> None:
    del node[key]


def _repeat(node: Any, key: Any, rng: Generator) -> None:
    if isinstance(node, list):
        node.extend([copy.deepcopy(node[key])] * int(rng.integers(1, 5)))
    else:
        node[f"{key}_"[:80]] = copy.deepcopy(node[key])


def _shift(node: Any, key: Any, rng: Generator) -> None:
    if isinstance(node[key], int | float):
        node[key] = node[key] * int(rng.choice([-1, 0, 2, 1000])) + int(rng.integers(-2, 3))
    else:
        node[key] = _sample_value(rng)


_OPERATIONS: tuple[Callable[[Any, Any, Generator], None], ...] = (_replace, _replace, _remove, _repeat, _shift)


def mutate_bytes(data: bytes, rng: Generator, tokens: Sequence[bytes] = (b"\0", b"\xff")) -> bytes:
    """Return the bytes with flipped bits, a piece removed, truncated, repeated or set to zero, or a token inserted."""
    if not data:
        return data
    at = int(rng.integers(len(data)))
    end = min(len(data), at + int(rng.integers(1, 200)))
    flipped = bytearray(data)
    for function in rng.integers(0, len(data), int(rng.integers(1, 9))):
        flipped[function] ^= 1 << int(rng.integers(8))
    variants = (
        bytes(flipped),
        data[:at],
        data[:at] + data[end:],
        data[:end] + data[at:end] * int(rng.integers(1, 4)) + data[end:],
        data[:at] + tokens[int(rng.integers(len(tokens)))] + data[at:],
        data[:at] + bytes(end - at) + data[end:],
    )
    return variants[int(rng.integers(len(variants)))]


def to_mutated_json(tree: Any, rng: Generator) -> bytes:
    """Serialise a tree to JSON; with probability 1/8, mutate the bytes too."""
    data = json.dumps(tree).encode("utf-8")
    return mutate_bytes(data, rng, (b"[" * 2000, b"NaN", b"1e999", b"9" * 5000, b'"')) if rng.random() < 1 / 8 else data


def json_variant(tree: Any, case: int, seed: int) -> bytes:
    """Serialise a mutated tree to JSON.

    Case 0 is valid, so that the test detects a loader that rejects everything.
    """
    rng = np.random.default_rng((seed, case))
    return to_mutated_json(mutate_tree(tree, rng), rng) if case else json.dumps(tree).encode("utf-8")
