"""What a verification says of itself."""

import json

from pipeline.verify.fidelity import Fidelity
from pipeline.verify.findings import Finding, spans_of
from pipeline.verify.repair import Repaired
from pipeline.verify.run import Verification

_SHOWN = 20


def verification_text(found: Verification) -> str:
    """Sums and the first findings, for people."""
    state = (
        "no snapshot is published yet" if found.snapshot is None else f"snapshot {found.snapshot}"
    )
    counts = ", ".join(f"{count} {status}" for status, count in sorted(found.sources.items()))
    sample = found.asked.sample
    drawn = "" if sample is None else f" (a sample of {sample} segments, seed {found.asked.seed})"
    lines = [
        f"{state}: {sum(found.sources.values())} sources ({counts or 'none'}), "
        f"{found.windows} windows in {found.segments} segments; {found.shards} shards are there",
        f"read back: {found.read_windows} windows of {found.read_shards} shards{drawn}",
    ]
    for paths, what in (
        (found.orphaned, "shards that no table names; a vacuum deletes them"),
        (found.temporary, "temporary files; a vacuum deletes them"),
        (found.foreign, "files that are none of this cache's"),
    ):
        if paths:
            lines.append(f"no damage: {len(paths)} {what}, e.g. {paths[0]}")
    if found.lost:
        lines.append(f"no damage: {len(found.lost)} sources wait for the next run, after a repair")
    if found.fidelity is not None:
        lines += _fidelity_lines(found.fidelity)
    lines += [_line(finding) for finding in found.findings[:_SHOWN]]
    if len(found.findings) > _SHOWN:
        lines.append(f"… and {len(found.findings) - _SHOWN} more; --out names them all")
    lines.append("sound" if found.sound else f"damaged: {len(found.findings)} findings")
    return "\n".join(lines)


def _fidelity_lines(seen: Fidelity) -> list[str]:
    lines = [f"fidelity canary: {len(seen.compared)} of {seen.drawn} drawn windows were compared"]
    if seen.compared:
        judged = "random weights: it tells nothing"
        if seen.psnr_limit is not None:
            judged = f"at least {seen.psnr_limit:g} is wanted"
        most = max(c.difference for c in seen.compared)
        lines[0] += (
            f"; they decode with {seen.psnr:.1f} dB on average ({judged}), and are up to "
            f"{most:.2g} from a fresh encoding"
        )
        if not any(c.alike for c in seen.compared):
            lines.append(
                "none of them is like its fresh encoding: what encoded this cache was wrong, and "
                "--repair marks none of these; encode all anew with --overwrite"
            )
    for drawn, why in seen.left_out[:_SHOWN]:
        pick = drawn.pick
        lines.append(f"not compared: window {pick.window} at {pick.bucket}: {why}")
    if len(seen.left_out) > _SHOWN:
        lines.append(f"… and {len(seen.left_out) - _SHOWN} more; --out names them all")
    return lines


def _line(finding: Finding) -> str:
    place = finding.shard or " ".join(finding.sources) or "tables"
    rows = ", ".join(f"{first}-{stop - 1}" for first, stop in spans_of(finding.rows))
    return f"{finding.kind}: {place}{f', rows {rows}' if rows else ''}: {finding.message}"


def repair_text(done: Repaired) -> str:
    """What a repair did."""
    lines = [
        f"marked lost: {done.segments} segments of {done.windows} windows; {len(done.sources)} "
        "sources are encoded again, where they miss windows, by the next run"
    ]
    if done.snapshot is not None:
        lines.append(f"published snapshot {done.snapshot.number}, without what was damaged")
    if done.left:
        lines.append(
            f"{len(done.left)} findings cannot be repaired; go back to a snapshot that is sound "
            "(maintain_cache.py restore), or encode anew (--overwrite)"
        )
    return "\n".join(lines)


def totals(found: Verification, done: Repaired | None) -> str:
    """One JSON object for machines, without the list."""
    told = found.to_json()
    kinds: dict[str, int] = {}
    for finding in found.findings:
        kinds[finding.kind] = kinds.get(finding.kind, 0) + 1
    counts = {name: len(told[name]) for name in ("orphaned", "foreign", "temporary", "lost")}
    repaired = None
    if done is not None:
        repaired = {
            "segments": done.segments,
            "windows": done.windows,
            "sources": len(done.sources),
            "left": len(done.left),
            "snapshot": None if done.snapshot is None else done.snapshot.number,
        }
    seen = told["canary"]
    if seen is not None:
        seen |= {name: len(seen[name]) for name in ("windows", "left_out")}
    return json.dumps({**told, **counts, "damaged": kinds, "repaired": repaired})
