"""Values of columns of binary values in Parquet shards, by the bytes of single rows where it can.

A column chunk of a shard is one page of PLAIN values, uncompressed: a head, and then for each row
its length in four bytes and its value. All values have one size, so that a row's place follows from
the chunk's size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.reader.files import LocalShard
from pipeline.reader.index import Array
from pipeline.reader.pieces import Piece, memory
from pipeline.reader.remote import RemoteShard
from pipeline.row_groups import group_begins, groups_of

AnyShard = LocalShard | RemoteShard

_NEAR = 64 * 2**10
"""Ranges that are no further apart are read as one."""

_FOOTER_GUESS = 64 * 2**10
_LENGTH = 4


@dataclass(frozen=True)
class Chunk:
    """Where the values of a column in a row group lie.

    ``page`` is the byte at which the page of values begins; ``plain``: they are not compressed, and
    there is no dictionary.
    """

    begin: int
    page: int
    end: int
    plain: bool


@dataclass(frozen=True)
class Footer:
    """What a shard's footer says of some columns.

    ``begins``: the first row of each row group, and last the number of all rows; ``chunks``: by
    column, one a row group.
    """

    begins: list[int]
    chunks: Mapping[str, Sequence[Chunk]]
    metadata: Any

    @classmethod
    def read(cls, shard: AnyShard, columns: Sequence[str]) -> "Footer":
        """Read it: one request, or two where it is long."""
        data = shard.tail(_FOOTER_GUESS)
        length = int.from_bytes(data[-8:-4], "little") + 8
        if length > len(data):
            data = shard.tail(length)
        metadata = pq.read_metadata(pa.BufferReader(data))
        places = {metadata.schema.column(n).path: n for n in range(metadata.num_columns)}
        groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
        chunks = {
            name: [_chunk(group.column(places[name])) for group in groups] for name in columns
        }
        return cls(group_begins(metadata), chunks, metadata)


def _chunk(found: Any) -> Chunk:
    page = found.data_page_offset
    begin = found.dictionary_page_offset or page
    plain = found.compression == "UNCOMPRESSED" and not found.has_dictionary_page
    return Chunk(begin, page, begin + found.total_compressed_size, plain)


def plain_pieces(
    footer: Footer, first: int, into: Mapping[str, Array]
) -> tuple[list[Piece], Array] | None:
    """Pieces that fill arrays ``(count, …)`` by column with the values of rows from ``first`` on.

    The array beside them, of ``<u4``, gets what the file gives as the values' lengths. None where
    values do not lie as they are written here: other programs may write pages otherwise.
    """
    count = len(next(iter(into.values())))
    lengths = np.zeros(count * len(into), "<u4")
    pieces = []
    heads = iter(memory(lengths.view("V4")[n : n + 1]) for n in range(len(lengths)))
    for name, array in into.items():
        step = _LENGTH + array[0].nbytes
        values = iter(array)
        for group in groups_of(footer.begins, first, count):
            begin, stop = footer.begins[group], footer.begins[group + 1]
            chunk = footer.chunks[name][group]
            start = chunk.end - (stop - begin) * step
            if not chunk.plain or start < chunk.page:
                return None
            for row in range(max(first, begin), min(first + count, stop)):
                parts = (next(heads), memory(next(values)))
                pieces.append(Piece(start + (row - begin) * step, parts))
    return pieces, lengths


def fill_plain(shard: AnyShard, footer: Footer, first: int, into: Mapping[str, Array]) -> bool:
    """Fill arrays with values that are read alone; False where they do not lie so."""
    found = plain_pieces(footer, first, into)
    if found is None:
        return False
    pieces, lengths = found
    shard.fill(pieces, gap=_NEAR)
    sizes = [array[0].nbytes for array in into.values()]
    return bool((lengths.reshape(len(sizes), -1) == np.array(sizes)[:, None]).all())


def fill_decoded(shard: AnyShard, footer: Footer, first: int, into: Mapping[str, Array]) -> None:
    """Fill arrays from whole row groups, decoded by pyarrow."""
    count = len(next(iter(into.values())))
    groups = groups_of(footer.begins, first, count)
    chunks = [footer.chunks[name][group] for group in groups for name in into]
    parts = [(chunk.begin, bytearray(chunk.end - chunk.begin)) for chunk in chunks]
    wanted = sorted(parts, key=lambda part: part[0])
    shard.fill([Piece(begin, (memoryview(data),)) for begin, data in wanted], gap=_NEAR)
    source = pa.PythonFile(Parts(parts), mode="r")
    file = pq.ParquetFile(source, metadata=footer.metadata, pre_buffer=False)
    table = file.read_row_groups(list(groups), columns=sorted(into), use_threads=False)
    table = table.slice(first - footer.begins[groups[0]], count)
    for name, array in into.items():
        for row, value in zip(array, table[name], strict=True):
            memory(row)[:] = memoryview(value.as_buffer()).cast("B")


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
