"""The main driver killed at chosen moments: the next run encodes what was not committed, no more.

A moment is a request to the store: the run is killed when the request leaves it (and the store
never hears of it), or when the store has done it and the answer is lost.
"""

import signal
from dataclasses import dataclass

import pytest

from pipeline import LatentCache
from tests.e2e.chaos.support import Nodes, Place
from tests.e2e.support import environment
from tests.faults import Rule

pytestmark = pytest.mark.chaos

JOB = r"encode_dataset\.py"


@dataclass(frozen=True)
class Moment:
    """The request at which the run is killed, and whether the store does what it asks."""

    key: str
    method: str = "PUT"
    done: bool = False
    skip: int = 0
    commits: bool = True
    """Whether the run has committed windows by then."""


MOMENTS = {
    "listing": Moment("^[^/]*/?$", "GET", commits=False),
    "probing": Moment(r"\.mp4$", "GET", commits=False),
    "taking a lease": Moment("/leases/", skip=1, commits=False),
    "contract written": Moment(r"contract\.json", done=True, commits=False),
    "start recorded": Moment("/runs/_delta_log/", done=True, commits=False),
    "first shard": Moment("/data/", commits=False),
    "shard written, not committed": Moment(r"/samples/part-.*parquet", commits=False),
    "rows of samples written, not committed": Moment("/samples/_delta_log/", commits=False),
    "samples committed, sources not": Moment("/sources/part-.*parquet"),
    "rows of sources written, not committed": Moment("/sources/_delta_log/"),
    "both tables committed": Moment("/sources/_delta_log/", done=True),
    "a later commit": Moment("/samples/_delta_log/", skip=5),
    "before the snapshot": Moment("/snapshots/"),
    "snapshot put, its index not": Moment(r"/snapshots/1\.json", done=True),
    "between the index's two files": Moment(r"/index/1\.sources", done=True),
    "end not recorded": Moment("/runs/part-.*parquet", skip=1),
}
BETWEEN = "samples committed, sources not"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("name", MOMENTS)
def test_the_driver_killed(place: Place, nodes: Nodes, whole: LatentCache, name: str):
    env = environment(RAY_ADDRESS=nodes.address)
    _kill(place, MOMENTS[name], env, a_worker_sends_it=name == "first shard")
    place.resume(nodes if name == BETWEEN else None, whole)


def test_the_local_runner_killed_between_the_commits_of_two_tables(place, whole):
    _kill(place, MOMENTS[BETWEEN], environment(), run__runner="local")
    place.resume(None, whole)


def _kill(
    place: Place, moment: Moment, env: dict[str, str], a_worker_sends_it=False, **changes
) -> None:
    settings = {"skip": moment.skip, "times": 1}
    if a_worker_sends_it:
        rule = Rule("call", moment.method, moment.key, **settings)
    else:
        kind = "lost_answer" if moment.done else "reset"
        rule = Rule(kind, moment.method, moment.key, **settings, sender=JOB, kill=True)
    place.proxy.add(rule)
    with place.started(env, **changes) as run:
        rule.action = run.process.kill
        assert run.wait() == -signal.SIGKILL, run.said
    assert rule.hits == 1
    assert (place.committed_windows() > 0) == moment.commits
