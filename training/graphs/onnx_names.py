"""Rename the outputs of an ONNX graph, which MindSpore names by the numbers of its nodes.

An ONNX file is one protobuf message (definition: onnx/onnx.proto). This module declares only the fields with names of
outputs, so that the package onnx is not needed; protobuf preserves all other fields unchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_LABEL_REPEATED, _LABEL_OPTIONAL = 3, 1
_TYPE_STRING, _TYPE_MESSAGE = 9, 11
"""Constants of protobuf's FieldDescriptorProto."""
_FIELDS: dict[str, tuple[tuple[str, int, int, str], ...]] = {
    "Model": (("graph", 7, _LABEL_OPTIONAL, "Graph"),),
    "Graph": (("node", 1, _LABEL_REPEATED, "Node"), ("output", 12, _LABEL_REPEATED, "Value")),
    "Node": (("input", 1, _LABEL_REPEATED, ""), ("output", 2, _LABEL_REPEATED, "")),
    "Value": (("name", 1, _LABEL_OPTIONAL, ""),),
}
"""(name, number, label, message type) of the fields of each message; a field without a message type is a string."""


@functools.cache
def _model_class() -> Any:
    """Return the protobuf class of the message `Model`."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="outputs.proto", package="outputs", syntax="proto2")
    for message, fields in _FIELDS.items():
        descriptor = file.message_type.add(name=message)
        for name, number, label, message_type in fields:
            field = descriptor.field.add(
                name=name, number=number, label=label, type=_TYPE_MESSAGE if message_type else _TYPE_STRING
            )
            if message_type:
                field.type_name = f".outputs.{message_type}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("outputs.Model"))


def rename_onnx_outputs(path: Path, names: Sequence[str]) -> None:
    """Rename the outputs of a graph file in place.

    Args:
        path: ONNX file.
        names: new names, in the order of the outputs.
    """
    model = _model_class()()
    model.ParseFromString(path.read_bytes())
    graph = model.graph
    new_names = {value.name: name for value, name in zip(graph.output, names, strict=True)}
    for value in graph.output:
        value.name = new_names[value.name]
    for node in graph.node:
        for tensor_names in (node.input, node.output):
            tensor_names[:] = [new_names.get(name, name) for name in tensor_names]
    path.write_bytes(model.SerializeToString())
