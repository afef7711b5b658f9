"""The catalog: a dataset's rows with known column names, absolute URIs, identities and versions."""

import math
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import Schema as DeltaSchema

from pipeline.config import Config
from pipeline.errors import SourceError, UserError
from pipeline.identity import source_id, stable_hash
from pipeline.inventory import inventory_versions
from pipeline.listing import CAPTION_NAMES, Listing, read_listing
from pipeline.storage import Store, absolute
from pipeline.tars import Shelf
from pipeline.versions import find_versions

_ALIASES = {
    "video": ("video", "video_path", "media_path", "path", "file_name", "url", "uri"),
    "caption": CAPTION_NAMES,
}
_HINTS = {
    "width": pa.int64(),
    "height": pa.int64(),
    "fps": pa.float64(),
    "frames": pa.int64(),
    "duration": pa.float64(),
}
_KNOWN = {
    "video": pa.string(),
    "caption": pa.string(),
    "id": pa.string(),
    "start": pa.float64(),
    "end": pa.float64(),
    "version": pa.string(),
    **_HINTS,
}
_RESERVED = frozenset({"source_id", "revision", "run_id", "digest", "committed_at"})


@dataclass(frozen=True)
class Catalog:
    """All sources of a dataset.

    ``sources`` has the columns source_id, id, uri, start, end, version, pinned (whether the version
    is the store's own, so that reads check it), width, height, fps, frames, duration, reason and
    message (of sources that the store refused). ``columns`` has source_id, digest, caption and the
    dataset's further columns. ``notes`` tells which column names were taken for what.
    """

    sources: pa.Table
    columns: pa.Table
    notes: tuple[str, ...]


def read_catalog(config: Config, *, keep: bool = False) -> Catalog:
    """List the dataset. Raises ``UserError``: unreadable, empty, missing column, duplicate ids.

    ``keep`` stores with the cache what tar files and caption files hold, so that the next run need
    not look.
    """
    shelf = Shelf(Store(config.output.uri, config.storage), keep)
    listing = read_listing(config.dataset, config.storage, _text_columns(config), shelf)
    table = listing.table
    if config.dataset.limit is not None:
        table = table.slice(0, config.dataset.limit)
    names, notes = _find_columns(table, config)
    known = {
        column: _cast(table, names[column], kind, config.dataset.uri)
        if column in names
        else pa.nulls(table.num_rows, kind)
        for column, kind in _KNOWN.items()
    }
    # A clip from 0 on and one without a start are the same source.
    known["start"] = pc.if_else(pc.equal(known["start"], 0.0), None, known["start"])
    uris = _resolve(known["video"], config.dataset.uri)
    _check_ranges(known, config.dataset.uri)
    keys = [i if i is not None else u for i, u in zip(known["id"].to_pylist(), uris, strict=True)]
    ids = [
        source_id(key, start, end)
        for key, start, end in zip(
            keys, known["start"].to_pylist(), known["end"].to_pylist(), strict=True
        )
    ]
    _check_unique(ids, keys, config.dataset.uri)
    versions, failures, told = _versions(uris, known["version"].to_pylist(), listing, config)
    rows = range(table.num_rows)
    sources = pa.table(
        {
            "source_id": ids,
            "id": known["id"],
            "uri": pa.array(uris, pa.string()),
            "start": known["start"],
            "end": known["end"],
            "version": pa.array(versions, pa.string()),
            "pinned": pc.or_(pc.is_null(known["version"]), listing.from_store),
            **{name: known[name] for name in _HINTS},
            "reason": pa.array([_reason(failures.get(row)) for row in rows], pa.string()),
            "message": pa.array([_message(failures.get(row)) for row in rows], pa.string()),
        }
    )
    taken = {*names.values(), "caption"}
    extra = [name for name in table.column_names if name not in taken]
    columns = _user_columns(table, ids, known["caption"], extra)
    return Catalog(sources, columns, (*listing.notes, *notes, *told))


def _text_columns(config: Config) -> set[str]:
    """Names under which a column may hold text, though its values may look like numbers."""
    names = config.dataset.columns
    configured = (names.video, names.caption, names.id, names.version)
    usual = {*_ALIASES["video"], *_ALIASES["caption"], "id", "version"}
    return {name for name in configured if name is not None} | usual


def _find_columns(table: pa.Table, config: Config) -> tuple[dict[str, str], tuple[str, ...]]:
    """Map our column names to the table's."""
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise UserError(
            f"{config.dataset.uri} has the column {twice[0]!r} twice; rename or remove one"
        )
    found: dict[str, str] = {}
    notes = []
    for column in _KNOWN:
        configured = getattr(config.dataset.columns, column)
        if configured is not None:
            if configured not in table.column_names:
                raise UserError(
                    f"dataset.columns.{column} is {configured!r}, but {config.dataset.uri} has the "
                    f"columns {', '.join(table.column_names)}"
                )
            found[column] = configured
            continue
        for alias in _ALIASES.get(column, (column,)):
            if alias in table.column_names:
                found[column] = alias
                if alias != column:
                    notes.append(f"column {alias!r} is taken as {column!r}")
                break
    if "video" not in found:
        raise UserError(
            f"{config.dataset.uri} has no column of videos: it has "
            f"{', '.join(table.column_names)}; name one 'video', "
            "or set dataset.columns.video"
        )
    if found.get("caption", "caption") != "caption" and "caption" in table.column_names:
        notes.append(f"column 'caption' is left out: {found['caption']!r} is taken as 'caption'")
    return found, tuple(notes)


