"""Summarise in one line which tensors of a network a file contains."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable

MAX_LISTED = 6
"""Largest number of layer ranges that a line lists; further ones are counted."""
MAX_NAME_LENGTH = 60
"""Largest number of characters of a name that a line shows."""


def network_part(name: str) -> str:
    """Return the part of the network that a tensor belongs to: backbone, features or stages."""
    return name.partition(".")[0]


def count_by_part(names: Iterable[str], found: Collection[str]) -> str:
    """Count the tensors found, in total and by part of the network: `20 of 184 tensors: backbone 20 of 20, …`.

    Args:
        names: names of all tensors of the network.
        found: names of the tensors that were found.
    """
    all_names = list(names)
    total = Counter(map(network_part, all_names))
    present = Counter(network_part(name) for name in all_names if name in found)
    parts = ", ".join(f"{name} {present[name]} of {count}" for name, count in total.items())
    return f"{present.total()} of {total.total()} tensors: {parts}"


def layer_ranges(names: Iterable[str]) -> str:
    """Summarise tensor names as ranges of layers: `features.23 to features.34 (12 tensors), classifier.0 …`."""
    ranges = []
    for _, group in itertools.groupby(names, network_part):
        members = list(group)
        first, last = (name.rpartition(".")[0] or name for name in (members[0], members[-1]))
        layers = first[:MAX_NAME_LENGTH]
        if first != last:
            layers += f" to {last[:MAX_NAME_LENGTH]}"
        ranges.append(f"{layers} ({len(members)} tensor{'s' * (len(members) > 1)})")
    listed = ", ".join(ranges[:MAX_LISTED])
    return f"{listed} and {len(ranges) - MAX_LISTED} more" if len(ranges) > MAX_LISTED else listed
