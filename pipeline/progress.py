"""Progress of a run: a live bar on a terminal, else lines, never both; and the run's gauges."""

import sys
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipeline.commit import Tally
from pipeline.logs import LogFormat, tell
from pipeline.metrics import FORECAST, NO_REASON, REMAINING, SILENT, SOURCES, Meter

_LINE_SECONDS = 10.0


def human_seconds(seconds: float) -> str:
    """``7500`` as ``2 h 5 min``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


@dataclass
class ProgressLine:
    """Windows done of windows expected: a live bar on a terminal, else a line every 10 seconds.

    ``form`` ``json`` wants lines everywhere. ``meter`` is told as often. Windows count once their
    shard is written; until the first is, the time left follows from ``forecast_seconds``, if given.
    """

    total: int
    meter: Meter = SILENT
    form: LogFormat = "text"
    forecast_seconds: float | None = None
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    _bar: Progress | None = None
    _task: TaskID | None = None
    _started: float = 0.0
    _told: float = 0.0
    _tally: Tally = field(default_factory=Tally)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._started = self._told = time.monotonic()
        if self.stream.isatty() and self.form == "text":
            self._bar = Progress(
                TextColumn("encode"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("windows {task.fields[state]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(file=self.stream),
            )
            self._task = self._bar.add_task("encode", total=self.total, state="")
            self._bar.start()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def update(self, tally: Tally) -> None:
        """Show the present state."""
        self._tally = tally
        state = ", ".join(f"{count} {name}" for name, count in sorted(tally.statuses.items()))
        done = tally.windows + tally.kept
        if self._bar is not None and self._task is not None:
            total = max(self.total, done)
            self._bar.update(self._task, completed=done, total=total, state=state)
        moment = time.monotonic()
        if moment - self._told >= _LINE_SECONDS:
            self._told = moment
            self._measure(tally)
            if self._bar is None:
                self._line(tally, state, moment - self._started)

    def _line(self, tally: Tally, state: str, seconds: float) -> None:
        rate = tally.windows / seconds
        left = self.total - tally.windows - tally.kept
        eta = left / rate if rate and left > 0 else None
        origin = ""
        forecast = self.forecast_seconds or 0.0
        if not tally.windows + tally.kept and seconds < forecast:
            eta, origin = forecast - seconds, " by the forecast, no shard yet"
        kept = f", kept {tally.kept}" if tally.kept else ""
        ends = "" if eta is None else f", {human_seconds(eta)} left{origin}"
        tell(
            f"encoded {tally.windows}{kept} of about {self.total} windows, {rate:.2f}/s{ends}; "
            f"sources: {state or 'none ended'}",
            encoded=tally.windows,
            kept=tally.kept,
            expected=self.total,
            windows_per_second=round(rate, 3),
            seconds_left=None if eta is None else round(eta),
            sources=dict(tally.statuses),
        )

    def _measure(self, tally: Tally) -> None:
        done = tally.windows + tally.kept
        self.meter.set(FORECAST, self.total)
        self.meter.set(REMAINING, max(0, self.total - done))
        for status in set(tally.statuses):
            reasons = {
                name.removeprefix(f"{status}: "): count
                for name, count in tally.reasons.items()
                if name.startswith(f"{status}: ")
            }
            rest = tally.statuses[status] - sum(reasons.values())
            for reason, count in {**reasons, NO_REASON: rest}.items():
                if count:
                    self.meter.set(SOURCES, count, status=status, reason=reason)

    def _beat(self) -> None:
        """Tell also while no result comes."""
        while not self._stop.wait(_LINE_SECONDS):
            self.update(self._tally)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._measure(self._tally)
        if self._bar is not None:
            self._bar.stop()
