"""The plan: the dataset against the manifest; what is to be encoded, and what is done already."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.buckets import Bucket
from pipeline.catalog import Catalog, changed_columns, newest_by_source
from pipeline.config import Config
from pipeline.coverage import Coverage, committed_coverage
from pipeline.errors import Reason, SourceError
from pipeline.listing import IMAGE_SUFFIXES
from pipeline.manifest import Manifest
from pipeline.packs import facts_from_json
from pipeline.recipe import Recipe, generation_id, segment_cap
from pipeline.units import ClipTask, FileTask, Unit, expected_windows, pack_units, split_ranges
from pipeline.video.facts import VideoFacts

_HINTS = ("width", "height", "fps", "frames", "duration")

ProbeAnswer = VideoFacts | SourceError
Prober = Callable[[Sequence[tuple[str, str | None]]], list[ProbeAnswer]]
"""Probes files, given as (URI, pinned version or None); answers in the same order."""

_UNITS_PER_TASK = 3
"""Units for each concurrent decode task at the least, where the plan is large enough."""


@dataclass(frozen=True)
class SourcePlan:
    """One source that this run has to bring to an end: its identity and what is known of it."""

    source_id: str
    user_id: str | None
    uri: str
    start: float | None
    end: float | None
    version: str
    pinned: bool
    revision: int
    attempts: int
    facts: VideoFacts | None = None
    hints: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    generation: str = ""
    buckets: tuple[Bucket, ...] = ()
    coverage: Coverage = field(default_factory=Coverage)
    failure: SourceError | None = None


@dataclass(frozen=True)
class Plan:
    """What a run would do. ``kinds`` counts the dataset's sources by what the plan found."""

    kinds: Mapping[str, int]
    standing: Mapping[str, int]
    sources: Mapping[str, SourcePlan]
    units: tuple[Unit, ...]
    removed: pa.Table
    columns: pa.Table
    total: int

    @property
    def windows(self) -> Counter[Bucket]:
        """Estimated windows to encode, by bucket."""
        found: Counter[Bucket] = Counter()
        for unit in self.units:
            for file in unit.files:
                for clip in file.clips:
                    for bucket in clip.buckets:
                        found[bucket] += clip.windows // len(clip.buckets)
        return found


def make_plan(
    config: Config,
    catalog: Catalog,
    manifest: Manifest,
    recipe: Recipe,
    run_id: str,
    probe: Prober,
    *,
    overwrite: bool = False,
    retry_failed: bool = False,
) -> Plan:
    """Compare the dataset with the manifest and cut the missing work into units.

    Reads the manifest, probes the headers of new and changed sources whose hints do not say enough,
    and changes nothing.
    """
    latest = newest_by_source(manifest.read("sources"))
    chooser = _Chooser(config, recipe, overwrite, retry_failed)
    todo = chooser.choose(catalog, latest)
    todo = _probe(todo, recipe, probe)
    todo = [_resolve(source, recipe, run_id if overwrite else None) for source in todo]
    covered = committed_coverage(manifest, {s.generation for s in todo if s.failure is None})
    planned = {
        s.source_id: _replace(s, coverage=covered.get(s.generation, Coverage())) for s in todo
    }
    return Plan(
        kinds=chooser.kinds,
        standing=chooser.standing,
        sources=planned,
        units=tuple(_units(config, recipe, planned.values())),
        removed=_removed(config, catalog, latest),
        columns=changed_columns(catalog, manifest.read("captions")),
        total=catalog.sources.num_rows,
    )


