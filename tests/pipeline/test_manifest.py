import json
import tempfile
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from helpers import EPOCH, make_contract, make_manifest, make_segment, sample_row, source_row
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.contract import FORMAT_VERSION, ContractError
from pipeline.errors import UserError
from pipeline.manifest import Snapshot
from pipeline.schema import TABLES

CONTRACT = make_contract()


@pytest.fixture
def manifest(tmp_path):
    return make_manifest(tmp_path / "cache")


def captions(*ids, **columns):
    count = len(ids)
    base = {
        "source_id": list(ids),
        "revision": pa.array([1] * count, pa.int64()),
        "digest": ["d"] * count,
        "caption": pa.array([f"of {i}" for i in ids], pa.string()),
    }
    return pa.table({**base, **columns})


# ---- tables


@pytest.mark.parametrize("table", list(TABLES))
def test_a_new_cache_has_empty_tables(manifest, table):
    assert manifest.version(table) is None
    found = manifest.read(table)
    assert found.num_rows == 0
    assert found.schema == TABLES[table]
    name = TABLES[table].names[0]
    assert manifest.read(table, columns=[name]).column_names == [name]
    assert not manifest.store.names("")  # reading makes nothing


def test_appends_add_up_and_versions_stay_readable(manifest):
    manifest.append("sources", [source_row("a")])
    manifest.append("sources", [source_row("b"), source_row("c")])
    assert manifest.version("sources") == 1
    assert sorted(manifest.read("sources")["source_id"].to_pylist()) == ["a", "b", "c"]
    assert manifest.read("sources", 0)["source_id"].to_pylist() == ["a"]


HOURS = st.lists(st.lists(st.integers(0, 23), min_size=1, max_size=3), max_size=4)


@settings(max_examples=15)
@given(HOURS)
def test_rows_in_descending_order_of_time_are_those_of_all_files(files):
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_manifest(Path(folder))
        for number, hours in enumerate(files):
            rows = [
                {"run_id": f"{number}-{k}", "at": EPOCH.replace(hour=hour, microsecond=999_999 - k)}
                for k, hour in enumerate(hours)
            ]
            manifest.append("runs", rows)
        found = list(manifest.descending("runs", ("run_id", "at"), by="at"))
        times = [row["at"] for row in found]
        assert times == sorted(times, reverse=True)
        assert sorted(row["run_id"] for row in found) == sorted(
            f"{number}-{k}" for number, hours in enumerate(files) for k in range(len(hours))
        )


def test_nothing_to_append_makes_no_version(manifest):
    manifest.append("sources", [])
    assert manifest.version("sources") is None
    manifest.append("sources", [source_row("a")])
    manifest.append("sources", [])
    manifest.append("sources", TABLES["sources"].empty_table())
    assert manifest.version("sources") == 0


def test_columns_and_filters(manifest):
    manifest.append("sources", [source_row(name, revision=n) for n, name in enumerate("abc")])
    found = manifest.read("sources", columns=["source_id"], where=pc.field("revision") > 0)
    assert found.column_names == ["source_id"]
    assert sorted(found["source_id"].to_pylist()) == ["b", "c"]


def test_rows_come_back_as_they_were(manifest):
    samples = [sample_row(make_segment("é", 3, 2, last=True, frames_actual=9))]
    sources = [source_row("a", start=0.1, end=None, buckets=["h16w16", "h32w32"])]
    manifest.append("samples", samples)
    manifest.append("sources", sources)
    assert manifest.read("samples").to_pylist() == samples
    assert manifest.read("sources").to_pylist() == sources


def test_the_log_is_kept(manifest):
    manifest.append("sources", [source_row("a")])
    log = manifest.store.read("sources/_delta_log/00000000000000000000.json").decode()
    settings = next(
        json.loads(line)["metaData"]["configuration"]
        for line in log.splitlines()
        if "metaData" in line
    )
    assert settings["delta.logRetentionDuration"] == "interval 3650 days"


# ---- captions


