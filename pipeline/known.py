"""Known windows: samples of a replaced generation, which a decode task finds again.

A changed frame rate may show the very same frames, and the data alone tell: headers lie, and the
times of frames that no window shows are in no table. So decode tasks are told which samples the
cache holds of their sources, and send those on as references, without frames, to where they lie.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from pipeline.packs import Reference, SegmentInfo

_ID = 16
_ROW = _ID + 8


@dataclass(frozen=True, slots=True)
class KnownRun:
    """Adjacent rows of a shard, compact: 24 bytes a sample, as a plan may hold millions.

    ``first_frames`` are the lowest and the highest output frame that one of the samples begins
    with; ``digests`` has the bytes of every row's sample id and checksum.
    """

    shard: str
    first_row: int
    first_frames: tuple[int, int]
    digests: bytes

    @property
    def windows(self) -> int:
        """Samples in the run."""
        return len(self.digests) // _ROW

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """From a row of the table ``samples``."""
        rows = zip(row["sample_ids"], row["checksums"], strict=True)
        return cls(
            row["shard"],
            row["first_row"],
            (min(row["first_frames"]), max(row["first_frames"])),
            bytes.fromhex("".join(digest for digests in rows for digest in digests)),
        )

    def to_list(self) -> list[Any]:
        """The run as JSON holds it."""
        digests = base64.b64encode(self.digests).decode()
        return [self.shard, self.first_row, *self.first_frames, digests]

    @classmethod
    def from_list(cls, fields: Sequence[Any]) -> Self:
        """Inverse of ``to_list``."""
        shard, row, low, high, digests = fields
        return cls(shard, row, (low, high), base64.b64decode(digests))


class Place(NamedTuple):
    """Where a sample lies, and its checksum."""

    shard: str
    row: int
    checksum: str


def places(runs: Iterable[KnownRun]) -> dict[str, Place]:
    """The place of every known sample id; of two, the smallest, which is the one that stands."""
    found: dict[str, Place] = {}
    for run in sorted(runs, key=lambda run: (run.shard, run.first_row)):
        for offset in range(run.windows):
            digest = run.digests[offset * _ROW : (offset + 1) * _ROW]
            place = Place(run.shard, run.first_row + offset, digest[_ID:].hex())
            found.setdefault(digest[:_ID].hex(), place)
    return found


def cut(
    info: SegmentInfo, known: Mapping[str, Place]
) -> Iterator[tuple[range, SegmentInfo | Reference]]:
    """A segment in parts: windows to encode, and references to adjacent rows of a shard."""
    found = [known.get(identity) for identity in info.sample_ids]
    begin = 0
    for stop in range(1, len(found) + 1):
        if stop < len(found) and _joined(found[stop - 1], found[stop]):
            continue
        part = info.part(begin, stop)
        held = [place for place in found[begin:stop] if place is not None]
        if held:
            checksums = [place.checksum for place in held]
            yield range(begin, stop), Reference(part, held[0].shard, held[0].row, checksums)
        else:
            yield range(begin, stop), part
        begin = stop


def _joined(left: Place | None, right: Place | None) -> bool:
    if left is None or right is None:
        return left is right
    return left.shard == right.shard and left.row + 1 == right.row
