"""Cells on a real Ray cluster: one command, several drivers, one published cache."""

import os
import signal
import threading
import time

import pytest

from pipeline import LatentCache
from pipeline.config import load_config
from pipeline.errors import UserError
from pipeline.job import EXIT_DONE, JobOptions, run_job
from pipeline.manifest import Manifest
from pipeline.simulated import MakeSimulated
from pipeline.storage import Store
from tests.e2e.support import config_tree, write_config, write_list
from tests.processes import workers

pytestmark = pytest.mark.ray

NAMES = ["bikes", "carphone", "vfr", "rotated90", "png", "text"]
SAME = ["sample_id", "source_id", "bucket", "window", "valid_frames", "checksum"]


@pytest.fixture(scope="module")
def ray_cpus():
    """Room for the drivers of cells besides what works."""
    return 6


@pytest.fixture
def config(tmp_path, clip):
    """A configuration by number of cells, each with a cache of its own."""
    rows = [{"video": str(clip(name)), "id": name} for name in NAMES]
    dataset = write_list(tmp_path / "clips.jsonl", rows)

    def make(cells, name=None):
        tree = config_tree(
            dataset,
            tmp_path / (name or f"cache{cells}"),
            windows__fps="12",
            windows__tail="pad",
            run__runner="ray",
            run__encoders=2,
            run__gpus_per_encoder=1,
            run__cpus_per_encoder=0,
            run__task_windows=4,
            run__commit_seconds=0,
            run__cells=cells,
        )
        tree["output"]["shard_bytes"] = 1
        return load_config(str(write_config(tmp_path / "config.yaml", tree)))

    return make


@pytest.mark.slow
def test_cells_change_nothing(config, ray_cluster, capsys):
    reports = {}
    for cells in (1, 2):
        assert run_job(config(cells), JobOptions(), MakeSimulated(0.0)) == EXIT_DONE
        reports[cells] = capsys.readouterr().out
    one, two = (LatentCache.open(config(cells).output.uri) for cells in (1, 2))
    assert one.samples().num_rows > 10
    assert two.samples().select(SAME).equals(one.samples().select(SAME))
    assert states(two) == states(one) == {**dict.fromkeys(NAMES, "ok"), "text": "failed"}
    assert manifest_of(config(2)).snapshot_numbers() == [1]
    for text in reports.values():
        assert "5 ok, 0 skipped, 1 failed of 6 sources; snapshot 1" in text
    assert run_job(config(2), JobOptions(), MakeSimulated(0.0)) == EXIT_DONE
    assert "written  0 windows" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.chaos
def test_a_driver_that_is_killed_is_replaced(config, ray_cluster, ray_folder, capsys):
    chosen = config(2, "killed")
    manifest = manifest_of(chosen)
    killed = []

    def kill():
        while manifest.version("samples") is None:
            time.sleep(0.02)
        os.kill(workers(ray_folder, "ray::CellDriver")[0], signal.SIGKILL)
        killed.append(True)

    killer = threading.Thread(target=kill)
    killer.start()
    assert run_job(chosen, JobOptions(), MakeSimulated(0.2)) == EXIT_DONE
    killer.join()
    told = capsys.readouterr()
    assert len(killed) == 1
    assert "a cell's driver died and is replaced" in told.err
    assert "5 ok, 0 skipped, 1 failed of 6 sources; snapshot 1" in told.out
    assert run_job(config(1, "whole"), JobOptions(), MakeSimulated(0.0)) == EXIT_DONE
    found, whole = (LatentCache.open(c.output.uri) for c in (chosen, config(1, "whole")))
    assert found.samples().select(SAME).equals(whole.samples().select(SAME))
    assert states(found) == states(whole)


class Refusing:
    """Makes encoders that meet a mistake which the user is to be told of."""

    def __call__(self, config, recipe, /):
        return self.encode

    def encode(self, frames, sample_ids, /):
        raise UserError("no window fits into the memory")


@pytest.mark.parametrize("cells", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_mistake_on_a_node_is_told_as_one(config, ray_cluster, cells, capfd):
    with pytest.raises(UserError) as told:
        run_job(config(cells, f"refused{cells}"), JobOptions(), Refusing())
    assert str(told.value) == "no window fits into the memory"
    assert "Traceback" not in capfd.readouterr().err


def manifest_of(config):
    return Manifest(Store(config.output.uri, config.storage))


def states(cache):
    return {row["id"]: row["status"] for row in cache.sources().to_pylist()}
