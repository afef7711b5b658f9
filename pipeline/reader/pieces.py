"""Where bytes of a shard go: straight into the memory of a batch, without a copy between."""

from collections.abc import Iterator, Sequence
from itertools import chain

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


def adjoining(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Pieces, those that adjoin put together."""
    run: list[Piece] = []
    for piece in pieces:
        if run and piece.begin != run[-1].end:
            yield _joined(run)
            run = []
        run.append(piece)
    if run:
        yield _joined(run)


def _joined(run: Sequence[Piece]) -> Piece:
    if len(run) == 1:
        return run[0]
    return Piece(run[0].begin, tuple(chain.from_iterable(piece.into for piece in run)))
