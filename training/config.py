"""The fields of a recipe, the configuration of a training run, each with its meaning, unit, range and default.

Lengths in cells count cells of the network's output grid, each STRIDE = 8 px of its input. `training.recipes` reads a
recipe from YAML. Importing this module imports neither MindSpore nor the readers of the data pipeline.
"""

from __future__ import annotations

import itertools
from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config_base import StrictModel
from pipeline.loading.augment import AugmentConfig
from pipeline.loading.targets import TargetConfig
from pipeline.maps import STRIDE
from pipeline.skeleton import KEYPOINTS, NUM_KEYPOINTS

MIN_SCALE = 0.1
MAX_SCALE = 4.0
"""Allowed range of the factors in `evaluation.scales`."""

MapKind = Literal["pafs", "heatmaps"]
"""Kind of map that a branch of the network outputs: part affinity fields or heatmaps."""


class ModelConfig(StrictModel):
    """The network: a backbone, feature layers that reduce its channels, then stages.

    A stage outputs part affinity fields, heatmaps, or both. Its inputs are the features and the latest maps of each
    kind from the stages before it.
    """

    backbone: Literal["vgg19", "mobilenet", "compact"] = Field(
        default="vgg19",
        description="feature extractor; vgg19: the first ten layers of VGG19, as in the paper; mobilenet: MobileNet v1 "
        "with dilation, as in Lightweight OpenPose; compact: five convolutions, for CPUs",
    )
    backbone_scale: float = Field(
        default=1.0, ge=0.0625, le=4, description="factor on the channels of every backbone layer"
    )
    feature_block: Literal["convs", "separable"] = Field(
        default="convs",
        description="layers between backbone and stages; convs: two 3x3 convolutions; separable: a 1x1 convolution, "
        "three depthwise separable 3x3 convolutions with a residual connection, and a 3x3 convolution",
    )
    feature_widths: tuple[int, int] = Field(
        default=(256, 128), description="output channels of the first and of the last of these layers"
    )
    stages: int = Field(
        default=6, ge=1, le=12, description="number of stages; of part affinity fields only if heatmap_stages is set"
    )
    heatmap_stages: int | None = Field(
        default=None,
        ge=1,
        le=12,
        description="number of heatmap stages, which follow the part affinity field stages; null: every stage outputs "
        "both kinds of maps",
    )
    branches: Literal["separate", "shared"] = Field(
        default="separate",
        description="separate: each branch of a stage has its own layers; shared: the branches of a stage share all "
        "layers but the last two",
    )
    wide_kernels: Literal["whole", "dense", "residual"] = Field(
        default="whole",
        description="how a convolution larger than 3x3 is built; whole: as one convolution; dense: as consecutive 3x3 "
        "convolutions whose outputs are concatenated; residual: as a 1x1 convolution, then a 3x3 and a dilated 3x3 "
        "convolution with a residual connection",
    )
    first_depth: int = Field(
        default=3, ge=1, le=12, description="wide convolutions in each branch of the first stage of each kind of map"
    )
    first_kernel: Literal[3, 5, 7] = Field(default=3, description="cells; kernel size of these convolutions")
    first_inner_width: int | None = Field(
        default=None, ge=8, le=1024, description="channels of these convolutions; null: stage_width"
    )
    first_width: int = Field(
        default=512, ge=8, le=2048, description="channels of the 1x1 convolution before the output of these stages"
    )
    stage_width: int = Field(
        default=128, ge=8, le=1024, description="channels of the wide convolutions in later stages"
    )
    stage_depth: int = Field(default=5, ge=1, le=12, description="wide convolutions in each branch of later stages")
    stage_kernel: Literal[3, 5, 7] = Field(default=7, description="cells; kernel size of these convolutions")
    stage_dilation: int = Field(
        default=1, ge=1, le=8, description="cells; dilation of these convolutions, 1 for an ordinary convolution"
    )
    last_width: int | None = Field(
        default=None,
        ge=8,
        le=2048,
        description="channels of the 1x1 convolution before the output of later stages; null: stage_width",
    )
    batch_norm: bool = Field(default=False, description="batch normalisation after every hidden convolution")
    mean: tuple[float, float, float] = Field(
        default=(127.5, 127.5, 127.5), description="BGR, 0..255; subtracted from the image on the device"
    )
    std: tuple[float, float, float] = Field(
        default=(255.0, 255.0, 255.0), description="BGR, above 0; divides the image after the mean was subtracted"
    )

    @field_validator("feature_widths", "std")
    @classmethod
    def _check_positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) <= 0:
            raise ValueError("expected numbers above 0")
        return value

    @property
    def stage_outputs(self) -> tuple[tuple[MapKind, ...], ...]:
        """Kinds of maps that each stage outputs, one tuple per stage, in their order."""
        if self.heatmap_stages is None:
            return (("pafs", "heatmaps"),) * self.stages
        return (("pafs",),) * self.stages + (("heatmaps",),) * self.heatmap_stages

    def num_stages(self, kind: MapKind) -> int:
        """Return the number of stages that output this kind of map."""
        return sum(kind in outputs for outputs in self.stage_outputs)


