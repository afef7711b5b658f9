"""Reading whole segments out of shards: consecutive rows, by range."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.contract import Contract
from pipeline.row_groups import group_begins, groups_of
from pipeline.shards import column_prefixes, read_header, shard_errors
from pipeline.storage import Store

Tensors = dict[str, np.ndarray]


def read_spans(
    store: Store, path: str, spans: Sequence[tuple[int, int]], contract: Contract
) -> Iterator[Tensors]:
    """The tensors of rows ``[first, first + count)`` for each of ``spans``.

    Each is ``[count, t, C, h, w]``; one range is read for it (in Parquet, its row groups). Raises
    ``ShardError`` when the shard is missing or damaged.
    """
    with shard_errors(f"{store.uri}/{path}"):
        if path.endswith(".safetensors"):
            yield from _safetensors(store, path, spans, contract)
        else:
            yield from _parquet(store, path, spans, contract)


def _safetensors(
    store: Store, path: str, spans: Sequence[tuple[int, int]], contract: Contract
) -> Iterator[Tensors]:
    begin, header = read_header(lambda start, end: store.read(path, start, end))
    for first, count in spans:
        found = {}
        for name in contract.tensors:
            entry = header[name]
            shape, offset = entry["shape"], entry["data_offsets"][0]
            dtype: np.dtype[Any] = np.dtype({"F16": "<f2", "F32": "<f4"}[entry["dtype"]])
            if first + count > shape[0]:
                raise ValueError(f"row {first + count - 1} of {shape[0]}")
            size = int(np.prod(shape[1:])) * dtype.itemsize
            at = begin + offset + first * size
            data = store.read(path, at, at + count * size)
            found[name] = np.frombuffer(data, dtype).reshape(count, *shape[1:])
        yield found


def _parquet(
    store: Store, path: str, spans: Sequence[tuple[int, int]], contract: Contract
) -> Iterator[Tensors]:
    prefixes = column_prefixes(contract)
    columns = [f"{p}_{part}" for p in prefixes.values() for part in ("bytes", "shape", "dtype")]
    with store.open(path) as file:
        parquet = pq.ParquetFile(file)
        begins = group_begins(parquet.metadata)
        for first, count in spans:
            groups = groups_of(begins, first, count)
            rows = parquet.read_row_groups(list(groups), columns=columns)
            table = rows.slice(first - begins[groups[0]], count)
            yield {name: _stack(table, prefix) for name, prefix in prefixes.items()}


def _stack(table: pa.Table, prefix: str) -> np.ndarray:
    parts = zip(*(table[f"{prefix}_{p}"] for p in ("bytes", "shape", "dtype")), strict=True)
    return np.stack(
        [
            np.frombuffer(data.as_buffer(), np.dtype(dtype.as_py())).reshape(shape.as_py())
            for data, shape, dtype in parts
        ]
    )
