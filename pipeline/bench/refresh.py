"""How long a refresh takes in which nothing, or one source, changed, by the size of the cache.

Caches of the given sizes are built by the manifest's own code in a temporary folder, without any
video. Each measurement runs in a process of its own, so that its peak of resident memory is its
own. With two sizes or more, time and memory at 100,000,000 windows follow from a linear fit.
"""

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.bench.apart import apart
from pipeline.bench.build import bench_config, build, change_one
from pipeline.bench.measure import resident_bytes
from pipeline.catalog import read_catalog
from pipeline.errors import Reason, SourceError, UserError
from pipeline.job import EXIT_DONE, JobOptions, run_job
from pipeline.manifest import Manifest
from pipeline.plan import ProbeAnswer, make_plan
from pipeline.recipe import Recipe
from pipeline.report import human_bytes
from pipeline.storage import Store
from pipeline.weights import make_contract

_FAR = 100_000_000
"""Windows for which time and memory are told from what was measured."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--sources", type=int, nargs="+", default=[100_000])
    parser.add_argument("--windows-per-source", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    benchmark_refresh(args.sources, args.windows_per_source, args.folder)


@dataclass(frozen=True)
class Parts:
    """Seconds of listing (reading the dataset's list and hashing its rows) and of planning."""

    listing_seconds: float
    plan_seconds: float


@dataclass(frozen=True)
class Whole:
    """One refresh as ``jobs/refresh_cache.py`` runs it, and the peak of resident memory."""

    seconds: float
    peak_resident_bytes: int


@dataclass(frozen=True)
class Measured:
    """Refreshes of one cache; ``unchanged`` and ``one_changed`` are whole runs."""

    sources: int
    windows: int
    parts: Parts
    unchanged: Whole
    one_changed: Whole


def measure_parts(folder: Path) -> Parts:
    """List and plan over what ``build`` made."""
    config = bench_config(folder)
    recipe = Recipe.from_config(config, make_contract(config))
    manifest = Manifest(Store(config.output.uri, config.storage))
    begun = time.monotonic()
    catalog = read_catalog(config)
    listed = time.monotonic()
    plan = make_plan(config, catalog, manifest, recipe, "bench", _no_header)
    if plan.changes_anything or plan.kinds["reusable"] != plan.total:
        raise RuntimeError(f"the plan found {dict(plan.kinds)}: not all is as it was built")
    return Parts(listed - begun, time.monotonic() - listed)


def measure_whole(folder: Path, windows: int) -> Whole:
    """Refresh what ``build`` made, of which a source of ``windows`` windows has changed."""
    printed = io.StringIO()
    begun = time.monotonic()
    with contextlib.redirect_stdout(printed):
        code = run_job(bench_config(folder), JobOptions())
    seconds = time.monotonic() - begun
    report = json.loads(printed.getvalue().splitlines()[-1])
    state = report["sources"]
    if code != EXIT_DONE or report["windows"] != windows or state["ok"] != state["total"]:
        raise RuntimeError(f"the refresh ended with {code}, and not as expected: {report}")
    peak = resident_bytes(os.getpid())
    if peak is None:
        raise UserError("this system does not tell the peak memory of a process (VmHWM)")
    return Whole(seconds, peak)


def at_windows(measured: Sequence[Measured], windows: int) -> Whole:
    """Seconds and memory of an unchanged refresh at a number of windows, by a linear fit."""
    sizes = [one.windows for one in measured]
    figures = [(one.unchanged.seconds, one.unchanged.peak_resident_bytes) for one in measured]
    seconds, peak = np.array([1, windows]) @ np.polynomial.polynomial.polyfit(sizes, figures, 1)
    return Whole(float(seconds), round(peak))


def _no_header(files: Sequence[tuple[str, str | None]]) -> list[ProbeAnswer]:
    """Where nothing changed, no header is asked for."""
    return [SourceError(Reason.MISSING, "not there") for _ in files]


def benchmark_refresh(sizes: Sequence[int], windows: int, folder: Path | None) -> None:
    """Build caches of ``sizes`` sources in ``folder``, measure, print a table and last JSON."""
    found = [_measure(sources, windows, folder) for sources in sizes]
    names = ("sources", "windows", "listing", "plan", "whole", "peak", "one changed", "peak")
    print(" ".join(f"{name:>11}" for name in names))
    for one in found:
        seconds = (one.parts.listing_seconds, one.parts.plan_seconds, one.unchanged.seconds)
        cells = [f"{one.sources:,}", f"{one.windows:,}", *(f"{s:.1f} s" for s in seconds)]
        cells += [human_bytes(one.unchanged.peak_resident_bytes)]
        cells += [f"{one.one_changed.seconds:.1f} s"]
        cells += [human_bytes(one.one_changed.peak_resident_bytes)]
        print(" ".join(f"{cell:>11}" for cell in cells))
    far = at_windows(found, _FAR) if len(found) > 1 else None
    if far is not None:
        peak = human_bytes(far.peak_resident_bytes)
        print(f"{_FAR:,} windows, by a linear fit: {far.seconds:.0f} s, {peak}")
    fitted = None if far is None else {"windows": _FAR, **asdict(far)}
    print(json.dumps({"measured": [asdict(one) for one in found], "fitted": fitted}))


def _measure(sources: int, windows: int, parent: Path | None) -> Measured:
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        apart(build, folder, sources, windows)
        parts = apart(measure_parts, folder)
        unchanged = apart(measure_whole, folder, 0)
        apart(change_one, folder)
        return Measured(
            sources, sources * windows, parts, unchanged, apart(measure_whole, folder, 1)
        )
