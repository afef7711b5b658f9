"""Encode a video dataset into a published cache of Step-Video VAE latents.

Examples:
  python jobs/encode_dataset.py --config configs/demo.yaml
  python jobs/encode_dataset.py --config configs/t2v_540p.yaml \\
      --dataset s3://bucket/clips.parquet --output s3://bucket/latents --plan
  ray job submit --working-dir . --submission-id clips-540p -- \\
      python jobs/encode_dataset.py --config configs/t2v_540p.yaml

Run it again at any time: what is encoded already is not decoded again. The plan and the summary go
to stdout, whose last line is a JSON object; progress and warnings go to stderr. Exit codes: 0 done;
1 usage or configuration; 2 more failed sources than max_failure_rate; 130, 143 stopped by Ctrl-C or
SIGTERM.
"""

import sys
from collections.abc import Sequence

from pipeline.cli import run_from_command_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_from_command_line("encode_dataset", __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
