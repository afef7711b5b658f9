"""A shard's file opened for checking: every byte comes by range, and nothing of it is trusted."""

import errno
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.contract import Contract
from pipeline.errors import UserError
from pipeline.reader.parquet import Parts
from pipeline.row_groups import group_begins, groups_of
from pipeline.row_statistics import Statistics, from_text
from pipeline.shards import column_prefixes, read_header
from pipeline.storage import Store
from pipeline.verify.findings import DamagedError, Kind

T = TypeVar("T")

Tensors = dict[str, np.ndarray]
Shape = tuple[int, int, int, int]
Read = Callable[[int, int], bytes]
"""The bytes ``[begin, end)`` of a file."""

_DTYPES = {"float16": "F16", "float32": "F32"}
_FOOTER_GUESS = 64 * 2**10


@dataclass(frozen=True)
class Rows:
    """Consecutive rows as they are stored: tensors ``(n, t, C, h, w)``, and their sample ids."""

    tensors: Tensors
    sample_ids: list[str]


@dataclass(frozen=True)
class OpenShard:
    """What a shard says of itself, and how its rows are read.

    ``statistics`` are None for a shard written before there were any. ``read(first, count, shape)``
    gives rows whose windows have this shape; it raises ``DamagedError``.
    """

    contract: Contract
    rows: int
    statistics: Mapping[str, Statistics] | None
    read: Callable[[int, int, Shape], Rows]


def open_shard(store: Store, path: str, size: int) -> OpenShard:
    """Read the header of a shard of ``size`` bytes.

    Raises ``DamagedError``. What the store itself refuses (credentials, a lost network) is raised
    as it comes: that is no damage.
    """

    def read(begin: int, end: int) -> bytes:
        try:
            data = store.read(path, begin, min(end, size)) if begin < size else b""
            if len(data) != max(0, min(end, size) - begin):
                raise DamagedError(Kind.UNREADABLE, f"it ends before byte {min(end, size)}")
        except FileNotFoundError as error:
            raise DamagedError(Kind.MISSING, "the file is gone") from error
        except OSError as error:
            if store.local and error.errno == errno.EIO:
                raise DamagedError(Kind.UNREADABLE, f"the disk cannot read it: {error}") from error
            raise
        return data

    opening = _open_safetensors if path.endswith(".safetensors") else _open_parquet
    return _parsed(lambda: opening(read, size, path))


def _parsed(parse: Callable[[], T]) -> T:
    """What parsing gives; the many errors of parsers as damage."""
    try:
        return parse()
    except (DamagedError, MemoryError):
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, UserError) as error:
        raise DamagedError(Kind.UNREADABLE, f"{type(error).__name__}: {error}") from error
    except OSError as error:
        if type(error) is OSError and error.errno is None:  # Arrow's, of bytes in memory
            raise DamagedError(Kind.UNREADABLE, f"{error}") from error
        raise


def _contract(metadata: Mapping[str, str], path: str) -> Contract:
    contract = Contract.from_dict(json.loads(metadata["contract"]), path)
    if contract.contract_id != metadata["contract_id"]:
        raise DamagedError(Kind.CONTRACT, "its contract is not the one that its id names")
    return contract


def _statistics(metadata: Mapping[str, str], rows: int) -> dict[str, Statistics] | None:
    if "statistics" not in metadata:
        return None
    found = from_text(metadata["statistics"])
    if any(len(values) != rows for values in found.values()):
        raise DamagedError(Kind.STATISTICS, f"its statistics are not of {rows} rows")
    return found


