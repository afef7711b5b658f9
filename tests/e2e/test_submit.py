"""`ray job submit` to a local head runs the job and returns its exit code."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import LatentCache
from tests.e2e.support import (
    ROOT,
    config_tree,
    end_processes_naming,
    environment,
    write_config,
    write_list,
)

pytestmark = pytest.mark.ray

RAY = str(Path(sys.executable).with_name("ray"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head(ray_folder: str) -> Iterator[str]:
    """Address of the job server of a head node of its own."""
    port = _free_port()
    command = [
        *(RAY, "start", "--head", "--block", f"--port={_free_port()}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={port}", f"--temp-dir={ray_folder}"),
        *("--num-cpus=2", "--num-gpus=2", "--object-store-memory=300000000"),
    ]
    process = subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_listening(port, process)
        yield address
    finally:
        process.kill()
        process.wait()
        end_processes_naming(ray_folder, patience=0)


def _wait_until_listening(port: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90
    while True:
        assert process.poll() is None, "ray start ended"
        assert time.monotonic() < deadline, "the job server did not come up within 90 s"
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)


def _submit(head: str, config: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Submit, and submit again while the head's agent is not up yet."""
    deadline = time.monotonic() + 60
    while True:
        done = _submit_once(head, config, *arguments)
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(1)


def _submit_once(head: str, config: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            *(RAY, "job", "submit", "--address", head, "--working-dir", str(ROOT), "--"),
            *(sys.executable, "jobs/encode_dataset.py", "--config", str(config), *arguments),
        ],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_submitted_job_encodes_and_returns_its_exit_code(tmp_path, clip, head):
    rows = [{"video": str(clip("bikes")), "end": 2.0}, {"video": str(clip("text"))}]
    dataset = write_list(tmp_path / "clips.jsonl", rows)
    tree = config_tree(dataset, tmp_path / "cache", run__runner="ray")
    tree["run"].update(gpus_per_encoder=1, cpus_per_encoder=0)
    config = write_config(tmp_path / "config.yaml", tree)
    done = _submit(head, config)
    assert done.returncode == 0, done.stdout + done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith('{"run_id"')]
    assert json.loads(line)["sources"] == {"total": 2, "ok": 1, "skipped": 0, "failed": 1}
    assert LatentCache.open(str(tmp_path / "cache")).samples().num_rows == 2

    refused = _submit(head, config, "--set", "windows.stride=0")
    assert refused.returncode == 1, refused.stdout
    assert "windows.stride" in refused.stdout + refused.stderr
