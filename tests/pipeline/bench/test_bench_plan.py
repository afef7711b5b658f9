"""The benchmark of plans: it plans what it is asked for."""

import json

import pytest

from jobs.benchmark import main


@pytest.mark.slow
def test_plans_of_two_sizes(capsys):
    assert main(["plan", "--sources", "10", "300", "--windows", "40"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["plans"]
    assert [one["sources"] for one in found] == [10, 300]
    assert 0 < found[0]["packs"] < found[1]["packs"]
    assert 40 * 300 / 20 * 0.9 < found[1]["packs"] < 40 * 300
    for one in found:
        assert 10**7 < one["code_bytes"] < one["peak_bytes"]
        assert one["seconds"] > 0
        assert one["units_bytes"] > 100
        assert 0 < one["sources_bytes"] < 400 * one["sources"]
