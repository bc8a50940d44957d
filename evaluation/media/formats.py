"""Format of an image or video file, by its content: the first bytes decide, not the file name extension.

Extensions count only where the content says nothing: a damaged file with the extension of an image is still reported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["image", "animation", "video", "unreadable"]

_IMAGES = "jpg jpeg jpe jfif mpo png bmp dib webp tif tiff"
_VIDEOS = (
    "mp4 m4v mov qt 3gp 3g2 avi divx mkv webm ogv flv f4v gif apng mpg mpeg mpe m2v vob ts mts m2ts m2t wmv asf mxf dv"
    " y4m rm rmvb wtv nut ivf mjpeg h264 h265 hevc"
)
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _IMAGES.split())
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _VIDEOS.split())
"""File name extensions, in lower case, of supported files."""

UNREADABLE_SUFFIXES = {
    **dict.fromkeys((".avif", ".avifs"), "AVIF"),
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC"),
    **dict.fromkeys((".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"), "camera raw"),
    **dict.fromkeys((".jp2", ".j2k", ".jpf", ".jpx"), "JPEG 2000"),
    **dict.fromkeys((".pbm", ".pgm", ".ppm", ".pnm"), "PNM"),
    ".jxl": "JPEG XL",
    ".psd": "Photoshop",
}
"""Formats of images that are not supported, by extension."""

AUDIO_SUFFIXES = frozenset({".m4a", ".m4b", ".mka", ".ogg", ".oga", ".opus", ".wma"})
"""Extensions of sound in the same containers as videos."""

_HEAD_BYTES = 1024
_TS_PACKETS = (188, 192)  # bytes; with a time stamp of 4 bytes before each packet in .m2ts

_PATTERNS: tuple[tuple[bytes, str, Kind], ...] = (
    (rb"\xff\xd8\xff", "JPEG", "image"),
    (rb"\x89PNG\r\n\x1a\n", "PNG", "image"),
    (rb"RIFF....WEBP", "WebP", "image"),
    (rb"BM....\0\0\0\0", "BMP", "image"),
    (rb"II\*\0........CR", "camera raw", "unreadable"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF", "image"),
    (rb"\0\0\0\x0cjP  \r\n|\xff\x4f\xff\x51", "JPEG 2000", "unreadable"),
    (rb"P[1-6]\s", "PNM", "unreadable"),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "JPEG XL", "unreadable"),
    (rb"8BPS", "Photoshop", "unreadable"),
    (rb"....ftypavi[fs]", "AVIF", "unreadable"),
    (rb"....ftyp(hei[cxms]|hev[cx]|mif1|msf1)", "HEIC", "unreadable"),
    (rb"....ftypcrx ", "camera raw", "unreadable"),
    (rb"....ftyp|....(moov|mdat|wide|skip|free|pnot)", "MP4", "video"),
    (rb"GIF8[79]a", "GIF", "video"),
    (rb"RIFF....AVI ", "AVI", "video"),
    (rb"\x1a\x45\xdf\xa3", "Matroska", "video"),
    (rb"FLV\x01", "FLV", "video"),
    (rb"\0\0\x01[\xba\xb3]", "MPEG", "video"),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "ASF", "video"),
    (rb"OggS", "Ogg", "video"),
    (rb"YUV4MPEG2 ", "YUV4MPEG2", "video"),
    (rb"\x06\x0e\x2b\x34\x02\x05\x01\x01", "MXF", "video"),
)
_SIGNATURES = tuple((re.compile(pattern, re.DOTALL), name, kind) for pattern, name, kind in _PATTERNS)


@dataclass(frozen=True)
class Format:
    """The format of a file.

    Attributes:
        name: name for messages.
        kind: "image"; "animation" (an image file with several frames, read by OpenCV's image decoders); "video" (read
            by OpenCV's FFmpeg); "unreadable" (an image whose format is not supported).
    """

    name: str
    kind: Kind


def detect_format(path: Path) -> Format | None:
    """Return the format of a file by its content, else by its extension; None if it is neither an image nor a video.

    A file that cannot be opened has the format of its extension, so that reading it reports the reason.
    """
    suffix = path.suffix.lower()
    head = _read_head(path)
    if UNREADABLE_SUFFIXES.get(suffix) == "camera raw":  # TIFF files, of which OpenCV would read the thumbnail
        return Format("camera raw", "unreadable")
    found = _format_of_content(head, path)
    if found:
        return None if found.kind == "video" and suffix in AUDIO_SUFFIXES else found
    if suffix in UNREADABLE_SUFFIXES:
        return Format(UNREADABLE_SUFFIXES[suffix], "unreadable")
    if suffix in IMAGE_SUFFIXES:
        return Format(suffix[1:].upper(), "image")
    if suffix in (".ts", ".mts") and head and b"\0" not in head:  # source text of TypeScript
        return None
    return Format(suffix[1:].upper(), "video") if suffix in VIDEO_SUFFIXES else None


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError:
        return b""


def _format_of_content(head: bytes, path: Path) -> Format | None:
    for pattern, name, kind in _SIGNATURES:
        if pattern.match(head):
            is_animation = (name == "WebP" and head[12:16] == b"VP8X" and head[20] & 2) or (
                name == "PNG" and _has_animation_chunk(path)
            )
            return Format(f"animated {name}", "animation") if is_animation else Format(name, kind)
    for packet in _TS_PACKETS:
        first = packet - 188
        if len(head) > 4 * packet and all(head[first + i * packet] == 0x47 for i in range(5)):
            return Format("MPEG-TS", "video")
    return None


def _has_animation_chunk(path: Path) -> bool:
    """True if a PNG has the chunk acTL, which precedes the pixels, and more than one frame."""
    try:
        with path.open("rb") as file:
            file.seek(8)
            while len(header := file.read(8)) == 8 and header[4:] != b"IDAT":
                length = int.from_bytes(header[:4], "big")
                if header[4:] == b"acTL":
                    return int.from_bytes(file.read(4), "big") > 1
                file.seek(length + 4, 1)
    except OSError:
        pass
    return False
