"""A folder for temporary files that is full: told as the user's to mend, not as a traceback."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.support import JOB, ROOT, config_tree, environment, write_config

pytestmark = pytest.mark.chaos

SOURCES = 120_000
"""So many that what is known of them does not stay in memory."""

MOUNT = 'mount -t tmpfs -o size=1m tmpfs "$TMPDIR" && exec "$@"'
LIMIT = 'ulimit -f 1000; exec "$@"'  # blocks of 512 bytes


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def mountable(folder: Path) -> bool:
    """Whether a file system can be mounted in a namespace of one's own."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh", "true"]
    env = environment(TMPDIR=str(folder))
    try:
        return subprocess.run(command, env=env, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", ["tmpfs", "limit"])
def test_a_full_folder_for_temporary_files_ends_the_plan_with_its_name(tmp_path, temporary, how):
    if how == "tmpfs" and not mountable(temporary):
        pytest.skip("no file system can be mounted here")
    dataset = tmp_path / "clips.parquet"
    videos = [f"s3://bucket/{n:09d}.mp4" for n in range(SOURCES)]
    versions = [f"{'long' * 80}{n:09d}" for n in range(SOURCES)]
    pq.write_table(pa.table({"video": videos, "version": versions}), dataset)
    config = write_config(tmp_path / "config.yaml", config_tree(dataset, tmp_path / "cache"))
    shell = {
        "tmpfs": ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh"],
        "limit": ["sh", "-c", LIMIT, "sh"],
    }[how]
    done = subprocess.run(
        [*shell, sys.executable, str(JOB), "--config", str(config), "--plan"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(TMPDIR=str(temporary)),
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    message = done.stderr.splitlines()[-1]
    reason = {"tmpfs": "No space left on device", "limit": "File too large"}[how]
    for part in ("error:", str(temporary), "bytes of rows", reason, "set TMPDIR to another folder"):
        assert part in message
    assert list(temporary.iterdir()) == []
