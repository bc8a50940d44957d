"""A folder of saved maps: one .npz file for each image, of this project's networks or of any other.

Keys of a file, all sizes (height, width) in px:

| key | content |
| --- | --- |
| `heatmaps` `pafs` | (19, h, w) and (38, h, w), as in `pipeline.maps.Maps`; float16 if written here |
| `maps` | instead of both: (h, w, 57), 19 heatmaps then 38 fields, CMU's channel order |
| `picture_hw` | size of the image |
| `input_hw` | size of the network's input |
| `scaled_hw` | size of the image on the input, in its top left corner; without it the image fills the input |

The file of image 790 is 000000000790.npz. Cell i of a grid is centred at pixel 8 i + 3.5 of the network's input.

This module needs NumPy only.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.inference.letterbox import Letterbox
from pipeline.errors import InputError
from pipeline.maps import NUM_HEATMAPS, NUM_PAFS, STRIDE, Maps
from pipeline.sample import Size

CHANNELS = NUM_HEATMAPS + NUM_PAFS
"""Number of channels of `maps`."""


@dataclass(frozen=True)
class SavedMaps:
    """The maps of one image.

    Attributes:
        image_id: COCO image id.
        maps: float32 maps of the part of the network's input that the image covers.
        letterbox: scale and padding of the image on the network's input.
    """

    image_id: int
    maps: Maps
    letterbox: Letterbox


def map_file(folder: Path, image_id: int) -> Path:
    """Return the path of an image's maps."""
    return folder / f"{image_id:012d}.npz"


def find_map_files(folder: Path) -> dict[int, Path]:
    """Return the files of a folder by image id, in ascending order of image id.

    Raises:
        InputError: the folder does not exist or holds no maps, or the name of a .npz file is not an image id.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; write maps with: python -m evaluation.evaluate --save-maps DIR")
    files: dict[int, Path] = {}
    for path in sorted(folder.glob("*.npz")):
        if not re.fullmatch("[0-9]+", path.stem):
            raise InputError(f"{path}: its name is not an image id, expected one such as {map_file(folder, 790).name}")
        if int(path.stem) in files:
            raise InputError(f"{path}: {files[int(path.stem)].name} has the same image id, expected one file an image")
        files[int(path.stem)] = path
    if not files:
        raise InputError(f"{folder}: no maps; expected files such as {map_file(folder, 790).name}")
    return dict(sorted(files.items()))


def load_maps(path: Path, image_size: Size | None = None) -> SavedMaps:
    """Read the maps of an image.

    Args:
        path: file whose name is the image id.
        image_size: (height, width) in px of the image with this id in the dataset.

    Raises:
        InputError: the file is damaged, lacks a key, has another number of channels or a grid that does not fit its
            input size, or belongs to an image of another size.
    """
    arrays = _read_arrays(path)
    heatmaps, pafs = _split_channels(path, arrays)
    picture, network_input = _size(path, arrays, "picture_hw"), _size(path, arrays, "input_hw")
    scaled = _size(path, arrays, "scaled_hw") if "scaled_hw" in arrays else network_input
    if image_size is not None and picture != tuple(image_size):
        raise InputError(
            f"{path}: maps of an image of {_format(picture)} px, but image {int(path.stem)} of the dataset has "
            f"{_format(image_size)} px"
        )
    grid = heatmaps.shape[1:]
    for cells, covered, limit in zip(grid, scaled, network_input, strict=True):
        if not -(-covered // STRIDE) <= cells <= -(-limit // STRIDE) or covered > limit:
            raise InputError(
                f"{path}: a grid of {_format(grid)} cells of {STRIDE} px does not fit an input of "
                f"{_format(network_input)} px, of which the image covers {_format(scaled)} px"
            )
    rows, columns = (-(-side // STRIDE) for side in scaled)
    heatmaps, pafs = (np.ascontiguousarray(array[:, :rows, :columns], dtype=np.float32) for array in (heatmaps, pafs))
    for name, array in (("heatmaps", heatmaps), ("fields", pafs)):
        if not np.isfinite(array).all():
            raise InputError(f"{path}: {name} with NaN or infinite values, expected finite ones")
    return SavedMaps(int(path.stem), Maps(heatmaps, pafs), Letterbox(picture, scaled, network_input))


def _read_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with path.open("rb") as file:  # np.load would leave a damaged file open
            content = np.load(file)
            if not isinstance(content, Mapping):
                raise ValueError("one array")
            return dict(content)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise InputError(f"{path}: damaged or not a .npz file of maps: {str(error)[:80]}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _split_channels(
    path: Path, arrays: Mapping[str, NDArray[np.generic]]
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Return heatmaps (19, h, w) and pafs (38, h, w) of either form of a file."""
    if "maps" in arrays:
        maps = arrays["maps"]
        if maps.ndim != 3 or maps.shape[2] != CHANNELS:
            raise InputError(
                f"{path}: maps has shape {maps.shape}, expected (h, w, {CHANNELS}): {NUM_HEATMAPS} heatmaps, then "
                f"{NUM_PAFS} fields"
            )
        channels_first = maps.transpose(2, 0, 1)
        heatmaps, pafs = channels_first[:NUM_HEATMAPS], channels_first[NUM_HEATMAPS:]
    else:
        heatmaps, pafs = _require(path, arrays, "heatmaps"), _require(path, arrays, "pafs")
        for name, array, channels in (("heatmaps", heatmaps, NUM_HEATMAPS), ("pafs", pafs, NUM_PAFS)):
            if array.ndim != 3 or len(array) != channels:
                raise InputError(f"{path}: {name} has shape {array.shape}, expected ({channels}, h, w)")
        if heatmaps.shape[1:] != pafs.shape[1:]:
            raise InputError(
                f"{path}: heatmaps on {_format(heatmaps.shape[1:])} cells, but pafs on {_format(pafs.shape[1:])}, "
                "expected the same grid"
            )
    if not all(np.issubdtype(array.dtype, np.floating) for array in (heatmaps, pafs)):
        raise InputError(f"{path}: maps of type {heatmaps.dtype}, expected float16 or float32")
    return heatmaps, pafs


def _require(path: Path, arrays: Mapping[str, NDArray[np.generic]], name: str) -> NDArray[np.generic]:
    if name not in arrays:
        raise InputError(
            f"{path}: holds {', '.join(arrays) or 'nothing'}; expected picture_hw, input_hw, and either maps or "
            "heatmaps and pafs"
        )
    return arrays[name]


def _size(path: Path, arrays: Mapping[str, NDArray[np.generic]], name: str) -> Size:
    array = _require(path, arrays, name)
    if array.shape != (2,) or not np.issubdtype(array.dtype, np.integer) or int(array.min()) < 1:
        raise InputError(f"{path}: {name} is {array.tolist()}, expected a height and a width in px")
    height, width = array.tolist()
    return height, width


def _format(size: Sequence[int]) -> str:
    height, width = size
    return f"{width}x{height}"
