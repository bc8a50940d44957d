"""Perturbations of maps that stand for the differences between exact target maps and those of a trained network.

This module needs NumPy, and OpenCV if maps are blurred.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.maps import Maps

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Perturbation:
    """Changes to the values of maps, applied in the order of the attributes. The defaults change nothing.

    Attributes:
        peak_gain: factor on the heatmaps of the keypoints.
        field_gain: factor on the part affinity fields.
        blur: standard deviation, in cells, of a Gaussian blur of all channels.
        floor: value of the heatmaps where an exact map is 0: h becomes floor + (1 - floor) * h, so 1 stays 1.
        noise: standard deviation of the Gaussian noise that is added to every value, independently in every cell.
        levels: number of values that a quantised map can have, evenly spaced in 0..1 (heatmaps) or -1..1 (fields, with
            0 among them); values outside are clipped. 256 stands for 8-bit integers; 0 does not quantise.
        seed: random seed; the noise depends on it and on the image id.
    """

    peak_gain: float = 1.0
    field_gain: float = 1.0
    blur: float = 0.0
    floor: float = 0.0
    noise: float = 0.0
    levels: int = 0
    seed: int = 0

    def apply(self, maps: Maps, image_id: int) -> Maps:
        """Return the perturbed maps; the noise of an image does not depend on its position in the dataset."""
        rng = np.random.default_rng((self.seed, image_id))
        heatmaps = maps.heatmaps
        if self.peak_gain != 1:
            heatmaps = heatmaps.copy()
            heatmaps[:-1] *= np.float32(self.peak_gain)  # the last channel is the background
        pafs = maps.pafs if self.field_gain == 1 else maps.pafs * np.float32(self.field_gain)
        heatmaps, pafs = _blur(heatmaps, self.blur), _blur(pafs, self.blur)
        if self.floor:
            heatmaps = np.float32(self.floor) + np.float32(1 - self.floor) * heatmaps
        heatmaps, pafs = _add_noise(heatmaps, self.noise, rng), _add_noise(pafs, self.noise, rng)
        if self.levels:
            heatmaps, pafs = _quantise(heatmaps, 0, self.levels), _quantise(pafs, -1, self.levels)
        return Maps(heatmaps, pafs, maps.stride)


def _blur(channels: Floats, sigma: float) -> Floats:
    if not sigma:
        return channels
    import cv2

    return np.stack([cv2.GaussianBlur(channel, (0, 0), sigma) for channel in channels])


def _add_noise(channels: Floats, sigma: float, rng: np.random.Generator) -> Floats:
    return channels + rng.normal(0, sigma, channels.shape).astype(np.float32) if sigma else channels


def _quantise(channels: Floats, low: float, levels: int) -> Floats:
    """Round to multiples of the step between `levels` values from `low` to 1, and clip to this range."""
    step = np.float32((1 - low) / (levels - 1))
    return np.clip(np.rint(channels / step) * step, low, 1).astype(np.float32)
