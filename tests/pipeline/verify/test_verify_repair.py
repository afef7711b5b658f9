"""Repair takes damaged segments out of the tables, and the reader's index follows."""

from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL, WIDE

from pipeline import LatentDataset
from pipeline.identity import stable_hash
from pipeline.live import newest_by_source
from pipeline.maintain.compact import plan_compaction
from pipeline.maintain.rewrite import replace_rows
from pipeline.reader.build import publish_index
from pipeline.verify.repair import repair
from pipeline.verify.run import Asked, Verification, verify
from tests.pipeline.maintain.builder import Builder, check_readable, nothing

A, B, C = (stable_hash(name) for name in "abc")


@pytest.fixture
def cache(tmp_path: Path) -> Builder:
    """Two sources of three windows at two buckets, in one shard each; and one unfinished."""
    cache = Builder(tmp_path / "cache")
    cache.encode([(A, 1), (B, 1)], buckets=(SMALL, WIDE))
    cache.publish()
    publish_index(cache.manifest, cache.manifest.snapshot())
    cache.encode([(C, 1)], stop=2)
    return cache


def look(cache: Builder) -> Verification:
    return verify(cache.manifest, Asked(), lambda _: None)


def mend(cache: Builder):
    return repair(cache.manifest, look(cache).findings, "repair-1", nothing)


def row_of(cache: Builder, source: str, bucket: str = "h32w32", first: int = 0) -> dict:
    [row] = [
        row
        for row in cache.manifest.read("samples").to_pylist()
        if (row["source_id"], row["bucket"], row["first_window"]) == (source, bucket, first)
    ]
    return row


def spoil(cache: Builder, row: dict) -> None:
    """Flip a bit of the second window of a segment."""
    needle = cache.open().read(row["sample_ids"][1])["mean"].numpy().tobytes()
    path = Path(cache.uri) / row["shard"]
    data = bytearray(path.read_bytes())
    data[data.index(needle) + 3] ^= 1
    path.write_bytes(data)


def newest(cache: Builder, source: str) -> dict:
    rows = newest_by_source(cache.manifest.read("sources")).to_pylist()
    [row] = [row for row in rows if row["source_id"] == source]
    return row


def test_a_damaged_segment_is_lost_and_only_that(cache):
    before = {s["sample_id"] for s in cache.open().samples().to_pylist()}
    bad = row_of(cache, A)
    spoil(cache, bad)
    done = mend(cache)
    assert (done.segments, done.windows, done.sources, done.left) == (1, 2, (A,), ())
    found = look(cache)
    assert found.sound, found.findings
    assert found.lost == [A]
    assert found.sources == {"ok": 1, "failed": 1}
    assert done.snapshot.number == 2
    seen = check_readable(cache.open())
    assert before - seen.keys() == set(bad["sample_ids"])
    told = newest(cache, A)
    assert (told["status"], told["reason"], told["attempts"]) == ("failed", "lost", 0)
    assert "2 windows were damaged" in told["message"]
    assert newest(cache, B)["status"] == "ok"
    # The next run encodes what is missing, and the old snapshot is as it was.
    again = cache.encode([(A, 1)], buckets=(SMALL, WIDE))
    assert len(again) == 1
    assert sum(cache.manifest.read("samples")["windows"].to_pylist()) == 14
    cache.publish()
    assert check_readable(cache.open()).keys() == before
    assert look(cache).sound
    assert look(cache).lost == []


def test_the_index_of_the_reader_follows(cache, tmp_path):
    bad = row_of(cache, A, "h32w64", 2)
    (Path(cache.uri) / bad["shard"]).unlink()
    done = mend(cache)
    assert done.segments == 4  # all of the shard
    dataset = LatentDataset(cache.uri, clip_frames=17, batch_size=1, local_dir=tmp_path / "local")
    assert dataset.snapshot.number == 2
    read = list(dataset.loader(num_workers=0))
    assert len(read) == 6
    assert {tuple(batch["latents"].shape[-2:]) for batch in read} == {(2, 2)}


def test_a_repair_that_was_killed_is_repeated(cache, monkeypatch):
    spoil(cache, row_of(cache, A))
    findings = look(cache).findings

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.verify.repair.replace_rows", killed)
        with pytest.raises(KeyboardInterrupt):
            repair(cache.manifest, findings, "repair-1", nothing)
    assert not look(cache).sound
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.verify.repair.publish_with_index", killed)
        with pytest.raises(KeyboardInterrupt):
            mend(cache)
    found = look(cache)
    assert {f.kind for f in found.findings} == {"checksum"}  # the published snapshot has it still
    mend(cache)
    assert look(cache).sound
    assert look(cache).lost == [A]


def test_what_another_run_put_right_is_left_alone(cache):
    row = row_of(cache, A)
    path = Path(cache.uri) / row["shard"]
    data = path.read_bytes()
    spoil(cache, row)
    findings = look(cache).findings
    path.write_bytes(data)
    before = cache.manifest.versions()
    done = repair(cache.manifest, findings, "repair-1", nothing)
    assert (done.segments, done.sources) == (0, ())
    assert cache.manifest.versions() == before


def test_windows_that_the_table_lost_are_encoded_again(cache):
    gone = row_of(cache, B)["segment_id"]
    replace_rows(
        cache.manifest.store,
        "samples",
        {row_of(cache, B)["shard"]},
        lambda: (
            lambda table: table.filter(
                np.array([s != gone for s in table["segment_id"].to_pylist()])
            )
        ),
        lambda: None,
    )
    assert [f.kind for f in look(cache).findings] == ["incomplete"]
    done = mend(cache)
    assert (done.segments, done.sources) == (0, (B,))
    assert look(cache).sound
    assert cache.encode([(B, 1)], buckets=(SMALL, WIDE))
    cache.publish()
    check_readable(cache.open())
    assert look(cache).sound
    assert look(cache).lost == []


def test_unfinished_segments_need_no_mark(cache):
    row = row_of(cache, C)
    (Path(cache.uri) / row["shard"]).unlink()
    done = mend(cache)
    assert (done.segments, done.sources) == (1, ())
    assert look(cache).sound


def test_rows_that_lead_outside_are_taken_out(cache):
    cache.manifest.append("samples", [row_of(cache, A) | {"shard": "../../etc/passwd"}])
    assert [f.kind for f in look(cache).findings] == ["misplaced"]
    done = mend(cache)
    assert done.segments == 1
    assert look(cache).sound


def test_rows_that_make_no_sense_are_told_as_left(cache):
    cache.manifest.append("samples", [row_of(cache, A) | {"sample_ids": ["0" * 32]}])
    done = mend(cache)
    assert [f.kind for f in done.left] == ["bad_row"]


def test_compaction_goes_on_with_what_is_left(cache):
    spoil(cache, row_of(cache, A))
    mend(cache)
    plan = plan_compaction(cache.manifest, 10**6, 0.5)
    assert plan.live.segments.num_rows == 7
