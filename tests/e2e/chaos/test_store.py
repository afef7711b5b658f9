"""The store refuses writes: for 30 s, and the run goes on; for good, and it ends with a message."""

import threading

import pytest

from tests.e2e.support import environment
from tests.faults import Rule

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.ray]

OUTAGE = 30.0
WRITES = "PUT|POST|DELETE"


def test_writes_refused_for_30_seconds(place, nodes, whole):
    """Shards, tables and leases alike; each request is repeated, for a minute at the most."""
    proxy = place.proxy
    rule = Rule("status", WRITES, place.key, status=503)
    with place.started(environment(RAY_ADDRESS=nodes.address)) as run:
        run.wait_for(lambda: proxy.of("/samples/_delta_log/", "PUT"))
        proxy.add(rule)
        ended = threading.Timer(OUTAGE, lambda: setattr(rule, "times", 0))
        ended.start()
        assert run.wait() == 0, run.said
        assert not ended.is_alive(), "the run ended before the outage"
    refused = [r.began for r in proxy.requests if r.fault == "status"]
    assert max(refused) - min(refused) > OUTAGE / 2
    assert len({r.key.split("/")[-2] for r in proxy.requests if r.fault == "status"}) > 1
    place.assert_whole(whole)
    place.assert_no_segment_twice()


@pytest.mark.parametrize(
    ("what", "key", "cells"),
    [
        ("everything", "", 1),
        ("shards", "/data/", 1),
        ("samples", "/samples/", 1),
        ("snapshots", "/snapshots/", 1),
        ("index", "/index/", 1),
        ("leases", "/leases/", 1),
        ("everything, in cells", "", 2),
    ],
)
def test_writes_refused_for_good(place, nodes, whole, what, key, cells):
    """The run ends with one message that names the cache; the next one goes on from there."""
    early = {"leases": 0, "shards": 4, "samples": 6}
    rule = Rule("status", WRITES, f"{place.key}.*{key}", skip=early.get(what, 0), status=503)
    impatient = {"run__cells": cells, "run__encoders": cells, "storage__retry_seconds": 2}
    with place.started(environment(RAY_ADDRESS=nodes.address), **impatient) as run:
        if what.startswith("everything"):
            run.wait_for(lambda: place.proxy.of("/sources/_delta_log/", "PUT"))
        place.proxy.add(rule)
        assert run.wait() == 1, run.said
    assert rule.hits > 1
    assert "Traceback" not in run.said, run.said
    [message] = [line for line in run.said.splitlines() if line.startswith("error: ")]
    assert run.said.endswith(f"{message}\n"), run.said
    assert place.output in message
    assert "cannot be written" in message
    place.proxy.clear()
    place.resume(None, whole)
