"""The report's pictures: the worst and the best, truth and what was found side by side."""

from __future__ import annotations

import base64
from collections.abc import Callable
from html import escape

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.person import Person
from evaluation.media.overlay import draw_people
from evaluation.scoring.analysis.errors import KINDS
from evaluation.scoring.analysis.quality import Pictures, judge_pictures
from evaluation.scoring.datasets import PictureSet, load_pictures
from evaluation.scoring.evaluation import Evaluation
from evaluation.scoring.truth import true_keypoints

NUMBER = 6
"""Pictures of a kind."""
LONGEST = 560
"""px; longer side of a picture in the report."""
_QUALITY = 82

GROUPS: tuple[tuple[str, str, Callable[[Pictures], list[int]]], ...] = (
    ("Worst pictures", "Fewest people found right, among those annotated or found.", lambda one: one.worst(NUMBER)),
    ("Best pictures", "The other end of the same order; of equals, the fullest.", lambda one: one.best(NUMBER)),
    (
        "People seen where nobody is",
        "Pictures without anybody to find.",
        lambda one: one.with_false_positives(NUMBER // 2),
    ),
)
"""Heading, what it means, and which pictures."""


def gallery(evaluation: Evaluation, pictures: PictureSet) -> str:
    """A section for each of GROUPS that has pictures, as HTML."""
    judged = judge_pictures(evaluation.truth, evaluation.results)
    chosen = [(title, text, choose(judged)) for title, text, choose in GROUPS]
    if not pictures.has_pictures:
        return f"<section><h2>Pictures</h2><p>{escape(pictures.name)} is not there, so none are shown.</p></section>"
    wanted = sorted({judged.ids[i] for _, _, indices in chosen for i in indices})
    images = load_pictures(pictures, wanted)
    sections = []
    for title, text, indices in chosen:
        if indices:
            figures = "".join(_figure(i, judged, evaluation, images[judged.ids[i]]) for i in indices)
            side = "First the truth, then what was found."
            sections.append(
                f'<section><h2>{title}</h2><p class="quiet">{text} {side}</p>'
                f'<div class="gallery">{figures}</div></section>'
            )
    return "\n".join(sections)


def _figure(index: int, judged: Pictures, evaluation: Evaluation, image: NDArray[np.uint8]) -> str:
    image_id = judged.ids[index]
    truth = [Person(keypoints, 1.0) for keypoints in true_keypoints(evaluation.truth[image_id])]
    name = f"image {image_id}"
    drawn = ((truth, f"{name}, truth"), (evaluation.people[image_id], f"{name}, found"))
    sides = "".join(_img(draw_people(image, people), text) for people, text in drawn)
    return f"<figure><div>{sides}</div><figcaption><b>{name}</b> {_caption(index, judged)}</figcaption></figure>"


def _caption(index: int, judged: Pictures) -> str:
    people = f"{judged.wanted[index]} annotated, {judged.right[index]} found at OKS .50, {judged.false[index]} false"
    errors = [f"{count} {kind}" for kind, count in zip(KINDS, judged.kinds[index], strict=True) if count]
    return f"{people}<br>{'keypoints: ' + ', '.join(errors) if errors else 'no keypoints to compare'}"


def _img(image: NDArray[np.uint8], text: str) -> str:
    """An <img> that holds its JPEG."""
    import cv2
    import simplejpeg

    height, width, _ = image.shape
    scale = min(1.0, LONGEST / max(height, width))
    if scale < 1:
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=_QUALITY, colorspace="BGR")
    source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    return f'<img src="{source}" width="{width}" height="{height}" alt="{escape(text)}">'
