from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from evaluation.decode import DecodeConfig, Person, decode
from evaluation.metrics import coco_ap
from evaluation.results import to_coco_results
from pipeline.errors import InputError
from pipeline.maps import NUM_HEATMAPS, NUM_PAFS, STRIDE, Maps
from pipeline.skeleton import FLIP, FLIP_LIMBS, INDEX, KEYPOINTS, LIMB_INDICES, NUM_KEYPOINTS, NUM_LIMBS, from_coco
from pipeline.targets import TargetConfig, encode_maps

Floats = NDArray[np.float32]
SIZE = (256, 400)
EVERYTHING = DecodeConfig(min_keypoints=1)

# a standing figure, one unit tall; x to the right, its own left side on the picture's right
FIGURE: dict[str, tuple[float, float]] = {
    "nose": (0.0, 0.0),
    "neck": (0.0, 0.16),
    "eye": (0.06, -0.06),
    "ear": (0.12, -0.02),
    "shoulder": (0.14, 0.16),
    "elbow": (0.2, 0.34),
    "wrist": (0.22, 0.5),
    "hip": (0.09, 0.5),
    "knee": (0.11, 0.73),
    "ankle": (0.12, 0.94),
}


def figure(x: float, y: float, height: float, jitter: Floats) -> Floats:
    """(18, 3) a standing person with its nose at x, y px; `jitter` (18, 2) in fractions of its height."""
    out = np.zeros((NUM_KEYPOINTS, 3), dtype=np.float32)
    for name, i in INDEX.items():
        dx, dy = FIGURE[name.split("_")[-1]]
        side = -1 if name.startswith("right_") else 1
        out[i] = (x + height * (side * dx + jitter[i, 0]), y + height * (dy + jitter[i, 1]), 2)
    return out


@st.composite
def crowds(draw: st.DrawFn, most: int = 3) -> Floats:
    """(P, 18, 3) people side by side, each in its own column of the picture."""
    count = draw(st.integers(1, most))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    people = [
        figure(
            x=SIZE[1] * (i + 0.5) / count + rng.uniform(-4, 4),
            y=rng.uniform(24, 40),
            height=rng.uniform(150, 200),
            jitter=rng.uniform(-0.012, 0.012, (NUM_KEYPOINTS, 2)).astype(np.float32),
        )
        for i in range(count)
    ]
    return np.stack(people)


def table(people: list[Person]) -> Floats:
    """(P, 18, 3) of people, ordered from left to right."""
    stacked = np.stack([person.keypoints for person in people])
    return stacked[np.argsort(stacked[:, :, 0].max(axis=1))]


def empty_maps(height: int = 20, width: int = 30) -> Maps:
    return Maps(
        np.zeros((NUM_HEATMAPS, height, width), dtype=np.float32), np.zeros((NUM_PAFS, height, width), dtype=np.float32)
    )


def same_people(found: list[Person], truth: Floats, within: float) -> None:
    assert len(found) == len(truth)
    ordered = truth[np.argsort(truth[:, :, 0].max(axis=1))]
    np.testing.assert_array_equal(table(found)[..., 2] > 0, ordered[..., 2] > 0)
    np.testing.assert_allclose(table(found)[..., :2], ordered[..., :2], atol=within)


@settings(max_examples=30, deadline=None)
@given(crowds())
def test_decoding_what_was_encoded_gives_the_people_back(people: Floats) -> None:
    found = decode(encode_maps(people, SIZE))
    same_people(found, people, within=0.05)
    # heights between cells: the Gaussian's own, 1
    np.testing.assert_allclose(table(found)[..., 2], 1, atol=0.01)
    assert [person.score for person in found] == pytest.approx([1.0] * len(people), abs=0.01)
    assert all(person.keypoints.dtype == np.float32 for person in found)


