"""S3 Inventory reports: a listing that the store wrote, as CSV or Parquet files."""

import contextlib
import hashlib
import json
import posixpath
from collections.abc import Collection, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipeline.config import StorageConfig
from pipeline.errors import UserError
from pipeline.objects import FILES
from pipeline.retry import Retry
from pipeline.storage import S3_PROTOCOLS, absolute, open_filesystem, protocol_of

_REMEDY = "name the report's manifest.json, or one CSV, CSV.gz or Parquet file of it"
_NEEDED = ("bucket", "key", "etag")
_LATEST = ("islatest", "isdeletemarker")
_PLAIN = ("Bucket", "Key", "Size", "LastModifiedDate", "ETag")
"""Columns of a CSV file that has no header line and whose manifest is not given."""


def list_inventory(uri: str, prefix: str, storage: StorageConfig) -> pa.Table:
    """The objects whose URI begins with ``prefix``, with the columns of ``FILES``, sorted.

    Raises ``UserError``: the report cannot be read, is of a kind that is not, or ``prefix`` is not
    on S3.
    """
    if protocol_of(prefix) not in S3_PROTOCOLS:
        raise UserError(
            f"dataset.inventory {uri} lists objects of S3, but dataset.uri {prefix} is not on "
            "s3://; remove dataset.inventory"
        )
    scheme = protocol_of(prefix)
    bucket, _, begin = prefix.partition("://")[2].partition("/")
    parts = []
    for table in _read(uri, storage):
        rows = table.filter(
            pc.and_(pc.equal(table["bucket"], bucket), pc.starts_with(table["key"], begin))
        )
        uris = pc.binary_join_element_wise(f"{scheme}://{bucket}", rows["key"], "/")
        parts.append(pa.table([uris, rows["etag"]], schema=FILES))
    found = pa.concat_tables([FILES.empty_table(), *parts])
    found = found.filter(pc.invert(pc.ends_with(found["uri"], "/")))
    return found.take(pc.sort_indices(found["uri"])).combine_chunks()


def inventory_versions(uri: str, wanted: Collection[str], storage: StorageConfig) -> dict[str, str]:
    """Versions of those of the URIs ``wanted`` that the report lists. Raises ``UserError``."""
    by_path: dict[str, list[str]] = {}
    for one in wanted:
        if protocol_of(one) in S3_PROTOCOLS:
            by_path.setdefault(one.partition("://")[2], []).append(one)
    paths = pa.array(by_path, pa.string())
    found: dict[str, str] = {}
    for table in _read(uri, storage):
        names = pc.binary_join_element_wise(table["bucket"], table["key"], "/")
        keep = pc.and_(pc.is_in(names, paths), pc.is_valid(table["etag"]))
        rows = zip(
            names.filter(keep).to_pylist(), table["etag"].filter(keep).to_pylist(), strict=True
        )
        for path, version in rows:
            found |= dict.fromkeys(by_path[path], version)
    return found


def _read(uri: str, storage: StorageConfig) -> Iterator[pa.Table]:
    """The columns bucket, key and etag of objects that are there, file after file."""
    uri = absolute(uri)
    name = PurePosixPath(uri).name.lower()
    if name.endswith(".json"):
        yield from _read_manifest(uri, storage)
    elif name.endswith((".csv", ".csv.gz", ".parquet")):
        kind = "Parquet" if name.endswith(".parquet") else "CSV"
        yield _present(uri, _parse(uri, kind, _fetch(uri, storage), None))
    else:
        raise UserError(f"dataset.inventory {uri} is of no known kind (ORC is not); {_REMEDY}")


def _fetch(uri: str, storage: StorageConfig) -> bytes:
    try:
        filesystem, path = open_filesystem(uri, storage)
        data: bytes = Retry(storage.retry_seconds).call(lambda: filesystem.cat_file(path))
    except FileNotFoundError as error:
        raise UserError(f"dataset.inventory {uri}: there is nothing; {_REMEDY}") from error
    except UserError:
        raise
    except Exception as error:  # each store's client raises errors of its own
        raise UserError(
            f"dataset.inventory {uri} cannot be read: {type(error).__name__}: {error}"
        ) from error
    return data


