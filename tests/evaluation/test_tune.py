"""The search for settings of the decoder on saved maps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from evaluation.decoder.decode import RANGES, DecodeConfig
from evaluation.decoder_bench.saved_images import open_saved_images
from evaluation.decoder_bench.search import FRACTIONS, TOLERANCE, Plan, requested_scores, search
from evaluation.decoder_bench.search_space import NOT_SEARCHED, SEARCHED, changed_fields, mutate, select_fields
from evaluation.decoder_bench.trials import Trials, split_into_chunks
from evaluation.decoder_bench.tuning import expected_scores
from evaluation.oracle import main as oracle
from evaluation.scoring.datasets import CocoDataset
from evaluation.tune import main
from pipeline.errors import InputError
from tests.support.map_files import SIZE as IMAGE_SIZE
from tests.support.map_files import channels_last, encode_maps, people_of, write_dataset, write_file
from training.recipes import load_config, read_evaluation_overrides

IMAGES = 16
LOW_PEAK = 0.035
"""Factor on heatmaps that hides all peaks from the default threshold and leaves them to lower ones."""


def test_every_field_of_the_decoder_is_searched_or_left_out_for_a_reason() -> None:
    names = {field.name for field in fields(DecodeConfig)}
    assert SEARCHED.keys() | NOT_SEARCHED.keys() == names
    assert not SEARCHED.keys() & NOT_SEARCHED.keys()
    for name, parameter in SEARCHED.items():
        low, high = RANGES[name]
        assert low <= parameter.low < parameter.high <= high
        assert parameter.low <= getattr(DecodeConfig(), name) <= parameter.high


def test_mutations_change_few_fields_and_cover_the_range() -> None:
    rng = np.random.default_rng(0)
    children = [mutate(DecodeConfig(), SEARCHED, rng) for _ in range(800)]
    assert {len(changed_fields(child, DecodeConfig())) for child in children} <= {0, 1, 2, 3}
    for name, parameter in SEARCHED.items():
        values = np.array([getattr(child, name) for child in children])
        assert parameter.low <= values.min() < values.max() <= parameter.high
        assert len(np.unique(values)) > 40
    assert min(child.peak_threshold for child in children) < 0.03


def test_unknown_fields_are_named() -> None:
    assert list(select_fields(["gap"])) == ["gap"]
    assert select_fields([]) == SEARCHED
    with pytest.raises(InputError, match="--fields gp: no such field; did you mean gap"):
        select_fields(["gp"])
    with pytest.raises(InputError, match="--fields max_peaks: is not searched: it limits the time"):
        select_fields(["max_peaks"])


def run_search(plan: Plan, known: dict[tuple[DecodeConfig, int], int], score: Any) -> DecodeConfig:
    """Run a search on ten chunks; `known` counts how often each score is requested."""

    def ap(config: DecodeConfig, chunks: Sequence[int]) -> float:
        assert all((config, chunk) in known for chunk in chunks)  # nothing is used that was not requested
        return float(score(config))

    steps = search(DecodeConfig(), SEARCHED, plan, list(range(10)), ap)
    while True:
        try:
            for request in next(steps):
                known[request] = known.get(request, 0) + 1
        except StopIteration as end:
            return end.value


def test_search_finds_what_matters_and_sets_everything_else_back() -> None:
    known: dict[tuple[DecodeConfig, int], int] = {}
    plan = Plan(8, 40, 0)
    found = run_search(plan, known, lambda config: -abs(config.limb_fraction - 0.6) - abs(config.gap - 1))
    assert found.limb_fraction == pytest.approx(0.6, abs=0.05)
    assert found.gap == pytest.approx(1, abs=0.2)
    assert set(changed_fields(found, DecodeConfig())) == {"limb_fraction", "gap"}
    assert len({config for config, _ in known}) > plan.rounds * plan.candidates
    expected = requested_scores(plan, 10)
    assert 0.9 * expected < sum(known.values()) < 1.3 * expected
    assert sum(chunk == 9 for _, chunk in known) < len(known) / 10  # most settings are dropped before the last chunk
    assert expected_scores(plan, 10, 5) == expected + 5 * requested_scores(plan, 8)


def test_search_keeps_the_defaults_if_nothing_is_better_by_more_than_the_tolerance() -> None:
    for score in (lambda config: 0.5, lambda config: 0.5 + 0.9 * TOLERANCE * (config.gap != 2)):
        assert run_search(Plan(2, 8, 1), {}, score) == DecodeConfig()


def test_search_depends_on_its_seed_only() -> None:
    runs = []
    for seed in (0, 0, 1):
        known: dict[tuple[DecodeConfig, int], int] = {}
        run_search(Plan(2, 8, seed), known, lambda config: config.near)
        runs.append(list(known))
    assert runs[0] == runs[1] != runs[2]


@pytest.fixture(scope="module")
def low_peaks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder and the maps of its images, whose peaks are below the default threshold."""
    root = tmp_path_factory.mktemp("tune")
    write_dataset(root / "coco", list(range(1, IMAGES + 1)))
    for image_id in range(1, IMAGES + 1):
        maps = encode_maps(people_of(image_id), IMAGE_SIZE)
        content = channels_last(maps)
        content[..., :18] *= LOW_PEAK
        write_file(root / "maps", image_id, maps=content)
    return root


