"""Plots of what is in sets of shards, side by side; and the look that all plots share."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.skeleton import KEYPOINTS
from pipeline.visualization.figures import COLOURS, blank_figure, save_figure

_VISIBILITY = (("visible", 2, "#3b6ea5"), ("hidden", 1, "#9dbbd9"), ("no label", 0, "#e6e6e6"))


def plot_statistics(sets: Mapping[str, dict[str, Any]], path: Path) -> None:
    """Draw the description of each set, from `pipeline.stats.describe`, into a picture file.

    Raises:
        InputError: the file cannot be written, or its name has an unknown ending.
    """
    figure = blank_figure(height=11)
    axes = figure.subplots(3, 2)
    first = next(iter(sets.values()))
    edges = first["edges"]
    longest = max(len(one["people_per_image"]) for one in sets.values())
    most = min(longest, 21)
    crowd = [str(count) for count in range(most - 1)] + [f"{most - 1}+" if longest > most else str(most - 1)]
    _bars(axes[0, 0], crowd, sets, "people_per_image", title="people per picture", unit="pictures")
    labelled = [str(count) for count in range(18)]
    _bars(axes[0, 1], labelled, sets, "keypoints_per_person", title="labelled keypoints per person", unit="people")
    _bars(axes[1, 0], _from(edges["box"]), sets, "box_height", title="height of people's boxes, px", unit="people")
    _bars(axes[1, 1], _from(edges["image"]), sets, "image_width", title="width of pictures, px", unit="pictures")
    shares = ["0", *(f"{edge:.0%}–" for edge in edges["ignored_fraction"][1:])]
    _bars(axes[2, 0], shares, sets, "ignored_fraction", title="ignored part of a picture", unit="pictures")
    _visibility(axes[2, 1], sets)
    handles, names = axes[0, 0].get_legend_handles_labels()
    save_figure(figure, handles, names, path)


def _from(edges: Sequence[int]) -> list[str]:
    """Names of bins by their lower edges; a bin of one pixel goes by that alone."""
    single = [high == low + 1 for low, high in itertools.pairwise([*edges, edges[-1] * 2])]
    return [f"{edge}" if one else f"{edge}–" for edge, one in zip(edges, single, strict=True)]


def _bars(
    axes: Any, names: Sequence[str], sets: Mapping[str, dict[str, Any]], key: str, *, title: str, unit: str
) -> None:
    """One group of bars a bin, one colour a set, as a share of the set; bins beyond `names` go into the last."""
    width = 0.85 / len(sets)
    for place, (name, figures) in enumerate(sets.items()):
        counts = list(figures[key])
        counts = [*counts[: len(names) - 1], sum(counts[len(names) - 1 :])]
        counts += [0] * (len(names) - len(counts))
        share = [100 * count / max(sum(counts), 1) for count in counts]
        at = [index + (place + 0.5) * width - 0.425 for index in range(len(names))]
        label = f"{name}: {figures['records']:,} pictures, {figures['people']:,} people"
        axes.bar(at, share, width, color=COLOURS[place % len(COLOURS)], label=label)
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xticks(range(len(names)), names, rotation=45 if max(map(len, names)) > 3 else 0)
    axes.set_ylabel(f"% of {unit}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _visibility(axes: Any, sets: Mapping[str, dict[str, Any]]) -> None:
    """Stacked shares of visible, hidden and unlabelled keypoints over all sets."""
    left = [0.0] * len(KEYPOINTS)
    totals = [
        [sum(figures["keypoints"][name][kind] for figures in sets.values()) for kind in range(3)] for name in KEYPOINTS
    ]
    for label, kind, colour in _VISIBILITY:
        share = [100 * counts[kind] / max(sum(counts), 1) for counts in totals]
        axes.barh(range(len(KEYPOINTS)), share, 0.85, left, color=colour, label=label)
        left = [a + b for a, b in zip(left, share, strict=True)]
    axes.set_yticks(range(len(KEYPOINTS)), [name.replace("_", " ") for name in KEYPOINTS], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of people, all sets")
    axes.set_title("keypoints", loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, borderaxespad=0)
