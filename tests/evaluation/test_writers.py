"""Tests of the output formats and of atomic writes."""

from __future__ import annotations

import contextlib
import io
import json

import cv2
import numpy as np
import pytest

from evaluation.decoder.person import Person
from evaluation.media.video.reader import Frame, VideoReader
from evaluation.media.video.writer import VideoWriter
from evaluation.media.writers import (
    CocoWriter,
    coco_category,
    to_openpose_json,
    write_image,
    write_openpose_json,
)
from pipeline.errors import InputError
from pipeline.skeleton import COCO_KEYPOINTS, KEYPOINT_INDEX
from tests.support.oracle import plain_image, standing_person

PERSON = Person(standing_person(50.123456, 60, 80), 0.5)


def test_openpose_json_has_all_keys_of_the_openpose_library():
    keypoints = PERSON.keypoints.copy()
    keypoints[KEYPOINT_INDEX["left_wrist"]] = 0
    written = to_openpose_json([Person(keypoints, 0.5), PERSON])
    assert written["version"] == 1.3
    first, second = written["people"]
    assert list(first) == [
        "person_id",
        "pose_keypoints_2d",
        "face_keypoints_2d",
        "hand_left_keypoints_2d",
        "hand_right_keypoints_2d",
        "pose_keypoints_3d",
        "face_keypoints_3d",
        "hand_left_keypoints_3d",
        "hand_right_keypoints_3d",
    ]
    assert first["person_id"] == [-1]
    assert all(first[key] == [] for key in list(first)[2:])
    assert len(first["pose_keypoints_2d"]) == 54
    assert np.allclose(np.reshape(second["pose_keypoints_2d"], (18, 3)), PERSON.keypoints, atol=1e-4)
    assert first["pose_keypoints_2d"][3 * KEYPOINT_INDEX["left_wrist"] :][:3] == [0, 0, 0]
    assert to_openpose_json([]) == {"version": 1.3, "people": []}


def test_folders_of_openpose_files_are_created(tmp_path):
    write_openpose_json(tmp_path / "new", "a/b/x", [PERSON])
    assert json.loads((tmp_path / "new/a/b/x_keypoints.json").read_text()) == to_openpose_json([PERSON])
    assert [path.name for path in (tmp_path / "new/a/b").iterdir()] == ["x_keypoints.json"]


def test_coco_files_open_together_with_pycocotools(tmp_path):
    from pycocotools.coco import COCO

    with CocoWriter(tmp_path / "new") as coco:
        coco.add(7, (100, 120), [PERSON, PERSON], file_name="a/7.jpg")
        coco.add(3, (50, 60), [], file_name="film.mp4", frame=12)
        assert list(tmp_path.rglob("*.json")) == []
    assert coco.people == 2
    with contextlib.redirect_stdout(io.StringIO()):
        images = COCO(str(tmp_path / "new/images.json"))
        results = images.loadRes(str(tmp_path / "new/results.json"))
    assert images.loadImgs([7, 3]) == [
        {"id": 7, "width": 120, "height": 100, "file_name": "a/7.jpg"},
        {"id": 3, "width": 60, "height": 50, "file_name": "film.mp4", "frame": 12},
    ]
    assert len(results.getAnnIds(imgIds=[7])) == 2
    assert results.loadCats([1])[0]["keypoints"] == list(COCO_KEYPOINTS)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["images.json", "results.json"]


def test_empty_coco_files_are_valid(tmp_path):
    with CocoWriter(tmp_path):
        pass
    assert json.loads((tmp_path / "results.json").read_text()) == []
    assert json.loads((tmp_path / "images.json").read_text())["images"] == []


def test_an_error_keeps_existing_files(tmp_path):
    (tmp_path / "results.json").write_text("earlier")

    def fail():
        with CocoWriter(tmp_path) as coco, VideoWriter(tmp_path / "x.mp4", 25) as video:
            coco.add(7, (100, 120), [PERSON])
            video.write(Frame(plain_image(0, (32, 32)), 0))
            raise InputError("no more")

    with pytest.raises(InputError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_text() == "earlier"


def test_category_skeleton_never_joins_left_and_right():
    for a, b in coco_category()["skeleton"]:
        first, second = (COCO_KEYPOINTS[number - 1] for number in (a, b))
        assert "nose" in (first, second) or first.split("_")[0] == second.split("_")[0]
    assert [COCO_KEYPOINTS.index("left_hip") + 1, COCO_KEYPOINTS.index("left_knee") + 1] in coco_category()["skeleton"]


@pytest.mark.parametrize(("size", "fps"), [((48, 64), 12.5), ((90, 62), 29.97), ((33, 47), 60.0)])
def test_videos_keep_frame_rate_size_and_frames(size, fps, tmp_path):
    with VideoWriter(tmp_path / "new" / "x.mp4", fps) as video:
        for i in range(20):
            video.write(Frame(plain_image(8 * i, size), i / fps))
        assert [path.name for path in (tmp_path / "new").iterdir()] != ["x.mp4"]
    reader = VideoReader(tmp_path / "new" / "x.mp4")
    assert reader.fps == pytest.approx(fps, abs=0.01)
    frames = list(reader)
    assert [round(frame.mean() / 8) for frame in frames] == list(range(20))
    assert frames[0].shape[:2] == size
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_frame_of_another_size_is_resized(tmp_path):
    with VideoWriter(tmp_path / "x.mp4", 25) as video:
        for i, size in enumerate([(48, 64), (24, 32), (480, 64)]):
            video.write(Frame(plain_image(100, size), i / 25))
    assert [frame.shape for frame in VideoReader(tmp_path / "x.mp4")] == [(48, 64, 3)] * 3


def test_a_video_without_frames_is_not_written(tmp_path):
    with VideoWriter(tmp_path / "new" / "x.mp4", 25):
        pass
    assert list(tmp_path.iterdir()) == []


def test_images_are_written_as_jpeg_or_png(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    write_image(tmp_path, "a/x", image, ".png")
    write_image(tmp_path, "a/x", image, ".jpg")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["x.jpg", "x.png"]
    assert (cv2.imread(str(tmp_path / "a/x.png")) == image).all()
    assert cv2.imread(str(tmp_path / "a/x.jpg")).shape == image.shape


def test_write_errors_are_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")

    def write_video():
        with VideoWriter(tmp_path / "file" / "x.mp4", 25) as video:
            video.write(Frame(plain_image(0, (32, 32)), 0))

    for write in (
        lambda: write_openpose_json(tmp_path / "file", "x", []),
        lambda: write_image(tmp_path / "file", "x", plain_image(0, (8, 8)), ".png"),
        lambda: CocoWriter(tmp_path / "file"),
        write_video,
    ):
        with pytest.raises(InputError, match=r"file/\w+(\.\w+): cannot be written: ") as raised:
            write()
        assert "\n" not in str(raised.value)
