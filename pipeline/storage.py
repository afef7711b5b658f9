"""One place for every file: sources on any fsspec filesystem, the cache local or on S3."""

import contextlib
import errno
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.core import url_to_fs

from pipeline.config import StorageConfig
from pipeline.errors import Reason, SourceError, UserError

READ_BLOCK_BYTES = 4 * 2**20
"""Block of buffered remote reads; larger blocks are no faster and their cache grows with them."""

_S3_PROTOCOLS = ("s3", "s3a")


def protocol_of(uri: str) -> str:
    """The URI's scheme; ``file`` for plain paths."""
    return uri.split("://", 1)[0] if "://" in uri else "file"


def absolute(uri: str, base: str | None = None) -> str:
    """Resolve ``uri`` against the URI of the folder ``base`` (default: the working directory).

    Local results are absolute paths without a scheme, so that one file has one spelling.
    """
    if "://" in uri and protocol_of(uri) != "file":
        return uri
    path = uri.removeprefix("file://")
    if Path(path).is_absolute() or base is None or protocol_of(base) == "file":
        folder = Path.cwd() if base is None else Path(base.removeprefix("file://"))
        return os.path.normpath(folder / path)
    return f"{base.rstrip('/')}/{path}"


def filesystem_options(uri: str, storage: StorageConfig) -> dict[str, Any]:
    """Keyword arguments for the fsspec filesystem of ``uri``."""
    if protocol_of(uri) not in _S3_PROTOCOLS:
        return {}
    client: dict[str, Any] = {}
    if storage.region is not None:
        client["region_name"] = storage.region
    options: dict[str, Any] = {"anon": storage.anonymous, "client_kwargs": client}
    if storage.endpoint_url is not None:
        options["endpoint_url"] = storage.endpoint_url
    return options


def open_filesystem(uri: str, storage: StorageConfig) -> tuple[Any, str]:
    """The fsspec filesystem of ``uri`` and the path in it. Raises ``UserError``."""
    try:
        return cast(tuple[Any, str], url_to_fs(uri, **filesystem_options(uri, storage)))
    except (ValueError, ImportError) as error:
        raise UserError(f"{uri}: cannot open this kind of storage: {error}") from error


def version_of(info: Mapping[str, Any]) -> str:
    """What tells that an object's bytes changed: its ETag, else size and modification time."""
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    if etag:
        return str(etag).strip('"')
    changed = info.get("mtime") or info.get("LastModified") or info.get("last_modified") or ""
    return f"{info.get('size')}-{changed}"


def source_error(uri: str, error: BaseException) -> SourceError:
    """The source's reason for an exception of a filesystem."""
    if isinstance(error, FileNotFoundError):
        return SourceError(Reason.MISSING, f"{uri} does not exist")
    return SourceError(Reason.UNREADABLE, f"{uri}: {type(error).__name__}: {error}")


def stat_source(uri: str, storage: StorageConfig) -> tuple[str, int]:
    """Version and size in bytes of a source. Raises ``SourceError``: missing or unreadable."""
    try:
        filesystem, path = open_filesystem(uri, storage)
        info = filesystem.info(path)
    except Exception as error:  # each store's client raises errors of its own
        raise source_error(uri, error) from error
    if info.get("type") == "directory":
        raise SourceError(Reason.MISSING, f"{uri} is a directory, not a file")
    return version_of(info), int(info.get("size") or 0)


@contextlib.contextmanager
def open_source(uri: str, version: str | None, storage: StorageConfig) -> Any:
    """Open a source for reading, as a context manager that yields a seekable binary file.

    ``version`` is the version that the plan saw in the store, or None where the dataset's own
    column gave it. Raises ``SourceError``: missing, unreadable, empty_file, or source_changed when
    the store's version is another one now.
    """
    found, size = stat_source(uri, storage)
    if version is not None and found != version:
        raise SourceError(
            Reason.SOURCE_CHANGED, f"{uri} was {version} when planned and is {found} now"
        )
    if size == 0:
        raise SourceError(Reason.EMPTY_FILE, f"{uri} has no bytes")
    filesystem, path = open_filesystem(uri, storage)
    options = {} if protocol_of(uri) == "file" else {"block_size": READ_BLOCK_BYTES}
    try:
        file = filesystem.open(path, "rb", **options)
    except Exception as error:  # each store's client raises errors of its own
        raise source_error(uri, error) from error
    with file:
        yield cast(BinaryIO, file)


