"""Pictures shared out among processes, and what becomes of processes that fail."""

from __future__ import annotations

import os

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.inference.letterbox import choose_letterbox
from evaluation.scoring.datasets import CocoSet
from evaluation.scoring.detect import Detections, count_canvases, gather, partition_by_work
from evaluation.scoring.worker_processes import VISIBLE_DEVICES, ProcessError, detect_in_processes, visible_device
from pipeline.errors import InputError
from tests.support import coco_folder

SIDES = st.integers(1, 2000)


@given(st.lists(st.tuples(SIDES, SIDES), max_size=60), st.integers(1, 9))
def test_every_picture_goes_to_one_process(sizes, processes):
    shares = partition_by_work(sizes, processes)
    assert sorted(i for share in shares for i in share) == list(range(len(sizes)))
    assert len(shares) <= processes
    assert all(shares)


def test_shares_are_of_equal_work_and_few_canvases():
    usual = [(480, 640), (427, 640), (640, 480), (640, 427), (426, 640), (375, 500), (500, 375), (333, 500), (612, 612)]
    sizes = [usual[i * i % len(usual)] for i in range(900)] + [(300 + 7 * i, 640) for i in range(60)]
    shares = partition_by_work(sizes, 4)
    work = [sum(max(sizes[i]) / min(sizes[i]) for i in share) for share in shares]
    assert max(work) < 1.02 * min(work)

    def canvases(indices):
        return {choose_letterbox(sizes[i], 368).canvas for i in indices}

    compiled = [len(canvases(share)) for share in shares]
    assert sum(compiled) <= len(canvases(range(len(sizes)))) + len(shares) - 1


def detections(truth, canvases):
    return Detections(truth, {image_id: [] for image_id in truth}, frozenset(canvases), 3.0, "net", {"size": 64})


def test_findings_are_gathered_by_image_id():
    whole = gather([detections({5: (), 9: ()}, [(64, 64)]), detections({7: ()}, [(64, 64), (64, 128)])], 4.0)
    assert list(whole.truth) == list(whole.people) == [5, 7, 9]
    assert (whole.canvases, whole.seconds, whole.source) == ({(64, 64), (64, 128)}, 4.0, "net")
    assert count_canvases(whole.canvases) == "2 shapes of network input compiled: 64x64, 128x64"
    with pytest.raises(InputError, match="image id 5 comes twice"):
        gather([detections({5: ()}, []), detections({5: ()}, [])], 4.0)


def test_each_process_sees_one_of_the_devices_that_there_are():
    assert [visible_device(rank, 3, {}) for rank in range(3)] == ["0", "1", "2"]
    assert [visible_device(rank, 2, {VISIBLE_DEVICES: "4,6,7"}) for rank in range(2)] == ["4", "6"]
    with pytest.raises(InputError, match=f"3 processes, but {VISIBLE_DEVICES}=4,6 names 2 devices"):
        visible_device(0, 3, {VISIBLE_DEVICES: "4,6"})


def tell_device():
    raise InputError(f"device {os.environ[VISIBLE_DEVICES]}")


def break_down():
    raise RuntimeError("the first line\nthe second")


def end_at_once():
    os._exit(7)


@pytest.fixture
def pictures(tmp_path):
    return CocoSet(coco_folder.write(tmp_path, coco_folder.mixed(4), "val"), "val")


@pytest.mark.parametrize(
    ("load", "error", "said"),
    [
        (tell_device, InputError, "device [56]$"),
        (break_down, ProcessError, "a process failed: RuntimeError: the first line$"),
        (end_at_once, ProcessError, "process [12] of 2 ended with exit code 7 before it was done$"),
    ],
)
def test_what_goes_wrong_in_a_process_is_raised_here_and_none_is_left(pictures, monkeypatch, load, error, said):
    monkeypatch.setenv(VISIBLE_DEVICES, "5,6")
    with pytest.raises(error, match=said) as raised:
        detect_in_processes(load, pictures, [[0, 1], [2, 3]])
    assert "\n" not in str(raised.value)
    assert not [one for one in psutil.Process().children() if "spawn_main" in " ".join(one.cmdline())]
