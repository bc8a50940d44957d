"""What libraries would say by themselves, kept to what nobody else says. Nothing here imports them."""

from __future__ import annotations

import os


def silence_mindspore() -> None:
    """Let MindSpore print errors only, unless the user set GLOG_v; has to come before MindSpore is first imported."""
    os.environ.setdefault("GLOG_v", "3")


def silence_opencv() -> None:
    """Keep OpenCV and its FFmpeg from talking of damaged files, unless the user set their levels; before the import."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
