"""Many committers at once on one manifest: how long a commit takes, and whether anything is lost.

Examples:
  python jobs/benchmark.py commits /mnt/latents --committers 16
  python -m tests.s3 python jobs/benchmark.py commits s3://t2v/commits --committers 1 4 16

Each committer is a process of its own, as the driver of a cell is. It appends --commits times, each
time --rows segments to the table `samples`, with no pause in between: cells commit every
`run.commit_seconds`, so that as many committers as here stand for many more cells. Afterwards the
table is read and every row looked for. The folder of the tables is made beneath URI and removed.
"""

import argparse
import json
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import Any

from pipeline.bench.measure import conditions
from pipeline.bench.write import fields_at, removed
from pipeline.cli import positive
from pipeline.config import Config, load_config
from pipeline.errors import UserError
from pipeline.identity import stable_hash
from pipeline.manifest import Manifest, now
from pipeline.storage import Store
from pipeline.windows import WINDOW_FRAMES

_WINDOWS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("uri", metavar="URI", help="a folder, or s3://bucket/prefix")
    parser.add_argument("--committers", type=positive, nargs="+", default=[1, 4, 16])
    parser.add_argument("--commits", type=positive, default=10, help="of each committer (10)")
    parser.add_argument("--rows", type=positive, default=100, help="segments of a commit (100)")


def run(args: argparse.Namespace) -> None:
    """Measure and print. Raises ``UserError``."""
    found = []
    print(f"{'committers':>10} {'p50 s':>8} {'p99 s':>8} {'commits/s':>10} {'lost':>6}")
    for count in args.committers:
        uri = f"{args.uri.rstrip('/')}/benchmark-{time.time_ns():x}"
        config = load_config(None, (), fields_at(uri))
        with removed(config):
            one = committers(config, count, args.commits, args.rows)
        found.append(one)
        print(
            f"{one.committers:>10} {one.p50_seconds:>8.3f} {one.p99_seconds:>8.3f} "
            f"{one.commits_per_second:>10.3g} {one.lost_rows:>6}"
        )
    print(json.dumps({**conditions(), "turns": [asdict(one) for one in found]}))
    if any(one.lost_rows or one.double_rows for one in found):
        raise UserError("rows that were committed are not in the table, or are there twice")


@dataclass(frozen=True)
class Together:
    """So many committers at once: seconds of a commit, and rows missing or double afterwards."""

    committers: int
    p50_seconds: float
    p99_seconds: float
    commits_per_second: float
    lost_rows: int
    double_rows: int


def committers(config: Config, count: int, commits: int, rows: int) -> Together:
    """Have committers append at once."""
    manifest = Manifest(Store(config.output.uri, config.storage))
    manifest.append("samples", _rows("first", 0, 1))
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        list(pool.map(time.sleep, [0.5] * count))  # all have started
        begun = time.monotonic()
        names = [f"committer-{n}" for n in range(count)]
        work = [pool.submit(_commit, config, name, commits, rows) for name in names]
        seconds = [second for done in work for second in done.result()]
        wall = time.monotonic() - begun
    found = manifest.read("samples", columns=["segment_id"])["segment_id"].to_pylist()
    wanted = {row["segment_id"] for n in names for k in range(commits) for row in _rows(n, k, rows)}
    ranked = sorted(seconds)
    return Together(
        count,
        statistics.median(ranked),
        ranked[int(0.99 * (len(ranked) - 1))],
        len(ranked) / wall,
        len(wanted.difference(found)),
        len(found) - len(set(found)),
    )


def _rows(name: str, commit: int, rows: int) -> list[dict[str, Any]]:
    """Segments of twelve windows, as the write stage tells of them."""
    firsts = [WINDOW_FRAMES * n for n in range(_WINDOWS)]
    shared = {
        "run_id": name,
        "bucket": "h544w992",
        "height": 544,
        "width": 992,
        "first_window": 0,
        "windows": _WINDOWS,
        "frames": WINDOW_FRAMES,
        "shard": f"shards/{stable_hash([name, commit])}.safetensors",
        "pts": [[512 * (first + n) for n in range(WINDOW_FRAMES)] for first in firsts],
        "time_base_num": 1,
        "time_base_den": 12288,
        "first_frames": firsts,
        "valid_frames": [WINDOW_FRAMES] * _WINDOWS,
        "fps": 24.0,
        "geometry": "{}",
        "statistic": "moments",
        "dtype": "float16",
        "last": True,
        "frames_actual": WINDOW_FRAMES * _WINDOWS,
        "committed_at": now(),
    }
    found = []
    for row in range(rows):
        ids = [stable_hash([name, commit, row, n]) for n in range(_WINDOWS)]
        own = {"segment_id": ids[0], "source_id": ids[1], "generation": ids[2]}
        tensors = {"first_row": row * _WINDOWS, "sample_ids": ids, "checksums": ids}
        found.append({**shared, **own, **tensors})
    return found


def _commit(config: Config, name: str, commits: int, rows: int) -> list[float]:
    manifest = Manifest(Store(config.output.uri, config.storage))
    seconds = []
    for commit in range(commits):
        some = _rows(name, commit, rows)
        begun = time.monotonic()
        manifest.append("samples", some)
        seconds.append(time.monotonic() - begun)
    return seconds
