"""Sample augmentations, and apply them to keypoints as one affine matrix per sample.

The distribution is that of the reference recipe (MindSpore ModelZoo, official/cv/OpenPose, after CMU's training code).
The reference resamples the image at each step and truncates keypoints to whole pixels; here one affine matrix moves
image, keypoints and ignore region. Pixel coordinates refer to pixel centres. `pipeline.loading.warp` applies the matrix
to pixels; this module needs only NumPy and pydantic, so that recipes load quickly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.config_base import StrictModel
from pipeline.sample import Size
from pipeline.skeleton import FLIP_KEYPOINTS

REFERENCE_SIZE = 368
"""Side in px of the network's input for which the reference's distribution is defined."""

_UNLABELLED = np.float32(np.nan)


class AugmentConfig(StrictModel):
    """Distribution of the augmentations. Lengths are in px of the network's input."""

    min_box: float = Field(64.0, gt=0, description="px; smallest diagonal to which a person's box is shrunk")
    max_box: float = Field(512.0, gt=0, description="px; largest diagonal to which a person's box is enlarged")
    min_scale: float = Field(0.5, gt=0, le=16, description="factor; smallest scale of an image")
    base_scale: float = Field(
        1.0, gt=0, le=16, description="factor; scale that is always possible, whatever the size of the people"
    )
    max_scale: float = Field(2.0, gt=0, le=16, description="factor; largest scale of an image")
    rotation: float = Field(40 / 3, ge=0, le=180, description="degrees; standard deviation of the rotation")
    jitter: float = Field(40.0, ge=0, description="px; largest offset in x and in y of a crop from its person")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    colour: float = Field(0.5, ge=0, le=1, description="probability of a change of colour")
    hue: int = Field(10, ge=0, le=75, description="steps of 2 degrees; largest change of the hue, which wraps around")
    saturation: int = Field(40, ge=0, le=255, description="of 255; largest change")
    value: int = Field(30, ge=0, le=255, description="of 255; largest change")

    @model_validator(mode="after")
    def _check_order(self) -> AugmentConfig:
        if not self.min_scale <= self.base_scale <= self.max_scale:
            raise ValueError(
                f"min_scale {self.min_scale:g}, base_scale {self.base_scale:g}, max_scale {self.max_scale:g}: "
                "expected min_scale <= base_scale <= max_scale"
            )
        if self.min_box > self.max_box:
            raise ValueError(f"min_box {self.min_box:g} exceeds max_box {self.max_box:g}")
        return self

    @classmethod
    def for_size(cls, size: int) -> AugmentConfig:
        """Return the reference's distribution for an input of `size` px: every length and scale in proportion."""
        ratio = size / REFERENCE_SIZE
        fields = ("min_box", "max_box", "min_scale", "base_scale", "max_scale", "jitter")
        return cls(**{name: cls.model_fields[name].default * ratio for name in fields})


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of one sample; `pipeline.loading.warp.augment_sample` applies it.

    Attributes:
        scale: factor from image to output.
        rotation: degrees, counter-clockwise as displayed.
        centre: (x, y) px of the image point that is mapped to the output's centre.
        flip: True to flip the output horizontally.
        hue, saturation, value: added in OpenCV's 8-bit HSV; hue wraps around, the others are clipped to 0..255.
    """

    scale: float
    rotation: float
    centre: tuple[float, float]
    flip: bool = False
    hue: int = 0
    saturation: int = 0
    value: int = 0


def _image_centre(size: Size) -> tuple[float, float]:
    height, width = size
    return (width - 1) / 2, (height - 1) / 2


def _bounding_boxes(points: NDArray[np.float32]) -> tuple[list[Any], list[Any]]:
    """Return the minimum and maximum (x, y) over the last axis but one, as lists. NaN is ignored."""
    return np.fmin.reduce(points, axis=-2).tolist(), np.fmax.reduce(points, axis=-2).tolist()


def _scale_range(low: list[Any], high: list[Any], config: AugmentConfig) -> tuple[float, float]:
    """Return the smallest and largest scale for people whose boxes have the corners `low` and `high`."""
    if not low:
        return config.min_scale, config.max_scale
    # As in the reference, the side of a box is the number of pixels it covers.
    diagonals = [
        math.hypot(right - left + 1, bottom - top + 1) for (left, top), (right, bottom) in zip(low, high, strict=True)
    ]
    min_scale = min(max(config.min_box / min(diagonals), config.min_scale), config.base_scale)
    max_scale = min(max(config.max_box / max(diagonals), config.base_scale), config.max_scale)
    return min_scale, max_scale


def _uniform_integer(uniform: float, limit: int) -> int:
    """Map a uniform random number in [0, 1) to a uniform integer in -limit..limit."""
    return int(uniform * (2 * limit + 1)) - limit


def sample_augmentation(
    rng: np.random.Generator, keypoints: NDArray[np.float32], image_size: Size, config: AugmentConfig
) -> Augmentation:
    """Sample an augmentation from the reference's distribution.

    The scale is uniform over the range in which the smallest person stays large enough and the largest small enough.
    The crop is centred on the box of a random person, computed after rotation, or on the image if it has no people.

    Args:
        rng: random number generator; the number of values taken from it does not depend on the image.
        keypoints: (P, K, 3) float32 x, y in px of the image and visibility; P may be 0.
        image_size: (height, width) px of the image.
        config: the distribution.
    """
    scale, jitter_x, jitter_y, person, flip, colour, hue, saturation, value = rng.random(9).tolist()
    rotation = config.rotation * rng.standard_normal()
    points = np.where(keypoints[..., 2:] > 0, keypoints[..., :2], _UNLABELLED)  # (P, K, 2)
    low, high = _bounding_boxes(points)
    people = [i for i, (left, _) in enumerate(low) if not math.isnan(left)]  # people with a labelled keypoint
    min_scale, max_scale = _scale_range([low[i] for i in people], [high[i] for i in people], config)
    scale = min_scale + (max_scale - min_scale) * scale
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    if people:
        rotation_matrix = np.array(((cos, -sin), (sin, cos)), dtype=np.float32)
        (left, top), (right, bottom) = _bounding_boxes(points[people[int(person * len(people))]] @ rotation_matrix)
        x, y = (left + right) / 2, (top + bottom) / 2
    else:
        centre_x, centre_y = _image_centre(image_size)
        x, y = cos * centre_x + sin * centre_y, cos * centre_y - sin * centre_x
    x += config.jitter * (2 * jitter_x - 1) / scale
    y += config.jitter * (2 * jitter_y - 1) / scale
    change_colour = colour < config.colour
    return Augmentation(
        scale=scale,
        rotation=rotation,
        centre=(cos * x - sin * y, sin * x + cos * y),
        flip=flip < config.flip,
        hue=_uniform_integer(hue, config.hue) if change_colour else 0,
        saturation=_uniform_integer(saturation, config.saturation) if change_colour else 0,
        value=_uniform_integer(value, config.value) if change_colour else 0,
    )


def fit_whole_image(image_size: Size, size: Size) -> Augmentation:
    """Return the augmentation that only scales: the whole image, centred, as large as fits into the output.

    Args:
        image_size: (height, width) px of the image.
        size: (height, width) px of the output.
    """
    scale = min(size[0] / image_size[0], size[1] / image_size[1])
    return Augmentation(scale, 0.0, _image_centre(image_size))


def affine_matrix(augmentation: Augmentation, size: Size) -> NDArray[np.float64]:
    """Return the affine matrix that moves image, keypoints and ignore region.

    Args:
        augmentation: its geometry is used.
        size: (height, width) px of the output.

    Returns:
        (2, 3) float64 from pixel coordinates of the image to those of the output; a flip maps x to width - 1 - x.
    """
    radians = math.radians(augmentation.rotation)
    cos, sin = augmentation.scale * math.cos(radians), augmentation.scale * math.sin(radians)
    x, y = augmentation.centre
    centre_x, centre_y = _image_centre(size)
    mirror = -1.0 if augmentation.flip else 1.0  # about the output's centre, to which `augmentation.centre` is mapped
    return np.array(
        [
            [mirror * cos, mirror * sin, centre_x - mirror * (cos * x + sin * y)],
            [-sin, cos, centre_y + sin * x - cos * y],
        ]
    )


def transform_keypoints(
    keypoints: NDArray[np.float32], augmentation: Augmentation, matrix: NDArray[np.float64], size: Size
) -> NDArray[np.float32]:
    """Move keypoints with the image.

    As in CMU's training code, a keypoint that leaves the image becomes unlabelled.

    Args:
        keypoints: (P, K, 3) float32 x, y in px of the image and visibility.
        augmentation: its flip determines whether left and right keypoints are swapped.
        matrix: (2, 3) from `affine_matrix`.
        size: (height, width) px of the output.

    Returns:
        (Q, K, 3) float32, Q <= P: the people that still have a labelled keypoint; unlabelled keypoints are all 0.
    """
    if augmentation.flip:
        keypoints = keypoints[:, FLIP_KEYPOINTS]
    (a, b, c), (d, e, f) = matrix.tolist()
    linear = np.array(((a, d, 0), (b, e, 0), (0, 0, 1)), dtype=np.float32)  # does not change the visibility
    moved = keypoints @ linear + np.array((c, f, 0), dtype=np.float32)
    height, width = size
    low, high = np.float32(-0.5), np.array((width - 0.5, height - 0.5), dtype=np.float32)
    points = moved[..., :2]
    outside = (points < low) | (points > high)  # (P, K, 2)
    unlabelled = outside[..., 0] | outside[..., 1] | (moved[..., 2] <= 0)
    moved[unlabelled] = 0
    kept: NDArray[np.float32] = moved[~unlabelled.all(axis=1)]
    return kept
