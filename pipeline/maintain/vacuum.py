"""Vacuum: deletes what no retained snapshot needs, in an order that a crash cannot spoil.

Snapshots first, then rows of the table ``samples`` whose shards go, so that no later run counts on
them, then the shards. Whatever is left by a crash is found by the next vacuum.
"""

import datetime
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.maintain.files import StoredFile, delete_files, list_files
from pipeline.maintain.needs import current_shards, snapshot_shards
from pipeline.maintain.rewrite import Edit, replace_rows
from pipeline.maintain.tags import TAG_FOLDER, read_tags
from pipeline.manifest import SNAPSHOT_FOLDER, Manifest, Snapshot, now
from pipeline.reader.index import INDEX_FOLDER, index_paths

_SHARD = re.compile(r"data/h\d+w\d+/[0-9a-f]{32}\.(safetensors|parquet)")
_INDEX = re.compile(rf"{INDEX_FOLDER}/\d+\.(segments|sources)")
_TEMPORARY = re.compile(r"(.*/)?\.[^/]+\.[0-9a-f]{12}\.tmp")
_TEMPORARY_FOLDERS = (SNAPSHOT_FOLDER, TAG_FOLDER, INDEX_FOLDER, "reports")

ORPHAN = "never committed"
DEAD = "superseded or removed"
DROPPED = "of dropped snapshots"
TEMPORARY = "temporary"


@dataclass(frozen=True)
class Keep:
    """Which snapshots stay: the newest ``snapshots`` of them, and those younger than ``days``.

    Tagged ones and the newest always stay; with neither rule, all do.
    """

    snapshots: int | None = None
    days: float | None = None

    def split(
        self, found: Sequence[Snapshot], tagged: Collection[int]
    ) -> tuple[list[Snapshot], list[Snapshot]]:
        """The snapshots that stay and those that go, of all in ascending order."""
        if self.snapshots is None and self.days is None:
            return list(found), []
        newest = {s.number for s in found[-max(1, self.snapshots or 0) :]}
        stays = [
            s.number in newest | set(tagged) or (self.days is not None and _age(s) <= self.days)
            for s in found
        ]
        return (
            [s for s, stay in zip(found, stays, strict=True) if stay],
            [s for s, stay in zip(found, stays, strict=True) if not stay],
        )


def _age(snapshot: Snapshot) -> float:
    age = now() - datetime.datetime.fromisoformat(snapshot.created_at)
    return age / datetime.timedelta(days=1)


@dataclass(frozen=True)
class VacuumPlan:
    """What would go: snapshots, and files with the reason of each; ``young`` are spared for now."""

    kept: list[Snapshot]
    dropped: list[Snapshot]
    files: list[tuple[StoredFile, str]]
    young: list[StoredFile]

    @property
    def bytes(self) -> int:
        """Size of the files that would go."""
        return sum(file.size for file, _ in self.files)

    @property
    def shards(self) -> set[str]:
        """Paths of the shards that would go."""
        return {file.path for file, _ in self.files if _SHARD.fullmatch(file.path)}


def plan_vacuum(manifest: Manifest, keep: Keep, grace: datetime.timedelta) -> VacuumPlan:
    """Find what no retained or tagged snapshot needs; changes nothing.

    A file goes when it was last modified longer than ``grace`` ago. Raises ``ContractError`` when a
    snapshot is of another format version: then nothing can be said to be unneeded.
    """
    # Listed first: a shard that is written and committed meanwhile is not among them.
    begun = now()
    listed = list_files(manifest.store, "data")
    indexes = list_files(manifest.store, INDEX_FOLDER)
    found = [manifest.snapshot(number) for number in manifest.snapshot_numbers()]
    kept, dropped = keep.split(found, {tag.snapshot for tag in read_tags(manifest)})
    needed, dead = current_shards(manifest)
    needed |= _shards_of(manifest, kept)
    formerly = _shards_of(manifest, dropped)
    doomed: list[tuple[StoredFile, str]] = []
    for file in listed:
        if _TEMPORARY.fullmatch(file.path):
            doomed.append((file, TEMPORARY))
        elif _SHARD.fullmatch(file.path) and file.path not in needed:
            live_once = file.path in formerly
            reason = DROPPED if live_once else DEAD if file.path in dead else ORPHAN
            doomed.append((file, reason))
    names = {path for snapshot in kept for path in index_paths(snapshot.number)}
    doomed += [(f, DROPPED) for f in indexes if _INDEX.fullmatch(f.path) and f.path not in names]
    for folder in _TEMPORARY_FOLDERS:
        found_there = list_files(manifest.store, folder)
        doomed += [(file, TEMPORARY) for file in found_there if _TEMPORARY.fullmatch(file.path)]
    old = [(file, reason) for file, reason in doomed if begun - file.modified > grace]
    young = [file for file, _ in doomed if begun - file.modified <= grace]
    return VacuumPlan(kept, dropped, old, young)


def _shards_of(manifest: Manifest, snapshots: Sequence[Snapshot]) -> set[str]:
    """Shards of several snapshots; states that were published twice are read once."""
    states = {
        (s.tables.get("sources"), s.tables.get("samples"), s.contract.contract_id): s
        for s in snapshots
    }
    return set().union(*(snapshot_shards(manifest, s) for s in states.values()))


def vacuum(
    manifest: Manifest, keep: Keep, grace: datetime.timedelta, guard: Callable[[], None]
) -> VacuumPlan:
    """Delete what ``plan_vacuum`` finds; returns what went.

    ``guard`` is called before each deletion and commit; it raises when this run may not go on.
    """
    first = plan_vacuum(manifest, keep, grace)
    for snapshot in first.dropped:
        guard()
        manifest.store.delete(f"{SNAPSHOT_FOLDER}/{snapshot.number}.json")
    # Whoever tags looks for the snapshot afterwards, so one of the two sees the other.
    late = {tag.snapshot for tag in read_tags(manifest)}
    saved = [snapshot for snapshot in first.dropped if snapshot.number in late]
    for snapshot in saved:
        path = f"{SNAPSHOT_FOLDER}/{snapshot.number}.json"
        manifest.store.write(path, snapshot.to_json().encode())
    final = plan_vacuum(manifest, Keep(), grace) if saved else first
    guard()
    doomed = final.shards
    if doomed and manifest.version("samples") is not None:
        replace_rows(manifest.store, "samples", doomed, lambda: _without(doomed), guard)
    guard()
    delete_files(manifest.store, [file.path for file, _ in final.files])
    dropped = [snapshot for snapshot in first.dropped if snapshot not in saved]
    return VacuumPlan(final.kept, dropped, final.files, final.young)


def _without(shards: Collection[str]) -> Edit:
    gone = pa.array(sorted(shards), pa.string())
    return lambda rows: rows.filter(pc.invert(pc.is_in(rows["shard"], gone)))
