import os
import threading

import pytest
from helpers import LOCAL, make_config, make_store

from pipeline.config import StorageConfig
from pipeline.errors import UserError
from pipeline.reading import stat_source
from pipeline.storage import Store, absolute, filesystem_options, version_of

# ---- paths


@pytest.mark.parametrize(
    ("uri", "base", "expected"),
    [
        ("/a/b.mp4", None, "/a/b.mp4"),
        ("file:///a/b.mp4", None, "/a/b.mp4"),
        ("/a/./x/../b.mp4", "/c", "/a/b.mp4"),
        ("b.mp4", "/c", "/c/b.mp4"),
        ("../b.mp4", "/c/d", "/c/b.mp4"),
        ("b.mp4", "file:///c", "/c/b.mp4"),
        ("b.mp4", "/", "/b.mp4"),
        ("s3://k/b.mp4", "/c", "s3://k/b.mp4"),
        ("x/b.mp4", "s3://k/lists", "s3://k/lists/x/b.mp4"),
        ("x/b.mp4", "s3://k/lists/", "s3://k/lists/x/b.mp4"),
        ("/a/b.mp4", "s3://k/lists", "/a/b.mp4"),
        ("https://h/b.mp4?x=1", "s3://k", "https://h/b.mp4?x=1"),
    ],
)
def test_absolute(uri, base, expected):
    assert absolute(uri, base) == expected


def test_a_relative_path_is_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("a/../b") == str(tmp_path / "b")
    assert Store("cache", LOCAL).uri == str(tmp_path / "cache")


def test_one_cache_has_one_spelling(tmp_path):
    spellings = [str(tmp_path), f"{tmp_path}/", f"file://{tmp_path}", f"{tmp_path}/x/.."]
    assert {Store(uri, LOCAL).uri for uri in spellings} == {str(tmp_path)}


def test_a_cache_lies_on_a_path_or_on_s3():
    with pytest.raises(UserError, match=r"memory://x: .*local path or on s3://"):
        Store("memory://x", LOCAL)
    assert Store("s3://bucket/cache/", LOCAL).table_uri("samples") == "s3://bucket/cache/samples"
    assert Store("s3a://bucket/cache", LOCAL).table_uri("runs") == "s3://bucket/cache/runs"


# ---- versions


def test_a_version_changes_with_the_bytes(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"one")
    before = stat_source(str(path), LOCAL)
    assert before == stat_source(f"file://{path}", LOCAL)
    assert before[1] == 3
    stat = path.stat()
    path.write_bytes(b"three")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert stat_source(str(path), LOCAL)[0] != before[0]
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**6))
    assert stat_source(str(path), LOCAL)[0] != before[0]


@pytest.mark.parametrize(
    ("info", "version"),
    [
        ({"ETag": '"abc-2"', "size": 3, "mtime": 1.0}, "abc-2"),
        ({"etag": "abc", "size": 3}, "abc"),
        ({"md5Hash": "q==", "size": 3}, "q=="),
        ({"size": 3, "mtime": 1.5}, "3-1.5"),
        ({"size": 3, "LastModified": "t"}, "3-t"),
        ({"size": 3}, "3-"),
    ],
)
def test_what_a_version_is_made_of(info, version):
    assert version_of(info) == version


# ---- the store


def test_what_is_written_is_read(tmp_path):
    store = make_store(tmp_path / "new" / "cache")
    store.write("a/b/c.bin", b"0123456789")
    assert store.read("a/b/c.bin") == b"0123456789"
    assert store.read("a/b/c.bin", 2, 5) == b"234"
    with store.open("a/b/c.bin") as file:
        file.seek(8)
        assert file.read() == b"89"
    store.write("a/b/c.bin", b"new")
    assert store.read("a/b/c.bin") == b"new"
    assert store.names("a/b") == ["c.bin"]
    with pytest.raises(FileNotFoundError):
        store.read("a/none")


def test_names_are_sorted_and_none_of_a_missing_folder(tmp_path):
    store = make_store(tmp_path)
    for name in ("b", "c", "a"):
        store.write(f"x/{name}", b"")
    assert store.names("x") == ["a", "b", "c"]
    assert store.names("y") == []


@pytest.mark.parametrize("method", ["write", "create"])
def test_a_reader_sees_a_whole_file_or_none(tmp_path, monkeypatch, method):
    store = make_store(tmp_path)
    store.write("x/a", b"old")
    path = "x/a" if method == "write" else "x/b"
    seen = []

    def look(_descriptor):
        seen.append((tmp_path / path).read_bytes() if (tmp_path / path).exists() else None)
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", look)
    with pytest.raises(OSError, match="disk is full"):
        getattr(store, method)(path, b"new and longer")
    assert seen == [b"old" if method == "write" else None]
    assert store.names("x") == ["a"]  # and nothing is left behind
    assert store.read("x/a") == b"old"


