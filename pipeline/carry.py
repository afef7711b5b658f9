"""Carrying over: windows that a changed recipe resolves to as before keep their ids and shards."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.buckets import Bucket
from pipeline.coverage import Coverage, merge
from pipeline.known import KnownRun
from pipeline.manifest import Manifest
from pipeline.ranges import spans
from pipeline.recipe import Recipe
from pipeline.schema import SAMPLES
from pipeline.sources import SourcePlan

Row = dict[str, Any]

_KNOWN = (
    *("source_id", "generation", "bucket"),
    *("shard", "first_row", "first_frames", "sample_ids", "checksums"),
)
_BATCH_ROWS = 1024

PER_WINDOW = tuple(f.name for f in SAMPLES if str(f.type).startswith("list"))
"""Columns of the table ``samples`` that hold a list with one entry a window."""


def carry_over(
    manifest: Manifest, recipe: Recipe, sources: Iterable[SourcePlan]
) -> tuple[list[SourcePlan], pa.Table]:
    """Cover each source with what its previous generation holds of the new windows.

    A window is the same sample when its bucket, first frame and number of real frames are the same,
    and nothing else that decides its numbers changed (``Recipe.window_key``). Returns the sources,
    and rows for the table ``samples``: under the new generation, at the shards of the old one.
    """
    sources, nothing = list(sources), SAMPLES.empty_table()
    wanted = {
        source.previous.generation: source
        for source in sources
        if source.previous is not None
        and source.failure is None
        and source.previous.window_recipe == source.window_recipe
        and source.previous.generation != source.generation
        and not source.coverage.complete(source.buckets)
    }
    if not wanted:
        return sources, nothing
    carried = [nothing]
    covered = {s.source_id: _extended(s, recipe, []) for s in wanted.values()}
    where = pc.field("generation").isin(sorted(wanted))
    with manifest.by_range("samples", SAMPLES.names, where=where) as held:
        for span in spans(held.num_rows):
            segments: dict[str, list[Row]] = {}
            for row in held.read(span).to_pylist():
                segments.setdefault(row["generation"], []).append(row)
            found: list[Row] = []
            for generation, own in segments.items():
                source = wanted[generation]
                rows = _carry(source, recipe, own)
                found.extend(rows)
                covered[source.source_id] = _extended(source, recipe, rows)
            carried.append(pa.Table.from_pylist(found, SAMPLES))
    return [
        replace(s, coverage=covered[s.source_id]) if s.source_id in covered else s for s in sources
    ], pa.concat_tables(carried)


def recall_known(
    manifest: Manifest, recipe: Recipe, sources: Iterable[SourcePlan]
) -> list[SourcePlan]:
    """Tell sources whose windows the plan alone cannot compare what their generation before holds.

    That is where something else than bucket and grid changed. Most often it is the frame rate,
    and decoding may find that it shows the same frames (``pipeline.known``).
    """
    sources = list(sources)
    wanted = {
        source.previous.generation: source
        for source in sources
        if source.previous is not None
        and source.failure is None
        and source.previous.window_recipe != source.window_recipe
        and source.previous.contract_id == recipe.contract.contract_id
        and not source.coverage.complete(source.buckets)
    }
    if not wanted:
        return sources
    found: dict[str, list[KnownRun]] = {}
    shards: dict[str, str] = {}  # many runs lie in one shard: its path is kept once
    where = pc.field("generation").isin(sorted(wanted))
    with manifest.by_range("samples", _KNOWN, where=where) as rows:
        for span in spans(rows.num_rows):
            for batch in rows.read(span).to_batches(max_chunksize=_BATCH_ROWS):
                for row in batch.to_pylist():
                    source = wanted[row["generation"]]
                    if row["bucket"] in {bucket.name for bucket in source.buckets}:
                        row["shard"] = shards.setdefault(row["shard"], row["shard"])
                        found.setdefault(source.source_id, []).append(KnownRun.of_row(row))
    return [
        replace(s, known=tuple(found[s.source_id])) if s.source_id in found else s for s in sources
    ]


def _carry(source: SourcePlan, recipe: Recipe, segments: Sequence[Row]) -> list[Row]:
    """Rows of the new generation, each of adjacent rows of one shard."""
    places: dict[tuple[str, int, int], tuple[Row, int]] = {}
    for segment in sorted(segments, key=lambda row: (row["shard"], row["first_row"])):
        for offset in range(segment["windows"]):
            begin, valid = segment["first_frames"][offset], segment["valid_frames"][offset]
            places.setdefault((segment["bucket"], begin, valid), (segment, offset))
    spans = _spans(source, recipe)
    rows = []
    for bucket in source.buckets:
        missing = source.coverage.missing((bucket,))
        run: list[tuple[int, Row, int]] = []
        for window, span in enumerate(spans):
            place = places.get((bucket.name, *span))
            open_here = any(a <= window and (b is None or window < b) for a, b in missing)
            if place is None or not open_here:
                continue
            if run and not _adjacent(run[-1], window, *place):
                rows.append(_row(source, run, len(spans)))
                run = []
            run.append((window, *place))
        if run:
            rows.append(_row(source, run, len(spans)))
    return rows


def _spans(source: SourcePlan, recipe: Recipe) -> list[tuple[int, int]]:
    """First output frame and real frames of every window, in the order of the grid."""
    if source.is_image:
        return [(0, 1)]
    frames = source.previous.frames_actual if source.previous is not None else 0
    return [recipe.grid.span(n, frames) for n in range(recipe.grid.count(frames))]


def _adjacent(last: tuple[int, Row, int], window: int, segment: Row, offset: int) -> bool:
    before, held, position = last
    return window == before + 1 and segment is held and offset == position + 1


def _row(source: SourcePlan, run: Sequence[tuple[int, Row, int]], windows: int) -> Row:
    first, segment, begin = run[0]
    stop = begin + len(run)
    last = first + len(run) == windows
    return {
        **segment,
        **{name: segment[name][begin:stop] for name in PER_WINDOW},
        "generation": source.generation,
        "first_window": first,
        "windows": len(run),
        "first_row": segment["first_row"] + begin,
        "last": last,
        "frames_actual": source.previous.frames_actual if last and source.previous else None,
    }


def _extended(source: SourcePlan, recipe: Recipe, carried: Sequence[Row]) -> Coverage:
    held: Mapping[Bucket, tuple[tuple[int, int], ...]] = source.coverage.held
    spans: dict[Bucket, list[tuple[int, int]]] = {b: list(held.get(b, ())) for b in source.buckets}
    for row in carried:
        span = (row["first_window"], row["first_window"] + row["windows"])
        spans[Bucket.parse(row["bucket"])].append(span)
    frames = source.previous.frames_actual if source.previous is not None else None
    return Coverage(
        {bucket: merge(intervals) for bucket, intervals in spans.items() if intervals},
        len(_spans(source, recipe)),
        frames,
    )
