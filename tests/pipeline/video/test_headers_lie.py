"""Completion follows the data: what a header claims changes no window."""

import pytest

from pipeline.video.probe import probe
from tests.pipeline.video.decoding import LIMITS, SMALL, decode, expected_windows, recipe, request

CLAIMS = {
    "lie_minus_1": (59, 60),
    "lie_plus_1": (61, 60),
    "lie_minus_17": (43, 60),
    "lie_plus_17": (77, 60),
    "lie_times_10": (600, 60),
    "lie_absent": (None, 60),
    "lie_mkv_times_10": (1000, 100),
    "lie_mkv_tenth": (10, 100),
    "lie_mkv_absent": (None, 100),
    "lie_mp4_times_10": (100, 100),
    "lie_mp4_tenth": (100, 100),
}


def truth(name: str) -> str:
    """The clip of which the bytes of ``name`` were made."""
    if "mkv" in name:
        return "h264_open_mkv"
    return "h264_open" if "mp4" in name else "mpeg4_avi"


@pytest.mark.parametrize("tail", ["drop", "pad", "overlap"])
@pytest.mark.parametrize("name", CLAIMS)
def test_windows_are_those_of_the_data(name: str, tail: str, clip) -> None:
    claimed, frames = CLAIMS[name]
    with clip(name).open("rb") as file:
        assert probe(file, LIMITS).estimated_frames(None, None, None) == claimed
    how = recipe(tail=tail)
    outcome = decode(clip(name), request(), how)
    assert not outcome.failures
    assert outcome.ends["clip"].frames == frames
    assert outcome.ends["clip"].windows == len(expected_windows(frames, 17, tail))
    honest = decode(clip(truth(name)), request(), how).windows()
    assert {n: w.frames for n, w in outcome.windows().items()} == {
        n: w.frames for n, w in honest.items()
    }


@pytest.mark.parametrize("name", CLAIMS)
def test_ranges_past_the_end_are_empty_and_tell_the_exact_figures(name: str, clip) -> None:
    frames = CLAIMS[name][1]
    outcome = decode(clip(name), request(ranges=((40, 52), (70, None))), recipe(tail="pad"))
    assert not outcome.segments
    assert outcome.ends["clip"].frames == frames


@pytest.mark.parametrize("first", [0, 2, 3, 5, 6])
def test_an_open_range_goes_on_as_long_as_the_data(first: int, clip) -> None:
    outcome = decode(clip("lie_mkv_tenth"), request(ranges=((first, None),)), recipe(tail="pad"))
    assert sorted(outcome.windows()) == list(range(first, 6))
    assert outcome.ends["clip"].windows == 6


def test_a_finite_range_that_the_data_fill_claims_no_end(clip) -> None:
    outcome = decode(clip("h264_open"), request(ranges=((0, 2),)), recipe(tail="pad"))
    assert sorted(outcome.windows()) == [0, 1]
    assert not outcome.ends


def test_the_range_that_owns_the_partial_window_applies_the_tail_policy(clip) -> None:
    """100 frames: five full windows, and number 5 is the partial one."""
    for tail, valid in (("pad", 15), ("overlap", 17)):
        owner = decode(clip("h264_open"), request(ranges=((5, 6),)), recipe(tail=tail))
        assert {n: w.valid for n, w in owner.windows().items()} == {5: valid}
        other = decode(clip("h264_open"), request(ranges=((4, 5), (6, 9))), recipe(tail=tail))
        assert sorted(other.windows()) == [4]
        assert other.ends["clip"].windows == 6
    assert owner.segments[-1].last
    assert owner.segments[-1].pts[0].tolist() == [512 * i for i in range(83, 100)]


def test_min_frames_holds_windows_back_until_the_source_is_long_enough(clip) -> None:
    for least, count in ((100, 5), (101, 0)):
        for ranges in (((0, None),), ((0, 1), (1, None)), ((0, 1),)):
            outcome = decode(
                clip("h264_open"),
                request(ranges=ranges, targets=[(SMALL, 1)]),
                recipe(min_frames=least),
            )
            wanted = count if ranges[-1][1] is None else min(count, 1)
            assert len(outcome.windows()) == wanted
            if least > 100:
                assert outcome.ends["clip"].frames == 100
                assert outcome.ends["clip"].windows == 0


@pytest.mark.parametrize(
    ("name", "frames", "counts"),
    [
        ("short", 11, {"drop": 0, "pad": 1, "overlap": 0}),
        ("single", 1, {"drop": 0, "pad": 1, "overlap": 0}),
        ("seventeen", 17, {"drop": 1, "pad": 1, "overlap": 1}),
    ],
)
def test_sources_shorter_than_a_window(name: str, frames: int, counts, clip) -> None:
    for tail, count in counts.items():
        outcome = decode(clip(name), request(), recipe(tail=tail))
        assert outcome.ends["clip"].frames == frames
        assert outcome.ends["clip"].windows == count == len(outcome.windows())


def test_clip_ends_cut_the_timeline_half_open(clip) -> None:
    """At 25 fps, one second from 0.4 s holds frames 10 to 34."""
    for fps in (None, 25):
        asked = request(start=0.4, end=1.4, targets=[(SMALL, 9)])
        outcome = decode(clip("h264_open"), asked, recipe(fps, tail="pad"))
        assert outcome.ends["clip"].frames == 25
        segment = outcome.segments[0]
        assert segment.valid_frames.tolist() == [17, 8]
        assert (segment.pts[0] // 512).tolist() == list(range(10, 27))
        assert (segment.pts[1] // 512).tolist() == [*range(27, 35), *[34] * 9]
        assert segment.last


def test_segments_are_cut_by_their_number_in_the_range(clip) -> None:
    outcome = decode(clip("h264_long"), request(ranges=((1, 6), (8, None))), recipe())
    cuts = [(s.first_window, len(s.frames)) for s in outcome.segments]
    assert cuts == [(1, 2), (3, 2), (5, 1), (8, 2), (10, 2), (12, 2)]
    assert repr(outcome.segments[0]).startswith("Segment('clip', h32w48, windows 1..2, frames")
