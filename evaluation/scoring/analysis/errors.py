"""Kinds of keypoint errors after Ronchi and Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose
Estimation", ICCV 2017, by the rules of their published tool (github.com/matteorr/coco-analyze).

Each labelled keypoint of a found person who matches an annotated one is compared with that keypoint of everybody
annotated in the picture, and with its mirror image; whichever it is most similar to decides:

- good: its own, similarity of GOOD or more
- jitter: its own, from NEAR to GOOD
- inversion: its own mirror image (the left wrist on the right one), NEAR or more
- swap: somebody else's, or that one's mirror image, NEAR or more
- miss: nothing is as near as NEAR, or the keypoint was not found at all

This module needs NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evaluation.scoring.analysis.arrays import (
    SIGMAS,
    Floats,
    Found,
    Indices,
    Pairs,
    Truths,
    keypoint_similarities,
    pair_up,
)
from evaluation.scoring.analysis.matching import match
from pipeline.skeleton import COCO_KEYPOINTS, mirrored_name

KINDS: tuple[str, ...] = ("good", "jitter", "inversion", "swap", "miss")
"""What a labelled keypoint of a matched person can be; the index into this is its code."""

NONE = -1
"""Code of keypoints that are not labelled and of people who match nobody."""

NEAR = 0.5
GOOD = 0.85
"""Keypoint similarities between the kinds."""

LOOSEST = 0.1
"""OKS from which a found person is taken to be meant for an annotated one."""

CORRECTED = 0.25
"""Power of a keypoint similarity that a correction leaves: see `correct`."""

MIRROR: Indices = np.array([COCO_KEYPOINTS.index(mirrored_name(name)) for name in COCO_KEYPOINTS], dtype=np.intp)
"""(17,) COCO-17 index of each keypoint's mirror image."""


@dataclass(frozen=True)
class Keypoints:
    """What became of every keypoint of the M found people.

    Attributes:
        kind: (M, 17) int8 index into KINDS, or NONE.
        similarity: (M, 17) to whatever it is most similar to; 0 where kind is NONE.
        person: (M,) index of the annotated person, or -1.
    """

    kind: NDArray[np.int8]
    similarity: Floats
    person: Indices

    def count(self) -> NDArray[np.int64]:
        """(17, 5) keypoints of each kind, in the order of KINDS."""
        return np.stack([(self.kind == code).sum(axis=0) for code in range(len(KINDS))], axis=1)


def classify(found: Found, truths: Truths) -> Keypoints:
    """Tell every keypoint's kind."""
    person = match(found, truths, SIGMAS, np.array([LOOSEST])).truth[0]
    pairs = pair_up(found, truths)
    own, other, mirrored, other_mirrored = _nearest(pairs, found, truths, person)
    best = np.maximum(np.maximum(own, other), np.maximum(mirrored, other_mirrored))
    is_own = own >= best
    is_mirrored = ~is_own & (mirrored >= best) & (other < best)
    kind = np.select(
        [best < NEAR, is_own & (best >= GOOD), is_own, is_mirrored],
        [KINDS.index(name) for name in ("miss", "good", "jitter", "inversion")],
        KINDS.index("swap"),
    ).astype(np.int8)
    asked = np.zeros(kind.shape, dtype=bool)
    matched = person >= 0
    asked[matched] = truths.labelled[person[matched]]
    return Keypoints(np.where(asked, kind, np.int8(NONE)), np.where(asked, np.maximum(best, 0), 0), person)


def _nearest(pairs: Pairs, found: Found, truths: Truths, person: Indices) -> tuple[Floats, Floats, Floats, Floats]:
    """Similarities, (M, 17) each and -1 where nothing is labelled.

    They are to the person's own keypoint, to the nearest of the others', to the own mirror image, and to the nearest of
    the others' mirror images.
    """
    turned = replace(truths, keypoints=truths.keypoints[:, MIRROR], labelled=truths.labelled[:, MIRROR])
    is_own = (person[pairs.found] == pairs.truth)[:, None]
    answers = []
    for people in (truths, turned):
        similar = keypoint_similarities(pairs, found, people, SIGMAS)
        # an unfound keypoint lies at 0, 0, where it may be near somebody's by chance
        valid = people.labelled[pairs.truth] & found.present[pairs.found]
        similar = np.where(valid, similar, -1)
        answers += [_highest(np.where(chosen, similar, -1), pairs, len(person)) for chosen in (is_own, ~is_own)]
    own, other, mirrored, other_mirrored = answers
    return own, other, mirrored, other_mirrored


def _highest(similar: Floats, pairs: Pairs, people: int) -> Floats:
    """(M, 17) highest of each found person's pairs (P, 17); -1 for people without a pair."""
    highest = np.full((people, similar.shape[1]), -1.0)
    if len(similar):
        start = np.flatnonzero(np.diff(pairs.found, prepend=-1))
        highest[pairs.found[start]] = np.maximum.reduceat(similar, start, axis=0)
    return highest


def correct(found: Found, truths: Truths, keypoints: Keypoints, kind: str) -> Found:
    """Put every keypoint of one kind of error right, as far as the authors' tool does.

    A jitter is moved to where its similarity is just that of a good keypoint, a miss to where it is NEAR, and an
    inversion or a swap as far from the right place as it was from the wrong one. The tool computes these distances with
    sigma where COCO's measure has 2 sigma, so that in COCO's measure the similarity left is the fourth root: .96 for a
    jitter, .84 for a miss. That is what its published analyses show, and what is done here.

    Args:
        found: the people, whatever was corrected before.
        truths: the annotated people.
        keypoints: from `classify`, on the people as they were found.
        kind: jitter, inversion, swap or miss.
    """
    row, column = np.nonzero(keypoints.kind == KINDS.index(kind))
    person = keypoints.person[row]
    left = {"jitter": np.full(len(row), GOOD), "miss": np.full(len(row), NEAR)}.get(
        kind, keypoints.similarity[row, column]
    )
    exponent = -np.log(np.clip(left, np.finfo(float).tiny, 1)) * CORRECTED
    points, present = found.keypoints.copy(), found.present.copy()
    points[row, column] = truths.keypoints[person, column]
    points[row, column, 0] += np.sqrt(exponent * 2 * truths.area[person]) * 2 * SIGMAS[column]
    present[row, column] = True
    return replace(found, keypoints=points, present=present)
