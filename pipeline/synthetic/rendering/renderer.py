"""Render figures and objects in colour, with clothes, faces and shading."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.geometry.figures import (
    FOOT,
    FOREARM,
    HAND,
    HEAD,
    LONG_HAIR,
    NECK,
    PELVIS,
    SKIRT,
    TORSO,
    UPPER_ARM,
    Figure,
)
from pipeline.synthetic.geometry.heads import HAIRLINES, VISIBLE
from pipeline.synthetic.geometry.objects import Colour, SceneObject, sample_colour, shade
from pipeline.synthetic.geometry.polygons import SUBPIXEL_BITS, SUBPIXELS, capsules, to_fixed_point
from pipeline.synthetic.geometry.poses import Floats

Image = NDArray[np.uint8]

_OUTLINE_SHADE = 0.66  # brightness of an outline relative to the area inside

_SKIN_COLOURS: tuple[Colour, ...] = (
    (190, 210, 243),
    (160, 190, 235),
    (130, 165, 218),
    (100, 140, 198),
    (75, 112, 170),
    (55, 82, 130),
    (42, 60, 96),
)
_HAIR_COLOURS: tuple[Colour, ...] = (
    (28, 26, 30),
    (30, 42, 62),
    (40, 66, 104),
    (60, 120, 176),
    (110, 180, 220),
    (50, 74, 160),
    (170, 172, 176),
)
_TROUSER_COLOURS: tuple[Colour, ...] = (
    (110, 70, 45),
    (70, 50, 40),
    (45, 42, 42),
    (110, 150, 175),
    (130, 125, 120),
    (50, 80, 70),
)
_PATTERNS = ("plain", "plain", "plain", "plain", "plain", "stripes", "bars", "checks", "dots", "logo")


@dataclass(frozen=True)
class Appearance:
    """Colours, clothes and accessories of a person.

    Attributes:
        skin, hair, shirt, trousers, skirt, shoes: BGR colours.
        second: BGR colour of the shirt's pattern and of a tie.
        pattern: pattern of the shirt, one of _PATTERNS.
        sleeves: fractions of upper arm and forearm that the sleeves cover.
        legs: fractions of thigh and shank that the trousers cover.
        glasses, beard, tie: True if the person wears it.
    """

    skin: Colour
    hair: Colour
    shirt: Colour
    second: Colour
    trousers: Colour
    skirt: Colour
    shoes: Colour
    pattern: str
    sleeves: tuple[float, float]
    legs: tuple[float, float]
    glasses: bool
    beard: bool
    tie: bool


def sample_appearance(rng: np.random.Generator) -> Appearance:
    """Sample a person's colours and clothes."""
    u = rng.random(14).tolist()
    sleeve = (1.0, 1.0) if u[0] < 0.45 else (0.45 + 0.35 * u[1], 0.0) if u[0] < 0.88 else (0.0, 0.0)
    leg = (1.0, 1.0) if u[2] < 0.62 else (0.75 + 0.25 * u[3], 0.0) if u[2] < 0.9 else (1.0, 0.5)
    trousers = _TROUSER_COLOURS[int(u[4] * len(_TROUSER_COLOURS))] if u[5] < 0.75 else sample_colour(rng)
    return Appearance(
        skin=shade(_SKIN_COLOURS[int(u[6] * len(_SKIN_COLOURS))], 0.93 + 0.14 * u[7]),
        hair=_HAIR_COLOURS[int(u[8] * len(_HAIR_COLOURS))],
        shirt=sample_colour(rng),
        second=sample_colour(rng),
        trousers=shade(trousers, 0.7 + 0.6 * u[9]),
        skirt=sample_colour(rng),
        shoes=sample_colour(rng) if u[10] < 0.4 else (40.0, 40.0, 45.0),
        pattern=_PATTERNS[int(u[11] * len(_PATTERNS))],
        sleeves=sleeve,
        legs=leg,
        glasses=u[12] < 0.10,
        beard=u[12] > 0.90,
        tie=u[13] < 0.12,
    )


def _fill(image: Image, polygon: NDArray[np.int32], colour: Colour) -> None:
    cv2.fillConvexPoly(image, polygon, colour, cv2.LINE_AA, SUBPIXEL_BITS)


def _dot(image: Image, x: float, y: float, radius: float, colour: Colour) -> None:
    centre = (round(x * SUBPIXELS), round(y * SUBPIXELS))
    cv2.circle(image, centre, max(round(radius * SUBPIXELS), 4), colour, -1, cv2.LINE_AA, SUBPIXEL_BITS)


def _line(image: Image, points: Floats, colour: Colour, thickness: float) -> None:
    cv2.polylines(image, [to_fixed_point(points)], False, colour, max(1, round(thickness)), cv2.LINE_AA, SUBPIXEL_BITS)


