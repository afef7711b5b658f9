"""The dataset against the manifest, one range of the source hash at a time."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog import Catalog
from pipeline.choose import KINDS, STATES, Chooser
from pipeline.columns import changed_columns
from pipeline.live import newest_by_source, verdicts
from pipeline.manifest import Manifest
from pipeline.packs import facts_from_json
from pipeline.quarantine import QUARANTINED
from pipeline.ranges import RangedRows, spans
from pipeline.sources import Previous, SourcePlan

_KNOWN = (
    *("source_id", "revision", "run_id", "version", "recipe"),
    *("status", "reason", "attempts", "width", "height", "is_image"),
)
_RECALLED = (
    *("source_id", "revision", "run_id", "version"),
    *("status", "generation", "window_recipe", "contract_id", "frames_actual", "facts"),
)


@dataclass(frozen=True)
class Comparison:
    """What the dataset has that the cache has not, and the other way round.

    ``kinds`` counts the dataset's sources by what was found, ``standing`` the states of those that
    need no work; ``todo`` are the others. ``removed`` are the newest rows of ``sources`` that left
    the dataset; ``columns`` rows for the table ``captions``, with their revision; ``quarantined``
    the newest rows of sources that failed too often to be tried again.
    """

    kinds: dict[str, int]
    standing: dict[str, int]
    todo: list[SourcePlan]
    removed: pa.Table
    columns: pa.Table
    quarantined: pa.Table


def compare(catalog: Catalog, manifest: Manifest, chooser: Chooser, *, whole: bool) -> Comparison:
    """Tell added, changed, removed, failed and unchanged sources apart.

    Of the manifest, a few columns of each range are in memory at once; all others are read for
    sources that need work only. Nothing counts as removed unless the catalog is ``whole``.
    """
    version = manifest.version("sources")
    kinds: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    standing: Counter[str] = Counter(dict.fromkeys(STATES, 0))
    todo: list[SourcePlan] = []
    earlier: list[str] = []
    gone: list[str] = []
    quarantined: list[str] = []
    rows: list[pa.Table] = []
    with ExitStack() as stack:
        sources = stack.enter_context(_ranged(catalog.sources))
        digests = stack.enter_context(_ranged(_numbered(catalog.columns)))
        known = stack.enter_context(manifest.by_range("sources", _KNOWN, version))
        captions = stack.enter_context(
            manifest.by_range("captions", ("source_id", "revision", "digest"))
        )
        for span in spans(max(part.num_rows for part in (sources, known, captions))):
            present = sources.read(span)
            latest = newest_by_source(known.read(span))
            choice = chooser.choose(present, latest)
            kinds.update(choice.kinds)
            standing.update(choice.standing)
            todo += choice.todo
            earlier += choice.earlier
            quarantined += choice.quarantined
            gone += _gone(present, latest) if whole else []
            changed = changed_columns(digests.read(span), captions.read(span))
            rows.append(changed.select(["row", "revision"]))
    order = pa.concat_tables(rows).sort_by("row")
    return Comparison(
        kinds=dict(kinds),
        standing=dict(standing),
        todo=_recall(manifest, version, todo, earlier),
        removed=_newest_rows(manifest, version, gone, manifest.empty("sources").column_names),
        columns=catalog.columns.take(order["row"]).append_column("revision", order["revision"]),
        quarantined=_newest_rows(manifest, version, quarantined, QUARANTINED),
    )


def _ranged(table: pa.Table) -> RangedRows:
    rows = RangedRows(table.schema)
    for batch in table.to_batches():
        rows.add(batch)
    return rows


def _numbered(columns: pa.Table) -> pa.Table:
    numbers = pa.array(np.arange(columns.num_rows))
    return columns.select(["source_id", "digest"]).append_column("row", numbers)


def _gone(present: pa.Table, latest: pa.Table) -> list[str]:
    """Ids of sources that are in the cache and no longer in the dataset."""
    left = pc.invert(pc.is_in(latest["source_id"], present["source_id"].combine_chunks()))
    ids: list[str] = (
        latest["source_id"].filter(pc.and_(left, pc.not_equal(latest["status"], "removed")))
    ).to_pylist()
    return ids


def _newest_rows(
    manifest: Manifest, version: int | None, ids: Sequence[str], columns: Sequence[str]
) -> pa.Table:
    """The newest row of each of these sources in the table ``sources``."""
    return newest_by_source(_rows(manifest, version, ids, columns))


def _rows(
    manifest: Manifest, version: int | None, ids: Sequence[str], columns: Sequence[str]
) -> pa.Table:
    if not ids:
        return manifest.empty("sources").select(columns)
    where = pc.field("source_id").isin(ids)
    return manifest.read("sources", version, columns, where)


def _recall(
    manifest: Manifest, version: int | None, todo: list[SourcePlan], earlier: Sequence[str]
) -> list[SourcePlan]:
    """Fill in what is known of the same bytes: the header, and the generation that is complete.

    That one is live whatever failed since.
    """
    versions = {source.source_id: source.version for source in todo}
    rows = _rows(manifest, version, earlier, _RECALLED)
    facts: dict[str, str] = {}
    for row in newest_by_source(rows).to_pylist():
        if row["facts"] is not None:
            facts[row["source_id"]] = row["facts"]
    previous: dict[str, Previous] = {}
    for row in newest_by_source(verdicts(rows)).to_pylist():
        same = row["version"] == versions[row["source_id"]]
        if same and row["status"] == "ok" and row["frames_actual"] is not None:
            names = ("generation", "window_recipe", "contract_id", "frames_actual")
            previous[row["source_id"]] = Previous(*(row[name] for name in names))
    return [
        replace(
            source,
            facts=facts_from_json(facts[source.source_id]) if source.source_id in facts else None,
            previous=previous.get(source.source_id),
        )
        for source in todo
    ]
