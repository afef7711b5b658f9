"""Values of a column of binary values in Parquet shards, by the bytes of single rows where it can.

A column chunk of a shard is one page of PLAIN values, uncompressed: a head, and then for each row
its length in four bytes and its value. All values have one size, so that a row's place follows from
the chunk's size.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.reader.disk_cache import Data
from pipeline.reader.mapped import MappedShard
from pipeline.reader.remote import Range, RemoteShard
from pipeline.shards import ROW_GROUP_ROWS

AnyShard = MappedShard | RemoteShard
Values = dict[str, list[Data]]

_NEAR = 64 * 2**10
"""Ranges that are no further apart are read as one."""

_LENGTH = 4


def plain_values(
    shard: AnyShard, metadata: Any, first: int, count: int, columns: Sequence[str], size: int
) -> Values | None:
    """The values of rows by column, each of ``size`` bytes, read alone.

    None where they do not lie as they are written here: other programs may write pages otherwise.
    """
    ranges: dict[str, list[Range]] = {name: [] for name in columns}
    step = _LENGTH + size
    for group in _groups(first, count):
        rows = metadata.row_group(group).num_rows
        begin = group * ROW_GROUP_ROWS
        wanted = range(max(first, begin) - begin, min(first + count, begin + rows) - begin)
        for name, chunk in _chunks(metadata, group, columns).items():
            head = chunk.total_compressed_size - rows * step
            if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page or head < 0:
                return None
            start = chunk.data_page_offset + head
            if shard.splits:
                ranges[name] += [(start + n * step, start + (n + 1) * step) for n in wanted]
            else:
                ranges[name].append((start + wanted.start * step, start + wanted.stop * step))
    parts = iter(shard.ranges([r for name in columns for r in ranges[name]], gap=_NEAR))
    found: Values = {}
    for name in columns:
        values = found[name] = []
        for _ in ranges[name]:
            rows_read = np.frombuffer(next(parts), np.uint8).reshape(-1, step)
            if not (rows_read[:, :_LENGTH].copy().view("<u4") == size).all():
                return None
            values += [row.data for row in rows_read[:, _LENGTH:]]
    return found


def group_values(
    shard: AnyShard, metadata: Any, first: int, count: int, columns: Sequence[str]
) -> Values:
    """The values of rows by column, from all of their row groups, decoded by pyarrow."""
    groups = _groups(first, count)
    ranges = []
    for group in groups:
        for chunk in _chunks(metadata, group, columns).values():
            begin = chunk.dictionary_page_offset or chunk.data_page_offset
            ranges.append((begin, begin + chunk.total_compressed_size))
    starts = [begin for begin, _ in ranges]
    parts = list(zip(starts, shard.ranges(ranges, gap=_NEAR), strict=True))
    file = pq.ParquetFile(pa.PythonFile(Parts(parts), mode="r"), metadata=metadata)
    table = file.read_row_groups(list(groups), columns=sorted(columns), use_threads=False)
    table = table.slice(first - groups[0] * ROW_GROUP_ROWS, count)
    return {name: [memoryview(v.as_buffer()) for v in table[name]] for name in columns}


def _groups(first: int, count: int) -> range:
    return range(first // ROW_GROUP_ROWS, (first + count - 1) // ROW_GROUP_ROWS + 1)


def _chunks(metadata: Any, group: int, columns: Sequence[str]) -> dict[str, Any]:
    part = metadata.row_group(group)
    found = {part.column(n).path_in_schema: part.column(n) for n in range(part.num_columns)}
    return {name: found[name] for name in columns}


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
