"""Submission to a local head, with token authentication: once, stopped, and on a schedule."""

import json
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.manifests.build import cron_job
from infra.manifests.values import INFRA, load_values
from pipeline import LatentCache
from pipeline.config import StorageConfig
from pipeline.manifest import Manifest
from pipeline.storage import Store
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
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


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
        f"--dashboard-agent-listen-port={_free_port()}",  # another head may have the default one
    ]
    process = subprocess.Popen(
        command,
        env=environment(RAY_JOB_STOP_WAIT_TIME_S="60", **TOKEN),
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


def _ray_job(head: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """``ray job ...``, again while the head's agent is not up yet."""
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(
            [RAY, "job", *arguments],
            env=environment(RAY_API_SERVER_ADDRESS=head, **TOKEN),
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(1)


def _submit(
    head: str, config: Path, *arguments: str, options: tuple[str, ...] = (), cwd: Path = ROOT
) -> subprocess.CompletedProcess:
    job = (sys.executable, "jobs/encode_dataset.py", "--config", str(config), *arguments)
    return _ray_job(head, "submit", *options, "--working-dir", ".", "--", *job, cwd=cwd)


def _config(tmp_path: Path, rows: list[dict], **changes) -> Path:
    dataset = write_list(tmp_path / "clips.jsonl", rows)
    tree = config_tree(dataset, tmp_path / "cache", run__runner="ray", **changes)
    tree["run"].update(gpus_per_encoder=1, cpus_per_encoder=0)
    return write_config(tmp_path / "config.yaml", tree)


def _runs(tmp_path: Path) -> list[dict]:
    table = Manifest(Store(str(tmp_path / "cache"), StorageConfig())).read("runs")
    return table.sort_by("at").to_pylist()


@pytest.mark.slow
def test_a_job_from_a_clean_checkout_encodes_once_and_returns_its_exit_code(tmp_path, clip, head):
    ignored = (ROOT / ".gitignore").read_text().replace("/", "").split()
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".git", *ignored))
    rows = [{"video": str(clip("bikes")), "end": 2.0}, {"video": str(clip("text"))}]
    config = _config(tmp_path, rows)
    name = ("--submission-id", "clips-540p")
    done = _submit(head, config, options=name, cwd=checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith('{"run_id"')]
    assert json.loads(line)["sources"] == {"total": 2, "ok": 1, "skipped": 0, "failed": 1}
    assert LatentCache.open(str(tmp_path / "cache")).samples().num_rows == 2

    again = _submit(head, config, options=name, cwd=checkout)
    assert again.returncode == 1
    assert "clips-540p already exists" in again.stderr
    assert [run["state"] for run in _runs(tmp_path)] == ["started", "finished"]

    refused = _submit(head, config, "--set", "windows.stride=0", cwd=checkout)
    assert refused.returncode == 1, refused.stdout
    assert "windows.stride" in refused.stdout + refused.stderr


@pytest.mark.slow
def test_a_stopped_job_commits_and_the_next_one_resumes(tmp_path, clip, head):
    rows = [{"video": str(clip(name)), "id": name} for name in ("bikes", "carphone", "vfr")]
    many = {"output__shard_bytes": 1, "run__pack_bytes": 200_000, "run__micro_batch": 1}
    config = _config(tmp_path, rows, **many)
    started = _submit(head, config, options=("--no-wait", "--submission-id", "to-be-stopped"))
    assert started.returncode == 0, started.stderr
    deadline = time.monotonic() + 120
    while not list((tmp_path / "cache").glob("samples/_delta_log/*.json")):
        assert time.monotonic() < deadline, _ray_job(head, "logs", "to-be-stopped").stdout
        time.sleep(0.02)
    stopped = _ray_job(head, "stop", "to-be-stopped")
    assert stopped.returncode == 0, stopped.stderr
    assert "Traceback" not in _ray_job(head, "logs", "to-be-stopped").stdout
    runs = _runs(tmp_path)
    assert [run["state"] for run in runs] == ["started", "stopped"]
    committed = json.loads(runs[1]["report"])["windows"]
    assert committed > 0

    resumed = _submit(head, config)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    [*_, finished] = _runs(tmp_path)
    windows = json.loads(finished["report"])["windows"]
    assert windows > 0
    assert committed + windows == LatentCache.open(str(tmp_path / "cache")).samples().num_rows


def _refresh(
    head: str, config: Path, name: str = "refresh-29400135", token: str = TOKEN["RAY_AUTH_TOKEN"]
) -> subprocess.CompletedProcess:
    """The nightly refresh's own command and environment, with a configuration of ours."""
    pod = cron_job(load_values(INFRA / "values.yaml"))["spec"]["jobTemplate"]["spec"]["template"]
    [container] = pod["spec"]["containers"]
    known = {"SUBMISSION_ID": name, "RAY_API_SERVER_ADDRESS": head}
    known |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    assert {one["name"] for one in container["env"]} == known.keys()
    _, job, *_ = container["args"]
    command = [*container["command"], sys.executable, job, "--config", str(config)]
    command = [
        part.replace("$(SUBMISSION_ID)", name).replace("/app/", f"{ROOT}/") for part in command
    ]
    assert command[0] == "python"
    return subprocess.run(
        [sys.executable, *command[1:]],
        env=environment(**known),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
def test_the_nightly_refresh_submits_once_and_ends_as_its_job_does(tmp_path, clip, head):
    config = _config(tmp_path, [{"video": str(clip("bikes")), "end": 2.0}])
    first, again = _refresh(head, config), _refresh(head, config)
    assert first.returncode == 0, first.stdout + first.stderr
    assert '"snapshot": 1' in first.stdout
    assert again.returncode == 0, again.stderr
    assert "refresh-29400135 was submitted before" in again.stderr
    assert '"snapshot": 1' in again.stdout
    assert [run["state"] for run in _runs(tmp_path)] == ["started", "finished"]


@pytest.mark.slow
def test_the_nightly_refresh_tells_what_ended_it(tmp_path, head):
    missing = tmp_path / "none.yaml"
    failed = _refresh(head, missing, name="refresh-29401575")
    assert failed.returncode == 1
    assert "name an existing YAML file" in failed.stdout
    stranger = _refresh(head, missing, token=secrets.token_hex(32))
    assert stranger.returncode == 1
    assert "error: the cluster refuses RAY_AUTH_TOKEN" in stranger.stderr
    assert "Traceback" not in stranger.stderr
