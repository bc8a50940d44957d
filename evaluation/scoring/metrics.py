"""COCO's keypoint average precision, from memory and without a word, by two protocols, and their table.

pycocotools is imported inside, so that `--help` stays quick.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.scoring.results import PERSON_CATEGORY
from evaluation.scoring.truth import count_people
from pipeline.errors import InputError
from pipeline.skeleton import COCO_KEYPOINTS

AP_KEYS: tuple[str, ...] = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
"""The ten numbers of COCO's keypoint evaluation, in pycocotools' order. M and L: people of 32^2..96^2 and > 96^2 px."""

ALL, WITH_PEOPLE = "all pictures", "pictures with people"
PROTOCOLS: tuple[str, ...] = (ALL, WITH_PEOPLE)
"""On which pictures people are looked for. Pictures with people are those with any person annotation, be it a crowd or
one without keypoints, as in MindSpore ModelZoo's OpenPose; people found on the others then cost nothing."""

UNDEFINED = -1.0
"""What pycocotools and `coco_ap` give for a number that no annotation defines (no person of that size)."""


def coco_ap(
    truth: Mapping[int, Sequence[Mapping[str, Any]]],
    results: Sequence[Mapping[str, Any]],
    image_ids: Iterable[int] | None = None,
) -> dict[str, float]:
    """COCO keypoint AP and AR, averaged over object keypoint similarity .50:.05:.95.

    Pictures without people count: a person found there is a false positive.

    Args:
        truth: person annotations by image id, as in COCO's json; `segmentation` is not needed. An image id with an
            empty list is a picture without people.
        results: COCO keypoint results, as `to_coco_results` makes them.
        image_ids: the pictures to evaluate; default all of `truth`.

    Returns:
        The ten numbers by the names in AP_KEYS: 0..1, or -1 where there is no annotation to find (of that size).

    Raises:
        InputError: a result names a picture that `truth` does not hold, or lacks 51 keypoint numbers or a score; an
            annotation lacks a field that the evaluation needs.
    """
    ids = sorted(truth if image_ids is None else image_ids)
    wanted = set(ids)
    _check(truth, results, wanted)
    annotations = _annotations({i: truth[i] for i in ids})
    found = [_bare(result) for result in results if result["image_id"] in wanted]
    if not found:
        return _without_results(annotations)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _evaluate(ids, annotations, found)


@dataclass(frozen=True)
class Protocol:
    """COCO's numbers on some of the pictures.

    Attributes:
        images: how many pictures.
        people: annotated people on them whom COCO asks for.
        ap: the ten numbers by the names in AP_KEYS.
    """

    images: int
    people: int
    ap: dict[str, float]

    def to_json(self) -> dict[str, float]:
        """The ten numbers first, then the counts."""
        return {**self.ap, "images": self.images, "people": self.people}


def evaluate_protocols(
    truth: Mapping[int, Sequence[Mapping[str, Any]]], results: Sequence[Mapping[str, Any]]
) -> dict[str, Protocol]:
    """`coco_ap` by each of PROTOCOLS; arguments and errors as there."""
    with_people = [image_id for image_id, annotations in truth.items() if annotations]
    people = sum(count_people(annotations) for annotations in truth.values())
    everywhere = coco_ap(truth, results)
    # most sets are built without empty pictures, and COCO's code takes its time
    among_people = everywhere if len(with_people) == len(truth) else coco_ap(truth, results, with_people)
    return {
        ALL: Protocol(len(truth), people, everywhere),
        WITH_PEOPLE: Protocol(len(with_people), people, among_people),
    }


def format_table(protocols: Mapping[str, Protocol]) -> str:
    """One line of names, then one a protocol: its pictures, its people and the ten numbers, `-` for undefined ones."""
    rows = [["", "pictures", "people", *AP_KEYS]]
    for name, protocol in protocols.items():
        values = [f"{protocol.ap[key]:.3f}" if protocol.ap[key] >= 0 else "-" for key in AP_KEYS]
        rows.append([name, f"{protocol.images:,}", f"{protocol.people:,}", *values])
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))])
        for name, *cells in rows
    )


def _check(
    truth: Mapping[int, Sequence[Mapping[str, Any]]], results: Sequence[Mapping[str, Any]], wanted: set[int]
) -> None:
    unknown = wanted - truth.keys()
    if unknown:
        raise InputError(f"coco_ap: image id {min(unknown)} has no entry in the truth, expected one (or an empty list)")
    numbers = 3 * len(COCO_KEYPOINTS)
    for i, result in enumerate(results):
        missing = {"image_id", "keypoints", "score"} - result.keys()
        if missing:
            raise InputError(f"result {i}: {sorted(missing)} missing, expected image_id, keypoints and score")
        if result["image_id"] not in truth:
            raise InputError(f"result {i}: image id {result['image_id']} is not among the {len(truth)} evaluated ones")
        if len(result["keypoints"]) != numbers:
            raise InputError(f"result {i}: {len(result['keypoints'])} keypoint numbers, expected {numbers}")


def _annotations(truth: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Person annotations under fresh ids: COCOeval takes id 0 for "no match", and sets of sets may repeat ids."""
    flat = [
        {key: value for key, value in annotation.items() if key != "segmentation"} | {"image_id": image_id}
        for image_id, people in truth.items()
        for annotation in people
        if annotation.get("category_id", PERSON_CATEGORY) == PERSON_CATEGORY
    ]
    for number, annotation in enumerate(flat, start=1):
        missing = {"keypoints", "num_keypoints", "area", "bbox"} - annotation.keys()
        if missing:
            picture = annotation["image_id"]
            raise InputError(f"image {picture}: an annotation lacks {sorted(missing)}, expected COCO person keypoints")
        annotation["id"] = number
        annotation["category_id"] = PERSON_CATEGORY
        annotation.setdefault("iscrowd", 0)
    return flat


def _bare(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result with what COCO's code has to see, for it takes one with a box or a caption for another kind."""
    return {name: result[name] for name in ("image_id", "keypoints", "score")} | {"category_id": PERSON_CATEGORY}


def _without_results(annotations: list[dict[str, Any]]) -> dict[str, float]:
    """0 where COCO would look for people, -1 where there is none to look for."""
    areas = [a["area"] for a in annotations if not a["iscrowd"] and a["num_keypoints"] > 0]
    defined = {
        "M": any(32**2 <= area <= 96**2 for area in areas),
        "L": any(96**2 <= area <= 1e5**2 for area in areas),
    }
    return {key: 0.0 if defined.get(key[-1], bool(areas)) else UNDEFINED for key in AP_KEYS}


def _evaluate(ids: list[int], annotations: list[dict[str, Any]], found: list[dict[str, Any]]) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    ground = COCO()
    ground.dataset = {
        "info": {},
        "images": [{"id": i} for i in ids],
        "annotations": annotations,
        "categories": [{"id": PERSON_CATEGORY, "name": "person"}],
    }
    ground.createIndex()
    evaluation = COCOeval(ground, ground.loadRes(found), "keypoints")
    evaluation.params.imgIds = ids
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {key: float(value) for key, value in zip(AP_KEYS, evaluation.stats, strict=True)}
