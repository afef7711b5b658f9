"""The files below a prefix or matching a pattern, with their versions, from the store's listing."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from fsspec.utils import glob_translate

from pipeline.config import StorageConfig
from pipeline.errors import UserError
from pipeline.retry import Retry
from pipeline.storage import S3_PROTOCOLS, open_filesystem, protocol_of, version_of

FILES = pa.schema([("uri", pa.string()), ("version", pa.string())])
"""Columns of a listing, sorted by URI."""

_MAGIC = re.compile(r"[*?\[]")


def is_pattern(uri: str, storage: StorageConfig) -> bool:
    """Whether a URI is a pattern: it has ``*``, ``?`` or ``[``, and no file has just this name."""
    if protocol_of(uri) in ("http", "https") or not _MAGIC.search(uri):
        return False
    filesystem, path = open_filesystem(uri, storage)
    return not Retry(storage.retry_seconds).call(lambda: filesystem.exists(path))


def matcher(uri: str, path: str) -> re.Pattern[str]:
    """What paths that match the pattern ``path`` look like; ``**`` reaches across folders.

    Raises ``UserError``, naming ``uri``: ``**`` is a part of a folder's name.
    """
    try:
        return re.compile(glob_translate(path))
    except ValueError as error:
        raise UserError(
            f"dataset.uri {uri} is no pattern: {error}; write ** alone between two slashes"
        ) from error


def list_files(uri: str, storage: StorageConfig) -> pa.Table:
    """Files below the folder or prefix ``uri``, with the columns of ``FILES``.

    Raises ``UserError`` where ``uri`` is a file, and the store's own errors.
    """
    filesystem, root = open_filesystem(uri, storage)
    filesystem.invalidate_cache()
    retry = Retry(storage.retry_seconds)
    scheme = protocol_of(uri)
    if scheme in S3_PROTOCOLS:
        bucket, key = _split(root)
        table = _list_s3(filesystem, retry, scheme, bucket, key.rstrip("/") + "/" if key else "")
        if table.num_rows or not key:
            return table
    if retry.call(lambda: filesystem.isfile(root)):
        raise UserError(
            f"dataset.uri {uri} is a file, not a directory; lists end in .csv, .jsonl, .ndjson, "
            ".parquet, archives in .tar, or set dataset.format"
        )
    return _table(scheme, retry.call(lambda: filesystem.find(root, detail=True)))


def match_files(pattern: str, storage: StorageConfig) -> pa.Table:
    """Files that match a pattern, with the columns of ``FILES``.

    S3 is asked for keys that begin as the pattern does, up to its first special character. Raises
    ``UserError`` for what is no pattern, and the store's own errors.
    """
    filesystem, path = open_filesystem(pattern, storage)
    filesystem.invalidate_cache()
    wanted = matcher(pattern, path)
    scheme = protocol_of(pattern)
    retry = Retry(storage.retry_seconds)
    if scheme not in S3_PROTOCOLS:
        return _table(scheme, retry.call(lambda: filesystem.glob(path, detail=True)))
    bucket, key = _split(path)
    begin = _MAGIC.split(key, maxsplit=1)[0]
    if _MAGIC.search(bucket):
        raise UserError(f"dataset.uri {pattern}: a bucket's name cannot be a pattern; write it out")
    flat = "/" not in key[len(begin) :] and "**" not in key
    table = _list_s3(filesystem, retry, scheme, bucket, begin, flat)
    return keep_matching(table, scheme, wanted)


def keep_matching(table: pa.Table, scheme: str, wanted: re.Pattern[str]) -> pa.Table:
    """Rows whose URI, without ``scheme://``, matches."""
    skip = len(scheme) + 3
    uris = table["uri"].to_pylist()
    return table.filter(pa.array([bool(wanted.match(uri[skip:])) for uri in uris], pa.bool_()))


def list_page(filesystem: Any, retry: Retry, bucket: str, **query: Any) -> dict[str, Any]:
    """One page of up to 1000 keys of an S3 bucket, asked for with patience."""
    page: dict[str, Any] = retry.call(
        lambda: filesystem.call_s3("list_objects_v2", Bucket=bucket, **query)
    )
    return page


def _list_s3(
    filesystem: Any, retry: Retry, scheme: str, bucket: str, prefix: str, flat: bool = False
) -> pa.Table:
    query = {"Prefix": prefix, **({"Delimiter": "/"} if flat else {})}
    batches = []
    for page in _pages(filesystem, retry, bucket, query):
        found = [item for item in page.get("Contents", ()) if not item["Key"].endswith("/")]
        uris = [f"{scheme}://{bucket}/{item['Key']}" for item in found]
        batches.append(pa.record_batch([uris, [version_of(i) for i in found]], schema=FILES))
    return _sorted(pa.Table.from_batches(batches, FILES))


def _pages(
    filesystem: Any, retry: Retry, bucket: str, query: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    while True:
        page = list_page(filesystem, retry, bucket, **query)
        yield page
        if not page.get("IsTruncated"):
            return
        query = {**query, "ContinuationToken": page["NextContinuationToken"]}


def _table(scheme: str, found: dict[str, Any]) -> pa.Table:
    files = [
        (path, _followed(path, info))
        for path, info in found.items()
        if info.get("type", "file") == "file" or info.get("islink")
    ]
    prefix = "" if scheme == "file" else f"{scheme}://"
    return _sorted(
        pa.table(
            [
                [path if "://" in path else prefix + path for path, _ in files],
                [version_of(info) for _, info in files],
            ],
            schema=FILES,
        )
    )


def _followed(path: str, info: dict[str, Any]) -> dict[str, Any]:
    """What a link points to; of a broken one what is known of itself: reading it will fail."""
    if not info.get("islink"):
        return info
    try:
        target = Path(path).stat()
    except OSError:
        return info
    return {"size": target.st_size, "mtime": target.st_mtime}


def _sorted(table: pa.Table) -> pa.Table:
    return table.take(pc.sort_indices(table["uri"])).combine_chunks()


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.partition("/")
    return bucket, key
