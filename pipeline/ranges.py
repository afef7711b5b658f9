"""Rows kept aside and given back one range of the source hash at a time, in bounded memory."""

import contextlib
import os
import tempfile
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UserError

RANGES = 256
"""Ranges of the source hash, by its first two hexadecimal digits."""

_DIGITS = pa.array([f"{number:02x}" for number in range(RANGES)])
_SPAN_ROWS = 32_768
_PIECE_BYTES = 32 << 20


class RangedRows:
    """Rows with a column of hexadecimal ids, added in any order and read range by range.

    They go to a temporary file without a name (which the system removes, even when the process is
    killed) whenever some megabytes have come together; few rows never leave memory. A context
    manager.
    """

    def __init__(
        self, schema: pa.Schema, piece_bytes: int = _PIECE_BYTES, key: str = "source_id"
    ) -> None:
        """``piece_bytes`` are gathered in memory before they are written; ``key`` has the ids."""
        self.schema = schema
        self._key = key
        self.num_rows = 0
        self._piece_bytes = piece_bytes
        self._file = _temporary_file()  # closed by __exit__
        self._places: list[npt.NDArray[np.int64]] = []
        self._waiting: list[pa.Table] = []
        self._waiting_bytes = 0
        self._arranged: tuple[pa.Table, npt.NDArray[np.int64]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the rows."""
        self._waiting, self._arranged = [], None
        self._file.close()

    def add(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Keep rows, with at least the columns of ``schema``.

        Raises ``UserError`` where the temporary file finds no room.
        """
        table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        self.num_rows += table.num_rows
        kept = table.select(self.schema.names).cast(self.schema)
        self._waiting.append(kept)
        self._waiting_bytes += kept.nbytes
        self._arranged = None
        if self._waiting_bytes >= self._piece_bytes:
            try:
                self._write(*_arrange(pa.concat_tables(self._waiting), self._key))
            except OSError as error:
                held = os.fstat(self._file.fileno()).st_size
                with contextlib.suppress(OSError):  # closing writes what is buffered
                    self._file.close()
                raise UserError(
                    f"{tempfile.gettempdir()}: {held:,} bytes of rows to be compared were written "
                    f"to a temporary file here, and then no more: {error}. About 0.5 kB a source "
                    "are wanted: make room there, or set TMPDIR to another folder"
                ) from error
            self._waiting, self._waiting_bytes = [], 0

    def read(self, span: range) -> pa.Table:
        """All rows of the ranges of a span, within 0 and ``RANGES``, as one chunk."""
        if self._arranged is None:
            rows = pa.concat_tables([self.schema.empty_table(), *self._waiting])
            self._arranged = _arrange(rows, self._key)
        table, bounds = self._arranged
        found = [self._read_piece(places, n) for places in self._places for n in span]
        last = table.slice(bounds[span.start], bounds[span.stop] - bounds[span.start])
        return pa.concat_tables([*found, last]).combine_chunks()

    def _write(self, table: pa.Table, bounds: npt.NDArray[np.int64]) -> None:
        places = np.zeros(RANGES + 1, np.int64)
        places[0] = self._file.seek(0, os.SEEK_END)
        for number in range(RANGES):
            rows = table.slice(bounds[number], bounds[number + 1] - bounds[number])
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, self.schema) as stream:
                stream.write_table(rows)
            places[number + 1] = places[number] + self._file.write(sink.getvalue())
        self._file.flush()
        self._places.append(places)

    def _read_piece(self, places: npt.NDArray[np.int64], number: int) -> pa.Table:
        size = int(places[number + 1] - places[number])
        data = os.pread(self._file.fileno(), size, int(places[number]))
        return pa.ipc.open_stream(data).read_all()


def _temporary_file() -> BinaryIO:
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise UserError(
            f"no temporary file can be made for rows to be compared: {error}. Set TMPDIR to a "
            "folder that can be written and has room"
        ) from error


def spans(rows: int) -> list[range]:
    """All ranges, in spans that hold some ten thousand of ``rows`` rows each if there are many."""
    step = max(1, RANGES * _SPAN_ROWS // max(rows, 1))
    return [range(at, min(at + step, RANGES)) for at in range(0, RANGES, step)]


def _arrange(table: pa.Table, key: str) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """Rows sorted by range, and the first row of each range (and the end)."""
    digits = pc.utf8_slice_codeunits(table[key], 0, 2)
    ranges = pc.index_in(digits, _DIGITS).to_numpy().astype(np.uint8)
    order = np.argsort(ranges, kind="stable")
    bounds = np.searchsorted(ranges[order], np.arange(RANGES + 1))
    return table.combine_chunks().take(order), bounds
