"""Candidate limbs: pairs of candidate keypoints, scored on the part affinity fields.

The score of a limb is the mean agreement of the field with the direction of the limb (Cao et al., CVPR 2017, equation
10). The field is sampled with bilinear interpolation: compared with the nearest cell this changes nothing on exact maps
and makes the score more stable on noisy maps. Sampling points are at most one cell apart.

The number of pairs grows with the square of the number of candidates: thirty people have 17,000 pairs, noise has up to
78,000. Almost all of them have no field between them. They are rejected by three samples of the field (`_prefilter`),
and only the rest is sampled in full. Arrays are processed in blocks that fit the processor's cache.

This module needs NumPy only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.peaks import Peaks
from pipeline.skeleton import LIMB_INDICES

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]

_PREFILTER_POINTS = (1 / 6, 1 / 2, 5 / 6)
"""Positions, as fractions of the length, where a pair is tested first: the middles of its thirds."""

_PREFILTER_SUPPORT = 2
"""Number of these points that must support a pair. One may lie in a gap of the field."""

_PREFILTER_TOLERANCE = 0.8
"""Factor of the threshold at these points. They are sampled less exactly than all points are afterwards: on maps of a
network trained on COCO a factor of 1 rejects 1.5 % of the limbs that pass the full test, and .8 rejects .3 %."""

_PREFILTER_PAIRS = 500
"""Number of pairs below which sampling all of them costs less than the prefilter."""

_BLOCK = 8192
"""Approximate number of pairs or points processed at a time. Larger arrays exceed the processor's cache, and the C
library returns their memory to the system every time."""


_NO_PAIRS = tuple(np.zeros((3, 0), dtype=np.intp))


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
    """M line segments between pairs of candidates, in grid cells.

    Attributes:
        limb: (M,) intp index into skeleton.LIMBS.
        x, y: (M,) float32 start point. A peak in an outermost cell may lie up to half a cell outside the grid.
        dx, dy: (M,) float32 vector from start to end.
        length: (M,) float32 length.
    """

    limb: Indices
    x: Floats
    y: Floats
    dx: Floats
    dy: Floats
    length: Floats


def candidates_of_kinds(count: Indices, kinds: Indices) -> tuple[Indices, Indices]:
    """Return the candidates of several kinds, one kind after the other.

    Args:
        count: (K,) number of candidates of each kind, `Peaks.count`.
        kinds: (G,) keypoint kinds; a kind may occur more than once.

    Returns:
        Two (N,) intp arrays: index into `kinds`, ascending, and index into Peaks.
    """
    number = count[kinds]
    group = np.repeat(np.arange(len(kinds)), number)
    first = np.cumsum(count)[kinds] - np.cumsum(number)  # of a candidate's index from its position in the result
    return group, np.arange(len(group)) + first.take(group)


def pair_blocks(
    group: Indices, start: Indices, end_group: Indices, end: Indices
) -> Iterator[tuple[Indices, Indices, Indices]]:
    """Yield all pairs of a start and an end of the same group, in blocks of limited size.

    Args:
        group: (A,) group of each start, ascending.
        start: (A,) intp the starts.
        end_group: (B,) group of each end, ascending.
        end: (B,) intp the ends.

    Yields:
        Three (M,) intp arrays: group, start and end of each pair. They are ordered by start, then by end.
    """
    first = np.searchsorted(end_group, group)
    width = np.searchsorted(end_group, group, side="right") - first  # (A,) number of pairs of each start
    offset = first - (np.cumsum(width) - width)  # of an end's position in `end` from the number of the pair
    number = 0
    for block in _blocks(width):
        widths = width[block]
        numbers = np.arange(number, number + widths.sum())
        number += len(numbers)
        ends = end.take(numbers + np.repeat(offset[block], widths))
        yield np.repeat(group[block], widths), np.repeat(start[block], widths), ends


def _blocks(sizes: Indices) -> list[slice]:
    """Return slices of consecutive items whose sizes add up to about _BLOCK each, without empty ones."""
    last = np.cumsum(sizes)
    total = int(last[-1]) if len(last) else 0
    if total <= _BLOCK:
        return [slice(0, len(sizes))] if total else []
    first = np.unique(np.searchsorted(last, np.arange(0, total, _BLOCK), side="right")).tolist()
    return [slice(low, high) for low, high in pairwise([*first, len(sizes)])]


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
    position = np.ascontiguousarray(peaks.position.T)
    limb, start, end = _select_pairs(pafs, position, peaks.count, threshold, near)
    segments = _segments(position, limb, start, end)
    score, support = _integrate(pafs, segments, samples, threshold)
    supported = (support >= fraction - 1e-6) & (score > 0)
    close = ~supported & (segments.length < near)
    score[close] = threshold
    kept = np.flatnonzero(supported | close)
    return Limbs(limb[kept], start[kept], end[kept], score[kept])


def _segments(position: Floats, limb: Indices, start: Indices, end: Indices) -> _Segments:
    """Return the segments between candidates at `position` (2, N)."""
    x, y = position
    start_x, start_y = x.take(start), y.take(start)
    dx, dy = x.take(end) - start_x, y.take(end) - start_y
    return _Segments(limb, start_x, start_y, dx, dy, np.sqrt(dx * dx + dy * dy))


def _select_pairs(
    pafs: Floats, position: Floats, count: Indices, threshold: float, near: float
) -> tuple[Indices, Indices, Indices]:
    """Return the pairs that are sampled in full, as (limb, start, end): all if they are few, else by the prefilter."""
    starts, ends = (candidates_of_kinds(count, kinds) for kinds in LIMB_INDICES.T)
    blocks = list(pair_blocks(*starts, *ends))
    if sum(len(block[0]) for block in blocks) > _PREFILTER_PAIRS:
        sums = _four_cell_sums(pafs)
        for i, block in enumerate(blocks):
            segments = _segments(position, *block)
            selected = np.flatnonzero(_prefilter(sums, segments, threshold) | (segments.length < near))
            blocks[i] = (block[0].take(selected), block[1].take(selected), block[2].take(selected))
    if len(blocks) == 1:
        return blocks[0]
    limb, start, end = (np.concatenate(arrays) for arrays in zip(_NO_PAIRS, *blocks, strict=True))
    return limb, start, end


def _four_cell_sums(pafs: Floats) -> Floats:
    """Return (2L, h, w) sums of each cell, its right, lower and lower right neighbour; edges are repeated.

    A quarter of the sum is the bilinear sample in the middle of the four cells. It stands for all samples between them.
    """
    width = pafs.shape[2]
    pairs, sums = np.empty_like(pafs), np.empty_like(pafs)
    # shifted rows of all cells, which is faster than row by row; the last column and row are wrong and replaced
    flat_pafs, flat_pairs, flat_sums = pafs.reshape(-1), pairs.reshape(-1), sums.reshape(-1)
    np.add(flat_pafs[:-1], flat_pafs[1:], out=flat_pairs[:-1])
    pairs[:, :, -1] = 2 * pafs[:, :, -1]
    np.add(flat_pairs[:-width], flat_pairs[width:], out=flat_sums[:-width])
    sums[:, -1] = 2 * pairs[:, -1]
    return sums


def _prefilter(sums: Floats, segments: _Segments, threshold: float) -> NDArray[np.bool_]:
    """Return (M,) True for segments that enough of the prefilter's points support.

    Args:
        sums: (2L, h, w) of `_four_cell_sums`.
        segments: the pairs.
        threshold: agreement of a supporting point.
    """
    _, height, width = sums.shape
    channel, flat = height * width, sums.reshape(-1)
    first = segments.limb * (2 * channel)
    minimum = segments.length * np.float32(4 * _PREFILTER_TOLERANCE * threshold)
    votes = np.zeros(len(first), dtype=np.int8)
    for fraction in _PREFILTER_POINTS:
        column = (segments.x + segments.dx * np.float32(fraction)).astype(np.int32)
        row = (segments.y + segments.dy * np.float32(fraction)).astype(np.int32)
        cell = first + (row * width + column)
        agreement = flat.take(cell) * segments.dx + flat[channel:].take(cell) * segments.dy
        votes += agreement > minimum
    return votes >= _PREFILTER_SUPPORT


def _integrate(pafs: Floats, segments: _Segments, samples: int, threshold: float) -> tuple[Floats, Floats]:
    """Return (M,) mean agreement of the field along each segment, and (M,) fraction of points above the threshold."""
    counts = np.maximum(np.ceil(segments.length).astype(np.intp) + 1, samples)  # (M,) points of each segment
    mean, support = np.empty((2, len(counts)), dtype=np.float32)
    for block in _blocks(counts):
        count = counts[block]
        first = np.cumsum(count) - count
        agreement = _sample_agreement(pafs, segments, block, first, count)
        mean[block] = np.add.reduceat(agreement, first) / count
        support[block] = np.add.reduceat((agreement > threshold).astype(np.float32), first) / count
    return mean, support


def _sample_agreement(pafs: Floats, segments: _Segments, block: slice, first: Indices, count: Indices) -> Floats:
    """Sample the fields at evenly spaced points of some segments by bilinear interpolation.

    Args:
        pafs: (2L, h, w).
        segments: all segments. Points outside the grid are moved to its edge.
        block: the (m,) segments that are sampled.
        first: (m,) index of the first point of each of them among all points.
        count: (m,) number of their points, both ends included.

    Returns:
        (S,) agreement of the field with the direction of the segment at each point.
    """
    _, height, width = pafs.shape
    flat, channel = pafs.reshape(-1), height * width
    dx, dy = segments.dx[block], segments.dy[block]
    inverse = 1 / np.maximum(segments.length[block], np.finfo(np.float32).tiny)
    intervals = (count - 1).astype(np.float32)
    step = np.arange(count.sum(), dtype=np.float32) - np.repeat(first.astype(np.float32), count)
    x = np.repeat(segments.x[block], count) + np.repeat(dx / intervals, count) * step
    y = np.repeat(segments.y[block], count) + np.repeat(dy / intervals, count) * step
    for axis, size in ((x, width), (y, height)):
        np.minimum(np.maximum(axis, 0, out=axis), size - 1, out=axis)
    column, row = x.astype(np.int32), y.astype(np.int32)
    right, below = x - column.astype(np.float32), y - row.astype(np.float32)
    cell = np.repeat(segments.limb[block] * (2 * channel), count) + (row * width + column)
    agreement = _interpolate(flat, cell, width, right, below) * np.repeat(dx * inverse, count)
    agreement += _interpolate(flat[channel:], cell, width, right, below) * np.repeat(dy * inverse, count)
    return agreement


def _interpolate(flat: Floats, cell: Indices, width: int, right: Floats, below: Floats) -> Floats:
    """Interpolate between four cells of a channel.

    Args:
        flat: the channels as one row.
        cell: (S,) index of the upper left cell.
        width: number of cells in a row of the grid.
        right: (S,) weight, 0..1, of the cells to the right. Where it is 0, a cell beyond the edge is read and does not
            count; `mode="clip"` keeps its index within the array.
        below: (S,) weight, 0..1, of the cells below, likewise.
    """
    upper_left, upper_right = flat.take(cell), flat[1:].take(cell, mode="clip")
    lower_left, lower_right = flat[width:].take(cell, mode="clip"), flat[width + 1 :].take(cell, mode="clip")
    upper_left += (upper_right - upper_left) * right
    lower_left += (lower_right - lower_left) * right
    upper_left += (lower_left - upper_left) * below
    return upper_left
