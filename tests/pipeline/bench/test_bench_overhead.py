"""What is left of a run beside decoding and writing: worked out as said, and on a small run."""

import json

import pytest

from jobs.benchmark import main
from pipeline.bench import overhead
from pipeline.bench.alone import Alone
from pipeline.bench.pipeline import Whole
from tests.e2e.support import config_tree, write_config, write_list


@pytest.fixture
def config(tmp_path, clip):
    rows = [{"video": str(clip("bikes")), "id": f"{n}"} for n in range(3)]
    dataset = write_list(tmp_path / "clips.jsonl", rows)
    tree = config_tree(dataset, tmp_path / "cache", run__decode_tasks=1)
    return str(write_config(tmp_path / "config.yaml", tree))


def test_what_is_left_is_of_the_windows_that_the_longer_run_has_more(config, monkeypatch, capsys):
    """The longer run: 30 windows, 4.5 CPU seconds and 20 seconds more; a cluster takes 0.03."""
    decode = iter([0.10, 0.06])  # before and after

    def apart(function, config, given):
        if function is overhead.idle_cluster:
            return 0.03
        more = config.dataset.limit == 3
        return Whole(
            windows=40 if more else 10,
            packs=1,
            windows_per_second=1.0,
            cpu_seconds=7.5 if more else 3.0,
            cpu_seconds_per_window=1.0,
            driver_seconds_per_pack=0.0,
            encoder_busy=1.0,
            seconds={"start-up": 9.0, "encode": 22.0 if more else 2.0, "end": 1.0},
            peak_bytes={},
        )

    monkeypatch.setattr(overhead, "apart", apart)
    monkeypatch.setattr(overhead, "decode_alone", lambda *_: Alone(9.0, next(decode), 1))
    monkeypatch.setattr(overhead, "write_alone", lambda *_: Alone(9.0, 0.01, 1))
    assert (
        main(["overhead", "--config", config, "--limit", "1", "--more", "3", "--turns", "1"]) == 0
    )
    [turn] = json.loads(capsys.readouterr().out.splitlines()[-1])["turns"]
    assert turn == pytest.approx(
        {"windows": 30, "whole": 0.15, "decode": 0.08, "write": 0.01, "idle": 0.02}
    )
    assert overhead.Overhead(**turn).left == pytest.approx(0.04)


@pytest.mark.slow
def test_a_small_run(config, tmp_path, capsys):
    arguments = ["overhead", "--config", config, "--limit", "1", "--more", "3", "--turns", "1"]
    arguments += ["--output", str(tmp_path / "scratch"), "--seconds", "0.5"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    [turn] = found["turns"]
    assert turn["windows"] == 2 * (250 // 17)
    assert turn["decode"] > 0  # "whole" is the difference of two runs of a second: any number
    assert turn["write"] > 0
    assert turn["idle"] == 0  # no Ray
    assert found["left"] == pytest.approx(overhead.Overhead(**turn).left)
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("limit", [[], ["--limit", "0"], ["--limit", "3"]])
def test_the_second_run_is_longer(config, capsys, limit):
    assert main(["overhead", "--config", config, *limit, "--more", "3"]) == 1
    assert "give two, the second larger" in capsys.readouterr().err
