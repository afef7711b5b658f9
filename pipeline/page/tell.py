"""What is known of one source, as text for people and as plain values."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.contract import Contract
from pipeline.manifest import Snapshot
from pipeline.page.origin import Origin
from pipeline.page.pick import Pick
from pipeline.page.wording import figure, shown
from pipeline.shards import ShardError, checksum, read_sample
from pipeline.storage import Store

_SHOWN = 40
_CAPTION_COLUMNS = ("source_id", "revision", "run_id", "digest", "committed_at")


@dataclass(frozen=True)
class Checked:
    """One window whose stored bytes were read.

    ``statistics`` has mean, std, least and most of each tensor; ``problem`` says what is wrong with
    the bytes, and is None where they are those that were written.
    """

    sample_id: str
    pick: Pick
    statistics: Mapping[str, Mapping[str, float]]
    problem: str | None


def check_windows(
    store: Store, contract: Contract, windows: Iterable[tuple[str, str, Pick]]
) -> list[Checked]:
    """Read windows, given with sample id and checksum, and compare."""
    found = []
    for sample_id, expected, pick in windows:
        problem, statistics = None, {}
        try:
            tensors = read_sample(store, pick.shard, pick.row, contract)
            if checksum(list(tensors.values())) != expected:
                problem = "the stored bytes are not those that were written"
            statistics = {name: _statistics(tensor) for name, tensor in tensors.items()}
        except ShardError as error:
            problem = shown(str(error))
        found.append(Checked(sample_id, pick, statistics, problem))
    return found


def _statistics(tensor: np.ndarray) -> dict[str, float]:
    values = tensor.astype(np.float64)
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "least": float(values.min()),
        "most": float(values.max()),
    }


def facts_of(origin: Origin, snapshot: Snapshot, checked: Sequence[Checked]) -> dict[str, Any]:
    """Plain values, fit for JSON; without what may be secret in URIs."""
    windows = [
        {
            "sample_id": sample_id,
            "bucket": pick.bucket,
            "window": pick.window,
            "first_frame": pick.first_frame,
            "valid_frames": pick.valid_frames,
            "frames": pick.frames,
            "shard": pick.shard,
            "row": pick.row,
        }
        for sample_id, _, pick in origin.windows()
    ]
    return {
        "snapshot": snapshot.number,
        "source_id": origin.source_id,
        "sample_id": origin.sample_id,
        "source": _plain(origin.present),
        "caption": None if origin.caption is None else _plain(origin.caption),
        "generation": None if origin.complete is None else origin.complete["generation"],
        "brought_by_snapshot": None if origin.brought is None else origin.brought[0],
        "contract": json.loads(snapshot.contract.to_json()),
        "windows": windows,
        "checked": [
            {"sample_id": c.sample_id, "problem": c.problem, "statistics": c.statistics}
            for c in checked
        ],
    }


def text_of(origin: Origin, snapshot: Snapshot, checked: Sequence[Checked]) -> str:
    """The same for people."""
    row = origin.present
    parts = [
        _block(
            "source",
            {
                "source_id": origin.source_id,
                "uri": row["uri"],
                "id": row["id"],
                "clip": _clip(row),
                "version": row["version"],
                "status": _status(row),
                "attempts": row["attempts"],
                "size": f"{row['height']}x{row['width']}" if row["width"] else None,
                "output frames": row["frames_actual"],
                **_header(row),
            },
        )
    ]
    if origin.caption is not None:
        own = {n: v for n, v in origin.caption.items() if n not in _CAPTION_COLUMNS}
        if any(value is not None for value in own.values()):
            parts.append(_block("caption and columns", own))
    if len(origin.attempts) > 1:
        lines = [
            f"  revision {r['revision']}: {_status(r)}, run {shown(r['run_id'])}, "
            f"version {shown(r['version'])}"
            for r in origin.attempts
        ]
        parts.append("\n".join(["history", *lines]))
    parts.append(_came(origin, snapshot))
    parts.append(_block("contract", json.loads(snapshot.contract.to_json())))
    parts.append(_windows(origin, checked))
    return "\n\n".join(parts)


def _came(origin: Origin, snapshot: Snapshot) -> str:
    if origin.complete is None:
        return f"in snapshot {snapshot.number}\n  it has no windows"
    number, at = origin.brought or (None, None)
    run = origin.run
    return _block(
        f"in snapshot {snapshot.number}",
        {
            "generation": origin.complete["generation"],
            "brought by": None if number is None else f"snapshot {number}, {at}",
            "encoded by": f"run {origin.complete['run_id']}",
            "with": None if run is None else _versions(run["versions"]),
        },
    )


def _versions(text: str) -> str:
    found = json.loads(text) if text else {}
    return ", ".join(f"{name} {version}" for name, version in found.items() if version)


def _windows(origin: Origin, checked: Sequence[Checked]) -> str:
    states = {each.sample_id: each for each in checked}
    windows = origin.windows()
    count = f"{len(windows)} windows" if len(windows) != 1 else "1 window"
    if len(checked) < len(windows):
        count += f", the stored bytes of {len(checked)} were read (--max-windows N: of N)"
    lines = [count]
    for sample_id, _, pick in windows[:_SHOWN]:
        when = f"{pick.first_frame / pick.fps:.2f} s" if pick.fps else f"frame {pick.first_frame}"
        real = f", {pick.valid_frames} of {pick.frames} frames real" if pick.padded else ""
        lines.append(f"  {sample_id}  {pick.bucket}  window {pick.window}  {when}{real}")
        lines.append(f"    {pick.shard}, row {pick.row}")
        if sample_id in states:
            lines += [f"    {line}" for line in _state(states[sample_id])]
    if len(windows) > _SHOWN:
        lines.append(f"  and {len(windows) - _SHOWN} more; the JSON object has all of them")
    return "\n".join(lines)


def _state(each: Checked) -> list[str]:
    if each.problem is not None:
        return [f"DAMAGED: {each.problem}"]
    numbers = [
        f"{name}: " + ", ".join(f"{key} {figure(value)}" for key, value in found.items())
        for name, found in each.statistics.items()
    ]
    return ["stored bytes are as written", *numbers]


def _block(title: str, fields: Mapping[str, Any]) -> str:
    lines = [f"  {shown(name):<16} {shown(str(v))}" for name, v in fields.items() if v is not None]
    return "\n".join([title, *lines])


def _status(row: Mapping[str, Any]) -> str:
    why = ": ".join(shown(row[name]) for name in ("reason", "message") if row[name])
    return f"{row['status']} ({why})" if why else str(row["status"])


def _clip(row: Mapping[str, Any]) -> str | None:
    if row["start"] is None and row["end"] is None:
        return None
    end = "the end" if row["end"] is None else f"{row['end']:g} s"
    return f"{row['start'] or 0:g} s to {end}"


def _header(row: Mapping[str, Any]) -> dict[str, Any]:
    facts = json.loads(row["facts"]) if row["facts"] else {}
    wanted = ("container", "codec", "pixel_format", "fps", "duration", "rotation")
    return {name: facts.get(name) for name in wanted}


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value(value) for name, value in row.items()}


def _value(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list):
        return [_value(each) for each in value]
    return shown(str(value))
