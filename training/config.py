"""A recipe: every field with its unit, its range and its default; read from YAML, checked before anything starts.

Importing this module imports neither MindSpore nor the data pipeline's readers.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from pipeline.config_base import StrictModel
from pipeline.errors import InputError
from pipeline.loading.augment import AugmentConfig
from pipeline.loading.targets import TargetConfig
from pipeline.maps import STRIDE
from pipeline.skeleton import NUM_KEYPOINTS

MIN_SCALE = 0.1
MAX_SCALE = 4.0
"""Limits of the factors in `evaluation.scales`."""


MapKind = Literal["pafs", "heatmaps"]
"""What a branch of the network answers with."""


class ModelConfig(StrictModel):
    """The network: a backbone, layers that narrow its features, then stages that give part affinity fields, heatmaps,
    or both; each sees the features and the newest maps before it.
    """

    backbone: Literal["vgg19", "mobilenet", "compact"] = Field(
        default="vgg19",
        description="vgg19: its first ten layers, as in the paper; mobilenet: v1, dilated, as in Lightweight OpenPose; "
        "compact: for CPUs",
    )
    backbone_scale: float = Field(default=1.0, ge=0.0625, le=4, description="factor on the backbone's channels")
    feature_block: Literal["convs", "separable"] = Field(
        default="convs",
        description="layers between backbone and stages; convs: two 3x3; separable: 1x1, three depthwise separable 3x3 "
        "added to it, and a 3x3",
    )
    feature_widths: tuple[int, int] = Field(
        default=(256, 128), description="channels of the first and the last of these layers"
    )
    stages: int = Field(default=6, ge=1, le=12, description="number of stages; each refines the one before")
    heatmap_stages: int | None = Field(
        default=None,
        ge=1,
        le=12,
        description="empty: every stage gives part affinity fields and heatmaps; else `stages` of the former come "
        "first, and so many of the latter after them",
    )
    branches: Literal["separate", "shared"] = Field(
        default="separate", description="whether the branches of a stage share all layers but their last two"
    )
    wide_kernels: Literal["whole", "dense", "residual"] = Field(
        default="whole",
        description="how a kernel above 3x3 is made; whole: as it is; dense: of 3x3 convolutions, one after the other, "
        "with all their outputs; residual: of a 1x1 and, added to it, a 3x3 and a dilated 3x3",
    )
    first_depth: int = Field(
        default=3, ge=1, le=12, description="wide convolutions in each branch of a stage that is the first of its kind"
    )
    first_kernel: Literal[3, 5, 7] = Field(default=3, description="cells; kernel of those convolutions")
    first_inner_width: int | None = Field(
        default=None, ge=8, le=1024, description="channels inside that stage; empty: stage_width"
    )
    first_width: int = Field(default=512, ge=8, le=2048, description="channels before that stage's output")
    stage_width: int = Field(default=128, ge=8, le=1024, description="channels inside the stages")
    stage_depth: int = Field(default=5, ge=1, le=12, description="wide convolutions in each branch of later stages")
    stage_kernel: Literal[3, 5, 7] = Field(default=7, description="cells; kernel of those convolutions")
    stage_dilation: int = Field(default=1, ge=1, le=8, description="cells between the taps of those kernels")
    last_width: int | None = Field(
        default=None, ge=8, le=2048, description="channels before a later stage's output; empty: stage_width"
    )
    batch_norm: bool = Field(default=False, description="batch normalisation after every hidden convolution")
    mean: tuple[float, float, float] = Field(
        default=(127.5, 127.5, 127.5), description="0..255 BGR; subtracted from the picture on the device"
    )
    std: tuple[float, float, float] = Field(
        default=(255.0, 255.0, 255.0), description="0..255 BGR; divides the picture after the mean"
    )

    @field_validator("feature_widths", "std")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) <= 0:
            raise ValueError("expected numbers above 0")
        return value

    @property
    def stage_outputs(self) -> tuple[tuple[MapKind, ...], ...]:
        """What each stage gives, in the order of the stages."""
        if self.heatmap_stages is None:
            return (("pafs", "heatmaps"),) * self.stages
        return (("pafs",),) * self.stages + (("heatmaps",),) * self.heatmap_stages

    def num_stages(self, kind: MapKind) -> int:
        """Number of stages that give this kind of map."""
        return sum(kind in gives for gives in self.stage_outputs)


class DataConfig(StrictModel):
    """What a batch is made of."""

    size: int = Field(default=368, ge=64, le=2048, multiple_of=STRIDE, description="px; side of the square crop")
    max_people: int = Field(default=32, ge=1, le=256, description="people a sample has room for")
    threads: int | None = Field(
        default=None, ge=1, le=64, description="threads that prepare samples in each process; empty: its share of cores"
    )
    targets: Literal["auto", "host", "device"] = Field(
        default="auto", description="where targets are drawn; auto: host on CPU, device on Ascend"
    )
    target: TargetConfig = Field(default=TargetConfig(), description="how targets are drawn")
    augment: AugmentConfig = Field(default=AugmentConfig(), description="chance in scale, rotation, crop, colour, flip")


class TrainingConfig(StrictModel):
    """How the weights are learnt."""

    seed: int = Field(default=0, ge=0, lt=2**31, description="of weights, order and augmentation")
    batch_size: int = Field(default=10, ge=1, le=1024, description="samples in each process and batch")
    accumulate: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="batches of each process in a step: 8 on one device do what eight devices do",
    )
    epochs: int = Field(default=60, ge=1, le=10_000, description="passes over the shards")
    max_steps: int | None = Field(default=None, ge=1, description="end after this many steps; empty: after the epochs")
    optimizer: Literal["adam", "momentum"] = Field(default="adam", description="update rule")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of the momentum optimizer; first beta of Adam")
    beta2: float = Field(
        default=0.999,
        ge=0,
        lt=1,
        description="second beta of Adam; small where a run has few steps, to forget the first",
    )
    weight_decay: float = Field(default=0.0, ge=0, lt=1, description="L2 penalty on convolution weights")
    lr: float = Field(default=1e-4, gt=0, le=10, description="learning rate of the stages")
    backbone_lr_factor: float = Field(default=0.25, ge=0, le=10, description="the backbone's learning rate / lr")
    feature_lr_factor: float = Field(default=0.25, ge=0, le=10, description="the narrowing convolutions' rate / lr")
    freeze_backbone_steps: int = Field(default=0, ge=0, description="first steps in which the backbone stays as it is")
    warmup_steps: int = Field(default=0, ge=0, description="steps in which the rate rises linearly to lr")
    schedule: Literal["steps", "cosine"] = Field(default="steps", description="how the rate falls")
    lr_steps: tuple[int, ...] = Field(default=(), description="steps at which the rate is multiplied by lr_decay")
    lr_decay: float = Field(default=0.1, gt=0, le=1, description="factor at each of lr_steps")
    clip_norm: float | None = Field(default=None, gt=0, description="largest global norm of the gradient; empty: any")
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="part of the weights' moving average that a step leaves, as 0.999; evaluation and export then take "
        "the average; empty: none",
    )
    amp: Literal["auto", "O0", "O2"] = Field(
        default="auto",
        description="O0: float32; O2: convolutions in amp_dtype, weights, normalisation and loss in float32; auto: O2 "
        "on Ascend, O0 on CPU",
    )
    amp_dtype: Literal["float16", "bfloat16"] = Field(default="float16", description="of O2; bfloat16 not on CPU")
    loss_scale_mode: Literal["auto", "static", "dynamic"] = Field(
        default="auto",
        description="dynamic: halved by a step that overflows, which is left out; auto: dynamic with float16, else "
        "static",
    )
    loss_scale: float | None = Field(
        default=None,
        ge=1,
        le=2**24,
        description="factor on the loss, undone before clipping and update; the first if dynamic; empty: 16384 with "
        "float16, else 1",
    )
    loss_scale_window: int = Field(
        default=2000, ge=1, le=1_000_000, description="steps without overflow after which a dynamic loss_scale doubles"
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        default="stop",
        description="a step whose loss is not finite, or whose gradient without a loss_scale is not, ends the run, or "
        "is left out and told",
    )
    log_every: int = Field(default=20, ge=1, description="steps between lines of metrics.jsonl")
    checkpoint_every: int = Field(default=1000, ge=1, description="steps between checkpoints")
    eval_every: int | None = Field(
        default=None,
        ge=1,
        description="steps between evaluations, at one scale without flip; the last step too; empty: never",
    )
    eval_pictures: int | None = Field(
        default=None, ge=1, description="pictures of the validation set to evaluate, evenly spread; empty: all"
    )
    keep: int = Field(default=3, ge=1, description="newest checkpoints kept, beside the best; others are removed")

    @field_validator("lr_steps")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(b <= a for a, b in zip((0, *value), value, strict=False)):
            raise ValueError("expected rising steps above 0")
        return value


class DecoderConfig(StrictModel):
    """Decoder: the fields of `evaluation.decoder.decode.DecodeConfig`, explained there; a test compares both.

    They stand here because a checkpoint carries the recipe that its network is evaluated with.
    """

    smooth: float = Field(default=0.0, ge=0, le=5, description="cells; blur of the heatmaps before peaks are sought")
    peak_threshold: float = Field(default=0.1, ge=0, le=1, description="height that a keypoint's peak must exceed")
    max_peaks: int = Field(default=64, ge=1, le=1000, description="most candidates of one keypoint kind in a picture")
    limb_samples: int = Field(default=10, ge=2, le=100, description="fewest points looked at along a candidate limb")
    limb_threshold: float = Field(default=0.05, ge=0, le=1, description="agreement above which a point supports a limb")
    limb_fraction: float = Field(default=0.8, ge=0, le=1, description="part of a limb's points that must support it")
    near: float = Field(default=0.6, ge=0, le=10, description="cells; closer candidates may join without support")
    peak_weight: float = Field(default=0.1, ge=0, le=10, description="share of the peaks' heights in a limb's rank")
    gap: float = Field(default=2.0, ge=0, le=10, description="longest limbs; pieces closer than this may be joined")
    min_keypoints: int = Field(
        default=1, ge=1, le=NUM_KEYPOINTS, description="people with fewer keypoints found are left out"
    )
    min_score: float = Field(default=0.02, ge=0, le=10, description="people with a lower score are left out")


class EvaluationConfig(StrictModel):
    """How people are found in whole pictures; may be changed after training."""

    size: int = Field(default=368, ge=64, le=2048, description="px; shorter side that a picture is scaled to")
    batch_size: int = Field(default=4, ge=1, le=256, description="pictures that go through the network together")
    scales: tuple[float, ...] = Field(
        default=(1.0,), min_length=1, max_length=8, description="factors on size whose maps are averaged"
    )
    flip: bool = Field(default=False, description="average with the mirrored picture's answer; takes twice as long")
    decoder: DecoderConfig = Field(default=DecoderConfig(), description="from maps to people")

    @field_validator("scales")
    @classmethod
    def _distinct_factors(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) < MIN_SCALE or max(value) > MAX_SCALE or len(set(value)) < len(value):
            raise ValueError(f"expected different factors from {MIN_SCALE} to {MAX_SCALE}")
        return value


class Config(StrictModel):
    """One recipe."""

    model: ModelConfig = Field(default=ModelConfig(), description="the network")
    data: DataConfig = Field(default=DataConfig(), description="the batches")
    training: TrainingConfig = Field(default=TrainingConfig(), description="the learning")
    evaluation: EvaluationConfig = Field(default=EvaluationConfig(), description="finding people in pictures")

    @model_validator(mode="after")
    def _schedule_fits(self) -> Config:
        training = self.training
        if training.schedule == "cosine" and training.lr_steps:
            raise ValueError("training.lr_steps: belongs to schedule steps; leave it out with schedule cosine")
        return self


class _Loader(yaml.SafeLoader):
    """YAML that reads 2e-4 as the number a person means; YAML 1.1 wants a point in it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe and apply `section.field=value` overrides, the value in YAML.

    Raises:
        InputError: no such file, no YAML, or a field that is unknown, of the wrong type or out of range.
    """
    try:
        tree = _parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); expected a recipe such as configs/demo.yaml"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())[:200]}") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected sections ({', '.join(Config.model_fields)}), found {type(tree).__name__}")
    for override in overrides:
        _apply(tree, override)
    return parse_config(tree, source=str(path))


def override_config(config: Config, overrides: Sequence[str]) -> Config:
    """The recipe with `section.field=value` overrides, the value in YAML; raises InputError as `load_config` does."""
    if not overrides:
        return config
    tree = config.model_dump(mode="json")
    for override in overrides:
        _apply(tree, override)
    return parse_config(tree, source="--set")


def override_evaluation(config: Config, overrides: Sequence[str]) -> EvaluationConfig:
    """How a trained network's recipe finds people, with overrides; InputError also for one of another section."""
    for override in overrides:
        if not override.strip().startswith("evaluation."):
            raise InputError(f"--set {override}: a trained network takes evaluation.… only, as in evaluation.size=432")
    return override_config(config, overrides).evaluation


