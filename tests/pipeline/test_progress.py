import io
import json
from collections import Counter

import pytest
from meters import Remembering

from pipeline import progress as module
from pipeline.commit import Tally
from pipeline.logs import logging_to_stderr
from pipeline.progress import ProgressLine


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def drive(clock, progress):
    with progress:
        clock.now += 5
        progress.update(Tally(windows=5))
        clock.now += 5
        progress.update(Tally(windows=20, statuses=Counter(ok=2, failed=1)))
        clock.now += 5
        progress.update(Tally(windows=30))
        clock.now += 5
        progress.update(Tally(windows=40, kept=2))
        clock.now += 10
        progress.update(Tally(windows=60))


def test_progress_in_lines(clock):
    stream = io.StringIO()
    with logging_to_stderr("text", stream):
        drive(clock, ProgressLine(50, stream=stream))
    assert stream.getvalue().splitlines() == [
        "encoded 20 of about 50 windows, 2.00/s, 15 s left; sources: 1 failed, 2 ok",
        "encoded 40, kept 2 of about 50 windows, 2.00/s, 4 s left; sources: none ended",
        "encoded 60 of about 50 windows, 2.00/s; sources: none ended",
    ]


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_progress_in_json_has_no_bar(clock, kind):
    stream = kind()
    with logging_to_stderr("json", stream):
        drive(clock, ProgressLine(50, form="json", stream=stream))
    first, second, last = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["sources"] == {"ok": 2, "failed": 1}
    assert (second["encoded"], second["kept"], second["expected"]) == (40, 2, 50)
    assert (second["windows_per_second"], second["seconds_left"]) == (2.0, 4)
    assert last["seconds_left"] is None


def test_progress_on_a_terminal_is_a_bar_without_lines(clock):
    stream = Terminal()
    with logging_to_stderr("text", stream):
        drive(clock, ProgressLine(4, stream=stream))  # more comes than was expected
    assert "60/60" in stream.getvalue()
    assert "of about" not in stream.getvalue()


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_progress_is_measured(clock, kind):
    meter = Remembering()
    with ProgressLine(50, meter, stream=kind()) as progress:
        clock.now += 10
        ends = Counter(ok=3, failed=3, skipped=1)
        reasons = Counter({"failed: crashed": 2, "failed: timeout": 1, "skipped: too_short": 1})
        progress.update(Tally(windows=20, kept=1, statuses=ends, reasons=reasons))
        assert meter.values == {
            ("t2v_run_windows_forecast",): 50,
            ("t2v_run_windows_remaining",): 29,
            ("t2v_run_sources", "ok", "none"): 3,
            ("t2v_run_sources", "failed", "crashed"): 2,
            ("t2v_run_sources", "failed", "timeout"): 1,
            ("t2v_run_sources", "skipped", "too_short"): 1,
        }
        clock.now += 10
        progress.update(Tally(windows=51))
    assert meter.values["t2v_run_windows_remaining",] == 0


def test_lines_come_also_while_nothing_does(monkeypatch):
    monkeypatch.setattr(module, "_LINE_SECONDS", 0.02)
    stream = io.StringIO()
    with logging_to_stderr("text", stream), ProgressLine(4, stream=stream) as progress:
        progress._stop.wait(0.5)
    assert "encoded 0 of about 4 windows, 0.00/s; sources: none ended" in stream.getvalue()


def test_before_the_first_shard_the_forecast_tells_what_is_left(clock):
    stream = io.StringIO()
    with (
        logging_to_stderr("text", stream),
        ProgressLine(50, stream=stream, forecast_seconds=25) as progress,
    ):
        for seconds, tally in ((10, Tally()), (20, Tally()), (10, Tally(windows=10))):
            clock.now += seconds
            progress.update(tally)
    assert stream.getvalue().splitlines() == [
        "encoded 0 of about 50 windows, 0.00/s, 15 s left by the forecast, no shard yet; "
        "sources: none ended",
        "encoded 0 of about 50 windows, 0.00/s; sources: none ended",
        "encoded 10 of about 50 windows, 0.25/s, 3 min left; sources: none ended",
    ]
