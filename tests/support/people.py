"""Keypoints that targets are drawn from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.skeleton import NUM_KEYPOINTS


def people(count: int, size: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
    """(P, K, 3) of people scattered over and a little beyond a picture of (height, width), a fifth unlabelled."""
    rng = np.random.default_rng(seed)
    height, width = size
    low, high = np.array([-10, -10, 1]), np.array([width + 10, height + 10, 3])
    keypoints = rng.uniform(low, high, (count, NUM_KEYPOINTS, 3)).astype(np.float32)
    keypoints[..., 2] = np.floor(keypoints[..., 2])
    keypoints[rng.random((count, NUM_KEYPOINTS)) < 0.2] = 0
    return keypoints
