"""Truth and results of a whole data set as flat arrays, picture by picture, which the analysis works on.

Letters: N annotated people, M found people, K keypoints (COCO's 17, or one of them alone), P pairs of a found and an
annotated person of the same picture.

This module needs NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.skeleton import COCO_KEYPOINTS, OKS_SIGMAS

SIGMAS: NDArray[np.float64] = np.array([OKS_SIGMAS[name.rpartition("_")[2]] for name in COCO_KEYPOINTS])
"""(17,) standard deviation of human annotators relative to sqrt(area), COCO-17 order."""

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Truths:
    """The annotated people.

    Attributes:
        picture: (N,) index of each one's picture among the image ids, rising.
        keypoints: (N, K, 2) x, y px.
        labelled: (N, K).
        area: (N,) px.
        box: (N, 4) x, y, width, height px.
        crowd: (N,) whether it is a crowd, which any number of found people may match.
        ignored: (N,) whether finding it is neither asked for nor wrong: crowds, and people without keypoints.
    """

    picture: Indices
    keypoints: Floats
    labelled: Flags
    area: Floats
    box: Floats
    crowd: Flags
    ignored: Flags

    def only(self, keypoint: int) -> Truths:
        """The same people as if this keypoint were the only one there is; K is 1."""
        labelled = self.labelled[:, keypoint : keypoint + 1]
        keypoints = self.keypoints[:, keypoint : keypoint + 1]
        ignored = self.crowd | ~labelled[:, 0]
        return Truths(self.picture, keypoints, labelled, self.area, self.box, self.crowd, ignored)


@dataclass(frozen=True)
class Found:
    """The people found.

    Attributes:
        picture: (M,) index of each one's picture among the image ids, rising.
        keypoints: (M, K, 2) x, y px.
        present: (M, K) which keypoints were found; those at 0, 0 were not.
        score: (M,).
    """

    picture: Indices
    keypoints: Floats
    present: Flags
    score: Floats

    @property
    def area(self) -> Floats:
        """(M,) px of the box around all keypoints, those at 0, 0 included, as COCO's code measures it."""
        return np.asarray(np.ptp(self.keypoints, axis=1).prod(axis=1))

    def only(self, keypoint: int) -> Found:
        """The people with this keypoint, reduced to it; K is 1."""
        kept = self.present[:, keypoint]
        one = slice(keypoint, keypoint + 1)
        return Found(self.picture[kept], self.keypoints[kept, one], self.present[kept, one], self.score[kept])


@dataclass(frozen=True)
class Pairs:
    """Every found with every annotated person of the same picture, by rising found person, then annotated person.

    Attributes:
        found: (P,) index into Found.
        truth: (P,) index into Truths.
    """

    found: Indices
    truth: Indices


def truths_of(truth: Mapping[int, Sequence[Mapping[str, Any]]], ids: Sequence[int]) -> Truths:
    """The annotations of some pictures, in the order of `ids`; `truth` is COCO person annotations by image id."""
    flat = [(i, person) for i, image_id in enumerate(ids) for person in truth[image_id]]
    numbers = [person["keypoints"] for _, person in flat]
    keypoints = np.array(numbers, dtype=np.float64).reshape(-1, len(COCO_KEYPOINTS), 3)
    crowd = np.array([bool(person.get("iscrowd", 0)) for _, person in flat], dtype=bool)
    without = np.array([person["num_keypoints"] == 0 for _, person in flat], dtype=bool)
    return Truths(
        picture=np.array([i for i, _ in flat], dtype=np.intp),
        keypoints=keypoints[..., :2],
        labelled=keypoints[..., 2] > 0,
        area=np.array([person["area"] for _, person in flat], dtype=np.float64),
        box=np.array([person["bbox"] for _, person in flat], dtype=np.float64).reshape(-1, 4),
        crowd=crowd,
        ignored=crowd | without,
    )


def found_of(results: Sequence[Mapping[str, Any]], ids: Sequence[int]) -> Found:
    """COCO keypoint results in the order of `ids`; those of other pictures are left out."""
    places = {image_id: i for i, image_id in enumerate(ids)}
    kept = [result for result in results if result["image_id"] in places]
    kept.sort(key=lambda result: places[result["image_id"]])
    numbers = np.array([result["keypoints"] for result in kept], dtype=np.float64)
    keypoints = numbers.reshape(-1, len(COCO_KEYPOINTS), 3)[..., :2]
    return Found(
        picture=np.array([places[result["image_id"]] for result in kept], dtype=np.intp),
        keypoints=keypoints,
        present=(keypoints != 0).any(axis=2),
        score=np.array([result["score"] for result in kept], dtype=np.float64),
    )


def pair_up(found: Found, truths: Truths) -> Pairs:
    """Every found person with every annotated one of its picture."""
    first = np.searchsorted(truths.picture, found.picture, side="left")
    count = np.searchsorted(truths.picture, found.picture, side="right") - first
    return Pairs(np.repeat(np.arange(len(count)), count), np.repeat(first, count) + within_groups(count))


def within_groups(count: Indices) -> Indices:
    """0, 1, … within each of consecutive groups of `count` members."""
    return np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)


def similarity(squared: Floats, area: Floats, sigmas: Floats) -> Floats:
    """Keypoint similarity exp(-d^2 / (2 area (2 sigma)^2)), 0..1.

    Args:
        squared: (P, K) squared distances, px^2.
        area: (P,) of the annotated people, px.
        sigmas: (K,).
    """
    spread = 2 * (2 * sigmas) ** 2 * (area[:, None] + np.spacing(1))
    return np.asarray(np.exp(-squared / spread))


def keypoint_similarities(pairs: Pairs, found: Found, truths: Truths, sigmas: Floats) -> Floats:
    """(P, K) similarity of each found keypoint to the annotated one, whether that is labelled or not."""
    away = found.keypoints[pairs.found] - truths.keypoints[pairs.truth]
    return similarity((away**2).sum(axis=2), truths.area[pairs.truth], sigmas)


def object_similarities(pairs: Pairs, found: Found, truths: Truths, sigmas: Floats) -> Floats:
    """(P,) object keypoint similarity (OKS): the mean over the labelled keypoints.

    Where none is labelled, it is COCO's rule for people to be ignored: every keypoint's distance to the annotated box,
    doubled about its centre on all sides, takes the distance's place.
    """
    labelled = truths.labelled[pairs.truth]
    count = labelled.sum(axis=1)
    one_by_one = np.where(labelled, keypoint_similarities(pairs, found, truths, sigmas), 0)
    mean = one_by_one.sum(axis=1) / np.maximum(count, 1)
    bare = np.flatnonzero(count == 0)
    if len(bare):
        box = truths.box[pairs.truth[bare]]
        points = found.keypoints[pairs.found[bare]]
        low, high = box[:, None, :2] - box[:, None, 2:], box[:, None, :2] + 2 * box[:, None, 2:]
        away = np.maximum(low - points, 0) + np.maximum(points - high, 0)
        mean[bare] = similarity((away**2).sum(axis=2), truths.area[pairs.truth[bare]], sigmas).mean(axis=1)
    return np.asarray(mean)
