"""Ablation of decoding losses: AP lost between the ground truth and the decoder's detections on exact target maps.

Each step keeps the limitations of the previous steps and adds one, so the differences in AP add up to the total loss. A
step can also raise AP: the decoder joins parts of a person that no limb connects.

This module needs NumPy, and OpenCV if maps are blurred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.decode import DecodeConfig, assemble_people, decode, find_candidates
from evaluation.decoder.peaks import Peaks
from evaluation.decoder.person import Person
from evaluation.inference.letterbox import Letterbox, choose_letterbox, crop_maps
from evaluation.saved_maps.perturbation import Perturbation
from evaluation.scoring.datasets import EvaluationDataset
from evaluation.scoring.ground_truth import annotated_keypoints
from pipeline.annotations.annotated_image import PersonFilter
from pipeline.loading.targets import encode_maps
from pipeline.maps import Maps
from pipeline.skeleton import LIMB_INDICES, NUM_KEYPOINTS

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class OracleImage:
    """The annotated people of an image and the exact target maps rendered from them.

    Attributes:
        image_id: COCO image id.
        letterbox: scale and padding of the image on the network's input.
        people: (P, 18, 3) x, y in px of the network's input and visibility, of all people with a labelled keypoint.
        used_in_training: (P,) True for people whose targets are rendered in training.
        perturbation: changes to the maps.
    """

    image_id: int
    letterbox: Letterbox
    people: Floats
    used_in_training: NDArray[np.bool_]
    perturbation: Perturbation

    def render(self, people: Floats) -> Maps:
        """Return the exact target maps of some people, for the part of the grid that the image covers."""
        return crop_maps(encode_maps(people, self.letterbox.canvas), self.letterbox)

    @cached_property
    def maps(self) -> Maps:
        """Exact target maps of all people."""
        return self.render(self.people)

    @cached_property
    def perturbed_maps(self) -> Maps:
        """Maps of all people, perturbed."""
        return self.perturbation.apply(self.maps, self.image_id)

    @cached_property
    def maps_per_person(self) -> list[Maps]:
        """Exact target maps of each person alone."""
        return [self.render(person[None]) for person in self.people]


def load_oracle_images(
    dataset: EvaluationDataset, number: int, size: int, perturbation: Perturbation
) -> Iterator[OracleImage]:
    """Yield the first `number` images of a dataset, scaled so that their shorter sides have `size` px.

    The scale and the canvas are those of inference with a network.
    """
    sizes = dict(zip(dataset.image_ids(), dataset.sizes(), strict=True))
    person_filter = PersonFilter()
    for image_id, annotated in list(dataset.ground_truth().items())[:number]:
        labelled = [person for person in annotated if not person["iscrowd"] and person["num_keypoints"] > 0]
        letterbox = choose_letterbox(sizes[image_id], size)
        people = annotated_keypoints(labelled)
        people[..., :2] = np.where(people[..., 2:] > 0, letterbox.to_canvas(people[..., :2]), 0)
        used_in_training = np.array([person_filter.is_trainable(person) for person in labelled], dtype=bool)
        yield OracleImage(image_id, letterbox, people, used_in_training, perturbation)


AblationStep = Callable[[OracleImage, DecodeConfig], list[Person]]
"""Function that returns the detections of an image after a step of the ablation."""


def _ground_truth(image: OracleImage, _: DecodeConfig) -> list[Person]:
    return _keypoints_to_people(list(image.people))


def _split_people(image: OracleImage, _: DecodeConfig) -> list[Person]:
    return _keypoints_to_people([part for person in image.people for part in split_by_limbs(person)])


def _decode_each_person(image: OracleImage, config: DecodeConfig) -> list[Person]:
    return [person for maps in image.maps_per_person for person in decode(maps, _without_filters(config))]


def _shared_pafs(image: OracleImage, config: DecodeConfig) -> list[Person]:
    peaks = [find_candidates(maps.heatmaps[:NUM_KEYPOINTS], config) for maps in image.maps_per_person]
    return assemble_people(_concatenate_peaks(peaks), image.maps, _without_filters(config)) if peaks else []


def _shared_maps(image: OracleImage, config: DecodeConfig) -> list[Person]:
    return decode(image.maps, _without_filters(config))


def _with_filters(image: OracleImage, config: DecodeConfig) -> list[Person]:
    return decode(image.maps, config)


def _perturbed(image: OracleImage, config: DecodeConfig) -> list[Person]:
    return decode(image.perturbed_maps, config)


def _training_people_only(image: OracleImage, config: DecodeConfig) -> list[Person]:
    maps = image.render(image.people[image.used_in_training])
    return decode(image.perturbation.apply(maps, image.image_id), config)


GROUND_TRUTH = "ground truth"
STEPS: dict[str, AblationStep] = {
    GROUND_TRUTH: _ground_truth,
    "+ people split where no limb connects their keypoints": _split_people,
    "+ each person encoded and decoded alone (8 px grid, split parts joined)": _decode_each_person,
    "+ part affinity fields averaged where people overlap": _shared_pafs,
    "+ nearby keypoints of two people merged into one peak": _shared_maps,
    "+ people with few keypoints or a low score removed": _with_filters,
    "+ perturbations of the maps": _perturbed,
}
"""Steps of the ablation. Each adds one limitation to the previous ones; the last is the complete decoder."""

TRAINING_PEOPLE_ONLY = "+ only people used in training encoded"
ADDITIONAL_STEPS: dict[str, AblationStep] = {TRAINING_PEOPLE_ONLY: _training_people_only}
"""Steps that are each compared with the last of STEPS.

TRAINING_PEOPLE_ONLY stands for a network that never detects small people or people with few keypoints.
"""


def split_by_limbs(person: Floats) -> list[Floats]:
    """Split the keypoints (18, 3) of a person into parts, each connected by limbs between labelled keypoints."""
    part = np.arange(NUM_KEYPOINTS)
    for start, end in LIMB_INDICES.tolist():
        if person[start, 2] > 0 and person[end, 2] > 0:
            part[part == part[end]] = part[start]
    labels = np.unique(part[person[:, 2] > 0])
    return [np.where((part == label)[:, None], person, 0).astype(np.float32) for label in labels]


def _keypoints_to_people(people: list[Floats]) -> list[Person]:
    """Convert keypoints (18, 3) to detections: every keypoint scores 1, a person the share of labelled keypoints."""
    scored = [np.concatenate([person[:, :2], person[:, 2:] > 0], axis=1).astype(np.float32) for person in people]
    return [Person(keypoints, float(keypoints[:, 2].sum() / NUM_KEYPOINTS)) for keypoints in scored]


def _without_filters(config: DecodeConfig) -> DecodeConfig:
    """Return the configuration without the minimum number of keypoints and the minimum score."""
    return replace(config, min_keypoints=1, min_score=0.0)


def _concatenate_peaks(peaks_per_person: list[Peaks]) -> Peaks:
    """Return the peaks of several maps together, ordered by kind."""
    kind = np.concatenate([peaks.kind for peaks in peaks_per_person])
    position = np.concatenate([peaks.position for peaks in peaks_per_person])
    score = np.concatenate([peaks.score for peaks in peaks_per_person])
    strong = np.concatenate([peaks.strong for peaks in peaks_per_person])
    order = np.argsort(kind, kind="stable")
    count = np.bincount(kind, minlength=NUM_KEYPOINTS)
    return Peaks(kind[order], position[order], score[order], strong[order], count)
