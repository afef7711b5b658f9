"""History: the published snapshots, what each holds, and what it changed."""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.live import live_generations, present_sources
from pipeline.maintain.tags import read_tags
from pipeline.manifest import Manifest, Snapshot
from pipeline.ranges import RangedRows, spans
from pipeline.reader.build import ranged

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
_HELD = pa.schema([("source_id", pa.string()), ("generation", pa.string())])


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


def history(manifest: Manifest, newest: int | None = None, rows: int | None = None) -> list[Entry]:
    """The snapshots in ascending order, each compared with the one before it that is still there.

    ``newest`` tells of so many only; one more is read, to compare with. ``rows`` ends it once so
    many rows of ``sources`` were read, with one snapshot at the least.

    Raises ``UserError`` when there is no snapshot, ``ContractError`` for one of another format.
    """
    manifest.snapshot()
    tags: dict[int, list[str]] = {}
    for tag in read_tags(manifest):
        tags.setdefault(tag.snapshot, []).append(tag.name)
    numbers = manifest.snapshot_numbers()
    least = max(0, len(numbers) - (newest or len(numbers)))
    found: list[Entry] = []
    with contextlib.ExitStack() as stack:
        later = _State.of(manifest, numbers[-1], stack)
        seen = later.seen
        for place in reversed(range(least, len(numbers))):
            before = _State.of(manifest, numbers[place - 1] if place else None, stack)
            found.append(later.entry(tags.get(numbers[place], []), before))
            later.held.close()
            later, seen = before, seen + before.seen
            if rows is not None and seen >= rows:
                break
    return found[::-1]


@dataclass(frozen=True)
class _State:
    """What a snapshot has, None for none at all.

    ``held`` are the sources of the dataset with the generation that is live of each (null: none);
    ``seen`` is how many rows of ``sources`` were read for it.
    """

    snapshot: Snapshot | None
    statuses: Mapping[str, int]
    windows: int
    held: RangedRows
    seen: int

    @classmethod
    def of(cls, manifest: Manifest, number: int | None, stack: contextlib.ExitStack) -> "_State":
        held = stack.enter_context(RangedRows(_HELD))
        statuses: Counter[str] = Counter()
        if number is None:
            return cls(None, statuses, 0, held, 0)
        snapshot = manifest.snapshot(number)
        windows = 0
        with ranged(manifest, snapshot, "sources", _COLUMNS) as rows:
            for span in spans(rows.num_rows):
                table = rows.read(span)
                present = present_sources(table)
                live = live_generations(table, snapshot.contract.contract_id)
                ids = _array(present["source_id"])
                generations = _array(live["generation"])
                at = pc.index_in(ids, _array(live["source_id"]))
                held.add(pa.table([ids, generations.take(at)], schema=_HELD))
                statuses.update(present["status"].to_pylist())
                windows += _windows(table, generations)
            return cls(snapshot, statuses, windows, held, rows.num_rows)

    def entry(self, tags: Sequence[str], before: "_State") -> Entry:
        assert self.snapshot is not None
        added = changed = stayed = 0
        for span in spans(max(self.held.num_rows, before.held.num_rows)):
            mine, theirs = self.held.read(span), before.held.read(span)
            at = pc.index_in(mine["source_id"], _array(theirs["source_id"]))
            now, then = mine["generation"], theirs["generation"].take(at)
            known = _flags(pc.is_valid(at))
            neither = _flags(pc.and_(pc.is_null(now), pc.is_null(then)))
            added += int((~known).sum())
            changed += int((known & ~_flags(pc.equal(now, then)) & ~neither).sum())
            stayed += int(known.sum())
        return Entry(
            snapshot=self.snapshot.number,
            created_at=self.snapshot.created_at,
            run_id=self.snapshot.run_id,
            tags=tuple(sorted(tags)),
            sources={name: self.statuses.get(name, 0) for name in ("ok", "skipped", "failed")},
            windows=self.windows,
            added=added,
            changed=changed,
            removed=before.held.num_rows - stayed,
        )


def _windows(table: pa.Table, live: pa.Array) -> int:
    """Windows of live generations: those of a bucket, as often as there are buckets."""
    complete = table.filter(pc.equal(table["status"], "ok"))
    at = pc.index_in(live, _array(complete["generation"]))
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
