import json
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pytest
from helpers import SMALL, make_source
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commit import Tally
from pipeline.effort import Effort, Pace
from pipeline.errors import Reason, SourceError
from pipeline.forecast import Forecast, Rate
from pipeline.known import KnownRun
from pipeline.plan import Plan
from pipeline.planned import PlannedSources, PlannedUnits
from pipeline.progress import human_seconds
from pipeline.report import (
    RunReport,
    human_bytes,
    plan_json,
    plan_text,
    source_counts,
    summary_text,
)
from pipeline.schema import SAMPLES
from pipeline.units import ClipTask, FileTask, Unit

KINDS = {"added": 3, "changed": 1, "reusable": 5, "failed before": 2}
FORECAST = Forecast(7, {"moments": 2000, "mean": 1000}, 1e12, 90.0, Rate(5e11, "assumed"))


def make_plan(**changes):
    clip = ClipTask("s", "g", "v", None, None, ((0, None),), (SMALL,), None, 7)
    fields = {
        "kinds": KINDS,
        "standing": Counter(ok=5, failed=1),
        "carried": SAMPLES.empty_table(),
        "sources": PlannedSources.of(
            [
                make_source("a"),
                make_source("b", failure=SourceError(Reason.MISSING, "gone")),
            ]
        ),
        "units": PlannedUnits([Unit((FileTask("/v/a.mp4", None, (clip,)),))]),
        "removed": pa.table({"source_id": ["x", "y"]}),
        "columns": pa.table({}),
        "total": 11,
        "quarantined": pa.table({}),
    }
    return Plan(**{**fields, **changes})


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1_234_567, "1.23 MB"),
        (999_949, "1000 kB"),
        (999_999, "1000 kB"),
        (64_000_000, "64 MB"),
        (123_456_789_000, "123 GB"),
        (12 * 10**12, "12 TB"),
        (1_234 * 10**12, "1234 TB"),
    ],
)
def test_bytes_for_people(count, text):
    assert human_bytes(count) == text


@given(st.integers(0, 10**18))
def test_bytes_are_right_to_three_digits(count):
    number, unit = human_bytes(count).split()
    scale = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert "e" not in number
    assert float(number) * scale == pytest.approx(count, rel=0.005)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.6, "60 s"),
        (119, "119 s"),
        (300, "5 min"),
        (3700, "62 min"),
        (7500, "2 h 5 min"),
        (7199.9, "2 h 0 min"),
        (86400, "24 h 0 min"),
    ],
)
def test_seconds_for_people(seconds, text):
    assert human_seconds(seconds) == text


def test_the_plan_for_people():
    text = plan_text(make_plan(), FORECAST)
    assert "11 sources in the dataset" in text
    for count, kind in ((3, "added"), (1, "changed"), (5, "reusable"), (2, "failed before")):
        assert f"{count}  {kind}" in text
    assert "2  removed" in text
    assert "to do: 2 sources (1 of them cannot be opened), about 7 windows in 1 tasks" in text
    assert "7  windows of 32x32" in text
    assert "moments 2 kB, mean 1 kB" in text
    assert "about 90 s at 0.5 TFLOP/s an encoder (assumed); 0.03 encoder hours, with 1" in text
    assert "set forecast.encoder_hour_price and forecast.gb_month_price" in text


def test_the_plan_with_prices():
    forecast = Forecast(
        7_000_000,
        {"moments": 2 * 10**12, "mean": 10**12},
        1e12,
        7200.0,
        Rate(5e11, "assumed"),
        encoders=600,
        encoder_hour_price=2.5,
        gb_month_price=0.023,
    )
    text = plan_text(make_plan(), forecast)
    assert "moments 2 TB (46.00 a month), mean 1 TB (23.00 a month)" in text
    assert "about 2 h 0 min" in text
    assert "1,200.00 encoder hours, with 600 at once" in text
    assert "encoder cost: about 3,000.00 at 2.5 an hour" in text
    assert "not known" not in text
    told = json.loads(plan_json(make_plan(), forecast))
    assert told["encoder_hours"] == 1200
    assert told["cost"] == 3000
    assert told["storage_per_month"] == {"moments": 46.0, "mean": 23.0}


def test_one_price_without_the_other():
    text = plan_text(make_plan(), replace(FORECAST, gb_month_price=0.0))
    assert "moments 2 kB (0.00 a month)" in text
    assert "cost: not known; set forecast.encoder_hour_price" in text
    assert "gb_month_price" not in text


