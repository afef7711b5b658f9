"""How fast a trainer gets batches, against other loaders and raw reading of the same bytes.

Examples:
  python jobs/benchmark.py read /mnt/scratch
  python -m tests.s3 python jobs/benchmark.py read s3://t2v/scratch
  python jobs/benchmark.py read --config configs/t2v_540p.yaml --bytes 500MB
  python jobs/benchmark.py read /mnt/scratch --index-segments 250000 1000000

A cache of random moments of 544x992 windows, two tensors of 3x64x34x62 in float16 a sample, is
written and published in a folder of its own, which is removed at the end. Then, in turns, each in a
process of its own and with one thread:

  reader       LatentDataset, statistic="moments", shuffled: the bytes as they are stored
  reader, in order
               the same with shuffle=False, as raw and the other loaders read
  reader, parquet
               the same from a second cache with the other --format
  drawn        as reader, with statistic="sample": draws from the posterior, which others do not
  webdataset, mds, litdata
               copies of the same samples through their own loaders, unshuffled; those that are
               installed (the extra `bench`, in a venv of its own)
  raw          the cache's shards from begin to end into one buffer of a batch's size
  raw, shuffled
               from S3: the same ranges in random order, as a shuffling trainer asks for them

On a local disk first warm (all is in the page cache), then cold (POSIX_FADV_DONTNEED before every
turn). Every turn begins with another way: with a multiple of their number as --turns, each comes
first as often as others, and none gains from what the machine below this one keeps of the files.
From S3 raw is botocore's GetObject for ranges of a statistic of a sample, as many at once as the
reader has; other loaders download whole shards to a disk first and are left out. `of raw`,
`of shuffled` and `of best` (of the other loaders) are medians over the turns of samples a second,
`CPU of raw` of samples a CPU second.

--index-segments measures how long the first batch takes in a cache of so many segments, and memory
over a whole epoch; see there. The endpoint of S3 comes from the configuration, or from
AWS_ENDPOINT_URL.
"""

import argparse
import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.bench import read_index
from pipeline.bench.measure import (
    Cost,
    Rates,
    as_json,
    conditions,
    in_turns,
    measured,
    process_of_its_own,
    share,
    wall_share,
)
from pipeline.bench.read_peers import PEERS, prepare_peer, read_peer, why_missing, write_litdata
from pipeline.bench.read_samples import build_cache, export, read_config, sample_bytes
from pipeline.bench.read_ways import forget, prepare, raw_local, raw_s3, read_cache
from pipeline.bench.write import load_output_config, output_arguments, removed
from pipeline.cli import byte_size, positive
from pipeline.config import Config, StorageConfig
from pipeline.errors import UserError
from pipeline.report import human_bytes
from pipeline.storage import Store

