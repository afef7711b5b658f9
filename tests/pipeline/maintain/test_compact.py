"""Compact: the same samples in fuller shards, and nothing that others append is lost."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from pipeline.buckets import Bucket
from pipeline.errors import UserError
from pipeline.maintain.compact import compact, plan_compaction
from pipeline.maintain.restore import restore
from pipeline.maintain.segments import window_bytes
from pipeline.maintain.vacuum import vacuum
from pipeline.manifest import now
from pipeline.shards import ShardError
from tests.pipeline.helpers import SMALL, WIDE, make_segment, sample_row
from tests.pipeline.maintain.builder import (
    CONTRACT,
    DAY,
    LAST,
    Builder,
    check_readable,
    nothing,
)

PLACE = ["shard", "row", "run_id", "committed_at"]
WINDOW = window_bytes(CONTRACT, SMALL.name, 17)


@pytest.fixture
def cache(tmp_path: Path) -> Builder:
    return Builder(tmp_path / "cache")


def small_shards(cache: Builder, sources: int = 8, **options) -> None:
    """Sources of 3 windows, two to a shard."""
    names = [f"s{n}" for n in range(sources)]
    random.Random(1).shuffle(names)
    for left, right in zip(names[::2], names[1::2], strict=True):
        cache.encode([(left, 1), (right, 1)], **options)
    cache.publish()


def but_place(rows):
    return {
        identity: {name: value for name, value in row.items() if name not in PLACE}
        for identity, row in rows.items()
    }


@pytest.mark.parametrize(("form", "frames"), [("safetensors", 17), ("parquet", 17), ("parquet", 1)])
def test_samples_stay_the_same(tmp_path, form, frames):
    cache = Builder(tmp_path / "cache", form)
    small_shards(cache, frames=frames, buckets=[SMALL, WIDE])
    old = cache.open()
    before = check_readable(old)
    table = cache.manifest.read("samples")
    files = cache.files()
    size = window_bytes(CONTRACT, SMALL.name, frames)
    assert window_bytes(CONTRACT, WIDE.name, frames) == 2 * size
    planned = plan_compaction(cache.manifest, 24 * size, 0.75)
    assert cache.files() == files  # a plan changes nothing

    done = compact(cache.manifest, 24 * size, 0.75, nothing)
    assert done.plan.merged == planned.merged
    assert done.published.number == 2
    new = cache.open()
    after = check_readable(new)
    assert but_place(after) == but_place(before)
    assert new.samples().num_rows == 48
    assert pc.count_distinct(new.samples()["shard"]).as_py() == done.plan.after.shards == 1 + 2
    assert {Path(s).suffix for s in new.samples()["shard"].to_pylist()} == {f".{form}"}

    # Segments are whole rows as before, and sorted within their shard.
    rows = cache.manifest.read("samples")
    assert rows.num_rows == table.num_rows
    place = ["shard", "first_row", "run_id", "committed_at"]
    keys = [("segment_id", "ascending")]
    assert rows.drop_columns(place).sort_by(keys) == table.drop_columns(place).sort_by(keys)
    for shard in rows["shard"].unique().to_pylist():
        held = rows.filter(pc.equal(rows["shard"], shard)).sort_by("first_row").to_pylist()
        order = [(r["source_id"], r["bucket"], r["first_window"]) for r in held]
        assert order == sorted(order)
        assert [r["first_row"] for r in held] == [
            sum(r["windows"] for r in held[:n]) for n in range(len(held))
        ]
        assert {r["run_id"].split("-")[0] for r in held} == {"compact"}

    # The old snapshot reads as before; what a run wrote was not touched.
    assert check_readable(cache.open(1)) == before
    assert {path: files[path] for path in files} == {p: cache.files()[p] for p in files}

    # Once more: nothing.
    files = cache.files()
    again = compact(cache.manifest, 24 * size, 0.75, nothing)
    assert (again.published, again.plan.merged) == (None, [])
    assert cache.files() == files

    # The next publication finds nothing new, and a vacuum takes the old shards.
    assert cache.publish() == 2
    cache.age()
    vacuum(cache.manifest, LAST, DAY, nothing)
    assert cache.shards() == set(new.samples()["shard"].to_pylist())
    assert check_readable(cache.open()) == after


def test_twenty_mixed_buckets(cache):
    rng = random.Random(7)
    buckets = [Bucket(16 * h, 16 * w) for h in range(2, 6) for w in range(2, 7)]
    assert len(buckets) == 20
    for run in range(8):
        works = {(f"r{run}n{n}", 1): rng.randint(1, 10) for n in range(5)}
        cache.encode(works, buckets=rng.sample(buckets, 10))
    cache.publish()
    before = cache.open().samples().drop_columns(PLACE)
    target = 20_000
    done = compact(cache.manifest, target, 0.5, nothing)
    assert done.plan.before.share < 0.5
    table = cache.open().samples()
    assert table.drop_columns(PLACE) == before
    by_shard: dict[str, int] = {}
    by_bucket: dict[str, int] = {}
    for bucket, shard in zip(*(table[n].to_pylist() for n in ("bucket", "shard")), strict=True):
        size = window_bytes(CONTRACT, bucket, 17)
        by_shard[shard] = by_shard.get(shard, 0) + size
        by_bucket[bucket] = by_bucket.get(bucket, 0) + size
    large = {bucket for bucket, size in by_bucket.items() if size >= target / 2}
    assert len(large) >= 15
    counted = {s: n for s, n in by_shard.items() if s.split("/")[1] in large}
    filled = sum(n for n in counted.values() if n >= target / 2)
    assert filled >= 0.95 * sum(counted.values())
    assert done.plan.after.filled == filled
    for shard, size in by_shard.items():
        assert (Path(cache.uri) / shard).stat().st_size > size


def test_what_is_not_live_stays_behind(cache):
    cache.encode([("a", 1), ("b", 1)])
    cache.publish()
    cache.encode([("a", 2)])
    cache.remove("b")
    cache.encode([("c", 1)])
    cache.publish()
    before = {row["segment_id"]: row for row in cache.manifest.read("samples").to_pylist()}
    live = set(cache.open().samples()["segment_id"].to_pylist())
    compact(cache.manifest, 100 * WINDOW, 0.5, nothing)
    after = {row["segment_id"]: row for row in cache.manifest.read("samples").to_pylist()}
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == live
    check_readable(cache.open(1))


def test_half_a_refresh_stays_hidden(cache):
    """Rows committed and not published are neither shown nor moved; a later publication is."""
    small_shards(cache)
    cache.encode([("s0", 2), ("new", 1)])
    cache.encode([("s1", 2)], stop=2)
    unpublished = [
        row for row in cache.manifest.read("samples").to_pylist() if row["run_id"] > "run-0004"
    ]
    before = but_place(check_readable(cache.open()))
    done = compact(cache.manifest, 100 * WINDOW, 0.5, nothing)
    assert done.published is not None
    assert but_place(check_readable(cache.open())) == before
    rows = cache.manifest.read("samples").to_pylist()
    assert all(row in rows for row in unpublished)
    assert compact(cache.manifest, 100 * WINDOW, 0.5, nothing).published is None
    cache.publish()
    shown = check_readable(cache.open())
    assert {row["source_id"] for row in shown.values()} == {*(f"s{n}" for n in range(8)), "new"}
    assert {r["generation"] for r in shown.values() if r["source_id"] == "s0"} == {
        cache.generation("s0", 2)
    }


def test_a_restored_state_stays_restored(cache):
    small_shards(cache)
    cache.encode([("s0", 2), ("new", 1)])
    cache.publish()
    before = but_place(check_readable(cache.open(1)))
    assert restore(cache.manifest, 1).number == 3
    assert check_readable(cache.open()) == check_readable(cache.open(1))
    with pytest.raises(UserError, match="snapshot 3, the newest, equals snapshot 1"):
        restore(cache.manifest, 1)
    compact(cache.manifest, 100 * WINDOW, 0.5, nothing)
    assert but_place(check_readable(cache.open())) == before
    cache.age()
    vacuum(cache.manifest, LAST, DAY, nothing)
    assert but_place(check_readable(cache.open())) == before
    cache.publish()  # the next refresh brings the dataset's state again
    assert "new" in cache.open().samples()["source_id"].to_pylist()
    check_readable(cache.open())


def test_a_segment_that_stands_twice_is_kept_once(cache):
    small_shards(cache, 4)
    before = cache.open().samples()
    twice = cache.manifest.read("samples").sort_by("shard").slice(0, 1)
    others = [cache.encode([("z", n)], commit=False).pop() for n in range(12)]
    other = max(others)  # the shard of the smaller name wins
    assert other > twice["shard"][0].as_py()
    column = pa.array([other], pa.string())
    moved = twice.set_column(twice.schema.get_field_index("shard"), "shard", column)
    cache.manifest.append("samples", pa.concat_tables([moved, twice]))  # and once more in place
    done = compact(cache.manifest, 100 * WINDOW, 0.5, nothing)
    assert len(done.plan.live.doubles) == 1
    assert cache.manifest.read("samples").num_rows == before["segment_id"].unique().__len__()
    assert cache.open().samples().drop_columns(PLACE) == before.drop_columns(PLACE)
    check_readable(cache.open())


def test_segments_that_overlap_in_part_stay(cache):
    small_shards(cache, 6)
    [(shard, generation)] = {
        (row["shard"], row["generation"])
        for row in cache.manifest.read("samples").to_pylist()
        if row["source_id"] == "s0"
    }
    held = next(
        row
        for row in cache.manifest.read("samples").to_pylist()
        if row["source_id"] == "s0" and row["first_window"] == 0
    )
    info = make_segment("s0", 1, 1, generation=generation, sample_ids=held["sample_ids"][1:])
    changes = {"shard": shard, "first_row": held["first_row"] + 1}
    row = sample_row(info, **changes, checksums=held["checksums"][1:], committed_at=now())
    cache.manifest.append("samples", [row])
    cache.publish()
    before = cache.open().samples()
    done = compact(cache.manifest, 100 * WINDOW, 0.5, nothing)
    assert done.plan.live.fixed == {shard}
    assert cache.open().samples().drop_columns(PLACE) == before.drop_columns(PLACE)
    here = pc.equal(before["shard"], shard)
    stayed = cache.open().samples().filter(here).drop_columns(["committed_at"])
    assert stayed == before.filter(here).drop_columns(["committed_at"])
    check_readable(cache.open())


# ---- others at work meanwhile


def during_the_commit(cache, monkeypatch, action):
    """Call ``action`` once, after the rows were read and before they are replaced."""
    commit = DeltaTable.create_write_transaction
    calls = []

    def later(table, *arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            action()
        commit(table, *arguments, **options)

    monkeypatch.setattr(DeltaTable, "create_write_transaction", later)
    return calls


def test_an_append_between_reading_and_replacing_is_not_lost(cache, monkeypatch):
    small_shards(cache)
    before = but_place(check_readable(cache.open()))
    calls = during_the_commit(cache, monkeypatch, lambda: cache.encode([("late", 1)]))
    compact(cache.manifest, 100 * WINDOW, 0.5, nothing)
    assert len(calls) == 2
    assert but_place(check_readable(cache.open())) == before
    rows = cache.manifest.read("samples")
    assert rows.num_rows == len(rows["segment_id"].unique())
    assert cache.publish() == 3
    assert len(check_readable(cache.open())) == len(before) + 3


def test_files_put_together_between_reading_and_replacing_bring_no_row_twice(cache, monkeypatch):
    """delta-rs alone accepts the stale replacement, and rows stand twice."""
    small_shards(cache)
    before = but_place(check_readable(cache.open()))
    table = cache.manifest.store.table_uri("samples")
    calls = during_the_commit(cache, monkeypatch, lambda: DeltaTable(table).optimize.compact())
    compact(cache.manifest, 100 * WINDOW, 0.5, nothing)
    assert len(calls) == 2
    rows = cache.manifest.read("samples")
    assert rows.num_rows == len(rows["segment_id"].unique())
    assert but_place(check_readable(cache.open())) == before


def test_a_commit_whose_answer_is_lost_is_not_repeated(cache, monkeypatch):
    small_shards(cache)
    commit = DeltaTable.create_write_transaction
    calls = []

    def losing(table, *arguments, **options):
        calls.append(1)
        commit(table, *arguments, **options)
        raise CommitFailedError("the answer was lost")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", losing)
    compact(cache.manifest, 100 * WINDOW, 0.5, nothing)
    assert len(calls) == 1
    rows = cache.manifest.read("samples")
    assert rows.num_rows == len(rows["segment_id"].unique())
    assert len(check_readable(cache.open())) == 24


def test_no_end_of_conflicts_is_told(cache, monkeypatch):
    small_shards(cache, 4)

    def never(*_arguments, **_options):
        raise CommitFailedError("another commit came first")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", never)
    with pytest.raises(UserError, match="stop the runs"):
        compact(cache.manifest, 100 * WINDOW, 0.5, nothing)
    assert cache.manifest.snapshot_numbers() == [1]
    check_readable(cache.open())


def test_a_publication_meanwhile_is_not_hidden(cache):
    small_shards(cache)

    def publish() -> None:
        cache.encode([("late", 1)])
        cache.publish()

    done = []

    def guard() -> None:
        if not done:
            done.append(1)
            publish()

    with pytest.raises(UserError, match="published snapshot 2 meanwhile"):
        compact(cache.manifest, 100 * WINDOW, 0.5, guard)
    assert len(check_readable(cache.open())) == 27
    compact(cache.manifest, 100 * WINDOW, 0.5, nothing)
    assert len(check_readable(cache.open())) == 27


def test_a_damaged_shard_changes_nothing(cache):
    small_shards(cache)
    shard = sorted(cache.shards())[0]
    path = Path(cache.uri) / shard
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    versions = {name: cache.manifest.version(name) for name in ("samples", "sources")}
    with pytest.raises(ShardError, match="not those that were written"):
        compact(cache.manifest, 100 * WINDOW, 0.5, nothing)
    path.write_bytes(bytes(data[:-100]))
    with pytest.raises(ShardError, match=shard.rsplit("/", 1)[-1]):
        compact(cache.manifest, 100 * WINDOW, 0.5, nothing)
    path.unlink()
    with pytest.raises(ShardError, match="missing"):
        compact(cache.manifest, 100 * WINDOW, 0.5, nothing)
    assert {name: cache.manifest.version(name) for name in versions} == versions
    assert cache.manifest.snapshot_numbers() == [1]


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("after", range(7))  # two shards, rows, two tables, snapshot
def test_killed_at_any_step(cache, after):
    for source in "dbca":
        cache.encode([(source, 1)])
    cache.publish()
    before = but_place(check_readable(cache.open()))
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1
        if steps > after:
            raise Killed

    with pytest.raises(Killed) if after < 6 else pytest.MonkeyPatch().context():
        compact(cache.manifest, 6 * WINDOW, 0.75, count)
    for number in cache.manifest.snapshot_numbers():
        assert but_place(check_readable(cache.open(number))) == before
    compact(cache.manifest, 6 * WINDOW, 0.75, nothing)
    assert pc.count_distinct(cache.open().samples()["shard"]).as_py() == 2
    cache.age()
    vacuum(cache.manifest, LAST, DAY, nothing)
    assert but_place(check_readable(cache.open())) == before
    assert len(cache.shards()) == 2
