"""Tuning of the decoder on saved maps: one search on all images, and one without each fold to measure the gain.

The settings that a search finds are the best on its images, partly by chance. The gain is therefore measured on images
that a search did not use: for each fold of a cross-validation, a search on the other folds finds settings, and the fold
is scored with them. The detections of all folds together have the held-out AP. It is an estimate for the settings that
the search on all images finds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from evaluation.decoder.decode import DecodeConfig
from evaluation.decoder_bench.search import Plan, Request, requested_scores, search
from evaluation.decoder_bench.search_space import Parameter, changed_fields
from evaluation.decoder_bench.trials import Trials
from evaluation.scoring.analysis.resampling import Difference, bootstrap_difference


@dataclass(frozen=True)
class Tuning:
    """Result of a search.

    Attributes:
        base: settings from which the search started.
        best: settings found on all images.
        fold_settings: settings found without each fold.
        base_ap: AP of `base` on all images.
        best_ap: AP of `best` on all images, on which it was chosen.
        held_out_ap: AP of `fold_settings`, each on the images of its fold.
        gain: held-out AP minus `base_ap`.
        loss_if_set_back: loss of AP on all images by setting one field of `best` back.
    """

    base: DecodeConfig
    best: DecodeConfig
    fold_settings: list[DecodeConfig]
    base_ap: float
    best_ap: float
    held_out_ap: float
    gain: Difference
    loss_if_set_back: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return all settings and numbers."""
        return asdict(self)


def tune(
    trials: Trials,
    base: DecodeConfig,
    space: Mapping[str, Parameter],
    plan: Plan,
    folds: int,
    workers: int,
    on_scores: Callable[[int], object],
) -> Tuning:
    """Search for settings with a higher AP than `base`, and measure the gain by cross-validation.

    Args:
        trials: scores on chunks of images; chunk i is in fold i modulo `folds`.
        base: settings to start from and to compare with.
        space: searched fields.
        plan: size of each search.
        folds: number of folds, at least 2.
        workers: number of worker processes.
        on_scores: called with the number of scores after they were computed.
    """
    chunks = list(range(len(trials.chunks)))
    parts = [*_without_each_fold(chunks, folds), chunks]
    searches = [search(base, space, plan, part, trials.ap) for part in parts]
    *fold_settings, best = _run_together(searches, trials, workers, on_scores)
    held_out = [(fold_settings[chunk % folds], chunk) for chunk in chunks]
    trials.compute(Counter(held_out), workers, on_scores)
    before, after = trials.matched([(base, chunk) for chunk in chunks]), trials.matched(held_out)
    best_ap = trials.ap(best, chunks)
    set_back = {name: replace(best, **{name: getattr(base, name)}) for name in changed_fields(best, base)}
    trials.compute(Counter((config, chunk) for config in set_back.values() for chunk in chunks), workers, on_scores)
    return Tuning(
        base,
        best,
        fold_settings,
        before.ap(),
        best_ap,
        after.ap(),
        bootstrap_difference(before, after, seed=plan.seed),
        {name: best_ap - trials.ap(config, chunks) for name, config in set_back.items()},
    )


def expected_scores(plan: Plan, chunks: int, folds: int) -> int:
    """Return about how many scores `tune` requests, counting those that several searches need several times."""
    parts = [*_without_each_fold(list(range(chunks)), folds), range(chunks)]
    return sum(requested_scores(plan, len(part)) for part in parts)


def _without_each_fold(chunks: Sequence[int], folds: int) -> list[list[int]]:
    return [[chunk for chunk in chunks if chunk % folds != fold] for fold in range(folds)]


def _run_together(
    searches: Sequence[Generator[list[Request], None, DecodeConfig]],
    trials: Trials,
    workers: int,
    on_scores: Callable[[int], object],
) -> list[DecodeConfig]:
    """Run several searches; each step computes the scores that all of them need next. Return what they found."""
    found: dict[int, DecodeConfig] = {}
    while len(found) < len(searches):
        requests: Counter[Request] = Counter()
        for index, one in enumerate(searches):
            if index not in found:
                try:
                    requests.update(next(one))
                except StopIteration as end:
                    found[index] = end.value
        trials.compute(requests, workers, on_scores)
    return [found[index] for index in range(len(searches))]
