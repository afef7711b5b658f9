"""Building the index of a snapshot from its tables, one range of the source hash at a time."""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.contract import Contract
from pipeline.errors import UserError
from pipeline.explain import explained
from pipeline.live import live_generations
from pipeline.manifest import Guard, Manifest, Snapshot
from pipeline.ranges import RangedRows, spans
from pipeline.reader.index import RECORD, SHARD, SUFFIXES, Array, Group, index_paths, write_header

_LIVE_COLUMNS = ("source_id", "revision", "run_id", "generation", "contract_id", "status")
_SEGMENT_COLUMNS = (
    "source_id",
    "generation",
    "height",
    "width",
    "frames",
    "first_window",
    "windows",
    "shard",
    "first_row",
    "first_frames",
    "valid_frames",
    "fps",
)
_ORDER = ("height", "width", "frames", "source_id", "first_window", "windows", "shard", "first_row")
_SHARD = re.compile(r"data/h\d+w\d+/([0-9a-f]{32})(\.\w+)")

Key = tuple[int, int, int]
"""Height, width, frames of a window."""


def publish_index(manifest: Manifest, snapshot: Snapshot) -> None:
    """Build the index of a snapshot and put it beside the snapshot; one that is there is replaced.

    Raises ``UserError`` where the cache cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="t2v-index-") as name:
        built = build_index(manifest, snapshot, Path(name))
        segments, sources = zip(index_paths(snapshot.number), built, strict=True)
        # Sources first: whoever finds the segments finds both.
        with explained(manifest.store.uri, "written"):
            for path, local in (sources, segments):
                manifest.store.put(path, local)


def publish_with_index(
    manifest: Manifest, run_id: str, contract: Contract, guard: Guard
) -> Snapshot:
    """``Manifest.publish``, and the index of the snapshot where this run made it."""
    snapshot = manifest.publish(run_id, contract, guard)
    if snapshot.run_id == run_id:
        publish_index(manifest, snapshot)
    return snapshot


def build_index(manifest: Manifest, snapshot: Snapshot, folder: Path) -> tuple[Path, Path]:
    """Write the index of a snapshot into a local folder: the files of segments and of sources.

    Memory is bounded by the tables' largest range of the source hash, and by the names of shards.
    """
    with contextlib.ExitStack() as stack:
        sources = stack.enter_context(ranged(manifest, snapshot, "sources", _LIVE_COLUMNS))
        segments = stack.enter_context(ranged(manifest, snapshot, "samples", _SEGMENT_COLUMNS))
        writer = stack.enter_context(_Writer(folder))
        for span in spans(max(sources.num_rows, segments.num_rows)):
            live = live_generations(sources.read(span), snapshot.contract.contract_id)
            rows = segments.read(span)
            rows = rows.filter(pc.is_in(rows["generation"], live["generation"].combine_chunks()))
            if rows.num_rows:
                writer.add(single(rows.sort_by([(name, "ascending") for name in _ORDER])))
        return writer.finish()


def ranged(
    manifest: Manifest, snapshot: Snapshot, table: str, columns: tuple[str, ...]
) -> RangedRows:
    """Columns of a table as a snapshot pins it, to be read by ranges; a context manager."""
    version = snapshot.tables.get(table)
    if version is None:  # the table had no row
        return RangedRows(manifest.empty(table).select(list(columns)).schema)
    return manifest.by_range(table, columns, version)


def single(rows: pa.Table) -> pa.Table:
    """Sorted rows in which no window stands twice: that of the smallest (shard, row) stays."""
    numbers = {n: rows[n].to_numpy() for n in ("height", "width", "frames", "first_window")}
    source = rows["source_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    same = np.ones(rows.num_rows - 1, bool)
    for column in (source, numbers["height"], numbers["width"], numbers["frames"]):
        same &= column[1:] == column[:-1]
    first, windows = numbers["first_window"], rows["windows"].to_numpy()
    whole = same & (first[1:] == first[:-1]) & (windows[1:] == windows[:-1])
    if whole.any():
        return single(rows.filter(pa.array(np.concatenate([[True], ~whole]))))
    cluster = np.concatenate([[0], np.cumsum(~same)])
    # The furthest end so far within a cluster, as one running maximum over all of them.
    limit = int((first + windows).max()) + 1
    ends = np.maximum.accumulate(cluster * limit + first + windows)
    if not (same & (cluster[1:] * limit + first[1:] < ends[:-1])).any():
        return rows
    taken: set[tuple[object, ...]] = set()
    kept = []
    for row in (
        _by_window(rows).sort_by([("shard", "ascending"), ("first_row", "ascending")]).to_pylist()
    ):
        key = tuple(row[n] for n in ("source_id", "height", "width", "frames", "first_window"))
        if key not in taken:
            taken.add(key)
            kept.append(row)
    return pa.Table.from_pylist(kept, rows.schema).sort_by([(n, "ascending") for n in _ORDER])


def _by_window(rows: pa.Table) -> pa.Table:
    """Rows of one window each."""
    found = []
    for row in rows.to_pylist():
        for k in range(row["windows"]):
            part = {name: [row[name][k]] for name in ("first_frames", "valid_frames")}
            moved = {name: row[name] + k for name in ("first_window", "first_row")}
            found.append({**row, **part, **moved, "windows": 1})
    return pa.Table.from_pylist(found, rows.schema)


class _Writer:
    """Gathers records by group in temporary files, and puts the index together at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._groups: dict[Key, BinaryIO] = {}
        self._shards: dict[str, int] = {}
        self._sources = 0
        self._ids = self._stack.enter_context((folder / "sources").open("wb"))

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, rows: pa.Table) -> None:
        """Take the live segments of a range: each window once, sorted, of sources not seen yet."""
        odd = _odd(rows)
        if odd.any():
            split = _by_window(rows.filter(pa.array(odd)))
            rows = pa.concat_tables([rows.filter(pa.array(~odd)), split])
            rows = rows.sort_by([(name, "ascending") for name in _ORDER])
        ids = pc.unique(rows["source_id"]).sort()
        self._ids.write(b"".join(_raw(i) for i in ids.to_pylist()))
        records = self._records(rows, ids)
        self._sources += len(ids)
        keys = np.stack([rows[n].to_numpy() for n in ("height", "width", "frames")])
        bounds = np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1
        for part in np.split(np.arange(rows.num_rows), bounds):
            height, width, frames = (int(n) for n in keys[:, part[0]])
            self._file((height, width, frames)).write(records[part].tobytes())

    def _records(self, rows: pa.Table, ids: pa.Array) -> Array:
        records = np.zeros(rows.num_rows, RECORD)
        first, steps, valid = _lists(rows)
        _put(records, "source", pc.index_in(rows["source_id"], ids).to_numpy() + self._sources)
        _put(records, "shard", self._shard_numbers(rows["shard"]))
        _put(records, "first_row", rows["first_row"].to_numpy())
        _put(records, "first_frame", first)
        records["fps"] = rows["fps"].to_numpy()
        _put(records, "windows", rows["windows"].to_numpy())
        _put(records, "step", steps[0])
        _put(records, "last_step", steps[1])
        _put(records, "last_valid", valid)
        return records

    def _shard_numbers(self, paths: pa.ChunkedArray) -> Array:
        encoded = paths.combine_chunks().dictionary_encode()
        numbers = [
            self._shards.setdefault(path, len(self._shards))
            for path in encoded.dictionary.to_pylist()
        ]
        found: Array = np.array(numbers, np.int64)[encoded.indices.to_numpy()]
        return found

    def _file(self, key: Key) -> BinaryIO:
        if key not in self._groups:
            self._groups[key] = self._stack.enter_context(self._part(key).open("w+b"))
        return self._groups[key]

    def _part(self, key: Key) -> Path:
        return self._folder / "-".join(map(str, key))

    def finish(self) -> tuple[Path, Path]:
        """Write the index; the paths of its two files."""
        self._ids.close()
        groups: list[Group] = []
        begin = 0
        for key, file in sorted(self._groups.items()):
            stop = begin + file.tell() // RECORD.itemsize
            groups.append(Group(*key, begin, stop))
            begin = stop
        path = self._folder / "segments"
        with path.open("wb") as out:
            write_header(out, groups, begin, len(self._shards), self._sources)
            for _, file in sorted(self._groups.items()):
                file.seek(0)
                shutil.copyfileobj(file, out, 2**20)
            for entry in _shard_entries(self._shards):
                out.write(entry)
        for key in self._groups:
            self._part(key).unlink()
        return path, self._folder / "sources"


