"""All parts of one configuration, each alone, then the whole.

Examples:
  python jobs/benchmark.py all --config configs/t2v_540p.yaml --limit 200

Runs `decode`, `vae`, `write`, `read`, `refresh` and `pipeline` one after the other with what the
configuration says, and prints what they do; the last line is one JSON object with theirs by name.
`read` and `write` work in folders of their own beneath output.uri, `read` with 500 MB, and
`refresh` has a made-up cache of 100,000 sources. `benchmark.py COMMAND --help` says what each
measures.
"""

import argparse
import contextlib
import io
import json
import sys
from typing import Any, TextIO

from pipeline.bench import decode, pipeline, read, refresh, vae, write
from pipeline.config import load_config

_MODULES = {
    "decode": decode,
    "vae": vae,
    "write": write,
    "read": read,
    "refresh": refresh,
    "pipeline": pipeline,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    pipeline.dataset_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Measure and print. Raises ``UserError``."""
    config = load_config(args.config, args.set)
    found: dict[str, Any] = {}
    for name, arguments in _commands(args, config.output.format).items():
        print(f"== {name} {' '.join(arguments)}", flush=True)
        parser = argparse.ArgumentParser(prog=name)
        _MODULES[name].add_arguments(parser)
        with contextlib.redirect_stdout(_Tee(sys.stdout)) as told:
            _MODULES[name].run(parser.parse_args(arguments))
        found[name] = json.loads(told.getvalue().splitlines()[-1])
    print(json.dumps(found))


def _commands(args: argparse.Namespace, shard_format: str) -> dict[str, list[str]]:
    """Arguments of each command."""
    given = ["--config", args.config]
    for change in args.set:
        given += ["--set", change]
    dataset = ["--dataset", args.dataset] if args.dataset else []
    output = ["--output", args.output] if args.output else []
    limit = ["--limit", str(args.limit)] if args.limit else []
    return {
        "decode": given + dataset,
        "vae": given,
        "write": given + output,
        "read": [*given, *output, "--bytes", "500MB", "--format", shard_format],
        "refresh": [],
        "pipeline": given + dataset + output + limit,
    }


class _Tee(io.StringIO):
    """Keeps what is printed and shows it."""

    def __init__(self, shown: TextIO) -> None:
        super().__init__()
        self._shown = shown

    def write(self, text: str, /) -> int:
        self._shown.write(text)
        return super().write(text)
