"""Tar files for the tests, and a store whose requests are counted."""

import io
import json
import tarfile
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem


def make_tar(members: list[tuple[str, Any]], **settings: Any) -> bytes:
    """A tar file; a member is bytes, text, something for JSON, or a ``TarInfo`` without data."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", **settings) as tar:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                tar.addfile(content)
                continue
            if isinstance(content, dict | list):
                content = json.dumps(content)
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()


class RangedFile(io.RawIOBase):
    """A file of a remote store: bytes come by range, and what was fetched is counted."""

    fetched: list[tuple[int, int]]

    def __init__(self, data: bytes, fetched: list[tuple[int, int]]) -> None:
        self.data, self.fetched, self.at, self.size = data, fetched, 0, len(data)

    def _fetch_range(self, start: int, end: int) -> bytes:
        self.fetched.append((start, end))
        return self.data[start:end]

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = (0, self.at, self.size)[whence] + offset
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, count: int = -1) -> bytes:
        end = self.size if count < 0 else min(self.size, self.at + count)
        data = self._fetch_range(self.at, end) if end > self.at else b""
        self.at = max(self.at, end)
        return data


class RangedStore(MemoryFileSystem):
    """A memory filesystem whose files come by range."""

    protocol = "ranged"
    cachable = False
    store: dict[str, Any] = {}  # noqa: RUF012  (as its base class)
    pseudo_dirs = [""]  # noqa: RUF012
    fetched: list[tuple[int, int]] = []  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        path = path.removeprefix("ranged://")
        return "/" + path.strip("/") if path.strip("/") else ""

    def _open(self, path: str, mode: str = "rb", **settings: Any) -> Any:
        if mode != "rb":
            return super()._open(path, mode, **settings)
        return RangedFile(self.store[self._strip_protocol(path)].getvalue(), self.fetched)
