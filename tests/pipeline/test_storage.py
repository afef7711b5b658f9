import io
import os
import secrets
import threading
import types

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from helpers import LOCAL, make_config, make_store

from pipeline.config import StorageConfig
from pipeline.errors import Reason, SourceError, UserError
from pipeline.reading import fetch_file, open_source, stat_source
from pipeline.storage import Store, absolute, filesystem_options, version_of


@pytest.fixture
def memory():
    """URI of a folder in fsspec's process-wide memory, emptied afterwards."""
    folder = f"/{secrets.token_hex(6)}"
    yield f"memory:/{folder}"
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists(folder):
        filesystem.rm(folder, recursive=True)


def reason_of(uri, version=None, storage=LOCAL):
    with pytest.raises(SourceError) as caught, open_source(uri, version, storage):
        pass
    assert uri in caught.value.message
    return caught.value.reason


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


# ---- sources


def test_a_source_is_a_seekable_file(tmp_path, memory):
    (tmp_path / "a").write_bytes(b"0123456789")
    fsspec.filesystem("memory").pipe_file(f"{memory}/a", b"0123456789")
    for uri in (str(tmp_path / "a"), f"{memory}/a"):
        version, _ = stat_source(uri, LOCAL)
        with open_source(uri, version, LOCAL) as file:
            assert file.seek(6) == 6
            assert file.read(3) == b"678"


def test_a_source_that_changed_since_the_plan(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    version, _ = stat_source(str(path), LOCAL)
    path.write_bytes(b"other")
    assert reason_of(str(path), version) is Reason.SOURCE_CHANGED
    with open_source(str(path), None, LOCAL) as file:  # the dataset's own version: not checked
        assert file.read() == b"other"


def test_sources_that_cannot_be_read(tmp_path):
    (tmp_path / "empty").touch()
    assert reason_of(str(tmp_path / "empty")) is Reason.EMPTY_FILE
    assert reason_of(str(tmp_path / "none")) is Reason.MISSING
    assert reason_of(str(tmp_path)) is Reason.MISSING
    assert reason_of("quux://a/b") is Reason.UNREADABLE
    with pytest.raises(SourceError, match="is a directory"):
        stat_source(str(tmp_path), LOCAL)


def test_a_directory_in_the_way_is_missing_not_a_crash(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    assert reason_of(str(tmp_path / "a" / "b")) in (Reason.MISSING, Reason.UNREADABLE)


class _Refusing(MemoryFileSystem):
    """A store whose client library raises errors of its own kind, as botocore does."""

    protocol = "refusing"
    cachable = False

    def info(self, path, **_):
        raise RuntimeError("no credentials")

    def open(self, path, *_, **__):
        return io.BytesIO(b"x")


class _RefusingToOpen(_Refusing):
    protocol = "refusingtoopen"

    def info(self, path, **_):
        return {"name": path, "size": 1, "type": "file", "ETag": "e"}

    def open(self, path, *_, **__):
        raise RuntimeError("no credentials")


@pytest.mark.parametrize("kind", [_Refusing, _RefusingToOpen])
def test_an_unusual_exception_of_a_store_costs_one_source(kind):
    fsspec.register_implementation(kind.protocol, kind, clobber=True)
    uri = f"{kind.protocol}://a/b.mp4"
    with (
        pytest.raises(SourceError, match="RuntimeError: no credentials") as caught,
        open_source(uri, None, LOCAL),
    ):
        pass
    assert caught.value.reason is Reason.UNREADABLE


def test_an_exception_of_the_reader_is_not_the_sources(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(ZeroDivisionError), open_source(str(tmp_path / "a"), None, LOCAL):
        raise ZeroDivisionError


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
    monkeypatch.setattr(Store, "_locate", lambda self, path: (_Conditional(error), path))
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


# ---- checkpoints


def test_a_local_file_is_used_where_it_lies(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"x")
    assert fetch_file(str(path), LOCAL, tmp_path / "down") == path
    assert fetch_file(f"file://{path}", LOCAL, tmp_path / "down") == path
    assert not (tmp_path / "down").exists()
    with pytest.raises(UserError, match="no such file"):
        fetch_file(str(tmp_path / "none"), LOCAL, tmp_path / "down")


def test_a_remote_file_is_fetched_once_a_version(tmp_path, memory, monkeypatch):
    uri = f"{memory}/w.safetensors"
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file(uri, b"first")
    fetched = []
    get_file = MemoryFileSystem.get_file
    counted = types.MethodType(
        lambda self, *given, **named: (fetched.append(1), get_file(self, *given, **named))[1],
        filesystem,
    )
    monkeypatch.setattr(filesystem, "get_file", counted)
    one = fetch_file(uri, LOCAL, tmp_path)
    assert one.suffix == ".safetensors"
    assert one.read_bytes() == b"first"
    assert fetch_file(uri, LOCAL, tmp_path) == one
    assert len(fetched) == 1
    filesystem.pipe_file(uri, b"another")
    two = fetch_file(uri, LOCAL, tmp_path)
    assert two.read_bytes() == b"another"
    assert one.read_bytes() == b"first"
    assert sorted(tmp_path.iterdir()) == sorted([one, two])
    with pytest.raises(UserError, match=r"does not exist; name a readable file"):
        fetch_file(f"{memory}/none", LOCAL, tmp_path)
