"""Values of annotation files: numbers and ids in the forms that annotation tools write, and their names in errors.

Tools write numbers as text, ids as text or with a decimal point, and truth values as numbers. Such a value has one
meaning, so it is converted.
"""

from __future__ import annotations

import hashlib
import math
import reprlib
from typing import Any

MAX_COORDINATE = 100_000
"""Largest allowed magnitude of a coordinate, in px."""

_INT64_END = 2**63
_MAX_DIGITS = 40
_HASHED_ID_BITS = 52
"""Bits of an id that stands for text. Every program represents such a number exactly, as it has less than 53 bits."""


def is_number(value: Any, low: float, high: float) -> bool:
    """Return True for an int or float, but no bool and no NaN, from `low` to `high`."""
    return type(value) in (int, float) and low <= value <= high


def to_number(value: Any) -> Any:
    """Return the number that a text states, such as 12.5 for "12.5"; return any other value as it is."""
    if type(value) is not str or not 0 < len(value) <= _MAX_DIGITS:
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if math.isfinite(number) and number.is_integer() else number


def to_integer(value: Any) -> Any:
    """Return an int for text and floats that state one, such as 3 for "3" and 3.0; return any other value as it is."""
    if type(value) is int:
        return value
    number = to_number(value)
    return int(number) if type(number) is float and number.is_integer() else number


def parse_id(value: Any) -> int | None:
    """Return an id as an integer of at least 0, or None if it is none.

    Decimal numbers are taken as they are. Other text, such as a UUID, is mapped to an integer by its hash, so that the
    integer depends neither on the order of a file nor on other files.
    """
    if type(value) is int:
        return value if 0 <= value < _INT64_END else None
    if type(value) is float:
        return int(value) if value.is_integer() and 0 <= value < _INT64_END else None
    if type(value) is not str or not value:
        return None
    if value.isascii() and value.isdigit() and len(value) <= 18 and str(int(value)) == value:
        return int(value)
    return int.from_bytes(hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> (
        64 - _HASHED_ID_BITS
    )


def abbreviate(value: Any) -> str:
    """Return a short description of any value for an error message."""
    return reprlib.repr(value)[:60]


def expected(item: dict[str, Any], name: str, expectation: str) -> str:
    """Describe a field that is missing or not what is expected."""
    if name not in item:
        return f"{name} is missing"
    return f"{name} is {abbreviate(item[name])}, expected {expectation}"


def entry_name(kind: str, item: Any, index: int) -> str:
    """Return the name of an entry for messages: its kind and its id, or its position in the file."""
    if isinstance(item, dict) and "id" in item:
        return f"{kind} {abbreviate(item['id'])}"
    return f"{kind} number {index}"