def _cast(table: pa.Table, name: str, kind: pa.DataType, uri: str) -> pa.ChunkedArray:
    try:
        return table[name].cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(f"{uri}: column {name!r} cannot be read as {kind}: {error}") from error


def _resolve(videos: pa.ChunkedArray, dataset_uri: str) -> list[str]:
    scheme, remote, path = absolute(dataset_uri).rpartition("://")
    folder = f"{scheme}{remote}{posixpath.dirname(path)}"
    uris = []
    for row, video in enumerate(videos.to_pylist()):
        if video is None or not video.strip():
            raise UserError(f"{dataset_uri}: row {row + 1} names no video; fill or remove the row")
        uris.append(absolute(video, folder))
    return uris


def _check_ranges(known: dict[str, Any], uri: str) -> None:
    for row, (start, end) in enumerate(
        zip(known["start"].to_pylist(), known["end"].to_pylist(), strict=True)
    ):
        if (start is not None and not 0 <= start < float("inf")) or (
            end is not None and not (start or 0) < end < float("inf")
        ):
            raise UserError(
                f"{uri}: row {row + 1} has start {start} and end {end}; "
                "seconds with 0 <= start < end are wanted"
            )


def _check_unique(ids: list[str], keys: list[str], uri: str) -> None:
    first: dict[str, int] = {}
    for row, identity in enumerate(ids):
        if identity in first:
            raise UserError(
                f"{uri}: rows {first[identity] + 1} and {row + 1} are the same source "
                f"({keys[row]!r} with equal start and end); remove one, or "
                "give each an id of its own"
            )
        first[identity] = row


def _versions(
    uris: Sequence[str], given: Sequence[str | None], listing: Listing, config: Config
) -> tuple[list[str], Mapping[int, SourceError], tuple[str, ...]]:
    """Version of every source, failures by row, and notes.

    Versions come from the store's listing or the dataset's column, else from the inventory; for the
    rest the store is asked.
    """
    failures = dict(listing.failures)
    wanted = {
        uri
        for row, (uri, version) in enumerate(zip(uris, given, strict=True))
        if version is None and row not in failures
    }
    answers: dict[str, str | SourceError] = {}
    notes: tuple[str, ...] = ()
    if config.dataset.inventory is not None and wanted and not listing.from_store:
        answers |= inventory_versions(config.dataset.inventory, wanted, config.storage)
        absent = len(wanted) - len(answers)
        if absent:
            notes = (f"the store is asked for {absent} videos that dataset.inventory has not",)
    answers |= find_versions(wanted - answers.keys(), config.storage)
    versions = []
    for row, (uri, version) in enumerate(zip(uris, given, strict=True)):
        answer = version if version is not None else answers.get(uri, "")
        if isinstance(answer, SourceError):
            failures[row] = answer
        versions.append("" if isinstance(answer, SourceError) else answer)
    return versions, failures, notes


def _reason(failure: SourceError | None) -> str | None:
    return None if failure is None else str(failure.reason)


def _message(failure: SourceError | None) -> str | None:
    return None if failure is None else failure.message


def _user_columns(
    table: pa.Table, ids: list[str], caption: pa.ChunkedArray, extra: list[str]
) -> pa.Table:
    # Delta tables tell no upper from lower case.
    lower = Counter(name.lower() for name in extra)
    taken = _RESERVED | {"caption"}
    clash = sorted(name for name in extra if name.lower() in taken or lower[name.lower()] > 1)
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
    rows = pa.table({"caption": caption, **columns}).to_pylist()
    digests = [
        stable_hash(["columns", {k: _plain(v) for k, v in row.items() if v is not None}])
        for row in rows
    ]
    return pa.table({"source_id": ids, "digest": digests, "caption": caption, **columns})


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


def _plain(value: Any) -> Any:
    """A value as JSON can hold it, for the digest that tells whether a row changed."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value if isinstance(value, bool | int | float | str) else repr(value)


def changed_columns(catalog: Catalog, known: pa.Table) -> pa.Table:
    """Rows of ``catalog.columns`` whose digest is not the newest one in the table ``captions``.

    Adds the column ``revision``: one more than the newest known, from 1.
    """
    newest = newest_by_source(known.select(["source_id", "revision", "digest"]))
    seen = {row["source_id"]: (row["revision"], row["digest"]) for row in newest.to_pylist()}
    ids = catalog.columns["source_id"].to_pylist()
    digests = catalog.columns["digest"].to_pylist()
    keep = [seen.get(i, (0, None))[1] != d for i, d in zip(ids, digests, strict=True)]
    revisions = [seen.get(i, (0, None))[0] + 1 for i in ids]
    table = catalog.columns.append_column("revision", pa.array(revisions, pa.int64()))
    return table.filter(pa.array(keep, pa.bool_()))


def newest_by_source(table: pa.Table) -> pa.Table:
    """The row of the highest revision of every source (ties: the last by ``run_id``)."""
    if table.num_rows == 0:
        return table
    keys = [("source_id", "ascending"), ("revision", "ascending")]
    if "run_id" in table.column_names:
        keys.append(("run_id", "ascending"))
    ordered = table.take(pc.sort_indices(table, sort_keys=keys))
    ids = ordered["source_id"].combine_chunks()
    last = pc.fill_null(pc.not_equal(ids[:-1], ids[1:]), True)
    return ordered.filter(pa.concat_arrays([last, pa.array([True])]))
