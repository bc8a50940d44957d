"""The fields of the decoder that `evaluation.tune` searches, with the range of each."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from evaluation.decoder.decode import DecodeConfig
from pipeline.errors import InputError

STEP = 0.15
"""Standard deviation of a change to a value, as a fraction of its range."""

SIGNIFICANT_DIGITS = 2
"""Digits of a found value: differences beyond them do not change AP by more than noise."""


@dataclass(frozen=True)
class Parameter:
    """A searched field.

    Attributes:
        low, high: range of the search, inclusive. It is narrower than that of valid values.
        scale: linear, logarithmic (`low` above 0), or integer.
    """

    low: float
    high: float
    scale: Literal["linear", "log", "integer"] = "linear"

    def sample(self, rng: np.random.Generator) -> float:
        """Return a random value, uniformly distributed on the scale."""
        return self._from_unit(rng.uniform())

    def change(self, value: float, rng: np.random.Generator) -> float:
        """Return a value near `value`, which may lie outside the range."""
        return self._from_unit(self._to_unit(value) + rng.normal(0, STEP))

    def _to_unit(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        if self.scale == "log":
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def _from_unit(self, position: float) -> float:
        position = min(max(position, 0.0), 1.0)
        if self.scale == "integer":
            return round(self.low + position * (self.high - self.low))
        if self.scale == "log":
            value = self.low * (self.high / self.low) ** position
        else:
            value = self.low + position * (self.high - self.low)
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


SEARCHED: dict[str, Parameter] = {
    "smooth": Parameter(0.0, 1.0),
    "peak_threshold": Parameter(0.01, 0.4, "log"),
    "weak_peak_threshold": Parameter(0.005, 0.2, "log"),
    "peak_noise": Parameter(0.0, 6.0),
    "weak_peak_noise": Parameter(0.0, 6.0),
    "limb_threshold": Parameter(0.0, 0.25),
    "limb_fraction": Parameter(0.4, 1.0),
    "near": Parameter(0.0, 1.5),
    "peak_weight": Parameter(0.0, 1.0),
    "rival_weight": Parameter(0.0, 1.0),
    "gap": Parameter(0.0, 4.0),
    "min_score": Parameter(0.001, 0.1, "log"),
    "score_prior": Parameter(0.0, 50.0),
}
"""Fields of DecodeConfig that are searched."""

NOT_SEARCHED: dict[str, str] = {
    "max_peaks": "it limits the time spent on noise, and no image of a dataset should reach it",
    "limb_samples": "it trades time against accuracy",
    "min_keypoints": "COCO rewards 1, users want people: the choice is theirs",
}
"""Other fields of DecodeConfig, with the reason."""


def select_fields(names: Sequence[str]) -> dict[str, Parameter]:
    """Return the searched fields with these names, or all of them; raise InputError for an unknown name."""
    for name in names:
        if name in NOT_SEARCHED:
            raise InputError(f"--fields {name}: is not searched: {NOT_SEARCHED[name]}")
        if name not in SEARCHED:
            close = difflib.get_close_matches(name, SEARCHED, n=1)
            hint = f"did you mean {close[0]}?" if close else f"expected {', '.join(SEARCHED)}"
            raise InputError(f"--fields {name}: no such field; {hint}")
    return {name: SEARCHED[name] for name in names or SEARCHED}


def mutate(parent: DecodeConfig, space: Mapping[str, Parameter], rng: np.random.Generator) -> DecodeConfig:
    """Return a configuration in which one to three fields differ from `parent`.

    A new value is, with equal probability, near the old one or anywhere in the range. Few fields change, so that a
    configuration that is better than its parent shows which field made it better.
    """
    names = rng.permutation(list(space))[: rng.integers(1, 4)]
    changes: dict[str, Any] = {}
    for name in names:
        parameter = space[name]
        near = rng.uniform() < 0.5
        changes[str(name)] = parameter.change(getattr(parent, name), rng) if near else parameter.sample(rng)
    return replace(parent, **changes)


def changed_fields(config: DecodeConfig, base: DecodeConfig) -> dict[str, Any]:
    """Return the fields in which `config` differs from `base`, with the values of `config`."""
    before = asdict(base)
    return {name: value for name, value in asdict(config).items() if value != before[name]}
