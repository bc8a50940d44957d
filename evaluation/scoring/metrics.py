"""COCO's keypoint average precision by two protocols, and the table that shows it.

Nothing is read from files and nothing is printed. pycocotools is imported inside functions to keep `--help` fast.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.scoring.ground_truth import count_people
from evaluation.scoring.results import PERSON_CATEGORY
from pipeline.errors import InputError
from pipeline.skeleton import COCO_KEYPOINTS

AP_KEYS: tuple[str, ...] = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
"""The ten numbers of COCO's keypoint evaluation, in pycocotools' order. M and L: areas of 32^2..96^2 and > 96^2 px."""

SHORT_AP_KEYS: tuple[str, ...] = ("AP", "AP50", "AP75", "APM", "APL", "AR")
"""Columns of tables with other columns beside COCO's numbers."""

ALL_PICTURES, WITH_PEOPLE = "all pictures", "pictures with people"
PROTOCOLS: tuple[str, ...] = (ALL_PICTURES, WITH_PEOPLE)
"""Names of the protocols, which differ in the images that are evaluated.

WITH_PEOPLE evaluates only images with at least one person annotation, including crowds and people without keypoints, as
MindSpore ModelZoo's OpenPose does. False positives on the other images then do not lower AP.
"""

UNDEFINED = -1.0
"""Value of pycocotools and `coco_ap` for a number that no annotation defines (no person of that size)."""


def coco_ap(
    ground_truth: Mapping[int, Sequence[Mapping[str, Any]]],
    results: Sequence[Mapping[str, Any]],
    image_ids: Iterable[int] | None = None,
) -> dict[str, float]:
    """Return COCO keypoint AP and AR, averaged over object keypoint similarity .50:.05:.95.

    Images without people are evaluated too: every detection on them is a false positive.

    Args:
        ground_truth: person annotations by image id, as in COCO's json, whatever the id of their category is;
            `segmentation` is not needed. An empty list stands for an image without people.
        results: COCO keypoint results, as returned by `to_coco_results`.
        image_ids: images to evaluate; default: all images of `ground_truth`.

    Returns:
        The ten numbers by the names in AP_KEYS: 0..1, or -1 if there is no annotation (of that size).

    Raises:
        InputError: a result has an image id that is not in `ground_truth`, has no score, or does not have 51 keypoint
            numbers; an annotation lacks a field that the evaluation needs.
    """
    ids = sorted(ground_truth if image_ids is None else image_ids)
    selected = set(ids)
    _validate(ground_truth, results, selected)
    annotations = _copy_annotations({i: ground_truth[i] for i in ids})
    detections = [_keep_keypoint_fields(result) for result in results if result["image_id"] in selected]
    if not detections:
        return _scores_without_detections(annotations)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _run_cocoeval(ids, annotations, detections)


@dataclass(frozen=True)
class ProtocolScores:
    """COCO's numbers by one protocol.

    Attributes:
        images: number of evaluated images.
        people: number of annotated people that COCO evaluates.
        ap: the ten numbers by the names in AP_KEYS.
    """

    images: int
    people: int
    ap: dict[str, float]

    def to_json(self) -> dict[str, float]:
        """Return the ten numbers, followed by the counts."""
        return {**self.ap, "images": self.images, "people": self.people}


def evaluate_protocols(
    ground_truth: Mapping[int, Sequence[Mapping[str, Any]]], results: Sequence[Mapping[str, Any]]
) -> dict[str, ProtocolScores]:
    """Return `coco_ap` by each of PROTOCOLS; the arguments and errors are those of `coco_ap`."""
    image_ids_with_people = [image_id for image_id, annotations in ground_truth.items() if annotations]
    people = sum(count_people(annotations) for annotations in ground_truth.values())
    scores_all = coco_ap(ground_truth, results)
    # COCO's code is slow, and most datasets have no images without people, so the second evaluation is often avoided
    if len(image_ids_with_people) == len(ground_truth):
        scores_with_people = scores_all
    else:
        scores_with_people = coco_ap(ground_truth, results, image_ids_with_people)
    return {
        ALL_PICTURES: ProtocolScores(len(ground_truth), people, scores_all),
        WITH_PEOPLE: ProtocolScores(len(image_ids_with_people), people, scores_with_people),
    }


