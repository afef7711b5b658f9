"""What runs recorded: phases that close, rates, forecast against actual."""

import datetime
import json

import pytest

from pipeline.page import view
from pipeline.page.pace import read_runs
from tests.pipeline.helpers import EPOCH, make_manifest

REPORT = {
    "windows": 100,
    "bytes": 2000,
    "seconds": 60.0,
    "sources": {"total": 30},
    "encoder_busy": 0.9,
    "windows_per_second": 4.0,
    "working_windows_per_second": 4.5,
    "first_encoded_at": EPOCH.timestamp() + 10,
    "last_encoded_at": EPOCH.timestamp() + 45,
}
FORECAST = {"windows": 80, "bytes": {"moments": 1000, "mean": 500}, "seconds": 70.0}


def append(manifest, run, hour=0, state="finished", forecast=FORECAST, **report):
    begun = EPOCH + datetime.timedelta(hours=hour)
    rows = [("started", begun, {"forecast": forecast})]
    if state != "started":
        rows.append((state, begun + datetime.timedelta(seconds=50), {**REPORT, **report}))
    for name, at, told in rows:
        manifest.append(
            "runs",
            [
                {
                    "run_id": run,
                    "state": name,
                    "at": at,
                    "config": json.dumps({"run": {"encoders": 2}}),
                    "report": json.dumps(told),
                    "versions": "{}",
                }
            ],
        )


@pytest.fixture
def manifest(tmp_path):
    return make_manifest(tmp_path)


def test_the_phases_of_a_run_sum_up_to_its_time(manifest):
    append(manifest, "a")
    [run] = read_runs(manifest, 5)
    phases = run.phases()
    assert [(phase.name, phase.seconds) for phase in phases] == [
        ("list, probe, plan", 10),
        ("start-up to the first pack", 10),
        ("encode", 35),
        ("last writes, commit, publish", 5),
    ]
    assert (run.rate, run.encoder_rate) == (4, 4.5)
    assert run.encode_seconds == 35


def test_clocks_that_differ_give_no_negative_phase(manifest):
    skew = EPOCH.timestamp()
    append(manifest, "a", first_encoded_at=skew - 500, last_encoded_at=skew + 10**6)
    [run] = read_runs(manifest, 5)
    assert all(phase.seconds >= 0 for phase in run.phases())
    assert sum(phase.seconds for phase in run.phases()) == pytest.approx(60)


def test_runs_come_newest_first_and_one_without_an_end_is_told_of(manifest):
    append(manifest, "a", 0)
    append(manifest, "b", 1, state="stopped")
    append(manifest, "c", 2, state="started")
    runs = read_runs(manifest, 2)
    assert [(run.run_id, run.state) for run in runs] == [("c", "started"), ("b", "stopped")]
    assert runs[0].phases() == []
    assert runs[0].seconds is None
    assert runs[1].forecast == FORECAST
    assert read_runs(make_manifest(manifest.store.uri + "/none"), 3) == []


def test_forecast_against_actual(manifest):
    append(manifest, "a")
    [run] = read_runs(manifest, 1)
    rows = {row.name: row for row in view.forecast(run, "moments")}
    assert (rows["windows"].forecast, rows["windows"].actual) == ("80", "100")
    assert rows["windows"].ratio == "1.25"
    assert rows["latents"].ratio == "2.00"
    assert rows["time of encoding"].ratio == "0.50"


def test_the_speed_of_light_is_told_only_where_it_was_measured(manifest):
    append(manifest, "a")
    append(manifest, "b", 1, bare_windows_per_second=5.0)
    append(manifest, "c", 2, bare_windows_per_second=5.0, windows_per_second=None)
    short, measured, without = read_runs(manifest, 3)
    assert measured.light == 0.8
    assert "4 windows/s, of the 5 that" in view.light(measured)
    assert (without.light, short.light) == (None, None)
    for run in (without, short, None):
        assert view.light(run).startswith("Not known")
