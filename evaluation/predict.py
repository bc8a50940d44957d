"""Find people in pictures, videos and camera frames: python -m evaluation.predict SOURCES --ckpt F --out DIR."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from evaluation.options import flip_option, recipe_overrides, scales_option
from pipeline.errors import InputError, reports_input_errors
from pipeline.quiet import quiet_opencv
from training.options import device_option

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from evaluation.person import Person
    from evaluation.predictor import Predictor
    from evaluation.sources import PictureFile, Sources, Video, VideoReader
    from evaluation.writers import CocoWriter

    Picture = NDArray[np.uint8]

Item = TypeVar("Item")

OUTPUTS = ("overlay", "openpose", "coco")

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
        from tqdm import tqdm

        from evaluation.sources import printable

        line = f"Skipped {printable(source)}: {printable(problem)}"
        self.lines.append(line)
        tqdm.write(line, file=sys.stderr)


@dataclass
class Prediction:
    """One run of the command: what finds people, and where they go.

    Attributes:
        predictor: network and recipe.
        out: folder of all outputs.
        outputs: of OUTPUTS, those to write.
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
        from tqdm import tqdm

        from evaluation.sources import read_picture
        from evaluation.threads import host_threads, map_ahead

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

        with progress, host_threads() as pool:
            people_found = self.predictor.stream(self._until_stopped(pictures), load)
            for picture, people in map_ahead(pool, write, people_found, _AHEAD):
                self._list(picture.image_id, sizes.pop(picture.image_id), people, file_name=str(picture.path))
                progress.update()

    def _write_files(self, picture: PictureFile, people: list[Person]) -> None:
        """The files of one picture; it is read again, for to keep it would take the memory of many large pictures."""
        from evaluation.overlay import draw_people
        from evaluation.sources import read_picture
        from evaluation.writers import write_openpose, write_picture

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
        from evaluation.sources import VideoReader

        try:
            reader = VideoReader(video.source)
        except InputError as error:
            self.problems.report(video.source, error)
            return 0
        with contextlib.closing(reader):
            frames = self._frames(video, reader, first_id)
        if self.stopped():
            return frames
        if not frames:
            self.problems.report(video.source, "no frame of it can be read")
        elif reader.frames and frames < 0.9 * reader.frames:  # some formats only estimate how many there are
            self.problems.report(video.source, f"the rest of it, damaged after {frames} of {reader.frames} frames")
        return frames

    def _frames(self, video: Video, reader: VideoReader, first_id: int) -> int:
        """Write frame by frame; returns how many there were."""
        from tqdm import tqdm

        from evaluation.overlay import draw_people
        from evaluation.sources import printable
        from evaluation.threads import host_threads, map_ahead, read_ahead
        from evaluation.writers import VIDEO_SUFFIX, VideoWriter, write_openpose

        overlay = "overlay" in self.outputs

        def write(found: tuple[tuple[int, Picture], list[Person]]) -> tuple[int, list[Person], Picture]:
            (index, image), people = found
            if "openpose" in self.outputs:
                write_openpose(self.openpose, video.frame_name(index), people)
            return index, people, draw_people(image, people) if overlay else image

        frames = enumerate(read_ahead(self._until_stopped(reader), _AHEAD))
        path = self.overlays / f"{video.name}{VIDEO_SUFFIX}"
        progress = tqdm(total=reader.frames, unit="frame", desc=printable(video.source), disable=None)
        count = 0
        with progress, host_threads() as pool, VideoWriter(path, reader.fps) as writer:
            people_found = self.predictor.stream(frames, lambda item: item[1])
            for index, people, drawn in map_ahead(pool, write, people_found, _AHEAD):
                if overlay:
                    writer.write(drawn)
                size = drawn.shape[0], drawn.shape[1]
                self._list(first_id + index, size, people, file_name=str(video.source), frame=index)
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


def _parse_outputs(_context: click.Context, _option: click.Parameter, value: str) -> frozenset[str]:
    outputs = frozenset(part.strip() for part in value.split(","))
    if not outputs <= frozenset(OUTPUTS):
        raise click.BadParameter(f"{value!r}: expected some of {','.join(OUTPUTS)}")
    return outputs


@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.option(
    "--ckpt",
    type=click.Path(path_type=Path),
    required=True,
    help="Checkpoint, run folder (its newest is taken), or graph of training.export.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for what is found.")
@click.option(
    "--write",
    "outputs",
    metavar="KIND,…",
    default=",".join(OUTPUTS),
    show_default=True,
    callback=_parse_outputs,
    help="Which of these to write.",
)
@scales_option
@flip_option
@device_option
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override: evaluation.size=432.")
@reports_input_errors
def main(
    sources: tuple[str, ...],
    ckpt: Path,
    out: Path,
    outputs: frozenset[str],
    scales: tuple[float, ...] | None,
    flip: bool | None,
    device: str,
    overrides: tuple[str, ...],
) -> None:
    """Find the people in SOURCES: pictures, videos, folders of them with all their folders, and numbers of cameras.

    \b
    OUT/overlays/   NAME.jpg, NAME.png or NAME.mp4: skeletons drawn on pictures and videos
    OUT/openpose/   NAME_keypoints.json, for a video's frames NAME_000000000012_keypoints.json:
                    the OpenPose authors' json, 18 keypoints x, y in px and score
    OUT/results.json, OUT/images.json
                    COCO keypoint results, and which picture each image id is

    NAME is a file's name below the folder that was given, numbered where two would be one. A picture whose name is a
    number, as in COCO, has it as its image id.

    Ctrl-C ends a video or a camera; what was read until then is finished. What cannot be read is skipped.

    Exit codes: 0 all done; 1 something was skipped; 2 something given is wrong; 130 stopped by Ctrl-C.
    """  # noqa: D301
    quiet_opencv()
    from training.callbacks import StopSignal

    signals = StopSignal()  # before NumPy and MindSpore start threads
    signals.watch("Stopping; what has been read is finished")
    from evaluation.predictor import Predictor
    from evaluation.sources import find_sources
    from evaluation.writers import CocoWriter

    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; expected a folder")
    found = find_sources(sources, out)
    predictor = Predictor.load(ckpt, device, recipe_overrides(overrides, scales, flip))
    with contextlib.ExitStack() as stack:
        coco = stack.enter_context(CocoWriter(out)) if "coco" in outputs else None
        prediction = Prediction(predictor, out, outputs, coco, stopped=lambda: signals.number != 0)
        predict(prediction, found)
    for line in prediction.summary():
        click.echo(line)
    if signals.number:
        raise SystemExit(128 + signals.number)
    if prediction.problems.lines:
        click.echo(f"{len(prediction.problems.lines)} skipped", err=True)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
