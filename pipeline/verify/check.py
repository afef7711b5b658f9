"""One shard against the rows of the table ``samples`` that name it."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from pipeline.buckets import Bucket
from pipeline.contract import Contract
from pipeline.recipe import latent_shape
from pipeline.row_statistics import row_statistics, same
from pipeline.shards import checksum
from pipeline.storage import Store
from pipeline.verify.findings import DamagedError, Finding, Kind, spans_of
from pipeline.verify.shard_files import OpenShard, Rows, Shape, open_shard

CHUNK_BYTES = 32 * 2**20
"""Tensors of a shard that are read at once, unless one row is more."""


@dataclass(frozen=True)
class Named:
    """A segment as the table names it: rows of a shard, and what they must hold.

    ``contract_id`` is None where the table does not tell under which contract it was encoded.
    """

    segment_id: str
    source_id: str
    bucket: str
    frames: int
    first_row: int
    windows: int
    sample_ids: tuple[str, ...]
    checksums: tuple[str, ...]
    contract_id: str | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """From a row of the table ``samples``, with ``contract_id``."""
        fields = {name: row[name] for name in cls.__dataclass_fields__}
        for name in ("sample_ids", "checksums"):
            fields[name] = tuple(fields[name])
        return cls(**fields)

    @property
    def rows(self) -> range:
        """Its rows of the shard."""
        return range(self.first_row, self.first_row + self.windows)


def check_shard(store: Store, path: str, size: int, named: Sequence[Named]) -> list[Finding]:
    """Read the named rows of a shard of ``size`` bytes, and compare; what is wrong, by kind.

    Memory is bounded by ``CHUNK_BYTES`` and the row groups of Parquet, a segment or few rows each.
    Raises what the store raises when it refuses.
    """
    try:
        shard = open_shard(store, path, size)
    except DamagedError as error:
        return [damaged(path, error.kind, str(error), named)]
    bad = _Bad()
    expected: dict[int, set[tuple[str, str]]] = {}
    shapes: dict[Shape, set[int]] = {}
    for segment in named:
        try:
            shape = _check_named(segment, shard)
        except DamagedError as error:
            bad.add(error, segment.rows)
            continue
        for row, *told in zip(segment.rows, segment.sample_ids, segment.checksums, strict=True):
            expected.setdefault(row, set()).add((told[0], told[1]))
        shapes.setdefault(shape, set()).update(segment.rows)
    for shape, wanted in shapes.items():
        for first, count in _runs(wanted, shape, shard.contract):
            for at, rows in _read(shard, first, count, shape, bad):
                _check_rows(shard, at, rows, expected, bad)
    return [
        damaged(path, kind, message, named, rows)
        for (kind, message), rows in sorted(bad.rows.items())
    ]


def damaged(
    path: str,
    kind: Kind,
    message: str,
    named: Sequence[Named],
    rows: Iterable[int] | None = None,
) -> Finding:
    """A finding on rows of a shard (default: all that are named)."""
    if rows is None:
        rows = {row for segment in named for row in segment.rows}
    chosen = set(rows)
    touched = [segment for segment in named if not chosen.isdisjoint(segment.rows)]
    return Finding(
        kind,
        message,
        path,
        tuple(sorted(chosen)),
        tuple(sorted({segment.segment_id for segment in touched})),
        tuple(sorted({segment.source_id for segment in touched})),
    )


class _Bad:
    """Damaged rows by kind and message."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Kind, str], set[int]] = {}

    def add(self, error: DamagedError, rows: Iterable[int]) -> None:
        self.rows.setdefault((error.kind, str(error)), set()).update(rows)


def _check_named(segment: Named, shard: OpenShard) -> Shape:
    """The shape of a segment's windows. Raises ``DamagedError``: the shard cannot hold it."""
    if segment.contract_id not in (None, shard.contract.contract_id):
        raise DamagedError(Kind.CONTRACT, "it was written under another contract than is live")
    if segment.first_row < 0 or segment.rows.stop > shard.rows:
        raise DamagedError(
            Kind.SHAPE, f"the table names row {segment.rows.stop - 1}, and it has {shard.rows} rows"
        )
    return latent_shape(shard.contract, Bucket.parse(segment.bucket), segment.frames)


def _runs(rows: Iterable[int], shape: Shape, contract: Contract) -> Iterator[tuple[int, int]]:
    """Adjacent rows, as (first, count), of ``CHUNK_BYTES`` at the most."""
    width = np.dtype(contract.dtype).itemsize * len(contract.tensors)
    most = max(1, CHUNK_BYTES // (math.prod(shape) * width))
    for first, stop in spans_of(set(rows)):
        for at in range(first, stop, most):
            yield at, min(most, stop - at)


def _read(
    shard: OpenShard, first: int, count: int, shape: Shape, bad: _Bad
) -> Iterator[tuple[int, Rows]]:
    """Rows in one piece; where that is damaged, those that can be read, one by one."""
    try:
        yield first, shard.read(first, count, shape)
    except DamagedError as error:
        if count == 1:
            bad.add(error, [first])
            return
        for row in range(first, first + count):
            yield from _read(shard, row, 1, shape, bad)


def _check_rows(
    shard: OpenShard,
    first: int,
    rows: Rows,
    expected: Mapping[int, set[tuple[str, str]]],
    bad: _Bad,
) -> None:
    for index, sample_id in enumerate(rows.sample_ids):
        row = first + index
        tensors = {name: tensor[index] for name, tensor in rows.tensors.items()}
        try:
            if any(told != sample_id for told, _ in expected[row]):
                raise DamagedError(Kind.SAMPLE_IDS, "it holds other samples than the table says")
            found = checksum(list(tensors.values()))
            if any(told != found for _, told in expected[row]):
                raise DamagedError(Kind.CHECKSUM, "the bytes are not those that were written")
            if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
                raise DamagedError(Kind.NOT_FINITE, "it holds NaN or infinity")
            for name, tensor in tensors.items():
                _check_statistics(shard, name, row, tensor)
        except DamagedError as error:
            bad.add(error, [row])


def _check_statistics(shard: OpenShard, name: str, row: int, tensor: np.ndarray) -> None:
    if shard.statistics is None:
        return
    if name not in shard.statistics:
        raise DamagedError(Kind.STATISTICS, f"statistics of {name} are missing")
    if not same(shard.statistics[name][row : row + 1], row_statistics(tensor[None])).all():
        raise DamagedError(Kind.STATISTICS, f"{name} has other statistics than were stored with it")
