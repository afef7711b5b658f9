"""Where bytes of a shard go: straight into the memory of a batch, without a copy between."""

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise

from pipeline.reader.index import Array

_LARGEST = 1 << 63


class Piece:
    """The bytes ``[begin, end)`` of a file, which fill the buffers, one after the other."""

    __slots__ = ("begin", "end", "into")

    def __init__(self, begin: int, into: tuple[memoryview, ...]) -> None:
        """Raises ``ValueError`` for what is in no file."""
        self.begin, self.into = begin, into
        self.end = begin + sum(map(len, into))
        if not 0 <= begin <= self.end < _LARGEST:
            raise ValueError(f"bytes from {begin} on are in no file")

    def fill(self, data: memoryview) -> None:
        """Copy its bytes into the buffers."""
        at = 0
        for buffer in self.into:
            buffer[:] = data[at : at + len(buffer)]
            at += len(buffer)


def memory(array: Array) -> memoryview:
    """The bytes of a contiguous array that can be written."""
    return array.data.cast("B")


def adjoining(pieces: Sequence[Piece], gap: int = 0) -> Iterator[Piece]:
    """Pieces, those that follow each other no more than ``gap`` apart put together.

    What lies between them goes into memory that nobody looks at.
    """
    run: list[Piece] = []
    for piece in pieces:
        if run and not 0 <= piece.begin - run[-1].end <= gap:
            yield _joined(run)
            run = []
        run.append(piece)
    if run:
        yield _joined(run)


def _joined(run: Sequence[Piece]) -> Piece:
    if len(run) == 1:
        return run[0]
    parts = [run[0].into]
    for before, piece in pairwise(run):
        if piece.begin > before.end:
            parts.append((memoryview(bytearray(piece.begin - before.end)),))
        parts.append(piece.into)
    return Piece(run[0].begin, tuple(chain.from_iterable(parts)))
