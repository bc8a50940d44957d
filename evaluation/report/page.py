"""The report: one HTML page that needs nothing else, neither files nor a network."""

from __future__ import annotations

import platform
import string
from html import escape
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from evaluation.report import html as parts
from evaluation.report.curves_svg import draw_curves
from evaluation.report.examples import gallery
from evaluation.scoring.analysis.errors import KINDS
from evaluation.scoring.datasets import PictureSet
from evaluation.scoring.evaluation import Evaluation
from evaluation.scoring.metrics import ALL
from pipeline.errors import InputError

FILE = "index.html"
_VERSIONS = ("mindspore", "onnxruntime", "numpy", "opencv-python-headless", "pycocotools")


def write_report(folder: Path, evaluation: Evaluation, pictures: PictureSet, about: dict[str, Any]) -> Path:
    """Write the page into a folder, in one step.

    Args:
        folder: it exists.
        evaluation: what to report.
        pictures: the set, of which some pictures are shown.
        about: how it was measured, by name.

    Raises:
        InputError: it cannot be written, or a picture cannot be read.
    """
    from pipeline.system.files import write_atomically

    path = folder / FILE
    try:
        write_atomically(path, render(evaluation, pictures, about))
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def render(evaluation: Evaluation, pictures: PictureSet, about: dict[str, Any]) -> str:
    """The page's HTML."""
    diagnosis = evaluation.diagnosis
    source = evaluation.detections.source if evaluation.detections else str(about.get("results", ""))
    return _template("page.html").substitute(
        title=escape(f"{source} on {pictures.name}"),
        style=_text("style.css"),
        headline=_headline(evaluation),
        table=parts.ap_table(evaluation.protocols),
        cost_bars=parts.cost_bars(diagnosis),
        people_counts=parts.people_counts(diagnosis),
        cost_table=parts.cost_table(diagnosis),
        curves=draw_curves(diagnosis.curves, diagnosis.thresholds),
        legend=parts.legend(KINDS),
        keypoints=parts.keypoint_rows(diagnosis),
        examples=gallery(evaluation, pictures),
        facts=parts.facts(_facts(evaluation, about)),
        recipe=_recipe(evaluation),
    )


def _headline(evaluation: Evaluation) -> str:
    whole = evaluation.protocols[ALL]
    figures = {"pictures": f"{whole.images:,}", "people annotated": f"{whole.people:,}"}
    figures["people found"] = f"{len(evaluation.results):,}"
    if evaluation.detections:
        figures["pictures a second"] = f"{whole.images / evaluation.detections.seconds:.1f}"
    rest = "".join(f"<span><strong>{value}</strong><small>{name}</small></span>" for name, value in figures.items())
    big = f"<span><b>{parts.number(whole.ap['AP'])}</b><small>AP, all pictures</small></span>"
    return f'<div class="headline">{big}{rest}</div>'


def _facts(evaluation: Evaluation, about: dict[str, Any]) -> dict[str, str]:
    facts = {name.replace("_", " "): str(value) for name, value in about.items() if value is not None}
    if evaluation.detections:
        facts["checkpoint"] = evaluation.detections.source
        shapes = sorted(evaluation.detections.canvases)
        facts["network input"] = ", ".join(f"{width}x{height}" for height, width in shapes) + " px"
        facts["time"] = f"{evaluation.detections.seconds:.1f} s, compilation of {len(shapes)} graphs included"
    facts["versions"] = ", ".join([f"Python {platform.python_version()}", *_versions()])
    return facts


def _versions() -> list[str]:
    installed = {one.metadata["Name"].lower(): one.version for one in metadata.distributions() if one.metadata["Name"]}
    return [f"{name} {installed[name]}" for name in _VERSIONS if name in installed]


def _recipe(evaluation: Evaluation) -> str:
    import yaml

    if not evaluation.detections:
        return ""
    text = yaml.safe_dump({"evaluation": evaluation.detections.config}, sort_keys=False)
    return f"<h3>Recipe</h3><pre>{escape(text)}</pre>"


def _text(name: str) -> str:
    return resources.files("evaluation.report").joinpath(name).read_text(encoding="utf-8")


def _template(name: str) -> string.Template:
    return string.Template(_text(name))
