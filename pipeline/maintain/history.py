"""History: the published snapshots, what each holds, and what it changed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.live import live_generations, present_sources
from pipeline.maintain.needs import read_pinned
from pipeline.maintain.tags import read_tags
from pipeline.manifest import Manifest, Snapshot

_COLUMNS = (
    "source_id",
    "revision",
    "run_id",
    "generation",
    "contract_id",
    "status",
    "windows",
    "buckets",
)


@dataclass(frozen=True)
class Entry:
    """One snapshot.

    ``sources`` counts by status; ``windows`` are live. ``added`` and ``removed`` are sources that
    the snapshot before does not have, or has alone; ``changed`` have other windows than there.
    """

    snapshot: int
    created_at: str
    run_id: str
    tags: tuple[str, ...]
    sources: dict[str, int]
    windows: int
    added: int
    changed: int
    removed: int

    def to_json(self) -> dict[str, Any]:
        """The entry as plain values."""
        return {**self.__dict__, "tags": list(self.tags)}


def history(manifest: Manifest, newest: int | None = None) -> Iterator[Entry]:
    """The snapshots in ascending order, each compared with the one before it that is still there.

    ``newest`` tells of so many only; one more is read, to compare with.

    Raises ``UserError`` when there is no snapshot, ``ContractError`` for one of another format.
    """
    manifest.snapshot()
    tags: dict[int, list[str]] = {}
    for tag in read_tags(manifest):
        tags.setdefault(tag.snapshot, []).append(tag.name)
    before = _State.nothing()
    numbers = manifest.snapshot_numbers()
    skipped = 0 if newest is None else max(0, len(numbers) - newest)
    for place, number in enumerate(numbers[max(0, skipped - 1) :], max(0, skipped - 1)):
        snapshot = manifest.snapshot(number)
        state = _State.of(manifest, snapshot)
        if place >= skipped:
            yield state.entry(snapshot, tags.get(number, []), before)
        before = state


@dataclass(frozen=True)
class _State:
    """Sources of the dataset by id, and the generation that is live of each (null: none)."""

    ids: pa.Array
    generations: pa.Array
    statuses: dict[str, int]
    windows: int

    @classmethod
    def nothing(cls) -> "_State":
        none = pa.array([], pa.string())
        return cls(none, none, {}, 0)

    @classmethod
    def of(cls, manifest: Manifest, snapshot: Snapshot) -> "_State":
        table = read_pinned(manifest, snapshot, "sources", list(_COLUMNS))
        present = present_sources(table)
        live = live_generations(table, snapshot.contract.contract_id)
        ids = _array(present["source_id"])
        at = pc.index_in(ids, _array(live["source_id"]))
        statuses = Counter(present["status"].to_pylist())
        return cls(
            ids,
            _array(live["generation"]).take(at),
            {name: statuses.get(name, 0) for name in ("ok", "skipped", "failed")},
            _windows(table, live),
        )

    def entry(self, snapshot: Snapshot, tags: Sequence[str], before: "_State") -> Entry:
        at = pc.index_in(self.ids, before.ids)
        known = _flags(pc.is_valid(at))
        same = _flags(pc.equal(self.generations, before.generations.take(at)))
        neither = _flags(
            pc.and_(pc.is_null(self.generations), pc.is_null(before.generations.take(at)))
        )
        return Entry(
            snapshot=snapshot.number,
            created_at=snapshot.created_at,
            run_id=snapshot.run_id,
            tags=tuple(sorted(tags)),
            sources=self.statuses,
            windows=self.windows,
            added=int((~known).sum()),
            changed=int((known & ~same & ~neither).sum()),
            removed=len(before.ids) - int(known.sum()),
        )


def _windows(table: pa.Table, live: pa.Table) -> int:
    """Windows of live generations: those of a bucket, as often as there are buckets."""
    complete = table.filter(pc.equal(table["status"], "ok"))
    at = pc.index_in(_array(live["generation"]), _array(complete["generation"]))
    rows = complete.take(at)
    counts = pc.multiply(rows["windows"], pc.list_value_length(rows["buckets"]).cast(pa.int64()))
    return int(pc.sum(counts).as_py() or 0)


def _array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _flags(values: pa.Array) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    flags: np.ndarray[Any, np.dtype[np.bool_]] = np.asarray(
        pc.fill_null(values, False).to_numpy(zero_copy_only=False), dtype=np.bool_
    )
    return flags
