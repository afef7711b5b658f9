"""Which shards are needed: by a snapshot, and by what is committed and not published yet."""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.live import live_generations
from pipeline.manifest import Manifest, Snapshot

_VERDICTS = ("ok", "skipped", "removed")

_LIVE_COLUMNS = ("source_id", "revision", "run_id", "generation", "contract_id", "status")


def read_pinned(manifest: Manifest, snapshot: Snapshot, table: str, columns: list[str]) -> pa.Table:
    """Columns of a table as a snapshot pins it; no rows where it pins no version."""
    version = snapshot.tables.get(table)
    if version is None:  # the table had no row
        return manifest.empty(table).select(columns)
    return manifest.read(table, version, columns)


def pinned_generations(manifest: Manifest, snapshot: Snapshot) -> pa.Array:
    """The generations that a snapshot's readers see."""
    sources = read_pinned(manifest, snapshot, "sources", list(_LIVE_COLUMNS))
    live = live_generations(sources, snapshot.contract.contract_id)
    return _array(live["generation"])


def snapshot_shards(manifest: Manifest, snapshot: Snapshot) -> set[str]:
    """The shards of a snapshot's live segments."""
    live = pinned_generations(manifest, snapshot)
    segments = read_pinned(manifest, snapshot, "samples", ["generation", "shard"])
    found = segments.filter(pc.is_in(segments["generation"], live))["shard"]
    return set(pc.unique(found).to_pylist())


def current_shards(manifest: Manifest) -> tuple[set[str], set[str]]:
    """Shards that the newest rows need, and those that only dead rows of them name.

    Needed is what the next publication would show, and what an unfinished generation holds: rows
    committed after the last verdict (``ok``, ``skipped`` or ``removed``) on their source. All other
    rows belong to generations that were superseded, abandoned or removed.
    """
    sources = manifest.read("sources", columns=[*_LIVE_COLUMNS, "committed_at"])
    columns = ["source_id", "generation", "shard", "committed_at"]
    segments = manifest.read("samples", columns=columns)
    contract = manifest.contract()
    alive = pa.array([], pa.string())
    if contract is not None:
        alive = _array(live_generations(sources, contract.contract_id)["generation"])
    needed = pc.or_(pc.is_in(segments["generation"], alive), unfinished(sources, segments))
    wanted = set(pc.unique(segments["shard"].filter(needed)).to_pylist())
    return wanted, set(pc.unique(segments["shard"]).to_pylist()) - wanted


def unfinished(sources: pa.Table, segments: pa.Table) -> pa.ChunkedArray:
    """Which segments were committed after the last verdict on their source, or without one."""
    ended = sources.filter(pc.is_in(sources["status"], pa.array(_VERDICTS)))
    last = ended.group_by("source_id").aggregate([("committed_at", "max")])
    verdict = last["committed_at_max"].take(
        pc.index_in(segments["source_id"], _array(last["source_id"]))
    )
    return pc.fill_null(pc.greater(segments["committed_at"], verdict), True)


def _array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
