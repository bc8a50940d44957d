"""Search for settings of the decoder: random mutation with successive halving.

A search has rounds. In each round, candidates are mutations of the best settings found so far, at first of the
defaults. All candidates are scored on a quarter of the images, the better half of them on half of the images, and the
better half of these on all (successive halving: Jamieson and Talwalkar, AISTATS 2016). At the end, every changed field
is set back to its default unless AP then falls by more than TOLERANCE, so that what remains is what matters.

Random search was preferred to a model of AP such as TPE: a few hundred cheap trials on at most ten fields, most of
which hardly change AP, leave a model little to learn, and this search needs no further dependency. Its candidates
depend on the seed and on AP only, so an interrupted search repeats itself exactly from saved scores.

A search is a generator: it yields the scores that it needs and goes on when they are there. Several searches, one for
each fold of a cross-validation, thereby share scores and run in parallel.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluation.decoder.decode import DecodeConfig
from evaluation.decoder_bench.search_space import Parameter, changed_fields, mutate

FRACTIONS = (0.25, 0.5, 1.0)
"""Fractions of the images on which the candidates of a round are scored, one after the other."""

PARENTS = 4
"""Number of best settings that are mutated."""

TOLERANCE = 0.0005
"""Loss of AP at which a field keeps its default value: fewer changes are easier to trust, and to understand."""

Request = tuple[DecodeConfig, int]
"""A configuration, and the index of a chunk of images on which it is to be scored."""

ScoreFunction = Callable[[DecodeConfig, Sequence[int]], float]
"""Function that returns the AP of a configuration on chunks of images whose scores were requested before."""


@dataclass(frozen=True)
class Plan:
    """Size of a search.

    Attributes:
        rounds: number of rounds.
        candidates: number of candidates in a round.
        seed: random seed.
    """

    rounds: int
    candidates: int
    seed: int


def search(
    base: DecodeConfig,
    space: Mapping[str, Parameter],
    plan: Plan,
    chunks: Sequence[int],
    score: ScoreFunction,
) -> Generator[list[Request], None, DecodeConfig]:
    """Search for the settings with the highest AP.

    Args:
        base: the defaults, from which the search starts.
        space: searched fields.
        plan: size of the search.
        chunks: images on which the settings are scored, as indices of chunks.
        score: function that returns AP.

    Yields:
        What has to be scored before the search can go on.

    Returns:
        The best settings; `base` if no others are better.
    """
    yield [(base, chunk) for chunk in chunks]
    complete = {base: score(base, chunks)}  # AP on all chunks
    seen = {base}
    for number in range(plan.rounds):
        rng = np.random.default_rng((plan.seed, number))
        parents = sorted(complete, key=lambda config: -complete[config])[:PARENTS]
        survivors = _new_candidates(parents, space, plan.candidates, seen, rng)
        for fraction in FRACTIONS:
            part = chunks[: max(1, round(fraction * len(chunks)))]
            yield [(config, chunk) for config in survivors for chunk in part]
            ap = {config: score(config, part) for config in survivors}
            if fraction < 1:
                survivors = sorted(survivors, key=lambda config: -ap[config])[: max(1, len(survivors) // 2)]
        complete |= ap
    best = max(complete, key=lambda config: complete[config])  # of equal ones the first: base before all others
    return (yield from _set_back(best, base, complete[best], chunks, score))


def _new_candidates(
    parents: Sequence[DecodeConfig],
    space: Mapping[str, Parameter],
    count: int,
    seen: set[DecodeConfig],
    rng: np.random.Generator,
) -> list[DecodeConfig]:
    """Return up to `count` different mutations of the parents that are not in `seen`, and add them to it."""
    candidates = []
    for _ in range(20 * count):
        candidate = mutate(parents[rng.integers(len(parents))], space, rng)
        if candidate not in seen:
            seen.add(candidate)
            candidates.append(candidate)
        if len(candidates) == count:
            break
    return candidates


def _set_back(
    config: DecodeConfig, base: DecodeConfig, ap: float, chunks: Sequence[int], score: ScoreFunction
) -> Generator[list[Request], None, DecodeConfig]:
    """Set fields back to their defaults, one after the other, as long as AP stays within TOLERANCE of `ap`."""
    while changed := changed_fields(config, base):
        simpler = [replace(config, **{name: getattr(base, name)}) for name in changed]
        yield [(one, chunk) for one in simpler for chunk in chunks]
        best = max(simpler, key=lambda one: score(one, chunks))
        if score(best, chunks) < ap - TOLERANCE:
            break
        config = best
    return config


def requested_scores(plan: Plan, chunks: int) -> int:
    """Return about how many scores (settings and chunk) a search on this many chunks requests."""
    per_round = sum(fraction * plan.candidates / 2**step for step, fraction in enumerate(FRACTIONS))
    return round(chunks * (1 + plan.rounds * per_round))