def test_the_plan_for_programs():
    assert json.loads(plan_json(make_plan(), FORECAST)) == {
        "sources": {"total": 11, **KINDS, "removed": 2},
        "windows": 7,
        "bytes": {"moments": 2000, "mean": 1000},
        "seconds": 90.0,
        "tflops_per_encoder": 0.5,
        "encoder_hours": 0.025,
        "cost": None,
        "storage_per_month": None,
    }


def test_the_report_is_one_line_with_the_promised_keys():
    text = RunReport("r", {"total": 1, "ok": 1}, 2, 3, 4, 5.123456, None, Pace()).to_json()
    assert "\n" not in text
    assert json.loads(text) == {
        "run_id": "r",
        "sources": {"total": 1, "ok": 1},
        "windows": 2,
        "shards": 3,
        "bytes": 4,
        "seconds": 5.12,
        "snapshot": None,
        "encoder_busy": None,
    }


@given(st.lists(st.sampled_from(["ok", "skipped", "failed"])), st.lists(st.integers(0, 9)))
def test_the_counts_close(ended, standing):
    kept = Counter(dict(zip(["ok", "skipped", "failed"], standing, strict=False)))
    tally = Tally(statuses=Counter(ended))
    unfinished = 2
    total = kept.total() + len(ended) + unfinished
    counts = source_counts(make_plan(standing=kept, total=total), tally)
    assert counts["ok"] + counts["skipped"] + counts["failed"] == counts["total"] == total
    assert counts["ok"] == kept["ok"] + ended.count("ok")
    assert counts["failed"] == kept["failed"] + ended.count("failed") + unfinished


def test_the_summary_says_why():
    tally = Tally(
        reasons=Counter({"failed: missing": 2}),
        examples={"failed: missing": "/v/b.mp4: gone"},
    )
    counts = {"total": 11, "ok": 8, "skipped": 1, "failed": 2}
    report = RunReport("r", counts, 7, 2, 1500, 1.0, 4, Pace())
    text = summary_text(make_plan(), tally, report, "/cache", 0)
    assert "read     2 sources; 5 more were encoded already" in text
    assert "7 windows in 2 shards, 1.5 kB, to /cache" in text
    assert "8 ok, 1 skipped, 2 failed of 11 sources; snapshot 4" in text
    assert "2 failed: missing, e.g. /v/b.mp4: gone" in text
    assert "unfinished" not in text
    mine, earlier = Rate.achieved(2.5e11, report.run_id), Rate.achieved(2.5e11, "earlier")
    assert "0.25 TFLOP/s" in summary_text(make_plan(), tally, report, "/c", 0, mine)
    assert "TFLOP/s" not in summary_text(make_plan(), tally, report, "/c", 0, earlier)
    assert "3 of the failed are unfinished" in summary_text(make_plan(), tally, report, "/c", 3)


def test_the_summary_says_how_busy_encoders_were():
    tally = Tally()
    counts = {"total": 1, "ok": 1, "skipped": 0, "failed": 0}
    report = RunReport("r", counts, 7, 2, 1500, 1.0, 4, tally.efforts.pace(1))
    assert "busy" not in summary_text(make_plan(), tally, report, "/c", 0)
    tally.efforts.add(Effort("a", 0.0, 2.0, 4, 1))
    tally.efforts.add(Effort("a", 3.0, 1.0, 2, 1))
    report = replace(report, pace=tally.efforts.pace(1))
    text = summary_text(make_plan(), tally, report, "/c", 0)
    assert "worked 75% of the time since their first pack, at 1 windows/s" in text
    assert json.loads(report.to_json())["encoder_busy"] == 0.75


def test_what_is_kept_is_said():
    known = KnownRun("data/h32w32/x", 0, (0, 17), bytes(2 * 24))
    plan = make_plan(sources=PlannedSources([make_source("a", known=(known, known))]))
    assert "held already: 4 windows of these sources" in plan_text(plan, FORECAST)
    assert "held already" not in plan_text(make_plan(), FORECAST)
    report = RunReport(
        "r", {"total": 1, "ok": 1, "skipped": 0, "failed": 0}, 7, 2, 1500, 1.0, 4, Pace()
    )
    assert "kept     3 windows" in summary_text(plan, Tally(kept=3), report, "/cache", 0)
    assert "kept" not in summary_text(plan, Tally(), report, "/cache", 0)
