"""Annotation files as tools export them: what is filled in or corrected, and what is still an error."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.annotations.annotated_image import AnnotatedImage, PersonFilter
from pipeline.annotations.coco import AnnotationFile, read_annotations
from pipeline.annotations.image_files import ImageFolder
from pipeline.annotations.values import parse_id
from pipeline.errors import InputError
from pipeline.skeleton import COCO_KEYPOINTS
from tests.support.coco_folder import CATEGORY, image, jpeg, person


def content() -> dict[str, Any]:
    """Two images of 200x300 px with one trainable person each, whose box has 100x150 px."""
    people = [person(7, 1), person(8, 2)]
    for one in people:
        one |= {"bbox": [10, 12, 100, 150], "area": 9000.0}
        one["segmentation"] = [[10.0, 12.0, 110.0, 12.0, 110.0, 162.0, 10.0, 162.0]]
    images = [image(1, 200, 300), image(2, 200, 300)]
    return {"images": images, "annotations": people, "categories": [copy.deepcopy(CATEGORY)]}


def read(tmp_path: Path, data: Any, **options: Any) -> AnnotationFile:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(data))
    return read_annotations(path, PersonFilter(), ImageFolder(tmp_path), **options)


def changed(**values: Any) -> dict[str, Any]:
    """Return `content` with other values in the first annotation; KeyError removes a field."""
    data = content()
    for name, value in values.items():
        if value is KeyError:
            del data["annotations"][0][name]
        else:
            data["annotations"][0][name] = value
    return data


def first_truth(file: AnnotationFile) -> dict[str, Any]:
    return file.images[0].people[0].truth


def renamed(names: list[str], name: str = "person") -> dict[str, Any]:
    data = content()
    data["categories"][0] |= {"keypoints": names, "name": name}
    return data


EXPECTED = content()["annotations"][0]["keypoints"]


def test_a_file_of_coco_is_not_changed(tmp_path: Path) -> None:
    file = read(tmp_path, content())
    assert file.filled == {}
    assert file.left_out == []
    expected = {name: value for name, value in content()["annotations"][0].items() if name != "segmentation"}
    assert first_truth(file) == expected


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ({"iscrowd": KeyError}, "iscrowd", {"iscrowd": 0}),
        ({"iscrowd": None}, "iscrowd", {"iscrowd": 0}),
        ({"iscrowd": False}, "iscrowd", {"iscrowd": 0}),
        ({"iscrowd": True}, "iscrowd", {"iscrowd": 1}),
        ({"iscrowd": "0"}, "iscrowd", {"iscrowd": 0}),
        ({"area": KeyError}, "area", {"area": 15000}),
        ({"area": 0}, "area", {"area": 15000}),
        ({"area": None, "segmentation": [[10, 12, 60, 12, 60, 162, 10, 162]]}, "area", {"area": 7500}),
        ({"area": float("nan"), "segmentation": []}, "area", {"area": 15000}),
        ({"area": "9000"}, None, {"area": 9000}),
        ({"bbox": KeyError}, "bbox", {"bbox": [10, 12, 100, 150]}),
        ({"bbox": [], "segmentation": None}, "bbox", {"bbox": [10, 12.5, 16, 2]}),
        ({"bbox": [float("nan")] * 4, "segmentation": {}}, "bbox", {"bbox": [10, 12.5, 16, 2]}),
        ({"bbox": [110, 162, -100, -150]}, "numbers in another form", {"bbox": [10, 12, 100, 150]}),
        ({"bbox": ["10", "12.0", "100", "150"]}, "numbers in another form", {"bbox": [10, 12, 100, 150]}),
        ({"num_keypoints": 3}, "num_keypoints", {"num_keypoints": 17}),
        ({"num_keypoints": KeyError}, None, {"num_keypoints": 17}),
        ({"keypoints": KeyError}, "people without keypoints", {"num_keypoints": 0}),
        ({"keypoints": None}, "people without keypoints", {"num_keypoints": 0}),
        ({"keypoints": []}, "people without keypoints", {"num_keypoints": 0}),
        ({"keypoints": [0] * 51, "num_keypoints": 0}, None, {"num_keypoints": 0}),
        ({"keypoints": [str(value) for value in EXPECTED]}, "numbers in another form", {"keypoints": EXPECTED}),
        ({"keypoints": [EXPECTED[i : i + 3] for i in range(0, 51, 3)]}, None, {"keypoints": EXPECTED}),
        ({"id": KeyError}, "annotation ids", {"id": 1}),
        ({"id": 7.0}, None, {"id": 7}),
        ({"image_id": 1.0}, None, {"image_id": 1}),
        ({"image_id": "1"}, None, {"image_id": 1}),
        ({"category_id": KeyError}, "category_id", {"category_id": 1}),
        ({"category_id": "1"}, None, {"category_id": 1}),
        ({"segmentation": [[10.0, 12.0]]}, "segmentations", {"area": 9000.0}),
        ({"segmentation": [[1, 2, 3, 4, 5]]}, "segmentations", {}),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "segmentations", {}),
        ({"segmentation": {"size": [300, 200], "counts": [60000]}}, "segmentations", {}),
        ({"segmentation": {"size": [200, 300], "counts": "oo"}}, "segmentations", {}),
        ({"segmentation": "none"}, "segmentations", {}),
        ({"segmentation": None}, None, {}),
        ({"segmentation": {}}, None, {}),
        ({"segmentation": [[]]}, None, {}),
        ({"segmentation": [10, 12, 60, 12, 60, 162], "area": 0}, "area", {"area": 3750}),
        ({"attributes": {"occluded": False}, "score": 1}, None, {}),
    ],
)
def test_what_follows_from_other_values_is_filled_in(
    tmp_path: Path, values: dict[str, Any], kind: str | None, expected: dict[str, Any]
) -> None:
    file = read(tmp_path, changed(**values))
    truth = first_truth(file)
    assert {name: truth[name] for name in expected} == expected
    if kind:
        assert file.filled[kind] == 1
    else:
        assert file.filled == {}


def test_a_person_with_a_box_only_is_ignored_in_training(tmp_path: Path) -> None:
    data = changed(keypoints=KeyError, num_keypoints=KeyError, segmentation=KeyError, area=KeyError)
    picture = read(tmp_path, data).images[0]
    assert not picture.has_trainable_person
    mask = picture.ignore_mask()
    assert mask is not None
    assert mask[12:162, 10:110].all()
    assert not mask[190:].any()


def test_masks_give_box_and_area(tmp_path: Path) -> None:
    runs = [20 * 200 + 30, 50, 150, 50, 150, 50]  # three columns of 50 px at (20, 30)
    runs.append(200 * 300 - sum(runs))
    data = changed(bbox=KeyError, area=KeyError, segmentation={"size": [200, 300], "counts": runs})
    truth = first_truth(read(tmp_path, data))
    assert truth["bbox"] == [20, 30, 3, 50]
    assert truth["area"] == 150


@pytest.mark.parametrize(
    "names",
    [
        [name.replace("_", " ") for name in COCO_KEYPOINTS],
        [name.title() for name in COCO_KEYPOINTS],
        [name.replace("left_", "L-").replace("right_", "R-") for name in COCO_KEYPOINTS],
        ["_".join(reversed(name.split("_"))) for name in COCO_KEYPOINTS],
        ["".join(word if i == 0 else word.title() for i, word in enumerate(n.split("_"))) for n in COCO_KEYPOINTS],
    ],
)
@pytest.mark.parametrize("name", ["person", "Person", "human"])
def test_spelling_of_names_does_not_matter(tmp_path: Path, names: list[str], name: str) -> None:
    file = read(tmp_path, renamed(names, name))
    assert file.filled == {"category names": 1}
    assert first_truth(file)["keypoints"] == EXPECTED


def test_keypoints_in_another_order_are_mapped_by_name(tmp_path: Path) -> None:
    order = list(reversed(range(17)))
    data = renamed([COCO_KEYPOINTS[i] for i in order])
    for one in data["annotations"]:
        one["keypoints"] = [value for i in order for value in one["keypoints"][3 * i : 3 * i + 3]]
    file = read(tmp_path, data)
    assert first_truth(file)["keypoints"] == EXPECTED
    assert file.filled == {"keypoints in another order": 2}


def test_more_names_than_numbers_are_those_of_coco(tmp_path: Path) -> None:
    more = [*COCO_KEYPOINTS, "left_big_toe", "right_big_toe"]
    assert first_truth(read(tmp_path, renamed(more)))["keypoints"] == EXPECTED
    data = renamed(more)
    data["annotations"][0]["keypoints"] = [*EXPECTED, 1, 2, 2, 3, 4, 2]
    assert first_truth(read(tmp_path, data))["keypoints"] == EXPECTED


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["head", *COCO_KEYPOINTS[1:]], "its keypoint 1 is 'head', which is none of the 17 COCO keypoints"),
        ([*COCO_KEYPOINTS[:4], "left_ear", *COCO_KEYPOINTS[5:]], "its keypoint 5 is 'left_ear', which occurs twice"),
        (list(COCO_KEYPOINTS[:14]), "its 14 keypoints lack right_knee"),
        ([str(number) for number in range(1, 18)], "its keypoint 1 is '1'"),
        ([f"point_{number}" for number in range(26)], "its 26 keypoints lack nose"),
        ("nose", "its keypoints are 'nose', expected a list of names"),
    ],
)
def test_other_keypoints_are_refused(tmp_path: Path, names: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, renamed(names))


def test_keypoints_of_another_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="annotation 7: keypoints has 42 numbers, expected 51"):
        read(tmp_path, changed(keypoints=EXPECTED[:42]))


def test_people_have_any_category_id_beside_other_categories(tmp_path: Path) -> None:
    data = content()
    data["categories"] = [{"id": 0, "name": "dog"}, {**CATEGORY, "id": 3}]
    for one in data["annotations"]:
        one["category_id"] = 3
    data["annotations"].append({"id": 9, "image_id": 1, "category_id": 0, "bbox": [0, 0, 5, 5]})
    file = read(tmp_path, data)
    assert [len(picture.people) for picture in file.images] == [1, 1]
    assert first_truth(file)["category_id"] == 3


def test_files_without_people_are_refused_by_their_categories(tmp_path: Path) -> None:
    data = content()
    data["categories"] = [{"id": 1, "name": "dog"}]
    with pytest.raises(InputError, match="'dog'; no category is a person"):
        read(tmp_path, data)


def test_label_studio_exports_box_and_keypoints_of_a_person_as_two_annotations(tmp_path: Path) -> None:
    """Ids start at 0, the category of the keypoints is called default, and there is no area."""
    data = content()
    data["categories"] = [
        {"id": 0, "name": "Person"},
        {"id": 1, "name": "default", "supercategory": "default", "keypoints": list(COCO_KEYPOINTS), "skeleton": []},
    ]
    skeleton = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": EXPECTED, "num_keypoints": 17, "iscrowd": 0}
    skeleton["bbox"] = [10, 12, 16, 3]
    box = {"id": 0, "image_id": 1, "category_id": 0, "segmentation": [], "ignore": 0, "iscrowd": 0, "area": 108}
    box["bbox"] = [8, 10, 18, 6]
    other = {**box, "id": 2, "bbox": [150, 100, 40, 40], "area": 1600}
    data["annotations"] = [box, skeleton, other]
    people = read(tmp_path, data).images[0].people
    assert [(one.truth["num_keypoints"], one.truth["bbox"]) for one in people] == [
        (17, [8, 10, 18, 6]),
        (0, [150, 100, 40, 40]),
    ]
    assert people[0].truth["area"] == 108


def test_repeated_entries_are_one(tmp_path: Path) -> None:
    data = content()
    data["images"] *= 2
    data["annotations"].append(copy.deepcopy(data["annotations"][0]))
    data["annotations"].append({**data["annotations"][1], "bbox": [1, 1, 99, 99]})
    file = read(tmp_path, data)
    assert [len(picture.people) for picture in file.images] == [1, 2]
    assert file.filled == {"repeated image entries": 2, "annotation ids": 1, "repeated annotations": 1}
    assert [one.truth["id"] for one in file.images[1].people] == [8, 9]


def test_text_ids_are_mapped_to_numbers(tmp_path: Path) -> None:
    data = content()
    for name, text in ((0, "b7e1-uuid"), (1, "12")):
        data["images"][name]["id"] = data["annotations"][name]["image_id"] = text
    data["annotations"][0]["id"] = "a"
    file = read(tmp_path, data)
    assert [picture.text_id for picture in file.images] == ["b7e1-uuid", "12"]
    assert [picture.image_id for picture in file.images] == [parse_id("b7e1-uuid"), 12]
    assert 0 < file.images[0].image_id < 2**53
    assert first_truth(file)["image_id"] == file.images[0].image_id
    assert file.filled == {"text ids": 2}


@pytest.mark.parametrize(
    "name",
    [
        "{folder}/pictures/a b.jpg",
        "pictures\\a b.jpg",
        "C:\\work\\export\\pictures\\a b.jpg",
        "/home/other/export/pictures/a b.jpg",
        "../export/pictures/a b.jpg",
        "./pictures/a b.jpg",
        "pictures/a%20b.jpg",
        "/data/local-files/?d=export/pictures/a%20b.jpg",
        "https://host/data/upload/3/pictures/a%20b.jpg",
    ],
)
def test_paths_of_other_places_are_found_below_the_picture_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a b.jpg").write_bytes(jpeg(200, 300))
    data = content()
    data["images"][0]["file_name"] = name.format(folder=tmp_path)
    file = read(tmp_path, data)
    assert file.images[0].file_name == "pictures/a b.jpg"
    assert file.filled == {"file names": 1}


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "..\\secret.jpg", "a/../../secret.jpg"])
def test_paths_never_lead_out_of_the_picture_folder(tmp_path: Path, name: str) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (tmp_path / "secret.jpg").write_bytes(jpeg(200, 300))
    data = content()
    data["images"][0]["file_name"] = name
    (tmp_path / "labels.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"image 1: file_name is .*expected a path below the image folder"):
        read_annotations(tmp_path / "labels.json", PersonFilter(), ImageFolder(pictures))


def test_a_missing_picture_is_not_replaced_by_one_of_another_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "1.jpg").write_bytes(jpeg(200, 300))
    data = content()
    data["images"][0]["file_name"] = "a/1.jpg"
    assert read(tmp_path, data).images[0].file_name == "a/1.jpg"


@pytest.mark.parametrize("value", [None, 0, KeyError])
def test_missing_sizes_are_read_from_the_files(tmp_path: Path, value: Any) -> None:
    data = content()
    entry = data["images"][0]
    (tmp_path / entry["file_name"]).write_bytes(jpeg(210, 320))
    for name in ("height", "width"):
        if value is KeyError:
            del entry[name]
        else:
            entry[name] = value
    file = read(tmp_path, data)
    assert (file.images[0].height, file.images[0].width) == (210, 320)
    assert file.filled == {"image sizes": 1}
    (tmp_path / entry["file_name"]).unlink()
    with pytest.raises(InputError, match=r"image 1: height is .*, and its file cannot be read: No such file"):
        read(tmp_path, data)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content()), encoding=encoding)
    assert len(read_annotations(path, PersonFilter()).images) == 2


def test_compressed_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.json.gz"
    data = gzip.compress(json.dumps(content()).encode())
    path.write_bytes(data)
    assert len(read_annotations(path, PersonFilter()).images) == 2
    path.write_bytes(data[:-20])
    with pytest.raises(InputError, match="damaged gzip file"):
        read_annotations(path, PersonFilter())


def test_errors_can_be_skipped_and_the_person_is_then_ignored(tmp_path: Path) -> None:
    data = content()
    data["annotations"][0]["keypoints"] = EXPECTED[:42]
    data["annotations"].append({**data["annotations"][1], "id": 9, "image_id": 99})
    with pytest.raises(InputError, match=r"2 errors: annotation 7: .*; annotation 9: .* \(--on-bad-annotation skip"):
        read(tmp_path, data)
    file = read(tmp_path, data, skip_bad=True)
    assert [problem.partition(":")[0] for problem in file.left_out] == ["annotation 7", "annotation 9"]
    ignored: AnnotatedImage = file.images[0]
    assert [one.trainable for one in ignored.people] == [False]
    assert ignored.people[0].truth["bbox"] == [10, 12, 100, 150]


def test_an_image_with_an_error_is_skipped_with_its_people(tmp_path: Path) -> None:
    data = content()
    data["images"][0]["width"] = -1
    file = read(tmp_path, data, skip_bad=True)
    assert [picture.image_id for picture in file.images] == [2]
    assert len(file.left_out) == 1
