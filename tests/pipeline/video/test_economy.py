"""What a sweep spends: conversions, passes over the file, memory."""

import tracemalloc
from contextlib import contextmanager
from unittest.mock import patch

import pytest

from pipeline.buckets import Bucket
from pipeline.video import convert
from pipeline.video.decode import Segment, decode_clips
from tests.pipeline.video.decoding import LIMITS, SMALL, decode, recipe, request

OTHER = Bucket(48, 32)


@contextmanager
def counted():
    """Conversions made, as (timestamp, bucket) pairs."""
    made = []
    original = convert.to_rgb

    def to_rgb(frame, geometry, orientation, kernel):
        made.append((frame.pts, geometry.bucket))
        return original(frame, geometry, orientation, kernel)

    with patch.object(convert, "to_rgb", to_rgb):
        yield made


@pytest.mark.parametrize("tail", ["drop", "pad", "overlap"])
@pytest.mark.parametrize("fps", [None, 50])
def test_a_frame_is_converted_once_per_bucket(tail: str, fps, clip) -> None:
    """However many windows and clips show it."""
    asked = [
        request("a", targets=[(SMALL, 2), (OTHER, 1)]),
        request("b", start=0.5, targets=[(SMALL, 3)]),
    ]
    with counted() as made:
        decode(clip("h264_open"), asked, recipe(fps, stride=5, tail=tail))
    assert len(made) == len(set(made)) == 200


@pytest.mark.parametrize("name", ["h264_open", "mpeg2_ts"])
def test_frames_nobody_wants_are_not_converted(name: str, clip) -> None:
    with counted() as made:
        decode(clip(name), request(ranges=((2, 3),)), recipe())
    assert len(made) == 17
    with counted() as made:
        decode(clip(name), request(end=2.4), recipe(stride=25))
    wanted = [frame for start in (0, 25, 50) for frame in range(start, min(start + 17, 60))]
    ticks = made[1][0] - made[0][0]
    assert [(pts - made[0][0]) // ticks for pts, _ in made] == wanted


def test_overlap_converts_late_what_turns_out_to_be_the_tail(clip) -> None:
    """With gaps between windows, the last 17 frames are known at the end only."""
    with counted() as made:
        outcome = decode(clip("h264_open"), request(), recipe(stride=30, tail="overlap"))
    assert outcome.windows()[3].pts == tuple(512 * i for i in range(83, 100))
    assert len(made) == len(set(made)) == 17 * 4


def test_memory_does_not_grow_with_the_video(clip) -> None:
    """250 frames at 96x160 are 11.5 MB; segments in the making are 0.8 MB each."""
    asked = request(targets=[(Bucket(96, 160), 1)])
    with clip("h264_long").open("rb") as file:
        tracemalloc.start()
        try:
            count = 0
            for result in decode_clips(file, [asked], recipe(tail="overlap"), LIMITS):
                count += isinstance(result, Segment)
                del result
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert count == 15
    assert peak < 4e6


def test_abandoning_the_results_leaves_the_file_usable(clip) -> None:
    with clip("h264_long").open("rb") as file:
        results = decode_clips(file, [request()], recipe(), LIMITS)
        first = next(results)
        results.close()
        again = next(decode_clips(file, [request()], recipe(), LIMITS))
    assert isinstance(first, Segment)
    assert isinstance(again, Segment)
    assert first.frames.tobytes() == again.frames.tobytes()
