"""Finding the people in a whole set of pictures, in this process or in several."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evaluation.scoring.datasets import Record, load_picture
from evaluation.scoring.truth import Truth, add_truth
from pipeline.sample import Size

if TYPE_CHECKING:
    from evaluation.decoder.person import Person
    from evaluation.inference.predictor import Predictor


def nothing() -> None:
    """Do nothing: what happens at each picture unless somebody wants to know."""


@dataclass(frozen=True)
class Detections:
    """Who was found where, and by what.

    Attributes:
        truth: the pictures looked at, with their annotations, by rising image id.
        people: found in each picture, in its pixels, by rising image id.
        canvases: sizes that the network was asked with; each compiled a graph.
        seconds: that it took, compilation of graphs included.
        source: what the network was read from.
        config: the recipe's section `evaluation`.
    """

    truth: Truth
    people: dict[int, list[Person]]
    canvases: frozenset[Size]
    seconds: float
    source: str
    config: dict[str, Any]


def detect_people(
    predictor: Predictor, records: Iterable[Record], on_picture: Callable[[], object] = nothing
) -> Detections:
    """Find the people in every record's picture.

    Args:
        predictor: network and recipe.
        records: as a `PictureSet` gives them.
        on_picture: called whenever a picture is done.

    Raises:
        InputError: a picture that cannot be decoded or is of another size than its annotation says, two pictures of
            one image id, or maps that are not finite.
    """
    truth: Truth = {}
    people: dict[int, list[Person]] = {}
    start = time.monotonic()
    for record, found in predictor.predict_stream(_noted(records, truth), load_picture):
        people[record.image_id] = found
        on_picture()
    return Detections(
        dict(sorted(truth.items())),
        dict(sorted(people.items())),
        frozenset(predictor.canvases),
        time.monotonic() - start,
        str(predictor.source),
        predictor.config.model_dump(mode="json"),
    )


def _noted(records: Iterable[Record], truth: Truth) -> Iterator[Record]:
    """The records, with their annotations noted in `truth` as they pass."""
    for record in records:
        add_truth(truth, record.image_id, record.truth)
        yield record


def gather(parts: Sequence[Detections], seconds: float) -> Detections:
    """One from many, each of other pictures; InputError if two have one image id."""
    truth: Truth = {}
    people: dict[int, list[Person]] = {}
    for part in parts:
        for image_id, people_there in part.truth.items():
            add_truth(truth, image_id, people_there)
        people |= part.people
    canvases = frozenset().union(*(part.canvases for part in parts))
    first = parts[0]
    return Detections(
        dict(sorted(truth.items())), dict(sorted(people.items())), canvases, seconds, first.source, first.config
    )


def partition_by_work(sizes: Sequence[Size], processes: int) -> list[list[int]]:
    """Deal pictures to processes: each to one, in shares of about equal work.

    Pictures of like shape go to the same process. They share canvases, so that each process compiles few graphs; a
    canvas depends on a picture's shape in the same way at every size of the recipe. What is found in a picture does
    not depend on the others in its batch, nor therefore on the number of processes.

    Args:
        sizes: (height, width) px of each picture.
        processes: at least 1.

    Returns:
        Indices for each process; of those that have any, as many as there are pictures at most.
    """
    # with the shorter side given, work is in proportion to the longer one
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i][0] / sizes[i][1], i))
    work = [max(sizes[i]) / min(sizes[i]) for i in order]
    total, done = sum(work), 0.0
    shares: list[list[int]] = [[] for _ in range(processes)]
    for i, more in zip(order, work, strict=True):
        shares[min(int(processes * (done + more / 2) / total), processes - 1)].append(i)
        done += more
    return [share for share in shares if share]


def count_canvases(canvases: Iterable[Size]) -> str:
    """One line: how many sizes the network was asked with, and which."""
    names = Counter(f"{width}x{height}" for height, width in sorted(canvases))
    shapes = "1 shape" if len(names) == 1 else f"{len(names)} shapes"
    return f"{shapes} of network input compiled: {', '.join(names)}"
