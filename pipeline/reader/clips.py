"""Which clips there are: consecutive windows of one source at one bucket, found by their number.

A selection is a file beside the index: 18 bytes for each segment in which a clip begins. It is
mapped, and made in blocks, so that memory does not grow with the cache.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.reader.index import Array, Group, SegmentIndex
from pipeline.windows import WINDOW_FRAMES

UNIT = 1 << 16
"""A clip of weight 1, in the units that weights are counted in."""

_ENTRY = np.dtype([("record", "<u4"), ("offset", "<u2"), ("unit", "<u4"), ("count", "<u4")])
_BLOCK = 1 << 19
"""Records looked at at once."""

Choose = Callable[[Group, Array], tuple[Array, Array | None]]
"""For records of a group: which of them take part, and the weight of each (None: 1)."""


@dataclass(frozen=True)
class Clips:
    """How clips are composed: ``windows`` consecutive windows, every ``stride`` windows.

    ``padded``: whether the last window of a clip may hold repeated frames.
    """

    windows: int
    stride: int
    padded: bool


@dataclass(frozen=True)
class Piece:
    """The windows ``[offset, offset + windows)`` of a record: adjacent rows of one shard."""

    record: int
    offset: int
    windows: int


def write_selection(
    index: SegmentIndex, group: Group, clips: Clips, choose: Choose, folder: Path
) -> None:
    """Write the selection of a group of the index into a folder."""
    total = 0
    with (folder / "entries").open("wb") as entries, (folder / "starts").open("wb") as starts:
        starts.write(np.zeros(1, "<i8").tobytes())
        for begin, stop in _blocks(index, group):
            records = index.records[begin:stop]
            found = compose(records, group.frames, clips, *choose(group, records))
            found["record"] += begin
            entries.write(found.tobytes())
            ends = total + np.cumsum(found["count"].astype("<i8") * found["unit"])
            starts.write(ends.tobytes())
            total = int(ends[-1]) if len(ends) else total


def _blocks(index: SegmentIndex, group: Group) -> Iterator[tuple[int, int]]:
    """Records in blocks that end where a source ends."""
    begin = group.begin
    while begin < group.stop:
        stop = min(begin + _BLOCK, group.stop)
        while stop < group.stop and (
            index.records["source"][stop] == index.records["source"][stop - 1]
        ):
            stop += 1
        yield begin, stop
        begin = stop


def compose(
    records: Array, frames: int, clips: Clips, taking: Array, weights: Array | None
) -> Array:
    """The clips that begin in records of one group, as entries (``record``: position here).

    A chain is windows of a record that follow each other; chains of records that follow each other
    make a run. In a run of L windows, clips begin at every multiple of the stride up to L - k.
    """
    chain = _chains(records, frames, clips.padded)
    chain = chain[taking[chain["record"]] & (chain["length"] > 0)]
    if len(chain) == 0:
        return np.empty(0, _ENTRY)
    owner = records[chain["record"]]
    joins = np.zeros(len(chain), bool)
    joins[1:] = (
        (chain["record"][1:] == chain["record"][:-1] + 1)
        & (owner["source"][1:] == owner["source"][:-1])
        & (chain["first_frame"][1:] == chain["end_frame"][:-1])
    )
    run = np.cumsum(~joins) - 1
    ends = np.cumsum(chain["length"])
    begins = ends - chain["length"]
    heads = np.flatnonzero(~joins)
    start = begins - begins[heads][run]  # windows of the run before the chain
    total = np.add.reduceat(chain["length"], heads)[run]
    first = -(-start // clips.stride)
    last = np.minimum(start + chain["length"] - 1, total - clips.windows) // clips.stride
    count = np.where(total >= clips.windows, np.maximum(0, last - first + 1), 0)
    unit = np.full(len(chain), UNIT, np.int64)
    if weights is not None:
        unit = np.rint(weights[chain["record"]] * UNIT).astype(np.int64)
    kept = (count > 0) & (unit > 0)
    entries = np.zeros(int(kept.sum()), _ENTRY)
    entries["record"] = chain["record"][kept]
    entries["offset"] = (chain["offset"] + first * clips.stride - start)[kept]
    entries["unit"] = unit[kept]
    entries["count"] = count[kept]
    return entries


def _chains(records: Array, frames: int, padded: bool) -> Array:
    """Chains in the order of their windows: most records are one."""
    windows = records["windows"].astype(np.int64)
    regular = (windows < 2) | (records["step"] == WINDOW_FRAMES)
    tail = (windows > 1) & (records["last_step"] != WINDOW_FRAMES)
    chains = np.where(regular, 1 + (regular & tail), windows)
    record = np.repeat(np.arange(len(records)), chains)
    ends = np.cumsum(chains)
    number = np.arange(len(record)) - (ends - chains)[record]
    last = number == chains[record] - 1
    found = np.zeros(
        len(record),
        [(n, np.int64) for n in ("record", "offset", "length", "first_frame", "end_frame")],
    )
    found["record"] = record
    one = ~regular[record]
    whole = windows[record] - tail[record]
    found["offset"] = np.where(one, number, np.where(number == 0, 0, windows[record] - 1))
    found["length"] = np.where(one | (number == 1), 1, whole)
    found["first_frame"] = _frames_at(records[record], found["offset"])
    found["end_frame"] = found["first_frame"] + WINDOW_FRAMES * found["length"]
    invented = last & (records["last_valid"] != frames)[record]
    if not padded:
        found["length"] -= invented
    found["end_frame"] = np.where(invented, -1, found["end_frame"])  # nothing follows it
    return found


def _frames_at(records: Array, offsets: Array) -> Array:
    last = (offsets == records["windows"].astype(np.int64) - 1) & (offsets > 0)
    back = offsets - last
    found = records["first_frame"].astype(np.int64) + back * records["step"].astype(np.int64)
    frames: Array = found + last * records["last_step"].astype(np.int64)
    return frames


@dataclass(frozen=True)
class Selection:
    """An open selection of a group: clips by their number in the order of the index."""

    starts: Array
    entries: Array
    clips: Clips

    @classmethod
    def open(cls, folder: Path, clips: Clips) -> "Selection":
        """Map the files that ``write_selection`` wrote."""
        size = (folder / "entries").stat().st_size
        entries = np.memmap(folder / "entries", _ENTRY, "r") if size else np.empty(0, _ENTRY)
        starts = np.memmap(folder / "starts", "<i8", "r")
        return cls(np.asarray(starts), np.asarray(entries), clips)

    def __len__(self) -> int:
        """Clips of an epoch: the sum of their weights, rounded down."""
        return int(self.starts[-1]) // UNIT

    def locate(self, numbers: Array, phase: int) -> list[tuple[int, int]]:
        """Record and window in it at which clips begin, by their numbers below ``len``.

        A clip of weight w stands for ``floor(w)`` or ``ceil(w)`` numbers; which, ``phase`` (from 0
        below ``UNIT``) decides.
        """
        places = numbers.astype(np.int64) * UNIT + phase
        at = np.searchsorted(self.starts, places, "right") - 1
        found = self.entries[at]
        within = (places - self.starts[at]) // found["unit"]
        offsets = found["offset"] + within * self.clips.stride
        return list(zip(found["record"].tolist(), offsets.tolist(), strict=True))

    def pieces(self, records: Array, record: int, offset: int) -> list[Piece]:
        """Where the windows of a clip lie that begins at a record's window ``offset``."""
        found, left = [], self.clips.windows
        while left:
            count = min(left, int(records["windows"][record]) - offset)
            found.append(Piece(record, offset, count))
            record, offset, left = record + 1, 0, left - count
        return found
