"""How well each picture went, to find the best and the worst.

This module needs NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.scoring.analysis.arrays import SIGMAS, Flags, Floats, Indices, found_of, truths_of
from evaluation.scoring.analysis.errors import KINDS, classify
from evaluation.scoring.analysis.matching import THRESHOLDS, match


@dataclass(frozen=True)
class Pictures:
    """The I pictures of a set, by rising image id.

    Attributes:
        ids: their image ids.
        quality: (I,) share of the people annotated or found who were found right, averaged over OKS; NaN where nobody
            is annotated and nobody was found.
        wanted: (I,) annotated people that are to be found.
        right, false: (I,) found people who are one of them at OKS .50, and who are none.
        kinds: (I, 5) keypoints of each of errors.KINDS.
    """

    ids: list[int]
    quality: Floats
    wanted: NDArray[np.int64]
    right: NDArray[np.int64]
    false: NDArray[np.int64]
    kinds: NDArray[np.int64]

    def worst(self, number: int) -> list[int]:
        """Indices of pictures with people, the worst first; of equals the one with the most people."""
        return self._ordered(self.quality, number)

    def best(self, number: int) -> list[int]:
        """Indices of pictures with people, the best first; of equals the one with the most people."""
        return self._ordered(-self.quality, number)

    def with_false_positives(self, number: int) -> list[int]:
        """Indices of pictures without people on which the most were found."""
        order = np.argsort(-self.false, kind="stable")
        return [int(i) for i in order if not self.wanted[i] and self.false[i]][:number]

    def _ordered(self, key: Floats, number: int) -> list[int]:
        order = np.lexsort((-(self.wanted + self.false), key))
        return [int(i) for i in order if self.wanted[i]][:number]


def judge_pictures(truth: Mapping[int, Sequence[Mapping[str, Any]]], results: Sequence[Mapping[str, Any]]) -> Pictures:
    """Judge each picture by itself; arguments as of `diagnosis.diagnose`."""
    ids = sorted(truth)
    truths, found = truths_of(truth, ids), found_of(results, ids)
    matches = match(found, truths, SIGMAS)
    counted = matches.counted & ~matches.ignored
    right = _per_picture(counted & (matches.truth >= 0), found.picture, len(ids))
    false = _per_picture(counted & (matches.truth < 0), found.picture, len(ids))
    wanted = _per_picture(matches.wanted[None], truths.picture, len(ids))
    everybody = wanted + false
    share = np.where(everybody > 0, right / np.maximum(everybody, 1), np.nan)
    kinds = np.zeros((len(ids), len(KINDS)), dtype=np.int64)
    kind = classify(found, truths).kind
    for code in range(len(KINDS)):
        np.add.at(kinds[:, code], found.picture, (kind == code).sum(axis=1))
    at = int(np.abs(THRESHOLDS - 0.5).argmin())
    return Pictures(ids, np.asarray(share.mean(axis=0)), wanted[0], right[at], false[at], kinds)


def _per_picture(flags: Flags, picture: Indices, pictures: int) -> NDArray[np.int64]:
    """(T, I) how many of (T, M) flags are set in each picture."""
    return np.stack([np.bincount(picture[row], minlength=pictures) for row in flags])
