"""Windows picked to be looked at: some of each bucket, by hash, so any is as good as another."""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, zip_longest
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_T = TypeVar("_T")


@dataclass(frozen=True)
class Pick:
    """One live window, and what is needed to read it and to decode its source again.

    ``source`` is the row of the source that made the generation live: ``uri``, ``version``,
    ``start``, ``end``, ``run_id``.
    """

    source: Mapping[str, Any]
    bucket: str
    window: int
    frames: int
    valid_frames: int
    first_frame: int
    fps: float
    shard: str
    row: int

    @classmethod
    def of(cls, segment: Mapping[str, Any], source: Mapping[str, Any], k: int) -> "Pick":
        """Window ``k`` of a row of ``samples``."""
        return cls(
            source=source,
            bucket=segment["bucket"],
            window=segment["first_window"] + k,
            frames=segment["frames"],
            valid_frames=segment["valid_frames"][k],
            first_frame=segment["first_frames"][k],
            fps=segment["fps"],
            shard=segment["shard"],
            row=segment["first_row"] + k,
        )

    @property
    def padded(self) -> bool:
        """Whether frames are repeated in it."""
        return self.valid_frames < self.frames


@dataclass
class Picks:
    """What was picked of each bucket, at the most about ``wanted`` windows for each purpose.

    Attributes:
        wanted: of each bucket.
        pairs: to look at, of a segment each: padded windows first, with the one before it.
        drawn: to measure: the windows of a segment each, from any of its places on.
    """

    wanted: int
    pairs: dict[str, list[list[Pick]]] = field(default_factory=dict)
    drawn: dict[str, list[list[Pick]]] = field(default_factory=dict)

    def add(self, segments: pa.Table, sources: pa.Table) -> None:
        """Take live rows of ``samples`` into account, and the rows of ``sources`` to them.

        Ids of sources are hashes, so the first ones are as good as any.
        """
        for name in pc.unique(segments["bucket"]).to_pylist():
            pairs, drawn = self.pairs.setdefault(name, []), self.drawn.setdefault(name, [])
            left = self.wanted - min(len(pairs), len(drawn))
            if left <= 0:
                continue
            mine = segments.filter(pc.equal(segments["bucket"], name))
            for row, source in _joined(_shortest_first(mine, left), sources):
                pairs.append([Pick.of(row, source, k) for k in _pair(row["valid_frames"])])
            for row, source in _joined(mine.slice(0, left), sources):
                first, count = int(row["source_id"][:8], 16), row["windows"]
                places = ((first + k) % count for k in range(count))
                drawn.append([Pick.of(row, source, k) for k in places])

    def to_show(self, count: int) -> list[Pick]:
        """At most ``count`` windows, of the buckets in turn; pairs first, and together."""
        groups = [found for _, found in sorted(self.pairs.items())]
        turns = _in_turn(groups)
        sums = accumulate(map(len, turns))
        chosen = [pair for pair, end in zip(turns, sums, strict=True) if end - len(pair) < count]
        chosen.sort(key=len, reverse=True)
        return [pick for pair in chosen for pick in pair][:count]

    def to_measure(self, count: int, weights: Mapping[str, int]) -> list[Pick]:
        """About ``count`` windows, of each bucket by its weight, and one at the least.

        Of as many segments as there are; several of each where these are few.
        """
        whole = max(1, sum(weights.values()))
        shares = {name: max(1, round(count * windows / whole)) for name, windows in weights.items()}
        return [
            pick
            for name, found in sorted(self.drawn.items())
            for pick in _in_turn(found)[: shares[name]]
        ]


def _in_turn(groups: Sequence[Sequence[_T]]) -> list[_T]:
    """The first of each group, then the second of each that has one, and so on."""
    return [each for turn in zip_longest(*groups) for each in turn if each is not None]


def _joined(
    segments: pa.Table, sources: pa.Table
) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    """Segments with the row of ``sources`` that ended their generation ``ok``."""
    complete = sources.filter(pc.equal(sources["status"], "ok"))
    wanted = pc.is_in(complete["generation"], segments["generation"].combine_chunks())
    ended = {row["generation"]: row for row in complete.filter(wanted).to_pylist()}
    return ((row, ended[row["generation"]]) for row in segments.to_pylist())


def _shortest_first(segments: pa.Table, count: int) -> pa.Table:
    """Up to ``count`` segments, by the least number of real frames in a window of theirs."""
    owner = pc.list_parent_indices(segments["valid_frames"]).to_numpy()
    least = np.full(segments.num_rows, np.iinfo(np.int64).max)
    np.minimum.at(least, owner, pc.list_flatten(segments["valid_frames"]).to_numpy())
    return segments.take(heapq.nsmallest(count, range(len(least)), key=least.__getitem__))


def _pair(valid: Sequence[int]) -> list[int]:
    """Windows to show of a segment: the one with the fewest real frames, and the one before it."""
    least = min(range(len(valid)), key=valid.__getitem__)
    return sorted({least, max(0, least - 1)})