class DataConfig(StrictModel):
    """The training batches."""

    size: int = Field(
        default=368, ge=64, le=2048, multiple_of=STRIDE, description="px; side of the square network input in training"
    )
    max_people: int = Field(
        default=32, ge=1, le=256, description="people per sample; at least as many as any training image has"
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="threads that prepare samples in each process; null: the process's share of the CPU cores",
    )
    targets: Literal["auto", "host", "device"] = Field(
        default="auto", description="where the training targets are rendered; auto: host on CPU, device on Ascend"
    )
    target: TargetConfig = Field(default=TargetConfig(), description="how the training targets are rendered")
    augment: AugmentConfig = Field(
        default=AugmentConfig(), description="random scale, rotation, crop, colour and flip of the training images"
    )


class LossConfig(StrictModel):
    """Weights in the loss, a weighted mean of squared errors of the maps; 1 everywhere is the loss of the paper."""

    paf_weight: float = Field(default=1.0, ge=0, le=1000, description="factor on the terms of part affinity fields")
    heatmap_weight: float = Field(default=1.0, ge=0, le=1000, description="factor on the terms of heatmaps")
    early_stage_weight: float = Field(
        default=1.0, ge=0, le=1000, description="factor on the terms of all stages but the last of each kind of map"
    )
    target_weight: float = Field(
        default=1.0,
        ge=1,
        le=1000,
        description="factor on the squared error in cells with a keypoint or limb, where the target is 1; in the empty "
        "cells of a map, which are most of them, it is 1, and between them proportional to the target",
    )
    keypoint_weights: dict[str, float] = Field(
        default={}, description="factors on the squared error of single heatmaps, such as {left_wrist: 2}; others: 1"
    )

    @field_validator("keypoint_weights")
    @classmethod
    def _check_keypoints(cls, value: dict[str, float]) -> dict[str, float]:
        for name, weight in value.items():
            if name not in KEYPOINTS:
                raise ValueError(f"{name}: expected keypoints from {', '.join(KEYPOINTS)}")
            if not 0 <= weight <= 1000:
                raise ValueError(f"{name}: {weight}: expected a factor from 0 to 1000")
        return value


