"""Measure the pipeline and its parts on this machine.

Examples:
  python jobs/benchmark.py decode clip.mp4 --height 544 --width 992
  python jobs/benchmark.py vae --height 256 --width 256
  python jobs/benchmark.py write s3://bucket/prefix
  python jobs/benchmark.py read /mnt/scratch
  python jobs/benchmark.py pipeline --config configs/t2v_540p.yaml --simulated-encoder 0.22
  python jobs/benchmark.py scale --config configs/demo.yaml --simulated-encoder 0.5 --nodes 4
  python jobs/benchmark.py refresh --sources 100000 300000 1000000
  python -m tests.s3 python jobs/benchmark.py listing s3://t2v/clips --objects 100000

Each command measures one part alone, or the whole against its parts, on this machine and, where it
takes any, on your data; what it is compared with runs in the same process or beside it, in turns,
and medians are told. Every command prints a table and, as its last line, one JSON object.
`benchmark.py COMMAND --help` says what is measured and how.
"""

import argparse
import sys
from collections.abc import Sequence
from types import MappingProxyType
from typing import Protocol

from pipeline.bench import (
    commits,
    decode,
    everything,
    listing,
    overhead,
    pipeline,
    plan,
    read,
    refresh,
    scale,
    vae,
    write,
)
from pipeline.cli import Parser
from pipeline.errors import UserError
from pipeline.job import EXIT_DONE, EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USAGE
from pipeline.signals import Terminated, sigterm_interrupts


class Bench(Protocol):
    """What a module of ``pipeline.bench`` offers as a command; its docstring is the help page."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None:
        """Add the command's own arguments."""

    def run(self, args: argparse.Namespace, /) -> None:
        """Measure and print. Raises ``UserError`` where there is nothing to measure."""


COMMANDS = MappingProxyType[str, Bench](
    {
        "decode": decode,
        "vae": vae,
        "write": write,
        "read": read,
        "pipeline": pipeline,
        "all": everything,
        "overhead": overhead,
        "scale": scale,
        "commits": commits,
        "plan": plan,
        "refresh": refresh,
        "listing": listing,
    }
)
"""Commands by name; the first line of a module's docstring is its line in the list of commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    args = _parser().parse_args(arguments)
    try:
        with sigterm_interrupts():
            COMMANDS[args.command].run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except Terminated:
        return EXIT_TERMINATED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="benchmark.py", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    for name, module in COMMANDS.items():
        page = (module.__doc__ or "").strip()
        command = commands.add_parser(
            name, help=page.partition("\n")[0], description=page, formatter_class=raw
        )
        module.add_arguments(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
