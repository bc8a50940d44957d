"""Store large pictures smaller, with their annotations, so that training does not decode pixels that it throws away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.annotations.annotated_image import AnnotatedImage, PersonAnnotation
from pipeline.annotations.ignore_region import Region

JPEG_QUALITY = 95
"""Quality of a reduced picture; with less, the network would see the artefacts of two compressions."""

_DECIMALS = 3
"""Decimals of scaled coordinates in px, as in COCO."""


def reduce_image(pixels: NDArray[np.uint8], image: AnnotatedImage, max_side: int) -> tuple[bytes, AnnotatedImage]:
    """Shrink a picture and its annotations.

    Args:
        pixels: (H, W, 3) uint8 BGR, upright, larger than `max_side`.
        image: its annotations.
        max_side: length in px of the longer side of the result.

    Returns:
        A JPEG, and the annotations in its pixels.
    """
    import cv2
    import simplejpeg

    factor = max_side / max(image.height, image.width)
    width, height = (max(1, round(side * factor)) for side in (image.width, image.height))
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(small), JPEG_QUALITY, "BGR", "420", fastdct=False)
    return bytes(data), _scale_annotations(image, height, width)


def _scale_annotations(image: AnnotatedImage, height: int, width: int) -> AnnotatedImage:
    scale = width / image.width, height / image.height
    people = tuple(_scale_person(person, scale, image, (height, width)) for person in image.people)
    return replace(image, height=height, width=width, people=people)


def _scale_person(
    person: PersonAnnotation, scale: tuple[float, float], image: AnnotatedImage, size: tuple[int, int]
) -> PersonAnnotation:
    truth: dict[str, Any] = dict(person.truth)
    keypoints = np.array(truth["keypoints"], dtype=np.float64).reshape(-1, 3)
    labelled = keypoints[:, 2] > 0
    # the centre of a pixel of the large picture, to that of the small one
    keypoints[labelled, :2] = (keypoints[labelled, :2] + 0.5) * scale - 0.5
    truth["keypoints"] = np.round(keypoints, _DECIMALS).ravel().tolist()
    truth["bbox"] = np.round(np.array(truth["bbox"], dtype=np.float64) * (*scale, *scale), _DECIMALS).tolist()
    truth["area"] = round(float(truth["area"]) * scale[0] * scale[1], _DECIMALS)
    region = person.region and _scale_region(person.region, scale, (image.height, image.width), size)
    return replace(person, truth=truth, region=region)


def _scale_region(
    region: Region, scale: tuple[float, float], old_size: tuple[int, int], size: tuple[int, int]
) -> Region:
    if region.runs is None:
        return Region(polygons=tuple((polygon * scale).astype(np.float32) for polygon in region.polygons))
    import cv2

    values = np.zeros(len(region.runs), dtype=np.uint8)
    values[1::2] = 1
    mask = np.repeat(values, region.runs).reshape(old_size[::-1]).T
    small = cv2.resize(np.ascontiguousarray(mask), size[::-1], interpolation=cv2.INTER_NEAREST)
    columns = small.T.ravel()
    edges = np.flatnonzero(columns[1:] != columns[:-1]) + 1
    first = [0, 0] if columns[0] else [0]  # runs start with zeros
    return Region(runs=np.diff(np.concatenate((first, edges, [columns.size]))).astype(np.uint32))
