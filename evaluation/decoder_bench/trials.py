"""Scores of settings of the decoder on chunks of saved maps, computed in parallel and kept in a file.

The file is a list of JSON objects, one in a line: first what was scored, then one for each settings and chunk. An
interrupted search reads it and computes only what is missing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import evaluation.decoder
from evaluation.decoder.decode import DecodeConfig
from evaluation.decoder_bench.compare import decode_with_each
from evaluation.decoder_bench.saved_images import SavedImages
from evaluation.decoder_bench.search import Request
from evaluation.saved_maps.perturbation import Perturbation
from evaluation.scoring.analysis.matching import OKS_THRESHOLDS
from evaluation.scoring.analysis.resampling import MatchedDetections, concatenate, match_detections
from pipeline.errors import InputError
from pipeline.system.files import file_sha256, json_sha256, write_atomically

CHUNK_IMAGES = 16
"""Maximum number of images in a chunk."""

FORMAT = 1
"""Version of the file."""

_BITS = 1 << np.arange(len(OKS_THRESHOLDS))


def split_into_chunks(images: SavedImages, folds: int, seed: int) -> list[SavedImages]:
    """Split images into chunks in random order. The chunks i, i + folds, i + 2 folds, ... are fold i.

    Args:
        images: all images.
        folds: number of folds of the cross-validation.
        seed: random seed of the order.

    Raises:
        InputError: there are fewer than two images for each fold.
    """
    number = len(images)
    if number < 2 * folds:
        raise InputError(f"{images.folder}: {number} maps, expected at least {2 * folds} for {folds} folds")
    count = min(number, max(4 * folds, -(-number // CHUNK_IMAGES)))
    ids = np.random.default_rng(seed).permutation(list(images.files))
    return [images.select(sorted(part.tolist())) for part in np.array_split(ids, count)]


@dataclass(frozen=True)
class Trials:
    """Scores of settings on chunks of images.

    Attributes:
        chunks: the chunks.
        file: file of the scores.
        scores: matched detections by settings and chunk.
    """

    chunks: Sequence[SavedImages]
    file: Path
    scores: dict[Request, MatchedDetections]

    @classmethod
    def open(cls, file: Path, chunks: Sequence[SavedImages]) -> Trials:
        """Read the scores of an earlier search, or start a new file.

        Raises:
            InputError: the scores are of other maps, annotations, chunks or of an earlier version of the decoder.
        """
        header: dict[str, Any] = {"evaluation.tune": FORMAT, **_describe(chunks)}
        first, *lines = [*_read_lines(file)] or [header]
        different = [name for name, value in header.items() if first.get(name) != value]
        if different:
            raise InputError(
                f"{file}: scores of an earlier search with other {' and '.join(different)}; give another --out"
            )
        trials = cls(chunks, file, dict(_unpack(line) for line in lines))
        # written anew, because the last line may be incomplete
        content = [header, *(_pack(request, matched) for request, matched in trials.scores.items())]
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, _to_text(content))
        except OSError as error:
            raise _write_error(file, error) from error
        return trials

    def ap(self, config: DecodeConfig, chunks: Sequence[int]) -> float:
        """Return the AP of settings on chunks that were scored; -1 if nobody has to be found there."""
        return self.matched([(config, chunk) for chunk in chunks]).ap()

    def matched(self, requests: Iterable[Request]) -> MatchedDetections:
        """Return the matched detections of several scores together."""
        return concatenate([self.scores[request] for request in requests])

    def compute(self, requests: Counter[Request], workers: int, on_scores: Callable[[int], object]) -> None:
        """Compute the scores that are missing, in worker processes; one task scores all settings on one chunk.

        Args:
            requests: what is needed, with the number of searches that need it.
            workers: number of processes; 1 computes in this process.
            on_scores: called with the number of requests that are fulfilled.
        """
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        missing: dict[int, list[DecodeConfig]] = {}
        for config, chunk in requests:
            if (config, chunk) not in self.scores:
                missing.setdefault(chunk, []).append(config)
        on_scores(sum(count for request, count in requests.items() if request in self.scores))
        tasks = (delayed(_score)(index, self.chunks[index], configs) for index, configs in missing.items())
        try:
            for new in Parallel(workers, return_as="generator_unordered")(tasks):
                self._append([_pack(request, matched) for request, matched in new.items()])
                self.scores.update(new)
                on_scores(sum(requests[request] for request in new))
        except TerminatedWorkerError:
            raise InputError(
                f"{self.file}: a worker was killed (out of memory?); run the same command again to go on"
            ) from None

    def _append(self, lines: Sequence[dict[str, Any]]) -> None:
        try:
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(_to_text(lines))
        except OSError as error:
            raise _write_error(self.file, error) from error


def _score(index: int, images: SavedImages, configs: Sequence[DecodeConfig]) -> dict[Request, MatchedDetections]:
    """Score settings on one chunk: the task of a worker process."""
    import cv2

    cv2.setNumThreads(0)
    ids = list(images.files)
    decoded = decode_with_each(images, configs, Perturbation(), repeats=1)
    return {
        (config, index): match_detections(images.ground_truth, one.results, ids)
        for config, one in zip(configs, decoded, strict=True)
    }


def _describe(chunks: Sequence[SavedImages]) -> dict[str, str]:
    """Return hashes of everything that determines the scores."""
    status = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns) for one in chunks for path in one.files.values()
    ]
    (folder,) = evaluation.decoder.__path__
    return {
        "maps": json_sha256([str(chunks[0].folder.resolve()), sorted(status)]),
        "annotations": json_sha256(
            {str(image_id): one.ground_truth[image_id] for one in chunks for image_id in one.files}
        ),
        "folds or seed": json_sha256([list(one.files) for one in chunks]),
        "code of the decoder": json_sha256([file_sha256(path) for path in sorted(Path(folder).glob("*.py"))]),
    }


def _pack(request: Request, matched: MatchedDetections) -> dict[str, Any]:
    config, chunk = request
    return {
        "settings": asdict(config),
        "chunk": chunk,
        "image": matched.image.tolist(),
        "score": matched.score.tolist(),
        "true_positive": (_BITS @ matched.true_positive).tolist(),
        "false_positive": (_BITS @ matched.false_positive).tolist(),
        "required": matched.required.tolist(),
    }


def _unpack(line: dict[str, Any]) -> tuple[Request, MatchedDetections]:
    true_positive, false_positive = (
        (np.array(line[name], dtype=np.intp) & _BITS[:, None]) > 0 for name in ("true_positive", "false_positive")
    )
    matched = MatchedDetections(
        np.array(line["image"], dtype=np.intp),
        np.array(line["score"], dtype=np.float64),
        true_positive,
        false_positive,
        np.array(line["required"], dtype=np.intp),
    )
    return (replace(DecodeConfig(), **line["settings"]), int(line["chunk"])), matched


def _read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of the file up to the first incomplete line; nothing if there is no file."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error
    for line in text.splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            return
        if not isinstance(content, dict):
            return
        yield content


def _to_text(lines: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def _write_error(file: Path, error: OSError) -> InputError:
    return InputError(f"{file}: cannot be written: {error.strerror}")
