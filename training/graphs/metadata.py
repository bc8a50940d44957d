"""What travels beside an exported graph, in a json of the same name: all that is needed to feed it and to read it.

Nothing here imports MindSpore, so that a graph can be used where it is not installed.
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
"""File name endings of the formats."""

Triple = tuple[float, float, float]


class GraphMetadata(StrictModel):
    """A graph from pictures, (batch, height, width, 3) uint8 BGR, to maps, float32 with channels second."""

    format: Literal[1] = Field(default=1, description="of this description")
    sha256: str = Field(description="hash of the graph's file")
    checkpoint: str = Field(description="what was exported")
    step: int = Field(description="updates that had been learnt")
    averaged: bool = Field(default=False, description="whether the weights are their average over the last updates")
    batch: int | None = Field(description="pictures in a batch; null: any number")
    height: int | None = Field(description="px of the input; null: any multiple of stride")
    width: int | None = Field(description="px of the input; null: any multiple of stride")
    colour: Literal["BGR"] = Field(default="BGR", description="order of the input's channels")
    mean: Triple = Field(description="0..255 BGR; the graph itself subtracts it from its input")
    std: Triple = Field(description="0..255 BGR; the graph itself divides by it after that")
    stride: int = Field(default=STRIDE, description="px of the input per cell of the maps")
    outputs: tuple[str, ...] = Field(description="what the graph's outputs are, in their order")
    keypoints: tuple[str, ...] = Field(default=KEYPOINTS, description="channels of heatmaps; the background comes last")
    limbs: tuple[tuple[str, str], ...] = Field(
        default=LIMBS, description="pafs have two channels for each, x and y of the direction from first to second"
    )
    evaluation: EvaluationConfig = Field(description="the recipe's way from pictures to people")

    @property
    def canvas(self) -> tuple[int, int] | None:
        """(height, width) px of the only input that the graph takes; None if it takes others."""
        return (self.height, self.width) if self.height and self.width else None

    def save(self, graph: Path) -> None:
        """Write the json beside the graph."""
        write_atomically(metadata_path(graph), self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, graph: Path) -> GraphMetadata:
        """Read the json beside a graph and check that it describes this very file.

        Raises:
            InputError: no such graph, no json, or one that belongs to another file, format or skeleton.
        """
        path = metadata_path(graph)
        try:
            exported = cls.model_validate_json(path.read_bytes())
            digest = file_sha256(graph)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            place = ".".join(str(key)[:40] for key in fault["loc"])
            raise InputError(
                f"{path}: {f'{place}: ' if place else ''}{fault['msg']}: export the graph again"
            ) from error
        except OSError as error:
            missing = Path(error.filename or graph)
            raise InputError(
                f"{missing}: {error.strerror}; a graph and its json come from training.export, and belong together"
            ) from error
        if digest != exported.sha256:
            raise InputError(f"{graph}: is not the file that {path.name} describes: export the graph again")
        if (exported.stride, exported.keypoints, exported.limbs) != (STRIDE, KEYPOINTS, LIMBS):
            raise InputError(f"{path}: stride, keypoints or limbs are not those of this program")
        if not {"pafs", "heatmaps"} <= set(exported.outputs):
            raise InputError(f"{path}: outputs: expected pafs and heatmaps among {', '.join(exported.outputs)}")
        return exported


def metadata_path(graph: Path) -> Path:
    """Name of the json beside a graph."""
    return graph.with_name(f"{graph.name}.json")
