"""All that a cache knows of one source: found by a sample's id, or by its own names."""

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UserError
from pipeline.live import live_generations, newest_by_source
from pipeline.manifest import Manifest, Snapshot
from pipeline.page.pick import Pick
from pipeline.page.wording import shown
from pipeline.ranges import spans
from pipeline.reader.build import ranged, single
from pipeline.storage import absolute

_ID = re.compile(r"[0-9a-f]{32}")
_ORDER = ("height", "width", "frames", "source_id", "first_window", "windows", "shard", "first_row")
_NAMED = 5

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Origin:
    """One source in one snapshot.

    Attributes:
        source_id: its id.
        sample_id: the sample that was asked for; None where a source was.
        attempts: its rows of ``sources``, oldest first: at least one.
        complete: the row that made its live generation; None where it has no windows.
        segments: rows of ``samples`` of that generation, each window once, by bucket and window.
        caption: its newest row of ``captions``.
        run: the last row of ``runs`` of the run that encoded it.
        brought: number and time of the first snapshot that shows the generation.
    """

    source_id: str
    sample_id: str | None
    attempts: Sequence[Row]
    complete: Row | None
    segments: Sequence[Row]
    caption: Row | None
    run: Row | None
    brought: tuple[int, str] | None

    @property
    def present(self) -> Row:
        """The newest row: its present state."""
        return self.attempts[-1]

    def windows(self) -> list[tuple[str, str, Pick]]:
        """Sample id, checksum and place of each live window, or of the one asked for."""
        found = []
        for row in self.segments:
            for k, sample_id in enumerate(row["sample_ids"]):
                if self.sample_id in (None, sample_id):
                    assert self.complete is not None
                    found.append((sample_id, row["checksums"][k], Pick.of(row, self.complete, k)))
        return found


def find_origin(manifest: Manifest, snapshot: Snapshot, name: str) -> Origin:
    """What a snapshot knows of a sample or a source.

    Args:
        manifest: of the cache.
        snapshot: its state.
        name: a sample id, a source id, a URI or path, or the dataset's own ``id``.

    Raises:
        UserError: nothing is called so, or several sources are.
    """
    sample_id = None
    source_id = _source_called(manifest, snapshot, name)
    if source_id is None and _ID.fullmatch(name):
        source_id, sample_id = _source_of_sample(manifest, snapshot, name), name
    if source_id is None:
        raise UserError(
            f"{shown(name)}: snapshot {snapshot.number} of {manifest.store.uri} knows no sample "
            "and no source of this name; name a sample_id, a source_id, a URI as in the dataset, "
            "or the dataset's id, or another --snapshot"
        )
    rows = _rows(manifest, snapshot, "sources", source_id)
    live = live_generations(rows, snapshot.contract.contract_id)["generation"].to_pylist()
    attempts = sorted(rows.to_pylist(), key=lambda row: (row["revision"], row["run_id"]))
    complete = next(
        (r for r in reversed(attempts) if [r["generation"]] == live and r["status"] == "ok"), None
    )
    segments: list[dict[str, Any]] = []
    if complete is not None:
        held = _rows(manifest, snapshot, "samples", source_id)
        held = held.filter(pc.equal(held["generation"], complete["generation"]))
        if held.num_rows:
            segments = single(held.sort_by([(n, "ascending") for n in _ORDER])).to_pylist()
    if sample_id is not None and not any(sample_id in row["sample_ids"] for row in segments):
        raise UserError(
            f"{sample_id} is a sample of source {source_id} that snapshot {snapshot.number} does "
            "not show any more; name the source, or the --snapshot that shows it"
        )
    captions = newest_by_source(_rows(manifest, snapshot, "captions", source_id)).to_pylist()
    return Origin(
        source_id=source_id,
        sample_id=sample_id,
        attempts=attempts,
        complete=complete,
        segments=segments,
        caption=captions[0] if captions else None,
        run=_run(manifest, (complete or attempts[-1])["run_id"]),
        brought=None if complete is None else _brought(manifest, snapshot, complete),
    )


def _rows(manifest: Manifest, snapshot: Snapshot, table: str, source_id: str) -> pa.Table:
    version = snapshot.tables.get(table)
    if version is None:
        return manifest.empty(table)
    return manifest.read(table, version, None, pc.field("source_id") == source_id)


def _source_called(manifest: Manifest, snapshot: Snapshot, name: str) -> str | None:
    version = snapshot.tables.get("sources")
    if version is None:
        return None
    uris = pa.array(sorted({name, absolute(name)}), pa.string())
    where = (pc.field("source_id") == name) | (pc.field("id") == name) | pc.field("uri").isin(uris)
    rows = manifest.read("sources", version, ["source_id", "start", "end"], where).to_pylist()
    found = {row["source_id"]: row for row in rows}
    if len(found) > 1:
        clips = ", ".join(
            f"{row['source_id']} ({_seconds(row['start'], '0')} to {_seconds(row['end'], 'end')})"
            for row in list(found.values())[:_NAMED]
        )
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise UserError(f"{shown(name)} names {len(found)} sources: {clips}{more}; name one by id")
    return next(iter(found), None)


def _seconds(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{value:g} s"


def _source_of_sample(manifest: Manifest, snapshot: Snapshot, sample_id: str) -> str | None:
    columns = ("source_id", "sample_ids")
    with ranged(manifest, snapshot, "samples", columns) as rows:
        for span in spans(rows.num_rows):
            part = rows.read(span)
            place = pc.index(pc.list_flatten(part["sample_ids"]), sample_id).as_py()
            if place >= 0:
                parent = pc.list_parent_indices(part["sample_ids"])[place].as_py()
                found: str = part["source_id"][parent].as_py()
                return found
    return None


def _run(manifest: Manifest, run_id: str) -> Row | None:
    rows = manifest.read("runs", None, None, pc.field("run_id") == run_id).to_pylist()
    return max(rows, key=lambda row: row["at"], default=None)


def _brought(manifest: Manifest, snapshot: Snapshot, complete: Row) -> tuple[int, str] | None:
    """The first snapshot, of those still there, that shows the generation of a row."""
    for number in manifest.snapshot_numbers():
        if number > snapshot.number:
            break
        earlier = manifest.snapshot(number)
        made = datetime.datetime.fromisoformat(earlier.created_at)
        if made + datetime.timedelta(seconds=1) < complete["committed_at"]:
            continue
        rows = _rows(manifest, earlier, "sources", complete["source_id"])
        live = live_generations(rows, earlier.contract.contract_id)["generation"].to_pylist()
        if live == [complete["generation"]]:
            return number, earlier.created_at
    return None
