"""The example of a trainer: it learns, and stopping changes nothing."""

import itertools
import json
import os
import subprocess
import sys
import tempfile

import pytest
import torch

from jobs import maintain_cache, train_example
from pipeline.identity import stable_hash
from tests.e2e.support import ROOT
from tests.pipeline.helpers import SMALL, WIDE
from tests.pipeline.maintain.builder import Builder

pytestmark = pytest.mark.filterwarnings("ignore:.*has no index:UserWarning")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Builder:
    """22 windows at two sizes; what readers of a machine share goes with the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    windows = dict(zip("abcde", (3, 2, 1, 4, 1), strict=True))
    cache = Builder(tmp_path / "cache")
    cache.encode({(stable_hash(n), 1): w for n, w in windows.items()}, buckets=(SMALL, WIDE))
    cache.publish()
    return cache


@pytest.fixture
def train(cache, tmp_path, capsys):
    def train(out: str, *arguments: object, code: int = 0):
        given = [cache.uri, "--out", tmp_path / out, *arguments]
        assert train_example.main([str(a) for a in given]) == code
        captured = capsys.readouterr()
        return losses(captured.out) if code == 0 else captured.err

    return train


def losses(out: str) -> list[float]:
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["step"] for line in lines] == list(
        range(lines[0]["step"], lines[0]["step"] + len(lines))
    )
    return [line["loss"] for line in lines]


def test_the_loss_falls(cache, train, tmp_path, capsys):
    stats = tmp_path / "stats.json"
    assert maintain_cache.main(["stats", cache.uri, "--out", str(stats)]) == 0
    capsys.readouterr()
    found = train("a", "--normalize", stats, "--steps", 50)
    begin, end = sum(found[:10]) / 10, sum(found[-10:]) / 10
    assert 1.5 < begin < 3.5
    assert end < 0.8 * begin


def test_stop_and_resume(train):
    """Within an epoch, over its end, twice, and with other numbers of workers."""
    whole = train("whole", "--steps", 20)  # an epoch has 6 steps
    parts = [
        train("parts", "--steps", 4),
        train("parts", "--steps", 9, "--workers", 1),
        train("parts", "--steps", 18),
        train("parts", "--steps", 20),
    ]
    assert [len(part) for part in parts] == [4, 5, 9, 2]
    assert [loss for part in parts for loss in part] == whole
    assert train("other", "--steps", 3, "--seed", 1) != whole[:3]


def test_a_crash_goes_back_to_the_checkpoint(train, monkeypatch, capsys):
    whole = train("whole", "--steps", 8)
    calls = itertools.count(1)
    optimizer_step = torch.optim.AdamW.step

    def step(self):
        if next(calls) == 6:
            raise KeyboardInterrupt
        return optimizer_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(KeyboardInterrupt):
            train("crashed", "--steps", 8, "--save-every", 3)
    capsys.readouterr()
    assert train("crashed", "--steps", 8) == whole[3:]


def test_the_snapshot_of_the_checkpoint_stays(cache, train):
    whole = train("whole", "--steps", 8)
    begin = train("parts", "--steps", 3)
    cache.encode([(stable_hash("new"), 1)], buckets=(SMALL, WIDE))
    cache.publish()
    assert begin + train("parts", "--steps", 8) == whole


def test_mistakes(train):
    train("a", "--steps", 1)
    err = train("a", "--steps", 2, "--seed", 1, code=1)
    assert err.startswith("error: load_state_dict: the state is of another snapshot, seed")
    err = train("b", "--encoder-sha256", "cd", code=1)
    assert "encoder_sha256 is 'abab" in err


@pytest.mark.slow
def test_two_ranks(cache, tmp_path):
    """``torchrun`` with two processes over gloo: they train together, and resume exactly."""

    def run(out: str, steps: int) -> list[float]:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc-per-node", "2", "--local-addr", "127.0.0.1"),
                *(str(ROOT / "jobs" / "train_example.py"), cache.uri, "--out", str(tmp_path / out)),
                *("--batch-size", "2", "--steps", str(steps)),
            ],
            env=os.environ
            | {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
            cwd=ROOT,
        )
        return losses(done.stdout)

    whole = run("whole", 60)
    assert sum(whole[-10:]) < 0.95 * sum(whole[:10])
    assert run("parts", 7) + run("parts", 60) == whole
