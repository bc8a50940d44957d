"""Conversion between grid and pixel coordinates, and the shapes of maps."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.maps import NUM_HEATMAPS, NUM_PAFS, STRIDE, Maps, grid_to_pixel, pixel_to_grid


def test_a_cell_is_at_the_centre_of_its_pixels():
    assert grid_to_pixel(0, STRIDE) == np.mean(range(8)) == 3.5
    assert grid_to_pixel(2, STRIDE) == np.mean(range(16, 24))
    assert grid_to_pixel(5, 1) == 5
    assert pixel_to_grid(0.0, STRIDE) == -0.4375


def test_pixel_to_grid_is_the_inverse():
    pixels = np.linspace(-20, 400, 97, dtype=np.float32)
    assert np.allclose(grid_to_pixel(pixel_to_grid(pixels, STRIDE), STRIDE), pixels, atol=1e-4)


def test_grid_and_default_stride():
    maps = Maps(np.zeros((NUM_HEATMAPS, 5, 7), np.float32), np.zeros((NUM_PAFS, 5, 7), np.float32))
    assert (maps.grid, maps.stride) == ((5, 7), STRIDE)


@pytest.mark.parametrize(
    ("heatmaps", "pafs", "which"),
    [
        ((18, 5, 7), (38, 5, 7), "heatmaps"),
        ((19, 5, 7), (19, 5, 7), "pafs"),
        ((19, 5, 7), (38, 7, 5), "pafs"),
        ((19, 5), (38, 5), "heatmaps"),
        ((1, 19, 5, 7), (1, 38, 5, 7), "heatmaps"),
    ],
)
def test_maps_of_another_shape_are_rejected(heatmaps, pafs, which):
    with pytest.raises(
        ValueError, match=rf"Maps\.{which}: shape .* expected \((19|38), h, w\), the same grid for both"
    ):
        Maps(np.zeros(heatmaps, np.float32), np.zeros(pafs, np.float32))
