"""Stripes: clips of the same buckets in a row, cut into units that hold whole packs.

Nothing is shuffled: clips keep the dataset's order but that a short one may be drawn forward to
fill a pack which the next in line does not fit into.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from pipeline.units import ClipTask, FileTask

Cut = Callable[[ClipTask, int], tuple[ClipTask, ClipTask]]
"""Cuts a clip behind so many of its windows."""

LOOK_AHEAD = 64
"""Clips in line among which one is looked for that fits."""

_SLACK = 20
"""The last pack of a unit is full when less than one part in so many is left."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Windows of one clip in line.

    Attributes:
        uri, pinned: its file.
        clip: what is wanted of it.
        splittable: whether it may be cut.
        alone: whether it is all that is wanted of its file.
    """

    uri: str
    pinned: str | None
    clip: ClipTask
    splittable: bool
    alone: bool

    @property
    def windows(self) -> int:
        """Estimated windows of each of its buckets."""
        return self.clip.windows // len(self.clip.buckets)


@dataclass
class _Unit:
    """One unit in the making: pieces, and how many windows it is to hold."""

    size: int
    filled: int = 0
    files: dict[tuple[str, str | None], list[ClipTask]] = field(default_factory=dict)

    def put(self, piece: Piece) -> None:
        self.files.setdefault((piece.uri, piece.pinned), []).append(piece.clip)
        self.filled += piece.windows

    def done(self) -> tuple[FileTask, ...]:
        return tuple(FileTask(*file, tuple(clips)) for file, clips in self.files.items())


class Stripe:
    """Cuts a row of pieces into units of about ``packs`` packs of ``pack`` windows each.

    A piece that a unit has no room for is cut where the unit ends. Where it is short, or cannot be
    cut, one is looked for with which the last pack is full, and the unit grows for it: to twice its
    size, beyond which short ones are cut as well. Pieces of no more than ``segment`` windows are
    kept from lying across packs.
    """

    def __init__(self, pack: int, packs: int, segment: int, cut: Cut) -> None:
        self._pack = pack
        self._size = pack * packs
        self._segment = segment
        self._cut = cut

    def units(self, pieces: Iterable[Piece]) -> Iterator[tuple[FileTask, ...]]:
        """The files of each unit, in order."""
        ahead: deque[Piece] = deque()
        line = iter(pieces)
        unit = _Unit(self._size)
        while True:
            ahead.extend(islice(line, LOOK_AHEAD - len(ahead)))
            if not ahead:
                break
            piece = self._take(unit, ahead)
            unit.put(piece)
            if self._closes(unit, piece.splittable):
                yield unit.done()
                unit = _Unit(self._size)
        if unit.filled:
            yield unit.done()

    def _closes(self, unit: _Unit, splittable: bool) -> bool:
        full = unit.size - unit.filled <= self._pack // _SLACK
        return full or (unit.filled >= 2 * self._size and not splittable)

    def _take(self, unit: _Unit, ahead: deque[Piece]) -> Piece:
        """The next piece, a later one that fits better, or the head of the next."""
        following = ahead[0]
        left = unit.size - unit.filled
        if following.windows <= left:
            room = self._pack - unit.filled % self._pack
            torn = following.windows <= self._segment and following.windows > room
            return _pop(ahead, _best_fit(ahead, room) if torn else 0)
        long = following.windows >= self._pack or unit.size >= 2 * self._size
        if following.splittable and long:
            head, tail = self._cut(following.clip, left)
            ahead[0] = _of(following, tail)
            return _of(following, head)
        piece = _pop(ahead, self._evenest(unit, ahead))
        packs = -(-(unit.filled + piece.windows) // self._pack)
        unit.size = max(unit.size, packs * self._pack)
        return piece

    def _evenest(self, unit: _Unit, ahead: Sequence[Piece]) -> int:
        """Index of the piece that leaves the least room in the last pack."""

        def room(index: int) -> int:
            return -(unit.filled + ahead[index].windows) % self._pack

        fitting = [
            n
            for n, piece in enumerate(ahead)
            if piece.alone and piece.windows < (self._pack if piece.splittable else self._size)
        ]
        return min([0, *fitting], key=room)


def _of(piece: Piece, clip: ClipTask) -> Piece:
    return replace(piece, clip=clip, alone=False)


def _pop(ahead: deque[Piece], index: int) -> Piece:
    piece = ahead[index]
    del ahead[index]
    return piece


def _best_fit(ahead: Sequence[Piece], room: int) -> int:
    """Index of the longest piece that fits and is all of its file; 0, the next, for none."""
    fitting = [n for n, piece in enumerate(ahead) if piece.alone and piece.windows <= room]
    return max(fitting, key=lambda n: ahead[n].windows, default=0)