def render_object(image: Image, scene_object: SceneObject) -> None:
    """Draw an object or a crowd into a (H, W, 3) uint8 BGR image."""
    corners = to_fixed_point(scene_object.points)
    for (_, start, stop), colour in zip(scene_object.spans, scene_object.colours, strict=True):
        _fill(image, corners[start:stop], colour)


class FigureRenderer:
    """Draws one figure, part by part, into a (H, W, 3) uint8 BGR image."""

    def __init__(self, image: Image, figure: Figure, appearance: Appearance) -> None:
        self.image, self.figure, self.appearance = image, figure, appearance
        axes, radii = figure.axes, figure.radii
        shift = np.array([-0.12, -0.12]) * radii.mean(axis=1)[:, None]
        cover = np.zeros(13)
        cover[:12] = np.repeat([*appearance.sleeves, 0.0, *appearance.legs, 1.0], 2)
        cut = axes.copy()
        cut[:, 1] = axes[:, 0] + cover[:, None] * (axes[:, 1] - axes[:, 0])
        self.cover = cover.tolist()
        layers = capsules(
            np.concatenate([axes + shift[:, None], cut, cut + shift[:, None]]),
            np.concatenate([radii * 0.74, radii * 1.06, radii * 0.80]),
        )
        self.inner, self.cloth, self.cloth_inner = to_fixed_point(layers).reshape(3, 13, 14, 2)

    def render(self) -> None:
        """Draw all parts from far to near."""
        corners = to_fixed_point(self.figure.points)
        heads = sum(part == HEAD for part, _, _ in self.figure.spans)
        seen = 0
        for part, start, stop in self.figure.spans:
            polygon = corners[start:stop]
            if part == HEAD:
                self._draw_head_layer(polygon, seen)
                seen += 1
                if seen == heads:
                    self._draw_face()
            elif part >= UPPER_ARM or part == NECK:
                self._draw_limb(part, polygon)
            elif part == TORSO:
                self._draw_torso(polygon)
            elif part == PELVIS:
                self._fill_outlined(
                    polygon, self.appearance.skirt if self.figure.shape.skirt else self.appearance.trousers
                )
            elif part == SKIRT:
                self._fill_outlined(polygon, self.appearance.skirt)
            elif part == LONG_HAIR:
                self._fill_outlined(polygon, shade(self.appearance.hair, 0.85))

    def _fill_outlined(self, polygon: NDArray[np.int32], colour: Colour) -> None:
        _fill(self.image, polygon, shade(colour, _OUTLINE_SHADE))
        centre = polygon.mean(axis=0)
        _fill(self.image, np.rint(centre + 0.90 * (polygon - centre)).astype(np.int32), colour)

    def _draw_limb(self, part: int, polygon: NDArray[np.int32]) -> None:
        appearance = self.appearance
        index = 12 if part == NECK else part - UPPER_ARM
        kind = part - index % 2 if part != NECK else NECK
        bare = appearance.shoes if kind == FOOT else appearance.skin
        cloth = appearance.shirt if kind in (UPPER_ARM, FOREARM) else appearance.trousers
        cover = self.cover[index]
        if kind in (NECK, HAND, FOOT) or cover < 0.01:
            _fill(self.image, polygon, shade(bare, _OUTLINE_SHADE))
            _fill(self.image, self.inner[index], bare)
            return
        whole = cover > 0.99
        _fill(self.image, polygon, shade(cloth if whole else bare, _OUTLINE_SHADE))
        if not whole:
            _fill(self.image, self.inner[index], bare)
            _fill(self.image, self.cloth[index], shade(cloth, _OUTLINE_SHADE))
        _fill(self.image, self.cloth_inner[index], cloth)
        if kind in (UPPER_ARM, FOREARM) and appearance.pattern in ("stripes", "checks"):
            self._draw_limb_stripes(index, cover)

    def _draw_limb_stripes(self, index: int, cover: float) -> None:
        (start, stop), radii = self.figure.axes[index], self.figure.radii[index]
        along = (stop - start) * cover
        length = math.hypot(*along.tolist()) + 1e-6
        normal = np.array([-along[1], along[0]]) / length
        step = max(0.045 * self.figure.scale, 3.0)
        for k in range(1, int(length / step) + 1):
            t = k * step / length
            middle, reach = start + t * along, 0.85 * (radii[0] + t * cover * (radii[1] - radii[0]))
            _line(
                self.image,
                np.stack([middle - reach * normal, middle + reach * normal]),
                self.appearance.second,
                0.3 * step,
            )

    def _trunk_curves(self, heights: Floats) -> Floats:
        """Return (T, M, 2) points across the near side of the trunk at fractional ring indices `heights` (T,)."""
        figure = self.figure
        near = figure.near
        first = int(np.argmin(near))
        order = np.roll(np.arange(len(near)), -first)
        order = order[near[order]]
        low = np.minimum(heights.astype(int), len(figure.rings) - 2)
        t = (heights - low)[:, None, None]
        rows = (1 - t) * figure.rings[low] + t * figure.rings[low + 1]
        centre = rows.mean(axis=1, keepdims=True)
        return np.asarray(centre + 0.88 * (rows[:, order] - centre))

    def _draw_torso(self, polygon: NDArray[np.int32]) -> None:
        appearance, figure = self.appearance, self.figure
        self._fill_outlined(polygon, appearance.shirt)
        size = figure.scale
        if appearance.pattern in ("stripes", "checks"):
            for row in self._trunk_curves(np.linspace(1.2, 4.1, 7)):
                _line(self.image, row, appearance.second, 0.016 * size)
        if appearance.pattern in ("bars", "checks"):
            for column in self._trunk_curves(np.linspace(1.2, 4.2, 4)).transpose(1, 0, 2):
                _line(self.image, column, appearance.second, 0.012 * size)
        if appearance.pattern == "dots":
            for x, y in self._trunk_curves(np.linspace(1.3, 4.0, 6)).reshape(-1, 2).tolist():
                _dot(self.image, x, y, 0.010 * size, appearance.second)
        if figure.front > 0.25:
            self._draw_chest()

    def _draw_chest(self) -> None:
        """Draw neckline, tie or logo, which distinguish a person's front from the back."""
        appearance, size = self.appearance, self.figure.scale
        rows = self._trunk_curves(np.array([5.0, 4.2, 3.2, 2.0]))
        middle = rows[:, rows.shape[1] // 2]
        collar = np.stack([rows[0, 0], middle[1], rows[0, -1]])
        _fill(self.image, to_fixed_point(collar), shade(appearance.skin, 0.9))
        if appearance.tie:
            _line(self.image, middle[1:], appearance.second, 0.022 * size)
        elif appearance.pattern == "logo":
            _dot(self.image, float(middle[2, 0]), float(middle[2, 1]), 0.035 * size, appearance.second)

    def _draw_head_layer(self, polygon: NDArray[np.int32], layer: int) -> None:
        appearance, figure = self.appearance, self.figure
        bald = HAIRLINES[figure.shape.hairline][1] > 1
        back, top = (
            (appearance.skin, appearance.hair) if figure.head.hair_on_top else (appearance.hair, appearance.skin)
        )
        if layer == 0:
            self._fill_outlined(polygon, appearance.skin if bald else back)
        elif layer == 1 and not bald:
            _fill(self.image, polygon, top)
        else:
            _fill(self.image, polygon, shade(appearance.skin, 0.80))

    def _draw_face(self) -> None:
        figure, appearance = self.figure, self.appearance
        unit = 0.048 * figure.shape.proportions.head * figure.scale
        bridge, chin, mouth = (figure.landmark(name) for name in ("bridge", "chin", "mouth"))
        down = chin - bridge
        across = np.array([-down[1], down[0]]) / (math.hypot(*down.tolist()) + 1e-6)
        if figure.head.face_to_camera > 0.05:
            if appearance.beard:
                _line(
                    self.image,
                    np.stack([mouth - 0.5 * unit * across, mouth + 0.5 * unit * across]),
                    appearance.hair,
                    0.5 * unit,
                )
            wide = 0.34 * unit * max(figure.head.face_to_camera, 0.25)
            _line(
                self.image, np.stack([mouth - wide * across, mouth + wide * across]), (60.0, 55.0, 130.0), 0.13 * unit
            )
        for eye in (1, 2):
            if figure.pose_visibility[eye] == VISIBLE:
                self._draw_eye(figure.keypoints[eye], across, down, unit)

    def _draw_eye(self, centre: Floats, across: Floats, down: Floats, unit: float) -> None:
        appearance = self.appearance
        x, y = centre.tolist()
        if appearance.glasses:
            _dot(self.image, x, y, 0.36 * unit, (35.0, 30.0, 30.0))
            return
        _dot(self.image, x, y, 0.23 * unit, (225.0, 230.0, 235.0))
        _dot(self.image, x, y, 0.15 * unit, (45.0, 35.0, 30.0))
        brow = centre - 0.28 * down
        _line(
            self.image,
            np.stack([brow - 0.28 * unit * across, brow + 0.28 * unit * across]),
            shade(appearance.hair, 0.8),
            0.10 * unit,
        )
