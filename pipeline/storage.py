"""One place for every file: sources on any fsspec filesystem, the cache local or on S3."""

import contextlib
import errno
import os
import posixpath
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError
from fsspec.core import url_to_fs

from pipeline.config import StorageConfig
from pipeline.errors import UserError
from pipeline.retry import Retry

S3_PROTOCOLS = ("s3", "s3a")

STORE_ERRORS = (OSError, BotoCoreError, ClientError, aiohttp.ClientError)
"""What a store's client raises when it cannot be reached, or refuses."""

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 30


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
    root, _, folders = base.partition("://")
    return f"{root}://{posixpath.normpath(posixpath.join(folders, path))}"


def filesystem_options(uri: str, storage: StorageConfig) -> dict[str, Any]:
    """Keyword arguments for the fsspec filesystem of ``uri``."""
    if protocol_of(uri) not in S3_PROTOCOLS:
        return {}
    client: dict[str, Any] = {}
    if storage.region is not None:
        client["region_name"] = storage.region
    options: dict[str, Any] = {
        "anon": storage.anonymous,
        "use_listings_cache": False,  # a remembered version is no version
        "client_kwargs": client,
        "config_kwargs": {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "retries": {"mode": "standard", "total_max_attempts": 1},  # `Retry` does it
        },
    }
    if storage.endpoint_url is not None:
        options["endpoint_url"] = storage.endpoint_url
    return options


def open_filesystem(uri: str, storage: StorageConfig) -> tuple[Any, str]:
    """The fsspec filesystem of ``uri`` and the path in it. Raises ``UserError``."""
    try:
        filesystem, path = url_to_fs(uri, **filesystem_options(uri, storage))
    except (ValueError, ImportError) as error:
        raise UserError(f"{uri}: cannot open this kind of storage: {error}") from error
    if protocol_of(uri) in S3_PROTOCOLS:
        filesystem.retries = 1  # `Retry` does it: nested retries multiply
    return filesystem, path


def version_of(info: Mapping[str, Any]) -> str:
    """What tells that an object's bytes changed: its ETag, else size and modification time."""
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    if etag:
        return str(etag).strip('"')
    changed = info.get("mtime") or info.get("LastModified") or info.get("last_modified") or ""
    return f"{info.get('size')}-{changed}"


