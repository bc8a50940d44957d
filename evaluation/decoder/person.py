"""Result type of the decoder: a detected person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Person:
    """One detected person.

    Attributes:
        keypoints: (18, 3) float32 x, y in px and score, OpenPose-18 order. The score is the height of the heatmap's
            peak, about 0..1. All three values are 0 if the keypoint was not found.
        score: confidence, by which people are sorted within an image and within a data set. It is not a probability.
    """

    keypoints: NDArray[np.float32]
    score: float

    @property
    def found(self) -> NDArray[np.bool_]:
        """(18,) True for keypoints that were found."""
        return np.asarray(self.keypoints[:, 2] > 0)
