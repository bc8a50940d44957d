"""The `images` of an annotation file: checked, with sizes from the files where the annotations have none."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from pipeline.annotations.image_files import ImageFolder, is_safe_path, last_path
from pipeline.annotations.values import abbreviate, entry_name, expected, is_number, parse_id, to_integer
from pipeline.errors import InputError
from pipeline.images.decode import MAX_PIXELS

MAX_SIDE = 2**16
"""Largest allowed width or height, in px."""


@dataclass(frozen=True)
class ImageEntry:
    """A checked image entry; the attributes are those of `AnnotatedImage`."""

    image_id: int
    file_name: str
    height: int
    width: int
    text_id: str | None


def parse_images(
    items: list[Any], folder: ImageFolder | None, filled: Counter[str], problems: list[str]
) -> dict[int, ImageEntry | None]:
    """Parse image entries.

    Args:
        items: the list `images` of a file.
        folder: where the images are; None if the files are not needed. Without it, sizes cannot be filled in.
        filled: number of entries that were filled in or corrected by kind (`coco.FILLED`), increased here.
        problems: descriptions of entries with errors are appended.

    Returns:
        The images by id, in the order of the file. The value is None for an image with errors, so that its annotations
        are not reported as errors, too.
    """
    images: dict[int, ImageEntry | None] = {}
    found_names: dict[str, int] = {}
    for index, item in enumerate(items):
        try:
            entry = _parse_image(item, folder, filled)
            other = images.get(entry.image_id)
            if other == entry:
                filled["repeated image entries"] += 1
                continue
            if entry.image_id in images:
                names = f": {abbreviate(other.file_name)} and {abbreviate(entry.file_name)}" if other else ""
                raise InputError(f"its id is used by two images{names}")
            if entry.file_name != item["file_name"] and entry.file_name in found_names:
                raise InputError(f"its file {entry.file_name} is that of image {found_names[entry.file_name]}, too")
            found_names[entry.file_name] = entry.image_id
            images[entry.image_id] = entry
        except InputError as error:
            problems.append(f"{entry_name('image', item, index)}: {error}")
            image_id = parse_id(item.get("id")) if isinstance(item, dict) else None
            if image_id is not None:
                images[image_id] = None
    return images


def _parse_image(item: Any, folder: ImageFolder | None, filled: Counter[str]) -> ImageEntry:
    if not isinstance(item, dict):
        raise InputError(f"{abbreviate(item)} is not an object")
    image_id = parse_id(item.get("id"))
    if image_id is None:
        raise InputError(expected(item, "id", "an integer of at least 0, or text"))
    text_id = item["id"] if isinstance(item["id"], str) else None
    filled["text ids"] += text_id is not None
    file_name = _parse_name(item, folder)
    filled["file names"] += file_name != item["file_name"]
    height, width = _parse_size(item, file_name, folder, filled)
    return ImageEntry(image_id, file_name, height, width, text_id)


def _parse_name(item: dict[str, Any], folder: ImageFolder | None) -> str:
    name = item.get("file_name")
    if isinstance(name, str):
        found = folder.find(name) if folder else None
        if found is None and is_safe_path(name):
            found = name  # a missing file is found when images are read
        if found is None and not folder:
            last = last_path(name).rpartition("/")[2]
            found = last if is_safe_path(last) else None
        if found is not None:
            return found
    raise InputError(expected(item, "file_name", "a path below the image folder"))


def _parse_size(
    item: dict[str, Any], file_name: str, folder: ImageFolder | None, filled: Counter[str]
) -> tuple[int, int]:
    sides = [to_integer(item.get(name)) for name in ("height", "width")]
    if folder and any(side in (None, 0, "") for side in sides):
        try:
            size = folder.size(file_name)
        except InputError as error:
            missing = "height" if sides[0] in (None, 0, "") else "width"
            raise InputError(f"{expected(item, missing, 'its size in px')}, and its file {error}") from None
        filled["image sizes"] += 1
        return size
    for name, side in zip(("height", "width"), sides, strict=True):
        if type(side) is not int or not is_number(side, 1, MAX_SIDE):
            raise InputError(expected(item, name, f"1..{MAX_SIDE} px"))
    height, width = sides
    if height * width > MAX_PIXELS:
        raise InputError(f"{width}x{height} px, expected at most {MAX_PIXELS // 10**6} million pixels")
    return height, width
