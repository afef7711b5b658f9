"""The dataset against the manifest, one range of the source hash at a time."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog import Catalog
from pipeline.choose import CHOSEN, KINDS, STATES, Chooser
from pipeline.columns import changed_columns
from pipeline.live import newest_by_source
from pipeline.manifest import Manifest
from pipeline.quarantine import QUARANTINED
from pipeline.ranges import RangedRows, spans
from pipeline.todo import RECALLED, Todo

_KNOWN = (
    *("source_id", "revision", "run_id", "version", "recipe"),
    *("status", "reason", "attempts", "width", "height", "is_image"),
)


@dataclass(frozen=True)
class Comparison:
    """What the dataset has that the cache has not, and the other way round.

    ``kinds`` counts the dataset's sources by what was found, ``standing`` the states of those that
    need no work. ``removed`` are the newest rows of ``sources`` that left
    the dataset; ``columns`` rows for the table ``captions``, with their revision; ``quarantined``
    the newest rows of sources that failed too often to be tried again.
    """

    kinds: dict[str, int]
    standing: dict[str, int]
    removed: pa.Table
    columns: pa.Table
    quarantined: pa.Table


def compare(
    catalog: Catalog, manifest: Manifest, chooser: Chooser, *, whole: bool
) -> tuple[Comparison, Todo]:
    """Tell added, changed, removed, failed and unchanged sources apart; and those that need work.

    Of the manifest, a few columns of each range are in memory at once; all others are read for
    sources that need work only. Nothing counts as removed unless the catalog is ``whole``.
    """
    version = manifest.version("sources")
    kinds: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    standing: Counter[str] = Counter(dict.fromkeys(STATES, 0))
    todo: list[pa.Table] = [CHOSEN.empty_table()]
    gone: list[str] = []
    quarantined: list[str] = []
    rows: list[pa.Table] = []
    with ExitStack() as stack:
        sources = stack.enter_context(_ranged(_numbered(catalog.sources, "version")))
        digests = stack.enter_context(_ranged(_numbered(catalog.columns, "digest")))
        known = stack.enter_context(manifest.by_range("sources", _KNOWN, version))
        captions = stack.enter_context(
            manifest.by_range("captions", ("source_id", "revision", "digest"))
        )
        for span in spans(max(part.num_rows for part in (sources, known, captions))):
            present = sources.read(span)
            latest = newest_by_source(known.read(span))
            choice = chooser.choose(present, latest)
            kinds.update(choice.kinds)
            standing.update(choice.standing)
            todo.append(choice.todo)
            quarantined += choice.quarantined
            gone += _gone(present, latest) if whole else []
            changed = changed_columns(digests.read(span), captions.read(span))
            rows.append(changed.select(["row", "revision"]))
    order = pa.concat_tables(rows).sort_by("row")
    found = Comparison(
        kinds=dict(kinds),
        standing=dict(standing),
        removed=_newest_rows(manifest, version, gone, manifest.empty("sources").column_names),
        columns=_rows_of(catalog.columns, order["row"]).append_column(
            "revision", order["revision"]
        ),
        quarantined=_newest_rows(manifest, version, quarantined, QUARANTINED),
    )
    return found, _todo(catalog.sources, manifest, version, pa.concat_tables(todo))


def _ranged(table: pa.Table) -> RangedRows:
    rows = RangedRows(table.schema)
    for batch in table.to_batches():
        rows.add(batch)
    return rows


def _numbered(table: pa.Table, name: str) -> pa.Table:
    """Ids, one more column, and the number of each row."""
    numbers = pa.array(np.arange(table.num_rows))
    return table.select(["source_id", name]).append_column("row", numbers)


def _rows_of(table: pa.Table, rows: pa.ChunkedArray) -> pa.Table:
    """Rows by ascending numbers; where these are all, the table itself rather than a copy."""
    return table if len(rows) == table.num_rows else table.take(rows)


def _gone(present: pa.Table, latest: pa.Table) -> list[str]:
    """Ids of sources that are in the cache and no longer in the dataset."""
    left = pc.invert(pc.is_in(latest["source_id"], present["source_id"].combine_chunks()))
    ids: list[str] = (
        latest["source_id"].filter(pc.and_(left, pc.not_equal(latest["status"], "removed")))
    ).to_pylist()
    return ids


def _newest_rows(
    manifest: Manifest, version: int | None, ids: Sequence[str], columns: Sequence[str]
) -> pa.Table:
    """The newest row of each of these sources in the table ``sources``."""
    return newest_by_source(_rows(manifest, version, ids, columns))


def _rows(
    manifest: Manifest, version: int | None, ids: Sequence[str], columns: Sequence[str]
) -> pa.Table:
    if not ids:
        return manifest.empty("sources").select(columns)
    where = pc.field("source_id").isin(ids)
    return manifest.read("sources", version, columns, where)


def _todo(sources: pa.Table, manifest: Manifest, version: int | None, chosen: pa.Table) -> Todo:
    """What needs work, with what is known of the same bytes."""
    earlier = chosen["row"].filter(chosen["same_bytes"])
    ids = sources["source_id"].take(earlier).to_pylist() if len(earlier) else []
    return Todo.of(sources, chosen, _rows(manifest, version, ids, RECALLED))
