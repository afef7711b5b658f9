"""Each kind of bad file ends with its reason, and nothing is invented in place of lost frames."""

import io
from collections.abc import Callable

import pytest

from pipeline.buckets import Bucket
from pipeline.errors import Reason, SourceError
from pipeline.video.decode import ClipFailure, decode_clips
from pipeline.video.limits import DecodeLimits
from pipeline.video.probe import probe
from pipeline.video.source import FrameSource
from tests.pipeline.video.decoding import LIMITS, SMALL, decode, recipe, request

UNOPENED = {
    "empty": (Reason.EMPTY_FILE, "no bytes"),
    "noise": (Reason.UNSUPPORTED_CONTAINER, "unknown data"),
    "text": (Reason.UNSUPPORTED_CONTAINER, "text"),
    "hls": (Reason.UNSUPPORTED_CONTAINER, "HLS playlist"),
    "ffconcat": (Reason.UNSUPPORTED_CONTAINER, "ffconcat"),
    "sdp": (Reason.UNSUPPORTED_CONTAINER, "SDP"),
    "html": (Reason.UNSUPPORTED_CONTAINER, "markup"),
    "gif_animated": (Reason.UNSUPPORTED_CONTAINER, "animated GIF"),
    "heic": (Reason.UNSUPPORTED_CONTAINER, "HEIC"),
    "cut_moovless": (Reason.INVALID_DATA, "mov container"),
    "cut_png": (Reason.INVALID_DATA, "image"),
    "audio_only": (Reason.NO_VIDEO_STREAM, "audio"),
    "unstamped": (Reason.BAD_TIMESTAMPS, "timestamp"),
}


@pytest.mark.parametrize("name", UNOPENED)
def test_files_that_cannot_be_opened(name: str, clip) -> None:
    reason, words = UNOPENED[name]
    with clip(name).open("rb") as file, pytest.raises(SourceError, match=words) as caught:
        probe(file, LIMITS)
    assert caught.value.reason is reason
    outcome = decode(clip(name), [request("a"), request("b", start=1.0)], recipe())
    assert not outcome.segments
    assert {f.reason for f in outcome.failures.values()} == {reason}
    assert set(outcome.failures) == {"a", "b"}


CUT = {
    "cut_faststart": "faststart",
    "cut_fragmented": "fragmented",
    "cut_mkv": "h264_open_mkv",
    "cut_webm": "vp9",
    "cut_avi": "mpeg4_avi",
    "cut_ts": "mpeg2_ts",
    "cut_ps": "mpeg2_ps",
    "damaged": "faststart",
    "damaged_mkv": "h264_open_mkv",
}


@pytest.mark.parametrize("fps", [None, 25])
@pytest.mark.parametrize("name", CUT)
def test_cut_and_damaged_files_fail_and_invent_nothing(name: str, fps, clip) -> None:
    """What came out before is what the whole file gives; no window is padded, no end claimed."""
    how = recipe(fps, tail="pad")
    part = decode(clip(name), request(targets=[(SMALL, 1)]), how)
    assert part.failures["clip"].reason is Reason.DECODE_ERROR
    assert not part.ends
    complete = decode(clip(CUT[name]), request(targets=[(SMALL, 1)]), how).windows()
    found = part.windows()
    assert found == {number: complete[number] for number in found}
    assert 0 < len(found) < len(complete)
    assert all(window.valid == 17 for window in found.values())


@pytest.mark.parametrize("name", ["cut_faststart", "cut_mkv"])
def test_windows_before_the_cut_can_be_had(name: str, clip) -> None:
    """A finite range that the data hold does not suffer from what is lost behind it."""
    outcome = decode(clip(name), request(ranges=((0, 1),)), recipe())
    assert not outcome.failures
    assert list(outcome.windows()) == [0]


@pytest.mark.parametrize("drop", [1, 7, 100, 187])
def test_any_cut_of_a_faststart_file_is_noticed(drop: int, clip) -> None:
    data = clip("faststart").read_bytes()[:-drop]
    results = list(decode_clips(io.BytesIO(data), [request()], recipe(tail="pad"), LIMITS))
    assert isinstance(results[-1], ClipFailure)
    assert results[-1].reason is Reason.DECODE_ERROR


@pytest.mark.parametrize("name", ["h264_open_mkv", "vp9", "mpeg4_avi", "fragmented"])
def test_a_cut_at_the_very_end_is_noticed(name: str, clip) -> None:
    data = clip(name).read_bytes()[:-3]
    results = list(decode_clips(io.BytesIO(data), [request()], recipe(tail="pad"), LIMITS))
    assert isinstance(results[-1], ClipFailure)
    assert "cut off" in results[-1].message


def test_bytes_behind_a_complete_file_do_not_matter(clip) -> None:
    data = clip("faststart").read_bytes() + b"\0" * 50
    results = list(decode_clips(io.BytesIO(data), [request()], recipe(tail="pad"), LIMITS))
    assert results[-1].frames == 100


def test_a_change_of_picture_size_fails(clip) -> None:
    outcome = decode(clip("size_change"), request(targets=[(SMALL, 1)]), recipe())
    assert outcome.failures["clip"].reason is Reason.DECODE_ERROR
    assert max(outcome.windows(), default=0) <= 1


