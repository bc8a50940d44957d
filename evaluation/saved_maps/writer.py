"""Writes the maps of a network to a folder, with an index that says what they are maps of.

The index prevents that the maps of two networks, input sizes or datasets get into one folder, and that maps are
compared with the annotations of another dataset. A folder may be filled by several processes, and in several runs.

This module needs NumPy only.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.inference.letterbox import Letterbox
from evaluation.saved_maps.folder import find_map_files, map_file
from pipeline.errors import InputError
from pipeline.maps import Maps
from pipeline.system.files import write_atomically

INDEX = "index.json"
"""Name of the index file."""

FORMAT = 1
"""Version of the index."""


@dataclass(frozen=True)
class NetworkIdentity:
    """A network and its input, as far as they determine its maps.

    Attributes:
        source: path of the checkpoint or graph; two paths may name equal files.
        sha256: hash of this file.
        library: library that runs the network: results differ by rounding.
        size: length in px to which the shorter image side is scaled.
        scales: factors on `size`.
        max_aspect: maximum ratio of the longer side to `size`.
        flip: True if the maps are averaged with those of the mirrored image.
        fixed_canvas: (height, width) in px of the only input that the network accepts, if there is one.
    """

    source: str
    sha256: str
    library: str
    size: int
    scales: list[float]
    max_aspect: float
    flip: bool
    fixed_canvas: list[int] | None


@dataclass(frozen=True)
class DatasetIdentity:
    """A dataset.

    Attributes:
        name: path that the user gave.
        images: number of images.
        fingerprint: hash of image ids, sizes and keypoints.
    """

    name: str
    images: int
    fingerprint: str


@dataclass(frozen=True)
class MapWriter:
    """Writes maps of the images of one dataset to a folder. Instances can be pickled.

    Attributes:
        folder: the folder; it is created.
        dataset: the dataset.
    """

    folder: Path
    dataset: DatasetIdentity

    def check_folder(self) -> None:
        """Create the folder; raise InputError if it has files but no index, or maps of another dataset."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be created: {error.strerror}") from error
        if (self.folder / INDEX).exists():
            check_dataset(self.folder, self.dataset)
        elif any(not path.name.startswith(".") for path in self.folder.iterdir()):  # hidden: of a killed run
            raise InputError(f"{self.folder}: has files but no {INDEX}; give a new folder for the maps")

    def write_index(self, network: NetworkIdentity) -> None:
        """Write the index, unless another process did; raise InputError if the folder is of another network."""
        content = {"format": FORMAT, "network": asdict(network), "dataset": asdict(self.dataset)}
        path = self.folder / INDEX
        try:
            if not path.exists():
                write_atomically(path, json.dumps(content, indent=1) + "\n")
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from error
        check_dataset(self.folder, self.dataset)
        self._compare(read_index(self.folder), network)

    def _compare(self, index: dict[str, Any], network: NetworkIdentity) -> None:
        for name, value in asdict(network).items():
            if name != "source" and index["network"].get(name) != value:
                raise InputError(
                    f"{self.folder / INDEX}: the maps in this folder are of {index['network']['source']} with {name} "
                    f"{index['network'].get(name)}, not {value}; give another folder"
                )

    def saved(self) -> dict[int, Path]:
        """Return the files written so far by image id."""
        return find_map_files(self.folder) if any(self.folder.glob("*.npz")) else {}

    def write(self, image_id: int, maps: Maps, letterbox: Letterbox) -> None:
        """Write the maps of an image, which are representable in float16. The file is complete or absent."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            heatmaps=maps.heatmaps.astype(np.float16),
            pafs=maps.pafs.astype(np.float16),
            picture_hw=np.array(letterbox.image_size),
            input_hw=np.array(letterbox.canvas),
            scaled_hw=np.array(letterbox.scaled_size),
        )
        path = map_file(self.folder, image_id)
        try:
            write_atomically(path, buffer.getvalue())
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def read_index(folder: Path) -> dict[str, Any]:
    """Read the index of a folder: `network` and `dataset`; raise InputError if it is damaged."""
    path = folder / INDEX
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise InputError(f"{path}: format {content['format']}, expected {FORMAT}; write the maps again")
        DatasetIdentity(**content["dataset"])
        NetworkIdentity(**content["network"])
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged; write the maps again into a new folder") from error
    return dict(content)


def check_dataset(folder: Path, dataset: DatasetIdentity) -> None:
    """Raise InputError if a folder has an index that names another dataset. Folders of other programs have none."""
    if not (folder / INDEX).exists():
        return
    saved = DatasetIdentity(**read_index(folder)["dataset"])
    if saved.fingerprint != dataset.fingerprint:
        raise InputError(
            f"{folder}: maps of {saved.name} ({saved.images:,} images); {dataset.name} ({dataset.images:,} images) has "
            "other images or annotations"
        )
