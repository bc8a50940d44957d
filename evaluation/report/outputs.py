"""Output files of an evaluation: scores, COCO results, pictures and the HTML report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.scoring.datasets import EvaluationDataset, load_images
from evaluation.scoring.detect import Detections
from evaluation.scoring.evaluation import Evaluation
from evaluation.scoring.ground_truth import category_ids, count_people
from evaluation.scoring.metrics import ALL_PICTURES
from evaluation.scoring.results import with_ids_of_the_user
from pipeline.errors import InputError


def summarize(evaluation: Evaluation, **settings: Any) -> dict[str, Any]:
    """Return the content of eval.json, which starts with the ten numbers on all images.

    Args:
        evaluation: scores and diagnosis.
        settings: additional entries, such as the name of the dataset.
    """
    from evaluation.scoring.analysis.diagnosis import diagnosis_to_json

    content: dict[str, Any] = {**evaluation.protocols[ALL_PICTURES].to_json(), "found": len(evaluation.results)}
    if evaluation.detections:
        content |= _inference_info(evaluation.detections)
    content |= settings
    content["protocols"] = {name: protocol.to_json() for name, protocol in evaluation.protocols.items()}
    return content | diagnosis_to_json(evaluation.diagnosis)


def _inference_info(detections: Detections) -> dict[str, Any]:
    return {
        "seconds": round(detections.seconds, 2),
        "images_per_s": round(len(detections.ground_truth) / detections.seconds, 2),
        "canvases": [f"{width}x{height}" for height, width in sorted(detections.canvases)],
        "checkpoint": detections.source,
        "evaluation": detections.config,
    }


@dataclass(frozen=True)
class Outputs:
    """Paths of the outputs; None means that an output is not written.

    Attributes:
        json: file for the scores.
        results: file for COCO keypoint results.
        pictures: folder for images with skeletons.
        report: folder for the HTML report.
        number: maximum number of images in `pictures`.
    """

    json: Path | None
    results: Path | None
    pictures: Path | None
    report: Path | None
    number: int

    def check(self) -> None:
        """Create the folders, before the evaluation starts; raise InputError if this fails."""
        for file in (self.json, self.results):
            if file and file.is_dir():
                raise InputError(f"{file}: is a folder, expected the name of a file")
        files = [path.parent for path in (self.json, self.results) if path]
        for folder in (*files, *(path for path in (self.pictures, self.report) if path)):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{folder}: cannot be created: {error.strerror}") from error

    def write(self, evaluation: Evaluation, dataset: EvaluationDataset, settings: dict[str, Any]) -> Iterator[str]:
        """Write all outputs and yield a message after each; `settings` are the entries for `summarize`."""
        if self.pictures and not dataset.has_images:
            yield f"{dataset.name}: no such folder, no pictures written"
        elif self.pictures:
            yield self._write_pictures(self.pictures, evaluation, dataset)
        if self.report:
            from evaluation.report.page import write_report

            path = write_report(self.report, evaluation, dataset, settings)
            yield f"{path}: precision-recall curves, error analysis, best and worst pictures"
        if self.results:
            people = (person for annotations in evaluation.ground_truth.values() for person in annotations)
            results = with_ids_of_the_user(evaluation.results, dataset.text_ids(), category_ids(people))
            _write_json(self.results, results, indent=None)
            yield f"{self.results}: {len(evaluation.results)} detections in COCO's results format"
        if self.json:
            _write_json(self.json, summarize(evaluation, **settings), indent=1)
            yield f"{self.json}: all scores"

    def _write_pictures(self, folder: Path, evaluation: Evaluation, dataset: EvaluationDataset) -> str:
        from evaluation.report.gallery import choose_images, write_pictures

        image_ids = list(evaluation.ground_truth)
        people = [count_people(annotations) for annotations in evaluation.ground_truth.values()]
        images = load_images(dataset, [image_ids[i] for i in choose_images(people, self.number)])
        written = write_pictures(folder, images, evaluation.ground_truth, evaluation.people)
        return f"{folder}/: {len(written)} pictures, ground truth on the left, detections on the right"


def _write_json(path: Path, content: Any, indent: int | None) -> None:
    from pipeline.system.files import write_atomically

    try:
        write_atomically(path, json.dumps(content, indent=indent) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
