"""Augmentation in pixels: picture, ignore region and colour, as the numbers of `pipeline.loading.augment` say.

Pictures have three channels, or four of which the last counts for nothing: OpenCV warps four to 368x368 px in 0.71 ms
where three take 0.85, libjpeg-turbo decodes both at the same speed, and every colour comes out the same.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.loading.augment import Augmentation, affine_matrix, transform_keypoints
from pipeline.maps import STRIDE
from pipeline.sample import Sample, Size
from pipeline.system.buffers import ThreadBuffers

BORDER_GREY = 128
"""What surrounds a picture: the reference's 127.5, rounded to even as OpenCV rounds it."""

HUES = 180
"""OpenCV's 8-bit hue runs round a circle of 0..179, 2 degrees a step."""

_spare = ThreadBuffers()


def warp_image(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], size: Size, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Move a picture, with linear interpolation and grey around it.

    Args:
        image: (H, W, 3 or 4) uint8.
        matrix: (2, 3) of `affine_matrix`.
        size: (height, width) px of the output.
        out: written in place where given, (height, width, 3 or 4) uint8.
    """
    height, width = size
    warped: NDArray[np.uint8] = cv2.warpAffine(
        image, matrix, (width, height), dst=out, flags=cv2.INTER_LINEAR, borderValue=(BORDER_GREY,) * 4
    )
    return warped


def warp_mask(mask: NDArray[np.uint8], matrix: NDArray[np.float64], size: Size) -> NDArray[np.uint8]:
    """Move a 0/1 mask; half a pixel and more counts as 1, and outside of the mask all is 0.

    Args:
        mask: (H, W) uint8 0/1.
        matrix: (2, 3) from the mask's pixel coordinates to the output's.
        size: (height, width) of the output.
    """
    height, width = size
    # linear interpolation of bytes ends in rounding, and so cuts at half
    moved: NDArray[np.uint8] = cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_LINEAR)
    return moved


def loss_mask(ignore: NDArray[np.uint8] | None, matrix: NDArray[np.float64], size: Size) -> NDArray[np.uint8]:
    """The complement of the ignore region on the network's output grid, warped straight there.

    Args:
        ignore: (H, W) uint8 0/1 on the picture, or None where nothing is to be ignored.
        matrix: (2, 3) of `affine_matrix`.
        size: (height, width) px of the network's input, multiples of the stride.

    Returns:
        (height / 8, width / 8) uint8, 1 where the loss counts: outside of the picture, too, as in CMU's.
    """
    grid = (size[0] // STRIDE, size[1] // STRIDE)
    if ignore is None:
        return np.ones(grid, dtype=np.uint8)
    to_grid = matrix / STRIDE
    to_grid[:, 2] -= (STRIDE - 1) / 2 / STRIDE
    return np.bitwise_xor(warp_mask(ignore, to_grid, grid), np.uint8(1))


def _turn_hue(channel: NDArray[np.uint8], change: int) -> None:
    """Add to the hue, in place, round the circle; arithmetic on bytes takes a quarter of a table's time."""
    channel += np.uint8(change % 256)
    # beyond the circle lies, of 256 values, either what went past its end or what went round below 0
    beyond = (channel >= HUES).view(np.uint8)
    beyond *= np.uint8(HUES if change > 0 else 256 - HUES)
    channel -= beyond


def _shift(channel: NDArray[np.uint8], change: int) -> None:
    """Add to a channel, in place, clipped to 0..255. OpenCV is quick with a positive number only."""
    if change > 0:
        cv2.add(channel, change, dst=channel)
    elif change < 0:
        cv2.subtract(channel, -change, dst=channel)


def jitter_colour(
    image: NDArray[np.uint8], augmentation: Augmentation, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Change hue, saturation and value of a picture.

    Args:
        image: (H, W, 3 or 4) uint8 BGR, contiguous.
        augmentation: the changes; all 0 leaves every colour as it is.
        out: (H, W, 3) uint8, written in place; `image` itself by default.

    Returns:
        `out`.
    """
    out = image if out is None else out
    if augmentation.hue or augmentation.saturation or augmentation.value:
        height, width = image.shape[:2]
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV, dst=_spare.array("hsv", height, width, 3))
        hue, saturation, value = planes = [*_spare.array("planes", 3, height, width)]
        cv2.split(hsv, planes)
        if augmentation.hue:
            _turn_hue(hue, augmentation.hue)
        _shift(saturation, augmentation.saturation)
        _shift(value, augmentation.value)
        cv2.cvtColor(cv2.merge(planes, dst=hsv), cv2.COLOR_HSV2BGR, dst=out)
    elif image.shape[2] > 3:
        cv2.cvtColor(image, cv2.COLOR_BGRA2BGR, dst=out)
    elif out is not image:
        out[...] = image
    return out


def augment_image(
    image: NDArray[np.uint8], augmentation: Augmentation, matrix: NDArray[np.float64], out: NDArray[np.uint8]
) -> None:
    """Warp a picture, change its colour, and leave nothing behind but `out`.

    Args:
        image: (H, W, 3 or 4) uint8 BGR.
        augmentation: its colour.
        matrix: (2, 3) of `affine_matrix`, which holds its geometry.
        out: (height, width, 3) uint8 BGR, written in place.
    """
    height, width = out.shape[:2]
    warped = _spare.array("warped", height, width, image.shape[2])
    jitter_colour(warp_image(image, matrix, (height, width), out=warped), augmentation, out=out)


def augment_sample(sample: Sample, augmentation: Augmentation, size: Size) -> Sample:
    """Augment a sample: picture, keypoints and ignore region move by one matrix, then the picture's colour changes.

    Args:
        sample: picture of any size, any number of people.
        augmentation: of `sample_augmentation` or `fit_whole_image`.
        size: (height, width) px of the output.
    """
    matrix = affine_matrix(augmentation, size)
    image = warp_image(sample.image, matrix, size)
    jitter_colour(image, augmentation)
    return Sample(
        image_id=sample.image_id,
        image=image,
        keypoints=transform_keypoints(sample.keypoints, augmentation, matrix, size),
        ignore=warp_mask(sample.ignore, matrix, size),
    )
