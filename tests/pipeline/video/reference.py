"""An independent decoder: the ffmpeg and ffprobe programs."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest

FLAGS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
# Where FFmpeg 5 is to look for chroma samples; left to itself it ignores what the stream says.
SITING = {"left": ":in_h_chr_pos=0:in_v_chr_pos=128"}


@dataclass(frozen=True)
class Decoded:
    """What ffmpeg makes of a file: uint8 (frames, height, width, 3), and their timestamps."""

    frames: np.ndarray
    pts: list[int]
    time_base: Fraction


def need_ffmpeg() -> None:
    if shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None:
        pytest.skip("ffmpeg (with ffprobe) is not installed")


def _run(*command: str) -> bytes:
    return subprocess.run(command, check=True, capture_output=True, timeout=120).stdout


@cache
def reference(path: Path, width: int, height: int, *, autorotate: bool = False) -> Decoded:
    """Decode all frames as RGB, scaled to ``width`` x ``height``."""
    need_ffmpeg()
    entries = "frame=best_effort_timestamp:stream=time_base,chroma_location,r_frame_rate"
    told = json.loads(
        _run(
            *("ffprobe", "-v", "error", "-select_streams", "v:0", "-show_frames"),
            *("-show_entries", entries, "-of", "json", str(path)),
        )
    )
    stream = told["streams"][0]
    siting = SITING.get(stream.get("chroma_location", ""), "")
    raw = _run(
        *("ffmpeg", "-v", "error", *(() if autorotate else ("-noautorotate",)), "-i", str(path)),
        *("-vf", f"scale={width}:{height}:flags={FLAGS}{siting}", "-vsync", "passthrough"),
        *("-sws_flags", FLAGS, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"),
    )
    frames = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
    assert len(told["frames"]) == len(frames)
    if any("best_effort_timestamp" not in frame for frame in told["frames"]):
        # AVI and program streams stamp few frames or none; those here have a constant rate.
        return Decoded(frames, list(range(len(frames))), 1 / Fraction(stream["r_frame_rate"]))
    pts = [int(frame["best_effort_timestamp"]) for frame in told["frames"]]
    return Decoded(frames, pts, Fraction(stream["time_base"]))
