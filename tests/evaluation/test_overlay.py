from __future__ import annotations

import colorsys

import numpy as np
import pytest

from evaluation.decoder.person import Person
from evaluation.media.overlay import KEYPOINT_COLOURS, LIMB_COLOURS, draw_comparison, draw_people
from pipeline.skeleton import KEYPOINT_INDEX, KEYPOINTS, LIMBS, NUM_KEYPOINTS, mirrored_name


def person_with(**points: tuple[float, float]) -> Person:
    keypoints = np.zeros((NUM_KEYPOINTS, 3), dtype=np.float32)
    for name, (x, y) in points.items():
        keypoints[KEYPOINT_INDEX[name]] = (x, y, 1)
    return Person(keypoints, 0.5)


ARM = person_with(left_shoulder=(40, 60), left_elbow=(120, 60), left_wrist=(200, 100))


def grey(height: int = 160, width: int = 240) -> np.ndarray:
    return np.full((height, width, 3), 128, dtype=np.uint8)


def test_input_image_is_not_modified() -> None:
    image = grey()
    assert np.array_equal(draw_people(image, []), image)
    drawn = draw_people(image, [ARM])
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (image == 128).all()


def test_small_keypoints_are_round() -> None:
    """A disc with a radius of 2.24 px covers the pixels at (1, 2), (2, 1) … from its centre; a diamond does not."""
    drawn = draw_people(grey(180, 180), [person_with(nose=(90, 90))], opacity=1.0).max(axis=2)
    offsets = [(y, x) for y in (-2, -1, 1, 2) for x in (-2, -1, 1, 2) if abs(x) != abs(y)]
    assert np.mean([drawn[90 + y, 90 + x] for y, x in offsets]) > 200


def test_limb_has_its_colour_and_distant_pixels_are_unchanged() -> None:
    drawn = draw_people(grey(), [ARM], opacity=1.0).astype(int)
    assert np.abs(drawn[60, 80] - LIMB_COLOURS["left_shoulder", "left_elbow"]).max() <= 2
    assert np.abs(drawn[60, 40] - KEYPOINT_COLOURS["left_shoulder"]).max() <= 2
    assert (drawn[130:] == 128).all()
    assert (drawn[:40] == 128).all()


def test_limb_is_drawn_only_if_both_ends_were_found() -> None:
    lone = draw_people(grey(), [person_with(left_shoulder=(40, 60), left_wrist=(200, 100))])
    assert (lone[60:100, 60:180] == 128).all()
    assert (lone[60, 40] != 128).any()


def test_left_side_has_warm_colours_and_right_side_cold_ones() -> None:
    for name in KEYPOINTS:
        blue, green, red = (value / 255 for value in KEYPOINT_COLOURS[name])
        hue = colorsys.rgb_to_hsv(red, green, blue)[0]
        if name.startswith("left_"):
            assert hue < 0.34
        if name.startswith("right_"):
            assert 0.42 < hue < 0.8
        other = KEYPOINT_COLOURS[mirrored_name(name)]
        assert mirrored_name(name) == name or np.abs(np.subtract(other, KEYPOINT_COLOURS[name])).max() > 100
    assert set(LIMB_COLOURS) == set(LIMBS)


@pytest.mark.parametrize("scale", [1, 4])
def test_line_widths_scale_with_person_and_image(scale: int) -> None:
    arm = Person(ARM.keypoints * np.float32([scale, scale, 1]), 0.5)
    drawn = draw_people(grey(160 * scale, 240 * scale), [arm])
    touched = (drawn != 128).any(axis=2).mean()
    assert 0.01 < touched < 0.08


def test_distant_coordinates_tiny_images_and_read_only_images_raise_no_error() -> None:
    far = person_with(left_shoulder=(-1e9, 60), left_elbow=(1e12, -3e38), nose=(2, 2))
    draw_people(grey(), [far])
    image = grey(1, 1)
    image.flags.writeable = False
    assert draw_people(image, [ARM, far]).shape == (1, 1, 3)


def test_comparison_shows_the_ground_truth_left_of_the_detections() -> None:
    image = grey()
    both = draw_comparison(image, [], ARM.keypoints[None], gap=6)
    assert both.shape == (160, 2 * 240 + 6, 3)
    assert np.array_equal(both[:, :240], draw_people(image, [Person(ARM.keypoints, 1.0)]))
    assert (both[:, 240:246] == 255).all()
    assert (both[:, 246:] == 128).all()
