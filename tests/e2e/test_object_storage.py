"""The main job with dataset, sources and cache on a real S3 server, and sources elsewhere."""

import contextlib
import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch

from pipeline import LatentCache
from pipeline.config import Config, load_config
from pipeline.job import EXIT_DONE, JobOptions, run_job
from tests.e2e.support import config_tree, write_config, write_list
from tests.s3 import REGION, S3

NAMES = ["bikes", "h264_open", "hevc10", "png", "text"]


def _config(tmp_path: Path, dataset: str, output: str, s3: S3 | None = None, **changes) -> Config:
    tree = config_tree(
        dataset, output, windows__fps="12", windows__tail="pad", output__shard_bytes=1, **changes
    )
    if s3 is not None:
        tree["storage"] = {"endpoint_url": s3.endpoint, "region": REGION}
    return load_config(str(write_config(tmp_path / "config.yaml", tree)))


def _local_cache(tmp_path: Path, clip) -> LatentCache:
    """The same clips, encoded from local files into a local cache."""
    rows = [{"video": str(clip(name)), "id": name} for name in NAMES]
    dataset = write_list(tmp_path / "local.jsonl", rows)
    config = _config(tmp_path, str(dataset), str(tmp_path / "local"))
    assert run_job(config, JobOptions()) == EXIT_DONE
    return LatentCache.open(str(tmp_path / "local"))


def _by_place(cache: LatentCache) -> dict[tuple, dict[str, torch.Tensor]]:
    """Tensors by source name, bucket and window: identities hold URIs, and differ."""
    names = {row["source_id"]: Path(row["uri"]).name for row in cache.sources().to_pylist()}
    return {
        (names[row["source_id"]], row["bucket"], row["window"]): cache.read(row["sample_id"])
        for row in cache.samples().to_pylist()
    }


def _assert_same_tensors(left: LatentCache, right: LatentCache) -> None:
    ours, theirs = _by_place(left), _by_place(right)
    assert ours.keys() == theirs.keys()
    for place in ours:
        for name in ours[place]:
            torch.testing.assert_close(ours[place][name], theirs[place][name], rtol=0, atol=2e-3)


@pytest.mark.parametrize("kind", ["prefix", "list"])
def test_everything_on_s3(tmp_path, clip, s3, s3_prefix, kind):
    files = s3.filesystem()
    for name in NAMES:
        files.put_file(str(clip(name)), f"{s3_prefix}/in/{clip(name).name}")
    dataset = f"s3://{s3_prefix}/in"
    if kind == "list":
        lines = [{"video": f"in/{clip(name).name}", "caption": name} for name in NAMES]
        local = write_list(tmp_path / "list.jsonl", lines)
        files.put_file(str(local), f"{s3_prefix}/list.jsonl")
        dataset = f"s3://{s3_prefix}/list.jsonl"
    config = _config(tmp_path, dataset, f"s3://{s3_prefix}/cache", s3)
    assert run_job(config, JobOptions()) == EXIT_DONE
    cache = LatentCache.open(f"s3://{s3_prefix}/cache", storage=s3.storage)
    states = {Path(row["uri"]).stem: row["status"] for row in cache.sources().to_pylist()}
    assert states == {**dict.fromkeys([clip(n).stem for n in NAMES], "ok"), "text": "failed"}
    _assert_same_tensors(cache, _local_cache(tmp_path, clip))

    assert run_job(config, JobOptions()) == EXIT_DONE
    again = LatentCache.open(f"s3://{s3_prefix}/cache", storage=s3.storage)
    assert again.snapshot.number == cache.snapshot.number == 1


def test_the_environment_alone_tells_where_the_store_is(tmp_path, clip, s3, s3_prefix, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    s3.filesystem().put_file(str(clip("h264_open")), f"{s3_prefix}/in/a.mp4")
    config = _config(tmp_path, f"s3://{s3_prefix}/in", f"s3://{s3_prefix}/cache")
    assert run_job(config, JobOptions()) == EXIT_DONE
    assert LatentCache.open(f"s3://{s3_prefix}/cache").sources()["status"].to_pylist() == ["ok"]


@contextlib.contextmanager
def _http_server(folder: Path) -> Iterator[str]:
    """Serves a folder with byte ranges on a free loopback port."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = Path(self.translate_path(self.path))
            if not path.is_file():
                self.send_error(404)
                return
            data, total = path.read_bytes(), path.stat().st_size
            first, last = 0, total - 1
            wanted = self.headers.get("Range", "")
            if wanted.startswith("bytes="):
                begin, _, stop = wanted.removeprefix("bytes=").partition("-")
                first, last = int(begin), min(int(stop or last), last)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
            else:
                self.send_response(200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{total}-{path.stat().st_mtime_ns}"')
            self.send_header("Content-Length", str(last - first + 1))
            self.end_headers()
            if body:
                self.wfile.write(data[first : last + 1])

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("scheme", ["http", "memory"])
def test_sources_of_other_schemes(tmp_path, clip, scheme):
    folder = tmp_path / "served"
    folder.mkdir()
    for name in NAMES:
        (folder / clip(name).name).write_bytes(clip(name).read_bytes())
    with contextlib.ExitStack() as stack:
        if scheme == "http":
            base = stack.enter_context(_http_server(folder))
        else:
            base = f"memory:///{tmp_path.name}"
            memory = fsspec.filesystem("memory")
            memory.put(str(folder), f"/{tmp_path.name}", recursive=True)
            stack.callback(memory.rm, f"/{tmp_path.name}", recursive=True)
        rows = [{"video": f"{base}/{clip(name).name}"} for name in NAMES]
        rows.append({"video": f"{base}/nowhere.mp4"})
        dataset = write_list(tmp_path / "list.jsonl", rows)
        config = _config(tmp_path, str(dataset), str(tmp_path / "cache"))
        assert run_job(config, JobOptions()) == EXIT_DONE
    cache = LatentCache.open(str(tmp_path / "cache"))
    states = {Path(row["uri"]).name: row["reason"] or "ok" for row in cache.sources().to_pylist()}
    assert states["nowhere.mp4"] == "missing"
    assert states["text.mp4"] == "unsupported_container"
    _assert_same_tensors(cache, _local_cache(tmp_path, clip))
