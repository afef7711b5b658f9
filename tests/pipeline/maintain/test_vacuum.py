"""Vacuum: what retained snapshots need stays, everything else that is old enough goes."""

import os
import secrets
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.contract import ContractError
from pipeline.maintain import vacuum as module
from pipeline.maintain.tags import set_tag
from pipeline.maintain.vacuum import DEAD, DROPPED, ORPHAN, TEMPORARY, Keep, plan_vacuum, vacuum
from pipeline.manifest import Manifest
from tests.pipeline.helpers import SMALL, WIDE
from tests.pipeline.maintain.builder import (
    DAY,
    LAST,
    SEGMENT,
    Builder,
    check_readable,
    nothing,
)


@pytest.fixture
def cache(tmp_path: Path) -> Builder:
    return Builder(tmp_path / "cache")


def reasons(plan):
    return {file.path: reason for file, reason in plan.files}


def test_every_reason(cache):
    first = cache.encode([("a", 1), ("b", 1)])
    assert cache.publish() == 1
    second = cache.encode([("a", 2), ("b", 1)])
    cache.publish()
    third = cache.encode([("a", 3), ("b", 2)])  # supersedes an unpublished state at once
    cache.encode([("a", 4)])
    orphans = cache.encode([("c", 1)], commit=False)
    cache.publish()
    cache.age()
    (Path(cache.uri) / "data" / ".x.safetensors.0123456789ab.tmp").write_bytes(b"12345")
    (Path(cache.uri) / "data" / "notes.txt").write_text("keep me")
    cache.age(["data/.x.safetensors.0123456789ab.tmp", "data/notes.txt"])
    found = reasons(plan_vacuum(cache.manifest, LAST, DAY))
    shared = third  # holds the live windows of b beside the superseded ones of a
    assert found == {
        **dict.fromkeys(first, DROPPED),
        **dict.fromkeys(second, DROPPED),
        **dict.fromkeys(orphans, ORPHAN),
        "data/.x.safetensors.0123456789ab.tmp": TEMPORARY,
    }
    assert not shared & found.keys()
    # Without a rule all snapshots stay, and what they need.
    assert set(reasons(plan_vacuum(cache.manifest, Keep(), DAY)).values()) == {ORPHAN, TEMPORARY}
    done = vacuum(cache.manifest, LAST, DAY, nothing)
    assert reasons(done) == found
    assert [s.number for s in done.dropped] == [1, 2]
    assert cache.manifest.snapshot_numbers() == [3]
    assert (Path(cache.uri) / "data" / "notes.txt").exists()
    assert len(check_readable(cache.open())) == 6


def test_dead_rows_of_unpublished_generations(cache):
    dead = cache.encode([("a", 1)])
    cache.encode([("a", 2)])
    cache.publish()
    cache.age()
    assert reasons(plan_vacuum(cache.manifest, Keep(), DAY)) == dict.fromkeys(dead, DEAD)


def test_a_source_that_returns_after_vacuum_is_encoded_again(cache):
    """Rows of deleted shards go with them, or the plan would count on windows that are gone."""
    cache.encode([("a", 1), ("b", 1)])
    cache.publish()
    cache.remove("a")
    cache.encode([("b", 2)])
    cache.publish()
    cache.age()
    vacuum(cache.manifest, LAST, DAY, nothing)
    assert cache.encode([("a", 1), ("b", 1)])  # all is written again
    cache.publish()
    assert len(check_readable(cache.open())) == 6


def test_unfinished_work_stays(cache):
    cache.encode([("a", 1)])
    begun = cache.encode([("a", 2), ("b", 1)], stop=SEGMENT)
    cache.publish()
    cache.age()
    assert plan_vacuum(cache.manifest, LAST, DAY).files == []
    cache.encode([("a", 3)])  # abandons version 2
    cache.encode([("b", 1)])
    cache.publish()
    cache.age()
    vacuum(cache.manifest, LAST, DAY, nothing)
    assert begun <= cache.shards()  # for the windows of b
    assert len(check_readable(cache.open())) == 6


def test_grace(cache):
    orphans = cache.encode([("a", 1)], commit=False)
    cache.age(orphans, hours=23)
    plan = plan_vacuum(cache.manifest, Keep(), DAY)
    assert plan.files == []
    assert {file.path for file in plan.young} == orphans
    cache.age(orphans, hours=25)
    assert reasons(plan_vacuum(cache.manifest, Keep(), DAY)) == dict.fromkeys(orphans, ORPHAN)