@settings(max_examples=15, deadline=None)
@given(crowds(), st.randoms(use_true_random=False))
def test_order_of_the_people_does_not_matter(people: Floats, random: Any) -> None:
    order = list(range(len(people)))
    random.shuffle(order)
    one, other = (table(decode(encode_maps(some, SIZE))) for some in (people, people[order]))
    np.testing.assert_allclose(one, other, atol=1e-3)


def flipped(maps: Maps) -> Maps:
    """The maps of the mirrored picture: sides swapped by name, x components negated."""
    heatmaps = maps.heatmaps[[*FLIP, NUM_KEYPOINTS], :, ::-1].copy()
    pafs = maps.pafs.reshape(NUM_LIMBS, 2, *maps.grid)[FLIP_LIMBS, :, :, ::-1].copy()
    pafs[:, 0] *= -1
    return Maps(heatmaps, pafs.reshape(NUM_PAFS, *maps.grid), maps.stride)


@settings(max_examples=15, deadline=None)
@given(crowds())
def test_flipping_the_maps_flips_the_people(people: Floats) -> None:
    maps = encode_maps(people, SIZE)
    mirrored = table(decode(flipped(maps)))[:, FLIP]
    mirrored[..., 0] = SIZE[1] - 1 - mirrored[..., 0]
    original = table(decode(maps))
    np.testing.assert_allclose(mirrored[::-1], original, atol=1e-3)


@settings(max_examples=15, deadline=None)
@given(crowds(most=2), st.integers(-2, 2), st.integers(-1, 2))
def test_moving_the_maps_by_cells_moves_the_people_by_strides(people: Floats, right: int, down: int) -> None:
    maps = encode_maps(people, SIZE)
    moved = Maps(
        np.roll(maps.heatmaps, (down, right), axis=(1, 2)), np.roll(maps.pafs, (down, right), axis=(1, 2)), STRIDE
    )
    expected = table(decode(maps))
    expected[..., :2] += np.float32([right * STRIDE, down * STRIDE])
    np.testing.assert_allclose(table(decode(moved)), expected, atol=1e-3)


@settings(max_examples=15, deadline=None)
@given(crowds(), st.integers(0, 1000), st.floats(0.0, 0.02))
def test_noise_below_the_threshold_finds_nobody_new(people: Floats, seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    maps = encode_maps(people, SIZE)
    noisy = Maps(
        maps.heatmaps + rng.uniform(-noise, noise, maps.heatmaps.shape).astype(np.float32),
        maps.pafs + rng.uniform(-noise, noise, maps.pafs.shape).astype(np.float32),
    )
    same_people(decode(noisy), people, within=2.0)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([1e-30, 0.3, 5.0, 1e20, 3e38]), st.integers(0, 12), st.integers(0, 12)
)
def test_no_finite_maps_raise(seed: int, size: float, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    # few distinct values, so that plateaus and ties are everywhere
    heatmaps, pafs = (
        (rng.integers(-2, 3, (channels, height, width)) * (size / 2)).astype(np.float32)
        for channels in (NUM_HEATMAPS, NUM_PAFS)
    )
    for person in decode(Maps(heatmaps, pafs), DecodeConfig(min_keypoints=1, max_peaks=20)):
        assert np.isfinite(person.keypoints[:, :2]).all()
        assert (person.keypoints[:, :2] >= -0.5).all()
        assert (person.keypoints[:, 0] <= width * STRIDE).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["heatmaps", "pafs"])
def test_maps_that_are_not_finite_are_refused_by_name_and_number(name: str, value: float) -> None:
    maps = empty_maps()
    getattr(maps, name)[3, 4:6, 7] = value
    with pytest.raises(ValueError, match=rf"Maps\.{name}: 2 of \d+ values are NaN or infinite"):
        decode(maps)


@pytest.mark.parametrize("grid", [(46, 57), (1, 1), (0, 0)])
def test_empty_maps_hold_nobody(grid: tuple[int, int]) -> None:
    assert decode(empty_maps(*grid), EVERYTHING) == []


