"""Compact: small shards of a bucket into full ones, small files of the tables into larger ones.

New shards first, then one commit of the table ``samples`` with the moved rows in the place of the
old ones, then the tables' files, then a snapshot with the same samples. Old snapshots go on reading
the old shards, until a vacuum drops both.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UserError
from pipeline.maintain.fill import Held, fill
from pipeline.maintain.moves import moving, write_merged
from pipeline.maintain.needs import pinned_generations
from pipeline.maintain.republish import new_maintenance_id, publish_after
from pipeline.maintain.rewrite import ONCE, open_table, replace_rows, until_no_conflict
from pipeline.maintain.segments import Group, Live, live_segments
from pipeline.manifest import Manifest, Snapshot, now
from pipeline.schema import TABLES
from pipeline.storage import Store

SMALL_FILE_BYTES = 100 * 2**20
"""Files of a table below this are put together; delta-rs has this target."""


@dataclass(frozen=True)
class Measure:
    """Shards of live segments, the bytes of these, and how many lie in well-filled shards."""

    shards: int
    bytes: int
    filled: int

    @classmethod
    def of(cls, shards: Iterable[Held], least: float) -> "Measure":
        """Measure shards; those of ``least`` bytes count as filled."""
        sizes = [shard.bytes for shard in shards]
        return cls(len(sizes), sum(sizes), sum(size for size in sizes if size >= least))

    @property
    def share(self) -> float:
        """Share of the bytes in well-filled shards; 1 for none."""
        return self.filled / self.bytes if self.bytes else 1.0


@dataclass(frozen=True)
class CompactionPlan:
    """What a compaction would do to the state of snapshot ``base``.

    ``merged``: shards to be written; ``files``: for each table its data files and how many of them
    are small.
    """

    base: Snapshot
    live: Live
    merged: list[tuple[Group, Held]]
    before: Measure
    after: Measure
    files: dict[str, tuple[int, int]]

    @property
    def moved_bytes(self) -> int:
        """Bytes of the segments that would be moved."""
        return sum(held.bytes for _, held in self.merged)


@dataclass(frozen=True)
class Compacted:
    """What was done; ``published`` is None where nothing had to change."""

    plan: CompactionPlan
    published: Snapshot | None
    files: dict[str, tuple[int, int]]


def plan_compaction(manifest: Manifest, target: int, min_fill: float) -> CompactionPlan:
    """Find small shards and small files; changes nothing. Raises ``UserError``: no snapshot."""
    base = manifest.snapshot()
    live = live_segments(manifest, base)
    held = [shard for shards in live.groups.values() for shard in shards]
    fixed = [shard for shard in held if shard.path in live.fixed]
    after: list[tuple[Group, Held]] = []
    for group, shards in live.groups.items():
        movable = [shard for shard in shards if shard.path not in live.fixed]
        after += [(group, shard) for shard in fill(movable, target, min_fill)]
    least = target * min_fill
    return CompactionPlan(
        base,
        live,
        [(group, shard) for group, shard in after if shard.path is None],
        Measure.of(held, least),
        Measure.of([*fixed, *(shard for _, shard in after)], least),
        _files(manifest),
    )


def compact(
    manifest: Manifest, target: int, min_fill: float, guard: Callable[[], None]
) -> Compacted:
    """Carry out what ``plan_compaction`` finds, and publish it.

    ``guard`` is called before each write and commit; it raises when this run may not go on. Raises
    ``ShardError`` when a shard that is to be merged is damaged (nothing is changed then), and
    ``UserError`` when other runs come between.
    """
    plan = plan_compaction(manifest, target, min_fill)
    run_id = new_maintenance_id("compact")
    if plan.merged or plan.live.doubles:
        places = write_merged(manifest, plan.base.contract, plan.live, plan.merged, guard)
        at = now()
        touched = {key[1] for key in (*places, *plan.live.doubles)}
        replace_rows(
            manifest.store,
            "samples",
            touched,
            lambda: moving(places, plan.live.doubles, run_id, at),
            guard,
        )
    pins = dict(plan.base.tables)
    for name in plan.files:
        read, left = _compact_files(manifest.store, name, guard)
        # What is pinned is what the snapshot held: `samples` may hold more, and is chosen from.
        if name == "samples" or read == plan.base.tables.get(name):
            pins[name] = left
    published = None
    if {**pins, "runs": 0} != {**plan.base.tables, "runs": 0}:
        _check_samples(manifest, plan.base, pins)
        guard()
        published = publish_after(manifest, plan.base, run_id, plan.base.contract, pins)
    return Compacted(plan, published, _files(manifest))


def _files(manifest: Manifest) -> dict[str, tuple[int, int]]:
    """Data files of each table that exists, and how many of them are small."""
    found = {}
    for name in TABLES:
        if manifest.version(name) is not None:
            adds = pa.table(open_table(manifest.store, name).get_add_actions())
            small = sum(size < SMALL_FILE_BYTES for size in adds["size_bytes"].to_pylist())
            found[name] = (adds.num_rows, small)
    return found


def _compact_files(store: Store, name: str, guard: Callable[[], None]) -> tuple[int, int]:
    """Put a table's small files together; the version that was read and the one that was left."""
    versions = (0, 0)

    def attempt() -> None:
        nonlocal versions
        table = open_table(store, name)
        read = int(table.version())
        guard()
        table.optimize.compact(target_size=SMALL_FILE_BYTES, commit_properties=ONCE)
        versions = (read, int(table.version()))

    until_no_conflict(name, attempt, store)
    return versions


def _check_samples(manifest: Manifest, base: Snapshot, pins: Mapping[str, int]) -> None:
    """Raise ``UserError`` unless the new state holds just the samples of the old one."""
    if pins.get("samples") == base.tables.get("samples"):
        return
    live = pinned_generations(manifest, base)
    old, new = (
        pc.unique(
            pc.list_flatten(
                manifest.read(
                    "samples", tables["samples"], ["sample_ids"], pc.field("generation").isin(live)
                )["sample_ids"]
            )
        )
        for tables in (base.tables, pins)
    )
    if len(old) != len(new) or not pc.all(pc.is_in(new, old)).as_py():
        raise UserError(
            f"{manifest.store.uri}: version {pins['samples']} of the table samples holds "
            f"{len(new)} samples of snapshot {base.number}, which has {len(old)}; nothing was "
            "published. Run the refresh, which encodes what is missing, and compact again"
        )
