"""Gives the outputs of an ONNX graph names: MindSpore calls them by the number of the node that they come from.

An ONNX file is one protobuf message. Of its definition (onnx/onnx.proto) what names outputs stands here; protobuf
keeps everything else in the message as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_REPEATED, _SINGLE = 3, 1
_TEXT, _MESSAGE = 9, 11
_FIELDS: dict[str, tuple[tuple[str, int, int, str], ...]] = {
    "Model": (("graph", 7, _SINGLE, "Graph"),),
    "Graph": (("node", 1, _REPEATED, "Node"), ("output", 12, _REPEATED, "Value")),
    "Node": (("input", 1, _REPEATED, ""), ("output", 2, _REPEATED, "")),
    "Value": (("name", 1, _SINGLE, ""),),
}
"""Name, number, label and message type of fields; those without a message type are text."""


@functools.cache
def _model_class() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="outputs.proto", package="outputs", syntax="proto2")
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for name, number, label, kind in fields:
            field = described.field.add(name=name, number=number, label=label, type=_MESSAGE if kind else _TEXT)
            if kind:
                field.type_name = f".outputs.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("outputs.Model"))


def name_outputs(path: Path, names: Sequence[str]) -> None:
    """Rename a graph's outputs, in their order, in the file itself."""
    model = _model_class()()
    model.ParseFromString(path.read_bytes())
    graph = model.graph
    new = {value.name: name for value, name in zip(graph.output, names, strict=True)}
    for value in graph.output:
        value.name = new[value.name]
    for node in graph.node:
        for texts in (node.input, node.output):
            texts[:] = [new.get(text, text) for text in texts]
    path.write_bytes(model.SerializeToString())
