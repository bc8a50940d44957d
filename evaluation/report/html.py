"""HTML of the tables and bars of the report. Every function escapes its arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from evaluation.scoring.analysis.arrays import Floats
from evaluation.scoring.analysis.diagnosis import ERRORS, FALSE_NEGATIVES, FALSE_POSITIVES, Diagnosis
from evaluation.scoring.analysis.errors import KEYPOINT_CLASSES
from evaluation.scoring.metrics import AP_KEYS, ProtocolScores
from pipeline.skeleton import COCO_KEYPOINTS

LABELS: dict[str, str] = {FALSE_POSITIVES: "background false positive", FALSE_NEGATIVES: "false negative"}
"""Names on the page of the entries of ERRORS that have another name in eval.json."""

DESCRIPTIONS: dict[str, str] = {
    "AP": "of the detections without any correction",
    "miss": "keypoint not detected, or not close to an annotated keypoint of its kind",
    "swap": "keypoint on another person",
    "inversion": "left and right of one person exchanged",
    "jitter": "keypoint close to the correct position, but not accurate",
    "scoring": "detection with a higher OKS, but a lower score, than another detection",
    FALSE_POSITIVES: "no person, or a person already detected; after the correction of the scores, these rank last",
    FALSE_NEGATIVES: "person not detected at this OKS",
}
"""Explanations of AP and of each of ERRORS."""

STYLE_VARIABLES: dict[str, str] = {
    "AP": "ap",
    **{name: name for name in KEYPOINT_CLASSES},
    "scoring": "scoring",
    FALSE_POSITIVES: "false",
    FALSE_NEGATIVES: "missed",
}
"""CSS variables of the colours of AP, of each of KEYPOINT_CLASSES and of each of ERRORS."""

SHOWN_OKS = (0.5, 0.75)
"""OKS thresholds at which costs are shown, in addition to their mean."""


def format_number(value: float) -> str:
    """Return the value with three decimals, or `–` if it is undefined."""
    return "–" if np.isnan(value) or value < -0.5 else f"{value:.3f}".replace("-", "−")


def label(name: str) -> str:
    """Return the escaped label of a name in STYLE_VARIABLES."""
    return escape(LABELS.get(name, name))


def background(name: str) -> str:
    """Return the CSS declaration of the colour of a name in STYLE_VARIABLES."""
    return f"background:var(--{STYLE_VARIABLES[name]})"


def swatch(name: str) -> str:
    """Return a coloured square and the label of a name in STYLE_VARIABLES."""
    return f'<span class="swatch" style="{background(name)}"></span>{label(name)}'


def legend(names: Sequence[str]) -> str:
    """Return the legend of the colours."""
    return f'<div class="legend">{"".join(f"<span>{swatch(name)}</span>" for name in names)}</div>'


def stacked_bar(shares: Mapping[str, float], title: str) -> str:
    """Return a bar of coloured parts whose shares add up to 1; shares that are not positive are left out."""
    parts = [
        f'<i style="width:{100 * share:.2f}%;{background(name)}" title="{label(name)} {share:.3f}"></i>'
        for name, share in shares.items()
        if share > 0
    ]
    return f'<div class="stack" role="img" aria-label="{escape(title)}">{"".join(parts)}</div>'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; a row consists of the HTML of its name and of one cell for each of `columns`."""
    header = "".join(f"<th>{cell}</th>" for cell in ("", *columns))
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"


def ap_table(protocols: Mapping[str, ProtocolScores]) -> str:
    """Return a table of COCO's ten numbers with a row for each protocol."""
    rows = []
    for name, scores in protocols.items():
        counts = f"<small>{scores.images:,} pictures, {scores.people:,} people</small>"
        rows.append([escape(name) + counts, *(format_number(scores.ap[key]) for key in AP_KEYS)])
    return table(AP_KEYS, rows)


def cost_bars(diagnosis: Diagnosis) -> str:
    """Return stacked bars of AP and the error costs, for the mean over OKS and for each of SHOWN_OKS."""
    if np.isnan(diagnosis.cost[ERRORS[0]]).any():
        return '<p class="quiet">No people are annotated, so AP is undefined.</p>'
    rows = []
    for name, at in _columns(diagnosis).items():
        values = {"AP": _value(diagnosis.ap, at)} | {error: _value(diagnosis.cost[error], at) for error in ERRORS}
        positive = {key: max(value, 0.0) for key, value in values.items()}
        total = sum(positive.values())
        shares = {key: value / total for key, value in positive.items()}
        rows.append(f"<span>{name}</span>{stacked_bar(shares, name)}")
    return f'{legend(["AP", *ERRORS])}<div class="bars">{"".join(rows)}</div>'


def cost_table(diagnosis: Diagnosis) -> str:
    """Return a table of AP and the cost of each error, averaged over OKS and at each of SHOWN_OKS."""
    columns = _columns(diagnosis)
    rows = []
    for name, values in {"AP": diagnosis.ap, **diagnosis.cost}.items():
        cells = (format_number(_value(values, at)) for at in columns.values())
        rows.append([f"{swatch(name)}<small>{escape(DESCRIPTIONS[name])}</small>", *cells])
    return table(list(columns), rows)


def people_counts(diagnosis: Diagnosis) -> str:
    """Return a sentence with the numbers of true positives, false positives and false negatives at SHOWN_OKS."""
    texts = []
    for oks in SHOWN_OKS:
        i = int(np.abs(diagnosis.thresholds - oks).argmin())
        counts = (diagnosis.true_positives[i], diagnosis.false_positives[i], diagnosis.false_negatives[i])
        text = "OKS {:.2f}: {:,} true positives, {:,} false positives, {:,} false negatives"
        texts.append(text.format(oks, *counts))
    return f'<p class="quiet">Detections without any correction, at {"; at ".join(texts)}.</p>'


def _columns(diagnosis: Diagnosis) -> dict[str, int | None]:
    """Return the index into the thresholds for each column name; None stands for the mean."""
    indices = {f"OKS {oks:.2f}": int(np.abs(diagnosis.thresholds - oks).argmin()) for oks in SHOWN_OKS}
    return {"mean": None, **indices}


def _value(values: Floats, at: int | None) -> float:
    return float(values.mean() if at is None else values[at])


def keypoint_rows(diagnosis: Diagnosis) -> str:
    """Return a row for each keypoint: its name, a bar of its AP, its AP, and a stacked bar of its classes."""
    cells = [f'<span class="head">{name}</span>' for name in ("", "AP", "", "labelled keypoints of matched detections")]
    for k, name in enumerate(COCO_KEYPOINTS):
        ap, counts = float(diagnosis.keypoint_ap[k]), diagnosis.keypoints[k]
        total = max(int(counts.sum()), 1)
        shares = {kind: float(count) / total for kind, count in zip(KEYPOINT_CLASSES, counts, strict=True)}
        text = ", ".join(f"{count:,} {kind}" for kind, count in zip(KEYPOINT_CLASSES, counts, strict=True))
        keypoint = name.replace("_", " ")
        cells += [
            f"<span>{keypoint}</span>",
            stacked_bar({"AP": ap}, f"AP of {keypoint}"),
            f'<span class="number" title="{diagnosis.keypoint_labels[k]:,} labelled">{format_number(ap)}</span>',
            stacked_bar(shares, f"{keypoint}: {text}"),
        ]
    return "".join(cells)


def description_list(entries: Mapping[str, str]) -> str:
    """Return the terms and descriptions of an HTML description list."""
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in entries.items())
