"""Decoding in a process of its own: the same results, and what breaks it costs one file."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.buckets import Bucket
from pipeline.errors import Reason, SourceError, UserError
from pipeline.isolated import calls
from pipeline.isolated import server as server_module
from pipeline.isolated.calls import decode_apart, look_apart
from pipeline.isolated.memory import SHARED_BYTES, frames_of
from pipeline.video.decode import ClipEnd, ClipFailure, Segment, decode_clips
from pipeline.video.limits import DecodeLimits
from pipeline.video.probe import look
from tests import stand_in
from tests.pipeline.video.decoding import LIMITS, SMALL, recipe, request

HASTY = replace(LIMITS, grace_seconds=1.5, seconds_per_second=1.0)
THRIFTY = replace(LIMITS, memory_bytes=300 * 2**20)


@pytest.fixture(scope="module")
def pool():
    """Decoders that obey what a file says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(stand_in.FOLDER)
        patch.setattr(calls, "_DECODERS", calls._Decoders())
        yield calls._DECODERS
        server = calls._DECODERS._server
        server.close()
        assert server.process.returncode is not None


@pytest.fixture
def decoders(pool):
    """The same with none at first."""
    while pool._idle:
        pool._idle.pop().end()
    return pool


ONE = (request(),)


def apart(path: Path, requests=ONE, how=None, limits: DecodeLimits = LIMITS):
    with path.open("rb") as file:
        return list(decode_apart(file, requests, how or recipe(), limits))


def here(path: Path, requests=ONE, how=None):
    with path.open("rb") as file:
        return list(decode_clips(file, requests, how or recipe(), LIMITS))


def same(one, other) -> bool:
    if not isinstance(one, Segment):
        return bool(one == other)
    arrays = ("frames", "pts", "valid_frames", "first_frames")
    plain = ("key", "bucket", "first_window", "time_base", "geometry", "fps", "last")
    return all(np.array_equal(getattr(one, n), getattr(other, n)) for n in arrays) and all(
        getattr(one, n) == getattr(other, n) for n in plain
    )


