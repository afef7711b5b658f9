"""Memory that is used again: fresh memory costs several times as much as filling it.

The kernel clears it page by page, and on a virtual machine may have to ask the host for it first.
"""

import mmap
import threading
import weakref
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass
class MemoryPool:
    """Memory of arrays that nothing refers to any more, for the next arrays; for any thread.

    A process that is forked has a copy of it, and does not write into its parent's.

    ``kept_bytes``: no more than that waits unused; what was given back first goes first.
    """

    kept_bytes: int
    _free: list[mmap.mmap] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def empty(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """An array of uint8 of any content. Its memory is free once no view of it is left."""
        size = int(np.prod(shape))
        if size == 0:
            return np.empty(shape, np.uint8)
        memory = self._take(size) or mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        array = np.frombuffer(memory, np.uint8, size)
        weakref.finalize(array, self._keep, memory).atexit = False
        return array.reshape(shape)

    def _take(self, size: int) -> mmap.mmap | None:
        """The smallest piece that is large enough, unless most of it would lie idle."""
        with self._lock:
            fitting = [piece for piece in self._free if size <= len(piece) <= 2 * size]
            piece = min(fitting, key=len, default=None)
            if piece is not None:
                self._free.remove(piece)
            return piece

    def _keep(self, memory: mmap.mmap) -> None:
        with self._lock:  # may be called amid a call of this thread, by the garbage collector
            self._free.append(memory)
            while sum(map(len, self._free)) > self.kept_bytes:
                self._free.pop(0)
