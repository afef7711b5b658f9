"""The memory of batches, into which clips are read; used again when a batch is gone."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import get_worker_info

from pipeline.pool import MemoryPool

_KEPT_BYTES = 256 * 2**20


class BatchMemory:
    """Gives out tensors that are not filled."""

    def __init__(self) -> None:
        self._pool = MemoryPool(_KEPT_BYTES)

    def scratch(self, shape: Sequence[int]) -> torch.Tensor:
        """A tensor of float32 of this process alone.

        From malloc, tensors of this size would scatter its heap, which then grows from epoch to
        epoch.
        """
        return torch.from_numpy(self._pool.empty((4 * math.prod(shape),)).view(np.float32)).view(
            *shape
        )

    def tensors(self, names: Sequence[str], shape: Sequence[int], dtype: str) -> list[torch.Tensor]:
        """A tensor for each name; ``dtype`` as NumPy calls it.

        In a worker of a ``DataLoader`` they are memory that processes share, so that a batch
        reaches the trainer without a copy.
        """
        like = torch.from_numpy(np.empty(0, dtype))
        size = math.prod(shape) * like.element_size()
        if get_worker_info() is None:
            block = torch.from_numpy(self._pool.empty((size * len(names),)))
            return [part.view(like.dtype).view(*shape) for part in block.view(len(names), -1)]
        found = []
        for _ in names:
            shared = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
            found.append(torch.empty(0, dtype=like.dtype).set_(shared).view(*shape))
        return found