def _open_safetensors(read: Read, size: int, path: str) -> OpenShard:
    start, header = read_header(read)
    metadata = header.pop("__metadata__")
    contract = _contract(metadata, path)
    if set(header) != set(contract.tensors):
        raise DamagedError(Kind.SHAPE, f"it has the tensors {sorted(header)}")
    shapes, offsets = [], []
    for name in contract.tensors:
        entry = header[name]
        if entry["dtype"] != _DTYPES[contract.dtype]:
            raise DamagedError(Kind.DTYPE, f"{name} is {entry['dtype']}, not {contract.dtype}")
        shapes.append(tuple(int(n) for n in entry["shape"]))
        offsets.append(tuple(int(n) for n in entry["data_offsets"]))
    rows, *shape = shapes[0]
    each = math.prod(shape) * np.dtype(contract.dtype).itemsize
    if any(found != shapes[0] or len(found) != 5 for found in shapes) or min(shapes[0]) <= 0:
        raise DamagedError(Kind.SHAPE, f"its tensors have the shapes {shapes}")
    ends = [(n * rows * each, (n + 1) * rows * each) for n in range(len(shapes))]
    if sorted(offsets) != ends or start + ends[-1][1] != size:
        raise DamagedError(
            Kind.UNREADABLE, f"it has {size} bytes, and its header speaks of {start + ends[-1][1]}"
        )
    ids: list[str] = json.loads(metadata["sample_ids"])
    if len(ids) != rows:
        raise DamagedError(Kind.SAMPLE_IDS, f"it names {len(ids)} samples, and has {rows} rows")

    def read_rows(first: int, count: int, wanted: Shape) -> Rows:
        _check_shape(tuple(shape), wanted)
        tensors = {}
        for name, (begin, _) in zip(contract.tensors, offsets, strict=True):
            at = start + begin + first * each
            data = read(at, at + count * each)
            tensors[name] = np.frombuffer(data, contract.dtype).reshape(count, *wanted)
        return Rows(tensors, ids[first : first + count])

    return OpenShard(contract, rows, _statistics(metadata, rows), read_rows)


def _open_parquet(read: Read, size: int, path: str) -> OpenShard:
    data = read(max(0, size - _FOOTER_GUESS), size)
    length = int.from_bytes(data[-8:-4], "little") + 8
    if length > len(data) and length <= size:
        data = read(size - length, size)
    footer = pq.read_metadata(pa.BufferReader(data))
    metadata = {key.decode(): value.decode() for key, value in (footer.metadata or {}).items()}
    contract = _contract(metadata, path)
    prefixes = column_prefixes(contract)
    columns = [f"{p}_{part}" for p in prefixes.values() for part in ("bytes", "shape", "dtype")]

    begins = group_begins(footer)

    def read_rows(first: int, count: int, wanted: Shape) -> Rows:
        groups = groups_of(begins, first, count)
        begin, end = _extent(footer, groups)
        source = pa.PythonFile(Parts([(begin, read(begin, end))]), mode="r")
        tensors = {name: np.empty((count, *wanted), contract.dtype) for name in prefixes}
        ids: list[str] = []

        def parse() -> None:
            file = pq.ParquetFile(source, metadata=footer)
            for group in groups:  # one by one: the copies that Arrow makes stay small
                table = file.read_row_group(group, ["id", *columns], use_threads=False)
                skipped = max(0, first - begins[group])
                table = table.slice(skipped, count - len(ids))
                fill(table, len(ids), tensors)
                ids.extend(table["id"].to_pylist())

        _parsed(parse)
        return Rows(tensors, ids)

    def fill(table: pa.Table, at: int, tensors: Tensors) -> None:
        for name, prefix in prefixes.items():
            for dtype in set(table[f"{prefix}_dtype"].to_pylist()) - {contract.dtype}:
                raise DamagedError(Kind.DTYPE, f"{name} is {dtype}, not {contract.dtype}")
            shape = tensors[name].shape[1:]
            for found in table[f"{prefix}_shape"].to_pylist():
                _check_shape(tuple(found), shape)
            for row, value in enumerate(table[f"{prefix}_bytes"], at):
                stored = np.frombuffer(value.as_buffer(), contract.dtype)
                tensors[name][row] = stored.reshape(shape)

    rows = footer.num_rows
    return OpenShard(contract, rows, _statistics(metadata, rows), read_rows)


def _extent(footer: Any, groups: range) -> tuple[int, int]:
    """The bytes that hold all columns of some row groups."""
    begins, ends = [], []
    for number in groups:
        group = footer.row_group(number)
        for index in range(group.num_columns):
            chunk = group.column(index)
            begin = min(
                at
                for at in (chunk.dictionary_page_offset, chunk.data_page_offset)
                if at is not None
            )
            begins.append(begin)
            ends.append(begin + chunk.total_compressed_size)
    return min(begins), max(ends)


def _check_shape(found: tuple[int, ...], wanted: Shape) -> None:
    if found != wanted:
        raise DamagedError(Kind.SHAPE, f"a window has the shape {list(found)}, not {list(wanted)}")
