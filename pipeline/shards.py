"""Shards: immutable files of whole segments of one bucket, in safetensors or Parquet."""

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy

from pipeline.contract import Contract
from pipeline.errors import StoreError
from pipeline.identity import stable_hash
from pipeline.packs import SegmentInfo
from pipeline.row_groups import group_begins, group_rows, groups_of
from pipeline.row_statistics import to_text
from pipeline.storage import Store

_HEADER_GUESS = 64 * 2**10
_HEADER_LIMIT = 100 * 2**20

SUFFIXES = {"safetensors": ".safetensors", "parquet": ".parquet"}


@dataclass(frozen=True)
class Shard:
    """One shard as it is to be written.

    ``tensors``: one per statistic, ``[N, t, C, h, w]`` in the stored dtype, its rows the windows of
    ``segments`` in order.
    """

    bucket: str
    segments: tuple[SegmentInfo, ...]
    tensors: dict[str, np.ndarray]
    contract: Contract

    @cached_property
    def checksums(self) -> tuple[str, ...]:
        """One a row."""
        names = self.contract.tensors
        count = len(self.tensors[names[0]])
        return tuple(checksum([self.tensors[name][row] for name in names]) for row in range(count))

    def path(self, suffix: str) -> str:
        """Path in the cache: a hash of ids, checksums, and how the file is laid out.

        So equal content has one name, and a name never gets other bytes, whoever writes it.
        """
        ids = [[s.generation, *s.sample_ids] for s in self.segments]
        layout = "shard, row groups of segments" if suffix == ".parquet" else "shard"
        digest = stable_hash([layout, self.contract.contract_id, ids, list(self.checksums)])
        return f"data/{self.bucket}/{digest}{suffix}"

    def encode(self, suffix: str) -> bytes:
        """The file's bytes."""
        return _safetensors(self) if suffix == ".safetensors" else _parquet(self)


def _safetensors(shard: Shard) -> bytes:
    metadata = {
        "contract": json.dumps(json.loads(shard.contract.to_json())),
        "contract_id": shard.contract.contract_id,
        "bucket": shard.bucket,
        "sample_ids": json.dumps([i for s in shard.segments for i in s.sample_ids]),
        "statistics": to_text(shard.tensors),
    }
    tensors = {name: np.ascontiguousarray(t) for name, t in shard.tensors.items()}
    return safetensors.numpy.save(tensors, metadata)


def column_prefixes(contract: Contract) -> dict[str, str]:
    """What the Parquet columns of each tensor begin with (``_bytes``, ``_shape``, ``_dtype``)."""
    main, *others = contract.tensors
    return {main: "vae_latent", **{name: f"vae_{name}" for name in others}}


def _parquet(shard: Shard) -> bytes:
    prefixes = column_prefixes(shard.contract)
    columns: dict[str, Any] = {
        "id": [i for s in shard.segments for i in s.sample_ids],
        "source_id": [s.source_id for s in shard.segments for _ in s.sample_ids],
        "window": [s.first_window + n for s in shard.segments for n in range(s.windows)],
        "bucket": [shard.bucket for s in shard.segments for _ in s.sample_ids],
        "height": [s.geometry["height"] for s in shard.segments for _ in s.sample_ids],
        "width": [s.geometry["width"] for s in shard.segments for _ in s.sample_ids],
        "num_frames": [s.frames for s in shard.segments for _ in s.sample_ids],
        "valid_frames": [v for s in shard.segments for v in s.valid_frames],
        "fps": [s.fps for s in shard.segments for _ in s.sample_ids],
    }
    for name, tensor in shard.tensors.items():
        prefix = prefixes[name]
        columns[f"{prefix}_bytes"] = pa.array([row.tobytes() for row in tensor], pa.binary())
        columns[f"{prefix}_shape"] = [list(tensor.shape[1:])] * len(tensor)
        columns[f"{prefix}_dtype"] = [str(tensor.dtype)] * len(tensor)
    table = pa.table(columns).replace_schema_metadata(
        {
            "contract": shard.contract.to_json(),
            "contract_id": shard.contract.contract_id,
            "statistics": to_text(shard.tensors),
        }
    )
    sink = io.BytesIO()
    binary = [name for name in table.column_names if name.endswith("_bytes")]
    dictionary = [name for name in table.column_names if name not in binary]
    with pq.ParquetWriter(
        sink, table.schema, compression="none", use_dictionary=dictionary, write_statistics=False
    ) as writer:
        first = 0
        for rows in group_rows([segment.windows for segment in shard.segments]):
            writer.write_table(table.slice(first, rows), row_group_size=rows)
            first += rows
    return sink.getvalue()


