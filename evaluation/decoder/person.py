"""A found person: the decoder's result, and what results, scores and pictures are made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Person:
    """One person found in a picture.

    Attributes:
        keypoints: (18, 3) float32 x, y in px and score, OpenPose-18 order. The score is the height of the heatmap's
            peak (about 0..1); all three are 0 where the keypoint was not found.
        score: confidence that orders the people of a picture and of a data set; larger is surer. Not a probability.
    """

    keypoints: NDArray[np.float32]
    score: float

    @property
    def found(self) -> NDArray[np.bool_]:
        """(18,) which keypoints were found."""
        return np.asarray(self.keypoints[:, 2] > 0)
