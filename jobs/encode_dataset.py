"""Encode a video dataset into a published cache of Step-Video VAE latents.

Examples:
  python jobs/encode_dataset.py --config configs/demo.yaml
  python jobs/encode_dataset.py --config configs/t2v_540p.yaml \\
      --dataset s3://bucket/clips.parquet --output s3://bucket/latents --plan
  ray job submit --working-dir . -- python jobs/encode_dataset.py --config configs/t2v_540p.yaml

Run it again at any time: what is encoded already is not decoded again. The last line of stdout is a
JSON object. Exit codes: 0 done; 1 usage or configuration; 2 more failed sources than
max_failure_rate; 143 stopped by SIGTERM.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from pipeline.config import load_config
from pipeline.errors import UserError
from pipeline.job import EXIT_USAGE, JobOptions, run_job


class _Parser(argparse.ArgumentParser):
    """argparse exits with 2, which here means failed sources; usage errors exit with 1."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"error: {message}\n")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = _Parser(
        prog="encode_dataset.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what")
    what.add_argument("--config", metavar="YAML", required=True, help="configuration file")
    what.add_argument("--dataset", metavar="URI", help="overrides dataset.uri")
    what.add_argument("--output", metavar="URI", help="overrides output.uri")
    what.add_argument("--limit", metavar="N", type=int, help="the first N sources only")
    what.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override any key, e.g. --set windows.fps=24; may be repeated",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--plan", action="store_true", help="print what would be done, and stop")
    how.add_argument(
        "--overwrite", action="store_true", help="encode everything anew, also under a new contract"
    )
    how.add_argument(
        "--retry-failed", action="store_true", help="try all failed sources again, whatever failed"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, configure, run; returns the exit code."""
    args = make_parser().parse_args(arguments)
    fields: dict[str, Any] = {
        "dataset.uri": args.dataset,
        "output.uri": args.output,
        "dataset.limit": args.limit,
    }
    try:
        given = {name: value for name, value in fields.items() if value is not None}
        config = load_config(args.config, args.set, given)
        options = JobOptions(args.plan, args.overwrite, args.retry_failed)
        return run_job(config, options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
