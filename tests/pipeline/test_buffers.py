"""Memory used again: never while anybody could still read it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from pipeline.system.buffers import BufferPool, ThreadBuffers

SHAPE = (4, 8, 8, 3)


def test_an_array_comes_back_once_it_is_dropped():
    memory = BufferPool()
    first = memory.array(SHAPE, np.uint8)
    address = first.ctypes.data
    del first
    assert memory.array(SHAPE, np.uint8).ctypes.data == address


@pytest.mark.parametrize(
    "hold",
    [
        lambda array: array,
        lambda array: array[1:, ::2],
        lambda array: array.reshape(-1)[5:].view(np.int8)[3:],
        memoryview,
        lambda array: {"batch": [array]},
    ],
    ids=["itself", "a part", "a view of a view", "its buffer", "a container"],
)
def test_an_array_stays_with_whoever_holds_any_part_of_it(hold):
    memory = BufferPool()
    array = memory.array(SHAPE, np.uint8)
    array[...] = 7
    held = hold(array)
    del array
    other = memory.array(SHAPE, np.uint8)
    other[...] = 9
    kept = held["batch"][0] if isinstance(held, dict) else held
    assert (np.asarray(kept).view(np.uint8) == 7).all()


def test_arrays_given_out_together_are_apart():
    memory = BufferPool()
    arrays = [memory.array(SHAPE, np.uint8) for _ in range(3)]
    assert len({array.ctypes.data for array in arrays}) == 3


def test_only_the_same_kind_of_array_is_given_again():
    memory = BufferPool()
    memory.array(SHAPE, np.uint8)
    assert memory.array(SHAPE, np.float32).dtype == np.float32
    assert memory.array((2, 2), np.uint8).shape == (2, 2)


def test_a_tensor_keeps_what_it_was_made_from():
    ms = pytest.importorskip("mindspore")
    memory = BufferPool()
    array = memory.array(SHAPE, np.uint8)
    array[...] = 7
    tensors = [ms.Tensor(array), ms.Tensor.from_numpy(array)]
    del array
    memory.array(SHAPE, np.uint8)[...] = 9
    assert all((tensor.asnumpy() == 7).all() for tensor in tensors)


def test_spare_memory_is_the_threads_own():
    spare = ThreadBuffers()
    mine = spare.array("picture", 4, 5)
    theirs = []
    thread = threading.Thread(target=lambda: theirs.append(spare.array("picture", 4, 5)))
    thread.start()
    thread.join()
    assert not np.shares_memory(mine, theirs[0])
    assert np.shares_memory(mine, spare.array("picture", 3, 3))
    assert not np.shares_memory(mine, spare.array("mask", 4, 5))
    assert spare.array("picture", 40, 50).shape == (40, 50)
