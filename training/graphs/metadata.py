"""Metadata of an exported graph: a json beside it describes its input and outputs and the evaluation settings.

This module does not import MindSpore, so that ONNX graphs can be used where it is not installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from pipeline.config_base import StrictModel
from pipeline.errors import InputError
from pipeline.maps import STRIDE
from pipeline.skeleton import KEYPOINTS, LIMBS
from pipeline.system.files import file_sha256, write_atomically
from training.config import EvaluationConfig

SUFFIXES = {"mindir": ".mindir", "onnx": ".onnx", "air": ".air"}
"""File name suffix of each format."""

Triple = tuple[float, float, float]


class GraphMetadata(StrictModel):
    """Metadata of a graph from images (B, H, W, 3) uint8 BGR to maps (B, channels, H/8, W/8) float32."""

    format: Literal[1] = Field(default=1, description="version of this format")
    sha256: str = Field(description="SHA-256 of the graph file")
    checkpoint: str = Field(description="path of the exported checkpoint")
    step: int = Field(description="training step of the checkpoint")
    averaged: bool = Field(default=False, description="true if the weights are their exponential moving average")
    batch: int | None = Field(description="batch size; null: any")
    height: int | None = Field(description="height of the input in px; null: any multiple of stride")
    width: int | None = Field(description="width of the input in px; null: any multiple of stride")
    colour: Literal["BGR"] = Field(default="BGR", description="channel order of the input")
    mean: Triple = Field(description="subtracted from each channel inside the graph, BGR, 0 to 255")
    std: Triple = Field(description="then divides each channel inside the graph, BGR, 0 to 255")
    stride: int = Field(default=STRIDE, description="input px per cell of the maps")
    outputs: tuple[str, ...] = Field(description="names of the outputs, in order")
    keypoints: tuple[str, ...] = Field(
        default=KEYPOINTS, description="heatmap channels; the background is the last channel"
    )
    limbs: tuple[tuple[str, str], ...] = Field(
        default=LIMBS,
        description="limbs of the pafs; two channels each, x and y of the direction from first to second keypoint",
    )
    evaluation: EvaluationConfig = Field(description="evaluation settings of the recipe")

    @property
    def canvas(self) -> tuple[int, int] | None:
        """Fixed input size (height, width) in px; None if the graph accepts several sizes."""
        return (self.height, self.width) if self.height and self.width else None

    def save(self, graph: Path) -> None:
        """Write the json beside the graph."""
        write_atomically(metadata_path(graph), self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, graph: Path) -> GraphMetadata:
        """Read the json beside a graph and check that it belongs to this file.

        Raises:
            InputError: the graph or the json does not exist, or the json belongs to another file, format version or
                skeleton.
        """
        path = metadata_path(graph)
        try:
            metadata = cls.model_validate_json(path.read_bytes())
            digest = file_sha256(graph)
        except ValidationError as error:
            first_error = error.errors(include_url=False)[0]
            field = ".".join(str(key)[:40] for key in first_error["loc"])
            raise InputError(
                f"{path}: {f'{field}: ' if field else ''}{first_error['msg']}; export the graph again"
            ) from error
        except OSError as error:
            missing = Path(error.filename or graph)
            raise InputError(
                f"{missing}: {error.strerror}; training.export writes a graph and its json, keep both in one folder"
            ) from error
        if digest != metadata.sha256:
            raise InputError(f"{graph}: its SHA-256 differs from that in {path.name}; export the graph again")
        if (metadata.stride, metadata.keypoints, metadata.limbs) != (STRIDE, KEYPOINTS, LIMBS):
            raise InputError(
                f"{path}: stride, keypoints or limbs differ from those of this project; export the graph again"
            )
        if not {"pafs", "heatmaps"} <= set(metadata.outputs):
            raise InputError(f"{path}: outputs: expected pafs and heatmaps, found {', '.join(metadata.outputs)}")
        return metadata


def metadata_path(graph: Path) -> Path:
    """Return the path of the json beside a graph."""
    return graph.with_name(f"{graph.name}.json")
