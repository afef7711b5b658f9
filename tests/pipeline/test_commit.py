from dataclasses import replace
from itertools import pairwise

import pytest
from helpers import (
    SMALL,
    WIDE,
    make_facts,
    make_manifest,
    make_segment,
    make_source,
    members,
    sample_row,
    source_row,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.commit import Committer
from pipeline.coverage import Coverage, committed_coverage
from pipeline.errors import Reason, SourceError, UserError
from pipeline.packs import Event, facts_to_json
from pipeline.stages.write import Written

NEVER = 1e9
FACTS = facts_to_json(make_facts(codec="vp9"))


class Memory:
    """Stands for the manifest: remembers what was appended, in order."""

    def __init__(self):
        self.appended = []

    def append(self, table, rows):
        if rows:
            self.appended.append((table, list(rows)))

    def rows(self, table):
        return [row for name, rows in self.appended if name == table for row in rows]


def committer(*plans, manifest=None, seconds=NEVER):
    sources = {plan.source_id: plan for plan in plans}
    return Committer(manifest or Memory(), "run", "contract", sources, seconds)


def segment(source="s", first=0, windows=2, bucket=SMALL, **changes):
    """A segment as the write stage reports it: its row but for what the committer adds."""
    row = sample_row(make_segment(source, first, windows, bucket, **changes))
    for name in ("segment_id", "run_id", "committed_at"):
        del row[name]
    return row


def end(source="s", windows=4, frames=70, generation=None):
    return Event("end", source, generation or f"{source}-g", windows, frames, FACTS)


def failure(source="s", reason=Reason.DECODE_ERROR, message="broken", generation=None):
    event = Event("failed", source, generation or f"{source}-g")
    return replace(event, reason=str(reason), message=message)


def written(*parts, shards=None):
    return Written(
        shards or {},
        [part for part in parts if isinstance(part, dict)],
        [part for part in parts if isinstance(part, Event)],
    )


def ends(chosen):
    """Rows of ``sources`` that the committer appends now, by source."""
    chosen.commit()
    rows = chosen._manifest.rows("sources")
    assert len({row["source_id"] for row in rows}) == len(rows)  # each ends once
    return {row["source_id"]: row for row in rows}


def windows_of(rows):
    return members((row["first_window"], row["first_window"] + row["windows"]) for row in rows)


# ---- when a source ends


def test_a_source_is_ok_when_all_windows_up_to_the_end_are_held():
    chosen = committer(make_source(attempts=1, revision=7))
    chosen.add(written(segment(first=0, windows=2)))
    chosen.add(written(end(windows=4)))
    assert ends(chosen) == {}
    chosen.add(written(segment(first=2, windows=2, last=True, frames_actual=70)))
    row = ends(chosen)["s"]
    committed = row.pop("committed_at")
    assert committed.tzinfo is not None
    assert row == {
        "source_id": "s",
        "revision": 7,
        "run_id": "run",
        "id": None,
        "uri": "/videos/s.mp4",
        "start": None,
        "end": None,
        "version": "v1",
        "recipe": "r",
        "window_recipe": "w",
        "generation": "s-g",
        "contract_id": "contract",
        "status": "ok",
        "reason": None,
        "message": None,
        "attempts": 2,
        "frames_actual": 70,
        "windows": 4,
        "buckets": ["h32w32"],
        "width": 64,
        "height": 64,
        "is_image": False,
        "facts": FACTS,
    }


def test_the_end_must_be_known():
    chosen = committer(make_source())
    chosen.add(written(segment(windows=4)))
    assert ends(chosen) == {}


def test_every_bucket_must_be_held():
    chosen = committer(make_source(buckets=(SMALL, WIDE)))
    chosen.add(written(end(), segment(windows=4)))
    chosen.add(written(segment(windows=3, bucket=WIDE)))
    assert ends(chosen) == {}
    chosen.add(written(segment(first=3, windows=1, bucket=WIDE)))
    assert ends(chosen)["s"]["status"] == "ok"


def test_a_source_without_a_window_is_skipped():
    chosen = committer(make_source())
    chosen.add(written(end(windows=0, frames=9)))
    row = ends(chosen)["s"]
    assert (row["status"], row["reason"]) == ("skipped", "too_short")
    assert (row["frames_actual"], row["windows"]) == (9, None)
    assert "9 frames" in row["message"]
    assert "windows.tail" in row["message"]


def test_a_failure_ends_a_source_with_its_reason():
    chosen = committer(make_source("a"), make_source("b"))
    chosen.add(written(segment("a"), failure("a"), segment("b", windows=4), end("b")))
    rows = ends(chosen)
    assert rows["b"]["status"] == "ok"
    assert (rows["a"]["status"], rows["a"]["reason"]) == ("failed", "decode_error")
    assert rows["a"]["message"] == "broken"
    assert rows["a"]["windows"] is None
    assert rows["a"]["facts"] == facts_to_json(make_facts())  # what the plan knew


def test_what_comes_after_the_end_changes_nothing():
    chosen = committer(make_source())
    chosen.add(written(failure()))
    chosen.add(written(segment(windows=4), end(), failure(message="again")))
    assert ends(chosen)["s"]["message"] == "broken"
    assert chosen.tally.statuses == {"failed": 1}


def test_kept_windows_are_held_and_not_counted_as_encoded():
    chosen = committer(make_source())
    chosen.add(written(end(), segment(first=2, windows=2)))
    assert ends(chosen) == {}
    kept = segment(first=0, windows=2, sample_ids=["a", "b"])
    chosen.add(replace(written(), kept=[kept]))
    assert ends(chosen)["s"]["status"] == "ok"
    assert windows_of(chosen._manifest.rows("samples")) == {0, 1, 2, 3}
    assert (chosen.tally.windows, chosen.tally.kept, chosen.tally.shards) == (2, 2, 0)


def test_another_generation_does_not_count():
    chosen = committer(make_source())
    chosen.add(written(end(generation="old"), failure(generation="old")))
    chosen.add(written(segment(windows=4, generation="old"), end()))
    assert ends(chosen) == {}
    chosen.add(written(segment(windows=4)))
    assert ends(chosen)["s"]["status"] == "ok"


def test_results_of_unknown_sources_are_stored_and_end_nothing():
    chosen = committer(make_source())
    chosen.add(written(segment("other", windows=4), end("other"), failure("third")))
    assert ends(chosen) == {}
    assert [row["source_id"] for row in chosen._manifest.rows("samples")] == ["other"]


def test_what_the_plan_refused_fails_at_once():
    error = SourceError(Reason.MISSING, "/videos/s.mp4 does not exist")
    chosen = committer(make_source(failure=error, facts=None))
    row = ends(chosen)["s"]
    assert (row["status"], row["reason"]) == ("failed", "missing")
    assert row["message"] == "/videos/s.mp4 does not exist"
    assert row["facts"] is None


def test_a_resumed_source_needs_the_rest_only():
    chosen = committer(make_source(coverage=Coverage({SMALL: ((0, 2), (3, 4))}, 4, 70)))
    assert ends(chosen) == {}
    chosen.add(written(segment(first=2, windows=1)))
    row = ends(chosen)["s"]
    assert (row["status"], row["windows"], row["frames_actual"]) == ("ok", 4, 70)
    assert row["facts"] == facts_to_json(make_facts())


def test_a_source_whose_windows_are_all_there_is_ok_at_once():
    chosen = committer(make_source(coverage=Coverage({SMALL: ((0, 4),)}, 4, 70)))
    assert ends(chosen)["s"]["status"] == "ok"
    assert chosen.tally.windows == 0


def test_giving_up_fails_what_is_open():
    chosen = committer(make_source("a"), make_source("b"), make_source("c"))
    chosen.add(written(end("a"), segment("a", windows=4), segment("b"), end("b")))
    chosen.give_up()
    rows = ends(chosen)
    assert rows["a"]["status"] == "ok"
    for name in "bc":
        assert (rows[name]["status"], rows[name]["reason"]) == ("failed", "incomplete")
        assert "run again" in rows[name]["message"]


# ---- in any order


def story(boundaries, buckets, kind, last_known):
    """Results of one source of some windows, in pieces, and the row that they add up to."""
    windows = boundaries[-1]
    parts = []
    for bucket in buckets:
        for first, stop in pairwise(boundaries):
            parts.append(written(segment(first=first, windows=stop - first, bucket=bucket)))
    parts += [written(end(windows=windows))] * last_known  # several tasks may meet the end
    if kind == "lost":
        parts = parts[1:]
    if kind == "failed":
        parts[0] = written(failure())
    return parts


@given(
    data=st.data(),
    cuts=st.sets(st.integers(1, 20), min_size=1, max_size=5),
    buckets=st.sampled_from([(SMALL,), (SMALL, WIDE)]),
    kind=st.sampled_from(["ok", "lost", "failed"]),
    met=st.integers(1, 3),
)
def test_the_order_of_results_does_not_matter(data, cuts, buckets, kind, met):
    parts = story([0, *sorted(cuts)], buckets, kind, met)
    order = data.draw(st.permutations(parts))
    split = data.draw(st.integers(0, len(order)))
    rows = []
    for sequence in (parts, order):
        chosen = committer(make_source(buckets=buckets))
        for number, part in enumerate(sequence):
            if number == split:
                chosen.commit()
            chosen.add(part)
        chosen.give_up()
        row = ends(chosen)["s"]
        del row["committed_at"]
        # a failure may come before or after the end of the data was met
        if kind == "failed":
            row.update(frames_actual=None, facts=None)
        rows.append(row)
    assert rows[0] == rows[1]
    assert rows[0]["status"] == ("ok" if kind == "ok" else "failed")
    assert rows[0]["reason"] == {"ok": None, "lost": "incomplete", "failed": "decode_error"}[kind]


@settings(max_examples=15)
@given(cuts=st.sets(st.integers(1, 12), min_size=1, max_size=4), data=st.data())
def test_a_killed_run_resumes_from_what_it_committed(tmp_path_factory, cuts, data):
    boundaries = [0, *sorted(cuts)]
    parts = story(boundaries, (SMALL,), "ok", 1)[:-1]
    final = parts[-1].segments[0]
    final.update(last=True, frames_actual=99)
    order = data.draw(st.permutations(parts))
    done = data.draw(st.integers(0, len(order)))
    manifest = make_manifest(tmp_path_factory.mktemp("cache"))
    first = committer(make_source(), manifest=manifest)
    for part in order[:done]:
        first.add(part)
    first.commit()  # and the rest is lost
    coverage = committed_coverage(manifest, ["s-g"]).get("s-g", Coverage())
    second = committer(make_source(coverage=coverage), manifest=manifest)
    missing = coverage.missing([SMALL])
    for part in order[done:]:
        [row] = part.segments
        assert windows_of([row]) <= members(missing)
        second.add(part)
    if coverage.windows is None:
        second.add(written(end(windows=boundaries[-1], frames=99)))
    second.commit()
    [source] = manifest.read("sources").to_pylist()
    assert (source["status"], source["windows"]) == ("ok", boundaries[-1])
    assert source["frames_actual"] == 99
    rows = manifest.read("samples").to_pylist()
    held = sorted(
        n for r in rows for n in range(r["first_window"], r["first_window"] + r["windows"])
    )
    assert held == list(range(boundaries[-1]))
    assert len({r["segment_id"] for r in rows}) == len(rows)


# ---- what is appended


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


def test_removed_sources_get_tombstones(tmp_path):
    manifest = make_manifest(tmp_path)
    rows = [source_row("a", revision=3), source_row("b", status="failed", reason="missing")]
    manifest.append("sources", rows)
    chosen = Committer(manifest, "r2", "contract", {}, NEVER)
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
    chosen = Committer(manifest, "r2", "contract", {}, NEVER, guard=guard)
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