class _Chooser:
    """Sorts the dataset's sources into kinds and picks those that need work."""

    def __init__(self, config: Config, recipe: Recipe, overwrite: bool, retry: bool) -> None:
        self.recipe = recipe
        self.max_attempts = config.max_attempts
        self.overwrite = overwrite
        self.retry = retry
        self.kinds: Counter[str] = Counter(
            {"added": 0, "changed": 0, "reusable": 0, "failed before": 0}
        )
        self.standing: Counter[str] = Counter({"ok": 0, "skipped": 0, "failed": 0})

    def choose(self, catalog: Catalog, latest: pa.Table) -> list[SourcePlan]:
        known = {row["source_id"]: row for row in latest.to_pylist()}
        chosen = []
        for row in catalog.sources.to_pylist():
            before = known.get(row["source_id"])
            kind, wanted = self._kind(row, before)
            self.kinds[kind] += 1
            if wanted:
                chosen.append(_source_plan(row, before, kind))
            elif before is not None:
                self.standing[before["status"]] += 1
        return chosen

    def _kind(self, row: dict[str, Any], before: dict[str, Any] | None) -> tuple[str, bool]:
        if before is None or before["status"] == "removed":
            return "added", True
        if before["version"] != row["version"] or self._recipe_differs(row, before):
            return "changed", True
        if before["status"] == "failed":
            transient = Reason(before["reason"]).transient
            again = transient and before["attempts"] < self.max_attempts
            return "failed before", bool(self.overwrite or self.retry or again)
        return ("changed", True) if self.overwrite else ("reusable", False)

    def _recipe_differs(self, row: dict[str, Any], before: dict[str, Any]) -> bool:
        if before["facts"] is not None:
            facts = facts_from_json(before["facts"])
            size, is_image = (facts.width, facts.height), facts.is_image
        elif before["status"] == "failed":  # before its header was known: no recipe to compare
            return False
        else:  # planned by hints, and all of its windows were committed already
            source = _source_plan(row, before, "")
            if not _hinted(source, self.recipe):
                return True
            size, is_image = _display_size(source), False
        return bool(self.recipe.key(self.recipe.assign(*size), is_image) != before["recipe"])


def _source_plan(row: dict[str, Any], before: dict[str, Any] | None, kind: str) -> SourcePlan:
    same_bytes = before is not None and before["version"] == row["version"]
    facts = before["facts"] if before is not None and same_bytes else None
    failure = None
    if row["reason"] is not None:
        failure = SourceError(Reason(row["reason"]), row["message"])
    return SourcePlan(
        source_id=row["source_id"],
        user_id=row["id"],
        uri=row["uri"],
        start=row["start"],
        end=row["end"],
        version=row["version"],
        pinned=row["pinned"],
        revision=1 if before is None else before["revision"] + 1,
        attempts=before["attempts"] if before is not None and kind == "failed before" else 0,
        facts=None if facts is None else facts_from_json(facts),
        hints={k: row[k] for k in _HINTS if row[k] is not None and 0 < row[k] < math.inf},
        failure=failure,
    )


def _replace(source: SourcePlan, **changes: Any) -> SourcePlan:
    return SourcePlan(**{**source.__dict__, **changes})


def _hinted(source: SourcePlan, recipe: Recipe) -> bool:
    """Whether the dataset's own columns say enough to plan without opening the file.

    Never of an image: time has no part in its recipe, and the columns do not tell images apart.
    """
    hints = source.hints
    if not {"width", "height"} <= hints.keys() or _named_as_image(source.uri):
        return False
    if recipe.fps is None:
        return "frames" in hints or {"fps", "duration"} <= hints.keys()
    return "duration" in hints or {"fps", "frames"} <= hints.keys()


def _named_as_image(uri: str) -> bool:
    return PurePosixPath(uri).suffix.lower() in IMAGE_SUFFIXES


def _probe(todo: list[SourcePlan], recipe: Recipe, probe: Prober) -> list[SourcePlan]:
    """Fill in facts: each file is probed once, however many clips the dataset has of it."""
    unknown = [s for s in todo if s.failure is None and s.facts is None and not _hinted(s, recipe)]
    files = list(dict.fromkeys((s.uri, s.version if s.pinned else None) for s in unknown))
    answers = dict(zip(files, probe(files), strict=True)) if files else {}
    probed = []
    for source in todo:
        answer = answers.get((source.uri, source.version if source.pinned else None))
        if source.failure is not None or source.facts is not None or answer is None:
            probed.append(source)
        elif isinstance(answer, SourceError):
            probed.append(_replace(source, failure=answer))
        else:
            probed.append(_replace(source, facts=answer))
    return probed


def _display_size(source: SourcePlan) -> tuple[int, int]:
    if source.facts is not None:
        return source.facts.width, source.facts.height
    return source.hints["width"], source.hints["height"]


def _resolve(source: SourcePlan, recipe: Recipe, rebuild: str | None) -> SourcePlan:
    """Assign buckets and the generation."""
    if source.failure is not None:
        return source
    buckets = recipe.assign(*_display_size(source))
    key = recipe.key(buckets, is_image=source.facts is not None and source.facts.is_image)
    generation = generation_id(source.source_id, source.version, key, rebuild)
    return _replace(source, buckets=buckets, recipe=key, generation=generation)


