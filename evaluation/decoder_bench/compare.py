"""Decoding of given maps, without a network, by one or several settings of the decoder, with the time it takes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from evaluation.decoder.decode import DecodeConfig, decode
from evaluation.decoder.person import Person
from evaluation.inference.letterbox import people_to_image
from evaluation.saved_maps.folder import SavedMaps
from evaluation.saved_maps.perturbation import Perturbation
from evaluation.scoring.analysis.resampling import Difference, bootstrap_difference, match_detections
from evaluation.scoring.ground_truth import GroundTruth
from evaluation.scoring.metrics import SHORT_AP_KEYS, coco_ap, format_short_row
from evaluation.scoring.results import to_coco_results
from pipeline.maps import Maps

REPEATS = 3
"""Number of times that an image is decoded to measure the duration: other processes make single calls slower."""


@dataclass
class DecodedImages:
    """Detections in a sequence of images.

    Attributes:
        results: COCO keypoint results.
        milliseconds: duration of `decode` for each image, the shortest of several calls.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)

    def timing(self) -> dict[str, float]:
        """Return the `median`, the 95th percentile `p95` and the `max` of the durations in ms; 0 without images."""
        values = self.milliseconds or [0.0]
        return {
            "median": float(np.median(values)),
            "p95": float(np.percentile(values, 95)),
            "max": float(max(values)),
        }


def decode_with_each(
    images: Iterable[SavedMaps],
    configs: Sequence[DecodeConfig],
    perturbation: Perturbation,
    repeats: int = REPEATS,
) -> list[DecodedImages]:
    """Decode the maps of every image with each configuration.

    Args:
        images: maps and letterboxes.
        configs: configurations of the decoder.
        perturbation: changes to the maps before decoding; its duration is not measured.
        repeats: number of times that an image is decoded to measure the duration.

    Returns:
        Detections by configuration.
    """
    decoded = [DecodedImages() for _ in configs]
    for image in images:
        maps = perturbation.apply(image.maps, image.image_id)
        for config, output in zip(configs, decoded, strict=True):
            people, milliseconds = _decode_and_measure(maps, config, repeats)
            output.milliseconds.append(milliseconds)
            output.results += to_coco_results(image.image_id, people_to_image(people, image.letterbox))
    return decoded


def _decode_and_measure(maps: Maps, config: DecodeConfig, repeats: int) -> tuple[list[Person], float]:
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        people = decode(maps, config)
        durations.append(1000 * (time.perf_counter() - start))
    return people, min(durations)


@dataclass(frozen=True)
class Comparison:
    """Scores of several settings of the decoder on the same maps.

    Attributes:
        ap: COCO's ten numbers by the name of the settings.
        milliseconds: `DecodedImages.timing` by the name of the settings.
        difference: of the last settings to the first; None if there is only one.
        results: detections of the last settings.
    """

    ap: dict[str, dict[str, float]]
    milliseconds: dict[str, dict[str, float]]
    difference: Difference | None
    results: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return all numbers, without the detections."""
        settings = {name: {**ap, "decode_ms": self.milliseconds[name]} for name, ap in self.ap.items()}
        return {"settings": settings, "difference": self.difference and asdict(self.difference)}


def compare_settings(
    images: Iterable[SavedMaps],
    ground_truth: GroundTruth,
    settings: Mapping[str, DecodeConfig],
    perturbation: Perturbation,
) -> Comparison:
    """Decode maps with each of the named settings and score the detections.

    Args:
        images: maps of all images of `ground_truth`.
        ground_truth: annotations.
        settings: configurations of the decoder by name, at least one.
        perturbation: changes to the maps before decoding.
    """
    decoded = dict(zip(settings, decode_with_each(images, list(settings.values()), perturbation), strict=True))
    first, *_, last = [*decoded.values(), *decoded.values()]
    difference = None
    if len(settings) > 1:
        before, after = (match_detections(ground_truth, one.results, list(ground_truth)) for one in (first, last))
        difference = bootstrap_difference(before, after)
    return Comparison(
        {name: coco_ap(ground_truth, one.results) for name, one in decoded.items()},
        {name: one.timing() for name, one in decoded.items()},
        difference,
        last.results,
    )


def format_comparison(comparison: Comparison) -> str:
    """Format a table with AP and decoding time of each of the settings, and a line with the difference in AP."""
    width = max(map(len, ["settings", *comparison.ap]))
    timing = ("median", "p95", "max")
    header = "".join(f"  {name:>5}" for name in SHORT_AP_KEYS)
    lines = [f"{'settings':{width}}{header}" + "".join(f"  {f'{name} ms':>9}" for name in timing)]
    for name, ap in comparison.ap.items():
        durations = "".join(f"  {comparison.milliseconds[name][key]:9.2f}" for key in timing)
        lines.append(f"{name:{width}}{format_short_row(ap)}{durations}")
    if comparison.difference:
        lines.append(f"difference: {comparison.difference}")
    return "\n".join(lines)
