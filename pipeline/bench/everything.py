"""All stages of one configuration, each alone, then the whole: decode, vae, write, pipeline.

Examples:
  python jobs/benchmark.py all --config configs/t2v_540p.yaml --limit 200

Runs these commands one after the other with what the configuration says, and prints what they do;
the last line is one JSON object with theirs by name. The VAE has the checkpoint, or random weights
of the published widths. `benchmark.py COMMAND --help` says what each measures.
"""

import argparse
import contextlib
import io
import json
import sys
from typing import Any, TextIO

from pipeline.bench import decode, pipeline, vae, write
from pipeline.config import Config, load_config

_MODULES = {"decode": decode, "vae": vae, "write": write, "pipeline": pipeline}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    pipeline.dataset_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Measure and print. Raises ``UserError``."""
    config = load_config(args.config, args.set)
    found: dict[str, Any] = {}
    for name, arguments in _commands(args, config).items():
        print(f"== {name} {' '.join(arguments)}", flush=True)
        parser = argparse.ArgumentParser(prog=name)
        _MODULES[name].add_arguments(parser)
        with contextlib.redirect_stdout(_Tee(sys.stdout)) as told:
            _MODULES[name].run(parser.parse_args(arguments))
        found[name] = json.loads(told.getvalue().splitlines()[-1])
    print(json.dumps(found))


def _commands(args: argparse.Namespace, config: Config) -> dict[str, list[str]]:
    """Arguments of each command."""
    given = ["--config", args.config]
    for change in args.set:
        given += ["--set", change]
    dataset = ["--dataset", args.dataset] if args.dataset else []
    output = ["--output", args.output] if args.output else []
    limit = ["--limit", str(args.limit)] if args.limit else []
    bucket, model, run_ = config.bucket_list[0], config.vae, config.run
    encoder = ["--height", str(bucket.height), "--width", str(bucket.width)]
    encoder += ["--dtype", model.compute_dtype, "--device", model.device]
    encoder += ["--checkpoint", model.checkpoint] if model.checkpoint else []
    encoder += ["--threads", str(run_.encoder_threads)] if run_.encoder_threads else []
    return {
        "decode": given + dataset,
        "vae": encoder + (["--compile"] if run_.compile else []),
        "write": given + output,
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
