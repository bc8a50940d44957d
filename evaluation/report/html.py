"""The report's tables and bars, as HTML. Every function escapes what it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from evaluation.scoring.analysis.arrays import Floats
from evaluation.scoring.analysis.diagnosis import ERRORS, Diagnosis
from evaluation.scoring.analysis.errors import KINDS
from evaluation.scoring.metrics import AP_KEYS, Protocol
from pipeline.skeleton import COCO_KEYPOINTS

SAYINGS: dict[str, str] = {
    "AP": "of what was found",
    "miss": "a keypoint that was not found, or is near nothing of its kind",
    "swap": "a keypoint on another person",
    "inversion": "left and right of one person mistaken for each other",
    "jitter": "a keypoint in about the right place",
    "scoring": "a better match with a lower score than a worse one or than a false person",
    "false people": "found where nobody is, or a second time; with scores put right they come last",
    "missed people": "not found, or not well enough for this OKS",
}
"""What AP and each of ERRORS is, for readers."""

COLOURS: dict[str, str] = {
    "AP": "ap",
    **{kind: kind for kind in KINDS},
    "scoring": "scoring",
    "false people": "false",
    "missed people": "missed",
}
"""The style's variable for each."""

SHOWN = (0.5, 0.75)
"""OKS at which costs are shown, beside their mean."""


def number(value: float) -> str:
    """Three decimals, `–` where it is not defined."""
    return "–" if np.isnan(value) or value < -0.5 else f"{value:.3f}".replace("-", "−")


def colour(name: str) -> str:
    """CSS of what stands for one of COLOURS."""
    return f"background:var(--{COLOURS[name]})"


def swatch(name: str) -> str:
    """A square of its colour and the name."""
    return f'<span class="swatch" style="{colour(name)}"></span>{escape(name)}'


def legend(names: Sequence[str]) -> str:
    """What the colours mean."""
    return f'<div class="legend">{"".join(f"<span>{swatch(name)}</span>" for name in names)}</div>'


def stack(shares: Mapping[str, float], title: str) -> str:
    """A bar of shares of 1, each in its colour; those of nothing or less are not seen."""
    parts = [
        f'<i style="width:{100 * share:.2f}%;{colour(name)}" title="{escape(name)} {share:.3f}"></i>'
        for name, share in shares.items()
        if share > 0
    ]
    return f'<div class="stack" role="img" aria-label="{escape(title)}">{"".join(parts)}</div>'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of rows of HTML cells: a name, then a cell a column."""
    top = "".join(f"<th>{cell}</th>" for cell in ("", *columns))
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def ap_table(protocols: Mapping[str, Protocol]) -> str:
    """COCO's ten numbers, a row a protocol."""
    rows = []
    for name, one in protocols.items():
        counts = f"<small>{one.images:,} pictures, {one.people:,} people</small>"
        rows.append([escape(name) + counts, *(number(one.ap[key]) for key in AP_KEYS)])
    return table(AP_KEYS, rows)


def cost_bars(diagnosis: Diagnosis) -> str:
    """AP and what it lacks, as one bar for the mean and for each OKS of SHOWN."""
    if np.isnan(diagnosis.cost[ERRORS[0]]).any():
        return '<p class="quiet">There is nobody to find, so AP is not defined.</p>'
    rows = []
    for name, at in _columns(diagnosis).items():
        shares = {"AP": _value(diagnosis.ap, at)} | {error: _value(diagnosis.cost[error], at) for error in ERRORS}
        total = sum(max(share, 0.0) for share in shares.values())
        rows.append(f"<span>{name}</span>{stack({k: max(v, 0.0) / total for k, v in shares.items()}, name)}")
    return f'{legend(["AP", *ERRORS])}<div class="bars">{"".join(rows)}</div>'


def cost_table(diagnosis: Diagnosis) -> str:
    """AP and the cost of each error, averaged over OKS and at SHOWN."""
    columns = _columns(diagnosis)
    rows = []
    for name, values in {"AP": diagnosis.ap, **diagnosis.cost}.items():
        shown = (number(_value(values, at)) for at in columns.values())
        rows.append([f"{swatch(name)}<small>{SAYINGS[name]}</small>", *shown])
    return table(list(columns), rows)


def people_counts(diagnosis: Diagnosis) -> str:
    """A sentence: how many people were found right, falsely and not at all, at each OKS of SHOWN."""
    told = []
    for at in SHOWN:
        i = int(np.abs(diagnosis.thresholds - at).argmin())
        counts = (diagnosis.right[i], diagnosis.false[i], diagnosis.missed[i])
        told.append("at OKS {:.2f}, {:,} people are right, {:,} false and {:,} missed".format(at, *counts))
    return f'<p class="quiet">As found: {"; ".join(told)}.</p>'


def _columns(diagnosis: Diagnosis) -> dict[str, int | None]:
    """Index into the thresholds by name; None stands for their mean."""
    return {"mean": None, **{f"OKS {at:.2f}": int(np.abs(diagnosis.thresholds - at).argmin()) for at in SHOWN}}


def _value(values: Floats, at: int | None) -> float:
    return float(values.mean() if at is None else values[at])


def keypoint_rows(diagnosis: Diagnosis) -> str:
    """A row a keypoint: its name, a bar of its AP, the number, and a bar of what became of it."""
    cells = [f'<span class="head">{name}</span>' for name in ("", "AP", "", "labelled keypoints of people found")]
    for k, name in enumerate(COCO_KEYPOINTS):
        ap, counts = float(diagnosis.keypoint_ap[k]), diagnosis.keypoints[k]
        shares = {kind: float(count) / max(int(counts.sum()), 1) for kind, count in zip(KINDS, counts, strict=True)}
        words = name.replace("_", " ")
        told = ", ".join(f"{count:,} {kind}" for kind, count in zip(KINDS, counts, strict=True))
        cells += [
            f"<span>{words}</span>",
            stack({"AP": ap}, f"AP of {words}"),
            f'<span class="number" title="{diagnosis.keypoint_labels[k]:,} labelled">{number(ap)}</span>',
            stack(shares, f"{words}: {told}"),
        ]
    return "".join(cells)


def facts(pairs: Mapping[str, str]) -> str:
    """Names and what they are."""
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs.items())