@dataclass(frozen=True)
class Store:
    """The cache's root folder, local or on S3. Paths are relative to it, with forward slashes."""

    uri: str
    storage: StorageConfig

    def __post_init__(self) -> None:
        protocol = protocol_of(self.uri)
        if protocol not in ("file", *_S3_PROTOCOLS):
            raise UserError(
                f"{self.uri}: a cache lies on a local path or on s3://, not on {protocol}://; "
                "other schemes serve as datasets and sources"
            )
        object.__setattr__(self, "uri", absolute(self.uri).rstrip("/"))

    @property
    def local(self) -> bool:
        """Whether the root is a folder of this machine (or of a shared mount)."""
        return protocol_of(self.uri) == "file"

    def _locate(self, path: str) -> tuple[Any, str]:
        filesystem, root = open_filesystem(self.uri, self.storage)
        return filesystem, f"{root.rstrip('/')}/{path}"

    def table_uri(self, name: str) -> str:
        """URI of a Delta table, for delta-rs."""
        return f"{self.uri.replace('s3a://', 's3://')}/{name}"

    def delta_options(self) -> dict[str, str]:
        """``storage_options`` of delta-rs for this store; credentials come from the environment."""
        if self.local:
            return {}
        options = {"aws_conditional_put": "etag"}
        if self.storage.endpoint_url is not None:
            options["aws_endpoint"] = self.storage.endpoint_url
            options["aws_allow_http"] = str(self.storage.endpoint_url.startswith("http:")).lower()
        if self.storage.region is not None:
            options["aws_region"] = self.storage.region
        if self.storage.anonymous:
            options["aws_skip_signature"] = "true"
        return options

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes ``[start, end)`` of a file. Raises ``FileNotFoundError``."""
        filesystem, full = self._locate(path)
        return cast(bytes, filesystem.cat_file(full, start=start, end=end))

    def write(self, path: str, data: bytes) -> None:
        """Put a whole file at once: a reader sees all of it or none; an older one is replaced."""
        filesystem, full = self._locate(path)
        if self.local:
            with _temporary_beside(full, data) as temporary:
                temporary.replace(full)
        else:
            filesystem.pipe_file(full, data)

    def create(self, path: str, data: bytes) -> bool:
        """Put a whole file only where none is; False when one is there already (no overwrite)."""
        filesystem, full = self._locate(path)
        try:
            if self.local:
                with _temporary_beside(full, data) as temporary:
                    os.link(temporary, full)
            else:
                filesystem.pipe_file(full, data, mode="create")
        except OSError as error:
            if _is_conflict(error):
                return False
            raise
        return True

    def names(self, path: str) -> list[str]:
        """Names of the files in a folder, sorted; empty when the folder does not exist."""
        filesystem, full = self._locate(path)
        filesystem.invalidate_cache()
        try:
            found = filesystem.ls(full, detail=False)
        except FileNotFoundError:
            return []
        return sorted(str(name).rstrip("/").rsplit("/", 1)[-1] for name in found)

    def open(self, path: str) -> Any:
        """A readable, seekable binary file."""
        filesystem, full = self._locate(path)
        return filesystem.open(full, "rb")


@contextlib.contextmanager
def _temporary_beside(full: str, data: bytes) -> Any:
    """A complete, flushed temporary file in the same folder, removed at the end if still there."""
    target = Path(full)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _is_conflict(error: OSError) -> bool:
    """Whether a conditional create failed because the object exists.

    S3 implementations answer 412 or 409; s3fs turns only some of these into ``FileExistsError``.
    """
    if isinstance(error, FileExistsError):
        return True
    response = getattr(error.__cause__, "response", None) or {}
    code = response.get("Error", {}).get("Code")
    return error.errno == errno.EINVAL and code in (
        "PreconditionFailed",
        "ConditionalRequestConflict",
        "412",
        "409",
    )


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
        raise UserError(f"{error.message}; name a readable file") from error
    suffix = Path(uri).suffix
    target = folder / f"{fsspec.utils.tokenize(uri, version)}{suffix}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        filesystem, remote = open_filesystem(uri, storage)
        temporary = target.with_name(f".{secrets.token_hex(6)}.tmp")
        try:
            filesystem.get_file(remote, str(temporary))
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return target
