"""TensorBoard's event files of a run, RUN/tensorboard; look at them with `tensorboard --logdir RUN`.

Written by tensorboardX's own writer of records, event by event, rather than by its SummaryWriter: that hands events to
a thread through a queue of processes, which a flush does not wait for. It is imported late, for MindSpore has to be
there before protobuf is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_QUALITY = 90


class EventWriter:
    """The event file that this process appends to."""

    def __init__(self, folder: Path, after: int) -> None:
        """Begin a file; what earlier ones hold of steps later than `after` counts no more."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        # its name has the time in seconds: two starts in one second must not overwrite each other
        self.writer = EventsWriter(str(folder / "events"), f".{time.time_ns() % 10**9:09d}")
        self._write(after + 1, session_log=SessionLog(status=SessionLog.START))
        self.flush()

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Append values by their tags."""
        from tensorboardX.proto.summary_pb2 import Summary

        entries = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(step, summary=Summary(value=entries))

    def add_image(self, step: int, tag: str, image: NDArray[np.uint8]) -> None:
        """Append a picture, (H, W, 3) uint8 BGR, as a JPEG."""
        import simplejpeg
        from tensorboardX.proto.summary_pb2 import Summary

        height, width, _ = image.shape
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=_QUALITY, colorspace="BGR")
        content = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
        self._write(step, summary=Summary(value=[Summary.Value(tag=tag, image=content)]))

    def flush(self) -> None:
        """Bring what was appended to the disk: a process that is killed leaves it readable."""
        self.writer.flush()

    def close(self) -> None:
        """End the file."""
        self.writer.close()

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self.writer.write_event(Event(wall_time=time.time(), step=step, **content))
