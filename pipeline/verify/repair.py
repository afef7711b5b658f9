"""Repair: damaged segments are marked lost, so that the next run encodes exactly those again.

First the sources are marked, then the rows go, then what is left is published: a crash anywhere
between leaves a cache in which the damage is found again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import Reason
from pipeline.live import live_rows, newest_by_source
from pipeline.maintain.rewrite import Edit, replace_rows
from pipeline.manifest import Guard, Manifest, Snapshot, now
from pipeline.reader.build import publish_with_index
from pipeline.verify.check import Named
from pipeline.verify.files import Files
from pipeline.verify.findings import Finding, Kind
from pipeline.verify.run import check_named
from pipeline.verify.scope import NAMED, read_scope, states_of

_PLACE = ("shard", "first_row", "windows")
_LASTS = (Kind.CONTRACT, Kind.UNFAITHFUL)
"""Not looked at again: no other run puts it right in a shard, whose name never gets other bytes."""


@dataclass(frozen=True)
class Repaired:
    """What was done: rows of ``samples`` that went, their windows, and sources marked ``lost``.

    ``left`` is what cannot be repaired; ``snapshot`` the one that shows the sound segments.
    """

    segments: int
    windows: int
    sources: tuple[str, ...]
    left: tuple[Finding, ...]
    snapshot: Snapshot | None


def repair(manifest: Manifest, findings: Sequence[Finding], run_id: str, guard: Guard) -> Repaired:
    """Take what is damaged out of the tables. Call it under the leases of all ranges.

    What was found is looked at again first: another run may have put it right meanwhile. Nothing of
    ``data`` is deleted; a vacuum does that. Raises what the store raises.
    """
    base = manifest.snapshot() if manifest.snapshot_numbers() else None
    rows = _damaged_rows(manifest, findings)
    incomplete = _incomplete(findings) & _incomplete(_counts(manifest))
    touched = _touched(manifest, rows)
    lost = _lost(manifest, base, touched, incomplete, run_id)
    if lost:
        guard()
        manifest.append("sources", lost)
    if touched.num_rows:
        replace_rows(manifest.store, "samples", rows, lambda: _without(rows), guard)
    snapshot = None
    if base is not None:
        snapshot = publish_with_index(manifest, run_id, base.contract, guard)
    return Repaired(
        touched.num_rows,
        sum(touched["windows"].to_pylist()),
        tuple(sorted(row["source_id"] for row in lost)),
        tuple(finding for finding in findings if not finding.repairable),
        snapshot,
    )


def _incomplete(findings: Sequence[Finding]) -> set[str]:
    return {s for f in findings if f.kind is Kind.INCOMPLETE for s in f.sources}


def _counts(manifest: Manifest) -> list[Finding]:
    """What the newest tables alone tell."""
    [state] = states_of(manifest, None, newest=True)
    return read_scope(manifest, state, lambda _: None).findings


def _damaged_rows(manifest: Manifest, findings: Sequence[Finding]) -> dict[str, set[int]]:
    """Damaged rows by shard, as they are now, of all that the newest table names."""
    shards = sorted({f.shard for f in findings if f.shard is not None})
    misplaced = {f.shard for f in findings if f.kind is Kind.MISPLACED}
    names = [name for name in NAMED.names if name not in ("contract_id", "digest")]
    table = manifest.read("samples", columns=names, where=_in("shard", shards))
    files = Files.listed(manifest)
    by_shard: dict[str, list[Named]] = {}
    for row in table.to_pylist():
        by_shard.setdefault(row["shard"], []).append(Named.of({**row, "contract_id": None}))
    told: dict[str, set[int]] = {}
    for finding in findings:
        if finding.shard is not None and finding.kind in _LASTS and finding.repairable:
            told.setdefault(finding.shard, set()).update(finding.rows)
    damaged: dict[str, set[int]] = {}
    for path, named in by_shard.items():
        if path in misplaced and path not in files.shards:
            found = {row for segment in named for row in segment.rows}
        else:
            checked = check_named(manifest.store, files, path, named)
            found = {row for finding in checked for row in finding.rows}
        found |= told.get(path, set())
        if found:
            damaged[path] = found
    return damaged


def _in(column: str, values: Iterable[str]) -> pc.Expression:
    return pc.field(column).isin(pa.array(sorted(values), pa.string()))


def _hit(table: pa.Table, rows: Mapping[str, set[int]]) -> pa.Array:
    """Which rows of ``samples`` name a damaged row of a shard."""
    places = zip(*(table[name].to_pylist() for name in _PLACE), strict=True)
    return pa.array(
        [
            shard in rows and not rows[shard].isdisjoint(range(first, first + windows))
            for shard, first, windows in places
        ],
        pa.bool_(),
    )


def _touched(manifest: Manifest, rows: Mapping[str, set[int]]) -> pa.Table:
    columns = ["source_id", "generation", *_PLACE]
    where = _in("shard", rows)
    table = manifest.read("samples", columns=columns, where=where)
    return table.filter(_hit(table, rows))


def _without(rows: Mapping[str, set[int]]) -> Edit:
    return lambda table: table.filter(pc.invert(_hit(table, rows)))


def _lost(
    manifest: Manifest,
    base: Snapshot | None,
    touched: pa.Table,
    incomplete: set[str],
    run_id: str,
) -> list[dict[str, Any]]:
    """Rows of ``sources`` that tell the next run to encode what is missing.

    Of sources that count as ``ok`` only: any other is tried again, or has nothing to be read.
    """
    contracts = [manifest.contract(), None if base is None else base.contract]
    ids = sorted({*touched["source_id"].to_pylist(), *incomplete})
    sources = manifest.read("sources", where=_in("source_id", ids))
    generations: set[str] = set()
    for contract in {contract for contract in contracts if contract is not None}:
        generations.update(live_rows(sources, contract.contract_id)["generation"].to_pylist())
    windows: dict[str, int] = {}
    for row in touched.to_pylist():
        if row["generation"] in generations:
            windows[row["source_id"]] = windows.get(row["source_id"], 0) + row["windows"]
    at = now()
    return [
        {
            **row,
            "revision": row["revision"] + 1,
            "run_id": run_id,
            "status": "failed",
            "reason": str(Reason.LOST),
            "message": _message(windows.get(row["source_id"], 0)),
            "attempts": 0,
            "windows": None,
            "committed_at": at,
        }
        for row in newest_by_source(sources).to_pylist()
        if row["status"] == "ok"
        and row["generation"] in generations
        and row["source_id"] in {*windows, *incomplete}
    ]


def _message(windows: int) -> str:
    what = f"{windows} windows were damaged" if windows else "windows are missing"
    return f"{what}; the next run encodes them again"
