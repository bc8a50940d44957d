"""Example images of the report: ground truth and detections side by side."""

from __future__ import annotations

import base64
from collections.abc import Callable
from html import escape

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.person import Person
from evaluation.media.overlay import draw_people
from evaluation.scoring.analysis.errors import KEYPOINT_CLASSES
from evaluation.scoring.analysis.quality import ImageQuality, measure_image_quality
from evaluation.scoring.datasets import EvaluationDataset, load_images
from evaluation.scoring.evaluation import Evaluation
from evaluation.scoring.ground_truth import annotated_keypoints

NUM_EXAMPLES = 6
"""Maximum number of images of a section."""
MAX_SIDE = 560
"""Maximum length in px of the longer side of an image in the report."""
_JPEG_QUALITY = 82

SECTIONS: tuple[tuple[str, str, Callable[[ImageQuality], list[int]]], ...] = (
    (
        "Worst pictures",
        "Lowest true positives / (annotated people + false positives), averaged over OKS.",
        lambda quality: quality.worst(NUM_EXAMPLES),
    ),
    (
        "Best pictures",
        "Highest value of the same measure; among equals, the pictures with the most people.",
        lambda quality: quality.best(NUM_EXAMPLES),
    ),
    (
        "Pictures without people",
        "Those with the most false positives.",
        lambda quality: quality.with_false_positives(NUM_EXAMPLES // 2),
    ),
)
"""Heading, explanation, and function that selects the images, of each section."""


def example_sections(evaluation: Evaluation, dataset: EvaluationDataset) -> str:
    """Return the HTML of each of SECTIONS that has images."""
    if not dataset.has_images:
        return f"<section><h2>Pictures</h2><p>{escape(dataset.name)}: no such folder, no pictures shown.</p></section>"
    quality = measure_image_quality(evaluation.ground_truth, evaluation.results)
    selected = [(title, text, select(quality)) for title, text, select in SECTIONS]
    images = load_images(dataset, sorted({quality.image_ids[i] for _, _, indices in selected for i in indices}))
    sections = []
    for title, text, indices in selected:
        if indices:
            figures = "".join(_figure(i, quality, evaluation, images[quality.image_ids[i]]) for i in indices)
            sections.append(
                f'<section><h2>{title}</h2><p class="quiet">{text} Left: ground truth; right: detections.</p>'
                f'<div class="gallery">{figures}</div></section>'
            )
    return "\n".join(sections)


def _figure(index: int, quality: ImageQuality, evaluation: Evaluation, image: NDArray[np.uint8]) -> str:
    image_id = quality.image_ids[index]
    annotated = [Person(keypoints, 1.0) for keypoints in annotated_keypoints(evaluation.ground_truth[image_id])]
    name = f"image {image_id}"
    sides = ((annotated, f"{name}, ground truth"), (evaluation.people[image_id], f"{name}, detections"))
    content = "".join(_img(draw_people(image, people), text) for people, text in sides)
    return f"<figure><div>{content}</div><figcaption><b>{name}</b> {_caption(index, quality)}</figcaption></figure>"


def _caption(index: int, quality: ImageQuality) -> str:
    people = f"{quality.num_people[index]} annotated; at OKS .50: {quality.true_positives[index]} true positives"
    people += f", {quality.false_positives[index]} false positives"
    counts = zip(KEYPOINT_CLASSES, quality.keypoint_classes[index], strict=True)
    classes = [f"{count} {name}" for name, count in counts if count]
    return f"{people}<br>{'keypoints: ' + ', '.join(classes) if classes else 'no matched detections'}"


def _img(image: NDArray[np.uint8], text: str) -> str:
    """Return an <img> element with the image embedded as JPEG."""
    import cv2
    import simplejpeg

    height, width, _ = image.shape
    scale = min(1.0, MAX_SIDE / max(height, width))
    if scale < 1:
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=_JPEG_QUALITY, colorspace="BGR")
    source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    return f'<img src="{source}" width="{width}" height="{height}" alt="{escape(text)}">'
