"""Decoding of maps into people: heatmap peaks, candidate limbs on the part affinity fields, greedy assembly.

The decoder works on the network's grid of stride 8, without upsampling. Peaks are located with sub-cell accuracy
(`peaks`), all candidate limbs are scored by bilinear sampling in one array operation (`limbs`), and candidates are
merged into people (`assembly`). Method: Cao et al., "OpenPose", TPAMI 2019. `python -m evaluation.oracle` measures the
AP that decoding loses.

This module does not need MindSpore. It needs OpenCV only for smoothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.assembly import assemble, keypoint_table, limb_score_sums
from evaluation.decoder.limbs import score_limbs
from evaluation.decoder.peaks import Peaks, find_peaks, noise_level
from evaluation.decoder.person import Person
from pipeline.errors import InputError
from pipeline.maps import Maps, grid_to_pixel
from pipeline.skeleton import NUM_KEYPOINTS, NUM_LIMBS

__all__ = ["DecodeConfig", "Person", "decode"]

RANGES: dict[str, tuple[float, float]] = {
    "smooth": (0.0, 5.0),
    "peak_threshold": (0.0, 1.0),
    "peak_noise": (0.0, 100.0),
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
"""Minimum and maximum of each field of DecodeConfig, inclusive."""


@dataclass(frozen=True)
class DecodeConfig:
    """Settings of the decoder. Raises InputError with field, value and range if a value is out of range.

    Attributes:
        smooth: sigma, in grid cells, of a Gaussian filter on the heatmaps; 0 disables it. It helps only if noise
            differs between adjacent cells by more than a tenth of the peak height. Even then 0.7 cells cost .02
            AP on maps rendered from real annotations, and .08 on exact maps, because close peaks merge.
        peak_threshold: height, 0..1, that a peak must exceed to become a candidate keypoint. It is the interpolated
            height between the cells (see `peaks`), so that the threshold means the same wherever a peak lies.
        peak_noise: height that a peak must exceed, too, in multiples of the standard deviation of white noise in the
            heatmaps (`peaks.noise_level`). Maps of networks are smooth, and it changes nothing there. In noise, 3.5
            leaves about one false candidate of each kind; a fixed threshold below the noise lets hundreds pass.
        max_peaks: maximum number of candidates of one keypoint kind in an image; the highest are kept.
        limb_samples: minimum number of sampling points along a candidate limb, both ends included. Limbs longer than
            this number of cells are sampled once for each cell.
        limb_threshold: agreement, 0..1, of the field with the limb's direction that a point must exceed to support it.
        limb_fraction: fraction, 0..1, of a limb's points that must support it.
        near: distance in grid cells below which two candidates may be joined without support from the field. The
            OpenPose library uses 0.4. On maps of a trained network 0.6 gives up to .002 AP more than 0.3, and 1 gives
            up to .005 more, but 1 costs .01 in strong noise.
        peak_weight: weight of the peak scores of a limb's two ends, relative to the limb's own score, when limbs are
            sorted for the assembly.
        gap: maximum distance for bridging, in multiples of the longest limb of either part; 0 disables it. Bridging
            joins two parts of a person across a missing keypoint (see `assembly`).
        min_keypoints: minimum number of keypoints of a person. COCO counts a person with one labelled keypoint like any
            other, so 1 gives .02 to .07 AP more than 3 (the value of the OpenPose library) on maps rendered from real
            annotations. On maps of the trained demo network AP is the same to all digits, and 1 finds 427 people in 200
            images, 3 finds 349: the rest are single points, which `evaluation.predict` leaves out by default.
        min_score: minimum of `person_scores` of a person. The default requires a heatmap value of 0.74 of a single
            keypoint, and of 0.25 each of two keypoints with a limb.
    """

    smooth: float = 0.0
    peak_threshold: float = 0.1
    peak_noise: float = 3.5
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
    """Find the people in the maps of one image.

    Args:
        maps: heatmaps and part affinity fields, finite.
        config: settings.

    Returns:
        People by descending score, with coordinates in pixels of the network's input.

    Raises:
        ValueError: a value of the maps is NaN or infinite. No other maps raise an error.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # sums and products of very large finite values may overflow
        _check_finite(maps)
        heatmaps = _smooth(maps.heatmaps[:NUM_KEYPOINTS], config.smooth)
        return assemble_people(find_candidates(heatmaps, config), maps, config)


def find_candidates(heatmaps: NDArray[np.float32], config: DecodeConfig) -> Peaks:
    """Find the candidate keypoints in heatmaps (K, h, w); the first half of `decode`."""
    threshold = max(config.peak_threshold, config.peak_noise * noise_level(heatmaps))
    return find_peaks(heatmaps, threshold, config.max_peaks)


def assemble_people(peaks: Peaks, maps: Maps, config: DecodeConfig) -> list[Person]:
    """Assemble candidate keypoints into people by the part affinity fields; the second half of `decode`."""
    limbs = score_limbs(
        maps.pafs,
        peaks,
        samples=config.limb_samples,
        threshold=config.limb_threshold,
        fraction=config.limb_fraction,
        near=config.near,
    )
    people = assemble(peaks, limbs, peak_weight=config.peak_weight, gap=config.gap)
    people = people[np.count_nonzero(people >= 0, axis=1) >= config.min_keypoints]
    keypoints = keypoint_table(peaks, people, grid_to_pixel(peaks.position, maps.stride))
    scores = person_scores(keypoints, limb_score_sums(peaks, limbs, people))
    selected = np.flatnonzero(scores >= config.min_score)
    selected = selected[np.argsort(-scores[selected], kind="stable")]
    return [Person(*person) for person in zip(keypoints[selected], scores[selected].tolist(), strict=True)]


def _smooth(heatmaps: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Blur each channel with a Gaussian filter; sigma in cells, 0 returns the input."""
    if sigma == 0 or heatmaps.size == 0:
        return heatmaps
    import cv2

    return np.stack([cv2.GaussianBlur(channel, (0, 0), sigma) for channel in heatmaps])


def person_scores(keypoints: NDArray[np.float32], limb_sums: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the confidence of people: the sum of keypoint and limb scores over the number of both in a skeleton.

    This is the score of the OpenPose library (`bodyPartConnectorBase`). Dividing by a constant ranks fragments below
    whole people: with the mean over the found keypoints instead, AP on maps rendered from real annotations is .06
    lower. The limb scores improve AP by .002 to .004 on maps of a trained network.

    Args:
        keypoints: (P, 18, 3) x, y, score.
        limb_sums: (P,) sum of the scores of each person's limbs.

    Returns:
        (P,) float32, about 0..1.
    """
    total = keypoints[..., 2].sum(axis=1) + limb_sums
    return np.asarray(total / (NUM_KEYPOINTS + NUM_LIMBS), dtype=np.float32)


def _check_finite(maps: Maps) -> None:
    for name, array in (("heatmaps", maps.heatmaps), ("pafs", maps.pafs)):
        if np.isfinite(array.sum()):  # one pass, without a temporary array; the sum of finite values may overflow
            continue
        bad = array.size - np.count_nonzero(np.isfinite(array))
        if bad:
            raise ValueError(f"Maps.{name}: {bad} of {array.size} values are NaN or infinite, expected finite ones")
