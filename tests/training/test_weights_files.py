"""Files of weights: read as data whatever wrote them, and refused in one line when they hold anything else."""

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
    """The one line in which a file is refused, by the time all of it has been read."""
    with pytest.raises((InputError, ValueError)) as caught:
        contents(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


@pytest.fixture(params=FORMATS)
def kind(request):
    return request.param


def test_pytorchs_formats(tmp_path, kind):
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
def test_mindspores_checkpoints_with_and_without_a_checksum(tmp_path, checksum):
    named = [{"name": "a.weight", "data": ms.Tensor(np.arange(6, dtype=np.float32).reshape(2, 3))}]
    path = str(tmp_path / "a.ckpt")
    ms.save_checkpoint(named, path, append_dict={"epoch_num": 3, "note": "text"}, crc_check=checksum)
    found = contents(tmp_path / "a.ckpt")
    assert found.keys() == {"a.weight", "epoch_num"}
    np.testing.assert_array_equal(found["a.weight"], np.arange(6).reshape(2, 3))


def test_tensors_that_share_a_storage_or_stand_askew_in_it(tmp_path, kind):
    numbers = np.arange(24, dtype="<f4")
    views = {"whole": numbers, "tail": numbers[20:], "askew": numbers.reshape(4, 6).T, "column": numbers[1::6]}
    offsets = {"tail": 20, "column": 1}
    tree = dictionary({key: tensor("0", view, numbers, offsets.get(key, 0)) for key, view in views.items()})
    (tmp_path / "a.pth").write_bytes(FORMATS[kind](tree, {"0": numbers}))
    for key, found in contents(tmp_path / "a.pth").items():
        np.testing.assert_array_equal(found, views[key])


def test_what_lies_around_the_weights_is_left_aside(tmp_path, kind):
    numbers = np.arange(3, dtype="<f4")
    tree = {"state_dict": dictionary({"a": tensor("0", numbers)}), "epoch": 7, "best": 0.5, "name": "net", "lr": [1e-3]}
    (tmp_path / "a.pth").write_bytes(FORMATS[kind](tree, {"0": numbers}))
    assert list(contents(tmp_path / "a.pth")) == ["a"]


def test_forms_of_the_first_years(tmp_path):
    """Python 2's dictionary and its text, a parameter, a tensor that is told its place, one on a graphics card."""
    numbers = np.arange(6, dtype="<f4")
    stored = value(("storage", name("torch.cuda", "FloatStorage"), "0", "cuda:0", 6, None)) + b"Q"
    place = (stored, 0, (2, 3), (3, 1))
    old = call(name("torch._utils", "_rebuild_tensor"), *place)
    parameter = name("torch.nn.parameter", "Parameter") + value((old,)) + b"\x81" + value((True,)) + b"b"
    told = call(name("torch", "FloatTensor")) + value(place) + b"b"
    pairs = [[b"U\x01a", old], [b"T\x01\0\0\0b", parameter], ["c", told]]
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
def test_nothing_is_run(tmp_path, kind, what, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").write_bytes(FORMATS[kind]({"a": HOSTILE[what]}, {}))
    message = refusal(tmp_path / "a.pth")
    assert message.startswith(f"{tmp_path / 'a.pth'}: ")
    assert "which is not a tensor; save the state_dict() of the model" in message or "has the opcode " in message
    assert not (tmp_path / "ran").exists()


def test_what_a_file_names_is_told():
    with pytest.raises(
        ValueError, match=r"^contains 'posix\.system', which is not a tensor; save the state_dict\(\) of the model$"
    ):
        pickle_reader.load(io.BytesIO(pickle(HOSTILE["a command"])))


SMALL = np.arange(8, dtype="<f4")
STORAGE = value(("storage", name("torch", "FloatStorage"), "0", "cpu", 8)) + b"Q"


def placed(*place):
    return call(name("torch._utils", "_rebuild_tensor_v2"), *place, False, call(name("collections", "OrderedDict")))


LIES = {
    "more rows than there are": placed(STORAGE, 0, (9,), (1,)),
    "the last one over the end": placed(STORAGE, 1, (8,), (1,)),
    "steps over the end": placed(STORAGE, 0, (2, 2), (7, 7)),
    "one number for many": placed(STORAGE, 0, (2**40,), (0,)),
    "a product without end": placed(STORAGE, 0, (2**20, 2**20, 2**20), (1, 1, 1)),
    "a place before the start": placed(STORAGE, -1, (2,), (1,)),
    "steps backwards": placed(STORAGE, 7, (8,), (-1,)),
    "a side below nothing": placed(STORAGE, 0, (-1,), (1,)),
    "no numbers": placed(STORAGE, 0, (0,), (1,)),
    "sides that are no numbers": placed(STORAGE, 0, (2.0,), (1,)),
    "sides that are true": placed(STORAGE, 0, (True,), (1,)),
    "fewer steps than sides": placed(STORAGE, 0, (2, 2), (1,)),
    "very many sides": placed(STORAGE, 0, (1,) * 300, (1,) * 300),
    "sides in a list": placed(STORAGE, 0, [2], [1]),
    "no storage": placed(None, 0, (2,), (1,)),
    "no place": call(name("torch", "FloatTensor")),
    "two things": placed(STORAGE, 0),
    "a storage that is not there": placed(STORAGE.replace(b"X\x01\0\0\x000", b"X\x01\0\0\x009"), 0, (2,), (1,)),
    "a longer storage": placed(STORAGE.replace(value(8), value(2**40)), 0, (2,), (1,)),
    "a shorter storage": placed(STORAGE.replace(value(8), value(4)), 0, (2,), (1,)),
    "storages of two types": placed(STORAGE, 0, (2,), (1,)) + STORAGE.replace(b"Float", b"Double"),
    "brain floats": placed(STORAGE.replace(b"Float", b"BFloat16"), 0, (2,), (1,)),
    "a storage in another": placed(STORAGE[:-2] + value(("0", 0, 4)) + b"tQ", 0, (2,), (1,)),
}


@pytest.mark.parametrize("what", LIES)
def test_a_tensor_that_cannot_be_is_refused(tmp_path, kind, what):
    (tmp_path / "a.pth").write_bytes(FORMATS[kind]({"a": LIES[what]}, {"0": SMALL}))
    refusal(tmp_path / "a.pth")


def test_a_place_that_can_be_is_read(tmp_path, kind):
    """So that what is refused above is refused for what it says."""
    (tmp_path / "a.pth").write_bytes(FORMATS[kind]({"a": placed(STORAGE, 1, (2, 3), (3, 1))}, {"0": SMALL}))
    np.testing.assert_array_equal(contents(tmp_path / "a.pth")["a"], [[1, 2, 3], [4, 5, 6]])


BROKEN = {
    "empty": b"",
    "a stack without a bottom": b"0" * 8,
    "nothing to return": b".",
    "a mark that was never set": b"t.",
    "a memory that was never filled": b"h\x07.",
    "a text without an end": b"X\xff\xff\xff\xffa.",
    "a text that is none": b"X\x02\0\0\0\xff\xfe.",
    "a name without an end": b"cposix",
    "a dictionary of halves": b"}(K\x01u.",
    "a dictionary in a dictionary's place": b"](K\x01u.",
    "a list that is none": b"}K\x01a.",
    "a call of nothing": b"NN)R.",
    "a state of nothing": b"K\x01}b.",
    "keys that are tuples": b"})K\x01s.",
    "pairs that are none": call(name("collections", "OrderedDict"), 7) + b".",
    "a parameter of nothing": call(name("torch.nn.parameter", "Parameter")) + b".",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_pickle_that_is_none_is_refused(what):
    with pytest.raises(ValueError, match="pickle"):
        pickle_reader.load(io.BytesIO(b"\x80\x02" + BROKEN[what]))


def test_a_small_file_takes_no_time_and_no_memory(tmp_path, kind):
    """A tuple of twice the tuple before, 5,000 times, would take for ever to walk, to compare, to hash or to print."""
    doubled = b")" + b"q\x00h\x00\x86" * 5000
    (tmp_path / "a.pth").write_bytes(FORMATS[kind]({"a": doubled, "b": b"}" + doubled + b"Ns"}, {}))
    began = time.process_time()
    assert "keys that are not names" in refusal(tmp_path / "a.pth")
    assert time.process_time() - began < 5


ORDERED = name("collections", "OrderedDict")
SWOLLEN = {
    "pairs of a long list": (
        ORDERED + b"](](" + b"N" * 100_000 + b"eq\x00" + b"h\x00" * 100_000 + b"e\x85R",
        "something other than pairs",
    ),
    "a list made a dictionary again and again": (
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
    "a long name again and again": (b"}" + value("a" * 10**6) + b"q\x00" + b"Nsh\x00" * 100_000, "that are not names"),
}


@pytest.mark.parametrize("what", SWOLLEN)
def test_a_small_pickle_stays_small(what):
    data, message = SWOLLEN[what]
    began = time.process_time()
    with pytest.raises(ValueError, match=message):
        pickle_reader.load(io.BytesIO(b"\x80\x02" + data + b"."))
    assert time.process_time() - began < 5


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999])
def test_truncation_is_noticed(tmp_path, kind, kept):
    path = write(tmp_path / "a.pth", arrays(), kind)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    refusal(path)


def test_a_flipped_bit_in_the_numbers_of_a_zip_is_noticed(tmp_path):
    path = write(tmp_path / "a.pth", {"a": SMALL}, "zip")
    whole = bytearray(path.read_bytes())
    whole[whole.index(SMALL.tobytes()) + 9] ^= 4
    path.write_bytes(whole)
    assert "damaged" in refusal(path)


def test_a_zip_that_is_none_of_pytorchs(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(zipped({"a": tensor("0", SMALL)}, {"0": SMALL}, zipfile.ZIP_DEFLATED))
    assert "is damaged" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")
    assert "a zip that was not written by PyTorch" in refusal(path)
    path.write_bytes(zipped({"a": tensor("0", SMALL)}, {"0": SMALL}).replace(b"little", b"bigbig"))
    refusal(path)


def test_other_files(tmp_path):
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


def test_a_view_stays_in_its_storage():
    numbers = np.arange(10)
    np.testing.assert_array_equal(strided_view(numbers, 2, (2, 3), (4, 1)), [[2, 3, 4], [6, 7, 8]])
    for place in ((2, (2, 3), (6, 1)), (10, (1,), (1,)), (0, (11,), (0,))):
        with pytest.raises(ValueError, match="in a storage of 10"):
            strided_view(numbers, *place)
