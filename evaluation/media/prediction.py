"""One run over sources: their pictures through the predictor, their people into files, what fails noted and skipped.

Files of a picture are written in threads beside the network; lists and videos, which have an order, by the caller's.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from evaluation.decoder.person import Person
from evaluation.inference.predictor import Predictor
from evaluation.inference.threads import create_thread_pool, prefetch, prefetch_map
from evaluation.media.overlay import draw_people
from evaluation.media.sources import PictureFile, Sources, Video, VideoReader, printable, read_picture
from evaluation.media.writers import VIDEO_SUFFIX, CocoWriter, VideoWriter, write_openpose, write_picture
from pipeline.errors import InputError

Picture = NDArray[np.uint8]

Item = TypeVar("Item")

_AHEAD = 8
"""Pictures drawn, and frames read, ahead of what is written."""


@dataclass
class Problems:
    """Sources that could not be used, each said in one line when it is met.

    Attributes:
        lines: that were said.
    """

    lines: list[str] = field(default_factory=list)

    def report(self, source: object, problem: object) -> None:
        """Say what is wrong with a source, above any progress; from any thread."""
        line = f"Skipped {printable(source)}: {printable(problem)}"
        self.lines.append(line)
        tqdm.write(line, file=sys.stderr)


@dataclass
class Prediction:
    """One run of the command: what finds people, and where they go.

    Attributes:
        predictor: network and recipe.
        out: folder of all outputs.
        outputs: what to write, of overlay, openpose and coco.
        coco: the lists of pictures and results, None without that output.
        stopped: whether the user asked to stop; what has been read is still finished.
        problems: that were met.
        written: pictures and frames done.
    """

    predictor: Predictor
    out: Path
    outputs: frozenset[str]
    coco: CocoWriter | None
    stopped: Callable[[], bool]
    problems: Problems = field(default_factory=Problems)
    written: int = 0

    @property
    def overlays(self) -> Path:
        """Folder of pictures and videos with skeletons."""
        return self.out / "overlays"

    @property
    def openpose(self) -> Path:
        """Folder of the OpenPose authors' json files."""
        return self.out / "openpose"

    def pictures(self, pictures: Sequence[PictureFile]) -> None:
        """Find and write the people of picture files."""
        progress = tqdm(total=len(pictures), unit="picture", desc="pictures", disable=None)
        sizes: dict[int, tuple[int, int]] = {}

        def load(picture: PictureFile) -> Picture | None:
            try:
                image = read_picture(picture.path)
            except InputError as error:
                self.problems.report(picture.path, error)
                progress.update()
                return None
            sizes[picture.image_id] = (image.shape[0], image.shape[1])
            return image

        def write(found: tuple[PictureFile, list[Person]]) -> tuple[PictureFile, list[Person]]:
            self._write_files(*found)
            return found

        with progress, create_thread_pool() as pool:
            people_found = self.predictor.predict_stream(self._until_stopped(pictures), load)
            for picture, people in prefetch_map(pool, write, people_found, _AHEAD):
                self._list(picture.image_id, sizes.pop(picture.image_id), people, file_name=str(picture.path))
                progress.update()

    def _write_files(self, picture: PictureFile, people: list[Person]) -> None:
        """The files of one picture; it is read again, for to keep it would take the memory of many large pictures."""
        if "openpose" in self.outputs:
            write_openpose(self.openpose, picture.name, people)
        if "overlay" in self.outputs:
            try:
                image = read_picture(picture.path)
            except InputError as error:
                self.problems.report(picture.path, f"has changed: {error}")
                return
            lossless = picture.path.suffix.lower() == ".png"
            write_picture(self.overlays, picture.name, draw_people(image, people), lossless=lossless)

    def video(self, video: Video, first_id: int) -> int:
        """Find and write the people of a video's frames, in order; returns how many frames there were.

        Args:
            video: file or camera.
            first_id: image id of the first frame.
        """
        try:
            reader = VideoReader(video.source)
        except InputError as error:
            self.problems.report(video.title, error)
            return 0
        with contextlib.closing(reader):
            frames = self._frames(video, reader, first_id)
        if self.stopped():
            return frames
        if not frames:
            self.problems.report(video.title, "no frame of it can be read")
        elif reader.frames and frames < 0.9 * reader.frames:  # some formats only estimate how many there are
            self.problems.report(video.title, f"the rest of it, damaged after {frames} of {reader.frames} frames")
        return frames

    def _frames(self, video: Video, reader: VideoReader, first_id: int) -> int:
        """Write frame by frame; returns how many there were."""
        overlay = "overlay" in self.outputs

        def write(found: tuple[tuple[int, Picture], list[Person]]) -> tuple[int, list[Person], Picture]:
            (index, image), people = found
            if "openpose" in self.outputs:
                write_openpose(self.openpose, video.frame_name(index), people)
            return index, people, draw_people(image, people) if overlay else image

        frames = enumerate(prefetch(self._until_stopped(reader), _AHEAD))
        path = self.overlays / f"{video.name}{VIDEO_SUFFIX}"
        progress = tqdm(total=reader.frames, unit="frame", desc=printable(video.title), disable=None)
        count = 0
        with progress, create_thread_pool() as pool, VideoWriter(path, reader.fps) as writer:
            people_found = self.predictor.predict_stream(frames, lambda item: item[1])
            for index, people, drawn in prefetch_map(pool, write, people_found, _AHEAD):
                if overlay:
                    writer.write(drawn)
                size = drawn.shape[0], drawn.shape[1]
                self._list(first_id + index, size, people, file_name=video.title, frame=index)
                progress.update()
                count += 1
        return count

    def _list(self, image_id: int, size: tuple[int, int], people: Sequence[Person], **about: object) -> None:
        self.written += 1
        if self.coco:
            self.coco.add(image_id, size, people, **about)

    def _until_stopped(self, items: Iterable[Item]) -> Iterator[Item]:
        return itertools.takewhile(lambda _: not self.stopped(), items)

    def summary(self) -> Iterator[str]:
        """A line for each kind of output."""
        if "overlay" in self.outputs:
            yield f"{self.overlays}/: what was found, drawn on pictures and videos"
        if "openpose" in self.outputs:
            yield f"{self.openpose}/: {self.written} files, in the json of the OpenPose authors"
        if self.coco:
            people = f"{self.coco.people} people on {self.written} pictures"
            yield f"{self.out / 'results.json'}: {people}, as COCO keypoint results; images.json says which is which"


def predict(prediction: Prediction, sources: Sources) -> None:
    """Find the people of all sources, pictures first."""
    for stranger in sources.strangers:
        prediction.problems.report(stranger, "its name ends like that of no picture or video")
    if sources.pictures:
        prediction.pictures(sources.pictures)
    image_id = sources.first_free_id
    for video in sources.videos:
        if not prediction.stopped():
            image_id += prediction.video(video, image_id)
