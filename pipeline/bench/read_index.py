"""How long the first batch takes in a large cache, and what memory a worker has over an epoch."""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.bench.apart import apart
from pipeline.bench.build import bench_config, build
from pipeline.bench.measure import conditions, resident_bytes
from pipeline.buckets import Bucket
from pipeline.cli import positive
from pipeline.manifest import Manifest
from pipeline.reader.build import publish_index
from pipeline.recipe import latent_shape
from pipeline.report import human_bytes
from pipeline.storage import Store
from pipeline.windows import WINDOW_FRAMES

_WINDOWS = 12
_BUCKET = Bucket(32, 32)
"""Small: the index and the order are measured, not the latents."""

_BATCH = 64
_FAR = 10**8
"""Windows, and segments, for which time and memory are told from what was measured."""


@dataclass(frozen=True)
class Opened:
    """One reader's process.

    ``first_seconds``: from the call of ``LatentDataset`` to the first batch where this machine has
    not seen the snapshot yet; ``again_seconds``: where it has; ``epoch_bytes``: resident memory of
    the process after each fifth of an epoch that reads every window once.
    """

    first_seconds: float
    again_seconds: float
    code_bytes: int
    first_bytes: int
    epoch_bytes: list[int]
    epoch_seconds: float


@dataclass(frozen=True)
class Measured:
    """Of one size: seconds to build the index from the tables, its bytes, and a reader."""

    segments: int
    windows: int
    build_seconds: float
    index_bytes: int
    opened: Opened


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this part."""
    parser.add_argument(
        "--index-segments",
        type=positive,
        nargs="+",
        metavar="N",
        help="instead: caches of so many segments of 12 tiny windows, with real tables and index "
        "and shards that are holes",
    )


def benchmark_index(folder: Path, sizes: Sequence[int]) -> None:
    """Measure caches of ``sizes`` segments; print a table and last JSON."""
    found = [_measure(folder / str(size), size) for size in sizes]
    heads = ("segments", "windows", "index", "built", "first batch", "again", "code", "worker")
    print(" ".join(f"{head:>12}" for head in heads) + "  over the epoch")
    for one in found:
        opened = one.opened
        cells = [f"{one.segments:,}", f"{one.windows:,}", human_bytes(one.index_bytes)]
        times = (one.build_seconds, opened.first_seconds, opened.again_seconds)
        cells += [f"{seconds:.2f} s" for seconds in times]
        cells += [human_bytes(opened.code_bytes), human_bytes(opened.first_bytes)]
        growth = ", ".join(map(human_bytes, opened.epoch_bytes))
        print(" ".join(f"{cell:>12}" for cell in cells) + f"  {growth}")
    far = {}
    if len(found) > 1:
        far = {
            name: _at(found, _FAR // per) for name, per in (("windows", _WINDOWS), ("segments", 1))
        }
        for name, told in far.items():
            print(
                f"{_FAR:,} {name}, by a linear fit: first batch {told['first_seconds']:.1f} s, "
                f"again {told['again_seconds']:.1f} s, "
                f"worker {human_bytes(round(told['epoch_bytes']))}"
            )
    print(json.dumps({**conditions(), "measured": [asdict(one) for one in found], "fitted": far}))


def _at(found: Sequence[Measured], segments: int) -> dict[str, float]:
    sizes = [one.segments for one in found]
    names = ("first_seconds", "again_seconds", "epoch_bytes")
    figures = [
        (one.opened.first_seconds, one.opened.again_seconds, max(one.opened.epoch_bytes))
        for one in found
    ]
    values = np.array([1, segments]) @ np.polynomial.polynomial.polyfit(sizes, figures, 1)
    return dict(zip(names, map(float, values), strict=True))


def _measure(folder: Path, segments: int) -> Measured:
    folder.mkdir(parents=True)
    apart(build, folder, segments, _WINDOWS, (_BUCKET,))
    seconds = apart(_index, folder)
    apart(_holes, folder)
    index = Path(bench_config(folder).output.uri) / "index"
    size = sum(path.stat().st_size for path in index.iterdir())
    return Measured(segments, segments * _WINDOWS, seconds, size, apart(_read, folder))


def _manifest(folder: Path) -> Manifest:
    config = bench_config(folder)
    return Manifest(Store(config.output.uri, config.storage))


def _index(folder: Path) -> float:
    manifest = _manifest(folder)
    begun = time.monotonic()
    publish_index(manifest, manifest.snapshot())
    return time.monotonic() - begun


def _holes(folder: Path) -> None:
    """Shards with a header and no data: what is read of them are zeros."""
    manifest = _manifest(folder)
    snapshot = manifest.snapshot()
    contract = snapshot.contract
    rows = manifest.read("samples", columns=["shard", "first_row", "windows"])
    last = rows.group_by("shard").aggregate([("first_row", "max")])
    shape = latent_shape(contract, _BUCKET, WINDOW_FRAMES)
    each = int(np.prod(shape)) * np.dtype(contract.dtype).itemsize
    kind = {"float16": "F16", "float32": "F32"}[contract.dtype]
    for row in last.to_pylist():
        count = row["first_row_max"] + _WINDOWS
        fields = {
            name: {
                "dtype": kind,
                "shape": [count, *shape],
                "data_offsets": [n * count * each, (n + 1) * count * each],
            }
            for n, name in enumerate(contract.tensors)
        }
        text = json.dumps(fields).encode()
        path = Path(manifest.store.uri) / row["shard"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        os.truncate(path, 8 + len(text) + len(contract.tensors) * count * each)


def _read(folder: Path) -> Opened:
    from pipeline.reader.dataset import LatentDataset

    uri = bench_config(folder).output.uri
    code = _resident()

    def opened() -> LatentDataset:
        return LatentDataset(
            uri,
            clip_frames=WINDOW_FRAMES * _WINDOWS,
            batch_size=_BATCH,
            statistic="mean",
            local_dir=folder / "local",
        )

    seconds = []
    for _ in range(2):
        begun = time.monotonic()
        dataset = opened()
        next(iter(dataset))
        seconds.append(time.monotonic() - begun)
    first = _resident()
    dataset, held = opened(), []
    begun = time.monotonic()
    fifth = max(1, len(dataset) // 5)
    for number, _ in enumerate(dataset, 1):
        if number % fifth == 0:
            held.append(_resident())
    return Opened(seconds[0], seconds[1], code, first, held, time.monotonic() - begun)


def _resident() -> int:
    return resident_bytes(os.getpid(), "VmRSS") or 0
