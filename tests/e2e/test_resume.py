"""Run again: nothing twice, nothing missing, whatever was killed and whatever headers said."""

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow.compute as pc
import pytest
import torch

from pipeline import LatentCache
from pipeline.config import StorageConfig
from pipeline.manifest import Manifest
from pipeline.storage import Store
from tests.e2e.support import (
    JOB,
    ROOT,
    config_tree,
    end_processes_naming,
    environment,
    run_here,
    run_job,
    write_config,
    write_list,
)

MANY = ["bikes", "carphone", "h264_open", "vfr", "hevc10"]


def _dataset(tmp_path: Path, clip, names=MANY) -> Path:
    rows = [{"video": str(clip(name)), "id": name} for name in names]
    return write_list(tmp_path / "clips.jsonl", rows)


def _config(tmp_path: Path, dataset: Path, output: Path, **changes) -> Path:
    tree = config_tree(
        dataset, output, windows__fps="12", windows__tail="pad", output__shard_bytes=1, **changes
    )
    return write_config(tmp_path / f"{output.name}.yaml", tree)


def _assert_equal(left: LatentCache, right: LatentCache) -> None:
    """Same samples; tensors bit-equal, or within one unit in the last place of float16 or 1e-5."""
    ids = left.samples()["sample_id"].to_pylist()
    assert ids == right.samples()["sample_id"].to_pylist()
    assert len(set(ids)) == len(ids)
    for name in ids:
        ours, theirs = left.read(name), right.read(name)
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=2**-10, atol=1e-5)


def _decoded_windows(output: Path) -> int:
    table = Manifest(Store(str(output), StorageConfig())).read("samples")
    return sum(table["windows"].to_pylist())


def test_the_second_run_decodes_nothing(tmp_path, clip):
    config = _config(tmp_path, _dataset(tmp_path, clip), tmp_path / "cache")
    first, second = run_here(config), run_here(config)
    assert first.code == second.code == 0, first.stderr + second.stderr
    assert first.report["windows"] > 10
    assert first.report["shards"] > 1
    assert second.report["windows"] == second.report["shards"] == second.report["bytes"] == 0
    assert second.report["sources"] == first.report["sources"]
    assert second.report["snapshot"] == first.report["snapshot"] == 1
    assert second.report["run_id"] != first.report["run_id"]


@pytest.mark.chaos
@pytest.mark.parametrize(
    "runner", ["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])]
)
def test_killed_after_the_first_commit_it_goes_on(tmp_path, clip, runner, ray_folder):
    dataset = _dataset(tmp_path, clip)
    whole = _config(tmp_path, dataset, tmp_path / "whole")
    assert run_here(whole).code == 0
    torn = _config(
        tmp_path, dataset, tmp_path / "torn", run__runner=runner, run__pack_bytes=200_000
    )
    env = environment(RAY_TMPDIR=ray_folder)
    with subprocess.Popen(
        [sys.executable, str(JOB), "--config", str(torn)],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        _wait_for_commit(tmp_path / "torn", process)
        process.send_signal(signal.SIGKILL)
    end_processes_naming(ray_folder, patience=30)
    committed = _decoded_windows(tmp_path / "torn")
    total = LatentCache.open(str(tmp_path / "whole")).samples().num_rows
    assert 0 < committed < total
    again = run_here if runner == "local" else partial(run_job, env=env)
    resumed = again(torn)
    assert resumed.code == 0, resumed.stderr
    _assert_equal(
        LatentCache.open(str(tmp_path / "torn")), LatentCache.open(str(tmp_path / "whole"))
    )
    assert resumed.report["windows"] == total - committed
    assert resumed.report["sources"] == {"total": 5, "ok": 5, "skipped": 0, "failed": 0}
    assert again(torn).report["windows"] == 0


def _wait_for_commit(output: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90
    while not list(output.glob("samples/_delta_log/*.json")):
        assert process.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline, "no commit within 90 s"
        time.sleep(0.02)


@pytest.mark.chaos
def test_sigterm_commits_what_is_done_and_the_next_run_resumes(tmp_path, clip):
    config = _config(
        tmp_path, _dataset(tmp_path, clip), tmp_path / "cache", run__pack_bytes=200_000
    )
    with subprocess.Popen(
        [sys.executable, str(JOB), "--config", str(config)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        _wait_for_commit(tmp_path / "cache", process)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr
    assert json.loads(stdout.rstrip().rsplit("\n", 1)[-1])["snapshot"] is None
    committed = _decoded_windows(tmp_path / "cache")
    resumed = run_here(config)
    assert resumed.code == 0
    assert (
        resumed.report["windows"] + committed
        == LatentCache.open(str(tmp_path / "cache")).samples().num_rows
    )


LYING = [
    *("lie_plus_1", "lie_minus_1", "lie_plus_17", "lie_minus_17", "lie_times_10", "lie_absent"),
    *("lie_mkv_times_10", "lie_mkv_tenth", "lie_mkv_absent", "lie_mp4_times_10", "lie_mp4_tenth"),
]


@pytest.mark.slow
def test_headers_that_lie_do_not_change_what_is_encoded(tmp_path, clip):
    dataset = _dataset(tmp_path, clip, LYING)
    config = _config(tmp_path, dataset, tmp_path / "cache")
    first = run_here(config)
    assert first.report["sources"]["ok"] == len(LYING), first.stdout
    cache = LatentCache.open(str(tmp_path / "cache"))
    for source in cache.sources().to_pylist():
        own = cache.samples().filter(pc.field("source_id") == source["source_id"])
        frames = source["frames_actual"]
        assert own["window"].to_pylist() == list(range(-(-frames // 17))), source["id"]
        assert sum(own["valid_frames"].to_pylist()) == frames
    run_here(config)
    third = run_here(config)
    assert third.report["windows"] == 0
    assert "to do: 0 sources" in third.stdout
