"""The plan: the dataset against the manifest; what is to be encoded, and what is done already."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline.buckets import Bucket
from pipeline.carry import carry_over, recall_known
from pipeline.catalog import Catalog
from pipeline.choose import Chooser
from pipeline.compare import compare
from pipeline.config import Config
from pipeline.coverage import committed_coverage
from pipeline.errors import SourceError
from pipeline.forecast import window_seconds
from pipeline.leases import range_of
from pipeline.manifest import Manifest
from pipeline.packed import in_batches
from pipeline.planned import PlannedSources, PlannedUnits, file_order
from pipeline.recipe import Recipe, generation_id
from pipeline.schema import SAMPLES
from pipeline.sources import SourcePlan
from pipeline.tasks import make_units
from pipeline.todo import Todo
from pipeline.video.facts import Header

ProbeAnswer = Header | SourceError
Prober = Callable[[Sequence[tuple[str, str | None]]], list[ProbeAnswer]]
"""Probes files, given as (URI, pinned version or None); answers in the same order."""

_COMPARED = 200_000
"""Sources of which what a generation before holds is compared together: for each of these the
table ``samples`` is read once."""

_READ = 65_536
"""Ids that are texts of Python at once."""


@dataclass(frozen=True)
class Plan:
    """What a run would do. ``kinds`` counts the dataset's sources by what the plan found.

    ``carried`` are rows of ``samples`` that give windows of a replaced generation to the new one.
    ``quarantined`` are the newest rows of sources that failed too often to be tried again.
    """

    kinds: Mapping[str, int]
    standing: Mapping[str, int]
    sources: PlannedSources
    carried: pa.Table
    units: PlannedUnits
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
        found = {range_of(source_id) for source_id in self.sources}
        for table in (self.removed, self.columns):
            for batch in table.select(["source_id"]).to_batches(max_chunksize=_READ):
                found |= {range_of(source_id) for source_id in batch["source_id"].to_pylist()}
        return found

    @property
    def known(self) -> int:
        """Samples held already that windows to encode may turn out to be, as decoding tells."""
        return self.sources.known

    @property
    def packs(self) -> int:
        """Packs that the units are expected to make."""
        return self.units.packs

    @property
    def windows(self) -> Counter[Bucket]:
        """Estimated windows to encode, by bucket."""
        return self.units.windows


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
    found, todo = compare(catalog, manifest, chooser, whole=config.dataset.limit is None)
    total, compared = catalog.sources.num_rows, todo.complete.num_rows > 0
    rebuild = run_id if overwrite else None
    pa.default_memory_pool().release_unused()  # of the comparison
    sources = PlannedSources(_resolved(todo, recipe, probe, rebuild))
    del catalog, todo  # larger than what is planned
    pa.default_memory_pool().release_unused()
    sources = _with_coverage(sources, manifest)
    carried = SAMPLES.empty_table()
    if compared:
        sources, carried = _with_previous(sources, manifest, recipe)
    seconds = window_seconds(config, manifest, sources.buckets)
    units = make_units(config, recipe, sources, seconds)
    return Plan(
        kinds=found.kinds,
        standing=found.standing,
        sources=sources,
        carried=carried,
        units=units,
        removed=found.removed,
        columns=found.columns,
        quarantined=found.quarantined,
        total=total,
    )


def _resolved(
    todo: Todo, recipe: Recipe, probe: Prober, rebuild: str | None
) -> Iterator[SourcePlan]:
    """Sources with facts, buckets and generation; each file is probed once, however many clips the
    dataset has of it.
    """
    resolver = _Resolver(recipe, rebuild)
    answers: dict[tuple[str, str | None], ProbeAnswer] = {}
    for batch in todo.batches():
        unknown = [
            s for s in batch if s.failure is None and s.facts is None and not s.hinted(recipe)
        ]
        files = list(dict.fromkeys(s.file for s in unknown))
        # Of what was asked before, this batch may begin with the last file.
        answers = {file: answers[file] for file in files[:1] if file in answers}
        missing = [file for file in files if file not in answers]
        answers.update(zip(missing, probe(missing) if missing else (), strict=True))
        for source in batch:
            yield resolver(_probed(source, answers.get(source.file)))


def _probed(source: SourcePlan, answer: ProbeAnswer | None) -> SourcePlan:
    if source.failure is not None or source.facts is not None or answer is None:
        return source
    if isinstance(answer, SourceError):
        return replace(source, failure=answer)
    return replace(source, facts=answer)


class _Resolver:
    """Assigns buckets and the generation; sources of one kind share what is the same of them.

    ``rebuild`` is the run that encodes anew what is there already.
    """

    def __init__(self, recipe: Recipe, rebuild: str | None) -> None:
        self._recipe, self._rebuild = recipe, rebuild
        self._kinds: dict[tuple[int, int, bool], tuple[tuple[Bucket, ...], str, str]] = {}

    def __call__(self, source: SourcePlan) -> SourcePlan:
        if source.failure is not None:
            return source
        kind = *source.display_size, source.is_image
        if kind not in self._kinds:
            buckets = self._recipe.assign(*source.display_size)
            keys = self._recipe.key(buckets, source.is_image), self._recipe.window_key(kind[2])
            self._kinds[kind] = (buckets, *keys)
        buckets, key, window_key = self._kinds[kind]
        return replace(
            source,
            buckets=buckets,
            recipe=key,
            window_recipe=window_key,
            generation=generation_id(source.source_id, source.version, key, self._rebuild),
            previous=source.previous if self._rebuild is None else None,
        )


def _with_coverage(sources: PlannedSources, manifest: Manifest) -> PlannedSources:
    """Tell sources what the cache holds of their generations already."""
    generations = (s.generation for s in sources.values() if s.failure is None)
    covered = committed_coverage(manifest, generations)
    if not covered:
        return sources
    return PlannedSources(
        replace(s, coverage=covered[s.generation]) if s.generation in covered else s
        for s in sources.values()
    )


def _with_previous(
    sources: PlannedSources, manifest: Manifest, recipe: Recipe
) -> tuple[PlannedSources, pa.Table]:
    """Give sources what a generation before holds of them, and the rows that carry it over."""
    rows: list[pa.Table] = []

    def compared() -> Iterator[SourcePlan]:
        for batch in in_batches(sources.values(), _COMPARED):
            covered, carried = carry_over(manifest, recipe, batch)
            rows.append(carried)
            yield from recall_known(manifest, recipe, covered)

    return PlannedSources(compared()), pa.concat_tables(rows)


def recalling(earlier: Iterable[SourcePlan], probe: Prober) -> Prober:
    """A prober that asks for what an earlier plan, in the same order, has no facts of.

    A file that is not pinned may be another by now, and is asked for.
    """
    known = ((s.file, s.facts) for s in earlier if s.pinned and s.facts is not None)
    place = next(known, None)

    def answer(files: Sequence[tuple[str, str | None]]) -> list[ProbeAnswer]:
        nonlocal place
        found: dict[tuple[str, str | None], ProbeAnswer] = {}
        for file in files:
            while place is not None and file_order(place[0]) < file_order(file):
                place = next(known, None)
            if place is not None and place[0] == file:
                found[file] = place[1]
        missing = [file for file in files if file not in found]
        found.update(zip(missing, probe(missing) if missing else (), strict=True))
        return [found[file] for file in files]

    return answer
