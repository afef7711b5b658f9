import pytest
from helpers import (
    SMALL,
    TALL,
    WIDE,
    make_facts,
    make_source,
    source_row,
)
from plan_cases import BUCKETS, Prober, clips, kinds, only

from pipeline.errors import Reason, SourceError
from pipeline.identity import source_id
from pipeline.plan import recalling
from pipeline.planned import PlannedSources
from pipeline.video.facts import Header

# ---- what is planned


def test_everything_of_a_new_cache_is_added(data):
    data.rows = [{"video": f"/v/{n}.mp4"} for n in range(3)]
    plan = data.plan()
    assert kinds(plan) == {"added": 3}
    assert plan.total == 3
    assert plan.removed.num_rows == 0
    assert {s.source_id for s in plan.sources.values()} == {
        source_id(f"/v/{n}.mp4", None, None) for n in range(3)
    }
    assert {c.source_id for c in clips(plan)} == set(plan.sources)
    assert all(c.ranges == ((0, None),) for c in clips(plan))
    assert sorted(data.prober.asked) == [(f"/v/{n}.mp4", None) for n in range(3)]
    assert plan.columns.num_rows == 3


def test_a_finished_source_is_reusable_and_not_opened(data):
    data.rows = [{"video": "/v/a.mp4"}, {"video": "/v/b.mp4"}]
    data.finish(data.plan())
    data.rows.append({"video": "/v/c.mp4"})
    prober = Prober()
    plan = data.plan(prober=prober)
    assert kinds(plan) == {"added": 1, "reusable": 2}
    assert plan.standing == {"ok": 2, "skipped": 0, "failed": 0}
    assert prober.asked == [("/v/c.mp4", None)]
    assert [c.source_id for c in clips(plan)] == [source_id("/v/c.mp4", None, None)]


def test_planning_changes_nothing(data):
    data.rows = [{"video": "/v/a.mp4"}]
    data.finish(data.plan())
    versions = {table: data.manifest.version(table) for table in ("samples", "sources", "captions")}
    data.rows.append({"video": "/v/b.mp4"})
    data.plan(overwrite=True)
    assert versions == {table: data.manifest.version(table) for table in versions}


def test_a_skipped_source_stays_skipped(data):
    data.rows = [{"video": "/v/a.mp4"}]
    data.finish(data.plan(), "skipped", reason="too_short")
    plan = data.plan()
    assert kinds(plan) == {"reusable": 1}
    assert plan.standing["skipped"] == 1
    assert not plan.units


def test_a_new_version_is_changed_and_probed_anew(data):
    data.rows = [{"video": "/v/a.mp4"}]
    first = data.plan()
    data.finish(first)
    data.rows = [{"video": "/v/a.mp4", "version": "v2"}]
    prober = Prober(default=make_facts(width=128))
    plan = data.plan(prober=prober)
    assert kinds(plan) == {"changed": 1}
    assert len(prober.asked) == 1
    source = only(plan)
    assert (source.revision, source.attempts, source.facts.width) == (2, 0, 128)
    assert source.generation != only(first).generation
    assert len(clips(plan)) == 1


@pytest.mark.parametrize(
    "fields",
    [{"windows__fps": 12}, {"windows__tail": "pad"}, {"resize__policy": "contain"}],
)
def test_another_recipe_is_changed_without_a_probe(data, fields):
    data.rows = [{"video": "/v/a.mp4"}]
    first = data.plan()
    data.finish(first)
    prober = Prober()
    plan = data.plan(prober=prober, **fields)
    assert kinds(plan) == {"changed": 1}
    assert prober.asked == []
    assert only(plan).facts == make_facts()
    assert only(plan).generation != only(first).generation


def test_what_changes_no_number_leaves_all_reusable(data):
    data.rows = [{"video": "/v/a.mp4"}]
    data.finish(data.plan())
    plan = data.plan(run__pack_bytes=10**6, windows__segment_windows=3, output__format="parquet")
    assert kinds(plan) == {"reusable": 1}


def test_timing_leaves_images_alone(data):
    data.rows = [{"video": "/v/a.png"}, {"video": "/v/b.mp4"}]
    data.prober = Prober({"/v/a.png": make_facts(is_image=True, frames=1, duration=None)})
    data.finish(data.plan())
    plan = data.plan(windows__fps=12)
    assert kinds(plan) == {"reusable": 1, "changed": 1}
    assert only(plan).uri == "/v/b.mp4"


