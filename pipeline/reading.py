"""Reading sources: pinned to the version that the plan saw, in blocks, and with patience."""

import contextlib
import hashlib
import io
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from fsspec.utils import tokenize
from s3fs.utils import FileExpired

from pipeline.config import StorageConfig
from pipeline.errors import Reason, SourceError, UserError
from pipeline.retry import Retry
from pipeline.spans import Place, find_place, span_of
from pipeline.storage import S3_PROTOCOLS, open_filesystem, protocol_of, version_of

Purpose = Literal["probe", "decode", "weights"]

BLOCKS: dict[Purpose, tuple[int, int]] = {
    "probe": (128 * 2**10, 6),
    "decode": (4 * 2**20, 3),
    "weights": (16 * 2**20, 0),
}
"""Bytes of one remote read, and how many are kept: headers lie in few small blocks. Where none is
kept, a read is what the caller asks for, and no more."""


class Source:
    """A seekable binary file that never mixes two versions of a source's bytes.

    On S3 every read carries the ETag as a precondition; a local file is looked at after each read;
    elsewhere ``verify`` asks the store. A read that may succeed later is repeated. Reads raise
    ``SourceError``: source_changed, missing or unreadable.
    """

    def __init__(self, uri: str, file: Any, retry: Retry, version: Callable[[], str]) -> None:
        self._uri = uri
        self._file = file
        self._retry = retry
        self._version = version
        self._pinned = version()
        self._protocol = protocol_of(uri)
        self.bytes_read = 0
        """Bytes that ``read`` returned."""

    def expect(self, version: str) -> None:
        """Refuse the file when its version is not the planned one."""
        if self._pinned != version:
            raise SourceError(
                Reason.SOURCE_CHANGED,
                f"{self._uri} was {version} when planned and is {self._pinned} now",
            )

    def verify(self) -> None:
        """Refuse what was read so far when the store holds another version now."""
        if self._protocol not in S3_PROTOCOLS and self._version() != self._pinned:
            raise SourceError(Reason.SOURCE_CHANGED, f"{self._uri} changed while it was read")

    def read(self, count: int = -1) -> bytes:
        """Up to ``count`` bytes."""
        try:
            data: bytes = self._retry.call(lambda: self._file.read(count))
        except Exception as error:  # each store's client raises errors of its own
            raise source_error(self._uri, error) from error
        if self._protocol == "file":
            self.verify()
        self.bytes_read += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to ``offset``; the new position."""
        try:
            return int(self._file.seek(offset, whence))
        except Exception as error:  # what cannot seek says so in ways of its own
            raise source_error(self._uri, error) from error

    def tell(self) -> int:
        """The current position."""
        return int(self._file.tell())


@contextlib.contextmanager
def open_source(
    uri: str, version: str | None, storage: StorageConfig, purpose: Purpose = "decode"
) -> Iterator[Source]:
    """Open a source for reading, as a context manager.

    ``version`` is the version that the plan saw in the store, or None where the dataset's own
    column gave it; the version of a tar file's member also says which bytes of the tar file it is.
    Raises ``SourceError``: missing, unreadable, empty_file, or source_changed when the store's
    version is another one now.
    """
    place = find_place(uri, version)
    with contextlib.ExitStack() as stack:
        try:
            source = _open(uri if place is None else place.tar, storage, purpose, stack, place)
        except Exception as error:  # each store's client raises errors of its own
            raise source_error(uri, error) from error
        if version is not None:
            source.expect(version if place is None else place.tar_version)
        if source.seek(0, io.SEEK_END) == 0:
            raise SourceError(Reason.EMPTY_FILE, f"{uri} has no bytes")
        source.seek(0)
        yield source


def _open(
    uri: str,
    storage: StorageConfig,
    purpose: Purpose,
    stack: contextlib.ExitStack,
    place: Place | None,
) -> Source:
    retry = Retry(storage.retry_seconds)
    filesystem, path = open_filesystem(uri, storage)
    if protocol_of(uri) == "file":
        local = stack.enter_context(open(path, "rb", opener=_without_waiting))  # noqa: SIM115
        if not stat.S_ISREG(os.fstat(local.fileno()).st_mode):
            raise SourceError(Reason.MISSING, f"{uri} is not a regular file")

        def local_version() -> str:
            found = os.fstat(local.fileno())
            return version_of({"size": found.st_size, "mtime": found.st_mtime})

        part = local if place is None else span_of(local, place, *BLOCKS[purpose])
        return Source(uri, part, retry, local_version)
    block, count = BLOCKS[purpose]
    kept: dict[str, Any] = {"cache_type": "blockcache", "cache_options": {"maxblocks": count}}
    if count == 0:
        kept = {"cache_type": "none"}
    remote = stack.enter_context(
        retry.call(lambda: filesystem.open(path, "rb", block_size=block, **kept))
    )
    if protocol_of(uri) in S3_PROTOCOLS:
        etag = version_of(remote.details)
        if place is not None:
            # A small member is one request, as a small object is.
            whole = place.size <= BLOCKS["decode"][0]
            remote = span_of(remote, place, max(1, place.size) if whole else block, count)
        elif remote.size <= BLOCKS["decode"][0]:
            remote = io.BytesIO(_read_whole(remote, etag, retry))
        return Source(uri, remote, retry, lambda: etag)
    if place is not None:
        remote = span_of(remote, place, block, count)
    return Source(uri, remote, retry, lambda: version_of(retry.call(lambda: filesystem.info(path))))


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe that nobody writes to would keep the run waiting for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def _read_whole(remote: Any, etag: str, retry: Retry) -> bytes:
    """A small S3 object, read again where its bytes are not those of the ETag.

    The ETag of an object put in one piece is the MD5 of its bytes. Where it is something else
    (parts, some encryptions), two equal readings are believed. Raises ``OSError`` when no two
    readings agree, ``FileExpired`` when the object was replaced.
    """
    readings: set[bytes] = set()
    for _ in range(3):
        data: bytes = retry.call(lambda: remote._fetch_range(0, remote.size))
        if hashlib.md5(data, usedforsecurity=False).hexdigest() == etag or data in readings:
            return data
        readings.add(data)
    raise OSError("three readings gave three different contents")


def stat_source(uri: str, storage: StorageConfig) -> tuple[str, int]:
    """Version and size in bytes of a source. Raises ``SourceError``: missing or unreadable."""
    try:
        filesystem, path = open_filesystem(uri, storage)
        info = Retry(storage.retry_seconds).call(lambda: filesystem.info(path))
    except Exception as error:  # each store's client raises errors of its own
        raise source_error(uri, error) from error
    if info.get("type") == "directory":
        raise SourceError(Reason.MISSING, f"{uri} is a directory, not a file")
    return version_of(info), int(info.get("size") or 0)


def source_error(uri: str, error: Exception) -> SourceError:
    """The source's reason for an exception of a filesystem."""
    if isinstance(error, SourceError):
        return error
    if isinstance(error, FileNotFoundError):
        return SourceError(Reason.MISSING, f"{uri} does not exist")
    if isinstance(error, IsADirectoryError):
        return SourceError(Reason.MISSING, f"{uri} is a directory, not a file")
    if isinstance(error, FileExpired):
        return SourceError(Reason.SOURCE_CHANGED, f"{uri} was replaced while it was read")
    return SourceError(Reason.UNREADABLE, f"{uri}: {type(error).__name__}: {error}")


def file_remedy(error: SourceError) -> str:
    """What a user can do about a file of theirs, other than a source, that cannot be read."""
    if error.reason is Reason.UNREADABLE:
        return "check permissions, credentials (AWS_ACCESS_KEY_ID, …), endpoint and region"
    return "name a readable file"


def fetch_file(uri: str, storage: StorageConfig, folder: Path) -> Path:
    """A local path of ``uri``: itself if local, else a download into ``folder`` (kept by version).

    Raises ``UserError`` when the file is missing or unreadable.
    """
    if protocol_of(uri) == "file":
        path = Path(uri.removeprefix("file://"))
        if not path.is_file():
            raise UserError(f"{uri}: there is no such file")
        return path
    try:
        version, _ = stat_source(uri, storage)
    except SourceError as error:
        raise UserError(f"{error.message}; {file_remedy(error)}") from error
    suffix = Path(uri).suffix
    target = folder / f"{tokenize(uri, version)}{suffix}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        filesystem, remote = open_filesystem(uri, storage)
        retry = Retry(storage.retry_seconds)
        temporary = target.with_name(f".{secrets.token_hex(6)}.tmp")
        try:
            retry.call(lambda: filesystem.get_file(remote, str(temporary)))
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return target
