import signal
from dataclasses import replace
from itertools import pairwise

import pytest
from commit_cases import (
    FACTS,
    committer,
    end,
    ends,
    failure,
    segment,
    windows_of,
    written,
)
from helpers import (
    SMALL,
    WIDE,
    make_facts,
    make_manifest,
    make_source,
    members,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import commit
from pipeline.coverage import Coverage, committed_coverage
from pipeline.errors import Reason, SourceError
from pipeline.manifest import Manifest
from pipeline.packs import facts_to_json

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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_amid_a_commit_doubles_nothing(tmp_path, monkeypatch, number):
    chosen = committer(make_source(), manifest=make_manifest(tmp_path))
    append, stopped = Manifest.append, []

    def append_and_stop(manifest, *args):
        append(manifest, *args)
        if not stopped:
            stopped.append(number)
            signal.raise_signal(number)

    def stop(_number, _frame):
        raise InterruptedError

    monkeypatch.setattr(Manifest, "append", append_and_stop)
    before = signal.signal(number, stop)
    try:
        chosen.add(written(segment(windows=4)))
        with pytest.raises(InterruptedError):
            chosen.commit()
        chosen.commit()
    finally:
        signal.signal(number, before)
    assert stopped == [number]
    assert make_manifest(tmp_path).read("samples")["windows"].to_pylist() == [4]


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


def test_many_ends_are_committed_some_at_a_time(monkeypatch):
    monkeypatch.setattr(commit, "_ENDS", 2)
    plans = [make_source(f"s{n}") for n in range(5)]
    chosen = committer(*plans)
    chosen.give_up()
    assert [len(rows) for _, rows in chosen._manifest.appended] == [2, 2]
    assert len(ends(chosen)) == 5


def test_nothing_is_kept_of_sources_that_ended_or_were_not_heard_of():
    chosen = committer(*(make_source(f"s{n}") for n in range(5)))
    chosen.add(written(segment("s1", 0, 2), segment("s2", 0, 4), segment("another", 0, 2)))
    chosen.add(written(end("s2"), end("s3", generation="an earlier one")))
    assert list(chosen._open) == ["s1"]
    chosen.add(written(segment("s2", 0, 4)))
    assert list(chosen._open) == ["s1"]
    chosen.give_up()
    assert {name: row["status"] for name, row in ends(chosen).items()} == {
        "s2": "ok",
        **dict.fromkeys(("s0", "s1", "s3", "s4"), "failed"),
    }
