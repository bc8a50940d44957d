"""TensorBoard event files of a run, in RUN/tensorboard; view them with `tensorboard --logdir RUN`.

Events are written with tensorboardX's record writer, not with its SummaryWriter, which passes events to a thread
through a queue that a flush does not wait for. tensorboardX is imported late, because MindSpore must be imported before
protobuf.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_JPEG_QUALITY = 90


class EventWriter:
    """Writer of one event file."""

    def __init__(self, folder: Path, after: int) -> None:
        """Create a file. TensorBoard then ignores events of earlier files for steps later than `after`."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        # the suffix keeps two files apart that are created within the same second, the resolution of the name
        self.writer = EventsWriter(str(folder / "events"), f".{time.time_ns() % 10**9:09d}")
        self._write(after + 1, session_log=SessionLog(status=SessionLog.START))
        self.flush()

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Append scalar values by tag."""
        from tensorboardX.proto.summary_pb2 import Summary

        entries = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(step, summary=Summary(value=entries))

    def add_image(self, step: int, tag: str, image: NDArray[np.uint8]) -> None:
        """Append an image, (H, W, 3) uint8 BGR, encoded as JPEG."""
        import simplejpeg
        from tensorboardX.proto.summary_pb2 import Summary

        height, width, _ = image.shape
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=_JPEG_QUALITY, colorspace="BGR")
        content = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
        self._write(step, summary=Summary(value=[Summary.Value(tag=tag, image=content)]))

    def flush(self) -> None:
        """Write the appended events to the file, so that they survive if the process is killed."""
        self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        self.writer.close()

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self.writer.write_event(Event(wall_time=time.time(), step=step, **content))
