"""Members of tar files as sources: their URIs, their versions, and reading one by range."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fsspec.caching import BlockCache

_SCHEME = "tar://"
_VERSION = re.compile(r"(.*)@(\d+)\+(\d+)", re.DOTALL)


@dataclass(frozen=True)
class Place:
    """Where a member's bytes lie: ``[offset, offset + size)`` of one version of a tar file."""

    tar: str
    tar_version: str
    offset: int
    size: int

    @property
    def version(self) -> str:
        """The member's version, from which ``find_place`` makes the place again."""
        return f"{self.tar_version}@{self.offset}+{self.size}"


def member_uri(member: str, tar: str) -> str:
    """The URI of a tar file's member; ``tar`` is a URI or an absolute path."""
    return f"{_SCHEME}{member}::{tar}"


def find_place(uri: str, version: str | None) -> Place | None:
    """Where a source lies in a tar file; None for a file of its own."""
    if version is None or not uri.startswith(_SCHEME) or "::" not in uri:
        return None
    found = _VERSION.fullmatch(version)
    if found is None:
        return None
    return Place(uri.rpartition("::")[2], found[1], int(found[2]), int(found[3]))


def name_of(uri: str) -> str:
    """What a source's suffix is told by: its URI, or the member's name in a tar file."""
    return uri.removeprefix(_SCHEME).rpartition("::")[0] if uri.startswith(_SCHEME) else uri


class Span:
    """A part of a file as a seekable file of its own.

    ``fetch`` gives the part's bytes ``[start, end)``. A read that raises leaves the position.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        self._fetch = fetch
        self._size = size
        self._at = 0

    def read(self, count: int = -1) -> bytes:
        """Up to ``count`` bytes; none at the end of the part."""
        end = self._size if count < 0 else min(self._size, self._at + count)
        if end <= self._at:
            return b""
        data = bytes(self._fetch(self._at, end))
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to ``offset``; the new position. Raises ``ValueError`` before the part's begin."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """The current position."""
        return self._at


def span_of(file: Any, place: Place, block: int, kept: int) -> Span:
    """The place's bytes of an open file, and no others.

    A file that can fetch ranges is read in blocks of ``block`` bytes, counted from the begin of the
    place, of which the last ``kept`` stay in memory.
    """
    ranged = getattr(file, "_fetch_range", None)
    if ranged is None:

        def read(start: int, end: int) -> bytes:
            file.seek(place.offset + start)
            return bytes(file.read(end - start))

        return Span(read, place.size)

    def fetch(start: int, end: int) -> bytes:
        return bytes(ranged(place.offset + start, place.offset + min(end, place.size)))

    return Span(BlockCache(block, fetch, place.size, kept)._fetch, place.size)