def processes(group: int) -> list[int]:
    """Processes of a decoder server's group, zombies too."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group:
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize(
    "name",
    ["bikes", "vfr", "hevc_open_ts", "mpeg4_avi", "png", "jpeg_turned", "text", "cut_faststart"],
)
def test_the_same_comes_out(name, clip, decoders):
    requests = [
        request("a", targets=((SMALL, 2), (Bucket(64, 32), 3))),
        request("b", start=1.0, end=3.0, ranges=((0, 1), (2, None))),
    ]
    for how in (recipe(), recipe(10, tail="pad"), recipe(5, stride=9, tail="overlap")):
        ours, theirs = apart(clip(name), requests, how), here(clip(name), requests, how)
        assert len(ours) == len(theirs)
        assert all(same(*pair) for pair in zip(ours, theirs, strict=True))
    assert len(processes(decoders._server.process.pid)) == 2  # the server and one decoder


@pytest.mark.parametrize("name", ["bikes", "carphone", "png", "text", "audio_only", "empty"])
def test_the_same_is_told_of_a_header(name, clip, decoders):
    def told(function):
        with clip(name).open("rb") as file:
            try:
                return function(file, LIMITS)
            except SourceError as error:
                return error.reason, error.message

    assert told(look_apart) == told(look)


def test_frames_are_right_while_they_are_held_and_memory_is_used_again(clip, decoders):
    wanted = (request(targets=((Bucket(128, 192), 1),)),)
    held = apart(clip("h264_long"), wanted)
    again = apart(clip("h264_long"), wanted)
    theirs = here(clip("h264_long"), wanted)
    assert len(held) > 10
    assert held[0].frames.nbytes >= SHARED_BYTES > apart(clip("png"))[0].frames.nbytes
    assert all(same(a, c) and same(b, c) for a, b, c in zip(held, again, theirs, strict=True))
    held[0].frames[:] = 0  # as packs of Ray are not, but those of one process are
    [decoder] = decoders._idle
    del held, again
    pieces = 2 * len(theirs) + 2
    for _ in range(3):
        apart(clip("h264_long"), wanted)
        descriptors = list(Path(f"/proc/{decoder.process}/fd").iterdir())
        assert len(descriptors) < 2 * pieces + 8  # no more than were held at once; a map takes two
    picture = apart(clip("png"), (request(targets=((Bucket(640, 640), 1),)),))
    assert picture[0].frames.nbytes >= SHARED_BYTES
    assert same(picture[0], here(clip("png"), (request(targets=((Bucket(640, 640), 1),)),))[0])


@pytest.mark.parametrize(
    ("how", "limits", "reason", "words"),
    [
        ("sleep", HASTY, Reason.TIMEOUT, "decode.grace_seconds"),
        ("spin", HASTY, Reason.TIMEOUT, "decode.seconds_per_second"),
        ("allocate", THRIFTY, Reason.TOO_LARGE, "314572800 bytes of memory"),
        ("segv", LIMITS, Reason.CRASHED, "killed by SIGSEGV"),
        ("abort", LIMITS, Reason.CRASHED, "killed by SIGABRT"),
        ("exit", LIMITS, Reason.CRASHED, "exit code 7"),
        ("raise", LIMITS, Reason.CRASHED, "ZeroDivisionError"),
        ("nonsense", LIMITS, Reason.CRASHED, "the decoder"),
        ("close", LIMITS, Reason.CRASHED, "killed by SIGKILL"),
    ],
)
def test_a_decoder_that_breaks_down_costs_one_file(
    how, limits, reason, words, clip, decoders, tmp_path, monkeypatch
):
    bad = stand_in.marked(clip("h264_long"), tmp_path / "bad.mp4", "decode", how, 2)
    two = (request("a", targets=((SMALL, 2),)), request("b", start=1.0))
    whole = here(clip("h264_long"), two)
    begun = time.monotonic()
    found = apart(bad, two, limits=limits)
    assert time.monotonic() - begun < 15
    *before, first, second = found
    assert len(before) == 2
    assert all(same(*pair) for pair in zip(before, whole, strict=False))  # it stands
    assert [first.key, second.key] == ["a", "b"]
    for failure in (first, second):
        assert isinstance(failure, ClipFailure)
        assert failure.reason is reason
        assert words in failure.message
    after = apart(clip("h264_open"))
    assert all(same(*pair) for pair in zip(after, here(clip("h264_open")), strict=True))
    assert len(processes(decoders._server.process.pid)) == 2  # none is left of those before


@pytest.mark.parametrize("how", ["sleep", "segv"])
def test_headers_are_watched_too(how, clip, decoders, tmp_path):
    bad = stand_in.marked(clip("h264_open"), tmp_path / "bad.mp4", "look", how)
    with bad.open("rb") as file, pytest.raises(SourceError) as caught:
        look_apart(file, HASTY)
    assert caught.value.reason is (Reason.TIMEOUT if how == "sleep" else Reason.CRASHED)


def test_a_file_is_not_blamed_for_the_one_before_it(clip, decoders, tmp_path):
    damaging = stand_in.marked(clip("h264_open"), tmp_path / "bad.mp4", "decode", "once")
    assert isinstance(apart(damaging)[-1], ClipEnd)
    found = apart(clip("h264_long"))
    assert all(same(*pair) for pair in zip(found, here(clip("h264_long")), strict=True))


def test_a_real_stall_is_noticed(clip, decoders):
    """SIGSTOP in the middle of a real video: what the process does is nothing at all."""
    with clip("bikes").open("rb") as file:
        results = decode_apart(file, (request(targets=((SMALL, 1),)),), recipe(), HASTY)
        found = [next(results)]
        _, process = sorted(processes(decoders._server.process.pid))
        os.kill(process, signal.SIGSTOP)
        found += results
    assert isinstance(found[-1], ClipFailure)
    assert found[-1].reason is Reason.TIMEOUT


def test_time_is_what_the_decoder_takes_not_who_waits_for_it(clip, decoders):
    with clip("h264_long").open("rb") as file:
        found = []
        for result in decode_apart(file, (request(targets=((SMALL, 1),)),), recipe(), HASTY):
            found.append(result)
            time.sleep(0.15)  # more in all than it may take
    assert isinstance(found[-1], ClipEnd)
    assert len(found) * 0.15 > HASTY.grace_seconds


def test_whoever_stops_reading_leaves_no_process(clip, decoders):
    with clip("bikes").open("rb") as file:
        results = decode_apart(file, (request(targets=((SMALL, 1),)),), recipe(), LIMITS)
        next(results)
        results.close()
    assert len(processes(decoders._server.process.pid)) == 1


def test_many_threads(clip, decoders, tmp_path):
    """As ``decode: in_actor`` has it: good and bad files side by side."""
    good = [clip(name) for name in ("h264_open", "vp9", "png")]
    bad = [
        stand_in.marked(clip("h264_open"), tmp_path / f"{how}.mp4", "decode", how)
        for how in ("segv", "exit", "raise")
    ]
    theirs = {path: here(path) for path in good}
    with ThreadPoolExecutor(6) as pool:
        work = (good + bad) * 4
        for path, found in zip(work, pool.map(apart, work), strict=True):
            if path in theirs:
                assert all(same(*pair) for pair in zip(found, theirs[path], strict=True))
            else:
                assert [result.reason for result in found] == [Reason.CRASHED]
    assert threading.active_count() < 20


def test_a_server_that_died_is_replaced(clip, decoders):
    apart(clip("png"))
    first = decoders._server.process
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert decoders._idle.pop().end() == "was ended with its server"
    assert isinstance(apart(clip("png"))[-1], ClipEnd)
    assert decoders._server.process.pid != first.pid


def test_a_server_that_cannot_start_is_the_users_to_mend(clip, monkeypatch):
    monkeypatch.setattr(calls, "_DECODERS", calls._Decoders())
    monkeypatch.setattr(server_module, "_START", "raise SystemExit(3)")
    with pytest.raises(UserError, match=r"decode\.isolate: false"):
        apart(clip("png"))


def test_decoders_have_no_secrets_and_no_torch(clip, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    monkeypatch.setattr(calls, "_DECODERS", decoders := calls._Decoders())
    apart(clip("png"))
    for process in processes(decoders._server.process.pid):
        assert b"planted" not in Path(f"/proc/{process}/environ").read_bytes()
        assert "torch" not in Path(f"/proc/{process}/maps").read_text()
        assert resource.prlimit(process, resource.RLIMIT_CORE) == (0, 0)
    decoders._server.close()


SPINNING = """
import sys
from pathlib import Path
from pipeline.isolated import calls
from tests.pipeline.video.decoding import LIMITS, recipe, request
with open(sys.argv[1], "rb") as file:
    results = calls.decode_apart(file, [request()], recipe(), LIMITS)
    print(calls._DECODERS._new()._server.process.pid, flush=True)
    list(results)
"""


@pytest.mark.parametrize("how", ["spin", "sleep"])
def test_decoders_end_with_a_parent_that_is_killed(how, clip, tmp_path):
    bad = stand_in.marked(clip("h264_open"), tmp_path / "bad.mp4", "decode", how)
    root = str(Path(__file__).parents[3])
    parent = subprocess.Popen(
        [sys.executable, "-c", SPINNING, str(bad)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([stand_in.FOLDER, root])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    group = int(parent.stdout.readline())
    deadline = time.monotonic() + 20
    while len(processes(group)) < 3 and time.monotonic() < deadline:  # server, idle one, busy one
        time.sleep(0.05)
    assert len(processes(group)) == 3
    time.sleep(0.3)
    parent.kill()
    parent.communicate()
    while processes(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes(group) == []


def test_memory_that_could_shrink_is_refused():
    size = 17 * 32 * 48 * 3
    descriptor = os.memfd_create("frames", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    with pytest.raises(ValueError, match="shrink"):
        frames_of(descriptor, (1, 17, 32, 48, 3))
    descriptor = os.memfd_create("frames", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size - 1)
    with pytest.raises(ValueError, match="bytes"):
        frames_of(descriptor, (1, 17, 32, 48, 3))
