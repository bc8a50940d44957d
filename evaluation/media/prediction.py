"""Detect people in all images and videos of one run and write the outputs. Sources that cannot be read are skipped.

Per-image files are written in threads while the network runs. Files that depend on the order of the images (videos and
the COCO lists) are written by the calling thread.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from evaluation.decoder.person import Person
from evaluation.inference.predictor import Predictor
from evaluation.inference.threads import create_thread_pool, prefetch, prefetch_map
from evaluation.media.images import ReadImage, read_image, scale_people
from evaluation.media.output_folder import OPENPOSE, OVERLAYS, overlay_suffix
from evaluation.media.overlay import draw_people
from evaluation.media.sources import ImageFile, Sources, Video, open_video, printable
from evaluation.media.video.reader import Frame, FrameReader
from evaluation.media.video.writer import VIDEO_SUFFIX, VideoWriter
from evaluation.media.writers import CocoWriter, write_image, write_openpose_json
from pipeline.errors import InputError
from pipeline.sample import Size

Image = NDArray[np.uint8]

Item = TypeVar("Item")

LONG_SHAPE = 1.5
"""Images are mentioned whose longer side exceeds the limit `evaluation.max_aspect` by more than this factor."""

PREFETCH_DEPTH = 8
"""Maximum number of frames read, and of images drawn, ahead of the files being written."""


@dataclass
class SkippedSources:
    """Sources that could not be used.

    Attributes:
        messages: one line for each skipped source, in the order of occurrence.
    """

    messages: list[str] = field(default_factory=list)

    def add(self, source: object, reason: object) -> None:
        """Print a message to stderr, above the progress bar, and keep it. Can be called from any thread."""
        message = f"Skipped {printable(source)}: {printable(reason)}"
        self.messages.append(message)
        tqdm.write(message, file=sys.stderr)


class _Reordering(Generic[Item]):
    """Passes on items by position: images of different sizes are finished in another order.

    Attributes:
        consume: function that gets the items in order.
    """

    def __init__(self, consume: Callable[[Item], None]) -> None:
        self.consume = consume
        self._next = 0
        self._waiting: dict[int, Item] = {}
        self._skipped: set[int] = set()

    def skip(self, position: int) -> None:
        """Do not wait for an item. Can be called from any thread."""
        self._skipped.add(position)

    def add(self, position: int, item: Item) -> None:
        """Add an item, and pass on those that are next."""
        self._waiting[position] = item
        while self._next in self._waiting or self._next in self._skipped:
            if self._next in self._waiting:
                self.consume(self._waiting.pop(self._next))
            self._next += 1

    def finish(self) -> None:
        """Pass on all items that are left: after a stop, items between them are missing."""
        for position in sorted(self._waiting):
            self.consume(self._waiting.pop(position))


@dataclass
class PredictionRun:
    """One run of `evaluation.predict`: the predictor, the outputs, and what was written so far.

    Attributes:
        predictor: network and recipe.
        out: output folder.
        outputs: kinds of output to write, of overlay, openpose and coco.
        coco: writer of the COCO files; None without that output.
        should_stop: function that returns True once the user wants to stop. Images and frames that were already read
            are still processed.
        skipped: sources that were skipped.
        long_shapes: images and videos whose sides differ so much that the network sees them much smaller than others.
        written: number of images and frames written.
    """

    predictor: Predictor
    out: Path
    outputs: frozenset[str]
    coco: CocoWriter | None
    should_stop: Callable[[], bool]
    skipped: SkippedSources = field(default_factory=SkippedSources)
    long_shapes: list[tuple[str, Size]] = field(default_factory=list)
    written: int = 0

    @property
    def overlay_folder(self) -> Path:
        """Folder of the images and videos with skeletons."""
        return self.out / OVERLAYS

    @property
    def openpose_folder(self) -> Path:
        """Folder of the JSON files in OpenPose's format."""
        return self.out / OPENPOSE

    def process_images(self, images: Sequence[ImageFile]) -> None:
        """Detect people in image files and write the outputs."""
        progress = tqdm(total=len(images), unit="image", desc="images", disable=None)
        sizes: dict[int, tuple[Size, Size]] = {}  # as it was read, and of the whole image
        positions = {file.image_id: position for position, file in enumerate(images)}

        def add_to_coco(detection: tuple[ImageFile, list[Person]]) -> None:
            file, people = detection
            self._add_to_coco(file.image_id, sizes.pop(file.image_id)[1], people, file_name=str(file.path))

        ordered = _Reordering(add_to_coco)

        def load(file: ImageFile) -> Image | None:
            try:
                image = self._read(file)
            except InputError as error:
                self.skipped.add(file.path, error)
                ordered.skip(positions[file.image_id])
                progress.update()
                return None
            if image.problem:
                warning = f"Warning: {printable(file.path)}: {printable(image.problem)}; the rest of it is used"
                tqdm.write(warning, file=sys.stderr)
            sizes[file.image_id] = self._note_shape(file.path, image.pixels), image.size
            return image.pixels

        def write(detection: tuple[ImageFile, list[Person]]) -> tuple[ImageFile, list[Person]]:
            file, people = detection
            whole = scale_people(people, *sizes[file.image_id])
            self._write_image_outputs(file, people, whole)
            return file, whole

        with progress, create_thread_pool() as pool:
            detections = self.predictor.predict_stream(self._until_stopped(images), load)
            for file, people in prefetch_map(pool, write, detections, PREFETCH_DEPTH):
                ordered.add(positions[file.image_id], (file, people))
                progress.update()
            ordered.finish()

    def _read(self, file: ImageFile) -> ReadImage:
        """Read an image; a very large one with at least twice the pixels along a side that the network needs."""
        config = self.predictor.config
        return read_image(file.path, min_side=round(2 * config.size * max(config.scales)))

    def _write_image_outputs(self, file: ImageFile, people: list[Person], whole: list[Person]) -> None:
        """Write the files of one image. It is read again: keeping many large images takes too much memory.

        Args:
            file: the image.
            people: people in pixels of the image as it was read.
            whole: people in pixels of the whole image.
        """
        if "openpose" in self.outputs:
            write_openpose_json(self.openpose_folder, file.name, whole)
        if "overlay" in self.outputs:
            try:
                image = self._read(file)
            except InputError as error:
                self.skipped.add(file.path, f"has changed: {error}")
                return
            write_image(self.overlay_folder, file.name, draw_people(image.pixels, people), overlay_suffix(file))

    def _note_shape(self, source: object, image: Image) -> Size:
        """Return the size of an image, and keep it if the image is scaled down because of its shape."""
        size = image.shape[0], image.shape[1]
        limit = LONG_SHAPE * self.predictor.config.max_aspect
        if max(size) > limit * min(size) and self.predictor.fixed_canvas is None:
            self.long_shapes.append((str(source), size))
        return size

    def process_video(self, video: Video, first_image_id: int) -> int:
        """Detect people in the frames of a video, write the outputs, and return the number of frames.

        Args:
            video: video file or camera.
            first_image_id: image id of the first frame.
        """
        try:
            reader = open_video(video.source)
        except InputError as error:
            self.skipped.add(video.title, error)
            return 0
        with contextlib.closing(reader):
            frames = self._process_frames(video, reader, first_image_id)
        if self.should_stop():
            return frames
        if not frames:
            self.skipped.add(video.title, "no frame can be read")
        elif reader.is_incomplete(frames):
            self.skipped.add(video.title, f"damaged after {frames} of {reader.num_frames} frames; the rest is left out")
        return frames

    def _process_frames(self, video: Video, reader: FrameReader, first_image_id: int) -> int:
        """Detect people frame by frame, write the outputs, and return the number of frames."""
        overlay = "overlay" in self.outputs

        def write(detection: tuple[tuple[int, Frame], list[Person]]) -> tuple[int, list[Person], Frame]:
            (index, frame), people = detection
            if "openpose" in self.outputs:
                write_openpose_json(self.openpose_folder, video.frame_name(index), people)
            return index, people, frame._replace(image=draw_people(frame.image, people)) if overlay else frame

        frames = enumerate(prefetch(self._until_stopped(reader.frames()), PREFETCH_DEPTH))
        path = self.overlay_folder / f"{video.name}{VIDEO_SUFFIX}"
        progress = tqdm(total=reader.num_frames, unit="frame", desc=printable(video.title), disable=None)
        sound = video.source if isinstance(video.source, Path) else None
        count = 0
        with progress, create_thread_pool() as pool, VideoWriter(path, reader.fps, sound) as writer:
            detections = self.predictor.predict_stream(frames, lambda item: item[1].image)
            for index, people, frame in prefetch_map(pool, write, detections, PREFETCH_DEPTH):
                if overlay:
                    writer.write(frame)
                size = frame.image.shape[0], frame.image.shape[1]
                if not index:
                    self._note_shape(video.title, frame.image)
                self._add_to_coco(first_image_id + index, size, people, file_name=video.title, frame=index)
                progress.update()
                count += 1
        return count

    def _add_to_coco(self, image_id: int, size: tuple[int, int], people: Sequence[Person], **fields: object) -> None:
        self.written += 1
        if self.coco:
            self.coco.add(image_id, size, people, **fields)

    def _until_stopped(self, items: Iterable[Item]) -> Iterator[Item]:
        return itertools.takewhile(lambda _: not self.should_stop(), items)

    def advice(self) -> Iterator[str]:
        """Yield one line if images are so long that people in them are searched at a smaller size than in others."""
        if not self.long_shapes:
            return
        source, size = max(self.long_shapes, key=lambda item: max(item[1]) / min(item[1]))
        aspect = max(size) / min(size)
        limit = self.predictor.config.max_aspect
        others = f" and {len(self.long_shapes) - 1} more" if len(self.long_shapes) > 1 else ""
        yield (
            f"{printable(source)}{others}: {size[1]}x{size[0]} px is scaled down {aspect / limit:.1f} times more than "
            "other shapes, so people may be missed; to find them, at the cost of memory: "
            f"--set evaluation.max_aspect={math.ceil(aspect)}"
        )

    def summary(self) -> Iterator[str]:
        """Yield one line for each kind of output."""
        if "overlay" in self.outputs:
            yield f"{self.overlay_folder}/: images and videos with skeletons"
        if "openpose" in self.outputs:
            yield f"{self.openpose_folder}/: {_count(self.written, 'file')} in OpenPose's JSON format"
        if self.coco:
            counts = f"{_count(self.coco.people, 'person', 'people')} in {_count(self.written, 'image')}"
            yield f"{self.out / 'results.json'}: {counts}, as COCO keypoint results; images.json lists the image ids"


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def predict_sources(run: PredictionRun, sources: Sources) -> None:
    """Detect people in all sources, images first."""
    for path, reason in sources.unsupported:
        run.skipped.add(path, reason)
    if sources.images:
        run.process_images(sources.images)
    image_id = sources.next_image_id
    for video in sources.videos:
        if not run.should_stop():
            image_id += run.process_video(video, image_id)