def call(command: Any, *arguments: object) -> Any:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def test_command_finds_a_lower_threshold_and_the_other_commands_take_it(low_peaks: Path, tmp_path: Path) -> None:
    dataset = ["--coco", low_peaks / "coco", "--split", "val", "--maps", low_peaks / "maps"]
    size = ["--rounds", 1, "--candidates", 12, "--folds", 2, "--fields", "peak_threshold,gap", "--workers", 1]
    result = call(main, *dataset, *size, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith(f"{IMAGES} of the {IMAGES} images")
    assert lines[2].split()[:3] == ["start", "0.0000", "0.0000"]
    assert float(lines[3].split()[2]) > 0.9
    assert lines[4].endswith("above noise")
    numbers = json.loads((tmp_path / "tune.json").read_text())
    threshold = numbers["best"]["peak_threshold"]
    assert 0.01 <= threshold < LOW_PEAK
    assert f"--set evaluation.decoder.peak_threshold={threshold}" in lines
    assert numbers["loss_if_set_back"]["peak_threshold"] > 0.9
    assert load_config(tmp_path / "decoder.yaml").evaluation.decoder.peak_threshold == threshold
    assert yaml.safe_load((tmp_path / "decoder.yaml").read_text())["evaluation"]["decoder"] == {
        "peak_threshold": threshold
    }
    for settings in (["--config", tmp_path / "decoder.yaml"], ["--set", lines[6].split()[1]]):
        compared = call(oracle, *dataset, *settings, "--json", tmp_path / "oracle.json")
        assert compared.exit_code == 0, compared.output
        scores = json.loads((tmp_path / "oracle.json").read_text())["settings"]
        assert (scores["defaults"]["AP"], scores["--set"]["AP"]) == (0, pytest.approx(numbers["best_ap"]))


def test_an_interrupted_search_repeats_nothing_and_ends_the_same(low_peaks: Path, tmp_path: Path) -> None:
    arguments = ["--coco", low_peaks / "coco", "--split", "val", "--maps", low_peaks / "maps", "--out", tmp_path]
    arguments += ["--rounds", 1, "--candidates", 4, "--folds", 2]
    call(main, *arguments, "--workers", 1)
    written = {name: (tmp_path / name).read_bytes() for name in ("trials.jsonl", "tune.json", "decoder.yaml")}
    lines = written["trials.jsonl"].splitlines(keepends=True)
    (tmp_path / "trials.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]) + lines[-1][:20])  # killed in a line
    again = call(main, *arguments, "--workers", 2)
    assert again.exit_code == 0, again.output
    assert sorted((tmp_path / "trials.jsonl").read_bytes().splitlines(keepends=True)) == sorted(lines)
    assert (tmp_path / "tune.json").read_bytes() == written["tune.json"]
    assert (tmp_path / "decoder.yaml").read_bytes() == written["decoder.yaml"]
    for changed, message in (
        (["--seed", 1], "other folds or seed; give another --out"),
        (["--limit", 12], "other maps and annotations and folds or seed"),
    ):
        refused = call(main, *arguments, *changed)
        assert (refused.exit_code, message in refused.output) == (2, True)
    assert json.loads(lines[0])["code of the decoder"]


def test_scores_are_read_as_they_were_written(low_peaks: Path, tmp_path: Path) -> None:
    images = open_saved_images(low_peaks / "maps", CocoDataset(low_peaks / "coco", "val"))
    chunks = split_into_chunks(images, folds=2, seed=0)
    assert sorted(image_id for chunk in chunks for image_id in chunk.files) == list(range(1, IMAGES + 1))
    assert len(chunks) == 8
    config = DecodeConfig(peak_threshold=0.03)
    requests = dict.fromkeys(((config, 0), (replace(config, gap=0), 3)), 1)
    trials = Trials.open(tmp_path / "trials.jsonl", chunks)
    trials.compute(requests, 1, lambda count: None)
    read = Trials.open(tmp_path / "trials.jsonl", chunks)
    assert read.scores.keys() == trials.scores.keys() == requests.keys()
    for request, matched in trials.scores.items():
        for name, array in vars(matched).items():
            np.testing.assert_array_equal(getattr(read.scores[request], name), array)
    assert trials.ap(config, [0]) > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--maps", "{maps}", "--coco", "{coco}", "--folds", "9"],
            "16 maps, expected at least 18 for 9 folds",
        ),
        (["--maps", "{coco}", "--coco", "{coco}"], "no maps; expected files such as"),
        (["--maps", "{maps}", "--coco", "{coco}", "--fields", "gapp"], "did you mean gap?"),
        (["--maps", "{maps}", "--coco", "{coco}", "--set", "evaluation.decoder.gap=99"], "evaluation.decoder.gap: 99"),
        (["--maps", "{maps}", "--coco", "{coco}", "--config", "{out}/a.yaml"], "a.yaml: cannot be read"),
        (["--maps", "{maps}"], "give either --shards DIR or --coco DIR"),
    ],
)
def test_invalid_input_is_a_one_line_error(low_peaks: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    places = {"maps": low_peaks / "maps", "coco": low_peaks / "coco", "out": tmp_path}
    result = call(
        main, *(argument.format(**places) for argument in arguments), "--split", "val", "--out", tmp_path / "o"
    )
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_a_file_of_settings_changes_the_section_evaluation_only(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("evaluation:\n  size: 96\n  scales: [1, 0.5]\n  decoder: {gap: 0, min_score: 1e-3}\n")
    assert read_evaluation_overrides(path) == (
        "evaluation.size=96",
        "evaluation.scales=[1, 0.5]",
        "evaluation.decoder.gap=0",
        "evaluation.decoder.min_score=0.001",
    )
    for text, message in (
        ("training: {lr: 1}", "training: only the section evaluation can change"),
        ("evaluation: {decoder: {gp: 1}}", r"a\.yaml: evaluation\.decoder\.gp: unknown key; did you mean gap"),
        ("evaluation: 3", "evaluation"),
        ("- 1", "expected sections"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_evaluation_overrides(path)


def test_fractions_end_with_all_images() -> None:
    assert FRACTIONS[-1] == 1
    assert list(FRACTIONS) == sorted(FRACTIONS)


def test_a_damaged_file_is_a_one_line_error_of_the_workers(low_peaks: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    shutil.copytree(low_peaks / "maps", maps)
    damaged = maps / "000000000007.npz"
    damaged.write_bytes(damaged.read_bytes()[:3000])
    result = call(
        main, "--maps", maps, "--coco", low_peaks / "coco", "--split", "val", "--out", tmp_path / "o", "--workers", 2
    )
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {damaged}: damaged")
    assert len(result.stderr.splitlines()) == 1
