import io
import json

import pytest

from pipeline.logs import fail, logging_to_stderr, tell, warn


def say():
    tell("ten percent: 10%", sources=3)
    warn("look")
    fail("over")


def test_text():
    stream = io.StringIO()
    with logging_to_stderr("text", stream):
        say()
    assert stream.getvalue() == "ten percent: 10%\nwarning: look\nerror: over\n"


def test_json_is_one_object_a_line():
    stream = io.StringIO()
    with logging_to_stderr("json", stream):
        say()
        tell("two\nlines")
    rows = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [row["level"] for row in rows] == ["info", "warning", "error", "info"]
    assert rows[0]["message"] == "ten percent: 10%"
    assert rows[0]["sources"] == 3
    assert rows[3]["message"] == "two\nlines"
    assert all(row["time"].endswith("+00:00") for row in rows)


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_is_written_twice_or_afterwards(form, capsys):
    for _ in range(2):
        with logging_to_stderr(form):
            tell("once")
    tell("never")
    assert capsys.readouterr().err.count("once") == 2
    with logging_to_stderr(form):
        tell("again")
    told = capsys.readouterr().err
    assert told.count("again") == 1
    assert "never" not in told
