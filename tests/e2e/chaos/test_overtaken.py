"""Clocks that differ, drivers that stall, leases that are lost: nothing twice, nothing missing."""

import os
import signal

import pytest

from tests.e2e.chaos.support import COUNTS
from tests.e2e.support import ROOT, environment, run_job
from tests.faults import Rule
from tests.stand_in import FOLDER

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.ray]

JOB = r"encode_dataset\.py"


def _skewed(seconds: int, **extra: str) -> dict[str, str]:
    """The environment of a process whose clock is so many seconds fast."""
    path = os.pathsep.join([FOLDER, str(ROOT)])
    return environment(PYTHONPATH=path, STAND_IN_CLOCK=str(seconds), **extra)


@pytest.mark.parametrize(
    ("slow", "quick", "at"),
    [(0, 120, "between commits"), (-120, 0, "between commits"), (0, 120, "in a commit")],
)
def test_a_driver_that_stalls_is_overtaken(place, nodes, whole, slow, quick, at):
    """By the clock of the second run, or by its own, its leases have ended. It stalls before a
    commit, or in one: its rows come when the other run has committed the same windows.
    """
    second = []

    def overtake() -> None:
        run.process.send_signal(signal.SIGSTOP)
        second.append(run_job(place.config_file(run__runner="local"), env=_skewed(quick)))
        run.process.send_signal(signal.SIGCONT)

    with place.started(_skewed(slow, RAY_ADDRESS=nodes.address)) as run:
        if at == "between commits":
            run.wait_for(lambda: len(place.proxy.of("/samples/_delta_log/", "PUT")) >= 3)
            overtake()
        else:
            log = "/samples/_delta_log/"
            rule = Rule("call", "PUT", log, skip=3, times=1, sender=JOB, action=overtake)
            place.proxy.add(rule)
        assert run.wait() == 1, run.said
    assert [done.code for done in second] == [0], second[0].stderr
    assert second[0].report["sources"] == COUNTS
    assert "another run took over range" in run.said
    assert "Traceback" not in run.said
    place.assert_whole(whole)
    third = place.run()
    assert third.code == 0, third.stderr
    assert third.report["windows"] == 0
    assert third.report["sources"] == COUNTS
    place.assert_whole(whole)


@pytest.mark.parametrize("fast", [600, -600])
def test_a_run_goes_on_where_one_with_a_wrong_clock_was_killed(place, nodes, whole, fast):
    rule = Rule("reset", "PUT", "/sources/_delta_log/", skip=1, times=1, sender=JOB, kill=True)
    place.proxy.add(rule)
    with place.started(_skewed(fast, RAY_ADDRESS=nodes.address)) as run:
        assert run.wait() == -signal.SIGKILL, run.said
    assert place.committed_windows() > 0
    place.resume(None, whole)