def test_user_columns_are_added_as_they_appear(manifest):
    manifest.append_columns("r1", captions("a", score=[1.5]))
    manifest.append_columns("r2", captions("b", tags=[["x", "y"]]))
    manifest.append_columns("r3", captions("c"))
    rows = {row["source_id"]: row for row in manifest.read("captions").to_pylist()}
    assert [rows[name]["score"] for name in "abc"] == [1.5, None, None]
    assert [rows[name]["tags"] for name in "abc"] == [None, ["x", "y"], None]
    assert [rows[name]["caption"] for name in "abc"] == ["of a", "of b", "of c"]
    assert [rows[name]["run_id"] for name in "abc"] == ["r1", "r2", "r3"]
    assert all(row["committed_at"] is not None for row in rows.values())
    assert manifest.read("captions", 0).column_names[-1] != "tags"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (pa.array([1.5]), pa.array([2])),
        (pa.array(["x"]), pa.array([7])),
        (pa.array([2]), pa.array([3], pa.int32())),
        (pa.array(["x"]), pa.array(["y"]).dictionary_encode()),
        (pa.array(["x"]), pa.array(["y"], pa.large_string())),
    ],
)
def test_a_type_that_fits_is_converted(manifest, before, after):
    manifest.append_columns("r1", captions("a", x=before))
    manifest.append_columns("r2", captions("b", x=after))
    found = {row["source_id"]: row["x"] for row in manifest.read("captions").to_pylist()}
    assert found == {"a": before[0].as_py(), "b": pc.cast(after, before.type)[0].as_py()}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (pa.array([1]), pa.array(["x"])),
        (pa.array([1]), pa.array([1.5])),
        (pa.array([["x"]]), pa.array(["x"])),
        (pa.array(["x"]), pa.array([["x"]])),
    ],
)
def test_a_type_that_does_not_fit_is_named(manifest, before, after):
    manifest.append_columns("r1", captions("a", score=before))
    with pytest.raises(UserError, match=r"column 'score' is .*rename the column, or convert"):
        manifest.append_columns("r2", captions("b", score=after))
    assert manifest.version("captions") == 0


def test_no_captions_make_no_version(manifest):
    manifest.append_columns("r1", captions())
    assert manifest.version("captions") is None


# ---- contract


def test_the_contract_at_the_root(manifest):
    assert manifest.contract() is None
    manifest.write_contract(CONTRACT)
    assert manifest.contract() == CONTRACT
    other = make_contract(dtype="float32")
    manifest.write_contract(other)
    assert manifest.contract() == other


def test_a_newer_cache_is_refused(manifest):
    manifest.write_contract(make_contract(format_version=FORMAT_VERSION + 1))
    with pytest.raises(ContractError, match=r"contract\.json: format_version 2"):
        manifest.contract()


# ---- snapshots


def test_snapshots_count_from_one_and_pin_versions(manifest):
    manifest.append("sources", [source_row("a")])
    one = manifest.publish("r1", CONTRACT)
    assert (one.number, one.run_id, one.tables) == (1, "r1", {"sources": 0})
    manifest.append("samples", [sample_row(make_segment("a"))])
    manifest.append("sources", [source_row("b")])
    two = manifest.publish("r2", CONTRACT)
    assert (two.number, two.tables) == (2, {"sources": 1, "samples": 0})
    assert manifest.snapshot_numbers() == [1, 2]
    assert manifest.snapshot() == two
    assert manifest.snapshot(1) == one


def test_a_pinned_version_does_not_see_later_appends(manifest):
    manifest.append("sources", [source_row("a")])
    one = manifest.publish("r1", CONTRACT)
    manifest.append("sources", [source_row("b")])
    pinned = manifest.read("sources", manifest.snapshot(one.number).tables["sources"])
    assert pinned["source_id"].to_pylist() == ["a"]


def test_nothing_new_is_not_published_again(manifest):
    manifest.append("sources", [source_row("a")])
    one = manifest.publish("r1", CONTRACT)
    manifest.append("runs", [{"run_id": "r2", "state": "finished", "at": EPOCH}])
    assert manifest.publish("r2", CONTRACT) == one
    assert manifest.snapshot_numbers() == [1]


@pytest.mark.parametrize("table", ["samples", "sources", "captions"])
def test_what_a_reader_sees_is_published(manifest, table):
    one = manifest.publish("r1", CONTRACT)
    if table == "captions":
        manifest.append_columns("r2", captions("a"))
    else:
        row = source_row("a") if table == "sources" else sample_row(make_segment("a"))
        manifest.append(table, [row])
    assert manifest.publish("r2", CONTRACT).number == one.number + 1


def test_another_contract_is_published(manifest):
    manifest.append("sources", [source_row("a")])
    manifest.publish("r1", CONTRACT)
    two = manifest.publish("r2", make_contract(dtype="float32"))
    assert two.number == 2
    assert manifest.snapshot().contract.dtype == "float32"
    assert manifest.snapshot(1).contract == CONTRACT


