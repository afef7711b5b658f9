"""What a snapshot holds, summed up in bounded memory, whatever the number of its segments."""

import contextlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.buckets import Bucket
from pipeline.contract import Contract
from pipeline.live import live_generations, present_sources
from pipeline.manifest import Manifest, Snapshot
from pipeline.page.bins import Bins, duration_bins
from pipeline.page.pick import Picks
from pipeline.ranges import spans
from pipeline.reader.build import ranged, single
from pipeline.recipe import latent_values

EXAMPLES = 3
"""Sources shown of each reason."""

_SOURCES = (
    *("source_id", "revision", "run_id", "generation", "contract_id", "status", "reason"),
    *("message", "attempts", "uri", "version", "start", "end", "is_image", "facts"),
)
_SEGMENTS = (
    *("source_id", "generation", "bucket", "height", "width", "frames", "first_window", "windows"),
    *("shard", "first_row", "first_frames", "valid_frames", "fps"),
)
_ORDER = ("height", "width", "frames", "source_id", "first_window", "windows", "shard", "first_row")
_KINDS_HELD = 5_000


@dataclass
class Ended:
    """Sources that ended ``skipped`` or ``failed`` for one reason.

    ``examples`` are rows of ``sources``, no more than ``EXAMPLES``; ``attempts`` the most made.
    """

    count: int = 0
    attempts: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class BucketSum:
    """Windows of one bucket, those of them that are padded, and the bytes of their latents."""

    windows: int = 0
    padded: int = 0
    bytes: int = 0


@dataclass
class Holdings:
    """Sums over one snapshot.

    Attributes:
        statuses: sources of the dataset by status: ok, skipped, failed.
        ended: by (status, reason).
        windows, images, padded, segments, shards: live ones; ``images`` are windows of one frame.
        buckets: by name.
        tails: padded windows by how many of their frames are real.
        durations: sources by seconds; ``seconds`` is their sum.
        fps, codecs: sources by what the header says.
        picks: windows to look at, gathered on the way.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    ended: dict[tuple[str, str], Ended] = field(default_factory=dict)
    windows: int = 0
    images: int = 0
    padded: int = 0
    segments: int = 0
    shards: int = 0
    buckets: dict[str, BucketSum] = field(default_factory=dict)
    tails: Counter[int] = field(default_factory=Counter)
    durations: Bins = field(default_factory=duration_bins)
    seconds: float = 0.0
    fps: Counter[str] = field(default_factory=Counter)
    codecs: Counter[str] = field(default_factory=Counter)
    picks: Picks = field(default_factory=lambda: Picks(0))

    @property
    def total(self) -> int:
        """Sources of the dataset."""
        return self.statuses.total()

    @property
    def bytes(self) -> int:
        """Of the latents of all live windows."""
        return sum(bucket.bytes for bucket in self.buckets.values())


def sum_up(manifest: Manifest, snapshot: Snapshot, picks: int) -> Holdings:
    """Sum a snapshot up, one range of the source hash at a time.

    Args:
        manifest: of the cache.
        snapshot: which of its states.
        picks: windows to pick of each bucket, at the most, for each purpose.
    """
    found = Holdings(picks=Picks(picks))
    shards: set[str] = set()
    with contextlib.ExitStack() as stack:
        sources = stack.enter_context(ranged(manifest, snapshot, "sources", _SOURCES))
        segments = stack.enter_context(ranged(manifest, snapshot, "samples", _SEGMENTS))
        for part in spans(max(sources.num_rows, segments.num_rows)):
            rows = sources.read(part)
            present = present_sources(rows)
            _add_sources(found, present)
            live = live_generations(rows, snapshot.contract.contract_id)
            held = segments.read(part)
            held = held.filter(pc.is_in(held["generation"], live["generation"].combine_chunks()))
            if held.num_rows:
                held = single(held.sort_by([(name, "ascending") for name in _ORDER]))
                _add_segments(found, held, snapshot.contract)
                found.picks.add(held, rows)
                shards.update(pc.unique(held["shard"]).to_pylist())
    found.shards = len(shards)
    return found


def _add_sources(found: Holdings, present: pa.Table) -> None:
    statuses = pc.value_counts(present["status"]).to_pylist()
    found.statuses.update({entry["values"]: entry["counts"] for entry in statuses})
    for row in present.filter(pc.not_equal(present["status"], "ok")).to_pylist():
        ended = found.ended.setdefault((row["status"], row["reason"] or "unknown"), Ended())
        ended.count += 1
        ended.attempts = max(ended.attempts, row["attempts"] or 0)
        if len(ended.examples) < EXAMPLES:
            ended.examples.append(row)
    ok = present.filter(pc.equal(present["status"], "ok"))
    columns = (ok[name].to_pylist() for name in ("facts", "start", "end", "is_image"))
    for facts, start, end, is_image in zip(*columns, strict=True):
        _add_facts(found, {} if facts is None else json.loads(facts), start, end, bool(is_image))


def _add_facts(
    found: Holdings, facts: Mapping[str, Any], start: float | None, end: float | None, image: bool
) -> None:
    _count(found.codecs, str(facts.get("codec") or "not told"))
    if image:
        return
    fps = facts.get("fps")
    _count(found.fps, f"{fps:.4g}" if fps else "not told")
    stop = facts.get("duration") if end is None else end
    if stop is not None:
        seconds = max(0.0, stop - (start or 0.0))
        found.durations.add(seconds)
        found.seconds += seconds


def _count(counter: Counter[str], name: str) -> None:
    """Count a kind; kinds beyond some thousands, which no honest dataset has, are one."""
    counter[name if name in counter or len(counter) < _KINDS_HELD else "other"] += 1


def _add_segments(found: Holdings, rows: pa.Table, contract: Contract) -> None:
    owner = pc.list_parent_indices(rows["valid_frames"]).to_numpy()
    valid = pc.list_flatten(rows["valid_frames"]).to_numpy()
    frames = rows["frames"].to_numpy()[owner]
    padded = valid < frames
    found.segments += rows.num_rows
    found.windows += len(valid)
    found.images += int((frames == 1).sum())
    found.padded += int(padded.sum())
    numbers, counts = np.unique(valid[padded], return_counts=True)
    found.tails.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
    names = rows["bucket"].combine_chunks().dictionary_encode()
    of = names.indices.to_numpy()[owner]
    for place, name in enumerate(names.dictionary.to_pylist()):
        mine = of == place
        held = found.buckets.setdefault(name, BucketSum())
        held.windows += int(mine.sum())
        held.padded += int((mine & padded).sum())
        held.bytes += sum(
            int(number) * _window_bytes(contract, name, int(length))
            for length, number in zip(*np.unique(frames[mine], return_counts=True), strict=True)
        )


def _window_bytes(contract: Contract, bucket: str, frames: int) -> int:
    values = latent_values(contract, Bucket.parse(bucket), frames)
    return values * np.dtype(contract.dtype).itemsize * len(contract.tensors)
