"""Buffers are reused, but never while a reference to them exists."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from pipeline.system.buffers import BufferPool, ThreadBuffers

SHAPE = (4, 8, 8, 3)


def test_an_array_is_reused_after_it_is_dropped():
    pool = BufferPool()
    first = pool.array(SHAPE, np.uint8)
    address = first.ctypes.data
    del first
    assert pool.array(SHAPE, np.uint8).ctypes.data == address


@pytest.mark.parametrize(
    "refer",
    [
        lambda array: array,
        lambda array: array[1:, ::2],
        lambda array: array.reshape(-1)[5:].view(np.int8)[3:],
        memoryview,
        lambda array: {"batch": [array]},
    ],
    ids=["array", "slice", "view of a view", "memoryview", "container"],
)
def test_a_referenced_array_is_not_reused(refer):
    pool = BufferPool()
    array = pool.array(SHAPE, np.uint8)
    array[...] = 7
    reference = refer(array)
    del array
    other = pool.array(SHAPE, np.uint8)
    other[...] = 9
    kept = reference["batch"][0] if isinstance(reference, dict) else reference
    assert (np.asarray(kept).view(np.uint8) == 7).all()


def test_arrays_in_use_do_not_overlap():
    pool = BufferPool()
    arrays = [pool.array(SHAPE, np.uint8) for _ in range(3)]
    assert len({array.ctypes.data for array in arrays}) == 3


def test_only_arrays_of_the_same_shape_and_dtype_are_reused():
    pool = BufferPool()
    pool.array(SHAPE, np.uint8)
    assert pool.array(SHAPE, np.float32).dtype == np.float32
    assert pool.array((2, 2), np.uint8).shape == (2, 2)


def test_a_tensor_keeps_the_values_of_its_array():
    ms = pytest.importorskip("mindspore")
    pool = BufferPool()
    array = pool.array(SHAPE, np.uint8)
    array[...] = 7
    tensors = [ms.Tensor(array), ms.Tensor.from_numpy(array)]
    del array
    pool.array(SHAPE, np.uint8)[...] = 9
    assert all((tensor.asnumpy() == 7).all() for tensor in tensors)


def test_each_thread_has_its_own_buffers():
    buffers = ThreadBuffers()
    own = buffers.array("image", 4, 5)
    other = []
    thread = threading.Thread(target=lambda: other.append(buffers.array("image", 4, 5)))
    thread.start()
    thread.join()
    assert not np.shares_memory(own, other[0])
    assert np.shares_memory(own, buffers.array("image", 3, 3))
    assert not np.shares_memory(own, buffers.array("mask", 4, 5))
    assert buffers.array("image", 40, 50).shape == (40, 50)
