"""Scenes: one picture with its COCO annotations, from one random generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.geometry.figures import Figure
from pipeline.synthetic.geometry.layout import lay_out
from pipeline.synthetic.rendering.background import light, paint_backdrop
from pipeline.synthetic.rendering.annotations import label
from pipeline.synthetic.rendering.painting import FigurePainter, paint_thing, sample_wardrobe

Image = NDArray[np.uint8]

_SHAPES = ((1.0, 1.0), (0.75, 1.0), (1.0, 0.75), (2 / 3, 1.0))  # height and width, relative to the longer side


@dataclass(frozen=True)
class Scene:
    """A picture and who is in it.

    Attributes:
        height, width: px.
        image: (H, W, 3) uint8 BGR; None where only annotations were wanted.
        annotations: COCO person annotations without `id`, `image_id` and `category_id`, the nearest last.
    """

    height: int
    width: int
    image: Image | None
    annotations: list[dict[str, Any]]


def scene_size(rng: np.random.Generator, size: int) -> tuple[int, int]:
    """Draw (height, width) in px of a picture whose longer side is `size`: square, 4:3, 3:4 or 3:2."""
    tall, wide = _SHAPES[int(rng.integers(len(_SHAPES)))]
    return round(size * tall), round(size * wide)


def draw_scene(rng: np.random.Generator, height: int, width: int, *, picture: bool = True) -> Scene:
    """Draw a scene of 0 to 6 people, sometimes with a crowd or a few people too small to train on.

    The annotations are the same with and without the picture.

    Args:
        rng: the scene is a function of its state alone.
        height: px.
        width: px.
        picture: paint it, too; without, only the annotations are made, several times as fast.
    """
    actors = lay_out(rng, height, width)
    annotations = label(actors, height, width)
    if not picture:
        return Scene(height, width, None, annotations)
    image = paint_backdrop(rng, height, width)
    for actor in actors:
        if isinstance(actor, Figure):
            FigurePainter(image, actor, sample_wardrobe(rng)).paint()
        else:
            paint_thing(image, actor)
    return Scene(height, width, light(image, rng), annotations)
