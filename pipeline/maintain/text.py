"""What maintenance says of itself: tables and sums for people, last a JSON object for machines."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.maintain.compact import Compacted, CompactionPlan, Measure
from pipeline.maintain.history import Entry
from pipeline.maintain.vacuum import VacuumPlan

if TYPE_CHECKING:
    from pipeline.reader.statistics import Statistics

_SHOWN_FILES = 20

_HISTORY = (
    *("snapshot", "created", "run", "ok", "skipped", "failed"),
    *("windows", "added", "changed", "removed", "tags"),
)


def history_table(entries: Sequence[Entry]) -> str:
    """One line a snapshot."""
    rows = [[*_HISTORY]]
    for entry in entries:
        counts = (*entry.sources.values(), entry.windows, entry.added, entry.changed, entry.removed)
        rows.append(
            [
                *(str(entry.snapshot), entry.created_at, entry.run_id),
                *(str(count) for count in counts),
                " ".join(entry.tags),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = {1, 2, len(widths) - 1}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def vacuum_text(plan: VacuumPlan, *, every_file: bool, done: bool) -> str:
    """What went, or would go, and why."""
    verb = "deleted" if done else "would delete"
    lines = [
        f"snapshots that stay: {_numbers([s.number for s in plan.kept])}",
        f"{verb} snapshots: {_numbers([s.number for s in plan.dropped])}",
    ]
    sums: dict[str, tuple[int, int]] = {}
    for file, reason in plan.files:
        count, size = sums.get(reason, (0, 0))
        sums[reason] = (count + 1, size + file.size)
    lines += [
        f"{verb} {count} files, {_megabytes(size)}: {reason}"
        for reason, (count, size) in sorted(sums.items())
    ]
    shown = plan.files if every_file else plan.files[:_SHOWN_FILES]
    lines += [f"  {file.path}  {file.size} bytes  ({reason})" for file, reason in shown]
    if len(shown) < len(plan.files):
        lines.append(f"  … and {len(plan.files) - len(shown)} more; --list names them all")
    if plan.young:
        lines.append(
            f"{len(plan.young)} unneeded files of {_megabytes(sum(f.size for f in plan.young))} "
            "are younger than the grace period, and stay for now"
        )
    if not done:
        lines.append("nothing was changed; --apply does it")
    totals: dict[str, Any] = {
        "applied": done,
        "snapshots": [s.number for s in plan.dropped],
        "files": len(plan.files),
        "bytes": plan.bytes,
        "reasons": {
            reason: {"files": n, "bytes": size} for reason, (n, size) in sorted(sums.items())
        },
        "spared": len(plan.young),
    }
    return "\n".join([*lines, json.dumps(totals)])


def compaction_text(plan: CompactionPlan, done: Compacted | None) -> str:
    """What was merged, or would be, with the shards before and after."""
    verb = "would write" if done is None else "wrote"
    lines = [
        f"before: {_measure(plan.before)}",
        f"after:  {_measure(plan.after)}",
        f"{verb} {len(plan.merged)} shards of {_megabytes(plan.moved_bytes)}",
    ]
    for name, (files, small) in plan.files.items():
        now = "" if done is None else f", now {done.files[name][0]}"
        lines.append(f"table {name}: {files} files, {small} of them small{now}")
    if plan.live.doubles:
        lines.append(f"segments that stood twice: {len(plan.live.doubles)} rows left out")
    if plan.live.fixed:
        lines.append(
            f"{len(plan.live.fixed)} shards have overlapping segments and stay as they are"
        )
    number = None if done is None or done.published is None else done.published.number
    if done is None:
        lines.append("nothing was changed; --apply does it")
    elif number is None:
        lines.append("nothing had to change")
    else:
        lines.append(f"published snapshot {number}; older ones keep the old shards until a vacuum")
    totals = {
        "applied": done is not None,
        "snapshot": number,
        "shards": [plan.before.shards, plan.after.shards],
        "bytes": plan.after.bytes,
        "filled": [round(plan.before.share, 4), round(plan.after.share, 4)],
        "moved_bytes": plan.moved_bytes,
    }
    return "\n".join([*lines, json.dumps(totals)])


def statistics_text(found: "Statistics", out: str | None) -> str:
    """A line a channel for each kind of latents; last the file's text, or where it was written."""
    lines = [
        f"snapshot {found.snapshot}: {found.windows} of {found.of} windows, {found.count} numbers "
        "a channel"
    ]
    for name, numbers in found.latents.items():
        lines.append(f"{name:<8}" + "".join(f"{key:>12}" for key in numbers))
        for channel, row in enumerate(zip(*numbers.values(), strict=True)):
            lines.append(f"{channel:>8}" + "".join(f"{number:>12.5f}" for number in row))
    if out is None:
        return "\n".join([*lines, found.to_json()])
    summary = {
        "out": out,
        "snapshot": found.snapshot,
        "windows": [found.windows, found.of],
        "count": found.count,
        "channels": len(next(iter(found.latents.values()))["mean"]),
    }
    return "\n".join([*lines, f"wrote {out}", json.dumps(summary)])


def _measure(measure: Measure) -> str:
    return (
        f"{measure.shards} shards, {_megabytes(measure.bytes)}, {measure.share:.1%} of it in "
        "well-filled shards"
    )


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
