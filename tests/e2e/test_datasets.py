"""Whole runs over every kind of dataset on a real S3 server, requests counted at the server."""

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline import LatentCache
from pipeline.catalog import read_catalog
from pipeline.config import Config, load_config
from pipeline.job import EXIT_DONE, JobOptions, run_job
from pipeline.spans import find_place, name_of
from tests.e2e.support import config_tree, write_config, write_list
from tests.faults import FaultProxy, Request, fault_proxy
from tests.pipeline.tar_files import make_tar

NAMES = ["h264_open", "hevc10", "vp9", "png", "text"]
FAILED = "text.mp4"


@pytest.fixture
def proxy(s3) -> Iterator[FaultProxy]:
    with fault_proxy(s3) as running:
        yield running


def _config(tmp_path: Path, proxy: FaultProxy, dataset: str, output: str, **changes) -> Config:
    tree = config_tree(dataset, output, windows__fps="12", windows__tail="pad", **changes)
    tree["storage"] = {"endpoint_url": proxy.endpoint, "region": proxy.storage.region}
    return load_config(str(write_config(tmp_path / "config.yaml", tree)))


def _run(config: Config, proxy: FaultProxy) -> LatentCache:
    assert run_job(config, JobOptions()) == EXIT_DONE
    return LatentCache.open(config.output.uri, storage=proxy.storage)


def _name(uri: str) -> str:
    return Path(name_of(uri)).name


def _states(cache: LatentCache) -> dict[str, str]:
    return {_name(row["uri"]): row["reason"] or "ok" for row in cache.sources().to_pylist()}


def _captions(cache: LatentCache) -> dict[str, str | None]:
    return {_name(row["uri"]): row.get("caption") for row in cache.sources().to_pylist()}


def _by_place(cache: LatentCache) -> dict[tuple, dict[str, torch.Tensor]]:
    names = {row["source_id"]: _name(row["uri"]) for row in cache.sources().to_pylist()}
    return {
        (names[row["source_id"]], row["bucket"], row["window"]): cache.read(row["sample_id"])
        for row in cache.samples().to_pylist()
    }


@pytest.fixture(scope="module")
def loose(tmp_path_factory, clip) -> LatentCache:
    """A cache of the same files from local disk."""
    folder = tmp_path_factory.mktemp("loose")
    dataset = write_list(folder / "l.jsonl", [{"video": str(clip(name))} for name in NAMES])
    tree = config_tree(dataset, folder / "cache", windows__fps="12", windows__tail="pad")
    config = load_config(str(write_config(folder / "config.yaml", tree)))
    assert run_job(config, JobOptions()) == EXIT_DONE
    return LatentCache.open(config.output.uri)


def _assert_same(cache: LatentCache, loose: LatentCache) -> None:
    names = [name for name, state in _states(loose).items() if state == "ok"]
    assert len(names) == len(NAMES) - 1
    assert _states(cache) == {**dict.fromkeys(names, "ok"), FAILED: "unsupported_container"}
    ours, theirs = _by_place(cache), _by_place(loose)
    assert ours.keys() == theirs.keys()
    for place, tensors in theirs.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(ours[place][name], tensor, rtol=0, atol=2e-3)


def _of_sources(proxy: FaultProxy, folder: str) -> list[Request]:
    """Requests for objects of the dataset, listings and looks for a pattern as a name apart."""
    return [r for r in proxy.of(f"{folder}/.") if "*" not in r.key]


def _put(s3, clip, folder: str) -> None:
    files = s3.filesystem()
    for name in NAMES:
        files.put_file(str(clip(name)), f"{folder}/{clip(name).name}")


def _assert_nothing_to_do(config: Config, proxy: FaultProxy, folder: str) -> None:
    """Another run asks no source and publishes nothing."""
    before = LatentCache.open(config.output.uri, storage=proxy.storage).snapshot.number
    proxy.clear()
    assert _run(config, proxy).snapshot.number == before
    assert _of_sources(proxy, folder) == []


def test_a_pattern(tmp_path, clip, s3, s3_prefix, proxy, loose):
    folder = f"{s3_prefix}/in/deep"
    _put(s3, clip, folder)
    files = s3.filesystem()
    files.pipe_file(f"{s3_prefix}/in/other/x.mp4", b"not of it")
    files.pipe_file(f"{s3_prefix}/inside.mp4", b"nor this")
    dataset = f"s3://{s3_prefix}/in/d*/*.[mpw]*"
    config = _config(tmp_path, proxy, dataset, f"s3://{s3_prefix}/cache")
    proxy.clear()
    catalog = read_catalog(config)
    assert catalog.sources.num_rows == len(NAMES)
    assert _of_sources(proxy, folder) == []
    _assert_same(_run(config, proxy), loose)
    _assert_nothing_to_do(config, proxy, folder)


