"""Whole runs for the tests: a narrow configuration, the job as a process or in this process."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jobs import encode_dataset

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs" / "encode_dataset.py"

NARROW_VAE: dict[str, Any] = {
    "random_seed": 0,
    "z_channels": 2,
    "widths": {
        "norm_groups": 8,
        "encoder_ch": 8,
        "encoder_ch_mult": [1, 1, 1, 1],
        "decoder_ch": 8,
        "decoder_ch_mult": [1, 1, 1, 1],
    },
}
"""The published structure at a width that encodes a small window in some milliseconds."""

BUCKETS = [
    {"height": 32, "width": 64},
    {"height": 48, "width": 48},
    {"height": 64, "width": 32},
]


def config_tree(dataset: Path | str, output: Path | str, **changes: Any) -> dict[str, Any]:
    """A small configuration; ``changes`` maps ``section__key`` to a value."""
    tree: dict[str, Any] = {
        "dataset": {"uri": str(dataset)},
        "output": {"uri": str(output)},
        "windows": {"segment_windows": 3},
        "buckets": BUCKETS,
        "vae": dict(NARROW_VAE),
        "run": {"runner": "local", "encoder_threads": 1, "task_windows": 6, "commit_seconds": 0},
        "max_failure_rate": 1.0,
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            tree.setdefault(section, {})[key] = value
        else:
            tree[section] = value
    return tree


def write_config(path: Path, tree: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(dict(tree)))
    return path


def write_list(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A JSONL dataset."""
    path.write_text("".join(json.dumps(dict(row)) + "\n" for row in rows))
    return path


@dataclass(frozen=True)
class Finished:
    """A job that ran."""

    code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        """The JSON object of the last line of stdout."""
        found = json.loads(self.stdout.rstrip("\n").rsplit("\n", 1)[-1])
        assert isinstance(found, dict)
        return found


def environment(**extra: str) -> dict[str, str]:
    """The process environment for Ray in tests: no token file, no usage statistics."""
    return {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", **extra}


def run_here(config: Path, *arguments: str) -> Finished:
    """``jobs/encode_dataset.py`` in this process: its start costs seconds each time."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = encode_dataset.main(["--config", str(config), *arguments])
    return Finished(code, stdout.getvalue(), stderr.getvalue())


def run_job(config: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Finished:
    """``jobs/encode_dataset.py`` as users start it: a process of its own."""
    done = subprocess.run(
        [sys.executable, str(JOB), "--config", str(config), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=dict(env or environment()),
        timeout=300,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def end_processes_naming(folder: str, patience: float) -> None:
    """Wait for the processes whose command line names ``folder``; then end them by their ids."""
    deadline = time.monotonic() + patience
    while left := _processes_naming(folder):
        if time.monotonic() > deadline:
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        time.sleep(0.2)


def _processes_naming(folder: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            process = int(path.parent.name)
            if folder.encode() in path.read_bytes() and process != os.getpid():
                found.append(process)
    return found
