"""Whole runs against an S3 server that fails now and then, or for good."""

import json
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline import LatentCache
from pipeline.config import Config, load_config
from pipeline.job import EXIT_DONE, JobOptions, run_job
from pipeline.manifest import Manifest
from pipeline.storage import Store
from tests.e2e.support import config_tree, write_config, write_list
from tests.faults import FaultProxy, Rule, fault_proxy
from tests.s3 import BUCKET, REGION, S3

pytestmark = pytest.mark.chaos

NAMES = ["h264_open", "vp9", "png"]


@pytest.fixture
def proxy(s3) -> Iterator[FaultProxy]:
    with fault_proxy(s3) as running:
        yield running


@pytest.fixture(scope="module")
def dataset(clip, s3_server_running) -> str:
    """A prefix with small sources, one with a caption."""
    files, prefix = s3_server_running.filesystem(), f"{BUCKET}/{secrets.token_hex(6)}"
    for name in NAMES:
        files.put_file(str(clip(name)), f"{prefix}/in/{clip(name).name}")
    files.pipe_file(f"{prefix}/in/{clip('vp9').stem}.txt", b"bikes")
    return f"s3://{prefix}/in"


@pytest.fixture(scope="module")
def clean(tmp_path_factory, s3_server_running, dataset) -> Iterator[LatentCache]:
    """The dataset's cache, made by a run without faults."""
    server, output = s3_server_running, f"{dataset.removesuffix('/in')}/clean"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield _run(tmp_path_factory.mktemp("clean"), server, server, dataset, output)


def _config(
    tmp_path: Path, server: S3 | FaultProxy, dataset: str, output: str, seconds: float = 30
) -> Config:
    tree = config_tree(dataset, output, windows__fps="12", windows__tail="pad")
    tree["output"]["shard_bytes"] = 1
    tree["storage"] = {"endpoint_url": server.endpoint, "region": REGION, "retry_seconds": seconds}
    return load_config(str(write_config(tmp_path / "config.yaml", tree)))


def _reasons(cache: LatentCache) -> dict[str, str]:
    rows = cache.sources().to_pylist()
    return {Path(row["uri"]).stem: row["reason"] or row["status"] for row in rows}


def _assert_equal_caches(ours: LatentCache, theirs: LatentCache) -> None:
    """Same samples, each once, with equal tensors; same states and captions of the sources."""
    ids = ours.samples()["sample_id"].to_pylist()
    assert Counter(ids) == Counter(theirs.samples()["sample_id"].to_pylist())
    assert len(set(ids)) == len(ids) > len(NAMES)
    for identity in ids:
        mine, other = ours.read(identity), theirs.read(identity)
        assert mine.keys() == other.keys()
        for name in mine:
            torch.testing.assert_close(mine[name], other[name], rtol=0, atol=0)
    told = [
        {(r["source_id"], r["status"], r["reason"], r["caption"]) for r in c.sources().to_pylist()}
        for c in (ours, theirs)
    ]
    assert told[0] == told[1]


def _assert_nothing_twice(output: str, s3: S3) -> None:
    """Every segment was committed once."""
    manifest = Manifest(Store(output, s3.storage))
    rows = manifest.read("samples").select(["generation", "bucket", "first_window"]).to_pylist()
    assert max(Counter(tuple(row.values()) for row in rows).values()) == 1
    states = Counter(row["state"] for row in manifest.read("runs").to_pylist())
    assert states == {"started": 1, "finished": 1}


def _run(tmp_path: Path, server: S3 | FaultProxy, s3: S3, dataset: str, output: str) -> LatentCache:
    """Run to the end; the cache as seen without the proxy."""
    assert run_job(_config(tmp_path, server, dataset, output), JobOptions()) == EXIT_DONE
    return LatentCache.open(output, storage=s3.storage)


def test_a_run_among_faults_ends_equal_to_one_without(
    tmp_path, s3, s3_prefix, dataset, clean, proxy
):
    share = 0.05 / 4
    # Seeds under which each rule strikes early: among the first hundred requests, and later on.
    rules = [
        proxy.add(Rule("status", probability=share / 2, seed=5, status=503)),
        proxy.add(Rule("status", probability=share / 2, seed=36, status=500)),
        proxy.add(Rule("reset", probability=share, seed=9)),
        proxy.add(Rule("truncate", method="GET", probability=share, seed=16)),
        proxy.add(Rule("latency", probability=share, seed=10)),
    ]
    faulty = _run(tmp_path, proxy, s3, dataset, f"s3://{s3_prefix}/faulty")
    hits = {f"{rule.kind} {rule.status or ''}": rule.hits for rule in rules}
    assert min(hits.values()) >= 1, hits
    assert sum(hits.values()) >= 0.03 * len(proxy.requests), (hits, len(proxy.requests))
    _assert_equal_caches(faulty, clean)
    _assert_nothing_twice(f"s3://{s3_prefix}/faulty", s3)
    assert faulty.snapshot.number == 1


