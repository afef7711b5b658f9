"""The memory of batches, into which clips are read; used again when a batch is gone.

Fresh memory costs as much as reading into it: the system clears every page first.
"""

import math
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import get_worker_info

from pipeline.reader.index import Array

_KEPT = 4
"""Blocks that are kept while no batch has them."""


class BatchMemory:
    """Gives out tensors that are not filled."""

    def __init__(self) -> None:
        self._free: list[Array] = []

    def tensors(self, names: Sequence[str], shape: Sequence[int], dtype: str) -> list[torch.Tensor]:
        """A tensor for each name; ``dtype`` as NumPy calls it.

        In a worker of a ``DataLoader`` they are memory that processes share, so that a batch
        reaches the trainer without a copy.
        """
        like = torch.from_numpy(np.empty(0, dtype))
        size = math.prod(shape) * like.element_size()
        if get_worker_info() is None:
            block = torch.from_numpy(self._block(size * len(names)))
            return [part.view(like.dtype).view(*shape) for part in block.view(len(names), -1)]
        found = []
        for _ in names:
            shared = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
            found.append(torch.empty(0, dtype=like.dtype).set_(shared).view(*shape))
        return found

    def _block(self, size: int) -> Array:
        """Bytes that come back when the array, and whatever looks at it, is gone."""
        fitting = [block for block in self._free if len(block) >= size]
        block = min(fitting, key=len, default=None)
        if block is None:
            block = np.empty(size, np.uint8)
        else:
            self._free = [kept for kept in self._free if kept is not block]
        lent = block[:size]
        weakref.finalize(lent, _give_back, weakref.ref(self), block).atexit = False
        return lent


def _give_back(owner: "weakref.ref[BatchMemory]", block: Array) -> None:
    memory = owner()
    if memory is not None:
        kept = sorted([*memory._free, block], key=len)
        memory._free = kept[-_KEPT:]