def test_a_plateau_is_one_peak() -> None:
    maps = empty_maps()
    maps.heatmaps[INDEX["nose"], 5:8, 10:14] = 0.5
    (person,) = decode(maps, EVERYTHING)
    assert person.found.nonzero()[0].tolist() == [INDEX["nose"]]
    assert 10 <= (person.keypoints[INDEX["nose"], 0] - 3.5) / STRIDE <= 14


@pytest.mark.parametrize("name", ["left_ankle", "neck"])
def test_one_keypoint_is_a_person_only_when_asked_for(name: str) -> None:
    people = np.zeros((1, NUM_KEYPOINTS, 3), dtype=np.float32)
    people[0, INDEX[name]] = (101.3, 57.9, 1)
    maps = encode_maps(people, SIZE)
    assert decode(maps) == []
    (person,) = decode(maps, EVERYTHING)
    np.testing.assert_allclose(person.keypoints, people[0], atol=0.01)
    assert person.score == pytest.approx(1 / 18, abs=1e-3)


@pytest.mark.parametrize("sigma", [7.0, 10.0])
@pytest.mark.parametrize("x", [0.0, 2.2, 3.5, 396.1, 399.0])
@pytest.mark.parametrize("y", [0.0, 120.7, 255.0])
def test_peaks_at_the_edge_are_exact_and_those_in_corners_nearly(x: float, y: float, sigma: float) -> None:
    people = np.zeros((1, NUM_KEYPOINTS, 3), dtype=np.float32)
    people[0, INDEX["nose"]] = (x, y, 2)
    (person,) = decode(encode_maps(people, SIZE, TargetConfig(sigma=sigma)), EVERYTHING)
    in_corner = y != 120.7
    # in a corner cell the width cannot be seen and the recipe's is assumed: another one costs up to half a cell
    within = 0.05 if not in_corner or sigma == 7 else 4.0
    np.testing.assert_allclose(person.keypoints[INDEX["nose"], :2], (x, y), atol=within)


def test_people_below_the_least_score_are_left_out() -> None:
    people = np.zeros((2, NUM_KEYPOINTS, 3), dtype=np.float32)
    people[0] = figure(100, 30, 180, np.zeros((NUM_KEYPOINTS, 2), dtype=np.float32))
    people[1, [INDEX[name] for name in ("left_hip", "left_knee", "left_ankle")]] = [
        (300, 60, 2),
        (303, 120, 2),
        (301, 180, 2),
    ]
    maps = encode_maps(people, SIZE)
    assert [round(18 * person.score) for person in decode(maps)] == [18, 3]
    assert [round(18 * person.score) for person in decode(maps, DecodeConfig(min_score=0.5))] == [18]


def test_people_exactly_on_top_of_each_other_are_one() -> None:
    person = figure(200, 30, 180, np.zeros((NUM_KEYPOINTS, 2), dtype=np.float32))[None]
    same_people(decode(encode_maps(np.concatenate([person, person]), SIZE)), person, within=0.05)


def test_keypoints_of_different_kinds_at_one_place_are_joined_without_a_field() -> None:
    person = figure(200, 30, 180, np.zeros((NUM_KEYPOINTS, 2), dtype=np.float32))
    person[INDEX["left_wrist"], :2] = person[INDEX["left_elbow"], :2]
    (found,) = decode(encode_maps(person[None], SIZE))
    assert found.found.all()


def limbs_at(people: Floats, names: set[str], limbs: list[tuple[str, str]]) -> Maps:
    """Maps that hold only some keypoints and only the fields of some limbs."""
    whole = encode_maps(people, SIZE)
    heatmaps, pafs = whole.heatmaps.copy(), np.zeros_like(whole.pafs)
    for name in set(KEYPOINTS) - names:
        heatmaps[INDEX[name]] = 0
    pairs = [tuple(pair) for pair in LIMB_INDICES.tolist()]
    for a, b in limbs:
        i = pairs.index((INDEX[a], INDEX[b]))
        pafs[2 * i : 2 * i + 2] = whole.pafs[2 * i : 2 * i + 2]
    return Maps(heatmaps, pafs)


