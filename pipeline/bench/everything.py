"""All parts of one configuration, each alone, then the whole.

Examples:
  python jobs/benchmark.py all --config configs/t2v_540p.yaml --limit 200

Runs `decode`, `vae`, `write`, `read`, `refresh` and `pipeline` one after the other with what the
configuration says, and prints what they do; the last line is one JSON object with theirs by name.
`read` and `write` work in folders of their own beneath output.uri, `read` with 500 MB, and
`refresh` has a made-up cache of 100,000 sources. `benchmark.py COMMAND --help` says what each
measures. Where one fails, the others go on, and the exit code is 1.
"""

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from pipeline.bench import decode, pipeline, read, refresh, vae, write
from pipeline.config import load_config
from pipeline.errors import UserError

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
    """Measure and print. Raises ``UserError`` at the end where a command did."""
    settings = list(args.set)
    for key, value in (("dataset.uri", args.dataset), ("output.uri", args.output)):
        settings += [] if value is None else [f"{key}={json.dumps(value)}"]
    shard_format = load_config(args.config, settings).output.format
    found: dict[str, Any] = {}
    failed: list[str] = []
    for name, arguments in _commands(args, settings, shard_format).items():
        print(f"== {name} {' '.join(arguments)}", flush=True)
        parser = argparse.ArgumentParser(prog=name)
        _MODULES[name].add_arguments(parser)
        try:
            with contextlib.redirect_stdout(_Tee(sys.stdout)) as told:
                _MODULES[name].run(parser.parse_args(arguments))
            found[name] = json.loads(told.getvalue().splitlines()[-1])
        except UserError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            failed.append(name)
    print(json.dumps(found))
    if failed:
        raise UserError(f"{', '.join(failed)} failed; see the errors above")


def _commands(
    args: argparse.Namespace, settings: Sequence[str], shard_format: str
) -> dict[str, list[str]]:
    """Arguments of each command."""
    given = ["--config", args.config]
    for change in settings:
        given += ["--set", change]
    output = ["--output", args.output] if args.output else []
    limit = ["--limit", str(args.limit)] if args.limit else []
    return {
        "decode": given,
        "vae": given,
        "write": given,
        "read": [*given, "--bytes", "500MB", "--format", shard_format],
        "refresh": [],
        "pipeline": given + output + limit,
    }


class _Tee(io.StringIO):
    """Keeps what is printed and shows it."""

    def __init__(self, shown: TextIO) -> None:
        super().__init__()
        self._shown = shown

    def write(self, text: str, /) -> int:
        self._shown.write(text)
        return super().write(text)
