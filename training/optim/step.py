"""One update as one graph: loss, gradients, all-reduce, clipping, optimizer; or, of several batches, as two graphs."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

from training.config import Config, TrainingConfig
from training.loss.loss import LossFromKeypoints, LossFromMaps
from training.loss.targets import RenderTargets
from training.optim.ema import WeightAverage
from training.optim.loss_scale import LossScale


def build_loss(network: nn.Cell, config: Config, targets_on_device: bool) -> nn.Cell:
    """The network with its loss, for batches with targets or, if they are drawn on the device, with keypoints."""
    if not targets_on_device:
        return LossFromMaps(network)
    size = (config.data.size, config.data.size)
    return LossFromKeypoints(network, RenderTargets(size, config.data.target))


class Gradients(nn.Cell):
    """A batch to the gradients of its scaled loss, of this process alone.

    Takes what the loss takes. Returns (T + 1,) float32, the loss's terms and whether the device noticed an overflow, 0
    or 1; and the gradients, one float32 tensor a weight.
    """

    def __init__(self, loss: nn.Cell, weights: ms.ParameterTuple, scale: LossScale, *, low_precision: bool) -> None:
        """With `low_precision`, the device is asked for overflows: an Ascend 910 saturates instead of giving inf."""
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


class Update(nn.Cell):
    """Gradients to new weights.

    The gradients are averaged over batches and processes, scaled down, and clipped to a global norm. Where loss or
    gradients are not finite on any process, nothing changes on all of them but a dynamic loss scale. (The running
    statistics of batch normalisation are no part of an update: a batch moves them on its way forward.)

    Takes `stop`, a float32 scalar that is above 0 where this process was asked to stop; `decay` of the average of
    weights, a float32 scalar; and the sums over batches of what `Gradients` gives. Returns float32, the same on every
    process: the loss's terms (T,), averaged; scalars: the global norm of the gradients before clipping, whether the
    weights were updated, the loss scale of this update, and the sum of `stop`, so that all processes stop together.
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
            shared = self.reduce(ops.cat((sums, ops.reshape(stop, (1,)))))
            sums, stop = shared[:-1], shared[-1]
        terms = sums[:-1] / (self.processes * self.batches)
        scale = self.scale() * 1.0  # a copy: what follows may change it
        norm = global_norm(gradients) / (scale * self.batches)
        factor = 1.0 / (scale * self.batches)
        if self.clip_norm is not None:
            factor = factor * ops.minimum(ms.Tensor(1.0, ms.float32), self.clip_norm / (norm + 1e-6))
        finite = ops.logical_and(ops.isfinite(norm + ops.sum(terms)), sums[-1] == 0)
        if finite:
            updates = ()
            for gradient in gradients:
                updates += (gradient * factor,)  # type: ignore[assignment]  # a graph knows no list of tensors
            terms = ops.depend(terms, self.optimizer(updates))
            if self.average is not None:
                terms = ops.depend(terms, self.average(decay))
        self.scale.adjust(finite)
        return terms, norm, finite.astype(ms.float32), scale, stop


class TrainStep(nn.Cell):
    """An update from one batch. Takes `stop` and `decay` as `Update` does, then the batch; gives what that gives."""

    def __init__(self, gradients: Gradients, update: Update) -> None:
        super().__init__(auto_prefix=False)
        self.gradients = gradients
        self.update = update

    def construct(self, stop: ms.Tensor, decay: ms.Tensor, *batch: ms.Tensor) -> tuple[ms.Tensor, ...]:
        sums, gradients = self.gradients(*batch)
        return self.update(stop, decay, sums, gradients)


class Accumulate(nn.Cell):
    """Adds what `Gradients` gives of a batch to sums, of which `UpdateFromSums` makes an update.

    Takes what the loss takes. The sums are 0 between updates, so no checkpoint keeps them.
    """

    def __init__(self, gradients: Gradients, weights: ms.ParameterTuple, terms: int) -> None:
        super().__init__(auto_prefix=False)
        self.gradients = gradients
        self.sums = ms.Parameter(ops.zeros((terms + 1,), ms.float32), name="sum.terms", requires_grad=False)
        self.gradient_sums = weights.clone("sum", init="zeros")

    def construct(self, *batch: ms.Tensor) -> ms.Tensor:
        sums, gradients = self.gradients(*batch)
        for total, gradient in zip(self.gradient_sums, gradients):  # noqa: B905  # a graph knows no strict
            ops.assign_add(total, gradient)
        ops.assign_add(self.sums, sums)
        return sums


class UpdateFromSums(nn.Cell):
    """An update from all batches since the last. Takes `stop` and `decay` and gives what that gives."""

    def __init__(self, accumulate: Accumulate, update: Update) -> None:
        super().__init__(auto_prefix=False)
        self.sums = accumulate.sums
        self.gradient_sums = accumulate.gradient_sums
        self.update = update

    def construct(self, stop: ms.Tensor, decay: ms.Tensor) -> tuple[ms.Tensor, ...]:
        outcome = self.update(stop, decay, self.sums, self.gradient_sums)
        for total in self.gradient_sums:
            ops.assign(total, ops.zeros_like(total))
        ops.assign(self.sums, ops.zeros_like(self.sums))
        return outcome


def global_norm(tensors: tuple[ms.Tensor, ...]) -> ms.Tensor:
    """The L2 norm of all numbers in all tensors, a float32 scalar."""
    squares = ms.Tensor(0.0, ms.float32)
    for tensor in tensors:
        squares = squares + ops.sum(tensor.astype(ms.float32) * tensor.astype(ms.float32))
    return ops.sqrt(squares)
