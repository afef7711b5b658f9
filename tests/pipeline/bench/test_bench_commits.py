"""The benchmark of many committers: it measures, and it would notice a row that is lost."""

import json

import pytest

from jobs.benchmark import main
from pipeline.manifest import Manifest


@pytest.mark.slow
def test_committers_at_once_lose_nothing(tmp_path, capsys):
    assert (
        main(["commits", str(tmp_path), "--committers", "3", "--commits", "2", "--rows", "5"]) == 0
    )
    (turn,) = json.loads(capsys.readouterr().out.splitlines()[-1])["turns"]
    assert turn["committers"] == 3
    assert 0 < turn["p50_seconds"] <= turn["p99_seconds"]
    assert (turn["lost_rows"], turn["double_rows"]) == (0, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_lost_row_is_an_error(tmp_path, capsys, monkeypatch):
    read = Manifest.read
    monkeypatch.setattr(Manifest, "read", lambda *a, **k: read(*a, **k).slice(0, 3))
    assert (
        main(["commits", str(tmp_path), "--committers", "1", "--commits", "1", "--rows", "5"]) == 1
    )
    assert "not in the table" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--committers", "--commits", "--rows"])
def test_numbers_are_positive(tmp_path, capsys, option):
    with pytest.raises(SystemExit) as ended:
        main(["commits", str(tmp_path), option, "0"])
    assert ended.value.code == 1
    assert "1 or more" in capsys.readouterr().err


@pytest.mark.slow
def test_sixteen_without_a_pause(tmp_path, capsys):
    assert main(["commits", str(tmp_path), "--committers", "16", "--rows", "5"]) == 0
