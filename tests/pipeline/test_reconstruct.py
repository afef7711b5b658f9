"""The parts of a reconstruction: decibels, the clip's own size, windows, borders, both pictures."""

import math
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.buckets import Bucket
from pipeline.encode import pixels_to_input
from pipeline.errors import UserError
from pipeline.psnr import mean_squared_error, psnr
from pipeline.reconstruct import MAX_OWN_PIXELS, own_size
from pipeline.roundtrip import RoundTrip, blended, pixels
from pipeline.side_by_side import AMPLIFIED, SHEET_FRAMES, Sheet, SideBySideVideo
from pipeline.video.decode import ClipRequest, FrameRecipe, Segment, Target, decode_clips
from pipeline.video.limits import DecodeLimits
from pipeline.video.probe import probe
from pipeline.windows import WindowGrid
from vae import AutoencoderKL, VAEConfig, seeded_state_dict

TINY = VAEConfig(
    z_channels=2,
    num_res_blocks=1,
    encoder_ch=8,
    encoder_ch_mult=(1, 1, 1, 1),
    decoder_ch=8,
    decoder_ch_mult=(1, 1, 1, 1),
    norm_groups=8,
)
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.just(3))


@st.composite
def pairs(draw):
    shape = draw(SHAPES)
    values = st.floats(-3, 3, width=32)
    return draw(arrays(np.uint8, shape)), draw(arrays(np.float32, shape, elements=values))


@given(pairs())
def test_the_error_is_the_plain_mean_of_squared_differences(pair):
    original, decoded = pair
    total = 0.0
    for a, b in zip(original.ravel().tolist(), decoded.ravel().tolist(), strict=True):
        total += (a / 255 - (min(1.0, max(-1.0, b)) + 1) / 2) ** 2
    expected = total / original.size
    assert mean_squared_error(original, decoded) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@given(st.integers(1, 255))
def test_an_offset_of_so_many_levels_has_the_decibels_of_the_definition(offset):
    original = np.full((2, 4, 5, 3), offset, np.uint8)
    error = mean_squared_error(original, np.full(original.shape, -1, np.float32))
    assert psnr(error) == pytest.approx(20 * math.log10(255 / offset))


def test_what_is_equal_is_infinitely_near_and_what_is_no_error_is_refused():
    assert psnr(0.0) == math.inf
    for wrong in (-1.0, math.nan):
        with pytest.raises(ValueError, match="mean squared error"):
            psnr(wrong)
    with pytest.raises(ValueError, match="shapes"):
        mean_squared_error(np.zeros((1, 2, 2, 3), np.uint8), np.zeros((2, 2, 2, 3), np.float32))


@given(st.integers(16, 8000), st.integers(16, 8000))
def test_the_own_size_is_the_largest_that_fits(width, height):
    scale = min(1.0, math.sqrt(MAX_OWN_PIXELS / (width * height)))
    if min(width, height) * scale < 16:
        with pytest.raises(ValueError, match=f"height {height} and width {width}"):
            own_size(width, height)
        return
    size = own_size(width, height)
    assert size.pixels <= MAX_OWN_PIXELS
    assert 0 <= width * scale - size.width < 16
    assert 0 <= height * scale - size.height < 16


@pytest.fixture(scope="module")
def tiny() -> AutoencoderKL:
    return AutoencoderKL.from_state_dict(TINY, seeded_state_dict(TINY, 1))


def _segments(path, tail: str, fps=None, windows=None):
    recipe = FrameRecipe(fps, WindowGrid(tail=tail), "cover", "bicubic")
    request = ClipRequest("clip", None, None, ((0, windows),), (Target(Bucket(32, 48), 1),))
    with path.open("rb") as file:
        facts = probe(file, DecodeLimits())
        found = list(decode_clips(file, [request], recipe, DecodeLimits()))
    return facts, [one for one in found if isinstance(one, Segment)]


def test_borders_are_those_of_decoding_the_whole_clip(tiny, clip):
    facts, segments = _segments(clip("h264_open"), "drop", windows=3)
    trip = RoundTrip(tiny, facts, None, None, lambda score: None)
    shown = torch.cat([window.decoded for window in blended(trip.windows(segments))])
    frames = [torch.from_numpy(one.frames) for one in segments]
    means = [tiny.posterior(pixels_to_input(x, tiny.dtype)).mean for x in frames]
    whole = tiny.decode(torch.cat(means, dim=1))[0]
    assert torch.allclose(shown, whole, rtol=0, atol=1e-5)
    alone = [tiny.decode(mean)[0] for mean in means]
    assert not torch.allclose(shown[16], alone[0][16], rtol=0, atol=1e-3)
    for score, segment, decoded in zip(trip.scores, segments, alone, strict=True):
        error = mean_squared_error(segment.frames[0], decoded.permute(0, 2, 3, 1).numpy())
        assert score.psnr == pytest.approx(psnr(error), abs=1e-3)


