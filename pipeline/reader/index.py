"""The compact index of a snapshot: 28 bytes a segment, mapped into memory, never loaded.

Two files: ``index/<N>.segments`` holds a record a segment, ordered by group (bucket and frames of a
window), source and window, and 17 bytes a shard; ``index/<N>.sources`` holds the source ids that
records count by, 16 bytes each.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.buckets import Bucket
from pipeline.errors import UserError

INDEX_FOLDER = "index"
INDEX_FORMAT = 1
_MAGIC = b"t2vindex"
_ALIGNMENT = 64

RECORD = np.dtype(
    [
        ("source", "<u4"),  # number of the source, in the order of ids
        ("shard", "<u4"),  # number of the shard
        ("first_row", "<u4"),  # of the first window in the shard
        ("first_frame", "<u4"),  # of the first window in the source's output frames
        ("fps", "<f4"),
        ("windows", "<u2"),
        ("step", "<u2"),  # output frames from one window to the next
        ("last_step", "<u2"),  # the same, from the last but one to the last
        ("last_valid", "u1"),  # real frames of the last window; all others are full
        ("spare", "u1"),
    ]
)
"""A segment. Where a segment does not follow this pattern, a record holds one window of it."""


class Record(NamedTuple):
    """A record of ``RECORD`` as Python's numbers."""

    source: int
    shard: int
    first_row: int
    first_frame: int
    fps: float
    windows: int
    step: int
    last_step: int
    last_valid: int
    spare: int


SHARD = np.dtype([("digest", "V16"), ("suffix", "u1")])
SUFFIXES = (".safetensors", ".parquet")

Array = npt.NDArray[Any]


def index_paths(snapshot: int) -> tuple[str, str]:
    """Paths below the cache's root of the index of a snapshot: segments, and sources."""
    return f"{INDEX_FOLDER}/{snapshot}.segments", f"{INDEX_FOLDER}/{snapshot}.sources"


@dataclass(frozen=True)
class Group:
    """Records ``[begin, stop)``: those of one bucket whose windows have ``frames`` frames."""

    height: int
    width: int
    frames: int
    begin: int
    stop: int

    @cached_property
    def bucket(self) -> Bucket:
        """The bucket."""
        return Bucket(self.height, self.width)


@dataclass(frozen=True)
class SegmentIndex:
    """An open index. ``records``, ``shards`` and ``sources`` are maps of the files.

    ``sources`` are the 16 bytes of each source id, ascending.
    """

    groups: tuple[Group, ...]
    records: Array
    shards: Array
    sources: Array

    @classmethod
    def open(cls, segments: Path, sources: Path) -> "SegmentIndex":
        """Map the two files of an index.

        Raises ``UserError`` where they are damaged or of another format.
        """
        try:
            with segments.open("rb") as file:
                header, offset = _read_header(file)
            counts = header["records"], header["shards"], header["sources"]
            ends = offset + counts[0] * RECORD.itemsize
            return cls(
                tuple(Group(**group) for group in header["groups"]),
                _map(segments, RECORD, offset, counts[0]),
                _map(segments, SHARD, ends, counts[1]),
                _map(sources, np.dtype("V16"), 0, counts[2]),
            )
        except (ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise UserError(
                f"{segments}: this is no index that can be read: {error}; delete it, and build it "
                "again with jobs/maintain_cache.py index"
            ) from error

    def record(self, number: int) -> Record:
        """A record by its number."""
        return Record(*self.records[number].item())

    def shard_path(self, group: Group, shard: int) -> str:
        """Path of a shard below the cache's root."""
        entry = self.shards[shard]
        suffix = SUFFIXES[int(entry["suffix"])]
        return f"data/{group.bucket.name}/{entry['digest'].tobytes().hex()}{suffix}"

    def source_id(self, source: int) -> str:
        """The id of a source by its number."""
        return str(self.sources[source].tobytes().hex())


def write_header(
    file: BinaryIO, groups: Sequence[Group], records: int, shards: int, sources: int
) -> None:
    """The begin of the file of segments; records and shards follow."""
    fields = {
        "format": INDEX_FORMAT,
        "records": records,
        "shards": shards,
        "sources": sources,
        "groups": [asdict(group) for group in groups],
    }
    text = json.dumps(fields).encode()
    text += b" " * (-(len(_MAGIC) + 8 + len(text)) % _ALIGNMENT)
    file.write(_MAGIC + len(text).to_bytes(8, "little") + text)


def _read_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    begin = file.read(len(_MAGIC) + 8)
    if begin[: len(_MAGIC)] != _MAGIC:
        raise ValueError("it begins with other bytes")
    size = int.from_bytes(begin[len(_MAGIC) :], "little")
    header: dict[str, Any] = json.loads(file.read(min(size, 2**26)))
    if header["format"] != INDEX_FORMAT:
        raise ValueError(f"format {header['format']!r} is not {INDEX_FORMAT}")
    return header, len(begin) + size


def _map(path: Path, dtype: np.dtype[Any], offset: int, count: int) -> Array:
    if path.stat().st_size < offset + count * dtype.itemsize:
        raise ValueError(f"{path.name} ends before its {count} entries")
    if count == 0:  # nothing can be mapped
        return np.empty(0, dtype)
    # As a plain array: a memmap takes microseconds for every element.
    return np.asarray(np.memmap(path, dtype, "r", offset, (count,)))
