"""The arithmetic of windows, against a walk along the frames."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.windows import WINDOW_FRAMES, WindowGrid
from tests.pipeline.video.decoding import expected_windows

TAILS = ("drop", "pad", "overlap")
strides = st.integers(1, 60)
lengths = st.integers(0, 400)
tails = st.sampled_from(TAILS)


@settings(deadline=None)
@given(lengths, strides, tails)
def test_windows_are_those_of_a_walk_along_the_frames(frames: int, stride: int, tail) -> None:
    grid = WindowGrid(stride, tail)
    spans = [grid.span(index, frames) for index in range(grid.count(frames))]
    assert spans == expected_windows(frames, stride, tail)


@settings(deadline=None)
@given(lengths, strides, tails)
def test_windows_lie_within_the_source(frames: int, stride: int, tail) -> None:
    grid = WindowGrid(stride, tail)
    for index in range(grid.count(frames)):
        start, valid = grid.span(index, frames)
        assert start >= 0
        assert 1 <= valid <= WINDOW_FRAMES
        assert start + valid <= frames
        assert valid == WINDOW_FRAMES or (tail == "pad" and start + valid == frames)
        assert grid.first_frame_needed(index) <= start


@settings(deadline=None)
@given(lengths, st.integers(1, WINDOW_FRAMES), tails)
def test_pad_and_overlap_cover_every_frame(frames: int, stride: int, tail) -> None:
    grid = WindowGrid(stride, tail)
    shown = {
        start + offset
        for start, valid in (grid.span(i, frames) for i in range(grid.count(frames)))
        for offset in range(valid)
    }
    if tail == "pad" or (tail == "overlap" and frames >= WINDOW_FRAMES):
        assert shown == set(range(frames))
    else:
        assert shown == set(range(grid.covered(frames)))


@settings(deadline=None)
@given(strides, tails, st.integers(0, 30))
def test_first_frame_needed_is_the_least_over_all_lengths(stride: int, tail, index: int) -> None:
    grid = WindowGrid(stride, tail)
    longest = index * stride + 3 * WINDOW_FRAMES
    starts = {
        grid.span(index, frames)[0] for frames in range(longest) if grid.count(frames) > index
    }
    assert grid.first_frame_needed(index) == min(starts)


@settings(deadline=None)
@given(lengths, st.integers(1, 100), tails)
def test_short_sources_have_no_window(frames: int, least: int, tail) -> None:
    grid = WindowGrid(17, tail, min_frames=least)
    free = WindowGrid(17, tail)
    assert grid.count(frames) == (0 if frames < least else free.count(frames))


@pytest.mark.parametrize(
    ("frames", "drop", "pad", "overlap"),
    [(0, 0, 0, 0), (1, 0, 1, 0), (16, 0, 1, 0), (17, 1, 1, 1), (18, 1, 2, 2), (34, 2, 2, 2)],
)
def test_counts_at_the_edges(frames: int, drop: int, pad: int, overlap: int) -> None:
    counts = {tail: WindowGrid(17, tail).count(frames) for tail in TAILS}
    assert counts == {"drop": drop, "pad": pad, "overlap": overlap}


def test_spans_of_the_tail() -> None:
    assert WindowGrid(17, "pad").span(2, 40) == (34, 6)
    assert WindowGrid(17, "overlap").span(2, 40) == (23, 17)
    with pytest.raises(IndexError, match="window 2 of 2"):
        WindowGrid(17, "drop").span(2, 40)


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"stride": 0}, "stride"), ({"tail": "cut"}, "tail"), ({"min_frames": 0}, "min_frames")],
)
def test_bad_grids_are_refused(settings, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        WindowGrid(**settings)
