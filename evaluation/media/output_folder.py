"""The output folder of `evaluation.predict`: outputs of an earlier run are replaced, other files are kept.

`outputs.json` lists the files that a run writes, so that a later run can remove them. Nothing else is ever removed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.media.sources import ImageFile, Sources
from evaluation.media.video.writer import VIDEO_SUFFIX
from pipeline.errors import InputError
from pipeline.system.files import convert_write_errors, write_atomically

INDEX = "outputs.json"

OVERLAYS = "overlays"
"""Folder of the images and videos with skeletons."""

OPENPOSE = "openpose"
"""Folder of the files in OpenPose's JSON format."""


def overlay_suffix(file: ImageFile) -> str:
    """Return the extension of an image's overlay: PNG for PNG, else JPEG."""
    return ".png" if file.path.suffix.lower() == ".png" else ".jpg"


@dataclass(frozen=True)
class OutputFolder:
    """An output folder.

    Attributes:
        path: the folder; it need not exist.
        outputs: kinds of output to write, of overlay, openpose and coco.
    """

    path: Path
    outputs: frozenset[str]

    def start(self, sources: Sources) -> bool:
        """Remove the outputs of an earlier run that are of the kinds to write, and list those of this run.

        Returns:
            True if there was an earlier run.

        Raises:
            InputError: a source is an output of an earlier run, or the folder cannot be written.
        """
        earlier = self._read_index()
        kept = {kind: names for kind, names in earlier.items() if kind not in self.outputs}
        removed = [path for kind in self.outputs for path in self._files(kind, earlier.get(kind, []))]
        given = {image.path.resolve() for image in sources.images}
        given |= {video.source.resolve() for video in sources.videos if isinstance(video.source, Path)}
        for path in removed:
            if path.resolve() in given:
                raise InputError(f"{path}: is an output of an earlier run, which --out {self.path} replaces")
        for path in removed:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty
                path.parent.rmdir()
        index = self.path / INDEX
        with convert_write_errors(index):
            write_atomically(index, json.dumps({**kept, **self._plan(sources)}, indent=1) + "\n")
        return any(kind in self.outputs for kind in earlier)

    def _read_index(self) -> dict[str, list[str]]:
        """Return the names of the outputs of earlier runs by kind."""
        try:
            content: Any = json.loads((self.path / INDEX).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(content, dict):
            return {}
        return {
            kind: [name for name in names if isinstance(name, str)]
            for kind, names in content.items()
            if isinstance(names, list)
        }

    def _plan(self, sources: Sources) -> dict[str, list[str]]:
        """Return the names of the outputs by kind; `*` stands for the numbers of the frames of a video."""
        images = [f"{OVERLAYS}/{image.name}{overlay_suffix(image)}" for image in sources.images]
        videos = [f"{OVERLAYS}/{video.name}{VIDEO_SUFFIX}" for video in sources.videos]
        people = [f"{OPENPOSE}/{image.name}_keypoints.json" for image in sources.images]
        frames = [f"{OPENPOSE}/{video.name}_*_keypoints.json" for video in sources.videos]
        plan = {"overlay": images + videos, "openpose": people + frames, "coco": ["results.json", "images.json"]}
        return {kind: plan[kind] for kind in plan if kind in self.outputs}

    def _files(self, kind: str, names: list[str]) -> Iterator[Path]:
        """Yield the existing files of an index. Names that lead out of the folder are ignored."""
        root = self.path.resolve()
        for name in names:
            folder, _, last = name.rpartition("/")
            parent = self.path / folder
            if not parent.is_dir() or not parent.resolve().is_relative_to(root):
                continue
            if kind == "openpose" and last.endswith("_*_keypoints.json"):
                start = last.removesuffix("_*_keypoints.json")
                yield from (path for path in parent.iterdir() if _is_frame(path.name, start))
            elif (parent / last).is_file():
                yield parent / last


def _is_frame(name: str, video: str) -> bool:
    """True if a file belongs to a frame of a video."""
    number = name.removeprefix(f"{video}_").removesuffix("_keypoints.json")
    return name == f"{video}_{number}_keypoints.json" and len(number) == 12 and number.isdigit()
