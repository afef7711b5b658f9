"""The live segments of a snapshot as compaction sees them: what can be moved, what stands twice."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.buckets import Bucket
from pipeline.contract import Contract
from pipeline.maintain.fill import Held, Segment
from pipeline.maintain.needs import pinned_generations
from pipeline.manifest import Manifest, Snapshot
from pipeline.recipe import latent_values

Key = tuple[str, str, int]
"""A row of the table ``samples``: segment id, shard, first row."""

Group = tuple[str, int, str]
"""What may share a shard: bucket, frames of a window, file format."""

_COLUMNS = [
    "segment_id",
    "source_id",
    "generation",
    "bucket",
    "frames",
    "first_window",
    "windows",
    "last",
    "shard",
    "first_row",
]


@dataclass(frozen=True)
class Live:
    """Live segments by group and shard; ``bytes`` are those of the tensors.

    ``segments[i]`` is the table's row that ``Segment.row`` i means; ``doubles`` are rows that hold
    the windows of another row over again, and win none; ``fixed`` are shards with segments that
    overlap in part, so that moving one could let another win.
    """

    groups: dict[Group, list[Held]]
    segments: pa.Table
    doubles: frozenset[Key]
    fixed: frozenset[str]

    def key(self, row: int) -> Key:
        """The key of a row of ``segments``."""
        names = ("segment_id", "shard", "first_row")
        segment, shard, first = (self.segments[name][row].as_py() for name in names)
        return segment, shard, first


def live_segments(manifest: Manifest, base: Snapshot) -> Live:
    """The newest rows of the generations that are live in ``base``.

    They are those of the snapshot: a complete generation gets no further windows.
    """
    table = manifest.read(
        "samples",
        columns=_COLUMNS,
        where=pc.field("generation").isin(pinned_generations(manifest, base)),
    )
    order = ["generation", "bucket", "first_window", "windows", "shard", "first_row"]
    table = table.take(pc.sort_indices(table, sort_keys=[(n, "ascending") for n in order]))
    table = table.append_column("row", pa.array(range(table.num_rows), pa.int64())).combine_chunks()
    winners: list[int] = []
    doubles: set[Key] = set()
    fixed: set[str] = set()
    for cluster in _clusters(table):
        first, *others = _without_repeats(cluster)
        span = ("first_window", "windows", "last")
        if all(row[n] == first[n] for row in others for n in span):
            winners.append(first["row"])
            doubles |= {(r["segment_id"], r["shard"], r["first_row"]) for r in others}
        else:
            winners += [row["row"] for row in (first, *others)]
            fixed |= {row["shard"] for row in (first, *others)}
    return Live(
        _by_shard(table, winners, base.contract), table, frozenset(doubles), frozenset(fixed)
    )


def _clusters(table: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """Rows in runs that overlap: most runs are of one row."""
    cluster: list[dict[str, Any]] = []
    stop = 0
    for batch in table.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            same = cluster and all(row[n] == cluster[0][n] for n in ("generation", "bucket"))
            if cluster and (not same or row["first_window"] >= stop):
                yield cluster
                cluster, stop = [], 0
            cluster.append(row)
            stop = max(stop, row["first_window"] + row["windows"])
    if cluster:
        yield cluster


def _without_repeats(cluster: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that were appended twice, at one place, are one."""
    return [
        next(rows)
        for _, rows in groupby(cluster, lambda r: (r["segment_id"], r["shard"], r["first_row"]))
    ]


def _by_shard(table: pa.Table, rows: list[int], contract: Contract) -> dict[Group, list[Held]]:
    groups: dict[Group, dict[str, list[Segment]]] = {}
    names = ("source_id", "bucket", "first_window", "windows", "frames", "shard")
    columns = zip(*(table[name].take(pa.array(rows)).to_pylist() for name in names), strict=True)
    for row, (source, bucket, first, windows, frames, shard) in zip(rows, columns, strict=True):
        group = (bucket, frames, "." + shard.rsplit(".", 1)[-1])
        size = windows * window_bytes(contract, bucket, frames)
        segment = Segment(source, bucket, first, size, row)
        groups.setdefault(group, {}).setdefault(shard, []).append(segment)
    return {
        group: [Held(path, tuple(sorted(held))) for path, held in sorted(shards.items())]
        for group, shards in sorted(groups.items())
    }


def window_bytes(contract: Contract, bucket: str, frames: int) -> int:
    """Bytes of one window's tensors."""
    width = 2 if contract.dtype == "float16" else 4
    return latent_values(contract, Bucket.parse(bucket), frames) * width * len(contract.tensors)
