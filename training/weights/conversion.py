"""Turns the tensors of a published network into this program's: names, channels and normalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.config import Config, ModelConfig
from training.recipes import parse_config
from training.weights.published_names import (
    PUBLISHED_NETWORKS,
    LayerNames,
    PublishedNetwork,
    recognise_network,
    strip_wrapper_prefixes,
)
from training.weights.stored_tensor import StoredTensor

Floats = NDArray[np.float32]
Shape = tuple[int, ...]
Shapes = Callable[[ModelConfig], Mapping[str, Shape]]
"""Gives the shape of every tensor of the network that a recipe describes, by name."""

EPSILON = 1e-5
"""What PyTorch and MindSpore add to the variance in batch normalisation."""

_NORM_NAMES = (
    ("weight", "gamma"),
    ("bias", "beta"),
    ("running_mean", "moving_mean"),
    ("running_var", "moving_variance"),
)
"""Of the numbers of batch normalisation, in PyTorch and in MindSpore."""
_COUNTER = ".num_batches_tracked"
"""Of PyTorch's batch normalisation; it decides nothing."""


@dataclass(frozen=True)
class ConvertedWeights:
    """A published network in this program's terms.

    Attributes:
        kind: what it was.
        tensors: by this program's names.
        config: a recipe whose network they fit, with the normalisation they were trained with.
        changes: what was done to the numbers.
        left_out: bare names of what was not needed of the file.
    """

    kind: PublishedNetwork
    tensors: dict[str, Floats]
    config: Config
    changes: list[str]
    left_out: list[str]


def convert_weights(source: Mapping[str, StoredTensor], shapes: Shapes, kind: str | None = None) -> ConvertedWeights:
    """Find a published network's convolutions and make them this program's.

    Batch normalisation is folded into the convolution before it, which changes no answer. Where a network takes RGB,
    the inputs of its first convolution change places, for this program's pictures are BGR.

    Args:
        source: tensors by name.
        shapes: of this program's network.
        kind: a key of PUBLISHED_NETWORKS; None to go by the names.

    Raises:
        ValueError: the names are of no known network, or a tensor is missing, damaged or of a wrong shape or type.
    """
    found = {strip_wrapper_prefixes(name): tensor for name, tensor in source.items()}
    known = PUBLISHED_NETWORKS[kind] if kind else recognise_network(found)
    if known is None:
        names = ", ".join(name[:40] for name in sorted(source)[:3])
        raise ValueError(
            f"its names ({names!a} …) are of no known network; expected one of {', '.join(PUBLISHED_NETWORKS)}"
        )
    layers = known.layers(found)
    config = _recipe(known, layers)
    reader = _Reader(found, layers)
    expected = shapes(config.model)
    tensors = {}
    for layer in layers:
        weight, bias = reader.convolution(layer, expected[f"{layer.target}.weight"])
        if known.rgb and layer is layers[0]:
            weight = weight[:, ::-1]
        tensors[f"{layer.target}.weight"], tensors[f"{layer.target}.bias"] = np.ascontiguousarray(weight), bias
    left_out = [name for name in found if name not in reader.used and not name.endswith(_COUNTER)]
    return ConvertedWeights(known, tensors, config, _changes(known, layers, reader), left_out)


def _recipe(kind: PublishedNetwork, layers: list[LayerNames]) -> Config:
    stages = {layer.target.split(".")[1] for layer in layers if layer.target.startswith("stages.")}
    model = {"mean": kind.mean, "std": kind.std} | ({"stages": len(stages)} if stages else {})
    return parse_config({"model": model}, source="what the file describes")


def _changes(kind: PublishedNetwork, layers: list[LayerNames], reader: _Reader) -> list[str]:
    norms = sum(layer.source_norm is not None for layer in layers)
    return [
        *(["first convolution: inputs from RGB to BGR"] if kind.rgb else []),
        *([f"batch normalisation: {norms} folded into the convolutions before them"] if norms else []),
        *([] if reader.biased else ["biases: the file has none, so they are 0"]),
    ]


class _Reader:
    """Reads the tensors of a file, and remembers which."""

    def __init__(self, file: Mapping[str, StoredTensor], layers: list[LayerNames]) -> None:
        self.file = file
        self.used: set[str] = set()
        self.biased = any(f"{layer.source}.bias" in file for layer in layers)

    def convolution(self, layer: LayerNames, shape: Shape) -> tuple[Floats, Floats]:
        """Weight, of this shape, and bias (outputs,), with the batch normalisation that may follow folded in."""
        outputs = shape[:1]
        weight = self.tensor(f"{layer.source}.weight", shape)
        bias = self.tensor(f"{layer.source}.bias", outputs) if self.biased else np.zeros(outputs, np.float32)
        if layer.source_norm is None:
            return weight, bias
        gamma, beta, mean, variance = (self.norm(layer.source_norm, names, outputs) for names in _NORM_NAMES)
        if variance.min() < 0:
            raise ValueError(f"{layer.source_norm}: its variance is below 0")
        factor = gamma / np.sqrt(variance.astype(np.float64) + EPSILON)
        folded = weight * factor[:, None, None, None], (bias - mean) * factor + beta
        return folded[0].astype(np.float32), folded[1].astype(np.float32)

    def norm(self, prefix: str, names: tuple[str, str], shape: Shape) -> Floats:
        """One of the numbers of a batch normalisation, by the one name or the other."""
        torch, mindspore = (f"{prefix}.{name}" for name in names)
        return self.tensor(mindspore if mindspore in self.file else torch, shape)

    def tensor(self, name: str, shape: Shape) -> Floats:
        """A tensor that must be there, of this shape."""
        stored = self.file.get(name)
        if stored is None:
            raise ValueError(f"has no {name}; expected shape {shape}")
        if stored.shape != shape:
            raise ValueError(f"{name}: shape {stored.shape}, expected {shape}")
        self.used.add(name)
        try:
            numbers = stored.read()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if numbers.dtype.kind != "f":
            raise ValueError(f"{name}: {numbers.dtype} numbers, expected floats")
        with np.errstate(over="ignore"):
            floats = numbers.astype(np.float32)
        if not np.isfinite(floats).all():
            raise ValueError(f"{name}: holds numbers that are not finite")
        return floats
