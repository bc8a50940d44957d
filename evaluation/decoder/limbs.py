"""Candidate limbs: pairs of candidate keypoints, scored on the part affinity fields.

A limb's score is the mean agreement of the field with its direction (Cao et al., CVPR 2017, equation 10). The field is
read between the cells, for a limb seldom runs along them: against reading the nearest cell this changes nothing on
exact maps and steadies the score on noisy ones. No cell that a limb crosses is skipped.

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

_GLANCE = np.array([0.25, 0.5, 0.75], dtype=np.float32)
"""Where a pair is looked at first, as fractions of its length: pairs without any support there are no limbs."""

_BLOCK = 8192
"""Points looked at in one go: larger arrays leave the cache, and the C library returns them to the system each time."""


@dataclass(frozen=True)
class Limbs:
    """Candidate limbs between two candidate keypoints, M in all.

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
class _Lines:
    """Straight lines between M pairs of candidates; vectors in the plane are complex numbers x + iy, in cells."""

    limb: Indices
    origin: Complexes
    step: Complexes  # from start to end
    length: Floats

    def __getitem__(self, which: Indices) -> _Lines:
        return _Lines(self.limb[which], self.origin[which], self.step[which], self.length[which])

    @property
    def direction(self) -> Complexes:
        """(M,) unit vectors; zero for lines without length."""
        return np.asarray(self.step / np.maximum(self.length, np.finfo(np.float32).tiny))


def candidate_pairs(peaks: Peaks, kinds: Indices) -> tuple[Indices, Indices, Indices]:
    """Every pair of candidates of certain kinds.

    Args:
        peaks: the candidates.
        kinds: (L, 2) OpenPose-18 indices of the two kinds that pair up.

    Returns:
        Index into `kinds`, start and end (indices into `peaks`), (M,) intp each.
    """
    first = np.cumsum(peaks.count) - peaks.count
    starts, ends = peaks.count[kinds].T  # (L,) candidates at either end
    pairs = starts * ends
    which = np.repeat(np.arange(len(pairs)), pairs)
    within = _count_up(pairs)
    start, end = np.divmod(within, np.maximum(ends, 1)[which])
    return which, start + first[kinds[which, 0]], end + first[kinds[which, 1]]


def score_limbs(pafs: Floats, peaks: Peaks, *, samples: int, threshold: float, fraction: float, near: float) -> Limbs:
    """Score every pair of candidates on the fields; keep those that the field supports.

    Args:
        pafs: (2L, h, w) float32, finite.
        peaks: the candidates.
        samples: points looked at along a limb, both ends included, unless it is longer than as many cells.
        threshold: agreement that a point must exceed to support the limb.
        fraction: part of the points that must support it.
        near: pairs closer than this many cells are kept even without support, with the threshold as their score:
            within a cell the direction is uncertain and the field of other people covers it.
    """
    limb, start, end = candidate_pairs(peaks, LIMB_INDICES)
    position = peaks.position[:, 0] + 1j * peaks.position[:, 1]
    step = position[end] - position[start]
    lines = _Lines(limb, position[start], step, np.abs(step))
    fields = pafs[0::2] + 1j * pafs[1::2]  # (L, h, w)
    looked_at = np.flatnonzero(_glance(fields, lines, threshold) | (lines.length < near))
    lines = lines[looked_at]
    score, support = _follow(fields, lines, samples, threshold)
    supported = (support >= fraction - 1e-6) & (score > 0)
    close = ~supported & (lines.length < near)
    score = np.where(close, np.float32(threshold), score)
    kept = np.flatnonzero(supported | close)
    pairs = looked_at[kept]
    return Limbs(limb[pairs], start[pairs], end[pairs], score[kept])


def _glance(fields: Complexes, lines: _Lines, threshold: float) -> NDArray[np.bool_]:
    """(M,) whether the cell nearest to any of a few points supports the limb; of a crowd's pairs, few do."""
    _, height, width = fields.shape
    flat, direction = fields.reshape(-1), lines.direction
    supported = np.zeros(len(direction), dtype=np.bool_)
    for along in _GLANCE:
        at = lines.origin + lines.step * along
        x = np.clip(np.rint(at.real).astype(np.intp), 0, width - 1)
        y = np.clip(np.rint(at.imag).astype(np.intp), 0, height - 1)
        field = flat.take((lines.limb * height + y) * width + x)
        supported |= _agreement(field, direction) > threshold
    return supported


def _follow(fields: Complexes, lines: _Lines, samples: int, threshold: float) -> tuple[Floats, Floats]:
    """(M,) mean agreement of the field along each line, and (M,) fraction of its points that exceed the threshold."""
    points = np.maximum(samples, np.ceil(lines.length).astype(np.intp) + 1)  # (M,)
    mean, support = np.empty((2, len(points)), dtype=np.float32)
    for block in np.array_split(np.arange(len(points)), 1 + points.sum() // _BLOCK):
        number, some = points[block], lines[block]
        line = np.repeat(np.arange(len(block)), number)  # (S,) all lines' points in one row
        along = _count_up(number) / (number - 1).astype(np.float32).take(line)
        at = some.origin.take(line) + some.step.take(line) * along.astype(np.float32)
        field = _between_cells(fields, some.limb.take(line), at)
        agreement = _agreement(field, some.direction.take(line))
        mean[block] = np.bincount(line, agreement, len(block)) / number
        support[block] = np.bincount(line, agreement > threshold, len(block)) / number
    return mean, support


def _agreement(field: Complexes, direction: Complexes) -> Floats:
    """Scalar product of vectors."""
    return np.asarray(field.real * direction.real + field.imag * direction.imag)


def _between_cells(fields: Complexes, limb: Indices, at: Complexes) -> Complexes:
    """(S,) the limbs' fields at positions (S,) in cells, bilinear; beyond the grid's edge they stay the same."""
    _, height, width = fields.shape
    x, y = np.clip(at.real, 0, width - 1), np.clip(at.imag, 0, height - 1)
    left, top = x.astype(np.intp), y.astype(np.intp)
    right, below = x - left.astype(np.float32), y - top.astype(np.float32)  # weights of the neighbours on that side
    cell = (limb * height + top) * width + left
    beside = left < width - 1
    under = np.where(top < height - 1, width, 0)
    flat = fields.reshape(-1)
    upper = flat.take(cell) * (1 - right) + flat.take(cell + beside) * right
    cell += under
    lower = flat.take(cell) * (1 - right) + flat.take(cell + beside) * right
    return np.asarray(upper * (1 - below) + lower * below)


def _count_up(lengths: Indices) -> Indices:
    """0, 1, … for each of several lengths, one after the other, as one array."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
