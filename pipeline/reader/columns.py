"""Columns of sources by their number in the index: captions, and all that the manifest says."""

import bisect
import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UserError
from pipeline.live import join_columns, present_sources
from pipeline.manifest import Manifest, Snapshot
from pipeline.ranges import RANGES, RangedRows, spans
from pipeline.reader.index import Array, Group, SegmentIndex

BATCH_ROWS = 4096
"""Sources of a batch of the file: what is read to find the columns of one."""

SEGMENT_COLUMNS = pa.schema(
    [
        ("bucket", pa.string()),
        ("bucket_height", pa.int32()),
        ("bucket_width", pa.int32()),
        ("frames", pa.int32()),
        ("fps", pa.float32()),
        ("first_frame", pa.int64()),
    ]
)
"""What a filter sees of a segment, beside the columns of its source."""

_KEYS = ("source_id", "revision", "run_id")
_FILE = "columns.arrow"


def source_schema(manifest: Manifest, snapshot: Snapshot) -> pa.Schema:
    """The columns of ``LatentCache.sources()`` at a snapshot."""
    return join_columns(*(_empty(manifest, snapshot, n) for n in ("sources", "captions"))).schema


def _empty(manifest: Manifest, snapshot: Snapshot, table: str) -> pa.Table:
    version = snapshot.tables.get(table)
    if version is None:
        return manifest.empty(table)
    return manifest.read(table, version, where=pc.scalar(False))


def fields_of(expression: pc.Expression, schema: pa.Schema) -> list[str]:
    """The columns of ``schema`` that a filter names.

    Raises ``UserError`` where it names others, or does not fit their types.
    """
    try:
        schema.empty_table().filter(expression)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError, TypeError) as error:
        raise UserError(
            f"filter {expression}: {str(error).splitlines()[0]}; the columns are "
            f"{', '.join(schema.names)}"
        ) from error
    named = []
    for position, name in enumerate(schema.names):
        try:
            schema.remove(position).empty_table().filter(expression)
        except (pa.ArrowInvalid, KeyError):
            named.append(name)
    return named


def check_columns(names: Iterable[str], schema: pa.Schema, what: str) -> None:
    """Raise ``UserError`` for a name that is no column of a source."""
    for name in names:
        if name not in schema.names:
            raise UserError(
                f"{what} {name!r}: there is no such column; there are {', '.join(schema.names)}"
            )


def write_columns(
    manifest: Manifest,
    snapshot: Snapshot,
    index: SegmentIndex,
    names: Sequence[str],
    schema: pa.Schema,
) -> Callable[[Path], None]:
    """What writes columns of all sources of the index into a folder, in bounded memory."""

    def write(folder: Path) -> None:
        wanted = pa.schema([schema.field(name) for name in names])
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(pa.ipc.new_file(str(folder / _FILE), wanted))
            tables = [
                stack.enter_context(_ranged(manifest, snapshot, table, names))
                for table in ("sources", "captions")
            ]
            ids = index.sources.view("u1").reshape(-1, 16)
            bounds = np.searchsorted(ids[:, 0], np.arange(RANGES + 1))
            waiting = wanted.empty_table()
            for span in spans(max(table.num_rows for table in tables)):
                sources, captions = (table.read(span) for table in tables)
                joined = join_columns(present_sources(sources), captions)
                chosen = ids[bounds[span.start] : bounds[span.stop]]
                texts = pa.array([row.tobytes().hex() for row in chosen], pa.string())
                rows = pc.index_in(texts, joined["source_id"].combine_chunks())
                waiting = pa.concat_tables([waiting, joined.select(list(names)).take(rows)])
                whole = waiting.num_rows // BATCH_ROWS * BATCH_ROWS
                _write(file, waiting.slice(0, whole))
                waiting = waiting.slice(whole).combine_chunks()
            _write(file, waiting)

    return write


def _write(file: Any, rows: pa.Table) -> None:
    for at in range(0, rows.num_rows, BATCH_ROWS):
        (batch,) = rows.slice(at, BATCH_ROWS).combine_chunks().to_batches()
        file.write_batch(batch)


def _ranged(manifest: Manifest, snapshot: Snapshot, table: str, names: Sequence[str]) -> RangedRows:
    schema = _empty(manifest, snapshot, table).schema
    keys = [*_KEYS, *(["status"] if table == "sources" else [])]
    found = {*keys, *names, *(name.removeprefix("dataset_") for name in names)}
    columns = [name for name in schema.names if name in found]
    version = snapshot.tables.get(table)
    if version is None:
        return RangedRows(schema.empty_table().select(columns).schema)
    return manifest.by_range(table, columns, version)


@dataclass
class SourceColumns:
    """Columns of sources in a file, mapped into memory; opened anew in every process."""

    path: Path
    _opened: Any = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_opened": None}

    @property
    def _file(self) -> Any:
        if self._opened is None:
            self._opened = pa.ipc.open_file(pa.memory_map(str(self.path / _FILE)))
        return self._opened

    def row(self, source: int, names: Sequence[str]) -> dict[str, Any]:
        """Columns of one source, as Python objects."""
        batch, row = divmod(source, BATCH_ROWS)
        read = self._file.get_batch(batch)
        return {name: read.column(name)[row].as_py() for name in names}

    def take(self, sources: Array) -> pa.Table:
        """Columns of sources, whose numbers ascend."""
        file, parts, at = self._file, [], 0
        while at < len(sources):
            batch = int(sources[at]) // BATCH_ROWS
            stop = bisect.bisect_left(sources, (batch + 1) * BATCH_ROWS, at)
            rows = pa.array(sources[at:stop].astype(np.int64) - batch * BATCH_ROWS)
            parts.append(file.get_batch(batch).take(rows))
            at = stop
        return pa.Table.from_batches(parts, file.schema)


def segment_columns(group: Group, records: Array) -> pa.Table:
    """The columns ``SEGMENT_COLUMNS`` of records of a group."""
    count = len(records)

    def same(value: object, kind: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, kind), count)

    return pa.table(
        [
            same(group.bucket.name, pa.string()),
            same(group.height, pa.int32()),
            same(group.width, pa.int32()),
            same(group.frames, pa.int32()),
            pa.array(records["fps"]),
            pa.array(records["first_frame"].astype(np.int64)),
        ],
        schema=SEGMENT_COLUMNS,
    )
