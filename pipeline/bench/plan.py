"""Memory and time of a plan: sources that are to be encoded, and the tasks they are cut into.

Examples:
  python jobs/benchmark.py plan --sources 10000 --windows 2000
  python jobs/benchmark.py plan --sources 100000 1000000 --windows 20

Sources with facts as a header gives them, all new, are cut into units for 64 encoders and 256
decode tasks, in a process of its own for every number. Nothing is read or written. `sources` and
`units` are what each adds to the memory of the driver; `code` is what it holds before.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from pipeline.bench.apart import apart
from pipeline.bench.measure import conditions, resident_bytes
from pipeline.buckets import Bucket
from pipeline.cli import positive
from pipeline.config import load_config
from pipeline.identity import stable_hash
from pipeline.recipe import Recipe
from pipeline.report import human_bytes
from pipeline.sources import SourcePlan
from pipeline.tasks import make_units
from pipeline.video.facts import VideoFacts
from pipeline.weights import make_contract, resolve_vae
from pipeline.windows import WINDOW_FRAMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--sources", type=positive, nargs="+", default=[100_000])
    parser.add_argument("--windows", type=positive, default=20, help="of each source (20)")
    parser.add_argument("--height", type=int, default=256, help="of the bucket, in pixels (256)")
    parser.add_argument("--width", type=int, default=256, help="of the bucket, in pixels (256)")


def run(args: argparse.Namespace) -> None:
    """Measure and print. Raises ``UserError``."""
    heads = ("sources", "units", "packs", "code", "sources", "units", "seconds")
    print(" ".join(f"{head:>10}" for head in heads))
    found = []
    for count in args.sources:
        one = apart(planned, count, args.windows, args.height, args.width)
        found.append(asdict(one))
        sizes = (one.code_bytes, one.sources_bytes, one.units_bytes)
        print(
            f"{one.sources:>10} {one.units:>10} {one.packs:>10} "
            + " ".join(f"{human_bytes(size):>10}" for size in sizes)
            + f" {one.seconds:>10.1f}",
            flush=True,
        )
    print(json.dumps({**conditions(), "plans": found}))


@dataclass(frozen=True)
class Planned:
    """One plan, and what it took of the memory of its process."""

    sources: int
    units: int
    packs: int
    code_bytes: int
    sources_bytes: int
    units_bytes: int
    seconds: float


def planned(count: int, windows: int, height: int, width: int) -> Planned:
    """Make the sources, then the units. Raises ``UserError`` for a bucket that is none."""
    fields = {
        "dataset.uri": "unused",
        "output.uri": "unused",
        "windows.fps": "24",
        "buckets": [{"height": height, "width": width}],
        "vae.random_seed": 0,
        "vae.widths": {"encoder_ch": 32, "encoder_ch_mult": [1, 1, 1, 8]},
        "run.encoders": 64,
        "run.decode_tasks": 256,
    }
    config = load_config(None, (), fields)
    config = config.model_copy(update={"vae": resolve_vae(config.vae, config.storage)})
    recipe = Recipe.from_config(config, make_contract(config))
    bucket, begun, code = config.bucket_list[0], time.perf_counter(), _resident()
    sources = list(_sources(count, windows, bucket))
    with_sources = _resident()
    units = make_units(config, recipe, sources)
    return Planned(
        count,
        len(units),
        sum(unit.pack_count for unit in units),
        code,
        with_sources - code,
        _resident() - with_sources,
        time.perf_counter() - begun,
    )


def _sources(count: int, windows: int, bucket: Bucket) -> Iterator[SourcePlan]:
    frames = WINDOW_FRAMES * windows
    for n in range(count):
        identity = stable_hash([n])
        yield SourcePlan(
            source_id=identity,
            user_id=None,
            uri=f"s3://bucket/clips/{n // 1000:06d}/{n:09d}.mp4",
            start=None,
            end=None,
            version=f"{identity[:16]}-{n}",
            pinned=True,
            revision=1,
            attempts=0,
            facts=VideoFacts(
                width=1280,
                height=720,
                coded_width=1280,
                coded_height=720,
                sar_num=1,
                sar_den=1,
                rotation=0,
                fps=24.0,
                frames=frames,
                duration=frames / 24,
                codec="h264",
                pixel_format="yuv420p",
                time_base_num=1,
                time_base_den=12288,
                origin=0,
                container="mov,mp4,m4a,3gp,3g2,mj2",
                is_image=False,
            ),
            recipe="r",
            window_recipe="w",
            generation=stable_hash([identity]),
            buckets=(bucket,),
        )


def _resident() -> int:
    return resident_bytes(os.getpid(), "VmRSS") or 0
