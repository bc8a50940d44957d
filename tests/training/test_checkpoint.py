"""Checkpoints and the run folder: atomic writes, keeping the newest, detection of damage."""

from __future__ import annotations

import binascii
import json
import os
import stat

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from mindspore.train.checkpoint_pb2 import Checkpoint

from pipeline.errors import InputError
from tests.support import tiny
from training.checkpoint.checkpoint import (
    DamagedCheckpointError,
    TrainingPosition,
    load_checkpoint,
    newest_checkpoint,
    restore_cell,
    save_checkpoint,
)
from training.checkpoint.run_folder import (
    check_run_folder,
    checkpoint_path,
    find_checkpoint,
    list_checkpoints,
    prepare_run_folder,
)


class Cell(nn.Cell):
    def __init__(self, value=1.0, width=3):
        super().__init__()
        self.layer = nn.Dense(width, 4)
        self.layer.weight.set_data(ms.Tensor(np.full((4, width), value, np.float32)))


def save(run, step, cell=None, keep=3):
    cell = cell or Cell(step)
    position = TrainingPosition(step, records=11, shards="abc", processes=2)
    return save_checkpoint(run, cell.get_parameters(), tiny.recipe(), position, keep=keep)


def test_checkpoint_round_trips(tmp_path):
    path = save(tmp_path, 7)
    assert path == tmp_path / "checkpoints" / "step-0000007.ckpt"
    checkpoint = load_checkpoint(path)
    assert checkpoint.config == tiny.recipe()
    assert checkpoint.position == TrainingPosition(7, records=11, shards="abc", processes=2)
    assert checkpoint.step == 7
    cell = Cell(0)
    restore_cell(cell, checkpoint.tensors, path)
    assert (cell.layer.weight.asnumpy() == 7).all()


def test_no_temporary_files_and_permissions_follow_umask(tmp_path):
    before = os.umask(0o027)
    try:
        path = save(tmp_path, 7)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_newest_checkpoints_are_kept_by_step(tmp_path):
    for step in (999_999, 5, 10_000_000, 9_999_999):
        save(tmp_path, step, keep=9)
    steps = [5, 999_999, 9_999_999, 10_000_000]
    assert list_checkpoints(tmp_path) == [checkpoint_path(tmp_path, step) for step in steps]
    save(tmp_path, 10_000_001, keep=2)
    assert list_checkpoints(tmp_path) == [checkpoint_path(tmp_path, step) for step in (10_000_000, 10_000_001)]
    assert find_checkpoint(tmp_path) == checkpoint_path(tmp_path, 10_000_001)


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 3, Cell(1))
    path = save(tmp_path, 3, Cell(2))
    assert (load_checkpoint(path).tensors["layer.weight"].asnumpy() == 2).all()


def test_write_error_is_one_line(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(InputError, match=r"step-0000001\.ckpt: cannot be written: ") as caught:
        save(tmp_path, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.999])
def test_truncation_is_detected(tmp_path, keep):
    path = save(tmp_path, 1)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DamagedCheckpointError, match="damaged"):
        load_checkpoint(path)


def test_flipped_bit_is_detected_anywhere(tmp_path):
    path = save(tmp_path, 1)
    content = path.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 40)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(InputError):
            load_checkpoint(path)


def test_newest_undamaged_checkpoint_is_found(tmp_path):
    for step in (1, 2, 3):
        path = save(tmp_path, step)
    path.write_bytes(path.read_bytes()[:100])
    checkpoint, damaged = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 2
    assert [str(error).partition(":")[0] for error in damaged] == [str(path)]
    for other in list_checkpoints(tmp_path):
        other.write_bytes(b"")
    with pytest.raises(InputError, match="every checkpoint is damaged"):
        newest_checkpoint(tmp_path)
    assert newest_checkpoint(tmp_path / "nowhere") == (None, [])