def test_a_snapshot_reads_back(manifest):
    manifest.append("sources", [source_row("a")])
    one = manifest.publish("r1", CONTRACT)
    assert Snapshot.from_json(one.to_json().encode(), "x") == one
    fields = json.loads(manifest.store.read("snapshots/1.json"))
    assert set(fields) == {
        "format_version",
        "snapshot",
        "run_id",
        "created_at",
        "contract",
        "tables",
    }
    assert fields["contract"] == json.loads(CONTRACT.to_json())


def test_a_snapshot_of_a_newer_format_is_refused(manifest):
    newer = make_contract(format_version=FORMAT_VERSION + 1)
    snapshot = Snapshot(1, "r", "t", newer, {"sources": 0})
    manifest.store.create("snapshots/1.json", snapshot.to_json().encode())
    with pytest.raises(ContractError, match=r"snapshots/1\.json: format_version 2"):
        manifest.snapshot()


def test_snapshots_that_are_not_there(manifest):
    with pytest.raises(UserError, match="no snapshot is published here"):
        manifest.snapshot()
    manifest.append("sources", [source_row("a")])
    manifest.publish("r", CONTRACT)
    with pytest.raises(UserError, match=r"no snapshot 7; there are 1$"):
        manifest.snapshot(7)
    for number in (2, 3, 6, 8, 9):
        manifest.store.write(f"snapshots/{number}.json", b"{}")
    with pytest.raises(UserError, match=r"no snapshot 7; there are 1 to 3, 6, 8 to 9$"):
        manifest.snapshot(7)


def test_other_files_beside_the_snapshots_are_ignored(manifest):
    for name in ("notes.txt", "latest.json", ".3.json.abc.tmp"):
        manifest.store.write(f"snapshots/{name}", b"")
    manifest.append("sources", [source_row("a")])
    assert manifest.publish("r", CONTRACT).number == 1


def test_publishers_at_once_never_share_a_number(manifest):
    """Each publishes a contract of its own, so each has something new and none gives up."""
    manifest.append("sources", [source_row("a")])
    start = threading.Barrier(6)
    published = {}

    def publish(seed):
        mine = make_manifest(manifest.store.uri)
        start.wait()
        published[seed] = mine.publish(f"r{seed}", make_contract(z_channels=seed))

    threads = [threading.Thread(target=publish, args=(seed,)) for seed in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(snapshot.number for snapshot in published.values()) == [1, 2, 3, 4, 5, 6]
    for seed, snapshot in published.items():
        assert manifest.snapshot(snapshot.number) == snapshot
        assert snapshot.contract.z_channels == seed


@pytest.mark.parametrize("step", ["versions", "snapshot_numbers"])
def test_an_older_state_is_never_published_over_a_newer_one(manifest, monkeypatch, step):
    """Another run appends and publishes right before one of the steps of a publication."""
    manifest.append("sources", [source_row("a")])
    other = make_manifest(manifest.store.uri)
    plain = getattr(manifest, step)

    def overtaken():
        if not other.snapshot_numbers():
            other.append("sources", [source_row("b")])
            other.publish("other", CONTRACT)
        return plain()

    monkeypatch.setattr(manifest, step, overtaken)
    manifest.publish("r", CONTRACT)
    assert manifest.snapshot().tables == {"sources": 1}


def test_who_may_not_go_on_writes_nothing(manifest):
    class StoppedError(Exception):
        pass

    def guard():
        raise StoppedError

    manifest.append("sources", [source_row("a")])
    for write in (
        lambda: manifest.write_contract(CONTRACT, guard),
        lambda: manifest.append_columns("r", captions("a"), guard),
        lambda: manifest.publish("r", CONTRACT, guard),
    ):
        with pytest.raises(StoppedError):
            write()
    assert manifest.contract() is None
    assert manifest.version("captions") is None
    assert manifest.snapshot_numbers() == []


def test_publishers_of_the_same_state_share_one_snapshot(manifest):
    manifest.append("sources", [source_row("a")])
    start = threading.Barrier(4)
    numbers = []

    def publish(run):
        mine = make_manifest(manifest.store.uri)
        start.wait()
        numbers.append(mine.publish(run, CONTRACT).number)

    threads = [threading.Thread(target=publish, args=(f"r{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers == [1, 1, 1, 1]
    assert manifest.snapshot_numbers() == [1]
