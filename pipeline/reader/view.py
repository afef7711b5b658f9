"""A pinned snapshot as a reader sees it: groups of clips, where they lie, and their columns."""

import hashlib
import pickle
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UserError
from pipeline.manifest import Manifest, Snapshot
from pipeline.reader.clips import Choose, Clips, Selection, write_selection
from pipeline.reader.columns import (
    SEGMENT_COLUMNS,
    SourceColumns,
    check_columns,
    fields_of,
    segment_columns,
    source_schema,
    write_columns,
)
from pipeline.reader.disk_cache import DiskCache
from pipeline.reader.index import Array, Group, SegmentIndex
from pipeline.reader.local import LocalFolder
from pipeline.reader.open_index import open_index, snapshot_key
from pipeline.windows import WINDOW_FRAMES

Weights = Mapping[str, float] | str
"""Weights of buckets by name (1 where a bucket is not named), or the column that holds them."""


@dataclass(frozen=True)
class Choice:
    """Which clips of a snapshot take part."""

    clip_frames: tuple[int, ...]
    clip_stride: int | None = None
    allow_padded: bool = False
    filter: pc.Expression | None = None
    weights: Weights | None = None
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for frames in self.clip_frames:
            odd = not isinstance(frames, int) or frames < 1 or frames % WINDOW_FRAMES
            if odd and frames != 1:
                raise UserError(
                    f"clip_frames {frames!r}: clips are of 17, 34, 51, … frames, or of 1 for images"
                )
        if not self.clip_frames or len(set(self.clip_frames)) < len(self.clip_frames):
            raise UserError(f"clip_frames {self.clip_frames}: give at least one length, each once")
        if self.clip_stride is not None and self.clip_stride < 1:
            raise UserError(f"clip_stride {self.clip_stride}: windows are counted from 1 on")
        if isinstance(self.weights, Mapping):
            bad = {
                name: weight
                for name, weight in self.weights.items()
                if not isinstance(weight, int | float) or not 0 <= weight <= 1000
            }
            if bad:
                raise UserError(f"weights {bad}: a weight lies from 0 to 1000")


@dataclass(frozen=True)
class ClipGroup:
    """Clips of one bucket and one length."""

    group: Group
    clips: Clips
    frames: int
    folder: Path

    @property
    def name(self) -> str:
        """Such as ``h544w992x34``."""
        return f"{self.group.bucket.name}x{self.frames}"


@dataclass
class View:
    """The files of an open reader; mapped anew in every process."""

    manifest: Manifest
    snapshot: Snapshot
    local: LocalFolder
    groups: tuple[ClipGroup, ...]
    columns_folder: Path | None
    disk_cache: DiskCache | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {n: v for n, v in self.__dict__.items() if n not in _MAPPED}

    @cached_property
    def index(self) -> SegmentIndex:
        """The index, mapped."""
        return open_index(self.manifest, self.snapshot, self.local)

    @cached_property
    def selections(self) -> tuple[Selection, ...]:
        """The selection of each group, mapped."""
        return tuple(Selection.open(group.folder, group.clips) for group in self.groups)

    @cached_property
    def columns(self) -> SourceColumns | None:
        """The columns of sources that are wanted, mapped."""
        return None if self.columns_folder is None else SourceColumns(self.columns_folder)


_MAPPED = ("index", "selections", "columns")


