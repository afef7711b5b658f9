"""Drivers of cells killed at ten moments, two of them in each run: they are replaced."""

import json
import os
import signal
from typing import Any

import pytest

from pipeline.job import EXIT_DONE, JobOptions, run_job
from tests.e2e.chaos.support import COUNTS
from tests.faults import Rule

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.ray]

DRIVER = "ray::CellDriver"
ROWS, LOG = r"part-.*parquet", "_delta_log/"

MOMENTS: dict[str, dict[str, Any]] = {
    "first request": {"kind": "reset", "method": "GET|HEAD"},
    "first shard": {"kind": "call", "key": "/data/"},
    "listing leases, or a log": {"kind": "reset", "method": "GET", "key": "^[^/]*/?$", "skip": 2},
    "shard written, not committed": {"kind": "reset", "key": f"/samples/{ROWS}"},
    "rows of samples written, not committed": {"kind": "reset", "key": f"/samples/{LOG}"},
    "samples committed, answer lost": {"kind": "lost_answer", "key": f"/samples/{LOG}"},
    "samples committed, sources not": {"kind": "reset", "key": f"/sources/{ROWS}"},
    "rows of sources written, not committed": {"kind": "reset", "key": f"/sources/{LOG}"},
    "both tables committed": {"kind": "lost_answer", "key": f"/sources/{LOG}"},
    "a later commit": {"kind": "reset", "key": f"/samples/{LOG}", "skip": 6},
}

PAIRS = [
    ("first request", "samples committed, sources not"),
    ("first shard", "both tables committed"),
    ("listing leases, or a log", "rows of samples written, not committed"),
    ("shard written, not committed", "a later commit"),
    ("samples committed, answer lost", "rows of sources written, not committed"),
]


@pytest.mark.parametrize("names", PAIRS, ids=" + ".join)
def test_drivers_killed(place, joined, whole, capsys, names):
    rules = []
    for name in names:
        settings = {"method": "PUT", **MOMENTS[name], "times": 1}
        if settings["kind"] == "call":  # a worker sends it
            rule = Rule(**settings)
            rule.action = lambda: os.kill(joined.workers(DRIVER)[0], signal.SIGKILL)
        else:
            rule = Rule(**settings, sender=DRIVER, kill=True)
        rules.append(place.proxy.add(rule))
    assert run_job(place.config(run__cells=2, run__encoders=2), JobOptions()) == EXIT_DONE
    told = capsys.readouterr()
    assert [rule.hits for rule in rules] == [1, 1]
    assert told.err.count("a cell's driver died and is replaced") == 2
    report = json.loads(told.out.rstrip().rsplit("\n", 1)[-1])
    assert report["sources"] == COUNTS
    place.assert_whole(whole)
    place.assert_no_segment_twice()
