"""Fixtures of the whole suite: the clips, made once, and one local Ray cluster."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import clips
from tests.s3 import BUCKET, S3, s3_server


def pytest_configure() -> None:
    """One thread for torch, here and in child processes.

    On models as narrow as the tests' more only wait for each other, long where others are at work.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Failures are told at once too, so that a suite that is cut short has told its own."""
    if not hasattr(session.config, "workerinput"):
        session.config.pluginmanager.register(FailuresAtOnce(session.config))


class FailuresAtOnce:
    """Prints the report of each test that failed when it has."""

    def __init__(self, config: pytest.Config) -> None:
        self._terminal = config.pluginmanager.get_plugin("terminalreporter")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called with each report, from all workers."""
        if report.failed:
            self._terminal.write_line(
                f"\nFAILED {report.nodeid} ({report.when})\n{report.longreprtext}"
            )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Where system packages are promised (continuous integration), a skip is a failure."""
    report = yield
    if report.skipped and os.environ.get("T2V_REQUIRE_SYSTEM_PACKAGES") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped, though system packages are promised: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where derived clips are kept for the session."""
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="session")
def clip(clip_folder: Path):
    """Path of a real or derived clip by name."""

    def find(name: str) -> Path:
        return clips.real(name) if name in clips.REAL else clips.make(name, clip_folder)

    return find


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[str]:
    """A short path for the sockets of a cluster, removed afterwards."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def ray_cpus() -> int:
    """Processors that the cluster says it has; a module may say more."""
    return 2


@pytest.fixture(scope="module")
def ray_cluster(ray_folder: str, ray_cpus: int) -> Iterator[None]:
    """A local cluster with 2 pretended GPUs, so that operators stay apart as on real ones."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray

    ray.init(
        address="local",
        num_cpus=ray_cpus,
        num_gpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=500 * 2**20,
        _temp_dir=ray_folder,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_server_running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A real S3 server for the session."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_server_running: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The S3 server, with its credentials in the environment."""
    for name, value in s3_server_running.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server_running


@pytest.fixture
def s3_prefix() -> str:
    """A prefix of the test's own, in the server's one bucket."""
    return f"{BUCKET}/{secrets.token_hex(6)}"
