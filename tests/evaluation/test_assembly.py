from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evaluation.decoder.assembly import BRIDGES, assemble
from evaluation.decoder.decode import DecodeConfig, decode
from evaluation.decoder.limbs import Limbs
from evaluation.decoder.peaks import Peaks
from pipeline.loading.targets import encode_maps
from pipeline.maps import STRIDE, Maps
from pipeline.skeleton import KEYPOINT_INDEX, KEYPOINTS, LIMB_INDICES, NUM_KEYPOINTS
from tests.support.people import NO_JITTER, SIZE, Floats, assert_same_people, standing_person

WITHOUT_BRIDGES = DecodeConfig(gap=0)


def test_keypoints_of_different_kinds_at_the_same_position_are_joined_without_a_field() -> None:
    person = standing_person(200, 30, 180, NO_JITTER)
    person[KEYPOINT_INDEX["left_wrist"], :2] = person[KEYPOINT_INDEX["left_elbow"], :2]
    (found,) = decode(encode_maps(person[None], SIZE))
    assert found.found.all()


def partial_maps(people: Floats, names: set[str], limbs: list[tuple[str, str]]) -> Maps:
    """Return maps with only the given keypoints and only the fields of the given limbs."""
    whole = encode_maps(people, SIZE)
    heatmaps, pafs = whole.heatmaps.copy(), np.zeros_like(whole.pafs)
    for name in set(KEYPOINTS) - names:
        heatmaps[KEYPOINT_INDEX[name]] = 0
    pairs = [tuple(pair) for pair in LIMB_INDICES.tolist()]
    for a, b in limbs:
        i = pairs.index((KEYPOINT_INDEX[a], KEYPOINT_INDEX[b]))
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


def test_three_parts_are_joined_only_if_limbs_connect_them() -> None:
    person = standing_person(200, 30, 180, NO_JITTER)[None]
    names = {name for limb in ARM_AND_LEG for name in limb}
    apart = decode(partial_maps(person, names, ARM_AND_LEG), WITHOUT_BRIDGES)
    assert sorted(np.count_nonzero(p.found) for p in apart) == [3, 3, 3]
    joints = [("neck", "right_hip"), ("neck", "right_shoulder"), ("right_shoulder", "right_ear")]
    (joined,) = decode(partial_maps(person, names | {"neck"}, [*ARM_AND_LEG, *joints]), WITHOUT_BRIDGES)
    assert np.count_nonzero(joined.found) == 10
    np.testing.assert_allclose(joined.keypoints[joined.found, :2], person[0, joined.found, :2], atol=0.05)


def test_people_with_a_common_keypoint_kind_are_not_merged() -> None:
    people = np.stack([standing_person(100, 30, 180, NO_JITTER), standing_person(300, 30, 180, NO_JITTER)])
    maps = encode_maps(people, SIZE)
    # a false field from the first person's neck to the second person's nose, weaker than the true fields
    i = [tuple(pair) for pair in LIMB_INDICES.tolist()].index((KEYPOINT_INDEX["neck"], KEYPOINT_INDEX["nose"]))
    (ax, ay), (bx, by) = people[0, KEYPOINT_INDEX["neck"], :2], people[1, KEYPOINT_INDEX["nose"], :2]
    for t in np.linspace(0.15, 0.85, 60):
        x, y = int((ax + t * (bx - ax)) / STRIDE), int((ay + t * (by - ay)) / STRIDE)
        maps.pafs[2 * i, y - 1 : y + 2, x] = 0.8
    assert_same_people(decode(maps), people, within=0.05)


@pytest.mark.parametrize("missing", ["start", "end"])
def test_a_chain_of_limbs_is_extended_at_either_end(missing: str) -> None:
    """The reference drops a limb if only its first keypoint is new; this decoder also extends chains inwards."""
    person = standing_person(200, 30, 180, NO_JITTER)[None]
    chain = ARM_AND_LEG[:2] if missing == "end" else ARM_AND_LEG[1::-1]
    (found,) = decode(partial_maps(person, {name for limb in chain for name in limb}, chain), WITHOUT_BRIDGES)
    assert np.count_nonzero(found.found) == 3


def test_one_limb_joins_two_of_three_parts() -> None:
    person = standing_person(200, 30, 180, NO_JITTER)[None]
    names = {name for limb in ARM_AND_LEG for name in limb}
    joint = ("right_shoulder", "right_ear")
    people = decode(partial_maps(person, names, [*ARM_AND_LEG, joint]), WITHOUT_BRIDGES)
    assert sorted(np.count_nonzero(p.found) for p in people) == [3, 6]


def test_parts_around_a_missing_keypoint_are_bridged() -> None:
    person = standing_person(200, 30, 180, NO_JITTER)[None]
    names = {name for limb in ARM_AND_LEG for name in limb}
    (whole,) = decode(partial_maps(person, names, ARM_AND_LEG))
    assert set(np.flatnonzero(whole.found)) == {KEYPOINT_INDEX[name] for name in names}
    np.testing.assert_allclose(whole.keypoints[whole.found, :2], person[0, whole.found, :2], atol=0.05)


def test_parts_are_not_bridged_if_the_keypoint_between_them_was_found_or_the_gap_is_large() -> None:
    person = standing_person(200, 30, 180, NO_JITTER)[None]
    names = {name for limb in ARM_AND_LEG for name in limb}
    with_neck = decode(partial_maps(person, names | {"neck"}, [*ARM_AND_LEG, ("neck", "right_shoulder")]))
    assert sorted(np.count_nonzero(p.found) for p in with_neck) == [3, 3, 4]
    moved = person.copy()
    moved[0, [KEYPOINT_INDEX[name] for name in ("right_hip", "right_knee", "right_ankle")], 0] += 190
    far = decode(partial_maps(moved, names, ARM_AND_LEG))
    assert sorted(np.count_nonzero(p.found) for p in far) == [3, 6]


