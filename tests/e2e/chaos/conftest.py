"""Several Ray nodes, the real S3 server behind a proxy, and what an undisturbed run makes there."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import LatentCache
from pipeline.job import EXIT_DONE, JobOptions, run_job
from tests.e2e.chaos.support import CLIPS, Nodes, Place, ray_nodes
from tests.faults import FaultProxy, fault_proxy
from tests.s3 import BUCKET, S3


@pytest.fixture
def proxy(s3) -> Iterator[FaultProxy]:
    with fault_proxy(s3) as running:
        yield running


@pytest.fixture(scope="module")
def nodes(s3_server_running: S3, ray_folder: str) -> Iterator[Nodes]:
    """A head with two more nodes, each of which has a pretended GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_TMPDIR", ray_folder)  # where the cluster's address is noted
        Path(ray_folder, "ray").mkdir()
        for name, value in s3_server_running.environment.items():
            patch.setenv(name, value)  # nodes have the credentials that they are started with
        with ray_nodes(ray_folder) as running:
            yield running


@pytest.fixture
def joined(nodes: Nodes) -> Iterator[Nodes]:
    """The nodes, with this process as a driver on them."""
    with nodes.joined():
        yield nodes


@pytest.fixture(scope="session")
def dataset(clip, s3_server_running: S3) -> str:
    """A prefix with videos, an image, a file that is no video, and a caption."""
    files, prefix = s3_server_running.filesystem(), f"{BUCKET}/{secrets.token_hex(6)}"
    for name in CLIPS:
        files.put_file(str(clip(name)), f"{prefix}/{clip(name).name}")
    files.pipe_file(f"{prefix}/{clip('vfr').stem}.txt", b"bikes at night")
    return f"s3://{prefix}"


@pytest.fixture(scope="session")
def whole(tmp_path_factory, s3_server_running: S3, dataset: str) -> Iterator[LatentCache]:
    """The dataset's cache, made by a run that nothing disturbed."""
    folder: Path = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server_running.environment.items():
            patch.setenv(name, value)
        place = Place(folder, dataset, str(folder / "cache"), s3_server_running)
        assert run_job(place.config(run__runner="local"), JobOptions()) == EXIT_DONE
        yield LatentCache.open(str(folder / "cache"))


@pytest.fixture
def place(tmp_path: Path, s3: S3, proxy: FaultProxy, dataset: str, s3_prefix: str) -> Place:
    """Where a run is disturbed: a new cache on S3, reached by way of the proxy."""
    return Place(tmp_path, dataset, f"s3://{s3_prefix}/cache", s3, proxy)
