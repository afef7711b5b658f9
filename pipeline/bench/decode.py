"""How fast one thread decodes videos to resized RGB windows, against ffmpeg doing the same.

Examples:
  python jobs/benchmark.py decode clip.mp4 other.mp4 --height 544 --width 992
  python jobs/benchmark.py decode s3://bucket/clip.mp4 --height 256 --width 256 --fps 8
  python jobs/benchmark.py decode film.mp4 --height 256 --width 256 --span 600 605 --span 3000 3005
  python jobs/benchmark.py decode --config configs/t2v_540p.yaml --clips 5

Clips are files (or URIs) with a bucket, or some of a configuration's dataset, evenly spread over
its list, each at its nearest bucket, with the configuration's fps, policy and filter. What is not
local is copied first: reading is not measured. In turns, on one thread each:

  pipeline          the code of the decode stage, every frame once, windows adjoining
  isolated          the same in a decoder process, as runs do it (decode.isolate), with what the
                    parent does for it; its start is not counted, nor is its memory
  ffmpeg            `ffmpeg -threads 1`, the same clip, fps, size and kernel, to rgb24 thrown away;
                    its start is not counted
  ffmpeg, exact     the same, with the pipeline's accurate rounding and full chroma
  PyAV              decode, reformat, to_ndarray
  PyAV, no scaling  decode alone: what the codec takes
  torchcodec        where it is installed; it resizes with its own kernel

Frames are output frames. CPU seconds are user and system time; every way has a process of its own,
and `memory` is its peak beyond what its code takes (of ffmpeg, all). `of ffmpeg` is the median over
the turns of frames a CPU second, as a share of ffmpeg's in the same turn. Nothing is compared with
a number from elsewhere.
"""

import argparse
import contextlib
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, get_args

from pipeline.bench.measure import (
    Cost,
    Rates,
    as_json,
    conditions,
    in_turns,
    measured,
    process_of_its_own,
    share,
)
from pipeline.bench.pick import Settings, named, picked
from pipeline.bench.rivals import (
    EXACT,
    decode_alone,
    decode_with_ffmpeg,
    decode_with_pyav,
    decode_with_torchcodec,
    ffmpeg_path,
    ffmpeg_start,
    ffmpeg_version,
    torchcodec_missing,
)
from pipeline.bench.work import Work, decode_as_the_pipeline, decode_isolated
from pipeline.buckets import Bucket, ResizeFilter, ResizePolicy
from pipeline.config import RunConfig, WindowsConfig, load_config
from pipeline.errors import UserError
from pipeline.report import human_bytes

PIPELINE, ISOLATED, FFMPEG, FFMPEG_EXACT = "pipeline", "isolated", "ffmpeg", "ffmpeg, exact"

