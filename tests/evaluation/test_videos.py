"""Tests of time stamps, rotation, size and sound of videos, from reading to the overlay."""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess

import cv2
import numpy as np
import pytest

from evaluation.media.formats import detect_format
from evaluation.media.sources import open_video
from evaluation.media.video.mp4 import rewrite_index
from evaluation.media.video.reader import AnimationReader, Frame, VideoReader
from evaluation.media.video.writer import VideoWriter
from pipeline.errors import InputError
from tests.support.oracle import plain_image
from tests.support.videos import shown_times, turn_track, write_animation, write_gif, write_recording, write_video

DELAYS = [50, 100, 200, 40, 300, 600]


def grey_levels(number, size=(48, 64)):
    return [plain_image(20 * i + 20, size) for i in range(number)]


def copy(source, target, sound=None):
    """Write the frames of a video to another one, as predict does."""
    reader = open_video(source)
    with VideoWriter(target, reader.fps, sound) as writer:
        for frame in reader.frames():
            writer.write(frame)
    reader.close()
    return shown_times(target)


def quadrants(size):
    """Return an image whose quadrants are 40, 100, 160 and 220, clockwise from the upper left."""
    image = plain_image(0, size)
    height, width = size[0] // 2, size[1] // 2
    image[:height, :width], image[:height, width:] = 40, 100
    image[height:, width:], image[height:, :width] = 160, 220
    return image


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_frames_are_turned_as_players_turn_them(degrees, tmp_path):
    scene = quadrants((64, 96))
    stored = np.ascontiguousarray(np.rot90(scene, degrees // 90))  # counterclockwise; players turn it back
    write_video(tmp_path / "x.mp4", [stored] * 3)
    turn_track(tmp_path / "x.mp4", degrees)
    frames = list(VideoReader(tmp_path / "x.mp4"))
    assert [frame.shape for frame in frames] == [scene.shape] * 3
    assert np.abs(frames[0][8::16, 8::16].astype(int) - scene[8::16, 8::16]).max() < 12


def test_a_recording_of_a_browser_keeps_its_duration(tmp_path):
    stamps = [0, 31, 66, 103, 147, 171, 200, 333, 366]
    write_recording(tmp_path / "rec.webm", grey_levels(9), stamps)
    assert cv2.VideoCapture(str(tmp_path / "rec.webm")).get(cv2.CAP_PROP_FPS) == 1000
    assert VideoReader(tmp_path / "rec.webm").num_frames is None
    times, duration = copy(tmp_path / "rec.webm", tmp_path / "out.mp4")
    assert np.abs(times - np.array(stamps) / 1000).max() < 1e-3
    assert duration == pytest.approx(0.366 + 0.0355, abs=3e-3)


def test_variable_frame_rates_are_kept(tmp_path):
    write_video(tmp_path / "x.mp4", grey_levels(8), fps=30)
    stamps = [0, 0.033, 0.067, 0.1, 0.6, 0.62, 2, 2.033]
    rewrite_index(tmp_path / "x.mp4", stamps, 2.066, None)
    times, duration = copy(tmp_path / "x.mp4", tmp_path / "out.mp4")
    assert np.abs(times - stamps).max() < 1e-3
    assert duration == pytest.approx(2.066, abs=0.02)
    assert [round((frame.mean() - 20) / 20) for frame in VideoReader(tmp_path / "out.mp4")] == list(range(8))


def test_a_low_rate_is_not_taken_for_damage(tmp_path):
    """A file that states a duration and a rate, but has fewer frames than both suggest."""
    stamps = [40 * i for i in range(8)] + [400, 1400, 2400, 3000]
    write_recording(tmp_path / "x.mkv", grey_levels(12), stamps, duration=3040, frame_duration=40)
    reader = VideoReader(tmp_path / "x.mkv")
    assert reader.num_frames == 76
    assert len(list(reader.frames())) == 12
    assert not reader.is_incomplete(12)
    (tmp_path / "x.mkv").write_bytes((tmp_path / "x.mkv").read_bytes()[:-1500])
    reader = VideoReader(tmp_path / "x.mkv")
    frames = len(list(reader.frames()))
    assert 5 < frames < 12
    assert reader.is_incomplete(frames)


def test_a_constant_rate_stays_in_the_header(tmp_path):
    write_video(tmp_path / "x.avi", grey_levels(10), fps=29.97, codec="MJPG")
    copy(tmp_path / "x.avi", tmp_path / "out.mp4")
    assert VideoReader(tmp_path / "out.mp4").fps == pytest.approx(29.97, abs=0.01)


def test_animated_images_give_all_frames_with_their_delays(tmp_path):
    for name, write in (("x.gif", write_gif), ("x.webp", write_animation), ("x.png", write_animation)):
        path = tmp_path / name
        write(path, grey_levels(6, (33, 48)), DELAYS)
        assert detect_format(path).kind in ("video", "animation")
        frames = list(open_video(path).frames())
        assert [round((frame.image.mean() - 20) / 20) for frame in frames] == list(range(6))
        assert frames[0].image.shape == (33, 48, 3)
        times, duration = copy(path, tmp_path / f"{name}.mp4")
        assert np.abs(times - np.cumsum([0, *DELAYS[:-1]]) / 1000).max() < 1e-3
        assert duration == pytest.approx(1.29, abs=0.01)


def test_delays_near_zero_are_those_of_browsers(tmp_path):
    write_animation(tmp_path / "x.webp", grey_levels(3), [0, 10, 20])
    assert [frame.duration for frame in open_video(tmp_path / "x.webp").frames()] == [0.1, 0.1, 0.02]


def test_long_animations_are_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.media.video.reader._CHUNK_PIXELS", 4 * 48 * 64)
    write_animation(tmp_path / "x.webp", grey_levels(10), [40] * 10)
    frames = list(open_video(tmp_path / "x.webp").frames())
    assert [round((frame.image.mean() - 20) / 20) for frame in frames] == list(range(10))
    assert [frame.time for frame in frames] == pytest.approx([0.04 * i for i in range(10)])


def test_transparent_frames_are_white(tmp_path):
    images = [np.dstack([plain_image(100, (8, 8)), np.full((8, 8), opacity, np.uint8)]) for opacity in (255, 0)]
    write_animation(tmp_path / "x.png", images, [40, 40])
    assert [frame.image.mean() for frame in open_video(tmp_path / "x.png").frames()] == [100, 255]


def test_still_images_are_no_animations(tmp_path):
    for name in ("x.png", "x.webp"):
        cv2.imwrite(str(tmp_path / name), plain_image(9, (8, 8)))
        assert detect_format(tmp_path / name).kind == "image"


def test_damaged_animations_are_errors_or_short(tmp_path, capfd):
    for name in ("x.webp", "x.png"):
        write_animation(tmp_path / name, grey_levels(6), DELAYS)
        data = (tmp_path / name).read_bytes()
        for length in (40, len(data) // 2, len(data) - 10):
            (tmp_path / name).write_bytes(data[:length])
            with contextlib.suppress(InputError):
                assert len(list(AnimationReader(tmp_path / name).frames())) < 6


@pytest.mark.parametrize("size", [(33, 47), (97, 64), (64, 129)])
def test_odd_sizes_are_kept(size, tmp_path):
    scene = np.asarray(cv2.resize(quadrants((32, 32)), size[::-1]), dtype=np.uint8)
    scene[-1], scene[:, -1] = 250, 250
    with VideoWriter(tmp_path / "x.mp4", 25) as writer:
        for i in range(14):  # more than one group of frames
            writer.write(Frame(scene, i / 25))
    frames = list(VideoReader(tmp_path / "x.mp4"))
    assert [frame.shape for frame in frames] == [(*size, 3)] * 14
    assert max(np.abs(frame.astype(int) - scene).mean() for frame in frames) < 4
    assert frames[-1][-1].mean() > 200


def test_an_index_of_another_structure_is_left_unchanged(tmp_path):
    write_video(tmp_path / "x.mp4", grey_levels(3))
    data = (tmp_path / "x.mp4").read_bytes()
    trailing = data + struct.pack(">I4s", 8, b"free")
    for content, times in ((data, [0.0, 1.0]), (trailing, [0.0, 1.0, 2.0]), (b"", [0.0])):
        (tmp_path / "x.mp4").write_bytes(content)
        with pytest.raises(ValueError, match="expected"):
            rewrite_index(tmp_path / "x.mp4", times, 3.0, None)
        assert (tmp_path / "x.mp4").read_bytes() == content


def test_sound_is_copied_if_ffmpeg_is_installed(tmp_path, monkeypatch):
    write_video(tmp_path / "x.mp4", grey_levels(10), fps=10)
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        pytest.skip("ffmpeg, which writes the sound of this test's video, is not installed")
    tone = ["-f", "lavfi", "-i", "sine=frequency=440:duration=1"]
    command = [ffmpeg, "-v", "error", "-i", "x.mp4", *tone, "-c:v", "copy", "-c:a", "aac", "with.mp4"]
    subprocess.run(command, cwd=tmp_path, check=True)
    times, _ = copy(tmp_path / "with.mp4", tmp_path / "out.mp4", sound=tmp_path / "with.mp4")
    assert b"soun" in (tmp_path / "out.mp4").read_bytes()
    assert np.abs(times - np.arange(10) / 10).max() < 1e-3
    monkeypatch.setenv("PATH", "")
    times, _ = copy(tmp_path / "with.mp4", tmp_path / "silent.mp4", sound=tmp_path / "with.mp4")
    assert b"soun" not in (tmp_path / "silent.mp4").read_bytes()
    assert len(times) == 10
    assert not list(tmp_path.glob(".*"))
