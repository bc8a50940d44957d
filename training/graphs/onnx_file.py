"""Edit an ONNX graph of MindSpore: names of its outputs, which MindSpore takes from its nodes, and dynamic shapes.

MindSpore exports ONNX with a fixed input shape. The networks of this project are fully convolutional, so the nodes of
their graphs contain no shape; if the shapes of input and outputs are declared dynamic, the graph accepts any size.

An ONNX file is one protobuf message (definition: onnx/onnx.proto). This module declares only the fields that it
changes, so that the package onnx is not needed; protobuf preserves all other fields unchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_LABEL_OPTIONAL, _LABEL_REPEATED = 1, 3
_TYPE_INT64, _TYPE_STRING, _TYPE_MESSAGE = 3, 9, 11
"""Constants of protobuf's FieldDescriptorProto."""
_FIELDS: dict[str, tuple[tuple[str, int, int, int | str], ...]] = {
    "Model": (("graph", 7, _LABEL_OPTIONAL, "Graph"),),
    "Graph": (
        ("node", 1, _LABEL_REPEATED, "Node"),
        ("input", 11, _LABEL_REPEATED, "Value"),
        ("output", 12, _LABEL_REPEATED, "Value"),
    ),
    "Node": (("input", 1, _LABEL_REPEATED, _TYPE_STRING), ("output", 2, _LABEL_REPEATED, _TYPE_STRING)),
    "Value": (("name", 1, _LABEL_OPTIONAL, _TYPE_STRING), ("type", 2, _LABEL_OPTIONAL, "Type")),
    "Type": (("tensor", 1, _LABEL_OPTIONAL, "Tensor"),),
    "Tensor": (("shape", 2, _LABEL_OPTIONAL, "Shape"),),
    "Shape": (("dim", 1, _LABEL_REPEATED, "Dimension"),),
    "Dimension": (("size", 1, _LABEL_OPTIONAL, _TYPE_INT64), ("symbol", 2, _LABEL_OPTIONAL, _TYPE_STRING)),
}
"""(name, number, label, type) of the fields of each message; the type is a constant or the name of a message."""

_INPUT_SYMBOLS = ("batch", "height", "width", "")
_OUTPUT_SYMBOLS = ("batch", "", "map_height", "map_width")
"""Symbols of the dynamic dimensions of (B, H, W, 3) and (B, channels, h, w); an empty one is fixed."""


@functools.cache
def _model_class() -> Any:
    """Return the protobuf class of the message `Model`."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="graph.proto", package="graph", syntax="proto2")
    for message, fields in _FIELDS.items():
        descriptor = file.message_type.add(name=message)
        for name, number, label, kind in fields:
            field = descriptor.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = _TYPE_MESSAGE, f".graph.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("graph.Model"))


def edit_onnx(path: Path, output_names: Sequence[str], *, dynamic: bool) -> None:
    """Rename the outputs of a graph file in place, and make its shapes dynamic on request.

    Args:
        path: ONNX file of a network from (B, H, W, 3) to (B, channels, h, w).
        output_names: new names, in the order of the outputs.
        dynamic: True to declare batch size, height and width of input and outputs as dynamic.
    """
    model = _model_class()()
    model.ParseFromString(path.read_bytes())
    graph = model.graph
    _rename_outputs(graph, output_names)
    if dynamic:
        for value in graph.input:
            _make_dynamic(value, _INPUT_SYMBOLS)
        for value in graph.output:
            _make_dynamic(value, _OUTPUT_SYMBOLS)
    path.write_bytes(model.SerializeToString())


def _rename_outputs(graph: Any, names: Sequence[str]) -> None:
    new_names = {value.name: name for value, name in zip(graph.output, names, strict=True)}
    for value in graph.output:
        value.name = new_names[value.name]
    for node in graph.node:
        for tensor_names in (node.input, node.output):
            tensor_names[:] = [new_names.get(name, name) for name in tensor_names]


def _make_dynamic(value: Any, symbols: Sequence[str]) -> None:
    for dimension, symbol in zip(value.type.tensor.shape.dim, symbols, strict=True):
        if symbol:
            dimension.ClearField("size")
            dimension.symbol = symbol
