"""Categories of an annotation file: which of them are people, and in which order their keypoints are stored.

A category is a person if its name says so. If no such category has keypoints, a category with the 17 keypoints of COCO
is one, whatever its name is (Label Studio calls it `default`).

Keypoints are identified by name. Names differ in spelling only if they consist of the same words: `left_eye`,
`Left Eye`, `leftEye`, `L-eye` and `eye left` are one keypoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.annotations.values import abbreviate, parse_id
from pipeline.skeleton import COCO_KEYPOINTS

_PERSON_NAMES = {"person", "persons", "people", "human", "humans", "humanbody", "pedestrian", "pedestrians"}
_CAPITAL_INSIDE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORD = re.compile(r"[a-z]+|\d+")
_SIDES = {"l": "left", "r": "right"}


@dataclass(frozen=True)
class PersonCategory:
    """A category of people.

    Attributes:
        category_id: its id in the file.
        order: for each COCO keypoint, its position in the file's keypoints; None for COCO's order.
        names: number of keypoint names in the file; 0 if the file names none.
    """

    category_id: int
    order: tuple[int, ...] | None
    names: int

    @property
    def lengths(self) -> tuple[int, ...]:
        """Numbers that `keypoints` may have: three for each of COCO's, or three for each name in the file."""
        first, every = 3 * len(COCO_KEYPOINTS), 3 * self.names
        if self.order is not None and max(self.order) >= len(COCO_KEYPOINTS):
            return (every,)
        return (first,) if every <= first else (first, every)


@dataclass(frozen=True)
class Categories:
    """The categories of a file.

    Attributes:
        people: categories of people by id.
        other_ids: ids of all other categories.
        spelled_otherwise: number of categories whose name or keypoint names are spelled in another way than in COCO.
    """

    people: dict[int, PersonCategory]
    other_ids: frozenset[int]
    spelled_otherwise: int


def parse_categories(items: list[Any], problems: list[str]) -> Categories:
    """Parse the categories of a file and append a description of every problem to `problems`."""
    people: dict[int, PersonCategory] = {}
    other_ids: set[int] = set()
    spelled_otherwise = 0
    named_with_keypoints = any(
        isinstance(item, dict) and item.get("keypoints") and _is_person_name(item.get("name")) for item in items
    )
    for item in items:
        category_id = parse_id(item.get("id")) if isinstance(item, dict) else None
        if category_id is None or not isinstance(item.get("name"), str):
            problems.append(f"categories: {abbreviate(item)} has no id or no name")
            continue
        order, problem = _find_order(item.get("keypoints"))
        named = _is_person_name(item["name"])
        has_keypoints = bool(item.get("keypoints"))
        if (named or (has_keypoints and not named_with_keypoints)) and not problem:
            names = item.get("keypoints") or []
            people[category_id] = PersonCategory(category_id, order, len(names))
            spelled_otherwise += item["name"] != "person" or (has_keypoints and not set(COCO_KEYPOINTS) <= set(names))
        elif named:
            problems.append(f"category {abbreviate(item['name'])}: {problem}")
        else:
            other_ids.add(category_id)
    if not people and not problems:
        problems.append(f"categories: {'; '.join(_describe_others(items)) or 'none'}; no category is a person")
    return Categories(people, frozenset(other_ids), spelled_otherwise)


def _is_person_name(name: Any) -> bool:
    return isinstance(name, str) and re.sub(r"[^a-z]", "", name.lower()) in _PERSON_NAMES


def _describe_others(items: list[Any]) -> Iterator[str]:
    for item in items[:5]:
        _, problem = _find_order(item.get("keypoints"))
        yield f"{abbreviate(item['name'])}{f' ({problem})' if item.get('keypoints') else ''}"


def _find_order(names: Any) -> tuple[tuple[int, ...] | None, str]:
    """Return the order of COCO's keypoints in a list of names (None for COCO's own) and the problem, or ""."""
    if names is None or names == []:
        return None, ""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None, f"its keypoints are {abbreviate(names)}, expected a list of names"
    keys = [_words(name) for name in names]
    expected = [_words(name) for name in COCO_KEYPOINTS]
    if keys[: len(expected)] == expected:
        return None, ""
    if len(set(keys)) == len(keys) and set(expected) <= set(keys):
        return tuple(keys.index(key) for key in expected), ""
    return None, _first_difference(names, keys, expected)


def _first_difference(names: list[str], keys: list[tuple[str, ...]], expected: list[tuple[str, ...]]) -> str:
    """Name the first keypoint that is not one of COCO's or occurs twice, else the first of COCO's that is missing."""
    for position, (name, key) in enumerate(zip(names, keys, strict=True), start=1):
        if key not in expected and len(names) <= len(expected):
            return f"its keypoint {position} is {abbreviate(name)}, which is none of the 17 COCO keypoints"
        if key in keys[: position - 1]:
            return f"its keypoint {position} is {abbreviate(name)}, which occurs twice"
    missing = next(name for name, key in zip(COCO_KEYPOINTS, expected, strict=True) if key not in keys)
    return f"its {len(names)} keypoints lack {missing}, expected the 17 COCO keypoints"


def _words(name: str) -> tuple[str, ...]:
    """Return the words of a keypoint name in lower case and alphabetical order; `l` and `r` mean left and right."""
    words = _WORD.findall(_CAPITAL_INSIDE.sub(" ", name[:100]).lower())
    if len(words) == 1:
        for side in _SIDES.values():
            if words[0].startswith(side) and words[0] != side:
                words = [side, words[0][len(side) :]]
    return tuple(sorted(_SIDES.get(word, word) for word in words))