def open_view(manifest: Manifest, snapshot: Snapshot, local: LocalFolder, choice: Choice) -> View:
    """Find or make the local files of a reader. Raises ``UserError``."""
    index = open_index(manifest, snapshot, local)
    if isinstance(choice.weights, Mapping):
        _check_buckets(choice.weights, {group.bucket.name for group in index.groups})
    key = snapshot_key(manifest, snapshot)
    folder, filtered = _columns(manifest, snapshot, index, local, key, choice)
    columns = None if folder is None else SourceColumns(folder)
    choose = _chooser(choice, columns, filtered)
    groups = []
    for group in index.groups:
        for frames in choice.clip_frames:
            if (frames == 1) != (group.frames == 1):
                continue
            windows = max(1, frames // WINDOW_FRAMES)
            clips = Clips(windows, choice.clip_stride or windows, choice.allow_padded)
            told = [key, group, clips, pickle.dumps(choice.filter), _told(choice.weights)]
            digest = hashlib.sha256(repr(told).encode()).hexdigest()[:32]

            def make(path: Path, group: Group = group, clips: Clips = clips) -> None:
                write_selection(index, group, clips, choose, path)

            groups.append(ClipGroup(group, clips, frames, local.entry(f"clips-{digest}", make)))
    return View(manifest, snapshot, local, tuple(groups), folder)


def _check_buckets(weights: Mapping[str, float], buckets: Collection[str]) -> None:
    odd = sorted(set(weights) - set(buckets))
    if odd:
        raise UserError(
            f"weights {odd[0]!r}: the snapshot has no such bucket; there are "
            f"{', '.join(sorted(buckets))}"
        )


def _told(weights: Weights | None) -> object:
    return sorted(weights.items()) if isinstance(weights, Mapping) else weights


def _columns(
    manifest: Manifest,
    snapshot: Snapshot,
    index: SegmentIndex,
    local: LocalFolder,
    key: str,
    choice: Choice,
) -> tuple[Path | None, tuple[str, ...]]:
    """The file of all columns that are needed, and those of them that the filter names."""
    named = isinstance(choice.weights, str)
    if choice.filter is None and not choice.columns and not named:
        return None, ()
    schema = source_schema(manifest, snapshot)
    check_columns(choice.columns, schema, "columns")
    wanted = set(choice.columns)
    if isinstance(choice.weights, str):
        check_columns([choice.weights], schema, "weights")
        wanted.add(choice.weights)
    filtered: list[str] = []
    if choice.filter is not None:
        both = [f for f in schema if f.name not in SEGMENT_COLUMNS.names]
        filtered = fields_of(choice.filter, pa.schema([*both, *SEGMENT_COLUMNS]))
        wanted |= set(filtered) - set(SEGMENT_COLUMNS.names)
    if not wanted:
        return None, tuple(filtered)
    names = sorted(wanted)
    digest = hashlib.sha256(repr([key, names]).encode()).hexdigest()[:32]
    write = write_columns(manifest, snapshot, index, names, schema)
    return local.entry(f"columns-{digest}", write), tuple(filtered)


def _chooser(choice: Choice, columns: SourceColumns | None, filtered: Sequence[str]) -> Choose:
    def choose(group: Group, records: Array) -> tuple[Array, Array | None]:
        taking = np.ones(len(records), bool)
        weights: Array | None = None
        rows = None
        if columns is not None and len(records):
            rows = columns.take(records["source"])
        if choice.filter is not None and len(records):
            table = segment_columns(group, records)
            for name in filtered:
                if name not in SEGMENT_COLUMNS.names and rows is not None:
                    table = table.append_column(name, rows[name])
            table = table.append_column("", pa.array(np.arange(len(records))))
            taking[:] = False
            taking[table.filter(choice.filter)[""].to_numpy()] = True
        if isinstance(choice.weights, str) and rows is not None:
            weights = _weights(rows[choice.weights], choice.weights)
        elif isinstance(choice.weights, Mapping):
            weights = np.full(len(records), float(choice.weights.get(group.bucket.name, 1.0)))
        return taking, weights

    return choose


def _weights(column: pa.ChunkedArray, name: str) -> Array:
    try:
        found = column.cast(pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(f"weights {name!r}: {error}; name a column of numbers") from error
    bad = found[~((found >= 0) & (found <= 1000))]
    if len(bad):
        raise UserError(
            f"weights {name!r}: {len(bad)} values, such as {bad[0]}, are none from 0 to 1000; "
            "filter their sources out, or mend the column"
        )
    return np.asarray(found)