class TrainingConfig(StrictModel):
    """How the network is trained. A step is one update of the weights."""

    seed: int = Field(
        default=0, ge=0, lt=2**31, description="random seed of initial weights, sample order and augmentation"
    )
    batch_size: int = Field(default=10, ge=1, le=1024, description="samples per batch in each process")
    accumulate: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="batches per step in each process (gradient accumulation); 8 on one device equals 1 on eight",
    )
    epochs: int = Field(default=60, ge=1, le=10_000, description="passes over the training set")
    max_steps: int | None = Field(
        default=None, ge=1, description="steps after which training ends before the last epoch; null: no limit"
    )
    loss: LossConfig = Field(default=LossConfig(), description="weights in the loss")
    optimizer: Literal["adam", "momentum"] = Field(default="adam", description="optimizer; momentum: SGD with momentum")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD, or beta1 of Adam")
    beta2: float = Field(
        default=0.999, ge=0, lt=1, description="beta2 of Adam; a shorter average (0.98) suits runs of few steps"
    )
    weight_decay: float = Field(default=0.0, ge=0, lt=1, description="L2 penalty on convolution weights, not on biases")
    lr: float = Field(default=1e-4, gt=0, le=10, description="learning rate of the stages, before the schedule")
    backbone_lr_factor: float = Field(
        default=0.25, ge=0, le=10, description="learning rate of the backbone as a fraction of lr"
    )
    feature_lr_factor: float = Field(
        default=0.25, ge=0, le=10, description="learning rate of the feature layers as a fraction of lr"
    )
    freeze_backbone_steps: int = Field(
        default=0, ge=0, description="steps at the start of training during which the backbone is not updated"
    )
    warmup_steps: int = Field(default=0, ge=0, description="steps during which the learning rate rises linearly to lr")
    schedule: Literal["steps", "cosine"] = Field(
        default="steps",
        description="learning rate schedule; steps: multiplied by lr_decay at lr_steps; cosine: falls to 0 at the end",
    )
    lr_steps: tuple[int, ...] = Field(
        default=(), description="steps, rising, at which the learning rate is multiplied by lr_decay"
    )
    lr_decay: float = Field(default=0.1, gt=0, le=1, description="factor on the learning rate at each of lr_steps")
    clip_norm: float | None = Field(
        default=None, gt=0, description="maximum global L2 norm of the gradients; null: no clipping"
    )
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay per step of an exponential moving average of the weights, e.g. 0.999, which evaluation and "
        "export then use; null: no average",
    )
    amp: Literal["auto", "O0", "O2"] = Field(
        default="auto",
        description="mixed precision; O0: float32; O2: convolutions in amp_dtype, weights, normalisation and loss in "
        "float32; auto: O2 on Ascend, O0 on CPU",
    )
    amp_dtype: Literal["float16", "bfloat16"] = Field(
        default="float16", description="data type of convolutions with O2; bfloat16 is not supported on CPU"
    )
    loss_scale_mode: Literal["auto", "static", "dynamic"] = Field(
        default="auto",
        description="dynamic: an overflow halves the loss scale, loss_scale_window steps without one double it; auto: "
        "dynamic with float16, else static",
    )
    loss_scale: float | None = Field(
        default=None,
        ge=1,
        le=2**24,
        description="factor on the loss, undone before clipping and update; the initial value if dynamic; null: 16384 "
        "with float16, else 1",
    )
    loss_scale_window: int = Field(
        default=2000, ge=1, le=1_000_000, description="steps without overflow after which a dynamic loss scale doubles"
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        default="stop",
        description="action if the loss is NaN or infinite, or the gradient is with a loss scale of 1; stop: end the "
        "run with exit code 3; skip: log a warning and skip the step",
    )
    log_every: int = Field(default=20, ge=1, description="steps between lines in metrics.jsonl")
    checkpoint_every: int = Field(default=1000, ge=1, description="steps between checkpoints")
    eval_every: int | None = Field(
        default=None,
        ge=1,
        description="steps between evaluations, at a single scale and without flip, also after the last step; null: no "
        "evaluation during training",
    )
    eval_pictures: int | None = Field(
        default=None, ge=1, description="validation images per evaluation, spread evenly over the set; null: all"
    )
    keep: int = Field(default=3, ge=1, description="number of latest checkpoints to keep; the best one is kept as well")

    @field_validator("lr_steps")
    @classmethod
    def _check_rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(later <= earlier for earlier, later in itertools.pairwise((0, *value))):
            raise ValueError("expected rising steps above 0")
        return value


