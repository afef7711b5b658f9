"""What needs work, as columns in the order of a plan; some sources at a time become objects."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import Reason, SourceError
from pipeline.live import newest_by_source, verdicts
from pipeline.packs import facts_from_json
from pipeline.sources import Previous, SourcePlan, usable_hints

RECALLED = (
    *("source_id", "revision", "run_id", "version"),
    *("status", "generation", "window_recipe", "contract_id", "frames_actual", "facts"),
)
"""Columns of the table ``sources`` that tell of bytes which are the same still."""

_PREVIOUS = ("generation", "window_recipe", "contract_id", "frames_actual")
_BATCH = 16_384
_TAKEN = 8 * _BATCH
"""Rows that are taken out of a list at once: Arrow copies whole columns of text for that."""


@dataclass(frozen=True)
class Todo:
    """Sources that need work, in the order of ``pipeline.planned.place``.

    ``chosen`` has the columns of ``pipeline.choose.CHOSEN``, and the rows of ``recalled`` and
    ``complete`` that tell of the source: what is known of the header of the same bytes, and the
    generation of them that is complete. That one is live whatever failed since.
    """

    sources: pa.Table
    chosen: pa.Table
    recalled: pa.Table
    complete: pa.Table

    @classmethod
    def of(cls, sources: pa.Table, chosen: pa.Table, earlier: pa.Table) -> Self:
        """Sources of a catalog, which of them need work, and rows of the cache for these."""
        chosen = chosen.sort_by("row")
        chosen = chosen.take(_order(sources, chosen["row"]))
        recalled = newest_by_source(earlier)
        complete = newest_by_source(verdicts(earlier))
        for name, known in (("recalled", recalled), ("complete", complete)):
            chosen = chosen.append_column(name, _found(sources, chosen["row"], known))
        return cls(sources, chosen, recalled.select(["facts"]), complete)

    def batches(self) -> Iterator[list[SourcePlan]]:
        """The sources, some thousand at a time."""
        for first in range(0, self.chosen.num_rows, _TAKEN):
            chosen = self.chosen.slice(first, _TAKEN)
            tables = (
                self.sources.take(chosen["row"]),
                chosen.select(["revision", "attempts"]),
                self.recalled.take(chosen["recalled"]),
                self.complete.take(chosen["complete"]),
            )
            for begin in range(0, chosen.num_rows, _BATCH):
                rows = (table.slice(begin, _BATCH).to_pylist() for table in tables)
                yield [_source_plan(*each) for each in zip(*rows, strict=True)]


def _order(sources: pa.Table, rows: pa.ChunkedArray) -> pa.Array:
    """The order of these rows of a catalog, by ascending numbers, by file and start within it."""
    wanted = sources.select(["uri", "pinned", "version", "start", "source_id"])
    if len(rows) < wanted.num_rows:
        wanted = wanted.take(rows)
    keys = pa.table(
        {
            "uri": wanted["uri"],
            "pinned": pc.if_else(wanted["pinned"], wanted["version"], ""),
            "start": pc.fill_null(wanted["start"], 0.0),
            "source_id": wanted["source_id"],
        }
    )
    return pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names])


def _found(sources: pa.Table, rows: pa.ChunkedArray, known: pa.Table) -> pa.Array | pa.ChunkedArray:
    """For each of these rows of a catalog the row of ``known``, or null."""
    if not known.num_rows:
        return pa.nulls(len(rows), pa.int32())
    ids = sources["source_id"].take(rows)
    return pc.index_in(ids, known["source_id"].combine_chunks())


def _source_plan(
    row: Mapping[str, Any],
    told: Mapping[str, Any],
    recalled: Mapping[str, Any],
    complete: Mapping[str, Any],
) -> SourcePlan:
    facts = recalled["facts"]
    same = complete["version"] == row["version"] and complete["status"] == "ok"
    known = same and complete["frames_actual"] is not None
    return SourcePlan(
        source_id=row["source_id"],
        user_id=row["id"],
        uri=row["uri"],
        start=row["start"],
        end=row["end"],
        version=row["version"],
        pinned=row["pinned"],
        revision=told["revision"],
        attempts=told["attempts"],
        facts=None if facts is None else facts_from_json(facts),
        hints=usable_hints(row),
        failure=(
            None if row["reason"] is None else SourceError(Reason(row["reason"]), row["message"])
        ),
        previous=Previous(*(complete[name] for name in _PREVIOUS)) if known else None,
    )
