"""Workers killed in the middle of a task, and a node with everything on it: the run goes on."""

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.encode import Encoded
from pipeline.job import EXIT_DONE, JobOptions, run_job
from pipeline.stages.encode import EncodesWindows, make_vae_encoder
from tests.e2e.chaos.support import COUNTS
from tests.faults import Rule

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.slow]


@dataclass
class Dying:
    """An encoder that is killed in its third call, once for all replicas."""

    encode: EncodesWindows
    marker: Path
    calls: int = 0

    def __call__(self, frames, sample_ids, /) -> Encoded:
        self.calls += 1
        encoded = self.encode(frames, sample_ids)
        if self.calls == 3 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return encoded


@dataclass(frozen=True)
class MakeDying:
    marker: Path

    def __call__(self, config, recipe, /) -> Dying:
        return Dying(make_vae_encoder(config, recipe), self.marker)


def _report(capsys) -> dict:
    return json.loads(capsys.readouterr().out.rstrip().rsplit("\n", 1)[-1])


@pytest.mark.parametrize("who", ["all", "decoder", "encoder", "writer", "late"])
def test_workers_killed_in_the_middle_of_a_task(place, joined, whole, tmp_path, capsys, who):
    """The decoder while it reads, the encoder with latents not handed on, the writer before it put
    its shard; ``late``: when it had, and could not tell.
    """
    proxy, rules = place.proxy, []
    if who in ("all", "decoder"):
        key = f"{place.dataset.removeprefix('s3://')}/.*mp4"
        rules.append(proxy.add(Rule("reset", "GET", key, times=1, sender="ray::", kill=True)))
    if who in ("all", "writer"):
        rules.append(proxy.add(Rule("reset", "PUT", "/data/", skip=1, times=1, kill=True)))
    if who in ("all", "late"):
        rules.append(proxy.add(Rule("lost_answer", "PUT", "/data/", skip=4, times=1, kill=True)))
    marker = tmp_path / "encoder-died"
    make = MakeDying(marker) if who in ("all", "encoder") else make_vae_encoder
    assert run_job(place.config(run__encoders=2), JobOptions(), make) == EXIT_DONE
    assert [rule.hits for rule in rules] == [1] * len(rules)
    assert marker.exists() == (who in ("all", "encoder"))
    report = _report(capsys)
    assert report["sources"] == COUNTS
    assert report["windows"] == whole.samples().num_rows
    place.assert_whole(whole)


def test_a_node_removed_while_it_works(place, joined, whole, capsys):
    """Frames and latents in its memory are gone, and so is its encoder; the other one goes on."""
    rule = Rule("call", "PUT", "/data/", skip=3, times=1, action=joined.remove)
    place.proxy.add(rule)
    try:
        assert run_job(place.config(run__encoders=2), JobOptions()) == EXIT_DONE
    finally:
        joined.add()
    assert rule.hits == 1
    assert _report(capsys)["sources"] == COUNTS
    place.assert_whole(whole)
