"""The decoder against real annotations and the command that measures what it loses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from evaluation.decoder.decode import DecodeConfig, decode
from evaluation.oracle import GROUPS, main, measure
from evaluation.scoring.datasets import CocoSet
from evaluation.scoring.oracle_ablation import STEPS, Disturbance, open_cases, split_by_limbs
from pipeline.skeleton import KEYPOINT_INDEX, NUM_KEYPOINTS
from tests.support import coco_folder
from tests.support.figures import REST, figure

SPLIT = "train2017"


def oracle(folder: Path, **disturbed: Any) -> dict[str, Any]:
    pictures = CocoSet(folder, SPLIT)
    cases = open_cases(pictures, len(pictures), 368, Disturbance(**disturbed))
    return measure(cases, pictures.truth(), DecodeConfig())


@pytest.fixture(scope="module")
def numbers(coco_mini: Path) -> dict[str, Any]:
    return oracle(coco_mini)


def test_oracle_ap_on_real_annotations(numbers: dict[str, Any]) -> None:
    """Measured: .898; the best that limbs alone can give is .846, the rest is pieces joined."""
    groups = numbers["groups"]
    assert groups["all"]["AP"] > 0.885
    assert min(groups[name]["AP"] for name in GROUPS) > 0.75
    assert groups["all"]["images"] == 80
    assert sum(groups[name]["people"] for name in GROUPS) == groups["all"]["people"]


def test_causes_add_up_from_the_truth_to_what_is_found(numbers: dict[str, Any]) -> None:
    causes = numbers["causes"]
    assert list(causes) == list(STEPS)
    assert causes["the truth"]["AP"] == pytest.approx(1)
    assert 1 - sum(row["lost"] for row in causes.values()) == pytest.approx(numbers["groups"]["all"]["AP"])
    assert list(causes.values())[1]["AP"] < 0.9  # pieces


def test_real_people_are_found_in_noise_too(coco_mini: Path) -> None:
    """Measured: .89."""
    assert oracle(coco_mini, noise=0.03)["groups"]["all"]["AP"] > 0.86


def test_real_keypoints_apart_from_others_of_their_kind_come_back_within_a_fraction_of_a_pixel(coco_mini: Path) -> None:
    pictures = CocoSet(coco_mini, SPLIT)
    looked_at = 0
    for case in open_cases(pictures, len(pictures), 368, Disturbance()):
        found = [person.keypoints for person in decode(case.maps, DecodeConfig(min_score=0))]
        for kind in range(NUM_KEYPOINTS):
            points = case.people[case.people[:, kind, 2] > 0, kind, :2]
            peaks = np.array([k[kind, :2] for k in found if k[kind, 2] > 0]).reshape(-1, 2)
            apart = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e6 * np.eye(len(points))
            for point in points[apart.min(axis=1, initial=1e6) > 40]:
                assert np.linalg.norm(peaks - point, axis=1).min() < 0.3
                looked_at += 1
    assert looked_at > 400


def test_noise_depends_on_seed_and_picture_alone(coco_mini: Path) -> None:
    pictures = CocoSet(coco_mini, SPLIT)
    first, *_, last = open_cases(pictures, 4, 368, Disturbance(noise=0.1, seed=3))
    again, other = Disturbance(noise=0.1, seed=3), Disturbance(noise=0.1, seed=4)
    one = last.disturbance.apply(first.maps, first.image_id).pafs
    np.testing.assert_array_equal(one, again.apply(first.maps, first.image_id).pafs)
    assert not np.array_equal(one, other.apply(first.maps, first.image_id).pafs)
    assert not np.array_equal(one, again.apply(first.maps, last.image_id).pafs)


def test_blur_lowers_peaks(coco_mini: Path) -> None:
    case = next(
        case for case in open_cases(CocoSet(coco_mini, SPLIT), 80, 368, Disturbance(blur=1)) if len(case.people)
    )
    blurred = case.disturbance.apply(case.maps, case.image_id)
    assert 0 < blurred.heatmaps[:-1].max() < 0.8 * case.maps.heatmaps[:-1].max()


def test_a_person_without_neck_is_in_pieces() -> None:
    person = figure(200, 30, 180, REST)
    assert len(split_by_limbs(person)) == 1
    person[KEYPOINT_INDEX["neck"]] = 0
    pieces = split_by_limbs(person)
    assert sorted(np.count_nonzero(piece[:, 2]) for piece in pieces) == [3, 3, 11]
    np.testing.assert_array_equal(sum(pieces), person)
    assert split_by_limbs(np.zeros_like(person)) == []


def test_the_command_prints_both_tables_and_writes_the_numbers(tmp_path: Path) -> None:
    folder = coco_folder.write(tmp_path / "coco", coco_folder.mixed(8), "train", pictures=False)
    file = tmp_path / "oracle.json"
    arguments = ["--coco", str(folder), "--split", "train", "--limit", "6", "--noise", "0.01", "--json", str(file)]
    result = CliRunner().invoke(main, [*arguments, "--set", "evaluation.decoder.gap=0"], catch_exceptions=False)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines[1:7]] == ["all", *GROUPS]
    assert [name for name in STEPS if name in result.output] == list(STEPS)
    written = json.loads(file.read_text())
    assert written["groups"]["all"]["images"] == 6
    assert written["noise"] == 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --shards DIR or --coco DIR"),
        (["--coco", "nowhere"], "no such file"),
        (["--coco", "nowhere", "--set", "evaluation.decoder.gap=99"], "evaluation.decoder.gap: 99"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1
