"""What is wrong with a cache, in a form for people and machines."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """Kinds of damage."""

    MISSING = "missing"
    MISPLACED = "misplaced"
    UNREADABLE = "unreadable"
    CONTRACT = "contract"
    SHAPE = "shape"
    DTYPE = "dtype"
    SAMPLE_IDS = "sample_ids"
    CHECKSUM = "checksum"
    NOT_FINITE = "not_finite"
    STATISTICS = "statistics"
    INCOMPLETE = "incomplete"
    BAD_ROW = "bad_row"
    UNFAITHFUL = "unfaithful"
    LOW_PSNR = "low_psnr"


class DamagedError(Exception):
    """Something of a shard is not as it was written."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    ``shard`` is a path below the root, ``rows`` its damaged rows, ``segments`` and ``sources``
    those whose windows these are. Without a shard it is the tables that are wrong. ``lasting``:
    encoding these segments again is not known to mend it.
    """

    kind: Kind
    message: str
    shard: str | None = None
    rows: tuple[int, ...] = ()
    segments: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    lasting: bool = False

    @property
    def repairable(self) -> bool:
        """Whether ``--repair`` can have the next run encode what is lost."""
        return not self.lasting and self.kind is not Kind.BAD_ROW

    def to_json(self) -> dict[str, Any]:
        """Plain values; rows as half-open spans."""
        return {
            "kind": str(self.kind),
            "shard": self.shard,
            "rows": spans_of(self.rows),
            "segments": list(self.segments),
            "sources": list(self.sources),
            "repairable": self.repairable,
            "message": self.message,
        }


def spans_of(rows: Collection[int]) -> list[list[int]]:
    """Row numbers as half-open spans ``[first, stop]``, ascending."""
    spans: list[list[int]] = []
    for row in sorted(set(rows)):
        if spans and spans[-1][1] == row:
            spans[-1][1] = row + 1
        else:
            spans.append([row, row + 1])
    return spans
