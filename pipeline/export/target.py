"""Where an export goes: a folder on any fsspec filesystem, empty at the begin."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from pipeline.config import StorageConfig
from pipeline.errors import UserError
from pipeline.explain import explained
from pipeline.retry import Retry
from pipeline.storage import S3_PROTOCOLS, absolute, open_filesystem, protocol_of

MARKER = "_export.json"
"""Written first with ``complete`` false, and again, behind everything else, with true.

Readers of Parquet folders leave files out that begin so.
"""


class Target:
    """Files of an export; each appears whole or not at all."""

    def __init__(self, uri: str, storage: StorageConfig) -> None:
        self.uri = absolute(uri).rstrip("/")
        self._retry = Retry(storage.retry_seconds)
        self._filesystem, path = open_filesystem(self.uri, storage)
        self._root = path.rstrip("/")

    def check_empty(self) -> None:
        """Raise ``UserError`` where there is anything already."""
        with self._explained("read"):
            names = self._names()
            if not names:
                return
            begun = MARKER in names and not self._marker().get("complete")
        if begun:
            raise UserError(
                f"{self.uri}: an export was interrupted here ({MARKER} says that it is not "
                "complete); delete the folder, or export to another"
            )
        raise UserError(
            f"{self.uri}: there are files here ({names[0]}, …), and nothing is overwritten; name "
            "a folder that is empty or new"
        )

    def _names(self) -> list[str]:
        try:
            found = self._retry.call(lambda: self._filesystem.ls(self._root, detail=False))
        except FileNotFoundError:
            return []
        return sorted({str(name).rstrip("/").rsplit("/", 1)[-1] for name in found} - {""})

    def _marker(self) -> dict[str, Any]:
        text = self._retry.call(lambda: self._filesystem.cat_file(f"{self._root}/{MARKER}"))
        try:
            found = json.loads(text)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def mark(self, fields: dict[str, Any], *, complete: bool) -> None:
        """Write the marker."""
        text = json.dumps({"complete": complete, **fields}, indent=2, default=str) + "\n"
        self.write(MARKER, text.encode())

    def write(self, path: str, data: bytes) -> None:
        """Put a whole file; one of the same name is replaced. Raises ``UserError``."""
        full = f"{self._root}/{path}"
        with self._explained("written"):
            if protocol_of(self.uri) not in S3_PROTOCOLS:  # there, folders are made by names
                self._filesystem.makedirs(full.rpartition("/")[0], exist_ok=True)
            if protocol_of(self.uri) == "file":
                self._filesystem.pipe_file(f"{full}.part", data)
                self._filesystem.mv(f"{full}.part", full)
            else:
                self._retry.call(lambda: self._filesystem.pipe_file(full, data))

    @contextlib.contextmanager
    def _explained(self, verb: Any) -> Iterator[None]:
        with explained(self.uri, verb):
            yield