def test_a_pattern_in_one_folder_does_not_list_those_below(tmp_path, s3, s3_prefix, proxy):
    files = s3.filesystem()
    for name in ("a1.mp4", "a2.mp4", "b.mp4", "a.mp4/x.mp4", "a/deep/x.mp4"):
        files.pipe_file(f"{s3_prefix}/{name}", b"x")
    config = _config(tmp_path, proxy, f"s3://{s3_prefix}/a*.mp4", str(tmp_path / "cache"))
    uris = read_catalog(config).sources["uri"].to_pylist()
    assert uris == [f"s3://{s3_prefix}/a1.mp4", f"s3://{s3_prefix}/a2.mp4"]
    listings = [r.query for r in proxy.requests if "list-type=2" in r.query]
    assert "delimiter=%2F" in listings[-1]


def test_tar_files(tmp_path, clip, s3, s3_prefix, proxy, loose):
    data = {name: clip(name).read_bytes() for name in NAMES}
    member = {name: f"s/{clip(name).name}" for name in NAMES}
    stuffing = [("s/zz.bin", bytes(5 * 2**20))]  # so that the tar file is no small object
    first = make_tar(
        [
            (member["h264_open"], data["h264_open"]),
            ("s/h264_open.json", {"caption": "from json", "score": 3}),
            *stuffing,
            (member["hevc10"], data["hevc10"]),
            ("s/hevc10.txt", "from text\n"),
        ]
    )
    second = make_tar(
        [
            *stuffing,
            (member["vp9"], data["vp9"]),
            ("s/vp9.json", {"text": "an alias"}),
            (member["png"], data["png"]),
            (member["text"], data["text"]),
        ]
    )
    files = s3.filesystem()
    files.pipe_file(f"{s3_prefix}/in/0.tar", first)
    files.pipe_file(f"{s3_prefix}/in/1.tar", second)
    dataset, output = f"s3://{s3_prefix}/in/*.tar", f"s3://{s3_prefix}/cache"
    config = _config(tmp_path, proxy, dataset, output)
    looked = _config(tmp_path, proxy, dataset, output, report__contact_sheet_windows=2)
    assert run_job(config, JobOptions(plan_only=True)) == EXIT_DONE
    assert not files.exists(output)
    proxy.clear()
    cache = _run(looked, proxy)
    _assert_same(cache, loose)
    captions = _captions(cache)
    assert captions[clip("h264_open").name] == "from json"
    assert captions[clip("hevc10").name] == "from text"
    assert captions[clip("vp9").name] == "an alias"
    assert captions[clip("png").name] is None
    for row in cache.sources().to_pylist():
        place = find_place(row["uri"], row["version"])
        bytes_of = first if place.tar.endswith("0.tar") else second
        name = next(n for n in NAMES if clip(n).name == _name(row["uri"]))
        assert bytes_of[place.offset : place.offset + place.size] == data[name]

    # Every read of a tar file is a range; the stuffing between videos is not among them.
    reads = proxy.of(f"{s3_prefix}/in/.*tar", "GET")
    assert reads
    assert all(r.range is not None and r.if_match is not None for r in reads)
    assert sum(r.sent for r in reads) < 6 * sum(map(len, data.values())) + 12 * 128 * 2**10
    longest = max(
        int(b) - int(a) + 1 for r in reads for a, b in [r.range.removeprefix("bytes=").split("-")]
    )
    assert longest <= max(128 * 2**10, *map(len, data.values()))

    _assert_nothing_to_do(config, proxy, f"{s3_prefix}/in")

    # The same tar files, found under their prefix.
    prefix = _config(tmp_path, proxy, f"s3://{s3_prefix}/in", output, dataset__format="tar")
    _assert_nothing_to_do(prefix, proxy, f"{s3_prefix}/in")

    # One tar file is replaced: its videos are encoded again, the other's are not asked for.
    files.pipe_file(f"{s3_prefix}/in/1.tar", make_tar([(member["vp9"], data["vp9"])]))
    proxy.clear()
    cache = _run(config, proxy)
    assert proxy.of(f"{s3_prefix}/in/0.tar") == []
    assert _states(cache) == {
        clip("h264_open").name: "ok",
        clip("hevc10").name: "ok",
        clip("vp9").name: "ok",
    }


def test_a_list_takes_versions_from_pages(tmp_path, s3, s3_prefix, proxy):
    files = s3.filesystem()
    names = [f"d{n % 3}/{n:03}.mp4" for n in range(60)]
    for name in names:
        files.pipe_file(f"{s3_prefix}/in/{name}", name.encode())
    files.pipe_file(f"{s3_prefix}/far/x.mp4", b"x")
    rows = [{"video": f"s3://{s3_prefix}/in/{name}"} for name in [*names, "d1/none.mp4"]]
    dataset = write_list(tmp_path / "l.jsonl", rows)
    config = _config(tmp_path, proxy, str(dataset), str(tmp_path / "cache"))
    sources = read_catalog(config).sources.to_pylist()
    assert len(proxy.requests) == 1
    versions = [hashlib.md5(name.encode()).hexdigest() for name in names]
    assert [row["version"] for row in sources] == [*versions, ""]
    assert sources[-1]["reason"] == "missing"
    few = write_list(tmp_path / "few.jsonl", [*rows[:5], rows[-1]])
    proxy.clear()
    few_config = _config(tmp_path, proxy, str(few), str(tmp_path / "cache"))
    assert read_catalog(few_config).sources.to_pylist() == [*sources[:5], sources[-1]]
    assert len(proxy.of("in/", "HEAD")) == 6


