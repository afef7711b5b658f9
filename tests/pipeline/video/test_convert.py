"""The quick way to RGB gives, bit for bit, what swscale's packed RGB is."""

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace, VideoReformatter
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.buckets import Bucket, Geometry
from pipeline.video.convert import Scaler, planes_are_exact

FORMATS = (
    "yuv420p",
    "yuvj420p",
    "yuv422p",
    "yuv444p",
    "yuv410p",
    "yuv420p10le",
    "yuv422p10le",
    "nv12",
    "yuva420p",
    "gray",
    "gbrp",
    "rgb24",
)
KERNELS = ("bicubic", "area", "bilinear", "lanczos")
BT601, BT709, UNSPECIFIED = 5, 1, 2


def noise(pixels: str, width: int, height: int, matrix: int, full: bool) -> av.VideoFrame:
    """A frame of random samples, the hardest there is to agree on."""
    rng = np.random.default_rng(width * 1000 + height)
    frame = av.VideoFrame(width, height, pixels)
    for plane in frame.planes:
        if pixels.endswith("10le"):
            samples = rng.integers(1024, size=plane.buffer_size // 2, dtype=np.uint16)
            plane.update(samples.tobytes())
        else:
            plane.update(rng.bytes(plane.buffer_size))
    frame.colorspace = matrix
    frame.color_range = 2 if full else 1
    return frame


def packed(frame: av.VideoFrame, scaler: Scaler, width: int, height: int) -> np.ndarray:
    """What swscale writes into packed RGB at the scaler's settings."""
    unspecified = int(frame.colorspace) == UNSPECIFIED and not frame.format.is_rgb
    return (
        VideoReformatter()
        .reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=Colorspace.ITU601 if unspecified else None,
            interpolation=scaler._flags,
            threads=1,
        )
        .to_ndarray()
    )


def check(pixels, kernel, size, scaled, matrix=BT709, full=False) -> None:
    frame = noise(pixels, *size, matrix, full)
    scaler = Scaler(kernel)
    geometry = Geometry(Bucket(16, 16), *scaled, 0, 0, 0, 0)
    try:
        expected = packed(frame, scaler, *scaled)
    except av.error.ArgumentError:  # such a kernel is too long for swscale
        with pytest.raises(av.error.ArgumentError):
            scaler.channels(frame, geometry, *scaled)
        return
    found = np.stack(scaler.channels(frame, geometry, *scaled), axis=-1)
    np.testing.assert_array_equal(found, expected)


@given(
    pixels=st.sampled_from(FORMATS),
    kernel=st.sampled_from(KERNELS),
    size=st.tuples(st.integers(2, 200), st.integers(2, 200)),
    scaled=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    matrix=st.sampled_from((BT601, BT709, UNSPECIFIED)),
    full=st.booleans(),
)
@settings(max_examples=400, deadline=None)
@example("yuv410p", "bicubic", (64, 16), (32, 16), BT709, False)
@example("yuv444p", "area", (96, 96), (96, 64), BT709, False)
@example("yuv444p", "area", (96, 96), (96, 48), BT709, False)
@example("yuv444p", "bilinear", (100, 100), (96, 99), BT709, False)
def test_channels_equal_packed_rgb(pixels, kernel, size, scaled, matrix, full) -> None:
    check(pixels, kernel, size, scaled, matrix, full)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scaled", [(992, 544), (256, 256), (455, 256), (1920, 1080), (1984, 1088)])
@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080), (1080, 1920)])
def test_at_usual_sizes(kernel, scaled, size) -> None:
    check("yuv420p", kernel, size, scaled)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("lines", "rows"), [(720, 544), (1080, 544), (1080, 256), (1920, 992)])
def test_usual_sizes_take_the_quick_way(kernel, lines, rows) -> None:
    assert planes_are_exact(kernel, lines, rows)


@given(
    kernel=st.sampled_from(("area", "bilinear")),
    lines=st.integers(64, 300),
    shrink=st.floats(1, 3),
    pixels=st.sampled_from(("yuv420p", "yuv444p")),
)
@settings(max_examples=400, deadline=None)
def test_kernels_of_few_lines(kernel, lines, shrink, pixels) -> None:
    check(pixels, kernel, (16, lines), (16, max(1, round(lines / shrink))))


def test_pictures_are_drawn_on_again() -> None:
    """What a geometry pads stays black, and no picture is handed out twice."""
    scaler = Scaler("bicubic")
    geometry = Geometry(Bucket(16, 16), 16, 8, 0, 0, 0, 4)
    first, second = scaler.blank(geometry), scaler.blank(geometry)
    assert first is not second
    assert not first.any()
    scaler.take_back(geometry, first)
    assert scaler.blank(geometry) is first
    assert scaler.blank(geometry) is not second
