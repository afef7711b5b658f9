"""Memory of batches: used again when it is free, never before."""

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from pipeline.reader.batch_memory import BatchMemory

NAMES = ("mean", "logvar")


def pointers(tensors) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def test_it_comes_back_when_the_last_view_is_gone():
    memory = BatchMemory()
    tensors = memory.tensors(NAMES, (2, 3, 4), "float16")
    assert [(t.shape, t.dtype) for t in tensors] == [((2, 3, 4), torch.float16)] * 2
    held, first = tensors[1].flatten()[:2], pointers(tensors)
    del tensors
    assert set(pointers(memory.tensors(NAMES, (2, 3, 4), "float16"))).isdisjoint(first)
    array = held.numpy()
    del held
    assert set(pointers(memory.tensors(NAMES, (2, 3, 4), "float16"))).isdisjoint(first)
    del array
    blocks = [memory.tensors(NAMES, (2, 3, 4), "float16") for _ in range(3)]
    assert first in [pointers(block) for block in blocks]


def test_a_smaller_batch_takes_a_part_and_a_larger_one_new_memory():
    memory = BatchMemory()
    first = pointers(memory.tensors(NAMES, (8, 64), "float32"))
    small = memory.tensors(NAMES, (4, 64), "float32")
    assert pointers(small)[0] == first[0]
    assert memory.tensors(NAMES, (16, 64), "float32")[0].data_ptr() != first[0]


def test_tensors_outlive_the_memory_that_gave_them():
    memory = BatchMemory()
    tensors = memory.tensors(NAMES, (2,), "float32")
    tensors[0][:] = torch.tensor([1.0, 2.0])
    del memory
    assert tensors[0].tolist() == [1.0, 2.0]


class Blocks(IterableDataset):
    def __iter__(self):
        memory = BatchMemory()
        for number in range(4):
            tensors = memory.tensors(NAMES, (3, 5), "float16")
            for tensor in tensors:
                tensor.fill_(number)
            yield (
                all(tensor.is_shared() for tensor in tensors),
                dict(zip(NAMES, tensors, strict=True)),
            )


def test_workers_share_it():
    found = list(DataLoader(Blocks(), batch_size=None, num_workers=1))
    assert [shared for shared, _ in found] == [True] * 4
    for number, (_, tensors) in enumerate(found):
        for tensor in tensors.values():
            np.testing.assert_array_equal(tensor.numpy(), np.full((3, 5), number, np.float16))
