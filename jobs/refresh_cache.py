"""Bring a cache up to its dataset: encode what was added or changed, bury what was removed.

Examples:
  python jobs/refresh_cache.py --config configs/t2v_540p.yaml --plan
  python jobs/refresh_cache.py --config configs/t2v_540p.yaml
  python jobs/refresh_cache.py --config configs/t2v_540p.yaml --retry-failed --log-format json

The same engine and configuration as encode_dataset.py, for a schedule: where nothing changed it
reads the listing and the manifest, makes no request to any source, takes no accelerator and
publishes nothing. Exit codes: 0 done; 1 usage or configuration; 2 more failed sources than
max_failure_rate; 130, 143 stopped by Ctrl-C or SIGTERM.
"""

import sys
from collections.abc import Sequence

from pipeline.cli import run_from_command_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_from_command_line("refresh_cache", __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