def test_other_files_are_rejected(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_checkpoint(tmp_path / "absent.ckpt")
    with pytest.raises(InputError, match=r"no checkpoint in this folder; train one with: make train RUN="):
        find_checkpoint(tmp_path)
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(InputError, match="damaged or not a MindSpore checkpoint"):
        load_checkpoint(tmp_path / "text.ckpt")
    ms.save_checkpoint(Cell(), str(tmp_path / "bare.ckpt"), crc_check=True)
    with pytest.raises(InputError, match="holds no recipe"):
        load_checkpoint(tmp_path / "bare.ckpt")
    state = {"format": 99, "config": {}, "step": 1, "records": 1, "processes": 1}
    ms.save_checkpoint(
        Cell(), str(tmp_path / "later.ckpt"), append_dict={"openpose": json.dumps(state)}, crc_check=True
    )
    with pytest.raises(InputError, match="checkpoint format 99, this program reads format 1"):
        load_checkpoint(tmp_path / "later.ckpt")


def tamper(path, change, tag="layer.weight"):
    """Change one entry of a checkpoint message, and write the file with a matching checksum."""
    message = Checkpoint()
    message.ParseFromString(path.read_bytes()[:-17])
    (entry,) = (entry for entry in message.value if entry.tag == tag)
    change(entry.tensor)
    body = message.SerializeToString()
    path.write_bytes(body + b"crc_num" + binascii.crc32(body).to_bytes(10, "big"))


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: setattr(tensor, "tensor_content", tensor.tensor_content * 10),  # MindSpore 2.8.0 aborts here
        lambda tensor: setattr(tensor, "tensor_content", b""),
        lambda tensor: tensor.dims.extend([1000, 1000]),
        lambda tensor: tensor.dims.__setitem__(0, -4),
        lambda tensor: tensor.dims.__setitem__(0, 2**40),
        lambda tensor: setattr(tensor, "tensor_type", "Float128"),
    ],
)
def test_inconsistent_tensor_is_rejected_despite_a_valid_checksum(tmp_path, change):
    path = save(tmp_path, 1)
    tamper(path, lambda tensor: None)
    load_checkpoint(path)
    tamper(path, change)
    with pytest.raises(DamagedCheckpointError):
        load_checkpoint(path)


def test_tensor_split_into_entries_is_read(tmp_path):
    path = save(tmp_path, 1, Cell(3))
    message = Checkpoint()
    message.ParseFromString(path.read_bytes()[:-17])
    pieces = Checkpoint()
    for entry in message.value:
        data = entry.tensor.tensor_content
        for piece in (data[:4], data[4:]):
            pieces.value.add().CopyFrom(entry)
            pieces.value[-1].tensor.tensor_content = piece
    body = pieces.SerializeToString()
    path.write_bytes(body + b"crc_num" + binascii.crc32(body).to_bytes(10, "big"))
    assert (load_checkpoint(path).tensors["layer.weight"].asnumpy() == 3).all()


@pytest.mark.parametrize("value", [-1, 1.5, "7", None, True, 2**64])
def test_invalid_position_is_a_one_line_error(tmp_path, value):
    state = {"format": 1, "config": {}, "step": value, "records": 1, "processes": 1}
    ms.save_checkpoint(Cell(), str(tmp_path / "a.ckpt"), append_dict={"openpose": json.dumps(state)}, crc_check=True)
    with pytest.raises(InputError, match=r"a\.ckpt: step is .*, expected a whole number"):
        load_checkpoint(tmp_path / "a.ckpt")


def test_mismatched_weights_are_named(tmp_path):
    path = save(tmp_path, 1)
    tensors = load_checkpoint(path).tensors
    with pytest.raises(InputError, match=r"layer\.weight: shape \(4, 3\), expected \(4, 5\)"):
        restore_cell(Cell(width=5), tensors, path)
    del tensors["layer.bias"]
    with pytest.raises(InputError, match=r"has no layer\.bias; expected shape \(4,\)"):
        restore_cell(Cell(), tensors, path)


def test_folder_with_a_run_is_not_overwritten(tmp_path):
    check_run_folder(tmp_path / "new", resume=False)
    save(tmp_path, 1)
    check_run_folder(tmp_path, resume=True)
    with pytest.raises(InputError, match="already contains a run; resume it with RESUME=1"):
        check_run_folder(tmp_path, resume=False)
    with pytest.raises(InputError, match="is a file; expected a folder"):
        check_run_folder(checkpoint_path(tmp_path, 1), resume=True)


def test_preparing_removes_later_steps(tmp_path):
    for step in (2, 4, 6):
        save(tmp_path, step)
    folder = tmp_path / "checkpoints"
    (folder / ".step-0000008.ckpt").write_bytes(b"half")
    (folder / ".step-0000008.tmp").write_bytes(b"half")
    (folder / ".step-0000006.onnx.abc").mkdir()
    (folder / ".step-0000006.onnx.abc" / "step-0000006.onnx").write_bytes(b"half")
    lines = [json.dumps({"step": step, "loss": 0.5}) + "\n" for step in (2, 4, 5, 6)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"step": 7, "lo')
    prepare_run_folder(tmp_path, tiny.recipe(), done=4)
    assert sorted(path.name for path in folder.iterdir()) == [
        "step-0000002.ckpt",
        "step-0000004.ckpt",
        "step-0000006.ckpt.damaged",
    ]
    assert [line["step"] for line in tiny.metrics(tmp_path)] == [2, 4]
    assert "batch_size: 4" in (tmp_path / "config.yaml").read_text()
