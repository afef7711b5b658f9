"""Which source frame an output frame shows: exact, against trying one after the other."""

from fractions import Fraction
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.video.timeline import OwnTimeline, ResampledTimeline, seconds
from tests.pipeline.video.decoding import shown_frames

BASES = [Fraction(1, 1000), Fraction(1, 90_000), Fraction(1001, 30_000), Fraction(1, 25)]
RATES = [Fraction(24), Fraction(30_000, 1001), Fraction(7, 3), Fraction(60)]
stamps = st.builds(
    lambda first, steps: [first + sum(steps[:i]) for i in range(len(steps) + 1)],
    st.integers(-5000, 200_000),
    st.lists(st.integers(1, 30), min_size=0, max_size=12),
)
times = st.one_of(st.none(), st.integers(0, 300).map(lambda n: n / 100))


def follow(timeline, pts: list[int]) -> tuple[dict[int, int], int | None]:
    """Source frame of each output frame, and the total that the timeline came to."""
    shown: dict[int, int] = {}
    for index, (this, following) in enumerate(pairwise([*pts, None])):
        assert this is not None
        for output in timeline.shown(this, following):
            assert output not in shown
            shown[output] = index
        total = timeline.ended(this, following)
        if total is not None:
            return shown, total
    raise AssertionError("the end was not noticed")


@settings(deadline=None)
@given(stamps, st.sampled_from(BASES), st.sampled_from(RATES), times, times)
def test_resampled_frames(pts, base, fps, start, length) -> None:
    begin = seconds(start or 0.0)
    end = None if length is None else float(round((start or 0.0) + length + 0.01, 2))
    timeline = ResampledTimeline(pts[0], base, fps, start, end)
    shown, total = follow(timeline, pts)
    stop = None if end is None else seconds(end) - begin
    expected = shown_frames([p - pts[0] for p in pts], base, fps, begin, None)
    if stop is not None:
        expected = [frame for k, frame in enumerate(expected) if k / fps < stop]
    assert shown == dict(enumerate(expected))
    assert total == len(expected)


@settings(deadline=None)
@given(stamps, st.sampled_from(BASES), st.sampled_from(RATES), times, st.integers(0, 50))
def test_decoding_begins_in_time(pts, base, fps, start, index) -> None:
    """What is needed for an output frame is not past its time, and less than a tick before it."""
    timeline = ResampledTimeline(pts[0], base, fps, start, None)
    time = seconds(start or 0.0) + index / fps
    assert (timeline.needed(index) - pts[0]) * base <= time
    assert (timeline.needed(index) + 1 - pts[0]) * base > time


@settings(deadline=None)
@given(stamps, st.sampled_from(BASES), times, times, st.booleans())
def test_own_frames(pts, base, start, length, tabled: bool) -> None:
    end = None if length is None else float(round((start or 0.0) + length + 0.01, 2))
    timeline = OwnTimeline(pts[0], base, start, end, pts if tabled else None)
    shown, total = follow(timeline, pts)
    expected = [
        index
        for index, p in enumerate(pts)
        if (p - pts[0]) * base >= seconds(start or 0.0)
        and (end is None or (p - pts[0]) * base < seconds(end))
    ]
    assert shown == dict(enumerate(expected))
    assert total == len(expected)


@settings(deadline=None)
@given(stamps, times, st.integers(0, 40))
def test_a_table_tells_the_index_of_any_frame(pts, start, index) -> None:
    base = Fraction(1, 1000)
    timeline = OwnTimeline(pts[0], base, start, None, pts)
    chosen = [p for p in pts if (p - pts[0]) * base >= seconds(start or 0.0)]
    if index < len(chosen):
        assert timeline.needed(index) <= chosen[index]
        assert list(timeline.shown(chosen[index], None)) == [index]
        assert timeline.ended(chosen[index], None) == index + 1


def test_times_are_decimal() -> None:
    assert seconds(0.1) == Fraction(1, 10)
    assert seconds(3) == 3
    assert seconds(1e-5) == Fraction(1, 100_000)
