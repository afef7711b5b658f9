"""Windows, frame times and pixels against what ffmpeg decodes, on real clips and transcodes."""

from fractions import Fraction

import av
import numpy as np
import pytest

from pipeline.buckets import Bucket
from pipeline.video.limits import DecodeLimits
from pipeline.video.probe import probe
from tests.pipeline.video.decoding import decode, expected_windows, recipe, request, shown_frames
from tests.pipeline.video.reference import reference

BUCKET = Bucket(64, 112)
MOST_OFF = 2
"""Levels of 255 that any channel of any pixel may differ by (FFmpeg 5 differs in none)."""

CLIPS = (
    "carphone",
    "h264_open",
    "h264_open_ts",
    "hevc10",
    "vp8",
    "vp9",
    "av1",
    "mpeg2_ps",
    "interlaced",
    "mpeg4_avi",
    "h264_avi",
    "mjpeg_avi",
    "prores",
    "vfr",
    "vfr_mkv",
    "nonsquare",
    "full_range",
    "bt709",
    "edit_list",
    "negative",
    "late_ts",
    "short",
    "seventeen",
    "single",
)


def compare(name, clip, fps, tail, stride, bucket=BUCKET) -> None:
    told = reference(clip(name), bucket.width, bucket.height)
    outcome = decode(
        clip(name), request(targets=[(bucket, 4)]), recipe(fps, stride=stride, tail=tail)
    )
    assert not outcome.failures
    if fps is None:
        frames = list(range(len(told.pts)))
    else:
        frames = shown_frames(told.pts, told.time_base, Fraction(fps), Fraction(0), None)
    windows = expected_windows(len(frames), stride, tail)
    assert outcome.ends["clip"].frames == len(frames)
    assert outcome.ends["clip"].windows == len(windows)
    found = outcome.windows(bucket=bucket)
    assert sorted(found) == list(range(len(windows)))
    segments = {
        s.first_window + row: (s.frames[row], s.pts[row], s.time_base)
        for s in outcome.segments
        for row in range(len(s.frames))
    }
    for number, (start, valid) in enumerate(windows):
        shown = [frames[min(start + i, start + valid - 1)] for i in range(17)]
        pixels, pts, time_base = segments[number]
        assert found[number].valid == valid
        since = [(int(p) - outcome.ends["clip"].facts.origin) * time_base for p in pts]
        assert since == [(told.pts[i] - told.pts[0]) * told.time_base for i in shown]
        off = np.abs(pixels.astype(int) - told.frames[shown].astype(int))
        assert off.max() <= MOST_OFF, f"window {number} differs by {off.max()}"


@pytest.mark.parametrize(
    ("fps", "tail", "stride"), [(None, "pad", 17), (12, "overlap", 17), (30, "drop", 9)]
)
@pytest.mark.parametrize("name", CLIPS)
def test_windows_equal_an_independent_decode(name, clip, fps, tail, stride) -> None:
    compare(name, clip, fps, tail, stride)


def test_rgb_video_at_its_own_size_equals_an_independent_decode(clip) -> None:
    """FFmpeg 5 scales planar RGB with less precision than is done here, so no scaling."""
    compare("gbr", clip, None, "pad", 17, Bucket(96, 160))


@pytest.mark.parametrize(
    ("name", "fps", "tail", "stride"),
    [
        ("bikes", None, "overlap", 17),
        ("bikes", 12, "pad", 17),
        ("bunny", 12, "pad", 21),
        ("city", None, "pad", 17),
        ("city", 30, "drop", 17),
        ("portrait", 24, "overlap", 17),
        ("portrait_vp9", 24, "overlap", 17),
    ],
)
def test_real_clips_equal_an_independent_decode(name, fps, tail, stride, clip) -> None:
    compare(name, clip, fps, tail, stride)


