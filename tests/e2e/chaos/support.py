"""What the chaos tests share: nodes, a place to run in, and the comparison with a whole cache."""

import contextlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline import LatentCache, LatentDataset
from pipeline.config import Config, load_config
from pipeline.manifest import Manifest
from pipeline.storage import Store
from tests import processes
from tests.e2e.support import (
    JOB,
    ROOT,
    Finished,
    config_tree,
    end_processes_naming,
    environment,
    run_job,
    write_config,
)
from tests.faults import FaultProxy
from tests.s3 import REGION, S3

CLIPS = ("bikes", "carphone", "h264_open", "vfr", "png", "text")
COUNTS = {"total": 6, "ok": 5, "skipped": 0, "failed": 1}
"""How a whole run over ``CLIPS`` ends: ``text`` is no video."""

PATIENCE = 120.0
"""Seconds to wait for what is to happen."""


class Nodes:
    """A running cluster of a head and two nodes with a pretended GPU each."""

    def __init__(self, cluster: Any, folder: str) -> None:
        self._cluster = cluster
        self._folder = folder
        self._gpus: list[Any] = []

    @property
    def address(self) -> str:
        return self._cluster.address

    def add(self) -> None:
        """Start one more node with a GPU."""
        node = self._cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=150 * 2**20)
        self._gpus.append(node)

    def remove(self) -> None:
        """Kill a node with everything on it."""
        self._cluster.remove_node(self._gpus.pop(), allow_graceful=False)

    def workers(self, title: str) -> list[int]:
        """Process ids of the cluster's workers that say ``title`` in theirs."""
        return processes.workers(self._folder, title)

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """This process as a driver."""
        import ray

        ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def ray_nodes(folder: str) -> Iterator[Nodes]:
    """Start the nodes; end them, whatever happens."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 4, "temp_dir": folder, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = Nodes(cluster, folder)
        nodes.add()
        nodes.add()
        yield nodes
    finally:
        cluster.shutdown()
        end_processes_naming(folder, patience=20)


@dataclass(frozen=True)
class Place:
    """A dataset, and the cache that runs over it write."""

    folder: Path
    dataset: str
    output: str
    server: S3
    proxy: FaultProxy | None = None

    def config_file(self, **changes: Any) -> Path:
        """Many small packs and shards, and a commit for each; ``changes`` as of ``config_tree``."""
        endpoint = self.server.endpoint if self.proxy is None else self.proxy.endpoint
        settings: dict[str, Any] = {
            "windows__fps": "12",
            "windows__tail": "pad",
            "output__shard_bytes": 1,
            "run__runner": "ray",
            "run__decode_tasks": 1,
            "run__gpus_per_encoder": 1,
            "run__cpus_per_encoder": 0,
            "run__pack_bytes": 200_000,
            "run__task_windows": 4,
            "storage__endpoint_url": endpoint,
            "storage__region": REGION,
        }
        tree = config_tree(self.dataset, self.output, **{**settings, **changes})
        return write_config(self.folder / "config.yaml", tree)

    def config(self, **changes: Any) -> Config:
        return load_config(str(self.config_file(**changes)))

    @property
    def key(self) -> str:
        """The cache's key on the server."""
        return self.output.removeprefix("s3://")

    @property
    def manifest(self) -> Manifest:
        """The cache's tables, past the proxy."""
        return Manifest(Store(self.output, self.server.storage))

    @property
    def cache(self) -> LatentCache:
        return LatentCache.open(self.output, storage=self.server.storage)

    def committed_windows(self) -> int:
        return sum(self.manifest.read("samples", columns=["windows"])["windows"].to_pylist())

    def run(self, nodes: Nodes | None = None, **changes: Any) -> Finished:
        """A run to its end, as a process; without nodes, of the local runner."""
        if nodes is None:
            return run_job(self.config_file(run__runner="local", **changes))
        env = environment(RAY_ADDRESS=nodes.address)
        return run_job(self.config_file(**changes), env=env)

    def resume(self, nodes: Nodes | None, whole: LatentCache) -> None:
        """Run again: exactly what was not committed is encoded, and then the cache is whole."""
        committed = self.committed_windows()
        resumed = self.run(nodes)
        assert resumed.code == 0, resumed.stderr
        assert resumed.report["windows"] == whole.samples().num_rows - committed
        assert resumed.report["sources"] == COUNTS
        self.assert_whole(whole)
        self.assert_no_segment_twice()

    def assert_no_segment_twice(self) -> None:
        segments = self.manifest.read("samples", columns=["segment_id"])["segment_id"].to_pylist()
        assert len(set(segments)) == len(segments)

    @contextlib.contextmanager
    def started(self, env: dict[str, str], **changes: Any) -> Iterator["Started"]:
        """A run as a process of its own; killed at the end if it lives still."""
        log = self.folder / f"{time.monotonic_ns()}.log"
        with (
            log.open("w") as output,
            subprocess.Popen(
                [sys.executable, str(JOB), "--config", str(self.config_file(**changes))],
                cwd=ROOT,
                env=env,
                stdout=output,
                stderr=output,
            ) as process,
        ):
            try:
                yield Started(process, log)
            finally:
                process.kill()

    def assert_whole(self, whole: LatentCache) -> None:
        """The published cache is ``whole``: nothing twice, nothing missing, counts closed."""
        assert_same_cache(self.cache, whole)
        clips = LatentDataset(
            self.output, clip_frames=17, allow_padded=True, storage=self.server.storage
        ).clips
        rows = [row for row in whole.samples().to_pylist() if row["frames"] == 17]
        assert clips == Counter(f"h{row['height']}w{row['width']}x17" for row in rows)


@dataclass(frozen=True)
class Started:
    """A run that is at work, and where it writes what it says."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(PATIENCE)

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"the run ended too early:\n{self.said}"
            assert time.monotonic() < deadline, f"it did not happen:\n{self.said}"
            time.sleep(0.02)


def assert_same_cache(found: LatentCache, whole: LatentCache) -> None:
    """Same sources in the same states; same samples, each once, and the numbers of each.

    Numbers are equal bit by bit, or where packs differed (the order of a sum then may) by one unit
    in the last place of float16, or 1e-5.
    """
    assert _states(found) == _states(whole)
    samples = found.samples()
    ids = samples["sample_id"].to_pylist()
    assert ids == whole.samples()["sample_id"].to_pylist()
    assert len(set(ids)) == len(ids) > len(CLIPS)
    for source in found.sources().to_pylist():
        own = [r["window"] for r in samples.to_pylist() if r["source_id"] == source["source_id"]]
        assert own == list(range(source["windows"] or 0))
    checksums = zip(samples["checksum"], whole.samples()["checksum"], strict=True)
    for identity, (ours, theirs) in zip(ids, checksums, strict=True):
        mine, other = found.read(identity), whole.read(identity)
        assert mine.keys() == other.keys()
        near = {} if ours == theirs else {"rtol": 2**-10, "atol": 1e-5}
        for name in mine:
            torch.testing.assert_close(mine[name], other[name], **(near or {"rtol": 0, "atol": 0}))


def _states(cache: LatentCache) -> set[tuple[Any, ...]]:
    names = ("source_id", "status", "reason", "windows", "frames_actual", "caption")
    rows = cache.sources().to_pylist()
    assert len(rows) == len(CLIPS)
    return {tuple(row[name] for name in names) for row in rows}
