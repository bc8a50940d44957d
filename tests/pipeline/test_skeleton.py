"""The skeleton, compared with the published orders of COCO and CMU."""

from __future__ import annotations

import numpy as np

from pipeline.skeleton import (
    COCO_KEYPOINTS,
    FLIP_KEYPOINTS,
    FLIP_LIMBS,
    KEYPOINT_INDEX,
    KEYPOINTS,
    LIMB_INDICES,
    LIMBS,
    NUM_KEYPOINTS,
    NUM_LIMBS,
    OKS_SIGMAS,
    TO_COCO,
    from_coco,
    mirrored_name,
    to_coco,
)


def test_keypoint_and_limb_orders_are_the_published_ones():
    assert (NUM_KEYPOINTS, NUM_LIMBS, len(COCO_KEYPOINTS)) == (18, 19, 17)
    assert TO_COCO.tolist() == [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]
    assert LIMB_INDICES[0].tolist() == [KEYPOINT_INDEX["neck"], KEYPOINT_INDEX["right_hip"]]
    # poseParameters.cpp of CMU's OpenPose, POSE_COCO_PAIRS
    pairs = "1,8 8,9 9,10 1,11 11,12 12,13 1,2 2,3 3,4 2,16 1,5 5,6 6,7 5,17 1,0 0,14 0,15 14,16 15,17"
    assert LIMB_INDICES.tolist() == [[int(i) for i in pair.split(",")] for pair in pairs.split()]


def test_limbs_are_connected_and_distinct():
    assert len({frozenset(limb) for limb in LIMBS}) == NUM_LIMBS
    reached = {"neck"}
    for _ in LIMBS:
        reached |= {name for limb in LIMBS if reached & set(limb) for name in limb}
    assert reached == set(KEYPOINTS)


def test_flips_are_their_own_inverse_and_swap_by_name():
    assert FLIP_KEYPOINTS[FLIP_KEYPOINTS].tolist() == list(range(NUM_KEYPOINTS))
    assert FLIP_LIMBS[FLIP_LIMBS].tolist() == list(range(NUM_LIMBS))
    for i, name in enumerate(KEYPOINTS):
        assert KEYPOINTS[FLIP_KEYPOINTS[i]] == name.replace("left", "?").replace("right", "left").replace("?", "right")
    for i, (a, b) in enumerate(LIMBS):
        assert LIMBS[FLIP_LIMBS[i]] == (mirrored_name(a), mirrored_name(b))
    assert mirrored_name("nose") == "nose"


def test_every_keypoint_has_an_oks_sigma():
    assert {name.removeprefix("left_").removeprefix("right_") for name in COCO_KEYPOINTS} == OKS_SIGMAS.keys()


def test_to_coco_is_the_inverse_of_from_coco():
    rng = np.random.default_rng(0)
    coco = rng.uniform(1, 99, (3, 17, 3)).astype(np.float32)
    coco[..., 2] = rng.integers(1, 3, (3, 17))
    assert np.array_equal(to_coco(from_coco(coco)), coco)


def test_the_neck_is_between_the_shoulders_and_has_their_lower_visibility():
    coco = np.zeros((3, 17, 3), np.float32)
    left, right = COCO_KEYPOINTS.index("left_shoulder"), COCO_KEYPOINTS.index("right_shoulder")
    coco[:, left] = (10, 20, 2)
    coco[:, right] = (21, 24, 2)
    coco[1, right, 2] = 1
    coco[2, right] = (7, 7, 0)
    neck = from_coco(coco)[:, KEYPOINT_INDEX["neck"]]
    assert neck.tolist() == [[15.5, 22, 2], [15.5, 22, 1], [0, 0, 0]]


def test_unlabelled_keypoints_are_zero_and_zero_people_are_accepted():
    coco = np.full((1, 17, 3), 5, np.float32)
    coco[..., 2] = 0
    assert not from_coco(coco).any()
    assert from_coco(np.zeros((0, 17, 3), np.float32)).shape == (0, 18, 3)
    assert from_coco(np.zeros((0,), np.float32)).shape == (0, 18, 3)
    assert to_coco(np.zeros((0, 18, 3), np.float32)).shape == (0, 17, 3)
