"""Read the frames of videos, cameras and animated images, with their times, turned as players turn them.

The rate in a file's header may be wrong: files of browsers state 1000 frames per second, and phones record at a
variable rate. Each frame therefore has its own time stamp.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError

DEFAULT_FPS = 30.0
"""Frames per second of sources that do not report it, such as many cameras."""

MAX_FPS = 240.0
"""A higher rate in a header is no frame rate but the resolution of the time stamps."""

COMPLETE = 0.9
"""Part of the stated frames and duration that has to be read: in some formats these numbers are estimates."""

_CHUNK_PIXELS = 16_000_000
"""Pixels of the frames of an animated image that are decoded together."""


class Frame(NamedTuple):
    """One frame.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        time: time in s from the first frame.
        duration: time in s for which it is shown; None if the file does not state it.
    """

    image: NDArray[np.uint8]
    time: float
    duration: float | None = None


class FrameReader(Protocol):
    """An open source of frames.

    Attributes:
        fps: nominal frames per second.
        num_frames: number of frames according to the file; None if unknown. Many formats state only a duration.
    """

    fps: float
    num_frames: int | None

    def is_incomplete(self, frames: int) -> bool:
        """True if the frames that were read end well before the duration that the file states."""

    def frames(self) -> Iterator[Frame]:
        """Yield the frames in order, up to the end or the first one that cannot be read."""

    def close(self) -> None:
        """Close the file or the camera."""


class VideoReader:
    """A video file that FFmpeg reads, or a camera; see `FrameReader`."""

    def __init__(self, source: Path | int) -> None:
        """Open a file or a camera. Raise InputError if that fails."""
        import cv2

        self._is_camera = isinstance(source, int)
        if isinstance(source, int):
            self._capture = cv2.VideoCapture(source)
        else:
            self._capture = cv2.VideoCapture(str(source.absolute()), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise InputError(
                "no such camera" if isinstance(source, int) else "damaged, or not a video that OpenCV can read"
            )
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        fps, num_frames = self._capture.get(cv2.CAP_PROP_FPS), self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.fps = fps if 0 < fps <= MAX_FPS else DEFAULT_FPS
        # without a frame rate, OpenCV computes the number of frames from a wrong one
        self.num_frames = int(num_frames) if 0 < num_frames < 2**31 and self.fps == fps else None
        self._end = 0.0
        self._gif_delays = _read_gif_delays(source) if isinstance(source, Path) else []

    def frames(self) -> Iterator[Frame]:
        """Yield the frames with the time stamps of the file; those of a camera have the time of the clock."""
        import cv2

        start, previous = math.nan, -1 / self.fps
        delays = iter(self._gif_delays)
        while True:
            success, image = self._capture.read()
            if not success:
                return
            stamp = time.monotonic() if self._is_camera else self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            start = stamp if math.isnan(start) else start
            moment = stamp - start
            if not previous < moment < previous + 86_400:  # no time stamp, or a wrong one
                moment = previous + 1 / self.fps
            previous, self._end = moment, max(stamp, moment)
            yield Frame(np.asarray(image, dtype=np.uint8), moment, next(delays, None))

    def is_incomplete(self, frames: int) -> bool:
        """True if the frames that were read end well before the duration that the file states.

        The number of frames alone does not tell: of variable rates it is an estimate from the duration.
        """
        if self.num_frames is None or frames >= COMPLETE * self.num_frames:
            return False
        duration, end = self.num_frames / self.fps, self._end + 1 / self.fps
        return end < min(COMPLETE * duration, duration - 0.25)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the images of the frames, (H, W, 3) uint8 BGR."""
        for frame in self.frames():
            yield frame.image

    def close(self) -> None:
        """Close the file or the camera."""
        self._capture.release()


class AnimationReader:
    """An animated WebP or PNG; see `FrameReader`. Transparent parts are white, as in browsers."""

    def __init__(self, path: Path) -> None:
        """Open a file. Raise InputError if that fails."""
        import cv2

        self._path = path
        self.fps = DEFAULT_FPS
        try:
            self.num_frames: int | None = cv2.imcount(str(path.absolute())) or None
        except cv2.error:
            self.num_frames = None
        if not self._read(0, 1):
            raise InputError("damaged, or not an animation that OpenCV can read")

    def frames(self) -> Iterator[Frame]:
        """Yield the frames. Some are decoded together: OpenCV starts from the first frame at every call."""
        first = self._read(0, 1)
        height, width = first[0][0].shape[:2] if first else (1, 1)
        count = max(1, _CHUNK_PIXELS // (height * width))
        moment = 0.0
        for start in range(0, self.num_frames or 2**31, count):
            frames = self._read(start, count)
            for image, duration in frames:
                yield Frame(image, moment, duration)
                moment += duration
            if len(frames) < count:
                return

    def is_incomplete(self, frames: int) -> bool:
        """True if fewer frames were read than the file states."""
        return self.num_frames is not None and frames < self.num_frames

    def _read(self, start: int, count: int) -> list[tuple[NDArray[np.uint8], float]]:
        """Return the images and durations in s of at most `count` frames; none if they cannot be decoded."""
        import cv2

        try:
            success, animation = cv2.imreadanimation(str(self._path.absolute()), start, count)
        except cv2.error:
            return []
        if not success:
            return []
        durations = [_shown_duration(milliseconds / 1000) for milliseconds in animation.durations]
        return [(_to_bgr(image), duration) for image, duration in zip(animation.frames, durations, strict=False)]

    def close(self) -> None:
        """Do nothing: no file is open between reads."""


def _shown_duration(seconds: float) -> float:
    """Return the time for which browsers show a frame: 0.1 s where the file states 0.01 s or less."""
    return seconds if seconds > 0.01 else 0.1


def _to_bgr(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8; transparent parts of (H, W, 4) become white."""
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[2] < 4:
        return np.ascontiguousarray(np.broadcast_to(image[..., :3], (*image.shape[:2], 3)))
    opacity = image[..., 3:].astype(np.float32) / 255
    return np.rint(image[..., :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)


def _read_gif_delays(path: Path) -> list[float]:
    """Return the time in s for which each frame of a GIF is shown; an empty list for other or damaged files.

    FFmpeg gives the start of each frame, and not the duration of the last. The blocks are those of the GIF89a
    specification: an extension or a descriptor, followed by data blocks that start with their length and end with 0.
    """
    try:
        with path.open("rb") as file:
            data = file.read() if file.read(4) == b"GIF8" else b""
    except OSError:
        data = b""
    delays, delay = [], 0.1
    try:
        at = 9 + (3 << (data[6] & 7) + 1 if data[6] & 0x80 else 0)  # 4 bytes were read before
        while data[at] != 0x3B:
            if data[at] == 0x21:
                if data[at + 1] == 0xF9:
                    delay = _shown_duration(int.from_bytes(data[at + 4 : at + 6], "little") / 100)
                at += 2
            elif data[at] == 0x2C:
                delays.append(delay)
                at += 11 + (3 << (data[at + 9] & 7) + 1 if data[at + 9] & 0x80 else 0)
            else:
                return []
            while data[at]:
                at += data[at] + 1
            at += 1
    except IndexError:
        return delays
    return delays
