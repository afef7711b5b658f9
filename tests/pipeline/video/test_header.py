"""What the header alone says: the same as header and first frame do, or nothing."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import pytest

from pipeline.errors import SourceError
from pipeline.video.facts import Header
from pipeline.video.files import GuardedFile
from pipeline.video.header import read_header
from pipeline.video.probe import look, probe
from pipeline.video.sps import square_size
from pipeline.video.tables import check_tables
from tests import clips
from tests.clips import DERIVED, REAL
from tests.pipeline.video.decoding import LIMITS

ENOUGH = (
    *("bikes", "bunny", "portrait", "h264_open", "hevc_open", "vfr", "edit_list", "faststart"),
    *("lie_mp4_tenth", "lie_mp4_times_10", "single"),
)
"""Clips of which the header says all that planning needs."""


def header_of(path: Path) -> Header | None:
    with path.open("rb") as file:
        return read_header(GuardedFile(file), LIMITS)


def both(path: Path) -> tuple[Header | None, Header]:
    """From the header alone; and of the same fields what the first frame says as well."""
    with path.open("rb") as file:
        facts = probe(file, LIMITS)
    return header_of(path), Header(
        facts.width, facts.height, facts.fps, facts.frames, facts.duration
    )


@pytest.mark.parametrize("name", sorted({*REAL, *DERIVED}))
def test_no_header_says_what_the_first_frame_does_not(name, clip):
    try:
        found, told = both(clip(name))
    except SourceError:
        assert name not in ENOUGH
        return
    assert found == (told if name in ENOUGH else found and told)


@pytest.mark.parametrize("name", ["carphone", "nonsquare", "rotated90", "fragmented", "vp9", "png"])
def test_where_it_does_not_say_enough_the_first_frame_is_read(name, clip):
    assert header_of(clip(name)) is None
    with clip(name).open("rb") as file, clip(name).open("rb") as same:
        assert look(file, LIMITS) == probe(same, LIMITS)


def test_a_size_that_contradicts_the_stream_is_not_believed(clip, tmp_path):
    data = bytearray(clip("h264_open").read_bytes())
    at = data.index(b"avc1", data.index(b"stsd")) + 28
    width, height = struct.unpack_from(">HH", data, at)
    struct.pack_into(">HH", data, at, 2 * width, 2 * height)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(data)
    found, told = both(bad)
    assert found is None
    assert (told.width, told.height) == (width, height)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_pixels_that_the_stream_alone_calls_oblong(codec, tmp_path):
    wide = tmp_path / "wide.mp4"
    getattr(clips, codec)(wide, aspect=Fraction(4, 3))
    data = bytearray(wide.read_bytes())
    at = data.index(b"pasp")
    data[at : at + 4] = b"free"
    wide.write_bytes(data)
    found, told = both(wide)
    assert found is None
    assert (told.width, told.height) == (213, 96)


@pytest.mark.parametrize("box", [b"mvhd", b"tkhd"])
def test_headers_that_turn_pictures_are_left_to_the_first_frame(box, clip, tmp_path):
    data = bytearray(clip("h264_open").read_bytes())
    at = data.index(box) + 4 + (36 if box == b"mvhd" else 40)
    assert struct.unpack_from(">9i", data, at)[0] == 1 << 16
    struct.pack_into(">9i", data, at, 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(data)
    found, told = both(turned)
    assert found is None
    assert told.height > told.width


def test_broken_files_are_told_as_they_are_by_decoding(clip):
    for name in ("audio_only", "cut_moovless", "text"):
        with clip(name).open("rb") as file, pytest.raises(SourceError) as looked:
            look(file, LIMITS)
        with clip(name).open("rb") as file, pytest.raises(SourceError) as probed:
            probe(file, LIMITS)
        assert (looked.value.reason, looked.value.message) == (
            probed.value.reason,
            probed.value.message,
        )


@pytest.mark.parametrize("size", [(160, 96), (176, 144), (178, 146), (640, 270), (16, 16)])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p"])
def test_a_parameter_set_tells_the_size_with_its_crop(size, pixels, tmp_path):
    path = tmp_path / "clip.mp4"
    clips.encode(path, "libx264", size=size, pixels=pixels, count=2)
    found, told = both(path)
    assert found == told
    assert (told.width, told.height) == size


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_parameter_set_of_fields(interlaced, tmp_path):
    path = tmp_path / "clip.mp4"
    options = {"x264-params": "interlaced=1"} if interlaced else {}
    clips.encode(path, "libx264", size=(160, 104), count=2, options=options)
    found, told = both(path)
    assert found == told


@pytest.mark.parametrize(("crop", "size"), [("8,0,0,0", (152, 96)), ("0,0,8,8", (152, 88))])
def test_a_crop_from_the_left_is_left_to_the_decoder(crop, size, tmp_path):
    """Which does not apply each of them."""
    path = tmp_path / "clip.mp4"
    clips.encode(path, "libx264", count=2, options={"x264-params": f"crop-rect={crop}"})
    data = bytearray(path.read_bytes())
    at = data.index(b"avc1", data.index(b"stsd")) + 28
    struct.pack_into(">HH", data, at, *size)
    at = data.index(b"tkhd") + 4 + 76
    struct.pack_into(">II", data, at, size[0] << 16, size[1] << 16)
    path.write_bytes(data)
    found, told = both(path)
    assert found == (None if crop[0] == "8" else told)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("box", [b"mvhd", b"tkhd"])
def test_headers_with_long_times(box, turned):
    """Version 1; FFmpeg writes it for films of many hours."""

    def matrix(box: bytes, version: int, turned: bool) -> bytes:
        times = {(b"mvhd", 0): 16, (b"mvhd", 1): 28, (b"tkhd", 0): 20, (b"tkhd", 1): 32}
        numbers = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
        straight = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
        content = bytes([version, 0, 0, 0]) + bytes(times[box, version] + 16)
        return packed(box, content + struct.pack(">9i", *(numbers if turned else straight)))

    def packed(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", 8 + len(content)) + name + content

    other = b"tkhd" if box == b"mvhd" else b"mvhd"
    boxes = {box: matrix(box, 1, turned), other: matrix(other, 0, turned=False)}
    film = packed(b"moov", boxes[b"mvhd"] + packed(b"trak", boxes[b"tkhd"]))
    assert check_tables(GuardedFile(io.BytesIO(film)), 1000) is not turned


@pytest.mark.parametrize("data", [None, b"", b"\1", b"\0" * 40, b"\1" + b"\xff" * 60, bytes(9)])
def test_what_is_no_parameter_set_tells_nothing(data):
    assert square_size(data) is None
