"""Segments and windows drawn by a seed: the same ones, in whatever order the rows come."""

import hashlib
import heapq
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.live import live_generations
from pipeline.manifest import Manifest, Snapshot
from pipeline.page.pick import Pick
from pipeline.ranges import spans
from pipeline.reader.build import ranged, single
from pipeline.verify.check import Named

_SOURCES = (
    *("source_id", "revision", "run_id", "generation", "contract_id", "status", "uri"),
    *("version", "start", "end"),
)
_SEGMENTS = (
    *("segment_id", "source_id", "generation", "bucket", "height", "width", "frames"),
    *("first_window", "windows", "shard", "first_row", "sample_ids", "checksums"),
    *("first_frames", "valid_frames", "fps"),
)
_ORDER = ("height", "width", "frames", "source_id", "first_window", "windows", "shard", "first_row")


class Draw:
    """The ``count`` rows of ``samples`` whose hash with the seed is smallest."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._chosen: dict[str, dict[str, Any]] = {}

    def add(self, rows: pa.Table) -> None:
        """Take rows into account."""
        places = rows.select(["segment_id", "shard", "first_row"]).to_pylist()
        keys = [self._key(place) for place in places]
        best = set(heapq.nsmallest(self._count, {*self._chosen, *keys}))
        kept = [n for n, key in enumerate(keys) if key in best]
        taken = rows.take(pa.array(kept, pa.int64())).to_pylist()
        self._chosen |= {keys[n]: row for n, row in zip(kept, taken, strict=True)}
        self._chosen = {key: row for key, row in self._chosen.items() if key in best}

    def rows(self) -> list[dict[str, Any]]:
        """Those that are drawn by now, the smallest hash first."""
        return [row for _, row in sorted(self._chosen.items())]

    def _key(self, place: Mapping[str, Any]) -> str:
        text = f"{self._seed}:{place['segment_id']}:{place['shard']}:{place['first_row']}"
        return _hashed(text)


@dataclass(frozen=True)
class Drawn:
    """One live window: where it is, its id, and the segment that it is of."""

    pick: Pick
    sample_id: str
    segment: Named


def draw_windows(manifest: Manifest, snapshot: Snapshot, count: int, seed: int) -> list[Drawn]:
    """Up to ``count`` live windows of a snapshot, of as many segments as there are.

    Memory is bounded by the tables' largest range of the source hash.
    """
    draw = Draw(count, seed)
    contract_id = snapshot.contract.contract_id
    ended: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        sources = stack.enter_context(ranged(manifest, snapshot, "sources", _SOURCES))
        segments = stack.enter_context(ranged(manifest, snapshot, "samples", _SEGMENTS))
        for part in spans(max(sources.num_rows, segments.num_rows)):
            rows, held = sources.read(part), segments.read(part)
            live = live_generations(rows, contract_id)["generation"].combine_chunks()
            held = held.filter(pc.is_in(held["generation"], live))
            if held.num_rows:
                draw.add(single(held.sort_by([(name, "ascending") for name in _ORDER])))
                ended |= _ended(rows, {row["generation"] for row in draw.rows()})
    turns = zip_longest(*(_windows(row, ended, contract_id, seed) for row in draw.rows()))
    return [window for turn in turns for window in turn if window is not None][:count]


def _ended(sources: pa.Table, generations: set[str]) -> dict[str, dict[str, Any]]:
    """The rows that ended generations ``ok``, by generation."""
    ok = sources.filter(pc.equal(sources["status"], "ok")).sort_by("revision")
    wanted = pc.is_in(ok["generation"], pa.array(sorted(generations), pa.string()))
    return {row["generation"]: row for row in ok.filter(wanted).to_pylist()}


def _windows(
    row: Mapping[str, Any], ended: Mapping[str, Mapping[str, Any]], contract_id: str, seed: int
) -> Sequence[Drawn]:
    """All windows of a segment, in an order that follows from the seed."""
    segment = Named.of({**row, "contract_id": contract_id})
    source = ended[row["generation"]]
    windows = [
        Drawn(Pick.of(row, source, k), sample_id, segment)
        for k, sample_id in enumerate(row["sample_ids"])
    ]
    return sorted(windows, key=lambda window: _hashed(f"{seed}:{window.sample_id}"))


def _hashed(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