def checksum(tensors: Sequence[np.ndarray]) -> str:
    """Checksum of one sample: BLAKE2b with 8 bytes over its tensors' bytes in contract order."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


class ShardError(Exception):
    """A shard is missing, damaged, or does not hold what the manifest says."""


def repair(uri: str) -> str:
    """What to do about a shard of the cache ``uri`` that is missing or damaged."""
    return (
        f"encode its sources again with jobs/verify_cache.py {uri} --repair; where a vacuum "
        "dropped the snapshot, open a newer one, and tag what a training run pins"
    )


@contextlib.contextmanager
def shard_errors(
    place: str, *, at: str = "", remedy: str = "encode again with --overwrite"
) -> Iterator[None]:
    """Raise ``ShardError`` for whatever reading a shard raises, but for ``StoreError``.

    ``place`` is its URI, ``at`` what was read of it, ``remedy`` what to do.
    """
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise ShardError(f"{place} is missing; {remedy}") from error
    except Exception as error:  # damaged bytes break a parser in any way
        raise ShardError(
            f"{place}{at} is damaged or cannot be read: {type(error).__name__}: {error}; {remedy}"
        ) from error


def read_header(read: Callable[[int, int], bytes]) -> tuple[int, dict[str, Any]]:
    """Where the tensors of a safetensors shard begin, and its header.

    ``read`` gives the bytes ``[begin, end)`` of the shard, as far as there are any: once, or twice
    where the header is long. Raises ``ValueError`` for what is no header.
    """
    data = read(0, _HEADER_GUESS)
    size = int.from_bytes(data[:8], "little")
    if not 0 < size <= _HEADER_LIMIT:
        raise ValueError(f"a header of {size} bytes")
    if len(data) < 8 + size:
        data += read(len(data), 8 + size)
    return 8 + size, json.loads(data[8 : 8 + size])


def read_sample(store: Store, path: str, row: int, contract: Contract) -> dict[str, np.ndarray]:
    """One sample's tensors by statistic, ``[t, C, h, w]`` each.

    Reads the shard's header and the sample's own bytes only. Raises ``ShardError``.
    """
    with shard_errors(f"{store.uri}/{path}", at=f", row {row},"), store.open(path) as file:
        if path.endswith(".safetensors"):
            return _read_safetensors(file, row, contract)
        return _read_parquet(file, row, contract)


def _read_safetensors(file: Any, row: int, contract: Contract) -> dict[str, np.ndarray]:
    size = int.from_bytes(file.read(8), "little")
    if not 0 < size <= _HEADER_LIMIT:
        raise ValueError(f"a header of {size} bytes")
    header = json.loads(file.read(size))
    found = {}
    for name in contract.tensors:
        entry = header[name]
        shape, (begin, end) = entry["shape"], entry["data_offsets"]
        dtype: np.dtype[Any] = np.dtype({"F16": "<f2", "F32": "<f4"}[entry["dtype"]])
        count = int(np.prod(shape[1:]))
        if not 0 <= row < shape[0] or end - begin != shape[0] * count * dtype.itemsize:
            raise ValueError(f"tensor {name!r} of shape {shape} has {end - begin} bytes")
        file.seek(8 + size + begin + row * count * dtype.itemsize)
        data = file.read(count * dtype.itemsize)
        found[name] = np.frombuffer(data, dtype).reshape(shape[1:])
    return found


def _read_parquet(file: Any, row: int, contract: Contract) -> dict[str, np.ndarray]:
    parquet = pq.ParquetFile(file)
    begins = group_begins(parquet.metadata)
    (group,) = groups_of(begins, row, 1)
    prefixes = column_prefixes(contract)
    columns = [f"{p}_{part}" for p in prefixes.values() for part in ("bytes", "shape", "dtype")]
    table = parquet.read_row_group(group, columns=columns)
    found = {}
    for name, prefix in prefixes.items():
        data, shape, dtype = (
            table[f"{prefix}_{part}"][row - begins[group]].as_py()
            for part in ("bytes", "shape", "dtype")
        )
        found[name] = np.frombuffer(data, np.dtype(dtype)).reshape(shape)
    return found
