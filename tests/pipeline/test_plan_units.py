"""Plans cut into units."""

from helpers import (
    make_facts,
    members,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_cases import BUCKETS, Dataset, Prober, clips


def test_clips_of_one_file_share_a_task(data):
    data.rows = [
        {"video": "/v/a.mp4", "start": 2.0, "id": "late"},
        {"video": "/v/b.mp4"},
        {"video": "/v/a.mp4", "end": 2.0, "id": "early"},
        {"video": "/v/a.mp4", "id": "whole"},
    ]
    plan = data.plan(windows__segment_windows=50)
    assert len(data.prober.asked) == 2  # one look at each file
    [unit] = plan.units
    assert [file.uri for file in unit.files] == ["/v/a.mp4", "/v/b.mp4"]
    starts = [clip.start for clip in unit.files[0].clips]
    assert sorted(starts, key=lambda s: s or 0.0) == starts
    assert len(starts) == 3


def test_clips_of_a_long_file_are_spread(data):
    data.prober = Prober(default=make_facts(frames=17 * 100, duration=68.0))
    data.rows = [{"video": "/v/a.mp4", "id": str(n), "start": n, "end": n + 17} for n in range(20)]
    plan = data.plan(run__task_windows=60)
    assert len(plan.units) > 1
    assert sorted(c.user for c in _users(plan)) == sorted(str(n) for n in range(20))
    for unit in plan.units:
        assert unit.windows <= 60


def test_little_work_is_spread_over_the_decode_tasks(data):
    data.rows = [{"video": f"/v/{n}.mp4"} for n in range(8)]
    plan = data.plan(run__decode_tasks=4, windows__segment_windows=1)
    assert len(plan.units) >= 4


def _users(plan):
    ids = {s.source_id: s.user_id for s in plan.sources.values()}
    return [type("User", (), {"user": ids[c.source_id]}) for c in clips(plan)]


def test_a_pinned_version_travels_with_the_file(data):
    path = data.folder / "a.mp4"
    path.write_bytes(b"x")
    data.rows = [{"video": str(path), "version": None}, {"video": "/v/b.mp4"}]
    plan = data.plan()
    pins = {file.uri: file.pinned_version for unit in plan.units for file in unit.files}
    version = next(s.version for s in plan.sources.values() if s.uri == str(path))
    assert pins == {str(path): version, "/v/b.mp4": None}
    assert (str(path), version) in data.prober.asked


@settings(max_examples=25)
@given(
    frames=st.lists(st.integers(0, 40 * 17), min_size=1, max_size=5),
    fps=st.sampled_from([None, 25]),
    task_windows=st.integers(1, 60),
    cap=st.integers(1, 20),
    choice=st.sampled_from(["nearest", "all"]),
    held=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4)), max_size=3),
)
def test_units_ask_for_every_missing_window_once(
    tmp_path_factory, frames, fps, task_windows, cap, choice, held
):
    data = Dataset(tmp_path_factory.mktemp("data"))
    data.rows = [{"video": f"/v/{n}.mp4"} for n in range(len(frames))]
    data.prober = Prober(
        {
            f"/v/{n}.mp4": make_facts(frames=count, duration=count / 25)
            for n, count in enumerate(frames)
        }
    )
    data.fields = {
        "windows__fps": fps,
        "run__task_windows": task_windows,
        "windows__segment_windows": cap,
        "buckets": BUCKETS[:2],
        "bucket_choice": choice,
    }
    first = next(iter(data.plan().sources.values()))
    for begin, count in held:
        for bucket in first.buckets:
            data.hold(first, begin, count, bucket)
    plan = data.plan()
    wanted = {s.source_id: s.coverage.missing(s.buckets) for s in plan.sources.values()}
    for source, missing in wanted.items():
        ranges = [span for clip in clips(plan) if clip.source_id == source for span in clip.ranges]
        windows = [n for span in ranges for n in members([span])]
        assert len(windows) == len(set(windows))
        assert set(windows) == members(missing)
        assert sum(stop is None for _, stop in ranges) == 1
    for unit in plan.units:
        for file in unit.files:
            keys = [clip.source_id for clip in file.clips]
            assert len(keys) == len(set(keys))  # a decoder knows a clip by its source
    if fps is not None:
        for clip in clips(plan):
            assert clip.windows <= max(cap, task_windows) * len(clip.buckets)
    assert list(data.plan().units) == list(plan.units)
