"""What decoding loses, and to which cause: people found as a perfect network would show them, one hindrance at a time.

Each step keeps the hindrances of those before it and adds one, so the differences in AP add up from the truth to what
`decode` finds. A step may gain: the decoder joins pieces that no limb connects.

This module needs NumPy only, and OpenCV where maps are blurred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.decode import DecodeConfig, assemble_people, decode
from evaluation.decoder.peaks import Peaks, find_peaks
from evaluation.decoder.person import Person
from evaluation.inference.letterbox import Letterbox, choose_letterbox, crop_maps
from evaluation.scoring.datasets import PictureSet
from evaluation.scoring.truth import true_keypoints
from pipeline.annotations.coco import PersonFilter
from pipeline.loading.targets import encode_maps
from pipeline.maps import Maps
from pipeline.skeleton import LIMB_INDICES, NUM_KEYPOINTS

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Disturbance:
    """How maps differ from exact targets.

    Attributes:
        noise: standard deviation of what is added to every value.
        blur: sigma, in cells, of a Gaussian that the maps are blurred with before.
        seed: of the noise, together with the image id.
    """

    noise: float = 0.0
    blur: float = 0.0
    seed: int = 0

    def apply(self, maps: Maps, image_id: int) -> Maps:
        """The maps, disturbed; the same for a picture wherever it stands in a set."""
        rng = np.random.default_rng((self.seed, image_id))
        return Maps(self._disturb(maps.heatmaps, rng), self._disturb(maps.pafs, rng), maps.stride)

    def _disturb(self, channels: Floats, rng: np.random.Generator) -> Floats:
        if self.blur:
            import cv2

            channels = np.stack([cv2.GaussianBlur(channel, (0, 0), self.blur) for channel in channels])
        if self.noise:
            channels = channels + rng.normal(0, self.noise, channels.shape).astype(np.float32)
        return channels


@dataclass(frozen=True)
class Case:
    """A picture's people, and how its maps are drawn.

    Attributes:
        image_id: COCO image id.
        letterbox: where the picture lies on the network's input.
        people: (P, 18, 3) x, y in px of the network's input and visibility, of everybody with a labelled keypoint.
        trains: (P,) whom training would draw.
        disturbance: of the maps.
    """

    image_id: int
    letterbox: Letterbox
    people: Floats
    trains: NDArray[np.bool_]
    disturbance: Disturbance

    def draw(self, people: Floats) -> Maps:
        """Exact targets of some people, on the part of the grid that the picture covers."""
        return crop_maps(encode_maps(people, self.letterbox.canvas), self.letterbox)

    @cached_property
    def maps(self) -> Maps:
        """Exact targets of everybody."""
        return self.draw(self.people)

    @cached_property
    def alone(self) -> list[Maps]:
        """Exact targets of each person."""
        return [self.draw(person[None]) for person in self.people]


def open_cases(pictures: PictureSet, number: int, size: int, disturbance: Disturbance) -> Iterator[Case]:
    """The first pictures of a set, scaled so that their shorter sides have `size` px, as for a network."""
    sizes = dict(zip(pictures.ids(), pictures.sizes(), strict=True))
    for image_id, everybody in list(pictures.truth().items())[:number]:
        labelled = [one for one in everybody if not one["iscrowd"] and one["num_keypoints"] > 0]
        letterbox = choose_letterbox(sizes[image_id], size)
        people = true_keypoints(labelled)
        people[..., :2] = np.where(people[..., 2:] > 0, letterbox.to_canvas(people[..., :2]), 0)
        trains = np.array([PersonFilter().is_trainable(one) for one in labelled], dtype=bool)
        yield Case(image_id, letterbox, people, trains, disturbance)


Step = Callable[[Case, DecodeConfig], list[Person]]


def _truth(case: Case, _: DecodeConfig) -> list[Person]:
    return _as_found(list(case.people))


def _pieces(case: Case, _: DecodeConfig) -> list[Person]:
    return _as_found([piece for person in case.people for piece in split_by_limbs(person)])


def _alone(case: Case, config: DecodeConfig) -> list[Person]:
    return [person for maps in case.alone for person in decode(maps, _keeping_all(config))]


def _shared_fields(case: Case, config: DecodeConfig) -> list[Person]:
    found = [find_peaks(maps.heatmaps[:NUM_KEYPOINTS], config.peak_threshold, config.max_peaks) for maps in case.alone]
    return assemble_people(_pooled(found), case.maps, _keeping_all(config)) if found else []


def _shared_maps(case: Case, config: DecodeConfig) -> list[Person]:
    return decode(case.maps, _keeping_all(config))


def _small_left_out(case: Case, config: DecodeConfig) -> list[Person]:
    return decode(case.maps, config)


def _disturbed(case: Case, config: DecodeConfig) -> list[Person]:
    return decode(case.disturbance.apply(case.maps, case.image_id), config)


def _only_training(case: Case, config: DecodeConfig) -> list[Person]:
    return decode(case.disturbance.apply(case.draw(case.people[case.trains]), case.image_id), config)


STEPS: dict[str, Step] = {
    "the truth": _truth,
    "keypoints that no chain of limbs connects are people of their own": _pieces,
    "each person drawn alone and decoded: whole cells, pieces joined": _alone,
    "fields averaged where people overlap": _shared_fields,
    "close keypoints of two people are one peak": _shared_maps,
    "people of few or unsure keypoints left out": _small_left_out,
    "noise and blur": _disturbed,
}
"""Hindrances, each added to those before it; the last is what `decode` finds."""

TRAINING_RULE = "if only people who train were drawn"
BESIDES: dict[str, Step] = {TRAINING_RULE: _only_training}
"""Compared with the last of STEPS: a network that never finds people with few keypoints or small ones."""


def split_by_limbs(person: Floats) -> list[Floats]:
    """The keypoints (18, 3) of a person in pieces, each connected by limbs of labelled keypoints."""
    piece = np.arange(NUM_KEYPOINTS)
    for one, other in LIMB_INDICES.tolist():
        if person[one, 2] > 0 and person[other, 2] > 0:
            piece[piece == piece[other]] = piece[one]
    labels = np.unique(piece[person[:, 2] > 0])
    return [np.where((piece == label)[:, None], person, 0).astype(np.float32) for label in labels]


def _as_found(people: list[Floats]) -> list[Person]:
    """People with full marks for every keypoint; those of more keypoints are surer."""
    marked = [np.concatenate([one[:, :2], one[:, 2:] > 0], axis=1).astype(np.float32) for one in people]
    return [Person(one, float(one[:, 2].sum() / NUM_KEYPOINTS)) for one in marked]


def _keeping_all(config: DecodeConfig) -> DecodeConfig:
    return replace(config, min_keypoints=1, min_score=0.0)


def _pooled(found: list[Peaks]) -> Peaks:
    """The candidates of several maps together, ordered by kind."""
    kind = np.concatenate([peaks.kind for peaks in found])
    position = np.concatenate([peaks.position for peaks in found])
    score = np.concatenate([peaks.score for peaks in found])
    order = np.argsort(kind, kind="stable")
    return Peaks(kind[order], position[order], score[order], np.bincount(kind, minlength=NUM_KEYPOINTS))
