"""The Slurm script starts Ray on every node, runs the job, and hands on what it is told."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.manifests.values import ROOT
from pipeline import LatentCache
from tests.e2e.support import config_tree, end_processes_naming, write_config, write_list

ON_RAY = ROOT / "infra" / "slurm" / "on_ray.sh"

WAIT_FOR_TWO_NODES = """
import os, time, ray
ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
deadline = time.monotonic() + 90
while sum(node["Alive"] for node in ray.nodes()) < 2:
    assert time.monotonic() < deadline, ray.nodes()
    time.sleep(0.5)
print("GPUs of two nodes:", ray.cluster_resources()["GPU"], flush=True)
"""


@pytest.fixture
def allocation():
    """The environment of an allocation of two nodes with one GPU each; ends what it started."""
    job = next(job for job in iter(lambda: random.randrange(10**5, 10**6), 0) if _port_is_free(job))
    folder = f"/tmp/ray-{job}"
    programs = [Path(__file__).parent / "bin", Path(sys.executable).parent]
    yield {
        **os.environ,
        "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]]),
        "SLURM_JOB_ID": str(job),
        "SLURM_NNODES": "2",
        "SLURM_CPUS_PER_TASK": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "HEAD_IP": "127.0.0.1",
        "OBJECT_STORE_BYTES": "150000000",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    left = Path(folder).exists()
    end_processes_naming(folder, patience=20)
    assert not left


def _port_is_free(job: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", 20000 + job % 10000)) != 0


def _config(tmp_path: Path, clip, **changes) -> Path:
    rows = [{"video": str(clip("bikes")), "end": 2.0}, {"video": str(clip("carphone"))}]
    dataset = write_list(tmp_path / "clips.jsonl", rows)
    tree = config_tree(dataset, tmp_path / "cache", run__runner="ray", **changes)
    tree["run"].update(encoders=2, gpus_per_encoder=1, cpus_per_encoder=0)
    return write_config(tmp_path / "config.yaml", tree)


def _start(allocation, config: Path) -> subprocess.Popen:
    script = 'python -c "$1" && exec python jobs/encode_dataset.py --config "$2"'
    return subprocess.Popen(
        [ON_RAY, "bash", "-c", script, "bash", WAIT_FOR_TWO_NODES, str(config)],
        cwd=ROOT,
        env=allocation,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_on_two_nodes(tmp_path, clip, allocation):
    process = _start(allocation, _config(tmp_path, clip))
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stdout + stderr
    assert "GPUs of two nodes: 2.0" in stdout
    assert "no room" not in stderr
    assert LatentCache.open(str(tmp_path / "cache")).samples().num_rows == 9


@pytest.mark.ray
@pytest.mark.slow
def test_sigterm_reaches_the_job_which_commits(tmp_path, clip, allocation):
    config = _config(tmp_path, clip, output__shard_bytes=1, run__pack_bytes=200_000)
    process = _start(allocation, config)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "cache").glob("samples/_delta_log/*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == 143, stdout + stderr
    assert '"snapshot": null' in stdout
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("environment", "arguments", "told"),
    [
        ({}, ["python"], "SLURM_JOB_ID: is not set: run this under sbatch or salloc"),
        ({"SLURM_JOB_ID": "7", "SLURM_NNODES": "1"}, [], "no command; give what to run"),
    ],
)
def test_misuse_is_told(environment, arguments, told):
    done = subprocess.run(
        [ON_RAY, *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert told in done.stderr
