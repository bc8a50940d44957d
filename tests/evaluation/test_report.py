"""The report: its content, that it is self-contained, and how a browser shows it."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from evaluation.report.html import LABELS
from evaluation.report.page import render, write_report
from evaluation.scoring.analysis.diagnosis import ERRORS
from evaluation.scoring.analysis.quality import measure_image_quality
from evaluation.scoring.datasets import CocoDataset
from evaluation.scoring.evaluation import score_results
from evaluation.scoring.metrics import AP_KEYS
from pipeline.skeleton import COCO_KEYPOINTS
from tests.support import coco_folder
from tests.support.analysis_cases import person, points, random_set, result

HOSTILE = "<script>alert('&\"')</script>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A COCO folder with 12 images, eight with people, whose name must be escaped."""
    truth, results = random_set(4, images=12, people=20, background=8)
    images = [coco_folder.image(image_id, 300, 420) for image_id in truth]
    content = {"images": images, "annotations": [], "categories": [coco_folder.CATEGORY]}
    content["annotations"] = [annotation for people in truth.values() for annotation in people]
    root = tmp_path_factory.mktemp("report") / "a&b <i> 'c'"
    root.mkdir()
    coco_folder.write(root, content, "val")
    (root / "r.json").write_text(json.dumps(results))
    return root


@pytest.fixture(scope="module")
def dataset(folder):
    return CocoDataset(folder, "val")


@pytest.fixture(scope="module")
def evaluation(folder, dataset):
    return score_results(dataset.ground_truth(), json.loads((folder / "r.json").read_text()))


@pytest.fixture(scope="module")
def page(evaluation, dataset):
    return render(evaluation, dataset, {"results": HOSTILE, "command": f"python {HOSTILE}"})


class Outline(html.parser.HTMLParser):
    """Collects the tags, their references and the text; checks that tags are closed in order."""

    VOID = ("meta", "link", "img", "br", "path")

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.references, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def outline(page):
    parsed = Outline()
    parsed.feed(page)
    parsed.close()
    assert parsed.open == []
    return parsed


def test_page_is_complete_and_self_contained(page, evaluation):
    parsed = outline(page)
    assert all(reference.startswith("data:") for reference in parsed.references)
    assert "http" not in re.sub(r'http-equiv|data:image/jpeg;base64,[^"]*', "", page)
    assert "@import" not in page
    assert "url(" not in page
    labels = [LABELS.get(error, error) for error in ERRORS]
    for word in (*AP_KEYS, *labels, *(name.replace("_", " ") for name in COCO_KEYPOINTS), "Worst", "Best", "Python"):
        assert word in parsed.text, word
    assert f"{evaluation.ap['AP']:.3f}" in parsed.text
    counts = [
        f"{getattr(evaluation.diagnosis, name)[0]} {name.replace('_', ' ')}"
        for name in ("true_positives", "false_positives", "false_negatives")
    ]
    assert f"at OKS 0.50: {', '.join(counts)};" in parsed.text
    assert parsed.tags.count("img") >= 12
    assert "NaN" not in re.sub(r"base64,[^\"]*", "", page)
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page)


def test_names_are_escaped(page, dataset):
    parsed = outline(page)
    assert "script" not in parsed.tags
    assert "i" not in re.findall(r"<title>.*?<(\w+)", page)
    assert f"{HOSTILE} on {dataset.name}" in parsed.text
    assert f"python {HOSTILE}" in parsed.text


def test_page_is_deterministic(page, evaluation, dataset):
    assert render(evaluation, dataset, {"results": HOSTILE, "command": f"python {HOSTILE}"}) == page


@pytest.mark.parametrize("results", [[], [result(points(person(100)))]])
def test_page_without_annotated_people(results, tmp_path):
    content = {"images": [coco_folder.image(1, 300, 420)], "annotations": [], "categories": [coco_folder.CATEGORY]}
    dataset = CocoDataset(coco_folder.write(tmp_path, content, "val"), "val")
    page = render(score_results(dataset.ground_truth(), results), dataset, {})
    assert "No people are annotated" in page
    assert ("Pictures without people" in page) == bool(results)
    outline(page)


def test_worst_and_best_images():
    truth = {1: [person(100)], 2: [person(100), person(300)], 3: [person(100)], 4: [], 5: []}
    shifted = points(person(100))
    shifted[:, 0] += 7
    results = [
        result(points(person(100)), image_id=1),
        result(points(person(100)), image_id=2),
        result(shifted, image_id=3),
        result(shifted, image_id=5),
    ]
    quality = measure_image_quality(truth, results)
    assert quality.quality[:3] == pytest.approx([1, 0.5, quality.quality[2]])
    assert 0 < quality.quality[2] < 1
    assert np.isnan(quality.quality[3])
    assert quality.quality[4] == 0
    assert quality.best(2)[0] == 0
    assert set(quality.worst(2)) == {1, 2}
    assert quality.with_false_positives(3) == [4]
    assert (quality.num_people.tolist(), quality.true_positives.tolist(), quality.false_positives.tolist()) == (
        [1, 2, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 1],
    )


def browse(tmp_path, path, *options):
    """Open a page in Chromium and return the completed process."""
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    arguments += ["--enable-logging=stderr", "--hide-scrollbars", *options, path.as_uri()]
    return subprocess.run([CHROMIUM, *arguments], capture_output=True, text=True, check=True, timeout=120)


PROBE = """<script>addEventListener("load", () => {
  const images = [...document.images];
  const wide = [...document.querySelectorAll("main > *, main > section > *")]
    .filter(one => one.getBoundingClientRect().right > innerWidth + 1);
  document.title = JSON.stringify({
    images: images.length, loaded: images.filter(one => one.complete && one.naturalWidth > 0).length,
    wide: wide.length, width: document.documentElement.scrollWidth, window: innerWidth,
    bars: [...document.querySelectorAll(".stack")].filter(one => one.clientWidth > 20).length,
    curves: document.querySelectorAll("svg .curve").length,
  });
});</script>"""


@needs_chromium
@pytest.mark.parametrize("width", [500, 1200])
def test_browser_renders_everything(page, tmp_path, width):
    """The content security policy, which forbids scripts, is removed so that the probe can run."""
    probed = tmp_path / "probed.html"
    policy = re.search(r"<meta http-equiv[^>]*>\n", page)
    probed.write_text(page.replace(policy[0], "").replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    seen = browse(tmp_path, probed, f"--window-size={width},1000", "--dump-dom")
    title = re.search(r"<title>(.*?)</title>", seen.stdout)[1]
    counts = json.loads(html.unescape(title))
    assert counts["images"] == counts["loaded"] == page.count("<img ")
    assert counts["width"] <= counts["window"]
    assert (counts["wide"], counts["curves"]) == (0, 10)
    assert counts["bars"] == 3 + 2 * len(COCO_KEYPOINTS)


@needs_chromium
def test_browser_reports_no_errors_and_the_screenshot_is_not_blank(evaluation, dataset, tmp_path):
    path = write_report(tmp_path, evaluation, dataset, {"results": "r.json"})
    seen = browse(tmp_path, path, "--window-size=1000,2400", f"--screenshot={tmp_path / 'page.png'}")
    assert "CONSOLE" not in seen.stderr
    screenshot = cv2.imread(str(tmp_path / "page.png"))
    assert screenshot.shape == (2400, 1000, 3)
    for top in range(0, 2400, 300):
        assert screenshot[top : top + 300].std() > 4, f"blank from {top} px"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["index.html", "page.png", "profile"]
