"""Asking the network for its maps: from NumPy to NumPy, and while it is in training."""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms
import numpy as np
from mindspore import ops
from numpy.typing import NDArray

from training.config import ModelConfig
from training.distributed.world import World
from training.network.inference import inference_function
from training.network.openpose import OpenPose

Floats = NDArray[np.float32]


class EvaluationNetwork:
    """A second network that answers in place of the one in training, so that asking changes nothing of that."""

    def __init__(self, config: ModelConfig) -> None:
        network = OpenPose(config)
        self.parameters = {parameter.name: parameter for parameter in network.get_parameters()}
        self.infer = inference_function(network)

    def copy_weights(self, weights: Mapping[str, ms.Parameter], world: World) -> None:
        """Learn the weights of the network in training by heart; every process has to call this.

        Trained weights are the same on all processes. What is counted on the way, the moments of batch normalisation,
        is not: all take those of rank 0, which are the ones that a checkpoint keeps.

        Args:
            weights: by the names that the network gives them.
            world: the processes.
        """
        values = {name: weights[name].asnumpy() for name in self.parameters}
        counted = [name for name, parameter in self.parameters.items() if not parameter.requires_grad]
        if counted and world.size > 1:
            first = world.broadcast(np.concatenate([values[name].ravel() for name in counted]))
            ends = np.cumsum([values[name].size for name in counted])
            for name, part in zip(counted, np.split(first, ends[:-1]), strict=True):
                values[name] = part.reshape(values[name].shape)
        for name, parameter in self.parameters.items():
            # once a graph has run, set_data would change what Python sees and not what the graph reads
            ops.assign(parameter, ms.Tensor(values[name]))
