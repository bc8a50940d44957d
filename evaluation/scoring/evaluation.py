"""Scores of detections: COCO's numbers by both protocols, and the error diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evaluation.scoring.detect import Detections
from evaluation.scoring.ground_truth import GroundTruth
from evaluation.scoring.metrics import ALL_PICTURES, ProtocolScores, evaluate_protocols
from evaluation.scoring.results import to_coco_results, to_people

if TYPE_CHECKING:
    from evaluation.decoder.person import Person
    from evaluation.scoring.analysis.diagnosis import Diagnosis


@dataclass(frozen=True)
class Evaluation:
    """Ground truth, detections and their scores.

    Attributes:
        ground_truth: annotations of the evaluated images, in ascending order of image id.
        people: detected people of each image, in image pixels, by image id.
        results: the same detections as COCO keypoint results, in ascending order of image id.
        protocols: COCO's numbers by the names in metrics.PROTOCOLS.
        detections: output of the network; None if the results were read from a file.
    """

    ground_truth: GroundTruth
    people: dict[int, list[Person]]
    results: list[dict[str, Any]]
    protocols: dict[str, ProtocolScores]
    detections: Detections | None = None

    @property
    def ap(self) -> dict[str, float]:
        """COCO's ten numbers on all images."""
        return self.protocols[ALL_PICTURES].ap

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """Error diagnosis on all images."""
        from evaluation.scoring.analysis.diagnosis import diagnose

        return diagnose(self.ground_truth, self.results)


def score_detections(detections: Detections) -> Evaluation:
    """Score the detections of a network."""
    people, ground_truth = detections.people, detections.ground_truth
    results = [result for image_id in people for result in to_coco_results(image_id, people[image_id])]
    return Evaluation(ground_truth, people, results, evaluate_protocols(ground_truth, results), detections)


def score_results(ground_truth: GroundTruth, results: Sequence[dict[str, Any]]) -> Evaluation:
    """Score validated COCO keypoint results; results of images that are not in `ground_truth` are dropped."""
    by_image: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in sorted(ground_truth)}
    for result in results:
        if result["image_id"] in by_image:
            by_image[result["image_id"]].append(result)
    kept = [result for image_results in by_image.values() for result in image_results]
    people = {image_id: to_people(image_results) for image_id, image_results in by_image.items()}
    return Evaluation(dict(sorted(ground_truth.items())), people, kept, evaluate_protocols(ground_truth, kept))