def test_each_left_leg_is_bridged_to_the_nearest_right_leg() -> None:
    """Only the legs of two people are in the image."""
    legs = {f"{side}_{part}" for side in ("left", "right") for part in ("hip", "knee", "ankle")}
    limbs = [
        (f"{side}_{a}", f"{side}_{b}") for side in ("left", "right") for a, b in (("hip", "knee"), ("knee", "ankle"))
    ]
    people = np.stack([standing_person(120, 30, 180, NO_JITTER), standing_person(220, 30, 180, NO_JITTER)])
    found = decode(partial_maps(people, legs, limbs))
    people[:, [KEYPOINT_INDEX[name] for name in set(KEYPOINTS) - legs]] = 0
    assert_same_people(found, people, within=0.05)


def test_bridges_span_one_keypoint_and_are_never_limbs() -> None:
    limbs = {frozenset(pair) for pair in LIMB_INDICES.tolist()}
    assert len(BRIDGES) == len({tuple(row) for row in BRIDGES.tolist()})
    for a, b, middle in BRIDGES.tolist():
        assert frozenset((a, b)) not in limbs
        assert {frozenset((a, middle)), frozenset((b, middle))} <= limbs
    hips = sorted((KEYPOINT_INDEX["right_hip"], KEYPOINT_INDEX["left_hip"]))
    assert [*hips, KEYPOINT_INDEX["neck"]] in BRIDGES.tolist()


FACE_AND_SHOULDER = ("neck", "right_shoulder", "right_ear", "right_eye", "nose")
"""Keypoints whose limbs form a ring, so that two ways of limbs lead from each to each."""


def two_people_with_a_false_limb(false: float, true: float, others: float) -> tuple[Peaks, Limbs]:
    """Return candidates 0 and 1 of each kind, for two people, and limbs between them; one limb joins both people.

    Args:
        false: score of the limb from the first person's neck to the second person's nose.
        true: score of the limbs from each person's neck to its own nose.
        others: score of each person's other limbs.
    """
    kinds = sorted(KEYPOINT_INDEX[name] for name in FACE_AND_SHOULDER)
    first = {kind: 2 * i for i, kind in enumerate(kinds)}
    found = []
    for limb, (a, b) in enumerate(LIMB_INDICES.tolist()):
        if a in first and b in first:
            is_rivalled = (KEYPOINTS[a], KEYPOINTS[b]) == ("neck", "nose")
            found += [(limb, first[a] + i, first[b] + i, true if is_rivalled else others) for i in range(2)]
            found += [(limb, first[a], first[b] + 1, false)] if is_rivalled else []
    limb, start, end, score = zip(*found, strict=True)
    count = np.zeros(NUM_KEYPOINTS, dtype=np.intp)
    count[kinds] = 2
    number = 2 * len(kinds)
    ones = np.ones(number, dtype=np.float32)
    peaks = Peaks(np.repeat(kinds, 2), np.zeros((number, 2), np.float32), ones, ones > 0, count)
    return peaks, Limbs(np.array(limb), np.array(start), np.array(end), np.array(score, dtype=np.float32))


@pytest.mark.parametrize(
    ("rival_weight", "scores", "mixed"),
    [(0.3, (0.60, 0.58, 0.5), False), (0.0, (0.60, 0.58, 0.5), True), (0.3, (0.9, 0.3, 0.2), True)],
)
def test_a_limb_with_a_rival_of_similar_score_waits_for_limbs_without_one(
    rival_weight: float, scores: tuple[float, float, float], mixed: bool
) -> None:
    peaks, limbs = two_people_with_a_false_limb(*scores)
    table = assemble(peaks, limbs, peak_weight=0.1, rival_weight=rival_weight, gap=0)
    neck, nose = (table[:, KEYPOINT_INDEX[name]] for name in ("neck", "nose"))
    # even candidates are those of the first person, odd ones those of the second
    assert bool((neck % 2 != nose % 2).any()) == mixed


def test_weak_candidates_join_by_limbs_and_are_no_people_of_their_own() -> None:
    peaks, limbs = two_people_with_a_false_limb(false=0.1, true=0.5, others=0.5)
    weak = replace(peaks, strong=np.zeros(10, dtype=bool))
    assert len(assemble(weak, limbs, peak_weight=0.1, rival_weight=0.3, gap=2)) == 0
    weak.strong[0] = True  # the first person's nose: the others are reached over one, two and more limbs
    (row,) = assemble(weak, limbs, peak_weight=0.1, rival_weight=0.3, gap=2)
    assert row[row >= 0].tolist() == [0, 2, 4, 6, 8]


def test_a_gap_in_the_field_neither_splits_a_person_nor_joins_neighbours() -> None:
    """Something hides a fifth of a forearm of each of two people who stand close to each other."""
    people = np.stack([standing_person(x, 30, 180, NO_JITTER) for x in (150, 230)])
    maps = encode_maps(people, SIZE)
    elbow, wrist = (people[:, KEYPOINT_INDEX[f"left_{name}"], 1] for name in ("elbow", "wrist"))
    middle = ((elbow + wrist) / 2 / STRIDE).astype(int)
    limb = [tuple(pair) for pair in LIMB_INDICES.tolist()].index(
        (KEYPOINT_INDEX["left_elbow"], KEYPOINT_INDEX["left_wrist"])
    )
    maps.pafs[2 * limb : 2 * limb + 2, middle.min()] = 0
    assert_same_people(decode(maps), people, within=0.05)
