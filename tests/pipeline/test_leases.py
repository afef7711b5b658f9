import datetime
import json
import threading
import time

import pytest
from helpers import make_store

from pipeline.errors import UserError
from pipeline.leases import LeaseLostError, Leases, range_of
from pipeline.manifest import now
from pipeline.storage import Store


def told(name, holder):
    raise AssertionError(f"range {name} is held by {holder}")


def leases_on(store, name):
    """Without those that are being written."""
    return [n for n in store.names(f"leases/{name}") if not n.startswith(".")]


def newest(store, name):
    [found] = leases_on(store, name)
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
        ({"process": 2**22 + 1, "boot": "another"}, False),
        ({"process": 2**22 + 1, "namespace": 1}, False),  # of a container with this name
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


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_is_held_is_renewed_while_the_rest_is_waited_for(tmp_path):
    store = make_store(tmp_path)
    with Leases(store, "waits", seconds=0.6) as waits:
        with Leases(store, "first") as first:
            first.take({"b"}, told)
            thread = threading.Thread(target=waits.take, args=({"a", "b"}, lambda *_: None))
            thread.start()
            wait_until(lambda: leases_on(store, "a"))
            begun = newest(store, "a")["expires"]
            wait_until(lambda: newest(store, "a")["expires"] > begun)
        thread.join()
        waits.check()
        assert waits.held == {"a", "b"}


def test_a_failed_renewal_is_told_and_the_next_one_comes(tmp_path, monkeypatch, caplog):
    store = make_store(tmp_path)
    write, failed = Store.write, []

    def once_refused(self, path, data):
        if path.startswith("leases/a/") and not failed:
            failed.append(path)
            raise PermissionError("no more")
        write(self, path, data)

    monkeypatch.setattr(Store, "write", once_refused)
    with Leases(store, "one", seconds=0.6) as leases:
        leases.take({"a", "b"}, told)
        begun = {name: newest(store, name)["expires"] for name in "ab"}
        wait_until(lambda: failed)
        wait_until(lambda: newest(store, "b")["expires"] > begun["b"])
        wait_until(lambda: newest(store, "a")["expires"] > begun["a"])
    warning = "the lease on range a of the sources could not be renewed: PermissionError: no more"
    assert caplog.messages == [warning]


def test_further_ranges_are_taken_in_order(tmp_path):
    """Held ones are given back: two runs that want each other's do not wait for ever."""
    store, both = make_store(tmp_path), threading.Barrier(2)
    ended = []

    def run(name, first, further):
        with Leases(store, name) as leases:
            leases.take({first}, told)
            both.wait()
            leases.take({further}, lambda *_: None)
            assert leases.held == {"a", "b"}
            leases.check()
        ended.append(name)

    threads = [
        threading.Thread(target=run, args=arguments, daemon=True)
        for arguments in (("one", "a", "b"), ("two", "b", "a"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(ended) == ["one", "two"]


def test_a_store_that_cannot_be_written(tmp_path):
    (tmp_path / "leases").write_text("in the way")
    with (
        pytest.raises(UserError, match=f"{tmp_path} cannot be written: .*check the path"),
        Leases(make_store(tmp_path), "one") as leases,
    ):
        leases.take({"a"}, told)


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
