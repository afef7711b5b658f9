"""Mutated videos and datasets through the entry points: each ends well, or with a reason."""

import contextlib
import json
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tar_files import make_tar

from pipeline.errors import Reason, SourceError
from pipeline.isolated import calls
from pipeline.isolated.calls import decode_apart, look_apart
from pipeline.job import EXIT_USAGE
from pipeline.video.decode import ClipEnd, ClipFailure, Segment
from tests.e2e.support import config_tree, run_here, write_config
from tests.fuzz import mutated
from tests.pipeline.video.decoding import LIMITS, recipe, request

CLIPS = (
    *("bikes", "city", "h264_open", "fragmented", "hevc_open", "h264_open_mkv", "vp8", "vp9"),
    *("av1", "mpeg4_avi", "mjpeg_avi", "mpeg2_ts", "mpeg2_ps", "prores", "png", "jpeg", "webp"),
)
HARD = replace(LIMITS, grace_seconds=20.0, memory_bytes=1 * 2**30, max_frames=5000)
SECONDS_EACH = 30.0


def through_the_decoder(data: bytes, path: Path) -> str:
    """How a video ends; all that comes before is whole."""
    path.write_bytes(data)
    begun = time.monotonic()
    with path.open("rb") as file:
        with contextlib.suppress(SourceError):
            look_apart(file, HARD)
        try:
            found = list(decode_apart(file, [request(end=2.0)], recipe(10, tail="pad"), HARD))
        except SourceError as error:
            return str(error.reason)
    assert time.monotonic() - begun < SECONDS_EACH
    *segments, last = found
    for segment in segments:
        assert isinstance(segment, Segment)
        assert segment.frames.shape[1:] == (
            segment.pts.shape[1],
            segment.bucket.height,
            segment.bucket.width,
            3,
        )
    assert isinstance(last, ClipEnd | ClipFailure)
    return "ok" if isinstance(last, ClipEnd) else str(last.reason)


def fuzz_videos(clip, folder: Path, count: int) -> Counter[str]:
    ends: Counter[str] = Counter()
    originals = {name: clip(name).read_bytes() for name in CLIPS}
    for index in range(count):
        name = CLIPS[index % len(CLIPS)]
        end = through_the_decoder(mutated(originals[name], f"{name}-{index}"), folder / "clip")
        assert end == "ok" or Reason(end) in Reason
        ends[end] += 1
    server = calls._DECODERS._server
    assert server is not None
    assert server.alive
    return ends


def datasets(clip, folder: Path) -> dict[str, bytes]:
    """A small dataset of each kind, by the name of its file."""
    columns = {"start": 0.5, "version": "1"}
    rows = [
        {"video": f"clip{n}.mp4", "caption": f"a café, {n}", "id": str(n), **columns}
        for n in range(20)
    ]
    heads = ",".join(rows[0])
    lines = [",".join(f'"{value}"' for value in row.values()) for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), folder / "d.parquet")
    members: list[tuple[str, object]] = []
    for number in range(3):
        members.append((f"{number}.mp4", clip("single").read_bytes()))
        members.append((f"{number}.json", {"caption": "x", "n": number}))
    return {
        "d.csv": "\n".join([heads, *lines]).encode(),
        "d.jsonl": "\n".join(map(json.dumps, rows)).encode(),
        "d.parquet": (folder / "d.parquet").read_bytes(),
        "d.tar": make_tar(members),
    }


def fuzz_datasets(clip, folder: Path, count: int) -> Counter[str]:
    """Mutated datasets through the job itself, as far as its plan: it opens what the rows name."""
    ends: Counter[str] = Counter()
    originals = datasets(clip, folder)
    (folder / "clip0.mp4").write_bytes(clip("single").read_bytes())
    config = write_config(folder / "c.yaml", config_tree("set below", folder / "cache"))
    for index in range(count):
        name = list(originals)[index % len(originals)]
        path = folder / name
        path.write_bytes(mutated(originals[name], f"{name}-{index}"))
        stamp = 10**18 + index * 10**9
        os.utime(path, ns=(stamp, stamp))
        begun = time.monotonic()
        done = run_here(config, "--dataset", str(path), "--plan")
        assert time.monotonic() - begun < SECONDS_EACH
        assert "Traceback" not in done.stderr
        if done.code:
            assert done.code == EXIT_USAGE
            assert "\nerror: " in done.stderr
            ends["refused"] += 1
        else:
            ends["planned"] += 1
            ends["windows"] += done.report["windows"]
    assert not (folder / "cache").exists()
    return ends


def test_some_mutated_videos(clip, tmp_path):
    ends = fuzz_videos(clip, tmp_path, 6 * len(CLIPS))
    assert len(ends) >= 3
    assert ends["ok"] > 0


def test_some_mutated_datasets(clip, tmp_path):
    ends = fuzz_datasets(clip, tmp_path, 60)
    assert ends["refused"] > 0
    assert ends["planned"] > 0
    assert ends["windows"] > 0


@pytest.mark.slow
def test_three_thousand_mutated_videos(clip, tmp_path):
    ends = fuzz_videos(clip, tmp_path, 3060)
    print(ends)
    assert ends.total() == 3060
    assert len(ends) >= 4


@pytest.mark.slow
def test_a_thousand_mutated_datasets(clip, tmp_path):
    ends = fuzz_datasets(clip, tmp_path, 1000)
    print(ends)
    assert ends["refused"] + ends["planned"] == 1000
