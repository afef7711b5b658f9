"""Rows of shards: mapped where the cache is local, else by ranges; safetensors and Parquet."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.contract import Contract
from pipeline.errors import UserError
from pipeline.reader.disk_cache import DiskCache
from pipeline.reader.index import Array
from pipeline.reader.mapped import MappedShard, Maps
from pipeline.reader.parquet import AnyShard, group_values, plain_values
from pipeline.reader.remote import RemoteShard
from pipeline.shards import column_prefixes, read_header, repair, shard_errors
from pipeline.storage import Store

_FOOTER_GUESS = 64 * 2**10
_KEPT_HEADERS = 16_384

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Safetensors:
    """Where the first row of each tensor begins, and how many rows there are."""

    begins: dict[str, int]
    rows: int


class RowReader:
    """Reads adjacent rows of shards of one cache.

    A shard's header is read once (one request; two for Parquet) and kept. After it, rows cost one
    range for each statistic; in Parquet one for each row group that they lie in.
    """

    def __init__(self, store: Store, contract: Contract, cache: DiskCache | None = None) -> None:
        """``cache`` holds what was read of a store that is no folder."""
        self._store, self._cache = store, cache
        self._dtype: np.dtype[Any] = np.dtype(contract.dtype).newbyteorder("<")
        self._prefixes = column_prefixes(contract)
        self._headers: OrderedDict[str, Any] = OrderedDict()
        self._reading: dict[str, threading.Lock] = {}
        self._maps = Maps(store)

    def read(
        self, path: str, first: int, count: int, names: Sequence[str], shape: Shape
    ) -> dict[str, Array]:
        """Tensors ``(count, t, C, h, w)`` by statistic.

        Raises ``ShardError``: the shard is missing or damaged; ``StoreError``: nobody knows.
        """
        remedy = repair(self._store.uri)
        with shard_errors(f"{self._store.uri}/{path}", at=f", row {first},", remedy=remedy):
            if self._store.local:
                return self._rows(MappedShard(self._maps, path), first, count, names, shape)
            shard = RemoteShard(self._store, path, self._cache)
            try:
                return self._rows(shard, first, count, names, shape)
            except (FileNotFoundError, UserError):
                raise
            except Exception:
                if self._cache is None:
                    raise
                # The disk cache may be to blame, or the shard was mended since.
                self._headers.pop(path, None)
                fresh = RemoteShard(self._store, path, self._cache, fresh=True)
                return self._rows(fresh, first, count, names, shape)

    def _rows(
        self, shard: AnyShard, first: int, count: int, names: Sequence[str], shape: Shape
    ) -> dict[str, Array]:
        if shard.path.endswith(".safetensors"):
            return self._safetensors(shard, first, count, names, shape)
        return self._parquet(shard, first, count, names, shape)

    def _safetensors(
        self, shard: AnyShard, first: int, count: int, names: Sequence[str], shape: Shape
    ) -> dict[str, Array]:
        size = int(np.prod(shape)) * self._dtype.itemsize
        header = self._header(shard.path, lambda: _safetensors_header(shard, size))
        if first + count > header.rows:
            raise ValueError(f"row {first + count - 1} of {header.rows}")
        found = {}
        for name in names:
            begin = header.begins[name] + first * size
            step = size if shard.splits else count * size
            wanted = [(at, at + step) for at in range(begin, begin + count * size, step)]
            parts = [np.frombuffer(data, self._dtype) for data in shard.ranges(wanted)]
            whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
            found[name] = whole.reshape(count, *shape)
        return found

    def _parquet(
        self, shard: AnyShard, first: int, count: int, names: Sequence[str], shape: Shape
    ) -> dict[str, Array]:
        metadata = self._header(shard.path, lambda: _footer(shard))
        if first + count > metadata.num_rows:
            raise ValueError(f"row {first + count - 1} of {metadata.num_rows}")
        columns = {name: f"{self._prefixes[name]}_bytes" for name in names}
        size = int(np.prod(shape)) * self._dtype.itemsize
        found = plain_values(shard, metadata, first, count, list(columns.values()), size)
        if found is None:
            found = group_values(shard, metadata, first, count, list(columns.values()))
        return {
            name: np.stack([np.frombuffer(v, self._dtype).reshape(shape) for v in found[column]])
            for name, column in columns.items()
        }

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

    def release(self) -> None:
        """Let go of the pages of mapped files that were read: the memory stays small."""
        self._maps.release()


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


def _footer(shard: AnyShard) -> Any:
    data = shard.tail(_FOOTER_GUESS)
    length = int.from_bytes(data[-8:-4], "little") + 8
    if length > len(data):
        data = shard.tail(length)
    return pq.read_metadata(pa.BufferReader(data))
