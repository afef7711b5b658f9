"""Moving segments: new shards of old tensors, and the rows that name the new places."""

import datetime
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.contract import Contract
from pipeline.maintain.fill import Held
from pipeline.maintain.rewrite import Edit
from pipeline.maintain.segments import Group, Key, Live
from pipeline.maintain.tensors import read_spans
from pipeline.manifest import Manifest
from pipeline.packs import SegmentInfo
from pipeline.schema import SAMPLES
from pipeline.shards import Shard, ShardError

Row = dict[str, Any]
Place = tuple[str, int]
"""A shard and the first row in it."""


def write_merged(
    manifest: Manifest,
    contract: Contract,
    live: Live,
    planned: Iterable[tuple[Group, Held]],
    guard: Callable[[], None],
) -> dict[Key, Place]:
    """Write every planned shard; returns where each of their segments is now.

    Holds the tensors of one shard at a time, twice. ``guard`` is called before each is written.
    Raises ``ShardError`` when an old shard is missing, or its bytes are not those that were
    written.
    """
    wanted = list(planned)
    names = {live.key(s.row)[1] for _, held in wanted for s in held.segments}
    columns = [name for name in SAMPLES.names if name != "pts"]  # long, and not in shards
    rows = manifest.read("samples", columns=columns, where=pc.field("shard").isin(sorted(names)))
    index = {key: n for n, key in enumerate(_keys(rows))}
    places: dict[Key, Place] = {}
    for (bucket, _, suffix), held in wanted:
        keys = [live.key(segment.row) for segment in held.segments]
        segments = rows.take(pa.array([index[key] for key in keys])).to_pylist()
        shard = _merge(manifest, contract, bucket, segments)
        path = shard.path(suffix)
        guard()
        manifest.store.write(path, shard.encode(suffix))
        first = 0
        for key, segment in zip(keys, segments, strict=True):
            places[key] = (path, first)
            first += segment["windows"]
    return places


def _keys(rows: pa.Table) -> Iterable[Key]:
    names = ("segment_id", "shard", "first_row")
    return zip(*(rows[name].to_pylist() for name in names), strict=True)


def _merge(manifest: Manifest, contract: Contract, bucket: str, segments: Sequence[Row]) -> Shard:
    """One shard of the segments, in this order, each checked against its checksums."""
    total = sum(segment["windows"] for segment in segments)
    tensors: dict[str, np.ndarray] = {}
    by_shard: dict[str, list[tuple[int, Row]]] = {}
    at = 0
    for segment in segments:
        by_shard.setdefault(segment["shard"], []).append((at, segment))
        at += segment["windows"]
    for path, parts in sorted(by_shard.items()):
        spans = [(part["first_row"], part["windows"]) for _, part in parts]
        found = read_spans(manifest.store, path, spans, contract)
        for (begin, part), arrays in zip(parts, found, strict=True):
            for name, array in arrays.items():
                if name not in tensors:
                    tensors[name] = np.empty((total, *array.shape[1:]), array.dtype)
                tensors[name][begin : begin + part["windows"]] = array
    shard = Shard(bucket, tuple(_info(segment) for segment in segments), tensors, contract)
    at = 0
    for segment in segments:
        if list(shard.checksums[at : at + segment["windows"]]) != segment["checksums"]:
            raise ShardError(
                f"{manifest.store.uri}/{segment['shard']}, rows from {segment['first_row']}: the "
                f"bytes of source {segment['source_id']} are not those that were written; encode "
                "it again (--overwrite), or restore the file from a copy"
            )
        at += segment["windows"]
    return shard


def _info(row: Row) -> SegmentInfo:
    shared = {
        name: row[name]
        for name in SegmentInfo.__dataclass_fields__
        if name not in ("pts", "time_base", "geometry")
    }
    return SegmentInfo(
        **shared,
        pts=[],
        time_base=(row["time_base_num"], row["time_base_den"]),
        geometry=json.loads(row["geometry"]),
    )


def moving(
    places: Mapping[Key, Place],
    doubles: Collection[Key],
    run_id: str,
    at: datetime.datetime,
) -> Edit:
    """An edit that puts moved rows in the place of their old ones and leaves doubles out."""
    seen: set[Key] = set()

    def edit(rows: pa.Table) -> pa.Table:
        columns = {name: rows[name].to_pylist() for name in ("shard", "first_row", "run_id")}
        times = rows["committed_at"].to_pylist()
        stays = []
        for n, key in enumerate(_keys(rows)):
            stays.append(key not in doubles and key not in seen)
            if key in places:
                seen.add(key)  # a row that was appended twice
                columns["shard"][n], columns["first_row"][n] = places[key]
                columns["run_id"][n], times[n] = run_id, at
        for name, values in {**columns, "committed_at": times}.items():
            field = rows.schema.field(name)
            place = rows.schema.get_field_index(name)
            rows = rows.set_column(place, field, pa.array(values, field.type))
        return rows.filter(pa.array(stays, pa.bool_()))

    return edit
