"""The catalog: a dataset's rows with known column names, absolute URIs, identities and versions."""

import math
import posixpath
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from botocore.exceptions import NoCredentialsError

from pipeline.columns import user_columns
from pipeline.config import Config
from pipeline.config_types import PASSWORD
from pipeline.errors import SourceError, UserError
from pipeline.identity import source_id
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
_BATCH = 65_536
_REFUSALS = (PermissionError, NoCredentialsError)


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
    _check_ranges(known, config.dataset.uri)
    uris = _resolve(known["video"], config.dataset.uri)
    keys = pc.coalesce(known["id"], uris)
    ids = _source_ids(keys, known["start"], known["end"])
    _check_unique(ids, keys, config.dataset.uri)
    versions, failures, told = _versions(uris, known["version"], listing, config)
    reasons = {row: str(failure.reason) for row, failure in failures.items()}
    messages = {row: failure.message for row, failure in failures.items()}
    sources = pa.table(
        {
            "source_id": ids,
            "id": known["id"],
            "uri": uris,
            "start": known["start"],
            "end": known["end"],
            "version": versions,
            "pinned": pc.or_(pc.is_null(known["version"]), listing.from_store),
            **{name: known[name] for name in _HINTS},
            "reason": _scattered(reasons, table.num_rows),
            "message": _scattered(messages, table.num_rows),
        }
    )
    taken = {*names.values(), "caption"}
    extra = [name for name in table.column_names if name not in taken]
    columns = user_columns(table, ids, known["caption"], extra)
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


def _scattered(values: Mapping[int, str], count: int) -> pa.Array:
    """A column of ``count`` rows with texts at some of them, and null elsewhere."""
    at = np.full(count, -1)
    at[list(values)] = np.arange(len(values))
    return pa.array(list(values.values()), pa.string()).take(pa.array(at, mask=at < 0))


def _in_batches(table: pa.Table, function: Callable[[pa.Table], list[str]]) -> pa.ChunkedArray:
    """A column of text that is made of the rows, some at a time."""
    batches = (table.slice(first, _BATCH) for first in range(0, table.num_rows, _BATCH))
    return pa.chunked_array([pa.array(function(b), pa.string()) for b in batches], pa.string())


def _resolve(videos: pa.ChunkedArray, dataset_uri: str) -> pa.ChunkedArray:
    empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(videos), ""), True)
    row = pc.index(empty, True).as_py()
    if row >= 0:
        raise UserError(f"{dataset_uri}: row {row + 1} names no video; fill or remove the row")
    row = pc.index(pc.match_substring_regex(videos, PASSWORD), True).as_py()
    if row >= 0:  # URIs are kept in tables, and told
        raise UserError(
            f"{dataset_uri}: the video of row {row + 1} is a URI with a user name and password; "
            "put credentials into the environment, and leave them out of the list"
        )
    scheme, remote, path = absolute(dataset_uri).rpartition("://")
    folder = f"{scheme}{remote}{posixpath.dirname(path)}"
    return _in_batches(
        pa.table({"video": videos}),
        lambda rows: [absolute(video, folder) for video in rows["video"].to_pylist()],
    )


def _source_ids(
    keys: pa.ChunkedArray, start: pa.ChunkedArray, end: pa.ChunkedArray
) -> pa.ChunkedArray:
    def ids(rows: pa.Table) -> list[str]:
        columns = (column.to_pylist() for column in rows.columns)
        return [source_id(*row) for row in zip(*columns, strict=True)]

    return _in_batches(pa.table({"key": keys, "start": start, "end": end}), ids)


def _check_ranges(known: Mapping[str, pa.ChunkedArray], uri: str) -> None:
    start, end = known["start"], known["end"]
    begin = pc.fill_null(start, 0.0)
    good = pc.and_(
        pc.and_(pc.greater_equal(begin, 0.0), pc.less(begin, math.inf)),
        pc.fill_null(pc.and_(pc.less(begin, end), pc.less(end, math.inf)), True),
    )
    row = pc.index(good, False).as_py()
    if row >= 0:
        raise UserError(
            f"{uri}: row {row + 1} has start {start[row].as_py()} and end {end[row].as_py()}; "
            "seconds with 0 <= start < end are wanted"
        )


def _check_unique(ids: pa.ChunkedArray, keys: pa.ChunkedArray, uri: str) -> None:
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    counts = pc.value_counts(ids)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    first: dict[str, int] = {}
    for row in np.flatnonzero(np.asarray(pc.is_in(ids, twice))).tolist():
        before = first.setdefault(ids[row].as_py(), row)
        if before != row:
            raise UserError(
                f"{uri}: rows {before + 1} and {row + 1} are the same source "
                f"({keys[row].as_py()!r} with equal start and end); remove one, or "
                "give each an id of its own"
            )


def _versions(
    uris: pa.ChunkedArray, given: pa.ChunkedArray, listing: Listing, config: Config
) -> tuple[pa.ChunkedArray, Mapping[int, SourceError], tuple[str, ...]]:
    """Version of every source, failures by row, and notes.

    Versions come from the store's listing or the dataset's column, else from the inventory; for the
    rest the store is asked. Raises ``UserError`` where it lets nobody in.
    """
    failures = dict(listing.failures)
    missing = np.flatnonzero(np.asarray(pc.is_null(given)))
    rows = [row for row in missing.tolist() if row not in failures]
    wanted = dict(zip(rows, uris.take(pa.array(rows, pa.int64())).to_pylist(), strict=True))
    answers: dict[str, str | SourceError] = {}
    notes: tuple[str, ...] = ()
    if config.dataset.inventory is not None and wanted and not listing.from_store:
        files = set(wanted.values())
        answers |= inventory_versions(config.dataset.inventory, files, config.storage)
        absent = len(files) - len(answers)
        if absent:
            notes = (f"the store is asked for {absent} videos that dataset.inventory has not",)
    answers |= find_versions(set(wanted.values()) - answers.keys(), config.storage)
    found: dict[int, str] = {}
    for row, uri in wanted.items():
        answer = answers[uri]
        if isinstance(answer, SourceError):
            failures[row] = answer
        else:
            found[row] = answer
    _check_admittance(failures, len(given), config.dataset.uri)
    versions = pc.fill_null(pc.coalesce(given, _scattered(found, len(given))), "")
    return versions, failures, notes


def _check_admittance(failures: Mapping[int, SourceError], count: int, uri: str) -> None:
    """Raise ``UserError`` where every source was refused: that is not the sources' failure."""
    refused = [f for f in failures.values() if isinstance(f.__cause__, _REFUSALS)]
    if refused and len(refused) == count:
        raise UserError(
            f"{uri}: each of the {count} sources is refused, the first as {refused[0].message}; "
            "check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, …) and permissions"
        )