def test_another_list_of_buckets_plans_what_it_reassigns(data):
    data.rows = [{"video": "/v/square.mp4"}, {"video": "/v/wide.mp4"}, {"video": "/v/tall.mp4"}]
    data.prober = Prober(
        {"/v/wide.mp4": make_facts(width=128), "/v/tall.mp4": make_facts(height=128)}
    )
    data.fields = {"buckets": BUCKETS[:1]}
    data.finish(data.plan())
    plan = data.plan(buckets=BUCKETS[:2])
    assert kinds(plan) == {"reusable": 2, "changed": 1}
    assert only(plan).uri == "/v/wide.mp4"
    assert only(plan).buckets == (WIDE,)


def test_all_buckets_of_a_source_are_decoded_in_one_task(data):
    data.rows = [{"video": "/v/a.mp4"}]
    plan = data.plan(buckets=BUCKETS, bucket_choice="all")
    [clip] = clips(plan)
    assert clip.buckets == (SMALL, WIDE, TALL)
    # 5 windows fit into 100 frames
    assert clip.windows == 15
    assert plan.windows == {SMALL: 5, WIDE: 5, TALL: 5}


# ---- failures


def failed_before(data, reason, attempts=1, **row):
    data.rows = [{"video": "/v/a.mp4", **row}]
    plan = data.plan()
    data.finish(plan, "failed", reason=str(reason), message="m")
    for _ in range(attempts - 1):
        data.finish(data.plan(retry_failed=True), "failed", reason=str(reason), message="m")


@pytest.mark.parametrize("reason", [r for r in Reason if r.transient])
def test_a_transient_failure_is_retried_some_times(data, reason):
    failed_before(data, reason)
    plan = data.plan(max_attempts=2)
    assert kinds(plan) == {"failed before": 1}
    source = only(plan)
    assert (source.attempts, source.revision) == (1, 2)
    data.finish(plan, "failed", reason=str(reason))
    plan = data.plan(max_attempts=2)
    assert kinds(plan) == {"failed before": 1}
    assert plan.sources == {}
    assert plan.standing["failed"] == 1
    assert only(data.plan(max_attempts=2, retry_failed=True)).attempts == 2


@pytest.mark.parametrize("reason", [r for r in Reason if not r.transient])
def test_a_lasting_failure_is_retried_on_demand(data, reason):
    failed_before(data, reason)
    assert data.plan().sources == {}
    assert len(clips(data.plan(retry_failed=True))) == 1
    assert len(clips(data.plan(overwrite=True))) == 1


def test_a_new_version_forgives_failures(data):
    failed_before(data, Reason.DECODE_ERROR, attempts=3)
    data.rows = [{"video": "/v/a.mp4", "version": "v2"}]
    plan = data.plan()
    assert kinds(plan) == {"changed": 1}
    assert only(plan).attempts == 0


def test_what_the_store_or_the_probe_refuses_is_planned_as_failed(data):
    data.rows = [
        {"video": "/v/a.mp4"},
        {"video": "/nowhere/b.mp4", "version": None},
        {"video": "/v/c.mp4"},
    ]
    error = SourceError(Reason.INVALID_DATA, "not a video")
    data.prober = Prober({"/v/c.mp4": error})
    plan = data.plan()
    by_uri = {source.uri: source for source in plan.sources.values()}
    assert by_uri["/v/a.mp4"].failure is None
    assert by_uri["/nowhere/b.mp4"].failure.reason is Reason.MISSING
    assert by_uri["/v/c.mp4"].failure is error
    assert [c.source_id for c in clips(plan)] == [source_id("/v/a.mp4", None, None)]
    assert sorted(uri for uri, _ in data.prober.asked) == ["/v/a.mp4", "/v/c.mp4"]


def test_a_source_that_comes_back_unchanged_is_taken_up_where_it_was(data):
    data.rows = [{"video": "/v/a.mp4"}]
    plan = data.plan()
    data.hold(only(plan), 0, 5, last=True, frames_actual=100)
    data.finish(plan)
    [row] = data.plan(overwrite=True).sources.values()
    data.manifest.append(
        "sources",
        [source_row(row.source_id, revision=2, version="", status="failed", reason="missing")],
    )
    again = data.plan()
    assert kinds(again) == {"changed": 1}
    assert only(again).generation == only(plan).generation
    assert only(again).revision == 3
    assert not again.units  # all of its windows are there


# ---- overwrite, removal, limits


