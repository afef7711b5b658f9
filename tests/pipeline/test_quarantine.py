"""What is quarantined is listed safely; runs in which too many sources fail stop."""

import csv
import io

import pyarrow as pa
import pytest
from helpers import LOCAL, make_config

from pipeline.commit import Tally
from pipeline.manifest import Manifest
from pipeline.quarantine import (
    QUARANTINED,
    TooManyFailuresError,
    check_failures,
    write_quarantine,
)
from pipeline.schema import SOURCES
from pipeline.storage import Store


def tally(ok: int, **failures: int) -> Tally:
    found = Tally()
    found.firsts.update(ok=ok, failed=sum(failures.values()))
    for reason, count in failures.items():
        found.reasons[f"failed: {reason}"] = count
        found.examples[f"failed: {reason}"] = f"/v/{reason}.mp4: it is bad"
    found.reasons["skipped: too_short"] = 1000
    return found


@pytest.mark.parametrize(
    ("ok", "failed", "changes"),
    [
        (8, 1, {}),  # too few to say
        (0, 9, {}),
        (8, 2, {}),  # just as many as are allowed
        (0, 500, {"stop_early_sources": None}),
        (0, 500, {"max_failure_rate": 1.0}),
    ],
)
def test_a_run_goes_on(ok, failed, changes):
    config = make_config(**{"max_failure_rate": 0.2, "stop_early_sources": 10, **changes})
    check_failures(tally(ok, crashed=failed), config)


def test_a_run_stops_and_says_why():
    config = make_config(max_failure_rate=0.2, stop_early_sources=10)
    with pytest.raises(TooManyFailuresError) as caught:
        check_failures(tally(7, crashed=2, missing=1), config)
    told = str(caught.value)
    for words in ("3 of the first 10", "0.2", "most often crashed (2)", "/v/crashed.mp4"):
        assert words in told


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+cmd",
        "-2",
        "@SUM(A1)",
        "\tx",
        "\rx",
        'a"b',
        "a,b",
        "a\nb",
        "../../x",
        "\0",
        "é" * 9,
    ],
)
def test_the_list_holds_what_is_said_and_nothing_is_a_formula(text, tmp_path):
    row = dict.fromkeys(SOURCES.names) | {
        "source_id": "s",
        "id": text,
        "uri": text,
        "message": text,
        "reason": "crashed",
        "attempts": 3,
    }
    rows = pa.table({name: pa.array([row[name]], SOURCES.field(name).type) for name in QUARANTINED})
    write_quarantine(Manifest(Store(str(tmp_path), LOCAL)), "run", rows)
    [path] = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert path == tmp_path / "reports/run/quarantine.csv"
    [head, line] = csv.reader(io.StringIO(path.read_bytes().decode(), newline=""))
    found = dict(zip(head, line, strict=True))
    assert found["attempts"] == "3"
    for name in ("id", "uri", "message"):
        assert found[name].removeprefix("'") == text.replace("\0", "\\0")
        assert not found[name].startswith(("=", "+", "-", "@", "\t", "\r"))
