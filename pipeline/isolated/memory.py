"""Frames in memory that a decoder shares with its parent, used again and again.

New shared memory costs several times as much as filling it: the kernel clears it page by page.
"""

import fcntl
import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pipeline.video.host import Frames

_KEPT_BYTES = 512 * 2**20
"""Free at most: two segments as large as a pack is by default, of which one is written while the
other is the parent's."""

SHARED_BYTES = 2**20
"""Frames of less are sent as they are: each piece of memory that is held takes a descriptor."""

_MAPPED = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
"""All pages at once (Linux): one by one, as they are read, costs more."""


@dataclass(frozen=True)
class Piece:
    """Shared memory: its number, its descriptor, and the whole of it."""

    number: int
    descriptor: int
    memory: mmap.mmap

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.memory)

    def close(self) -> None:
        """Let go of it here; arrays and other processes keep it."""
        os.close(self.descriptor)


class FrameMemory:
    """Pieces of shared memory in a decoder: free, being written, or lent to the parent."""

    def __init__(self) -> None:
        self._free: list[Piece] = []
        self._written: dict[int, Piece] = {}
        self._lent: dict[int, Piece] = {}
        self._count = 0

    def empty(self, shape: tuple[int, ...]) -> Frames:
        """An array of uint8 to be written; its memory is known by its address."""
        size = int(np.prod(shape))
        if size < SHARED_BYTES:
            return np.empty(shape, np.uint8)
        fitting = [piece for piece in self._free if piece.size >= size]
        piece = min(fitting, key=lambda one: one.size, default=None)
        if piece is None:
            piece = self._new(size)
        else:
            self._free.remove(piece)
        array = np.frombuffer(piece.memory, np.uint8, size).reshape(shape)
        self._written[array.ctypes.data] = piece
        return array

    def _new(self, size: int) -> Piece:
        descriptor = os.memfd_create("frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        self._count += 1
        return Piece(self._count, descriptor, mmap.mmap(descriptor, size))

    def lend(self, frames: Frames) -> Piece | None:
        """The memory that ``frames`` begin; it is lent until ``back`` names it.

        None where there are too few to be shared.
        """
        written = frames.ctypes.data in self._written
        if not written and frames.nbytes < SHARED_BYTES:
            return None
        if not written:  # an image, which was made elsewhere
            copy = self.empty(frames.shape)
            copy[...] = frames
            frames = copy
        piece = self._written.pop(frames.ctypes.data)
        self._lent[piece.number] = piece
        return piece

    def back(self, numbers: Iterable[int]) -> None:
        """The parent has done with these."""
        for number in numbers:
            self._keep(self._lent.pop(number))

    def end(self) -> None:
        """The job is over: what was begun is free."""
        for piece in self._written.values():
            self._keep(piece)
        self._written.clear()

    def _keep(self, piece: Piece) -> None:
        self._free.append(piece)
        while sum(one.size for one in self._free) > _KEPT_BYTES:
            self._free.pop(0).close()


def frames_of(descriptor: int, shape: tuple[int, ...]) -> Frames:
    """Frames that another process wrote. Closes the descriptor.

    Raises ``ValueError`` where the memory is smaller than that, or could become so.
    """
    size = int(np.prod(shape))
    try:
        if os.fstat(descriptor).st_size < size or size <= 0:
            raise ValueError(f"{shape} frames in {os.fstat(descriptor).st_size} bytes")
        if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise ValueError("memory that may shrink")
        return np.frombuffer(mmap.mmap(descriptor, size, _MAPPED), np.uint8).reshape(shape)
    finally:
        os.close(descriptor)
