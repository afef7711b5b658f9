"""A disk that is full: the run ends with a message; with room again, the next one goes on."""

import subprocess
import sys

import pytest

from pipeline import LatentCache
from tests.e2e.chaos.support import COUNTS, Place, assert_same_cache
from tests.e2e.support import JOB, ROOT, end_processes_naming, environment
from tests.e2e.test_full_disk import mountable

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.ray]

SCRIPT = """
mount -t tmpfs -o size=1m tmpfs disk && head -c 800000 /dev/zero > disk/other
"$@"; echo "first ended: $?"
rm disk/other
"$@"; echo "second ended: $?"
cp -a disk/cache .
"""


@pytest.mark.parametrize("runner", ["local", "ray"])
def test_the_disk_of_the_cache_is_full(tmp_path, s3, dataset, whole, ray_folder, runner):
    disk = tmp_path / "disk"
    disk.mkdir()
    if not mountable(disk):
        pytest.skip("no file system can be mounted here")
    place = Place(tmp_path, dataset, str(disk / "cache"), s3)
    config = place.config_file(
        run__runner=runner, run__num_gpus=1, run__object_store_bytes=200_000_000
    )
    shell = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh"]
    done = subprocess.run(
        [*shell, sys.executable, str(JOB), "--config", str(config)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(RAY_TMPDIR=ray_folder, PYTHONPATH=str(ROOT)),
        timeout=600,
        check=False,
    )
    end_processes_naming(ray_folder, patience=30)
    told = done.stdout + done.stderr
    assert "first ended: 1\n" in done.stdout, told
    assert "second ended: 0\n" in done.stdout, told
    assert "Traceback" not in done.stderr, told
    [message] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert str(disk) in message
    assert "No space left on device" in message
    assert LatentCache.open(str(tmp_path / "cache")).sources().num_rows == COUNTS["total"]
    assert_same_cache(LatentCache.open(str(tmp_path / "cache")), whole)