ARM_AND_LEG = [
    ("right_shoulder", "right_elbow"),
    ("right_elbow", "right_wrist"),
    ("right_hip", "right_knee"),
    ("right_knee", "right_ankle"),
    ("nose", "right_eye"),
    ("right_eye", "right_ear"),
]


def test_limbs_join_three_fragments_and_their_absence_leaves_them_apart() -> None:
    person = figure(200, 30, 180, np.zeros((NUM_KEYPOINTS, 2), dtype=np.float32))[None]
    names = {name for limb in ARM_AND_LEG for name in limb}
    apart = decode(limbs_at(person, names, ARM_AND_LEG))
    assert sorted(np.count_nonzero(p.found) for p in apart) == [3, 3, 3]
    joints = [("neck", "right_hip"), ("neck", "right_shoulder"), ("right_shoulder", "right_ear")]
    (joined,) = decode(limbs_at(person, names | {"neck"}, [*ARM_AND_LEG, *joints]))
    assert np.count_nonzero(joined.found) == 10
    np.testing.assert_allclose(joined.keypoints[joined.found, :2], person[0, joined.found, :2], atol=0.05)


def test_one_limb_joins_fragments_of_other_people_only_if_they_share_no_keypoint() -> None:
    rest = np.zeros((NUM_KEYPOINTS, 2), dtype=np.float32)
    people = np.stack([figure(100, 30, 180, rest), figure(300, 30, 180, rest)])
    maps = encode_maps(people, SIZE)
    # a false field from the first person's neck to the second's nose, weaker than the true ones
    i = [tuple(pair) for pair in LIMB_INDICES.tolist()].index((INDEX["neck"], INDEX["nose"]))
    (ax, ay), (bx, by) = people[0, INDEX["neck"], :2], people[1, INDEX["nose"], :2]
    for t in np.linspace(0.15, 0.85, 60):
        x, y = int((ax + t * (bx - ax)) / STRIDE), int((ay + t * (by - ay)) / STRIDE)
        maps.pafs[2 * i, y - 1 : y + 2, x] = 0.8
    same_people(decode(maps), people, within=0.05)


@pytest.mark.parametrize("missing", ["start", "end"])
def test_a_limb_is_found_through_either_end(missing: str) -> None:
    """The reference drops a limb whose first joint alone is new; here a chain may grow towards the trunk."""
    person = figure(200, 30, 180, np.zeros((NUM_KEYPOINTS, 2), dtype=np.float32))[None]
    chain = ARM_AND_LEG[:2] if missing == "end" else ARM_AND_LEG[1::-1]
    (found,) = decode(limbs_at(person, {name for limb in chain for name in limb}, chain))
    assert np.count_nonzero(found.found) == 3


def test_only_the_highest_peaks_of_each_kind_are_candidates() -> None:
    maps = empty_maps()
    for x, height in ((3, 0.3), (9, 0.9), (15, 0.5), (21, 0.7)):
        maps.heatmaps[INDEX["nose"], 10, x] = height
        maps.heatmaps[INDEX["neck"], 4, x] = height / 2
    people = decode(maps, DecodeConfig(min_keypoints=1, max_peaks=2))
    cells = [(np.flatnonzero(p.found)[0], round((p.keypoints[p.found][0, 0] - 3.5) / STRIDE)) for p in people]
    assert cells == [(INDEX["nose"], 9), (INDEX["nose"], 21), (INDEX["neck"], 9), (INDEX["neck"], 21)]


