"""From candidate keypoints to people: limbs scored on the part affinity fields, then joined greedily.

The rules follow the OpenPose authors' published connector (Cao et al., TPAMI 2019, section 3; the library's
`bodyPartConnectorBase`): one global order of all candidate limbs, one table that says to whom a candidate keypoint
belongs, and two groups become one only if no keypoint would be there twice.

This module needs NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.peaks import Peaks
from pipeline.skeleton import LIMB_INDICES, NUM_KEYPOINTS


@dataclass(frozen=True)
class Limbs:
    """Candidate limbs between two candidate keypoints, M in all.

    Attributes:
        limb: (M,) intp index into skeleton.LIMBS.
        start, end: (M,) intp indices into Peaks.
        score: (M,) float32 mean agreement of the part affinity field with the limb's direction, about 0..1.
    """

    limb: NDArray[np.intp]
    start: NDArray[np.intp]
    end: NDArray[np.intp]
    score: NDArray[np.float32]


Group = dict[int, int]
"""A person in the making: index into Peaks of each keypoint it has, by OpenPose-18 index."""


def candidate_pairs(peaks: Peaks) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Every pair of candidates that some limb could join: limb index, start and end, (M,) intp each."""
    first = np.concatenate([[0], np.cumsum(peaks.count)[:-1]])
    starts, ends = peaks.count[LIMB_INDICES].T  # (L,) candidates at either end
    pairs = starts * ends
    limb = np.repeat(np.arange(len(pairs)), pairs)
    within = np.arange(len(limb)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    start, end = np.divmod(within, ends[limb]) if len(limb) else (within, within)
    return limb, start + first[LIMB_INDICES[limb, 0]], end + first[LIMB_INDICES[limb, 1]]


def score_limbs(
    pafs: NDArray[np.float32], peaks: Peaks, *, samples: int, threshold: float, fraction: float, near: float
) -> Limbs:
    """Score every pair of candidates on the fields; keep those that the field supports.

    Args:
        pafs: (2L, h, w) float32, finite.
        peaks: the candidates.
        samples: points looked at along a limb, both ends included.
        threshold: agreement that a point must exceed to support the limb.
        fraction: part of the points that must support it.
        near: pairs closer than this many cells are kept even without support, with the threshold as their score:
            within a cell the direction is uncertain and the field of other people covers it.
    """
    limb, start, end = candidate_pairs(peaks)
    height, width = pafs.shape[1:]
    origin = peaks.position[start]
    step = peaks.position[end] - origin  # (M, 2)
    length = np.hypot(step[:, 0], step[:, 1])
    unit = step / np.maximum(length, np.finfo(np.float32).tiny)[:, None]
    along = np.linspace(0, 1, samples, dtype=np.float32)
    x = np.rint(origin[:, :1] + step[:, :1] * along).astype(np.int32)  # (M, S)
    y = np.rint(origin[:, 1:] + step[:, 1:] * along).astype(np.int32)
    cell = np.clip(y, 0, height - 1) * width + np.clip(x, 0, width - 1)
    cell += (limb * (2 * height * width)).astype(np.int32)[:, None]
    flat = pafs.reshape(-1)
    agreement = flat[cell] * unit[:, :1] + flat[cell + height * width] * unit[:, 1:]  # (M, S)
    score = agreement.mean(axis=1)
    support = np.count_nonzero(agreement > threshold, axis=1)
    supported = (support >= fraction * samples - 1e-6) & (score > 0)
    close = ~supported & (length < near)
    kept = np.flatnonzero(supported | close)
    score = np.where(close, np.float32(threshold), score)
    return Limbs(limb[kept], start[kept], end[kept], score[kept])


def assemble(peaks: Peaks, limbs: Limbs, peak_weight: float) -> list[Group]:
    """Join candidates into people, the surest limb first.

    A limb between two free candidates starts a group; one between a group and a free candidate adds it, from either
    end; one between two groups joins them if they share no kind of keypoint; everything else is passed over.
    Candidates that no limb reached become groups of one.

    Args:
        peaks: the candidates.
        limbs: the candidate limbs.
        peak_weight: share of the two ends' peak heights in a limb's place in the order.

    Returns:
        Groups that hold every candidate exactly once.
    """
    rank = limbs.score + peak_weight * (peaks.score[limbs.start] + peaks.score[limbs.end])
    order = np.argsort(-rank, kind="stable")
    owner = [{kind: i} for i, kind in enumerate(peaks.kind.tolist())]
    for start, end in zip(limbs.start[order].tolist(), limbs.end[order].tolist(), strict=True):
        one, other = owner[start], owner[end]
        if one is other or not one.keys().isdisjoint(other):
            continue
        one.update(other)
        for member in other.values():
            owner[member] = one
    return list({id(group): group for group in owner}.values())


def keypoint_table(peaks: Peaks, groups: list[Group], position: NDArray[np.float32]) -> NDArray[np.float32]:
    """(P, 18, 3) x, y, score of the groups; `position` (N, 2) are the candidates' coordinates in the wanted unit."""
    table = np.zeros((len(groups), NUM_KEYPOINTS, 3), dtype=np.float32)
    person = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    member = np.array([i for group in groups for i in group.values()], dtype=np.intp)
    table[person, peaks.kind[member], :2] = position[member]
    table[person, peaks.kind[member], 2] = peaks.score[member]
    return table