def test_keep_rules(cache, monkeypatch):
    for version in range(1, 6):
        cache.encode([("a", version)])
        cache.publish()
    found = [cache.manifest.snapshot(n) for n in cache.manifest.snapshot_numbers()]
    ages = {1: 40.0, 2: 20.0, 3: 10.0, 4: 5.0, 5: 1.0}
    monkeypatch.setattr(module, "_age", lambda snapshot: ages[snapshot.number])

    def kept(keep, *tagged):
        stay, go = keep.split(found, tagged)
        assert sorted([*stay, *go], key=lambda s: s.number) == found
        return [s.number for s in stay]

    assert kept(Keep()) == [1, 2, 3, 4, 5]
    assert kept(Keep(snapshots=1)) == [5]
    assert kept(Keep(snapshots=2), 1) == [1, 4, 5]
    assert kept(Keep(snapshots=9)) == [1, 2, 3, 4, 5]
    assert kept(Keep(days=10)) == [3, 4, 5]
    assert kept(Keep(days=0)) == [5]  # the newest always stays
    assert kept(Keep(snapshots=1, days=5), 2) == [2, 4, 5]
    assert kept(Keep(snapshots=3, days=5)) == [3, 4, 5]


def test_a_tag_set_while_snapshots_are_dropped_saves_its_snapshot(cache, monkeypatch):
    cache.encode([("a", 1)])
    cache.publish()
    cache.encode([("a", 2)])
    cache.publish()
    cache.age()
    before = check_readable(cache.open(1))
    delete = type(cache.manifest.store).delete

    def tag_first(store, path):
        if path == "snapshots/1.json":
            set_tag(cache.manifest, "late", 1, force=False)
        delete(store, path)

    monkeypatch.setattr(type(cache.manifest.store), "delete", tag_first)
    done = vacuum(cache.manifest, LAST, DAY, nothing)
    assert done.dropped == []
    assert done.files == []
    assert check_readable(cache.open(1)) == before


def test_a_snapshot_of_another_format_stops_all(cache):
    cache.encode([("a", 1)])
    cache.publish()
    path = Path(cache.uri) / "snapshots" / "2.json"
    text = (Path(cache.uri) / "snapshots" / "1.json").read_text()
    path.write_text(text.replace('"format_version": 1', '"format_version": 2'))
    cache.encode([("a", 2)], commit=False)
    cache.age()
    files = cache.files()
    with pytest.raises(ContractError, match="format_version 2"):
        vacuum(cache.manifest, LAST, DAY, nothing)
    assert cache.files() == files


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("after", range(6))
def test_killed_at_any_step(cache, after):
    """Every snapshot that is left is readable, and the next vacuum finishes the work."""
    for version in (1, 2, 3):
        cache.encode([("a", version), ("b", 1)])
        cache.publish()
    cache.age()
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1
        if steps > after:
            raise Killed

    killed = False
    try:
        vacuum(cache.manifest, LAST, DAY, count)
    except Killed:
        killed = True
    assert killed == (after < 5)  # two snapshots, rows, their commit, shards
    for number in cache.manifest.snapshot_numbers():
        check_readable(cache.open(number))
    vacuum(cache.manifest, LAST, DAY, nothing)
    assert cache.manifest.snapshot_numbers() == [3]
    assert cache.shards() == set(cache.open().samples()["shard"].to_pylist())


# ---- any history, against a model

SOURCES = st.sampled_from("abc")
VERSIONS = st.integers(1, 3)
STEPS = st.one_of(
    st.tuples(st.just("encode"), SOURCES, VERSIONS),
    st.tuples(st.just("both"), SOURCES, VERSIONS),
    st.tuples(st.just("begin"), SOURCES, VERSIONS),
    st.tuples(st.just("orphan"), SOURCES, VERSIONS),
    st.tuples(st.just("remove"), SOURCES),
    st.tuples(st.just("publish")),
    st.tuples(st.just("publish")),
    st.tuples(st.just("tag"), st.integers(0, 9)),
)
KEEPS = st.builds(
    Keep,
    snapshots=st.none() | st.integers(1, 3),
    days=st.none() | st.sampled_from([0.0]) | st.just(10.0),
)


