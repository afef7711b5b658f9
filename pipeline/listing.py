"""Datasets as tables: a directory, prefix, pattern, tar files, or a CSV, JSONL or Parquet list."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipeline.captions import read_captions
from pipeline.config import DatasetConfig, StorageConfig
from pipeline.errors import Reason, SourceError, UserError
from pipeline.inventory import list_inventory
from pipeline.objects import is_pattern, keep_matching, list_files, match_files, matcher
from pipeline.reading import stat_source
from pipeline.retry import Retry
from pipeline.spans import Place, member_uri
from pipeline.storage import absolute, open_filesystem
from pipeline.tars import Sample, Shelf, index_tars

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"}
    | {".ts", ".m2ts", ".mts", ".3gp", ".wmv", ".flv", ".ogv"}
)
IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"))

CAPTION_NAMES = ("caption", "text", "cap", "prompt")
"""Names under which a dataset may hold its captions."""

_LIST_SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
_TAR_BATCH = 64


@dataclass(frozen=True)
class Listing:
    """The dataset's rows as they stand, one per source.

    A directory, a pattern and tar files (``from_store``) have the columns ``video``, ``version``
    (null where it is still to be asked for) and, where there are any, ``caption``; tar files also
    have the keys of their samples' json; a list has its own columns. ``failures`` are rows that
    cannot be encoded.
    """

    table: pa.Table
    from_store: bool
    failures: Mapping[int, SourceError] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_listing(
    dataset: DatasetConfig,
    storage: StorageConfig,
    text_columns: Collection[str],
    shelf: Shelf | None = None,
) -> Listing:
    """Read a dataset. Raises ``UserError``: it does not exist, cannot be read, or is empty.

    ``text_columns`` are read as text where a CSV leaves the type open; ``shelf`` keeps what tar
    files and caption files hold.
    """
    uri = absolute(dataset.uri)
    kind = dataset.format
    try:
        if kind == "auto":
            kind = _kind_of(uri)
        if kind == "directory":
            listing = _read_directory(dataset, uri, storage, shelf)
        elif kind == "tar":
            listing = _read_tars(dataset, uri, storage, shelf)
        else:
            listing = Listing(_read_list(uri, kind, storage, text_columns), from_store=False)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"dataset.uri {uri}: there is nothing; name a directory, a pattern, "
            "a .tar file, or a .csv, .jsonl or .parquet list"
        ) from error
    except IsADirectoryError as error:
        raise UserError(
            f"dataset.uri {uri} is a directory, but dataset.format is {kind}"
        ) from error
    except UserError:
        raise
    except Exception as error:  # each store's client raises errors of its own
        raise UserError(
            f"dataset.uri {uri} cannot be read: {type(error).__name__}: {error}"
        ) from error
    if listing.table.num_rows == 0:
        raise UserError(f"dataset.uri {uri} holds no videos or images; check the path and format")
    return listing


def _kind_of(uri: str) -> Any:
    name = PurePosixPath(uri).name.lower()
    if name.endswith(".tar"):
        return "tar"
    return _LIST_SUFFIXES.get(PurePosixPath(name).suffix, "directory")


def _read_list(
    uri: str, kind: str, storage: StorageConfig, text_columns: Collection[str]
) -> pa.Table:
    filesystem, path = open_filesystem(uri, storage)
    data = Retry(storage.retry_seconds).call(lambda: filesystem.cat_file(path))
    if kind == "csv":
        return _read_csv(data, uri, text_columns)
    return (_read_jsonl if kind == "jsonl" else _read_parquet)(data, uri)


def _find_files(dataset: DatasetConfig, uri: str, storage: StorageConfig) -> pa.Table:
    """Files of a prefix or pattern, as the store lists them or its inventory did."""
    pattern = is_pattern(uri, storage)
    if dataset.inventory is None:
        return match_files(uri, storage) if pattern else list_files(uri, storage)
    scheme, _, path = uri.partition("://")
    begin = min((uri.index(c) for c in "*?[" if c in uri), default=len(uri))
    prefix = uri[:begin] if pattern else uri.rstrip("/") + "/"
    found = list_inventory(dataset.inventory, prefix, storage)
    if found.num_rows == 0:
        raise UserError(
            f"dataset.inventory {dataset.inventory} lists nothing below dataset.uri {uri}; name "
            "the inventory of this bucket, or remove dataset.inventory"
        )
    return keep_matching(found, scheme, matcher(uri, path)) if pattern else found


def _read_directory(
    dataset: DatasetConfig, uri: str, storage: StorageConfig, shelf: Shelf | None
) -> Listing:
    if uri.lower().endswith(_COMPRESSED):
        raise UserError(
            f"dataset.uri {uri} is compressed, so that no video can be read by itself; uncompress "
            "it to a .tar file"
        )
    files = _find_files(dataset, uri, storage)
    media = files.filter(_has_suffix(files["uri"], VIDEO_SUFFIXES | IMAGE_SUFFIXES))
    if media.num_rows == 0 and files.num_rows:
        tars = int(pc.sum(_has_suffix(files["uri"], frozenset({".tar"}))).as_py() or 0)
        remedy = "set dataset.format: tar" if tars else "check the path and format"
        raise UserError(
            f"dataset.uri {uri} holds no videos or images, but {files.num_rows} other files"
            f"{f', {tars} of them .tar' if tars else ''}; {remedy}"
        )
    table = media.rename_columns(["video", "version"])
    texts = files.filter(pc.ends_with(files["uri"], ".txt"))
    wanted = pc.is_in(_stems(texts["uri"]), _stems(media["uri"]).combine_chunks())
    texts = texts.filter(wanted)
    if texts.num_rows:
        texts = read_captions(uri, texts, storage, shelf)
        at = pc.index_in(_stems(media["uri"]), _stems(texts["uri"]).combine_chunks())
        table = table.append_column("caption", texts["text"].take(at))
    return Listing(table, from_store=True)


def _has_suffix(uris: pa.ChunkedArray, suffixes: frozenset[str]) -> pa.ChunkedArray:
    known = "|".join(sorted(suffix[1:] for suffix in suffixes))
    return pc.match_substring_regex(uris, rf"[^/]\.({known})$", ignore_case=True)


def _stems(uris: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.replace_substring_regex(uris, r"\.[^./]*$", "")


def _read_tars(
    dataset: DatasetConfig, uri: str, storage: StorageConfig, shelf: Shelf | None
) -> Listing:
    tars = _find_tars(dataset, uri, storage)
    rows: list[tuple[str, str, Sample]] = []
    notes: dict[str, None] = {}
    for first in range(0, len(tars), _TAR_BATCH):
        batch = tars[first : first + _TAR_BATCH]
        indexes = index_tars(batch, VIDEO_SUFFIXES | IMAGE_SUFFIXES, storage, shelf)
        for (tar, version), index in zip(batch, indexes, strict=True):
            rows += [(tar, version, sample) for sample in index.samples]
            if index.note is not None:
                notes[f"{tar} {index.note}"] = None
        if dataset.limit is not None and len(rows) >= dataset.limit:
            break
    failures = {
        row: SourceError(Reason(sample.reason), sample.message or "")
        for row, (_, _, sample) in enumerate(rows)
        if sample.reason is not None
    }
    columns = _columns([_row(dataset, *row, notes=notes) for row in rows], uri)
    return Listing(columns, True, failures, tuple(notes))


def _find_tars(dataset: DatasetConfig, uri: str, storage: StorageConfig) -> list[tuple[str, str]]:
    """Tar files as (URI, version)."""
    pattern = is_pattern(uri, storage)
    if not pattern and (uri.lower().endswith(".tar") or _is_file(uri, storage)):
        files = None
        if dataset.inventory is not None:
            found = list_inventory(dataset.inventory, uri, storage)
            files = found.filter(pc.equal(found["uri"], uri))
        if files is None or files.num_rows == 0:
            return [(uri, _version(uri, storage))]
    else:
        files = _find_files(dataset, uri, storage)
        if not pattern:
            files = files.filter(_has_suffix(files["uri"], frozenset({".tar"})))
    return [
        (tar, version if version is not None else _version(tar, storage))
        for tar, version in zip(files["uri"].to_pylist(), files["version"].to_pylist(), strict=True)
    ]


def _is_file(uri: str, storage: StorageConfig) -> bool:
    filesystem, path = open_filesystem(uri, storage)
    return bool(Retry(storage.retry_seconds).call(lambda: filesystem.isfile(path)))


def _version(uri: str, storage: StorageConfig) -> str:
    try:
        return stat_source(uri, storage)[0]
    except SourceError as error:
        raise UserError(f"dataset.uri {uri} cannot be read: {error.message}") from error


def _row(
    dataset: DatasetConfig, tar: str, version: str, sample: Sample, notes: dict[str, None]
) -> dict[str, Any]:
    """A sample as a row: the keys of its json, but ``video`` and ``version`` are the tar file's.

    Unless a column is configured for them, captions go into one column, whatever their key: that of
    the json before the text.
    """
    row = dict(sample.columns)
    for name in ("video", "version"):
        if name in row:
            del row[name]
            notes[f"the key {name!r} of json members is left out: the tar file gives it"] = None
    if dataset.columns.caption is None:
        key = next((n for n in CAPTION_NAMES if row.get(n) is not None), None)
        caption = sample.text if key is None else row.pop(key)
    else:
        caption = row.pop("caption", sample.text)
    place = Place(tar, version, sample.offset, sample.size)
    whole = not sample.member
    return {
        "video": tar if whole else member_uri(sample.member, tar),
        "version": version if whole else place.version,
        **({} if caption is None else {"caption": caption}),
        **row,
    }


def _read_csv(data: bytes, uri: str, text_columns: Collection[str]) -> pa.Table:
    types = dict.fromkeys(text_columns, pa.string())
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(data),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(column_types=types),
        )
    except pa.ArrowInvalid as error:
        raise UserError(f"dataset.uri {uri} is not a CSV with a header line: {error}") from error
    # Text is null where nothing stands, quoted or not, and not where `NA` or `null` stands.
    for index, column in enumerate(table.schema):
        if pa.types.is_string(column.type):
            text = table.column(index)
            none = pa.scalar(None, pa.string())
            table = table.set_column(index, column, pc.if_else(pc.equal(text, ""), none, text))
    return table


def _read_jsonl(data: bytes, uri: str) -> pa.Table:
    rows = []
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"dataset.uri {uri}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"dataset.uri {uri}, line {number} is not a JSON object of columns")
        rows.append(row)
    return _columns(rows, uri)


def _columns(rows: Sequence[Mapping[str, Any]], uri: str) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise UserError(f"dataset.uri {uri}: column {name!r} mixes types: {error}") from error
    return pa.table(columns)


def _read_parquet(data: bytes, uri: str) -> pa.Table:
    try:
        table = pq.read_table(pa.BufferReader(data))
        table.validate(full=True)  # texts that are no UTF-8 would be met later, one by one
        return table
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"dataset.uri {uri} is not a Parquet file: {error}") from error
