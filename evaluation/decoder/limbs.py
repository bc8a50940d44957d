"""Candidate limbs: pairs of candidate keypoints, scored on the part affinity fields.

The score of a limb is the mean agreement of the field with the direction of the limb (Cao et al., CVPR 2017, equation
10). The field is sampled with bilinear interpolation: compared with the nearest cell this changes nothing on exact maps
and makes the score more stable on noisy maps. Sampling points are at most one cell apart.

This module needs NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.peaks import Peaks
from pipeline.skeleton import LIMB_INDICES

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]
Complexes = NDArray[np.complex64]

_PREFILTER_POINTS = np.array([0.25, 0.5, 0.75], dtype=np.float32)
"""Positions, as fractions of the length, where a pair is tested first. Pairs without support at any are no limbs."""

_BLOCK_POINTS = 8192
"""Approximate number of points sampled at a time. Larger arrays exceed the cache, and the C library returns
their memory to the system every time."""


@dataclass(frozen=True)
class Limbs:
    """M candidate limbs, each between two candidate keypoints.

    Attributes:
        limb: (M,) intp index into skeleton.LIMBS.
        start, end: (M,) intp indices into Peaks.
        score: (M,) float32 mean agreement of the part affinity field with the limb's direction, about 0..1.
    """

    limb: Indices
    start: Indices
    end: Indices
    score: Floats


@dataclass(frozen=True)
class _Segments:
    """M line segments between pairs of candidates. Vectors are complex numbers x + iy, in grid cells.

    Attributes:
        limb: (M,) index into skeleton.LIMBS.
        origin: (M,) start point.
        step: (M,) vector from start to end.
        length: (M,) length.
    """

    limb: Indices
    origin: Complexes
    step: Complexes
    length: Floats

    def __getitem__(self, indices: Indices) -> _Segments:
        return _Segments(self.limb[indices], self.origin[indices], self.step[indices], self.length[indices])

    @property
    def direction(self) -> Complexes:
        """(M,) unit vectors; zero for segments of length zero."""
        return np.asarray(self.step / np.maximum(self.length, np.finfo(np.float32).tiny))


def candidate_pairs(peaks: Peaks, kinds: Indices) -> tuple[Indices, Indices, Indices]:
    """Return all pairs of candidates whose keypoint kinds form one of the given pairs of kinds.

    Args:
        peaks: the candidate keypoints.
        kinds: (L, 2) pairs of keypoint kinds (OpenPose-18 indices).

    Returns:
        Three (M,) intp arrays: index into `kinds`, and start and end as indices into `peaks`.
    """
    first_of_kind = np.cumsum(peaks.count) - peaks.count
    start_counts, end_counts = peaks.count[kinds].T  # (L,)
    pair_counts = start_counts * end_counts
    kind_pair = np.repeat(np.arange(len(pair_counts)), pair_counts)
    start, end = np.divmod(_concatenated_ranges(pair_counts), np.maximum(end_counts, 1)[kind_pair])
    return kind_pair, start + first_of_kind[kinds[kind_pair, 0]], end + first_of_kind[kinds[kind_pair, 1]]


def score_limbs(pafs: Floats, peaks: Peaks, *, samples: int, threshold: float, fraction: float, near: float) -> Limbs:
    """Score all pairs of candidates on the part affinity fields and keep the pairs that the fields support.

    Args:
        pafs: (2L, h, w) float32, finite.
        peaks: the candidate keypoints.
        samples: minimum number of sampling points along a limb, both ends included; longer limbs are sampled once for
            each cell.
        threshold: agreement that a point must exceed to support the limb.
        fraction: fraction of the points that must support the limb.
        near: distance in cells below which pairs are kept without support, with the threshold as their score. At such a
            distance the direction is uncertain, and the fields of other people may overlap.
    """
    limb, start, end = candidate_pairs(peaks, LIMB_INDICES)
    position = peaks.position[:, 0] + 1j * peaks.position[:, 1]
    step = position[end] - position[start]
    segments = _Segments(limb, position[start], step, np.abs(step))
    fields = pafs[0::2] + 1j * pafs[1::2]  # (L, h, w)
    selected = np.flatnonzero(_prefilter(fields, segments, threshold) | (segments.length < near))
    segments = segments[selected]
    score, support = _integrate(fields, segments, samples, threshold)
    supported = (support >= fraction - 1e-6) & (score > 0)
    close = ~supported & (segments.length < near)
    score = np.where(close, np.float32(threshold), score)
    kept = np.flatnonzero(supported | close)
    pairs = selected[kept]
    return Limbs(limb[pairs], start[pairs], end[pairs], score[kept])


def _prefilter(fields: Complexes, segments: _Segments, threshold: float) -> NDArray[np.bool_]:
    """Return (M,) True for segments that the nearest cell of a few points supports; in crowds, most pairs fail."""
    _, height, width = fields.shape
    flat, direction = fields.reshape(-1), segments.direction
    supported = np.zeros(len(direction), dtype=np.bool_)
    for fraction in _PREFILTER_POINTS:
        point = segments.origin + segments.step * fraction
        x = np.clip(np.rint(point.real).astype(np.intp), 0, width - 1)
        y = np.clip(np.rint(point.imag).astype(np.intp), 0, height - 1)
        field = flat.take((segments.limb * height + y) * width + x)
        supported |= _dot(field, direction) > threshold
    return supported


def _integrate(fields: Complexes, segments: _Segments, samples: int, threshold: float) -> tuple[Floats, Floats]:
    """Return (M,) mean agreement of the field along each segment, and (M,) fraction of points above the threshold."""
    counts = np.maximum(samples, np.ceil(segments.length).astype(np.intp) + 1)  # (M,) points of each segment
    mean, support = np.empty((2, len(counts)), dtype=np.float32)
    for block in np.array_split(np.arange(len(counts)), 1 + counts.sum() // _BLOCK_POINTS):
        count, part = counts[block], segments[block]
        index = np.repeat(np.arange(len(block)), count)  # (S,) segment of each point
        fraction = _concatenated_ranges(count) / (count - 1).astype(np.float32).take(index)
        point = part.origin.take(index) + part.step.take(index) * fraction.astype(np.float32)
        field = _sample_bilinear(fields, part.limb.take(index), point)
        agreement = _dot(field, part.direction.take(index))
        mean[block] = np.bincount(index, agreement, len(block)) / count
        support[block] = np.bincount(index, agreement > threshold, len(block)) / count
    return mean, support


def _dot(a: Complexes, b: Complexes) -> Floats:
    """Return the dot products of vectors."""
    return np.asarray(a.real * b.real + a.imag * b.imag)


def _sample_bilinear(fields: Complexes, limb: Indices, point: Complexes) -> Complexes:
    """Sample the limbs' fields at (S,) points in cells by bilinear interpolation; points are clipped to the grid."""
    _, height, width = fields.shape
    x, y = np.clip(point.real, 0, width - 1), np.clip(point.imag, 0, height - 1)
    left, top = x.astype(np.intp), y.astype(np.intp)
    weight_right, weight_bottom = x - left.astype(np.float32), y - top.astype(np.float32)
    cell = (limb * height + top) * width + left
    step_right = left < width - 1
    step_down = np.where(top < height - 1, width, 0)
    flat = fields.reshape(-1)
    upper = flat.take(cell) * (1 - weight_right) + flat.take(cell + step_right) * weight_right
    cell += step_down
    lower = flat.take(cell) * (1 - weight_right) + flat.take(cell + step_right) * weight_right
    return np.asarray(upper * (1 - weight_bottom) + lower * weight_bottom)


def _concatenated_ranges(lengths: Indices) -> Indices:
    """Return range(lengths[0]), range(lengths[1]), … concatenated in one array."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
