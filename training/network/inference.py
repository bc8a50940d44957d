"""Inference: the maps of the last stage, as a cell and as a function on NumPy arrays."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import nn
from numpy.typing import NDArray

from pipeline.maps import InferenceFunction
from training.network.openpose import OpenPose


class FinalStage(nn.Cell):
    """A network that returns only the maps of its last stage of each kind.

    (B, H, W, 3) uint8 BGR -> part affinity fields (B, 2L, h, w) and heatmaps (B, K + 1, h, w), float32.
    """

    def __init__(self, network: OpenPose) -> None:
        super().__init__()
        self.network = network

    def construct(self, image: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        pafs, heatmaps = self.network(image)
        return pafs[-1], heatmaps[-1]


def inference_function(network: OpenPose) -> InferenceFunction:
    """Return the forward pass of the network, in inference mode, as a function on NumPy arrays.

    Each new input shape compiles a graph once. The names of the network's parameters get the prefix "network.".
    """
    final_stage = FinalStage(network).set_train(False)

    def run(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        pafs, heatmaps = final_stage(ms.Tensor(images))
        return pafs.asnumpy(), heatmaps.asnumpy()

    return run
