"""COCO's matching of found to annotated people, and its precision by recall, for a whole data set at once.

The rules are those of pycocotools' COCOeval, which scores the tables; a test holds the two to the same numbers. Here
the r-th surest person of every picture is matched in one step, so that 50,000 found people take a fraction of a second
and an analysis can afford to evaluate dozens of times.

This module needs NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.scoring.analysis.arrays import (
    Flags,
    Floats,
    Found,
    Indices,
    Pairs,
    Truths,
    object_similarities,
    pair_up,
    within_groups,
)

THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
"""(10,) OKS at which COCO averages."""

RECALLS: Floats = np.linspace(0, 1, 101)
"""(101,) recall at which COCO reads precision."""

MOST_FOUND = 20
"""Surest people of a picture that count."""

EVERY_SIZE = (0.0, 1e10)
"""px of area; COCO's range `all`."""


@dataclass(frozen=True)
class Matches:
    """Who was found, at T thresholds.

    Attributes:
        truth: (T, M) index of the annotated person that each found one matches, or -1.
        ignored: (T, M) found people who count neither for nor against.
        counted: (M,) found people among the MOST_FOUND surest of their picture.
        wanted: (N,) annotated people that are to be found.
    """

    truth: Indices
    ignored: Flags
    counted: Flags
    wanted: Flags

    def found(self) -> Flags:
        """(T, N) annotated people whom somebody matches."""
        flags = np.zeros((len(self.truth), len(self.wanted) + 1), dtype=bool)
        np.put_along_axis(flags, self.truth, True, axis=1)  # -1 sets the extra last place
        return flags[:, :-1]


@dataclass(frozen=True)
class Curves:
    """Precision by recall at T thresholds.

    Attributes:
        precision: (T, 101) at RECALLS, never rising; -1 where there is nobody to find.
        recall: (T,) reached at the end; -1 where there is nobody to find.
    """

    precision: Floats
    recall: Floats

    @property
    def ap(self) -> Floats:
        """(T,) average precision at each threshold; -1 where there is nobody to find."""
        return np.asarray(self.precision.mean(axis=1))


def match(
    found: Found,
    truths: Truths,
    sigmas: Floats,
    thresholds: Floats = THRESHOLDS,
    *,
    sizes: tuple[float, float] = EVERY_SIZE,
    most: int = MOST_FOUND,
) -> Matches:
    """Match found to annotated people as COCO does: the surest first, each to the most similar one still free.

    Args:
        found: the people found.
        truths: the people annotated in the same pictures.
        sigmas: (K,) of these keypoints.
        thresholds: (T,) object keypoint similarity that a match needs.
        sizes: px; annotated people of another area are ignored, and unmatched found people of another area.
        most: surest people of a picture that take part.
    """
    low, high = sizes
    rank = ranks(found)
    pairs = pair_up(found, truths)
    oks = object_similarities(pairs, found, truths, sigmas)
    ignored = truths.ignored | (truths.area < low) | (truths.area > high)
    truth = np.full((len(thresholds), len(rank)), -1, dtype=np.intp)
    taken = np.zeros((len(thresholds), len(ignored)), dtype=bool)
    for now in range(min(most, int(rank.max(initial=-1)) + 1)):
        here = np.flatnonzero(rank[pairs.found] == now)
        _match_one_each(here, pairs, oks, thresholds, ignored, truths.crowd, taken, truth)
    counted = rank < most
    outside = (found.area < low) | (found.area > high)
    matched = truth >= 0
    left_out = np.where(matched, np.append(ignored, False)[truth], outside)
    return Matches(truth, left_out, counted, ~ignored)


def ranks(found: Found) -> Indices:
    """(M,) place of each found person in its picture by falling score, from 0."""
    order = np.lexsort((-found.score, found.picture))  # stable: equal scores stay in the order given
    rank = np.empty(len(order), dtype=np.intp)
    rank[order] = within_groups(np.bincount(found.picture[order], minlength=1))
    return rank


def _match_one_each(
    here: Indices,
    pairs: Pairs,
    oks: Floats,
    thresholds: Floats,
    ignored: Flags,
    crowd: Flags,
    taken: Flags,
    truth: Indices,
) -> None:
    """Match at most one found person a picture; notes it in `taken` (T, N) and `truth` (T, M)."""
    if not len(here):
        return
    person = pairs.truth[here]
    start = np.flatnonzero(np.diff(pairs.found[here], prepend=-1))  # of each found person's run of pairs
    free = ~taken[:, person] | crowd[person]  # (T, P')
    enough = oks[here] >= np.minimum(thresholds, 1 - 1e-10)[:, None]
    length = np.diff(start, append=len(here))
    worth = np.where(free & enough, oks[here], -1)
    asked = np.where(ignored[person], -1, worth)
    # whoever is asked for comes before whoever is ignored, whatever the similarity
    has_asked = np.maximum.reduceat(asked, start, axis=1) >= 0
    worth = np.where(np.repeat(has_asked, length, axis=1), asked, worth)
    best = np.maximum.reduceat(worth, start, axis=1)
    is_best = (worth == np.repeat(best, length, axis=1)) & (worth >= 0)
    chosen = np.maximum.reduceat(np.where(is_best, person, -1), start, axis=1)  # of equals COCO takes the last
    truth[:, pairs.found[here][start]] = chosen
    row, column = np.nonzero(chosen >= 0)
    taken[row, chosen[row, column]] = True


def curves(score: Floats, matches: Matches, *, left_out: Flags | None = None) -> Curves:
    """Precision by recall.

    Args:
        score: (M,) of the found people.
        matches: whom they match.
        left_out: (T, M) further found people who count neither for nor against.
    """
    kept = np.flatnonzero(matches.counted)
    order = kept[np.argsort(-score[kept], kind="stable")]
    ignored = matches.ignored if left_out is None else matches.ignored | left_out
    matched, ignored = matches.truth[:, order] >= 0, ignored[:, order]
    people = int(matches.wanted.sum())
    if not people:
        return Curves(np.full((len(matched), len(RECALLS)), -1.0), np.full(len(matched), -1.0))
    right = np.cumsum(matched & ~ignored, axis=1)
    wrong = np.cumsum(~matched & ~ignored, axis=1)
    precision = right / (right + wrong + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    table = np.zeros((len(matched), len(RECALLS)))
    for row, (recall, heights) in enumerate(zip(right / people, envelope, strict=True)):
        at = np.searchsorted(recall, RECALLS, side="left")
        reached = at < len(recall)
        table[row, reached] = heights[at[reached]]
    last = right[:, -1] / people if right.shape[1] else np.zeros(len(matched))
    return Curves(table, np.asarray(last))
