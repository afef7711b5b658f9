"""A cluster that is small for a run."""

import json

import pytest

from pipeline.config import load_config
from pipeline.errors import UserError
from pipeline.fitting import room_for_pack
from pipeline.job import JobOptions, run_job
from pipeline.manifest import Manifest
from pipeline.simulated import MakeSimulated
from pipeline.storage import Store
from tests.e2e.support import config_tree, write_config, write_list

pytestmark = pytest.mark.ray


def test_a_cluster_without_room_is_told_at_once(tmp_path, clip, monkeypatch, ray_folder):
    """Ray would wait for ever: the decoder never gets a CPU beside the encoder."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_TMPDIR", ray_folder)
    dataset = write_list(tmp_path / "clips.jsonl", [{"video": str(clip("seventeen"))}])
    tree = config_tree(dataset, tmp_path / "cache", run__runner="ray", run__num_cpus=1)
    config = load_config(str(write_config(tmp_path / "config.yaml", tree)))
    with pytest.raises(UserError, match=r"1\.75 CPUs are wanted and 1 are there"):
        run_job(config, JobOptions())


@pytest.mark.slow
def test_packs_fit_into_a_small_object_store(tmp_path, clip, monkeypatch, ray_folder):
    """With those of the default Ray Data would start a decode task every ten seconds."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_TMPDIR", ray_folder)
    dataset = write_list(tmp_path / "clips.jsonl", [{"video": str(clip("bikes"))}])
    store, decode_tasks = 120_000_000, 2
    tree = config_tree(
        dataset,
        tmp_path / "cache",
        buckets=[{"height": 256, "width": 256}],
        run__runner="ray",
        run__num_cpus=4,
        run__decode_tasks=decode_tasks,
        run__object_store_bytes=store,
    )
    config = load_config(str(write_config(tmp_path / "config.yaml", tree)))
    assert run_job(config, JobOptions(), MakeSimulated(0.0)) == 0
    rows = Manifest(Store(config.output.uri, config.storage)).read("runs").to_pylist()
    [report] = [json.loads(row["report"]) for row in rows if row["state"] == "finished"]
    most = room_for_pack(config, store) // (17 * 256 * 256 * 3)
    assert most == 1
    assert report["packs"] == report["windows"] > 5
