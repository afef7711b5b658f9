"""A source decoded in segments equals the source decoded whole, bit for bit."""

from fractions import Fraction
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.buckets import Bucket
from pipeline.video import decode as decode_module
from tests.pipeline.video.decoding import SMALL, Outcome, Window, decode, recipe, request

SOUGHT = (
    "h264_open",
    "h264_open_mkv",
    "h264_open_ts",
    "hevc_open",
    "hevc_open_ts",
    "hevc10",
    "vp8",
    "vp9",
    "av1",
    "mpeg2_ts",
    "edit_list",
    "negative",
    "late",
    "late_ts",
    "joined_ts",
    "vfr",
    "vfr_mkv",
    "fragmented",
)
SEQUENTIAL = ("mpeg2_ps", "mpeg4_avi", "h264_avi", "mjpeg_avi")
MIXED = ("unstamped_part",)
RATES = (None, Fraction(25), Fraction(30000, 1001), Fraction(8))
LAST = 9

WHOLE: dict[tuple[Path, object], Outcome] = {}


def whole(path: Path, how) -> Outcome:
    """The source decoded from its start to its end in one go."""
    key = (path, how)
    if key not in WHOLE:
        WHOLE[key] = decode(path, request(targets=[(SMALL, 100)]), how)
    return WHOLE[key]


@cache
def boundaries() -> st.SearchStrategy[tuple[tuple[int, int | None], ...]]:
    """Ascending, disjoint ranges of windows; the last may be open."""

    def ranges(marks: list[int], is_open: bool) -> tuple[tuple[int, int | None], ...]:
        pairs: list[tuple[int, int | None]] = list(zip(marks[::2], marks[1::2], strict=False))
        if len(marks) % 2:
            pairs.append((marks[-1], None if is_open else marks[-1] + 2))
        return tuple(pairs)

    marks = st.lists(st.integers(0, LAST), min_size=1, max_size=5, unique=True).map(sorted)
    return st.builds(ranges, marks, st.booleans())


def wanted(windows: dict[int, Window], ranges) -> dict[int, Window]:
    return {
        number: window
        for number, window in windows.items()
        if any(first <= number and (stop is None or number < stop) for first, stop in ranges)
    }


def check(path: Path, data: st.DataObject) -> None:
    how = recipe(
        fps=data.draw(st.sampled_from(RATES), "fps"),
        stride=data.draw(st.sampled_from((17, 9, 23)), "stride"),
        tail=data.draw(st.sampled_from(("drop", "pad", "overlap")), "tail"),
    )
    ranges = data.draw(boundaries(), "ranges")
    length = data.draw(st.integers(1, 4), "windows per segment")
    complete = whole(path, how)
    assert not complete.failures
    with patch.object(decode_module, "SEEK_GAP_S", data.draw(st.sampled_from((0.0, 1.0, 4.0)))):
        part = decode(path, request(ranges=ranges, targets=[(SMALL, length)]), how)
    assert not part.failures
    assert part.windows() == wanted(complete.windows(), ranges)
    if ranges[-1][1] is None or part.ends:
        assert part.ends["clip"] == complete.ends["clip"]
    else:
        # Without an end, every window asked for must have come.
        assert len(part.windows()) == sum(stop - first for first, stop in ranges)


@pytest.mark.parametrize("name", SOUGHT + SEQUENTIAL + MIXED)
@given(data=st.data())
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_segmented_equals_whole(name: str, clip, data: st.DataObject) -> None:
    check(clip(name), data)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SOUGHT, *SEQUENTIAL, *MIXED, "bikes", "city"])
@given(data=st.data())
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_segmented_equals_whole_at_length(name: str, clip, data: st.DataObject) -> None:
    check(clip(name), data)


@pytest.mark.parametrize("fps", [None, Fraction(25)])
@pytest.mark.parametrize("name", SOUGHT + SEQUENTIAL)
def test_late_windows_are_sought_where_a_seek_is_exact(name: str, clip, fps) -> None:
    """The checks above would prove little if nothing was ever sought."""
    sources = []
    original = decode_module.FrameSource

    def remembered(*arguments):
        sources.append(original(*arguments))
        return sources[-1]

    with patch.object(decode_module, "FrameSource", remembered):
        outcome = decode(clip(name), request(ranges=((3, 4),)), recipe(fps))
    seeks = sources[0].seeks
    can = name in SOUGHT and not (name == "vp8" and fps is None)
    assert (seeks > 0) == (can and bool(outcome.windows()))


@pytest.mark.parametrize("fps", [None, 12])
def test_derived_timestamps_go_on_where_written_ones_end(fps, clip) -> None:
    """The same video with all timestamps, and without those of its second half."""
    how = recipe(fps, tail="pad")
    part, full = whole(clip("unstamped_part"), how), whole(clip("mpeg2_ts"), how)
    assert not part.failures
    assert part.windows() == full.windows()
    assert part.ends["clip"].frames == full.ends["clip"].frames


@pytest.mark.parametrize("name", ["h264_open", "hevc_open_ts", "vp9", "mpeg4_avi"])
@pytest.mark.parametrize("fps", [None, Fraction(12)])
def test_clips_decoded_together_equal_clips_decoded_alone(name: str, clip, fps) -> None:
    """Overlapping clips, far clips and two buckets of one file share one sweep."""
    other = Bucket(48, 32)
    both = ((SMALL, 2), (other, 3))
    asked = [
        request("all", targets=both),
        request("early", ranges=((0, 1),), end=1.7, targets=((other, 1),)),
        request("middle", ranges=((0, None),), start=0.53, end=1.91, targets=both),
        request("late", ranges=((0, 1), (1, None)), start=1.5),
    ]
    how = recipe(fps, tail="pad")
    with patch.object(decode_module, "SEEK_GAP_S", 0.1):
        together = decode(clip(name), asked, how)
    assert not together.failures
    for one in asked:
        alone = decode(clip(name), one, how)
        for bucket in (SMALL, other):
            assert together.windows(one.key, bucket) == alone.windows(one.key, bucket)
        assert together.ends.get(one.key) == alone.ends.get(one.key)
        assert alone.segments


def test_same_request_gives_the_same_segments(clip) -> None:
    """Not just the same windows: the same cuts in the same order."""
    asked = [request("a", ranges=((1, 3), (4, None))), request("b", start=1.0)]
    runs = [decode(clip("h264_open"), asked, recipe(25, tail="overlap")) for _ in range(2)]
    shapes = [
        [(s.key, s.first_window, s.frames.shape, s.last) for s in run.segments] for run in runs
    ]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) > 3


def test_windows_of_a_clip_do_not_depend_on_its_other_ranges(clip) -> None:
    """A window shows the same frames, whichever range it is asked in."""
    how = recipe(None, stride=5, tail="drop")
    complete = whole(clip("vfr"), how).windows()
    for first in (0, 3, 7, len(complete) - 1):
        part = decode(clip("vfr"), request(ranges=((first, first + 1),)), how)
        assert part.windows() == {first: complete[first]}
