"""What a sweep spends: frames decoded, conversions, passes over the file, memory."""

import gc
import tracemalloc
from contextlib import contextmanager
from unittest.mock import patch

import av
import pytest

from pipeline.buckets import Bucket
from pipeline.video import convert
from pipeline.video.decode import Segment, decode_clips
from pipeline.video.source import FrameSource
from tests.pipeline.video.decoding import LIMITS, SMALL, decode, recipe, request

OTHER = Bucket(48, 32)
COST = 18 + 24 + 8
"""Frames of a clip of 0.7 s, between its key frame (or the one before) and its start, and in the
decoder when it is left."""


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


@contextmanager
def watched():
    """Timestamps of the frames that the decoder showed."""
    shown = []
    original = FrameSource._decode

    def decode(*arguments):
        frames = original(*arguments)
        shown.extend(frame.pts for frame in frames)
        return frames

    with patch.object(FrameSource, "_decode", decode):
        yield shown


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


@pytest.mark.parametrize("tail", ["pad", "overlap"])
@pytest.mark.parametrize(("fps", "count"), [(8, 32), (12.5, 50)])
def test_frames_between_those_of_the_rate_are_not_converted(fps, count, tail, clip) -> None:
    """100 frames at 25 a second."""
    with counted() as made:
        outcome = decode(clip("h264_open"), request(), recipe(fps, tail=tail))
    shown = {pts for window in outcome.windows().values() for pts in window.pts}
    assert outcome.ends["clip"].frames == count
    assert sorted(pts for pts, _ in made) == sorted(shown)
    assert len(shown) == count


@pytest.mark.parametrize("fps", [None, 12])
def test_sparse_clips_are_sought(fps, clip) -> None:
    """Three clips far from each other, of 250 frames with a key frame every 12."""
    asked = [request(str(start), start=start, end=start + 0.7) for start in (0.2, 4.7, 9.2)]
    with watched() as shown, patch("pipeline.video.decode.SEEK_GAP_S", 1.0):
        outcome = decode(clip("h264_long"), asked, recipe(fps, tail="pad"))
    assert len(outcome.ends) == 3
    assert len(shown) <= 3 * COST


def test_a_late_clip_costs_no_more_than_an_early_one(clip) -> None:
    for start in (1.0, 9.0):
        with watched() as shown:
            decode(clip("h264_long"), request(start=start, end=start + 0.7), recipe(25, tail="pad"))
        assert len(shown) <= COST


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


@pytest.mark.parametrize("name", ["h264_open", "rotated90", "interlaced"])
def test_no_decoded_frame_waits_for_the_garbage_collector(name: str, clip) -> None:
    """A frame in a cycle keeps its memory until a collection: hundreds of frames."""
    path = clip(name)
    gc.collect()
    gc.disable()
    try:
        decode(path, request(), recipe(tail="overlap"))
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        waiting = [found for found in gc.garbage if isinstance(found, av.VideoFrame)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not waiting


def test_abandoning_the_results_leaves_the_file_usable(clip) -> None:
    with clip("h264_long").open("rb") as file:
        results = decode_clips(file, [request()], recipe(), LIMITS)
        first = next(results)
        results.close()
        again = next(decode_clips(file, [request()], recipe(), LIMITS))
    assert isinstance(first, Segment)
    assert isinstance(again, Segment)
    assert first.frames.tobytes() == again.frames.tobytes()