def test_create_never_replaces(tmp_path):
    store = make_store(tmp_path)
    assert store.create("x/1.json", b"first")
    assert not store.create("x/1.json", b"second")
    assert store.read("x/1.json") == b"first"
    assert store.names("x") == ["1.json"]


def test_of_many_creators_one_wins(tmp_path):
    store = make_store(tmp_path)
    start = threading.Barrier(8)
    won = []

    def create(number):
        start.wait()
        if store.create("x/1.json", b"%d" % number * 1000):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("x/1.json") == b"%d" % won[0] * 1000


class _Conditional:
    """A remote store that answers a conditional create with an error."""

    def __init__(self, error):
        self.error = error

    def pipe_file(self, path, data, mode="overwrite"):
        assert mode == "create"
        raise self.error

    def cat_file(self, path, start=None, end=None):
        return b"what is there"


def boto(code, number=22):
    error = OSError(number, "refused")
    error.__cause__ = type("ClientError", (Exception,), {})()
    error.__cause__.response = {
        "Error": {"Code": code},
        "ResponseMetadata": {"HTTPStatusCode": 412},
    }
    return error


@pytest.mark.parametrize(
    ("error", "conflict"),
    [
        (FileExistsError(), True),
        (boto("PreconditionFailed"), True),
        (boto("ConditionalRequestConflict"), False),  # may pass: the other put may fail
        (boto("412"), True),
        (boto("InvalidArgument"), False),
        (OSError(22, "bare"), False),
        (PermissionError(13, "no"), False),
    ],
)
def test_a_conflict_is_told_from_a_failure(monkeypatch, error, conflict):
    store = Store("s3://bucket/cache", StorageConfig(retry_seconds=0.01))
    monkeypatch.setattr(Store, "locate", lambda self, path: (_Conditional(error), path))
    if conflict:
        assert store.create("snapshots/1.json", b"x") is False
        # The answer to our own put was lost, and the next attempt found it:
        assert store.create("snapshots/1.json", b"what is there") is True
    else:
        with pytest.raises(type(error)):
            store.create("snapshots/1.json", b"x")


# ---- options


def test_options_of_s3():
    storage = StorageConfig(endpoint_url="http://localhost:9000", region="eu-1", anonymous=True)
    assert filesystem_options("s3://b/k", storage) == {
        "anon": True,
        "use_listings_cache": False,
        "client_kwargs": {"region_name": "eu-1"},
        "config_kwargs": {
            "connect_timeout": 10,
            "read_timeout": 30,
            "retries": {"mode": "standard", "total_max_attempts": 1},
        },
        "endpoint_url": "http://localhost:9000",
    }
    assert filesystem_options("/a", storage) == {}
    assert Store("s3://b/k", storage).delta_options() == {
        "aws_conditional_put": "etag",
        "aws_endpoint": "http://localhost:9000",
        "aws_allow_http": "true",
        "aws_region": "eu-1",
        "aws_skip_signature": "true",
        "max_retries": "1000",
        "retry_timeout": "60s",
    }
    assert Store("s3://b/k", LOCAL).delta_options() == {
        "aws_conditional_put": "etag",
        "max_retries": "1000",
        "retry_timeout": "1s",
    }
    assert Store("/k", storage).delta_options() == {}


@pytest.mark.parametrize(
    ("variables", "endpoint", "region"),
    [
        ({"AWS_ENDPOINT_URL": "http://a:1", "AWS_REGION": "eu-1"}, "http://a:1", "eu-1"),
        (
            {"AWS_ENDPOINT_URL_S3": "http://b:2", "AWS_ENDPOINT_URL": "http://a:1"},
            "http://b:2",
            None,
        ),
        ({"AWS_DEFAULT_REGION": "eu-2"}, None, "eu-2"),
        ({"AWS_DEFAULT_REGION": "eu-2", "AWS_REGION": "eu-1"}, None, "eu-1"),
        ({"AWS_ENDPOINT_URL": "", "AWS_REGION": ""}, None, None),
    ],
)
def test_what_is_not_configured_comes_from_the_environment(
    monkeypatch, variables, endpoint, region
):
    for name in ("ENDPOINT_URL", "ENDPOINT_URL_S3", "REGION", "DEFAULT_REGION"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    storage = StorageConfig(endpoint_url=None)
    assert (storage.endpoint_url, storage.region) == (endpoint, region)
    assert make_config().storage.region == region
    given = StorageConfig(endpoint_url="https://own", region="own-1")
    assert (given.endpoint_url, given.region) == ("https://own", "own-1")
    # Tables and files are asked for at the same place.
    tables = Store("s3://b/k", storage).delta_options()
    assert tables.get("aws_endpoint") == endpoint
    assert tables.get("aws_allow_http") == (None if endpoint is None else "true")
    assert filesystem_options("s3://b/k", storage).get("endpoint_url") == endpoint


def test_an_endpoint_is_an_address():
    with pytest.raises(UserError, match=r"storage\.endpoint_url: 'localhost:9000' is no address"):
        make_config(storage__endpoint_url="localhost:9000")
