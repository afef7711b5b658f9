"""Clips by number, for evaluation sets."""

import itertools
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from pipeline.reader.batches import Batch, BatchMaker, Making
from pipeline.reader.view import View


class LatentMap(Dataset[Batch]):
    """Clips by number, each a batch of one without its first axis. Draws are those of epoch 0."""

    def __init__(self, view: View, making: Making) -> None:
        self._view, self._making = view, making
        self._ends = list(itertools.accumulate(len(clips) for clips in view.selections))
        self._maker: BatchMaker | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maker": None}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, number: int) -> Batch:
        """The clip of a number. Raises ``IndexError``, and ``ShardError`` for a damaged shard."""
        if not 0 <= number < len(self):
            raise IndexError(f"clip {number} of {len(self)}")
        if self._maker is None:
            self._maker = BatchMaker(self._view, self._making)
        group = next(n for n, end in enumerate(self._ends) if number < end)
        at = number - (self._ends[group - 1] if group else 0)
        clips = self._maker.find(group, np.array([at]), 0)
        batch = self._maker.assemble(self._maker.gather(self._maker.submit(clips)), 0)
        return {name: v if name == "bucket" else v[0] for name, v in batch.items()}
