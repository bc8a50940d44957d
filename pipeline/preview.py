"""A contact sheet of training samples as the network gets them: `python -m pipeline.preview SHARDS --out sheet.png`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, reports_input_errors
from pipeline.maps import NUM_PAFS, pixel_to_grid
from pipeline.skeleton import KEYPOINTS, LIMB_INDICES

Picture = NDArray[np.uint8]

CAPTIONS = ("people", "heatmaps", "part affinity fields", "ignored")
LEAST_WIDTH = 280
"""px; pictures of small networks are enlarged to be seen."""

CAPTION_HEIGHT = LEGEND_HEIGHT = 24
_GAP = 6
_SIDE_GAP = ((0, 0), (_GAP, _GAP), (0, 0))
_TEXT = (230, 230, 230)
_BACKGROUND = 32
_SIDES = {"left_": (80, 200, 80), "right_": (60, 60, 240)}
_MIDDLE = (0, 200, 255)


def _colour(name: str) -> tuple[int, int, int]:
    """BGR: green for the left side of the body, red for the right, yellow between."""
    return next((colour for side, colour in _SIDES.items() if name.startswith(side)), _MIDDLE)


def draw_keypoints(image: Picture, keypoints: NDArray[np.float32]) -> Picture:
    """Draw people into a copy of a picture; hidden keypoints (visibility 1) as rings.

    Args:
        image: (H, W, 3) uint8 BGR.
        keypoints: (P, K, 3) float32 x, y in px and visibility.
    """
    import cv2

    canvas = image.copy()
    for person in keypoints:
        spots = [(round(float(x)), round(float(y))) for x, y in person[:, :2]]
        for start, stop in LIMB_INDICES.tolist():
            if person[start, 2] > 0 and person[stop, 2] > 0:
                cv2.line(canvas, spots[start], spots[stop], _colour(KEYPOINTS[stop]), 2, cv2.LINE_AA)
        for name, spot, visibility in zip(KEYPOINTS, spots, person[:, 2], strict=True):
            if visibility > 0:
                cv2.circle(canvas, spot, 4, _colour(name), -1 if visibility > 1 else 1, cv2.LINE_AA)
    return canvas


def draw_heatmaps(image: Picture, heatmaps: NDArray[np.float32]) -> Picture:
    """Lay the strongest of all keypoints' heatmaps over a darkened picture.

    Args:
        image: (H, W, 3) uint8 BGR.
        heatmaps: (K + 1, h, w) float32; the background is left out.
    """
    import cv2

    strength = _on_pixels(heatmaps[:-1].max(axis=0), image)
    colours = cv2.applyColorMap((strength.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_HOT)
    return _blend(image, colours, strength)


def draw_pafs(image: Picture, pafs: NDArray[np.float32]) -> Picture:
    """Lay the part affinity fields over a darkened picture: direction as hue, length as opacity.

    Args:
        image: (H, W, 3) uint8 BGR.
        pafs: (2L, h, w) float32; where limbs overlap, the longest vector shows.
    """
    vectors = pafs.reshape(NUM_PAFS // 2, 2, *pafs.shape[1:])
    lengths = np.hypot(vectors[:, 0], vectors[:, 1])  # (L, h, w)
    longest = lengths.argmax(axis=0)[None]
    x, y, length = (
        _on_pixels(np.take_along_axis(values, longest, axis=0)[0], image)
        for values in (vectors[:, 0], vectors[:, 1], lengths)
    )
    return _blend(image, _direction_colours(np.degrees(np.arctan2(y, x))), length)


def draw_ignored(image: Picture, mask: NDArray[np.uint8]) -> Picture:
    """Paint the grid cells where the loss does not count (mask 0) magenta.

    Args:
        image: (H, W, 3) uint8 BGR.
        mask: (h, w) uint8.
    """
    stride = len(image) // len(mask)
    ignored = np.repeat(np.repeat(mask == 0, stride, axis=0), stride, axis=1)
    canvas = image.copy()
    canvas[ignored] = canvas[ignored] // 2 + np.array((120, 0, 120), dtype=np.uint8)
    return canvas


def _on_pixels(cells: NDArray[np.float32], image: Picture) -> NDArray[np.float32]:
    """Values (h, w) of grid cells at every pixel of a picture, (H, W), linear between the cells' centres."""
    import cv2

    height, width = image.shape[:2]
    stride = height // len(cells)
    xs = pixel_to_grid(np.arange(width, dtype=np.float32), stride)
    ys = pixel_to_grid(np.arange(height, dtype=np.float32), stride)
    x_map, y_map = np.meshgrid(xs, ys)
    pixels: NDArray[np.float32] = cv2.remap(cells, x_map, y_map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return pixels


def _blend(image: Picture, colours: Picture, opacity: NDArray[np.float32]) -> Picture:
    weight = opacity.clip(0, 1)[..., None]
    mixed: Picture = (image * (0.5 * (1 - weight)) + colours * weight).astype(np.uint8)
    return mixed


def legend(width: int) -> list[Picture]:
    """What the colours mean: four strips (LEGEND_HEIGHT, width, 3) uint8 BGR, one for each of a sample's pictures."""
    import cv2

    swatch, middle = 12, LEGEND_HEIGHT // 2
    strips = [np.full((LEGEND_HEIGHT, width, 3), _BACKGROUND, dtype=np.uint8) for _ in CAPTIONS]
    names = (("left", "left_"), ("right", "right_"), ("middle", ""))
    at = 4
    for text, side in names:
        cv2.circle(strips[0], (at + 5, middle), 4, _colour(side), -1, cv2.LINE_AA)
        at = _write(strips[0], at + 14, text) + 10
    cv2.circle(strips[0], (at + 5, middle), 4, _TEXT, 1, cv2.LINE_AA)
    _write(strips[0], at + 14, "hidden")

    ramp = np.linspace(0, 255, 80).astype(np.uint8)[None].repeat(swatch, axis=0)
    at = _write(strips[1], 4, "0")
    _paste(strips[1], at + 4, cv2.applyColorMap(ramp, cv2.COLORMAP_HOT))
    _write(strips[1], at + 88, "1, strongest of all keypoints")

    at = 4
    for text, angle in (("right", 0), ("down", 90), ("left", 180), ("up", 270)):
        _paste(strips[2], at, np.full((swatch, swatch, 3), _direction_colours(np.array([[angle]]))[0, 0], np.uint8))
        at = _write(strips[2], at + swatch + 4, text) + 10

    _paste(strips[3], 4, np.full((swatch, swatch, 3), (_BACKGROUND + 120, _BACKGROUND, _BACKGROUND + 120), np.uint8))
    _write(strips[3], 4 + swatch + 4, "the loss does not look here")
    return strips


def _write(canvas: Picture, x: int, text: str) -> int:
    """Write a line of text at x px; returns where it ends."""
    import cv2

    style = (cv2.FONT_HERSHEY_SIMPLEX, 0.45)
    cv2.putText(canvas, text, (x, 17), *style, _TEXT, 1, cv2.LINE_AA)
    return int(x + cv2.getTextSize(text, *style, 1)[0][0])


def _paste(canvas: Picture, x: int, picture: Picture) -> None:
    top = (len(canvas) - len(picture)) // 2
    room = canvas[top : top + len(picture), x : x + picture.shape[1]]
    room[:] = picture[:, : room.shape[1]]


def _direction_colours(degrees: NDArray[Any]) -> Picture:
    """(H, W, 3) uint8 BGR of directions (H, W) in degrees, clockwise from rightwards as pictures have y downwards."""
    import cv2

    hue = (degrees % 360 / 2).astype(np.uint8)
    full = np.full_like(hue, 255)
    colours: Picture = cv2.cvtColor(cv2.merge((hue, full, full)), cv2.COLOR_HSV2BGR)
    return colours


def contact_sheet(batch: dict[str, NDArray[Any]], columns: int) -> Picture:
    """Lay out all samples of a batch, four pictures each, below a legend.

    Args:
        batch: of `create_batches`, with targets.
        columns: samples side by side.

    Returns:
        (H', W', 3) uint8 BGR.
    """
    tiles = []
    for place, small in enumerate(batch["image"]):
        image, keypoints = enlarged(small, batch["keypoints"][place])
        pictures = (
            draw_keypoints(image, keypoints),
            draw_heatmaps(image, batch["heatmaps"][place]),
            draw_pafs(image, batch["pafs"][place]),
            draw_ignored(image, batch["mask"][place]),
        )
        for title, picture in zip(CAPTIONS, pictures, strict=True):
            tiles.append(captioned(picture, f"{batch['image_id'][place]}: {title}" if title == CAPTIONS[0] else title))
    per_row = columns * len(CAPTIONS)
    tiles += [np.full_like(tiles[0], _BACKGROUND)] * (-len(tiles) % per_row)
    strips = [np.pad(strip, _SIDE_GAP, constant_values=_BACKGROUND) for strip in legend(image.shape[1])]
    rows = [strips * columns, *(tiles[at : at + per_row] for at in range(0, len(tiles), per_row))]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def enlarged(image: Picture, keypoints: NDArray[np.float32]) -> tuple[Picture, NDArray[np.float32]]:
    """A picture as many times as large as it takes to be `LEAST_WIDTH` px wide, and its people."""
    import cv2

    factor = -(-LEAST_WIDTH // image.shape[1])
    moved = keypoints.copy()
    moved[..., :2] = (moved[..., :2] + 0.5) * factor - 0.5
    large: Picture = np.asarray(cv2.resize(image, None, fx=factor, fy=factor), dtype=np.uint8)
    return large, moved


def captioned(picture: Picture, title: str) -> Picture:
    """A picture, (H, W, 3) uint8 BGR, below a line of text and with a frame around it."""
    label = np.full((CAPTION_HEIGHT, picture.shape[1], 3), _BACKGROUND, dtype=np.uint8)
    _write(label, 4, title)
    frame = ((_GAP, _GAP), (_GAP, _GAP), (0, 0))
    return np.pad(np.concatenate((label, picture)), frame, constant_values=_BACKGROUND)


@click.command(context_settings={"show_default": True})
@click.argument("shards", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Picture to write, PNG.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, help="Same seed, same sheet.")
@click.option("--epoch", type=click.IntRange(0), default=0, help="Which epoch's augmentations.")
@click.option("--count", type=click.IntRange(1, 200), default=8, help="Samples to show.")
@click.option("--columns", type=click.IntRange(1, 10), default=1, help="Samples side by side.")
@click.option("--size", type=click.IntRange(64, 2048), default=368, help="px; side of the network's input.")
@click.option("--no-augment", is_flag=True, help="Whole pictures, as for the validation loss.")
@reports_input_errors
def main(
    shards: Path, out: Path, *, seed: int, epoch: int, count: int, columns: int, size: int, no_augment: bool
) -> None:
    """Draw augmented samples of the set SHARDS with their people, targets and ignore mask into one picture."""
    import cv2

    from pipeline.loading.augment import AugmentConfig
    from pipeline.loading.batches import create_batches
    from pipeline.storage.manifest import Manifest
    from pipeline.loading.targets import TargetConfig

    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out}: expected a name that ends in .png")
    manifest = Manifest.load(shards, newer=True)
    if not manifest.records:
        raise InputError(f"{shards}: holds no pictures to show")
    batches = create_batches(
        shards,
        size=size,
        batch_size=min(count, manifest.records),
        max_people=max(1, manifest.max_people),
        seed=seed,
        epoch=epoch,
        augment=None if no_augment else AugmentConfig.for_size(size),
        targets=TargetConfig(),
    )
    samples = iter(batches)
    batch = next(samples)
    sheet = contact_sheet(batch, columns)
    out.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(out), sheet):
        raise InputError(f"--out {out}: cannot be written")
    click.echo(f"{len(batch['image_id'])} samples in {out}")


if __name__ == "__main__":
    main()
