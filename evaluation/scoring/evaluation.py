"""The comparison of annotations and detections: COCO's numbers by both protocols, and their diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evaluation.scoring.detect import Detections
from evaluation.scoring.metrics import ALL, Protocol, evaluate_protocols
from evaluation.scoring.results import to_coco_results, to_people
from evaluation.scoring.truth import Truth

if TYPE_CHECKING:
    from evaluation.decoder.person import Person
    from evaluation.scoring.analysis.diagnosis import Diagnosis


@dataclass(frozen=True)
class Evaluation:
    """Truth and what was found, compared.

    Attributes:
        truth: the pictures looked at, with their annotations, by rising image id.
        people: found in each picture, in its pixels, by image id.
        results: the same as COCO keypoint results, by rising image id.
        protocols: COCO's numbers by the names in metrics.PROTOCOLS.
        detections: how people were found; None for results that were read.
    """

    truth: Truth
    people: dict[int, list[Person]]
    results: list[dict[str, Any]]
    protocols: dict[str, Protocol]
    detections: Detections | None = None

    @property
    def ap(self) -> dict[str, float]:
        """The ten numbers on all pictures."""
        return self.protocols[ALL].ap

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """What went wrong, on all pictures."""
        from evaluation.scoring.analysis.diagnosis import diagnose

        return diagnose(self.truth, self.results)


def score_detections(detections: Detections) -> Evaluation:
    """Compare what a network found with the truth."""
    people = detections.people
    results = [result for image_id in people for result in to_coco_results(image_id, people[image_id])]
    return Evaluation(detections.truth, people, results, evaluate_protocols(detections.truth, results), detections)


def score_results(truth: Truth, results: Sequence[dict[str, Any]]) -> Evaluation:
    """Compare results, checked, with the truth; those of pictures that `truth` does not hold are left out."""
    by_picture: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in sorted(truth)}
    for result in results:
        if result["image_id"] in by_picture:
            by_picture[result["image_id"]].append(result)
    kept = [result for found in by_picture.values() for result in found]
    people = {image_id: to_people(found) for image_id, found in by_picture.items()}
    return Evaluation(dict(sorted(truth.items())), people, kept, evaluate_protocols(truth, kept))