class Model:
    """What a history left, told without the code under test."""

    def __init__(self) -> None:
        self.live: dict[str, tuple[str, int]] = {}
        self.complete: set[tuple[str, int]] = set()
        self.rows: dict[tuple[str, int], set[str]] = {}
        self.after_verdict: dict[str, set[str]] = {}
        self.states: dict[int, dict[str, dict]] = {}
        self.tagged: set[int] = set()

    def needed_now(self) -> set[str]:
        live = set().union(*(self.rows[work] for work in self.live.values()))
        return live.union(*self.after_verdict.values())


def play(cache: Builder, steps) -> Model:
    model = Model()
    for step, *rest in steps:
        if step in ("encode", "both", "begin"):
            source, version = rest
            works = [(source, version)]
            if step == "both":
                works.append(("d", version))
            partial = step == "begin" and works[0] not in model.complete  # else it is live again
            shards = cache.encode(works, stop=SEGMENT if partial else None)
            for work in works:
                model.rows[work] = shards_with(cache, work)
                if partial and shards:
                    model.after_verdict.setdefault(work[0], set()).update(shards)
                elif not partial:
                    model.live[work[0]] = work
                    model.complete.add(work)
                    model.after_verdict.pop(work[0], None)
        elif step == "orphan":
            cache.encode([tuple(rest)], commit=False)
        elif step == "remove":
            if rest[0] in model.live:
                cache.remove(rest[0])
                model.live.pop(rest[0])
                model.after_verdict.pop(rest[0], None)
        elif step == "publish":
            number = cache.publish()
            model.states[number] = check_readable(cache.open(number))
        elif model.states:
            number = sorted(model.states)[rest[0] % len(model.states)]
            set_tag(cache.manifest, f"t{secrets.token_hex(4)}", number, force=False)
            model.tagged.add(number)
    return model


def shards_with(cache: Builder, work: tuple[str, int]) -> set[str]:
    rows = cache.manifest.read("samples", columns=["generation", "shard"]).to_pylist()
    return {row["shard"] for row in rows if row["generation"] == cache.generation(*work)}


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=3, max_size=9), KEEPS, st.sets(st.integers(0, 30)))
def test_any_history(steps, keep, fresh):
    with tempfile.TemporaryDirectory() as folder:
        cache = Builder(folder)
        model = play(cache, steps)
        cache.age()
        young = {p for n, p in enumerate(sorted(cache.shards())) if n in fresh}
        for path in young:
            os.utime(Path(folder) / path, (time.time(), time.time()))
        numbers = sorted(model.states)
        stay = set(numbers)
        if keep != Keep():
            stay = set(numbers[-max(1, keep.snapshots or 0) :]) | model.tagged
            stay |= set(numbers) if keep.days == 10 else set()
        needed = model.needed_now().union(
            *({row["shard"] for row in model.states[n].values()} for n in stay)
        )
        before = cache.files()
        planned = plan_vacuum(cache.manifest, keep, DAY)
        assert cache.files() == before  # nothing was touched
        assert planned.shards == cache.shards() - needed - young

        vacuum(cache.manifest, keep, DAY, nothing)
        assert cache.shards() == needed | young
        assert cache.manifest.snapshot_numbers() == sorted(stay & set(numbers))
        for number in stay & set(numbers):
            assert check_readable(cache.open(number)) == model.states[number]
        again = plan_vacuum(cache.manifest, keep, DAY)
        assert (again.files, again.dropped) == ([], [])

        # Whatever the next run brings back, nothing counts on windows that are gone.
        for version in (1, 2, 3):
            cache.encode([(source, version) for source in "abcd"])
            cache.publish()
            found = cache.open().samples()
            assert found.num_rows == 12
            assert set(found["shard"].to_pylist()) <= cache.shards()


def test_rows_are_dropped_for_several_buckets_and_images(cache):
    cache.encode([("a", 1)], buckets=[SMALL, WIDE])
    cache.encode([("i", 1)], frames=1)
    cache.publish()
    cache.encode([("a", 2)], buckets=[SMALL, WIDE])
    cache.encode([("i", 2)], frames=1)
    cache.publish()
    cache.age()
    done = vacuum(cache.manifest, LAST, DAY, nothing)
    assert len(done.shards) == 3
    assert Manifest(cache.manifest.store).read("samples").num_rows == 6
    assert len(check_readable(cache.open())) == 9
