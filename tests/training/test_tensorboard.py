"""TensorBoard event files: written events can be read at once, and no step appears twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import simplejpeg

from tests.support.coco_folder import ROOT
from tests.support.events import read_curves
from training.loop.tensorboard import EventWriter


def test_scalars_and_images_round_trip(tmp_path):
    image = np.zeros((40, 64, 3), np.uint8)
    image[:, :32] = (200, 30, 60)
    events = EventWriter(tmp_path / "tensorboard", after=0)
    events.add_scalars(10, {"loss/total": 0.25, "rate/stages": 1e-3})
    events.add_image(10, "maps", image)
    events.close()
    found = read_curves(tmp_path)
    assert found["loss/total"] == [(10, 0.25)]
    assert found["rate/stages"] == [(10, pytest.approx(1e-3))]
    ((step, picture),) = found["maps"]
    assert (step, picture.height, picture.width, picture.colorspace) == (10, 40, 64, 3)
    decoded = simplejpeg.decode_jpeg(picture.encoded_image_string, colorspace="BGR")
    assert np.abs(decoded.astype(int) - image)[:, 4:28].mean() < 4


def test_a_new_file_replaces_the_steps_that_it_repeats(tmp_path):
    """All within one second, the resolution of the file names of tensorboardX."""
    for after, steps in ((0, (10, 20, 30)), (15, (20, 30, 40)), (40, (50,))):
        events = EventWriter(tmp_path / "tensorboard", after)
        for step in steps:
            events.add_scalars(step, {"loss/total": step + after})
        events.close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3
    assert read_curves(tmp_path)["loss/total"] == [(10, 10), (20, 35), (30, 45), (40, 55), (50, 90)]


def test_flushed_events_survive_a_kill(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
import mindspore
from training.loop.tensorboard import EventWriter
events = EventWriter(Path(sys.argv[1]), after=0)
for step in range(1, 101):
    events.add_scalars(step, {"loss/total": step})
events.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "tensorboard")]
    assert subprocess.run(command, cwd=ROOT, env=os.environ, check=False).returncode == -signal.SIGKILL
    assert read_curves(tmp_path)["loss/total"] == [(step, step) for step in range(1, 101)]
