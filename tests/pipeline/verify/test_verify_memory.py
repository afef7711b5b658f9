"""Memory of a verification does not grow with the shards: processes of its own tell."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.buckets import Bucket
from pipeline.identity import stable_hash
from pipeline.verify.check import CHUNK_BYTES
from tests.pipeline.maintain.builder import Builder

LARGE = Bucket(2048, 2048)
CHILD = """
import json, os, sys
from jobs import verify_cache
from pipeline.bench.measure import resident_bytes
code = verify_cache.main(sys.argv[1:])
print(json.dumps([code, resident_bytes(os.getpid())]))
"""


def verified(folder: Path, form: str, windows: int, segment: int) -> tuple[int, int]:
    """Bytes of the one shard of a cache, and the highest memory of a process that verifies it."""
    cache = Builder(folder, form)
    [shard] = cache.encode({(stable_hash("a"), 1): windows}, buckets=[LARGE], segment=segment)
    cache.publish()
    command = [sys.executable, "-c", CHILD, cache.uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    code, peak = json.loads(done.stdout.rsplit("\n", 2)[-2])
    assert code == 0, done.stdout
    return (folder / shard).stat().st_size, peak


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "parquet"])
def test_a_large_shard_takes_no_more_memory_than_a_smaller_one(tmp_path, form):
    small, least = verified(tmp_path / "small", form, windows=200, segment=12)
    large, most = verified(tmp_path / "large", form, windows=600, segment=12)
    print(f"{form}: {most / 2**20:.0f} MB of memory for {large / 2**20:.0f} MB")
    print(f"{form}: {least / 2**20:.0f} MB of memory for {small / 2**20:.0f} MB")
    assert small > 2 * CHUNK_BYTES
    assert large - small > 4 * CHUNK_BYTES
    assert most - least < 2 * CHUNK_BYTES