def format_short_row(ap: Mapping[str, float]) -> str:
    """Return the numbers of SHORT_AP_KEYS as right-aligned cells; `-` stands for an undefined number."""
    return "".join(f"  {f'{ap[key]:.3f}' if ap[key] >= 0 else '-':>5}" for key in SHORT_AP_KEYS)


def format_table(protocols: Mapping[str, ProtocolScores]) -> str:
    """Format a table with a row for each protocol: images, people and the ten numbers; `-` if undefined."""
    rows = [["", "pictures", "people", *AP_KEYS]]
    for name, protocol in protocols.items():
        values = [f"{protocol.ap[key]:.3f}" if protocol.ap[key] >= 0 else "-" for key in AP_KEYS]
        rows.append([name, f"{protocol.images:,}", f"{protocol.people:,}", *values])
    first_width, *widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([name.ljust(first_width), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])
        for name, *cells in rows
    )


def _validate(
    ground_truth: Mapping[int, Sequence[Mapping[str, Any]]], results: Sequence[Mapping[str, Any]], selected: set[int]
) -> None:
    unknown = selected - ground_truth.keys()
    if unknown:
        raise InputError(f"coco_ap: ground truth has no entry for image id {min(unknown)}, expected a list")
    numbers = 3 * len(COCO_KEYPOINTS)
    for i, result in enumerate(results):
        missing = {"image_id", "keypoints", "score"} - result.keys()
        if missing:
            raise InputError(f"result {i}: {sorted(missing)} missing, expected image_id, keypoints and score")
        if result["image_id"] not in ground_truth:
            known = f"the {len(ground_truth)} evaluated images"
            raise InputError(f"result {i}: image id {result['image_id']} is not among {known}")
        if len(result["keypoints"]) != numbers:
            raise InputError(f"result {i}: {len(result['keypoints'])} keypoint numbers, expected {numbers}")


def _copy_annotations(ground_truth: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Copy person annotations and number them anew.

    COCOeval treats annotation id 0 as "no match", and a dataset with several sources may contain an id twice.
    """
    flat = [
        {key: value for key, value in annotation.items() if key != "segmentation"} | {"image_id": image_id}
        for image_id, people in ground_truth.items()
        for annotation in people
    ]
    for number, annotation in enumerate(flat, start=1):
        missing = {"keypoints", "num_keypoints", "area", "bbox"} - annotation.keys()
        if missing:
            image_id = annotation["image_id"]
            raise InputError(f"image {image_id}: an annotation lacks {sorted(missing)}, expected COCO person keypoints")
        annotation["id"] = number
        annotation["category_id"] = PERSON_CATEGORY
        annotation.setdefault("iscrowd", 0)
    return flat


def _keep_keypoint_fields(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy with the fields of a keypoint result: COCO's code would treat one with a box as a box result."""
    return {name: result[name] for name in ("image_id", "keypoints", "score")} | {"category_id": PERSON_CATEGORY}


def _scores_without_detections(annotations: list[dict[str, Any]]) -> dict[str, float]:
    """Return 0 for numbers that the annotations define, and UNDEFINED for the others."""
    areas = [a["area"] for a in annotations if not a["iscrowd"] and a["num_keypoints"] > 0]
    defined = {
        "M": any(32**2 <= area <= 96**2 for area in areas),
        "L": any(96**2 <= area <= 1e5**2 for area in areas),
    }
    return {key: 0.0 if defined.get(key[-1], bool(areas)) else UNDEFINED for key in AP_KEYS}


def _run_cocoeval(
    ids: list[int], annotations: list[dict[str, Any]], detections: list[dict[str, Any]]
) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": i} for i in ids],
        "annotations": annotations,
        "categories": [{"id": PERSON_CATEGORY, "name": "person"}],
    }
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(detections), "keypoints")
    evaluation.params.imgIds = ids
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {key: float(value) for key, value in zip(AP_KEYS, evaluation.stats, strict=True)}
