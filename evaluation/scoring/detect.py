"""Detection of people in a whole dataset by one process, and the distribution of images to several processes."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.inference.letterbox import Letterbox
from evaluation.saved_maps.folder import load_maps
from evaluation.saved_maps.writer import MapWriter, NetworkIdentity
from evaluation.scoring.datasets import EvaluationDataset, Record, load_image
from evaluation.scoring.ground_truth import GroundTruth, add_annotations
from pipeline.maps import Maps
from pipeline.sample import Size
from pipeline.system.files import file_sha256

if TYPE_CHECKING:
    from evaluation.decoder.person import Person
    from evaluation.inference.backends import Library
    from evaluation.inference.predictor import Predictor


def do_nothing() -> None:
    """Default of progress callbacks."""


@dataclass(frozen=True)
class Detections:
    """Detections on a set of images, and how they were obtained.

    Attributes:
        ground_truth: annotations of the images, in ascending order of image id.
        people: detected people of each image, in image pixels, in ascending order of image id.
        canvases: sizes of the network's input; MindSpore compiles one graph for each.
        seconds: duration in seconds, including the compilation of graphs.
        source: path of the network.
        config: section `evaluation` of the configuration.
        library: library that ran the network.
    """

    ground_truth: GroundTruth
    people: dict[int, list[Person]]
    canvases: frozenset[Size]
    seconds: float
    source: str
    config: dict[str, Any]
    library: Library


def detect_people(
    predictor: Predictor,
    records: Iterable[Record],
    on_image: Callable[[], object] = do_nothing,
    writer: MapWriter | None = None,
) -> Detections:
    """Detect people in the image of every record.

    Args:
        predictor: network and configuration.
        records: records of an `EvaluationDataset`.
        on_image: called after each image.
        writer: saves the maps of each image.

    Raises:
        InputError: an image cannot be decoded or does not have the annotated size, an image id occurs twice, the
            network's output is not finite, or the folder of `writer` has maps of another network.
    """
    ground_truth: GroundTruth = {}
    people: dict[int, list[Person]] = {}
    start = time.monotonic()
    save = None
    if writer:
        writer.write_index(_network_identity(predictor))
        save = functools.partial(_save_maps, writer)
    for record, detected in predictor.predict_stream(_collect_annotations(records, ground_truth), load_image, save):
        people[record.image_id] = detected
        on_image()
    return Detections(
        dict(sorted(ground_truth.items())),
        dict(sorted(people.items())),
        frozenset(predictor.canvases),
        time.monotonic() - start,
        str(predictor.source),
        predictor.config.model_dump(mode="json"),
        predictor.library,
    )


def _network_identity(predictor: Predictor) -> NetworkIdentity:
    config = predictor.config
    return NetworkIdentity(
        str(predictor.source),
        file_sha256(predictor.source) if predictor.source else "",
        predictor.library,
        config.size,
        list(config.scales),
        config.max_aspect,
        config.flip,
        list(predictor.fixed_canvas) if predictor.fixed_canvas else None,
    )


def _save_maps(writer: MapWriter, record: Record, maps: Maps, letterbox: Letterbox) -> None:
    writer.write(record.image_id, maps, letterbox)


def decode_saved_maps(
    files: Mapping[int, Path],
    dataset: EvaluationDataset,
    detections: Detections,
    on_image: Callable[[], object] = do_nothing,
) -> Detections:
    """Add the people in images whose maps were saved by an earlier run with the same network.

    Args:
        files: files of maps by image id.
        dataset: dataset with these images.
        detections: detections of the network in other images.
        on_image: called after each image.
    """
    from evaluation.decoder.decode import DecodeConfig
    from evaluation.inference.predictor import decode_people

    start = time.monotonic()
    config = DecodeConfig(**detections.config["decoder"])
    sizes = dict(zip(dataset.image_ids(), dataset.sizes(), strict=True))
    ground_truth = dataset.ground_truth()
    people: dict[int, list[Person]] = {}
    for image_id, path in files.items():
        saved = load_maps(path, sizes[image_id])
        people[image_id] = decode_people(saved.maps, saved.letterbox, config)
        on_image()
    part = replace(detections, ground_truth={image_id: ground_truth[image_id] for image_id in people}, people=people)
    return merge_detections([detections, part], detections.seconds + time.monotonic() - start)


def _collect_annotations(records: Iterable[Record], ground_truth: GroundTruth) -> Iterator[Record]:
    """Yield the records and add their annotations to `ground_truth`."""
    for record in records:
        add_annotations(ground_truth, record.image_id, record.annotations)
        yield record


def merge_detections(parts: Sequence[Detections], seconds: float) -> Detections:
    """Merge the detections of several processes on disjoint images; raise InputError if an image id occurs twice."""
    ground_truth: GroundTruth = {}
    people: dict[int, list[Person]] = {}
    for part in parts:
        for image_id, annotated in part.ground_truth.items():
            add_annotations(ground_truth, image_id, annotated)
        people |= part.people
    canvases = frozenset().union(*(part.canvases for part in parts))
    return Detections(
        dict(sorted(ground_truth.items())),
        dict(sorted(people.items())),
        canvases,
        seconds,
        parts[0].source,
        parts[0].config,
        parts[0].library,
    )


def partition_by_work(sizes: Sequence[Size], processes: int) -> list[list[int]]:
    """Distribute images to processes in shares of about equal work.

    Images of similar aspect ratio go to the same process. They share canvases, so each process compiles few graphs: at
    every configured size, the canvas depends on the aspect ratio only. The detections of an image do not depend on the
    other images of its batch, and therefore not on the number of processes.

    Args:
        sizes: (height, width) in px of each image.
        processes: number of processes, at least 1.

    Returns:
        Indices of the images of each process, without empty shares. With fewer images than processes, there are fewer
        shares than processes.
    """
    # the shorter side is scaled to a fixed length, so the work is proportional to the ratio of the sides
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i][0] / sizes[i][1], i))
    work = [max(sizes[i]) / min(sizes[i]) for i in order]
    total, done = sum(work), 0.0
    shares: list[list[int]] = [[] for _ in range(processes)]
    for i, image_work in zip(order, work, strict=True):
        shares[min(int(processes * (done + image_work / 2) / total), processes - 1)].append(i)
        done += image_work
    return [share for share in shares if share]


def format_network(library: Library, canvases: Iterable[Size]) -> str:
    """Return one line with the library that ran the network, and the number of input sizes and the sizes."""
    names = Counter(f"{width}x{height}" for height, width in sorted(canvases))
    shapes = "1 input shape" if len(names) == 1 else f"{len(names)} input shapes"
    return f"Network run by {library} with {shapes}: {', '.join(names)}"
