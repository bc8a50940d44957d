"""From maps to people: peaks of the heatmaps, candidate limbs on the part affinity fields, greedy assembly.

Works on the network's own grid of stride 8, without enlarging the maps: peaks are located to a fraction of a cell
(`peaks`), all candidate limbs are scored by one gather of bilinear samples (`limbs`), then joined to people
(`assembly`). Method: Cao et al., "OpenPose", TPAMI 2019. `python -m evaluation.oracle` measures what decoding loses.

This module needs neither MindSpore nor, unless smoothing is asked for, OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.assembly import assemble, keypoint_table, limb_totals
from evaluation.decoder.limbs import score_limbs
from evaluation.decoder.peaks import Peaks, find_peaks
from evaluation.decoder.person import Person
from pipeline.errors import InputError
from pipeline.maps import Maps, grid_to_pixel
from pipeline.skeleton import NUM_KEYPOINTS, NUM_LIMBS

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
    "gap": (0.0, 10.0),
    "min_keypoints": (1, NUM_KEYPOINTS),
    "min_score": (0.0, 10.0),
}
"""Smallest and largest value of every field of DecodeConfig, both allowed."""


@dataclass(frozen=True)
class DecodeConfig:
    """How maps become people. Raises InputError, naming field, value and range, for a value out of range.

    Attributes:
        smooth: sigma, in grid cells, of a Gaussian that heatmaps are blurred with first; 0 leaves them as they are.
            Of use only where noise changes from cell to cell by more than a tenth of the peaks' height: there 0.7 cells
            still cost .02 AP on maps of real annotations, and on exact ones .08, for close peaks run together.
        peak_threshold: height, 0..1, that a heatmap's peak must exceed to be a candidate keypoint.
        max_peaks: most candidates of one keypoint kind in a picture; the highest are kept.
        limb_samples: points looked at along a candidate limb, both ends included; a limb of more cells than that is
            looked at once a cell.
        limb_threshold: agreement, 0..1, of the field with the limb's direction, above which a point supports it.
        limb_fraction: part of a limb's points, 0..1, that must support it.
        near: distance in grid cells below which two candidates may be joined without the field's support.
            The OpenPose authors' library has 0.4. On a trained network's maps 0.6 is worth up to .002 AP more than 0.3,
            and 1 up to .005, which costs .01 in strong noise.
        peak_weight: share of its two ends' peak heights in a limb's rank, beside its own score.
        gap: longest gap, in lengths of the longest limb of either side, across which two pieces of a person are joined
            where the keypoint between them was not found; 0 joins none.
        min_keypoints: people with fewer keypoints found are left out. COCO counts people of one labelled keypoint like
            others, so against 3, as the OpenPose authors have it, 1 is worth .02 to .07 AP on maps drawn from real
            annotations. On the maps of the trained demo network it changes no digit of AP, and finds 427 people in 200
            pictures where 3 finds 349: lone points, which `evaluation.predict` leaves out by default.
        min_score: people with a lower score, as `person_scores` gives it, are left out. The default asks of a lone
            keypoint a height of 0.74, and of two with a limb 0.25 each.
    """

    smooth: float = 0.0
    peak_threshold: float = 0.1
    max_peaks: int = 64
    limb_samples: int = 10
    limb_threshold: float = 0.05
    limb_fraction: float = 0.8
    near: float = 0.6
    peak_weight: float = 0.1
    gap: float = 2.0
    min_keypoints: int = 1
    min_score: float = 0.02

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
    heatmaps = _smoothed(maps.heatmaps[:NUM_KEYPOINTS], config.smooth)
    with np.errstate(over="ignore", invalid="ignore"):  # finite values near float32's end may overflow in products
        return assemble_people(find_peaks(heatmaps, config.peak_threshold, config.max_peaks), maps, config)


def assemble_people(peaks: Peaks, maps: Maps, config: DecodeConfig) -> list[Person]:
    """The second half of `decode`: people of given candidate keypoints, joined by the maps' part affinity fields."""
    limbs = score_limbs(
        maps.pafs,
        peaks,
        samples=config.limb_samples,
        threshold=config.limb_threshold,
        fraction=config.limb_fraction,
        near=config.near,
    )
    groups = assemble(peaks, limbs, peak_weight=config.peak_weight, gap=config.gap)
    groups = [group for group in groups if len(group) >= config.min_keypoints]
    keypoints = keypoint_table(peaks, groups, grid_to_pixel(peaks.position, maps.stride))
    scores = person_scores(keypoints, limb_totals(peaks, limbs, groups))
    order = np.argsort(-scores, kind="stable")
    return [Person(keypoints[i], float(scores[i])) for i in order if scores[i] >= config.min_score]


def _smoothed(heatmaps: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Each channel blurred with a Gaussian; sigma in cells, 0 changes nothing."""
    if sigma == 0 or heatmaps.size == 0:
        return heatmaps
    import cv2

    return np.stack([cv2.GaussianBlur(channel, (0, 0), sigma) for channel in heatmaps])


def person_scores(keypoints: NDArray[np.float32], limb_total: NDArray[np.float32]) -> NDArray[np.float32]:
    """Confidence of people: the sum of their keypoints' and limbs' scores, over the number of both in a skeleton.

    That of the OpenPose authors' library (`bodyPartConnectorBase`). A sum over a fixed number puts fragments behind
    whole people: on maps drawn from real annotations, the mean over the keypoints found costs .06 AP. The limbs are
    worth .002 to .004 on a trained network's maps.

    Args:
        keypoints: (P, 18, 3) x, y, score.
        limb_total: (P,) sum of the scores of the limbs between them.

    Returns:
        (P,) float32, about 0..1.
    """
    total = keypoints[..., 2].sum(axis=1) + limb_total
    return np.asarray(total / (NUM_KEYPOINTS + NUM_LIMBS), dtype=np.float32)


def _check_finite(maps: Maps) -> None:
    for name, array in (("heatmaps", maps.heatmaps), ("pafs", maps.pafs)):
        bad = array.size - np.count_nonzero(np.isfinite(array))
        if bad:
            raise ValueError(f"Maps.{name}: {bad} of {array.size} values are NaN or infinite, expected finite ones")
