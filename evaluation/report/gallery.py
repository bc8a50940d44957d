"""Pictures with what was found in them beside the truth: which to show, and their files."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.person import Person
from evaluation.media.overlay import draw_comparison
from evaluation.scoring.truth import true_keypoints
from pipeline.errors import InputError

MANY = 4
"""Pictures of this many people and of more count as one kind."""

_QUALITY = 90
_OURS = re.compile(r"found-\d{12,}\.jpg")


def choose(people: Sequence[int], number: int) -> list[int]:
    """Choose pictures of all kinds, by what is annotated on them and never by what was found.

    Kinds are pictures of 1, 2, 3 and MANY or more people, in turn, and at every fifth turn one without; within a kind
    chance decides, always in the same way.

    Args:
        people: how many people each picture has.
        number: how many to choose, at most.

    Returns:
        Indices into `people`, rising.
    """
    order = np.random.default_rng(0).permutation(len(people)).tolist()
    kinds = [deque(i for i in order if min(people[i], MANY) == kind) for kind in (*range(1, MANY + 1), 0)]
    chosen: list[int] = []
    while len(chosen) < number and any(kinds):
        chosen += [kind.popleft() for kind in kinds if kind]
    return sorted(chosen[:number])


def write_pictures(
    folder: Path,
    pictures: Mapping[int, NDArray[np.uint8]],
    truth: Mapping[int, Sequence[Mapping[str, Any]]],
    people: Mapping[int, Sequence[Person]],
) -> list[Path]:
    """Write `found-IMAGE_ID.jpg` for each picture, truth left and found right, and remove those of an earlier time.

    Args:
        folder: made if need be; files with other names are left alone.
        pictures: (H, W, 3) uint8 BGR by image id.
        truth: COCO person annotations by image id.
        people: what was found, in pixels of the picture, by image id.

    Raises:
        InputError: a file cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for image_id, image in pictures.items():
            path = folder / f"found-{image_id:012d}.jpg"
            drawn = draw_comparison(image, people[image_id], true_keypoints(truth[image_id]))
            _write_jpeg(path, drawn)
            written.append(path)
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name) and path not in written:
                path.unlink()
    except OSError as error:
        raise InputError(f"{folder}: pictures cannot be written: {error.strerror}") from error
    return written


def _write_jpeg(path: Path, image: NDArray[np.uint8]) -> None:
    """Write beside the file's place and rename it there: a reader sees a whole picture or none."""
    import simplejpeg

    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=_QUALITY, colorspace="BGR")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
