"""Distribution of images to processes, and failures of processes."""

from __future__ import annotations

import os

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.inference.letterbox import choose_letterbox
from evaluation.scoring.datasets import CocoDataset
from evaluation.scoring.detect import Detections, format_network, merge_detections, partition_by_work
from evaluation.scoring.worker_processes import VISIBLE_DEVICES, WorkerError, detect_in_processes, visible_device
from pipeline.errors import InputError
from tests.support import coco_folder

SIDES = st.integers(1, 2000)


@given(st.lists(st.tuples(SIDES, SIDES), max_size=60), st.integers(1, 9))
def test_every_image_is_assigned_to_one_process(sizes, processes):
    shares = partition_by_work(sizes, processes)
    assert sorted(i for share in shares for i in share) == list(range(len(sizes)))
    assert len(shares) <= processes
    assert all(shares)


def test_shares_have_equal_work_and_few_canvases():
    common = [
        (480, 640),
        (427, 640),
        (640, 480),
        (640, 427),
        (426, 640),
        (375, 500),
        (500, 375),
        (333, 500),
        (612, 612),
    ]
    sizes = [common[i * i % len(common)] for i in range(900)] + [(300 + 7 * i, 640) for i in range(60)]
    shares = partition_by_work(sizes, 4)
    work = [sum(max(sizes[i]) / min(sizes[i]) for i in share) for share in shares]
    assert max(work) < 1.02 * min(work)

    def canvases(indices):
        return {choose_letterbox(sizes[i], 368).canvas for i in indices}

    compiled = [len(canvases(share)) for share in shares]
    assert sum(compiled) <= len(canvases(range(len(sizes)))) + len(shares) - 1


def detections(ground_truth, canvases):
    return Detections(
        ground_truth,
        {image_id: [] for image_id in ground_truth},
        frozenset(canvases),
        3.0,
        "net",
        {"size": 64},
        "MindSpore",
    )


def test_detections_are_merged_by_image_id():
    whole = merge_detections([detections({5: (), 9: ()}, [(64, 64)]), detections({7: ()}, [(64, 64), (64, 128)])], 4.0)
    assert list(whole.ground_truth) == list(whole.people) == [5, 7, 9]
    assert (whole.canvases, whole.seconds, whole.source) == ({(64, 64), (64, 128)}, 4.0, "net")
    assert format_network(whole.library, whole.canvases) == (
        "Network run by MindSpore with 2 input shapes: 64x64, 128x64"
    )
    with pytest.raises(InputError, match="image id 5 occurs twice"):
        merge_detections([detections({5: ()}, []), detections({5: ()}, [])], 4.0)


def test_each_process_uses_one_visible_device():
    assert [visible_device(rank, 3, {}) for rank in range(3)] == ["0", "1", "2"]
    assert [visible_device(rank, 2, {VISIBLE_DEVICES: "4,6,7"}) for rank in range(2)] == ["4", "6"]
    with pytest.raises(InputError, match=f"3 processes, but {VISIBLE_DEVICES}=4,6 names 2 devices"):
        visible_device(0, 3, {VISIBLE_DEVICES: "4,6"})


def report_device():
    raise InputError(f"device {os.environ[VISIBLE_DEVICES]}")


def fail():
    raise RuntimeError("the first line\nthe second")


def exit_immediately():
    os._exit(7)


@pytest.fixture
def dataset(tmp_path):
    return CocoDataset(coco_folder.write(tmp_path, coco_folder.mixed(4), "val"), "val")


@pytest.mark.parametrize(
    ("load", "error", "message"),
    [
        (report_device, InputError, "device [56]$"),
        (fail, WorkerError, "a process failed: RuntimeError: the first line$"),
        (exit_immediately, WorkerError, "process [12] of 2 ended with exit code 7 before it was done$"),
    ],
)
def test_worker_failure_is_raised_in_the_parent_and_no_process_remains(dataset, monkeypatch, load, error, message):
    monkeypatch.setenv(VISIBLE_DEVICES, "5,6")
    with pytest.raises(error, match=message) as raised:
        detect_in_processes(load, dataset, [[0, 1], [2, 3]])
    assert "\n" not in str(raised.value)
    assert not [one for one in psutil.Process().children() if "spawn_main" in " ".join(one.cmdline())]