@pytest.mark.parametrize("tail", ["drop", "pad", "overlap"])
@pytest.mark.parametrize("fps", [None, Fraction(10)])
def test_every_frame_is_shown_once_and_scored_only_where_it_is_real(tiny, clip, tail, fps):
    facts, segments = _segments(clip("vfr"), tail, fps)  # 100 frames, or some 49 at 10 a second
    grid, told = WindowGrid(tail=tail), []
    trip = RoundTrip(tiny, facts, fps, None, told.append)
    windows = list(blended(trip.windows(segments)))
    total = sum(len(window.given) for window in windows)
    assert told == trip.scores
    assert total == trip.shown
    spans = [grid.span(index, total) for index in range(len(segments))]
    assert [(score.first_frame, score.frames) for score in trip.scores] == spans
    flat = [index for w in windows for index in range(w.first, w.first + len(w.given))]
    assert flat == list(range(total))
    pictures = {}
    for segment, (first, count) in zip(segments, spans, strict=True):
        pictures |= {first + k: segment.frames[0, k] for k in range(count)}
    for window in windows:
        assert len(window.times) == len(window.given) == len(window.decoded)
        for offset, picture in enumerate(window.given):
            assert np.array_equal(picture, pictures[window.first + offset])
    times = [seconds for window in windows for seconds in window.times]
    if fps is None:
        with av.open(str(clip("vfr"))) as container:
            stamps = [f.pts * f.time_base for f in container.decode(video=0)][:total]
        assert times == [stamp - stamps[0] for stamp in stamps]
    else:
        assert times == [index / fps for index in range(total)]


def test_a_sample_follows_from_its_seed(tiny, clip):
    facts, segments = _segments(clip("short"), "pad")

    def scored(seed):
        trip = RoundTrip(tiny, facts, None, seed, lambda score: None)
        for _ in trip.windows(segments):
            pass
        return trip.scores[0].psnr

    assert scored(1) == scored(1) != scored(2)
    assert scored(None) != scored(1)


def test_what_is_not_finite_is_refused(clip):
    broken = {name: tensor * math.nan for name, tensor in seeded_state_dict(TINY, 1).items()}
    facts, segments = _segments(clip("short"), "pad")
    vae = AutoencoderKL.from_state_dict(TINY, broken)
    trip = RoundTrip(vae, facts, None, None, lambda score: None)
    with pytest.raises(UserError, match=r"window 0.*NaN.*--dtype"):
        list(trip.windows(segments))


def test_pixels_are_clamped_and_rounded():
    values = torch.tensor([-2.0, -1.0, 0.0, 1.0, 7.0]).repeat(3, 1)[None, :, None]
    assert pixels(values)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


@settings(max_examples=40)
@given(st.integers(1, 300))
def test_a_sheet_holds_a_few_frames_evenly_spread(count):
    sheet = Sheet()
    picture = np.zeros((16, 16, 3), np.uint8)
    for index in range(count):
        sheet.add(str(index), picture, picture)
        assert len(sheet.labels) <= SHEET_FRAMES
    numbers = [int(label) for label in sheet.labels]
    assert numbers == list(range(0, count, numbers[1] if len(numbers) > 1 else 1))
    assert len(numbers) >= min(count, SHEET_FRAMES // 2)


def test_a_sheet_shows_original_reconstruction_and_the_amplified_difference():
    sheet = Sheet()
    left, right = np.full((16, 32, 3), 100, np.uint8), np.full((16, 32, 3), 90, np.uint8)
    right[:, 16:] = 255
    sheet.add("frame 0", left, right)
    image = np.asarray(sheet.image("title"))
    row = image[-12].tolist()
    assert row[4:36] == [[100] * 3] * 32
    assert row[40:72] == [[90] * 3] * 16 + [[255] * 3] * 16
    assert row[76:108] == [[10 * AMPLIFIED] * 3] * 16 + [[255] * 3] * 16


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_the_video_has_both_pictures_and_their_times(codec, tmp_path, clip):
    _, segments = _segments(clip("seventeen"), "drop")
    frames = segments[0].frames[0]
    times = [Fraction(index * index, 25) for index in range(17)]
    path = tmp_path / "both.mp4"
    with SideBySideVideo(path, 32, 48, Fraction(25), codec) as video:
        for seconds, picture in zip(times, frames, strict=True):
            video.add(seconds, picture, 255 - picture)
    with av.open(str(path)) as container:
        found = list(container.decode(video=0))
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ({"libx264": "h264"}.get(codec, codec), "yuv420p")
        assert (context.color_range, context.colorspace) == (1, 1)
    assert [frame.time for frame in found] == pytest.approx([float(t) for t in times], abs=1e-4)
    for frame, picture in zip(found, frames, strict=True):
        both = frame.to_ndarray(format="rgb24").astype(int)
        assert np.abs(both[:, :48] - picture).mean() < 6
        assert np.abs(both[:, 48:] - (255 - picture)).mean() < 6
