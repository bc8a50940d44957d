"""Tests of finding, naming and reading images and videos."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from evaluation.media.formats import Format, detect_format
from evaluation.media.sources import MAX_NAME_BYTES, find_sources, open_video, printable
from evaluation.media.video.reader import DEFAULT_FPS, VideoReader
from pipeline.errors import InputError
from tests.support.oracle import plain_image
from tests.support.videos import write_animation, write_gif, write_video


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def find(folder, *arguments):
    return find_sources([str(folder / argument) for argument in arguments] or [str(folder)], folder / "out")


def test_folders_are_searched_recursively_except_the_output_folder(tmp_path):
    touch(tmp_path, "b.JPG", "a/z.png", "a/b/c.webp", "notes.txt", ".hidden.jpg", ".git/x.jpg", "out/overlays/b.jpg")
    touch(tmp_path, "clip.MP4", "a/film.avi")
    found = find(tmp_path)
    assert [one.name for one in found.images] == ["b", "a/z", "a/b/c"]
    assert [one.path for one in found.images] == [tmp_path / "b.JPG", tmp_path / "a/z.png", tmp_path / "a/b/c.webp"]
    assert [one.name for one in found.videos] == ["clip", "a/film"]
    assert found.unsupported == ()


def test_equal_names_are_numbered(tmp_path):
    touch(tmp_path, "1/x.jpg", "1/x.png", "2/x.jpg", "2/X.jpg", "2/x-2.jpg", "x.jpg", "x.mp4")
    found = find(tmp_path, "1", "2", "x.jpg", "x.mp4", "x.jpg")
    assert [one.name for one in found.videos] == ["x"]
    assert [one.name for one in found.images] == ["x-2", "x-3", "X-4", "x-2-2", "x-5", "x-6"]


def test_image_name_never_equals_the_name_of_a_video_frame(tmp_path):
    touch(tmp_path, "x_000000000007.jpg", "y_000000000007.jpg", "x.mp4")
    found = find(tmp_path)
    assert found.videos[0].frame_name(7) == "x_000000000007"
    assert [one.name for one in found.images] == ["x_000000000007-2", "y_000000000007"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("two\nlines.jpg", "two_lines"),
        ("tab\there.jpg", "tab_here"),
        ("...jpg", "_."),
        ("..\\..\\up.jpg", "_._.._up"),
        ("C:up.jpg", "C_up"),
        ("naïve é.jpg", "naïve é"),
        ("x" * 240 + ".jpg", "x" * MAX_NAME_BYTES),
        ("é" * 120 + ".jpg", "é" * (MAX_NAME_BYTES // 2)),
    ],
)
def test_unsafe_names_are_sanitized(name, expected, tmp_path):
    touch(tmp_path, name)
    (found,) = find(tmp_path, name).images
    assert found.name == expected
    assert (tmp_path / "out" / found.name).resolve().parent == tmp_path / "out"


def test_undecodable_names_are_sanitized(tmp_path):
    import os

    raw = os.fsencode(tmp_path) + b"/\xff\xfe.jpg"
    Path(os.fsdecode(raw)).touch()
    (found,) = find(tmp_path).images
    assert found.name == "__"
    assert "\\udcff" in printable(found.path)
    found.name.encode()


def test_image_ids_are_unique_and_come_from_numeric_names(tmp_path):
    touch(tmp_path, "1/000000000042.jpg", "1/007.png", "1/dog.jpg", "2/42.jpg", "2/0000000000000000001.jpg")
    found = find(tmp_path, "1", "2")
    assert [one.image_id for one in found.images] == [42, 7, 43, 44, 45]
    assert found.next_image_id == 46
    touch(tmp_path, "3/b.jpg", "3/a.jpg")
    assert [one.image_id for one in find(tmp_path, "3").images] == [1, 2]


def test_image_ids_of_coco_2014_come_from_the_number_in_the_name(tmp_path):
    names = ("COCO_train2014_000000000009.jpg", "COCO_val2014_000000165518.jpg", "COCO_x.jpg", "my_000000000001.jpg")
    touch(tmp_path, *names)
    found = {one.path.name: one.image_id for one in find(tmp_path).images}
    assert [found[name] for name in names] == [9, 165518, 165519, 165520]


def test_content_decides_what_a_file_is(tmp_path):
    image = plain_image(50, (16, 16))
    for suffix in (".jpg", ".png", ".webp", ".bmp", ".tiff"):
        (tmp_path / f"image{suffix}.MP4").write_bytes(cv2.imencode(suffix, image)[1].tobytes())
    for suffix, codec in ((".avi", "MJPG"), (".mp4", "mp4v"), (".mkv", "MJPG"), (".ts", "mp4v"), (".flv", "FLV1")):
        write_video(tmp_path / f"x{suffix}", [image] * 30, codec=codec)
        (tmp_path / f"x{suffix}").rename(tmp_path / f"video{suffix}.jpg")
    write_gif(tmp_path / "x.gif", [image], [40])
    (tmp_path / "x.gif").rename(tmp_path / "video.gif.jpg")
    write_animation(tmp_path / "x.webp", [image, image + 9], [40, 40])
    (tmp_path / "x.webp").rename(tmp_path / "video.webp.jpg")
    found = find(tmp_path)
    assert [one.name for one in found.images] == [f"image{end}" for end in (".bmp", ".jpg", ".png", ".tiff", ".webp")]
    videos = [f"video{end}" for end in (".avi", ".flv", ".gif", ".mkv", ".mp4", ".ts", ".webp")]
    assert [one.name for one in found.videos] == videos
    for video in found.videos:
        assert len(list(open_video(video.source).frames())) in (1, 2, 30), video


ENDINGS = {
    "image": "jpg jpeg jpe jfif mpo png bmp dib webp tif tiff",
    "video": "mp4 m4v mov qt 3gp 3g2 avi mkv webm mpg mpeg m2v vob ts mts m2ts flv wmv asf ogv mxf gif apng dv y4m",
    "unreadable": "avif heic heif dng nef cr2 arw jp2 j2k jxl psd ppm",
    None: "txt json zip mp3 ogg m4a py",
}


def test_nothing_that_looks_like_an_image_or_video_is_passed_over(tmp_path):
    for kind, endings in ENDINGS.items():
        for ending in endings.split():
            for name in (f"lower-{ending}.{ending}", f"upper-{ending}.{ending.upper()}"):
                (tmp_path / name).write_bytes(b"\0\1\2 damaged beyond recognition")
                found = detect_format(tmp_path / name)
                assert (found and found.kind) == kind, name
    sources = find(tmp_path)
    assert len(sources.images) == 2 * len(ENDINGS["image"].split())
    assert len(sources.videos) == 2 * len(ENDINGS["video"].split())
    assert len(sources.unsupported) == 2 * len(ENDINGS["unreadable"].split())
    reasons = {path.name: reason for path, reason in sources.unsupported}
    assert reasons["upper-heic.HEIC"] == "HEIC images are not supported; convert it to JPEG, PNG, WebP, BMP or TIFF"


def test_images_of_other_formats_are_recognised_by_content(tmp_path):
    for start, name in (
        (b"\0\0\0\x1cftypavif", "AVIF"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x0cjP  \r\n", "JPEG 2000"),
        (b"8BPS\0\1", "Photoshop"),
        (b"P6 16 16 255 ", "PNM"),
    ):
        (tmp_path / "x.jpg").write_bytes(start + bytes(100))
        assert detect_format(tmp_path / "x.jpg") == Format(name, "unreadable")
        with pytest.raises(InputError, match=rf"x\.jpg: {name} images are not supported; convert"):
            find(tmp_path, "x.jpg")


def test_source_text_of_typescript_is_no_video(tmp_path):
    (tmp_path / "index.ts").write_text("export const answer = 42\n")
    touch(tmp_path, "x.jpg")
    assert find(tmp_path).videos == find(tmp_path).unsupported == ()


def test_numbers_are_cameras(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "7/x.jpg")
    found = find_sources(["0", "12"], tmp_path)
    assert [(one.source, one.name) for one in found.videos] == [(0, "camera0"), (12, "camera12")]
    assert find_sources(["./7"], tmp_path).images[0].name == "x"


def test_missing_sources_are_an_error_and_unsupported_files_are_listed(tmp_path):
    touch(tmp_path, "x.jpg", "notes.txt", "empty/notes.txt")
    assert find(tmp_path, "x.jpg", "notes.txt").unsupported[0][0] == tmp_path / "notes.txt"
    with pytest.raises(InputError, match=r"y\.jpg: no such file or folder"):
        find(tmp_path, "x.jpg", "y.jpg")
    with pytest.raises(InputError, match=r"no image or video found; supported extensions: .*\.jpg"):
        find(tmp_path, "empty")
    with pytest.raises(InputError, match=r"notes.txt: not an image or video; supported extensions: .*\.jpg"):
        find(tmp_path, "notes.txt")
    with pytest.raises(InputError, match=r"a\\nb: no such file"):
        find(tmp_path, "a\nb")


@pytest.mark.parametrize(("name", "codec"), [("x.mp4", "mp4v"), ("x.avi", "MJPG"), ("odd %03d.webm", "VP80")])
def test_all_frames_of_a_video_are_read(name, codec, tmp_path, capfd):
    write_video(tmp_path / name, [plain_image(8 * i, (48, 64)) for i in range(20)], codec=codec)
    reader = VideoReader(tmp_path / name)
    assert (reader.fps, reader.num_frames) == (12.5, 20)
    frames = list(reader)
    reader.close()
    assert [round(frame.mean() / 8) for frame in frames] == list(range(20))
    assert frames[0].shape == (48, 64, 3)
    assert capfd.readouterr().out == ""


def test_damaged_videos_are_errors(tmp_path):
    write_video(tmp_path / "x.mp4", [plain_image(8 * i, (48, 64)) for i in range(20)])
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "x.mp4").read_bytes()[:600])
    (tmp_path / "text.avi").write_text("no video")
    for name in ("cut.mp4", "text.avi", "none.mkv"):
        with pytest.raises(InputError, match="not a video that OpenCV can read"):
            VideoReader(tmp_path / name)
    with pytest.raises(InputError, match="no such camera"):
        VideoReader(9999)


def test_default_frame_rate_is_used_if_a_source_reports_none(tmp_path, monkeypatch):
    write_video(tmp_path / "x.avi", [plain_image(8, (48, 64))], codec="MJPG")
    monkeypatch.setattr(cv2, "CAP_PROP_FPS", -1)
    assert VideoReader(tmp_path / "x.avi").fps == DEFAULT_FPS
