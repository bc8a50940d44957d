"""Apply augmentations to pixels: warp the image and the ignore region, and change the colour.

`pipeline.loading.augment` defines the augmentations. Images have three channels, or four of which the last is unused:
OpenCV warps four channels to 368x368 px in 0.71 ms and three in 0.85 ms, libjpeg-turbo decodes both at the same speed,
and the resulting colours are the same.
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
"""Grey value outside of the image: the reference's 127.5, rounded to even as OpenCV does."""

NUM_HUES = 180
"""OpenCV's 8-bit hue is in 0..179 and wraps around; one step is 2 degrees."""

_buffers = ThreadBuffers()


def warp_image(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], size: Size, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Warp an image with bilinear interpolation; pixels outside of it are grey.

    Args:
        image: (H, W, 3 or 4) uint8.
        matrix: (2, 3) from `affine_matrix`.
        size: (height, width) px of the output.
        out: (height, width, 3 or 4) uint8 array to write into; a new one by default.
    """
    height, width = size
    warped: NDArray[np.uint8] = cv2.warpAffine(
        image, matrix, (width, height), dst=out, flags=cv2.INTER_LINEAR, borderValue=(BORDER_GREY,) * 4
    )
    return warped


def warp_mask(mask: NDArray[np.uint8], matrix: NDArray[np.float64], size: Size) -> NDArray[np.uint8]:
    """Warp a 0/1 mask with bilinear interpolation, rounded to 0 or 1; pixels outside of it are 0.

    Args:
        mask: (H, W) uint8 0/1.
        matrix: (2, 3) from the mask's pixel coordinates to the output's.
        size: (height, width) of the output.
    """
    height, width = size
    # OpenCV rounds the interpolated value of an 8-bit image, which is a threshold of one half.
    warped: NDArray[np.uint8] = cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_LINEAR)
    return warped


def loss_mask(ignore: NDArray[np.uint8] | None, matrix: NDArray[np.float64], size: Size) -> NDArray[np.uint8]:
    """Warp the ignore region to the network's output grid and return its complement.

    Args:
        ignore: (H, W) uint8 0/1 in the image's frame; None if nothing is ignored.
        matrix: (2, 3) from `affine_matrix`.
        size: (height, width) px of the network's input, multiples of the stride.

    Returns:
        (height / 8, width / 8) uint8, 1 where the loss counts. As in CMU's code, it counts outside of the image too.
    """
    grid = (size[0] // STRIDE, size[1] // STRIDE)
    if ignore is None:
        return np.ones(grid, dtype=np.uint8)
    to_grid = matrix / STRIDE
    to_grid[:, 2] -= (STRIDE - 1) / 2 / STRIDE
    return np.bitwise_xor(warp_mask(ignore, to_grid, grid), np.uint8(1))


def _add_hue(channel: NDArray[np.uint8], change: int) -> None:
    """Add to the hue in place, with wrap-around. Arithmetic on bytes takes a quarter of the time of a lookup table."""
    channel += np.uint8(change % 256)
    # Values of 180 and more are either above the range of hues, or negative ones that wrapped around at 256.
    out_of_range = (channel >= NUM_HUES).view(np.uint8)
    out_of_range *= np.uint8(NUM_HUES if change > 0 else 256 - NUM_HUES)
    channel -= out_of_range


def _add_clipped(channel: NDArray[np.uint8], change: int) -> None:
    """Add to a channel in place, clipped to 0..255. OpenCV is fast for positive numbers only, so subtract negatives."""
    if change > 0:
        cv2.add(channel, change, dst=channel)
    elif change < 0:
        cv2.subtract(channel, -change, dst=channel)


def jitter_colour(
    image: NDArray[np.uint8], augmentation: Augmentation, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Change the hue, saturation and value of an image.

    Args:
        image: (H, W, 3 or 4) uint8 BGR, contiguous.
        augmentation: the changes; if all are 0, the colours stay exactly as they are.
        out: (H, W, 3) uint8 array to write into; `image` itself by default.

    Returns:
        `out`.
    """
    out = image if out is None else out
    if augmentation.hue or augmentation.saturation or augmentation.value:
        height, width = image.shape[:2]
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV, dst=_buffers.array("hsv", height, width, 3))
        hue, saturation, value = planes = [*_buffers.array("planes", 3, height, width)]
        cv2.split(hsv, planes)
        if augmentation.hue:
            _add_hue(hue, augmentation.hue)
        _add_clipped(saturation, augmentation.saturation)
        _add_clipped(value, augmentation.value)
        cv2.cvtColor(cv2.merge(planes, dst=hsv), cv2.COLOR_HSV2BGR, dst=out)
    elif image.shape[2] > 3:
        cv2.cvtColor(image, cv2.COLOR_BGRA2BGR, dst=out)
    elif out is not image:
        out[...] = image
    return out


def augment_image(
    image: NDArray[np.uint8], augmentation: Augmentation, matrix: NDArray[np.float64], out: NDArray[np.uint8]
) -> None:
    """Warp an image and change its colour, using buffers of the calling thread for intermediate results.

    Args:
        image: (H, W, 3 or 4) uint8 BGR.
        augmentation: the change of colour.
        matrix: (2, 3) from `affine_matrix`, the geometry.
        out: (height, width, 3) uint8 BGR array to write into.
    """
    height, width = out.shape[:2]
    warped = _buffers.array("warped", height, width, image.shape[2])
    jitter_colour(warp_image(image, matrix, (height, width), out=warped), augmentation, out=out)


def augment_sample(sample: Sample, augmentation: Augmentation, size: Size) -> Sample:
    """Augment a sample: move image, keypoints and ignore region by one matrix, then change the image's colour.

    Args:
        sample: image of any size, any number of people.
        augmentation: from `sample_augmentation` or `fit_whole_image`.
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