def _inventory(s3, folder: str, bucket: str, keys: dict[str, str], kind: str) -> str:
    """Writes a report as S3 does, in two data files; returns the manifest's URI."""
    files = s3.filesystem()
    rows = [(bucket, key, etag) for key, etag in keys.items()]
    listed = []
    for number, part in enumerate((rows[:2], rows[2:])):
        sink = io.BytesIO()
        if kind == "Parquet":
            table = {n: [r[i] for r in part] for i, n in enumerate(("bucket", "key", "e_tag"))}
            size = pa.array([1] * len(part), pa.int64())
            pq.write_table(pa.table({**table, "size": size}), sink)
            data, suffix = sink.getvalue(), "parquet"
        else:
            text = io.StringIO()
            writer = csv.writer(text, quoting=csv.QUOTE_ALL)
            writer.writerows(
                (b, quote_plus(k), "1", "2026-01-01T00:00:00.000Z", e) for b, k, e in part
            )
            data, suffix = gzip.compress(text.getvalue().encode()), "csv.gz"
        key = f"{folder}/data/{number}.{suffix}"
        files.pipe_file(key, data)
        checksum = hashlib.md5(data).hexdigest()
        listed.append({"key": key.partition("/")[2], "size": 1, "MD5checksum": checksum})
    manifest = {
        "sourceBucket": bucket,
        "destinationBucket": f"arn:aws:s3:::{bucket}",
        "fileFormat": kind,
        "fileSchema": "Bucket, Key, Size, LastModifiedDate, ETag",
        "files": listed,
    }
    files.pipe_file(f"{folder}/2026-01-01T00-00Z/manifest.json", json.dumps(manifest).encode())
    return f"s3://{folder}/2026-01-01T00-00Z/manifest.json"


@pytest.mark.parametrize("kind", ["Parquet", "CSV"])
def test_an_inventory(tmp_path, clip, s3, s3_prefix, proxy, loose, kind):
    folder = f"{s3_prefix}/in"
    _put(s3, clip, folder)
    bucket, _, prefix = folder.partition("/")
    etags = {
        f"{prefix}/{clip(n).name}": hashlib.md5(clip(n).read_bytes()).hexdigest() for n in NAMES
    }
    manifest = _inventory(s3, f"{s3_prefix}/inventory", bucket, etags, kind)
    output = f"s3://{s3_prefix}/cache"
    live = _config(tmp_path, proxy, f"s3://{folder}", output)
    listed = _config(tmp_path, proxy, f"s3://{folder}", output, dataset__inventory=manifest)
    proxy.clear()
    found = read_catalog(listed)
    assert {r.key.partition("/")[2].rsplit("/", 1)[-1] for r in proxy.requests} <= {
        "manifest.json",
        "0.parquet",
        "1.parquet",
        "0.csv.gz",
        "1.csv.gz",
    }
    assert found.sources.equals(read_catalog(live).sources)
    if kind == "Parquet":  # what is encoded follows from the catalog, so that once is enough
        _assert_same(_run(listed, proxy), loose)
        _assert_nothing_to_do(listed, proxy, folder)
        _assert_nothing_to_do(live, proxy, folder)

    rows = [{"video": f"s3://{folder}/{clip(n).name}"} for n in NAMES]
    rows.append({"video": f"s3://{folder}/none.mp4"})
    dataset = str(write_list(tmp_path / "l.jsonl", rows))
    config = _config(tmp_path, proxy, dataset, output, dataset__inventory=manifest)
    proxy.clear()
    sources = read_catalog(config).sources.to_pylist()
    assert {r.key for r in _of_sources(proxy, folder)} == {f"{folder}/none.mp4"}
    assert [row["reason"] for row in sources] == [None] * len(NAMES) + ["missing"]
    assert {row["version"] for row in sources[:-1]} == set(etags.values())


def test_caption_files_are_read_once(tmp_path, s3, s3_prefix, proxy):
    files = s3.filesystem()
    for name in ("a.mp4", "a.txt", "b.mp4", "b.txt"):
        files.pipe_file(f"{s3_prefix}/in/{name}", name.encode())
    config = _config(tmp_path, proxy, f"s3://{s3_prefix}/in", f"s3://{s3_prefix}/cache")
    for expected in (["a.txt", "b.txt"], []):
        proxy.clear()
        captions = read_catalog(config, keep=True).columns["caption"].to_pylist()
        assert captions == ["a.txt", "b.txt"]
        read = {r.key.rsplit("/", 1)[1] for r in _of_sources(proxy, f"{s3_prefix}/in")}
        assert sorted(read) == expected
