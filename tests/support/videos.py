"""Video files for tests, written without ffmpeg: by OpenCV, or byte by byte where OpenCV cannot write the kind."""

from __future__ import annotations

import math
import struct

import cv2
import numpy as np


def write_video(path, images, fps=12.5, codec="mp4v"):
    """Write images (H, W, 3) with OpenCV at a constant rate."""
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (width, height))
    assert writer.isOpened()
    for image in images:
        writer.write(image)
    writer.release()


def turn_track(path, degrees):
    """Set the matrix of an MP4's track header, so that players turn the frames clockwise by 90, 180 or 270 degrees."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    assert struct.unpack_from(">9i", data, matrix) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    cosine, sine = (round(function(math.radians(degrees))) << 16 for function in (math.cos, math.sin))
    struct.pack_into(">9i", data, matrix, cosine, sine, 0, -sine, cosine, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def write_recording(path, images, milliseconds, duration=None, frame_duration=None):
    """Write a Matroska file with time stamps in ms.

    The header states duration and frame duration in ms if they are given; browsers write neither.
    """

    def element(code, content):
        return bytes.fromhex(code) + (0x10000000 | len(content)).to_bytes(4, "big") + content

    def number(code, value):
        return element(code, value.to_bytes(8, "big"))

    height, width = images[0].shape[:2]
    header = element("1a45dfa3", element("4282", b"matroska") + number("4287", 4) + number("4285", 2))
    info = element("1549a966", number("2ad7b1", 1_000_000) + element("4d80", b"test") + element("5741", b"test"))
    if duration is not None:
        info = element("1549a966", number("2ad7b1", 1_000_000) + element("4489", struct.pack(">d", duration)))
    video = element("e0", number("b0", width) + number("ba", height))
    entry = number("d7", 1) + number("73c5", 1) + number("83", 1) + element("86", b"V_MJPEG") + video
    if frame_duration is not None:
        entry += number("23e383", 1_000_000 * frame_duration)
    clusters = b""
    for image, time in zip(images, milliseconds, strict=True):
        frame = cv2.imencode(".jpg", image)[1].tobytes()
        clusters += element("1f43b675", number("e7", time) + element("a3", b"\x81\0\0\x80" + frame))
    path.write_bytes(header + element("18538067", info + element("1654ae6b", element("ae", entry)) + clusters))


def write_gif(path, images, delays):
    """Write images (H, W, 3) with delays in ms as GIF."""
    from PIL import Image

    first, *others = [Image.fromarray(image[..., ::-1]) for image in images]
    first.save(path, save_all=True, append_images=others, duration=delays, loop=0)


def write_animation(path, images, delays):
    """Write images (H, W, 3) with delays in ms as animated WebP or PNG."""
    animation = cv2.Animation()
    animation.frames, animation.durations = images, delays
    assert cv2.imwriteanimation(str(path), animation)


def shown_times(path):
    """Return the time stamps in s of the frames of a video, and its duration in s by its header."""
    capture = cv2.VideoCapture(str(path))
    duration = capture.get(cv2.CAP_PROP_FRAME_COUNT) / capture.get(cv2.CAP_PROP_FPS)
    times = []
    while capture.read()[0]:
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    return np.array(times), duration
