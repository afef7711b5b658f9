"""SIGTERM: what is done is committed within 3 s, the exit code is 143, and the next run resumes."""

import time

import pytest

from tests.e2e.support import environment

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.ray]

SECONDS = 3.0


@pytest.mark.parametrize("cells", [1, 2])
def test_sigterm(place, nodes, whole, cells):
    proxy = place.proxy
    never = {"run__commit_seconds": 1000, "run__cells": cells, "run__encoders": cells}
    with place.started(environment(RAY_ADDRESS=nodes.address), **never) as run:
        run.wait_for(lambda: len(proxy.of("/data/", "PUT")) >= 6)
        assert place.committed_windows() == 0
        stopped = time.monotonic()
        run.process.terminate()
        assert run.wait() == 143, run.said
    commits = [r.began - stopped for r in proxy.of("/(samples|sources)/_delta_log/", "PUT")]
    print(f"the last commit was {max(commits):.2f} s after the signal")
    assert max(commits) < SECONDS, f"commits {commits} s after the signal"
    assert "Traceback" not in run.said
    assert '"snapshot": null' in run.said
    assert 0 < place.committed_windows() < whole.samples().num_rows
    place.resume(None, whole)
