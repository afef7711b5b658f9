import datetime
import json
import threading

import pytest
from helpers import make_store

from pipeline.leases import LeaseLostError, Leases, range_of
from pipeline.manifest import now


def told(name, holder):
    raise AssertionError(f"range {name} is held by {holder}")


def newest(store, name):
    [found] = store.names(f"leases/{name}")
    return json.loads(store.read(f"leases/{name}/{found}"))


def test_a_range_is_taken_renewed_checked_and_released(tmp_path):
    store = make_store(tmp_path)
    with Leases(store, "one") as leases:
        leases.take({"b", "a"}, told)
        leases.check()
        assert newest(store, "a")["run_id"] == "one"
        assert not newest(store, "a")["released"]
    assert newest(store, "a")["released"]
    with Leases(store, "two") as leases:
        leases.take({"a"}, told)
        assert newest(store, "a")["token"] == 2
        assert newest(store, "b")["token"] == 1


def test_who_was_overtaken_may_not_commit(tmp_path):
    store = make_store(tmp_path)
    with Leases(store, "slow") as slow:
        slow.take({"a"}, told)
        lease = newest(store, "a")
        lease["expires"] = (now() - datetime.timedelta(seconds=1)).isoformat()
        store.write("leases/a/1.json", json.dumps(lease).encode())  # it stalled: not renewed
        with Leases(store, "quick") as quick:
            quick.take({"a"}, told)
            quick.check()
            with pytest.raises(LeaseLostError, match="another run took over range a"):
                slow.check()
    assert newest(store, "a")["released"]


@pytest.mark.parametrize(
    ("changes", "free"),
    [
        ({}, False),
        ({"released": True}, True),
        ({"process": 2**22 + 1}, True),  # beyond any process of this machine
        ({"process": 2**22 + 1, "host": "elsewhere"}, False),
        ({"expires": "2020-01-01T00:00:00+00:00", "host": "elsewhere"}, True),
    ],
)
def test_when_a_lease_is_free(tmp_path, changes, free):
    store = make_store(tmp_path)
    first = Leases(store, "first")
    first.take({"a"}, told)
    store.write("leases/a/1.json", json.dumps({**newest(store, "a"), **changes}).encode())
    waited = []

    class EnoughError(Exception):
        pass

    def notify(name, holder):
        waited.append(holder)
        raise EnoughError

    with Leases(store, "second") as second:
        if free:
            second.take({"a"}, notify)
        else:
            with pytest.raises(EnoughError):
                second.take({"a"}, notify)
    assert waited == ([] if free else ["first"])
    with first:
        pass


def test_of_many_runs_one_at_a_time_holds_a_range(tmp_path):
    store = make_store(tmp_path)
    inside, most = [], []

    def run(name):
        with Leases(store, name) as leases:
            leases.take({"a", "b"}, lambda *_: None)
            inside.append(name)
            most.append(len(inside))
            leases.check()
            inside.remove(name)

    threads = [threading.Thread(target=run, args=(f"run{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4


def test_a_source_has_one_range():
    assert range_of("0123") == "0"
    assert range_of("f" * 32) == "f"
