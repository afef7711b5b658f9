"""Two runs at once over the same sources, as processes: every sample once, whoever is killed."""

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline import LatentCache
from pipeline.config import StorageConfig, load_config
from pipeline.identity import source_id
from pipeline.job import EXIT_DONE, JobOptions
from pipeline.job import run_job as run_here
from pipeline.leases import Leases, range_of
from pipeline.manifest import Manifest
from pipeline.storage import Store
from tests.e2e.support import JOB, ROOT, config_tree, environment, run_job, write_config, write_list
from tests.s3 import REGION

pytestmark = pytest.mark.chaos

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
    "kill", [pytest.param(k, marks=pytest.mark.slow) for k in ("first", None, "second")]
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


class Overtaken:
    """A run in this process, before which others do something whenever it takes ranges."""

    def __init__(self, tmp_path, clip, monkeypatch) -> None:
        self.clip = clip("seventeen")
        self.dataset = tmp_path / "clips.jsonl"
        self.set_dataset("a")
        tree = config_tree(self.dataset, tmp_path / "cache")
        self.config = load_config(str(write_config(tmp_path / "config.yaml", tree)))
        self.manifest = Manifest(Store(str(tmp_path / "cache"), StorageConfig()))
        self.others: list = []
        self.taken: list[set[str]] = []
        plain = Leases.take

        def take(leases, names, notify) -> None:
            self.taken.append(set(names))
            if self.others:
                self.others.pop(0)()
            plain(leases, names, notify)

        monkeypatch.setattr(Leases, "take", take)

    def set_dataset(self, *names: str) -> None:
        write_list(self.dataset, [{"video": str(self.clip), "id": name} for name in names])

    def run(self) -> None:
        assert run_here(self.config, JobOptions()) == EXIT_DONE

    def states(self) -> dict[str, str]:
        rows = LatentCache(self.manifest, self.manifest.snapshot()).sources().to_pylist()
        return {row["id"]: row["status"] for row in rows}


def _range(name: str) -> str:
    return range_of(source_id(name, None, None))


def test_who_waited_looks_at_the_dataset_again(tmp_path, clip, monkeypatch):
    """A newer run encodes sources that the waiting one did not list: they are not removed."""
    job = Overtaken(tmp_path, clip, monkeypatch)

    def newer_run() -> None:
        job.set_dataset("a", "b", "c")
        job.run()

    job.run()
    job.set_dataset("a", "b")
    job.others = [newer_run]
    job.run()
    assert job.states() == dict.fromkeys("abc", "ok")
    assert job.manifest.read("sources").num_rows == 3


def test_ranges_of_the_second_plan_are_taken_too(tmp_path, clip, monkeypatch):
    job = Overtaken(tmp_path, clip, monkeypatch)
    assert len({_range(name) for name in "abd"}) == 3

    def newer_run() -> None:
        job.set_dataset("b")
        job.run()
        job.set_dataset("a", "b", "d")

    job.others = [newer_run]
    job.run()
    assert job.taken == [{_range("a")}, {_range("b")}, {_range("a"), _range("d")}]
    assert job.states() == dict.fromkeys("abd", "ok")
