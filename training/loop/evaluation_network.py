"""Inference during training, with a copy of the weights."""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms
import numpy as np
from mindspore import ops

from training.config import ModelConfig
from training.distributed.world import World
from training.network.inference import inference_function
from training.network.openpose import OpenPose


class EvaluationNetwork:
    """A second network for evaluation, so that inference does not affect the network in training."""

    def __init__(self, config: ModelConfig) -> None:
        network = OpenPose(config)
        self.parameters = {parameter.name: parameter for parameter in network.get_parameters()}
        self.infer = inference_function(network)

    def copy_weights(self, weights: Mapping[str, ms.Parameter], world: World) -> None:
        """Copy the weights of the network in training; a collective call.

        Trainable weights are equal in all processes. The running statistics of batch normalisation are not: each
        process computes them on its own batches. All processes take those of rank 0, which checkpoints store as well.

        Args:
            weights: weights by parameter name of the network.
            world: the processes of the run.
        """
        values = {name: weights[name].asnumpy() for name in self.parameters}
        statistics = [name for name, parameter in self.parameters.items() if not parameter.requires_grad]
        if statistics and world.size > 1:
            of_rank_0 = world.broadcast(np.concatenate([values[name].ravel() for name in statistics]))
            ends = np.cumsum([values[name].size for name in statistics])
            for name, part in zip(statistics, np.split(of_rank_0, ends[:-1]), strict=True):
                values[name] = part.reshape(values[name].shape)
        for name, parameter in self.parameters.items():
            # not set_data: after the first run of a graph, it changes the value in Python but not the one in the graph
            ops.assign(parameter, ms.Tensor(values[name]))
