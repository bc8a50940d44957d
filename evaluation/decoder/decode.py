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
    "weak_peak_threshold": (0.0, 1.0),
    "peak_noise": (0.0, 100.0),
    "weak_peak_noise": (0.0, 100.0),
    "max_peaks": (1, 1000),
    "limb_samples": (2, 100),
    "limb_threshold": (0.0, 1.0),
    "limb_fraction": (0.0, 1.0),
    "near": (0.0, 10.0),
    "peak_weight": (0.0, 10.0),
    "rival_weight": (0.0, 10.0),
    "gap": (0.0, 10.0),
    "min_keypoints": (1, NUM_KEYPOINTS),
    "min_score": (0.0, 10.0),
    "score_prior": (0.0, 1e6),
}
"""Minimum and maximum of each field of DecodeConfig, inclusive."""


@dataclass(frozen=True)
class DecodeConfig:
    """Settings of the decoder. Raises InputError with field, value and range if a value is out of range.

    Attributes:
        smooth: sigma, in grid cells, of a Gaussian filter on the heatmaps; 0 disables it. It helps only if noise
            differs between adjacent cells by more than a tenth of the peak height. On maps of networks 0.5 cells cost
            .001 to .009 AP, and on exact ones .02, because close peaks merge.
        peak_threshold: height, 0..1, that a peak must exceed to be a person of its own or the start of one. It is the
            interpolated height between the cells (see `peaks`), so that the threshold means the same wherever a peak
            lies. The OpenPose authors use 0.05, too. A network that was trained on COCO answers to small and hidden
            keypoints with peaks of 0.03 to 0.1, while its background stays below 0.01.
        weak_peak_threshold: height that a peak must exceed to join a person by a limb (see `assembly`). The limb is
            the evidence that the low peak lacks. The same as `peak_threshold` disables weak peaks.
        peak_noise: the same as `peak_threshold`, in multiples of the standard deviation of white noise in the heatmaps
            (`peaks.noise_level`); the higher threshold counts. Maps of networks are smooth, and it changes nothing
            there. In noise, 4 leaves less than one false candidate of a kind; a fixed threshold below the noise lets
            hundreds pass.
        weak_peak_noise: the same for weak peaks. 3.25 leaves about five false candidates of a kind, of which limbs
            reject most. With 4, AP is .01 lower in noise of .04 on maps of a network trained on COCO, and .07 lower
            in noise of .06 on exact maps scaled by .3; 2.5 gives nothing more and takes four times as long.
        max_peaks: maximum number of candidates of one keypoint kind in an image; the highest are kept.
        limb_samples: minimum number of sampling points along a candidate limb, both ends included. Limbs longer than
            this number of cells are sampled once for each cell.
        limb_threshold: agreement, 0..1, of the field with the limb's direction that a point must exceed to support it.
            Fields of networks fade with distance and where people overlap, so the direction tells more than the
            strength; where a limb competes with others, its mean agreement decides.
        limb_fraction: fraction, 0..1, of a limb's points that must support it. The rest may lie in a gap of the field,
            where something hides the limb. With 0.5 AP is up to .005 higher on some maps, and lower on others.
        near: distance in grid cells below which two candidates may be joined without support from the field. The
            OpenPose library uses 0.4. Without it AP on the demo's maps is .003 lower; 1 costs .004 on maps of a network
            trained on COCO.
        peak_weight: weight of the peak scores of a limb's two ends, relative to the limb's own score, when limbs are
            sorted for the assembly.
        rival_weight: weight of the best other limb at either end, likewise: an ambiguous limb is joined late. 0 joins
            by strength alone, as the OpenPose library does, and costs .02 AP in crowds.
        gap: maximum distance for bridging, in multiples of the longest limb of either part; 0 disables it. Bridging
            joins two parts of a person across a missing keypoint (see `assembly`).
        min_keypoints: minimum number of keypoints of a person. COCO counts a person with one labelled keypoint like any
            other, so 1 gives .03 to .05 AP more than 3 (the value of the OpenPose library) on maps rendered from real
            annotations. On maps of networks AP is the same within .001. `evaluation.predict` leaves out single points
            by default.
        min_score: minimum of `person_scores` of a person. The default requires a height of 0.34 of a single keypoint,
            and of 0.13 of two keypoints if their limb scores the same. It leaves out false people in noise; a lower
            value does not change AP.
        score_prior: number of scores of 0 that are added to those of a person before the mean (see `person_scores`).
            10 gives .002 to .006 AP more than the OpenPose library's sum on maps of networks trained on COCO, and so
            did all values from 2 to 20. A regression of OKS on several features of a person, fitted to maps of one
            network, was not better on those of others.
    """

    smooth: float = 0.0
    peak_threshold: float = 0.05
    weak_peak_threshold: float = 0.02
    peak_noise: float = 4.0
    weak_peak_noise: float = 3.25
    max_peaks: int = 64
    limb_samples: int = 10
    limb_threshold: float = 0.02
    limb_fraction: float = 0.8
    near: float = 0.6
    peak_weight: float = 0.1
    rival_weight: float = 0.3
    gap: float = 2.0
    min_keypoints: int = 1
    min_score: float = 0.035
    score_prior: float = 10.0

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
    """Find the strong and weak candidate keypoints in heatmaps (K, h, w); the first half of `decode`."""
    noise = noise_level(heatmaps)
    strong = max(config.peak_threshold, config.peak_noise * noise)
    weak = max(config.weak_peak_threshold, config.weak_peak_noise * noise)
    return find_peaks(heatmaps, strong, weak, config.max_peaks)


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
    people = assemble(
        peaks,
        limbs,
        peak_weight=config.peak_weight,
        rival_weight=config.rival_weight,
        gap=config.gap,
    )
    people = people[np.count_nonzero(people >= 0, axis=1) >= config.min_keypoints]
    keypoints = keypoint_table(peaks, people, grid_to_pixel(peaks.position, maps.stride))
    scores = person_scores(keypoints, limb_score_sums(peaks, limbs, people), config.score_prior)
    selected = np.flatnonzero(scores >= config.min_score)
    selected = selected[np.argsort(-scores[selected], kind="stable")]
    return [Person(*person) for person in zip(keypoints[selected], scores[selected].tolist(), strict=True)]


