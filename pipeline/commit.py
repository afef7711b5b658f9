"""Commit: progress made durable. The driver is the only committer; data first, then the tables."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from pipeline.buckets import Bucket
from pipeline.coverage import Coverage, merge
from pipeline.effort import Efforts
from pipeline.errors import Reason, printable
from pipeline.identity import stable_hash
from pipeline.manifest import Guard, Manifest, now, unguarded
from pipeline.metrics import BYTES_WRITTEN, COMMIT, QUEUE, SILENT, Meter
from pipeline.packs import Event, facts_from_json, facts_to_json
from pipeline.planned import PlannedSources
from pipeline.schema import SAMPLES, SOURCES
from pipeline.signals import stops_wait
from pipeline.sources import SourcePlan
from pipeline.stages.write import Written
from pipeline.video.facts import VideoFacts
from pipeline.windows import WINDOW_FRAMES

_CARRIED_ROWS = 10_000
"""Carried segments of one append: they become Python objects on their way."""

_ENDS = 10_000
"""Ended sources that wait for a commit at the most."""


@dataclass(slots=True)
class _Open:
    """A source of which something was heard and that has not ended: the windows held and what is
    known of its end.
    """

    number: int
    plan: SourcePlan
    held: dict[Bucket, tuple[tuple[int, int], ...]]
    windows: int | None
    frames_actual: int | None
    facts: str | None = None

    @classmethod
    def begin(cls, number: int, plan: SourcePlan) -> "_Open":
        """As the plan leaves it."""
        held = plan.coverage
        return cls(number, plan, dict(held.held), held.windows, held.frames_actual)

    @property
    def coverage(self) -> Coverage:
        return Coverage(self.held, self.windows, self.frames_actual)


@dataclass
class Tally:
    """What this run wrote, and how the sources that it worked on ended.

    ``firsts`` counts those that were decoded, and for the first time at this version. ``kept``
    windows were found to be held already, and were not encoded; ``driver_seconds`` is the CPU time
    of drivers over the execution.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    firsts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    windows: int = 0
    kept: int = 0
    shards: int = 0
    bytes: int = 0
    efforts: Efforts = field(default_factory=Efforts)
    driver_seconds: float = 0.0

    def count_end(
        self, status: str, reason: str | None, example: str, *, first: bool = False
    ) -> None:
        """Count a source that ended; ``example`` names it and says why."""
        self.statuses[status] += 1
        if first:
            self.firsts[status] += 1
        if reason is not None:
            self.reasons[f"{status}: {reason}"] += 1
            self.examples.setdefault(f"{status}: {reason}", printable(example))

    def forget_ends(self) -> None:
        """Forget how sources ended, of which the tables tell; what was made still counts."""
        for counted in (self.statuses, self.reasons, self.firsts):
            counted.clear()
        self.examples.clear()

    def merge(self, other: "Tally") -> None:
        """Count in what another part of the run did."""
        self.statuses.update(other.statuses)
        self.reasons.update(other.reasons)
        self.firsts.update(other.firsts)
        self.examples = {**other.examples, **self.examples}
        self.windows += other.windows
        self.kept += other.kept
        self.shards += other.shards
        self.bytes += other.bytes
        self.efforts.merge(other.efforts)
        self.driver_seconds += other.driver_seconds


