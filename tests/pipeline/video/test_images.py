"""Still images: one window of one frame."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.buckets import Bucket
from pipeline.errors import Reason, SourceError
from pipeline.video.limits import DecodeLimits
from pipeline.video.probe import probe
from tests import clips
from tests.pipeline.video.decoding import LIMITS, decode, recipe, request

SAME = Bucket(96, 160)


@pytest.mark.parametrize(("name", "most"), [("png", 0), ("webp", 0), ("jpeg", 30)])
def test_an_image_is_one_window_of_one_frame(name: str, most: int, clip) -> None:
    asked = request(targets=[(SAME, 4), (Bucket(48, 80), 1)])
    outcome = decode(clip(name), asked, recipe(8, tail="overlap", stride=9))
    first, second = outcome.segments
    assert first.frames.shape == (1, 1, 96, 160, 3)
    assert second.frames.shape == (1, 1, 48, 80, 3)
    assert first.pts.tolist() == [[0]]
    assert first.valid_frames.tolist() == [1]
    assert first.last
    end = outcome.ends["clip"]
    assert (end.frames, end.windows, end.facts.is_image) == (1, 1, True)
    truth = np.asarray(clips.picture()).astype(int)
    assert np.abs(first.frames[0, 0] - truth).max() <= most
    area = decode(clip(name), asked, recipe(kernel="area")).segments[1].frames[0, 0].astype(int)
    assert np.abs(area - truth.reshape(48, 2, 80, 2, 3).mean((1, 3))).max() <= most + 2


def test_an_image_is_resampled_like_a_video_frame(clip) -> None:
    """The same RGB picture as lossless video and as PNG gives the same bits."""
    bucket = Bucket(64, 64)
    from_video = decode(
        clip("gbr"),
        request(ranges=((0, 1),), targets=[(bucket, 1)]),
        recipe(resize="cover", kernel="lanczos"),
    )
    with clip("gbr").open("rb") as file:
        assert probe(file, LIMITS).pixel_format == "gbrp"
    whole = decode(clip("gbr"), request(ranges=((0, 1),), targets=[(SAME, 1)]), recipe())
    content = io.BytesIO()
    Image.fromarray(whole.segments[0].frames[0, 0]).save(content, "PNG")
    path = clip("gbr").with_name("gbr-frame.png")
    path.write_bytes(content.getvalue())
    from_image = decode(
        path, request(targets=[(bucket, 1)]), recipe(resize="cover", kernel="lanczos")
    )
    off = np.abs(
        from_video.segments[0].frames[0, 0].astype(int) - from_image.segments[0].frames[0, 0]
    )
    assert off.max() <= 1


def test_exif_orientation_is_applied(clip) -> None:
    with clip("jpeg_turned").open("rb") as file:
        facts = probe(file, LIMITS)
    assert (facts.width, facts.height, facts.rotation) == (96, 160, 270)
    assert (facts.coded_width, facts.coded_height) == (160, 96)
    upright = decode(clip("jpeg_turned"), request(targets=[(Bucket(160, 96), 1)]), recipe())
    lying = decode(clip("jpeg"), request(targets=[(SAME, 1)]), recipe())
    turned = np.rot90(lying.segments[0].frames[0, 0], 3)
    assert np.array_equal(upright.segments[0].frames[0, 0], turned)


def test_transparent_parts_are_black(clip) -> None:
    outcome = decode(clip("png_transparent"), request(targets=[(SAME, 1)]), recipe())
    frame = outcome.segments[0].frames[0, 0].astype(int)
    assert not frame[:, :80].any()
    truth = np.asarray(clips.picture()).astype(int)
    assert np.abs(frame[:, 80:] - truth[:, 80:] * 128 / 255).max() <= 1


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "I;16", "LA"])
def test_modes_become_rgb(mode: str, tmp_path) -> None:
    grey = clips.picture().convert("L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        image = grey.convert(mode)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path)
    frame = decode(path, request(targets=[(SAME, 1)]), recipe()).segments[0].frames[0, 0]
    assert np.array_equal(frame[..., 0], frame[..., 1])
    if mode != "1":
        assert np.abs(frame[..., 0].astype(int) - np.asarray(grey)).max() <= 1


def test_ranges_and_starts_beyond_the_frame(clip) -> None:
    asked = [request("later", ranges=((1, None),)), request("start", start=0.5)]
    outcome = decode(clip("png"), asked, recipe())
    assert not outcome.segments
    assert outcome.ends["later"].windows == 1
    assert outcome.failures["start"].reason is Reason.EMPTY_RANGE


def test_limits_and_expected_size(clip) -> None:
    with clip("png").open("rb") as file, pytest.raises(SourceError) as caught:
        probe(file, DecodeLimits(max_pixels=160 * 96 - 1))
    assert caught.value.reason is Reason.TOO_LARGE
    outcome = decode(clip("png"), request(size=(160, 97)), recipe())
    assert outcome.failures["clip"].reason is Reason.HINT_MISMATCH


def test_a_cut_jpeg_fails(clip, tmp_path) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(clip("jpeg").read_bytes()[:2500])
    outcome = decode(path, request(), recipe())
    assert outcome.failures["clip"].reason is Reason.DECODE_ERROR
    assert not outcome.segments
