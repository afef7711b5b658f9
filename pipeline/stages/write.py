"""Write: packs of latents become immutable shards, and rows that tell the driver what was done."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pipeline.config import Config
from pipeline.contract import Contract
from pipeline.effort import Effort
from pipeline.errors import UserError
from pipeline.explain import explained
from pipeline.packs import Batch, Event, PackMeta, SegmentInfo, rows
from pipeline.recipe import Recipe
from pipeline.shards import SUFFIXES, Shard
from pipeline.storage import Store

RESULT = "result"
"""Name of the column that holds a write result as JSON."""


@dataclass(frozen=True)
class Written:
    """What one call of the write stage made durable; nothing of it is committed yet.

    ``segments``: rows of the table ``samples`` but for run and time; ``kept``: such rows of windows
    that lie in earlier shards already; ``efforts``: what the packs took of their encoders.
    """

    shards: dict[str, int]
    segments: list[dict[str, Any]]
    events: list[Event]
    kept: list[dict[str, Any]] = field(default_factory=list)
    efforts: list[Effort] = field(default_factory=list)

    def require_seen(self, store: Store) -> None:
        """Raise ``UserError`` for shards that are not seen here: nodes without a shared disk."""
        missing = [path for path in self.shards if store.local and not store.exists(path)]
        if missing:
            raise UserError(
                f"{store.uri}/{missing[0]} was written on a node whose disk is not seen here; set "
                "output.uri to a shared mount or to s3://"
            )

    def to_json(self) -> str:
        """The result as text."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Written":
        """Inverse of ``to_json``."""
        fields = json.loads(text)
        events = [Event(**event) for event in fields["events"]]
        efforts = [Effort(**effort) for effort in fields["efforts"]]
        return cls(fields["shards"], fields["segments"], events, fields["kept"], efforts)


def make_write_fn(config: Config, recipe: Recipe) -> Callable[[Batch], Batch]:
    """The write stage: one shard per bucket for the packs of a batch."""
    suffix = SUFFIXES[config.output.format]

    def write(batch: Batch) -> Batch:
        store = Store(config.output.uri, config.storage)
        groups: dict[tuple[str, int], list[tuple[PackMeta, dict[str, np.ndarray]]]] = {}
        written = Written({}, [], [])
        for meta, tensors in rows(batch):
            written.events.extend(meta.events)
            written.efforts.extend([] if meta.effort is None else [meta.effort])
            written.kept.extend(
                _row(r.segment, r.shard, r.first_row, r.checksums, recipe.contract)
                for r in meta.references
            )
            if meta.segments:
                key = (meta.segments[0].bucket, meta.segments[0].frames)
                groups.setdefault(key, []).append((meta, tensors))
        for (bucket, _), packs in sorted(groups.items(), key=lambda item: item[0]):
            shard = _gather(bucket, packs, recipe)
            path, data = shard.path(suffix), shard.encode(suffix)
            with explained(store.uri, "written"):
                store.write(path, data)
            written.shards[path] = len(data)
            written.segments.extend(_sample_rows(shard, path))
        return {RESULT: np.array([written.to_json()], dtype=object)}

    return write


def _gather(
    bucket: str, packs: list[tuple[PackMeta, dict[str, np.ndarray]]], recipe: Recipe
) -> Shard:
    """One shard of the packs, in the order of their segments' identity, not of arrival."""
    parts: list[tuple[SegmentInfo, dict[str, np.ndarray]]] = []
    for meta, tensors in packs:
        row = 0
        for segment in meta.segments:
            span = slice(row, row + segment.windows)
            parts.append((segment, {name: tensors[name][span] for name in tensors}))
            row += segment.windows
    parts.sort(key=lambda part: (part[0].generation, part[0].first_window))
    names = recipe.contract.tensors
    return Shard(
        bucket,
        tuple(segment for segment, _ in parts),
        {name: np.concatenate([tensors[name] for _, tensors in parts]) for name in names},
        recipe.contract,
    )


def _sample_rows(shard: Shard, path: str) -> list[dict[str, Any]]:
    found, row = [], 0
    for segment in shard.segments:
        checksums = list(shard.checksums[row : row + segment.windows])
        found.append(_row(segment, path, row, checksums, shard.contract))
        row += segment.windows
    return found


def _row(
    segment: SegmentInfo, path: str, first_row: int, checksums: list[str], contract: Contract
) -> dict[str, Any]:
    fields = asdict(segment)
    num, den = fields.pop("time_base")
    return {
        **fields,
        "geometry": json.dumps(segment.geometry, sort_keys=True),
        "time_base_num": num,
        "time_base_den": den,
        "height": segment.geometry["height"],
        "width": segment.geometry["width"],
        "shard": path,
        "first_row": first_row,
        "checksums": checksums,
        "statistic": contract.statistic,
        "dtype": contract.dtype,
    }
