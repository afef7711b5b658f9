"""Two runs at once over the same sources, as processes: every sample once, whoever is killed."""

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline import LatentCache
from pipeline.config import StorageConfig
from pipeline.manifest import Manifest
from pipeline.storage import Store
from tests.e2e.support import JOB, ROOT, config_tree, environment, run_job, write_config, write_list
from tests.s3 import REGION

NAMES = ["bikes", "carphone", "h264_open", "vfr", "hevc10", "text"]


def _start(config: Path, log: Path) -> subprocess.Popen:
    with log.open("w") as output:
        return subprocess.Popen(
            [sys.executable, str(JOB), "--config", str(config)],
            cwd=ROOT,
            env=environment(),
            stdout=output,
            stderr=output,
        )


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def place(request, tmp_path, clip):
    """Configuration of a run, and the cache it writes."""
    rows = [{"video": str(clip(name)), "id": name} for name in NAMES]
    dataset = write_list(tmp_path / "clips.jsonl", rows)
    output, storage = str(tmp_path / "cache"), StorageConfig()
    extra = {}
    if request.param == "s3":
        s3 = request.getfixturevalue("s3")
        output, storage = f"s3://{request.getfixturevalue('s3_prefix')}/cache", s3.storage
        extra = {"storage": {"endpoint_url": s3.endpoint, "region": REGION}}
    tree = config_tree(dataset, output, windows__tail="pad", bucket_choice="all", **extra)
    tree["run"]["pack_bytes"] = 200_000
    tree["output"]["shard_bytes"] = 1
    return write_config(tmp_path / "config.yaml", tree), Manifest(Store(output, storage))


def _wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _assert_whole(manifest: Manifest) -> None:
    cache = LatentCache(manifest, manifest.snapshot())
    states = Counter(cache.sources()["status"].to_pylist())
    assert states == {"ok": 5, "failed": 1}
    samples = cache.samples()
    ids = samples["sample_id"].to_pylist()
    assert len(set(ids)) == len(ids)
    for source in cache.sources().to_pylist():
        own = [w for s, w in _places(samples) if s == source["source_id"]]
        assert own == 3 * list(range(source["windows"] or 0))
    for name in ids:
        assert cache.read(name)


def _places(samples) -> list[tuple[str, int]]:
    columns = samples["source_id"].to_pylist(), samples["window"].to_pylist()
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize(
    "kill", ["first", *(pytest.param(k, marks=pytest.mark.slow) for k in (None, "second"))]
)
def test_two_runs_at_once(place, tmp_path, kill):
    config, manifest = place
    first = _start(config, tmp_path / "first.log")
    _wait_for(lambda: manifest.version("samples") is not None, first)
    second = _start(config, tmp_path / "second.log")
    _wait_for(lambda: "waiting for run" in (tmp_path / "second.log").read_text(), second)
    if kill is not None:
        (first if kill == "first" else second).send_signal(signal.SIGKILL)
    codes = first.wait(120), second.wait(120)
    expected = {None: (0, 0), "first": (-9, 0), "second": (0, -9)}
    assert codes == expected[kill], (tmp_path / "second.log").read_text()
    _assert_whole(manifest)
    # Nobody encoded what the other had committed.
    rows = manifest.read("samples")
    assert len(set(rows["segment_id"].to_pylist())) == rows.num_rows
    assert run_job(config).report["windows"] == 0
