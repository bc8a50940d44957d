"""Plot the statistics of sets of shards side by side."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.skeleton import KEYPOINTS
from pipeline.visualization.figures import COLOURS, blank_figure, save_figure

_VISIBILITY = (("visible", 2, "#3b6ea5"), ("hidden", 1, "#9dbbd9"), ("no label", 0, "#e6e6e6"))


def plot_statistics(sets: Mapping[str, dict[str, Any]], path: Path) -> None:
    """Plot the statistics of each set, from `pipeline.stats.describe`, into an image file.

    Raises:
        InputError: the file cannot be written, or its suffix is not an image format.
    """
    figure = blank_figure(height=11)
    axes = figure.subplots(3, 2)
    edges = next(iter(sets.values()))["edges"]
    longest = max(len(statistics["people_per_image"]) for statistics in sets.values())
    bins = min(longest, 21)
    counts = [str(count) for count in range(bins - 1)] + [f"{bins - 1}+" if longest > bins else str(bins - 1)]
    _plot_bars(axes[0, 0], counts, sets, "people_per_image", title="people per image", unit="images")
    counts = [str(count) for count in range(18)]
    _plot_bars(axes[0, 1], counts, sets, "keypoints_per_person", title="labelled keypoints per person", unit="people")
    sizes = _bin_labels(edges["box"])
    _plot_bars(axes[1, 0], sizes, sets, "box_height", title="height of people's boxes, px", unit="people")
    sizes = _bin_labels(edges["image"])
    _plot_bars(axes[1, 1], sizes, sets, "image_width", title="width of images, px", unit="images")
    fractions = ["0", *(f"{edge:.0%}–" for edge in edges["ignored_fraction"][1:])]
    _plot_bars(axes[2, 0], fractions, sets, "ignored_fraction", title="ignored fraction of an image", unit="images")
    _plot_visibility(axes[2, 1], sets)
    handles, names = axes[0, 0].get_legend_handles_labels()
    save_figure(figure, handles, names, path)


def _bin_labels(edges: Sequence[int]) -> list[str]:
    """Label bins by their lower edges: "8–", or "8" if the bin holds one value only."""
    pairs = itertools.pairwise([*edges, edges[-1] * 2])
    return [f"{low}" if high == low + 1 else f"{low}–" for low, high in pairs]


def _plot_bars(
    axes: Any, labels: Sequence[str], sets: Mapping[str, dict[str, Any]], key: str, *, title: str, unit: str
) -> None:
    """Plot a histogram: one group of bars per bin, one colour per set. Bins beyond `labels` are added to the last."""
    width = 0.85 / len(sets)
    for position, (name, statistics) in enumerate(sets.items()):
        counts = list(statistics[key])
        counts = [*counts[: len(labels) - 1], sum(counts[len(labels) - 1 :])]
        counts += [0] * (len(labels) - len(counts))
        percentages = [100 * count / max(sum(counts), 1) for count in counts]
        xs = [index + (position + 0.5) * width - 0.425 for index in range(len(labels))]
        label = f"{name}: {statistics['records']:,} images, {statistics['people']:,} people"
        axes.bar(xs, percentages, width, color=COLOURS[position % len(COLOURS)], label=label)
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xticks(range(len(labels)), labels, rotation=45 if max(map(len, labels)) > 3 else 0)
    axes.set_ylabel(f"% of {unit}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _plot_visibility(axes: Any, sets: Mapping[str, dict[str, Any]]) -> None:
    """Plot the percentages of visible, hidden and unlabelled keypoints, over all sets, as stacked bars."""
    left = [0.0] * len(KEYPOINTS)
    totals = [
        [sum(statistics["keypoints"][name][visibility] for statistics in sets.values()) for visibility in range(3)]
        for name in KEYPOINTS
    ]
    for label, visibility, colour in _VISIBILITY:
        percentages = [100 * counts[visibility] / max(sum(counts), 1) for counts in totals]
        axes.barh(range(len(KEYPOINTS)), percentages, 0.85, left, color=colour, label=label)
        left = [a + b for a, b in zip(left, percentages, strict=True)]
    axes.set_yticks(range(len(KEYPOINTS)), [name.replace("_", " ") for name in KEYPOINTS], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of people, all sets")
    axes.set_title("keypoints", loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, borderaxespad=0)