class Committer:
    """Gathers write results and appends them: segments to ``samples``, then ends to ``sources``.

    A source ends ``ok`` when its windows up to the end of its data are held at every bucket,
    ``skipped`` when the data hold no window, ``failed`` at the first event that says so. Of those
    of which nothing was heard yet it keeps a byte each.
    """

    def __init__(
        self,
        manifest: Manifest,
        run_id: str,
        contract_id: str,
        sources: PlannedSources,
        commit_seconds: float,
        carried: pa.Table | None = None,
        guard: Guard = unguarded,
        meter: Meter = SILENT,
    ) -> None:
        """``carried`` are rows of ``samples`` that the plan gives to new generations; ``guard`` is
        called before each commit, and ``meter`` is told of it.
        """
        self.tally = Tally()
        self._manifest = manifest
        self._run_id = run_id
        self._contract_id = contract_id
        self._seconds = commit_seconds
        self._guard = guard
        self._meter = meter
        self._last = time.monotonic()
        self._sources = sources
        self._ended = bytearray(len(sources))
        self._open: dict[str, _Open] = {}
        self._segments: list[Mapping[str, Any]] = []
        self._waiting = 0
        self._ends: list[dict[str, Any]] = []
        self._carried = SAMPLES.empty_table() if carried is None else carried

    def settle(self) -> None:
        """End the sources that the plan alone brings to an end; may commit."""
        for number, plan in self._sources.settled():
            state = _Open.begin(number, plan)
            if plan.failure is None:
                self._close_if_complete(state)
            else:
                self._end(state, "failed", plan.failure.reason, plan.failure.message)

    def add(self, written: Written) -> None:
        """Take one write result; commits when the last time is ``commit_seconds`` ago."""
        self.tally.shards += len(written.shards)
        self.tally.bytes += sum(written.shards.values())
        self._meter.add(BYTES_WRITTEN, sum(written.shards.values()))
        self._waiting += sum(s["windows"] for s in [*written.segments, *written.kept])
        for segment in written.segments:
            self._segments.append(segment)
            self.tally.windows += segment["windows"]
            self._hold(segment)
        for segment in written.kept:
            self._segments.append(segment)
            self.tally.kept += segment["windows"]
            self._hold(segment)
        for event in written.events:
            self._note(event)
        for effort in written.efforts:
            self.tally.efforts.add(effort)
        self._meter.set(QUEUE, self._waiting, queue="commit")
        if time.monotonic() - self._last >= self._seconds:
            self.commit()

    def _find(self, source_id: str, generation: str) -> _Open | None:
        """A source that has not ended; None for one that has, or is of another generation."""
        state = self._open.get(source_id)
        if state is None:
            number = self._sources.find(source_id)
            if number is None or self._ended[number]:
                return None
            state = _Open.begin(number, self._sources.at(number))
            if state.plan.generation == generation:
                self._open[source_id] = state
        return state if state.plan.generation == generation else None

    def _hold(self, segment: Mapping[str, Any]) -> None:
        state = self._find(segment["source_id"], segment["generation"])
        if state is None:
            return
        first = segment["first_window"]
        bucket = Bucket.parse(segment["bucket"])
        span = (first, first + segment["windows"])
        state.held[bucket] = merge([*state.held.get(bucket, ()), span])
        self._close_if_complete(state)

    def _note(self, event: Event) -> None:
        state = self._find(event.source_id, event.generation)
        if state is None:
            return
        state.facts = event.facts or state.facts
        if event.kind == "failed":
            self._end(state, "failed", Reason(event.reason), event.message)
            return
        state.windows, state.frames_actual = event.windows, event.frames_actual
        self._close_if_complete(state)

    def _close_if_complete(self, state: _Open) -> None:
        if not state.coverage.complete(state.plan.buckets):
            return
        if state.windows:
            self._end(state, "ok", None, "")
        else:
            message = (
                f"{state.frames_actual} frames at the wanted rate; a window takes {WINDOW_FRAMES} "
                "(see windows.tail and windows.min_frames)"
            )
            self._end(state, "skipped", Reason.TOO_SHORT, message)

    def _end(self, state: _Open, status: str, reason: Reason | None, message: str) -> None:
        plan, facts = state.plan, state.facts
        if facts is None and isinstance(plan.facts, VideoFacts):
            facts = facts_to_json(plan.facts)
        self._open.pop(plan.source_id, None)
        self._ended[state.number] = True
        first = plan.failure is None and not plan.attempts
        self.tally.count_end(status, reason, f"{plan.uri}: {message}", first=first)
        self._ends.append(
            {
                "source_id": plan.source_id,
                "revision": plan.revision,
                "run_id": self._run_id,
                "id": plan.user_id,
                "uri": plan.uri,
                "start": plan.start,
                "end": plan.end,
                "version": plan.version,
                "recipe": plan.recipe,
                "window_recipe": plan.window_recipe,
                "generation": plan.generation,
                "contract_id": self._contract_id,
                "status": status,
                "reason": None if reason is None else str(reason),
                "message": message or None,
                "attempts": plan.attempts + 1,
                "frames_actual": state.frames_actual,
                "windows": state.windows if status == "ok" else None,
                "buckets": [bucket.name for bucket in plan.buckets],
                **_size(plan, facts),
                "facts": facts,
            }
        )
        if len(self._ends) >= _ENDS:
            self.commit()

    @stops_wait()
    def commit(self) -> None:
        """Append what has been gathered: first the segments, then the ended sources.

        A signal to stop waits until it is done: rows that were appended and not yet let go of
        would be appended again by the commit that follows a stop.
        """
        begun = time.monotonic()
        anything = self._carried.num_rows or self._segments or self._ends
        if anything:
            self._guard()
        at = now()
        for batch in self._carried.to_batches(max_chunksize=_CARRIED_ROWS):
            self._append_segments(batch.to_pylist(), at)
        self._carried = SAMPLES.empty_table()
        self._append_segments(self._segments, at)
        self._segments = []
        self._manifest.append("sources", [{**end, "committed_at": at} for end in self._ends])
        self._ends = []
        self._last = time.monotonic()
        if anything:
            self._meter.observe(COMMIT, self._last - begun)
        self._waiting = 0
        self._meter.set(QUEUE, 0, queue="commit")

    def _append_segments(self, segments: Sequence[Mapping[str, Any]], at: datetime) -> None:
        stamp = {"run_id": self._run_id, "committed_at": at}
        self._manifest.append(
            "samples", [{**row, "segment_id": _segment_id(row), **stamp} for row in segments]
        )

    def give_up(self) -> None:
        """End the sources that are open still, after all work came back, as ``incomplete``."""
        message = "the run ended without all of its windows; run again to resume"
        for number, plan in enumerate(self._sources.values()):
            if not self._ended[number]:
                state = self._open.get(plan.source_id) or _Open.begin(number, plan)
                self._end(state, "failed", Reason.INCOMPLETE, message)

    def bury(self, removed: pa.Table) -> None:
        """Append a tombstone for every source that left the dataset."""
        if removed.num_rows:
            self._guard()
        rows = [
            {
                **row,
                "revision": row["revision"] + 1,
                "run_id": self._run_id,
                "status": "removed",
                "reason": None,
                "message": None,
                "committed_at": now(),
            }
            for row in removed.select(SOURCES.names).to_pylist()
        ]
        self._manifest.append("sources", rows)


def _size(plan: SourcePlan, text: str | None) -> dict[str, Any]:
    """Display size and kind, as the next plan's choice of buckets needs them."""
    if text is not None:
        facts = facts_from_json(text)
        return {"width": facts.width, "height": facts.height, "is_image": facts.is_image}
    sized = plan.facts is not None or {"width", "height"} <= plan.hints.keys()
    if plan.failure is not None or not sized:  # it failed before its buckets were known
        return {"width": None, "height": None, "is_image": None}
    width, height = plan.display_size
    return {"width": width, "height": height, "is_image": False}


def _segment_id(segment: Mapping[str, Any]) -> str:
    fields = [segment[name] for name in ("generation", "bucket", "first_window", "windows")]
    return stable_hash(["segment", *fields])
