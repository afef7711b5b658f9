"""What a commit appends to the tables, and when."""

import pytest
from commit_cases import NEVER, Memory, committer, end, failure, segment, written
from helpers import (
    WIDE,
    make_manifest,
    make_segment,
    make_source,
    source_row,
)

from pipeline.commit import Committer
from pipeline.errors import Reason, SourceError, UserError
from pipeline.planned import PlannedSources
from pipeline.stages.write import Written


def test_segments_are_appended_before_ends():
    chosen = committer(make_source())
    chosen.add(written(end(), segment(windows=4)))
    chosen.commit()
    chosen.commit()
    assert [table for table, _ in chosen._manifest.appended] == ["samples", "sources"]
    [row] = chosen._manifest.rows("samples")
    assert row["run_id"] == "run"
    assert row["committed_at"] == chosen._manifest.rows("sources")[0]["committed_at"]


def test_segment_ids_tell_segments_apart():
    chosen = committer(make_source())
    segments = [
        segment(),
        segment(first=2),
        segment(windows=3),
        segment(bucket=WIDE),
        segment(generation="h"),
    ]
    chosen.add(written(*segments))
    chosen.commit()
    rows = chosen._manifest.rows("samples")
    assert len({row["segment_id"] for row in rows}) == 5


def test_a_failed_append_keeps_what_was_gathered():
    class Broken(Memory):
        def append(self, table, rows):
            if table == "samples" and not self.appended:
                self.appended.append(("tried", []))
                raise OSError("no network")
            super().append(table, rows)

    chosen = committer(make_source(), manifest=Broken())
    chosen.add(written(end(), segment(windows=4)))
    with pytest.raises(OSError, match="no network"):
        chosen.commit()
    chosen.commit()
    assert len(chosen._manifest.rows("samples")) == 1
    assert len(chosen._manifest.rows("sources")) == 1


def test_commits_come_in_time():
    eager, lazy = committer(make_source(), seconds=0), committer(make_source())
    for chosen in (eager, lazy):
        chosen.add(written(segment()))
    assert len(eager._manifest.rows("samples")) == 1
    assert lazy._manifest.rows("samples") == []


def test_the_tally():
    error = SourceError(Reason.MISSING, "gone")
    chosen = committer(
        *(make_source(name) for name in "abc"),
        make_source("d", failure=error),
        make_source("e", failure=error),
    )
    chosen.add(written(segment("a", windows=4), end("a"), shards={"x": 100, "y": 20}))
    chosen.add(written(segment("b"), failure("b"), end("c", windows=0), shards={"z": 3}))
    tally = chosen.tally
    assert (tally.windows, tally.shards, tally.bytes) == (6, 3, 123)
    assert tally.statuses == {"ok": 1, "failed": 3, "skipped": 1}
    assert tally.reasons == {
        "failed: missing": 2,
        "failed: decode_error": 1,
        "skipped: too_short": 1,
    }
    assert tally.examples["failed: missing"] == "/videos/d.mp4: gone"
    assert tally.firsts == {"ok": 1, "failed": 1, "skipped": 1}
    tally.forget_ends()
    assert (tally.statuses, tally.reasons, tally.firsts, tally.examples) == ({}, {}, {}, {})
    assert (tally.windows, tally.shards, tally.bytes) == (6, 3, 123)


def test_removed_sources_get_tombstones(tmp_path):
    manifest = make_manifest(tmp_path)
    rows = [source_row("a", revision=3), source_row("b", status="failed", reason="missing")]
    manifest.append("sources", rows)
    chosen = Committer(manifest, "r2", "contract", PlannedSources(), NEVER)
    chosen.bury(manifest.read("sources"))
    found = {
        (row["source_id"], row["revision"]): row for row in manifest.read("sources").to_pylist()
    }
    assert set(found) == {("a", 3), ("a", 4), ("b", 1), ("b", 2)}
    for before, key in zip(rows, [("a", 4), ("b", 2)], strict=True):
        changes = {"revision": key[1], "run_id": "r2", "status": "removed", "reason": None}
        del found[key]["committed_at"], before["committed_at"]
        assert found[key] == {**before, **changes}
    chosen.bury(manifest.read("sources").slice(0, 0))
    assert manifest.version("sources") == 1


def test_who_lost_its_lease_buries_nothing(tmp_path):
    def guard():
        raise UserError("another run took over")

    manifest = make_manifest(tmp_path)
    manifest.append("sources", [source_row("a")])
    chosen = Committer(manifest, "r2", "contract", PlannedSources(), NEVER, guard=guard)
    with pytest.raises(UserError, match="took over"):
        chosen.bury(manifest.read("sources"))
    assert manifest.version("sources") == 0


def test_rows_fit_the_tables(tmp_path):
    manifest = make_manifest(tmp_path)
    chosen = committer(make_source(start=0.5, end=2.0, user_id="x"), manifest=manifest)
    chosen.add(written(segment(windows=4, last=True, frames_actual=70), end()))
    chosen.commit()
    [row] = manifest.read("sources").to_pylist()
    assert (row["id"], row["start"], row["end"]) == ("x", 0.5, 2.0)
    [row] = manifest.read("samples").to_pylist()
    assert row["sample_ids"] == make_segment(windows=4).sample_ids
    assert all(value is not None for value in row.values())


def test_written_travels_as_text():
    result = written(segment(), end(), failure(), shards={"data/x": 3})
    found = Written.from_json(result.to_json())
    assert found == result