def estimated_windows(source: SourcePlan, recipe: Recipe) -> int:
    """Windows per bucket that the header or the hints promise; 0 when they say nothing."""
    if source.facts is not None:
        if source.facts.is_image:
            return 1
        frames = source.facts.estimated_frames(recipe.fps, source.start, source.end)
        return 0 if frames is None else recipe.grid.count(frames)
    hints = source.hints
    duration = hints.get("duration") or hints["frames"] / hints.get("fps", 1.0)
    if recipe.fps is not None:
        rate = float(recipe.fps)
    else:
        rate = hints["fps"] if "fps" in hints else hints["frames"] / duration
    begin = source.start or 0.0
    stop = duration if source.end is None else min(source.end, duration)
    return recipe.grid.count(max(0, round((stop - begin) * rate)))


def _units(config: Config, recipe: Recipe, sources: Any) -> list[Unit]:
    """Cut the missing windows into decode tasks, sources of one bucket and one file together."""
    by_file: dict[tuple[Any, ...], list[SourcePlan]] = {}
    for source in sources:
        if source.failure is None and not source.coverage.complete(source.buckets):
            pinned = source.version if source.pinned else None
            by_file.setdefault((source.buckets, source.uri, pinned), []).append(source)
    files = []
    for (_, uri, pinned), clips in sorted(by_file.items(), key=lambda item: str(item[0])):
        clips.sort(key=lambda clip: (clip.start or 0.0, clip.source_id))
        files.extend(_file_tasks(config, recipe, uri, pinned, clips))
    return pack_units(files, _unit_windows(config, files))


def _unit_windows(config: Config, files: Sequence[FileTask]) -> int:
    """Windows of one unit: as configured, or fewer so that a small plan keeps all tasks busy."""
    total = sum(clip.windows for file in files for clip in file.clips)
    even = -(-total // (_UNITS_PER_TASK * config.run.decode_tasks))
    return min(config.run.task_windows, max(even, config.windows.segment_windows))


def _file_tasks(
    config: Config, recipe: Recipe, uri: str, pinned: str | None, clips: list[SourcePlan]
) -> list[FileTask]:
    """The file's clips in as few tasks as ``run.task_windows`` allows.

    Pieces of one clip are for different tasks: within a task a source is one clip.
    """
    tasks: list[FileTask] = []
    together: list[ClipTask] = []
    for clip in clips:
        for piece in _clip_tasks(config, recipe, clip):
            filled = sum(task.windows for task in together)
            full = filled + piece.windows > config.run.task_windows
            if together and (full or together[-1].source_id == piece.source_id):
                tasks.append(FileTask(uri, pinned, tuple(together)))
                together = []
            together.append(piece)
    tasks.append(FileTask(uri, pinned, tuple(together)))
    return tasks


def _clip_tasks(config: Config, recipe: Recipe, source: SourcePlan) -> list[ClipTask]:
    estimate = estimated_windows(source, recipe)
    missing = source.coverage.missing(source.buckets)
    splittable = recipe.fps is not None or (source.facts is not None and source.facts.is_image)
    caps = [
        segment_cap(b, config.windows.segment_windows, config.run.pack_bytes)
        for b in source.buckets
    ]
    size = max(max(caps), config.run.task_windows // max(caps) * max(caps))
    pieces = split_ranges(missing, estimate, size) if splittable else [list(missing)]
    tasks = []
    for piece in pieces:
        expected = expected_windows(piece, estimate)
        tasks.append(
            ClipTask(
                source_id=source.source_id,
                generation=source.generation,
                version=source.version,
                start=source.start,
                end=source.end,
                ranges=tuple(piece),
                buckets=source.buckets,
                expected_size=_display_size(source),
                windows=max(1, expected) * len(source.buckets),
            )
        )
    return tasks


def _removed(config: Config, catalog: Catalog, latest: pa.Table) -> pa.Table:
    """Rows of sources that are in the cache and no longer in the dataset.

    None under ``dataset.limit``, which looks at a part of the dataset only.
    """
    if config.dataset.limit is not None or latest.num_rows == 0:
        return latest.slice(0, 0)
    gone = pc.invert(pc.is_in(latest["source_id"], catalog.sources["source_id"].combine_chunks()))
    return latest.filter(pc.and_(gone, pc.not_equal(latest["status"], "removed")))
