"""The report: one self-contained HTML page."""

from __future__ import annotations

import platform
import string
from html import escape
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from evaluation.report import html
from evaluation.report.curves_svg import draw_curves
from evaluation.report.examples import example_sections
from evaluation.scoring.analysis.errors import KEYPOINT_CLASSES
from evaluation.scoring.datasets import EvaluationDataset
from evaluation.scoring.evaluation import Evaluation
from evaluation.scoring.metrics import ALL_PICTURES
from pipeline.errors import InputError

FILE_NAME = "index.html"
_REPORTED_PACKAGES = ("mindspore", "onnxruntime", "numpy", "opencv-python-headless", "pycocotools")


def write_report(folder: Path, evaluation: Evaluation, dataset: EvaluationDataset, settings: dict[str, Any]) -> Path:
    """Write the page atomically into a folder and return its path.

    Args:
        folder: existing folder.
        evaluation: scores, detections and diagnosis.
        dataset: the evaluated dataset, some images of which are shown.
        settings: entries of the section "Settings", by name.

    Raises:
        InputError: the page cannot be written, or an image cannot be read.
    """
    from pipeline.system.files import write_atomically

    path = folder / FILE_NAME
    try:
        write_atomically(path, render(evaluation, dataset, settings))
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def render(evaluation: Evaluation, dataset: EvaluationDataset, settings: dict[str, Any]) -> str:
    """Return the HTML of the page."""
    diagnosis = evaluation.diagnosis
    source = evaluation.detections.source if evaluation.detections else str(settings.get("results", ""))
    return _template("page.html").substitute(
        title=escape(f"{source} on {dataset.name}"),
        style=_read_resource("style.css"),
        headline=_headline(evaluation),
        table=html.ap_table(evaluation.protocols),
        cost_bars=html.cost_bars(diagnosis),
        people_counts=html.people_counts(diagnosis),
        cost_table=html.cost_table(diagnosis),
        curves=draw_curves(diagnosis.precision_recall, diagnosis.thresholds),
        legend=html.legend(KEYPOINT_CLASSES),
        keypoints=html.keypoint_rows(diagnosis),
        examples=example_sections(evaluation, dataset),
        settings=html.description_list(_settings(evaluation, settings)),
        configuration=_configuration(evaluation),
    )


def _headline(evaluation: Evaluation) -> str:
    scores = evaluation.protocols[ALL_PICTURES]
    values = {
        "pictures": f"{scores.images:,}",
        "annotated people": f"{scores.people:,}",
        "detections": f"{len(evaluation.results):,}",
    }
    if evaluation.detections:
        values["pictures per second"] = f"{scores.images / evaluation.detections.seconds:.1f}"
    rest = "".join(f"<span><strong>{value}</strong><small>{name}</small></span>" for name, value in values.items())
    ap = f"<span><b>{html.format_number(scores.ap['AP'])}</b><small>AP, all pictures</small></span>"
    return f'<div class="headline">{ap}{rest}</div>'


def _settings(evaluation: Evaluation, settings: dict[str, Any]) -> dict[str, str]:
    entries = {name.replace("_", " "): str(value) for name, value in settings.items() if value is not None}
    if evaluation.detections:
        entries["checkpoint"] = evaluation.detections.source
        shapes = sorted(evaluation.detections.canvases)
        entries["network input"] = ", ".join(f"{width}x{height}" for height, width in shapes) + " px"
        entries["time"] = f"{evaluation.detections.seconds:.1f} s, including the compilation of {len(shapes)} graphs"
    entries["versions"] = ", ".join([f"Python {platform.python_version()}", *_versions()])
    return entries


def _versions() -> list[str]:
    packages = [package for package in metadata.distributions() if package.metadata["Name"]]
    installed = {package.metadata["Name"].lower(): package.version for package in packages}
    return [f"{name} {installed[name]}" for name in _REPORTED_PACKAGES if name in installed]


def _configuration(evaluation: Evaluation) -> str:
    import yaml

    if not evaluation.detections:
        return ""
    text = yaml.safe_dump({"evaluation": evaluation.detections.config}, sort_keys=False)
    return f"<h3>Configuration</h3><pre>{escape(text)}</pre>"


def _read_resource(name: str) -> str:
    return resources.files("evaluation.report").joinpath(name).read_text(encoding="utf-8")


def _template(name: str) -> string.Template:
    return string.Template(_read_resource(name))
