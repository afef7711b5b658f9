"""Bytes of shards of a local cache, read straight into the memory of a batch.

A shard is not mapped: its pages would be mapped and unmapped one by one, which costs as much as
copying them, and a file cut short, or a disk that fails, would end the process with SIGBUS.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from pipeline.reader.here import Read
from pipeline.reader.pieces import Piece, adjoining
from pipeline.reader.remote import reaching
from pipeline.storage import Store

_KEPT_FILES = 64
_WAITS = 256
_AT_ONCE = os.sysconf("SC_IOV_MAX")


class _File:
    """An open file, closed when nobody holds it any more."""

    def __init__(self, path: Path) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


class Files:
    """Files of a store that were read lately, open."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.waits = 0
        """How many reads to announce to the system: some after one that had to wait for a disk, and
        none while all is in memory, as each costs."""
        self._open: OrderedDict[str, _File] = OrderedDict()

    def get(self, path: str) -> _File:
        """An open file."""
        file = self._open.get(path)
        if file is None:
            file = self._open[path] = _File(Path(self.store.uri) / path)
            if len(self._open) > _KEPT_FILES:
                self._open.popitem(last=False)
        return file

    def opened(self, path: str) -> _File | None:
        """A file, if it is open."""
        return self._open.get(path)

    def read(self, file: _File, piece: Piece) -> int:
        """Fill the buffers of a piece; how many bytes the file lacks."""
        if _read_held(file, piece):
            return 0
        self.waits = _WAITS
        return _read(file, piece)


class HeldRead:
    """A read of what the system's page cache holds: nothing but system calls is left to do.

    Many of these one after the other take less time than reads with other work between them, as
    each drives that work's code and data out of the processor's caches. Where the page cache lacks
    something, or anything else is wrong, ``otherwise`` reads all of it anew.
    """

    __slots__ = ("_file", "_otherwise", "_pieces")

    def __init__(self, file: _File, pieces: Sequence[Piece], otherwise: Read) -> None:
        self._file, self._pieces, self._otherwise = file, pieces, otherwise

    def result(self) -> None:
        """Read. Raises what ``otherwise`` does."""
        for piece in self._pieces:
            if not _read_held(self._file, piece):
                self._otherwise.result()
                return

    def cancel(self) -> None:
        """Nothing was begun."""


class LocalShard:
    """A shard of a local cache.

    Its methods raise ``FileNotFoundError``, ``ValueError`` (the file ends too early) and
    ``StoreError``.
    """

    def __init__(self, files: Files, path: str) -> None:
        self._files, self.path = files, path

    def head(self, begin: int, end: int) -> bytes:
        """The bytes ``[begin, end)``, as far as there are any."""
        with reaching(self._files.store):
            return os.pread(self._files.get(self.path).number, end - begin, begin)

    def tail(self, count: int) -> bytes:
        """The last bytes of the file, as far as there are any."""
        with reaching(self._files.store):
            file = self._files.get(self.path)
            size = os.fstat(file.number).st_size
            return os.pread(file.number, count, max(0, size - count))

    def fill(self, pieces: Sequence[Piece], gap: int = 0) -> None:
        """Read pieces, each where it belongs."""
        with reaching(self._files.store):
            file = self._files.get(self.path)
            missing = sum(self._files.read(file, piece) for piece in adjoining(pieces))
        if missing:
            raise ValueError(f"it ends {missing} bytes too early")

    def expect(self, begin: int, size: int) -> None:
        """Have the system bring in what will be read soon."""
        self._files.waits -= 1
        with reaching(self._files.store):
            number = self._files.get(self.path).number
            os.posix_fadvise(number, begin, size, os.POSIX_FADV_WILLNEED)


def _read_held(file: _File, piece: Piece) -> bool:
    """Fill the buffers of a piece without waiting for a disk; false where some of it is lacking."""
    if len(piece.into) > _AT_ONCE:
        return False
    try:
        found = os.preadv(file.number, piece.into, piece.begin, os.RWF_NOWAIT)
    except OSError:  # it is not in memory, or the filesystem cannot tell
        return False
    return found == piece.end - piece.begin


def _read(file: _File, piece: Piece) -> int:
    """Fill the buffers of a piece; how many bytes the file lacks."""
    at, end = piece.begin, piece.end
    left: Iterator[memoryview] = iter(piece.into)
    while at < end:
        buffers = tuple(islice(left, _AT_ONCE))
        found = os.preadv(file.number, buffers, at)
        if found == 0:
            return end - at
        at += found
        left = chain(_behind(buffers, found), left)
    return 0


def _behind(buffers: Sequence[memoryview], count: int) -> Iterator[memoryview]:
    """What is left of buffers when ``count`` bytes are filled."""
    for buffer in buffers:
        if count < len(buffer):
            yield buffer[count:]
        count = max(0, count - len(buffer))
