"""MindSpore's own log, kept to errors. Nothing here imports MindSpore."""

from __future__ import annotations

import os


def quiet_mindspore() -> None:
    """Let MindSpore print errors only, unless the user set GLOG_v; has to come before MindSpore is first imported."""
    os.environ.setdefault("GLOG_v", "3")
