"""What the tables promise: rows of shards that somebody counts on, and counts that must close.

Read one range of the source hash at a time, so memory does not grow with the cache.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.coverage import merge
from pipeline.errors import Reason
from pipeline.live import live_rows, newest_by_source
from pipeline.maintain.needs import unfinished
from pipeline.manifest import Manifest, Snapshot
from pipeline.ranges import RangedRows, spans
from pipeline.verify.findings import Finding, Kind

_SOURCES = (
    *("source_id", "revision", "run_id", "generation", "contract_id", "status", "reason"),
    *("windows", "buckets", "committed_at"),
)
_SEGMENTS = (
    *("segment_id", "source_id", "generation", "bucket", "frames", "first_window", "windows"),
    *("shard", "first_row", "sample_ids", "checksums", "first_frames", "valid_frames"),
    "committed_at",
)
_LISTS = ("sample_ids", "checksums", "first_frames", "valid_frames")
_PATH = r"^data/(?P<folder>h\d+w\d+)/(?P<digest>[0-9a-f]{32})\.(?P<form>safetensors|parquet)$"

NAMED = pa.schema(
    [
        ("segment_id", pa.string()),
        ("source_id", pa.string()),
        ("bucket", pa.string()),
        ("frames", pa.int32()),
        ("windows", pa.int32()),
        ("shard", pa.string()),
        ("first_row", pa.int64()),
        ("sample_ids", pa.list_(pa.string())),
        ("checksums", pa.list_(pa.string())),
        ("contract_id", pa.string()),
        ("digest", pa.string()),
    ]
)
"""Rows to be checked: of the table ``samples``, with the contract and the name of the shard."""


@dataclass(frozen=True)
class State:
    """Versions of the tables that somebody reads, and under which contract.

    With ``newest``, segments of generations that are not complete count too: the next run does.
    """

    versions: dict[str, int]
    contract_id: str | None
    newest: bool


def states_of(manifest: Manifest, snapshot: Snapshot | None, *, newest: bool) -> list[State]:
    """What is to be checked: a snapshot, and with ``newest`` what is committed by now."""
    states = []
    if newest:
        contract = manifest.contract()
        contract_id = None if contract is None else contract.contract_id
        states.append(State(_pins(manifest.versions()), contract_id, True))
    if snapshot is not None:
        pinned = State(_pins(snapshot.tables), snapshot.contract.contract_id, False)
        if not any(
            (s.versions, s.contract_id) == (pinned.versions, pinned.contract_id) for s in states
        ):
            states.append(pinned)
    return states


def _pins(tables: dict[str, int]) -> dict[str, int]:
    return {name: tables[name] for name in ("sources", "samples") if name in tables}


@dataclass
class Scope:
    """What the tables say.

    ``sources`` counts the present sources by status; ``shards`` has every shard that a row names;
    ``lost`` are sources that wait for the next run, since a repair marked segments of them.
    """

    sources: Counter[str] = field(default_factory=Counter)
    segments: int = 0
    windows: int = 0
    shards: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)


def read_scope(manifest: Manifest, state: State, take: Callable[[pa.Table], None]) -> Scope:
    """Check the counts of a state; ``take`` gets the rows that somebody counts on (``NAMED``)."""
    scope = Scope()
    with ExitStack() as stack:
        sources = stack.enter_context(_ranged(manifest, state, "sources", _SOURCES))
        segments = stack.enter_context(_ranged(manifest, state, "samples", _SEGMENTS))
        for span in spans(max(sources.num_rows, segments.num_rows)):
            _read_span(state, sources.read(span), segments.read(span), scope, take)
    return scope


def _ranged(manifest: Manifest, state: State, table: str, columns: tuple[str, ...]) -> RangedRows:
    version = state.versions.get(table)
    if version is None:  # the table had no row
        return RangedRows(manifest.empty(table).select(list(columns)).schema)
    return manifest.by_range(table, columns, version)


def _read_span(
    state: State,
    sources: pa.Table,
    segments: pa.Table,
    scope: Scope,
    take: Callable[[pa.Table], None],
) -> None:
    scope.shards.update(pc.unique(segments["shard"]).to_pylist())
    live = live_rows(sources, state.contract_id or "")
    is_live = pc.is_in(segments["generation"], live["generation"].combine_chunks())
    wanted = pc.or_(is_live, unfinished(sources, segments)) if state.newest else is_live
    contract = pc.if_else(is_live, state.contract_id, pa.scalar(None, pa.string()))
    chosen = segments.append_column("contract_id", contract).filter(wanted)
    good = _check_lists(chosen, scope)
    counted = good.filter(pc.is_in(good["generation"], live["generation"].combine_chunks()))
    _check_counts(newest_by_source(sources), live, counted, scope)
    scope.segments += good.num_rows
    take(_check_paths(good, scope))


def _check_lists(segments: pa.Table, scope: Scope) -> pa.Table:
    """Rows whose lists have an entry a window."""
    right = pc.greater(segments["windows"], 0)
    for name in _LISTS:
        length = pc.list_value_length(segments[name])
        right = pc.and_(right, pc.fill_null(pc.equal(length, segments["windows"]), False))
    for row in segments.filter(pc.invert(right)).select(["segment_id", "source_id"]).to_pylist():
        message = "a row of the table samples has lists that are not of its windows"
        ids = (row["segment_id"],), (row["source_id"],)
        scope.findings.append(Finding(Kind.BAD_ROW, message, None, (), *ids))
    return segments.filter(right)


def _check_counts(newest: pa.Table, live: pa.Table, segments: pa.Table, scope: Scope) -> None:
    """Every source that is ``ok`` has all of its windows at all of its buckets."""
    present: dict[str, dict[str, Any]] = {
        row["source_id"]: row
        for row in newest.select(["source_id", "status", "reason", "generation"]).to_pylist()
        if row["status"] != "removed"
    }
    scope.sources.update(row["status"] for row in present.values())
    held: dict[tuple[str, str], list[tuple[int, int]]] = {}
    names = ("generation", "bucket", "first_window", "windows")
    for generation, bucket, first, windows in _columns(segments, names):
        held.setdefault((generation, bucket), []).append((first, first + windows))
    for row in live.select(["source_id", "generation", "windows", "buckets"]).to_pylist():
        state = present.get(row["source_id"])
        missing = []
        for bucket in row["buckets"]:
            found = merge(held.pop((row["generation"], bucket), ()))
            scope.windows += sum(stop - first for first, stop in found)
            if found != ((0, row["windows"]),):
                missing.append(f"{bucket}: windows {_told(found)} of {row['windows']}")
        if not missing or state is None:
            continue
        if state["reason"] == Reason.LOST:
            scope.lost.add(row["source_id"])
        elif state["status"] == "ok":
            message = f"the source is ok, and the table samples holds {'; '.join(missing)}"
            scope.findings.append(Finding(Kind.INCOMPLETE, message, sources=(row["source_id"],)))
    for generation, bucket in held:
        message = f"live segments at {bucket}, which is none of the source's buckets"
        scope.findings.append(Finding(Kind.BAD_ROW, f"generation {generation} has {message}"))


def _columns(table: pa.Table, names: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def _told(found: tuple[tuple[int, int], ...]) -> str:
    return ", ".join(f"{first} to {stop - 1}" for first, stop in found) or "none"


def _check_paths(segments: pa.Table, scope: Scope) -> pa.Table:
    """Rows whose shard lies where shards of their bucket lie, with its name (``NAMED``)."""
    parts = pc.extract_regex(segments["shard"], _PATH).combine_chunks()
    folder, digest = pc.struct_field(parts, "folder"), pc.struct_field(parts, "digest")
    right = pc.fill_null(pc.equal(folder, segments["bucket"].combine_chunks()), False)
    wrong: dict[str, list[dict[str, Any]]] = {}
    for row in (
        segments.filter(pc.invert(right))
        .select(["segment_id", "source_id", "shard", "bucket", "first_row", "windows"])
        .to_pylist()
    ):
        wrong.setdefault(row["shard"], []).append(row)
    for shard, rows in wrong.items():
        message = f"the table samples names it for {rows[0]['bucket']}: no place for such a shard"
        scope.findings.append(
            Finding(
                Kind.MISPLACED,
                message,
                shard,
                tuple(row["first_row"] + n for row in rows for n in range(row["windows"])),
                tuple(sorted({row["segment_id"] for row in rows})),
                tuple(sorted({row["source_id"] for row in rows})),
            )
        )
    return segments.append_column("digest", digest).filter(right).select(NAMED.names).cast(NAMED)
