"""Datasets as tables: a directory or prefix, a CSV, a JSONL or a Parquet list."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipeline.config import DatasetConfig, StorageConfig
from pipeline.errors import UserError
from pipeline.storage import absolute, open_filesystem, protocol_of, version_of

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"}
    | {".ts", ".m2ts", ".mts", ".3gp", ".wmv", ".flv", ".ogv"}
)
IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"))

_LIST_SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


@dataclass(frozen=True)
class Listing:
    """The dataset's rows as they stand, one per source.

    A directory (``from_store``) has the columns ``video``, ``version`` and, from sidecar ``.txt``
    files where there are any, ``caption``; a list has its own columns.
    """

    table: pa.Table
    from_store: bool


def read_listing(
    dataset: DatasetConfig, storage: StorageConfig, text_columns: Collection[str]
) -> Listing:
    """Read a dataset. Raises ``UserError``: it does not exist, cannot be read, or is empty.

    ``text_columns`` are read as text where a CSV leaves the type open.
    """
    uri = absolute(dataset.uri)
    kind: str = dataset.format
    if kind == "auto":
        kind = _LIST_SUFFIXES.get(PurePosixPath(uri).suffix.lower(), "directory")
    try:
        if kind == "directory":
            table = _read_directory(uri, storage)
        else:
            filesystem, path = open_filesystem(uri, storage)
            data = filesystem.cat_file(path)
            if kind == "csv":
                table = _read_csv(data, uri, text_columns)
            else:
                table = (_read_jsonl if kind == "jsonl" else _read_parquet)(data, uri)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"dataset.uri {uri}: there is nothing; name a directory, "
            "or a .csv, .jsonl or .parquet list"
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
    if table.num_rows == 0:
        raise UserError(f"dataset.uri {uri} holds no videos or images; check the path and format")
    return Listing(table, from_store=kind == "directory")


def _read_directory(uri: str, storage: StorageConfig) -> pa.Table:
    filesystem, root = open_filesystem(uri, storage)
    if filesystem.isfile(root):
        known = ", ".join(_LIST_SUFFIXES)
        raise UserError(
            f"dataset.uri {uri} is a file, not a directory; lists end in {known}, "
            "or set dataset.format"
        )
    found = filesystem.find(root, detail=True)
    prefix = "" if protocol_of(uri) == "file" else f"{protocol_of(uri)}://"
    captions = {
        str(PurePosixPath(path).with_suffix("")): path for path in found if path.endswith(".txt")
    }
    rows = [
        {
            "video": path if "://" in path else prefix + path,
            "version": version_of(info),
            "_sidecar": captions.get(_stem(path)),
        }
        for path, info in sorted(found.items())
        if PurePosixPath(path).suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES
        and info.get("type", "file") == "file"
    ]
    sidecars = [row["_sidecar"] for row in rows if row["_sidecar"] is not None]
    texts = filesystem.cat(sidecars) if sidecars else {}
    if isinstance(texts, bytes):
        texts = {sidecars[0]: texts}
    table = pa.Table.from_pylist(
        [{name: row[name] for name in ("video", "version")} for row in rows],
        pa.schema([("video", pa.string()), ("version", pa.string())]),
    )
    if sidecars:
        lines = [_text(texts[s], s) if (s := row["_sidecar"]) else None for row in rows]
        table = table.append_column("caption", pa.array(lines, pa.string()))
    return table


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def _text(data: bytes, path: str) -> str:
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"the caption file {path} is not UTF-8 text: {error}") from error


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
    for index, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            text = table.column(index)
            none = pa.scalar(None, pa.string())
            table = table.set_column(index, field, pc.if_else(pc.equal(text, ""), none, text))
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
        return pq.read_table(pa.BufferReader(data))
    except pa.ArrowInvalid as error:
        raise UserError(f"dataset.uri {uri} is not a Parquet file: {error}") from error
