"""Read COCO keypoint files: trainable people, ignore regions and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pipeline.annotations.annotated_image import PersonFilter
from pipeline.annotations.coco import annotation_file, read_annotations, read_coco
from pipeline.annotations.ignore_region import DILATION, decode_counts
from pipeline.annotations.image_files import ImageFolder
from pipeline.errors import InputError
from pipeline.skeleton import KEYPOINT_INDEX
from pipeline.storage.records import rle_to_mask
from tests.support.coco_folder import CATEGORY, image, mixed, person, write


def _file(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "people.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def _message(tmp_path: Path, content: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_annotations(_file(tmp_path, content), PersonFilter(), ImageFolder(tmp_path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_trainable_and_ignored_people(tmp_path: Path) -> None:
    folder = write(tmp_path, mixed(8), pictures=False)
    annotations = read_coco(folder, "train")
    assert [len(one.keypoints) for one in annotations] == [1, 1, 0, 0, 1, 1, 0, 0]
    assert [rle_to_mask(one.ignore).any() for one in annotations] == [False, True, True, False] * 2
    assert [len(one.truth) for one in annotations] == [1, 2, 1, 0] * 2
    trainable = read_coco(folder, "train", keep_empty=False)
    assert [one.image_id for one in trainable] == [100, 101, 104, 105]
    assert all("segmentation" not in truth for one in annotations for truth in one.truth)


def test_default_thresholds_are_those_of_the_reference(tmp_path: Path) -> None:
    people = [
        person(1, 1, labelled=5, area=1024.5),
        person(2, 1, labelled=4, area=5000),
        person(3, 1, labelled=17, area=1024),
    ]
    path = _file(tmp_path, {"images": [image(1)], "annotations": people, "categories": [CATEGORY]})
    (picture,) = read_annotations(path, PersonFilter()).images
    assert [one.trainable for one in picture.people] == [True, False, False]
    (picture,) = read_annotations(path, PersonFilter(min_keypoints=4, min_area=1000)).images
    assert [one.trainable for one in picture.people] == [True, True, True]


def test_keypoints_keep_fractions_and_get_a_neck(tmp_path: Path) -> None:
    (one,) = read_coco(write(tmp_path, mixed(1), pictures=False), "train")
    assert one.keypoints.shape == (1, 18, 3)
    assert one.keypoints.dtype == np.float32
    assert one.keypoints[0, KEYPOINT_INDEX["nose"]].tolist() == [10, 12.5, 1]
    assert one.keypoints[0, KEYPOINT_INDEX["neck"]].tolist() == [15.5, 13.5, 1]


def _region(tmp_path: Path, segmentation: Any, size: tuple[int, int] = (200, 300)) -> np.ndarray:
    crowd = {**person(1, 1, labelled=0, crowd=1), "segmentation": segmentation, "bbox": [100.0, 60.0, 40.0, 20.0]}
    content = {"images": [image(1, *size)], "annotations": [crowd], "categories": [CATEGORY]}
    (picture,) = read_annotations(_file(tmp_path, content), PersonFilter()).images
    mask = picture.ignore_mask()
    assert mask is not None
    return mask


def test_all_forms_of_a_segmentation_give_the_same_region(tmp_path: Path) -> None:
    region = np.zeros((200, 300), np.uint8, order="F")
    region[60:80, 100:140] = 1
    compressed = coco_mask.encode(region)
    flat = np.concatenate(([0], region.ravel(order="F"), [0]))
    edges = [0, *np.flatnonzero(np.diff(flat)).tolist(), region.size]
    expected = np.zeros((200, 300), np.uint8)
    expected[60 - DILATION : 80 + DILATION, 100 - DILATION : 140 + DILATION] = 1
    forms = [
        None,
        [],
        {"size": [200, 300], "counts": compressed["counts"].decode()},
        {"size": [200, 300], "counts": np.diff(edges).tolist()},
    ]
    for form in forms:
        np.testing.assert_array_equal(_region(tmp_path, form), expected)
    # pixels on the border of a polygon may be inside or outside
    polygon = _region(tmp_path, [[100, 60, 140, 60, 140, 80, 100, 80]])
    assert (polygon != expected).sum() <= 2 * expected.any(axis=0).sum() + 2 * expected.any(axis=1).sum()
    assert (polygon >= expected).all()


def test_polygons_agree_with_pycocotools(coco_mini: Path) -> None:
    data = json.loads(annotation_file(coco_mini, "train2017").read_bytes())
    sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in data["images"]}
    pictures = read_annotations(annotation_file(coco_mini, "train2017"), PersonFilter()).images
    compared = 0
    for picture in pictures:
        mask = picture.ignore_mask()
        rows = [a for a in data["annotations"] if a["image_id"] == picture.image_id]
        union = np.zeros(sizes[picture.image_id], np.uint8)
        for row, one in zip(rows, picture.people, strict=True):
            if not one.trainable:
                shape = row["segmentation"]
                rle = coco_mask.frPyObjects(shape, *union.shape)
                union |= coco_mask.decode(coco_mask.merge(rle) if isinstance(rle, list) else rle)
        if mask is None:
            assert not union.any()
            continue
        dilated = cv2.dilate(union, np.ones((2 * DILATION + 1, 2 * DILATION + 1), np.uint8))
        # pycocotools omits parts that are thinner than one pixel, OpenCV fills them
        assert (mask <= cv2.dilate(dilated, np.ones((7, 7), np.uint8))).all()
        assert (dilated <= cv2.dilate(mask, np.ones((3, 3), np.uint8))).all()
        compared += 1
    assert compared == 24


def test_real_annotations(coco_mini: Path) -> None:
    annotations = read_coco(coco_mini, "train2017")
    assert len(annotations) == 80
    assert sum(len(one.truth) for one in annotations) == 172
    assert sum(len(one.keypoints) for one in annotations) == 72
    assert len(read_coco(coco_mini, "train2017", keep_empty=False)) == 25


def test_every_error_is_counted(tmp_path: Path) -> None:
    content = mixed(6)
    del content["annotations"][0]["keypoints"][-1]
    content["annotations"][1]["image_id"] = 77
    content["annotations"][2]["bbox"] = [1, 2, float("inf"), 4]
    content["images"][5]["height"] = -1
    message = _message(tmp_path, content)
    assert "people.json: 4 errors; first: image 105: height is -1, expected 1..65536 px; annotation 1000: " in message
    assert "annotation 1010: image_id is 77, expected one of the file's images (--on-bad-annotation skip" in message


def _changed(name: str, value: Any) -> dict[str, Any]:
    content = mixed(1)
    section, key = name.split(".")
    if value is KeyError:
        del content[section][0][key]
    else:
        content[section][0][key] = value
    return content


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("annotations.keypoints", [0] * 50, "annotation 1000: keypoints has 50 numbers, expected 51"),
        ("annotations.keypoints", [0, 0, 3] * 17, "visibility of 3"),
        ("annotations.keypoints", ["a", 0, 2] * 17, "keypoints holds 'a'"),
        ("annotations.keypoints", [float("inf"), 0, 2] * 17, "keypoints holds inf"),
        ("annotations.keypoints", [10**400, 0, 2] * 17, "keypoints holds 1000"),
        ("annotations.keypoints", [[1], 0, 2] * 17, "keypoints holds [1]"),
        ("annotations.area", -1, "area is -1"),
        ("annotations.area", True, "area is True"),
        ("annotations.iscrowd", 2, "iscrowd is 2, expected 0 or 1"),
        ("annotations.image_id", 5, "image_id is 5"),
        ("annotations.image_id", [1], "image_id is [1]"),
        ("annotations.category_id", 2, "category_id is 2"),
        ("images.id", 10**30, "image 1000"),
        ("images.id", None, "id is None"),
        ("images.file_name", "../secret.jpg", "file_name is '../secret.jpg'"),
        ("images.file_name", "/etc/passwd", "file_name is '/etc/passwd'"),
        ("images.file_name", "a/../../b.jpg", "a path below the image folder"),
        ("images.file_name", "", "a path below the image folder"),
        ("images.file_name", "a\0.jpg", "a path below the image folder"),
        ("images.width", 70_000, "width is 70000"),
        ("images.height", 2.5, "height is 2.5"),
        ("categories.keypoints", ["nose"], "category 'person': its 1 keypoints lack left_eye"),
    ],
)
def test_error_names_the_field(tmp_path: Path, name: str, value: Any, expected: str) -> None:
    message = _message(tmp_path, _changed(name, value))
    assert expected in message
    assert "people.json: " in message
    assert len(message) < 400


def test_two_images_of_one_id_are_an_error(tmp_path: Path) -> None:
    content = mixed(2)
    content["images"][1]["id"] = 100
    message = _message(tmp_path, content)
    assert "image 100: its id is used by two images: '000000000100.jpg' and '000000000101.jpg'" in message


def test_other_categories_are_ignored(tmp_path: Path) -> None:
    content = mixed(1)
    content["categories"].append({"id": 2, "name": "dog"})
    content["annotations"].append({"id": 9, "image_id": 100, "category_id": 2})
    (picture,) = read_annotations(_file(tmp_path, content), PersonFilter()).images
    assert len(picture.people) == 1


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "[]", "{}", '{"images": 1}', "\ufffe", '{"images": [}'])
def test_other_content_is_an_error(tmp_path: Path, content: str) -> None:
    assert "people.json: " in _message(tmp_path, content)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"person_keypoints_val2017\.json: no such file"):
        read_coco(tmp_path, "val2017")


def test_links_must_not_point_outside_the_image_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside.jpg"
    inside.mkdir()
    outside.write_bytes(b"x")
    (inside / "link.jpg").symlink_to(outside)
    (inside / "real.jpg").write_bytes(b"x")
    (inside / "near.jpg").symlink_to(inside / "real.jpg")
    assert Path(ImageFolder(inside).file_path("near.jpg")).read_bytes() == b"x"
    with pytest.raises(InputError, match="points outside"):
        ImageFolder(inside).file_path("link.jpg")


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32), st.floats(0, 1))
def test_compressed_counts_of_pycocotools_are_decoded(height: int, width: int, seed: int, fill: float) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < fill).astype(np.uint8)
    counts = decode_counts(coco_mask.encode(np.asfortranarray(mask))["counts"].decode())
    values = np.arange(len(counts)) % 2
    np.testing.assert_array_equal(np.repeat(values, counts).reshape(width, height).T, mask)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([(section, key) for section, entry in mixed(1).items() for key in entry[0]]),
    _JSON,
)
def test_any_value_in_any_field_is_accepted_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[str, str], value: Any
) -> None:
    content = mixed(2)
    content[place[0]][0][place[1]] = value
    path = _file(tmp_path_factory.mktemp("fuzz"), content)
    message = None
    try:
        pictures = read_annotations(path, PersonFilter()).images
    except InputError as error:
        message = str(error)
    if message is None:
        assert [picture.annotation().height for picture in pictures]
    else:
        assert message.startswith(str(path))
        assert "\n" not in message
