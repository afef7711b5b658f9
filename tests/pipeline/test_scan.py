"""Processes that end right after reading a table."""

import subprocess
import sys

from helpers import make_manifest, make_segment, sample_row

_READ = """
import sys
from pipeline.config import StorageConfig
from pipeline.manifest import Manifest
from pipeline.storage import Store
manifest = Manifest(Store(sys.argv[1], StorageConfig()))
manifest.read("samples")
sys.setswitchinterval(0.5)  # other threads get the interpreter when this one waits, or is gone
assert manifest.read("samples", columns=["shard"]).num_rows == 1
"""


def test_a_process_that_ends_after_reading_does_not_abort(tmp_path):
    make_manifest(tmp_path).append("samples", [sample_row(make_segment("a"))])
    command = [sys.executable, "-c", _READ, str(tmp_path)]
    ends = [subprocess.run(command, capture_output=True, check=False) for _ in range(3)]
    assert [(end.returncode, end.stderr) for end in ends] == [(0, b"")] * 3
