"""Tiny files that declare huge things are refused soon, and cheaply: a process of its own tells."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.video import bombs

SECONDS, MEGABYTES = 1.0, 200

CHILD = """
import json, os, sys, time
from pipeline.bench.measure import resident_bytes
from pipeline.video.decode import Segment, decode_clips
from pipeline.video.host import HERE
from tests.pipeline.video.decoding import LIMITS, recipe, request
found = []
for path in sys.argv[1:]:
    for fps in (None, 24):
        begun, seen, windows = time.process_time(), [], 0
        with open(path, "rb") as file:
            for result in decode_clips(file, [request()], recipe(fps), LIMITS):
                if isinstance(result, Segment):
                    windows += len(result.frames)
                else:
                    seen.append(getattr(result, "reason", "ok"))
        found.append([path, seen, windows, time.process_time() - begun])
peak = resident_bytes(os.getpid()) / 2**20
print(json.dumps([found, peak]))
"""


@pytest.fixture
def made(clip, tmp_path) -> dict[Path, set[str]]:
    """Bombs, and what may be said of each."""
    return {
        bombs.huge_frames(tmp_path / "frames.avi", clip("mjpeg_avi")): {
            "too_large",
            "decode_error",
        },
        bombs.huge_header(tmp_path / "header.avi", clip("mjpeg_avi")): {"ok"},  # its frames decide
        bombs.huge_png(tmp_path / "huge.png"): {"too_large"},
        bombs.many_samples(tmp_path / "9.mp4", clip("h264_open"), 10**9): {"too_large"},
        bombs.many_samples(tmp_path / "7.mp4", clip("h264_open"), 20_000_000): {"too_large"},
        bombs.ten_hours(tmp_path / "hours.mp4"): {"too_large"},
        bombs.nested(tmp_path / "trak.mp4", b"trak"): {"no_video_stream", "invalid_data"},
        bombs.nested(tmp_path / "meta.mp4", b"meta"): {"no_video_stream", "invalid_data"},
        bombs.nested(tmp_path / "udta.mp4", b"udta"): {"no_video_stream", "invalid_data"},
    }


def test_bombs_are_refused_within_a_second_and_200_megabytes(made):
    paths = [str(path) for path in made]
    command = [sys.executable, "-c", CHILD, *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    found, peak = json.loads(done.stdout)
    assert len(found) == 2 * len(made)
    for path, seen, windows, seconds in found:
        assert set(seen) <= made[Path(path)], (path, seen)
        assert len(seen) == 1
        assert windows <= 2, path  # what was whole before
        assert seconds < SECONDS, path
    assert peak < MEGABYTES
