"""Says which tensors of a network a file has, and names many things in a line."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable

MOST_NAMED = 6
"""Parts of a file that a line names; more are counted."""
LONGEST = 60
"""Characters of a name that a line shows."""


def part(name: str) -> str:
    """The part of the network that a tensor belongs to: backbone, features or stages."""
    return name.partition(".")[0]


def matched(names: Iterable[str], found: Collection[str]) -> str:
    """How many tensors of a network were found, and of each of its parts: `20 of 184 tensors: backbone 20 of 20, …`."""
    every = list(names)
    total, there = Counter(map(part, every)), Counter(part(name) for name in every if name in found)
    parts = ", ".join(f"{name} {there[name]} of {count}" for name, count in total.items())
    return f"{there.total()} of {total.total()} tensors: {parts}"


def spans(names: Iterable[str]) -> str:
    """The layers that tensors belong to, part by part: `features.23 to features.34 (12 tensors), classifier.0 …`."""
    told = []
    for _, group in itertools.groupby(names, part):
        some = list(group)
        first, last = (name.rpartition(".")[0] or name for name in (some[0], some[-1]))
        span = first[:LONGEST] if first == last else f"{first[:LONGEST]} to {last[:LONGEST]}"
        told.append(f"{span} ({len(some)} tensor{'s' * (len(some) > 1)})")
    return ", ".join(told[:MOST_NAMED]) + (f" and {len(told) - MOST_NAMED} more" if len(told) > MOST_NAMED else "")
