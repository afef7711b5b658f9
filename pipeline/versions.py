"""Versions of files that a list names: from pages of a listing where that is cheaper than asking.

Asking takes one request for each file. On S3, a page of a listing tells of up to 1000 keys in
order. So the wanted keys of a bucket are sorted and settled page by page, each page beginning at
the next wanted key, as long as every page settles at least ``PAGE_WORTH`` of them. After a page
that settled fewer, the next 10 files are asked one by one before another page is tried, then 20,
and so on up to 640: what is wasted on pages stays a small share, however the keys lie.
"""

import itertools
import posixpath
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.config import StorageConfig
from pipeline.errors import Reason, SourceError
from pipeline.objects import list_page
from pipeline.reading import stat_source
from pipeline.retry import Retry
from pipeline.storage import S3_PROTOCOLS, open_filesystem, protocol_of, version_of

Answer = str | SourceError
"""A file's version, or why there is none."""

PAGE_WORTH = 10
"""Files that a page of a listing has to settle to be cheaper than asking for each."""

_THREADS = 16
_MOST_ASKED = 640
_PIECE = 1000


def find_versions(uris: Collection[str], storage: StorageConfig) -> dict[str, Answer]:
    """The version of every file, or ``SourceError``: missing or unreadable."""
    answers: dict[str, Answer] = {}
    pieces, single = _pieces(sorted(set(uris)))

    def settle(piece: tuple[str, list[str]]) -> tuple[dict[str, Answer], list[str]]:
        return _settle(piece[0], piece[1], storage)

    def ask(uri: str) -> Answer:
        try:
            return stat_source(uri, storage)[0]
        except SourceError as error:
            return error

    with ThreadPoolExecutor(_THREADS) as pool:
        for settled, left in pool.map(settle, pieces):
            answers |= settled
            single += left
        answers |= zip(single, pool.map(ask, single), strict=True)
    return answers


def _pieces(uris: Sequence[str]) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """Pieces to settle by pages, as (``s3://bucket/``, keys in order), and what is to be asked."""
    by_bucket: dict[str, list[str]] = {}
    single = []
    for uri in uris:
        bucket, _, key = uri.partition("://")[2].partition("/")
        if protocol_of(uri) in S3_PROTOCOLS and bucket and key and "?versionId=" not in key:
            by_bucket.setdefault(uri.removesuffix(key), []).append(key)
        else:
            single.append(uri)
    pieces = []
    for root, keys in by_bucket.items():
        size = max(_PIECE, -(-len(keys) // _THREADS))
        pieces += [(root, keys[at : at + size]) for at in range(0, len(keys), size)]
    return pieces, single


def _settle(
    root: str, keys: Sequence[str], storage: StorageConfig
) -> tuple[dict[str, Answer], list[str]]:
    """What pages of the listing tell of ``keys``, and the URIs that are left to ask for.

    A store that refuses to list, or does not list in order, is asked.
    """
    filesystem, bucket = open_filesystem(root, storage)
    retry = Retry(storage.retry_seconds)
    folder = posixpath.commonpath([posixpath.dirname("/" + k) for k in keys]).lstrip("/")
    prefix = f"{folder}/" if folder and all(k.startswith(f"{folder}/") for k in keys) else ""
    answers: dict[str, Answer] = {}
    left: list[str] = []
    at, patience, reached = 0, PAGE_WORTH, ""
    while len(keys) - at >= PAGE_WORTH:
        after = max(reached, keys[at][:-1])
        query: dict[str, Any] = {"Prefix": prefix, **({"StartAfter": after} if after else {})}
        try:
            page = list_page(filesystem, retry, bucket.strip("/"), **query)
        except Exception:  # noqa: BLE001  (asking for each file tells what is wrong)
            break
        found = {item["Key"]: version_of(item) for item in page.get("Contents", ())}
        names = [after, *found]
        more = bool(page.get("IsTruncated"))
        if any(a >= b for a, b in itertools.pairwise(names)) or (more and not found):
            break
        reached = names[-1]
        first = at
        while at < len(keys) and (not more or keys[at] <= reached):
            uri = root + keys[at]
            missing = SourceError(Reason.MISSING, f"{uri} does not exist")
            answers[uri] = found.get(keys[at], missing)
            at += 1
        if at - first >= PAGE_WORTH:
            patience = PAGE_WORTH
            continue
        left += [root + key for key in keys[at : at + patience]]
        at += patience
        patience = min(2 * patience, _MOST_ASKED)
    return answers, left + [root + key for key in keys[at:]]
