"""Augmentation in numbers: what chance decides for a sample, and the one matrix and the keypoints that follow from it.

The distribution is that of the reference recipe (MindSpore ModelZoo, official/cv/OpenPose, after CMU's training code),
but picture, keypoints and ignore region are moved by one affine matrix, where the reference resamples the picture for
each step and truncates keypoints to whole pixels. A pixel's coordinate is that of its centre. The pixels themselves
are moved by `pipeline.loading.warp`; this module needs NumPy and pydantic only, so that recipes load quickly.
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
"""px; side of the network's input to which the reference's distribution belongs."""

_UNLABELLED = np.float32(np.nan)


class AugmentConfig(StrictModel):
    """The distribution from which augmentations are drawn. Lengths are px of the network's input."""

    min_box: float = Field(64.0, gt=0, description="px; the smallest person's box is not shrunk below this diagonal")
    max_box: float = Field(512.0, gt=0, description="px; the largest person's box is not enlarged above this diagonal")
    min_scale: float = Field(0.5, gt=0, le=16, description="factor; the least to which a picture is shrunk")
    base_scale: float = Field(1.0, gt=0, le=16, description="factor; always within reach, whatever the people's size")
    max_scale: float = Field(2.0, gt=0, le=16, description="factor; the most to which a picture is enlarged")
    rotation: float = Field(40 / 3, ge=0, le=180, description="degrees; standard deviation of the rotation")
    jitter: float = Field(40.0, ge=0, description="px; largest distance in x and in y of a crop from its person")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a flip left to right")
    colour: float = Field(0.5, ge=0, le=1, description="probability of a change of colour")
    hue: int = Field(10, ge=0, le=75, description="steps of 2 degrees round the colour circle; largest change")
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
        """The reference's distribution seen through an input of `size` px: every length and scale in proportion."""
        ratio = size / REFERENCE_SIZE
        fields = ("min_box", "max_box", "min_scale", "base_scale", "max_scale", "jitter")
        return cls(**{name: cls.model_fields[name].default * ratio for name in fields})


@dataclass(frozen=True)
class Augmentation:
    """What chance decided for one sample; `pipeline.loading.warp.augment_sample` does the rest.

    Attributes:
        scale: factor from picture to output.
        rotation: degrees, counter-clockwise as seen.
        centre: (x, y) px of the picture that comes to lie on the output's centre.
        flip: mirror the output left to right.
        hue, saturation, value: added in OpenCV's 8-bit HSV; hue goes round, the others are clipped to 0..255.
    """

    scale: float
    rotation: float
    centre: tuple[float, float]
    flip: bool = False
    hue: int = 0
    saturation: int = 0
    value: int = 0


def _middle(size: Size) -> tuple[float, float]:
    height, width = size
    return (width - 1) / 2, (height - 1) / 2


def _corners(points: NDArray[np.float32]) -> tuple[list[Any], list[Any]]:
    """Least and greatest x and y along the last axis but one, as lists; NaN counts for nothing."""
    return np.fmin.reduce(points, axis=-2).tolist(), np.fmax.reduce(points, axis=-2).tolist()


def _scale_range(low: list[Any], high: list[Any], config: AugmentConfig) -> tuple[float, float]:
    """Least and greatest scale that people allow whose boxes have these corners."""
    if not low:
        return config.min_scale, config.max_scale
    # sides count the px that are covered, as the reference does
    diagonals = [
        math.hypot(right - left + 1, bottom - top + 1) for (left, top), (right, bottom) in zip(low, high, strict=True)
    ]
    least = min(max(config.min_box / min(diagonals), config.min_scale), config.base_scale)
    most = min(max(config.max_box / max(diagonals), config.base_scale), config.max_scale)
    return least, most


def _whole(chance: float, limit: int) -> int:
    """A whole number in -limit..limit from a uniform one in 0..1."""
    return int(chance * (2 * limit + 1)) - limit


