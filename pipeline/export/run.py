"""An export from begin to end: a pinned snapshot's clips, bucket by bucket, into shards."""

import datetime
import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, cast, get_args

from torch.utils.data import DataLoader, Subset

from pipeline.config import StorageConfig
from pipeline.errors import UserError
from pipeline.export.fastvideo import FastVideo
from pipeline.export.formats import Format, Packed, exported_statistic
from pipeline.export.mds import MDS
from pipeline.export.sample import SOURCE_COLUMNS, Sample
from pipeline.export.target import Target
from pipeline.export.webdataset import WebDataset
from pipeline.manifest import Manifest, Snapshot
from pipeline.reader.columns import check_columns, source_schema
from pipeline.reader.dataset import LatentDataset
from pipeline.reader.draw import Statistic
from pipeline.storage import Store
from pipeline.where import parse_where

EXPORT_FORMAT = 1
FORMATS: dict[str, Callable[[int], Format]] = {
    "webdataset": lambda limit: WebDataset(),
    "mds": MDS,
    "fastvideo": lambda limit: FastVideo(),
}
MAX_SHARD_BYTES = 2 * 10**9
"""Offsets in an MDS shard have 32 bits; and a shard is put together in memory."""


@dataclass(frozen=True)
class Export:
    """What is to be exported. ``columns`` come beside caption and URI."""

    uri: str
    format: str
    snapshot: int | None = None
    where: str | None = None
    statistic: str | None = None
    seed: int = 0
    clip_frames: tuple[int, ...] = (1, 17)
    clip_stride: int | None = None
    allow_padded: bool = False
    columns: tuple[str, ...] = ()
    shard_bytes: int = 256 * 10**6
    workers: int = 0

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UserError(f"--format {self.format!r}: it is one of {', '.join(FORMATS)}")
        if self.statistic is not None and self.statistic not in get_args(Statistic):
            raise UserError(
                f"--statistic {self.statistic!r}: it is one of {', '.join(get_args(Statistic))}"
            )
        if not 0 < self.shard_bytes <= MAX_SHARD_BYTES:
            raise UserError(
                f"--shard-bytes {self.shard_bytes}: give up to {MAX_SHARD_BYTES} (2 GB); a shard "
                "is put together in memory"
            )


class Exporter:
    """An export that can be told of (``clips``, ``plan``) and carried out (``write``).

    Making one opens the snapshot and finds its clips. Raises ``UserError``.
    """

    def __init__(self, export: Export, storage: StorageConfig) -> None:
        manifest = Manifest(Store(export.uri, storage))
        self.snapshot: Snapshot = manifest.snapshot(export.snapshot)
        self.cache = manifest.store.uri
        schema = source_schema(manifest, self.snapshot)
        check_columns(export.columns, schema, "--columns")
        always = tuple(name for name in SOURCE_COLUMNS if name in schema.names)
        self._columns = tuple(dict.fromkeys([*always, *export.columns]))
        self.statistic = exported_statistic(export.format, export.statistic, self.snapshot.contract)
        self._export = export
        self._dataset = LatentDataset(
            export.uri,
            self.snapshot.number,
            clip_frames=export.clip_frames,
            statistic=cast(Statistic, self.statistic),
            seed=export.seed,
            rank=0,
            world_size=1,
            columns=self._columns,
            clip_stride=export.clip_stride,
            allow_padded=export.allow_padded,
            filter=None if export.where is None else parse_where(export.where),
            storage=storage,
        )
        self.clips = {name: count for name, count in self._dataset.clips.items() if count}

    def write(self, target: Target, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Carry it out; gives what ``_export.json`` holds. ``progress`` is told how many clips
        are done, and of how many.

        Raises ``UserError``, also where the target is not empty, and ``ShardError`` for a damaged
        shard of the cache; the export is incomplete then, and its marker says so.
        """
        target.check_empty()
        target.mark(self._fields(), complete=False)
        shards: dict[str, list[Packed]] = {}
        done = itertools.count(1)
        samples = self._samples()
        for folder, count in self.clips.items():
            form = FORMATS[self._export.format](self._export.shard_bytes)
            shards[folder] = []
            for items in self._batches(form, itertools.islice(samples, count), done, progress):
                data = form.pack(items)
                sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
                packed = Packed(form.name(len(shards[folder])), len(items), len(data), sha1)
                target.write(f"{folder}/{packed.name}", data)
                shards[folder].append(packed)
            for name, data in form.index(shards[folder]).items():
                target.write(f"{folder}/{name}", data)
        fields = self._fields() | {
            "shards": {folder: [asdict(one) for one in each] for folder, each in shards.items()}
        }
        target.mark(fields, complete=True)
        return fields

    def _samples(self) -> Iterator[Sample]:
        """All clips, in the order of ``clips``."""
        whole = self._dataset.map_style()
        loader = DataLoader(
            Subset(whole, range(len(whole))), batch_size=None, num_workers=self._export.workers
        )
        lengths = [int(name.rpartition("x")[2]) for name, n in self.clips.items() for _ in range(n)]
        for clip, frames in zip(loader, lengths, strict=True):
            yield Sample.of(clip, frames, self._columns)

    def _batches(
        self,
        form: Format,
        samples: Iterator[Sample],
        done: "itertools.count[int]",
        progress: Callable[[int, int], None],
    ) -> Iterator[list[Any]]:
        """Encoded samples, as many as a shard takes."""
        items: list[Any] = []
        held, total = 0, sum(self.clips.values())
        for sample in samples:
            item, size = form.encode(sample)
            if items and held + size > self._export.shard_bytes:
                yield items
                items, held = [], 0
            items.append(item)
            held += size
            progress(next(done), total)
        yield items

    def _fields(self) -> dict[str, Any]:
        told = asdict(self._export)
        del told["uri"], told["workers"], told["format"]
        return {
            "format_version": EXPORT_FORMAT,
            "format": self._export.format,
            "cache": self.cache,
            "contract": asdict(self.snapshot.contract),
            **told,
            "snapshot": self.snapshot.number,
            "statistic": self.statistic,
            "columns": list(self._columns),
            "clips": self.clips,
            "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
