"""Write a video with skeletons that has the duration, the size and, if ffmpeg is installed, the sound of its source."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from evaluation.media.video.mp4 import TIMESCALE, rewrite_index
from evaluation.media.video.reader import Frame
from pipeline.errors import InputError
from pipeline.system.files import convert_write_errors

VIDEO_CODEC = "mp4v"
"""MPEG-4 Part 2, which every build of OpenCV can write."""

VIDEO_SUFFIX = ".mp4"


class VideoWriter:
    """Context manager that writes a video frame by frame. The file gets its final name at the end.

    Frames keep their time stamps. Frames whose size differs from that of the first frame are resized.

    Attributes:
        path: path of the finished file.
    """

    def __init__(self, path: Path, fps: float, sound: Path | None = None) -> None:
        """Prepare a file.

        Args:
            path: path of the finished file.
            fps: nominal frames per second; if all time stamps agree with it, the file has this constant rate.
            sound: video whose sound is copied, if the program ffmpeg is installed.
        """
        self.path = path
        self._fps = fps
        self._sound = sound
        self._temporary_path = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        self._size = (0, 0)
        self._times: list[float] = []
        self._last_duration: float | None = None
        self._writer: Any = None

    def write(self, frame: Frame) -> None:
        """Append a frame. Raise InputError if the file cannot be written."""
        import cv2

        image = frame.image
        if self._writer is None:
            self._size = image.shape[0], image.shape[1]
            self._open()
        height, width = self._size
        if image.shape[:2] != self._size:  # OpenCV silently drops frames of another size
            image = np.asarray(cv2.resize(image, (width, height)), dtype=np.uint8)
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self._writer.write(np.ascontiguousarray(image))
        self._times.append(frame.time)
        self._last_duration = frame.duration

    def _open(self) -> None:
        import cv2

        height, width = (side + side % 2 for side in self._size)
        codec = cv2.VideoWriter.fourcc(*VIDEO_CODEC)
        with convert_write_errors(self.path):
            self._writer = cv2.VideoWriter(str(self._temporary_path), cv2.CAP_FFMPEG, codec, self._fps, (width, height))
        if not self._writer.isOpened():
            raise InputError(f"{self.path}: OpenCV cannot write a video of {width}x{height} px")

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.release()
            if kind is None:
                self._complete()
            self._temporary_path.unlink(missing_ok=True)

    def _complete(self) -> None:
        """Correct the index, add the sound, and rename the file to its final name."""
        times = np.array(self._times) - self._times[0]
        end = times[-1] + (self._last_duration or _usual_interval(times, self._fps))
        is_constant = np.abs(np.append(times, end) - np.arange(len(times) + 1) / self._fps).max() < 0.5 / self._fps
        size = self._size if self._size[0] % 2 or self._size[1] % 2 else None
        if size or not is_constant:
            rewrite_index(self._temporary_path, None if is_constant else times.tolist(), end, size)
        if self._sound:
            _add_sound(self._temporary_path, self._sound, end)
        self._temporary_path.replace(self.path)


def _usual_interval(times: np.ndarray[Any, Any], fps: float) -> float:
    """Return the median time in s between frames; that of the nominal rate for a single frame."""
    return float(np.median(np.diff(times))) if len(times) > 1 else 1 / fps


def _add_sound(path: Path, source: Path, seconds: float) -> None:
    """Copy the sound of a video into another file, up to its end. Leave the file as it is if that is not possible.

    There is no sound without the program ffmpeg, from a source without sound, and in a codec that MP4 cannot hold and
    ffmpeg cannot convert.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        return
    new = path.with_name(f"{path.stem}.sound{path.suffix}")
    inputs = [program, "-v", "error", "-nostdin", "-y", "-i", f"file:{path}", "-i", f"file:{source}"]
    streams = ["-map", "0:v:0", "-map", "1:a:0", "-c:v", "copy", "-video_track_timescale", str(TIMESCALE)]
    streams += ["-t", f"{seconds:.3f}"]
    try:
        for codec in ("copy", "aac"):
            done = subprocess.run([*inputs, *streams, "-c:a", codec, f"file:{new}"], capture_output=True, check=False)
            if done.returncode == 0:
                new.replace(path)
                return
            if b"matches no streams" in done.stderr:
                return
    finally:
        new.unlink(missing_ok=True)