def sample_augmentation(
    rng: np.random.Generator, keypoints: NDArray[np.float32], image_size: Size, config: AugmentConfig
) -> Augmentation:
    """Draw an augmentation from the reference's distribution.

    The scale is uniform between what keeps the smallest person large enough and the largest small enough; the crop is
    centred on the box of a random person, as it is after rotation, or on the picture where there is nobody.

    Args:
        rng: consumed by the same number of draws whatever the picture.
        keypoints: (P, K, 3) float32 x, y in px of the picture and visibility; P may be 0.
        image_size: (height, width) px of the picture.
        config: the distribution.
    """
    scale, across, down, person, flip, colour, hue, saturation, value = rng.random(9).tolist()
    rotation = config.rotation * rng.standard_normal()
    points = np.where(keypoints[..., 2:] > 0, keypoints[..., :2], _UNLABELLED)  # (P, K, 2)
    low, high = _corners(points)
    people = [i for i, (left, _) in enumerate(low) if not math.isnan(left)]  # those with anything labelled
    least, most = _scale_range([low[i] for i in people], [high[i] for i in people], config)
    scale = least + (most - least) * scale
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    if people:
        turn = np.array(((cos, -sin), (sin, cos)), dtype=np.float32)
        (left, top), (right, bottom) = _corners(points[people[int(person * len(people))]] @ turn)
        x, y = (left + right) / 2, (top + bottom) / 2
    else:
        middle_x, middle_y = _middle(image_size)
        x, y = cos * middle_x + sin * middle_y, cos * middle_y - sin * middle_x
    x += config.jitter * (2 * across - 1) / scale
    y += config.jitter * (2 * down - 1) / scale
    coloured = colour < config.colour
    return Augmentation(
        scale=scale,
        rotation=rotation,
        centre=(cos * x - sin * y, sin * x + cos * y),
        flip=flip < config.flip,
        hue=_whole(hue, config.hue) if coloured else 0,
        saturation=_whole(saturation, config.saturation) if coloured else 0,
        value=_whole(value, config.value) if coloured else 0,
    )


def fit_whole_image(image_size: Size, size: Size) -> Augmentation:
    """The augmentation that changes nothing but the scale: the whole picture, centred, as large as the output allows.

    Args:
        image_size: (height, width) px of the picture.
        size: (height, width) px of the output.
    """
    scale = min(size[0] / image_size[0], size[1] / image_size[1])
    return Augmentation(scale, 0.0, _middle(image_size))


def affine_matrix(augmentation: Augmentation, size: Size) -> NDArray[np.float64]:
    """The one matrix that moves picture, keypoints and ignore region.

    Args:
        augmentation: its geometry.
        size: (height, width) px of the output.

    Returns:
        (2, 3) float64 from pixel coordinates of the picture to those of the output; a flip makes x to width - 1 - x.
    """
    radians = math.radians(augmentation.rotation)
    cos, sin = augmentation.scale * math.cos(radians), augmentation.scale * math.sin(radians)
    x, y = augmentation.centre
    middle_x, middle_y = _middle(size)
    mirror = -1.0 if augmentation.flip else 1.0  # about the output's middle, where the centre lies
    return np.array(
        [
            [mirror * cos, mirror * sin, middle_x - mirror * (cos * x + sin * y)],
            [-sin, cos, middle_y + sin * x - cos * y],
        ]
    )


def transform_keypoints(
    keypoints: NDArray[np.float32], augmentation: Augmentation, matrix: NDArray[np.float64], size: Size
) -> NDArray[np.float32]:
    """Move keypoints with the picture.

    As in CMU's training code, a keypoint that leaves the picture is no longer labelled.

    Args:
        keypoints: (P, K, 3) float32 x, y in px of the picture and visibility.
        augmentation: says whether left and right change sides.
        matrix: (2, 3) of `affine_matrix`.
        size: (height, width) px of the output.

    Returns:
        (Q, K, 3) float32, Q <= P: those with a labelled keypoint left; keypoints without a label are all 0.
    """
    if augmentation.flip:
        keypoints = keypoints[:, FLIP_KEYPOINTS]
    (a, b, c), (d, e, f) = matrix.tolist()
    turn = np.array(((a, d, 0), (b, e, 0), (0, 0, 1)), dtype=np.float32)  # leaves the visibility as it is
    moved = keypoints @ turn + np.array((c, f, 0), dtype=np.float32)
    height, width = size
    low, high = np.float32(-0.5), np.array((width - 0.5, height - 0.5), dtype=np.float32)
    points = moved[..., :2]
    outside = (points < low) | (points > high)  # (P, K, 2)
    gone = outside[..., 0] | outside[..., 1] | (moved[..., 2] <= 0)
    moved[gone] = 0
    kept: NDArray[np.float32] = moved[~gone.all(axis=1)]
    return kept
