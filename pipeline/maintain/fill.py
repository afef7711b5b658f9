"""Filling shards: which segments of small shards are put together, and how."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MIXED = 0.05
"""Share of a bucket's bytes that may lie in a small shard which no other small one can fill."""

_SLACK = 0.25
"""A shard may exceed the target by so much of it, rather than be cut into two small ones."""


@dataclass(frozen=True, order=True)
class Segment:
    """One live segment: its place in the order of a shard, its bytes, its row in the table."""

    source_id: str
    bucket: str
    first_window: int
    bytes: int
    row: int


@dataclass(frozen=True)
class Held:
    """A shard as its live segments, in order; ``path`` is None for one to be written."""

    path: str | None
    segments: tuple[Segment, ...]

    @property
    def bytes(self) -> int:
        """Bytes of the live segments."""
        return sum(segment.bytes for segment in self.segments)


def fill(shards: Sequence[Held], target: int, min_fill: float) -> list[Held]:
    """The shards of one bucket after merging; shards of at least ``min_fill`` of the target stay.

    Small shards are merged in the order of their segments and cut evenly into shards of about the
    target. When all small ones together are too small still, and hold more than ``MIXED`` of the
    bucket's bytes, the smallest other shard joins them. A merge is made only if it leaves fewer
    bytes in small shards, or the same in fewer shards; so filling what was filled changes nothing.
    """
    held = list(shards)
    while True:
        chosen = _choose(held, target * min_fill)
        merged = _cut(chosen, target)
        if not chosen or _cost(merged, target * min_fill) >= _cost(chosen, target * min_fill):
            return held
        left = {id(shard) for shard in chosen}
        held = [shard for shard in held if id(shard) not in left] + merged


def _cost(shards: Sequence[Held], least: float) -> tuple[int, int]:
    return sum(shard.bytes for shard in shards if shard.bytes < least), len(shards)


def _choose(held: Sequence[Held], least: float) -> list[Held]:
    small = [shard for shard in held if shard.bytes < least]
    others = [shard for shard in held if shard.bytes >= least]
    total = sum(shard.bytes for shard in small)
    if others and MIXED * sum(shard.bytes for shard in held) < total < least:
        small.append(min(others, key=lambda shard: (shard.bytes, shard.segments[0])))
    return small


def _cut(shards: Sequence[Held], target: int) -> list[Held]:
    segments = sorted(segment for shard in shards for segment in shard.segments)
    total = sum(segment.bytes for segment in segments)
    count = min(max(1, math.ceil(total / target - _SLACK)), len(segments))
    parts: list[list[Segment]] = [[] for _ in range(count)]
    before = 0
    for segment in segments:
        middle = before + segment.bytes / 2
        parts[min(int(middle * count / total), count - 1)].append(segment)
        before += segment.bytes
    return [Held(None, tuple(part)) for part in parts if part]