@dataclass(frozen=True)
class Store:
    """The cache's root folder, local or on S3. Paths are relative to it, with forward slashes."""

    uri: str
    storage: StorageConfig

    def __post_init__(self) -> None:
        protocol = protocol_of(self.uri)
        if protocol not in ("file", *S3_PROTOCOLS):
            raise UserError(
                f"{self.uri}: a cache lies on a local path or on s3://, not on {protocol}://; "
                "other schemes serve as datasets and sources"
            )
        object.__setattr__(self, "uri", absolute(self.uri).rstrip("/"))

    @property
    def local(self) -> bool:
        """Whether the root is a folder of this machine (or of a shared mount)."""
        return protocol_of(self.uri) == "file"

    def locate(self, path: str) -> tuple[Any, str]:
        """Where a file of the store lies. Raises ``UserError`` for a path that leads out of it."""
        if path.startswith("/") or "\0" in path or ".." in path.split("/"):
            raise UserError(
                f"{self.uri}: {path!r} is named there and lies outside of it: something else "
                "changed the cache. Go back to a snapshot that is sound (maintain_cache.py restore)"
            )
        filesystem, root = open_filesystem(self.uri, self.storage)
        return filesystem, f"{root.rstrip('/')}/{path}"

    @property
    def _retry(self) -> Retry:
        return Retry(self.storage.retry_seconds)

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
        options["max_retries"] = "1000"  # the time decides
        options["retry_timeout"] = f"{max(1, round(self.storage.retry_seconds))}s"
        if self.storage.anonymous:
            options["aws_skip_signature"] = "true"
        return options

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes ``[start, end)`` of a file. Raises ``FileNotFoundError``."""
        filesystem, full = self.locate(path)
        read = self._retry.call(lambda: filesystem.cat_file(full, start=start, end=end))
        return cast(bytes, read)

    def write(self, path: str, data: bytes) -> None:
        """Put a whole file at once: a reader sees all of it or none; an older one is replaced."""
        filesystem, full = self.locate(path)
        if self.local:
            with _temporary_beside(full, data) as temporary:
                temporary.replace(full)
        else:
            self._retry.call(lambda: filesystem.pipe_file(full, data))

    def put(self, path: str, local: Path) -> None:
        """Put a file of this machine, of any size, at once; an older one is replaced."""
        filesystem, full = self.locate(path)
        if self.local:
            target = Path(full)
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = _temporary_name(target)
            try:
                shutil.copyfile(local, temporary)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
        else:
            self._retry.call(lambda: filesystem.put_file(str(local), full))

    def get(self, path: str, local: Path) -> None:
        """Copy a file, of any size, to this machine. Raises ``FileNotFoundError``."""
        filesystem, full = self.locate(path)
        self._retry.call(lambda: filesystem.get_file(full, str(local)))

    def create(self, path: str, data: bytes) -> bool:
        """Put a whole file only where none is; False when another one is there already.

        ``data`` must be unique to the caller: when the answer to a put is lost and the next attempt
        finds the file, equal bytes tell that it is our own.
        """
        filesystem, full = self.locate(path)
        try:
            if self.local:
                _create_local(full, data)
            else:
                self._retry.call(lambda: filesystem.pipe_file(full, data, mode="create"))
        except OSError as error:
            if _is_conflict(error):
                return self.read(path) == data
            raise
        return True

    def size(self, path: str) -> int:
        """Bytes of a file. Raises ``FileNotFoundError``."""
        filesystem, full = self.locate(path)
        return int(self._retry.call(lambda: filesystem.size(full)))

    def exists(self, path: str) -> bool:
        """Whether there is a file."""
        filesystem, full = self.locate(path)
        return bool(self._retry.call(lambda: filesystem.isfile(full)))

    def delete(self, path: str) -> None:
        """Remove a file; a missing one is no error."""
        filesystem, full = self.locate(path)
        with contextlib.suppress(FileNotFoundError):
            self._retry.call(lambda: filesystem.rm_file(full))

    def names(self, path: str) -> list[str]:
        """Names of the files in a folder, sorted; empty when the folder does not exist."""
        filesystem, full = self.locate(path)
        try:
            found = self._retry.call(lambda: filesystem.ls(full, detail=False))
        except FileNotFoundError:
            return []
        return sorted(str(name).rstrip("/").rsplit("/", 1)[-1] for name in found)

    def open(self, path: str) -> Any:
        """A readable, seekable binary file."""
        filesystem, full = self.locate(path)
        return self._retry.call(lambda: filesystem.open(full, "rb"))


@contextlib.contextmanager
def _temporary_beside(full: str, data: bytes) -> Any:
    """A complete, flushed temporary file in the same folder, removed at the end if still there."""
    target = Path(full)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(target)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _temporary_name(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")


def _create_local(full: str, data: bytes) -> None:
    """Create a whole file by a hard link, which fails where one is."""
    try:
        with _temporary_beside(full, data) as temporary:
            os.link(temporary, full)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        # A mount without hard links: still exclusive, but a reader may meet it half written.
        with Path(full).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _is_conflict(error: OSError) -> bool:
    """Whether a conditional create failed because the object exists.

    S3 implementations answer 412; s3fs turns only some of these into ``FileExistsError``.
    """
    if isinstance(error, FileExistsError):
        return True
    response = getattr(error.__cause__, "response", None) or {}
    code = response.get("Error", {}).get("Code")
    return error.errno == errno.EINVAL and code in ("PreconditionFailed", "412")
