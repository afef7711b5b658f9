"""The plan: the dataset against the manifest; what is to be encoded, and what is done already."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline.buckets import Bucket
from pipeline.carry import carry_over, recall_known
from pipeline.catalog import Catalog
from pipeline.choose import Chooser
from pipeline.compare import compare
from pipeline.config import Config
from pipeline.coverage import NOTHING_HELD, committed_coverage
from pipeline.errors import SourceError
from pipeline.forecast import window_seconds
from pipeline.leases import range_of
from pipeline.manifest import Manifest
from pipeline.recipe import Recipe, generation_id
from pipeline.sources import SourcePlan
from pipeline.tasks import make_units
from pipeline.units import Unit
from pipeline.video.facts import VideoFacts

ProbeAnswer = VideoFacts | SourceError
Prober = Callable[[Sequence[tuple[str, str | None]]], list[ProbeAnswer]]
"""Probes files, given as (URI, pinned version or None); answers in the same order."""


@dataclass(frozen=True)
class Plan:
    """What a run would do. ``kinds`` counts the dataset's sources by what the plan found.

    ``carried`` are rows of ``samples`` that give windows of a replaced generation to the new one.
    ``quarantined`` are the newest rows of sources that failed too often to be tried again.
    """

    kinds: Mapping[str, int]
    standing: Mapping[str, int]
    sources: Mapping[str, SourcePlan]
    carried: pa.Table
    units: tuple[Unit, ...]
    removed: pa.Table
    columns: pa.Table
    total: int
    quarantined: pa.Table

    @property
    def changes_anything(self) -> bool:
        """Whether a run would change what readers see."""
        return bool(self.sources or self.removed.num_rows or self.columns.num_rows)

    @property
    def ranges(self) -> set[str]:
        """Ranges of the source hash that a run would change (``pipeline.leases``)."""
        ids = [*self.sources, *self.removed["source_id"].to_pylist()]
        return {range_of(i) for i in [*ids, *self.columns["source_id"].to_pylist()]}

    @property
    def known(self) -> int:
        """Samples held already that windows to encode may turn out to be, as decoding tells."""
        return sum(run.windows for source in self.sources.values() for run in source.known)

    @property
    def packs(self) -> int:
        """Packs that the units are expected to make."""
        return sum(unit.pack_count for unit in self.units)

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
    chooser = Chooser(config, recipe, overwrite, retry_failed)
    found = compare(catalog, manifest, chooser, whole=config.dataset.limit is None)
    todo = _probe(found.todo, recipe, probe)
    todo = _resolve(todo, recipe, run_id if overwrite else None)
    covered = committed_coverage(manifest, {s.generation for s in todo if s.failure is None})
    todo = [replace(s, coverage=covered.get(s.generation, NOTHING_HELD)) for s in todo]
    todo, carried = carry_over(manifest, recipe, todo)
    todo = recall_known(manifest, recipe, todo)
    planned = {source.source_id: source for source in todo}
    buckets = {b for s in todo if not s.coverage.complete(s.buckets) for b in s.buckets}
    units = make_units(config, recipe, todo, window_seconds(config, manifest, buckets))
    return Plan(
        kinds=found.kinds,
        standing=found.standing,
        sources=planned,
        carried=carried,
        units=tuple(units),
        removed=found.removed,
        columns=found.columns,
        quarantined=found.quarantined,
        total=catalog.sources.num_rows,
    )


def _probe(todo: list[SourcePlan], recipe: Recipe, probe: Prober) -> list[SourcePlan]:
    """Fill in facts: each file is probed once, however many clips the dataset has of it."""
    unknown = [s for s in todo if s.failure is None and s.facts is None and not s.hinted(recipe)]
    files = list(dict.fromkeys(s.file for s in unknown))
    answers = dict(zip(files, probe(files), strict=True)) if files else {}
    probed = []
    for source in todo:
        answer = answers.get(source.file)
        if source.failure is not None or source.facts is not None or answer is None:
            probed.append(source)
        elif isinstance(answer, SourceError):
            probed.append(replace(source, failure=answer))
        else:
            probed.append(replace(source, facts=answer))
    return probed


def _resolve(todo: list[SourcePlan], recipe: Recipe, rebuild: str | None) -> list[SourcePlan]:
    """Assign buckets and the generation; sources of one kind share what is the same of them."""
    kinds: dict[tuple[tuple[Bucket, ...], bool], tuple[tuple[Bucket, ...], str, str]] = {}
    resolved = []
    for source in todo:
        if source.failure is not None:
            resolved.append(source)
            continue
        kind = recipe.assign(*source.display_size), source.is_image
        if kind not in kinds:
            kinds[kind] = kind[0], recipe.key(*kind), recipe.window_key(source.is_image)
        buckets, key, window_key = kinds[kind]
        resolved.append(
            replace(
                source,
                buckets=buckets,
                recipe=key,
                window_recipe=window_key,
                generation=generation_id(source.source_id, source.version, key, rebuild),
                previous=source.previous if rebuild is None else None,
            )
        )
    return resolved