@pytest.mark.parametrize(
    ("name", "quarters"), [("rotated90", 1), ("rotated180", 2), ("rotated270", 3)]
)
def test_rotated_clips_are_turned_upright(name, quarters, clip) -> None:
    """Against ffmpeg twice: turned here by numpy (exactly), and by ffmpeg's own filter."""
    path = clip(name)
    upright = Bucket(112, 64) if quarters % 2 else BUCKET
    outcome = decode(path, request(targets=[(upright, 4)]), recipe(tail="drop"))
    found = outcome.pixels(bucket=upright)
    lying = reference(path, BUCKET.width, BUCKET.height).frames[: len(found)]
    assert np.array_equal(found, np.rot90(lying, quarters, axes=(1, 2)))
    turned = reference(path, upright.width, upright.height, autorotate=True).frames[: len(found)]
    # ffmpeg turns before it scales, where chroma samples lie elsewhere: near, not equal.
    assert np.abs(found.astype(int) - turned).mean() < 1.0


def test_display_size_and_rotation_are_read(clip) -> None:
    sizes = {
        "carphone": (193, 144, 0),
        "nonsquare": (213, 96, 0),
        "rotated90": (96, 160, 90),
        "rotated180": (160, 96, 180),
        "rotated270": (96, 160, 270),
        "portrait": (1080, 1920, 0),
        "city": (720, 405, 0),
    }
    for name, expected in sizes.items():
        with clip(name).open("rb") as file:
            facts = probe(file, DecodeLimits())
        assert (facts.width, facts.height, facts.rotation) == expected, name
        assert type(facts).from_dict(facts.to_dict()) == facts


def test_the_interlaced_clip_is_marked_so(clip) -> None:
    with av.open(str(clip("interlaced"))) as container:
        assert next(container.decode(video=0)).interlaced_frame


def test_facts_of_headers(clip) -> None:
    with clip("bikes").open("rb") as file:
        facts = probe(file, DecodeLimits())
    assert (facts.codec, facts.fps, facts.frames, facts.duration) == ("h264", 25.0, 250, 10.0)
    assert facts.time_base == Fraction(1, 12800)
    assert facts.origin == 0
    assert not facts.is_image
    with clip("late_ts").open("rb") as file:
        late = probe(file, DecodeLimits())
    assert late.frames is None
    assert late.origin > 0


@pytest.mark.parametrize("name", ["bikes", "carphone", "h264_open", "vp9", "mpeg4_avi", "prores"])
@pytest.mark.parametrize("fps", [None, Fraction(12), Fraction(24000, 1001)])
@pytest.mark.parametrize(("start", "end"), [(None, None), (0.5, None), (0.3, 1.1), (None, 0.7)])
def test_forecast_of_honest_headers_is_exact(name, fps, start, end, clip) -> None:
    outcome = decode(clip(name), request(start=start, end=end), recipe(fps))
    told = outcome.ends["clip"]
    assert told.facts.estimated_frames(fps, start, end) == told.frames


@pytest.mark.parametrize("kernel", ["bicubic", "area", "bilinear", "lanczos"])
def test_the_filter_is_the_one_asked_for(kernel, clip) -> None:
    """Filters differ from each other, and all come near a plain average."""
    bucket = Bucket(32, 80)
    found = {
        each: decode(
            clip("bikes"), request(ranges=((0, 1),), targets=[(bucket, 1)]), recipe(kernel=each)
        )
        .pixels(bucket=bucket)
        .astype(int)
        for each in ("bicubic", "area", "bilinear", "lanczos")
    }
    for other, pixels in found.items():
        assert np.array_equal(pixels, found[kernel]) == (other == kernel)
        assert np.abs(pixels - found["area"]).mean() < 4


def test_crop_and_bars_are_cut_from_one_scaled_picture(clip) -> None:
    """Of 640x272 in 96x96: covered, 226x96 is scaled and cropped; contained, 96x41 gets bars."""
    bucket = Bucket(96, 96)
    covered, contained = (
        decode(
            clip("bikes"), request(ranges=((0, 1),), targets=[(bucket, 1)]), recipe(resize=policy)
        ).segments[0]
        for policy in ("cover", "contain")
    )
    whole = reference(clip("bikes"), 226, 96).frames[:17]
    assert np.array_equal(covered.frames[0], whole[:, :, 65 : 65 + 96])
    assert covered.geometry.to_dict()["crop_left"] == 65
    whole = reference(clip("bikes"), 96, 41).frames[:17]
    top = contained.geometry.pad_top
    assert np.array_equal(contained.frames[0, :, top : top + 41], whole)
    assert not contained.frames[0, :, :top].any()
    assert not contained.frames[0, :, top + 41 :].any()