RAW, SHUFFLED, READER, DRAWN = "raw", "raw, shuffled", "reader", "drawn"
FORMATS = ("safetensors", "parquet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    output_arguments(parser, "output, storage")
    parser.add_argument(
        "--bytes", type=byte_size, default="2GB", metavar="SIZE", help="of samples, at least (2GB)"
    )
    parser.add_argument("--format", choices=FORMATS, default="safetensors")
    parser.add_argument("--batch-size", type=positive, default=8, help="samples of a batch (8)")
    parser.add_argument("--reads", type=positive, default=16, help="requests to S3 at once (16)")
    parser.add_argument("--turns", type=positive, default=3, help="turns of each way (3)")
    read_index.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Measure and print. Raises ``UserError``."""
    config = load_output_config(args, {})
    root, storage = config.output.uri, config.storage
    if args.index_segments and not Store(root, storage).local:
        raise UserError(f"{root}: --index-segments wants a folder")
    with removed(config):
        if args.index_segments:
            read_index.benchmark_index(Path(root), args.index_segments)
        else:
            benchmark_read(root, storage, args)


def benchmark_read(root: str, storage: StorageConfig, args: argparse.Namespace) -> None:
    """Build below ``root``, measure every way; print tables, and last JSON."""
    config = read_config(f"{root}/cache", storage, args.format)
    samples = build_cache(config, args.bytes)
    local = Store(root, storage).local
    print(
        f"{samples} samples of {sample_bytes(config):,} bytes, "
        f"{human_bytes(samples * sample_bytes(config))}, {args.format}, in {root}"
    )
    found: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        ways: dict[str, Callable[[], Cost]] = {}
        cold: dict[str, Callable[[], Cost]] = {}

        def add(
            name: str, ready: Callable[..., None], work: Callable[..., int], *with_: Any
        ) -> None:
            call = stack.enter_context(process_of_its_own())
            call(ready, *with_)
            ways[name] = partial(call, measured, work, *with_)
            cold[name] = partial(_cold, Path(root), ready, work, *with_)

        add(RAW, prepare, raw_local if local else raw_s3, config, args.batch_size, args.reads)
        if not local:
            add(SHUFFLED, prepare, raw_s3, config, args.batch_size, args.reads, True)
        other = next(name for name in FORMATS if name != args.format)
        second = read_config(f"{root}/{other}", storage, other)
        build_cache(second, args.bytes)
        for name, read, statistic, shuffle in (
            (READER, config, "moments", True),
            (f"{READER}, in order", config, "moments", False),
            (f"{READER}, {other}", second, "moments", True),
            (DRAWN, config, "sample", True),
        ):
            add(name, prepare, read_cache, read, args.batch_size, args.reads, statistic, shuffle)
        for name in PEERS if local else ():
            missing = why_missing(name)
            if missing is not None:
                print(f"{name} is left out: {missing}")
                continue
            folder = _copy(name, config, Path(root))
            add(name, prepare_peer, read_peer, name, folder, args.batch_size)
        os.sync()  # what is not yet on the disk cannot leave the page cache
        for kind in ("warm", "cold") if local else ("s3",):
            for way in ways.values() if kind != "cold" else ():
                _check(way(), samples)
            costs = in_turns(args.turns, cold if kind == "cold" else ways)
            for turns in costs.values():
                for cost in turns:
                    _check(cost, samples)
            found[kind] = _told(kind, costs)
    told = {"samples": samples, "sample_bytes": sample_bytes(config), "format": args.format}
    told |= {"batch_size": args.batch_size, "reads": args.reads, "turns": args.turns}
    print(json.dumps({**conditions(), **told, **found}))


def _copy(name: str, config: Config, root: Path) -> str:
    """The samples in a peer's format; where they are."""
    if name == "litdata":
        return write_litdata(config, root / name)
    return export(config, name, root / name)


def _cold(
    root: Path, ready: Callable[..., None], work: Callable[..., int], *arguments: Any
) -> Cost:
    """In a fresh process: what an earlier turn has mapped would stay in memory."""
    with process_of_its_own() as call:
        call(ready, *arguments)
        forget(root)
        cost: Cost = call(measured, work, *arguments)
        return cost


def _check(cost: Cost, samples: int) -> None:
    if cost.units != samples:
        raise RuntimeError(f"{cost.units} samples were read, not {samples}")


def _told(kind: str, costs: Mapping[str, Sequence[Cost]]) -> dict[str, Any]:
    """Print a table; gives the figures."""
    peers = [name for name in costs if name in PEERS]
    best = max(peers, key=lambda name: Rates.of(costs[name]).per_second, default=None)
    print(f"\n{kind}" + ("" if best is None else f"; the best of the other loaders is {best}"))
    heads = ["samples / s", "CPU ms / sample", "memory", "of raw", "CPU of raw"]
    heads += ["of shuffled", "of best"]
    print(" " * 20 + " ".join(f"{head:>15}" for head in heads))
    shares: dict[str, dict[str, float | None]] = {}
    for name, turns in costs.items():
        rates = Rates.of(turns)
        own = shares[name] = {
            "of_raw": wall_share(turns, costs[RAW]),
            "cpu_of_raw": share(turns, costs[RAW]),
            "of_shuffled": wall_share(turns, costs[SHUFFLED]) if SHUFFLED in costs else None,
            "of_best": None if best is None else wall_share(turns, costs[best]),
        }
        peak = "" if rates.peak_bytes is None else human_bytes(rates.peak_bytes)
        cells = [f"{rates.per_second:.0f}", f"{1000 / rates.per_cpu_second:.3f}", peak]
        cells += ["" if value is None else f"{value:.2f}" for value in own.values()]
        print(f"{name:20}" + " ".join(f"{cell:>15}" for cell in cells))
    return {"ways": as_json(costs), "shares": shares, "best": best}