def test_start_behind_the_data_is_an_empty_range(clip) -> None:
    for name in ("h264_open", "mpeg4_avi", "h264_open_ts"):
        for fps in (None, 12):
            outcome = decode(
                clip(name), [request("far", start=60.0), request("near", start=1.0)], recipe(fps)
            )
            assert outcome.failures["far"].reason is Reason.EMPTY_RANGE
            assert outcome.failures["far"].facts == outcome.ends["near"].facts
            assert outcome.ends["near"].windows >= 1


def test_a_size_other_than_expected_fails_that_clip_alone(clip) -> None:
    asked = [request("right", size=(96, 160)), request("wrong", size=(160, 96))]
    outcome = decode(clip("rotated90"), asked, recipe())
    assert outcome.failures["wrong"].reason is Reason.HINT_MISMATCH
    assert "96x160" in outcome.failures["wrong"].message
    assert outcome.failures["wrong"].facts.rotation == 90
    assert outcome.ends["right"].frames == 100


def test_packets_that_cannot_be_counted_fail_every_clip(clip, monkeypatch) -> None:
    def damaged(source: FrameSource) -> list[int]:
        raise SourceError(Reason.DECODE_ERROR, "reading a packet failed")

    monkeypatch.setattr(FrameSource, "table", damaged)
    asked = [request("a", ranges=((1, None),)), request("b", ranges=((0, 1),))]
    outcome = decode(clip("h264_open"), asked, recipe())
    assert {key: f.message for key, f in outcome.failures.items()} == dict.fromkeys(
        ("a", "b"), "reading a packet failed"
    )


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (DecodeLimits(max_pixels=160 * 96 - 1), Reason.TOO_LARGE),
        (DecodeLimits(max_frames=30), Reason.TOO_LARGE),
        (DecodeLimits(max_seconds=1.5), Reason.TOO_LARGE),
    ],
)
@pytest.mark.parametrize("name", ["h264_open", "mpeg4_avi", "vp9"])
def test_limits(name: str, limits: DecodeLimits, reason: Reason, clip) -> None:
    outcome = decode(clip(name), request(), recipe(), limits)
    assert outcome.failures["clip"].reason is reason
    assert not outcome.ends


def test_a_shape_that_would_be_scaled_to_a_monster_is_refused(clip) -> None:
    limits = DecodeLimits(max_pixels=30_000)
    wide = Bucket(256, 16)
    outcome = decode(
        clip("h264_open"), request(targets=[(wide, 1)]), recipe(resize="cover"), limits
    )
    assert outcome.failures["clip"].reason is Reason.TOO_LARGE
    assert "427x256" in outcome.failures["clip"].message


class FailingFile(io.BytesIO):
    """Fails once more than ``allowed`` bytes were read."""

    def __init__(self, data: bytes, allowed: int, error: Exception) -> None:
        super().__init__(data)
        self._left = allowed
        self._error = error

    def read(self, count: int | None = -1) -> bytes:
        found = super().read(count)
        self._left -= len(found)
        if self._left < 0:
            raise self._error
        return found


@pytest.mark.parametrize("allowed", [0, 5000, 45_000, 60_000, 75_000])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("connection reset"), Reason.UNREADABLE),
        (TimeoutError("no answer"), Reason.UNREADABLE),
        (RuntimeError("payload not complete"), Reason.UNREADABLE),
        (FileNotFoundError("gone"), Reason.MISSING),
        (SourceError(Reason.SOURCE_CHANGED, "another etag"), Reason.SOURCE_CHANGED),
    ],
)
def test_failing_storage_is_never_taken_for_bad_data(allowed, error, reason, clip, capfd) -> None:
    for name in ("h264_open_mkv", "h264_open_ts", "faststart"):
        data = clip(name).read_bytes()
        file = FailingFile(data, min(allowed, len(data) - 3000), error)
        results = list(decode_clips(file, [request()], recipe(tail="pad"), LIMITS))
        assert isinstance(results[-1], ClipFailure)
        assert results[-1].reason is reason
        assert getattr(error, "message", str(error)) in results[-1].message
    assert "dropped" not in capfd.readouterr().err


def test_probe_names_the_failure_of_the_storage(clip) -> None:
    file = FailingFile(clip("bikes").read_bytes(), 100, OSError("connection reset"))
    with pytest.raises(SourceError, match="OSError: connection reset") as caught:
        probe(file, LIMITS)
    assert caught.value.reason is Reason.UNREADABLE
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    "make",
    [
        lambda: request(ranges=()),
        lambda: request(ranges=((3, 3),)),
        lambda: request(ranges=((0, None), (4, 5))),
        lambda: request(ranges=((2, 4), (3, 5))),
        lambda: request(targets=[(SMALL, 1), (SMALL, 2)]),
        lambda: request(targets=[(SMALL, 0)]),
        lambda: request(start=-1.0),
        lambda: request(start=2.0, end=2.0),
        lambda: request(end=float("nan")),
        lambda: recipe(fps=0),
        lambda: DecodeLimits(max_frames=0),
    ],
)
def test_senseless_requests_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        make()
