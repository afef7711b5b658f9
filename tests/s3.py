"""A real S3 server (SeaweedFS) on a free loopback port, with its data in a folder of the tests."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import StorageConfig

ACCESS_KEY, SECRET_KEY, REGION = "test", "testtest", "us-east-1"
BUCKET = "t2v"
_START_SECONDS = 60.0
_SERVICES = ("master", "volume", "filer", "admin", "s3")


@dataclass(frozen=True)
class S3:
    """A running server: its address, and the settings and environment to reach it."""

    endpoint: str

    @property
    def storage(self) -> StorageConfig:
        return StorageConfig(endpoint_url=self.endpoint, region=REGION)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": REGION,
        }

    def filesystem(self):
        import s3fs

        return s3fs.S3FileSystem(
            key=ACCESS_KEY,
            secret=SECRET_KEY,
            endpoint_url=self.endpoint,
            client_kwargs={"region_name": REGION},
            skip_instance_cache=True,
        )


def free_ports(count: int) -> list[int]:
    """So many ports of the loopback address that nobody listens at."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3]:
    """Start the server with one bucket; end it, whatever happens."""
    # Each by name: two servers that start at once would choose the same ones.
    names = [f"{service}.port{kind}" for service in _SERVICES for kind in ("", ".grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    weed = Path(sys.executable).with_name("weed")
    flags = {
        "dir": folder,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        "admin.ui": "false",
        "webdav": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        **ports,
        "volume.max": 500,
        "master.volumeSizeLimitMB": 64,
    }
    credentials = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            [weed, "-logtostderr=true", "mini", *(f"-{k}={v}" for k, v in flags.items())],
            cwd=folder,
            env={**os.environ, **credentials, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},
            stdout=log,
            stderr=log,
        )
    server = S3(f"http://127.0.0.1:{ports['s3.port']}")
    try:
        _wait_until_ready(server, process, folder)
        yield server
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(server: S3, process: subprocess.Popen, folder: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            tail = (folder / "weed.log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the S3 server did not start; its log ends:\n{tail}")
        with contextlib.suppress(OSError):
            try:
                urllib.request.urlopen(server.endpoint, timeout=2).close()
            except urllib.error.HTTPError as answer:
                answer.close()  # any answer means that it listens
            server.filesystem().mkdir(BUCKET)
            return
        time.sleep(0.2)


def main() -> int:
    """``python -m tests.s3 COMMAND…``: run a command beside a server of its own."""
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder)) as server:
        settings = {**server.environment, "AWS_ENDPOINT_URL": server.endpoint}
        return subprocess.run(sys.argv[1:], env={**os.environ, **settings}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