def _smooth(heatmaps: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Blur each channel with a Gaussian filter; sigma in cells, 0 returns the input."""
    if sigma == 0 or heatmaps.size == 0:
        return heatmaps
    import cv2

    return np.stack([cv2.GaussianBlur(channel, (0, 0), sigma) for channel in heatmaps])


def person_scores(keypoints: NDArray[np.float32], limb_sums: NDArray[np.float32], prior: float) -> NDArray[np.float32]:
    """Return the confidence of people: the mean of their keypoint and limb scores, shrunk towards 0.

    COCO compares a person over its labelled keypoints only, and most labelled people are cut off or partly hidden. The
    sum over a fixed skeleton, the score of the OpenPose library, ranks them below uncertain people with more keypoints.
    The plain mean ranks fragments of two keypoints too high. `prior` added scores of 0 lie between the two.

    Args:
        keypoints: (P, 18, 3) x, y, score.
        limb_sums: (P,) sum of the scores of each person's limbs.
        prior: number of scores of 0 that are added: 0 for the mean; with a large number, the score is that of the
            OpenPose library.

    Returns:
        (P,) float32, about 0..1; 1 for a complete person whose scores are all 1, whatever the prior.
    """
    total = keypoints[..., 2].sum(axis=1) + limb_sums
    number = np.maximum(2 * np.count_nonzero(keypoints[..., 2] > 0, axis=1), 1)  # of keypoints, and about that of limbs
    complete = (2 * NUM_KEYPOINTS + prior) / (NUM_KEYPOINTS + NUM_LIMBS)
    return np.asarray(total * complete / (number + prior), dtype=np.float32)


def _check_finite(maps: Maps) -> None:
    for name, array in (("heatmaps", maps.heatmaps), ("pafs", maps.pafs)):
        if np.isfinite(array.sum()):  # one pass, without a temporary array; the sum of finite values may overflow
            continue
        bad = array.size - np.count_nonzero(np.isfinite(array))
        if bad:
            raise ValueError(f"Maps.{name}: {bad} of {array.size} values are NaN or infinite, expected finite ones")
