"""Rows of shards, by ranges, into memory that is given; safetensors and Parquet."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.contract import Contract
from pipeline.errors import StoreError, UserError
from pipeline.reader.disk_cache import DiskCache
from pipeline.reader.files import Files, HeldRead, LocalShard
from pipeline.reader.here import Later, Read
from pipeline.reader.index import Array
from pipeline.reader.parquet import AnyShard, Footer, fill_decoded, fill_plain
from pipeline.reader.pieces import Piece, memory
from pipeline.reader.remote import RemoteShard
from pipeline.reader.signed import SignedRanges
from pipeline.shards import ShardError, column_prefixes, read_header, repair, shard_errors
from pipeline.storage import Store

_KEPT_HEADERS = 16_384


@dataclass(frozen=True)
class _Safetensors:
    """Where the first row of each tensor begins, and how many rows there are."""

    begins: dict[str, int]
    rows: int


class RowReader:
    """Reads adjacent rows of shards of one cache.

    A shard's header is read once (one request; two for Parquet) and kept. After it, rows cost one
    range for each statistic; in Parquet one for each row group that they lie in, which holds whole
    segments.
    """

    def __init__(
        self, store: Store, contract: Contract, cache: DiskCache | None = None, threads: int = 1
    ) -> None:
        """``cache`` holds what was read of a store that is no folder; ``threads`` read at once."""
        self._store, self._cache = store, cache
        self._prefixes = column_prefixes(contract)
        self._headers: OrderedDict[str, Any] = OrderedDict()
        self._reading: dict[str, threading.Lock] = {}
        self._files = Files(store)
        self._ranges = SignedRanges(store, threads)

    def read(self, path: str, first: int, into: Mapping[str, Array]) -> None:
        """Fill arrays ``(count, t, C, h, w)`` by statistic with the rows from ``first`` on.

        They are contiguous, and of the stored dtype. Raises ``ShardError``: the shard is missing or
        damaged; ``StoreError``: nobody knows.
        """
        with self._errors(path, first):
            if self._store.local:
                self._fill(LocalShard(self._files, path), first, into)
                return
            try:
                self._fill(RemoteShard(self._ranges, path, self._cache), first, into)
            except (FileNotFoundError, UserError):
                raise
            except Exception:
                if self._cache is None:
                    raise
                # The disk cache may be to blame, or the shard was mended since.
                self._headers.pop(path, None)
                self._fill(RemoteShard(self._ranges, path, self._cache, fresh=True), first, into)

    def later(self, path: str, first: int, into: Mapping[str, Array]) -> Read:
        """``read``, by the one who asks for the result."""
        plain = Later(self.read, path, first, into)
        header, file = self._headers.get(path), self._files.opened(path)
        if file is None or not isinstance(header, _Safetensors):
            return plain
        pieces, count = [], 0
        for name, array in into.items():
            count = len(array)
            begin = header.begins[name] + first * (array.nbytes // count)
            pieces.append(Piece(begin, (memory(array),)))
        return HeldRead(file, pieces, plain) if 0 <= first <= header.rows - count else plain

    def expect(self, path: str, first: int, count: int, names: Sequence[str], size: int) -> None:
        """Have a disk bring in rows of ``size`` bytes that ``read`` will be asked for soon.

        Only where reads had to wait lately, and of safetensors. Reading them tells of errors.
        """
        if not self._files.waits or not path.endswith(".safetensors"):
            return
        with contextlib.suppress(ShardError, StoreError), self._errors(path, first):
            shard = LocalShard(self._files, path)
            header = self._header(path, lambda: _safetensors_header(shard, size))
            for name in names:
                shard.expect(header.begins[name] + first * size, count * size)

    def _errors(self, path: str, first: int) -> contextlib.AbstractContextManager[None]:
        place = f"{self._store.uri}/{path}"
        return shard_errors(place, at=f", row {first},", remedy=repair(self._store.uri))

    def _fill(self, shard: AnyShard, first: int, into: Mapping[str, Array]) -> None:
        if shard.path.endswith(".safetensors"):
            shard.fill(self._safetensors(shard, first, into))
            return
        columns = {f"{self._prefixes[name]}_bytes": array for name, array in into.items()}
        footer = self._footer(shard)
        if not fill_plain(shard, footer, first, columns):
            fill_decoded(shard, footer, first, columns)

    def _safetensors(self, shard: AnyShard, first: int, into: Mapping[str, Array]) -> list[Piece]:
        one = next(iter(into.values()))
        count = len(one)
        size = one.nbytes // count
        header = self._header(shard.path, lambda: _safetensors_header(shard, size))
        if not 0 <= first <= header.rows - count:
            raise ValueError(f"row {first + count - 1} of {header.rows}")
        return [
            Piece(header.begins[name] + (first + n) * size, (memory(row),))
            for name, array in into.items()
            for n, row in enumerate(array)
        ]

    def _footer(self, shard: AnyShard) -> Footer:
        columns = [f"{prefix}_bytes" for prefix in self._prefixes.values()]
        found: Footer = self._header(shard.path, lambda: Footer.read(shard, columns))
        return found

    def _header(self, path: str, read: Callable[[], Any]) -> Any:
        """What ``read`` gives, once: other threads that want it wait."""
        kept = self._headers.get(path)
        if kept is None:
            with self._reading.setdefault(path, threading.Lock()):
                kept = self._headers.get(path) or read()
                self._headers[path] = kept
                if len(self._headers) > _KEPT_HEADERS:
                    self._headers.popitem(last=False)
            self._reading.pop(path, None)
        return kept


def _safetensors_header(shard: AnyShard, size: int) -> _Safetensors:
    start, fields = read_header(shard.head)
    tensors = {name: entry for name, entry in fields.items() if name != "__metadata__"}
    rows = {int(entry["shape"][0]) for entry in tensors.values()}
    for name, entry in tensors.items():
        begin, end = entry["data_offsets"]
        if len(rows) != 1 or end - begin != min(rows) * size:
            raise ValueError(f"tensor {name!r} of shape {entry['shape']}: {end - begin} bytes")
    begins = {name: start + int(e["data_offsets"][0]) for name, e in tensors.items()}
    return _Safetensors(begins, rows.pop())
