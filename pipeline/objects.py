"""The files below a prefix or matching a pattern, with their versions, from the store's listing."""

import contextlib
import os
import re
from collections.abc import Iterator
from functools import partial
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
    if scheme == "file":
        return _walk(uri, root, retry)
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
    if scheme == "file":
        return _walk(pattern, _MAGIC.split(path, maxsplit=1)[0].rpartition("/")[0], retry, path)
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
    files = [(path, info) for path, info in found.items() if info.get("type", "file") == "file"]
    uris = [path if "://" in path else f"{scheme}://{path}" for path, _ in files]
    return _sorted(pa.table([uris, [version_of(info) for _, info in files]], schema=FILES))


def _walk(uri: str, root: str, retry: Retry, pattern: str | None = None) -> pa.Table:
    """Local files below a folder, all or those that match; no folder is left out unsaid.

    Folders where nothing can match are not looked into. Raises ``UserError`` for one that cannot
    be read, ``FileNotFoundError`` where ``root`` is not there.
    """
    wanted = None if pattern is None else matcher(uri, pattern)
    found: dict[str, str] = {}
    folders = [root or "/"]
    while folders:
        folder = folders.pop()
        try:
            for entry in retry.call(partial(_entries, folder)):
                if entry.is_dir(follow_symlinks=False):
                    if pattern is None or _may_hold_matches(entry.path, pattern):
                        folders.append(entry.path)
                elif wanted is None or wanted.match(entry.path):
                    version = _version(entry)
                    found |= {} if version is None else {entry.path: version}
        except (FileNotFoundError, NotADirectoryError):
            if folder == (root or "/"):
                raise
            # It went away meanwhile.
        except OSError as error:
            raise UserError(
                f"dataset.uri {uri}: {error.filename or folder} cannot be read: {error.strerror}; "
                "its sources would count as removed. Allow reading it, or write a pattern that "
                "leaves it out"
            ) from error
    return _sorted(pa.table([list(found), list(found.values())], schema=FILES))


def _entries(folder: str) -> list["os.DirEntry[str]"]:
    with os.scandir(folder) as entries:
        return list(entries)


def _may_hold_matches(folder: str, pattern: str) -> bool:
    """Whether files below ``folder`` can match, where the folder that holds it can."""
    parts, depth = pattern.split("/"), folder.count("/")
    if "**" in parts[: depth + 1]:
        return True
    begin = "/".join(parts[: depth + 1])
    return depth + 1 < len(parts) and re.match(glob_translate(begin), folder) is not None


def _version(entry: "os.DirEntry[str]") -> str | None:
    """Of a link that of its target; None of what is no file, or went away meanwhile.

    Of a broken link it is what is known of itself: reading it will fail.
    """
    if not (entry.is_symlink() or entry.is_file(follow_symlinks=False)):
        return None
    for follow in (True, False):
        with contextlib.suppress(FileNotFoundError):
            state = entry.stat(follow_symlinks=follow)
            return version_of({"size": state.st_size, "mtime": state.st_mtime})
    return None


def _sorted(table: pa.Table) -> pa.Table:
    return table.take(pc.sort_indices(table["uri"])).combine_chunks()


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.partition("/")
    return bucket, key
