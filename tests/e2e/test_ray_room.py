"""A cluster that is too small for a run."""

import pytest

from pipeline.config import load_config
from pipeline.errors import UserError
from pipeline.job import JobOptions, run_job
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