def _read_manifest(uri: str, storage: StorageConfig) -> Iterator[pa.Table]:
    try:
        manifest = json.loads(_fetch(uri, storage))
        kind = str(manifest["fileFormat"])
        files = [(str(f["key"]), f.get("MD5checksum")) for f in manifest["files"]]
        schema = [name.strip() for name in str(manifest.get("fileSchema", "")).split(",")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"dataset.inventory {uri} is not the manifest.json of an S3 Inventory report: it needs "
            f"fileFormat, fileSchema and files ({type(error).__name__}: {error})"
        ) from error
    if kind not in ("CSV", "Parquet"):
        raise UserError(
            f"dataset.inventory {uri} is a report in {kind}; configure the inventory to write "
            "Parquet or CSV"
        )
    for key, checksum in files:
        place, data = _fetch_part(uri, key, storage)
        if checksum and hashlib.md5(data, usedforsecurity=False).hexdigest() != checksum:
            raise UserError(
                f"dataset.inventory {uri}: {place} is not the file that the manifest names "
                f"(MD5 {checksum} is wanted); copy the report anew"
            )
        yield _present(place, _parse(place, kind, data, schema))


def _fetch_part(manifest: str, key: str, storage: StorageConfig) -> tuple[str, bytes]:
    """A data file: in the manifest's bucket, or for a copied report near the manifest."""
    folder = posixpath.dirname(manifest)
    name = posixpath.basename(key)
    places = [f"{folder}/{name}", f"{posixpath.dirname(folder)}/data/{name}"]
    if protocol_of(manifest) in S3_PROTOCOLS:
        bucket = manifest.partition("://")[2].partition("/")[0]
        places.insert(0, f"{protocol_of(manifest)}://{bucket}/{key}")
    for place in places[:-1]:
        with contextlib.suppress(UserError):
            return place, _fetch(place, storage)
    return places[-1], _fetch(places[-1], storage)


def _parse(uri: str, kind: str, data: bytes, schema: Sequence[str] | None) -> pa.Table:
    """One data file as text columns (Parquet: its own types), keys decoded."""
    try:
        if kind == "Parquet":
            table = pq.ParquetFile(pa.BufferReader(data)).read()
            return table.rename_columns([_plain_name(n) for n in table.column_names])
        stream: Any = pa.BufferReader(data)
        if data[:2] == b"\x1f\x8b":
            stream = pa.CompressedInputStream(stream, "gzip")
        text = stream.read()
        names = schema or _header(uri, text)
        table = pa_csv.read_csv(
            pa.BufferReader(text),
            read_options=pa_csv.ReadOptions(column_names=[_plain_name(n) for n in names]),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys([_plain_name(n) for n in names], pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
                null_values=[""],
            ),
        )
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"dataset.inventory: {uri} is not a {kind} file: {error}") from error
    if "key" in table.column_names:
        if schema is None and table.num_rows and table["key"][0].as_py() == "Key":
            table = table.slice(1)
        at = table.column_names.index("key")
        table = table.set_column(at, "key", _decode(table["key"]))
    return table


def _header(uri: str, text: bytes) -> Sequence[str]:
    """Columns of a CSV file without its manifest: its header line, or the plain five."""
    first = text.split(b"\n", 1)[0].decode("utf-8", "replace")
    names = [name.strip().strip('"') for name in first.split(",")]
    if {"bucket", "key"} <= {_plain_name(name) for name in names}:
        return names
    if len(names) == len(_PLAIN):
        return _PLAIN
    raise UserError(
        f"dataset.inventory: {uri} has no header line and {len(names)} columns, not "
        f"{', '.join(_PLAIN)}; name the report's manifest.json, which says what they are"
    )


def _plain_name(name: str) -> str:
    return name.lower().replace("_", "").strip()


def _decode(keys: pa.ChunkedArray) -> pa.ChunkedArray:
    """Keys as they are: in CSV they are URL-encoded."""
    encoded = pc.fill_null(pc.match_substring_regex(keys, "[%+]"), False)
    plain = [unquote_plus(key) for key in keys.filter(encoded).to_pylist()]
    return pc.replace_with_mask(
        keys.combine_chunks(), encoded.combine_chunks(), pa.array(plain, pa.string())
    )


def _present(uri: str, table: pa.Table) -> pa.Table:
    """The columns bucket, key and etag of the newest versions that are no delete markers."""
    absent = [name for name in _NEEDED if name not in table.column_names]
    if absent:
        raise UserError(
            f"dataset.inventory: {uri} has no column {', '.join(absent)} (it has "
            f"{', '.join(table.column_names)}); add it to the inventory's optional fields"
        )
    for name in _LATEST:
        if name in table.column_names:
            flag = pc.equal(pc.utf8_lower(table[name].cast(pa.string())), "true")
            keep = pc.fill_null(flag, True) if name == "islatest" else pc.invert(flag)
            table = table.filter(pc.fill_null(keep, True))
    etag = pc.utf8_trim(table["etag"].cast(pa.string()), '"')
    etag = pc.if_else(pc.equal(etag, ""), pa.scalar(None, pa.string()), etag)
    return pa.table(
        {
            "bucket": table["bucket"].cast(pa.string()),
            "key": table["key"].cast(pa.string()),
            "etag": etag,
        }
    )