def _lists(rows: pa.Table) -> tuple[Array, tuple[Array, Array], Array]:
    """First frames of first windows; steps to the second and to the last window; last valid."""
    windows = rows["windows"].to_numpy().astype(np.int64)
    ends = np.cumsum(windows)
    frames = pc.list_flatten(rows["first_frames"]).to_numpy()
    valid = pc.list_flatten(rows["valid_frames"]).to_numpy()
    begins = ends - windows
    several = windows > 1
    steps = np.zeros(len(windows), np.int64), np.zeros(len(windows), np.int64)
    steps[0][several] = frames[begins[several] + 1] - frames[begins[several]]
    steps[1][several] = frames[ends[several] - 1] - frames[ends[several] - 2]
    return frames[begins], steps, valid[ends - 1]


def _odd(rows: pa.Table) -> Array:
    """Rows that no record can hold: steps differ before the last, a middle window is padded."""
    windows = rows["windows"].to_numpy().astype(np.int64)
    owner = np.repeat(np.arange(len(windows)), windows)
    ends = np.cumsum(windows)
    place = np.arange(len(owner)) - (ends - windows)[owner]
    frames = pc.list_flatten(rows["first_frames"]).to_numpy()
    valid = pc.list_flatten(rows["valid_frames"]).to_numpy()
    step = _lists(rows)[1][0]
    last = place == windows[owner] - 1
    jump = np.diff(frames, prepend=0)
    wrong = (place > 0) & ~last & (jump != step[owner])
    wrong |= ~last & (valid != rows["frames"].to_numpy()[owner])
    wrong |= (place > 0) & ((jump < 0) | (jump > np.iinfo(np.uint16).max))
    return np.bincount(owner, wrong, len(windows)) > 0


def _put(records: Array, name: str, values: Array) -> None:
    limit = np.iinfo(RECORD[name].type).max
    if len(values) and (values.min() < 0 or values.max() > limit):
        raise UserError(
            f"the index cannot hold {name} {int(values.max())}: its limit is {limit}; write "
            "smaller shards or segments (output.shard_bytes, segment_windows)"
        )
    records[name] = values


def _raw(identity: str) -> bytes:
    return bytes.fromhex(identity)


def _shard_entries(paths: dict[str, int]) -> Iterator[bytes]:
    for path in paths:  # in the order of their numbers
        match = _SHARD.fullmatch(path)
        if match is None or match[2] not in SUFFIXES:
            raise UserError(f"{path!r} in the table samples is no path of a shard")
        yield np.array((bytes.fromhex(match[1]), SUFFIXES.index(match[2])), SHARD).tobytes()
