"""How runs went, from the rows that they left in the table ``runs``: forecast, phases, rates."""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

from pipeline.manifest import Manifest

_ROWS = 400
"""Rows of ``runs`` that are looked at, from the newest on."""

_COLUMNS = ("run_id", "state", "at", "config", "report", "versions")


@dataclass(frozen=True)
class Phase:
    """A part of a run's wall time, in seconds."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        run_id: its id.
        state: ``started`` (no end is recorded: at work, or killed), ``finished`` or ``stopped``.
        began: when the first row was written: the plan was made.
        ended: when the last row was written; None where there is none.
        report: what it recorded at its end.
        forecast: what it recorded at its start: ``windows``, ``seconds``, ``bytes`` (by statistic).
        config, versions: as recorded.
    """

    run_id: str
    state: str
    began: datetime.datetime | None
    ended: datetime.datetime | None
    report: Mapping[str, Any]
    forecast: Mapping[str, Any]
    config: Mapping[str, Any]
    versions: Mapping[str, str | None]

    @property
    def windows(self) -> int:
        """Windows written."""
        return int(self.report.get("windows") or 0)

    @property
    def seconds(self) -> float | None:
        """Wall time, planning included."""
        return _number(self.report, "seconds")

    @property
    def busy(self) -> float | None:
        """Share of the time since each encoder's first pack that it worked."""
        return _number(self.report, "encoder_busy")

    @property
    def rate(self) -> float | None:
        """Windows a second of all encoders, each from the end of its first pack on."""
        return _number(self.report, "windows_per_second")

    @property
    def encoders(self) -> int:
        """As configured."""
        return int(self.config.get("run", {}).get("encoders") or 1)

    @property
    def encoder_rate(self) -> float | None:
        """The same while they work: what no waiting would give."""
        return _number(self.report, "working_windows_per_second")

    @property
    def light(self) -> float | None:
        """The rate over that of the bare VAE; None where the run did not measure both."""
        bare = _number(self.report, "bare_windows_per_second")
        return self.rate / bare if self.rate and bare else None

    @property
    def encode_seconds(self) -> float | None:
        """From the begin of the first pack to the end of the last."""
        first, last = (_number(self.report, f"{end}_encoded_at") for end in ("first", "last"))
        return max(0.0, last - first) if first and last else None

    def phases(self) -> list[Phase]:
        """Where the wall time went, in order; they sum up to ``seconds``. None without an end."""
        if self.seconds is None or self.began is None or self.ended is None:
            return []
        end = self.ended.timestamp()
        moments = [end - self.seconds, self.began.timestamp()]
        names = ["list, probe, plan"]
        first, last = (_number(self.report, f"{end}_encoded_at") for end in ("first", "last"))
        if first and last:
            moments += [first, last]
            names += ["start-up to the first pack", "encode"]
        moments.append(end)
        names.append("last writes, commit, publish" if first else "commit, publish")
        for place in range(1, len(moments)):  # clocks of nodes may differ
            moments[place] = min(max(moments[place], moments[place - 1]), end)
        times = pairwise(moments)
        return [Phase(n, b - a) for n, (a, b) in zip(names, times, strict=True)]


def read_runs(manifest: Manifest, count: int) -> list[Run]:
    """The newest runs that left a row, newest first, at most ``count``."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for row in islice(manifest.descending("runs", _COLUMNS, by="at"), _ROWS):
        if row["run_id"] not in rows and len(rows) == count + 1:
            break  # one more, so that the last one wanted has its first row too
        rows.setdefault(row["run_id"], []).append(row)
    return [_run(found) for found in list(rows.values())[:count]]


def _run(rows: Sequence[Mapping[str, Any]]) -> Run:
    """From the rows of a run, newest first."""
    started = next((row for row in rows if row["state"] == "started"), None)
    ended = next((row for row in rows if row["state"] != "started"), None)
    newest = ended or rows[0]
    return Run(
        run_id=newest["run_id"],
        state=newest["state"],
        began=None if started is None else started["at"],
        ended=None if ended is None else ended["at"],
        report={} if ended is None else _object(ended["report"]),
        forecast={} if started is None else _object(started["report"]).get("forecast", {}),
        config=_object(newest["config"]),
        versions=_object(newest["versions"]),
    )


def _object(text: str | None) -> dict[str, Any]:
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}


def _number(fields: Mapping[str, Any], name: str) -> float | None:
    value = fields.get(name)
    return None if value is None else float(value)