def test_smoothing_steadies_keypoints_and_hides_false_people_in_strong_noise() -> None:
    rng = np.random.default_rng(3)
    people = figure(200, 30, 180, np.zeros((NUM_KEYPOINTS, 2), dtype=np.float32))[None]
    maps = encode_maps(people, SIZE)
    errors: dict[float, list[float]] = {0.0: [], 0.7: []}
    counts = dict.fromkeys(errors, 0)
    for _ in range(10):
        noisy = Maps(
            0.4 * maps.heatmaps + rng.normal(0, 0.05, maps.heatmaps.shape).astype(np.float32),
            0.4 * maps.pafs + rng.normal(0, 0.05, maps.pafs.shape).astype(np.float32),
        )
        for sigma in errors:
            found = decode(noisy, DecodeConfig(smooth=sigma))
            counts[sigma] += len(found)
            keypoints = found[0].keypoints
            distance = np.linalg.norm(keypoints[:, :2] - people[0, :, :2], axis=1)
            errors[sigma] += np.where(keypoints[:, 2] > 0, np.minimum(distance, 50), 50).tolist()
    assert np.mean(errors[0.7]) < 0.9 * np.mean(errors[0.0])
    assert 10 <= counts[0.7] < counts[0.0]


@pytest.mark.parametrize(
    ("field", "value"),
    [("peak_threshold", 1.5), ("limb_samples", 1), ("min_keypoints", 19), ("near", -1.0), ("smooth", float("nan"))],
)
def test_settings_out_of_range_are_named_with_their_range(field: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"DecodeConfig\.{field}: {value}, expected [\d.]+ to [\d.]+"):
        DecodeConfig(**{field: value})  # type: ignore[arg-type]


# ---- real annotations ----


def real_truth(folder: Path) -> tuple[dict[int, list[dict[str, Any]]], dict[int, tuple[int, int]]]:
    """Annotations and sizes by image id."""
    data = json.loads((folder / "annotations" / "person_keypoints_train2017.json").read_text())
    truth: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in data["images"]}
    for annotation in data["annotations"]:
        annotation.pop("segmentation")
        truth[annotation["image_id"]].append(annotation)
    return truth, {image["id"]: (image["height"], image["width"]) for image in data["images"]}


def real_maps(annotations: list[dict[str, Any]], size: tuple[int, int]) -> tuple[Floats, Maps]:
    """(P, 18, 3) and the maps of one picture, padded to whole cells."""
    labelled = [a["keypoints"] for a in annotations if not a["iscrowd"] and a["num_keypoints"] > 0]
    people = from_coco(np.array(labelled, dtype=np.float32).reshape(-1, 17, 3))
    height, width = (-(-side // STRIDE) * STRIDE for side in size)
    return people, encode_maps(people, (height, width))


def test_real_keypoints_apart_from_others_of_their_kind_come_back_within_a_fraction_of_a_pixel(coco_mini: Path) -> None:
    truth, sizes = real_truth(coco_mini)
    looked_at = 0
    for image_id, labelled in truth.items():
        people, maps = real_maps(labelled, sizes[image_id])
        found = [p.keypoints for p in decode(maps, EVERYTHING)]
        for kind in range(NUM_KEYPOINTS):
            points = people[people[:, kind, 2] > 0, kind, :2]
            peaks = np.array([k[kind, :2] for k in found if k[kind, 2] > 0]).reshape(-1, 2)
            apart = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e6 * np.eye(len(points))
            for point in points[apart.min(axis=1, initial=1e6) > 40]:
                assert np.linalg.norm(peaks - point, axis=1).min() < 0.3
                looked_at += 1
    assert looked_at > 500


def test_oracle_ap_on_real_annotations(coco_mini: Path) -> None:
    """What decoder and grid alone lose: the true targets are decoded and scored against the truth."""
    truth, sizes = real_truth(coco_mini)
    results = {
        config: [
            result
            for image_id in truth
            for result in to_coco_results(
                image_id, decode(real_maps(truth[image_id], sizes[image_id])[1], DecodeConfig(min_keypoints=config))
            )
        ]
        for config in (1, 3)
    }
    # people without a chain of limbs between 3 labelled keypoints cannot be found: the ceilings are .846 and .802
    assert coco_ap(truth, results[3])["AP"] > 0.775
    assert coco_ap(truth, results[1])["AP"] > 0.815
