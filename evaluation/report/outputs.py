"""What an evaluation leaves behind: numbers, results, pictures and a report, each where it was asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.scoring.datasets import PictureSet, load_pictures
from evaluation.scoring.detect import Detections
from evaluation.scoring.evaluation import Evaluation
from evaluation.scoring.metrics import ALL
from evaluation.scoring.truth import count_people
from pipeline.errors import InputError

if TYPE_CHECKING:
    pass


def summarise(evaluation: Evaluation, **about: Any) -> dict[str, Any]:
    """What eval.json holds: the ten numbers on all pictures at the top, then all else.

    Args:
        evaluation: the numbers.
        about: further entries, such as the set's name.
    """
    from evaluation.scoring.analysis.diagnosis import to_json

    whole = evaluation.protocols[ALL]
    content: dict[str, Any] = {**whole.to_json(), "found": len(evaluation.results)}
    if evaluation.detections:
        content |= _how(evaluation.detections)
    content |= about
    content["protocols"] = {name: protocol.to_json() for name, protocol in evaluation.protocols.items()}
    return content | to_json(evaluation.diagnosis)


def _how(detections: Detections) -> dict[str, Any]:
    return {
        "seconds": round(detections.seconds, 2),
        "images_per_s": round(len(detections.truth) / detections.seconds, 2),
        "canvases": [f"{width}x{height}" for height, width in sorted(detections.canvases)],
        "checkpoint": detections.source,
        "evaluation": detections.config,
    }


@dataclass(frozen=True)
class Outputs:
    """Where results go; None writes none of a kind."""

    json: Path | None
    results: Path | None
    pictures: Path | None
    report: Path | None
    number: int

    def check(self) -> None:
        """Make the folders; InputError where that cannot be, before any work is done."""
        for file in (self.json, self.results):
            if file and file.is_dir():
                raise InputError(f"{file}: is a folder, expected the name of a file")
        files = [path.parent for path in (self.json, self.results) if path]
        for folder in (*files, *(path for path in (self.pictures, self.report) if path)):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{folder}: cannot be made: {error.strerror}") from error

    def write(self, evaluation: Evaluation, pictures: PictureSet, about: dict[str, Any]) -> Iterator[str]:
        """Write all that was asked for; yields a line for each when it is there. `about` is as for `summarise`."""
        if self.pictures and not pictures.has_pictures:
            yield f"{pictures.name}: no such folder, so no pictures are drawn"
        elif self.pictures:
            yield self._write_pictures(self.pictures, evaluation, pictures)
        if self.report:
            from evaluation.report.page import write_report

            path = write_report(self.report, evaluation, pictures, about)
            yield f"{path}: curves, errors and their cost, the best and the worst pictures"
        if self.results:
            _write_json(self.results, evaluation.results, indent=None)
            yield f"{self.results}: {len(evaluation.results)} people found, as COCO keypoint results"
        if self.json:
            _write_json(self.json, summarise(evaluation, **about), indent=1)
            yield f"{self.json}: the numbers"

    def _write_pictures(self, folder: Path, evaluation: Evaluation, pictures: PictureSet) -> str:
        from evaluation.report.gallery import choose, write_pictures

        ids = list(evaluation.truth)
        chosen = [ids[i] for i in choose([count_people(people) for people in evaluation.truth.values()], self.number)]
        written = write_pictures(folder, load_pictures(pictures, chosen), evaluation.truth, evaluation.people)
        return f"{folder}/: {len(written)} pictures, truth left, found right"


def _write_json(path: Path, content: Any, indent: int | None) -> None:
    from pipeline.system.files import write_atomically

    try:
        write_atomically(path, json.dumps(content, indent=indent) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
