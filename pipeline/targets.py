"""What the network should answer: heatmaps and part affinity fields drawn from keypoints, in NumPy.

The form is that of Cao et al., "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields", CVPR 2017, with
the limb region of CMU's training code: a band around the limb's line, cut off by the limb's widened bounding box.
`training.targets` draws the same on the device; a test holds the two together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.maps import NUM_PAFS, STRIDE, Maps, grid_to_pixel
from pipeline.skeleton import LIMB_INDICES, NUM_KEYPOINTS, NUM_LIMBS
from pipeline.strict import StrictModel

Floats = NDArray[np.float32]


class TargetConfig(StrictModel):
    """How targets are drawn; distances in px of the network's input."""

    sigma: float = Field(default=7.0, gt=0, le=64, description="px; standard deviation of a keypoint's Gaussian")
    limb_width: float = Field(default=8.0, gt=0, le=64, description="px; half-width of a limb's part affinity field")


def cell_centres(length: int, stride: int = STRIDE) -> Floats:
    """Pixel coordinates, (length // stride,) float32, of the cell centres along one side of the picture."""
    return grid_to_pixel(np.arange(length // stride, dtype=np.float32), stride).astype(np.float32)


def encode_heatmaps(keypoints: Floats, xs: Floats, ys: Floats, sigma: float) -> Floats:
    """Heatmaps of all people: the maximum over people of one Gaussian a keypoint; background = 1 - maximum of all.

    Args:
        keypoints: (P, K, 3) float32 x, y in px and visibility; visibility 0 draws nothing.
        xs: (w,) float32 px, the cell centres' columns.
        ys: (h,) float32 px, the cell centres' rows.
        sigma: px.

    Returns:
        (K + 1, h, w) float32 in 0..1.
    """
    heatmaps = np.zeros((NUM_KEYPOINTS + 1, len(ys), len(xs)), dtype=np.float32)
    precision = np.float32(-0.5 / sigma**2)
    # a Gaussian is the product of its sides, so exp() runs over h + w values instead of h * w
    across = np.exp(precision * (xs - keypoints[..., 0:1]) ** 2)  # (P, K, w)
    down = np.exp(precision * (ys - keypoints[..., 1:2]) ** 2)  # (P, K, h)
    down *= keypoints[..., 2:] > 0
    for person in range(len(keypoints)):
        gaussians = down[person, :, :, None] * across[person, :, None, :]  # (K, h, w)
        np.maximum(heatmaps[:-1], gaussians, out=heatmaps[:-1])
    np.subtract(1, heatmaps[:-1].max(axis=0), out=heatmaps[-1])
    return heatmaps


def encode_pafs(keypoints: Floats, xs: Floats, ys: Floats, limb_width: float) -> Floats:
    """Part affinity fields of all people: unit vectors along each limb, averaged where people overlap.

    A cell belongs to a limb if it is within `limb_width` of the limb's line and of its bounding box.

    Args:
        keypoints: (P, K, 3) float32 x, y in px and visibility; a limb with an end of visibility 0 draws nothing.
        xs: (w,) float32 px, the cell centres' columns.
        ys: (h,) float32 px, the cell centres' rows.
        limb_width: px.

    Returns:
        (2L, h, w) float32 in -1..1.
    """
    pafs = np.zeros((NUM_LIMBS, 2, len(ys), len(xs)), dtype=np.float32)
    counts = np.zeros((NUM_LIMBS, 1, len(ys), len(xs)), dtype=np.float32)
    starts, stops = np.moveaxis(keypoints[:, LIMB_INDICES], 2, 0)  # (P, L, 3) each
    vectors = stops[..., :2] - starts[..., :2]
    lengths = np.hypot(vectors[..., 0], vectors[..., 1])
    drawn = (starts[..., 2] > 0) & (stops[..., 2] > 0) & (lengths > 0)
    units = vectors / np.where(drawn, lengths, 1)[..., None]  # (P, L, 2)
    low = np.minimum(starts, stops) - np.float32(limb_width)
    high = np.maximum(starts, stops) + np.float32(limb_width)
    # a cell's distance from the line is |down - across|; infinity keeps cells outside the box, and limbs not drawn, out
    down = units[..., :1] * (ys - starts[..., 1:2])  # (P, L, h)
    down[(ys < low[..., 1:2]) | (ys > high[..., 1:2]) | ~drawn[..., None]] = np.inf
    across = units[..., 1:] * (xs - starts[..., 0:1])  # (P, L, w)
    across[(xs < low[..., 0:1]) | (xs > high[..., 0:1])] = -np.inf
    for person in np.nonzero(drawn.any(axis=1))[0]:
        distances = np.abs(down[person, :, :, None] - across[person, :, None, :])  # (L, h, w)
        inside = (distances <= limb_width)[:, None].astype(np.float32)  # (L, 1, h, w)
        counts += inside
        pafs += units[person, :, :, None, None] * inside
    if len(keypoints) > 1:
        pafs /= np.maximum(counts, 1)
    return pafs.reshape(NUM_PAFS, len(ys), len(xs))


def encode_maps(keypoints: Floats, size: tuple[int, int], config: TargetConfig | None = None) -> Maps:
    """Draw the targets of one picture.

    Args:
        keypoints: (P, K, 3) float32 x, y in px of the picture and visibility 0/1/2, OpenPose-18 order; P may be 0.
        size: (height, width) px of the picture, multiples of the stride.
        config: widths; the reference recipe by default.

    Returns:
        Maps on a grid of size / stride.

    Raises:
        ValueError: the size is not a multiple of the stride, or keypoints are not (P, K, 3).
    """
    config = config or TargetConfig()
    height, width = size
    if height % STRIDE or width % STRIDE:
        raise ValueError(f"size {size}: expected multiples of the stride, {STRIDE} px")
    if keypoints.ndim != 3 or keypoints.shape[1:] != (NUM_KEYPOINTS, 3):
        raise ValueError(f"keypoints: shape {keypoints.shape}, expected (P, {NUM_KEYPOINTS}, 3)")
    keypoints = np.asarray(keypoints, dtype=np.float32)
    xs, ys = cell_centres(width), cell_centres(height)
    return Maps(
        heatmaps=encode_heatmaps(keypoints, xs, ys, config.sigma),
        pafs=encode_pafs(keypoints, xs, ys, config.limb_width),
        stride=STRIDE,
    )
