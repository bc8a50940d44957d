"""What an evaluation leaves behind: numbers, results, pictures and a report, each where it was asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.scoring.detect import Findings
from evaluation.scoring.metrics import ALL, Protocol, count_people, evaluate_protocols
from evaluation.scoring.results import to_coco_results, to_people
from evaluation.scoring.datasets import PictureSet, Truth, load_pictures
from pipeline.errors import InputError

if TYPE_CHECKING:
    from evaluation.scoring.analysis.diagnosis import Diagnosis
    from evaluation.decoder.person import Person


@dataclass(frozen=True)
class Evaluation:
    """Truth and what was found, compared.

    Attributes:
        truth: the pictures looked at, with their annotations, by rising image id.
        people: found in each picture, in its pixels, by image id.
        results: the same as COCO keypoint results, by rising image id.
        protocols: COCO's numbers by the names in metrics.PROTOCOLS.
        findings: how people were found; None for results that were read.
    """

    truth: Truth
    people: dict[int, list[Person]]
    results: list[dict[str, Any]]
    protocols: dict[str, Protocol]
    findings: Findings | None = None

    @property
    def ap(self) -> dict[str, float]:
        """The ten numbers on all pictures."""
        return self.protocols[ALL].ap

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """What went wrong, on all pictures."""
        from evaluation.scoring.analysis.diagnosis import diagnose

        return diagnose(self.truth, self.results)


def score_findings(findings: Findings) -> Evaluation:
    """Compare what a network found with the truth."""
    people = findings.people
    results = [result for image_id in people for result in to_coco_results(image_id, people[image_id])]
    return Evaluation(findings.truth, people, results, evaluate_protocols(findings.truth, results), findings)


def score_results(truth: Truth, results: Sequence[dict[str, Any]]) -> Evaluation:
    """Compare results, checked, with the truth; those of pictures that `truth` does not hold are left out."""
    by_picture: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in sorted(truth)}
    for result in results:
        if result["image_id"] in by_picture:
            by_picture[result["image_id"]].append(result)
    kept = [result for found in by_picture.values() for result in found]
    people = {image_id: to_people(found) for image_id, found in by_picture.items()}
    return Evaluation(dict(sorted(truth.items())), people, kept, evaluate_protocols(truth, kept))


def summarise(evaluation: Evaluation, **about: Any) -> dict[str, Any]:
    """What eval.json holds: the ten numbers on all pictures at the top, then all else.

    Args:
        evaluation: the numbers.
        about: further entries, such as the set's name.
    """
    from evaluation.scoring.analysis.diagnosis import to_json

    whole = evaluation.protocols[ALL]
    content: dict[str, Any] = {**whole.to_json(), "found": len(evaluation.results)}
    if evaluation.findings:
        content |= _how(evaluation.findings)
    content |= about
    content["protocols"] = {name: protocol.to_json() for name, protocol in evaluation.protocols.items()}
    return content | to_json(evaluation.diagnosis)


def _how(findings: Findings) -> dict[str, Any]:
    return {
        "seconds": round(findings.seconds, 2),
        "images_per_s": round(len(findings.truth) / findings.seconds, 2),
        "canvases": [f"{width}x{height}" for height, width in sorted(findings.canvases)],
        "checkpoint": findings.source,
        "evaluation": findings.config,
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
    from pipeline.storage.manifest import write_atomically

    try:
        write_atomically(path, json.dumps(content, indent=indent) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
