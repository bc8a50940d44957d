"""Reading files of weights in every format, and refusing hostile and damaged files in one line."""

from __future__ import annotations

import io
import json
import struct
import time
import zipfile

import mindspore as ms
import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.errors import InputError
from tests.support.torch_files import (
    FORMATS,
    KINDS,
    call,
    dictionary,
    legacy,
    name,
    pickle,
    tensor,
    value,
    write,
    zipped,
)
from training.weights import pickle_reader
from training.weights.reader import open_weights
from training.weights.stored_tensor import strided_view


def arrays():
    rng = np.random.default_rng(0)
    return {f"layer.{kind}": rng.normal(0, 50, (3, 2, 4)).astype(f"<{kind}") for kind in KINDS if kind != "u1"}


def contents(path):
    return {each: stored.read() for each, stored in open_weights(path).items()}


def refusal(path):
    """Return the message, one line, with which a file is refused when it is opened or its tensors are read."""
    with pytest.raises((InputError, ValueError)) as caught:
        contents(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


@pytest.fixture(params=FORMATS)
def kind(request):
    return request.param


def test_pytorch_formats(tmp_path, kind):
    path = write(tmp_path / "a.pth", arrays() | {"count": np.array(7, "<i8")}, kind)
    assert [(each, stored.shape) for each, stored in open_weights(path).items()] == [
        *((each, (3, 2, 4)) for each in arrays()),
        ("count", ()),
    ]
    for each, found in contents(path).items():
        expected = arrays().get(each, np.array(7))
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_safetensors(tmp_path):
    save_file(arrays(), tmp_path / "a.safetensors")
    found = contents(tmp_path / "a.safetensors")
    assert found.keys() == arrays().keys()
    for each, array in arrays().items():
        np.testing.assert_array_equal(found[each], array)


@pytest.mark.parametrize("checksum", [False, True])
def test_mindspore_checkpoints_with_and_without_a_checksum(tmp_path, checksum):
    named = [{"name": "a.weight", "data": ms.Tensor(np.arange(6, dtype=np.float32).reshape(2, 3))}]
    path = str(tmp_path / "a.ckpt")
    ms.save_checkpoint(named, path, append_dict={"epoch_num": 3, "note": "text"}, crc_check=checksum)
    found = contents(tmp_path / "a.ckpt")
    assert found.keys() == {"a.weight", "epoch_num"}
    np.testing.assert_array_equal(found["a.weight"], np.arange(6).reshape(2, 3))


def test_tensors_that_share_a_storage_or_are_strided_views_of_it(tmp_path, kind):
    numbers = np.arange(24, dtype="<f4")
    views = {"whole": numbers, "tail": numbers[20:], "transposed": numbers.reshape(4, 6).T, "column": numbers[1::6]}
    offsets = {"tail": 20, "column": 1}
    tree = dictionary({key: tensor("0", view, numbers, offsets.get(key, 0)) for key, view in views.items()})
    (tmp_path / "a.pth").write_bytes(FORMATS[kind](tree, {"0": numbers}))
    for key, found in contents(tmp_path / "a.pth").items():
        np.testing.assert_array_equal(found, views[key])


def test_other_values_of_a_training_checkpoint_are_ignored(tmp_path, kind):
    numbers = np.arange(3, dtype="<f4")
    tree = {"state_dict": dictionary({"a": tensor("0", numbers)}), "epoch": 7, "best": 0.5, "name": "net", "lr": [1e-3]}
    (tmp_path / "a.pth").write_bytes(FORMATS[kind](tree, {"0": numbers}))
    assert list(contents(tmp_path / "a.pth")) == ["a"]


def test_pickles_of_early_pytorch_versions(tmp_path):
    """Dictionary and strings of Python 2, a parameter, a tensor whose layout is set by BUILD, a storage on a GPU."""
    numbers = np.arange(6, dtype="<f4")
    stored = value(("storage", name("torch.cuda", "FloatStorage"), "0", "cuda:0", 6, None)) + b"Q"
    layout = (stored, 0, (2, 3), (3, 1))
    old = call(name("torch._utils", "_rebuild_tensor"), *layout)
    parameter = name("torch.nn.parameter", "Parameter") + value((old,)) + b"\x81" + value((True,)) + b"b"
    set_by_build = call(name("torch", "FloatTensor")) + value(layout) + b"b"
    pairs = [[b"U\x01a", old], [b"T\x01\0\0\0b", parameter], ["c", set_by_build]]
    (tmp_path / "a.pth").write_bytes(legacy(call(name("collections", "OrderedDict"), pairs), {"0": numbers}))
    found = contents(tmp_path / "a.pth")
    assert list(found) == ["a", "b", "c"]
    for each in found.values():
        np.testing.assert_array_equal(each, numbers.reshape(2, 3))


HOSTILE = {
    "a command": call(name("posix", "system"), "touch ran"),
    "a command in a later protocol": value("posix") + value("system") + b"\x93" + value(("touch ran",)) + b"R",
    "an expression": call(name("builtins", "eval"), "open('ran', 'w')"),
    "a getter": call(name("builtins", "getattr"), name("torch._utils", "_rebuild_tensor_v2"), "__globals__"),
    "a model": name("torchvision.models.vgg", "VGG") + b")\x81" + value({"training": True}) + b"b",
    "an instance": b"(iposix\nsystem\n.",
    "an object": b"(" + name("collections", "OrderedDict") + b"o",
    "an extension": b"\x82\x01",
    "a persistent name": b"P0\n",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_no_code_is_executed(tmp_path, kind, what, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").write_bytes(FORMATS[kind]({"a": HOSTILE[what]}, {}))
    message = refusal(tmp_path / "a.pth")
    assert message.startswith(f"{tmp_path / 'a.pth'}: ")
    assert "which is not a tensor; save the state_dict() of the model" in message or "has the opcode " in message
    assert not (tmp_path / "ran").exists()


def test_the_message_contains_the_refused_name():
    with pytest.raises(
        ValueError, match=r"^contains 'posix\.system', which is not a tensor; save the state_dict\(\) of the model$"
    ):
        pickle_reader.load(io.BytesIO(pickle(HOSTILE["a command"])))


SMALL = np.arange(8, dtype="<f4")
STORAGE = value(("storage", name("torch", "FloatStorage"), "0", "cpu", 8)) + b"Q"


def tensor_with_layout(*layout):
    return call(name("torch._utils", "_rebuild_tensor_v2"), *layout, False, call(name("collections", "OrderedDict")))


INVALID_TENSORS = {
    "more rows than the storage": tensor_with_layout(STORAGE, 0, (9,), (1,)),
    "last element beyond the end": tensor_with_layout(STORAGE, 1, (8,), (1,)),
    "strides beyond the end": tensor_with_layout(STORAGE, 0, (2, 2), (7, 7)),
    "stride 0 for 2**40 elements": tensor_with_layout(STORAGE, 0, (2**40,), (0,)),
    "a very large number of elements": tensor_with_layout(STORAGE, 0, (2**20, 2**20, 2**20), (1, 1, 1)),
    "a negative offset": tensor_with_layout(STORAGE, -1, (2,), (1,)),
    "a negative stride": tensor_with_layout(STORAGE, 7, (8,), (-1,)),
    "a negative side": tensor_with_layout(STORAGE, 0, (-1,), (1,)),
    "no elements": tensor_with_layout(STORAGE, 0, (0,), (1,)),
    "float sides": tensor_with_layout(STORAGE, 0, (2.0,), (1,)),
    "bool sides": tensor_with_layout(STORAGE, 0, (True,), (1,)),
    "fewer strides than sides": tensor_with_layout(STORAGE, 0, (2, 2), (1,)),
    "300 dimensions": tensor_with_layout(STORAGE, 0, (1,) * 300, (1,) * 300),
    "shape and stride as lists": tensor_with_layout(STORAGE, 0, [2], [1]),
    "no storage": tensor_with_layout(None, 0, (2,), (1,)),
    "no layout": call(name("torch", "FloatTensor")),
    "an incomplete layout": tensor_with_layout(STORAGE, 0),
    "a missing storage": tensor_with_layout(STORAGE.replace(b"X\x01\0\0\x000", b"X\x01\0\0\x009"), 0, (2,), (1,)),
    "a storage declared too long": tensor_with_layout(STORAGE.replace(value(8), value(2**40)), 0, (2,), (1,)),
    "a storage declared too short": tensor_with_layout(STORAGE.replace(value(8), value(4)), 0, (2,), (1,)),
    "one storage with two dtypes": tensor_with_layout(STORAGE, 0, (2,), (1,)) + STORAGE.replace(b"Float", b"Double"),
    "bfloat16": tensor_with_layout(STORAGE.replace(b"Float", b"BFloat16"), 0, (2,), (1,)),
    "a storage that is a view of another": tensor_with_layout(STORAGE[:-2] + value(("0", 0, 4)) + b"tQ", 0, (2,), (1,)),
}


@pytest.mark.parametrize("what", INVALID_TENSORS)
def test_an_invalid_tensor_is_refused(tmp_path, kind, what):
    (tmp_path / "a.pth").write_bytes(FORMATS[kind]({"a": INVALID_TENSORS[what]}, {"0": SMALL}))
    refusal(tmp_path / "a.pth")


def test_a_valid_tensor_is_read(tmp_path, kind):
    """Check that the tensors above are refused for their stated defect, not for how the test builds them."""
    (tmp_path / "a.pth").write_bytes(FORMATS[kind]({"a": tensor_with_layout(STORAGE, 1, (2, 3), (3, 1))}, {"0": SMALL}))
    np.testing.assert_array_equal(contents(tmp_path / "a.pth")["a"], [[1, 2, 3], [4, 5, 6]])


BROKEN = {
    "empty": b"",
    "POP on an empty stack": b"0" * 8,
    "STOP on an empty stack": b".",
    "TUPLE without MARK": b"t.",
    "BINGET of an empty memo": b"h\x07.",
    "a truncated string": b"X\xff\xff\xff\xffa.",
    "a string that is not UTF-8": b"X\x02\0\0\0\xff\xfe.",
    "a truncated name": b"cposix",
    "a key without a value": b"}(K\x01u.",
    "SETITEMS on a list": b"](K\x01u.",
    "APPEND to a dictionary": b"}K\x01a.",
    "a call of None": b"NN)R.",
    "BUILD of an int": b"K\x01}b.",
    "tuple keys": b"})K\x01s.",
    "an OrderedDict of an int": call(name("collections", "OrderedDict"), 7) + b".",
    "a parameter without a tensor": call(name("torch.nn.parameter", "Parameter")) + b".",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_damaged_pickle_is_refused(what):
    with pytest.raises(ValueError, match="pickle"):
        pickle_reader.load(io.BytesIO(b"\x80\x02" + BROKEN[what]))


def test_a_small_file_takes_little_time_and_memory(tmp_path, kind):
    """5,000 nested tuples, each with its predecessor twice, cannot be traversed, compared, hashed or printed."""
    doubled = b")" + b"q\x00h\x00\x86" * 5000
    (tmp_path / "a.pth").write_bytes(FORMATS[kind]({"a": doubled, "b": b"}" + doubled + b"Ns"}, {}))
    began = time.process_time()
    assert "keys that are not names" in refusal(tmp_path / "a.pth")
    assert time.process_time() - began < 5


ORDERED = name("collections", "OrderedDict")
EXPANDING = {
    "an OrderedDict of very long pairs": (
        ORDERED + b"](](" + b"N" * 100_000 + b"eq\x00" + b"h\x00" * 100_000 + b"e\x85R",
        "something other than pairs",
    ),
    "one list converted to a dictionary 9,999 times": (
        b"]("
        + value(("a", 1))
        + b"q\x00"
        + b"h\x00" * 100_000
        + b"eq\x01"
        + ORDERED
        + b"q\x02"
        + b"h\x02h\x01\x85R" * 9999,
        "more data than it contains",
    ),
    "one long key 100,000 times": (b"}" + value("a" * 10**6) + b"q\x00" + b"Nsh\x00" * 100_000, "that are not names"),
}


@pytest.mark.parametrize("what", EXPANDING)
def test_an_expanding_pickle_is_refused_quickly(what):
    data, message = EXPANDING[what]
    began = time.process_time()
    with pytest.raises(ValueError, match=message):
        pickle_reader.load(io.BytesIO(b"\x80\x02" + data + b"."))
    assert time.process_time() - began < 5


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999])
def test_truncation_is_detected(tmp_path, kind, kept):
    path = write(tmp_path / "a.pth", arrays(), kind)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    refusal(path)


def test_a_flipped_bit_in_the_values_of_a_zip_is_detected(tmp_path):
    path = write(tmp_path / "a.pth", {"a": SMALL}, "zip")
    whole = bytearray(path.read_bytes())
    whole[whole.index(SMALL.tobytes()) + 9] ^= 4
    path.write_bytes(whole)
    assert "damaged" in refusal(path)


def test_a_zip_not_written_by_pytorch(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(zipped({"a": tensor("0", SMALL)}, {"0": SMALL}, zipfile.ZIP_DEFLATED))
    assert "is damaged" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")
    assert "a zip that was not written by PyTorch" in refusal(path)
    path.write_bytes(zipped({"a": tensor("0", SMALL)}, {"0": SMALL}).replace(b"little", b"bigbig"))
    refusal(path)


def test_files_of_other_formats(tmp_path):
    path = tmp_path / "a.pth"
    assert "No such file or directory; expected a PyTorch file" in refusal(path)
    for content in (b"", b"text", b"\x80\x04", pickle([1, 2]), struct.pack("<Q", 2**40) + b"{", b"\x08" * 20):
        path.write_bytes(content)
        refusal(path)
    path.write_bytes(b"text")
    assert "damaged, or not a known format; expected a PyTorch file (.pth, .pt), a .safetensors or a Mi" in refusal(
        path
    )
    path.write_bytes(legacy({"epoch": 7}, {}))
    assert refusal(path) == f"{path}: contains no tensors; expected the weights of a published network"
    path.write_bytes(
        legacy({}, {}).replace(value({"little_endian": True})[2:-1], value({"little_endian": False})[2:-1])
    )
    assert "big-endian" in refusal(path)
    head = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes(4))
    assert "a damaged safetensors file" in refusal(path)


def test_a_view_beyond_its_storage_is_refused():
    numbers = np.arange(10)
    np.testing.assert_array_equal(strided_view(numbers, 2, (2, 3), (4, 1)), [[2, 3, 4], [6, 7, 8]])
    for layout in ((2, (2, 3), (6, 1)), (10, (1,), (1,)), (0, (11,), (0,))):
        with pytest.raises(ValueError, match="in a storage of 10"):
            strided_view(numbers, *layout)
