"""Scenes: one image with its COCO annotations, sampled from one random number generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.geometry.figures import Figure
from pipeline.synthetic.geometry.layout import sample_layout
from pipeline.synthetic.rendering.annotations import annotate
from pipeline.synthetic.rendering.background import apply_lighting, render_background
from pipeline.synthetic.rendering.renderer import FigureRenderer, render_object, sample_appearance

Image = NDArray[np.uint8]

_ASPECT_RATIOS = ((1.0, 1.0), (0.75, 1.0), (1.0, 0.75), (2 / 3, 1.0))  # height and width, relative to the longer side


@dataclass(frozen=True)
class Scene:
    """An image and its annotations.

    Attributes:
        height, width: image size in px.
        image: (H, W, 3) uint8 BGR, or None if only annotations were requested.
        annotations: COCO person annotations without `id`, `image_id` and `category_id`, from far to near.
    """

    height: int
    width: int
    image: Image | None
    annotations: list[dict[str, Any]]


def sample_scene_size(rng: np.random.Generator, size: int) -> tuple[int, int]:
    """Sample the (height, width) in px of an image whose longer side is `size`."""
    tall, wide = _ASPECT_RATIOS[int(rng.integers(len(_ASPECT_RATIOS)))]
    return round(size * tall), round(size * wide)


def render_scene(rng: np.random.Generator, height: int, width: int, *, with_image: bool = True) -> Scene:
    """Sample and render a scene of 0 to 6 people, sometimes with a crowd or a few people too small to train on.

    Args:
        rng: random number generator; the scene depends only on its state.
        height: image height in px.
        width: image width in px.
        with_image: False returns only the annotations, several times as fast; they are the same as with the image.
    """
    elements = sample_layout(rng, height, width)
    annotations = annotate(elements, height, width)
    if not with_image:
        return Scene(height, width, None, annotations)
    image = render_background(rng, height, width)
    for element in elements:
        if isinstance(element, Figure):
            FigureRenderer(image, element, sample_appearance(rng)).render()
        else:
            render_object(image, element)
    return Scene(height, width, apply_lighting(image, rng), annotations)
