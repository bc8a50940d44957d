"""Log levels of libraries, set by environment variables. This module does not import the libraries."""

from __future__ import annotations

import os


def silence_mindspore() -> None:
    """Let MindSpore print errors only, unless the user set GLOG_v. Call this before the first import of MindSpore."""
    os.environ.setdefault("GLOG_v", "3")


def silence_opencv() -> None:
    """Silence OpenCV and its FFmpeg on damaged files, unless the user set their log levels. Call before the import."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
