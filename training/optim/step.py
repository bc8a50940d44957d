"""The training step: loss, gradients, all-reduce, clipping and optimizer in one graph.

With gradient accumulation the step is two graphs: one for each batch, one for the update.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

from training.config import Config, TrainingConfig
from training.loss.loss import LossFromKeypoints, LossFromMaps
from training.loss.targets import RenderTargets
from training.optim.ema import WeightAverage
from training.optim.loss_scale import LossScale


def build_loss(network: nn.Cell, config: Config, targets_on_device: bool) -> nn.Cell:
    """Return a cell that computes the loss terms of a batch.

    The batch holds targets, or keypoints if `targets_on_device`; see `LossFromMaps` and `LossFromKeypoints`.
    """
    if not targets_on_device:
        return LossFromMaps(network, config.training.loss)
    size = (config.data.size, config.data.size)
    return LossFromKeypoints(network, RenderTargets(size, config.data.target), config.training.loss)


class ComputeGradients(nn.Cell):
    """Gradients of the scaled loss of one batch, on this process alone.

    Takes the inputs of the loss. Returns (T + 1,) float32, the T loss terms followed by 1 if the device reported an
    overflow, else 0; and a tuple with the gradient of each weight, float32.
    """

    def __init__(self, loss: nn.Cell, weights: ms.ParameterTuple, scale: LossScale, *, low_precision: bool) -> None:
        """With `low_precision`, query the device for overflows: an Ascend 910 saturates instead of returning inf."""
        super().__init__(auto_prefix=False)
        self.loss = loss
        self.scale = scale
        self.low_precision = low_precision
        self.value_and_grad = ms.value_and_grad(self.scaled_loss, None, weights, has_aux=True)

    def scaled_loss(self, *batch: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        terms = self.loss(*batch)  # (T,)
        return ops.sum(terms) * self.scale(), terms

    def construct(self, *batch: ms.Tensor) -> tuple[ms.Tensor, tuple[ms.Tensor, ...]]:
        (_, terms), gradients = self.value_and_grad(*batch)
        overflow = ms.Tensor([0.0], ms.float32)
        if self.low_precision:
            overflow = 1.0 - ops.reshape(ms.amp.all_finite(gradients).astype(ms.float32), (1,))
        return ops.cat((terms, overflow)), gradients


class ApplyGradients(nn.Cell):
    """Update the weights from gradients.

    The gradients are averaged over batches and processes, divided by the loss scale, and clipped to a global norm. If
    the loss or the gradients are not finite on any process, no process updates anything but a dynamic loss scale. The
    running statistics of batch normalisation are not part of the update: the forward pass of each batch changes them.

    Inputs of `construct`:
        stop: float32 scalar, above 0 if this process was asked to stop.
        decay: float32 scalar, decay of the exponential moving average of the weights.
        sums: (T + 1,) sum over batches of the first output of `ComputeGradients`.
        gradients: sum over batches of the gradient of each weight.

    Returns, float32 and the same on every process: the mean loss terms (T,), and the scalars global norm of the
    gradients before clipping, 1 if the weights were updated else 0, loss scale of this update, and sum of `stop` over
    the processes, so that all of them stop at the same step.
    """

    def __init__(
        self,
        optimizer: nn.Optimizer,
        scale: LossScale,
        average: WeightAverage | None,
        config: TrainingConfig,
        processes: int,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.scale = scale
        self.average = average
        self.clip_norm = config.clip_norm
        self.batches = config.accumulate
        self.processes = processes
        if processes > 1:
            self.reduce_gradients = nn.DistributedGradReducer(optimizer.parameters, mean=True, degree=processes)
            self.reduce = ops.AllReduce()

    def construct(
        self, stop: ms.Tensor, decay: ms.Tensor, sums: ms.Tensor, gradients: tuple[ms.Tensor, ...]
    ) -> tuple[ms.Tensor, ...]:
        if self.processes > 1:
            gradients = self.reduce_gradients(gradients)
            reduced = self.reduce(ops.cat((sums, ops.reshape(stop, (1,)))))
            sums, stop = reduced[:-1], reduced[-1]
        terms = sums[:-1] / (self.processes * self.batches)
        scale = self.scale() * 1.0  # a copy, because `adjust` below may change the scale in place
        norm = global_norm(gradients) / (scale * self.batches)
        factor = 1.0 / (scale * self.batches)
        if self.clip_norm is not None:
            factor = factor * ops.minimum(ms.Tensor(1.0, ms.float32), self.clip_norm / (norm + 1e-6))
        finite = ops.logical_and(ops.isfinite(norm + ops.sum(terms)), sums[-1] == 0)
        if finite:
            updates = ()
            for gradient in gradients:
                updates += (gradient * factor,)  # type: ignore[assignment]  # graph mode has no list of tensors
            terms = ops.depend(terms, self.optimizer(updates))
            if self.average is not None:
                terms = ops.depend(terms, self.average(decay))
        self.scale.adjust(finite)
        return terms, norm, finite.astype(ms.float32), scale, stop


class TrainStep(nn.Cell):
    """One update from one batch.

    Takes `stop` and `decay` as `ApplyGradients` does, then the batch. Returns the outputs of `ApplyGradients`.
    """

    def __init__(self, compute_gradients: ComputeGradients, apply_gradients: ApplyGradients) -> None:
        super().__init__(auto_prefix=False)
        self.compute_gradients = compute_gradients
        self.apply_gradients = apply_gradients

    def construct(self, stop: ms.Tensor, decay: ms.Tensor, *batch: ms.Tensor) -> tuple[ms.Tensor, ...]:
        sums, gradients = self.compute_gradients(*batch)
        return self.apply_gradients(stop, decay, sums, gradients)


class AccumulateGradients(nn.Cell):
    """Add the loss terms and gradients of one batch to sums, which `ApplyAccumulatedGradients` uses and resets.

    Takes the inputs of the loss. The sums are 0 between updates, so checkpoints do not store them.
    """

    def __init__(self, compute_gradients: ComputeGradients, weights: ms.ParameterTuple, terms: int) -> None:
        """`terms` is the number of loss terms T."""
        super().__init__(auto_prefix=False)
        self.compute_gradients = compute_gradients
        self.sums = ms.Parameter(ops.zeros((terms + 1,), ms.float32), name="sum.terms", requires_grad=False)
        self.gradient_sums = weights.clone("sum", init="zeros")

    def construct(self, *batch: ms.Tensor) -> ms.Tensor:
        sums, gradients = self.compute_gradients(*batch)
        for total, gradient in zip(self.gradient_sums, gradients):  # noqa: B905  # graph mode has no strict
            ops.assign_add(total, gradient)
        ops.assign_add(self.sums, sums)
        return sums


class ApplyAccumulatedGradients(nn.Cell):
    """One update from all batches since the previous update.

    Takes `stop` and `decay` as `ApplyGradients` does, and returns the outputs of `ApplyGradients`.
    """

    def __init__(self, accumulated: AccumulateGradients, apply_gradients: ApplyGradients) -> None:
        super().__init__(auto_prefix=False)
        self.sums = accumulated.sums
        self.gradient_sums = accumulated.gradient_sums
        self.apply_gradients = apply_gradients

    def construct(self, stop: ms.Tensor, decay: ms.Tensor) -> tuple[ms.Tensor, ...]:
        outputs = self.apply_gradients(stop, decay, self.sums, self.gradient_sums)
        for total in self.gradient_sums:
            ops.assign(total, ops.zeros_like(total))
        ops.assign(self.sums, ops.zeros_like(self.sums))
        return outputs


def global_norm(tensors: tuple[ms.Tensor, ...]) -> ms.Tensor:
    """Return the L2 norm of all elements of all tensors, a float32 scalar."""
    squares = ms.Tensor(0.0, ms.float32)
    for tensor in tensors:
        squares = squares + ops.sum(tensor.astype(ms.float32) * tensor.astype(ms.float32))
    return ops.sqrt(squares)
