"""The clips of an epoch by their positions in its order."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.reader.batches import BatchMaker, Clip
from pipeline.reader.clips import UNIT
from pipeline.reader.index import Array
from pipeline.reader.order import keys_of, permute

_BLOCK = 1024
"""Positions of a group that are permuted at once: one costs as much as hundreds."""


class Epoch:
    """What stands where in one epoch: groups are those of the maker's view."""

    def __init__(
        self, maker: BatchMaker, sizes: Mapping[str, int], seed: int, epoch: int, shuffle: bool
    ) -> None:
        """``sizes``: clips of each group by name, in the order of the groups."""
        self._maker = maker
        self._names, self._sizes = tuple(sizes), tuple(sizes.values())
        self._told = seed, epoch
        self._shuffle = shuffle
        self._permuted: dict[int, tuple[int, Array]] = {}
        self._phases = [
            keys_of(*self._told, name, "phase", count=1)[0] % UNIT for name in self._names
        ]

    def clips(self, group: int, positions: range) -> Sequence[Clip]:
        """Clips of a group, at least one."""
        numbers = np.arange(positions.start, positions.stop)
        if self._shuffle:
            numbers = self._images(group, positions)
        return self._maker.find(group, numbers, self._phases[group])

    def _images(self, group: int, positions: range) -> Array:
        begin, images = self._permuted.get(group, (0, np.empty(0, np.int64)))
        if not begin <= positions.start <= positions.stop <= begin + len(images):
            begin = positions.start
            size = self._sizes[group]
            block = np.arange(begin, min(size, max(positions.stop, begin + _BLOCK)))
            images = permute(block, size, keys_of(*self._told, self._names[group]))
            self._permuted[group] = begin, images
        return images[positions.start - begin : positions.stop - begin]
