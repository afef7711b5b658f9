"""Measure the parts of the pipeline on this machine.

Examples:
  python jobs/benchmark.py refresh --sources 100000 300000 1000000
  python -m tests.s3 python jobs/benchmark.py listing s3://t2v/clips --objects 100000

refresh: refreshes in which nothing, and one source, changed, of caches of the given sizes, built by
the manifest's own code in a temporary folder. Each measurement runs in a process of its own, so
that its peak of resident memory is its own. With two sizes or more, time and memory at 100,000,000
windows follow from a linear fit.

listing: listing objects on S3 as a run does, against raw ListObjectsV2 pages, in turns. Fills the
prefix with tiny objects first, if it holds none. The endpoint comes from AWS_ENDPOINT_URL, and
`python -m tests.s3 COMMAND` runs a command beside the tests' own S3 server.

Prints a table, last one JSON object.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.bench.listing import benchmark_listing
from pipeline.bench.refresh import benchmark_refresh
from pipeline.cli import Parser
from pipeline.config import StorageConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    args = _parser().parse_args(arguments)
    if args.command == "refresh":
        benchmark_refresh(args.sources, args.windows_per_source, args.folder)
    else:
        endpoint = os.environ.get("AWS_ENDPOINT_URL") or None
        benchmark_listing(args.uri, args.objects, StorageConfig(endpoint_url=endpoint))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="benchmark.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    refresh = commands.add_parser("refresh", help="refresh caches of given sizes")
    refresh.add_argument("--sources", type=int, nargs="+", default=[100_000])
    refresh.add_argument("--windows-per-source", type=int, default=10)
    refresh.add_argument("--folder", type=Path, help="where the temporary folder is made")
    listing = commands.add_parser("listing", help="list objects on S3")
    listing.add_argument("uri", help="prefix, e.g. s3://bucket/prefix; filled if it is empty")
    listing.add_argument("--objects", type=int, default=100_000)
    return parser


if __name__ == "__main__":
    sys.exit(main())
