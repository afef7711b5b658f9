"""The dataset's own columns: caption and pass-through, kept in the table ``captions``."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import Schema as DeltaSchema

from pipeline.errors import UserError
from pipeline.identity import canonical, hash_text
from pipeline.live import newest_by_source

_RESERVED = frozenset({"source_id", "revision", "run_id", "digest", "committed_at", "caption"})
_BATCH = 65_536


def user_columns(
    table: pa.Table, ids: pa.ChunkedArray, caption: pa.ChunkedArray, extra: Sequence[str]
) -> pa.Table:
    """source_id, digest (of all that follows), caption and the columns ``extra`` of a dataset.

    Raises ``UserError``: a name that the cache uses, or a type that it cannot keep.
    """
    # Delta tables tell no upper from lower case.
    lower = Counter(name.lower() for name in extra)
    clash = sorted(name for name in extra if name.lower() in _RESERVED or lower[name.lower()] > 1)
    if clash:
        raise UserError(
            f"the dataset's columns {', '.join(clash)} have names that the cache uses itself, or "
            "that differ by case alone; rename them in the dataset, or name them under "
            "dataset.columns"
        )
    columns = {
        name: _storable(table[name], name)
        for name in extra
        if not pa.types.is_null(table[name].type)
    }
    kept = pa.table({"caption": caption, **columns})
    digests = [_digests(kept.slice(at, _BATCH)) for at in range(0, kept.num_rows, _BATCH)]
    digest = pa.chunked_array(digests, pa.string())
    return pa.table({"source_id": ids, "digest": digest, "caption": caption, **columns})


def _storable(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """A column in a type that Delta tables have."""
    kind = column.type
    try:
        if pa.types.is_unsigned_integer(kind):
            return column.cast(pa.int64())
        if pa.types.is_float16(kind):
            return column.cast(pa.float32())
        DeltaSchema.from_arrow(pa.schema([(name, kind)]))
    except Exception as error:  # Arrow and delta-rs raise errors of several kinds
        raise UserError(
            f"the dataset's column {name!r} of type {kind} cannot be kept: "
            f"{str(error).splitlines()[0]}; convert it, or "
            "leave it out"
        ) from error
    return column


def _digests(rows: pa.Table) -> pa.Array:
    """``stable_hash`` of ["columns", {name: value}] for every row, without its nulls."""
    texts = [_members(canonical(name), rows[name]) for name in sorted(rows.column_names)]
    digests = [
        hash_text(f'["columns",{{{",".join(filter(None, row))}}}]')
        for row in zip(*texts, strict=True)
    ]
    return pa.array(digests, pa.string())


def _members(key: str, column: pa.ChunkedArray) -> list[str | None]:
    """``key`` and a value each, as in a JSON object; None for null."""
    return [None if value is None else f"{key}:{_json(value)}" for value in column.to_pylist()]


def _json(value: Any) -> str:
    """A value as canonical JSON; what JSON cannot hold as the text that Python shows for it."""
    if isinstance(value, str):
        return canonical(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    return canonical(repr(value))


def changed_columns(columns: pa.Table, known: pa.Table) -> pa.Table:
    """Rows of ``columns`` whose digest is not the newest one in ``known``.

    Both have source_id and digest, ``known`` (rows of the table ``captions``) also the revision.
    Adds the column ``revision``: one more than the newest known, from 1.
    """
    newest = newest_by_source(known.select(["source_id", "revision", "digest"]))
    at = pc.index_in(columns["source_id"], newest["source_id"].combine_chunks())
    revision = pc.add(pc.fill_null(newest["revision"].take(at), 0), 1)
    differs = pc.fill_null(pc.not_equal(newest["digest"].take(at), columns["digest"]), True)
    return columns.append_column("revision", revision).filter(differs)
