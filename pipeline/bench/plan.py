"""Memory and time of a driver until its first task: the list, the plan and the committer.

Examples:
  python jobs/benchmark.py plan --sources 10000 --windows 2000
  python jobs/benchmark.py plan --sources 100000 1000000 --windows 20

A Parquet list of new sources, with captions and with columns that stand for headers, is read as a
run reads it, planned into an empty cache for 64 encoders and 256 decode tasks, and given to a
committer, in a process of its own for every number. `code` is what the driver holds before,
`catalog` what the list adds, `sources`, `units` and `committer` what is held of the plan while a
run works; `peak` is the highest of the whole process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.bench.apart import apart
from pipeline.bench.build import bench_config, write_hinted_list
from pipeline.bench.measure import conditions, resident_bytes
from pipeline.buckets import Bucket
from pipeline.catalog import Catalog, read_catalog
from pipeline.cli import positive
from pipeline.commit import Committer
from pipeline.errors import UserError
from pipeline.forecast import make_forecast
from pipeline.graph import UNITS_AT_ONCE
from pipeline.manifest import Manifest
from pipeline.plan import make_plan
from pipeline.ray_runner import RayRunner
from pipeline.recipe import Recipe
from pipeline.report import human_bytes, plan_text
from pipeline.resolving import resolve
from pipeline.storage import Store

_RUN = "bench"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--sources", type=positive, nargs="+", default=[100_000])
    parser.add_argument("--windows", type=positive, default=20, help="of each source (20)")
    parser.add_argument("--height", type=int, default=256, help="of the bucket, in pixels (256)")
    parser.add_argument("--width", type=int, default=256, help="of the bucket, in pixels (256)")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")


def run(args: argparse.Namespace) -> None:
    """Measure and print. Raises ``UserError``."""
    try:
        bucket = Bucket(args.height, args.width)
    except ValueError as error:
        raise UserError(str(error)) from error
    sizes = ("code", "catalog", "sources", "units", "committer", "peak")
    heads = ("sources", "units", "packs", *sizes, "seconds")
    print(" ".join(f"{head:>9}" for head in heads))
    found = []
    for count in args.sources:
        with tempfile.TemporaryDirectory(dir=args.folder) as name:
            apart(write_hinted_list, Path(name), count, args.windows)
            one = _apart(Path(name), bucket)
        found.append(asdict(one))
        cells = [f"{one.sources}", f"{one.units}", f"{one.packs}"]
        cells += [human_bytes(found[-1][f"{size}_bytes"]) for size in sizes]
        print(" ".join(f"{cell:>9}" for cell in [*cells, f"{one.seconds:.1f}"]), flush=True)
    print(json.dumps({**conditions(), "plans": found}))


@dataclass(frozen=True)
class Planned:
    """One plan, and what it took of the memory of its process."""

    sources: int
    units: int
    packs: int
    code_bytes: int
    catalog_bytes: int
    sources_bytes: int
    units_bytes: int
    committer_bytes: int
    peak_bytes: int
    seconds: float


def planned(folder: Path, bucket: Bucket) -> Planned:
    """Do what a driver does until its first task. Raises ``UserError``."""
    config = bench_config(folder, [bucket])
    workers = {"encoders": 64, "decode_tasks": 256, "runner": "ray"}
    config = config.model_copy(update={"run": config.run.model_copy(update=workers)})
    config, contract = resolve(config)
    recipe, runner = Recipe.from_config(config, contract), RayRunner(config)
    manifest = Manifest(Store(config.output.uri, config.storage))
    code, catalog, begun = _resident(), 0, time.perf_counter()

    def listed() -> Catalog:
        nonlocal catalog
        found = read_catalog(config, keep=True)
        pa.default_memory_pool().release_unused()
        catalog = _resident() - code
        return found

    plan = make_plan(config, listed(), manifest, recipe, _RUN, runner.probe)
    plan_text(plan, make_forecast(config, contract, manifest, plan.windows))
    manifest.append_columns(_RUN, plan.columns)
    before = _resident()
    committer = Committer(manifest, _RUN, contract.contract_id, plan.sources, 30.0, plan.carried)
    committer.settle()
    after = _resident()
    for first in range(0, len(plan.units), UNITS_AT_ONCE):
        for unit in plan.units[first : first + UNITS_AT_ONCE]:
            unit.to_json()
    seconds = time.perf_counter() - begun
    if committer.tally.statuses:
        raise RuntimeError(f"sources ended without any work: {dict(committer.tally.statuses)}")
    return Planned(
        len(plan.sources),
        len(plan.units),
        plan.packs,
        code,
        catalog,
        plan.sources.nbytes,
        plan.units.nbytes,
        after - before,
        resident_bytes(os.getpid()) or 0,
        seconds,
    )


def _apart(folder: Path, bucket: Bucket) -> Planned:
    """``planned`` in a process that loads what a driver does, and not all benchmarks."""
    command = (sys.executable, "-m", "pipeline.bench.plan", str(folder), bucket.name)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return Planned(**json.loads(done.stdout))


def _resident() -> int:
    return resident_bytes(os.getpid(), "VmRSS") or 0


if __name__ == "__main__":
    print(json.dumps(asdict(planned(Path(sys.argv[1]), Bucket.parse(sys.argv[2])))))