def test_overwrite_encodes_everything_anew(data):
    data.rows = [{"video": "/v/a.mp4"}]
    first = data.plan()
    data.hold(only(first), 0, 5, last=True, frames_actual=100)
    data.finish(first)
    plan = data.plan(run_id="r2", overwrite=True)
    assert kinds(plan) == {"changed": 1}
    assert only(plan).generation != only(first).generation
    assert only(plan).recipe == only(first).recipe
    assert clips(plan)[0].ranges == ((0, None),)
    assert only(data.plan(run_id="r3", overwrite=True)).generation != only(plan).generation
    data.finish(plan)
    assert kinds(data.plan()) == {"reusable": 1}


def test_a_source_that_left_the_dataset_is_removed_once(data):
    data.rows = [{"video": "/v/a.mp4"}, {"video": "/v/b.mp4"}]
    data.finish(data.plan())
    data.rows = data.rows[:1]
    plan = data.plan()
    assert plan.removed["uri"].to_pylist() == ["/v/b.mp4"]
    assert kinds(plan) == {"reusable": 1}
    [row] = plan.removed.to_pylist()
    data.manifest.append("sources", [{**row, "revision": 2, "status": "removed"}])
    assert data.plan().removed.num_rows == 0


def test_a_source_that_returns_is_added(data):
    data.rows = [{"video": "/v/a.mp4"}]
    first = data.plan()
    data.finish(first)
    [row] = data.manifest.read("sources").to_pylist()
    data.manifest.append("sources", [{**row, "revision": 2, "status": "removed"}])
    plan = data.plan()
    assert kinds(plan) == {"added": 1}
    assert only(plan).revision == 3
    assert only(plan).generation == only(first).generation


def test_a_limit_removes_nothing(data):
    data.rows = [{"video": "/v/a.mp4"}, {"video": "/v/b.mp4"}]
    data.finish(data.plan())
    plan = data.plan(dataset__limit=1)
    assert plan.removed.num_rows == 0
    assert plan.total == 1


# ---- interrupted runs


def test_only_missing_windows_are_planned(data):
    data.rows = [{"video": "/v/a.mp4"}]
    source = only(data.plan())
    data.hold(source, 0, 2)
    data.hold(source, 3, 1)
    plan = data.plan()
    assert kinds(plan) == {"added": 1}
    [clip] = clips(plan)
    assert clip.ranges == ((2, 3), (4, None))
    assert clip.windows == 2
    data.hold(source, 4, 1, last=True, frames_actual=90)
    assert clips(data.plan())[0].ranges == ((2, 3),)
    data.hold(source, 2, 1)
    done = data.plan()
    assert not done.units
    assert only(done).coverage.complete([SMALL])
    assert only(done).coverage.frames_actual == 90


def test_windows_of_another_generation_do_not_count(data):
    data.rows = [{"video": "/v/a.mp4"}]
    data.hold(only(data.plan()), 0, 3)
    assert clips(data.plan(windows__fps=12))[0].ranges == ((0, None),)


def test_a_window_is_decoded_for_the_buckets_that_lack_it(data):
    data.rows = [{"video": "/v/a.mp4"}]
    data.fields = {"buckets": BUCKETS[:2], "bucket_choice": "all"}
    source = only(data.plan())
    data.hold(source, 0, 5, SMALL, last=True, frames_actual=85)
    data.hold(source, 0, 3, WIDE)
    [clip] = clips(data.plan())
    assert clip.ranges == ((3, 5),)
    assert clip.buckets == (WIDE,)


def test_a_second_plan_asks_for_what_the_first_has_not():
    facts = {n: make_facts(frames=n) for n in (20, 40, 60)}
    first = [
        make_source("a", uri="/1.mp4", facts=facts[20]),
        make_source("b", uri="/2.mp4", facts=None, failure=SourceError(Reason.MISSING, "gone")),
        make_source("c", uri="/3.mp4", facts=facts[40], pinned=False),
        make_source("d", uri="/3.mp4", facts=facts[60]),
        make_source("e", uri="/4.mp4", facts=Header(128, 64, 25.0, 60, 2.4)),
    ]
    prober = Prober(default=make_facts(frames=99))
    probe = recalling(PlannedSources.of(first).values(), prober)
    files = [("/0.mp4", "v1"), ("/1.mp4", "v1"), ("/2.mp4", "v1"), ("/3.mp4", None)]
    assert [answer.frames for answer in probe(files)] == [99, 20, 99, 99]
    assert prober.asked == [files[0], *files[2:]]
    more = [("/3.mp4", "v1"), ("/4.mp4", "v2"), ("/5.mp4", "v1")]
    assert [answer.frames for answer in probe(more)] == [60, 99, 99]
    assert [a.frames for a in recalling(first, prober)([("/4.mp4", "v1")])] == [60]
    assert prober.asked[3:] == more[1:]