class DecoderConfig(StrictModel):
    """From maps to detections: the fields of `evaluation.decoder.decode.DecodeConfig`, which documents them in full.

    They are repeated here because a checkpoint stores the recipe that its network is evaluated with. A test compares
    both.
    """

    smooth: float = Field(
        default=0.0, ge=0, le=5, description="cells; sigma of a Gaussian blur of the heatmaps, 0 for none"
    )
    peak_threshold: float = Field(
        default=0.05, ge=0, le=1, description="interpolated height above which a peak may be a person of its own"
    )
    weak_peak_threshold: float = Field(
        default=0.02, ge=0, le=1, description="height above which a peak may join a person by a limb"
    )
    peak_noise: float = Field(
        default=4.0, ge=0, le=100, description="peak_threshold in multiples of the heatmaps' white noise; 0 for none"
    )
    weak_peak_noise: float = Field(
        default=3.25, ge=0, le=100, description="weak_peak_threshold in multiples of that noise; 0 for none"
    )
    max_peaks: int = Field(
        default=64, ge=1, le=1000, description="maximum number of candidates per keypoint kind in an image"
    )
    limb_samples: int = Field(
        default=10, ge=2, le=100, description="minimum number of points sampled along a candidate limb"
    )
    limb_threshold: float = Field(
        default=0.02, ge=0, le=1, description="agreement with the field above which a point supports a limb"
    )
    limb_fraction: float = Field(
        default=0.8, ge=0, le=1, description="fraction of the points of a limb that must support it"
    )
    near: float = Field(
        default=0.6, ge=0, le=10, description="cells; candidates closer than this may be joined without support"
    )
    peak_weight: float = Field(
        default=0.1, ge=0, le=10, description="weight of the peak heights in the order in which limbs are joined"
    )
    rival_weight: float = Field(
        default=0.3, ge=0, le=10, description="weight of the best other limb at either end in that order"
    )
    gap: float = Field(
        default=2.0,
        ge=0,
        le=10,
        description="lengths of the longest limb; parts of a person closer than this may be joined",
    )
    min_keypoints: int = Field(
        default=1, ge=1, le=NUM_KEYPOINTS, description="detections with fewer keypoints are discarded"
    )
    min_score: float = Field(default=0.035, ge=0, le=10, description="detections with a lower score are discarded")
    score_prior: float = Field(
        default=10.0, ge=0, le=1e6, description="scores of 0 that are added to a person's scores before their mean"
    )


class EvaluationConfig(StrictModel):
    """Inference on whole images; may be changed after training."""

    size: int = Field(default=368, ge=64, le=2048, description="px; length that the shorter image side is scaled to")
    batch_size: int = Field(default=4, ge=1, le=256, description="images per forward pass")
    scales: tuple[float, ...] = Field(
        default=(1.0,),
        min_length=1,
        max_length=8,
        description=f"factors on size, {MIN_SCALE} to {MAX_SCALE}; the maps of all scales are averaged",
    )
    max_aspect: float = Field(
        default=2.0,
        ge=1,
        le=32,
        description="maximum ratio of the longer side to size; images that are longer in shape are scaled down to it",
    )
    flip: bool = Field(
        default=False, description="average the maps with those of the mirrored image; takes twice as long"
    )
    decoder: DecoderConfig = Field(default=DecoderConfig(), description="from maps to detections")

    @field_validator("scales")
    @classmethod
    def _check_scales(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) < MIN_SCALE or max(value) > MAX_SCALE or len(set(value)) < len(value):
            raise ValueError(f"expected different factors from {MIN_SCALE} to {MAX_SCALE}")
        return value


class Config(StrictModel):
    """A complete recipe."""

    model: ModelConfig = Field(default=ModelConfig(), description="the network")
    data: DataConfig = Field(default=DataConfig(), description="the training batches")
    training: TrainingConfig = Field(default=TrainingConfig(), description="how the network is trained")
    evaluation: EvaluationConfig = Field(default=EvaluationConfig(), description="inference on whole images")

    @model_validator(mode="after")
    def _check_schedule(self) -> Config:
        training = self.training
        if training.schedule == "cosine" and training.lr_steps:
            raise ValueError("training.lr_steps: belongs to schedule steps; leave it out with schedule cosine")
        return self