_SEGMENT_WINDOWS, _PACK_BYTES = WindowsConfig().segment_windows, RunConfig().pack_bytes
"""Of clips without a configuration: its defaults."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("files", metavar="CLIP", nargs="*", help="video files or URIs")
    parser.add_argument("--height", type=int, help="of the bucket, in pixels")
    parser.add_argument("--width", type=int, help="of the bucket, in pixels")
    parser.add_argument("--fps", help="output frames a second; without it the clip's own frames")
    parser.add_argument("--filter", choices=get_args(ResizeFilter), default="bicubic")
    parser.add_argument("--policy", choices=get_args(ResizePolicy), default="cover")
    parser.add_argument(
        "--span",
        metavar=("START", "END"),
        nargs=2,
        type=float,
        action="append",
        default=[],
        help="a clip of the file, in seconds; may be repeated, in order",
    )
    given = parser.add_argument_group("instead of clips and a bucket")
    given.add_argument("--config", metavar="YAML", help="configuration whose dataset is taken")
    given.add_argument("--dataset", metavar="URI", help="overrides dataset.uri")
    given.add_argument("--set", metavar="KEY=VALUE", action="append", default=[])
    given.add_argument("--clips", metavar="N", type=int, default=3, help="videos taken (3)")
    parser.add_argument("--seconds", type=float, default=20, help="taken of a video at most (20)")
    parser.add_argument("--turns", type=int, default=5, help="turns of each way (5)")


def run(args: argparse.Namespace) -> None:
    """Measure and print. Raises ``UserError``."""
    with tempfile.TemporaryDirectory() as folder:
        benchmark_decode(_work(args, Path(folder)), args.turns)


def _work(args: argparse.Namespace, folder: Path) -> list[Work]:
    if args.config is not None:
        if args.files:
            raise UserError("give clips or --config, not both")
        fields = {} if args.dataset is None else {"dataset.uri": args.dataset}
        config = load_config(args.config, args.set, fields)
        settings = Settings(
            config.bucket_list,
            config.resize.policy,
            config.resize.filter,
            config.windows.rate,
            config.windows.segment_windows,
            config.run.pack_bytes,
            args.seconds,
        )
        return picked(config, args.clips, settings, folder)
    if not args.files or args.height is None or args.width is None:
        raise UserError("give clips with --height and --width, or --config")
    try:
        bucket = Bucket(args.height, args.width)
        fps = None if args.fps is None else Fraction(args.fps)
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(str(error)) from error
    if fps is not None and fps <= 0:
        raise UserError(f"--fps {args.fps}: must be above 0")
    for start, end in args.span:
        if not 0 <= start < end:
            raise UserError(f"--span {start:g} {end:g}: START must be 0 or more, and below END")
    settings = Settings(
        (bucket,), args.policy, args.filter, fps, _SEGMENT_WINDOWS, _PACK_BYTES, args.seconds
    )
    return named(args.files, [(start, end) for start, end in args.span], settings, folder)


def benchmark_decode(works: Sequence[Work], turns: int) -> None:
    """Measure every way on every clip; print a table for each, and last JSON."""
    command, missing = ffmpeg_path(), torchcodec_missing()
    version = None if command is None else ffmpeg_version(command)
    print(
        f"ffmpeg {version}" if version else "ffmpeg is not installed, so nothing is a share of it"
    )
    if missing is not None:
        print(f"torchcodec is left out: {missing}")
    found = []
    with contextlib.ExitStack() as stack:
        ways = _ways(stack, command, missing is None)
        for work in works:
            ways[ISOLATED](work)  # its process starts, once for all files
            costs = in_turns(turns, {name: partial(way, work) for name, way in ways.items()})
            _print(work, costs)
            others = (name for name in costs if name != PIPELINE)
            wall = statistics.median(
                one.wall_seconds / two.wall_seconds
                for one, two in zip(costs[PIPELINE], costs[ISOLATED], strict=True)
            )
            print(f"isolated, frames a second: {wall:.3f} of the pipeline's in this process")
            shares = {name: share(costs[PIPELINE], costs[name]) for name in others}
            told = {"ways": as_json(costs), "pipeline_share_of": shares, "isolated_speed": wall}
            found.append(_described(work) | told)
    print(json.dumps({**conditions(), "ffmpeg": version, "turns": turns, "clips": found}))


def _ways(
    stack: contextlib.ExitStack, command: str | None, torchcodec: bool
) -> dict[str, Callable[[Work], Cost]]:
    """What measures each way on a clip, in a process of its own."""
    functions: dict[str, Callable[[Work], int]] = {
        PIPELINE: decode_as_the_pipeline,
        ISOLATED: decode_isolated,
        "PyAV": decode_with_pyav,
        "PyAV, no scaling": decode_alone,
    }
    if torchcodec:
        functions["torchcodec"] = decode_with_torchcodec
    calls = {name: stack.enter_context(process_of_its_own()) for name in functions}
    ways: dict[str, Callable[[Work], Cost]] = {
        name: partial(calls[name], measured, function) for name, function in functions.items()
    }
    isolated = ways[ISOLATED]
    ways[ISOLATED] = lambda work: replace(isolated(work), peak_bytes=None)
    if command is None:
        return ways
    start = ffmpeg_start(command)

    def ffmpeg(flags: str) -> Callable[[Work], Cost]:
        return lambda work: decode_with_ffmpeg(command, work, flags, start)

    return {PIPELINE: ways.pop(PIPELINE), FFMPEG: ffmpeg(""), FFMPEG_EXACT: ffmpeg(EXACT), **ways}


def _print(work: Work, costs: Mapping[str, Sequence[Cost]]) -> None:
    facts, geometry = work.facts, work.geometry
    rate = "all frames" if work.fps is None else f"{float(work.fps):g} frames a second"
    spans = ", ".join(f"{start or 0:g} to {end:g} s" for start, end in work.spans if end)
    clips = f", {spans}" if spans else ""
    print(
        f"\n{work.name}: {facts.codec} {facts.width}x{facts.height}{clips}, {rate}, to "
        f"{geometry.bucket.width}x{geometry.bucket.height} ({work.policy}, {work.filter})"
    )
    heads = ("frames", "/ CPU s", "/ s", "CPU ms each", "memory", "of ffmpeg")
    print(" " * 18 + " ".join(f"{head:>11}" for head in heads))
    for name, turns in costs.items():
        rates = Rates.of(turns)
        cells = [f"{rates.units}", f"{rates.per_cpu_second:.1f}", f"{rates.per_second:.1f}"]
        cells += [f"{1000 / rates.per_cpu_second:.2f}"]
        cells += ["" if rates.peak_bytes is None else human_bytes(rates.peak_bytes)]
        cells += [f"{share(turns, costs[FFMPEG]):.2f}" if FFMPEG in costs else ""]
        print(f"{name:18}" + " ".join(f"{cell:>11}" for cell in cells))


def _described(work: Work) -> dict[str, Any]:
    facts, bucket = work.facts, work.geometry.bucket
    return {
        "name": work.name,
        "codec": facts.codec,
        "width": facts.width,
        "height": facts.height,
        "spans": work.spans,
        "bucket": bucket.name,
        "policy": work.policy,
        "filter": work.filter,
        "fps": None if work.fps is None else str(work.fps),
    }
