"""Labels: from a map of who covers each pixel to COCO annotations."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.synthetic.geometry.figures import (
    FOOT,
    FOREARM,
    HAND,
    HEAD,
    NECK,
    PARTS,
    PELVIS,
    SHANK,
    SKIRT,
    THIGH,
    TORSO,
    UPPER_ARM,
    Figure,
)
from pipeline.synthetic.geometry.heads import HIDDEN, UNLABELLED, VISIBLE
from pipeline.synthetic.geometry.layout import Actor
from pipeline.synthetic.geometry.polygons import SHIFT, fixed_point

Owners = NDArray[np.uint16]
"""(H, W): number of the actor that covers the pixel, counted from 1, times PARTS, plus its part; 0 is background."""

_LEAST_AREA = 24  # px of a person who can still be seen
_LEAST_LABELLED_AREA = 32**2  # px; COCO has no keypoints of smaller people, and its evaluation leaves them out
_LEAST_VISIBLE = 2  # keypoints; with fewer, nobody could label the rest


def _evidence() -> list[tuple[set[int], set[int]]]:
    """For each of the 17 keypoints: the parts that show it, and those that show it unless it is on the far side."""
    sided: tuple[tuple[tuple[int, ...], set[int]], ...] = (
        ((UPPER_ARM,), {TORSO, NECK}),
        ((UPPER_ARM, FOREARM), set()),
        ((FOREARM, HAND), set()),
        ((THIGH,), {TORSO, PELVIS, SKIRT}),
        ((THIGH, SHANK), {SKIRT}),
        ((SHANK, FOOT), {SKIRT}),
    )
    out: list[tuple[set[int], set[int]]] = [({HEAD}, set())] * 5
    for limbs, trunk in sided:
        out += [({limb + side for limb in limbs}, trunk) for side in (0, 1)]
    return out


_EVIDENCE = _evidence()


def draw_owners(actors: list[Actor], height: int, width: int) -> Owners:
    """Who covers each pixel, the actors being ordered from the farthest to the nearest."""
    owners: Owners = np.zeros((height, width), dtype=np.uint16)
    for number, actor in enumerate(actors, start=1):
        corners = fixed_point(actor.points)
        for part, start, stop in actor.spans:
            cv2.fillConvexPoly(owners, corners[start:stop], number * PARTS + part, cv2.LINE_8, SHIFT)
    return owners


def _window(actor: Actor, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Rows and columns y0, y1, x0, x1 that an actor may cover."""
    xs, ys = actor.points[:, 0], actor.points[:, 1]
    x0, y0 = max(int(xs.min()) - 1, 0), max(int(ys.min()) - 1, 0)
    x1, y1 = min(int(xs.max()) + 3, shape[1]), min(int(ys.max()) + 3, shape[0])
    return y0, max(y1, y0), x0, max(x1, x0)


def outline(mask: NDArray[np.uint8], x0: int, y0: int) -> list[list[int]]:
    """COCO polygons around the regions of a mask whose corner is at (x0, y0); a pixel spans [x, x + 1]."""
    # doubled, the left and upper edges of a region have even and the others odd coordinates: (v + 1) >> 1 is the edge
    doubled = cv2.resize(mask, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for contour in contours:
        corners = (cv2.approxPolyDP(contour, 1.7, True)[:, 0] + 1) >> 1
        if len(corners) >= 3:
            polygons.append(np.add(corners, (x0, y0)).ravel().tolist())
    return polygons


def label_keypoints(figure: Figure, number: int, owners: Owners) -> list[list[float]]:
    """17 times [x, y, v] in px: v is 2 where the pixel shows the keypoint, 1 where something covers it, else 0."""
    height, width = owners.shape
    out: list[list[float]] = []
    for (x, y), facing, (parts, trunk) in zip(
        figure.keypoints.round(1).tolist(), figure.facing, _EVIDENCE, strict=True
    ):
        if facing == UNLABELLED or not (0 <= x <= width - 1 and 0 <= y <= height - 1):
            out.append([0, 0, UNLABELLED])
            continue
        owner, part = divmod(int(owners[round(y), round(x)]), PARTS)
        shows = part in parts and (facing == VISIBLE or parts != {HEAD})
        shows = shows or (part in trunk and facing == VISIBLE)
        out.append([x, y, VISIBLE if owner == number and shows else HIDDEN])
    return out


def label_person(figure: Figure, number: int, owners: Owners) -> dict[str, Any] | None:
    """The COCO annotation of a figure, without ids; None if next to nothing of it can be seen."""
    height, width = owners.shape
    y0, y1, x0, x1 = _window(figure, owners.shape)
    mask = ((owners[y0:y1, x0:x1] >> 5) == number).astype(np.uint8)
    if not mask.size or int(cv2.countNonZero(mask)) < _LEAST_AREA:
        return None
    polygons = outline(mask, x0, y0)
    if not polygons:
        return None
    # area and box of what the polygons cover, not of their corners: a thin spike of an outline covers no pixel
    covered = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    area = int(coco_mask.area(covered))
    if not area:
        return None
    keypoints = label_keypoints(figure, number, owners)
    if area <= _LEAST_LABELLED_AREA or sum(v == VISIBLE for *_, v in keypoints) < _LEAST_VISIBLE:
        keypoints = [[0, 0, 0]] * len(keypoints)
    return {
        "segmentation": polygons,
        "num_keypoints": sum(v > 0 for *_, v in keypoints),
        "area": area,
        "iscrowd": 0,
        "keypoints": [number for keypoint in keypoints for number in keypoint],
        "bbox": coco_mask.toBbox(covered).astype(int).tolist(),
    }


def _run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed counts: column by column, beginning with the zeros."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts: list[int] = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *counts] if flat[0] else counts


def label_crowd(number: int, owners: Owners) -> dict[str, Any] | None:
    """The COCO annotation of a crowd, without ids; None if next to nothing of it can be seen."""
    mask = (owners >> 5) == number
    area = int(mask.sum())
    if area < _LEAST_AREA:
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x0, y0, x1, y1 = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    return {
        "segmentation": {"counts": _run_lengths(mask), "size": list(owners.shape)},
        "num_keypoints": 0,
        "area": area,
        "iscrowd": 1,
        "keypoints": [0] * 51,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
    }


def label(actors: list[Actor], height: int, width: int) -> list[dict[str, Any]]:
    """COCO annotations, without ids, of everybody who can be seen."""
    if not actors:
        return []
    owners = draw_owners(actors, height, width)
    out = []
    for number, actor in enumerate(actors, start=1):
        if isinstance(actor, Figure):
            out.append(label_person(actor, number, owners))
        elif actor.kind == "crowd":
            out.append(label_crowd(number, owners))
    return [annotation for annotation in out if annotation is not None]
