"""Convert the tensors of a published network to this project's names, channel order and normalisation."""

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
ShapesOfModel = Callable[[ModelConfig], Mapping[str, Shape]]
"""Function that returns the shape of every tensor of the network of a configuration, by name."""

EPSILON = 1e-5
"""Value that PyTorch and MindSpore add to the variance in batch normalisation."""

_BATCH_NORM_NAMES = (
    ("weight", "gamma"),
    ("bias", "beta"),
    ("running_mean", "moving_mean"),
    ("running_var", "moving_variance"),
)
"""Names of the tensors of batch normalisation: (PyTorch, MindSpore)."""
_BATCH_COUNTER = ".num_batches_tracked"
"""Suffix of the batch counter of PyTorch's batch normalisation. It has no effect on inference."""


@dataclass(frozen=True)
class ConvertedWeights:
    """The weights of a published network, converted for this project.

    Attributes:
        network: the published network.
        tensors: weights by this project's names.
        config: configuration of the network that they fit, with the normalisation they were trained with.
        changes: description of each change of the values, one line each.
        unused: names, without wrapper prefixes, of the tensors of the file that were not needed.
    """

    network: PublishedNetwork
    tensors: dict[str, Floats]
    config: Config
    changes: list[str]
    unused: list[str]


def convert_weights(
    source: Mapping[str, StoredTensor], shapes: ShapesOfModel, kind: str | None = None
) -> ConvertedWeights:
    """Convert the convolutions of a published network.

    Batch normalisation is folded into the preceding convolution, which does not change the output of the network. If
    a network expects RGB, the input channels of its first convolution are reversed, because this project uses BGR.

    Args:
        source: tensors of the file by name.
        shapes: function that returns the tensor shapes of this project's network.
        kind: a key of PUBLISHED_NETWORKS; None to recognise the network by its tensor names.

    Raises:
        ValueError: the network is unknown, or a tensor is missing, damaged or has the wrong shape or dtype.
    """
    stripped = {strip_wrapper_prefixes(name): tensor for name, tensor in source.items()}
    network = PUBLISHED_NETWORKS[kind] if kind else recognise_network(stripped)
    if network is None:
        names = ", ".join(name[:40] for name in sorted(source)[:3])
        known = ", ".join(PUBLISHED_NETWORKS)
        raise ValueError(f"the tensor names ({names!a} …) belong to no known network; expected one of {known}")
    layers = network.layers(stripped)
    config = _make_config(network, layers)
    reader = _LayerReader(stripped, layers)
    expected = shapes(config.model)
    tensors = {}
    for layer in layers:
        weight, bias = reader.convolution(layer, expected[f"{layer.target}.weight"])
        if network.rgb_input and layer is layers[0]:
            weight = weight[:, ::-1]
        tensors[f"{layer.target}.weight"], tensors[f"{layer.target}.bias"] = np.ascontiguousarray(weight), bias
    unused = [name for name in stripped if name not in reader.used and not name.endswith(_BATCH_COUNTER)]
    return ConvertedWeights(network, tensors, config, _describe_changes(network, layers, reader), unused)


def _make_config(network: PublishedNetwork, layers: list[LayerNames]) -> Config:
    stages = {layer.target.split(".")[1] for layer in layers if layer.target.startswith("stages.")}
    model = {"mean": network.mean, "std": network.std} | ({"stages": len(stages)} if stages else {})
    return parse_config({"model": model}, source="configuration of the converted network")


def _describe_changes(network: PublishedNetwork, layers: list[LayerNames], reader: _LayerReader) -> list[str]:
    batch_norms = sum(layer.source_norm is not None for layer in layers)
    changes = []
    if network.rgb_input:
        changes.append("first convolution: input channels reordered from RGB to BGR")
    if batch_norms:
        changes.append(f"batch normalisation: {batch_norms} layers folded into the preceding convolutions")
    if not reader.has_biases:
        changes.append("biases: set to 0, because the file has none")
    return changes


class _LayerReader:
    """Read the layers of a published network, and record which tensors were used."""

    def __init__(self, tensors: Mapping[str, StoredTensor], layers: list[LayerNames]) -> None:
        self.tensors = tensors
        self.used: set[str] = set()
        self.has_biases = any(f"{layer.source}.bias" in tensors for layer in layers)

    def convolution(self, layer: LayerNames, shape: Shape) -> tuple[Floats, Floats]:
        """Return weight (`shape`) and bias (outputs,) of a convolution, with its batch normalisation folded in."""
        outputs = shape[:1]
        weight = self.tensor(f"{layer.source}.weight", shape)
        bias = self.tensor(f"{layer.source}.bias", outputs) if self.has_biases else np.zeros(outputs, np.float32)
        if layer.source_norm is None:
            return weight, bias
        gamma, beta, mean, variance = (
            self.batch_norm_tensor(layer.source_norm, names, outputs) for names in _BATCH_NORM_NAMES
        )
        if variance.min() < 0:
            raise ValueError(f"{layer.source_norm}: its variance is below 0")
        scale = gamma / np.sqrt(variance.astype(np.float64) + EPSILON)
        folded_weight, folded_bias = weight * scale[:, None, None, None], (bias - mean) * scale + beta
        return folded_weight.astype(np.float32), folded_bias.astype(np.float32)

    def batch_norm_tensor(self, prefix: str, names: tuple[str, str], shape: Shape) -> Floats:
        """Return a tensor of a batch normalisation by its PyTorch or its MindSpore name."""
        torch, mindspore = (f"{prefix}.{name}" for name in names)
        return self.tensor(mindspore if mindspore in self.tensors else torch, shape)

    def tensor(self, name: str, shape: Shape) -> Floats:
        """Return a required tensor; ValueError if it is missing or does not have this shape and finite floats."""
        stored = self.tensors.get(name)
        if stored is None:
            raise ValueError(f"has no {name}; expected shape {shape}")
        if stored.shape != shape:
            raise ValueError(f"{name}: shape {stored.shape}, expected {shape}")
        self.used.add(name)
        try:
            values = stored.read()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if values.dtype.kind != "f":
            raise ValueError(f"{name}: dtype {values.dtype}, expected a floating-point type")
        with np.errstate(over="ignore"):
            floats = values.astype(np.float32)
        if not np.isfinite(floats).all():
            raise ValueError(f"{name}: contains values that are not finite in float32")
        return floats
