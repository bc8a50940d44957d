"""Flip averaging: the network sees each picture and its mirror image, and the mean of both answers counts.

Long common in pose estimation (Newell, Yang and Deng, "Stacked Hourglass Networks", ECCV 2016); it costs a second pass.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.maps import InferenceFunction
from pipeline.skeleton import FLIP, FLIP_LIMBS, NUM_KEYPOINTS, NUM_LIMBS

Floats = NDArray[np.float32]

_HEATMAPS = np.append(FLIP, NUM_KEYPOINTS)


def flip_heatmaps(heatmaps: Floats) -> Floats:
    """The heatmaps (B, K + 1, h, w) of the mirrored pictures: left and right change sides and channels."""
    return heatmaps[:, _HEATMAPS, :, ::-1]


def flip_pafs(pafs: Floats) -> Floats:
    """The part affinity fields (B, 2L, h, w) of the mirrored pictures: as heatmaps, and x changes its sign."""
    batch, _, height, width = pafs.shape
    limbs = pafs.reshape(batch, NUM_LIMBS, 2, height, width)[:, FLIP_LIMBS, :, :, ::-1]
    mirrored: Floats = limbs * np.array([-1, 1], dtype=np.float32)[:, None, None]
    return mirrored.reshape(pafs.shape)


def flip_averaged(network: InferenceFunction) -> InferenceFunction:
    """A network that answers with the mean over a picture and its mirror image."""

    def answer(images: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        pafs, heatmaps = network(images)
        mirrored_pafs, mirrored_heatmaps = network(np.ascontiguousarray(images[:, :, ::-1]))
        return (pafs + flip_pafs(mirrored_pafs)) / 2, (heatmaps + flip_heatmaps(mirrored_heatmaps)) / 2

    return answer
