"""COCO annotations, computed from a map of the body part visible at each pixel."""

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
    NUM_PART_IDS,
    PELVIS,
    SHANK,
    SKIRT,
    THIGH,
    TORSO,
    UPPER_ARM,
    Figure,
)
from pipeline.synthetic.geometry.heads import HIDDEN, UNLABELLED, VISIBLE
from pipeline.synthetic.geometry.layout import SceneElement
from pipeline.synthetic.geometry.polygons import SUBPIXEL_BITS, to_fixed_point

PartMap = NDArray[np.uint16]
"""(H, W): 1-based number of the element visible at the pixel, times NUM_PART_IDS, plus its part id; 0: background."""

_MIN_VISIBLE_AREA = 24  # px of an annotated person or crowd
_SMALL_AREA = 32**2  # px; COCO annotates no keypoints of people up to this area, and its evaluation ignores them
_MIN_VISIBLE_KEYPOINTS = 2  # with fewer visible keypoints, an annotator could not guess the hidden ones


def _keypoint_parts() -> list[tuple[set[int], set[int]]]:
    """Return, per COCO keypoint, the parts that show it, and the parts that show it only if it is on the near side."""
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


_KEYPOINT_PARTS = _keypoint_parts()


def render_part_map(elements: list[SceneElement], height: int, width: int) -> PartMap:
    """Render the part visible at each pixel; `elements` are ordered from far to near."""
    part_map: PartMap = np.zeros((height, width), dtype=np.uint16)
    for number, element in enumerate(elements, start=1):
        corners = to_fixed_point(element.points)
        for part, start, stop in element.spans:
            cv2.fillConvexPoly(part_map, corners[start:stop], number * NUM_PART_IDS + part, cv2.LINE_8, SUBPIXEL_BITS)
    return part_map


def _bounding_window(element: SceneElement, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return the rows y0 to y1 and columns x0 to x1 that enclose an element, clipped to the image."""
    xs, ys = element.points[:, 0], element.points[:, 1]
    x0, y0 = max(int(xs.min()) - 1, 0), max(int(ys.min()) - 1, 0)
    x1, y1 = min(int(xs.max()) + 3, shape[1]), min(int(ys.max()) + 3, shape[0])
    return y0, max(y1, y0), x0, max(x1, x0)


def mask_to_polygons(mask: NDArray[np.uint8], x0: int, y0: int) -> list[list[int]]:
    """Convert a mask whose top left corner is at (x0, y0) to COCO polygons; a pixel spans [x, x + 1]."""
    # in the doubled mask, left and upper edges have even coordinates, the others odd ones: (v + 1) >> 1 is the edge
    doubled = cv2.resize(mask, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for contour in contours:
        corners = (cv2.approxPolyDP(contour, 1.7, True)[:, 0] + 1) >> 1
        if len(corners) >= 3:
            polygons.append(np.add(corners, (x0, y0)).ravel().tolist())
    return polygons


def annotate_keypoints(figure: Figure, number: int, part_map: PartMap) -> list[list[float]]:
    """Return 17 x [x, y, v] in px: v is 2 if the keypoint is visible, 1 if it is hidden, 0 if it is unlabelled."""
    height, width = part_map.shape
    out: list[list[float]] = []
    for (x, y), pose_visibility, (parts, trunk) in zip(
        figure.keypoints.round(1).tolist(), figure.pose_visibility, _KEYPOINT_PARTS, strict=True
    ):
        if pose_visibility == UNLABELLED or not (0 <= x <= width - 1 and 0 <= y <= height - 1):
            out.append([0, 0, UNLABELLED])
            continue
        index, part = divmod(int(part_map[round(y), round(x)]), NUM_PART_IDS)
        visible = part in parts and (pose_visibility == VISIBLE or parts != {HEAD})
        visible = visible or (part in trunk and pose_visibility == VISIBLE)
        out.append([x, y, VISIBLE if index == number and visible else HIDDEN])
    return out


def annotate_person(figure: Figure, number: int, part_map: PartMap) -> dict[str, Any] | None:
    """Return the COCO annotation of a figure, without ids, or None if fewer than 24 px of it are visible."""
    height, width = part_map.shape
    y0, y1, x0, x1 = _bounding_window(figure, part_map.shape)
    mask = ((part_map[y0:y1, x0:x1] >> 5) == number).astype(np.uint8)
    if not mask.size or int(cv2.countNonZero(mask)) < _MIN_VISIBLE_AREA:
        return None
    polygons = mask_to_polygons(mask, x0, y0)
    if not polygons:
        return None
    # area and box are computed from the covered pixels, not from the vertices: a thin spike covers no pixel
    covered = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    area = int(coco_mask.area(covered))
    if not area:
        return None
    keypoints = annotate_keypoints(figure, number, part_map)
    if area <= _SMALL_AREA or sum(v == VISIBLE for *_, v in keypoints) < _MIN_VISIBLE_KEYPOINTS:
        keypoints = [[0, 0, 0]] * len(keypoints)
    return {
        "segmentation": polygons,
        "num_keypoints": sum(v > 0 for *_, v in keypoints),
        "area": area,
        "iscrowd": 0,
        "keypoints": [number for keypoint in keypoints for number in keypoint],
        "bbox": coco_mask.toBbox(covered).astype(int).tolist(),
    }


def _uncompressed_rle(mask: NDArray[np.bool_]) -> list[int]:
    """Return COCO's uncompressed RLE counts: column by column, starting with the number of zeros."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts: list[int] = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *counts] if flat[0] else counts


def annotate_crowd(number: int, part_map: PartMap) -> dict[str, Any] | None:
    """Return the COCO annotation of a crowd, without ids, or None if fewer than 24 px of it are visible."""
    mask = (part_map >> 5) == number
    area = int(mask.sum())
    if area < _MIN_VISIBLE_AREA:
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x0, y0, x1, y1 = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    return {
        "segmentation": {"counts": _uncompressed_rle(mask), "size": list(part_map.shape)},
        "num_keypoints": 0,
        "area": area,
        "iscrowd": 1,
        "keypoints": [0] * 51,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
    }


def annotate(elements: list[SceneElement], height: int, width: int) -> list[dict[str, Any]]:
    """Return the COCO annotations, without ids, of all visible people and crowds."""
    if not elements:
        return []
    part_map = render_part_map(elements, height, width)
    out = []
    for number, element in enumerate(elements, start=1):
        if isinstance(element, Figure):
            out.append(annotate_person(element, number, part_map))
        elif element.kind == "crowd":
            out.append(annotate_crowd(number, part_map))
    return [annotation for annotation in out if annotation is not None]
