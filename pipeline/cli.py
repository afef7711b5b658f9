"""The command line that the jobs share: parse, configure, run."""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn, get_args

from pydantic import TypeAdapter, ValidationError

from pipeline.config import StorageConfig, load_config
from pipeline.config_canary import Decibels
from pipeline.config_types import ByteSize
from pipeline.errors import UserError
from pipeline.job import EXIT_USAGE, JobOptions, run_job
from pipeline.logs import LogFormat, fail, logging_to_stderr
from pipeline.metrics import Command


class Parser(argparse.ArgumentParser):
    """argparse exits with 2, which here means failed sources; usage errors exit with 1."""

    def error(self, message: str) -> NoReturn:
        """Print usage and the mistake; exit with 1."""
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"error: {message}\n")


def positive(text: str) -> int:
    """The type of an argument that is a whole number of 1 or more."""
    if not re.fullmatch(r"0*[1-9]\d{0,17}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def not_negative(text: str) -> int:
    """The type of an argument that is a whole number of 0 or more."""
    if not re.fullmatch(r"\d{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return int(text)


def byte_size(text: str) -> int:
    """The type of an argument that is a size."""
    told = "is not a size: write a number of bytes, or e.g. 64MiB or 1GB"
    return int(_configured(ByteSize, text, told))


def decibels(text: str) -> float:
    """The type of an argument that is a limit of PSNR."""
    return float(_configured(Decibels, text, "is not a number above 0, of 100 at the most"))


def _configured(kind: Any, text: str, told: str) -> Any:
    """An argument of a type that the configuration has too; ``told`` is what a wrong one is."""
    try:
        return TypeAdapter(kind).validate_python(text)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {told}") from error


def add_store_options(parser: argparse.ArgumentParser) -> None:
    """What tells where S3 is, for jobs without a configuration."""
    store = parser.add_argument_group("S3-compatible stores")
    store.add_argument("--endpoint-url", metavar="URL", help="default: AWS_ENDPOINT_URL")
    store.add_argument("--region", metavar="NAME", help="default: AWS_REGION")


def storage_of(args: argparse.Namespace) -> StorageConfig:
    """The storage that ``add_store_options`` tells. Raises ``UserError``."""
    try:
        return StorageConfig(endpoint_url=args.endpoint_url, region=args.region)
    except ValidationError as error:
        raise UserError(f"--endpoint-url {error.errors()[0]['msg']}") from error


class Progress:
    """Tells at times, on stderr, how much of something is done."""

    def __init__(self, what: str, seconds: float = 10) -> None:
        self._what, self._seconds = what, seconds
        self._told = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` are."""
        if time.monotonic() - self._told >= self._seconds:
            self._told = time.monotonic()
            print(f"{done} of {total} {self._what}", file=sys.stderr)


def make_parser(command: Command, description: str | None) -> argparse.ArgumentParser:
    """The options of a run. ``description`` is a job's docstring, shown as it stands."""
    parser = Parser(
        prog=f"{command}.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("the configuration (README.md lists its keys)")
    what.add_argument("--config", metavar="YAML", required=True, help="configuration file")
    what.add_argument("--dataset", metavar="URI", help="overrides dataset.uri")
    what.add_argument("--output", metavar="URI", help="overrides output.uri")
    what.add_argument(
        "--limit",
        metavar="N",
        type=int,
        help="the first N sources only; then nothing counts as removed",
    )
    what.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override any key, e.g. --set windows.fps=24; may be repeated",
    )
    how = parser.add_argument_group("what is done")
    how.add_argument(
        "--plan",
        action="store_true",
        help="print sources, windows, bytes, encoder hours and cost of a run, and stop",
    )
    how.add_argument(
        "--overwrite", action="store_true", help="encode everything anew, also under a new contract"
    )
    how.add_argument(
        "--retry-failed", action="store_true", help="try all failed sources again, whatever failed"
    )
    told = parser.add_argument_group("what is said")
    told.add_argument(
        "--log-format",
        choices=get_args(LogFormat),
        default="text",
        help="of progress, warnings and errors on stderr: lines (a live bar on a terminal), or one "
        "JSON object a line (default: text)",
    )
    return parser


def run_from_command_line(
    command: Command, description: str | None, arguments: Sequence[str] | None
) -> int:
    """Parse, configure, run; returns the exit code."""
    args = make_parser(command, description).parse_args(arguments)
    fields: dict[str, Any] = {
        "dataset.uri": args.dataset,
        "output.uri": args.output,
        "dataset.limit": args.limit,
    }
    try:
        given = {key: value for key, value in fields.items() if value is not None}
        config = load_config(args.config, args.set, given)
        options = JobOptions(args.plan, args.overwrite, args.retry_failed, args.log_format, command)
        return run_job(config, options)
    except UserError as error:
        with logging_to_stderr(args.log_format):
            fail(str(error))
        return EXIT_USAGE