def parse_config(tree: Mapping[str, Any], source: str) -> Config:
    """Check a tree of sections and fields; InputError names `source`, the field, the value and the allowed range."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InputError(f"{source}: {_explain(faults[0])}{more}") from error


def _parse_yaml(text: str) -> Any:
    """The content of a YAML document; ValueError where it is none. It makes plain data only."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _apply(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"--set {override}: expected SECTION.FIELD=VALUE, as in training.lr=2e-4")
    try:
        value = _parse_yaml(text)
    except ValueError as error:
        raise InputError(f"--set {override}: the value is not YAML") from error
    for key in keys[:-1]:
        branch = tree.setdefault(key, {})
        if not isinstance(branch, dict):
            raise InputError(f"--set {override}: {key} is a value, not a section")
        tree = branch
    tree[keys[-1]] = value


def _explain(fault: ErrorDetails) -> str:
    place = ".".join(str(key)[:40] for key in fault["loc"]) or "recipe"
    if fault["type"] == "extra_forbidden":
        key = str(fault["loc"][-1])
        close = difflib.get_close_matches(key, list(_siblings(fault["loc"])), n=1)
        return f"{place}: unknown key" + (f"; did you mean {close[0]}?" if close else "")
    message = fault["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if fault["type"] == "value_error" and not fault["loc"]:
        return message
    return f"{place}: {reprlib.repr(fault['input'])}: {message}"


def _siblings(location: tuple[int | str, ...]) -> Iterator[str]:
    model: Any = Config
    for key in location[:-1]:
        field = model.model_fields.get(key) if isinstance(key, str) else None
        model = field.annotation if field else None
        if model is None or not hasattr(model, "model_fields"):
            return
    yield from model.model_fields
