"""Rows of shards: mapped where the cache is local, else by ranges; safetensors and Parquet."""

import mmap
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.contract import Contract
from pipeline.coverage import merge
from pipeline.reader.index import Array
from pipeline.shards import ROW_GROUP_ROWS, column_prefixes, read_header, shard_errors
from pipeline.storage import Store

_FOOTER_GUESS = 64 * 2**10
_NEAR = 64 * 2**10
"""Ranges that are no further apart are read as one."""

_KEPT_HEADERS = 16_384
_KEPT_MAPS = 64
_POPULATE_READ = 22  # Linux 5.14: the pages at once, without a fault for each
_REPAIR = (
    "encode its sources again (jobs/encode_dataset.py --overwrite); where a vacuum dropped the "
    "snapshot, open a newer one, and tag what a training run pins"
)

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Safetensors:
    """Where the first row of each tensor begins, and how many rows there are."""

    begins: dict[str, int]
    rows: int


class RowReader:
    """Reads adjacent rows of shards of one cache.

    A shard's header is read once (one request; two for Parquet) and kept. After it, rows cost one
    range for each statistic: in Parquet the row groups that hold them, in as few ranges.
    """

    def __init__(self, store: Store, contract: Contract) -> None:
        self._store = store
        self._dtype: np.dtype[Any] = np.dtype(contract.dtype).newbyteorder("<")
        self._prefixes = column_prefixes(contract)
        self._headers: OrderedDict[str, Any] = OrderedDict()
        self._maps: OrderedDict[str, mmap.mmap] = OrderedDict()

    def read(
        self, path: str, first: int, count: int, names: Sequence[str], shape: Shape
    ) -> dict[str, Array]:
        """Tensors ``(count, t, C, h, w)`` by statistic. Raises ``ShardError``."""
        with shard_errors(f"{self._store.uri}/{path}", at=f", row {first},", remedy=_REPAIR):
            if path.endswith(".safetensors"):
                return self._safetensors(path, first, count, names, shape)
            return self._parquet(path, first, count, names, shape)

    def _safetensors(
        self, path: str, first: int, count: int, names: Sequence[str], shape: Shape
    ) -> dict[str, Array]:
        size = int(np.prod(shape)) * self._dtype.itemsize
        header = self._header(path, lambda: self._safetensors_header(path, size))
        if first + count > header.rows:
            raise ValueError(f"row {first + count - 1} of {header.rows}")
        found = {}
        for name in names:
            begin = header.begins[name] + first * size
            data = self._bytes(path, begin, begin + count * size)
            found[name] = np.frombuffer(data, self._dtype).reshape(count, *shape)
        return found

    def _safetensors_header(self, path: str, size: int) -> _Safetensors:
        start, fields = read_header(lambda begin, end: self._store.read(path, begin, end))
        tensors = {name: entry for name, entry in fields.items() if name != "__metadata__"}
        rows = {int(entry["shape"][0]) for entry in tensors.values()}
        for name, entry in tensors.items():
            begin, end = entry["data_offsets"]
            if len(rows) != 1 or end - begin != min(rows) * size:
                raise ValueError(f"tensor {name!r} of shape {entry['shape']}: {end - begin} bytes")
        begins = {name: start + int(e["data_offsets"][0]) for name, e in tensors.items()}
        return _Safetensors(begins, rows.pop())

    def _parquet(
        self, path: str, first: int, count: int, names: Sequence[str], shape: Shape
    ) -> dict[str, Array]:
        metadata = self._header(path, lambda: self._footer(path))
        if first + count > metadata.num_rows:
            raise ValueError(f"row {first + count - 1} of {metadata.num_rows}")
        groups = range(first // ROW_GROUP_ROWS, (first + count - 1) // ROW_GROUP_ROWS + 1)
        columns = {name: f"{self._prefixes[name]}_bytes" for name in names}
        wanted = set(columns.values())
        ranges = []
        for group in groups:
            part = metadata.row_group(group)
            for number in range(part.num_columns):
                chunk = part.column(number)
                if chunk.path_in_schema in wanted:
                    begin = chunk.data_page_offset
                    ranges.append((begin, begin + chunk.total_compressed_size))
        parts = [(a, self._bytes(path, a, b)) for a, b in merge(ranges, gap=_NEAR)]
        file = pq.ParquetFile(pa.PythonFile(Parts(parts), mode="r"), metadata=metadata)
        table = file.read_row_groups(list(groups), columns=sorted(wanted), use_threads=False)
        table = table.slice(first - groups[0] * ROW_GROUP_ROWS, count)
        return {
            name: np.stack(
                [np.frombuffer(v.as_buffer(), self._dtype).reshape(shape) for v in table[column]]
            )
            for name, column in columns.items()
        }

    def _footer(self, path: str) -> Any:
        if self._store.local:
            return pq.read_metadata(Path(self._store.uri) / path)
        end = self._store.size(path)
        begin = max(0, end - _FOOTER_GUESS)
        data = self._store.read(path, begin, end)
        length = int.from_bytes(data[-8:-4], "little") + 8
        if length > len(data):
            data = self._store.read(path, end - length, end)
        return pq.read_metadata(pa.BufferReader(data))

    def _header(self, path: str, read: Callable[[], Any]) -> Any:
        if path not in self._headers:
            self._headers[path] = read()
            if len(self._headers) > _KEPT_HEADERS:
                self._headers.popitem(last=False)
        return self._headers[path]

    def _bytes(self, path: str, begin: int, end: int) -> Any:
        if self._store.local:
            data: Any = self._mapped(path, begin, end)
        else:
            data = self._store.read(path, begin, end)
        if len(data) != end - begin:
            raise ValueError(f"it ends {end - begin - len(data)} bytes too early")
        return data

    def _mapped(self, path: str, begin: int, end: int) -> memoryview:
        """A part of a mapped file, its pages brought in with one call."""
        mapped = self._maps.get(path)
        if mapped is None:
            with (Path(self._store.uri) / path).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            self._maps[path] = mapped
            if len(self._maps) > _KEPT_MAPS:
                self._maps.popitem(last=False)  # unmapped when its last view is gone
        self._maps.move_to_end(path)
        _advise(mapped, begin, min(end, len(mapped)), _POPULATE_READ)
        return memoryview(mapped)[begin:end]

    def release(self) -> None:
        """Let go of the pages of mapped files that were read: the memory stays small."""
        for mapped in self._maps.values():
            mapped.madvise(mmap.MADV_DONTNEED)


def _advise(mapped: mmap.mmap, begin: int, end: int, advice: int) -> None:
    aligned = begin // mmap.PAGESIZE * mmap.PAGESIZE
    if end > aligned:
        try:
            mapped.madvise(advice, aligned, end - aligned)
        except OSError:  # an older kernel: the pages come one by one
            return


class Parts:
    """Parts of a file, as much of a file as pyarrow needs to read column chunks."""

    closed = False

    def __init__(self, parts: Sequence[tuple[int, Any]]) -> None:
        self._parts = [(begin, memoryview(data)) for begin, data in parts]
        self._at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a byte; from the end (2) counts from that of the last part."""
        if whence == 2:
            offset += max(begin + len(data) for begin, data in self._parts)
        self._at = offset
        return offset

    def tell(self) -> int:
        """The byte that comes next."""
        return self._at

    def read(self, count: int = -1) -> bytes:
        """Bytes of one part. Raises ``ValueError`` for what is in none."""
        for begin, data in self._parts:
            if begin <= self._at < begin + len(data):
                found = bytes(data[self._at - begin :][: None if count < 0 else count])
                self._at += len(found)
                return found
        raise ValueError(f"byte {self._at} was not fetched")

    def close(self) -> None:
        """Nothing is open."""
        return None
