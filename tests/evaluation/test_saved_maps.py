"""Maps in files, of this project's networks and of others, and perturbations of maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluation.decoder_bench.saved_images import open_saved_images
from evaluation.saved_maps.folder import find_map_files, load_maps
from evaluation.saved_maps.perturbation import Perturbation
from evaluation.scoring.datasets import CocoDataset
from pipeline.errors import InputError
from pipeline.loading.targets import encode_maps
from pipeline.maps import Maps
from tests.support import map_files
from tests.support.map_files import SIZE, people_of, write_dataset, write_file


@pytest.fixture
def maps() -> Maps:
    return encode_maps(people_of(1), SIZE)


def test_a_file_of_another_program_is_read(tmp_path: Path, maps: Maps) -> None:
    saved = load_maps(write_file(tmp_path, 1, picture_hw=[256, 576]))
    assert saved.image_id == 1
    np.testing.assert_array_equal(saved.maps.heatmaps, maps.heatmaps.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(saved.maps.pafs, maps.pafs.astype(np.float16).astype(np.float32))
    np.testing.assert_allclose(saved.letterbox.to_image(np.array([191.5, 127.5])), [575.5, 255.5])


def test_a_file_with_separate_arrays_and_padding_is_cropped_to_the_image(tmp_path: Path, maps: Maps) -> None:
    arrays = {"heatmaps": maps.heatmaps, "pafs": maps.pafs, "scaled_hw": [100, 192], "picture_hw": [200, 384]}
    saved = load_maps(write_file(tmp_path, 1, maps=None, **arrays), (200, 384))
    np.testing.assert_array_equal(saved.maps.heatmaps, maps.heatmaps[:, :13])
    assert saved.letterbox.scale.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"maps": np.zeros((16, 24, 56), np.float16)}, r"maps has shape \(16, 24, 56\), expected \(h, w, 57\)"),
        ({"maps": np.zeros((57, 16, 24), np.float16)}, r"expected \(h, w, 57\): 19 heatmaps, then 38 fields"),
        ({"maps": np.zeros((16, 24, 57), np.uint8)}, "maps of type uint8, expected float16 or float32"),
        ({"maps": np.full((16, 24, 57), np.nan)}, "heatmaps with NaN or infinite values"),
        (
            {"maps": np.zeros((32, 48, 57), np.float16)},
            "grid of 48x32 cells of 8 px does not fit an input of 192x128",
        ),
        ({"maps": None}, "holds picture_hw, input_hw; expected picture_hw, input_hw, and either maps or"),
        ({"picture_hw": None}, "holds maps, input_hw; expected picture_hw"),
        ({"picture_hw": [0, 5]}, r"picture_hw is \[0, 5\], expected a height and a width"),
        ({"picture_hw": [90, 90]}, "maps of an image of 90x90 px, but image 1 of the dataset has 192x128 px"),
        ({"scaled_hw": [200, 192]}, "of which the image covers 192x200 px"),
        ({"maps": None, "heatmaps": np.zeros((18, 16, 24)), "pafs": 0.0}, r"heatmaps has shape \(18, 16, 24\)"),
        ({"maps": np.array([{}])}, "damaged or not a .npz file of maps"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path: Path, arrays: dict[str, object], message: str) -> None:
    path = write_file(tmp_path, 1, **arrays)
    with pytest.raises(InputError, match=message) as raised:
        load_maps(path, SIZE)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = write_file(tmp_path, 1)
    content = path.read_bytes()
    np.save(tmp_path / "one.npy", np.zeros(3))
    for damaged in (content[: len(content) // 2], b"", b"text", (tmp_path / "one.npy").read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=f"{path}: damaged or not a .npz file"):
            load_maps(path)


def test_folders_without_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_map_files(tmp_path / "none")
    with pytest.raises(InputError, match=r"no maps; expected files such as 000000000790\.npz"):
        find_map_files(tmp_path)
    write_file(tmp_path, 7)
    assert list(find_map_files(tmp_path)) == [7]
    (tmp_path / "7.npz").write_bytes(b"")
    with pytest.raises(InputError, match="has the same image id"):
        find_map_files(tmp_path)
    (tmp_path / "7.npz").rename(tmp_path / "picture.npz")
    with pytest.raises(InputError, match=r"picture\.npz: its name is not an image id"):
        find_map_files(tmp_path)


def test_maps_are_matched_to_the_images_of_a_dataset(tmp_path: Path) -> None:
    dataset = CocoDataset(write_dataset(tmp_path / "coco", [5, 3, 9]), "val")
    for image_id in (9, 3):
        write_file(tmp_path / "maps", image_id)
    images = open_saved_images(tmp_path / "maps", dataset)
    assert [saved.image_id for saved in images] == list(images.ground_truth) == [3, 9]
    assert [len(people) for people in images.ground_truth.values()] == [2, 2]
    assert images.describe().startswith("2 of the 3 images")
    assert [saved.image_id for saved in open_saved_images(tmp_path / "maps", dataset, limit=1)] == [3]
    other = write_file(tmp_path / "maps", 4)
    with pytest.raises(InputError, match=f"{other}: image 4 is not in {dataset.name}"):
        open_saved_images(tmp_path / "maps", dataset)


def test_the_default_perturbation_changes_nothing(maps: Maps) -> None:
    perturbed = Perturbation().apply(maps, 1)
    assert perturbed.heatmaps is maps.heatmaps
    assert perturbed.pafs is maps.pafs


def test_gains_and_floor_have_their_units(maps: Maps) -> None:
    before = maps.heatmaps.copy()
    perturbed = Perturbation(peak_gain=0.5, field_gain=0.25, floor=0.1).apply(maps, 1)
    np.testing.assert_allclose(perturbed.heatmaps[:-1], 0.1 + 0.9 * 0.5 * maps.heatmaps[:-1], atol=1e-6)
    np.testing.assert_allclose(perturbed.pafs, maps.pafs / 4)
    np.testing.assert_array_equal(maps.heatmaps, before)
    assert Perturbation(floor=0.1).apply(maps, 1).heatmaps[:-1].min() == pytest.approx(0.1)


def test_quantised_maps_have_the_number_of_levels(maps: Maps) -> None:
    noisy = Perturbation(noise=0.3).apply(maps, 1)
    for levels in (3, 16, 256):
        perturbed = Perturbation(noise=0.3, levels=levels).apply(maps, 1)
        heights, fields = np.unique(perturbed.heatmaps), np.unique(perturbed.pafs)
        assert len(heights) <= levels
        assert len(fields) <= levels + 1  # an even number of levels has none at 0, which is added
        assert (heights[0], heights[-1], fields[0], fields[-1]) == (0, 1, -1, 1)
        assert 0 in fields
        assert np.abs(perturbed.heatmaps - noisy.heatmaps.clip(0, 1)).max() <= 0.5001 / (levels - 1)


def test_channels_of_files_are_heatmaps_then_fields(maps: Maps) -> None:
    stacked = map_files.channels_last(maps)
    assert stacked.shape == (16, 24, 57)
    np.testing.assert_allclose(stacked[..., 19], maps.pafs[0], atol=1e-3)