def test_lost_answers_to_writes_double_nothing(tmp_path, s3, s3_prefix, dataset, clean, proxy):
    commits = proxy.add(Rule("lost_answer", "PUT", "_delta_log/", probability=0.5, seed=1))
    told = proxy.add(Rule("lost_answer", "PUT", "_delta_log/", 0.3, seed=2, status=500))
    shards = proxy.add(Rule("lost_answer", "PUT", "/data/", probability=0.5, seed=3))
    answered = _run(tmp_path, proxy, s3, dataset, f"s3://{s3_prefix}/lost")
    assert min(commits.hits, told.hits, shards.hits) >= 1
    _assert_equal_caches(answered, clean)
    _assert_nothing_twice(f"s3://{s3_prefix}/lost", s3)


@pytest.mark.parametrize("status", [None, 500])
def test_a_snapshot_whose_answer_was_lost_is_our_own(
    tmp_path, s3, s3_prefix, dataset, proxy, status, capsys
):
    rule = proxy.add(Rule("lost_answer", "PUT", "snapshots/", times=1, status=status))
    config = _config(tmp_path, proxy, dataset, f"s3://{s3_prefix}/cache")
    assert run_job(config, JobOptions()) == EXIT_DONE
    assert rule.hits == 1
    assert [r.status for r in proxy.of("snapshots/", "PUT")] == [status, 412]
    assert {r.if_none_match for r in proxy.of("snapshots/", "PUT")} == {"*"}
    report = json.loads(capsys.readouterr().out.rstrip().rsplit("\n", 1)[-1])
    assert report["snapshot"] == 1
    manifest = Manifest(Store(f"s3://{s3_prefix}/cache", s3.storage))
    assert manifest.snapshot_numbers() == [1]
    assert manifest.snapshot(1).run_id == report["run_id"]


def test_permanent_errors_end_their_source_at_once(tmp_path, clip, s3, s3_prefix, dataset, proxy):
    names = {status: clip(name).name for status, name in ((403, "vp9"), (404, "h264_open"))}
    for status, name in names.items():
        proxy.add(Rule("status", key=f"/in/{name}", status=status))
    cache = _run(tmp_path, proxy, s3, dataset, f"s3://{s3_prefix}/cache")
    assert _reasons(cache) == {
        **{clip(name).stem: "ok" for name in NAMES},
        clip("vp9").stem: "unreadable",
        clip("h264_open").stem: "missing",
    }
    for name in names.values():
        assert len(proxy.of(f"/in/{name}")) == 1


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_source_that_stays_unavailable_ends_within_the_budget(
    tmp_path, clip, s3, s3_prefix, dataset, proxy, method
):
    key = f"/in/{clip('vp9').name}"
    proxy.add(Rule("status", method=method, key=key, status=503))
    config = _config(tmp_path, proxy, dataset, f"s3://{s3_prefix}/cache", seconds=1)
    assert run_job(config, JobOptions()) == EXIT_DONE
    cache = LatentCache.open(f"s3://{s3_prefix}/cache", storage=s3.storage)
    assert _reasons(cache) == {
        **{clip(name).stem: "ok" for name in NAMES},
        clip("vp9").stem: "unreadable",
    }
    asked = [r for r in proxy.of(key, method) if r.status == 503]
    assert 3 <= len(asked) <= 11  # one tenth of a second is the least between two of them
    assert asked[-1].began - asked[0].began <= 1.5


def test_a_corrupted_read_of_a_small_object_is_caught(
    tmp_path, clip, s3, s3_prefix, dataset, clean, proxy
):
    key = f"/in/{clip('vp9').name}"
    rule = proxy.add(Rule("corrupt", "GET", key, times=2))
    damaged = _run(tmp_path, proxy, s3, dataset, f"s3://{s3_prefix}/damaged")
    assert rule.hits == 2
    assert [r.fault for r in proxy.of(key, "GET")] == ["corrupt", "corrupt", None, None]
    _assert_equal_caches(damaged, clean)


def test_a_list_that_cannot_be_read_at_first(tmp_path, clip, s3, s3_prefix, dataset, proxy):
    rows = [{"video": f"{dataset}/{clip('png').name}"}]
    local = write_list(tmp_path / "list.jsonl", rows)
    s3.filesystem().put_file(str(local), f"{s3_prefix}/list.jsonl")
    rules = [
        proxy.add(Rule(kind, "GET", r"list\.jsonl", skip=number, times=1))
        for number, kind in enumerate(["reset", "truncate", "lost_answer"])
    ]
    cache = _run(tmp_path, proxy, s3, f"s3://{s3_prefix}/list.jsonl", f"s3://{s3_prefix}/cache")
    assert [rule.hits for rule in rules] == [1, 1, 1]
    assert _reasons(cache) == {clip("png").stem: "ok"}
