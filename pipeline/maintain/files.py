"""The files below a folder of the cache, with size and age, and deleting many of them."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.retry import Retry
from pipeline.storage import Store, open_filesystem

_KEYS_PER_REQUEST = 1000


@dataclass(frozen=True)
class StoredFile:
    """A file of the cache: path below the root, bytes, time of its last modification."""

    path: str
    size: int
    modified: datetime.datetime


def list_files(store: Store, folder: str) -> list[StoredFile]:
    """Every file below a folder, in any depth, by path; none when there is no such folder."""
    filesystem, root = open_filesystem(store.uri, store.storage)
    root = root.rstrip("/")
    filesystem.invalidate_cache()
    found: dict[str, dict[str, Any]] = Retry(store.storage.retry_seconds).call(
        lambda: filesystem.find(f"{root}/{folder}", detail=True)
    )
    return sorted(
        (
            StoredFile(name[len(root) + 1 :], int(info["size"] or 0), _modified(info))
            for name, info in found.items()
            if info["type"] == "file" and name.startswith(f"{root}/{folder}/")
        ),
        key=lambda file: file.path,
    )


def _modified(info: dict[str, Any]) -> datetime.datetime:
    time = info.get("LastModified", info.get("mtime"))
    if isinstance(time, datetime.datetime):
        return time.astimezone(datetime.UTC)
    return datetime.datetime.fromtimestamp(float(time or 0), datetime.UTC)


def delete_files(store: Store, paths: Sequence[str]) -> None:
    """Delete files, up to 1000 with one request on S3; missing ones are no error.

    Raises ``OSError`` when the store refuses to delete one.
    """
    if store.local:
        for path in paths:
            (Path(store.uri) / path).unlink(missing_ok=True)
        return
    filesystem, root = open_filesystem(store.uri, store.storage)
    bucket, _, prefix = root.strip("/").partition("/")
    keys = [f"{prefix}/{path}" if prefix else path for path in paths]
    for begin in range(0, len(keys), _KEYS_PER_REQUEST):
        objects = [{"Key": key} for key in keys[begin : begin + _KEYS_PER_REQUEST]]
        _delete_objects(store, filesystem, bucket, objects)


def _delete_objects(
    store: Store, filesystem: Any, bucket: str, objects: list[dict[str, str]]
) -> None:
    answer = Retry(store.storage.retry_seconds).call(
        lambda: filesystem.call_s3(
            "delete_objects", Bucket=bucket, Delete={"Objects": objects, "Quiet": True}
        )
    )
    for error in answer.get("Errors", ()):
        raise OSError(
            f"s3://{bucket}/{error.get('Key')} could not be deleted: {error.get('Code')} "
            f"{error.get('Message')}; allow s3:DeleteObject, and run vacuum again to go on"
        )
