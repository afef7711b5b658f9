"""Measure the parts of the pipeline on this machine.

Examples:
  python jobs/benchmark.py refresh --sources 100000
  python jobs/benchmark.py refresh --sources 1000000 --windows-per-source 10

refresh: a refresh in which nothing, and one source, changed, over a manifest of the given size,
built by the manifest's own code in a temporary folder. Each measurement runs in a process of its
own, so that its peak of resident memory is its own. Prints a table, last a JSON array.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from pipeline.bench.refresh import build, change_one, measure
from pipeline.cli import Parser
from pipeline.report import human_bytes

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    args = _parser().parse_args(arguments)
    found = []
    for sources in args.sources:
        with tempfile.TemporaryDirectory(dir=args.folder) as name:
            folder = Path(name)
            _apart(build, folder, sources, args.windows_per_source)
            found.append(_apart(measure, folder, 0))
            _apart(change_one, folder)
            found.append(_apart(measure, folder, 1))
    print(f"{'sources':>10} {'changed':>8} {'listing':>9} {'plan':>9} {'peak':>9}")
    for one in found:
        print(
            f"{one.sources:>10} {one.changed:>8} {one.listing_seconds:>7.1f} s "
            f"{one.plan_seconds:>7.1f} s {human_bytes(one.peak_resident_bytes):>9}"
        )
    print(json.dumps([asdict(one) for one in found]))
    return 0


def _apart(function: Callable[..., T], *arguments: object) -> T:
    """Call in a fresh process, whose memory and caches are its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="benchmark.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    refresh = commands.add_parser("refresh", help="plan over a manifest of a given size")
    refresh.add_argument("--sources", type=int, nargs="+", default=[100_000])
    refresh.add_argument("--windows-per-source", type=int, default=10)
    refresh.add_argument("--folder", type=Path, help="where the temporary folder is made")
    return parser


if __name__ == "__main__":
    sys.exit(main())
